//! What can be called: macros, methods and the functions that every template has.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::calls::{Args, needed, text};
use crate::error::{Error, ErrorKind, Result};
use crate::interpreter::Renderer;
use crate::scope::Scope;
use crate::syntax::{Block, Macro};
use crate::value::{Namespace, Range, Repr, Value};
use crate::{methods, python_text};

#[derive(Debug)]
pub(crate) enum Callable {
    Function(Function),
    Macro {
        definition: Arc<Macro>,
        scope: Rc<Scope>,
    },
    /// A block of the template, by `self.name`.
    Block(Arc<Block>),
    /// `self`.
    Blocks,
    Method {
        receiver: Value,
        name: Arc<str>,
    },
    Cycler {
        items: Value,
        at: Cell<usize>,
    },
    Joiner {
        separator: Arc<str>,
        is_used: Cell<bool>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

impl Function {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "range" => Self::Range,
            "dict" => Self::Dict,
            "namespace" => Self::Namespace,
            "cycler" => Self::Cycler,
            "joiner" => Self::Joiner,
            "raise_exception" => Self::RaiseException,
            "strftime_now" => Self::StrftimeNow,
            _ => return None,
        })
    }
}

/// Jinja's `MAX_RANGE`.
const MAX_RANGE: usize = 100_000;

impl Callable {
    /// What it is, for whoever prints it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Function(function) => format!("function {function:?}").to_lowercase(),
            Self::Macro { definition, .. } => format!("Macro '{}'", definition.name),
            Self::Block(block) => format!("block '{}'", block.name),
            Self::Blocks => "TemplateReference None".to_owned(),
            Self::Method { receiver, name } => format!("method {name} of {}", receiver.type_name()),
            Self::Cycler { .. } => "cycler".to_owned(),
            Self::Joiner { .. } => "joiner".to_owned(),
        }
    }

    /// How deep it is nested as a value. Scopes are emptied at the end, so what they hold does not count.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Self::Method { receiver, .. } => receiver.depth() + 1,
            Self::Cycler { items, .. } => items.depth() + 1,
            _ => 1,
        }
    }

    /// An attribute of a macro, a cycler or `self`.
    pub(crate) fn attribute(&self, name: &str, renderer: &Renderer<'_>) -> Result<Option<Value>> {
        Ok(match (self, name) {
            (Self::Macro { definition, .. }, "name") => Some(Value::from(definition.name.clone())),
            (Self::Macro { definition, .. }, "arguments") => {
                let names = definition.parameters.iter().map(|(name, _)| Value::from(name.clone()));
                Some(Value::tuple(names.collect())?)
            }
            (Self::Macro { definition, .. }, "catch_varargs") => Some(definition.names_varargs.into()),
            (Self::Macro { definition, .. }, "catch_kwargs") => Some(definition.names_kwargs.into()),
            (Self::Macro { definition, .. }, "caller") => Some(definition.names_caller.into()),
            (Self::Blocks, _) => {
                renderer.block(name).map(|block| Value::callable(Self::Block(block.clone())))
            }
            (Self::Cycler { items, at }, "current") => {
                items.elements(renderer.budget())?.get(at.get()).cloned()
            }
            (Self::Cycler { .. }, "next" | "reset") => None,
            _ => None,
        })
    }
}

pub(crate) fn call(renderer: &Renderer<'_>, callable: &Rc<Callable>, args: Args) -> Result<Value> {
    match &**callable {
        Callable::Function(function) => call_function(renderer, *function, args),
        Callable::Macro { definition, scope } => renderer.call_macro(definition, scope, args),
        Callable::Block(block) => {
            args.none(&block.name)?;
            renderer.render_block(block, None).map(Value::from)
        }
        Callable::Blocks | Callable::Cycler { .. } => {
            Err(Error::failed(format!("`{}` cannot be called", callable.describe())))
        }
        Callable::Method { receiver, name } => match (&receiver.0, &**name) {
            (Repr::Callable(cycler), "next" | "reset") => cycle(renderer, cycler, name, args),
            (Repr::Loop(state), "cycle") => state.cycle(args),
            (Repr::Loop(state), "changed") => state.changed(renderer.budget(), args),
            _ => methods::call(renderer, receiver, name, args),
        },
        Callable::Joiner { separator, is_used } => {
            args.none("joiner")?;
            Ok(if is_used.replace(true) { Value::from(separator.clone()) } else { Value::from("") })
        }
    }
}

fn cycle(renderer: &Renderer<'_>, cycler: &Callable, method: &str, args: Args) -> Result<Value> {
    args.none(method)?;
    let Callable::Cycler { items, at } = cycler else {
        return Err(Error::failed(format!("`{method}` cannot be called")));
    };
    let items = items.elements(renderer.budget())?;
    if method == "reset" {
        at.set(0);
        return Ok(Value::NONE);
    }
    let item = items.get(at.get()).cloned();
    at.set((at.get() + 1) % items.len().max(1));
    item.ok_or_else(|| Error::failed("a cycler has no items"))
}

fn call_function(renderer: &Renderer<'_>, function: Function, args: Args) -> Result<Value> {
    let budget = renderer.budget();
    match function {
        Function::Range => {
            let numbers = args.bind::<3>("range", ["start", "stop", "step"])?;
            let mut given = Vec::new();
            for value in numbers.into_iter().flatten() {
                let number = value.as_int().and_then(|number| i64::try_from(number).ok());
                given.push(number.ok_or_else(|| Error::failed("`range` takes whole numbers"))?);
            }
            let (start, stop, step) = match given[..] {
                [stop] => (0, stop, 1),
                [start, stop] => (start, stop, 1),
                [start, stop, step] if step != 0 => (start, stop, step),
                [_, _, _] => return Err(Error::failed("`range` cannot take steps of 0")),
                _ => return Err(Error::failed("`range` takes 1 to 3 arguments")),
            };
            let range = Range { start, stop, step };
            if range.len() > MAX_RANGE {
                let reason = format!("`range` has {} elements, more than {MAX_RANGE}", range.len());
                return Err(Error::new(ErrorKind::Limit, reason));
            }
            Ok(Value(Repr::Range(range)))
        }
        Function::Dict => {
            let pairs = pairs(renderer, args, "dict")?;
            Value::new_dict(pairs)
        }
        Function::Namespace => {
            let namespace = Rc::new(Namespace::default());
            for (key, value) in pairs(renderer, args, "namespace")? {
                let name = python_text::to_str(&key, budget)?;
                namespace.set(&name, value)?;
            }
            renderer.keep(namespace.clone());
            Ok(Value(Repr::Namespace(namespace)))
        }
        Function::Cycler => {
            if args.positional.is_empty() {
                return Err(Error::failed("`cycler` needs items"));
            }
            let items = Value::tuple(args.positional)?;
            Ok(Value::callable(Callable::Cycler { items, at: Cell::new(0) }))
        }
        Function::Joiner => {
            let [separator] = args.bind("joiner", ["sep"])?;
            let separator = text(separator, "joiner", "sep")?.unwrap_or_else(|| ", ".into());
            Ok(Value::callable(Callable::Joiner { separator, is_used: Cell::new(false) }))
        }
        Function::RaiseException => {
            let [message] = args.bind("raise_exception", ["message"])?;
            let message = needed(message, "raise_exception", "message")?;
            let message = python_text::to_str(&message, budget)?;
            Err(Error::new(ErrorKind::Raised, &*message))
        }
        Function::StrftimeNow => {
            let [format] = args.bind("strftime_now", ["format"])?;
            let format = text(format, "strftime_now", "format")?;
            let format = format.ok_or_else(|| Error::failed("`strftime_now` needs a format"))?;
            budget.bytes(16 * format.len())?;
            Ok(Value::from(renderer.moment().format(&format)))
        }
    }
}

/// The pairs of `dict(mapping or pairs, name=value)`.
fn pairs(renderer: &Renderer<'_>, args: Args, what: &str) -> Result<Vec<(Value, Value)>> {
    let budget = renderer.budget();
    let mut pairs = Vec::new();
    let mut positional = args.positional.into_iter();
    if let Some(value) = positional.next() {
        if let Repr::Dict(dict) = &value.0 {
            budget.spend(2 * dict.pairs.len())?;
            pairs.extend(dict.pairs.iter().cloned());
        } else {
            for pair in value.elements(budget)? {
                let Ok([key, value]) = <[Value; 2]>::try_from(pair.elements(budget)?) else {
                    return Err(Error::failed(format!("`{what}` takes pairs of key and value")));
                };
                pairs.push((key, value));
            }
        }
    }
    if positional.next().is_some() {
        return Err(Error::failed(format!("`{what}` takes one argument without a name")));
    }
    pairs.extend(args.named.into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(pairs)
}

/// The state of a loop that only its own functions use.
pub(crate) type Changed = RefCell<Option<Vec<Value>>>;
