//! Values as Python has them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crate::budget::{Budget, MAX_VALUE_DEPTH};
use crate::error::{Error, ErrorKind, Result};
use crate::functions::Callable;
use crate::interpreter::LoopState;
use crate::syntax::Const;

/// A value of a template. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Value(pub(crate) Repr);

#[derive(Clone, Debug)]
pub(crate) enum Repr {
    Undefined(Undefined),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// Text that needs no escapes of HTML; see `markup`.
    Markup(Arc<str>),
    List(Rc<Sequence>),
    Tuple(Rc<Sequence>),
    Dict(Rc<Dict>),
    Range(Range),
    View(View, Rc<Dict>),
    Iterator(Rc<Lazy>),
    Namespace(Rc<Namespace>),
    Callable(Rc<Callable>),
    Loop(Rc<LoopState>),
}

/// Why a value is not there.
#[derive(Clone, Debug)]
pub(crate) enum Undefined {
    Name(Arc<str>),
    Attribute { of: &'static str, name: Arc<str> },
    Other(&'static str),
}

impl Undefined {
    /// The error that using it makes.
    pub(crate) fn error(&self) -> Error {
        Error::failed(match self {
            Self::Name(name) => format!("`{name}` is undefined"),
            Self::Attribute { of, name } => format!("a {of} has no attribute or item `{name}`"),
            Self::Other(reason) => (*reason).to_owned(),
        })
    }
}

/// The elements of a list or tuple.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) items: Vec<Value>,
    /// The attributes that the elements have too, in order: of the pairs that `groupby` gives.
    pub(crate) names: &'static [&'static str],
    depth: u32,
}

/// A dict, in the order of its keys.
#[derive(Debug, Default)]
pub(crate) struct Dict {
    pub(crate) pairs: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: u32,
}

/// What a key is compared by: `1`, `1.0` and `True` are one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
}

/// A view of a dict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: i64,
    pub(crate) stop: i64,
    pub(crate) step: i64,
}

impl Range {
    pub(crate) fn len(self) -> usize {
        let (from, to) = if self.step > 0 { (self.start, self.stop) } else { (self.stop, self.start) };
        if to <= from { 0 } else { ((to.abs_diff(from) - 1) / self.step.unsigned_abs() + 1) as usize }
    }

    pub(crate) fn at(self, index: usize) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(index as i64))
    }
}

/// What a generator still has to give. It was computed at once, and is given once.
#[derive(Debug)]
pub(crate) struct Lazy {
    pub(crate) left: RefCell<VecDeque<Value>>,
    depth: u32,
}

/// The one value that can be changed.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    pub(crate) attributes: RefCell<Vec<(Arc<str>, Value)>>,
    /// Set while it is printed, since it can hold itself.
    pub(crate) is_shown: Cell<bool>,
}

impl Namespace {
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        self.attributes.borrow().iter().find(|(known, _)| &**known == name).map(|(_, value)| value.clone())
    }

    /// Sets an attribute. Transformers refuses names that begin like Python's own.
    pub(crate) fn set(&self, name: &Arc<str>, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return Err(Error::failed(format!("a namespace takes no attribute `{name}`")));
        }
        let mut attributes = self.attributes.borrow_mut();
        match attributes.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => attributes.push((name.clone(), value)),
        }
        Ok(())
    }
}

/// How deep a value that holds these is nested.
pub(crate) fn depth_of<'v>(values: impl IntoIterator<Item = &'v Value>) -> Result<u32> {
    let depth = values.into_iter().map(Value::depth).max().unwrap_or(0) + 1;
    if depth as usize > MAX_VALUE_DEPTH {
        let reason = format!("a value is nested deeper than {MAX_VALUE_DEPTH} levels");
        return Err(Error::new(ErrorKind::Limit, reason));
    }
    Ok(depth)
}

impl Value {
    /// Python's `None`.
    pub const NONE: Self = Self(Repr::None);

    /// A list of values of a program. What is nested deeper than a template may nest is `None`.
    #[must_use]
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::new_list(items.into_iter().collect()).unwrap_or(Self::NONE)
    }

    /// A dict of values of a program, in this order. What is nested deeper than a template may nest is
    /// `None`.
    #[must_use]
    pub fn dict<'n>(pairs: impl IntoIterator<Item = (&'n str, Self)>) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (Self::from(key), value));
        Dict::new(pairs).map_or(Self::NONE, |dict| Self(Repr::Dict(Rc::new(dict))))
    }

    pub(crate) fn new_list(items: Vec<Self>) -> Result<Self> {
        let depth = depth_of(&items)?;
        Ok(Self(Repr::List(Rc::new(Sequence { items, names: &[], depth }))))
    }

    pub(crate) fn tuple(items: Vec<Self>) -> Result<Self> {
        Self::named_tuple(items, &[])
    }

    pub(crate) fn named_tuple(items: Vec<Self>, names: &'static [&'static str]) -> Result<Self> {
        let depth = depth_of(&items)?;
        Ok(Self(Repr::Tuple(Rc::new(Sequence { items, names, depth }))))
    }

    pub(crate) fn new_dict(pairs: Vec<(Self, Self)>) -> Result<Self> {
        Ok(Self(Repr::Dict(Rc::new(Dict::new(pairs)?))))
    }

    pub(crate) fn iterator(items: Vec<Self>) -> Result<Self> {
        let depth = depth_of(&items)?;
        Ok(Self(Repr::Iterator(Rc::new(Lazy { left: RefCell::new(items.into()), depth }))))
    }

    pub(crate) fn undefined(reason: &'static str) -> Self {
        Self(Repr::Undefined(Undefined::Other(reason)))
    }

    pub(crate) fn callable(callable: Callable) -> Self {
        Self(Repr::Callable(Rc::new(callable)))
    }

    pub(crate) fn of_const(value: &Const) -> Self {
        Self(match value {
            Const::None => Repr::None,
            Const::Bool(truth) => Repr::Bool(*truth),
            Const::Int(number) => Repr::Int(*number),
            Const::Float(number) => Repr::Float(*number),
            Const::Str(text) => Repr::Str(text.clone()),
        })
    }

    pub(crate) fn depth(&self) -> u32 {
        match &self.0 {
            Repr::List(sequence) | Repr::Tuple(sequence) => sequence.depth,
            Repr::Dict(dict) | Repr::View(_, dict) => dict.depth,
            Repr::Iterator(lazy) => lazy.depth,
            Repr::Callable(callable) => callable.depth(),
            // It is cleared at the end, so that whatever it holds does not go down with it.
            Repr::Namespace(_) => 1,
            Repr::Loop(state) => state.value_depth,
            _ => 0,
        }
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self.0, Repr::Undefined(_))
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self.0, Repr::None)
    }

    pub(crate) fn as_str(&self) -> Option<&Arc<str>> {
        match &self.0 {
            Repr::Str(text) | Repr::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// An integer; `True` and `False` are integers.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match self.0 {
            Repr::Int(number) => Some(number),
            Repr::Bool(truth) => Some(truth.into()),
            _ => None,
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self.0 {
            Repr::Float(number) => Some(number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    /// The name of its type, for errors and as Python calls it.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.0 {
            Repr::Undefined(_) => "Undefined",
            Repr::None => "NoneType",
            Repr::Bool(_) => "bool",
            Repr::Int(_) => "int",
            Repr::Float(_) => "float",
            Repr::Str(_) => "str",
            Repr::Markup(_) => "Markup",
            Repr::List(_) => "list",
            Repr::Tuple(_) => "tuple",
            Repr::Dict(_) => "dict",
            Repr::Range(_) => "range",
            Repr::View(View::Keys, _) => "dict_keys",
            Repr::View(View::Values, _) => "dict_values",
            Repr::View(View::Items, _) => "dict_items",
            Repr::Iterator(_) => "generator",
            Repr::Namespace(_) => "Namespace",
            Repr::Callable(_) => "function",
            Repr::Loop(_) => "LoopContext",
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        match &self.0 {
            Repr::Undefined(_) | Repr::None => false,
            Repr::Bool(truth) => *truth,
            Repr::Int(number) => *number != 0,
            Repr::Float(number) => *number != 0.0,
            Repr::Str(text) | Repr::Markup(text) => !text.is_empty(),
            Repr::List(sequence) | Repr::Tuple(sequence) => !sequence.items.is_empty(),
            Repr::Dict(dict) | Repr::View(_, dict) => !dict.pairs.is_empty(),
            Repr::Range(range) => range.len() > 0,
            Repr::Iterator(_) | Repr::Namespace(_) | Repr::Callable(_) | Repr::Loop(_) => true,
        }
    }

    /// Python's `len`; nothing where there is none.
    pub(crate) fn len(&self, budget: &Budget) -> Result<Option<usize>> {
        Ok(Some(match &self.0 {
            Repr::Undefined(_) => 0,
            Repr::Str(text) | Repr::Markup(text) => {
                budget.bytes(text.len())?;
                text.chars().count()
            }
            Repr::List(sequence) | Repr::Tuple(sequence) => sequence.items.len(),
            Repr::Dict(dict) | Repr::View(_, dict) => dict.pairs.len(),
            Repr::Range(range) => range.len(),
            Repr::Loop(state) => state.len(),
            _ => return Ok(None),
        }))
    }

    /// Its elements, for a loop. A generator gives what it has left.
    pub(crate) fn elements(&self, budget: &Budget) -> Result<Vec<Self>> {
        let elements: Vec<Self> = match &self.0 {
            Repr::Undefined(_) => Vec::new(),
            Repr::Str(text) | Repr::Markup(text) => {
                budget.spend(text.len())?;
                let mut buffer = [0; 4];
                text.chars().map(|character| Self::from(&*character.encode_utf8(&mut buffer))).collect()
            }
            Repr::List(sequence) | Repr::Tuple(sequence) => {
                budget.spend(sequence.items.len())?;
                sequence.items.clone()
            }
            Repr::Dict(dict) | Repr::View(View::Keys, dict) => {
                budget.spend(dict.pairs.len())?;
                dict.pairs.iter().map(|(key, _)| key.clone()).collect()
            }
            Repr::View(View::Values, dict) => {
                budget.spend(dict.pairs.len())?;
                dict.pairs.iter().map(|(_, value)| value.clone()).collect()
            }
            Repr::View(View::Items, dict) => {
                budget.spend(3 * dict.pairs.len())?;
                let pair = |(key, value): &(Self, Self)| Self::tuple(vec![key.clone(), value.clone()]);
                dict.pairs.iter().map(pair).collect::<Result<_>>()?
            }
            Repr::Range(range) => {
                budget.spend(range.len())?;
                (0..range.len()).map(|index| Self::from(range.at(index))).collect()
            }
            Repr::Iterator(lazy) => {
                budget.spend(lazy.left.borrow().len())?;
                lazy.left.take().into()
            }
            _ => return Err(Error::failed(format!("a {} cannot be looped over", self.type_name()))),
        };
        Ok(elements)
    }

    pub(crate) fn is_iterable(&self) -> bool {
        !matches!(
            self.0,
            Repr::None
                | Repr::Bool(_)
                | Repr::Int(_)
                | Repr::Float(_)
                | Repr::Namespace(_)
                | Repr::Callable(_)
        )
    }

    /// What it is compared by as a key.
    pub(crate) fn key(&self) -> Result<Key> {
        Ok(match &self.0 {
            Repr::None => Key::None,
            Repr::Bool(truth) => Key::Int((*truth).into()),
            Repr::Int(number) => Key::Int(*number),
            Repr::Float(number) if number.fract() == 0.0 && number.abs() < 1e38 => Key::Int(*number as i128),
            Repr::Float(number) => Key::Float(number.to_bits()),
            Repr::Str(text) | Repr::Markup(text) => Key::Str(text.clone()),
            // Tuples can share their elements, so that a deep one would be far larger than it looks.
            Repr::Tuple(tuple) if tuple.depth <= 2 => {
                Key::Tuple(tuple.items.iter().map(Self::key).collect::<Result<_>>()?)
            }
            Repr::Tuple(_) => return Err(Error::failed("a nested tuple cannot be a key here")),
            _ => return Err(Error::failed(format!("unhashable type: `{}`", self.type_name()))),
        })
    }
}

impl Dict {
    pub(crate) fn new(pairs: impl IntoIterator<Item = (Value, Value)>) -> Result<Self> {
        let mut dict = Self::default();
        for (key, value) in pairs {
            match dict.index.get(&key.key()?) {
                Some(&at) => dict.pairs[at].1 = value,
                None => {
                    dict.index.insert(key.key()?, dict.pairs.len());
                    dict.pairs.push((key, value));
                }
            }
        }
        dict.depth = depth_of(dict.pairs.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(dict)
    }

    pub(crate) fn get(&self, key: &Value) -> Result<Option<&Value>> {
        Ok(self.index.get(&key.key()?).map(|&at| &self.pairs[at].1))
    }

    pub(crate) fn get_str(&self, key: &Arc<str>) -> Option<&Value> {
        self.index.get(&Key::Str(key.clone())).map(|&at| &self.pairs[at].1)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(Repr::Str(text.into()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(Repr::Str(text.into()))
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self(Repr::Str(text))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self(Repr::Bool(truth))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self(Repr::Int(number.into()))
    }
}

impl From<i128> for Value {
    fn from(number: i128) -> Self {
        Self(Repr::Int(number))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self(Repr::Int(number as i128))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self(Repr::Float(number))
    }
}
