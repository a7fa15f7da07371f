//! Bytes that are to be text.

/// Why bytes are no text, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What is wrong, to stand behind the document's name.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

impl Refusal {
    /// A refusal for this reason, to stand behind a document's name, and what to do.
    #[must_use]
    pub fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}

/// Bytes of a document as text; `start` is where in the document they begin. A byte order mark stays.
///
/// # Errors
/// Bytes that are not UTF-8, or no text at all, such as a file of a known format.
pub fn text_of(bytes: Vec<u8>, start: u64) -> Result<String, Refusal> {
    if start == 0 && (bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff])) {
        return Err(Refusal::new("is UTF-16", "convert it to UTF-8"));
    }
    if start == 0
        && let Some((what, hint)) = known_format(&bytes)
    {
        return Err(Refusal::new(format!("is {what}, and no text"), hint));
    }
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        let reason = format!("is binary: byte {} is zero", start + at as u64);
        return Err(Refusal::new(reason, "extract its text first"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(at).copied().unwrap_or_default();
        let reason = format!("is not UTF-8: byte {} is 0x{byte:02x}", start + at as u64);
        Refusal::new(reason, "convert it to UTF-8 if it is text, else extract its text first")
    })
}

/// What a file is by its first bytes, where people take it for a document, and how its text is had.
fn known_format(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const EXTRACT: &str = "extract its text first, for example with `pandoc`";
    const UNPACK: &str = "unpack it first";
    let formats: [(&[u8], &str, &str); 9] = [
        (b"%PDF-", "a PDF file", "extract its text first, for example with `pdftotext`"),
        // Also what office programs and e-books are packed in.
        (b"PK\x03\x04", "a ZIP file, such as a .docx, .odt or .epub", EXTRACT),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of an old office program, such as a .doc", EXTRACT),
        (b"{\\rtf", "an RTF file", EXTRACT),
        (b"\x1f\x8b", "a gzip file", UNPACK),
        (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
        (b"\xfd7zXZ\0", "an xz file", UNPACK),
        (b"\x89PNG\r\n\x1a\n", "an image", "have its text recognised first"),
        (b"\xff\xd8\xff", "an image", "have its text recognised first"),
    ];
    formats.into_iter().find(|(magic, ..)| bytes.starts_with(magic)).map(|(_, what, hint)| (what, hint))
}
