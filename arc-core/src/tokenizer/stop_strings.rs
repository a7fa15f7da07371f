//! Ending generation at a string, wherever the tokens happen to cut it.

use crate::{Error, Result};

/// Watches a stream of text for strings that end it.
///
/// Text that may be the beginning of a stop string is held back until it is clear that it is not,
/// so no part of a stop string is ever let through.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Watches for any of `stops`; with none, everything passes at once.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if one is empty: it would stop before the first character.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.iter().any(String::is_empty) {
            return Err(Error::InvalidValue {
                what: "a stop string".into(),
                found: String::new(),
                expected: "one that is not empty".into(),
            });
        }
        Ok(Self { stops, held: String::new(), stopped: false })
    }

    /// Takes the next text and returns what may be shown. Once a stop string has come,
    /// [`stopped`](Self::stopped) is true and nothing passes any more; the earliest in the text
    /// counts.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.possible_beginning();
        let held = self.held.split_off(keep);
        std::mem::replace(&mut self.held, held)
    }

    /// Where the longest end of the held text starts that is the beginning of a stop string.
    fn possible_beginning(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        self.held
            .char_indices()
            .map(|(at, _)| at)
            .filter(|at| self.held.len() - at < longest)
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }

    /// Whether a stop string has come.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Ends the stream: what was held back was no stop string after all.
    #[must_use]
    pub fn finish(self) -> String {
        if self.stopped { String::new() } else { self.held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes if `text` arrives in pieces of `size` characters.
    fn pass(stops: &[&str], text: &str, size: usize) -> (String, bool) {
        let mut watch = StopStrings::new(stops.iter().copied()).unwrap();
        let characters: Vec<char> = text.chars().collect();
        let mut shown = String::new();
        for piece in characters.chunks(size) {
            shown += &watch.push(&piece.iter().collect::<String>());
        }
        let stopped = watch.stopped();
        (shown + &watch.finish(), stopped)
    }

    #[test]
    fn the_text_ends_before_the_earliest_stop_however_it_is_cut() {
        for size in 1..=12 {
            assert_eq!(pass(&["</s>", "\n\n"], "one\ntwo</s three\n\nfour</s>", size).0, "one\ntwo</s three");
            assert_eq!(pass(&["é!"], "caféé!x", size), ("café".into(), true));
            assert_eq!(pass(&["aab"], "aaaab", size), ("aa".into(), true));
            assert_eq!(pass(&["stop"], "no sto", size), ("no sto".into(), false));
            assert_eq!(pass(&[], "anything", size), ("anything".into(), false));
        }
    }

    #[test]
    fn only_what_may_begin_a_stop_is_held_back() {
        let mut watch = StopStrings::new(["END"]).unwrap();
        assert_eq!(watch.push("the E"), "the ");
        assert_eq!(watch.push("N"), "");
        assert_eq!(watch.push("G"), "ENG");
        assert_eq!(watch.push("END more"), "");
        assert_eq!(watch.push("nothing"), "");
        assert!(watch.stopped());
    }

    #[test]
    fn an_empty_stop_is_refused() {
        assert!(StopStrings::new([""]).is_err());
    }
}
