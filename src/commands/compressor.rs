//! Texts on their way to latents: through the cache of compressed documents, with a progress bar.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_adapters::{EncoderEntry, EncoderManifest, Staging};
use arc_core::Session;
use arc_core::document_cache::{DocumentCache, DocumentKey};
use arc_core::encoder::{
    CompressOptions, Encoder, LatentsDescription, LatentsFile, TokenisedText, encoder_id, factor_of_package,
};
use arc_core::hub::Cache;

use super::documents::named_document;
use crate::Failure;
use crate::args::Global;
use crate::interrupt::stop_on_interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::settings::Settings;

/// Compresses texts, each once.
pub(super) struct Compressor<'a> {
    session: &'a Session,
    cache: DocumentCache,
    /// What is kept for this command alone: all, or what the user's cache has no room for.
    own: OnceCell<(Staging, DocumentCache)>,
    /// What the numbers depend on beside text, encoder and rate.
    arithmetic: String,
    /// Texts that were looked at and not compressed yet.
    looked_at: RefCell<HashMap<DocumentKey, LookedAt>>,
    output: &'a Output,
    /// Whether it was told where the encoder lies.
    told: Cell<bool>,
}

/// What is known of a text before it is compressed.
enum LookedAt {
    /// Its latents are there.
    Kept(LatentsFile),
    /// It is in the encoder's tokens, and this is what its latents will be.
    Tokenised(TokenisedText, LatentsDescription),
}

/// Who compresses, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compression {
    /// The encoder's name in the registry.
    pub(super) encoder: String,
    pub(super) encoder_id: String,
    /// How many tokens a latent stands for; `None` where the encoder has a fixed count.
    pub(super) factor: Option<usize>,
}

impl Compression {
    /// At a rate that was asked for, else the encoder's own. Nothing is loaded.
    pub(super) fn new(encoder: &EncoderEntry, asked: Option<usize>) -> Result<Self, Failure> {
        let manifest = EncoderManifest::open(&encoder.package)?;
        // What is left out and what is said are the same where they come to the same.
        let own = factor_of_package(&manifest)?;
        Ok(Self {
            encoder: encoder.name.clone(),
            // A package that was changed is refused where it is loaded, and is another one until then.
            encoder_id: encoder_id(&manifest),
            factor: asked.or(own),
        })
    }

    pub(super) fn options(&self) -> CompressOptions {
        CompressOptions::default().with_factor(self.factor)
    }
}

/// The latents of a text.
#[derive(Clone, Debug)]
pub(super) struct Compressed {
    pub(super) latents: LatentsFile,
    /// How long compressing took; nothing if they were there.
    pub(super) seconds: Option<f64>,
    /// The text in the encoder's tokens, if it had to be compressed.
    pub(super) token_ids: Option<Vec<u32>>,
}

/// A cache that goes when the command ends.
fn cache_of_command() -> Result<(Staging, DocumentCache), Failure> {
    let folder = Staging::within(&std::env::temp_dir())?;
    let cache = DocumentCache::at(folder.new_folder(), u64::MAX);
    Ok((folder, cache))
}

/// The user's cache of compressed documents.
pub(super) fn document_cache() -> Result<DocumentCache, Failure> {
    let limit = Settings::read()?.cache_limit()?;
    Ok(DocumentCache::at(Cache::from_env()?.folder().join("documents"), limit))
}

impl<'a> Compressor<'a> {
    /// With the user's cache, or with one of its own that goes when it does.
    pub(super) fn new(
        global: &Global,
        session: &'a Session,
        is_cached: bool,
        output: &'a Output,
    ) -> Result<Self, Failure> {
        let mut cache = document_cache()?;
        let own = OnceCell::new();
        if !is_cached || cache.limit() == 0 {
            let (folder, of_command) = cache_of_command()?;
            cache = of_command.clone();
            let _ = own.set((folder, of_command));
        }
        let arithmetic = format!("{} {}", global.device, global.precision);
        let looked_at = RefCell::default();
        Ok(Self { session, cache, own, arithmetic, looked_at, output, told: Cell::new(false) })
    }

    /// The user's cache, unless this command is to leave it alone.
    pub(super) fn users_cache(&self) -> Option<&DocumentCache> {
        self.own.get().is_none().then_some(&self.cache)
    }

    pub(super) fn encoder(&self, compression: &Compression) -> Result<Arc<Encoder>, Failure> {
        let start = Instant::now();
        let encoder = self.session.encoder_named(&compression.encoder)?;
        if let (Ok(entry), false) = (self.session.registry().encoder(&encoder.name), self.told.replace(true))
        {
            let (package, seconds) = (entry.package.display(), start.elapsed().as_secs_f64());
            self.output.detail(format!("encoder `{}`: {package}, loaded in {seconds:.2} s", encoder.name));
        }
        Ok(encoder)
    }

    /// How many latents and tokens a text makes, before it is compressed. What was found out for it is not found
    /// out again when it is.
    pub(super) fn extent(
        &self,
        name: &str,
        text: &str,
        compression: &Compression,
    ) -> Result<(usize, usize), Failure> {
        let key = self.key(text, compression);
        let known = self.looked_at.borrow_mut().remove(&key);
        let known = known.map_or_else(|| self.look_at(&key, name, text, compression), Ok)?;
        let extent = match &known {
            LookedAt::Kept(latents) => (latents.len(), latents.description().source_tokens),
            LookedAt::Tokenised(tokens, description) => (description.latents(), tokens.ids.len()),
        };
        self.looked_at.borrow_mut().insert(key, known);
        Ok(extent)
    }

    fn look_at(
        &self,
        key: &DocumentKey,
        name: &str,
        text: &str,
        compression: &Compression,
    ) -> Result<LookedAt, Failure> {
        if let Some(latents) = self.cache.find(key) {
            return Ok(LookedAt::Kept(latents));
        }
        let encoder = self.encoder(compression)?;
        let tokens = encoder
            .tokenise_hashed(text, key.text_sha256.clone())
            .map_err(|error| named_document(error, name))?;
        let description = encoder.describe(&tokens, compression.options())?;
        Ok(LookedAt::Tokenised(tokens, description))
    }

    /// The latents of a text, as they are there or compressed now; `name` is what the text is called.
    pub(super) fn compress(
        &self,
        name: &str,
        text: &str,
        compression: &Compression,
    ) -> Result<Compressed, Failure> {
        let key = self.key(text, compression);
        let known = self.looked_at.borrow_mut().remove(&key);
        let (tokens, description) =
            match known.map_or_else(|| self.look_at(&key, name, text, compression), Ok)? {
                LookedAt::Kept(latents) => {
                    self.output.detail(format!("`{name}`: {} latents from the cache", latents.len()));
                    return Ok(Compressed { latents, seconds: None, token_ids: None });
                }
                LookedAt::Tokenised(tokens, description) => (tokens, description),
            };
        let encoder = self.encoder(compression)?;
        self.output.detail(format!("`{name}`: not in the cache, compressed by `{}`", encoder.name));
        let start = Instant::now();
        let width = encoder.network.d_model();
        let insert = |cache: &DocumentCache| {
            cache.insert(&key, description.clone(), width, |writer| {
                compress_into(&encoder, &tokens, compression.options(), name, |chunk| writer.push(chunk))
            })
        };
        let latents = match insert(&self.cache) {
            // A cache that cannot be written is no reason not to answer.
            Err(error @ arc_core::Error::Io { .. }) if self.own.get().is_none() => {
                self.output.warning(format!("compressed documents are not kept: {error}"));
                let own = cache_of_command()?;
                insert(&self.own.get_or_init(|| own).1)
            }
            inserted => inserted,
        };
        // Devices that work in the background have finished when their values were read.
        let latents = latents.map_err(|error| named_document(error, name))?;
        let seconds = Some(start.elapsed().as_secs_f64());
        Ok(Compressed { latents, seconds, token_ids: Some(tokens.ids) })
    }

    fn key(&self, text: &str, compression: &Compression) -> DocumentKey {
        DocumentKey::new(text, &compression.encoder_id, compression.factor, &self.arithmetic)
    }
}

/// Hands over the latents of each chunk, shows how far it is, and ends with [`arc_core::Error::Interrupted`]
/// where Ctrl-C was pressed.
pub(super) fn compress_into(
    encoder: &Encoder,
    text: &TokenisedText,
    options: CompressOptions,
    name: &str,
    mut on_chunk: impl FnMut(arc_core::burn::tensor::Tensor<2>) -> arc_core::Result<()>,
) -> arc_core::Result<()> {
    let stop = stop_on_interrupt();
    let mut progress = Progress::new(&format!("compressing `{name}`"), text.ids.len() as u64, "tokens");
    let mut left = text.ids.len();
    encoder.compress_tokens(&text.ids, options, |chunk| {
        on_chunk(chunk)?;
        let tokens = left.min(encoder.chunk_tokens());
        left -= tokens;
        progress.advance(tokens as u64);
        if stop.load(Ordering::SeqCst) { Err(arc_core::Error::Interrupted) } else { Ok(()) }
    })
}
