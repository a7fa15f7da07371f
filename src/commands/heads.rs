//! What stands before a question is read once: kept in memory for further questions of a command, and in the cache
//! of documents for further commands.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

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

    /// As [`Decoder::generate`], where all but the last words of the prompts may have been read before, if they are the
    /// same and another question may follow them.
    pub(super) fn generate(
        &self,
        decoder: &Decoder,
        prompts: &[Prompt],
        is_asked_again: bool,
        options: &GenerateOptions,
        on_text: impl FnMut(usize, &str),
    ) -> Result<Answered, Failure> {
        let whole =
            |on_text| Ok(Answered { generations: decoder.generate(prompts, options, on_text)?, kept: 0 });
        // What does not fit is refused as a whole, before any of it is read.
        let fits = prompts.iter().all(|prompt| decoder.room_behind(prompt) >= options.max_tokens);
        if !fits || !is_asked_again || (self.cache.is_none() && !self.is_shared) {
            return whole(on_text);
        }
        let (heads, questions): (Vec<Prompt>, Vec<Prompt>) =
            prompts.iter().cloned().map(Prompt::split_last_tokens).unzip();
        let [before, others @ ..] = heads.as_slice() else { return whole(on_text) };
        let sha256 = before.sha256();
        let is_common = others.iter().all(|other| other.sha256() == sha256);
        if before.len() < LEAST || !is_common || questions.iter().any(Prompt::is_empty) {
            return whole(on_text);
        }
        let start = Instant::now();
        let never = AtomicBool::new(false);
        let interrupted = options.interrupted.as_deref().unwrap_or(&never);
        let (head, is_kept) = match self.head(decoder, before, sha256, interrupted) {
            Ok(found) => found,
            // Is interrupted there, too, and says what has come of it.
            Err(arc_core::Error::Interrupted) => return whole(on_text),
            Err(error) => return Err(error.into()),
        };
        let kept = if is_kept { before.len() } else { 0 };
        let reading = start.elapsed();
        let mut generations = match (self.is_shared, questions.as_slice()) {
            (false, [question]) if Rc::strong_count(&head) == 1 => {
                let head = Rc::into_inner(head).expect("nobody else has it");
                decoder.generate_from(head.prefix, question, options, on_text)?
            }
            (_, questions) => {
                if self.is_shared {
                    *self.last.borrow_mut() = Some(Rc::clone(&head));
                }
                decoder.generate_after(Some(&head.prefix), questions, options, on_text)?
            }
        };
        // What was read before the question is part of reading the prompt.
        generations.timings.prefill += reading;
        generations.timings.first_token += reading;
        Ok(Answered { generations, kept })
    }

    /// What is read of `before`, and whether it had been.
    fn head(
        &self,
        decoder: &Decoder,
        before: &Prompt,
        sha256: String,
        interrupted: &AtomicBool,
    ) -> arc_core::Result<(Rc<Head>, bool)> {
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
