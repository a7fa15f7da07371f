//! `tojson` as transformers has it: Python's `json.dumps`, with characters as they are unless
//! `ensure_ascii` is asked for.

use std::sync::Arc;

use crate::budget::Budget;
use crate::calls::{Args, text, truth};
use crate::error::{Error, Result};
use crate::operators::sort_by_key;
use crate::python_text::float;
use crate::value::{Repr, Value};

struct Writer<'b> {
    budget: &'b Budget,
    output: String,
    ensure_ascii: bool,
    indent: Option<Arc<str>>,
    between: Arc<str>,
    after_key: Arc<str>,
    sort_keys: bool,
}

pub(crate) fn to_json(value: &Value, args: Args, budget: &Budget) -> Result<Value> {
    let [ensure_ascii, indent, separators, sort_keys] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent: Option<Arc<str>> = match indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_int() {
            Some(width) => {
                let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                budget.bytes(width)?;
                " ".repeat(width).into()
            }
            None => text(Some(indent), "tojson", "indent")?.unwrap_or_default(),
        }),
    };
    let (mut between, mut after_key): (Arc<str>, Arc<str>) =
        (if indent.is_some() { "," } else { ", " }.into(), ": ".into());
    if let Some(separators) = separators.filter(|separators| !separators.is_none()) {
        let Ok([item, key]) = <[Value; 2]>::try_from(separators.elements(budget)?) else {
            return Err(Error::failed("`tojson` takes two separators"));
        };
        between = text(Some(item), "tojson", "separators")?.unwrap_or_default();
        after_key = text(Some(key), "tojson", "separators")?.unwrap_or_default();
    }
    let mut writer = Writer {
        budget,
        output: String::new(),
        ensure_ascii: truth(ensure_ascii),
        indent,
        between,
        after_key,
        sort_keys: truth(sort_keys),
    };
    writer.value(value, 0)?;
    Ok(Value::from(writer.output))
}

impl Writer<'_> {
    fn write(&mut self, text: &str) -> Result<()> {
        self.budget.write(&mut self.output, text)
    }

    fn number(&mut self, number: f64) -> Result<()> {
        let text = match number {
            _ if number.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            _ => float(number),
        };
        self.write(&text)
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.budget.bytes(4 * text.len())?;
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for character in text.chars() {
            match character {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                ' '..='~' => quoted.push(character),
                _ if u32::from(character) < 0x20 || self.ensure_ascii => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        quoted.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => quoted.push(character),
            }
        }
        quoted.push('"');
        self.write(&quoted)
    }

    fn line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = self.indent.clone() {
            self.write("\n")?;
            for _ in 0..depth {
                self.write(&indent)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        match &value.0 {
            Repr::None => self.write("null"),
            Repr::Bool(truth) => self.write(if *truth { "true" } else { "false" }),
            Repr::Int(number) => self.write(&number.to_string()),
            Repr::Float(number) => self.number(*number),
            Repr::Str(text) | Repr::Markup(text) => self.string(text),
            Repr::List(sequence) | Repr::Tuple(sequence) => {
                if sequence.items.is_empty() {
                    return self.write("[]");
                }
                self.write("[")?;
                for (index, item) in sequence.items.iter().enumerate() {
                    if index > 0 {
                        self.write(&self.between.clone())?;
                    }
                    self.line(depth + 1)?;
                    self.value(item, depth + 1)?;
                }
                self.line(depth)?;
                self.write("]")
            }
            Repr::Dict(dict) => {
                if dict.pairs.is_empty() {
                    return self.write("{}");
                }
                let mut keys: Vec<_> = dict.pairs.iter().map(|(key, _)| key.clone()).collect();
                self.budget.spend(keys.len())?;
                if self.sort_keys {
                    let keyed = keys.into_iter().map(|key| (key.clone(), key)).collect();
                    keys = sort_by_key(keyed, false, self.budget)?;
                }
                self.write("{")?;
                for (index, key) in keys.iter().enumerate() {
                    if index > 0 {
                        self.write(&self.between.clone())?;
                    }
                    self.line(depth + 1)?;
                    match &key.0 {
                        Repr::Str(text) | Repr::Markup(text) => self.string(text)?,
                        Repr::None => self.string("null")?,
                        Repr::Bool(truth) => self.string(if *truth { "true" } else { "false" })?,
                        Repr::Int(number) => self.string(&number.to_string())?,
                        Repr::Float(number) => self.string(&float(*number))?,
                        _ => {
                            return Err(Error::failed(format!("a {} is no key of JSON", key.type_name())));
                        }
                    }
                    self.write(&self.after_key.clone())?;
                    if let Some(value) = dict.get(key)? {
                        self.value(value, depth + 1)?;
                    }
                }
                self.line(depth)?;
                self.write("}")
            }
            Repr::Undefined(undefined) => Err(undefined.error()),
            _ => Err(Error::failed(format!("a {} cannot be JSON", value.type_name()))),
        }
    }
}
