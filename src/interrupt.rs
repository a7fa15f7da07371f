//! Ctrl-C, and requests to end: what is being made ends where nothing is lost, or goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use crate::INTERRUPTED;
use crate::output::note;

/// There once a command can stop by itself.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on Ctrl-C, or a request to end, deletes the files and folders that are in the making and ends the
/// process; a command that can stop where nothing is lost is asked to first, see [`stop_on_interrupt`].
pub(crate) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(install);
}

fn install() {
    let installed = ctrlc::set_handler(|| {
        if let Some(stop) = STOP.get()
            && !stop.swap(true, Ordering::SeqCst)
        {
            return;
        }
        // What is being given its name gets it first.
        arc_adapters::abandon(|| std::process::exit(INTERRUPTED.into()));
    });
    if let Err(error) = installed {
        note(format!("Ctrl-C may leave temporary files behind: {error}"));
    }
}

/// Set by the first Ctrl-C, or request to end; the second one ends the process at once, unless it was unset in
/// between.
pub(crate) fn stop_on_interrupt() -> Arc<AtomicBool> {
    Arc::clone(STOP.get_or_init(Arc::default))
}
