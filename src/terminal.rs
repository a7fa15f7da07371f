//! Text that comes from elsewhere, such as registries, manifests, file names, errors of other programs and
//! answers, shown so that it cannot act on the terminal that it reaches.
//!
//! What acts on a terminal are the control characters (C0, DEL and C1, among them ESC and CSI) and the
//! characters that change the direction or the lines of a text (UAX #9; "Trojan Source", CVE-2021-42574).
//! All others are shown as they are.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character acts on the terminal in place of being shown.
pub(crate) fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Direction marks, embeddings, overrides, isolates.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Line and paragraph separator.
            | '\u{2028}' | '\u{2029}'
            // Deprecated formats and interlinear annotation, which hide text.
            | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}'
        )
}

/// A text that is a part of a line: what acts is spelled out, as in `\u{1b}` or `\n`.
pub(crate) fn in_line(text: &str) -> Cow<'_, str> {
    spelled(text, |_| false)
}

/// Text of several lines, and with tabs: what else acts is spelled out.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    spelled(text, |character| matches!(character, '\n' | '\t'))
}

/// An answer as a terminal shows it: what acts is left out, but for line ends and tabs. Marks of direction
/// stand in honest answers too, of which nothing should be spelled out.
pub(crate) fn answer(text: &str) -> Cow<'_, str> {
    let is_shown = |character| !acts(character) || matches!(character, '\n' | '\t');
    if text.chars().all(is_shown) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().filter(|&character| is_shown(character)).collect())
}

/// JSON of the same value in which what acts is escaped. Such a character can only stand in a string.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) {
            // None of them is beyond the basic plane.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn spelled(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_shown = |character| !acts(character) || is_kept(character);
    if text.chars().all(is_shown) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            _ if is_shown(character) => shown.push(character),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            _ => shown.extend(character.escape_unicode()),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that Unicode calls a control (Cc), a line or paragraph separator (Zl, Zp), or that
    /// has the property `Bidi_Control`.
    fn acting() -> Vec<char> {
        let controls = ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}');
        let separators = ['\u{2028}', '\u{2029}'];
        let marks = ['\u{61c}', '\u{200e}', '\u{200f}'];
        let bidi = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        controls.chain(separators).chain(marks).chain(bidi).collect()
    }

    #[test]
    fn nothing_that_acts_comes_through_whatever_stands_around_it() {
        for character in acting() {
            let text = format!("é{character}\"x\\{character}");
            assert!(!in_line(&text).contains(acts), "{character:?}");
            let is_layout = matches!(character, '\n' | '\t');
            for shown in [lines(&text), answer(&text)] {
                assert_eq!(shown.contains(acts), is_layout, "{character:?}: {shown:?}");
            }
            let value = serde_json::json!({ "text": text });
            let shown = json(&value.to_string()).into_owned();
            assert!(!shown.contains(acts), "{character:?}: {shown:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value, "{character:?}");
        }
    }

    #[test]
    fn honest_text_is_borrowed_as_it_is() {
        for text in ["", "Grüße, 世界! עברית 👩‍👧", "a`b`'c'\"d\" {e}"] {
            for shown in [in_line(text), lines(text), answer(text), json(text)] {
                assert!(matches!(shown, Cow::Borrowed(same) if same == text));
            }
        }
    }

    #[test]
    fn what_is_spelled_out_can_be_read() {
        assert_eq!(in_line("a\u{1b}[2J\r\n\tb\u{202e}"), r"a\u{1b}[2J\r\n\tb\u{202e}");
        assert_eq!(lines("a\u{7}\n\tb"), "a\\u{7}\n\tb");
        assert_eq!(answer("a\u{1b}]0;x\u{7}\nb"), "a]0;x\nb");
    }
}
