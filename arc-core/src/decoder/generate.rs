//! Reading prompts and writing text, one token at a time, for a batch of prompts at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_adapters::{AnswerEnd, setters};
use burn::tensor::Tensor;

use super::{Decoder, KvCache, Prefix};
use crate::prompt::Prompt;
use crate::sampling::SamplingOptions;
use crate::tokenizer::StopStrings;
use crate::{Error, Result};

/// Prompts are read in pieces of this many positions, which bounds the attention mask and the
/// scores; chosen so that the products stay large.
pub(crate) const PREFILL_CHUNK: usize = 512;

/// What to generate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// At most this many new tokens, the end token included.
    pub max_tokens: usize,
    /// How to choose among the logits.
    pub sampling: SamplingOptions,
    /// Texts that end a row; they are not part of its text. The name of a special token ends it where that
    /// token is written, although the text does not show it.
    pub stop: Vec<String>,
    /// What a row is, and so where it ends; `None` leaves it to what the prompt was made for: see
    /// [`AdaptedDecoder::ask`](crate::AdaptedDecoder::ask). Otherwise the decoder ends it; an answer, whatever
    /// it is, ends before a line that it has written before.
    pub answer_ends: Option<AnswerEnd>,
    /// Where another thread sets it, every row ends before its next token, and reading a long prompt ends
    /// after the piece that is being read.
    pub interrupted: Option<Arc<AtomicBool>>,
}

setters!(GenerateOptions {
    max_tokens: usize,
    sampling: SamplingOptions,
    stop: Vec<String>,
    answer_ends: Option<AnswerEnd>,
    interrupted: Option<Arc<AtomicBool>>,
});

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            answer_ends: None,
            interrupted: None,
        }
    }
}

impl GenerateOptions {
    /// Checks everything that can be checked without a decoder.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`].
    pub fn check(&self) -> Result<()> {
        self.sampling.validate()?;
        StopStrings::new(self.stop.clone()).map(drop)
    }
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The decoder wrote an end token.
    End,
    /// A stop string appeared, the line ended that was asked for, or a line came a second time.
    Stop,
    /// `max_tokens` were written.
    Length,
    /// [`GenerateOptions::interrupted`] was set.
    Interrupted,
}

/// Wall-clock times of one call.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timings {
    /// Reading the prompts.
    pub prefill: Duration,
    /// From the start of the call to the first new token.
    pub first_token: Duration,
    /// Writing all tokens after the first.
    pub decode: Duration,
}

/// What became of one prompt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generation {
    /// The new tokens, the end token included where it was reached.
    pub token_ids: Vec<u32>,
    /// Their text, without special tokens and stop strings.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// The logits at the prompt's last position, `[vocabulary]`; none where it was interrupted before that.
    pub prompt_logits: Vec<f32>,
}

/// What became of a batch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generations {
    /// One per prompt, in order.
    pub rows: Vec<Generation>,
    /// For the batch as a whole.
    pub timings: Timings,
    /// The most bytes that were reserved for keys and values.
    pub kv_cache_bytes: usize,
}

/// What prompts follow.
enum Begin<'a> {
    Nothing,
    /// What all of them share, and is kept.
    After(&'a Prefix),
    /// What the only one goes on from.
    From(Prefix),
}

impl Begin<'_> {
    fn prefix(&self) -> Option<&Prefix> {
        match self {
            Self::Nothing => None,
            Self::After(prefix) => Some(prefix),
            Self::From(prefix) => Some(prefix),
        }
    }

    /// Positions that were read.
    fn len(&self) -> usize {
        self.prefix().map_or(0, Prefix::len)
    }
}

impl<'a> From<Option<&'a Prefix>> for Begin<'a> {
    fn from(prefix: Option<&'a Prefix>) -> Self {
        prefix.map_or(Self::Nothing, Self::After)
    }
}

/// How well a decoder foresaw a token.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenScore {
    /// Negative log-likelihood, in nats.
    pub loss: f32,
    /// Whether no other token was more likely.
    pub is_best: bool,
}

impl Decoder {
    /// Reads the prompts and writes on from each of them.
    ///
    /// `on_text` receives the index of a row and the next piece of its text, as soon as the piece
    /// is certain to be whole characters and no part of a stop string.
    ///
    /// Rows do not influence each other: a batch gives what its prompts give one by one, up to
    /// rounding in the matrix products.
    ///
    /// # Errors
    ///
    /// [`Error::WindowExceeded`] if a prompt and its new tokens exceed the decoder's window, and
    /// [`Error::NotEnough`] for an empty prompt, [`Error::InvalidValue`] for senseless sampling options.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
        on_text: impl FnMut(usize, &str),
    ) -> Result<Generations> {
        self.generate_after(None, prompts, options, on_text)
    }

    /// As [`Decoder::generate`], where all prompts begin with what was read before: the answers
    /// are those of the whole prompts.
    ///
    /// # Errors
    ///
    /// As [`Decoder::generate`]; the window must hold the prefix too.
    pub fn generate_after(
        &self,
        prefix: Option<&Prefix>,
        prompts: &[Prompt],
        options: &GenerateOptions,
        on_text: impl FnMut(usize, &str),
    ) -> Result<Generations> {
        self.write_on(prefix.into(), prompts, options, on_text)
    }

    /// As [`Decoder::generate_after`] for one prompt, which goes on in the memory of what was read before it.
    ///
    /// # Errors
    ///
    /// As [`Decoder::generate_after`].
    pub fn generate_from(
        &self,
        prefix: Prefix,
        prompt: &Prompt,
        options: &GenerateOptions,
        on_text: impl FnMut(usize, &str),
    ) -> Result<Generations> {
        self.write_on(Begin::From(prefix), std::slice::from_ref(prompt), options, on_text)
    }

    fn write_on(
        &self,
        begin: Begin<'_>,
        prompts: &[Prompt],
        options: &GenerateOptions,
        mut on_text: impl FnMut(usize, &str),
    ) -> Result<Generations> {
        let start = Instant::now();
        let before = begin.len();
        let shared_ids = begin.prefix().map_or(&[][..], |prefix| &prefix.token_ids);
        for prompt in prompts {
            self.check_window(prompt, before, options.max_tokens)?;
        }
        let mut rows = prompts
            .iter()
            .map(|prompt| self.begin([shared_ids, &prompt.token_ids()].concat(), options))
            .collect::<Result<Vec<_>>>()?;
        if rows.is_empty() {
            return Ok(Generations { rows: Vec::new(), timings: Timings::default(), kv_cache_bytes: 0 });
        }

        let is_interrupted =
            || options.interrupted.as_ref().is_some_and(|interrupted| interrupted.load(Ordering::Relaxed));
        let (hidden, mut cache) = self.prefill_after(begin, prompts, &is_interrupted);
        let mut logits = self.last_logits(hidden);
        let longest = prompts.iter().map(Prompt::len).max().unwrap_or(0);
        let is_read = cache.len() == before + longest;
        let mut prompt_logits = vec![Vec::new(); rows.len()];
        if is_read {
            prompt_logits.clone_from(&logits);
        } else {
            rows.iter_mut().enumerate().for_each(|(index, row)| row.interrupt(|text| on_text(index, text)));
        }
        let prefill = start.elapsed();

        let mut first_token = prefill;
        let mut kv_cache_bytes = 0;
        let mut writing: Vec<usize> = (0..rows.len()).collect();
        for step in 0..if is_read { options.max_tokens } else { 0 } {
            if is_interrupted() {
                for &index in &writing {
                    rows[index].interrupt(|text| on_text(index, text));
                }
                break;
            }
            for (&index, logits) in writing.iter().zip(&mut logits) {
                rows[index].write(logits, |text| on_text(index, text))?;
            }
            if step == 0 {
                first_token = start.elapsed();
            }
            // Rows that have ended leave the batch, and cost nothing more.
            let kept: Vec<usize> =
                (0..writing.len()).filter(|&place| rows[writing[place]].finish().is_none()).collect();
            if kept.is_empty() {
                break;
            }
            if kept.len() < writing.len() {
                kv_cache_bytes = kv_cache_bytes.max(cache.bytes());
                cache.keep_rows(&kept);
                writing = kept.iter().map(|&place| writing[place]).collect();
            }
            let last: Vec<u32> =
                writing.iter().filter_map(|&index| rows[index].token_ids().last().copied()).collect();
            let embedded = self.network.embed(&last);
            let [b, d] = embedded.dims();
            let hidden = self.network.forward(embedded.reshape([b, 1, d]), &mut cache);
            logits = self.last_logits(hidden);
        }
        let timings = Timings { prefill, first_token, decode: start.elapsed() - first_token };
        let rows = rows.into_iter().zip(prompt_logits);
        let rows = rows.map(|(row, prompt_logits)| row.into_generation(prompt_logits)).collect();
        Ok(Generations { rows, timings, kv_cache_bytes: kv_cache_bytes.max(cache.bytes()) })
    }

    /// Reads prompts into a new cache. Returns the normalised hidden states of the last piece of
    /// every row, whose last position is the prompts' last, `[b, ≤ 512, d]`.
    ///
    /// # Panics
    ///
    /// Panics if there is no prompt, or if one is empty.
    #[must_use]
    pub fn prefill(&self, prompts: &[Prompt]) -> (Tensor<3>, KvCache) {
        self.prefill_after(Begin::Nothing, prompts, &|| false)
    }

    /// Leaves off between two pieces where `is_interrupted` says so.
    fn prefill_after(
        &self,
        begin: Begin<'_>,
        prompts: &[Prompt],
        is_interrupted: &dyn Fn() -> bool,
    ) -> (Tensor<3>, KvCache) {
        let longest = prompts.iter().map(Prompt::len).max().unwrap_or(0);
        let rows = prompts
            .iter()
            .map(|prompt| {
                let embedded = prompt.embed(|ids| self.network.embed(ids));
                let [n, d] = embedded.dims();
                if n == longest {
                    return embedded;
                }
                let padding = Tensor::zeros([longest - n, d], self.network.device());
                Tensor::cat(vec![padding, embedded], 0)
            })
            .collect();
        let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
        let mut cache = match begin {
            Begin::Nothing => self.network.new_cache(padding),
            Begin::After(prefix) => prefix.cache.shared_by(&padding),
            Begin::From(prefix) => prefix.cache.read_on(),
        };
        let embeddings: Tensor<3> = Tensor::stack(rows, 0);
        let mut hidden = None;
        let mut read = 0;
        while read < longest {
            let s = PREFILL_CHUNK.min(longest - read);
            hidden = Some(self.network.forward(embeddings.clone().narrow(1, read, s), &mut cache));
            read += s;
            if is_interrupted() {
                break;
            }
        }
        (hidden.expect("prompts are not empty"), cache)
    }

    /// Reads what several prompts begin with, so that it is computed once for all of them.
    ///
    /// # Errors
    ///
    /// As [`Decoder::loss`].
    pub fn read_prefix(&self, prompt: &Prompt) -> Result<Prefix> {
        self.read_prefix_until(prompt, &AtomicBool::new(false))
    }

    /// As [`Decoder::read_prefix`], unless it becomes true, which is looked at after every few hundred positions.
    ///
    /// # Errors
    ///
    /// As [`Decoder::read_prefix`], and [`Error::Interrupted`] where it was left off.
    pub fn read_prefix_until(&self, prompt: &Prompt, interrupted: &AtomicBool) -> Result<Prefix> {
        self.check_window(prompt, 0, 0)?;
        let is_interrupted = || interrupted.load(Ordering::Relaxed);
        let (_, cache) = self.prefill_after(Begin::Nothing, std::slice::from_ref(prompt), &is_interrupted);
        if cache.len() < prompt.len() {
            return Err(Error::Interrupted);
        }
        Ok(Prefix { cache, token_ids: prompt.token_ids() })
    }

    /// Reads on after a prefix, which stays as it is: what several prompts begin with, as a whole.
    ///
    /// # Errors
    ///
    /// As [`Decoder::loss`]; the window must hold the prefix too.
    pub fn read_on(&self, prefix: &Prefix, prompt: &Prompt) -> Result<Prefix> {
        self.check_window(prompt, prefix.len(), 0)?;
        let (_, cache) = self.prefill_after(Begin::After(prefix), std::slice::from_ref(prompt), &|| false);
        let token_ids = [prefix.token_ids.as_slice(), &prompt.token_ids()].concat();
        Ok(Prefix { cache, token_ids })
    }

    /// How well each token after the first is foreseen, given the prefix and the tokens before it:
    /// one score less than there are tokens, since without a prefix nothing foresees the first.
    ///
    /// # Errors
    ///
    /// As [`Decoder::loss`].
    pub fn score_after(&self, prefix: Option<&Prefix>, token_ids: &[u32]) -> Result<Vec<TokenScore>> {
        let prompt = Prompt::from_tokens(token_ids.to_vec());
        self.check_window(&prompt, prefix.map_or(0, Prefix::len), 0)?;
        let mut cache = match prefix {
            Some(prefix) => prefix.cache.shared_by(&[0]),
            None => self.network.new_cache(vec![0]),
        };
        let (inputs, targets) = (&token_ids[..token_ids.len() - 1], &token_ids[1..]);
        let mut scores = Vec::with_capacity(targets.len());
        for (inputs, targets) in inputs.chunks(PREFILL_CHUNK).zip(targets.chunks(PREFILL_CHUNK)) {
            let hidden = self.network.forward(self.network.embed(inputs).unsqueeze(), &mut cache);
            scores.extend(self.network.token_scores(hidden.squeeze_dim(0), targets));
        }
        Ok(scores)
    }

    /// The mean negative log-likelihood, in nats, of the prompt's tokens that follow another
    /// position; latents are conditions, never targets. `None` where no token follows anything.
    ///
    /// # Errors
    ///
    /// [`Error::WindowExceeded`], and [`Error::NotEnough`] for an empty prompt.
    pub fn loss(&self, prompt: &Prompt) -> Result<Option<f64>> {
        let losses = self.token_losses(prompt)?;
        let count = losses.iter().flatten().count();
        let sum: f64 = losses.iter().flatten().map(|&loss| f64::from(loss)).sum();
        Ok((count > 0).then(|| sum / count as f64))
    }

    /// The negative log-likelihood, in nats, of the token at each position given all before it.
    /// Position 0 and latents have none.
    ///
    /// # Errors
    ///
    /// As [`Decoder::loss`].
    pub fn token_losses(&self, prompt: &Prompt) -> Result<Vec<Option<f32>>> {
        self.check_window(prompt, 0, 0)?;
        let targets = prompt.token_at_positions();
        let mut losses = vec![None; targets.len()];
        let embeddings = prompt.embed(|ids| self.network.embed(ids)).unsqueeze::<3>();
        let mut cache = self.network.new_cache(vec![0]);
        while cache.len() < targets.len() {
            let start = cache.len();
            let s = PREFILL_CHUNK.min(targets.len() - start);
            let hidden = self.network.forward(embeddings.clone().narrow(1, start, s), &mut cache);
            // The state at a position predicts the token at the next one.
            let (places, wanted): (Vec<i64>, Vec<(usize, u32)>) = (start..start + s)
                .filter_map(|position| {
                    let target = targets.get(position + 1).copied().flatten()?;
                    Some(((position - start) as i64, (position + 1, target)))
                })
                .unzip();
            if wanted.is_empty() {
                continue;
            }
            let ids: Vec<u32> = wanted.iter().map(|&(_, target)| target).collect();
            let places = Tensor::<1, burn::tensor::Int>::from_data(places.as_slice(), self.network.device());
            let hidden = hidden.squeeze_dim::<2>(0).select(0, places);
            for (loss, (position, _)) in self.network.token_losses(hidden, &ids).into_iter().zip(wanted) {
                losses[position] = Some(loss);
            }
        }
        Ok(losses)
    }

    /// How many new tokens there is room for behind a prompt.
    #[must_use]
    pub fn room_behind(&self, prompt: &Prompt) -> usize {
        self.network.config().context_length.saturating_sub(prompt.len())
    }

    /// Refuses a prompt that is empty or, after `read` positions, does not leave room for `max_new`
    /// tokens.
    pub(super) fn check_window(&self, prompt: &Prompt, read: usize, max_new: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::NotEnough {
                what: "tokens and latents in the prompt".into(),
                found: 0,
                needed: 1,
            });
        }
        self.check_tokens(&prompt.token_ids())?;
        let window = self.network.config().context_length;
        let positions = prompt.len().saturating_add(read);
        if positions.saturating_add(max_new) > window {
            return Err(Error::WindowExceeded { decoder: self.name.clone(), positions, max_new, window });
        }
        Ok(())
    }

    /// Refuses token ids that the decoder has no embedding for.
    pub(crate) fn check_tokens(&self, ids: &[u32]) -> Result<()> {
        let vocabulary = self.network.vocabulary();
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => Err(Error::Tokenizer {
                path: self.path.clone(),
                reason: format!("it gives token {id}, but the model has {vocabulary} embeddings"),
            }),
            None => Ok(()),
        }
    }

    /// The logits at each row's last position, on the host.
    fn last_logits(&self, hidden: Tensor<3>) -> Vec<Vec<f32>> {
        let s = hidden.dims()[1];
        let logits = self.network.logits(hidden.narrow(1, s - 1, 1));
        let [b, _, vocabulary] = logits.dims();
        let data = logits.into_data().convert::<f32>();
        let values = data.as_slice::<f32>().expect("converted to f32");
        debug_assert_eq!(values.len(), b * vocabulary);
        values.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect()
    }
}
