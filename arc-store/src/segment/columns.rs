//! The columns of a segment.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use arrow_array::{Array, BinaryArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};

/// A column of a segment, by its name and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    DocumentId,
    Chunk,
    Chunks,
    Title,
    SourceUri,
    SourceSha256,
    AddedUnixMs,
    Tokens,
    LatentCount,
    Factor,
    Latents,
    LatentsCrc32,
    Pooled,
    PooledScale,
    Text,
}

/// What search reads.
pub(crate) const POOLED: [Column; 2] = [Column::Pooled, Column::PooledScale];

impl Column {
    /// All columns, in the order of the file.
    pub(crate) const ALL: [Self; 15] = [
        Self::DocumentId,
        Self::Chunk,
        Self::Chunks,
        Self::Title,
        Self::SourceUri,
        Self::SourceSha256,
        Self::AddedUnixMs,
        Self::Tokens,
        Self::LatentCount,
        Self::Factor,
        Self::Latents,
        Self::LatentsCrc32,
        Self::Pooled,
        Self::PooledScale,
        Self::Text,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DocumentId => "document_id",
            Self::Chunk => "chunk",
            Self::Chunks => "chunks",
            Self::Title => "title",
            Self::SourceUri => "source_uri",
            Self::SourceSha256 => "source_sha256",
            Self::AddedUnixMs => "added_unix_ms",
            Self::Tokens => "tokens",
            Self::LatentCount => "latent_count",
            Self::Factor => "factor",
            Self::Latents => "latents",
            Self::LatentsCrc32 => "latents_crc32",
            Self::Pooled => "pooled",
            Self::PooledScale => "pooled_scale",
            Self::Text => "text",
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::DocumentId | Self::Title | Self::SourceUri | Self::SourceSha256 | Self::Text => {
                DataType::Utf8
            }
            Self::Chunk | Self::Chunks | Self::Tokens | Self::LatentCount | Self::Factor => DataType::Int32,
            Self::AddedUnixMs | Self::LatentsCrc32 => DataType::Int64,
            Self::Latents | Self::Pooled => DataType::Binary,
            Self::PooledScale => DataType::Float32,
        }
    }

    fn is_nullable(self) -> bool {
        matches!(self, Self::Title | Self::SourceUri | Self::Text)
    }

    /// The schema of every segment.
    pub(crate) fn schema() -> Arc<Schema> {
        let field = |column: Self| Field::new(column.name(), column.data_type(), column.is_nullable());
        Arc::new(Schema::new(Self::ALL.map(field).to_vec()))
    }

    fn array(self, batch: &RecordBatch) -> Result<&dyn Array, String> {
        let array = batch.column_by_name(self.name());
        let array = array.ok_or_else(|| format!("it has no column `{}`", self.name()))?;
        if *array.data_type() != self.data_type() {
            let (name, found, expected) = (self.name(), array.data_type(), self.data_type());
            return Err(format!("its column `{name}` is of type {found}, expected {expected}"));
        }
        if array.null_count() > 0 && !self.is_nullable() {
            return Err(format!("its column `{}` has rows without a value", self.name()));
        }
        Ok(array)
    }

    /// The column of a batch, as text.
    pub(crate) fn text(self, batch: &RecordBatch) -> Result<&StringArray, String> {
        Ok(self.array(batch)?.as_string::<i32>())
    }

    /// The column of a batch, as bytes.
    pub(crate) fn binary(self, batch: &RecordBatch) -> Result<&BinaryArray, String> {
        Ok(self.array(batch)?.as_binary::<i32>())
    }

    /// The column of a batch, as 32-bit whole numbers.
    pub(crate) fn int(self, batch: &RecordBatch) -> Result<&Int32Array, String> {
        Ok(self.array(batch)?.as_primitive::<Int32Type>())
    }

    /// The column of a batch, as 64-bit whole numbers.
    pub(crate) fn long(self, batch: &RecordBatch) -> Result<&Int64Array, String> {
        Ok(self.array(batch)?.as_primitive::<Int64Type>())
    }

    /// The column of a batch, as floats.
    pub(crate) fn float(self, batch: &RecordBatch) -> Result<&Float32Array, String> {
        Ok(self.array(batch)?.as_primitive::<Float32Type>())
    }
}

/// Bytes as the signed whole numbers that they are.
pub(crate) fn read_i8(bytes: &[u8]) -> impl Iterator<Item = i8> {
    bytes.iter().map(|byte| byte.cast_signed())
}
