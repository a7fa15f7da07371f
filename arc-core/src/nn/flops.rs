//! Counting the floating-point operations of matrix products, where they are issued.
//!
//! Linear maps and attention report the shapes that they multiply. Norms, activations, rotations
//! and residuals are not counted: they are a few operations per value, against thousands.

use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Runs `work` and returns the operations of the matrix products that it issued on this thread: a
/// multiplication and an addition for each.
///
/// Attention is counted dense, every query with every key, whatever the mask hides and whichever
/// kernel the device uses.
pub fn trace_flops<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.get();
    let result = work();
    (result, COUNT.get().wrapping_sub(before))
}

/// Reports `count` products of matrices `[m, k]` and `[k, n]`.
pub(crate) fn count_products(count: usize, [m, k, n]: [usize; 3]) {
    let flops = [m, k, n].iter().fold(2 * count as u64, |flops, &size| flops.wrapping_mul(size as u64));
    count_flops(flops);
}

/// Reports operations that were counted on another thread.
pub(crate) fn count_flops(flops: u64) {
    COUNT.set(COUNT.get().wrapping_add(flops));
}
