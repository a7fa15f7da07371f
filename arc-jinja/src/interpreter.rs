//! Runs statements and expressions.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::budget::{Budget, Limits, MAX_DEPTH};
use crate::calls::Args;
use crate::error::{Error, ErrorKind, Result};
use crate::functions::{self, Callable, Changed, Function};
use crate::operators::{binary, contains, equal, negative, order, positive};
use crate::python_text::{to_str, write_str};
use crate::scope::Scope;
use crate::strftime::Moment;
use crate::syntax::{
    Arguments, Block, Comparison, Expr, FilterCall, ForLoop, Macro, Node, Program, Statement, Target,
};
use crate::value::{Namespace, Repr, Undefined, Value, depth_of};
use crate::{Options, filters, methods, tests_of_values};

pub(crate) fn render<'n>(
    program: &Program,
    context: impl IntoIterator<Item = (&'n str, Value)>,
    limits: Limits,
    moment: Moment,
    options: Options,
) -> Result<String> {
    let given = Rc::new(Scope::default());
    for (name, value) in context {
        given.set(&name.into(), value);
    }
    let root = Scope::within(&given);
    let renderer = Renderer {
        program,
        budget: Budget::new(limits),
        moment,
        options,
        line: Cell::new(0),
        depth: Cell::new(0),
        namespaces: RefCell::default(),
        scopes: RefCell::new(vec![given, root.clone()]),
    };
    let mut output = String::new();
    let rendered = renderer.run(&program.body, &root, &mut output);
    rendered.map_err(|error| error.at(renderer.line.get()))?;
    Ok(output)
}

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(crate) struct Renderer<'p> {
    program: &'p Program,
    budget: Budget,
    moment: Moment,
    options: Options,
    /// Of the statement or call that runs.
    line: Cell<usize>,
    depth: Cell<usize>,
    /// What may hold itself, to be emptied at the end.
    namespaces: RefCell<Vec<Rc<Namespace>>>,
    scopes: RefCell<Vec<Rc<Scope>>>,
}

impl Drop for Renderer<'_> {
    fn drop(&mut self) {
        // One by one while all of them are held here, so that no chain of them falls at once.
        for namespace in self.namespaces.get_mut() {
            let attributes = namespace.attributes.take();
            drop(attributes);
        }
        for scope in self.scopes.get_mut() {
            scope.clear();
        }
    }
}

/// A loop as its body sees it.
#[derive(Debug)]
pub(crate) struct LoopState {
    items: Vec<Value>,
    pub(crate) value_depth: u32,
    at: Cell<usize>,
    depth: usize,
    changed: Changed,
    /// What `loop(…)` runs again, and where.
    again: Option<(Arc<ForLoop>, Rc<Scope>)>,
}

impl LoopState {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn index(&self) -> usize {
        self.at.get()
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let (at, length) = (self.at.get(), self.items.len());
        let item = |index: Option<usize>| {
            index
                .and_then(|index| self.items.get(index).cloned())
                .unwrap_or(Value::undefined("there is no such item"))
        };
        Some(match name {
            "index" => Value::from(at + 1),
            "index0" => Value::from(at),
            "revindex" => Value::from(length - at),
            "revindex0" => Value::from(length - at - 1),
            "first" => Value::from(at == 0),
            "last" => Value::from(at + 1 == length),
            "length" => Value::from(length),
            "previtem" => item(at.checked_sub(1)),
            "nextitem" => item(Some(at + 1)),
            "depth" => Value::from(self.depth + 1),
            "depth0" => Value::from(self.depth),
            _ => return None,
        })
    }

    pub(crate) fn cycle(&self, args: Args) -> Result<Value> {
        let count = args.positional.len();
        let chosen = args.positional.into_iter().nth(self.at.get() % count.max(1));
        chosen.ok_or_else(|| Error::failed("`loop.cycle` needs items"))
    }

    pub(crate) fn changed(&self, budget: &Budget, args: Args) -> Result<Value> {
        let mut last = self.changed.borrow_mut();
        let mut same = last.as_ref().is_some_and(|last| last.len() == args.positional.len());
        for (a, b) in last.iter().flatten().zip(&args.positional) {
            same = same && equal(a, b, budget)?;
        }
        *last = Some(args.positional);
        Ok(Value::from(!same))
    }
}

impl<'p> Renderer<'p> {
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn moment(&self) -> Moment {
        self.moment
    }

    pub(crate) fn block(&self, name: &str) -> Option<&Arc<Block>> {
        self.program.blocks.get(name)
    }

    /// Remembers a namespace, to empty it at the end.
    pub(crate) fn keep(&self, namespace: Rc<Namespace>) {
        self.namespaces.borrow_mut().push(namespace);
    }

    /// Goes one level down.
    fn nested<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let depth = self.depth.get();
        if depth >= MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("it calls itself deeper than {MAX_DEPTH} levels"),
            ));
        }
        self.depth.set(depth + 1);
        let result = run();
        self.depth.set(depth);
        result
    }

    // Statements.

    fn run(&self, body: &[Node], scope: &Rc<Scope>, output: &mut String) -> Result<Flow> {
        self.nested(|| {
            for node in body {
                self.line.set(node.line);
                self.budget.spend(1)?;
                match self.statement(&node.statement, scope, output)? {
                    Flow::Next => {}
                    flow => return Ok(flow),
                }
            }
            Ok(Flow::Next)
        })
    }

    /// What a body writes, in a scope of its own.
    fn captured(&self, body: &[Node], scope: &Rc<Scope>) -> Result<String> {
        let mut text = String::new();
        self.run(body, scope, &mut text)?;
        Ok(text)
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>, output: &mut String) -> Result<Flow> {
        match statement {
            Statement::Text(text) => self.budget.write(output, text)?,
            Statement::Print(value) => {
                let value = self.value(value, scope)?;
                if self.options.strict_undefined
                    && let Repr::Undefined(undefined) = &value.0
                {
                    return Err(undefined.error());
                }
                write_str(output, &value, &self.budget)?;
            }
            Statement::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.value(test, scope)?.is_true() {
                        return self.run(body, scope, output);
                    }
                }
                return self.run(otherwise, scope, output);
            }
            Statement::For(definition) => {
                let items = self.value(&definition.items, scope)?;
                self.run_loop(definition, &items, scope, 0, output)?;
            }
            Statement::Set { target, value } => {
                let value = self.value(value, scope)?;
                self.assign(target, value, scope)?;
            }
            Statement::SetBlock { target, filters, body } => {
                let text = self.captured(body, &Scope::within(scope))?;
                let value = self.apply(Value::from(text), filters, scope)?;
                self.assign(target, value, scope)?;
            }
            Statement::With { targets, body } => {
                let inner = Scope::within(scope);
                for (target, value) in targets {
                    // Each value sees what is around the block, not the names before it.
                    let value = self.value(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.run(body, &inner, output);
            }
            Statement::Macro(definition) => {
                let value = self.macro_value(definition, scope);
                scope.set(&definition.name, value);
            }
            Statement::Call { call, caller } => {
                let caller = self.macro_value(caller, scope);
                let Expr::Call { callee, arguments, line } = call else {
                    return Err(Error::failed("`call` needs a call"));
                };
                let called = self.value(callee, scope)?;
                let mut args = self.args(arguments, scope)?;
                args.named.push(("caller".into(), caller));
                self.line.set(*line);
                let value = self.call(&called, args)?;
                write_str(output, &value, &self.budget)?;
            }
            Statement::FilterBlock { filters, body } => {
                let text = self.captured(body, &Scope::within(scope))?;
                let value = self.apply(Value::from(text), filters, scope)?;
                write_str(output, &value, &self.budget)?;
            }
            Statement::Block(block) => {
                let text = self.render_block(block, block.scoped.then_some(scope))?;
                self.budget.write(output, &text)?;
            }
            Statement::Scoped(body) => return self.run(body, &Scope::within(scope), output),
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::NeedsOthers(tag) => {
                return Err(Error::failed(format!("`{tag}` needs another template, and there is none")));
            }
        }
        Ok(Flow::Next)
    }

    /// What a block writes. It sees the names of the template, and those around it only if it says so.
    pub(crate) fn render_block(&self, block: &Block, around: Option<&Rc<Scope>>) -> Result<String> {
        let root = self.scopes.borrow().get(1).cloned().unwrap_or_default();
        self.nested(|| self.captured(&block.body, &Scope::within(around.unwrap_or(&root))))
    }

    fn macro_value(&self, definition: &Arc<Macro>, scope: &Rc<Scope>) -> Value {
        self.scopes.borrow_mut().push(scope.clone());
        Value::callable(Callable::Macro { definition: definition.clone(), scope: scope.clone() })
    }

    fn run_loop(
        &self,
        definition: &Arc<ForLoop>,
        items: &Value,
        scope: &Rc<Scope>,
        depth: usize,
        output: &mut String,
    ) -> Result<()> {
        let mut items = items.elements(&self.budget)?;
        if let Some(test) = &definition.test {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::within(scope);
                self.assign(&definition.target, item.clone(), &inner)?;
                if self.value(test, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.run(&definition.otherwise, &Scope::within(scope), output).map(|_| ());
        }
        let again = definition.recursive.then(|| {
            self.scopes.borrow_mut().push(scope.clone());
            (definition.clone(), scope.clone())
        });
        let value_depth = depth_of(&items)?;
        let state = Rc::new(LoopState {
            items,
            value_depth,
            at: Cell::new(0),
            depth,
            changed: Changed::default(),
            again,
        });
        let name: Arc<str> = "loop".into();
        for index in 0..state.items.len() {
            self.budget.spend(1)?;
            state.at.set(index);
            let inner = Scope::within(scope);
            inner.set(&name, Value(Repr::Loop(state.clone())));
            self.assign(&definition.target, state.items[index].clone(), &inner)?;
            if self.run(&definition.body, &inner, output)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        self.budget.spend(1)?;
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => {
                let namespace = self.lookup(name, scope)?;
                let Repr::Namespace(namespace) = &namespace.0 else {
                    return Err(Error::failed(format!(
                        "only a namespace has attributes that can be set, and `{name}` is a {}",
                        namespace.type_name()
                    )));
                };
                namespace.set(attribute, value)?;
            }
            Target::Tuple(targets) => {
                let values = value.elements(&self.budget)?;
                if values.len() != targets.len() {
                    return Err(Error::failed(format!(
                        "{} values cannot be unpacked into {} names",
                        values.len(),
                        targets.len()
                    )));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn call_macro(&self, definition: &Macro, scope: &Rc<Scope>, args: Args) -> Result<Value> {
        let inner = Scope::within(scope);
        let Args { positional, mut named } = args;
        let mut positional = positional.into_iter();
        for (name, default) in &definition.parameters {
            let of_name = named.iter().position(|(known, _)| known == name).map(|at| named.remove(at).1);
            let value = match (positional.next(), of_name) {
                (Some(_), Some(_)) => {
                    let reason = format!("macro `{}` is given argument `{name}` twice", definition.name);
                    return Err(Error::failed(reason));
                }
                (Some(value), None) | (None, Some(value)) => value,
                (None, None) => match default {
                    // A default sees the arguments before it.
                    Some(default) => self.value(default, &inner)?,
                    None => Value::undefined("an argument of a macro was not given"),
                },
            };
            inner.set(name, value);
        }
        let caller = named.iter().position(|(name, _)| &**name == "caller");
        if definition.names_caller && !definition.parameters.iter().any(|(name, _)| &**name == "caller") {
            let caller = caller.map(|at| named.remove(at).1);
            let caller = caller.unwrap_or_else(|| Value::undefined("no caller is defined"));
            inner.set(&"caller".into(), caller);
        }
        let rest: Vec<_> = positional.collect();
        if definition.names_varargs {
            inner.set(&"varargs".into(), Value::tuple(rest)?);
        } else if !rest.is_empty() {
            return Err(Error::failed(format!(
                "macro `{}` takes not more than {} arguments",
                definition.name,
                definition.parameters.len()
            )));
        }
        if definition.names_kwargs {
            let named = named.into_iter().map(|(name, value)| (Value::from(name), value));
            inner.set(&"kwargs".into(), Value::new_dict(named.collect())?);
        } else if let Some((name, _)) = named.first() {
            return Err(Error::failed(format!("macro `{}` takes no argument `{name}`", definition.name)));
        }
        self.nested(|| self.captured(&definition.body, &inner)).map(Value::from)
    }

    // Expressions.

    fn lookup(&self, name: &Arc<str>, scope: &Rc<Scope>) -> Result<Value> {
        if let Some(value) = scope.get(name, &self.budget)? {
            return Ok(value);
        }
        if let Some(function) = Function::named(name) {
            return Ok(Value::callable(Callable::Function(function)));
        }
        if &**name == "self" {
            return Ok(Value::callable(Callable::Blocks));
        }
        Ok(Value(Repr::Undefined(Undefined::Name(name.clone()))))
    }

    fn values(&self, expressions: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        self.budget.spend(expressions.len())?;
        expressions.iter().map(|expression| self.value(expression, scope)).collect()
    }

    fn value(&self, expression: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.spend(1)?;
        match expression {
            Expr::Const(value) => Ok(Value::of_const(value)),
            Expr::Name(name) => self.lookup(name, scope),
            _ => self.nested(|| self.compound(expression, scope)),
        }
    }

    fn compound(&self, expression: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        match expression {
            Expr::Const(value) => Ok(Value::of_const(value)),
            Expr::Name(name) => self.lookup(name, scope),
            Expr::List(elements) => Value::new_list(self.values(elements, scope)?),
            Expr::Tuple(elements) => Value::tuple(self.values(elements, scope)?),
            Expr::Dict(pairs) => {
                let mut values = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    self.budget.spend(2)?;
                    values.push((self.value(key, scope)?, self.value(value, scope)?));
                }
                Value::new_dict(values)
            }
            Expr::Negative(value) => negative(&self.value(value, scope)?),
            Expr::Positive(value) => positive(&self.value(value, scope)?),
            Expr::Not(value) => Ok(Value::from(!self.value(value, scope)?.is_true())),
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.value(left, scope)?, self.value(right, scope)?);
                binary(*operator, &left, &right, &self.budget)
            }
            Expr::And(left, right) => {
                let left = self.value(left, scope)?;
                if left.is_true() { self.value(right, scope) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.value(left, scope)?;
                if left.is_true() { Ok(left) } else { self.value(right, scope) }
            }
            Expr::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    write_str(&mut text, &self.value(part, scope)?, &self.budget)?;
                }
                Ok(Value::from(text))
            }
            Expr::Compare(first, rest) => {
                let mut left = self.value(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.value(right, scope)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(Value::from(false));
                    }
                    left = right;
                }
                Ok(Value::from(true))
            }
            Expr::Conditional { test, then, otherwise } => {
                if self.value(test, scope)?.is_true() {
                    return self.value(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.value(otherwise, scope),
                    None => Ok(Value::undefined("an `if` without `else` gave nothing")),
                }
            }
            Expr::Attribute(value, name) => {
                let value = self.value(value, scope)?;
                self.attribute(&value, name)
            }
            Expr::Item(value, index) => {
                let (value, index) = (self.value(value, scope)?, self.value(index, scope)?);
                self.item(&value, &index)
            }
            Expr::Slice(value, parts) => {
                let value = self.value(value, scope)?;
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    let Some(part) = part else { continue };
                    let part = self.value(part, scope)?;
                    *bound = match part.as_int() {
                        _ if part.is_none() => None,
                        Some(number) => Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
                        None => return Err(Error::failed("a slice is between whole numbers")),
                    };
                }
                self.slice(&value, bounds)
            }
            Expr::Call { callee, arguments, line } => {
                let called = self.value(callee, scope)?;
                let args = self.args(arguments, scope)?;
                self.line.set(*line);
                self.call(&called, args)
            }
            Expr::Filter(value, call) => {
                let value = self.value(value, scope)?;
                let args = self.args(&call.arguments, scope)?;
                filters::apply(self, &call.name, value, args)
            }
            Expr::Test { value, name, arguments } => {
                let value = self.value(value, scope)?;
                let args = self.args(arguments, scope)?;
                tests_of_values::test(self, name, &value, args).map(Value::from)
            }
        }
    }

    fn compare(&self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        let budget = &self.budget;
        let order = |sign| order(sign, left, right, budget);
        Ok(match comparison {
            Comparison::Equal => equal(left, right, budget)?,
            Comparison::NotEqual => !equal(left, right, budget)?,
            Comparison::Less => order("<")?.is_lt(),
            Comparison::LessOrEqual => order("<=")?.is_le(),
            Comparison::Greater => order(">")?.is_gt(),
            Comparison::GreaterOrEqual => order(">=")?.is_ge(),
            Comparison::In => contains(right, left, budget)?,
            Comparison::NotIn => !contains(right, left, budget)?,
        })
    }

    fn args(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut positional = self.values(&arguments.positional, scope)?;
        if let Some(star) = &arguments.star {
            positional.extend(self.value(star, scope)?.elements(&self.budget)?);
        }
        let mut named = Vec::with_capacity(arguments.named.len());
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.value(value, scope)?));
        }
        if let Some(stars) = &arguments.double_star {
            let stars = self.value(stars, scope)?;
            let Repr::Dict(dict) = &stars.0 else {
                return Err(Error::failed(format!("`**` takes a dict, not a {}", stars.type_name())));
            };
            for (key, value) in &dict.pairs {
                let name = to_str(key, &self.budget)?;
                if named.iter().any(|(known, _)| *known == name) {
                    return Err(Error::failed(format!("argument `{name}` is given twice")));
                }
                named.push((name, value.clone()));
            }
        }
        Ok(Args { positional, named })
    }

    fn apply(&self, mut value: Value, calls: &[FilterCall], scope: &Rc<Scope>) -> Result<Value> {
        for call in calls {
            let args = self.args(&call.arguments, scope)?;
            value = filters::apply(self, &call.name, value, args)?;
        }
        Ok(value)
    }

    pub(crate) fn call(&self, called: &Value, args: Args) -> Result<Value> {
        self.budget.spend(1)?;
        match &called.0 {
            Repr::Callable(callable) => self.nested(|| functions::call(self, callable, args)),
            Repr::Loop(state) => {
                let Some((definition, scope)) = &state.again else {
                    return Err(Error::failed("`loop` is called, and its loop is not recursive"));
                };
                let [items] = args.bind("loop", ["iterable"])?;
                let items = items.ok_or_else(|| Error::failed("`loop` needs something to loop over"))?;
                let mut text = String::new();
                self.nested(|| self.run_loop(definition, &items, scope, state.depth + 1, &mut text))?;
                Ok(Value::from(text))
            }
            Repr::Undefined(undefined) => Err(undefined.error()),
            _ => Err(Error::failed(format!("a {} cannot be called", called.type_name()))),
        }
    }

    /// `value.name`: an attribute, else an item.
    pub(crate) fn attribute(&self, value: &Value, name: &Arc<str>) -> Result<Value> {
        self.budget.spend(1)?;
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Repr::Dict(dict) = &value.0
            && let Some(found) = dict.get_str(name)
        {
            return Ok(found.clone());
        }
        self.missing(value, name)
    }

    fn missing(&self, value: &Value, name: &Arc<str>) -> Result<Value> {
        if let Repr::Undefined(undefined) = &value.0 {
            return Err(undefined.error());
        }
        Ok(Value(Repr::Undefined(Undefined::Attribute { of: value.type_name(), name: name.clone() })))
    }

    /// What Python's `getattr` finds of a sandboxed value.
    fn own_attribute(&self, value: &Value, name: &Arc<str>) -> Result<Option<Value>> {
        if name.starts_with('_') {
            return Ok(None);
        }
        let found = match &value.0 {
            Repr::Namespace(namespace) => namespace.get(name),
            Repr::Loop(state) => state.attribute(name),
            Repr::Callable(callable) => callable.attribute(name, self)?,
            Repr::Tuple(tuple) => tuple
                .names
                .iter()
                .position(|known| *known == &**name)
                .and_then(|at| tuple.items.get(at))
                .cloned(),
            _ => None,
        };
        if found.is_some() || !methods::has(value, name) {
            return Ok(found);
        }
        Ok(Some(Value::callable(Callable::Method { receiver: value.clone(), name: name.clone() })))
    }

    /// `value[index]`: an item, else an attribute.
    pub(crate) fn item(&self, value: &Value, index: &Value) -> Result<Value> {
        self.budget.spend(1)?;
        let at = |length: usize| -> Option<usize> {
            let index = index.as_int()?;
            let index = if index < 0 { index + length as i128 } else { index };
            usize::try_from(index).ok().filter(|index| *index < length)
        };
        let found = match &value.0 {
            Repr::Undefined(undefined) => return Err(undefined.error()),
            Repr::Str(text) | Repr::Markup(text) if index.as_int().is_some() => {
                self.budget.bytes(text.len())?;
                let length = text.chars().count();
                at(length).and_then(|at| text.chars().nth(at)).map(|c| Value::text_like(value, c.to_string()))
            }
            Repr::List(sequence) | Repr::Tuple(sequence) => {
                at(sequence.items.len()).and_then(|at| sequence.items.get(at)).cloned()
            }
            Repr::Dict(dict) => match index.key() {
                Ok(_) => dict.get(index)?.cloned(),
                Err(_) => None,
            },
            Repr::Range(range) => at(range.len()).map(|at| Value::from(range.at(at))),
            // A namespace has attributes only; Python finds them by an index of that name.
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match index.as_str() {
            Some(name) => match self.own_attribute(value, name)? {
                Some(found) => Ok(found),
                None => self.missing(value, name),
            },
            None => Ok(Value::undefined("there is no such item")),
        }
    }

    fn slice(&self, value: &Value, [start, stop, step]: [Option<i64>; 3]) -> Result<Value> {
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(Error::failed("a slice cannot have steps of 0"));
        }
        let indices = |length: usize| {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            // Between the first place and the one behind the last, or one before the first going back.
            let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
            let bound = |bound: Option<i64>, default: i64| match bound {
                None => default,
                Some(bound) if bound < 0 => bound.saturating_add(length).clamp(low, high),
                Some(bound) => bound.clamp(low, high),
            };
            let (from, to) = if step > 0 {
                (bound(start, low), bound(stop, high))
            } else {
                (bound(start, high), bound(stop, low))
            };
            let mut indices = Vec::new();
            let mut at = from;
            while if step > 0 { at < to } else { at > to } {
                indices.push(at as usize);
                at = at.saturating_add(step);
            }
            indices
        };
        match &value.0 {
            Repr::Undefined(undefined) => Err(undefined.error()),
            Repr::Str(text) | Repr::Markup(text) => {
                self.budget.spend(text.len() / 4 + 1)?;
                let characters: Vec<char> = text.chars().collect();
                let chosen: String =
                    indices(characters.len()).into_iter().filter_map(|at| characters.get(at)).collect();
                Ok(Value::text_like(value, chosen))
            }
            Repr::List(sequence) | Repr::Tuple(sequence) => {
                self.budget.spend(sequence.items.len())?;
                let chosen = indices(sequence.items.len());
                let items = chosen.into_iter().filter_map(|at| sequence.items.get(at)).cloned().collect();
                if matches!(value.0, Repr::List(_)) { Value::new_list(items) } else { Value::tuple(items) }
            }
            Repr::Range(range) => {
                self.budget.spend(range.len())?;
                let items = indices(range.len()).into_iter().map(|at| Value::from(range.at(at))).collect();
                // Python gives another range, which prints otherwise and is the same in all else.
                Value::new_list(items)
            }
            // What cannot be sliced is not there, as what has no item of an index.
            _ => Ok(Value::undefined("there is no such slice")),
        }
    }
}
