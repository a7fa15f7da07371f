//! From a task's text to a decoder's prompt: what each arm shows in place of a document.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::arm::Arm;
use super::data::Row;
use super::task::{GenerateTask, KeptEnd};
use crate::decoder::Decoder;
use crate::encoder::{CompressOptions, Encoder, Latents, TokenRarity};
use crate::flops;
use crate::prompt::{Prompt, Span};
use crate::{AdaptedDecoder, Error, Hint, OverriddenPin, Result, SpecialVector};

/// Self-information is computed in pieces of this many tokens, which bounds the window it takes.
const INFORMATION_PIECE: usize = 1024;

/// A decoder with everything that its arms need.
#[derive(Debug)]
#[non_exhaustive]
pub struct Contestant {
    /// The decoder.
    pub decoder: Arc<Decoder>,
    /// The decoder with its adapter, for the arms that read latents.
    pub adapted: Option<Arc<AdaptedDecoder>>,
    /// The encoder, which also sets the budget of truncation and pruning.
    pub encoder: Arc<Encoder>,
    /// The sha256 of the decoder's file.
    pub decoder_sha256: String,
    /// The sha256 of the code plugin that the adapter comes from, if it comes from one: its function
    /// is in no weights.
    pub plugin_sha256: Option<String>,
    /// Positions of a document's latents, by factor and text.
    budgets: HashMap<(usize, String), usize>,
    /// What a document's tokens tell, by text: neither the question nor the budget changes it.
    information: HashMap<String, Information>,
    /// How rare words are in the documents with this hash.
    rarity: Option<(String, TokenRarity)>,
}

/// The self-information of a document's tokens.
#[derive(Debug)]
struct Information {
    nats: Vec<f32>,
    /// How long it took, which is the cost of every arm that needs it.
    seconds: f64,
    flops: f64,
}

/// A part of a prompt, before it is tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text as it stands.
    Text(String),
    /// A document, which every arm shows in its own way.
    Document(String),
}

/// A document as an arm shows it.
#[derive(Debug)]
pub(super) struct Shown {
    /// What stands in its place; nothing in the arm without documents.
    pub span: Option<Span>,
    /// How long it took to make, in seconds.
    pub seconds: f64,
    /// How many operations.
    pub flops: f64,
}

/// A prompt, and what its documents took to make.
#[derive(Debug)]
pub(super) struct Built {
    pub prompt: Prompt,
    pub document_positions: usize,
    pub seconds: f64,
    pub flops: f64,
}

/// A document in a decoder's tokens.
pub(super) struct Tokens<'a> {
    pub text: &'a str,
    pub ids: &'a [u32],
}

impl Contestant {
    /// Puts a decoder beside the encoder that its latents come from.
    #[must_use]
    pub fn new(
        decoder: Arc<Decoder>,
        adapted: Option<Arc<AdaptedDecoder>>,
        encoder: Arc<Encoder>,
        decoder_sha256: String,
    ) -> Self {
        Self {
            decoder,
            adapted,
            encoder,
            decoder_sha256,
            plugin_sha256: None,
            budgets: HashMap::new(),
            information: HashMap::new(),
            rarity: None,
        }
    }

    /// The pins of the adapter that did not fit and were overridden so far.
    #[must_use]
    pub fn overridden_pins(&self) -> Vec<OverriddenPin> {
        self.adapted.as_ref().map_or_else(Vec::new, |adapted| adapted.overridden_pins())
    }

    /// The hash of the documents whose words were counted last.
    pub(super) fn counted_words(&self) -> Option<&str> {
        self.rarity.as_ref().map(|(hash, _)| hash.as_str())
    }

    /// Counts the words of a task's documents, once.
    pub(super) fn count_words<'a>(&mut self, documents: impl Iterator<Item = &'a str>) -> Result<()> {
        let documents: BTreeSet<&str> = documents.collect();
        let hash = arc_adapters::sha256_hex(serde_json::json!(documents).to_string().as_bytes());
        if self.rarity.as_ref().is_none_or(|(known, _)| *known != hash) {
            let tokenizer = &self.decoder.tokenizer;
            let ids = documents.into_iter().map(|document| Ok(tokenizer.encode(document)?.ids));
            let ids = ids.collect::<Result<Vec<_>>>()?.into_iter().flatten();
            self.rarity = Some((hash, TokenRarity::of_text(ids, tokenizer.vocab_size(), tokenizer)));
        }
        Ok(())
    }

    /// Turns pieces into a prompt. Each text is tokenised on its own, so that every arm has the same
    /// tokens around its documents.
    pub(super) fn build(
        &mut self,
        beginning: &[u32],
        pieces: &[Piece],
        arm: Arm,
        end: KeptEnd,
    ) -> Result<Built> {
        let mut built = Built {
            prompt: Prompt::from_tokens(beginning.to_vec()),
            document_positions: 0,
            seconds: 0.0,
            flops: 0.0,
        };
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    built.prompt.push(Span::Tokens(self.decoder.tokenizer.encode(text)?.ids))
                }
                Piece::Document(text) => {
                    let ids = self.decoder.tokenizer.encode(text)?.ids;
                    let shown = self.show(&Tokens { text, ids: &ids }, arm, end, false)?;
                    built.seconds += shown.seconds;
                    built.flops += shown.flops;
                    if let Some(span) = shown.span {
                        built.document_positions += span.len();
                        built.prompt.push(span);
                    }
                }
            }
        }
        Ok(built)
    }

    /// A document as an arm shows it. Latents that are to be reconstructed end in the vector that
    /// asks for it, where the adapter has one.
    pub(super) fn show(
        &mut self,
        document: &Tokens<'_>,
        arm: Arm,
        end: KeptEnd,
        reconstruct: bool,
    ) -> Result<Shown> {
        let ids = document.ids;
        // The budget is what latents would take, whoever made them: making them costs this arm
        // nothing.
        let budget = match arm {
            Arm::Truncation(factor) | Arm::Pruning(factor) | Arm::RareWords(factor) => {
                self.budget(document.text, factor)?.min(ids.len())
            }
            _ => ids.len(),
        };
        let start = Instant::now();
        let (span, flops) = match arm {
            Arm::ClosedBook => (None, 0.0),
            Arm::OpenBook => (Some(Span::Tokens(ids.to_vec())), 0.0),
            Arm::Truncation(_) => {
                let kept = match end {
                    KeptEnd::First => &ids[..budget],
                    KeptEnd::Last => &ids[ids.len() - budget..],
                };
                (Some(Span::Tokens(kept.to_vec())), 0.0)
            }
            Arm::Pruning(_) => {
                let information = self.information(document)?;
                let kept = most_informative(ids, &information.nats, budget);
                let seconds = information.seconds;
                return Ok(Shown { span: Some(Span::Tokens(kept)), seconds, flops: information.flops });
            }
            Arm::RareWords(_) => {
                let rarity =
                    self.rarity.as_ref().map(|(_, rarity)| rarity).ok_or_else(|| Error::NotEnough {
                        what: "documents that say which words are rare".into(),
                        found: 0,
                        needed: 1,
                    })?;
                let kept = rarity.rarest(ids, budget).into_iter().map(|place| ids[place]).collect();
                (Some(Span::Tokens(kept)), 0.0)
            }
            Arm::Arc(factor) | Arm::Control(factor) => {
                let adapted = self.adapted.as_ref().ok_or_else(|| Error::Mismatch {
                    what: format!("`{}`", self.decoder.name),
                    expected: "an adapter".into(),
                    found: "none in the registry".into(),
                    hint: Hint::Fit { decoder: self.decoder.name.clone() },
                })?;
                let latents = self.compress(document.text, factor)?;
                let config = self.encoder.network.config().at_factor(self.asked(factor))?;
                let encoding = flops::encoding(&config, latents.source_tokens, self.encoder.chunk_tokens());
                // Not every adapter was trained to reconstruct.
                let special = if reconstruct && adapted.adapter.weights.has("tokens.rec") {
                    SpecialVector::Rec
                } else {
                    SpecialVector::Usual
                };
                let projected = adapted.project_with(&latents, special)?;
                let layers = &adapted.adapter.manifest.projector.layers;
                let projecting = flops::projecting(layers, projected.dims()[0]);
                self.decoder.network.device().sync().ok();
                self.budgets.insert((factor, document.text.to_owned()), projected.dims()[0]);
                (Some(Span::Latents(projected)), (encoding + projecting) as f64)
            }
        };
        Ok(Shown { span, seconds: start.elapsed().as_secs_f64(), flops })
    }

    /// The positions that a document's latents take in the decoder.
    fn budget(&mut self, text: &str, factor: usize) -> Result<usize> {
        let key = (factor, text.to_owned());
        if let Some(&budget) = self.budgets.get(&key) {
            return Ok(budget);
        }
        let latents = self.compress(text, factor)?.len();
        let budget = self.adapted.as_ref().map_or(latents, |adapted| adapted.positions_of(latents));
        self.budgets.insert(key, budget);
        Ok(budget)
    }

    fn compress(&self, text: &str, factor: usize) -> Result<Latents> {
        self.encoder.compress(text, CompressOptions { factor: self.asked(factor) })
    }

    /// Asked for a factor, an encoder that pools to a count of its own would be another one.
    fn asked(&self, factor: usize) -> Option<usize> {
        self.encoder.pools_by_factor().then_some(factor)
    }

    fn information(&mut self, document: &Tokens<'_>) -> Result<&Information> {
        if !self.information.contains_key(document.text) {
            let found = self.measure_information(document.ids)?;
            self.information.insert(document.text.to_owned(), found);
        }
        Ok(&self.information[document.text])
    }

    /// The self-information of each token in nats, given those before it. A token that nothing
    /// stands before tells everything.
    fn measure_information(&self, ids: &[u32]) -> Result<Information> {
        let start = Instant::now();
        let beginning = self.decoder.tokenizer.beginning();
        let network = &self.decoder.network;
        let config = network.config();
        let room = config.context_length.saturating_sub(beginning.len());
        let mut information = Information { nats: Vec::with_capacity(ids.len()), seconds: 0.0, flops: 0.0 };
        for piece in ids.chunks(INFORMATION_PIECE.min(room).max(1)) {
            let prompt = Prompt::from_tokens([&beginning[..], piece].concat());
            let losses = self.decoder.token_losses(&prompt)?;
            let nats = losses[beginning.len()..].iter().map(|loss| loss.unwrap_or(f32::INFINITY));
            information.nats.extend(nats);
            let flops = flops::reading(config, 0, prompt.len())
                + flops::head(config, network.vocabulary(), piece.len());
            information.flops += flops as f64;
        }
        information.seconds = start.elapsed().as_secs_f64();
        Ok(information)
    }

    /// Forgets what is known of a document's tokens, so that it is measured again.
    pub(super) fn forget(&mut self, text: &str) {
        self.information.remove(text);
    }
}

/// The `budget` tokens with the most information, of equal ones the earlier, in their order.
fn most_informative(ids: &[u32], information: &[f32], budget: usize) -> Vec<u32> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by(|&a, &b| information[b].total_cmp(&information[a]));
    order.truncate(budget);
    order.sort_unstable();
    order.into_iter().map(|index| ids[index]).collect()
}

/// The instruction and the examples of a prompt.
pub(super) fn beginning_of(task: &GenerateTask, examples: &[Row], arm: Arm) -> Vec<Piece> {
    let mut pieces = vec![Piece::Text(task.instruction.clone())];
    for example in examples {
        pieces.extend(question_of(task, example, arm));
        let answer = example.answers.first().map_or("", String::as_str);
        pieces.push(Piece::Text(format!("{}{answer}{}", task.before_answer, task.after_answer)));
    }
    joined(pieces)
}

/// The question of a prompt, with its document where the arm has one.
pub(super) fn question_of(task: &GenerateTask, row: &Row, arm: Arm) -> Vec<Piece> {
    if arm == Arm::ClosedBook {
        return joined(vec![Piece::Text(task.without_document(&row.question))]);
    }
    let frame = task.frame(&row.question);
    joined(vec![Piece::Text(frame.before), Piece::Document(row.document.clone()), Piece::Text(frame.after)])
}

/// Texts that follow each other are one text, and empty ones are none.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (out.last_mut(), piece) {
            (_, Piece::Text(text)) if text.is_empty() => {}
            (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
            (_, piece) => out.push(piece),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(document: &str, question: &str, answer: &str) -> Row {
        Row {
            document: document.into(),
            question: question.into(),
            answers: vec![answer.into(), "another".into()],
            needle: None,
        }
    }

    fn task() -> GenerateTask {
        toml::from_str(
            r#"
            instruction = "Do.\n"
            prompt = "D: {{ document }}\nQ: {{ question }}\nA:"
            closed_book = "Q: {{ question }}\nA:"
            max_tokens = 1
            metrics = ["f1"]
            "#,
        )
        .unwrap()
    }

    #[test]
    fn every_document_of_the_examples_is_a_document_and_text_is_joined() {
        let examples = [row("one", "q1", "a1"), row("two", "q2", "a2")];
        let text = |text: &str| Piece::Text(text.into());
        let document = |text: &str| Piece::Document(text.into());
        assert_eq!(
            beginning_of(&task(), &examples, Arm::Arc(4)),
            [
                text("Do.\nD: "),
                document("one"),
                text("\nQ: q1\nA: a1\n\nD: "),
                document("two"),
                text("\nQ: q2\nA: a2\n\n")
            ]
        );
        assert_eq!(
            beginning_of(&task(), &examples, Arm::ClosedBook),
            [text("Do.\nQ: q1\nA: a1\n\nQ: q2\nA: a2\n\n")]
        );
        assert_eq!(
            question_of(&task(), &examples[0], Arm::OpenBook),
            [text("D: "), document("one"), text("\nQ: q1\nA:")]
        );
    }

    #[test]
    fn pruning_keeps_the_most_informative_in_their_order() {
        let information = [f32::INFINITY, 0.5, 3.0, 0.5, 2.0];
        assert_eq!(most_informative(&[10, 11, 12, 13, 14], &information, 3), [10, 12, 14]);
        assert_eq!(most_informative(&[10, 11, 12, 13, 14], &information, 4), [10, 11, 12, 14]);
        assert_eq!(most_informative(&[10], &[1.0], 0), Vec::<u32>::new());
    }
}
