//! Values as text, as Python's `str` and `repr` write them.

use std::sync::Arc;

use crate::budget::Budget;
use crate::error::Result;
use crate::value::{Repr, Value, View};

/// Python's white space: Unicode's, and the four separators of ASCII.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Python's `str`.
pub(crate) fn to_str(value: &Value, budget: &Budget) -> Result<Arc<str>> {
    if let Some(text) = value.as_str() {
        return Ok(text.clone());
    }
    let mut text = String::new();
    write_str(&mut text, value, budget)?;
    Ok(text.into())
}

/// Writes a value as it is printed.
pub(crate) fn write_str(output: &mut String, value: &Value, budget: &Budget) -> Result<()> {
    match &value.0 {
        Repr::Str(text) | Repr::Markup(text) => budget.write(output, text),
        Repr::Undefined(_) => Ok(()),
        _ => write_repr(output, value, budget),
    }
}

/// Writes a value as Python's `repr`.
pub(crate) fn write_repr(output: &mut String, value: &Value, budget: &Budget) -> Result<()> {
    match &value.0 {
        Repr::Undefined(_) => budget.write(output, "Undefined"),
        Repr::None => budget.write(output, "None"),
        Repr::Bool(truth) => budget.write(output, if *truth { "True" } else { "False" }),
        Repr::Int(number) => budget.write(output, &number.to_string()),
        Repr::Float(number) => budget.write(output, &float(*number)),
        Repr::Str(text) => {
            budget.bytes(4 * text.len())?;
            budget.write(output, &quoted(text))
        }
        Repr::Markup(text) => {
            budget.bytes(4 * text.len())?;
            budget.write(output, &format!("Markup({})", quoted(text)))
        }
        Repr::List(list) => sequence(output, "[", &list.items, "]", budget),
        Repr::Tuple(tuple) => {
            let end = if tuple.items.len() == 1 { ",)" } else { ")" };
            sequence(output, "(", &tuple.items, end, budget)
        }
        Repr::Dict(dict) => {
            budget.write(output, "{")?;
            for (index, (key, value)) in dict.pairs.iter().enumerate() {
                if index > 0 {
                    budget.write(output, ", ")?;
                }
                write_repr(output, key, budget)?;
                budget.write(output, ": ")?;
                write_repr(output, value, budget)?;
            }
            budget.write(output, "}")
        }
        Repr::Range(range) => {
            let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
            budget.write(output, &format!("range({}, {}{step})", range.start, range.stop))
        }
        Repr::View(view, _) => {
            budget.write(
                output,
                match view {
                    View::Keys => "dict_keys(",
                    View::Values => "dict_values(",
                    View::Items => "dict_items(",
                },
            )?;
            let elements = value.elements(budget)?;
            sequence(output, "[", &elements, "])", budget)
        }
        Repr::Namespace(namespace) => {
            if namespace.is_shown.replace(true) {
                return budget.write(output, "{...}");
            }
            let show = || {
                budget.write(output, "<Namespace {")?;
                for (index, (name, value)) in namespace.attributes.borrow().iter().enumerate() {
                    if index > 0 {
                        budget.write(output, ", ")?;
                    }
                    budget.write(output, &quoted(name))?;
                    budget.write(output, ": ")?;
                    write_repr(output, value, budget)?;
                }
                budget.write(output, "}>")
            };
            let shown = budget.showing(show);
            namespace.is_shown.set(false);
            shown
        }
        // Python writes addresses of memory here, which no template can want.
        Repr::Iterator(_) => budget.write(output, "<generator object>"),
        Repr::Callable(callable) => budget.write(output, &format!("<{}>", callable.describe())),
        Repr::Loop(state) => {
            budget.write(output, &format!("<LoopContext {}/{}>", state.index() + 1, state.len()))
        }
    }
}

fn sequence(output: &mut String, begin: &str, items: &[Value], end: &str, budget: &Budget) -> Result<()> {
    budget.write(output, begin)?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            budget.write(output, ", ")?;
        }
        write_repr(output, item, budget)?;
    }
    budget.write(output, end)
}

/// The shortest text that reads back as the same float.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Rust's `Debug` changes to exponents where Python does, and writes them without sign and zeros.
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        None => text,
    }
}

/// A string in quotes, as `repr` writes it.
pub(crate) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if character == quote => {
                quoted.push('\\');
                quoted.push(quote);
            }
            _ if is_printable(character) => quoted.push(character),
            _ => match u32::from(character) {
                code @ 0..=0xff => quoted.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => quoted.push_str(&format!("\\u{code:04x}")),
                code => quoted.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    quoted.push(quote);
    quoted
}

/// Python's `isprintable` of one character, save for code points that no version of Unicode assigned.
/// Source: the general categories Cc, Cf, Co, Zl, Zp and Zs of Unicode 15.
pub(crate) fn is_printable(character: char) -> bool {
    if character.is_control() || (is_space(character) && character != ' ') {
        return false;
    }
    !matches!(
        u32::from(character),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180e | 0x200b..=0x200f
            | 0x202a..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0x110bd
            | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0001
            | 0xe0020..=0xe007f | 0xf_0000..
    )
}
