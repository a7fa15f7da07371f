//! Text that is marked as HTML, by `safe` and `escape`: what it is joined with is escaped, as Python's
//! `markupsafe.Markup` does it. Nothing else is escaped in a prompt.

use std::sync::Arc;

use crate::budget::Budget;
use crate::calls::Args;
use crate::error::{Error, Result};
use crate::html;
use crate::interpreter::Renderer;
use crate::methods;
use crate::percent_format::percent;
use crate::python_text::to_str;
use crate::value::{Repr, Value};

impl Value {
    /// Text that needs no escapes.
    pub(crate) fn markup(text: impl Into<Arc<str>>) -> Self {
        Self(Repr::Markup(text.into()))
    }

    /// A text as marked, or a plain one, as another text is.
    pub(crate) fn text_like(other: &Self, text: impl Into<Arc<str>>) -> Self {
        match other.0 {
            Repr::Markup(_) => Self::markup(text),
            _ => Self::from(text.into()),
        }
    }
}

/// A value's text with HTML's escapes, unless it has them.
pub(crate) fn escaped(value: &Value, budget: &Budget) -> Result<Arc<str>> {
    let text = to_str(value, budget)?;
    if matches!(value.0, Repr::Markup(_)) {
        return Ok(text);
    }
    budget.bytes(6 * text.len())?;
    Ok(html::escaped(&text).into())
}

/// `left + right`, one of which is marked.
pub(crate) fn joined(left: &Value, right: &Value, budget: &Budget) -> Result<Value> {
    let (left, right) = (escaped(left, budget)?, escaped(right, budget)?);
    budget.bytes(left.len() + right.len())?;
    Ok(Value::markup(format!("{left}{right}")))
}

/// `format % values`.
pub(crate) fn formatted(format: &str, values: &Value, budget: &Budget) -> Result<Value> {
    let values = match &values.0 {
        Repr::Tuple(tuple) => {
            Value::tuple(tuple.items.iter().map(|item| operand(item, budget)).collect::<Result<_>>()?)?
        }
        Repr::Dict(dict) => {
            let pairs = dict.pairs.iter().map(|(key, value)| Ok((key.clone(), operand(value, budget)?)));
            Value::new_dict(pairs.collect::<Result<_>>()?)?
        }
        _ => operand(values, budget)?,
    };
    percent(format, &values, budget).map(Value::markup)
}

/// What is written for a value in a format: numbers have nothing to escape, and have formats of their own.
fn operand(value: &Value, budget: &Budget) -> Result<Value> {
    match &value.0 {
        Repr::Bool(_) | Repr::Int(_) | Repr::Float(_) | Repr::None => Ok(value.clone()),
        _ => escaped(value, budget).map(Value::from),
    }
}

/// A method of marked text: what it gives is marked, and what it takes in is escaped.
pub(crate) fn method(renderer: &Renderer<'_>, text: &Arc<str>, name: &str, mut args: Args) -> Result<Value> {
    let budget = renderer.budget();
    let escape_at = |args: &mut Args, at: usize, named: &str| -> Result<()> {
        let positional = args.positional.get_mut(at).into_iter();
        let named = args.named.iter_mut().filter(|(name, _)| &**name == named).map(|(_, value)| value);
        for value in positional.chain(named).filter(|value| value.as_str().is_some()) {
            *value = Value::from(escaped(value, budget)?);
        }
        Ok(())
    };
    match name {
        "replace" => escape_at(&mut args, 1, "new")?,
        "ljust" | "rjust" | "center" => escape_at(&mut args, 1, "fillchar")?,
        "join" => {
            for value in args.positional.iter_mut().take(1) {
                let parts = value.elements(budget)?;
                let parts = parts.iter().map(|part| escaped(part, budget).map(Value::from));
                *value = Value::new_list(parts.collect::<Result<_>>()?)?;
            }
        }
        "format" => {
            let given = args.positional.iter_mut().chain(args.named.iter_mut().map(|(_, value)| value));
            for value in given {
                // Python escapes what a field comes to, which may be a part of it.
                if !matches!(operand(value, budget)?.0, Repr::Str(_)) {
                    continue;
                }
                if value.as_str().is_none() {
                    let reason = format!("`format` of a safe str takes no {} here", value.type_name());
                    return Err(Error::failed(reason));
                }
                *value = Value::from(escaped(value, budget)?);
            }
        }
        _ => {}
    }
    marked(methods::of_str(renderer, text, name, args)?)
}

/// The texts of a result as marked ones.
fn marked(value: Value) -> Result<Value> {
    match &value.0 {
        Repr::Str(text) => Ok(Value::markup(text.clone())),
        Repr::List(sequence) => {
            Value::new_list(sequence.items.iter().cloned().map(marked).collect::<Result<_>>()?)
        }
        Repr::Tuple(sequence) => {
            Value::tuple(sequence.items.iter().cloned().map(marked).collect::<Result<_>>()?)
        }
        _ => Ok(value),
    }
}
