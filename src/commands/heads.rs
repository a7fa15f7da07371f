//! What stands before a question is read once: kept in memory for further questions of a command, and in the cache
//! of documents for further commands.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_core::decoder::{Decoder, GenerateOptions, Generations, Prefix};
use arc_core::document_cache::DocumentCache;
use arc_core::prompt::Prompt;

use crate::Failure;
use crate::output::Output;

/// Fewer positions are read faster than they are looked for.
const LEAST: usize = 64;

/// What decoders have read before questions.
pub(super) struct Heads<'a> {
    cache: Option<&'a DocumentCache>,
    /// Whether the same may be asked for again.
    is_shared: bool,
    last: RefCell<Option<Rc<Head>>>,
    output: &'a Output,
}

/// What one decoder has read.
struct Head {
    decoder: String,
    sha256: String,
    prefix: Prefix,
}

/// An answer, and what it could go on from.
pub(super) struct Answered {
    pub(super) generations: Generations,
    /// Positions that had been read before.
    pub(super) kept: usize,
}

impl<'a> Heads<'a> {
    /// With a cache, if there is one; `is_shared` where several questions follow the same documents.
    pub(super) fn new(cache: Option<&'a DocumentCache>, is_shared: bool, output: &'a Output) -> Self {
        Self { cache, is_shared, last: RefCell::default(), output }
    }

    /// As [`Decoder::generate`], where all but the last words of the prompt may have been read before, if another
    /// question may follow the same.
    pub(super) fn generate(
        &self,
        decoder: &Decoder,
        prompt: &Prompt,
        is_asked_again: bool,
        options: &GenerateOptions,
        on_text: impl FnMut(usize, &str),
    ) -> Result<Answered, Failure> {
        let whole = |on_text| {
            let generations = decoder.generate(std::slice::from_ref(prompt), options, on_text)?;
            Ok(Answered { generations, kept: 0 })
        };
        let (before, question) = prompt.clone().split_last_tokens();
        let is_kept = is_asked_again && (self.cache.is_some() || self.is_shared);
        if before.len() < LEAST || question.is_empty() || !is_kept {
            return whole(on_text);
        }
        let start = Instant::now();
        let never = AtomicBool::new(false);
        let interrupted = options.interrupted.as_deref().unwrap_or(&never);
        let (head, is_kept) = match self.head(decoder, &before, interrupted) {
            Ok(found) => found,
            // Is interrupted there, too, and says what has come of it.
            Err(arc_core::Error::Interrupted) => return whole(on_text),
            Err(error) => return Err(error.into()),
        };
        let kept = if is_kept { before.len() } else { 0 };
        let reading = start.elapsed();
        let mut generations = if self.is_shared {
            *self.last.borrow_mut() = Some(Rc::clone(&head));
            decoder.generate_after(Some(&head.prefix), std::slice::from_ref(&question), options, on_text)?
        } else {
            match Rc::try_unwrap(head) {
                Ok(head) => decoder.generate_from(head.prefix, &question, options, on_text)?,
                Err(head) => {
                    let questions = std::slice::from_ref(&question);
                    decoder.generate_after(Some(&head.prefix), questions, options, on_text)?
                }
            }
        };
        add_reading(&mut generations, reading);
        Ok(Answered { generations, kept })
    }

    /// What is read of `before`, and whether it had been.
    fn head(
        &self,
        decoder: &Decoder,
        before: &Prompt,
        interrupted: &AtomicBool,
    ) -> arc_core::Result<(Rc<Head>, bool)> {
        let sha256 = before.sha256();
        if let Some(last) = &*self.last.borrow()
            && last.decoder == decoder.name
            && last.sha256 == sha256
        {
            return Ok((Rc::clone(last), true));
        }
        let (prefix, is_kept) = read(self.cache, decoder, before, interrupted, self.output)?;
        Ok((Rc::new(Head { decoder: decoder.name.clone(), sha256, prefix }), is_kept))
    }
}

/// What a decoder has read of a prompt, from the cache if it is there, and whether it was.
pub(super) fn read(
    cache: Option<&DocumentCache>,
    decoder: &Decoder,
    prompt: &Prompt,
    interrupted: &AtomicBool,
    output: &Output,
) -> arc_core::Result<(Prefix, bool)> {
    let cache = cache.filter(|_| prompt.len() >= LEAST);
    if let Some(prefix) = cache.and_then(|cache| cache.find_prefix(decoder, prompt)) {
        return Ok((prefix, true));
    }
    let prefix = decoder.read_prefix_until(prompt, interrupted)?;
    if let Some(cache) = cache
        && let Err(error) = cache.insert_prefix(decoder, prompt, &prefix)
    {
        // The answer is no worse for it.
        output.detail(format!("keys and values are not kept: {error}"));
    }
    Ok((prefix, false))
}

/// Counts what was read before the question as part of reading the prompt.
fn add_reading(generations: &mut Generations, reading: Duration) {
    generations.timings.prefill += reading;
    generations.timings.first_token += reading;
}
