//! What a document is written in.

use std::path::Path;

/// The format of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Text as it is, Markdown included: it is made to be read as it is.
    Text,
    /// A web page, of which the text is taken.
    Html,
    /// The text of its pages.
    Pdf,
    /// An office document: the text of its paragraphs.
    Docx,
    /// JSON objects, one a line, each a document.
    JsonLines,
}

impl Format {
    /// The endings of files that are documents in a folder, in lower case.
    pub const EXTENSIONS: [&'static str; 13] = [
        "txt", "text", "md", "markdown", "rst", "org", "tex", "html", "htm", "xhtml", "pdf", "docx", "jsonl",
    ];

    /// The format of a file by its name; `None` where the name does not tell, and it is taken for text.
    #[must_use]
    pub fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_string_lossy().to_lowercase();
        Some(match extension.as_str() {
            "html" | "htm" | "xhtml" => Self::Html,
            "pdf" => Self::Pdf,
            "docx" => Self::Docx,
            "jsonl" | "ndjson" => Self::JsonLines,
            known if Self::EXTENSIONS.contains(&known) => Self::Text,
            _ => return None,
        })
    }

    /// The format by the first bytes, which say more than a name.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        // Readers accept what stands before the mark, such as a byte order mark or an empty line.
        if bytes.get(..1024.min(bytes.len()))?.windows(5).any(|window| window == b"%PDF-") {
            return Some(Self::Pdf);
        }
        if bytes.starts_with(b"PK\x03\x04") {
            // The name of the part that has the text stands in the archive's directory, uncompressed.
            let has_text = bytes.windows(17).any(|window| window == b"word/document.xml");
            return has_text.then_some(Self::Docx);
        }
        let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        let begins = |text: &str| {
            start.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
        };
        (begins("<!doctype html") || begins("<html")).then_some(Self::Html)
    }
}
