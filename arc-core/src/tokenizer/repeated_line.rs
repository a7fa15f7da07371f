//! The end of a text that repeats itself, which comes in pieces.

use std::collections::BTreeSet;

/// Lines of fewer characters may stand twice, as in a list of short answers; not three times in succession.
const SHORT: usize = 12;

/// Lets a text through up to a line that was written before. Blank lines do not count.
///
/// A line is held back for as long as it may become such a one, so that nothing of it is let through.
#[derive(Debug, Clone, Default)]
pub struct RepeatedLine {
    /// The lines that end the text if they come.
    ending: BTreeSet<String>,
    /// The last line that is not blank.
    last: String,
    /// The line so far.
    line: String,
    /// How much of it was let through.
    shown: usize,
    /// Line ends that are let through with what follows them.
    ends: String,
    ended: bool,
}

impl RepeatedLine {
    /// Takes the next text and returns what of it may be shown.
    pub fn push(&mut self, text: &str) -> String {
        let mut shown = String::new();
        for piece in text.split_inclusive('\n') {
            if self.ended {
                break;
            }
            let (words, is_whole) = match piece.strip_suffix('\n') {
                Some(words) => (words, true),
                None => (piece, false),
            };
            self.line.push_str(words);
            if is_whole {
                self.end_line(&mut shown);
            } else if !self.ending.iter().any(|line| line.starts_with(&self.line)) {
                self.show(&mut shown);
            }
        }
        shown
    }

    /// What was held back, at the end of the text: a line that is whole and was written before stays back.
    #[must_use]
    pub fn finish(mut self) -> String {
        let mut shown = String::new();
        if !self.ended && !self.ending.contains(self.line.trim_end()) {
            self.show(&mut shown);
        }
        shown
    }

    /// Whether the text has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn show(&mut self, shown: &mut String) {
        shown.push_str(&std::mem::take(&mut self.ends));
        shown.push_str(&self.line[self.shown..]);
        self.shown = self.line.len();
    }

    fn end_line(&mut self, shown: &mut String) {
        let line = self.line.trim_end().to_owned();
        if self.ending.contains(&line) {
            self.ended = true;
            return;
        }
        if line.is_empty() && self.shown == 0 {
            self.ends.push_str(&self.line);
        } else {
            self.show(shown);
        }
        self.ends.push('\n');
        if !line.is_empty() {
            if line.chars().count() >= SHORT || line == self.last {
                self.ending.insert(line.clone());
            }
            self.last = line;
        }
        self.line.clear();
        self.shown = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes if `text` arrives in pieces of `size` characters.
    fn pass(text: &str, size: usize) -> (String, bool) {
        let mut lines = RepeatedLine::default();
        let characters: Vec<char> = text.chars().collect();
        let shown: String =
            characters.chunks(size).map(|piece| lines.push(&piece.iter().collect::<String>())).collect();
        let ended = lines.ended();
        (shown + &lines.finish(), ended)
    }

    #[test]
    fn a_text_ends_before_the_line_that_was_written_before_however_it_is_cut() {
        for size in 1..=16 {
            for (text, shown, ended) in [
                ("It was in Holland.\nIt was in Holland.\nIt was", "It was in Holland.", true),
                ("Who was it, then?\nHe was.\n\nWho was it, then?\nHe", "Who was it, then?\nHe was.", true),
                // Another line may begin alike, and be the beginning of one.
                (
                    "It was in Holland.\nIt was in Holland, too.\n",
                    "It was in Holland.\nIt was in Holland, too.\n",
                    false,
                ),
                ("It was in Holland.\nIt was", "It was in Holland.\nIt was", false),
                // An end token came behind the whole line.
                ("It was in Holland.\nIt was in Holland.", "It was in Holland.", false),
                // Short lines are answers of their own twice, and none a third time.
                ("Yes.\nNo.\nYes.\nYes.\nNo.", "Yes.\nNo.\nYes.\nYes.\nNo.", false),
                ("1790\n1790\n1790\n1790\n", "1790\n1790", true),
                ("é\n\né\n\né\n\n", "é\n\né", true),
                ("\n\n\none\n \n\n\ntwo\n\n", "\n\n\none\n \n\n\ntwo\n\n", false),
                ("", "", false),
            ] {
                assert_eq!(pass(text, size), (shown.to_owned(), ended), "{text:?} in pieces of {size}");
            }
        }
    }
}
