//! One value in a field of a width, as `%` and `str.format` write it.

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::python_text::{float, to_str};
use crate::value::{Repr, Value};

/// What stands after a `%`, or between `:` and `}`.
#[derive(Debug, Clone, Default)]
pub(crate) struct FormatSpec {
    pub(crate) fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    pub(crate) align: Option<char>,
    /// `+`, `-` or a space.
    pub(crate) sign: Option<char>,
    pub(crate) alternate: bool,
    pub(crate) zero: bool,
    pub(crate) width: usize,
    /// `,` or `_`.
    pub(crate) grouping: Option<char>,
    pub(crate) precision: Option<usize>,
    pub(crate) kind: Option<char>,
}

/// What Rust's own formatting takes.
const MAX_PRECISION: usize = 1000;

impl FormatSpec {
    /// Pads a text; numbers may be padded behind their sign.
    pub(crate) fn padded(&self, sign: &str, body: &str, align: char, budget: &Budget) -> Result<String> {
        let count = sign.chars().count() + body.chars().count();
        let missing = self.width.saturating_sub(count);
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        budget.bytes(missing.saturating_mul(4).saturating_add(body.len()))?;
        let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
        Ok(match self.align.unwrap_or(align) {
            '<' => format!("{sign}{body}{}", fill(missing)),
            '^' => format!("{}{sign}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' => format!("{sign}{}{body}", fill(missing)),
            _ => format!("{}{sign}{body}", fill(missing)),
        })
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }

    fn grouped(&self, digits: &str, size: usize) -> String {
        let Some(separator) = self.grouping else { return digits.to_owned() };
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(size) {
                grouped.push(separator);
            }
            grouped.push(digit);
        }
        grouped
    }

    pub(crate) fn integer(&self, number: i128, budget: &Budget) -> Result<String> {
        let magnitude = number.unsigned_abs();
        let (prefix, digits, size) = match self.kind {
            Some('b') => ("0b", format!("{magnitude:b}"), 4),
            Some('o') => ("0o", format!("{magnitude:o}"), 4),
            Some('x') => ("0x", format!("{magnitude:x}"), 4),
            Some('X') => ("0X", format!("{magnitude:X}"), 4),
            _ => ("", magnitude.to_string(), 3),
        };
        let sign = self.sign_of(number < 0);
        let sign = if self.alternate { format!("{sign}{prefix}") } else { sign.to_owned() };
        let align = if self.zero && self.align.is_none() { '=' } else { '>' };
        self.padded(&sign, &self.grouped(&digits, size), align, budget)
    }

    pub(crate) fn float(&self, number: f64, budget: &Budget) -> Result<String> {
        let precision = self.precision.unwrap_or(6);
        if precision > MAX_PRECISION {
            return Err(Error::failed(format!(
                "a number is formatted with more than {MAX_PRECISION} digits"
            )));
        }
        let negative = number.is_sign_negative() && !number.is_nan();
        let magnitude = number.abs();
        let upper = self.kind.is_some_and(char::is_uppercase);
        let body = if magnitude.is_nan() {
            "nan".to_owned()
        } else if magnitude.is_infinite() {
            "inf".to_owned()
        } else {
            match self.kind.map(|kind| kind.to_ascii_lowercase()) {
                Some('f') => format!("{magnitude:.precision$}"),
                Some('%') => format!("{:.precision$}%", magnitude * 100.0),
                Some('e') => exponential(magnitude, precision),
                Some('g' | 'n') => general(magnitude, precision, self.alternate),
                _ => match self.precision {
                    // As `g`, but with a digit behind the point at least.
                    Some(precision) => {
                        let text = general(magnitude, precision, false);
                        if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
                    }
                    None => float(magnitude),
                },
            }
        };
        let body = if upper { body.to_uppercase() } else { body };
        let body = match (self.grouping, body.find(|c: char| !c.is_ascii_digit())) {
            (Some(_), end) => {
                let end = end.unwrap_or(body.len());
                format!("{}{}", self.grouped(&body[..end], 3), &body[end..])
            }
            _ => body,
        };
        let align = if self.zero && self.align.is_none() { '=' } else { '>' };
        self.padded(self.sign_of(negative), &body, align, budget)
    }

    pub(crate) fn text(&self, text: &str, align: char, budget: &Budget) -> Result<String> {
        budget.bytes(text.len())?;
        match self.precision {
            Some(precision) => {
                let end = text.char_indices().nth(precision).map_or(text.len(), |(at, _)| at);
                self.padded("", &text[..end], align, budget)
            }
            None => self.padded("", text, align, budget),
        }
    }

    /// A value as `str.format` writes it by its type.
    pub(crate) fn value(&self, value: &Value, budget: &Budget) -> Result<String> {
        let unknown = |kind: char| {
            Err(Error::failed(format!("a {} cannot be formatted as `{kind}`", value.type_name())))
        };
        match (&value.0, self.kind) {
            (Repr::Str(text) | Repr::Markup(text), None | Some('s')) => self.text(text, '<', budget),
            (Repr::Bool(_), None) if self.width == 0 => to_str(value, budget).map(|text| (*text).to_owned()),
            (Repr::Int(_) | Repr::Bool(_), Some('c')) => {
                let code = value.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
                match code {
                    Some(character) => self.text(character.encode_utf8(&mut [0; 4]), '<', budget),
                    None => Err(Error::failed("a number is no character")),
                }
            }
            (Repr::Int(_) | Repr::Bool(_), None | Some('b' | 'd' | 'o' | 'x' | 'X' | 'n')) => {
                self.integer(value.as_int().unwrap_or_default(), budget)
            }
            (
                Repr::Int(_) | Repr::Float(_) | Repr::Bool(_),
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'n'),
            )
            | (Repr::Float(_), None) => self.float(value.as_float().unwrap_or_default(), budget),
            (_, Some(kind)) => unknown(kind),
            (Repr::Undefined(_), None) => Ok(String::new()),
            // Other types take no field of their own in Python.
            (_, None) if self.width == 0 && self.precision.is_none() => {
                to_str(value, budget).map(|text| (*text).to_owned())
            }
            (_, None) => {
                Err(Error::failed(format!("a {} cannot be formatted in a field", value.type_name())))
            }
        }
    }
}

fn exponential(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(number: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let text = exponential(number, precision - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let places: i32 = exponent.parse().unwrap_or_default();
    let without_zeros = |text: &str| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if places < -4 || places >= precision as i32 {
        return format!("{}e{exponent}", without_zeros(mantissa));
    }
    let behind = (precision as i32 - 1 - places).max(0) as usize;
    without_zeros(&format!("{number:.behind$}"))
}
