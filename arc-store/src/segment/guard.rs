//! The Parquet reader on files that are damaged: it computes with what they say, and may panic over it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use parquet::errors::ParquetError;

thread_local! {
    /// Whether a panic of this thread becomes an error, and is not printed.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does something with a file that may be damaged: a panic is an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    // What is half done is thrown away: nothing is read on after an error.
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.unwrap_or_else(|_| Err(ParquetError::General("its pages contradict each other".into())))
}
