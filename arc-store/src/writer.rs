//! Adding documents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::document::NewDocument;
use crate::latent_code::{Coder, LatentCode, pooled};
use crate::manifest::{Manifest, SEGMENTS, unix_ms};
use crate::segment::{PendingDocument, PendingRow, SegmentDraft};
use crate::store::{Store, take_out};
use crate::{Error, Result};

/// The largest half-precision number.
const LARGEST_F16: f32 = 65504.0;

/// When a writer commits by itself.
#[derive(Debug, Clone, Copy)]
pub struct CommitPolicy {
    /// Once a segment of about so many bytes has come together.
    pub bytes: usize,
    /// Once the first document that is not committed is so old: what an interruption can cost.
    pub age: Duration,
}

impl Default for CommitPolicy {
    fn default() -> Self {
        Self { bytes: 64 << 20, age: Duration::from_secs(60) }
    }
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Committed {
    /// Documents that were not there before.
    pub added: u64,
    /// Documents that took the place of others of their id.
    pub replaced: u64,
    /// Documents that another writer had stored in the meantime.
    pub already_there: u64,
}

impl std::ops::AddAssign for Committed {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.replaced += other.replaced;
        self.already_there += other.already_there;
    }
}

/// Collects documents and commits them, a segment at a time. What was not committed when a writer is
/// dropped is lost, and nothing else.
#[derive(Debug)]
pub struct Writer<'a> {
    store: &'a Store,
    policy: CommitPolicy,
    draft: SegmentDraft,
    since: Option<Instant>,
    committed: Committed,
}

impl Store {
    /// A writer, for latents of that encoder.
    ///
    /// # Errors
    ///
    /// [`Error::OtherEncoder`] if the store belongs to another.
    pub fn writer(&self, encoder_id: &str, policy: CommitPolicy) -> Result<Writer<'_>> {
        self.check_encoder(encoder_id)?;
        let (draft, committed) = (SegmentDraft::default(), Committed::default());
        Ok(Writer { store: self, policy, draft, since: None, committed })
    }
}

impl Writer<'_> {
    /// Adds a document, and commits where the policy says so. One that is there already, with the same text
    /// and factor, is found so at the commit and not stored twice; one with another takes its place.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] for a document that cannot be stored; as [`Writer::commit`] otherwise.
    pub fn add(&mut self, document: NewDocument) -> Result<()> {
        let manifest = self.store.manifest();
        check(&document, &manifest)?;
        let quantiser = quantiser(self.store, &manifest)?;
        let coder = match (manifest.settings.latents, &quantiser) {
            (LatentCode::F32, _) => Coder::F32,
            (LatentCode::Pq, Some((_, quantiser))) => Coder::Pq(quantiser),
            _ => Coder::F16,
        };
        let d = manifest.settings.d_encoder;
        let keeps_text = manifest.settings.keeps_text;
        let rows = document.chunks.into_iter().zip(0..).map(|(chunk, index)| {
            let (codes, pooled_scale) = pooled(&chunk.latents, d);
            PendingRow {
                chunk: index,
                tokens: chunk.tokens,
                latent_count: (chunk.latents.len() / d) as u32,
                latents: coder.encode(&chunk.latents),
                pooled: codes.into_iter().map(i8::cast_unsigned).collect(),
                pooled_scale,
                text: chunk.text.filter(|_| keeps_text),
            }
        });
        let pending = PendingDocument {
            title: document.title,
            source_uri: document.source_uri,
            source_sha256: document.source_sha256,
            factor: document.factor,
            added_unix_ms: unix_ms(),
            code: (manifest.settings.latents, quantiser.as_ref().map(|(file, _)| file.clone())),
            rows: rows.collect(),
        };
        // Codes of two kinds do not go into one segment.
        if self.draft.code().is_some_and(|code| *code != pending.code) {
            self.commit()?;
        }
        self.draft.insert(document.id, pending);
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.draft.bytes() >= self.policy.bytes || since.elapsed() >= self.policy.age {
            self.commit()?;
        }
        Ok(())
    }

    /// The documents that wait for the next commit.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.draft.len()
    }

    /// Whether a document of that id, text and factor waits for the next commit.
    #[must_use]
    pub fn is_waiting(&self, id: &str, sha256: &str, factor: u32) -> bool {
        let is_it =
            |document: &PendingDocument| document.source_sha256 == sha256 && document.factor == factor;
        self.draft.get(id).is_some_and(is_it)
    }

    /// What was committed so far.
    #[must_use]
    pub fn committed(&self) -> Committed {
        self.committed
    }

    /// Commits what waits. When this returns, it is there for all readers, and stays.
    ///
    /// # Errors
    ///
    /// What the place refuses; [`Error::Contended`] where others always come first. What waits then waits
    /// on.
    pub fn commit(&mut self) -> Result<Committed> {
        if self.draft.is_empty() {
            return Ok(Committed::default());
        }
        let store = self.store;
        let manifest = store.manifest();
        let Some((latents, codebooks)) = self.draft.code().cloned() else { return Ok(Committed::default()) };
        let file = format!("{SEGMENTS}/{}.parquet", Uuid::new_v4());
        let failed = |error: parquet::errors::ParquetError| Error::Object {
            action: "write",
            object: store.place().full_name(&file),
            reason: error.to_string(),
            kind: crate::ObjectErrorKind::Other,
        };
        let written = self.draft.write(file.clone(), &manifest, latents, codebooks);
        let (bytes, segment) = written.map_err(failed)?;
        store.place().write(&file, bytes)?;
        let mut committed = Committed::default();
        let result = store.commit("add", |next, base| {
            committed = Committed::default();
            let mut segment = segment.clone();
            for (id, document) in self.draft.documents() {
                match store.find_in(base, id) {
                    Ok(Some((_, found)))
                        if found.sha256 == document.source_sha256 && found.factor == document.factor =>
                    {
                        segment.removed.insert(id.clone());
                        committed.already_there += 1;
                    }
                    Ok(Some((old, _))) => {
                        take_out(next, &old.file, id);
                        committed.replaced += 1;
                    }
                    Ok(None) => committed.added += 1,
                    // What a lost segment held is added again.
                    Err(error) if error.is_lost() => committed.added += 1,
                    Err(error) => return Err(error),
                }
            }
            let any = segment.live_documents() > 0;
            next.segments.push(segment);
            Ok(any)
        });
        result?;
        if committed.added + committed.replaced == 0 {
            // Nobody names it. After a failure it stays, since a manifest may have been written that does;
            // a later compaction sweeps what is named nowhere.
            let _ = store.place().delete(&file);
        }
        self.committed += committed;
        self.draft = SegmentDraft::default();
        self.since = None;
        Ok(committed)
    }
}

/// The codebooks that new latents are written by, with the name of their file.
fn quantiser(
    store: &Store,
    manifest: &Manifest,
) -> Result<Option<(String, Arc<crate::quantiser::Quantiser>)>> {
    match (manifest.settings.latents, &manifest.codebooks) {
        (LatentCode::Pq, Some(codebooks)) => {
            Ok(Some((codebooks.file.clone(), store.quantiser(&codebooks.file)?)))
        }
        (LatentCode::Pq, None) => Err(Error::Damaged {
            file: store.place().full_name(&Manifest::file(manifest.version)),
            reason: "it says that latents are product-quantised, and names no codebooks".into(),
        }),
        _ => Ok(None),
    }
}

/// Refuses a document that could not be read again as it is.
fn check(document: &NewDocument, manifest: &Manifest) -> Result<()> {
    let refuse = |reason: &str, hint: &str| {
        let (id, reason, hint) = (document.id.clone(), reason.to_owned(), hint.to_owned());
        Err(Error::Document { id, reason, hint })
    };
    if document.id.is_empty() {
        return refuse("has an empty id", "give it one, or leave the id out");
    }
    let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if document.source_sha256.len() != 64 || !document.source_sha256.bytes().all(digits) {
        return refuse("has no sha256 of its text", "give the 64 hexadecimal digits of its text's sha256");
    }
    if document.chunks.is_empty() {
        return refuse("has no chunk", "give a text with at least one character");
    }
    let d = manifest.settings.d_encoder;
    let is_f16 = manifest.settings.latents == LatentCode::F16;
    for chunk in &document.chunks {
        if chunk.latents.is_empty() || !chunk.latents.len().is_multiple_of(d) {
            let reason = format!("has {} values for latents of width {d}", chunk.latents.len());
            return refuse(&reason, "store latents as the store's encoder makes them");
        }
        if !chunk.latents.iter().all(|value| value.is_finite()) {
            return refuse("has latents that are no numbers", "the encoder's weights may be damaged");
        }
        if is_f16 && chunk.latents.iter().any(|value| value.abs() > LARGEST_F16) {
            return refuse("has latents beyond half precision", "make a store of f32 latents");
        }
    }
    Ok(())
}
