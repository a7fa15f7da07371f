//! The text of an office document (Office Open XML, ECMA-376): that of its paragraphs.

use std::io::{Cursor, Read as _};

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::plain::Refusal;

/// The part of the archive that has the text.
const PART: &str = "word/document.xml";

const HINT: &str = "the file may be cut off or corrupt: save it again, or extract its text first";

/// The text of the document's body, a line for each paragraph; at most `most` bytes are unpacked.
pub(crate) fn text(bytes: &[u8], most: u64) -> Result<String, Refusal> {
    let invalid = |reason: String| Refusal::new(format!("is no valid DOCX file: {reason}"), HINT);
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| invalid(error.to_string()))?;
    let part = archive.by_name(PART).map_err(|error| invalid(format!("`{PART}`: {error}")))?;
    let mut xml = String::new();
    part.take(most.saturating_add(1))
        .read_to_string(&mut xml)
        .map_err(|error| invalid(format!("`{PART}`: {error}")))?;
    if xml.len() as u64 > most {
        return Err(Refusal::new(format!("unpacks to more than {most} bytes"), "split it into parts"));
    }
    of_xml(&xml).map_err(invalid)
}

fn of_xml(xml: &str) -> Result<String, String> {
    let mut reader = Reader::from_str(xml);
    let mut text = String::new();
    // Runs have text in `w:t`; field codes and what was deleted have it elsewhere.
    let mut is_text = false;
    loop {
        let event = reader.read_event();
        match event.map_err(|error| format!("byte {}: {error}", reader.error_position()))? {
            Event::Start(tag) => is_text = tag.local_name().as_ref() == "t",
            Event::Empty(tag) => match tag.local_name().as_ref() {
                "tab" => text.push('\t'),
                "br" | "cr" => text.push('\n'),
                "noBreakHyphen" => text.push('-'),
                "p" => text.push('\n'),
                _ => {}
            },
            Event::End(tag) => {
                is_text = false;
                if tag.local_name().as_ref() == "p" {
                    text.push('\n');
                }
            }
            Event::Text(piece) if is_text => text.push_str(&piece.xml10_content()),
            Event::CData(piece) if is_text => text.push_str(&piece.xml10_content()),
            Event::GeneralRef(reference) if is_text => {
                let character = match &*reference {
                    "amp" => Some('&'),
                    "lt" => Some('<'),
                    "gt" => Some('>'),
                    "quot" => Some('"'),
                    "apos" => Some('\''),
                    _ => reference.resolve_char_ref().ok().flatten(),
                };
                text.extend(character);
            }
            Event::Eof => return Ok(text),
            _ => {}
        }
    }
}
