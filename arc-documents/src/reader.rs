//! From places to documents.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::document::Document;
use crate::error::refused;
use crate::plain::{Refusal, text_of};
use crate::{Error, Format, Result, Source, expand, json_lines};

/// The most that is read of a file, and the most that a packed one unpacks to, in bytes: 64 MiB.
pub const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// What standard input is called where a document's name is shown.
pub const STDIN_NAME: &str = "standard input";

/// Who takes PDF files apart.
type PdfReader = Arc<dyn Fn(&[u8]) -> Result<String, Refusal> + Send + Sync>;

/// Reads documents.
#[derive(Clone)]
pub struct Reader {
    /// The most that is read of a file.
    most: u64,
    /// Who reads PDF files in place of this crate.
    pdf: Option<PdfReader>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { most: MAX_DOCUMENT_BYTES, pdf: None }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Reader {
    /// The same with another limit, in bytes.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.most = bytes;
        self
    }

    /// The same, with PDF files read by a function in place of this crate.
    ///
    /// What a PDF file is made of may refer to itself any number of times, so that how much memory and time
    /// reading takes does not follow from its length. Who reads files of strangers has it done in another
    /// process, which can be ended, as the command line does.
    #[must_use]
    pub fn pdf_by(mut self, read: impl Fn(&[u8]) -> Result<String, Refusal> + Send + Sync + 'static) -> Self {
        self.pdf = Some(Arc::new(read));
        self
    }

    /// The documents that arguments mean ([`expand`]), in order, read one after the other as they are asked
    /// for.
    ///
    /// # Errors
    /// As [`expand`], for any of them.
    pub fn documents(&self, arguments: &[impl AsRef<Path>]) -> Result<Documents> {
        let mut sources = VecDeque::new();
        for argument in arguments {
            sources.extend(expand(argument.as_ref())?);
        }
        Ok(Documents { reader: self.clone(), sources, ready: VecDeque::new() })
    }

    /// The documents at one place: one, but for JSONL.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unreadable`].
    pub fn read(&self, source: &Source) -> Result<Vec<Document>> {
        match source {
            Source::Stdin => self.from_reader(STDIN_NAME, std::io::stdin().lock()),
            Source::File(path) => {
                let name = path.display().to_string();
                // Opening a folder succeeds on some systems and fails without saying why on others.
                if path.is_dir() {
                    return Err(Error::Unreadable {
                        name,
                        reason: "is a folder".into(),
                        hint: "name the files in it one by one".into(),
                    });
                }
                let file = File::open(path).map_err(|source| Error::Io { path: path.clone(), source })?;
                self.from_reader(&name, file)
            }
        }
    }

    /// The documents of something that is read to its end, by the format that its name and its first bytes
    /// tell.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn from_reader(&self, name: &str, reader: impl Read) -> Result<Vec<Document>> {
        let mut bytes = Vec::new();
        reader
            .take(self.most.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Io { path: name.into(), source })?;
        if bytes.len() as u64 > self.most {
            let reason = format!("is larger than {} bytes", self.most);
            return Err(refused(name, Refusal::new(reason, "split it into parts")));
        }
        self.from_bytes(name, bytes)
    }

    /// The documents of bytes that are in memory.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn from_bytes(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<Document>> {
        let by_name = Format::of_name(Path::new(name));
        let format = Format::of_bytes(&bytes).or(by_name).unwrap_or(Format::Text);
        let text = match format {
            Format::Pdf => match &self.pdf {
                Some(read) => read(&bytes),
                None => self.pdf(&bytes),
            },
            Format::Docx => self.docx(&bytes),
            Format::Html => text_of(bytes, 0).and_then(|text| self.html(without_mark(text))),
            Format::JsonLines => {
                let text = text_of(bytes, 0).map(without_mark).map_err(|refusal| refused(name, refusal))?;
                return json_lines::documents(name, &text);
            }
            Format::Text => text_of(bytes, 0).map(without_mark),
        };
        let text = text.map_err(|refusal| refused(name, refusal))?;
        if text.trim().is_empty() {
            let (reason, hint) = match format {
                Format::Pdf => ("has no text", "if its pages are images, have their text recognised first"),
                Format::Text => ("is empty", "name a file with text in it"),
                _ => ("has no text", "name a file with text in it"),
            };
            return Err(refused(name, Refusal::new(reason, hint)));
        }
        Ok(vec![Document { name: name.to_owned(), text, format }])
    }

    #[cfg(feature = "pdf")]
    fn pdf(&self, bytes: &[u8]) -> Result<String, Refusal> {
        crate::pdf::text(bytes, self.most)
    }

    #[cfg(feature = "docx")]
    fn docx(&self, bytes: &[u8]) -> Result<String, Refusal> {
        crate::docx::text(bytes, self.most)
    }

    #[cfg(feature = "html")]
    #[expect(clippy::unused_self, reason = "the others need the limit")]
    fn html(&self, text: String) -> Result<String, Refusal> {
        crate::html::text(&text)
    }

    #[cfg(not(feature = "pdf"))]
    #[expect(clippy::unused_self, reason = "as the others")]
    fn pdf(&self, _: &[u8]) -> Result<String, Refusal> {
        Err(left_out("a PDF file", "pdf"))
    }

    #[cfg(not(feature = "docx"))]
    #[expect(clippy::unused_self, reason = "as the others")]
    fn docx(&self, _: &[u8]) -> Result<String, Refusal> {
        Err(left_out("a DOCX file", "docx"))
    }

    #[cfg(not(feature = "html"))]
    #[expect(clippy::unused_self, reason = "as the others")]
    fn html(&self, _: String) -> Result<String, Refusal> {
        Err(left_out("a web page", "html"))
    }
}

#[cfg(not(all(feature = "pdf", feature = "docx", feature = "html")))]
fn left_out(what: &str, feature: &str) -> Refusal {
    let reason = format!("is {what}, which this build does not read");
    Refusal::new(reason, format!("build with the feature `{feature}`, or extract its text first"))
}

/// Documents as they are asked for. An error is of one document: the next one can be asked for.
#[derive(Debug)]
pub struct Documents {
    reader: Reader,
    sources: VecDeque<Source>,
    ready: VecDeque<Document>,
}

impl Documents {
    /// The places that are still to be read.
    #[must_use]
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &Source> {
        self.sources.iter()
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(document) = self.ready.pop_front() {
                return Some(Ok(document));
            }
            match self.reader.read(&self.sources.pop_front()?) {
                Ok(documents) => self.ready.extend(documents),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn without_mark(mut text: String) -> String {
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    text
}
