//! Whether this process was given a standard output at all.
//!
//! Rust's runtime opens `/dev/null` in the place of a standard stream that is closed (`arc … >&-`), so that
//! whatever is printed is lost in silence. Before it runs, the system still tells.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

#[cfg(unix)]
ctor::declarative::ctor! {
    /// Runs before the runtime has opened anything.
    #[ctor(unsafe)]
    fn look() {
        let is_there = |path| std::fs::symlink_metadata(path).is_ok();
        // Without a file system of open files nothing is told, and it is taken to be open.
        IS_CLOSED.store(std::fs::metadata("/dev/fd").is_ok() && !is_there("/dev/fd/1"), Ordering::Relaxed);
    }
}

/// Whether standard output was closed when the process began.
pub(crate) fn is_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}
