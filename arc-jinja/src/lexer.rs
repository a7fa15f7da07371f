//! Text to tokens, with Jinja's rules of white space. Source: the rules of `jinja2/lexer.py`, 3.1.

use std::sync::Arc;

use crate::Options;
use crate::error::{Error, Result};
use crate::python_text::is_space;
use crate::syntax::Const;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// Text outside of tags.
    Text(Arc<str>),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(Arc<str>),
    Literal(Literal),
    Operator(&'static str),
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Int(i128),
    Float(f64),
    Str(String),
}

impl Literal {
    pub(crate) fn into_const(self) -> Const {
        match self {
            Self::Int(number) => Const::Int(number),
            Self::Float(number) => Const::Float(number),
            Self::Str(text) => Const::Str(text.into()),
        }
    }
}

pub(crate) struct Spanned {
    pub(crate) token: Token,
    pub(crate) line: usize,
}

/// The longest first, so that `**` is not two.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";", "!",
];

pub(crate) fn tokens(source: &str, options: Options) -> Result<Vec<Spanned>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if !options.keep_trailing_newline && source.ends_with('\n') {
        source.pop();
    }
    Lexer { source: &source, at: 0, line: 1, line_starting: true, options, tokens: Vec::new() }.run()
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    /// Whether what was read last ended a line.
    line_starting: bool,
    options: Options,
    tokens: Vec<Spanned>,
}

/// What begins a tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Block,
    Print,
    Comment,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn run(mut self) -> Result<Vec<Spanned>> {
        while self.at < self.source.len() {
            let Some((offset, opening)) = self.next_opening() else {
                let text = self.rest().to_owned();
                self.text(&text);
                self.advance(text.len());
                break;
            };
            let text = self.rest()[..offset].to_owned();
            let sign = self.rest()[offset + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
            // A sign before a comment's end belongs to it, and a minus may be an operator of a tag.
            let text = self.stripped(&text, sign, opening != Opening::Print);
            self.text(&text);
            self.advance(offset);
            let begun = self.line;
            self.advance(2 + sign.map_or(0, char::len_utf8));
            match opening {
                Opening::Comment => self.comment(begun)?,
                Opening::Print => self.tag(Token::PrintBegin, "}}")?,
                Opening::Block => match self.raw_begin() {
                    Some(len) => self.raw(len, begun)?,
                    None => self.tag(Token::BlockBegin, "%}")?,
                },
            }
        }
        self.push(Token::End);
        Ok(self.tokens)
    }

    fn push(&mut self, token: Token) {
        let line = self.line;
        self.tokens.push(Spanned { token, line });
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Text(text.into()));
        }
    }

    /// Goes on by so many bytes.
    fn advance(&mut self, bytes: usize) {
        let gone = &self.source[self.at..self.at + bytes];
        if !gone.is_empty() {
            self.line += gone.matches('\n').count();
            self.line_starting = gone.ends_with('\n');
        }
        self.at += bytes;
    }

    fn next_opening(&self) -> Option<(usize, Opening)> {
        let bytes = self.rest().as_bytes();
        bytes.windows(2).enumerate().find_map(|(offset, pair)| {
            let opening = match pair {
                b"{%" => Opening::Block,
                b"{{" => Opening::Print,
                b"{#" => Opening::Comment,
                _ => return None,
            };
            Some((offset, opening))
        })
    }

    /// The text before a tag without what the tag's sign or the options drop.
    fn stripped<'t>(&self, text: &'t str, sign: Option<char>, is_block: bool) -> std::borrow::Cow<'t, str> {
        if sign == Some('-') {
            return text.trim_end_matches(is_space).into();
        }
        if sign != Some('+') && self.options.lstrip_blocks && is_block {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            if (line > 0 || self.line_starting) && text[line..].chars().all(is_space) {
                return text[..line].into();
            }
        }
        text.into()
    }

    /// The length of a tag's end at this place, with the white space that it takes along.
    fn tag_end(&self, end: &str, trims: bool) -> Option<usize> {
        let rest = self.rest();
        if let Some(after) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(end)) {
            return Some(rest.len() - after.trim_start_matches(is_space).len());
        }
        if end != "}}" && rest.strip_prefix('+').is_some_and(|rest| rest.starts_with(end)) {
            return Some(1 + end.len());
        }
        let after = rest.strip_prefix(end)?;
        Some(end.len() + usize::from(trims && self.options.trim_blocks && after.starts_with('\n')))
    }

    fn comment(&mut self, begun: usize) -> Result<()> {
        let Some(len) = self.rest().find("#}") else {
            return Err(Error::syntax(begun, "a comment has no end"));
        };
        // The sign before the end is the last character of the comment.
        let sign = self.rest()[..len].chars().next_back().filter(|sign| matches!(sign, '-' | '+'));
        self.advance(len - sign.map_or(0, char::len_utf8));
        let end = self.tag_end("#}", true).unwrap_or(2);
        self.advance(end);
        Ok(())
    }

    /// The length of ` raw %}` at this place.
    fn raw_begin(&self) -> Option<usize> {
        let rest = self.rest();
        let after = rest.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
        let after = match after.strip_prefix("-%}") {
            Some(after) => after.trim_start_matches(is_space),
            None => after.strip_prefix("%}")?,
        };
        Some(rest.len() - after.len())
    }

    fn raw(&mut self, begin: usize, begun: usize) -> Result<()> {
        self.advance(begin);
        let mut from = 0;
        loop {
            let Some(offset) = self.rest()[from..].find("{%").map(|offset| from + offset) else {
                return Err(Error::syntax(begun, "`raw` has no `endraw`"));
            };
            let tag = &self.rest()[offset + 2..];
            let sign = tag.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let inner = &tag[sign.map_or(0, char::len_utf8)..];
            let after = inner.trim_start_matches(is_space).strip_prefix("endraw");
            let Some(after) = after.map(|after| after.trim_start_matches(is_space)) else {
                from = offset + 2;
                continue;
            };
            let before_end = self.rest().len() - after.len();
            let text = self.rest()[..offset].to_owned();
            let text = self.stripped(&text, sign, true).into_owned();
            let at = self.at;
            self.at += before_end;
            let end = self.tag_end("%}", true);
            self.at = at;
            let Some(end) = end else {
                from = offset + 2;
                continue;
            };
            self.text(&text);
            self.advance(before_end + end);
            return Ok(());
        }
    }

    /// The tokens of a tag, until its end outside of brackets.
    fn tag(&mut self, begin: Token, end: &'static str) -> Result<()> {
        self.push(begin);
        let begun = self.line;
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(Error::syntax(begun, format!("a tag has no `{end}`")));
            };
            if open.is_empty()
                && let Some(len) = self.tag_end(end, end == "%}")
            {
                self.push(if end == "%}" { Token::BlockEnd } else { Token::PrintEnd });
                self.advance(len);
                return Ok(());
            }
            if is_space(first) {
                self.advance(first.len_utf8());
            } else if first.is_ascii_digit() {
                let (literal, len) = number(rest).map_err(|reason| Error::syntax(self.line, reason))?;
                self.push(Token::Literal(literal));
                self.advance(len);
            } else if first == '_' || first.is_alphanumeric() {
                let len = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                let name = rest[..len].into();
                self.push(Token::Name(name));
                self.advance(len);
            } else if matches!(first, '"' | '\'') {
                let (text, len) = string(rest, first).map_err(|reason| Error::syntax(self.line, reason))?;
                self.push(Token::Literal(Literal::Str(text)));
                self.advance(len);
            } else if let Some(operator) = OPERATORS.into_iter().find(|sign| rest.starts_with(sign)) {
                match operator {
                    "{" => open.push("}"),
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "}" | ")" | "]" if open.pop() != Some(operator) => {
                        return Err(Error::syntax(self.line, format!("unexpected `{operator}`")));
                    }
                    _ => {}
                }
                self.push(Token::Operator(operator));
                self.advance(operator.len());
            } else {
                let shown = first.escape_debug();
                return Err(Error::syntax(self.line, format!("unexpected character `{shown}`")));
            }
        }
    }
}

/// A number as Python writes it, and its length.
fn number(text: &str) -> std::result::Result<(Literal, usize), String> {
    let digits = |text: &str, radix: u32| {
        // Digits with single underscores between them.
        let mut len = 0;
        let bytes = text.as_bytes();
        while let Some(byte) = bytes.get(len) {
            let is_gap =
                *byte == b'_' && bytes.get(len + 1).is_some_and(|next| char::from(*next).is_digit(radix));
            if !is_gap && !char::from(*byte).is_digit(radix) {
                break;
            }
            len += 1;
        }
        len
    };
    for (prefix, radix) in [("0b", 2), ("0o", 8), ("0x", 16)] {
        if text.len() > 2 && text.is_char_boundary(2) && text[..2].eq_ignore_ascii_case(prefix) {
            let len = digits(&text[2..], radix);
            if len > 0 {
                let value = i128::from_str_radix(&text[2..2 + len].replace('_', ""), radix);
                return Ok((Literal::Int(value.map_err(|_| "a number is too large")?), 2 + len));
            }
        }
    }
    let whole = digits(text, 10);
    let mut len = whole;
    if text[len..].starts_with('.') {
        let fraction = digits(&text[len + 1..], 10);
        let starts_with_digit = text[len + 1..].starts_with(|c: char| c.is_ascii_digit());
        if fraction > 0 && starts_with_digit {
            len += 1 + fraction;
        }
    }
    if text[len..].starts_with(['e', 'E']) {
        let sign = usize::from(text[len + 1..].starts_with(['+', '-']));
        let exponent = digits(&text[len + 1 + sign..], 10);
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    let plain = text[..len].replace('_', "");
    let literal = if len == whole {
        Literal::Int(plain.parse().map_err(|_| "a number is too large")?)
    } else {
        Literal::Float(plain.parse().map_err(|_| "a number cannot be read")?)
    };
    Ok((literal, len))
}

/// A string in quotes, and its length with them. Escapes are Python's.
fn string(text: &str, quote: char) -> std::result::Result<(String, usize), String> {
    let mut characters = text.char_indices();
    characters.next();
    let mut value = String::new();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Ok((value, at + 1));
        }
        if character != '\\' {
            value.push(character);
            continue;
        }
        let Some((at, escaped)) = characters.next() else { break };
        let mut code = |digits: usize| {
            let hex =
                text.get(at + 1..at + 1 + digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
            let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
            for _ in 0..digits {
                characters.next();
            }
            code.ok_or_else(|| format!("a string has an escape `\\{escaped}` that names no character"))
        };
        match escaped {
            '\n' => {}
            'n' => value.push('\n'),
            't' => value.push('\t'),
            'r' => value.push('\r'),
            'a' => value.push('\x07'),
            'b' => value.push('\x08'),
            'f' => value.push('\x0c'),
            'v' => value.push('\x0b'),
            '\\' | '\'' | '"' => value.push(escaped),
            'x' => value.push(code(2)?),
            'u' => value.push(code(4)?),
            'U' => value.push(code(8)?),
            'N' => return Err("a string names a character by `\\N`, which is not known here".to_owned()),
            '0'..='7' => {
                let len = text[at..].bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                for _ in 1..len {
                    characters.next();
                }
                let code = u32::from_str_radix(&text[at..at + len], 8).ok().and_then(char::from_u32);
                value.push(code.ok_or("a string has an escape that names no character")?);
            }
            other => {
                value.push('\\');
                value.push(other);
            }
        }
    }
    Err("a string has no end".to_owned())
}
