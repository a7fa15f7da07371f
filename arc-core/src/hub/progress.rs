//! What a pull tells its caller while it runs.

/// Receives the progress of a pull. The library itself never prints.
///
/// All methods are called from the thread that called [`pull`](crate::hub::pull).
pub trait Progress {
    /// The transfer begins: `total` is the file's size in bytes, where it is known.
    ///
    /// Called again when the transfer has to start over: what was counted until then is void.
    fn begin(&self, total: Option<u64>);

    /// `bytes` more are there. What an earlier pull left counts too, at once.
    fn advance(&self, bytes: u64);

    /// What happens now, in one line: lowercase, no full stop.
    fn message(&self, text: &str);

    /// The transfer is over, whether it succeeded or not.
    fn finish(&self);
}

/// Takes progress and shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn message(&self, _text: &str) {}
    fn finish(&self) {}
}
