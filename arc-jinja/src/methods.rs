//! The methods of Python's strings, lists, tuples, dicts and numbers. Those that would change a value are
//! known, and refused as transformers' sandbox refuses them.

use std::sync::Arc;

use crate::budget::Budget;
use crate::calls::{Args, int, needed, text, truth};
use crate::error::{Error, Result};
use crate::interpreter::Renderer;
use crate::markup;
use crate::operators::equal;
use crate::python_text::{is_printable, is_space};
use crate::str_format;
use crate::value::{Repr, Value, View};

const STR: [&str; 43] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
];
const STR_MORE: [&str; 4] = ["translate", "maketrans", "upper", "zfill"];
const CHANGE_LIST: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const CHANGE_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Whether a value has a method of that name.
pub(crate) fn has(value: &Value, name: &str) -> bool {
    match &value.0 {
        Repr::Str(_) | Repr::Markup(_) => STR.contains(&name) || STR_MORE.contains(&name),
        Repr::List(_) => matches!(name, "index" | "count" | "copy") || CHANGE_LIST.contains(&name),
        Repr::Tuple(_) | Repr::Range(_) => matches!(name, "index" | "count"),
        Repr::Dict(_) => {
            matches!(name, "get" | "keys" | "values" | "items" | "copy" | "fromkeys")
                || CHANGE_DICT.contains(&name)
        }
        Repr::Float(_) => matches!(name, "is_integer" | "hex" | "as_integer_ratio" | "conjugate"),
        Repr::Int(_) | Repr::Bool(_) => {
            matches!(name, "bit_length" | "bit_count" | "conjugate" | "is_integer")
        }
        Repr::Loop(_) => matches!(name, "cycle" | "changed"),
        Repr::Callable(callable) => {
            matches!(&**callable, crate::functions::Callable::Cycler { .. })
                && matches!(name, "next" | "reset")
        }
        _ => false,
    }
}

/// Calls a method that [`has`] knows.
pub(crate) fn call(renderer: &Renderer<'_>, receiver: &Value, name: &str, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    match &receiver.0 {
        Repr::Str(text) => of_str(renderer, text, name, args),
        Repr::Markup(text) => markup::method(renderer, text, name, args),
        Repr::List(_) if CHANGE_LIST.contains(&name) => Err(changes("list", name)),
        Repr::Dict(_) if CHANGE_DICT.contains(&name) => Err(changes("dict", name)),
        Repr::List(_) if name == "copy" => {
            args.none(name)?;
            Ok(receiver.clone())
        }
        Repr::List(_) | Repr::Tuple(_) | Repr::Range(_) => of_sequence(budget, receiver, name, args),
        Repr::Dict(dict) => match name {
            "keys" | "values" | "items" => {
                args.none(name)?;
                let view = match name {
                    "keys" => View::Keys,
                    "values" => View::Values,
                    _ => View::Items,
                };
                Ok(Value(Repr::View(view, dict.clone())))
            }
            "get" => {
                let [key, default] = args.bind(name, ["key", "default"])?;
                let found = dict.get(&needed(key, name, "key")?)?.cloned();
                Ok(found.or(default).unwrap_or(Value::NONE))
            }
            "copy" => {
                args.none(name)?;
                Ok(receiver.clone())
            }
            _ => Err(unknown("dict", name)),
        },
        Repr::Float(number) if name == "is_integer" => {
            args.none(name)?;
            Ok(Value::from(number.is_finite() && number.fract() == 0.0))
        }
        Repr::Int(_) | Repr::Bool(_) => {
            args.none(name)?;
            let number = receiver.as_int().unwrap_or_default();
            match name {
                "bit_length" => Ok(Value::from((128 - number.unsigned_abs().leading_zeros()) as usize)),
                "bit_count" => Ok(Value::from(number.unsigned_abs().count_ones() as usize)),
                "is_integer" => Ok(Value::from(true)),
                "conjugate" => Ok(Value::from(number)),
                _ => Err(unknown("int", name)),
            }
        }
        _ => Err(unknown(receiver.type_name(), name)),
    }
}

fn changes(of: &str, name: &str) -> Error {
    Error::failed(format!("`{name}` would change a {of}, which templates may not"))
}

fn unknown(of: &str, name: &str) -> Error {
    Error::failed(format!("method `{name}` of a {of} is not known here"))
}

fn of_sequence(budget: &Budget, receiver: &Value, name: &str, args: Args) -> Result<Value> {
    let [value, start, stop] = args.bind(name, ["value", "start", "stop"])?;
    let value = needed(value, name, "value")?;
    let items = receiver.elements(budget)?;
    let (start, stop) = (int(start, name, "start")?, int(stop, name, "stop")?);
    let range = bounds(items.len(), start, stop);
    match name {
        "count" => {
            let mut count = 0_usize;
            for item in &items {
                count += usize::from(equal(item, &value, budget)?);
            }
            Ok(Value::from(count))
        }
        "index" => {
            for at in range {
                if equal(&items[at], &value, budget)? {
                    return Ok(Value::from(at));
                }
            }
            Err(Error::failed("`index` finds no such element"))
        }
        _ => Err(unknown(receiver.type_name(), name)),
    }
}

/// The part of `length` places from `start` to `stop`, as slices have it.
fn bounds(length: usize, start: Option<i64>, stop: Option<i64>) -> std::ops::Range<usize> {
    let clamp = |bound: i64| {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let bound = if bound < 0 { bound.saturating_add(length).max(0) } else { bound.min(length) };
        usize::try_from(bound).unwrap_or(0)
    };
    let start_at = start.map_or(0, clamp);
    start_at..stop.map_or(length, clamp).max(start_at)
}

pub(crate) fn of_str(renderer: &Renderer<'_>, string: &Arc<str>, name: &str, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    budget.bytes(4 * string.len())?;
    let is = |test: bool| Ok(Value::from(test));
    match name {
        "upper" => {
            args.none(name)?;
            Ok(Value::from(string.to_uppercase()))
        }
        "lower" => {
            args.none(name)?;
            Ok(Value::from(string.to_lowercase()))
        }
        "casefold" => {
            args.none(name)?;
            Ok(Value::from(string.to_lowercase().replace('ß', "ss").replace('ς', "σ")))
        }
        "capitalize" => {
            args.none(name)?;
            Ok(Value::from(capitalized(string)))
        }
        "title" => {
            args.none(name)?;
            Ok(Value::from(titled(string)))
        }
        "swapcase" => {
            args.none(name)?;
            let swapped = string.chars().flat_map(|character| -> Box<dyn Iterator<Item = char>> {
                if character.is_uppercase() {
                    Box::new(character.to_lowercase())
                } else {
                    Box::new(character.to_uppercase())
                }
            });
            Ok(Value::from(swapped.collect::<String>()))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = text(chars, name, "chars")?;
            budget.spend(chars.as_ref().map_or(0, |chars| chars.len() * string.len() / 16))?;
            Ok(Value::from(stripped(string, chars.as_deref(), name != "rstrip", name != "lstrip")))
        }
        "split" | "rsplit" => {
            let [separator, times] = args.bind(name, ["sep", "maxsplit"])?;
            let separator = text(separator, name, "sep")?;
            let times = int(times, name, "maxsplit")?.and_then(|times| usize::try_from(times).ok());
            let parts = split(string, separator.as_deref(), times, name == "rsplit")?;
            budget.spend(parts.len())?;
            Value::new_list(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let lines = lines(string, truth(keep));
            budget.spend(lines.len())?;
            Value::new_list(lines.into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let [separator] = args.bind(name, ["sep"])?;
            let separator = needed_text(separator, name, "sep")?;
            if separator.is_empty() {
                return Err(Error::failed(format!("`{name}` cannot split at nothing")));
            }
            let split = match name {
                "partition" => string.split_once(&*separator),
                _ => string.rsplit_once(&*separator),
            };
            let parts = match split {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [string, "", ""],
                None => ["", "", string],
            };
            Value::tuple(parts.map(Value::from).to_vec())
        }
        "removeprefix" => {
            let [prefix] = args.bind(name, ["prefix"])?;
            let prefix = needed_text(prefix, name, "prefix")?;
            Ok(Value::from(string.strip_prefix(&*prefix).unwrap_or(string)))
        }
        "removesuffix" => {
            let [suffix] = args.bind(name, ["suffix"])?;
            let suffix = needed_text(suffix, name, "suffix")?;
            Ok(Value::from(string.strip_suffix(&*suffix).unwrap_or(string)))
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (needed_text(old, name, "old")?, needed_text(new, name, "new")?);
            replaced(budget, string, &old, &new, int(count, name, "count")?).map(Value::from)
        }
        "join" => {
            let [values] = args.bind(name, ["iterable"])?;
            let values = needed(values, name, "iterable")?.elements(budget)?;
            let mut joined = String::new();
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    budget.write(&mut joined, string)?;
                }
                let part = value.as_str().ok_or_else(|| {
                    Error::failed(format!("`join` takes strs, element {index} is a {}", value.type_name()))
                })?;
                budget.write(&mut joined, part)?;
            }
            Ok(Value::from(joined))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => find(string, name, args),
        "startswith" | "endswith" => {
            let [affix, start, stop] = args.bind(name, ["prefix", "start", "end"])?;
            let affix = needed(affix, name, "prefix")?;
            let (part, ..) = part(string, int(start, name, "start")?, int(stop, name, "end")?);
            let Some(part) = part else { return is(false) };
            let matches = |affix: &Value| match affix.as_str() {
                Some(affix) if name == "startswith" => Ok(part.starts_with(&**affix)),
                Some(affix) => Ok(part.ends_with(&**affix)),
                None => Err(Error::failed(format!(
                    "`{name}` takes a str or a tuple of strs, not a {}",
                    affix.type_name()
                ))),
            };
            if let Repr::Tuple(tuple) = &affix.0 {
                budget.spend(tuple.items.len())?;
                for affix in &tuple.items {
                    if matches(affix)? {
                        return is(true);
                    }
                }
                return is(false);
            }
            is(matches(&affix)?)
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.bind(name, ["width", "fillchar"])?;
            let width = int(Some(needed(width, name, "width")?), name, "width")?.unwrap_or(0);
            let fill = text(fill, name, "fillchar")?.unwrap_or_else(|| " ".into());
            let mut characters = fill.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return Err(Error::failed(format!("`{name}` fills with one character")));
            };
            let length = string.chars().count();
            let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
            let left = match name {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & width as usize & 1),
            };
            padded(budget, string, fill, left, missing - left).map(Value::from)
        }
        "zfill" => {
            let [width] = args.bind(name, ["width"])?;
            let width = int(Some(needed(width, name, "width")?), name, "width")?.unwrap_or(0);
            let missing = usize::try_from(width).unwrap_or(0).saturating_sub(string.chars().count());
            budget.bytes(missing)?;
            let digits = string.trim_start_matches(['+', '-']);
            let sign = if string.len() - digits.len() >= 1 { &string[..1] } else { "" };
            Ok(Value::from(format!("{sign}{}{}", "0".repeat(missing), &string[sign.len()..])))
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = usize::try_from(int(size, name, "tabsize")?.unwrap_or(8)).unwrap_or(0);
            let (mut expanded, mut column) = (String::new(), 0);
            for character in string.chars() {
                match character {
                    '\t' if size > 0 => {
                        let spaces = size - column % size;
                        budget.bytes(spaces)?;
                        expanded.push_str(&" ".repeat(spaces));
                        column += spaces;
                    }
                    '\t' => {}
                    _ => {
                        expanded.push(character);
                        column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
                    }
                }
            }
            Ok(Value::from(expanded))
        }
        "format" => str_format::format(renderer, string, &args).map(Value::from),
        "isalnum" => is(all(string, |c| c.is_alphanumeric()) && no_args(args, name)?),
        "isalpha" => is(all(string, |c| c.is_alphabetic() && !is_mark_or_number(c)) && no_args(args, name)?),
        "isascii" => is(string.is_ascii() && no_args(args, name)?),
        "isdecimal" => is(all(string, is_decimal) && no_args(args, name)?),
        "isdigit" => {
            is(all(string, |c| is_decimal(c) || is_digit_of_another_kind(c)) && no_args(args, name)?)
        }
        "isnumeric" => is(all(string, |c| c.is_numeric() || is_numeral(c)) && no_args(args, name)?),
        "isspace" => is(all(string, is_space) && no_args(args, name)?),
        "isprintable" => is(string.chars().all(is_printable) && no_args(args, name)?),
        "islower" => is(cased(string, char::is_lowercase, char::is_uppercase) && no_args(args, name)?),
        "isupper" => is(cased(string, char::is_uppercase, char::is_lowercase) && no_args(args, name)?),
        "isidentifier" => {
            let mut characters = string.chars();
            let begins = characters.next().is_some_and(|c| c == '_' || c.is_alphabetic());
            is(begins && characters.all(|c| c == '_' || c.is_alphanumeric()) && no_args(args, name)?)
        }
        "istitle" => {
            args.none(name)?;
            let (mut any, mut in_word) = (false, false);
            for character in string.chars() {
                let (upper, lower) = (character.is_uppercase(), character.is_lowercase());
                if (upper && in_word) || (lower && !in_word) {
                    return is(false);
                }
                in_word = upper || lower;
                any |= in_word;
            }
            is(any)
        }
        _ => Err(unknown("str", name)),
    }
}

fn no_args(args: Args, name: &str) -> Result<bool> {
    args.none(name).map(|()| true)
}

fn needed_text(value: Option<Value>, what: &str, name: &str) -> Result<Arc<str>> {
    let value = needed(value, what, name)?;
    text(Some(value), what, name)?.ok_or_else(|| Error::failed(format!("`{what}` needs a str as `{name}`")))
}

fn all(string: &str, test: impl Fn(char) -> bool) -> bool {
    !string.is_empty() && string.chars().all(test)
}

fn cased(string: &str, some: impl Fn(char) -> bool, none: impl Fn(char) -> bool) -> bool {
    string.chars().any(some) && !string.chars().any(none)
}

/// A decimal digit of any script. Source: the ranges of ten of Unicode's category Nd, to 15.
fn is_decimal(character: char) -> bool {
    const ZEROS: [u32; 40] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
        0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0,
        0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x11066,
        0x1d7ce,
    ];
    let code = u32::from(character);
    ZEROS.iter().any(|&zero| (zero..zero + if zero == 0x1d7ce { 50 } else { 10 }).contains(&code))
}

/// Superscripts, subscripts and digits in circles, which `isdigit` counts too.
fn is_digit_of_another_kind(character: char) -> bool {
    matches!(u32::from(character), 0xb2 | 0xb3 | 0xb9 | 0x2070 | 0x2074..=0x2079 | 0x2080..=0x2089
        | 0x2460..=0x2468 | 0x2474..=0x247c | 0x2488..=0x2490 | 0x24ea | 0x24f5..=0x24fd | 0x24ff
        | 0x2776..=0x277e | 0x2780..=0x2788 | 0x278a..=0x2792)
}

/// Chinese numerals, whose category is that of letters.
fn is_numeral(character: char) -> bool {
    "一七万三九二五亖亿仟伍佰億兆八六兩十千卅卌叁叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰陆陌陸零〇"
        .contains(character)
}

/// What Rust calls alphabetic and Python does not: marks, and numbers that are letters.
fn is_mark_or_number(character: char) -> bool {
    character.is_numeric() || matches!(u32::from(character), 0x300..=0x36f | 0x24b6..=0x24e9)
}

pub(crate) fn capitalized(string: &str) -> String {
    let mut characters = string.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(characters.as_str().to_lowercase().chars()).collect()
}

fn titled(string: &str) -> String {
    let mut titled = String::with_capacity(string.len());
    let mut in_word = false;
    for character in string.chars() {
        if in_word {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        in_word = character.is_lowercase() || character.is_uppercase();
    }
    titled
}

pub(crate) fn stripped<'s>(string: &'s str, chars: Option<&str>, left: bool, right: bool) -> &'s str {
    let drops = |character: char| match chars {
        Some(chars) => chars.contains(character),
        None => is_space(character),
    };
    let string = if left { string.trim_start_matches(drops) } else { string };
    if right { string.trim_end_matches(drops) } else { string }
}

fn split<'s>(
    string: &'s str,
    separator: Option<&str>,
    times: Option<usize>,
    from_right: bool,
) -> Result<Vec<&'s str>> {
    let parts = times.map_or(usize::MAX, |times| times.saturating_add(1));
    match separator {
        Some("") => Err(Error::failed("`split` cannot split at nothing")),
        Some(separator) if from_right => {
            let mut split: Vec<_> = string.rsplitn(parts, separator).collect();
            split.reverse();
            Ok(split)
        }
        Some(separator) => Ok(string.splitn(parts, separator).collect()),
        None => {
            // Runs of white space separate, and what is left over keeps its own.
            let mut split = Vec::new();
            let mut rest = stripped(string, None, !from_right, from_right);
            while !rest.is_empty() {
                if split.len() + 1 == parts {
                    split.push(rest);
                    break;
                }
                if from_right {
                    let at = rest
                        .rfind(is_space)
                        .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
                    split.push(&rest[at..]);
                    rest = rest[..at].trim_end_matches(is_space);
                } else {
                    let at = rest.find(is_space).unwrap_or(rest.len());
                    split.push(&rest[..at]);
                    rest = rest[at..].trim_start_matches(is_space);
                }
            }
            if from_right {
                split.reverse();
            }
            Ok(split)
        }
    }
}

/// Python's `splitlines`.
pub(crate) fn lines(string: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |character: char| {
        matches!(
            character,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = string;
    while !rest.is_empty() {
        let Some(at) = rest.find(is_end) else {
            lines.push(rest);
            break;
        };
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    lines
}

pub(crate) fn replaced(
    budget: &Budget,
    string: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
) -> Result<String> {
    let places = if old.is_empty() { string.chars().count() + 1 } else { string.matches(old).count() };
    let count = count.and_then(|count| usize::try_from(count).ok()).map_or(places, |count| count.min(places));
    budget.bytes(string.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(string.replacen(old, new, count))
}

pub(crate) fn padded(budget: &Budget, string: &str, fill: char, left: usize, right: usize) -> Result<String> {
    budget.bytes(string.len().saturating_add(left.saturating_add(right).saturating_mul(fill.len_utf8())))?;
    let fill = |count: usize| std::iter::repeat_n(fill, count);
    Ok(fill(left).chain(string.chars()).chain(fill(right)).collect())
}

/// The part of a string from one character to another, and at which character and byte it begins;
/// nothing where it begins behind the end.
fn part(string: &str, start: Option<i64>, stop: Option<i64>) -> (Option<&str>, usize) {
    if start.is_none() && stop.is_none() {
        return (Some(string), 0);
    }
    let length = string.chars().count();
    let range = bounds(length, start, stop);
    if start.is_some_and(|start| start > length as i64) {
        return (None, 0);
    }
    let byte = |at: usize| string.char_indices().nth(at).map_or(string.len(), |(byte, _)| byte);
    (string.get(byte(range.start)..byte(range.end)), range.start)
}

fn find(string: &str, name: &str, args: Args) -> Result<Value> {
    let [wanted, start, stop] = args.bind(name, ["sub", "start", "end"])?;
    let wanted = needed_text(wanted, name, "sub")?;
    let (part, begin) = part(string, int(start, name, "start")?, int(stop, name, "end")?);
    if name == "count" {
        let count = match part {
            None => 0,
            Some(part) if wanted.is_empty() => part.chars().count() + 1,
            Some(part) => part.matches(&*wanted).count(),
        };
        return Ok(Value::from(count));
    }
    let found = part.and_then(|part| {
        let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) }?;
        Some(begin + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1_i64)),
        None => Err(Error::failed(format!("`{name}` finds no `{wanted}`"))),
    }
}
