//! What `is` asks. Source: `jinja2/tests.py`, 3.1.

use crate::calls::{Args, needed};
use crate::error::{Error, Result};
use crate::functions::Callable;
use crate::interpreter::Renderer;
use crate::operators::{contains, equal, order};
use crate::python_text::to_str;
use crate::syntax::Operator;
use crate::value::{Repr, Value};
use crate::{filters, operators};

const NAMES: [&str; 38] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "escaped",
    "eq",
    "==",
    "equalto",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    ">=",
    "greaterthan",
    "gt",
    ">",
    "in",
    "integer",
    "iterable",
    "le",
    "<=",
    "lessthan",
    "lt",
    "<",
    "lower",
    "mapping",
    "ne",
    "!=",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
];

pub(crate) fn test(renderer: &Renderer<'_>, name: &str, value: &Value, args: Args) -> Result<bool> {
    let budget = renderer.budget();
    budget.spend(1)?;
    let with = |args: Args| {
        let [other] = args.bind(name, ["other"])?;
        needed(other, name, "other")
    };
    Ok(match name {
        "eq" | "==" | "equalto" => equal(value, &with(args)?, budget)?,
        "ne" | "!=" => !equal(value, &with(args)?, budget)?,
        "lt" | "<" | "lessthan" => order("<", value, &with(args)?, budget)?.is_lt(),
        "le" | "<=" => order("<=", value, &with(args)?, budget)?.is_le(),
        "gt" | ">" | "greaterthan" => order(">", value, &with(args)?, budget)?.is_gt(),
        "ge" | ">=" => order(">=", value, &with(args)?, budget)?.is_ge(),
        "in" => contains(&with(args)?, value, budget)?,
        "sameas" => same(value, &with(args)?),
        "divisibleby" => {
            let remainder = operators::binary(Operator::Remainder, value, &with(args)?, budget)?;
            !remainder.is_true()
        }
        _ => {
            args.none(name)?;
            match name {
                "defined" => !value.is_undefined(),
                "undefined" => value.is_undefined(),
                "none" => value.is_none(),
                "boolean" => matches!(value.0, Repr::Bool(_)),
                "true" => matches!(value.0, Repr::Bool(true)),
                "false" => matches!(value.0, Repr::Bool(false)),
                "integer" => matches!(value.0, Repr::Int(_)),
                "float" => matches!(value.0, Repr::Float(_)),
                "number" => matches!(value.0, Repr::Int(_) | Repr::Float(_) | Repr::Bool(_)),
                "string" => value.as_str().is_some(),
                "mapping" => matches!(value.0, Repr::Dict(_)),
                "sequence" => matches!(
                    value.0,
                    Repr::Str(_)
                        | Repr::Markup(_)
                        | Repr::List(_)
                        | Repr::Tuple(_)
                        | Repr::Dict(_)
                        | Repr::Range(_)
                        | Repr::Undefined(_)
                ),
                "iterable" => value.is_iterable(),
                "callable" => match &value.0 {
                    Repr::Callable(callable) => {
                        !matches!(&**callable, Callable::Blocks | Callable::Cycler { .. })
                    }
                    Repr::Loop(_) | Repr::Undefined(_) => true,
                    _ => false,
                },
                "odd" | "even" => {
                    let two = Value::from(2_i64);
                    let remainder = operators::binary(Operator::Remainder, value, &two, budget)?;
                    equal(&remainder, &Value::from(i64::from(name == "odd")), budget)?
                }
                "lower" => {
                    let text = to_str(value, budget)?;
                    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
                }
                "upper" => {
                    let text = to_str(value, budget)?;
                    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
                }
                "escaped" => matches!(value.0, Repr::Markup(_)),
                "filter" => value.as_str().is_some_and(|name| filters::is_known(name)),
                "test" => {
                    value.as_str().is_some_and(|name| name == &"upper".into() || NAMES.contains(&&**name))
                }
                _ => return Err(Error::failed(format!("test `{name}` is not known"))),
            }
        }
    })
}

/// Python's `is`, as far as it has a meaning here.
fn same(left: &Value, right: &Value) -> bool {
    use std::rc::Rc;
    match (&left.0, &right.0) {
        (Repr::None, Repr::None) => true,
        (Repr::Bool(a), Repr::Bool(b)) => a == b,
        (Repr::Int(a), Repr::Int(b)) => a == b && (-5..=256).contains(a),
        (Repr::Str(a), Repr::Str(b)) => a == b,
        (Repr::List(a), Repr::List(b)) | (Repr::Tuple(a), Repr::Tuple(b)) => Rc::ptr_eq(a, b),
        (Repr::Dict(a), Repr::Dict(b)) => Rc::ptr_eq(a, b),
        (Repr::Namespace(a), Repr::Namespace(b)) => Rc::ptr_eq(a, b),
        (Repr::Callable(a), Repr::Callable(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}
