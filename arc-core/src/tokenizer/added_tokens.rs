//! Tokens that are found in a text before any word is cut: special and user-defined ones.

use std::collections::{HashMap, HashSet};

use tokenizers::utils::SysRegex;

use super::parts::Around;

/// A set of literal tokens; the leftmost, and of those the longest, is found first.
pub(super) struct AddedTokens {
    ids: HashMap<String, u32>,
    /// Characters that follow each other in a token.
    neighbours: HashSet<(char, char)>,
    finder: Option<SysRegex>,
}

/// A stretch of text: either one added token, or text to be cut and merged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextPiece<'t> {
    /// An added token, with its id and its text.
    Token(u32, &'t str),
    /// Text between added tokens, not empty.
    Text(&'t str),
}

impl AddedTokens {
    /// The set of `tokens`; an empty one is left out, and of equal ones the first stays.
    ///
    /// # Errors
    /// The engine's reason, if it cannot take that many or that long tokens.
    pub(super) fn new<'a>(
        tokens: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> std::result::Result<Self, String> {
        let mut ids = HashMap::new();
        for (token, id) in tokens {
            if !token.is_empty() {
                ids.entry(token.to_owned()).or_insert(id);
            }
        }
        if ids.is_empty() {
            return Ok(Self { ids, neighbours: HashSet::new(), finder: None });
        }
        let neighbours = ids.keys().flat_map(|token| token.chars().zip(token.chars().skip(1))).collect();
        // The first alternative that matches wins: longest first makes that the longest.
        let mut literals: Vec<&str> = ids.keys().map(String::as_str).collect();
        literals.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        let mut expression = String::new();
        for literal in literals {
            if !expression.is_empty() {
                expression.push('|');
            }
            for character in literal.chars() {
                if r"\.+*?()|[]{}^$#&-~".contains(character) {
                    expression.push('\\');
                }
                expression.push(character);
            }
        }
        let finder = SysRegex::new(&expression).map_err(|error| error.to_string())?;
        Ok(Self { ids, neighbours, finder: Some(finder) })
    }

    /// Whether a token could reach from the one character to the next.
    pub(super) fn joins(&self, around: Around) -> bool {
        self.neighbours.contains(&(around.last, around.next))
    }

    /// The pieces of `text`, in order; together they are the text.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<TextPiece<'t>> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for (start, end) in self.finder.iter().flat_map(|finder| finder.find_iter(text)) {
            let Some(&id) = self.ids.get(&text[start..end]) else {
                continue;
            };
            if done < start {
                pieces.push(TextPiece::Text(&text[done..start]));
            }
            pieces.push(TextPiece::Token(id, &text[start..end]));
            done = end;
        }
        if done < text.len() {
            pieces.push(TextPiece::Text(&text[done..]));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TextPiece::{Text, Token};

    #[test]
    fn the_longest_of_the_leftmost_tokens_is_found() {
        let added = AddedTokens::new([("\n", 1), ("\n\n", 2), ("<|a|>", 3), ("[x]", 4)]).unwrap();
        assert_eq!(
            added.split("u\n\n\nv<|a|>[x]x"),
            [
                Text("u"),
                Token(2, "\n\n"),
                Token(1, "\n"),
                Text("v"),
                Token(3, "<|a|>"),
                Token(4, "[x]"),
                Text("x")
            ]
        );
    }

    #[test]
    fn thousands_of_tokens_are_searched_at_once() {
        let names: Vec<String> = (0..6000).map(|n| format!("<unused{n}>")).collect();
        let added = AddedTokens::new((0..).zip(&names).map(|(id, name)| (name.as_str(), id))).unwrap();
        assert_eq!(added.split("a<unused599>b"), [Text("a"), Token(599, "<unused599>"), Text("b")]);
    }

    #[test]
    fn no_tokens_leave_the_text_whole() {
        let added = AddedTokens::new([("", 1)]).unwrap();
        assert_eq!(added.split("a.b"), [Text("a.b")]);
        assert_eq!(added.split(""), []);
    }
}
