//! JSONL, one JSON value on each line: what is wrong with a line is said in one place, and where in it.

use serde::de::DeserializeOwned;

/// Reads the value of a line, which may end in a line break.
///
/// # Errors
/// What is wrong and where in the line, without the line's number: its reader counts.
pub fn parse_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let line = line.trim_ascii_end();
    let text = std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        let byte = line.get(at).copied().unwrap_or_default();
        format!("it is not UTF-8: byte {at} of the line is 0x{byte:02x}")
    })?;
    serde_json::from_str(text).map_err(|error| reason(&error))
}

/// The reason of an error in a text of one line. `serde_json` counts that line as the first, whichever it
/// is in its file.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(reason) => format!("{reason} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_line_is_said_with_its_column_and_no_other_line() {
        assert_eq!(parse_line::<Value>(b" {\"a\": 1}\r\n").unwrap()["a"], 1);
        for (line, says) in [
            (b"{\"text\": \"a\"" as &[u8], "EOF while parsing an object at column 12"),
            (b"{\"text\": \n", "EOF while parsing a value at column 8"),
            (b"{\"text\": nil}", "expected"),
            (b"{\"text\": \"caf\xe9\"}", "it is not UTF-8: byte 13 of the line is 0xe9"),
        ] {
            let reason = parse_line::<Value>(line).unwrap_err();
            assert!(reason.contains(says) && !reason.contains("line 1"), "{reason}");
        }
    }
}
