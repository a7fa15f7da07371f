//! Making a segment: rows are collected, sorted, and written as one Parquet file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{BinaryArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest as _, Sha256};

use super::columns::Column;
use crate::latent_code::LatentCode;
use crate::manifest::{Manifest, STORE_SCHEMA, Segment};

/// Rows of a page: what has to be read to get at one of them.
const ROWS_OF_A_PAGE: usize = 256;

/// Rows that are handed to the writer at once.
const ROWS_AT_ONCE: usize = 64;

/// Bytes of latents that are handed to the writer at once: places in a column are 31 bits wide.
const BYTES_AT_ONCE: usize = 256 << 20;

/// Rows that are measured at once against the size of a page: latents are large.
const ROWS_BETWEEN_MEASURES: usize = 16;

/// The size of a page, in bytes, give or take one measure.
const PAGE_BYTES: usize = 128 << 10;

/// How often the filter of ids says that a segment may hold a document which it does not.
const FALSE_POSITIVES: f64 = 1e-4;

/// A row of a segment that is to be written, its latents as their code.
#[derive(Debug, Clone)]
pub(crate) struct PendingRow {
    pub(crate) chunk: u32,
    pub(crate) tokens: u32,
    pub(crate) latent_count: u32,
    pub(crate) latents: Vec<u8>,
    pub(crate) pooled: Vec<u8>,
    pub(crate) pooled_scale: f32,
    pub(crate) text: Option<String>,
}

/// A document whose rows are to be written.
#[derive(Debug, Clone)]
pub(crate) struct PendingDocument {
    pub(crate) title: Option<String>,
    pub(crate) source_uri: Option<String>,
    pub(crate) source_sha256: String,
    pub(crate) factor: u32,
    pub(crate) added_unix_ms: u64,
    /// How the latents of its rows are written, and the codebooks where there are any.
    pub(crate) code: (LatentCode, Option<String>),
    pub(crate) rows: Vec<PendingRow>,
}

/// A segment in the making.
#[derive(Debug, Default)]
pub(crate) struct SegmentDraft {
    documents: HashMap<String, PendingDocument>,
    bytes: usize,
}

impl PendingDocument {
    fn bytes(&self) -> usize {
        let row = |row: &PendingRow| {
            row.latents.len() + row.pooled.len() + row.text.as_ref().map_or(0, String::len) + 256
        };
        self.rows.iter().map(row).sum()
    }
}

impl SegmentDraft {
    /// About how large the file will be.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// How many documents there are.
    pub(crate) fn len(&self) -> usize {
        self.documents.len()
    }

    /// Adds a document; one of the same id is replaced.
    pub(crate) fn insert(&mut self, id: String, document: PendingDocument) {
        self.bytes += document.bytes();
        if let Some(earlier) = self.documents.insert(id, document) {
            self.bytes = self.bytes.saturating_sub(earlier.bytes());
        }
    }

    /// The document of that id.
    pub(crate) fn get(&self, id: &str) -> Option<&PendingDocument> {
        self.documents.get(id)
    }

    /// How the latents of all of its documents are written.
    pub(crate) fn code(&self) -> Option<&(LatentCode, Option<String>)> {
        self.documents.values().next().map(|document| &document.code)
    }

    /// The ids, in no order, with their documents.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&String, &PendingDocument)> {
        self.documents.iter()
    }

    /// The file, and what a manifest says of it; there is at least one document.
    pub(crate) fn write(
        &self,
        file: String,
        manifest: &Manifest,
        latents: LatentCode,
        codebooks: Option<String>,
    ) -> Result<(Bytes, Segment), ParquetError> {
        let mut sorted: Vec<(&String, &PendingDocument)> = self.documents.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        let (Some((first, _)), Some((last, _))) = (sorted.first(), sorted.last()) else {
            return Err(ParquetError::General("a segment without documents".into()));
        };
        let properties = properties(sorted.len(), manifest, latents, codebooks.as_deref());
        let mut writer = ArrowWriter::try_new(Vec::new(), Column::schema(), Some(properties))?;
        let rows: Vec<Row> = sorted
            .iter()
            .flat_map(|(id, document)| document.rows.iter().map(|row| Row { id, document, row }))
            .collect();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(ROWS_AT_ONCE).take_while(|row| {
                bytes += row.row.latents.len();
                bytes <= BYTES_AT_ONCE
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            writer.write(&batch(now)?)?;
            rest = later;
        }
        let bytes = Bytes::from(writer.into_inner()?);
        let segment = Segment {
            file,
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
            latents,
            codebooks,
            rows: rows.len() as u64,
            documents: sorted.len() as u64,
            tokens: rows.iter().map(|row| u64::from(row.row.tokens)).sum(),
            latent_count: rows.iter().map(|row| u64::from(row.row.latent_count)).sum(),
            first_id: (*first).clone(),
            last_id: (*last).clone(),
            removed: Default::default(),
        };
        Ok((bytes, segment))
    }
}

struct Row<'a> {
    id: &'a str,
    document: &'a PendingDocument,
    row: &'a PendingRow,
}

fn batch(rows: &[Row]) -> Result<RecordBatch, ParquetError> {
    fn text<'a>(rows: &'a [Row<'a>], value: impl Fn(&'a Row<'a>) -> Option<&'a str>) -> StringArray {
        rows.iter().map(value).collect()
    }
    fn int(rows: &[Row], value: impl Fn(&Row) -> u32) -> Int32Array {
        rows.iter().map(|row| Some(value(row).cast_signed())).collect()
    }
    fn binary<'a>(rows: &'a [Row<'a>], value: impl Fn(&'a Row<'a>) -> &'a [u8]) -> BinaryArray {
        BinaryArray::from_iter_values(rows.iter().map(value))
    }
    let scale: Float32Array = rows.iter().map(|row| Some(row.row.pooled_scale)).collect();
    let checksums: Int64Array =
        rows.iter().map(|row| Some(i64::from(crc32fast::hash(&row.row.latents)))).collect();
    let added: Int64Array = rows.iter().map(|row| Some(row.document.added_unix_ms.cast_signed())).collect();
    let batch = RecordBatch::try_new(
        Column::schema(),
        vec![
            Arc::new(text(rows, |row| Some(row.id))),
            Arc::new(int(rows, |row| row.row.chunk)),
            Arc::new(int(rows, |row| row.document.rows.len() as u32)),
            Arc::new(text(rows, |row| row.document.title.as_deref())),
            Arc::new(text(rows, |row| row.document.source_uri.as_deref())),
            Arc::new(text(rows, |row| Some(&row.document.source_sha256))),
            Arc::new(added),
            Arc::new(int(rows, |row| row.row.tokens)),
            Arc::new(int(rows, |row| row.row.latent_count)),
            Arc::new(int(rows, |row| row.document.factor)),
            Arc::new(binary(rows, |row| &row.row.latents)),
            Arc::new(checksums),
            Arc::new(binary(rows, |row| &row.row.pooled)),
            Arc::new(scale),
            Arc::new(text(rows, |row| row.row.text.as_deref())),
        ],
    )?;
    Ok(batch)
}

fn properties(
    documents: usize,
    manifest: &Manifest,
    latents: LatentCode,
    codebooks: Option<&str>,
) -> WriterProperties {
    let path = |column: Column| ColumnPath::from(column.name());
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("arc-store {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(metadata(manifest, latents, codebooks)))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        // A dictionary would have to be read whole to read one row.
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_write_batch_size(ROWS_BETWEEN_MEASURES)
        .set_data_page_row_count_limit(ROWS_OF_A_PAGE)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_max_row_group_row_count(None)
        .set_sorting_columns(Some(
            [Column::DocumentId, Column::Chunk]
                .map(|column| SortingColumn {
                    column_idx: column as i32,
                    descending: false,
                    nulls_first: false,
                })
                .to_vec(),
        ));
    for column in [Column::DocumentId, Column::SourceSha256] {
        builder = builder
            .set_column_bloom_filter_enabled(path(column), true)
            .set_column_bloom_filter_fpp(path(column), FALSE_POSITIVES)
            .set_column_bloom_filter_max_ndv(path(column), documents as u64);
    }
    for column in [Column::Latents, Column::LatentsCrc32, Column::Pooled] {
        // Floats and codes hardly shrink, and would be read more slowly.
        builder = builder.set_column_compression(path(column), Compression::UNCOMPRESSED);
    }
    for column in [
        Column::Latents,
        Column::LatentsCrc32,
        Column::Pooled,
        Column::PooledScale,
        Column::Text,
        Column::Title,
    ] {
        builder = builder.set_column_statistics_enabled(path(column), EnabledStatistics::None);
    }
    builder.build()
}

/// What the file says of itself, so that a segment alone can be read.
fn metadata(manifest: &Manifest, latents: LatentCode, codebooks: Option<&str>) -> Vec<KeyValue> {
    let pair = |key: &str, value: String| KeyValue::new(format!("arc_store.{key}"), value);
    let settings = &manifest.settings;
    let mut pairs = vec![
        pair("schema", STORE_SCHEMA.to_string()),
        pair("store_id", manifest.store_id.clone()),
        pair("encoder_id", settings.encoder_id.clone()),
        pair("d_encoder", settings.d_encoder.to_string()),
        pair("latents", latents.name().to_owned()),
    ];
    pairs.extend(codebooks.map(|codebooks| pair("codebooks", codebooks.to_owned())));
    pairs
}

/// A digest in lowercase hexadecimal.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
