//! SHA-256 digests as this project writes them: 64 lowercase hexadecimal digits.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::files::open_file;
use crate::{Error, Result};

/// The SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The SHA-256 of a file's content, read in pieces: model files do not fit in memory twice.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
    let mut reader = HashingReader::new(open_file(path).map_err(io("open"))?);
    let mut piece = vec![0u8; 1 << 20];
    while reader.read(&mut piece).map_err(io("read"))? > 0 {}
    Ok(reader.sha256())
}

/// Hashes what is read through it.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// The digest of what was read.
    pub(crate) fn sha256(self) -> String {
        hexadecimal(&self.hasher.finalize())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, piece: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(piece)?;
        self.hasher.update(piece.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// Whether `text` is a digest in the form of this module.
#[must_use]
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes as lowercase hexadecimal digits, the form in which digests are written everywhere.
#[must_use]
pub fn hexadecimal(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests_match_the_standards_example() {
        assert_eq!(sha256_hex(b"abc"), ABC);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), ABC);
    }

    #[test]
    fn only_lowercase_digests_of_full_length_are_accepted() {
        assert!(is_sha256_hex(ABC));
        assert!(!is_sha256_hex(&ABC.to_uppercase()));
        assert!(!is_sha256_hex(&ABC[1..]));
        assert!(!is_sha256_hex(&format!("{}g", &ABC[1..])));
    }
}
