//! How fast a decoder reads and writes.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::Decoder;
use crate::prompt::Prompt;
use crate::{Error, Result};

/// Ids of the prompt's tokens: every vocabulary has them, and none is special.
const IDS: std::ops::Range<u32> = 1000..10_000;

/// How long one prompt took to be read, and new tokens to be written after it.
#[derive(Clone, Copy, Debug)]
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
    /// [`Error::WindowExceeded`], and [`Error::InvalidArgument`] for a prompt of no tokens.
    pub fn measure_throughput(
        &self,
        rows: usize,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<Throughput> {
        // A product costs the same whatever is multiplied, as long as it is no subnormal number.
        let ids = (0..prompt_tokens as u32).map(|i| IDS.start + i.wrapping_mul(7919) % (IDS.end - IDS.start));
        let prompt = Prompt::from_tokens(ids.collect());
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
            u32::try_from(id).map_err(|_| Error::InvalidArgument(format!("the device found token {id}")))
        };
        ids.iter::<i64>().map(id).collect()
    }
}
