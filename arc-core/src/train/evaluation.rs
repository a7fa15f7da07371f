//! What the latents are worth on held-out text, beside no context, all of it, and its last tokens.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::RunConfig;
use super::batch::{Layout, Sample, SampleSpan};
use super::corpus::Window;
use super::loss::Targets;
use super::loss::decoder_loss;
use super::model::TrainedModel;
use super::objective::{BatchPlan, Objective};
use super::step::{StepOptions, at_factor, predicting_states, training_loss};
use crate::decoder::{Decoder, Transformer};
use crate::eval::{ContinuationArms, ContinuationSums, strangers, truncated};
use crate::{Error, Hint, Result};

/// How well a decoder repeats a text from its latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReconstructionScore {
    /// The mean negative log-likelihood, nats per token.
    pub loss: f64,
    /// The share of tokens that are the most likely one.
    pub accuracy: f64,
    /// Tokens measured.
    pub tokens: usize,
}

/// The held-out scores of one decoder at one pooling factor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Evaluation {
    /// The decoder.
    pub decoder: String,
    /// How many tokens a latent stands for.
    pub factor: usize,
    /// Continuation in its four arms, where there is text; tokens are weighted alike.
    pub continuation: Option<ContinuationArms>,
    /// Reconstruction, where there is text.
    pub reconstruction: Option<ReconstructionScore>,
    /// Answers, where there are questions.
    pub answer: Option<AnswerScore>,
}

/// How well a decoder answers questions about compressed documents, without examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AnswerScore {
    /// Questions measured.
    pub questions: usize,
    /// Tokens of their answers.
    pub tokens: usize,
    /// The mean negative log-likelihood from the latents, nats per token.
    pub loss_latents: f64,
    /// From the latents of another question's documents, which tell only what answers are like; `None`
    /// where a question was measured alone.
    #[serde(default)]
    pub loss_another: Option<f64>,
    /// Without the document.
    pub loss_no_context: f64,
    /// From the whole document.
    pub loss_full_context: f64,
    /// The share of tokens that are the most likely one, from the latents.
    pub accuracy: f64,
}

impl Evaluation {
    /// The scores as they stand in metrics and in a package's card.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "decoder": self.decoder,
            "factor": self.factor,
            "continuation": self.continuation.as_ref().map(ContinuationArms::to_json),
            "reconstruction": self.reconstruction,
            "answer": self.answer,
        })
    }

    /// The sum of the losses from latents, by which checkpoints are compared.
    pub(super) fn loss(&self) -> f64 {
        self.continuation.as_ref().map_or(0.0, |arms| arms.latents)
            + self.reconstruction.map_or(0.0, |score| score.loss)
            + self.answer.map_or(0.0, |score| score.loss_latents)
    }
}

/// Which adapter of a model is measured, with the decoder that it is of. The model carries no graph.
pub(super) type Measured<'a> = (&'a RunConfig, &'a TrainedModel, usize, &'a Decoder);

/// Scores a decoder on held-out windows and questions.
pub(super) fn evaluate(
    measured: Measured,
    windows: &[Window],
    questions: &[Sample],
    factor: usize,
) -> Result<Evaluation> {
    check_measurable(windows, questions)?;
    let text = if windows.is_empty() { None } else { Some(text_scores(measured, windows, factor)?) };
    let answer = if questions.is_empty() { None } else { Some(answer_score(measured, questions, factor)?) };
    let (continuation, reconstruction) = text.unzip();
    Ok(Evaluation { decoder: measured.3.name.clone(), factor, continuation, reconstruction, answer })
}

/// Refuses to measure on nothing.
pub(super) fn check_measurable(windows: &[Window], questions: &[Sample]) -> Result<()> {
    if windows.is_empty() && questions.is_empty() {
        return Err(Error::Document {
            name: "held-out text".into(),
            reason: "is empty".into(),
            hint: Hint::LargerHeldOut,
        });
    }
    Ok(())
}

fn answer_score(
    (config, model, adapter, decoder): Measured,
    questions: &[Sample],
    factor: usize,
) -> Result<AnswerScore> {
    let options = StepOptions { factor, distillation: 0.0, count_correct: true };
    let mut questions = questions.to_vec();
    questions.sort_by_key(|sample| sample.contexts.iter().map(Vec::len).sum::<usize>());
    let strangers = behind_others(&questions);
    let (mut sums, mut correct, mut tokens) = ([Sum::default(); 4], 0.0, 0);
    for (number, samples) in questions.chunks(config.schedule.batch).enumerate() {
        let loss = training_loss(model, &decoder.network, adapter, Objective::Answer, samples, options)?;
        sums[0].add(loss.loss.sum);
        tokens += loss.targets;
        correct += loss.loss.correct.map_or(0.0, |count| f64::from(count.into_scalar::<f32>()));
        let without: Vec<Sample> = samples
            .iter()
            .map(|sample| sample.with_contexts(&vec![Vec::new(); sample.plain_contexts.len()]))
            .collect();
        sums[1].add(plain_loss(&decoder.network, &without)?);
        let full: Vec<Sample> = samples.iter().map(Sample::with_plain_contexts).collect();
        sums[2].add(plain_loss(&decoder.network, &full)?);
        if let Some(strangers) = &strangers {
            let strangers = &strangers[number * config.schedule.batch..][..samples.len()];
            let loss =
                training_loss(model, &decoder.network, adapter, Objective::Answer, strangers, options)?;
            sums[3].add(loss.loss.sum);
        }
    }
    let [loss_latents, loss_no_context, loss_full_context, loss_another] =
        sums.map(|sum| sum.0 / tokens.max(1) as f64);
    Ok(AnswerScore {
        questions: questions.len(),
        tokens,
        loss_latents,
        loss_another: strangers.map(|_| loss_another),
        loss_no_context,
        loss_full_context,
        accuracy: correct / tokens.max(1) as f64,
    })
}

fn text_scores(
    (config, model, adapter, decoder): Measured,
    windows: &[Window],
    factor: usize,
) -> Result<(ContinuationArms, ReconstructionScore)> {
    // Batches of similar lengths, as in training.
    let mut windows = windows.to_vec();
    windows.sort_by_key(|window| window.ids.len());
    let options = StepOptions { factor, distillation: 0.0, count_correct: true };
    let network = &decoder.network;
    let mut sums = ContinuationSums::default();
    let (mut repeated, mut correct, mut repeated_tokens) = (Sum::default(), 0.0, 0);
    let mut batches = Vec::new();
    for windows in windows.chunks(config.schedule.batch) {
        let plan = BatchPlan::plain(config, adapter, Objective::Continuation, factor);
        let samples: Vec<Sample> =
            plan.samples_of(config, windows, decoder)?.into_iter().map(without_first_target).collect();
        if samples.iter().any(|sample| sample.target_count() > 0) {
            batches.push((windows, samples));
        }
    }
    let all: Vec<Sample> = batches.iter().flat_map(|(_, samples)| samples.iter().cloned()).collect();
    let strangers = behind_others(&all);
    sums.another = strangers.is_some().then_some(0.0);
    for (windows, samples) in batches {
        // The special vector counts: it is a position that the decoder reads.
        let positions: Vec<usize> =
            latent_counts(model, &samples, factor).into_iter().map(|latents| latents + 1).collect();
        sums.positions += positions.iter().sum::<usize>();
        let seen = sums.samples..sums.samples + samples.len();
        sums.samples = seen.end;

        let loss = training_loss(model, network, adapter, Objective::Continuation, &samples, options)?;
        sums.latents += host_value(loss.loss.sum);
        sums.tokens += loss.targets;
        let nothing = vec![Vec::new()];
        let rows = |contexts: &dyn Fn(usize, &Sample) -> Vec<Vec<u32>>| -> Vec<Sample> {
            samples
                .iter()
                .enumerate()
                .map(|(row, sample)| sample.with_contexts(&contexts(row, sample)))
                .collect()
        };
        sums.no_context += host_value(plain_loss(network, &rows(&|_, _| nothing.clone()))?);
        sums.full_context +=
            host_value(plain_loss(network, &rows(&|_, sample| sample.plain_contexts.clone()))?);
        let last =
            |row: usize, sample: &Sample| vec![truncated(&sample.plain_contexts[0], positions[row]).to_vec()];
        sums.truncation += host_value(plain_loss(network, &rows(&last))?);

        if let Some(strangers) = &strangers {
            let strangers = &strangers[seen];
            let loss = training_loss(model, network, adapter, Objective::Continuation, strangers, options)?;
            sums.another = sums.another.map(|sum| sum + host_value(loss.loss.sum));
        }

        let plan = BatchPlan::plain(config, adapter, Objective::Reconstruction, factor);
        let samples = plan.samples_of(config, windows, decoder)?;
        let loss = training_loss(model, network, adapter, Objective::Reconstruction, &samples, options)?;
        repeated.add(loss.loss.sum);
        repeated_tokens += loss.targets;
        correct += loss.loss.correct.map_or(0.0, |count| f64::from(count.into_scalar::<f32>()));
    }
    let reconstruction = ReconstructionScore {
        loss: repeated.0 / repeated_tokens.max(1) as f64,
        accuracy: correct / repeated_tokens.max(1) as f64,
        tokens: repeated_tokens,
    };
    Ok((sums.arms(), reconstruction))
}

/// Each sample with the contexts of a stranger: several questions about one document say nothing of another's.
fn behind_others(samples: &[Sample]) -> Option<Vec<Sample>> {
    let strangers = strangers(samples.len(), |own, other| samples[own].contexts != samples[other].contexts)?;
    let behind = |(sample, stranger): (&Sample, usize)| {
        // As many as before, whatever the other has.
        let contexts =
            samples[stranger].contexts.iter().cycle().take(sample.contexts.len()).cloned().collect();
        Sample { contexts, ..sample.clone() }
    };
    Some(samples.iter().zip(strangers).map(behind).collect())
}

fn host_value(sum: Tensor<1>) -> f64 {
    f64::from(sum.into_scalar::<f32>())
}

/// A sum over batches, on the host.
#[derive(Clone, Copy, Default)]
struct Sum(f64);

impl Sum {
    fn add(&mut self, part: Tensor<1>) {
        self.0 += host_value(part);
    }
}

/// Without context there is nothing that predicts the first token, so no arm is scored on it.
fn without_first_target(mut sample: Sample) -> Sample {
    if let Some(SampleSpan::Tokens { ids, is_target: true }) = sample.spans.last_mut()
        && !ids.is_empty()
    {
        let rest = ids.split_off(1);
        if let Some(SampleSpan::Tokens { is_target, .. }) = sample.spans.last_mut() {
            *is_target = false;
        }
        sample.spans.push(SampleSpan::Tokens { ids: rest, is_target: true });
    }
    sample
}

/// The latents of each sample's one context, counted without encoding it.
fn latent_counts(model: &TrainedModel, samples: &[Sample], factor: usize) -> Vec<usize> {
    let encoder = at_factor(&model.encoder, factor);
    let count = |ids: &Vec<u32>| encoder.config().latents(ids.len());
    samples.iter().map(|sample| sample.contexts.iter().map(count).sum()).collect()
}

/// The summed loss of rows without latents.
fn plain_loss(decoder: &Transformer, samples: &[Sample]) -> Result<Tensor<1>> {
    let device = decoder.device();
    let layout = Layout::new(samples, &[], 0, false);
    let nothing = Tensor::zeros([1, decoder.config().d_model()], device);
    let embedded = layout.assemble(decoder.embed(&layout.tokens), nothing, None, device);
    let hidden = predicting_states(decoder, &layout, embedded);
    let targets = Targets { ids: &layout.targets, teacher: None, count_correct: false };
    Ok(decoder_loss(decoder, hidden, &targets)?.sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_about(document: u32) -> Sample {
        Sample {
            contexts: vec![vec![document]],
            plain_contexts: vec![vec![document]],
            spans: vec![SampleSpan::Context(0)],
            origin: String::new(),
        }
    }

    #[test]
    fn another_document_is_never_the_samples_own() {
        let documents =
            |samples: Vec<Sample>| samples.into_iter().map(|sample| sample.contexts[0][0]).collect();
        let others = |own: &[u32]| -> Option<Vec<u32>> {
            behind_others(&own.iter().copied().map(asked_about).collect::<Vec<_>>()).map(documents)
        };
        assert_eq!(others(&[1, 2, 3]), Some(vec![2, 3, 1]));
        assert_eq!(others(&[1, 1, 1, 2, 2]), Some(vec![2, 2, 2, 1, 1]));
        assert_eq!(others(&[1, 1]), None);
        assert_eq!(others(&[1]), None);
    }
}
