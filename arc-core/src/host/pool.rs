//! Where passes run, so that the threads of the pool are woken once for each.

use crate::nn::{count_flops, trace_flops};

/// Runs a pass on a thread of the pool. From outside, every product of it would wake the pool's
/// threads and be woken by them, some hundred times for a token. Inside, the others still look for
/// work when the next product comes. What that saves has not been measured.
pub(crate) fn on_pool<T: Send>(pass: impl FnOnce() -> T + Send) -> T {
    // Operations are counted on the thread that asks for them.
    let (result, flops) = rayon::scope(|_| trace_flops(pass));
    count_flops(flops);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::count_products;

    #[test]
    fn operations_of_a_pass_are_counted_where_it_was_asked_for() {
        let (threads, flops) = trace_flops(|| {
            on_pool(|| {
                count_products(2, [3, 4, 5]);
                std::thread::current().id()
            })
        });
        assert_ne!(threads, std::thread::current().id());
        assert_eq!(flops, 2 * 2 * 3 * 4 * 5);
        assert_eq!(trace_flops(|| on_pool(|| ())).1, 0);
    }
}
