//! A range of a read-only mapped file that keeps the map alive.

use std::{
    ops::{Deref, Range},
    path::Path,
    sync::Arc,
};

use memmap2::Mmap;

use crate::{Error, Result};

/// A range of bytes, of a mapped file or of memory. Cloning is cheap and copies no bytes.
#[derive(Clone)]
pub struct MappedBytes {
    store: Arc<Store>,
    /// Always inside the store: checked where it is made.
    range: Range<usize>,
}

enum Store {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Store {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl MappedBytes {
    /// Maps a whole file, read-only.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped.
    pub fn map_file(path: &Path) -> Result<Self> {
        let file = arc_adapters::open_file(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if metadata.is_dir() {
            // Linux opens folders and then fails to map them with an unhelpful reason.
            return Err(Error::io("read", path)(std::io::ErrorKind::IsADirectory.into()));
        }
        if metadata.len() == 0 {
            // An empty map is refused by some systems; an empty file is the parser's to judge.
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the map is private to this process and never written. That the file is not
        // changed by others while it is mapped cannot be enforced; the cache this crate keeps
        // replaces files by renaming, which leaves a map intact.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let range = 0..map.len();
        Ok(Self { store: Arc::new(Store::Mapped(map)), range })
    }

    /// Lets the system take the memory of a part of a mapped file, which it reads again when it is asked for.
    /// Pages that are shared with other parts are kept.
    ///
    /// # Panics
    /// If these bytes have no such part.
    pub(crate) fn give_back(&self, part: Range<usize>) {
        assert!(part.start <= part.end && part.end <= self.len(), "a part of these bytes");
        #[cfg(unix)]
        if let Store::Mapped(map) = &*self.store {
            // Any size of page that Linux and macOS have divides it; what is left over at the ends stays.
            const PAGE: usize = 64 * 1024;
            let start = (self.range.start + part.start).next_multiple_of(PAGE);
            let end = (self.range.start + part.end) / PAGE * PAGE;
            if start < end {
                // SAFETY: the map is of a file and never written, so that its pages have the same bytes when they
                // are read again. Where the system refuses, nothing is lost.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
    }

    /// The part `range` of these bytes, or nothing where it reaches beyond them.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end)
            .then(|| Self { store: Arc::clone(&self.store), range: start..end })
    }
}

impl Deref for MappedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.store.bytes()[self.range.clone()]
    }
}

impl From<Vec<u8>> for MappedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { store: Arc::new(Store::Owned(bytes)), range }
    }
}

impl std::fmt::Debug for MappedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedBytes({} bytes)", self.range.len())
    }
}
