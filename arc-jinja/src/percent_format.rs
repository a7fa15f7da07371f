//! `'%s' % value`.

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::format_spec::FormatSpec;
use crate::python_text::{to_str, write_repr};
use crate::value::{Repr, Value};

pub(crate) fn percent(format: &str, values: &Value, budget: &Budget) -> Result<String> {
    budget.bytes(format.len())?;
    let several: Vec<Value> = match &values.0 {
        Repr::Tuple(tuple) => tuple.items.clone(),
        _ => vec![values.clone()],
    };
    budget.spend(several.len())?;
    let mut left = several.into_iter();
    let mut next = || left.next().ok_or_else(|| Error::failed("a format has more places than values"));
    let mut by_name = false;
    let mut output = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        budget.write(&mut output, &rest[..at])?;
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(after) = rest.strip_prefix('(') {
            let end = after.find(')').ok_or_else(|| Error::failed("a format has a `(` without `)`"))?;
            let Repr::Dict(dict) = &values.0 else {
                return Err(Error::failed("a format with names takes a dict"));
            };
            let name = &after[..end];
            let value = dict.get_str(&name.into()).cloned();
            named = Some(
                value.ok_or_else(|| Error::failed(format!("a format has `{name}`, and its dict has not")))?,
            );
            by_name = true;
            rest = &after[end + 1..];
        }
        let mut spec = FormatSpec::default();
        let mut left_aligned = false;
        while let Some(flag) = rest.chars().next().filter(|flag| "-+ #0".contains(*flag)) {
            match flag {
                '-' => left_aligned = true,
                '+' => spec.sign = Some('+'),
                ' ' if spec.sign.is_none() => spec.sign = Some(' '),
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => {}
            }
            rest = &rest[1..];
        }
        let number = |rest: &mut &str, next: &mut dyn FnMut() -> Result<Value>| -> Result<Option<i64>> {
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                let width = next()?.as_int().and_then(|width| i64::try_from(width).ok());
                return width.map(Some).ok_or_else(|| Error::failed("`*` in a format takes a whole number"));
            }
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let text = &rest[..digits];
            *rest = &rest[digits..];
            match text {
                "" => Ok(None),
                _ => text.parse().map(Some).map_err(|_| Error::failed("a format has too large a width")),
            }
        };
        if let Some(width) = number(&mut rest, &mut next)? {
            left_aligned |= width < 0;
            spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            let precision = number(&mut rest, &mut next)?.unwrap_or(0);
            spec.precision = Some(usize::try_from(precision).unwrap_or(0));
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let kind = rest.chars().next().ok_or_else(|| Error::failed("a format ends after `%`"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            budget.write(&mut output, "%")?;
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        if left_aligned {
            spec.align = Some('<');
            spec.zero = false;
        }
        spec.kind = Some(kind);
        let text = one(&value, kind, spec, budget)?;
        budget.write(&mut output, &text)?;
    }
    budget.write(&mut output, rest)?;
    if !by_name && next().is_ok() && !matches!(values.0, Repr::Dict(_) | Repr::List(_)) {
        return Err(Error::failed("a format has fewer places than values"));
    }
    Ok(output)
}

fn one(value: &Value, kind: char, mut spec: FormatSpec, budget: &Budget) -> Result<String> {
    let needs =
        |what: &str| Err(Error::failed(format!("`%{kind}` takes {what}, not a {}", value.type_name())));
    match kind {
        's' | 'r' | 'a' => {
            let mut text = String::new();
            if kind == 's' {
                text.push_str(&to_str(value, budget)?);
            } else {
                write_repr(&mut text, value, budget)?;
            }
            spec.zero = false;
            spec.text(&text, '>', budget)
        }
        'd' | 'i' | 'u' => {
            spec.kind = Some('d');
            let number = match value.0 {
                Repr::Float(number) if number.is_finite() && number.abs() < 1e38 => {
                    Some(number.trunc() as i128)
                }
                _ => value.as_int(),
            };
            let Some(number) = number else { return needs("a number") };
            let precision = spec.precision.take();
            if let Some(digits) = precision {
                budget.bytes(digits)?;
                let text = number.unsigned_abs().to_string();
                let zeros = "0".repeat(digits.saturating_sub(text.len()));
                let sign =
                    if number < 0 { "-" } else { spec.sign.map_or("", |s| if s == '+' { "+" } else { " " }) };
                return spec.padded(
                    sign,
                    &format!("{zeros}{text}"),
                    if spec.zero { '=' } else { '>' },
                    budget,
                );
            }
            spec.integer(number, budget)
        }
        'o' | 'x' | 'X' => match value.as_int() {
            Some(number) => spec.integer(number, budget),
            None => needs("a whole number"),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(number) => spec.float(number, budget),
            None => needs("a number"),
        },
        'c' => {
            let character = match value.as_str() {
                Some(text) if text.chars().count() == 1 => Some((**text).to_owned()),
                Some(_) => None,
                None => value
                    .as_int()
                    .and_then(|code| u32::try_from(code).ok())
                    .and_then(char::from_u32)
                    .map(String::from),
            };
            match character {
                Some(character) => spec.text(&character, '>', budget),
                None => needs("a character or its number"),
            }
        }
        _ => Err(Error::failed(format!("a format has `%{kind}`, which is not known"))),
    }
}
