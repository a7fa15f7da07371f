//! Ctrl-C, and requests to end: what is being made ends where nothing is lost.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::output::note;

/// Set by the first Ctrl-C, or request to end; the second one ends the process at once, unless it was unset in
/// between.
pub(crate) fn stop_on_interrupt() -> Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let stop = STOP.get_or_init(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&stop);
        let installed = ctrlc::set_handler(move || {
            if handler.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        if let Err(error) = installed {
            note(format!("Ctrl-C will end the process at once: {error}"));
        }
        stop
    });
    Arc::clone(stop)
}
