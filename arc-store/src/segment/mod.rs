//! Segments: immutable Parquet files with a row for each chunk, sorted by document id, then chunk.

mod columns;
mod file;
mod guard;
mod read;
mod write;

pub(crate) use columns::{Column, POOLED, read_i8};
pub(crate) use read::{Batches, Found, OpenSegment};
pub(crate) use write::{PendingDocument, PendingRow, SegmentDraft, hex};
