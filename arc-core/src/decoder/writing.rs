//! One text as it is written: logits in, a token and the text that it makes certain out.

use arc_adapters::AnswerEnd;

use super::{Decoder, FinishReason, GenerateOptions, Generation};
use crate::Result;
use crate::sampling::Sampler;
use crate::tokenizer::{DecodeStream, FirstLine, RepeatedLine, StopStrings, Tokenizer};

/// A text that is being written, token by token, as [`Decoder::generate`] writes each of its rows: for those who
/// run the decoder themselves, with rows that begin and end at different times.
pub struct Writing {
    sampler: Sampler,
    history: Vec<u32>,
    generated: Vec<u32>,
    tokenizer: Tokenizer,
    max_tokens: usize,
    stream: DecodeStream,
    stops: StopStrings,
    /// Special tokens that end it, since the text does not show them.
    stop_tokens: Vec<u32>,
    /// What passes of the text, where it is to be one line.
    line: Option<FirstLine>,
    /// What passes of it, where it is an answer of several.
    lines: Option<RepeatedLine>,
    text: String,
    finish: Option<FinishReason>,
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { generated, text, finish, .. } = self;
        let mut fields = f.debug_struct("Writing");
        fields
            .field("generated", generated)
            .field("text", text)
            .field("finish", finish)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// The beginning of a text behind a prompt of these tokens, latents left out.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`](crate::Error::InvalidValue) for senseless options.
    pub fn begin(&self, prompt_ids: Vec<u32>, options: &GenerateOptions) -> Result<Writing> {
        let special = options.stop.iter().filter_map(|stop| self.tokenizer.special_id(stop));
        Ok(Writing {
            // Every row starts from the same seed, so that a batch repeats single calls.
            sampler: Sampler::new(options.sampling)?,
            history: prompt_ids,
            generated: Vec::new(),
            tokenizer: self.tokenizer.clone(),
            max_tokens: options.max_tokens,
            stream: self.tokenizer.continuation_stream(true),
            stops: StopStrings::new(options.stop.clone())?,
            stop_tokens: special.filter(|&id| self.tokenizer.is_special(id)).collect(),
            line: (options.answer_ends == Some(AnswerEnd::Line)).then(FirstLine::default),
            lines: (options.answer_ends == Some(AnswerEnd::Model)).then(RepeatedLine::default),
            text: String::new(),
            finish: None,
        })
    }
}

impl Writing {
    /// The new tokens so far, the end token included where it was reached.
    #[must_use]
    pub fn token_ids(&self) -> &[u32] {
        &self.generated
    }

    /// Their text so far, as far as it is certain.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Why it has ended, once it has.
    #[must_use]
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Chooses the next token from the logits behind the last one, `[vocabulary]`, which the repetition penalty
    /// changes. `on_text` receives the text that is certain with it, if there is any.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`](crate::Error::NotFinite) for logits that are no numbers.
    pub fn write(&mut self, logits: &mut [f32], on_text: impl FnMut(&str)) -> Result<u32> {
        let id = self.sampler.sample(logits, &self.history)?;
        let is_last = self.generated.len() + 1 >= self.max_tokens;
        let ending = if self.tokenizer.is_end(id) {
            Some(FinishReason::End)
        } else if self.stop_tokens.contains(&id) {
            Some(FinishReason::Stop)
        } else {
            is_last.then_some(FinishReason::Length)
        };
        self.accept(id, ending, on_text);
        Ok(id)
    }

    /// Ends the text where it is, and passes on what was held back of it.
    pub fn interrupt(&mut self, mut on_text: impl FnMut(&str)) {
        let rest = self.stream.clone().finish();
        let held = self.stops.push(&rest) + &self.stops.clone().finish();
        let mut piece = self.line.as_mut().map_or_else(|| held.clone(), |line| line.push(&held));
        if let Some(lines) = &mut self.lines {
            piece = lines.push(&piece) + &lines.clone().finish();
        }
        if !piece.is_empty() {
            self.text.push_str(&piece);
            on_text(&piece);
        }
        self.finish = Some(FinishReason::Interrupted);
    }

    /// Takes a new token, after which the row ends if `ending` says why, and passes on the text that it
    /// makes certain.
    fn accept(&mut self, id: u32, ending: Option<FinishReason>, mut on_text: impl FnMut(&str)) {
        self.generated.push(id);
        self.history.push(id);
        let (text, line, lines) = (&mut self.text, &mut self.line, &mut self.lines);
        let mut emit = |piece: String, is_end: bool| {
            let mut piece = line.as_mut().map_or_else(|| piece.clone(), |line| line.push(&piece));
            if let Some(lines) = lines.as_mut() {
                piece = lines.push(&piece);
                if is_end {
                    piece += &lines.clone().finish();
                }
            }
            if !piece.is_empty() {
                text.push_str(&piece);
                on_text(&piece);
            }
        };
        if matches!(ending, None | Some(FinishReason::Length)) {
            let piece = self.stream.push(id);
            let piece = self.stops.push(&piece);
            // Before a stop text a line may be held back that is whole.
            emit(piece, self.stops.stopped());
        }
        if ending.is_some() && !self.stops.stopped() {
            let rest = self.stream.clone().finish();
            emit(self.stops.push(&rest), self.stops.stopped());
            if !self.stops.stopped() {
                emit(self.stops.clone().finish(), true);
            }
        }
        let has_ended = self.line.as_ref().is_some_and(FirstLine::ended)
            || self.lines.as_ref().is_some_and(RepeatedLine::ended);
        let has_stopped = self.stops.stopped() || has_ended;
        self.finish = if has_stopped { Some(FinishReason::Stop) } else { ending };
    }

    /// What became of it, with the logits behind the prompt.
    pub(super) fn into_generation(self, prompt_logits: Vec<f32>) -> Generation {
        Generation {
            token_ids: self.generated,
            text: self.text,
            finish: self.finish.unwrap_or(FinishReason::Length),
            prompt_logits,
        }
    }
}
