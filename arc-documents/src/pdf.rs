//! The text of a PDF's pages.
//!
//! A page is a program that shows strings at places. Strings on one line are joined, a move to another line
//! is a line end, and a gap within a line is a space: what a reader sees, as far as it follows from the places
//! alone.

use std::collections::BTreeMap;

use lopdf::content::Content;
use lopdf::{Document, Encoding, LoadOptions, Object, ObjectId};

use crate::plain::Refusal;

/// A move to the left within a string, in thousandths of the font's size, that is a space: a quarter of an em
/// is what a space takes in most fonts, and kerning is far below.
const SPACE: f32 = 180.0;

const HINT: &str = "the file may be cut off or corrupt: extract its text first, for example with `pdftotext`";

/// The text of all pages; each unpacks to at most `most` bytes, and all together to as much text.
pub(crate) fn text(bytes: &[u8], most: u64) -> Result<String, Refusal> {
    let invalid =
        |error: lopdf::Error| Refusal::new(format!("is no PDF file that can be read: {error}"), HINT);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let options = LoadOptions { max_decompressed_size: Some(most), ..LoadOptions::default() };
    let document = Document::load_mem_with_options(bytes, options).map_err(invalid)?;
    // One without a password for readers was decrypted as it was loaded.
    if document.is_encrypted() && document.encryption_state.is_none() {
        return Err(Refusal::new(
            "is a PDF file that is locked by a password",
            "save it without one first, for example with `qpdf`",
        ));
    }
    let mut text = String::new();
    for page in document.get_pages().into_values() {
        of_page(&document, page, most, &mut text).map_err(invalid)?;
        if !text.is_empty() && !text.ends_with("\n\n") {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        if text.len() > most {
            return Err(Refusal::new(format!("has more than {most} bytes of text"), "split it into parts"));
        }
    }
    Ok(text)
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

fn of_page(document: &Document, page: ObjectId, most: usize, text: &mut String) -> lopdf::Result<()> {
    let mut encodings: BTreeMap<Vec<u8>, Encoding<'_>> = BTreeMap::new();
    for (name, font) in document.get_page_fonts(page)? {
        // Text in a font whose encoding is not understood is left out, and the rest is read.
        if let Ok(encoding) = font.get_font_encoding_with_limit(document, most) {
            encodings.insert(name, encoding);
        }
    }
    let content = Content::decode(&document.get_page_content_with_limit(page, most)?)?;
    let mut encoding = None;
    let mut line = Line::default();
    for operation in &content.operations {
        let operands = &operation.operands;
        let number = |place: usize| operands.get(place).and_then(|operand| operand.as_float().ok());
        // PDF 32000-1, 9.4: operators of text.
        match operation.operator.as_str() {
            "BT" => line.next = 0.0,
            "Tf" => encoding = operands.first().and_then(|name| encodings.get(name.as_name().ok()?)),
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
            "Tj" | "TJ" => show(encoding, operands, &mut line, text),
            "'" => {
                line.next -= next_line(&line);
                show(encoding, operands, &mut line, text);
            }
            "\"" => {
                line.next -= next_line(&line);
                show(encoding, operands.get(2..).unwrap_or_default(), &mut line, text);
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a move to the next line goes down by; some files move so without having said by how much.
fn next_line(line: &Line) -> f32 {
    if line.leading == 0.0 { 1.0 } else { line.leading }
}

fn show(encoding: Option<&Encoding<'_>>, operands: &[Object], line: &mut Line, text: &mut String) {
    let Some(encoding) = encoding else { return };
    let mut shown = String::new();
    strings(encoding, operands, &mut shown);
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

fn strings(encoding: &Encoding<'_>, operands: &[Object], text: &mut String) {
    for operand in operands {
        match operand {
            Object::String(bytes, _) => {
                text.push_str(&Document::decode_text(encoding, bytes).unwrap_or_default());
            }
            Object::Array(parts) => strings(encoding, parts, text),
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
