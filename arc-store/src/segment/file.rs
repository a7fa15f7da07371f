//! A segment's bytes, from a file or from an object store, as the Parquet reader asks for them.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek as _, SeekFrom};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::place::Place;

/// What the reader of a page header is given at once from an object store.
const AHEAD: u64 = 64 << 10;

/// Opened anew for each read: positions of a shared file would be shared too.
#[derive(Debug, Clone)]
pub(crate) struct SegmentFile {
    place: Place,
    name: String,
    bytes: u64,
}

impl SegmentFile {
    pub(crate) fn new(place: &Place, name: &str, bytes: u64) -> Self {
        Self { place: place.clone(), name: name.to_owned(), bytes }
    }

    fn open(&self, start: u64) -> Option<Result<File>> {
        let file = self.place.open_file(&self.name)?;
        Some(file.map_err(external).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        }))
    }
}

fn external(error: crate::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Length for SegmentFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for SegmentFile {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        if let Some(file) = self.open(start) {
            return Ok(Box::new(BufReader::new(file?)));
        }
        let end = self.bytes.min(start.saturating_add(AHEAD));
        let head = self.place.read_range(&self.name, start..end).map_err(external)?;
        if end == self.bytes {
            return Ok(Box::new(Cursor::new(head)));
        }
        Ok(Box::new(Cursor::new(head).chain(Rest { file: self.clone(), at: end })))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.checked_add(length as u64).filter(|&end| end <= self.bytes);
        let Some(end) = end else {
            let reason = format!("{length} bytes at {start} of a file of {}", self.bytes);
            return Err(ParquetError::EOF(reason));
        };
        if let Some(file) = self.open(start) {
            let mut bytes = vec![0; length];
            file?.read_exact(&mut bytes)?;
            return Ok(bytes.into());
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        self.place.read_range(&self.name, start..end).map_err(external)
    }
}

/// What comes after the first piece, piece by piece.
struct Rest {
    file: SegmentFile,
    at: u64,
}

impl Read for Rest {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = (self.file.bytes - self.at).min(into.len() as u64) as usize;
        if length > 0 {
            let bytes = self.file.get_bytes(self.at, length).map_err(std::io::Error::other)?;
            into[..length].copy_from_slice(&bytes);
            self.at += length as u64;
        }
        Ok(length)
    }
}
