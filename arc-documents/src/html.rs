//! The text of a web page.

use html5gum::{DefaultEmitter, Token, Tokenizer};

use crate::plain::Refusal;

/// Elements that begin on a line of their own and end one.
const BLOCKS: [&str; 35] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "caption",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tr",
    "ul",
];

/// Elements with an empty line before and after them.
const PARAGRAPHS: [&str; 13] =
    ["blockquote", "dl", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "ul"];

/// Elements whose content is no text of the page.
const HIDDEN: [&str; 7] = ["script", "style", "template", "title", "noscript", "iframe", "textarea"];

/// The page as a browser would show it without images, scripts and styles: a line for each block, an empty one
/// around paragraphs, and the cells of a row apart by tabs.
pub(crate) fn text(page: &str) -> Result<String, Refusal> {
    let mut emitter = DefaultEmitter::default();
    // The content of scripts and styles is text to the tokenizer, whatever it looks like.
    emitter.naively_switch_states(true);
    let mut page_text = PageText::default();
    for token in Tokenizer::new_with_emitter(page, emitter) {
        // Reading from memory does not fail.
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => page_text.start(&String::from_utf8_lossy(&tag.name), tag.self_closing),
            Token::EndTag(tag) => page_text.end(&String::from_utf8_lossy(&tag.name)),
            Token::String(piece) => page_text.push(&String::from_utf8_lossy(&piece)),
            _ => {}
        }
    }
    Ok(page_text.text.trim_end().to_owned())
}

#[derive(Default)]
struct PageText {
    text: String,
    /// The element whose content is left out, while it is open. They are not nested in each other.
    hidden: Option<String>,
    /// Elements in which spaces and line ends count.
    preformatted: usize,
    /// Whether white space was left out since the last character.
    has_space: bool,
    /// Line ends to come before the next character.
    lines: usize,
    /// Whether a cell ended in this row.
    has_cell: bool,
}

impl PageText {
    fn start(&mut self, name: &str, is_closed: bool) {
        if self.hidden.is_some() {
            return;
        }
        if HIDDEN.contains(&name) && !is_closed {
            self.hidden = Some(name.to_owned());
            return;
        }
        self.break_at(name);
        match name {
            "pre" => self.preformatted += 1,
            "tr" => self.has_cell = false,
            "td" | "th" if self.has_cell => self.has_space = true,
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if let Some(hidden) = &self.hidden {
            if hidden == name {
                self.hidden = None;
            }
            return;
        }
        self.break_at(name);
        match name {
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            "td" | "th" => self.has_cell = true,
            _ => {}
        }
    }

    /// Has the next character begin on another line, where the element is a block.
    fn break_at(&mut self, name: &str) {
        let lines = match name {
            _ if PARAGRAPHS.contains(&name) => 2,
            _ if BLOCKS.contains(&name) => 1,
            _ => return,
        };
        self.lines = self.lines.max(lines);
    }

    fn push(&mut self, piece: &str) {
        if self.hidden.is_some() {
            return;
        }
        for character in piece.chars() {
            if self.preformatted > 0 && matches!(character, '\n' | ' ' | '\t') {
                self.begin();
                self.text.push(character);
            } else if character.is_ascii_whitespace() {
                self.has_space = true;
            } else {
                self.begin();
                self.text.push(character);
            }
        }
    }

    /// What comes before the next character.
    fn begin(&mut self) {
        let is_first = self.text.is_empty();
        if self.lines > 0 && !is_first {
            let there = self.text.chars().rev().take_while(|&character| character == '\n').count();
            (there..self.lines).for_each(|_| self.text.push('\n'));
        } else if self.has_cell && self.has_space {
            self.text.push('\t');
            self.has_cell = false;
        } else if self.has_space && !is_first && !self.text.ends_with(char::is_whitespace) {
            self.text.push(' ');
        }
        (self.lines, self.has_space) = (0, false);
    }
}
