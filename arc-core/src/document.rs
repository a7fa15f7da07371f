//! Reading the documents that are to be compressed: UTF-8 text from a file or standard input.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// The largest document that is read, in bytes: 64 MiB, some ten million words.
pub const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// What standard input is called where a document's name is shown.
const STDIN_NAME: &str = "standard input";

/// A text with the name that it is shown by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it came from: the path as given, or `standard input`.
    pub name: String,
    /// Its text, without a byte order mark; not empty.
    pub text: String,
}

impl Document {
    /// Reads a document from a file, or from standard input if `path` is `-`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Document`] if it is a folder, empty, binary,
    /// not UTF-8 or larger than [`MAX_DOCUMENT_BYTES`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path == Path::new("-") {
            return Self::from_reader(STDIN_NAME, std::io::stdin().lock());
        }
        let name = path.display().to_string();
        // Opening a folder succeeds on some systems and fails without saying why on others.
        if path.is_dir() {
            return Err(refuse(name, "is a folder", "name the files in it one by one"));
        }
        let file = File::open(path).map_err(Error::io("read", path))?;
        Self::from_reader(name, file)
    }

    /// Reads a document to its end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_reader(name: impl Into<String>, reader: impl Read) -> Result<Self> {
        Self::from_reader_at_most(name.into(), reader, MAX_DOCUMENT_BYTES)
    }

    fn from_reader_at_most(name: String, reader: impl Read, most: u64) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = reader.take(most.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(Error::io("read", name.as_str()))?;
        if bytes.len() as u64 > most {
            let reason = format!("is larger than {most} bytes");
            return Err(refuse(name, &reason, "split it into parts"));
        }
        Self::from_bytes(name, bytes)
    }

    /// A document of bytes that are already in memory.
    ///
    /// # Errors
    /// [`Error::Document`] if they are empty, binary or not UTF-8.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self> {
        let name = name.into();
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(refuse(name, "is UTF-16", "convert it to UTF-8"));
        }
        if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
            let reason = format!("is binary: byte {at} is zero");
            return Err(refuse(name, &reason, "extract its text first"));
        }
        let mut text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes().get(at).copied().unwrap_or_default();
                let reason = format!("is not UTF-8: byte {at} is 0x{byte:02x}");
                return Err(refuse(name, &reason, "convert it to UTF-8"));
            }
        };
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        if text.trim().is_empty() {
            return Err(refuse(name, "is empty", "name a file with text in it"));
        }
        Ok(Self { name, text })
    }
}

fn refuse(name: String, reason: &str, hint: &str) -> Error {
    Error::Document { name, reason: reason.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        let error = Document::from_bytes("x.txt", bytes.to_vec()).unwrap_err();
        assert!(error.hint().is_some(), "{error} has no hint");
        error.to_string()
    }

    #[test]
    fn text_is_kept_as_it_is_but_for_the_byte_order_mark() {
        let document = Document::from_bytes("x", "\u{feff} é\r\n\tz ".into()).unwrap();
        assert_eq!(document, Document { name: "x".into(), text: " é\r\n\tz ".into() });
    }

    #[test]
    fn what_is_no_text_is_refused_with_where_and_why() {
        assert_eq!(refusal(b""), "document `x.txt` is empty");
        assert_eq!(refusal(b" \n\t"), "document `x.txt` is empty");
        assert_eq!(refusal(b"\xef\xbb\xbf \n"), "document `x.txt` is empty");
        assert_eq!(refusal(b"PK\x03\x04\0\0"), "document `x.txt` is binary: byte 4 is zero");
        assert_eq!(refusal(b"caf\xe9 noir"), "document `x.txt` is not UTF-8: byte 3 is 0xe9");
        assert_eq!(
            refusal("abc\u{e9}".as_bytes().split_last().unwrap().1),
            "document `x.txt` is not UTF-8: byte 3 is 0xc3"
        );
        assert_eq!(refusal(b"\xff\xfea\0"), "document `x.txt` is UTF-16");
    }

    #[test]
    fn a_document_over_the_limit_is_refused_without_reading_it_whole() {
        let read = |text: &str| Document::from_reader_at_most("x".into(), text.as_bytes(), 4);
        assert_eq!(read("four").unwrap().text, "four");
        assert_eq!(read("fives").unwrap_err().to_string(), "document `x` is larger than 4 bytes");
        let endless = Document::from_reader_at_most("x".into(), std::io::repeat(b'a'), 1000);
        assert!(matches!(endless, Err(Error::Document { .. })));
    }

    #[test]
    fn files_are_named_by_their_path_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.txt");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(Document::read(&path).unwrap().name, path.display().to_string());
        assert!(matches!(Document::read(folder.path()), Err(Error::Document { .. })));
        assert!(matches!(Document::read(folder.path().join("none")), Err(Error::Io { .. })));
    }
}
