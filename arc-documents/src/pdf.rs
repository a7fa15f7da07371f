//! The text of a PDF's pages.
//!
//! A page is a program that shows strings at places. Strings on one line are joined, a move to another line
//! is a line end, and a gap within a line is a space: what a reader sees, as far as it follows from the places
//! alone.

use std::collections::HashMap;

use lopdf::content::Content;
use lopdf::{Dictionary, Document, Encoding, LoadOptions, Object};

use crate::plain::Refusal;

/// A move to the left within a string, in thousandths of the font's size, that is a space: a quarter of an em
/// is what a space takes in most fonts, and kerning is far below.
const SPACE: f32 = 180.0;

const HINT: &str = "the file may be cut off or corrupt: extract its text first, for example with `pdftotext`";

/// The most that a stream of objects, and what a page shows, unpack to: 16 MiB. Objects come in streams of a
/// few hundred, and a page of a book shows some ten thousand bytes.
const MOST_OF_A_STREAM: usize = 16 << 20;

/// The most that the map of a font's characters unpacks to: a mebibyte, of which the largest fonts take a third.
const MOST_OF_A_FONT: usize = 1 << 20;

/// Bytes of a string that are read: no more are in one (PDF 32000-1, table C.1), and a font may make hundreds of
/// characters of each.
const MOST_OF_A_STRING: usize = 32_767;

/// Fonts whose encodings are kept: more than the pages of a chapter have.
const FONTS: usize = 64;

/// What all pages show together, in terms of the most that is read of a file: pages may share what they show, so
/// that a small file could have any number of large pages.
const SHOWN: usize = 8;

/// The text of all pages, at most as many bytes as `most`, which pages together may exceed some times.
pub(crate) fn text(bytes: &[u8], most: u64) -> Result<String, Refusal> {
    let invalid =
        |error: lopdf::Error| Refusal::new(format!("is no PDF file that can be read: {error}"), HINT);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let of_a_stream = MOST_OF_A_STREAM.min(most);
    let options = LoadOptions::with_max_decompressed_size(of_a_stream);
    let document = Document::load_mem_with_options(bytes, options).map_err(invalid)?;
    // One without a password for readers was decrypted as it was loaded.
    if document.is_encrypted() && document.encryption_state.is_none() {
        return Err(Refusal::new(
            "is a PDF file that is locked by a password",
            "save it without one first, for example with `qpdf`",
        ));
    }
    let mut reading = Reading { document: &document, fonts: HashMap::new(), most, text: String::new() };
    let mut left = most.saturating_mul(SHOWN);
    for page in document.page_iter() {
        let content = document.get_page_content_with_limit(page, of_a_stream).map_err(invalid)?;
        let Some(rest) = left.checked_sub(content.len()) else {
            let reason = format!("has pages of more than {} bytes", most.saturating_mul(SHOWN));
            return Err(Refusal::new(reason, "split it into parts"));
        };
        left = rest;
        // A page whose resources are not understood is left out, as fonts are, and the rest is read.
        let fonts = document.get_page_fonts(page).unwrap_or_default();
        reading.page(&fonts, &content).map_err(|error| match error {
            PageError::Pdf(error) => invalid(error),
            PageError::Long => {
                Refusal::new(format!("has more than {most} bytes of text"), "split it into parts")
            }
        })?;
    }
    Ok(reading.text)
}

/// Where the next string is shown, as far as lines are concerned.
#[derive(Default)]
struct Line {
    /// Of the last string.
    shown: Option<f32>,
    /// Of the next one.
    next: f32,
    /// What `T*` moves by.
    leading: f32,
    /// Whether there was a move along the line since the last string.
    moved: bool,
}

/// Why reading ends at a page.
enum PageError {
    Pdf(lopdf::Error),
    /// There is more text than is wanted.
    Long,
}

/// The pages that were read so far.
struct Reading<'a> {
    document: &'a Document,
    /// By where the font lies in memory, for fonts are used by many pages. Text in a font whose encoding is not
    /// understood is left out, and the rest is read.
    fonts: HashMap<*const Dictionary, Option<Encoding<'a>>>,
    /// How much text may be.
    most: usize,
    text: String,
}

impl<'a> Reading<'a> {
    /// Reads a page that shows `content` with these fonts, by name.
    fn page(
        &mut self,
        fonts: &std::collections::BTreeMap<Vec<u8>, &'a Dictionary>,
        content: &[u8],
    ) -> Result<(), PageError> {
        let mut line = Line::default();
        let mut font = None;
        for operation in Content::decode_iter(content) {
            let operation = operation.map_err(PageError::Pdf)?;
            let operands = &operation.operands;
            let number = |place: usize| operands.get(place).and_then(|operand| operand.as_float().ok());
            // PDF 32000-1, 9.4: operators of text.
            match operation.operator.as_str() {
                "BT" => line.next = 0.0,
                "Tf" => {
                    let name = operands.first().and_then(|name| name.as_name().ok());
                    font = name.and_then(|name| fonts.get(name)).copied();
                }
                "TL" => line.leading = number(0).unwrap_or(0.0),
                "Td" | "TD" => {
                    let down = number(1).unwrap_or(0.0);
                    if operation.operator == "TD" {
                        line.leading = -down;
                    }
                    line.next += down;
                    line.moved = true;
                }
                "Tm" => {
                    line.next = number(5).unwrap_or(0.0);
                    line.moved = true;
                }
                "T*" => line.next -= next_line(&line),
                "Tj" | "TJ" => self.show(font, operands, &mut line),
                "'" => {
                    line.next -= next_line(&line);
                    self.show(font, operands, &mut line);
                }
                "\"" => {
                    line.next -= next_line(&line);
                    self.show(font, operands.get(2..).unwrap_or_default(), &mut line);
                }
                _ => {}
            }
            if self.text.len() > self.most {
                return Err(PageError::Long);
            }
        }
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push_str(if self.text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        Ok(())
    }

    fn show(&mut self, font: Option<&'a Dictionary>, operands: &[Object], line: &mut Line) {
        let Some(font) = font else { return };
        let place = std::ptr::from_ref(font);
        if self.fonts.len() >= FONTS && !self.fonts.contains_key(&place) {
            self.fonts.clear();
        }
        let document = self.document;
        let encoding = self
            .fonts
            .entry(place)
            .or_insert_with(|| font.get_font_encoding_with_limit(document, MOST_OF_A_FONT).ok());
        if let Some(encoding) = encoding {
            show(encoding, operands, self.most, line, &mut self.text);
        }
    }
}

/// What a move to the next line goes down by; some files move so without having said by how much.
fn next_line(line: &Line) -> f32 {
    if line.leading == 0.0 { 1.0 } else { line.leading }
}

fn show(encoding: &Encoding<'_>, operands: &[Object], most: usize, line: &mut Line, text: &mut String) {
    let mut shown = String::new();
    strings(encoding, operands, most, &mut shown);
    if shown.is_empty() {
        return;
    }
    let ends_blank = text.ends_with(char::is_whitespace) || text.is_empty();
    match line.shown {
        // A hair's breadth is a superscript's, not another line's.
        Some(shown) if (shown - line.next).abs() > 0.5 && !text.ends_with('\n') => text.push('\n'),
        Some(_) if line.moved && !ends_blank => text.push(' '),
        _ => {}
    }
    (line.shown, line.moved) = (Some(line.next), false);
    text.push_str(&shown);
}

/// What operands show, until it is more than `most` bytes.
fn strings(encoding: &Encoding<'_>, operands: &[Object], most: usize, text: &mut String) {
    for operand in operands {
        if text.len() > most {
            return;
        }
        match operand {
            Object::String(bytes, _) => {
                let bytes = &bytes[..bytes.len().min(MOST_OF_A_STRING)];
                text.push_str(&Document::decode_text(encoding, bytes).unwrap_or_default());
            }
            Object::Array(parts) => strings(encoding, parts, most, text),
            Object::Integer(_) | Object::Real(_) => {
                let moves = operand.as_float().unwrap_or(0.0);
                if moves < -SPACE && !text.ends_with(' ') {
                    text.push(' ');
                }
            }
            _ => {}
        }
    }
}
