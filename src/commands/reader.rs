//! Who is asked: a decoder, with its adapter, and the prompts that it is given.

use std::sync::Arc;
use std::time::Instant;

use arc_adapters::{AnswerEnd, DecoderEntry, Pair, Registry};
use arc_core::decoder::Decoder;
use arc_core::encoder::Latents;
use arc_core::prompt::{Prompt, PromptTemplate};
use arc_core::{AdaptedDecoder, Session, SpecialVector};

use super::prompt_template::PLAIN_TEMPLATE;
use crate::Failure;
use crate::output::detail;

/// Positions that documents leave for an answer where nobody said how long one may be.
const ANSWER_ROOM: usize = 32;

/// Who is asked.
pub(super) struct Reader<'a> {
    pub(super) pair: Pair<'a>,
    pub(super) decoder: Arc<Decoder>,
    /// With its adapter; plain text can be read without one.
    adapted: Option<Arc<AdaptedDecoder>>,
    /// The prompt of a decoder without an adapter.
    template: PromptTemplate,
    pub(super) answer_ends: AnswerEnd,
}

/// The decoder to ask where none is named.
pub(super) fn default_decoder(registry: &Registry) -> Result<&DecoderEntry, Failure> {
    registry.default_decoder()?.ok_or_else(|| {
        Failure::usage(
            "no decoder is named",
            "name one with `--decoder`, set `arc config set decoder NAME`, or `default_decoder` in a registry",
        )
    })
}

impl<'a> Reader<'a> {
    /// Positions that the window leaves for documents beside a question and an answer of `max_tokens`, and how
    /// many each document takes beside its latents.
    pub(super) fn room(
        &self,
        question: &str,
        special: SpecialVector,
        max_tokens: Option<usize>,
    ) -> Result<(usize, usize), Failure> {
        let adapted = self.adapted()?;
        let extra = if special == SpecialVector::None { 0 } else { adapted.positions_of(0) };
        let words = self.prompt(&[], question, special)?.len();
        let left = self.window().saturating_sub(words);
        Ok((left.saturating_sub(self.answer_room(words, max_tokens)), extra))
    }

    /// Positions that are left for an answer of `max_tokens` behind a prompt of so many words.
    pub(super) fn answer_room(&self, words: usize, max_tokens: Option<usize>) -> usize {
        max_tokens.unwrap_or(ANSWER_ROOM.min(self.window().saturating_sub(words) / 4))
    }

    /// Loads the decoder and, where it has one, its adapter; `encoder` is the one that was named. One without
    /// an adapter will do where it reads text.
    pub(super) fn open(
        session: &Session,
        pair: Pair<'a>,
        encoder: Option<&str>,
        reads_text: bool,
    ) -> Result<Self, Failure> {
        let name = &pair.decoder.name;
        let start = Instant::now();
        let adapted = match encoder {
            Some(encoder) => session.adapted_decoder_for(name, encoder),
            None => session.adapted_decoder(name),
        };
        let adapted = match adapted {
            Err(arc_core::Error::Adapter(
                arc_adapters::Error::NoAdapter { .. } | arc_adapters::Error::NotImported { .. },
            )) if reads_text => None,
            adapted => Some(adapted?),
        };
        let decoder = match &adapted {
            Some(adapted) => Arc::clone(&adapted.decoder),
            None => session.decoder(name)?,
        };
        if let Some(adapted) = &adapted {
            detail(format!("adapter of `{name}`: {}", adapted.adapter.origin.display()));
        }
        detail(format!("`{name}` loaded in {:.2} s", start.elapsed().as_secs_f64()));
        let options = pair.options();
        let template = options.prompt_template.as_deref().unwrap_or(PLAIN_TEMPLATE);
        let usual = options.answer_ends.unwrap_or(AnswerEnd::of_template(template));
        let answer_ends = adapted.as_ref().map_or(usual, |adapted| adapted.answer_ends());
        let template = PromptTemplate::parse(template)?;
        Ok(Self { pair, decoder, adapted, template, answer_ends })
    }

    /// Its adapter, if it has one.
    pub(super) fn adapter(&self) -> Option<&AdaptedDecoder> {
        self.adapted.as_deref()
    }

    /// With the adapter, which is there wherever latents are.
    pub(super) fn adapted(&self) -> Result<&AdaptedDecoder, Failure> {
        match &self.adapted {
            Some(adapted) => Ok(adapted),
            None => Err(self.pair.adapter().map_or_else(Failure::from, |_| {
                Failure::failed("latents are read with an adapter", "leave out `--open-book`")
            })),
        }
    }

    /// How many positions it reads and writes together.
    pub(super) fn window(&self) -> usize {
        self.decoder.network.config().context_length
    }

    /// Refuses a number of new tokens that leaves the prompt no room.
    pub(super) fn check_new_tokens(&self, asked: Option<usize>) -> Result<(), Failure> {
        let window = self.window();
        match asked.filter(|&asked| asked >= window) {
            Some(asked) => Err(Failure::failed(
                format!(
                    "{asked} new tokens are asked for, but `{}` has a window of {window}",
                    self.decoder.name
                ),
                "ask for fewer with `--max-tokens`: the prompt needs room in it too",
            )),
            None => Ok(()),
        }
    }

    /// The prompt that asks about latents.
    pub(super) fn prompt(
        &self,
        latents: &[Latents],
        question: &str,
        special: SpecialVector,
    ) -> Result<Prompt, Failure> {
        Ok(self.adapted()?.prompt_about(latents, question, special)?)
    }

    /// The prompt that asks about plain text.
    pub(super) fn prompt_with_text(&self, text: &str, question: &str) -> Result<Prompt, Failure> {
        Ok(match &self.adapted {
            Some(adapted) => adapted.prompt_with_text(text, question)?,
            None => self.template.prompt_with_text(text, question, &self.decoder.tokenizer)?,
        })
    }
}
