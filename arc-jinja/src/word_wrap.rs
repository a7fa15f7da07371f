//! `wordwrap`: lines of a width, as Python's `textwrap` breaks them.

use std::sync::Arc;

use crate::budget::Budget;
use crate::calls::{Args, int, text, truth_or};
use crate::error::{Error, Result};
use crate::methods::lines;
use crate::python_text::is_space;

pub(crate) fn word_wrap(string: &str, args: Args, budget: &Budget) -> Result<String> {
    let [width, break_long, wrap, break_hyphens] =
        args.bind("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
    let width = usize::try_from(int(width, "wordwrap", "width")?.unwrap_or(79)).unwrap_or(0);
    if width == 0 {
        return Err(Error::failed("`wordwrap` needs a width of 1 or more"));
    }
    let wrap: Arc<str> = text(wrap, "wordwrap", "wrapstring")?.unwrap_or_else(|| "\n".into());
    let (break_long, break_hyphens) = (truth_or(break_long, true), truth_or(break_hyphens, true));
    let mut wrapped = String::new();
    for (index, line) in lines(string, false).iter().enumerate() {
        if index > 0 {
            budget.write(&mut wrapped, &wrap)?;
        }
        budget.spend(line.len())?;
        for (index, line) in wrapped_line(line, width, break_long, break_hyphens).iter().enumerate() {
            if index > 0 {
                budget.write(&mut wrapped, &wrap)?;
            }
            budget.write(&mut wrapped, line)?;
        }
    }
    Ok(wrapped)
}

/// Words and the white space between them; words end after a hyphen between letters where they may.
fn chunks(line: &str, break_hyphens: bool) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    let characters: Vec<char> = line.chars().collect();
    let mut chunk = String::new();
    for (at, &character) in characters.iter().enumerate() {
        if let Some(last) = chunk.chars().next_back()
            && is_space(last) != is_space(character)
        {
            chunks.push(std::mem::take(&mut chunk));
        }
        chunk.push(character);
        let letter =
            |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(|c| c.is_alphabetic());
        let ends = break_hyphens
            && character == '-'
            && letter(at.checked_sub(1))
            && letter(Some(at + 1))
            && (letter(Some(at + 2)) || characters.get(at + 2) == Some(&'-') || chunk.chars().count() > 2);
        if ends {
            chunks.push(std::mem::take(&mut chunk));
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

fn wrapped_line(line: &str, width: usize, break_long: bool, break_hyphens: bool) -> Vec<String> {
    let mut left: std::collections::VecDeque<String> = chunks(line, break_hyphens).into();
    let mut wrapped = Vec::new();
    while !left.is_empty() {
        let (mut current, mut length): (Vec<String>, usize) = (Vec::new(), 0);
        // White space at the begin of any line but the first is dropped.
        if !wrapped.is_empty() && left.front().is_some_and(|chunk| chunk.chars().all(is_space)) {
            left.pop_front();
        }
        while let Some(chunk) = left.front() {
            let count = chunk.chars().count();
            if length + count > width {
                break;
            }
            length += count;
            current.extend(left.pop_front());
        }
        if let Some(chunk) = left.front_mut()
            && chunk.chars().count() > width
        {
            let room = width.saturating_sub(length);
            if break_long {
                let at = chunk.char_indices().nth(room).map_or(chunk.len(), |(at, _)| at);
                let rest = chunk.split_off(at);
                current.push(std::mem::replace(chunk, rest));
            } else if current.is_empty() {
                current.extend(left.pop_front());
            }
        }
        if current.last().is_some_and(|chunk| chunk.chars().all(is_space)) {
            current.pop();
        }
        if !current.is_empty() {
            wrapped.push(current.concat());
        }
    }
    wrapped
}
