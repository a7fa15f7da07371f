//! What a step trains: which decoder, which objective, which text.

use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::RunConfig;
use super::batch::{Sample, SampleSpan, document_spans};
use super::corpus::{Mixture, Window};
use super::draw::{Purpose, generator};
use super::questions::Questions;
use crate::Result;
use crate::decoder::Decoder;
use crate::prompt::ChatTemplate;
use crate::prompt::{EncodedPart, Instruction, PromptForm};

/// Encoder tokens beyond what is asked for, so that a text can be cut between words.
pub(super) const SLACK: usize = 4;

/// Batches that are sorted by length together. More gives less padding and less mixing.
pub(super) const POOL_BATCHES: u64 = 16;

/// At most this share of the targets' places in a batch is padding.
const MOST_PADDING: f64 = 0.08;

/// What the decoder is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Objective {
    /// The text that follows the compressed one.
    Continuation,
    /// The compressed text itself.
    Reconstruction,
    /// The answer to a question about compressed documents.
    Answer,
}

impl Objective {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::Reconstruction => "reconstruction",
            Self::Answer => "answer",
        }
    }
}

/// What a step is drawn to train; its batches share it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchPlan {
    /// The decoder, by its place in the configuration.
    pub decoder: usize,
    /// The objective.
    pub objective: Objective,
    /// How many tokens a latent stands for.
    pub factor: usize,
    /// Whether the task is put as an instruction.
    pub instruct: bool,
    /// Encoder tokens that are compressed, at most.
    context: usize,
    /// Tokens of text before the compressed span.
    prefix: usize,
    /// Where repetition begins, as a share of the places where it could.
    place: f64,
}

/// Which of a run's draws a step makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    /// The step, counted with those of the runs before that this one goes on from: it sees other text.
    pub(super) number: u64,
    /// The step of this run.
    pub(super) step: u64,
    /// Whether the rate comes down.
    pub(super) decays: bool,
}

/// An objective as an instruction about the compressed text, in the decoder's chat template, or in
/// that of Llama 2 for a decoder that has none (appendix C.4.1).
fn instruct_form(objective: Objective, template: Option<&ChatTemplate>) -> Result<PromptForm> {
    let (instruction, suffix) = match objective {
        Objective::Reconstruction => ("Replicate the input text.", "Replicated text:\n"),
        _ => ("Continue the previous text.", "Text continuation:\n"),
    };
    let instruction = Instruction {
        prefix: "Text:\n".into(),
        instruction: format!("\n{instruction}"),
        suffix: suffix.into(),
    };
    match template {
        Some(template) => PromptForm::chat(template, None, &instruction, 1),
        None => Ok(PromptForm::llama_2_chat(None, &instruction, 1)),
    }
}

impl BatchPlan {
    /// What a step trains.
    #[must_use]
    pub fn of_step(config: &RunConfig, step: u64) -> Self {
        Self::drawn(config, Draw { number: step, step, decays: false })
    }

    /// What a step trains in a run that others went before, or whose rate comes down.
    pub(super) fn drawn(config: &RunConfig, draw: Draw) -> Self {
        let Draw { number, step, decays } = draw;
        let mut random = generator(config.seed, Purpose::Step, number);
        let factors = &config.encoder.pooling_factors;
        let weights = match &config.encoder.factor_weights_in_decay {
            weights if decays && !weights.is_empty() => weights,
            _ => &config.encoder.factor_weights,
        };
        let drawn = if weights.is_empty() {
            factors.choose(&mut random).copied().unwrap_or(1)
        } else {
            weighted(factors, weights, random.random())
        };
        let factor = if config.encoder.factor_curriculum {
            let place = u128::from(step) * factors.len() as u128 / u128::from(config.schedule.steps.max(1));
            factors.get(place as usize).or(factors.last()).copied().unwrap_or(1)
        } else {
            drawn
        };
        let decoder = random.random_range(0..config.decoders.len().max(1));
        let (point, instruct) = (random.random::<f64>(), random.random::<f64>());
        let objective = if point < config.objective.reconstruction {
            Objective::Reconstruction
        } else if point < config.objective.reconstruction + config.objective.answer {
            Objective::Answer
        } else {
            Objective::Continuation
        };
        let prefix = random.random_range(0..=config.data.prefix_tokens);
        let place = random.random();
        // Drawn last: what a run without lengths draws does not depend on them.
        let context = config.data.context_lengths.choose(&mut random).copied();
        Self {
            decoder,
            objective,
            factor,
            context: context.unwrap_or(config.data.context_tokens),
            instruct: objective != Objective::Answer && instruct < config.objective.instruct,
            prefix: if objective == Objective::Continuation { prefix } else { 0 },
            place,
        }
    }

    /// A plan without draws, for evaluation.
    pub(super) fn plain(config: &RunConfig, decoder: usize, objective: Objective, factor: usize) -> Self {
        let context = config.data.context_tokens;
        Self { decoder, objective, factor, context, instruct: false, prefix: 0, place: 0.5 }
    }

    /// The samples of a batch, counted over the whole run.
    ///
    /// # Errors
    ///
    /// As [`Corpus::window`](super::Corpus::window), and an error of a tokenizer.
    pub fn samples(
        &self,
        config: &RunConfig,
        batch: u64,
        mixture: &Mixture,
        questions: &Questions,
        decoder: &Decoder,
    ) -> Result<Vec<Sample>> {
        if self.objective == Objective::Answer {
            return questions.samples(config, batch, decoder);
        }
        let windows = windows_of_batch(config, batch, mixture)?;
        self.samples_of(config, &windows, decoder)
    }

    /// The samples of given windows.
    pub(super) fn samples_of(
        &self,
        config: &RunConfig,
        windows: &[Window],
        decoder: &Decoder,
    ) -> Result<Vec<Sample>> {
        let shortest = windows.iter().map(|window| window.ids.len()).min().unwrap_or(0);
        let usable = shortest.saturating_sub(SLACK).max(1);
        let (context, prefix) = match self.objective {
            Objective::Continuation => {
                // Contexts and continuations of a short text are in the proportion of long ones.
                let (context, target) = (self.context, config.data.target_tokens);
                let context = context.min((usable * context / (context + target)).max(1));
                (context, self.prefix.min(usable.saturating_sub(context + target)))
            }
            _ => (self.context.min(usable), 0),
        };
        let mut cuts = Vec::with_capacity(windows.len());
        let (target, cue) = (config.data.target_tokens, config.objective.cue_tokens);
        for (row, window) in windows.iter().enumerate() {
            // The places of a batch lie evenly, from a drawn one on.
            let place = (self.place + row as f64 / windows.len() as f64).fract();
            let context = (context, config.data.context_tokens);
            cuts.push(self.cut(window, (prefix, context), target, (cue, place), decoder)?);
        }
        let most = level(cuts.iter().map(|cut| cut.target.len()));
        let (before, after) = if self.instruct {
            let form = instruct_form(self.objective, decoder.chat_template.as_ref())?;
            around_context(form.encode(&decoder.tokenizer)?)
        } else {
            (decoder.tokenizer.beginning(), Vec::new())
        };
        Ok(cuts
            .into_iter()
            .map(|mut cut| {
                cut.target.truncate(most);
                let mut text = before.clone();
                text.extend(cut.prefix);
                let mut spans = vec![SampleSpan::Tokens { ids: text, is_target: false }];
                spans.extend(document_spans(0..cut.contexts.len()));
                spans.push(SampleSpan::Tokens { ids: [after.clone(), cut.cue].concat(), is_target: false });
                spans.push(SampleSpan::Tokens { ids: cut.target, is_target: true });
                Sample {
                    contexts: cut.contexts,
                    plain_contexts: cut.plain_contexts,
                    spans,
                    origin: cut.origin,
                }
            })
            .collect())
    }

    fn cut(
        &self,
        window: &Window,
        (prefix, (context, longest)): (usize, (usize, usize)),
        target: usize,
        (cue, place): (usize, f64),
        decoder: &Decoder,
    ) -> Result<Cut> {
        let std::ops::Range { start, end } = compressed_span(window, prefix, context);
        let text = |from: usize, to: usize| window.text.get(window.byte_of(from)..window.byte_of(to));
        let encode = |text: Option<&str>| -> Result<Vec<u32>> {
            Ok(decoder.tokenizer.encode(text.unwrap_or_default())?.ids)
        };
        let mut plain_contexts = Vec::new();
        let mut contexts = Vec::new();
        for part in parts_of(start..end, longest, |token| window.can_cut_before(token)) {
            plain_contexts.push(encode(text(part.start, part.end))?);
            contexts.push(window.ids[part].to_vec());
        }
        let mut cue_ids = Vec::new();
        let mut ids = match self.objective {
            Objective::Reconstruction if cue > 0 => {
                let plain_context = plain_contexts.concat();
                let places = plain_context.len().saturating_sub(cue + target) + 1;
                let mut ids = plain_context[(place * places as f64) as usize..].to_vec();
                cue_ids.extend(ids.drain(..cue.min(ids.len().saturating_sub(1))));
                ids
            }
            Objective::Reconstruction => plain_contexts.concat(),
            _ => encode(text(end, window.ids.len()))?,
        };
        ids.truncate(target);
        let prefix = if prefix == 0 { Vec::new() } else { encode(text(0, start))? };
        Ok(Cut { contexts, plain_contexts, prefix, cue: cue_ids, target: ids, origin: window.origin.clone() })
    }
}

/// The tokens of a window that are compressed, after some `prefix` of them. They begin and end
/// where a character does.
fn compressed_span(window: &Window, prefix: usize, context: usize) -> std::ops::Range<usize> {
    // The span ends where a word begins, if there is such a place within the slack.
    let latest = (prefix + context + SLACK).min(window.ids.len()).max(context);
    let earliest = (prefix + context).min(latest);
    let end = (earliest..=latest)
        .rev()
        .find(|&end| window.begins_word(end))
        .or_else(|| (1..=latest).rev().find(|&end| window.can_cut_before(end)))
        .unwrap_or(latest);
    let longest = end.saturating_sub(context);
    // A character may be several tokens: the span is then shorter by some.
    let start = (longest..end).find(|&start| window.can_cut_before(start)).unwrap_or(longest);
    start..end
}

/// A span of tokens in parts of one length, rather than full ones and a rest, of at most `longest` tokens.
/// They are cut where `can_cut` says, unless there is no such place.
pub(super) fn parts_of(
    span: std::ops::Range<usize>,
    longest: usize,
    can_cut: impl Fn(usize) -> bool,
) -> Vec<std::ops::Range<usize>> {
    let count = span.len().div_ceil(longest).max(1);
    let length = span.len().div_ceil(count);
    let mut parts = Vec::with_capacity(count);
    let mut from = span.start;
    while from < span.end {
        let latest = (from + length).min(span.end);
        let end = (from + 1..=latest).rev().find(|&end| end == span.end || can_cut(end)).unwrap_or(latest);
        parts.push(from..end);
        from = end;
    }
    parts
}

/// The value that a point of 0 to 1 falls on, where each has its weight's share of it.
fn weighted(values: &[usize], weights: &[f64], point: f64) -> usize {
    let mut point = point * weights.iter().sum::<f64>();
    let found = values.iter().zip(weights).find(|&(_, weight)| {
        point -= weight;
        point < 0.0
    });
    // Rounding may leave a point beyond the last.
    let last = || values.iter().zip(weights).rev().find(|&(_, &weight)| weight > 0.0);
    found.or_else(last).map_or(1, |(&value, _)| value)
}

/// A window in the parts of a sample.
struct Cut {
    /// In encoder tokens.
    contexts: Vec<Vec<u32>>,
    /// The same in decoder tokens.
    plain_contexts: Vec<Vec<u32>>,
    prefix: Vec<u32>,
    /// What stands before the target, of the text that is repeated.
    cue: Vec<u32>,
    target: Vec<u32>,
    origin: String,
}

/// The tokens before the one context of a form, and after it.
fn around_context(parts: Vec<EncodedPart>) -> (Vec<u32>, Vec<u32>) {
    let (mut before, mut after, mut is_after) = (Vec::new(), Vec::new(), false);
    for part in parts {
        match part {
            EncodedPart::Context(_) => is_after = true,
            EncodedPart::Tokens(ids) if is_after => after.extend(ids),
            EncodedPart::Tokens(ids) => before.extend(ids),
        }
    }
    (before, after)
}

/// The windows of a batch: batches of a pool are of similar lengths, in a drawn order.
fn windows_of_batch(config: &RunConfig, batch: u64, mixture: &Mixture) -> Result<Vec<Window>> {
    let size = config.schedule.batch as u64;
    let (pool, place) = (batch / POOL_BATCHES, (batch % POOL_BATCHES) as usize);
    // Lengths alone sort a pool, so that no text is read but that of the batch.
    let mut windows = mixture.places(pool * POOL_BATCHES * size, POOL_BATCHES * size)?;
    // Stable, so that the order does not depend on how equal lengths are sorted.
    windows.sort_by_key(|place| place.tokens());
    let mut order: Vec<usize> = (0..POOL_BATCHES as usize).collect();
    order.shuffle(&mut generator(config.seed, Purpose::Pool, pool));
    let first = order[place] * size as usize;
    // Rounding of the sources' shares may leave a pool short by a window.
    let count = windows.len().max(1);
    let places = (first..first + size as usize).filter_map(|index| windows.get(index % count));
    places.map(|place| mixture.read(place)).collect()
}

/// The length that rows are cut to: the longest at which little of the batch is padding.
fn level(lengths: impl Iterator<Item = usize>) -> usize {
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let rows = lengths.len();
    lengths
        .iter()
        .copied()
        .find(|&most| {
            let padding: usize = lengths.iter().map(|&length| most.saturating_sub(length)).sum();
            padding as f64 <= MOST_PADDING * (most * rows) as f64
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_its_own_windows_and_no_others_of_its_pool() {
        let config = "[encoder]\nname = 'e'\nbackbone = 'd'\nlayers = 1\n[[decoders]]\nname = 'd'\n\
                      [data]\nsources = [{ path = 'corpus' }]\n[schedule]\nsteps = 16\nbatch = 2\n";
        let config = RunConfig::parse(config, std::path::Path::new("run.toml")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Thirty-two windows, as many as a pool takes, one of which cannot be read.
        let corpus = crate::train::corpus::tests::damaged(folder.path(), 16, 20);
        let mixture = Mixture::new(vec![(corpus, 1.0)], config.seed).unwrap();
        let read: Vec<_> =
            (0..POOL_BATCHES).map(|batch| windows_of_batch(&config, batch, &mixture)).collect();
        assert_eq!(read.iter().filter(|windows| windows.is_err()).count(), 1, "{read:?}");
        assert!(read.iter().flatten().all(|windows| windows.len() == 2));
    }

    #[test]
    fn instructions_stand_in_the_decoders_own_template() {
        use crate::prompt::FormPart;
        let spelt = |form: PromptForm| -> String {
            let part = |part: &FormPart| match part {
                FormPart::Text(text) | FormPart::Template(text) => text.clone(),
                FormPart::Around { rendered, .. } => rendered.clone(),
                FormPart::Context(_) => "<latents>".into(),
            };
            form.parts().iter().map(part).collect()
        };
        assert_eq!(
            spelt(instruct_form(Objective::Reconstruction, None).unwrap()),
            "[INST] Text:<latents>Replicate the input text. [/INST] Replicated text:\n"
        );
        let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(
            spelt(instruct_form(Objective::Continuation, Some(&template)).unwrap()),
            "<|user|>Text:\n<latents>\nContinue the previous text.<|end|><|assistant|>Text continuation:\n"
        );
    }

    #[test]
    fn spans_of_a_script_without_spaces_are_cut_between_characters() {
        // Each character is three tokens of one byte, as for a tokenizer that does not know it.
        let text = "古池や蛙飛び込む水の音夏草や兵どもが夢の跡";
        let window = Window {
            ids: text.bytes().map(u32::from).collect(),
            starts: (0..text.len()).collect(),
            text: text.to_owned(),
            origin: String::new(),
        };
        for prefix in 0..12 {
            for context in 3..24 {
                let span = compressed_span(&window, prefix, context);
                let bytes = window.byte_of(span.start)..window.byte_of(span.end);
                let cut = text.get(bytes.clone()).unwrap_or_else(|| panic!("{bytes:?} splits a character"));
                assert!(!cut.is_empty() && text.get(bytes.end..).is_some_and(|rest| !rest.is_empty()));
                assert!(span.len() + 2 >= context && span.len() <= context, "{span:?} of {context}");
            }
        }
    }

    #[test]
    fn rows_are_cut_until_little_is_padding() {
        assert_eq!(level([10, 10, 10, 10].into_iter()), 10);
        assert_eq!(level([20, 10, 10, 10].into_iter()), 10);
        assert_eq!(level([12, 12, 12, 10].into_iter()), 12);
        assert_eq!(level(std::iter::empty()), 0);
    }
}
