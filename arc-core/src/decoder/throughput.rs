//! How fast a decoder reads and writes.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::Decoder;
use crate::prompt::Prompt;
use crate::{Error, Result};

/// Ids of tokens for a prompt that says nothing: of large vocabularies some that are not special, of
/// others all but the first, which special ones are among.
pub(crate) fn ordinary_ids(vocabulary: usize) -> impl Fn(u32) -> u32 {
    let end = u32::try_from(vocabulary).unwrap_or(u32::MAX).clamp(1, 10_000);
    let start = if end == 10_000 { 1000 } else { end / 10 };
    move |n| start + n.wrapping_mul(7919) % (end - start)
}

/// How long one prompt took to be read, and new tokens to be written after it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Throughput {
    /// From the prompt's token ids to its first new token.
    pub prefill: Duration,
    /// All tokens after the first.
    pub decode: Duration,
}

impl Decoder {
    /// Reads a prompt of `prompt_tokens` in each of `rows` rows and writes the most likely token after
    /// each `new_tokens` times, end tokens like any other.
    ///
    /// The first call also pages weights in and, on a GPU, chooses kernels: make one to warm up.
    ///
    /// # Errors
    ///
    /// [`Error::WindowExceeded`], and [`Error::NotEnough`] for a prompt of no tokens.
    pub fn measure_throughput(
        &self,
        rows: usize,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<Throughput> {
        // A product costs the same whatever is multiplied, as long as it is no subnormal number.
        let id = ordinary_ids(self.network.vocabulary());
        let prompt = Prompt::from_tokens((0..prompt_tokens as u32).map(id).collect());
        self.check_window(&prompt, 0, new_tokens)?;

        let start = Instant::now();
        let (hidden, mut cache) = self.prefill(&vec![prompt; rows]);
        let [_, s, d] = hidden.dims();
        let mut tokens = self.most_likely(hidden.narrow(1, s - 1, 1))?;
        let prefill = start.elapsed();

        let start = Instant::now();
        for _ in 0..new_tokens {
            let embedded = self.network.embed(&tokens).reshape([rows, 1, d]);
            tokens = self.most_likely(self.network.forward(embedded, &mut cache))?;
        }
        Ok(Throughput { prefill, decode: start.elapsed() })
    }

    /// The ids of the largest logits, `[rows, 1, d] → [rows]`; reading them waits for the device.
    fn most_likely(&self, hidden: Tensor<3>) -> Result<Vec<u32>> {
        let ids = self.network.logits(hidden).argmax(2).into_data();
        let id = |id| {
            u32::try_from(id)
                .map_err(|_| Error::DeviceData { what: "a token id", reason: format!("it found {id}") })
        };
        ids.iter::<i64>().map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_ids_are_of_the_vocabulary_however_small_it_is() {
        for vocabulary in [1, 2, 7, 61, 512, 9_999, 10_000, 49_152] {
            let id = ordinary_ids(vocabulary);
            let ids: Vec<u32> = (0..5000).map(id).collect();
            assert!(ids.iter().all(|&id| (id as usize) < vocabulary), "{vocabulary}");
        }
        let id = ordinary_ids(49_152);
        assert_eq!([id(0), id(1), id(2)], [1000, 8919, 7838], "what was measured before stays comparable");
    }
}
