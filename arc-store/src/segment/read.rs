//! Reading a segment: by id, by hash, or all of some columns.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array as _, RecordBatch, StringArray};
use arrow_schema::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::columns::Column;
use super::file::SegmentFile;
use super::guard::guarded;
use crate::document::{DocumentSummary, StoredChunk, StoredDocument};
use crate::latent_code::Coder;
use crate::manifest::Segment;
use crate::place::Place;
use crate::{Error, Result};

/// Rows that are read at once where the latents are among the columns, and where they are not.
const LATENT_ROWS_AT_ONCE: usize = 32;
const ROWS_AT_ONCE: usize = 4096;

/// A segment whose footer, page index and filters were read.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    place: Place,
    name: String,
    file: SegmentFile,
    metadata: ArrowReaderMetadata,
    /// For each row group, the filters of ids and of hashes.
    filters: Vec<[Option<Sbbf>; 2]>,
}

/// A document that was found in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) sha256: String,
    pub(crate) factor: u32,
    /// The row groups and, in them, the rows that it has.
    rows: Vec<(usize, Range<usize>)>,
}

/// Where a document's rows are looked for.
#[derive(Clone, Copy)]
enum Key {
    Id,
    Sha256,
}

impl Key {
    fn column(self) -> Column {
        match self {
            Self::Id => Column::DocumentId,
            Self::Sha256 => Column::SourceSha256,
        }
    }
}

impl OpenSegment {
    pub(crate) fn open(place: &Place, segment: &Segment) -> Result<Self> {
        let name = place.full_name(&segment.file);
        let damaged = |reason: String| Error::Damaged { file: name.clone(), reason };
        // A file that was cut off would be read from a wrong end.
        let found = place.size(&segment.file)?;
        if found != segment.bytes {
            return Err(damaged(format!("it has {found} bytes, its manifest says {}", segment.bytes)));
        }
        let file = SegmentFile::new(place, &segment.file, segment.bytes);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = guarded(|| ArrowReaderMetadata::load(&file, options));
        let metadata = metadata.map_err(|error| wrapped(error, &name))?;
        let rows = metadata.metadata().file_metadata().num_rows();
        if u64::try_from(rows) != Ok(segment.rows) {
            return Err(damaged(format!("it has {rows} rows, its manifest says {}", segment.rows)));
        }
        for column in Column::ALL {
            if metadata.schema().index_of(column.name()).ok() != Some(column as usize) {
                return Err(damaged(format!("it has no column `{}` where one is expected", column.name())));
            }
        }
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone());
        let filter = |group, column| {
            let filter = guarded(|| reader.get_row_group_column_bloom_filter(group, column as usize));
            filter.map_err(|error| wrapped(error, &name))
        };
        let filters = (0..metadata.metadata().num_row_groups())
            .map(|group| Ok([filter(group, Column::DocumentId)?, filter(group, Column::SourceSha256)?]))
            .collect::<Result<_>>()?;
        Ok(Self { place: place.clone(), name: segment.file.clone(), file, metadata, filters })
    }

    /// The document of that id.
    pub(crate) fn find(self: &Arc<Self>, id: &str) -> Result<Option<Found>> {
        Ok(self.find_by(Key::Id, id)?.pop())
    }

    /// The documents whose text has that hash.
    pub(crate) fn find_sha256(self: &Arc<Self>, sha256: &str) -> Result<Vec<Found>> {
        self.find_by(Key::Sha256, sha256)
    }

    fn find_by(self: &Arc<Self>, key: Key, value: &str) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::new();
        for group in 0..self.filters.len() {
            let filter = &self.filters[group][match key {
                Key::Id => 0,
                Key::Sha256 => 1,
            }];
            if filter.as_ref().is_some_and(|filter| !filter.check(value)) {
                continue;
            }
            for pages in self.pages(group, key, value) {
                let columns = [Column::DocumentId, Column::SourceSha256, Column::Factor];
                let mut row = pages.start;
                for batch in self.scan(&columns, Some((group, pages.clone())), None)? {
                    let batch = batch?;
                    let ids = self.checked(Column::DocumentId.text(&batch))?;
                    let hashes = self.checked(Column::SourceSha256.text(&batch))?;
                    let factors = self.checked(Column::Factor.int(&batch))?;
                    let values = match key {
                        Key::Id => ids,
                        Key::Sha256 => hashes,
                    };
                    for index in 0..batch.num_rows() {
                        if values.value(index) == value {
                            let at = (group, row + index..row + index + 1);
                            let id = ids.value(index);
                            match found.iter_mut().find(|found| found.id == id) {
                                Some(found) => found.take_in(at),
                                None => found.push(Found {
                                    id: id.to_owned(),
                                    sha256: hashes.value(index).to_owned(),
                                    factor: factors.value(index).cast_unsigned(),
                                    rows: vec![at],
                                }),
                            }
                        }
                    }
                    row += batch.num_rows();
                }
            }
        }
        Ok(found)
    }

    /// Rows of a row group that may hold the value, by the first and last value of each page.
    fn pages(&self, group: usize, key: Key, value: &str) -> Vec<Range<usize>> {
        let metadata = self.metadata.metadata();
        let rows = usize::try_from(metadata.row_group(group).num_rows()).unwrap_or(0);
        let whole = 0..rows;
        let index = metadata.page_index_for_row_group(group);
        let column = key.column() as usize;
        let (Some(ColumnIndexMetaData::BYTE_ARRAY(bounds)), Some(offsets)) =
            (index.column_index(column), index.offset_index(column))
        else {
            return vec![whole];
        };
        let starts: Vec<usize> = offsets
            .page_locations()
            .iter()
            .map(|page| usize::try_from(page.first_row_index).unwrap_or(0).min(rows))
            .collect();
        if usize::try_from(bounds.num_pages()) != Ok(starts.len()) || !starts.is_sorted() {
            return vec![whole];
        }
        let mut pages: Vec<Range<usize>> = Vec::new();
        for (page, &start) in starts.iter().enumerate() {
            let after = bounds.min_value(page).is_some_and(|least| value.as_bytes() < least);
            let before = bounds.max_value(page).is_some_and(|most| value.as_bytes() > most);
            if after || before {
                continue;
            }
            let end = starts.get(page + 1).copied().unwrap_or(rows);
            match pages.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => pages.push(start..end),
            }
        }
        pages
    }

    /// Some columns of all rows, or of some rows of a row group, or of the rows with some ids.
    pub(crate) fn scan(
        self: &Arc<Self>,
        columns: &[Column],
        rows: Option<(usize, Range<usize>)>,
        at_once: Option<usize>,
    ) -> Result<Batches> {
        let latents = columns.contains(&Column::Latents);
        let at_once = at_once.unwrap_or(if latents { LATENT_ROWS_AT_ONCE } else { ROWS_AT_ONCE });
        let metadata = self.metadata.metadata();
        let mask = self.mask(columns);
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
                .with_projection(mask)
                .with_batch_size(at_once);
        if let Some((group, rows)) = rows {
            let total = usize::try_from(metadata.row_group(group).num_rows()).unwrap_or(0);
            let selection = RowSelection::from_consecutive_ranges(std::iter::once(rows), total);
            builder = builder.with_row_groups(vec![group]).with_row_selection(selection);
        }
        let reader = guarded(|| builder.build()).map_err(|error| self.failed(error))?;
        Ok(Batches { segment: Arc::clone(self), reader, ended: false })
    }

    /// Some columns of rows by their numbers in the whole file, which are sorted.
    pub(crate) fn rows_at(self: &Arc<Self>, columns: &[Column], rows: &[usize]) -> Result<Batches> {
        let total = usize::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
        let ranges = rows.iter().map(|&row| row..row + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, total);
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
                .with_projection(self.mask(columns))
                .with_row_selection(selection);
        let reader = guarded(|| builder.build()).map_err(|error| self.failed(error))?;
        Ok(Batches { segment: Arc::clone(self), reader, ended: false })
    }

    fn mask(&self, columns: &[Column]) -> ProjectionMask {
        ProjectionMask::leaves(self.metadata.parquet_schema(), columns.iter().map(|&column| column as usize))
    }

    /// All of a document that was found here.
    pub(crate) fn read(self: &Arc<Self>, found: &Found, coder: Coder, d: usize) -> Result<StoredDocument> {
        let mut documents = Vec::new();
        let mut reading = Reading::new(self, Some((coder, d)));
        for (group, rows) in &found.rows {
            for batch in self.scan(&Column::ALL, Some((*group, rows.clone())), None)? {
                documents.extend(reading.take(&batch?)?);
            }
        }
        documents.extend(reading.finish()?);
        match (documents.pop(), documents.is_empty()) {
            (Some(document), true) => Ok(document),
            _ => Err(self.damaged(format!("document `{}` is not where it was found", found.id))),
        }
    }

    /// The documents of the segment, in order, those that were removed left out.
    pub(crate) fn summaries(self: &Arc<Self>, removed: &BTreeSet<String>) -> Result<Vec<DocumentSummary>> {
        use Column::{Latents, LatentsCrc32, Pooled, PooledScale, Text};
        let is_small =
            |column: &Column| !matches!(column, Latents | LatentsCrc32 | Pooled | PooledScale | Text);
        let columns: Vec<Column> = Column::ALL.into_iter().filter(is_small).collect();
        let mut documents = Vec::new();
        let mut reading = Reading::new(self, None);
        for batch in self.scan(&columns, None, None)? {
            documents.extend(reading.take(&batch?)?);
        }
        documents.extend(reading.finish()?);
        let summaries = documents.into_iter().map(|document| document.summary);
        Ok(summaries.filter(|summary| !removed.contains(&summary.id)).collect())
    }

    /// Reads all rows as they would be given out, and gives each document's summary to `each`.
    pub(crate) fn check(
        self: &Arc<Self>,
        coder: Coder,
        d: usize,
        mut each: impl FnMut(DocumentSummary) -> Result<()>,
    ) -> Result<()> {
        let mut reading = Reading::new(self, Some((coder, d)));
        for batch in self.scan(&Column::ALL, None, None)? {
            let batch = batch?;
            let pooled = self.checked(Column::Pooled.binary(&batch))?;
            let scales = self.checked(Column::PooledScale.float(&batch))?;
            if !pooled.iter().flatten().all(|pooled| pooled.len() == d)
                || !scales.iter().flatten().all(f32::is_finite)
            {
                return Err(self.damaged(format!("a row has no pooled vector of width {d}")));
            }
            reading.take(&batch)?.into_iter().try_for_each(|document| each(document.summary))?;
        }
        reading.finish()?.into_iter().try_for_each(|document| each(document.summary))
    }

    /// The id of each row.
    pub(crate) fn ids(self: &Arc<Self>) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for batch in self.scan(&[Column::DocumentId], None, None)? {
            let batch = batch?;
            ids.extend(self.checked(Column::DocumentId.text(&batch))?.iter().flatten().map(str::to_owned));
        }
        Ok(ids)
    }

    /// A value of the segment that was expected.
    pub(crate) fn checked<T>(&self, value: Result<T, String>) -> Result<T> {
        value.map_err(|reason| self.damaged(reason))
    }

    pub(crate) fn damaged(&self, reason: String) -> Error {
        Error::Damaged { file: self.place.full_name(&self.name), reason }
    }

    fn failed(&self, error: ParquetError) -> Error {
        let error = wrapped(error, &self.place.full_name(&self.name));
        // The reader tells in words alone that the file has gone since.
        match self.place.size(&self.name) {
            Err(gone) if gone.is_not_found() => gone,
            _ => error,
        }
    }
}

impl Found {
    fn take_in(&mut self, (group, row): (usize, Range<usize>)) {
        match self.rows.last_mut() {
            Some((last, rows)) if *last == group && rows.end == row.start => rows.end = row.end,
            _ => self.rows.push((group, row)),
        }
    }
}

/// A Parquet error with the file that it is about.
fn wrapped(error: ParquetError, name: &str) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(inner) => Error::Damaged { file: name.to_owned(), reason: inner.to_string() },
        },
        error => Error::Damaged { file: name.to_owned(), reason: error.to_string() },
    }
}

/// The rows of a segment, batch by batch.
pub(crate) struct Batches {
    segment: Arc<OpenSegment>,
    reader: ParquetRecordBatchReader,
    ended: bool,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        // Errors of the reader come wrapped in Arrow's.
        let next = guarded(|| {
            self.reader.next().transpose().map_err(|error| match error {
                ArrowError::ExternalError(inner) => match inner.downcast::<ParquetError>() {
                    Ok(error) => *error,
                    Err(inner) => ParquetError::General(inner.to_string()),
                },
                error => ParquetError::General(error.to_string()),
            })
        });
        self.ended = !matches!(next, Ok(Some(_)));
        next.map_err(|error| self.segment.failed(error)).transpose()
    }
}

/// Rows that are put together to documents.
struct Reading<'a> {
    segment: &'a OpenSegment,
    /// How latents are read and their width, where they are wanted.
    latents: Option<(Coder<'a>, usize)>,
    /// The document whose rows are being read.
    current: Option<StoredDocument>,
}

impl<'a> Reading<'a> {
    fn new(segment: &'a OpenSegment, latents: Option<(Coder<'a>, usize)>) -> Self {
        Self { segment, latents, current: None }
    }

    /// The documents that are complete once these rows are read.
    fn take(&mut self, batch: &RecordBatch) -> Result<Vec<StoredDocument>> {
        let segment = self.segment;
        let text = |column: Column| segment.checked(column.text(batch));
        let int = |column: Column| segment.checked(column.int(batch));
        let ids = text(Column::DocumentId)?;
        let (titles, uris) = (text(Column::Title)?, text(Column::SourceUri)?);
        let hashes = text(Column::SourceSha256)?;
        let numbers = [
            int(Column::Chunk)?,
            int(Column::Chunks)?,
            int(Column::Tokens)?,
            int(Column::LatentCount)?,
            int(Column::Factor)?,
        ];
        let added = segment.checked(Column::AddedUnixMs.long(batch))?;
        let mut complete = Vec::new();
        for row in 0..batch.num_rows() {
            let [chunk, chunks, tokens, latent_count, factor] =
                numbers.map(|array| array.value(row).cast_unsigned());
            let id = ids.value(row);
            let mut document = match self.current.take() {
                Some(current) if current.summary.id == id => current,
                earlier => {
                    if let Some(earlier) = earlier {
                        if earlier.summary.id.as_str() > id {
                            return Err(
                                segment.damaged(format!("document `{id}` is not in the order of ids"))
                            );
                        }
                        complete.push(self.complete(earlier)?);
                    }
                    let summary = DocumentSummary {
                        id: id.to_owned(),
                        title: optional(titles, row),
                        source_uri: optional(uris, row),
                        source_sha256: hashes.value(row).to_owned(),
                        factor,
                        added_unix_ms: added.value(row).cast_unsigned(),
                        chunks: u64::from(chunks),
                        tokens: 0,
                        latents: 0,
                    };
                    StoredDocument { summary, chunks: Vec::new() }
                }
            };
            if document.chunks.len() != chunk as usize {
                return Err(segment.damaged(format!(
                    "chunk {chunk} of document `{id}` stands where chunk {} is expected",
                    document.chunks.len()
                )));
            }
            document.summary.tokens += u64::from(tokens);
            document.summary.latents += u64::from(latent_count);
            let mut stored = StoredChunk { tokens, latents: Vec::new(), text: None };
            if let Some((coder, d)) = self.latents {
                stored.latents = self.latents_of(batch, row, latent_count, coder, d)?;
                stored.text = optional(text(Column::Text)?, row);
            }
            document.chunks.push(stored);
            self.current = Some(document);
        }
        Ok(complete)
    }

    fn latents_of(
        &self,
        batch: &RecordBatch,
        row: usize,
        latent_count: u32,
        coder: Coder,
        d: usize,
    ) -> Result<Vec<f32>> {
        let segment = self.segment;
        let refuse = |what: String| {
            let id = Column::DocumentId.text(batch).map_or("", |ids| ids.value(row));
            let chunk = Column::Chunk.int(batch).map_or(0, |chunks| chunks.value(row));
            segment.damaged(format!("chunk {chunk} of document `{id}` has {what}"))
        };
        let code = segment.checked(Column::Latents.binary(batch))?.value(row);
        if (latent_count as usize).checked_mul(coder.bytes_of_latent(d)) != Some(code.len()) {
            return Err(refuse(format!("{} bytes for {latent_count} latents of width {d}", code.len())));
        }
        let checksum = segment.checked(Column::LatentsCrc32.long(batch))?.value(row);
        if i64::from(crc32fast::hash(code)) != checksum {
            return Err(refuse("latents with another checksum than was written".into()));
        }
        let latents = coder.decode(code);
        if !latents.iter().all(|value| value.is_finite()) {
            return Err(refuse("latents that are no numbers".into()));
        }
        Ok(latents)
    }

    fn complete(&self, document: StoredDocument) -> Result<StoredDocument> {
        let StoredDocument { summary, chunks } = &document;
        if summary.chunks == chunks.len() as u64 {
            return Ok(document);
        }
        let (id, found, expected) = (&summary.id, chunks.len(), summary.chunks);
        Err(self.segment.damaged(format!("document `{id}` has {found} of its {expected} chunks")))
    }

    fn finish(mut self) -> Result<Option<StoredDocument>> {
        self.current.take().map(|last| self.complete(last)).transpose()
    }
}

fn optional(array: &StringArray, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.value(row).to_owned())
}
