//! Random draws that depend on the seed and on what they are for, and on nothing that ran before:
//! a run that is resumed draws what it would have drawn.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// What a draw is for; two purposes never share a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// What a step trains: decoder, objective, factor.
    Step,
    /// The order of windows in a pool.
    Pool,
    /// The order of a source's shards in an epoch, and of windows in a shard.
    Epoch,
    /// Weights that start at random.
    Weights,
    /// The order of documents in preparation.
    Document,
    /// Questions and their examples.
    Question,
    /// Passages that questions are written about.
    Passage,
}

/// A generator for a purpose and its number.
pub(super) fn generator(seed: u64, purpose: Purpose, number: u64) -> StdRng {
    StdRng::seed_from_u64(mix(mix(mix(seed) ^ purpose as u64) ^ number))
}

/// A bijection that spreads neighbouring numbers (`SplitMix64`; Steele, Lea and Flood, 2014).
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A permutation of `0..count`, at one place: an affine map, whose multiplier is drawn until it
/// has no factor in common with `count`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    count: u64,
    multiplier: u64,
    offset: u64,
}

impl Permutation {
    pub(super) fn new(count: u64, random: &mut StdRng) -> Self {
        use rand::RngExt as _;
        let count = count.max(1);
        let multiplier = loop {
            let candidate = random.random_range(0..count).max(1);
            if gcd(candidate, count) == 1 {
                break candidate;
            }
        };
        Self { count, multiplier, offset: random.random_range(0..count) }
    }

    pub(super) fn at(&self, place: u64) -> u64 {
        let image = u128::from(place) * u128::from(self.multiplier) + u128::from(self.offset);
        (image % u128::from(self.count)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_reaches_every_place_once() {
        for count in [1, 2, 7, 12, 1000] {
            let permutation = Permutation::new(count, &mut generator(3, Purpose::Epoch, count));
            let mut seen: Vec<u64> = (0..count).map(|place| permutation.at(place)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }
}
