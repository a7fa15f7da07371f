//! The filters of Jinja 3.1. Source: `jinja2/filters.py`.

use std::collections::HashSet;
use std::sync::Arc;

use crate::budget::Budget;
use crate::calls::{Args, int, needed, text, truth};
use crate::error::{Error, Result};
use crate::interpreter::Renderer;
use crate::json::to_json;
use crate::methods::{capitalized, lines, padded, replaced, stripped};
use crate::operators::{binary, order, sort_by_key};
use crate::percent_format::percent;
use crate::python_text::{is_space, to_str};
use crate::syntax::Operator;
use crate::tests_of_values::test;
use crate::value::{Repr, Value};
use crate::{html, markup, word_wrap};

/// The filters that are known by that name.
pub(crate) fn is_known(name: &str) -> bool {
    matches!(
        name,
        "abs"
            | "attr"
            | "batch"
            | "capitalize"
            | "center"
            | "count"
            | "d"
            | "default"
            | "dictsort"
            | "e"
            | "escape"
            | "filesizeformat"
            | "first"
            | "float"
            | "forceescape"
            | "format"
            | "groupby"
            | "indent"
            | "int"
            | "items"
            | "join"
            | "last"
            | "length"
            | "list"
            | "lower"
            | "map"
            | "max"
            | "min"
            | "reject"
            | "rejectattr"
            | "replace"
            | "reverse"
            | "round"
            | "safe"
            | "select"
            | "selectattr"
            | "slice"
            | "sort"
            | "string"
            | "striptags"
            | "sum"
            | "title"
            | "tojson"
            | "trim"
            | "truncate"
            | "unique"
            | "upper"
            | "urlencode"
            | "wordcount"
            | "wordwrap"
    )
}

pub(crate) fn apply(renderer: &Renderer<'_>, name: &str, value: Value, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    budget.spend(1)?;
    match name {
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let takes = value.is_undefined() || (truth(boolean) && !value.is_true());
            Ok(if takes { default.unwrap_or_else(|| Value::from("")) } else { value })
        }
        "abs" => {
            args.none(name)?;
            match (&value.0, value.as_int()) {
                (Repr::Float(number), _) => Ok(Value::from(number.abs())),
                (_, Some(number)) => {
                    number.checked_abs().map(Value::from).ok_or_else(|| mismatch(name, &value))
                }
                _ => Err(mismatch(name, &value)),
            }
        }
        "attr" => {
            let [attribute] = args.bind(name, ["name"])?;
            let attribute = to_str(&needed(attribute, name, "name")?, budget)?;
            match &value.0 {
                // An attribute of a dict is a method and never an item here.
                Repr::Dict(_) => Ok(Value::undefined("a dict has no such attribute")),
                _ => renderer.attribute(&value, &attribute),
            }
        }
        "length" | "count" => {
            args.none(name)?;
            match value.len(budget)? {
                Some(length) => Ok(Value::from(length)),
                None => Err(mismatch(name, &value)),
            }
        }
        "list" => {
            args.none(name)?;
            Value::new_list(value.elements(budget)?)
        }
        "string" => {
            args.none(name)?;
            Ok(Value::text_like(&value, to_str(&value, budget)?))
        }
        "safe" => {
            args.none(name)?;
            to_str(&value, budget).map(Value::markup)
        }
        "items" => {
            args.none(name)?;
            match &value.0 {
                Repr::Undefined(_) => Value::iterator(Vec::new()),
                Repr::Dict(dict) => Value::iterator(
                    Value(Repr::View(crate::value::View::Items, dict.clone())).elements(budget)?,
                ),
                _ => Err(mismatch(name, &value)),
            }
        }
        "first" => {
            args.none(name)?;
            let none = || Value::undefined("there is no first item");
            match &value.0 {
                Repr::Iterator(lazy) => Ok(lazy.left.borrow_mut().pop_front().unwrap_or_else(none)),
                _ => Ok(value.elements(budget)?.into_iter().next().unwrap_or_else(none)),
            }
        }
        "last" => {
            args.none(name)?;
            if matches!(value.0, Repr::Iterator(_)) {
                return Err(mismatch(name, &value));
            }
            Ok(value.elements(budget)?.pop().unwrap_or(Value::undefined("there is no last item")))
        }
        "reverse" => {
            args.none(name)?;
            if let Some(text) = value.as_str() {
                budget.bytes(text.len())?;
                return Ok(Value::text_like(&value, text.chars().rev().collect::<String>()));
            }
            let mut items = value.elements(budget)?;
            items.reverse();
            let is_generator = matches!(value.0, Repr::Iterator(_));
            if is_generator { Value::new_list(items) } else { Value::iterator(items) }
        }
        "join" => join(renderer, &value, args),
        "tojson" => to_json(&value, args, budget),
        "format" => format(&value, args, budget),
        "int" => to_int(&value, args, budget),
        "float" => to_float(&value, args, budget),
        "round" => round(&value, args),
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or_else(|| Value::from(0_i64));
            for item in value.elements(budget)? {
                let item = attribute_of(renderer, &item, attribute.as_ref(), None)?;
                sum = binary(Operator::Add, &sum, &item, budget)?;
            }
            Ok(sum)
        }
        "min" | "max" => {
            let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let case_sensitive = truth(case_sensitive);
            let mut best: Option<(Value, Value)> = None;
            for item in value.elements(budget)? {
                let key = key_of(renderer, &item, attribute.as_ref(), case_sensitive)?;
                let better = match &best {
                    None => true,
                    Some((best, _)) if name == "max" => order("<", best, &key, budget)?.is_lt(),
                    Some((best, _)) => order("<", &key, best, budget)?.is_lt(),
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or(Value::undefined("there is no item"), |(_, item)| item))
        }
        "sort" => {
            let [reverse, case_sensitive, attribute] =
                args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let case_sensitive = truth(case_sensitive);
            let mut keyed = Vec::new();
            for item in value.elements(budget)? {
                let key = match attribute.as_ref().and_then(Value::as_str).filter(|names| names.contains(','))
                {
                    Some(names) => {
                        let keys = names
                            .split(',')
                            .map(|name| key_of(renderer, &item, Some(&Value::from(name)), case_sensitive));
                        Value::new_list(keys.collect::<Result<_>>()?)?
                    }
                    None => key_of(renderer, &item, attribute.as_ref(), case_sensitive)?,
                };
                keyed.push((key, item));
            }
            Value::new_list(sort_by_key(keyed, truth(reverse), budget)?)
        }
        "dictsort" => {
            let [case_sensitive, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Repr::Dict(dict) = &value.0 else { return Err(mismatch(name, &value)) };
            let by = text(by, name, "by")?;
            let place = match by.as_deref() {
                None | Some("key") => 0,
                Some("value") => 1,
                Some(_) => return Err(Error::failed("`dictsort` sorts by `key` or by `value`")),
            };
            let case_sensitive = truth(case_sensitive);
            let mut keyed = Vec::new();
            for pair in Value(Repr::View(crate::value::View::Items, dict.clone())).elements(budget)? {
                let of = pair.elements(budget)?.swap_remove(place);
                keyed.push((key_of(renderer, &of, None, case_sensitive)?, pair));
            }
            Value::new_list(sort_by_key(keyed, truth(reverse), budget)?)
        }
        "unique" => {
            let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let case_sensitive = truth(case_sensitive);
            let (mut seen, mut kept) = (HashSet::new(), Vec::new());
            for item in value.elements(budget)? {
                if seen.insert(key_of(renderer, &item, attribute.as_ref(), case_sensitive)?.key()?) {
                    kept.push(item);
                }
            }
            Value::iterator(kept)
        }
        "groupby" => group_by(renderer, &value, args),
        "batch" => {
            let [count, fill] = args.bind(name, ["linecount", "fill_with"])?;
            let count = int(Some(needed(count, name, "linecount")?), name, "linecount")?.unwrap_or(0);
            let count = usize::try_from(count).unwrap_or(0);
            let items = value.elements(budget)?;
            if count == 0 {
                // Never full, so it is one batch.
                return Value::iterator(match items.is_empty() {
                    true => Vec::new(),
                    false => vec![Value::new_list(items)?],
                });
            }
            let mut batches = Vec::new();
            for batch in items.chunks(count) {
                let mut batch = batch.to_vec();
                if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none()) {
                    budget.spend(count - batch.len())?;
                    batch.resize(count, fill.clone());
                }
                batches.push(Value::new_list(batch)?);
            }
            Value::iterator(batches)
        }
        "slice" => {
            let [slices, fill] = args.bind(name, ["slices", "fill_with"])?;
            let slices = int(Some(needed(slices, name, "slices")?), name, "slices")?.unwrap_or(0);
            let slices = usize::try_from(slices).unwrap_or(0);
            if slices == 0 {
                return Err(Error::failed("`slice` needs one slice or more"));
            }
            let items = value.elements(budget)?;
            budget.spend(slices.saturating_mul(2))?;
            let (each, longer) = (items.len() / slices, items.len() % slices);
            let (mut sliced, mut at) = (Vec::new(), 0);
            for index in 0..slices {
                let end = at + each + usize::from(index < longer);
                let mut slice = items[at..end].to_vec();
                at = end;
                if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none() && index >= longer) {
                    slice.push(fill.clone());
                }
                sliced.push(Value::new_list(slice)?);
            }
            Value::iterator(sliced)
        }
        "map" => map(renderer, &value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(renderer, name, &value, args),
        _ => of_text(name, &value, args, budget),
    }
}

/// The filters that take any value as its text.
fn of_text(name: &str, value: &Value, args: Args, budget: &Budget) -> Result<Value> {
    if !is_known(name) {
        return Err(Error::failed(format!("filter `{name}` is not known")));
    }
    if matches!(name, "indent" | "wordwrap")
        && let Repr::Undefined(undefined) = &value.0
    {
        return Err(undefined.error());
    }
    let string = to_str(value, budget)?;
    budget.bytes(4 * string.len())?;
    match name {
        "upper" => {
            args.none(name)?;
            Ok(Value::text_like(value, string.to_uppercase()))
        }
        "lower" => {
            args.none(name)?;
            Ok(Value::text_like(value, string.to_lowercase()))
        }
        "capitalize" => {
            args.none(name)?;
            Ok(Value::text_like(value, capitalized(&string)))
        }
        "title" => {
            args.none(name)?;
            let (mut titled, mut begins) = (String::new(), true);
            for character in string.chars() {
                if begins {
                    titled.extend(character.to_uppercase());
                } else {
                    titled.extend(character.to_lowercase());
                }
                begins = is_space(character) || "-({[<".contains(character);
            }
            Ok(Value::from(titled))
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = text(chars, name, "chars")?;
            Ok(Value::text_like(value, stripped(&string, chars.as_deref(), true, true)))
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let old = to_str(&needed(old, name, "old")?, budget)?;
            let new = to_str(&needed(new, name, "new")?, budget)?;
            replaced(budget, &string, &old, &new, int(count, name, "count")?).map(Value::from)
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let width = usize::try_from(int(width, name, "width")?.unwrap_or(80)).unwrap_or(0);
            let missing = width.saturating_sub(string.chars().count());
            let left = missing / 2 + (missing & width & 1);
            Ok(Value::text_like(value, padded(budget, &string, ' ', left, missing - left)?))
        }
        "indent" => indent(value, &string, args, budget),
        "wordcount" => {
            args.none(name)?;
            let is_word = |character: char| character.is_alphanumeric() || character == '_';
            Ok(Value::from(string.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count()))
        }
        "wordwrap" => word_wrap::word_wrap(&string, args, budget).map(Value::from),
        "truncate" => {
            let [length, kill_words, end, leeway] =
                args.bind(name, ["length", "killwords", "end", "leeway"])?;
            let length = usize::try_from(int(length, name, "length")?.unwrap_or(255)).unwrap_or(0);
            let leeway = usize::try_from(int(leeway, name, "leeway")?.unwrap_or(5)).unwrap_or(0);
            let end = text(end, name, "end")?.unwrap_or_else(|| "...".into());
            let count = string.chars().count();
            let ending = end.chars().count();
            if length < ending {
                return Err(Error::failed(format!(
                    "`truncate` to {length} characters leaves no room for `{end}`"
                )));
            }
            if count <= length.saturating_add(leeway) {
                return Ok(Value::text_like(value, string));
            }
            let kept: String = string.chars().take(length - ending).collect();
            let kept = if truth(kill_words) {
                &kept
            } else {
                kept.rsplit_once(' ').map_or(&*kept, |(kept, _)| kept)
            };
            let end = if matches!(value.0, Repr::Markup(_)) { html::escaped(&end) } else { end.to_string() };
            Ok(Value::text_like(value, format!("{kept}{end}")))
        }
        "e" | "escape" => {
            args.none(name)?;
            markup::escaped(value, budget).map(Value::markup)
        }
        "forceescape" => {
            args.none(name)?;
            Ok(Value::markup(html::escaped(&string)))
        }
        "striptags" => {
            args.none(name)?;
            let plain = html::unescaped(&html::without_tags(&string));
            let unknown = || Error::failed("`striptags` meets a name of a character that is not known here");
            plain.map(Value::from).ok_or_else(unknown)
        }
        "urlencode" => {
            args.none(name)?;
            // A mapping would be a query.
            if matches!(value.0, Repr::Dict(_) | Repr::List(_) | Repr::Tuple(_)) {
                return Err(mismatch(name, value));
            }
            Ok(Value::from(html::url_encoded(&string)))
        }
        "filesizeformat" => {
            let [binary] = args.bind(name, ["binary"])?;
            file_size(value, truth(binary), budget).map(Value::from)
        }
        _ => Err(Error::failed(format!("filter `{name}` is not known"))),
    }
}

fn mismatch(name: &str, value: &Value) -> Error {
    match &value.0 {
        Repr::Undefined(undefined) => undefined.error(),
        _ => Error::failed(format!("filter `{name}` does not take a {}", value.type_name())),
    }
}

/// What `attribute` names of an item: a dotted path, or an index. Without one it is the item.
fn attribute_of(
    renderer: &Renderer<'_>,
    item: &Value,
    attribute: Option<&Value>,
    default: Option<&Value>,
) -> Result<Value> {
    let Some(attribute) = attribute.filter(|attribute| !attribute.is_none()) else { return Ok(item.clone()) };
    let mut value = item.clone();
    match attribute.as_str() {
        None => value = renderer.item(&value, attribute)?,
        Some(path) => {
            for part in path.split('.') {
                let part = match part.parse::<i64>() {
                    Ok(index) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::from(index),
                    _ => Value::from(part),
                };
                value = renderer.item(&value, &part)?;
                if let Some(default) = default.filter(|_| value.is_undefined()) {
                    value = default.clone();
                }
            }
        }
    }
    Ok(value)
}

/// What an item is sorted or grouped by.
fn key_of(
    renderer: &Renderer<'_>,
    item: &Value,
    attribute: Option<&Value>,
    case_sensitive: bool,
) -> Result<Value> {
    let key = attribute_of(renderer, item, attribute, None)?;
    match key.as_str() {
        Some(text) if !case_sensitive => {
            renderer.budget().bytes(text.len())?;
            Ok(Value::from(text.to_lowercase()))
        }
        _ => Ok(key),
    }
}

fn join(renderer: &Renderer<'_>, value: &Value, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = match &separator {
        Some(separator) => to_str(separator, budget)?,
        None => "".into(),
    };
    let mut joined = String::new();
    for (index, item) in value.elements(budget)?.iter().enumerate() {
        if index > 0 {
            budget.write(&mut joined, &separator)?;
        }
        let item = attribute_of(renderer, item, attribute.as_ref(), None)?;
        crate::python_text::write_str(&mut joined, &item, budget)?;
    }
    Ok(Value::from(joined))
}

fn format(value: &Value, args: Args, budget: &Budget) -> Result<Value> {
    let string = to_str(value, budget)?;
    let values = match (args.positional.is_empty(), args.named.is_empty()) {
        (false, false) => {
            return Err(Error::failed("`format` takes arguments with names or without, not both"));
        }
        (_, true) => Value::tuple(args.positional)?,
        (true, false) => {
            Value::new_dict(args.named.into_iter().map(|(name, value)| (Value::from(name), value)).collect())?
        }
    };
    match value.0 {
        Repr::Markup(_) => markup::formatted(&string, &values, budget),
        _ => percent(&string, &values, budget).map(Value::from),
    }
}

/// A whole number as Python's `int` reads it.
fn parsed_int(text: &str, base: u32) -> Option<i128> {
    let text = stripped(text, None, true, true);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match base {
        2 => ["0b", "0B"],
        8 => ["0o", "0O"],
        16 => ["0x", "0X"],
        _ => ["", ""],
    };
    let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
    let bytes = digits.as_bytes();
    let misplaced = bytes.first() == Some(&b'_')
        || bytes.last() == Some(&b'_')
        || bytes.windows(2).any(|pair| pair == b"__");
    if misplaced
        || digits.is_empty()
        || !digits.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), base).ok()
}

/// A number as Python's `float` reads it.
fn parsed_float(text: &str) -> Option<f64> {
    let text = stripped(text, None, true, true).to_ascii_lowercase();
    let plain = text.trim_start_matches(['+', '-']);
    let is_word = matches!(plain, "nan" | "inf" | "infinity");
    let is_number = plain.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && plain
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'+' | b'-' | b'_'));
    if !is_word && !is_number {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn to_int(value: &Value, args: Args, budget: &Budget) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let default = default.unwrap_or_else(|| Value::from(0_i64));
    let base = int(base, "int", "base")?.unwrap_or(10);
    let whole = |number: f64| {
        (number.is_finite() && number.abs() < 1e38).then(|| Value::from(number.trunc() as i128))
    };
    Ok(match &value.0 {
        Repr::Undefined(undefined) => return Err(undefined.error()),
        Repr::Str(text) | Repr::Markup(text) => {
            budget.bytes(text.len())?;
            let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base)).unwrap_or(10);
            parsed_int(text, base)
                .map(Value::from)
                .or_else(|| parsed_float(text).and_then(whole))
                .unwrap_or(default)
        }
        Repr::Float(number) => whole(*number).unwrap_or(default),
        _ => value.as_int().map_or(default, Value::from),
    })
}

fn to_float(value: &Value, args: Args, budget: &Budget) -> Result<Value> {
    let [default] = args.bind("float", ["default"])?;
    let default = default.unwrap_or_else(|| Value::from(0.0));
    Ok(match &value.0 {
        Repr::Undefined(undefined) => return Err(undefined.error()),
        Repr::Str(text) | Repr::Markup(text) => {
            budget.bytes(text.len())?;
            parsed_float(text).map_or(default, Value::from)
        }
        _ => value.as_float().map_or(default, Value::from),
    })
}

fn round(value: &Value, args: Args) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = int(precision, "round", "precision")?.unwrap_or(0).clamp(-300, 300) as i32;
    let method = text(method, "round", "method")?.unwrap_or_else(|| "common".into());
    let number = value.as_float().ok_or_else(|| mismatch("round", value))?;
    let scale = 10_f64.powi(precision);
    Ok(Value::from(match &*method {
        "common" if value.as_int().is_some() && precision >= 0 => {
            return Ok(Value::from(value.as_int().unwrap_or_default()));
        }
        "common" if value.as_int().is_some() => {
            let unit = 10_f64.powi(-precision);
            return Ok(Value::from(((number / unit).round_ties_even() * unit) as i128));
        }
        // The nearest text has the float's exact value rounded, as Python rounds.
        "common" if precision >= 0 => format!("{number:.*}", precision as usize).parse().unwrap_or(number),
        "common" => (number * scale).round_ties_even() / scale,
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        _ => return Err(Error::failed("`round` knows `common`, `ceil` and `floor`")),
    }))
}

fn group_by(renderer: &Renderer<'_>, value: &Value, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    let [attribute, default, case_sensitive] =
        args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = needed(attribute, "groupby", "attribute")?;
    let case_sensitive = truth(case_sensitive);
    let mut keyed = Vec::new();
    for item in value.elements(budget)? {
        let of = attribute_of(renderer, &item, Some(&attribute), default.as_ref())?;
        let key = key_of(renderer, &of, None, case_sensitive)?;
        keyed.push((key.clone(), Value::tuple(vec![key, of, item])?));
    }
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for sorted in sort_by_key(keyed, false, budget)? {
        let Ok([key, of, item]) = <[Value; 3]>::try_from(sorted.elements(budget)?) else { continue };
        match groups.last_mut() {
            Some((last, _, items)) if crate::operators::equal(last, &key, budget)? => items.push(item),
            _ => groups.push((key, of, vec![item])),
        }
    }
    let groups = groups
        .into_iter()
        .map(|(_, of, items)| Value::named_tuple(vec![of, Value::new_list(items)?], &["grouper", "list"]));
    Value::new_list(groups.collect::<Result<_>>()?)
}

fn map(renderer: &Renderer<'_>, value: &Value, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    if !value.is_true() {
        return Value::iterator(Vec::new());
    }
    let named =
        |name: &str| args.named.iter().find(|(known, _)| &**known == name).map(|(_, value)| value.clone());
    if let Some(attribute) = named("attribute").filter(|_| args.positional.is_empty()) {
        let default = named("default");
        if let Some((name, _)) =
            args.named.iter().find(|(name, _)| !matches!(&**name, "attribute" | "default"))
        {
            return Err(Error::failed(format!("`map` has no argument `{name}`")));
        }
        let items = value.elements(budget)?.into_iter();
        let mapped = items.map(|item| attribute_of(renderer, &item, Some(&attribute), default.as_ref()));
        return Value::iterator(mapped.collect::<Result<_>>()?);
    }
    let mut positional = args.positional.into_iter();
    let filter = needed(positional.next(), "map", "filter")?;
    let filter = text(Some(filter), "map", "filter")?.unwrap_or_default();
    let args = Args { positional: positional.collect(), named: args.named };
    let mut mapped = Vec::new();
    for item in value.elements(budget)? {
        mapped.push(apply(renderer, &filter, item, args.clone())?);
    }
    Value::iterator(mapped)
}

fn select(renderer: &Renderer<'_>, name: &str, value: &Value, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    // Whatever is nothing, `none` and 0 too, is nothing to choose from.
    if !value.is_true() {
        return Value::iterator(Vec::new());
    }
    let mut positional = args.positional.into_iter();
    let attribute = match name {
        "selectattr" | "rejectattr" => Some(needed(positional.next(), name, "attribute")?),
        _ => None,
    };
    let wanted = match positional.next() {
        Some(test) => text(Some(test), name, "test")?,
        None => None,
    };
    let rest = Args { positional: positional.collect(), named: args.named };
    let keeps = name.starts_with("select");
    let mut kept = Vec::new();
    for item in value.elements(budget)? {
        let tested = attribute_of(renderer, &item, attribute.as_ref(), None)?;
        let passed = match &wanted {
            Some(name) => test(renderer, name, &tested, rest.clone())?,
            None => tested.is_true(),
        };
        if passed == keeps {
            kept.push(item);
        }
    }
    Value::iterator(kept)
}

fn indent(value: &Value, string: &Arc<str>, args: Args, budget: &Budget) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let indention: Arc<str> = match &width {
        Some(width) if width.as_str().is_some() => {
            text(Some(width.clone()), "indent", "width")?.unwrap_or_default()
        }
        _ => {
            let width = usize::try_from(int(width, "indent", "width")?.unwrap_or(4)).unwrap_or(0);
            budget.bytes(width)?;
            " ".repeat(width).into()
        }
    };
    // Jinja adds a line feed, so that a text that ends in one keeps an empty last line.
    let with_end = format!("{string}\n");
    let lines = lines(&with_end, false);
    let blank = truth(blank);
    let mut indented = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            budget.write(&mut indented, "\n")?;
        }
        let indents = if index == 0 { truth(first.clone()) } else { blank || !line.is_empty() };
        if indents {
            budget.write(&mut indented, &indention)?;
        }
        budget.write(&mut indented, line)?;
    }
    Ok(Value::text_like(value, indented))
}

fn file_size(value: &Value, binary: bool, budget: &Budget) -> Result<String> {
    let args = Args::default();
    let bytes = to_float(value, args, budget)?.as_float().unwrap_or(0.0);
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let (middle, end) = if binary { ("iB", 8) } else { ("B", 8) };
    let prefixes = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let mut unit = base;
    let mut prefix = 'k';
    for (index, one) in prefixes.chars().enumerate() {
        unit = base.powi(index as i32 + 2);
        prefix = one;
        if bytes < unit || index + 1 == end {
            break;
        }
    }
    Ok(format!("{:.1} {prefix}{middle}", base * bytes / unit))
}
