//! Reading the documents that are to be compressed: UTF-8 text from a file or standard input.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use arc_documents::{MAX_DOCUMENT_BYTES, STDIN_NAME};

use crate::{Error, Result};

/// A text with the name that it is shown by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlainText {
    /// Where it came from: the path as given, or `standard input`.
    pub name: String,
    /// Its text, without a byte order mark; not empty.
    pub text: String,
}

impl PlainText {
    /// Reads a document from a file, or from standard input if `path` is `-`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Document`] if it is a folder, empty, binary,
    /// not UTF-8 or larger than [`MAX_DOCUMENT_BYTES`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let (name, reader) = open(path.as_ref())?;
        Self::from_reader(name, reader)
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
        let mut text = text_of(&name, bytes, 0)?;
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        if text.trim().is_empty() {
            return Err(empty(name));
        }
        Ok(Self { name, text })
    }
}

/// A text in pieces as they are read, so that memory does not grow with it.
///
/// A piece ends at the end of a line where there is one near the wanted length, else at the end of a
/// word, else of a character. What is blank is left out.
pub struct Pieces {
    name: String,
    reader: BufReader<Box<dyn Read>>,
    /// The wanted length of a piece, in bytes.
    length: usize,
    /// Bytes read so far.
    read: u64,
    any: bool,
    ended: bool,
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces").field("name", &self.name).field("read", &self.read).finish_non_exhaustive()
    }
}

impl Pieces {
    /// Opens a file, or standard input if `path` is `-`, for pieces of about `length` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened; [`Error::Document`] if it is a folder.
    pub fn open(path: impl AsRef<Path>, length: usize) -> Result<Self> {
        let (name, reader) = open(path.as_ref())?;
        let reader = BufReader::new(reader);
        Ok(Self { name, reader, length, read: 0, any: false, ended: false })
    }

    /// The bytes of the next piece; none at the end.
    fn next_bytes(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for byte in self.reader.by_ref().bytes() {
            let byte = byte.map_err(Error::io("read", self.name.as_str()))?;
            bytes.push(byte);
            let ends = match byte {
                b'\n' => bytes.len() > self.length,
                byte if byte.is_ascii_whitespace() => bytes.len() > 2 * self.length,
                _ => bytes.len() > 16 * self.length && std::str::from_utf8(&bytes).is_ok(),
            };
            if ends || bytes.len() > 17 * self.length {
                break;
            }
        }
        Ok(bytes)
    }

    fn next_piece(&mut self) -> Result<Option<String>> {
        loop {
            let bytes = self.next_bytes()?;
            if bytes.is_empty() {
                return if self.any { Ok(None) } else { Err(empty(self.name.clone())) };
            }
            let (start, length) = (self.read, bytes.len() as u64);
            let mut text = text_of(&self.name, bytes, start)?;
            self.read += length;
            if start == 0 && text.starts_with('\u{feff}') {
                text.drain(..'\u{feff}'.len_utf8());
            }
            if !text.trim().is_empty() {
                self.any = true;
                return Ok(Some(text));
            }
        }
    }
}

impl Iterator for Pieces {
    type Item = Result<String>;

    /// The next piece. What is wrong with a text is found where it stands, and ends it; the errors are
    /// those of [`PlainText::read`], but for the length.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.ended = !matches!(piece, Some(Ok(_)));
        piece
    }
}

/// The name and the content of a file, or of standard input.
fn open(path: &Path) -> Result<(String, Box<dyn Read>)> {
    if path == Path::new("-") {
        return Ok((STDIN_NAME.to_owned(), Box::new(std::io::stdin())));
    }
    let name = path.display().to_string();
    // Opening a folder succeeds on some systems and fails without saying why on others.
    if path.is_dir() {
        return Err(refuse(name, "is a folder", "name the files in it one by one"));
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    Ok((name, Box::new(file)))
}

/// Bytes of a document as text; `start` is where in the document they begin.
fn text_of(name: &str, bytes: Vec<u8>, start: u64) -> Result<String> {
    arc_documents::text_of(bytes, start)
        .map_err(|refusal| refuse(name.to_owned(), &refusal.reason, &refusal.hint))
}

fn empty(name: String) -> Error {
    refuse(name, "is empty", "name a file with text in it")
}

fn refuse(name: String, reason: &str, hint: &str) -> Error {
    Error::Document { name, reason: reason.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        let error = PlainText::from_bytes("x.txt", bytes.to_vec()).unwrap_err();
        assert!(error.hint().is_some(), "{error} has no hint");
        error.to_string()
    }

    #[test]
    fn text_is_kept_as_it_is_but_for_the_byte_order_mark() {
        let document = PlainText::from_bytes("x", "\u{feff} é\r\n\tz ".into()).unwrap();
        assert_eq!(document, PlainText { name: "x".into(), text: " é\r\n\tz ".into() });
    }

    #[test]
    fn what_is_no_text_is_refused_with_where_and_why() {
        assert_eq!(refusal(b""), "document `x.txt` is empty");
        assert_eq!(refusal(b" \n\t"), "document `x.txt` is empty");
        assert_eq!(refusal(b"\xef\xbb\xbf \n"), "document `x.txt` is empty");
        assert_eq!(refusal(b"\x7fELF\0\0"), "document `x.txt` is binary: byte 4 is zero");
        assert_eq!(refusal(b"caf\xe9 noir"), "document `x.txt` is not UTF-8: byte 3 is 0xe9");
        assert_eq!(
            refusal("abc\u{e9}".as_bytes().split_last().unwrap().1),
            "document `x.txt` is not UTF-8: byte 3 is 0xc3"
        );
        assert_eq!(refusal(b"\xff\xfea\0"), "document `x.txt` is UTF-16");
    }

    #[test]
    fn a_document_over_the_limit_is_refused_without_reading_it_whole() {
        let read = |text: &str| PlainText::from_reader_at_most("x".into(), text.as_bytes(), 4);
        assert_eq!(read("four").unwrap().text, "four");
        assert_eq!(read("fives").unwrap_err().to_string(), "document `x` is larger than 4 bytes");
        let endless = PlainText::from_reader_at_most("x".into(), std::io::repeat(b'a'), 1000);
        assert!(matches!(endless, Err(Error::Document { .. })));
    }

    fn pieces(text: &[u8], length: usize) -> Vec<Result<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.txt");
        std::fs::write(&path, text).unwrap();
        Pieces::open(&path, length).unwrap().collect()
    }

    #[test]
    fn pieces_end_with_a_line_else_a_word_else_a_character_and_are_the_text_together() {
        let cut = |text: &str| pieces(text.as_bytes(), 4).into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(cut("\u{feff}one\ntwo\nthree\n"), ["one\n", "two\nthree\n"]);
        assert_eq!(cut("a b c d e f g h"), ["a b c d e ", "f g h"]);
        let long = "é".repeat(100);
        let parts = cut(&long);
        assert!(parts.len() > 2 && parts.iter().all(|part| part.len() <= 17 * 4), "{parts:?}");
        assert_eq!(parts.concat(), long);
    }

    #[test]
    fn a_text_in_pieces_is_refused_like_a_whole_one_where_it_is_wrong() {
        let last = |text: &[u8]| pieces(text, 4).pop().unwrap().unwrap_err().to_string();
        assert!(last(b"").ends_with("is empty"));
        assert!(last(b"\n \n\n\n\n\n").ends_with("is empty"));
        assert!(last(b"\xff\xfea\0").ends_with("is UTF-16"));
        assert!(last(b"a line\nanother\nz\0").ends_with("is binary: byte 16 is zero"));
        assert!(last(b"a line\ncaf\xe9 noir").ends_with("is not UTF-8: byte 10 is 0xe9"));
        assert!(last(&[0xe9; 1000]).ends_with("is not UTF-8: byte 0 is 0xe9"));
        assert_eq!(pieces(b"a line\n\0", 4).len(), 2, "what came before is given");
        assert!(matches!(Pieces::open(std::env::temp_dir(), 4), Err(Error::Document { .. })));
    }

    #[test]
    fn files_are_named_by_their_path_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.txt");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(PlainText::read(&path).unwrap().name, path.display().to_string());
        assert!(matches!(PlainText::read(folder.path()), Err(Error::Document { .. })));
        assert!(matches!(PlainText::read(folder.path().join("none")), Err(Error::Io { .. })));
    }
}
