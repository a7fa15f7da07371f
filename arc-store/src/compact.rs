//! Compaction: segments are merged into fewer that do not overlap, removed documents go, and latents are
//! rewritten where the store's code has changed since.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array as _, RecordBatch};
use uuid::Uuid;

use crate::latent_code::{Coder, LatentCode};
use crate::manifest::{MANIFESTS, Manifest, Retired, SEGMENTS, Segment, unix_ms};
use crate::segment::{Batches, Column, OpenSegment, PendingDocument, PendingRow, SegmentDraft};
use crate::store::Store;
use crate::{Error, Result};

/// How long a file that no manifest names is left alone: its writer may be about to commit it.
const KEEP_UNNAMED: Duration = Duration::from_secs(3600);

/// Bytes of rows that all inputs together hold in memory, about.
const READ_AHEAD: usize = 64 << 20;

/// What to compact to.
#[derive(Debug, Clone, Copy)]
pub struct CompactOptions {
    /// About how large a segment becomes, in bytes.
    pub segment_bytes: usize,
    /// How long files that were replaced are kept for readers of earlier commits.
    pub keep: Duration,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, keep: Duration::from_secs(600) }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// Segments before.
    pub segments_before: u64,
    /// Segments after.
    pub segments_after: u64,
    /// Bytes of segments before.
    pub bytes_before: u64,
    /// Bytes of segments after.
    pub bytes_after: u64,
    /// Files that were deleted: replaced long enough ago, or left by writers that were interrupted.
    pub deleted: u64,
}

impl Store {
    /// Merges segments, and deletes what nobody reads any more. Others may add and remove documents
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] for a segment that cannot be read; [`Error::Moved`] if another compaction was
    /// first; what the place refuses. The store is then as it was.
    pub fn compact(&self, options: CompactOptions) -> Result<Compacted> {
        self.refresh()?;
        let before = self.manifest();
        let mut compacted = Compacted {
            segments_before: before.segments.len() as u64,
            bytes_before: before.bytes(),
            ..Compacted::default()
        };
        let inputs = inputs(&before, options.segment_bytes);
        if !inputs.is_empty() {
            let outputs = self.merge(&before, &inputs, options.segment_bytes)?;
            self.replace(&inputs, &outputs)?;
        }
        compacted.deleted = self.sweep(options.keep)?;
        let after = self.manifest();
        compacted.segments_after = after.segments.len() as u64;
        compacted.bytes_after = after.bytes();
        Ok(compacted)
    }

    /// Writes the documents of some segments, in order, as new ones.
    fn merge(&self, manifest: &Manifest, inputs: &[Segment], segment_bytes: usize) -> Result<Vec<Segment>> {
        let (latents, codebooks) = code(manifest);
        let quantiser = codebooks.as_deref().map(|file| self.quantiser(file)).transpose()?;
        let coder = match (latents, &quantiser) {
            (LatentCode::F32, _) => Coder::F32,
            (LatentCode::Pq, Some(quantiser)) => Coder::Pq(quantiser),
            _ => Coder::F16,
        };
        let mut waiting: VecDeque<&Segment> = {
            let mut sorted: Vec<&Segment> = inputs.iter().collect();
            sorted.sort_by(|a, b| a.first_id.cmp(&b.first_id));
            sorted.into()
        };
        let mut cursors: Vec<Cursor> = Vec::new();
        let mut next: BinaryHeap<Reverse<(String, usize)>> = BinaryHeap::new();
        let mut outputs = Vec::new();
        let mut draft = SegmentDraft::default();
        loop {
            // Inputs that do not overlap are open one after the other.
            while let Some(segment) = waiting.front() {
                if next.peek().is_some_and(|Reverse((id, _))| *id < segment.first_id) {
                    break;
                }
                let mut cursor = Cursor::open(self, segment, inputs.len())?;
                waiting.pop_front();
                if let Some(id) = cursor.peek()? {
                    next.push(Reverse((id, cursors.len())));
                    cursors.push(cursor);
                }
            }
            let Some(Reverse((id, index))) = next.pop() else { break };
            let cursor = &mut cursors[index];
            let Some(mut document) = cursor.take()? else { continue };
            if let Some(id) = cursor.peek()? {
                next.push(Reverse((id, index)));
            }
            if cursor.segment.removed.contains(&id) {
                continue;
            }
            if document.code != (latents, codebooks.clone()) {
                self.with_coder(&cursor.segment, |from| {
                    for row in &mut document.rows {
                        row.latents = coder.encode(&from.decode(&row.latents));
                    }
                    Ok(())
                })?;
                document.code = (latents, codebooks.clone());
            }
            draft.insert(id, document);
            if draft.bytes() >= segment_bytes {
                outputs.push(self.write_merged(&std::mem::take(&mut draft), manifest)?);
            }
        }
        if !draft.is_empty() {
            outputs.push(self.write_merged(&draft, manifest)?);
        }
        Ok(outputs)
    }

    fn write_merged(&self, draft: &SegmentDraft, manifest: &Manifest) -> Result<Segment> {
        let (latents, codebooks) = code(manifest);
        let file = format!("{SEGMENTS}/{}.parquet", Uuid::new_v4());
        let written = draft.write(file.clone(), manifest, latents, codebooks);
        let (bytes, segment) = written.map_err(|error| Error::Object {
            action: "write",
            object: self.place.full_name(&file),
            reason: error.to_string(),
            kind: crate::ObjectErrorKind::Other,
        })?;
        self.place.write(&file, bytes)?;
        Ok(segment)
    }

    /// Commits that some segments took the place of others.
    fn replace(&self, inputs: &[Segment], outputs: &[Segment]) -> Result<()> {
        let result = self.commit("compact", |next, base| {
            let mut outputs = outputs.to_vec();
            for input in inputs {
                let Some(now) = base.segments.iter().find(|segment| segment.file == input.file) else {
                    return Err(Error::Moved { place: self.place.to_string() });
                };
                // What was removed while segments were merged is removed from the merged ones.
                for id in now.removed.difference(&input.removed) {
                    if let Some(output) = outputs.iter_mut().find(|output| output.spans(id)) {
                        output.removed.insert(id.clone());
                    }
                }
            }
            let replaced = |file: &str| inputs.iter().any(|input| input.file == file);
            next.segments.retain(|segment| !replaced(&segment.file));
            next.segments.splice(0..0, outputs);
            let retired_unix_ms = unix_ms();
            next.retired
                .extend(inputs.iter().map(|input| Retired { file: input.file.clone(), retired_unix_ms }));
            Ok(true)
        });
        if matches!(result, Err(Error::Moved { .. })) {
            for output in outputs {
                let _ = self.place.delete(&output.file);
            }
        }
        result.map(drop)
    }

    /// Deletes files that were replaced before `keep`, and what interrupted writers left.
    fn sweep(&self, keep: Duration) -> Result<u64> {
        let manifest = self.manifest();
        let least = unix_ms().saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let gone: Vec<&Retired> =
            manifest.retired.iter().filter(|retired| retired.retired_unix_ms <= least).collect();
        let mut deleted = 0;
        for retired in &gone {
            self.place.delete(&retired.file)?;
            deleted += 1;
        }
        if !gone.is_empty() {
            let gone: Vec<String> = gone.iter().map(|retired| retired.file.clone()).collect();
            self.commit("compact", |next, _| {
                next.retired.retain(|retired| !gone.contains(&retired.file));
                Ok(true)
            })?;
        }
        for file in self.unnamed()? {
            if file.modified.elapsed().is_ok_and(|since| since > KEEP_UNNAMED) {
                self.place.delete(&file.name)?;
                deleted += 1;
            }
        }
        for folder in [SEGMENTS, MANIFESTS] {
            deleted += self.place.delete_unfinished(folder, KEEP_UNNAMED);
        }
        Ok(deleted + self.sweep_manifests(self.manifest().version, KEEP_UNNAMED))
    }

    /// Segments that no manifest names: of writers that were interrupted, or are about to commit.
    pub(crate) fn unnamed(&self) -> Result<Vec<crate::place::Listed>> {
        let listed = match self.place.list(SEGMENTS) {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        // Listed first: what is committed in between is named by the manifest that is read after.
        self.refresh()?;
        let manifest = self.manifest();
        let named: std::collections::HashSet<&str> = manifest
            .segments
            .iter()
            .map(|segment| segment.file.as_str())
            .chain(manifest.retired.iter().map(|retired| retired.file.as_str()))
            .collect();
        Ok(listed.into_iter().filter(|file| !named.contains(file.name.as_str())).collect())
    }
}

/// How new segments are written.
fn code(manifest: &Manifest) -> (LatentCode, Option<String>) {
    let latents = manifest.settings.latents;
    let codebooks = manifest.codebooks.as_ref().filter(|_| latents == LatentCode::Pq);
    (latents, codebooks.map(|codebooks| codebooks.file.clone()))
}

/// The segments that are to be merged: all but those that are large, whole, written by the store's code,
/// and overlap no other.
fn inputs(manifest: &Manifest, segment_bytes: usize) -> Vec<Segment> {
    let (latents, codebooks) = code(manifest);
    let segments = &manifest.segments;
    let is_whole = |segment: &Segment| {
        segment.removed.is_empty() && segment.latents == latents && segment.codebooks == codebooks
    };
    let overlaps = |segment: &Segment| {
        segments.iter().any(|other| {
            other.file != segment.file
                && other.first_id <= segment.last_id
                && segment.first_id <= other.last_id
        })
    };
    let is_large = |segment: &Segment| segment.bytes >= segment_bytes as u64 / 2;
    let inputs: Vec<Segment> = segments
        .iter()
        .filter(|segment| !(is_whole(segment) && is_large(segment) && !overlaps(segment)))
        .cloned()
        .collect();
    match inputs.as_slice() {
        [one] if is_whole(one) => Vec::new(),
        _ => inputs,
    }
}

/// A segment that is read document by document.
struct Cursor {
    segment: Segment,
    open: Arc<OpenSegment>,
    batches: Batches,
    /// The rows that were read and not taken, and the next of them.
    batch: Option<(RecordBatch, usize)>,
}

impl Cursor {
    fn open(store: &Store, segment: &Segment, inputs: usize) -> Result<Self> {
        let open = store.open_segment(segment)?;
        let row_bytes = (segment.bytes / segment.rows.max(1)) as usize + 1;
        let at_once = (READ_AHEAD / inputs.max(1) / row_bytes).clamp(1, 1024);
        let batches = open.scan(&Column::ALL, None, Some(at_once))?;
        Ok(Self { segment: segment.clone(), open, batches, batch: None })
    }

    /// Makes sure that the next row is in memory, if there is one.
    fn fill(&mut self) -> Result<bool> {
        while self.batch.as_ref().is_none_or(|(batch, row)| *row >= batch.num_rows()) {
            match self.batches.next() {
                Some(batch) => self.batch = Some((batch?, 0)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The id of the next document.
    fn peek(&mut self) -> Result<Option<String>> {
        if !self.fill()? {
            return Ok(None);
        }
        let Some((batch, row)) = &self.batch else { return Ok(None) };
        Ok(Some(self.open.checked(Column::DocumentId.text(batch))?.value(*row).to_owned()))
    }

    /// The next document, its latents as they are written.
    fn take(&mut self) -> Result<Option<PendingDocument>> {
        let Some(id) = self.peek()? else { return Ok(None) };
        let mut document: Option<PendingDocument> = None;
        while self.peek()?.is_some_and(|next| next == id) {
            let Some((batch, row)) = &mut self.batch else { break };
            let (here, open) = (*row, &self.open);
            *row += 1;
            let batch = &*batch;
            let text =
                |column: Column| open.checked(column.text(batch)).map(|array| array.value(here).to_owned());
            let optional = |column: Column| {
                let array = open.checked(column.text(batch))?;
                Ok::<_, Error>(array.is_valid(here).then(|| array.value(here).to_owned()))
            };
            let int = |column: Column| {
                open.checked(column.int(batch)).map(|array| array.value(here).cast_unsigned())
            };
            let bytes =
                |column: Column| open.checked(column.binary(batch)).map(|array| array.value(here).to_vec());
            let latents = bytes(Column::Latents)?;
            let checksum = open.checked(Column::LatentsCrc32.long(batch))?.value(here);
            let chunk = int(Column::Chunk)?;
            if i64::from(crc32fast::hash(&latents)) != checksum {
                return Err(open.damaged(format!(
                    "chunk {chunk} of document `{id}` has latents with another checksum than was written"
                )));
            }
            let pending = PendingRow {
                chunk,
                tokens: int(Column::Tokens)?,
                latent_count: int(Column::LatentCount)?,
                latents,
                pooled: bytes(Column::Pooled)?,
                pooled_scale: open.checked(Column::PooledScale.float(batch))?.value(here),
                text: optional(Column::Text)?,
            };
            match &mut document {
                Some(document) => document.rows.push(pending),
                None => {
                    document = Some(PendingDocument {
                        title: optional(Column::Title)?,
                        source_uri: optional(Column::SourceUri)?,
                        source_sha256: text(Column::SourceSha256)?,
                        factor: int(Column::Factor)?,
                        added_unix_ms: open
                            .checked(Column::AddedUnixMs.long(batch))?
                            .value(here)
                            .cast_unsigned(),
                        code: (self.segment.latents, self.segment.codebooks.clone()),
                        rows: vec![pending],
                    });
                }
            }
        }
        Ok(document)
    }
}
