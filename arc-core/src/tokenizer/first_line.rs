//! The first line of a text that comes in pieces.

/// Lets through the first line that is not blank, and nothing after it.
#[derive(Debug, Clone, Default)]
pub struct FirstLine {
    /// White space of the line so far, which is blank.
    blank: String,
    begun: bool,
    ended: bool,
}

impl FirstLine {
    /// Takes the next text and returns what of it is the line.
    pub fn push(&mut self, text: &str) -> String {
        let mut shown = String::new();
        let mut rest = text;
        while !rest.is_empty() && !self.ended {
            // White space is held back: it may end the line, or lie before its end.
            let space = rest.len() - rest.trim_start().len();
            let (blank, more) = rest.split_at(space);
            match blank.split_once('\n') {
                Some(_) if self.begun => {
                    self.ended = true;
                    break;
                }
                Some(_) => {
                    let line = blank.rfind('\n').map_or(blank, |last| &blank[last + 1..]);
                    line.clone_into(&mut self.blank);
                }
                None => self.blank.push_str(blank),
            }
            let word = more.find(char::is_whitespace).unwrap_or(more.len());
            if word > 0 {
                shown.push_str(&std::mem::take(&mut self.blank));
                shown.push_str(&more[..word]);
                self.begun = true;
            }
            rest = &more[word..];
        }
        shown
    }

    /// Whether the line has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes if `text` arrives in pieces of `size` characters.
    fn pass(text: &str, size: usize) -> (String, bool) {
        let mut line = FirstLine::default();
        let characters: Vec<char> = text.chars().collect();
        let shown =
            characters.chunks(size).map(|piece| line.push(&piece.iter().collect::<String>())).collect();
        (shown, line.ended())
    }

    #[test]
    fn the_first_line_with_words_passes_however_it_is_cut() {
        for size in 1..=12 {
            for (text, shown, ended) in [
                (" Spain, and Portugal\nQuestion: Who", " Spain, and Portugal", true),
                ("\n \n  é one\ttwo \r\n\n", "  é one\ttwo", true),
                ("one line", "one line", false),
                ("one  ", "one", false),
                (" \n ", "", false),
                ("", "", false),
            ] {
                assert_eq!(pass(text, size), (shown.to_owned(), ended), "{text:?} in pieces of {size}");
            }
        }
    }
}
