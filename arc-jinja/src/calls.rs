//! Arguments of a call, matched with the names that they are for.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::value::Value;

/// What a function, filter, test or method is given.
#[derive(Debug, Default, Clone)]
pub(crate) struct Args {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The arguments by the names of a function's parameters.
    pub(crate) fn bind<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(Error::failed(format!(
                "`{what}` takes at most {N} arguments, it is given {}",
                self.positional.len()
            )));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|known| *known == &*name).and_then(|at| bound.get_mut(at));
            match place {
                None => return Err(Error::failed(format!("`{what}` has no argument `{name}`"))),
                Some(Some(_)) => {
                    return Err(Error::failed(format!("`{what}` is given argument `{name}` twice")));
                }
                Some(empty) => *empty = Some(value),
            }
        }
        Ok(bound)
    }

    pub(crate) fn none(self, what: &str) -> Result<()> {
        self.bind::<0>(what, []).map(|_| ())
    }
}

/// An argument that has to be there.
pub(crate) fn needed(value: Option<Value>, what: &str, name: &str) -> Result<Value> {
    value.ok_or_else(|| Error::failed(format!("`{what}` needs its argument `{name}`")))
}

/// A text; nothing where it is `None` or not given.
pub(crate) fn text(value: Option<Value>, what: &str, name: &str) -> Result<Option<Arc<str>>> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text.clone())),
            None => Err(wrong(&value, what, name, "a str")),
        },
    }
}

/// A whole number; nothing where it is `None` or not given.
pub(crate) fn int(value: Option<Value>, what: &str, name: &str) -> Result<Option<i64>> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => match value.as_int() {
            Some(number) => Ok(Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64)),
            None => Err(wrong(&value, what, name, "an int")),
        },
    }
}

/// A truth value, of whatever it is.
pub(crate) fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.is_true())
}

fn wrong(value: &Value, what: &str, name: &str, expected: &str) -> Error {
    Error::failed(format!("`{what}` is given a {} as `{name}`, expected {expected}", value.type_name()))
}

/// A truth value, or what it is where none is given.
pub(crate) fn truth_or(value: Option<Value>, default: bool) -> bool {
    value.map_or(default, |value| value.is_true())
}
