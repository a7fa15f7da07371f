//! Tokens to statements and expressions. Source: the grammar of `jinja2/parser.py`, 3.1.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::lexer::{Literal, Spanned, Token};
use crate::syntax::{
    Arguments, Block, Comparison, Const, Expr, FilterCall, ForLoop, Macro, Node, Operator, Program,
    Statement, Target,
};

/// How deep a template may be nested, and how long a chain of operators, filters or attributes may be.
/// What is read here is walked by functions that call themselves.
const MAX_NESTING: usize = 150;

/// What an operator makes of the two sides of it.
type Join = fn(Box<Expr>, Box<Expr>) -> Expr;

pub(crate) fn parse(tokens: Vec<Spanned>) -> Result<Program> {
    let mut parser =
        Parser { tokens, at: 0, depth: 0, blocks: BTreeMap::new(), macros: Vec::new(), loops: 0 };
    let body = parser.body(&[])?;
    Ok(Program { body, blocks: parser.blocks })
}

/// Which special names the body of a macro has, while it is read.
#[derive(Default)]
struct NamesSeen {
    varargs: bool,
    kwargs: bool,
    caller: bool,
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    depth: usize,
    blocks: BTreeMap<Arc<str>, Arc<Block>>,
    macros: Vec<NamesSeen>,
    loops: usize,
}

impl Parser {
    fn token(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |spanned| &spanned.token)
    }

    fn ahead(&self) -> &Token {
        self.tokens.get(self.at + 1).map_or(&Token::End, |spanned| &spanned.token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at.min(self.tokens.len() - 1)).map_or(0, |spanned| spanned.line)
    }

    fn advance(&mut self) {
        self.at += 1;
    }

    fn fail<T>(&self, reason: impl std::fmt::Display) -> Result<T> {
        Err(Error::syntax(self.line(), reason))
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.token() {
            Token::Text(_) => "text".to_owned(),
            Token::BlockBegin => "`{%`".to_owned(),
            Token::BlockEnd => "`%}`".to_owned(),
            Token::PrintBegin => "`{{`".to_owned(),
            Token::PrintEnd => "`}}`".to_owned(),
            Token::Name(name) => format!("`{name}`"),
            Token::Literal(Literal::Str(_)) => "a string".to_owned(),
            Token::Literal(_) => "a number".to_owned(),
            Token::Operator(operator) => format!("`{operator}`"),
            Token::End => "the end".to_owned(),
        };
        self.fail(format!("unexpected {found}, expected {expected}"))
    }

    fn is(&self, operator: &str) -> bool {
        matches!(self.token(), Token::Operator(found) if *found == operator)
    }

    fn skip(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, operator: &str) -> Result<()> {
        if self.skip(operator) { Ok(()) } else { self.unexpected(&format!("`{operator}`")) }
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(found) if &**found == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.advance();
        }
        found
    }

    fn name(&mut self) -> Result<Arc<str>> {
        match self.token() {
            Token::Name(name) => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// Goes one level down.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return self.fail(format!("it is nested deeper than {MAX_NESTING} levels"));
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    /// Refuses a chain of operators, which is as deep as it is long.
    fn check_chain(&self, length: usize) -> Result<()> {
        if self.depth + length > MAX_NESTING {
            return self.fail(format!("it has a chain or nesting of more than {MAX_NESTING} operators"));
        }
        Ok(())
    }

    // Statements.

    /// The statements up to a tag of one of these names, which is not read; with none, up to the end.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Node>> {
        self.nested(|parser| {
            let mut nodes = Vec::new();
            loop {
                let line = parser.line();
                let statement = match parser.token() {
                    Token::Text(text) => {
                        let text = text.clone();
                        parser.advance();
                        Statement::Text(text)
                    }
                    Token::PrintBegin => {
                        parser.advance();
                        let value = parser.tuple(false)?;
                        if *parser.token() != Token::PrintEnd {
                            return parser.unexpected("`}}`");
                        }
                        parser.advance();
                        Statement::Print(value)
                    }
                    Token::BlockBegin => {
                        parser.advance();
                        if ends.iter().any(|end| parser.is_name(end)) {
                            return Ok(nodes);
                        }
                        match parser.statement()? {
                            Some(statement) => statement,
                            None => continue,
                        }
                    }
                    Token::End if ends.is_empty() => return Ok(nodes),
                    _ => {
                        let ends: Vec<_> = ends.iter().map(|end| format!("`{end}`")).collect();
                        return parser.unexpected(&ends.join(" or "));
                    }
                };
                nodes.push(Node { line, statement });
            }
        })
    }

    fn block_end(&mut self) -> Result<()> {
        if *self.token() != Token::BlockEnd {
            return self.unexpected("`%}`");
        }
        self.advance();
        Ok(())
    }

    /// A body whose tag has been read up to its end, with the tag that ends it.
    fn enclosed(&mut self, end: &str) -> Result<Vec<Node>> {
        self.block_end()?;
        let body = self.body(&[end])?;
        self.advance();
        Ok(body)
    }

    /// A statement with its end.
    fn statement(&mut self) -> Result<Option<Statement>> {
        let Token::Name(tag) = self.token() else { return self.unexpected("a tag") };
        let tag = tag.clone();
        self.advance();
        let statement = match &*tag {
            "if" => self.condition()?,
            "for" => self.for_loop()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => self.macro_definition()?,
            "call" => self.call_block()?,
            "filter" => {
                let filters = self.filters(true)?;
                Statement::FilterBlock { filters, body: self.enclosed("endfilter")? }
            }
            "print" => Statement::Print(self.tuple(false)?),
            "block" => self.block()?,
            "autoescape" => {
                self.expression()?;
                Statement::Scoped(self.enclosed("endautoescape")?)
            }
            "generation" => {
                // Jinja has it as the body of a call, out of sight of the loop around it.
                let loops = std::mem::take(&mut self.loops);
                let body = self.enclosed("endgeneration")?;
                self.loops = loops;
                Statement::Scoped(body)
            }
            "break" | "continue" if self.loops == 0 => {
                return self.fail(format!("`{tag}` stands outside of a loop"));
            }
            "break" => Statement::Break,
            "continue" => Statement::Continue,
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.token(), Token::BlockEnd | Token::End) {
                    self.advance();
                }
                Statement::NeedsOthers(match &*tag {
                    "include" => "include",
                    "extends" => "extends",
                    _ => "import",
                })
            }
            _ => {
                self.at -= 1;
                return self.fail(format!("unknown tag `{tag}`"));
            }
        };
        self.block_end()?;
        Ok(Some(statement))
    }

    fn condition(&mut self) -> Result<Statement> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(true)?;
            self.block_end()?;
            let body = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise =
                if self.skip_name("else") { self.enclosed("endif")? } else { self.advance_past() };
            return Ok(Statement::If { branches, otherwise });
        }
    }

    /// Passes the name of the tag that ended a body; there is no `else`.
    fn advance_past(&mut self) -> Vec<Node> {
        self.advance();
        Vec::new()
    }

    fn for_loop(&mut self) -> Result<Statement> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return self.unexpected("`in`");
        }
        let items = self.tuple(true)?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") { self.enclosed("endfor")? } else { self.advance_past() };
        Ok(Statement::For(Arc::new(ForLoop { target, items, test, recursive, body, otherwise })))
    }

    fn set(&mut self) -> Result<Statement> {
        let target = self.target(true)?;
        if self.skip("=") {
            return Ok(Statement::Set { target, value: self.tuple(false)? });
        }
        let filters = self.filters(false)?;
        Ok(Statement::SetBlock { target, filters, body: self.enclosed("endset")? })
    }

    fn with(&mut self) -> Result<Statement> {
        let mut targets = Vec::new();
        while *self.token() != Token::BlockEnd {
            if !targets.is_empty() {
                self.expect(",")?;
            }
            let target = self.target(false)?;
            self.expect("=")?;
            targets.push((target, self.expression()?));
        }
        Ok(Statement::With { targets, body: self.enclosed("endwith")? })
    }

    fn block(&mut self) -> Result<Statement> {
        let name = self.name()?;
        let mut scoped = false;
        loop {
            if self.skip_name("scoped") {
                scoped = true;
            } else if !self.skip_name("required") {
                break;
            }
        }
        // Within a block the loop around it is out of sight.
        let loops = std::mem::take(&mut self.loops);
        let body = self.enclosed("endblock")?;
        self.loops = loops;
        if self.is_name(&name) {
            self.advance();
        }
        let block = Arc::new(Block { name: name.clone(), scoped, body });
        if self.blocks.insert(name.clone(), block.clone()).is_some() {
            return self.fail(format!("block `{name}` is defined twice"));
        }
        Ok(Statement::Block(block))
    }

    fn macro_definition(&mut self) -> Result<Statement> {
        let name = self.name()?;
        self.expect("(")?;
        let parameters = self.parameters()?;
        Ok(Statement::Macro(Arc::new(self.macro_body(name, parameters, "endmacro")?)))
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Result<Macro> {
        self.macros.push(NamesSeen::default());
        let loops = std::mem::take(&mut self.loops);
        let body = self.enclosed(end)?;
        self.loops = loops;
        let seen = self.macros.pop().unwrap_or_default();
        Ok(Macro {
            name,
            parameters,
            body,
            names_varargs: seen.varargs,
            names_kwargs: seen.kwargs,
            names_caller: seen.caller,
        })
    }

    /// Parameters after the opening bracket, with the closing one.
    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expr>)>> {
        let mut parameters: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.skip(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            let name = self.name()?;
            let default = if self.skip("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("a parameter without a default follows one with a default");
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    fn call_block(&mut self) -> Result<Statement> {
        let parameters = if self.skip("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call, Expr::Call { .. }) {
            return self.fail("`call` needs a call");
        }
        let caller = Arc::new(self.macro_body("caller".into(), parameters, "endcall")?);
        Ok(Statement::Call { call, caller })
    }

    /// A name, several with commas, or an attribute of a namespace.
    fn target(&mut self, with_namespace: bool) -> Result<Target> {
        let first = self.one_target(with_namespace)?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip(",") {
            if self.is("=") || self.is_name("in") || *self.token() == Token::BlockEnd {
                break;
            }
            targets.push(self.one_target(with_namespace)?);
        }
        Ok(Target::Tuple(targets))
    }

    fn one_target(&mut self, with_namespace: bool) -> Result<Target> {
        if self.skip("(") {
            let target = self.nested(|parser| {
                let mut targets = Vec::new();
                let mut is_tuple = false;
                while !parser.is(")") {
                    targets.push(parser.one_target(with_namespace)?);
                    if !parser.skip(",") {
                        break;
                    }
                    is_tuple = true;
                }
                Ok(match (targets.pop(), is_tuple) {
                    (Some(one), false) => one,
                    (last, _) => {
                        targets.extend(last);
                        Target::Tuple(targets)
                    }
                })
            })?;
            self.expect(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("`{name}` cannot be set"));
        }
        if with_namespace && self.skip(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    // Expressions, from the loosest binding to the tightest.

    fn expression(&mut self) -> Result<Expr> {
        self.nested(Self::conditional)
    }

    /// Whether a tuple ends here.
    fn ends_tuple(&self) -> bool {
        match self.token() {
            Token::PrintEnd | Token::BlockEnd | Token::End => true,
            Token::Operator(operator) => *operator == ")",
            Token::Name(name) => &**name == "recursive",
            _ => false,
        }
    }

    /// One expression, or several with commas. Without conditionals where an `if` may follow.
    fn tuple(&mut self, without_conditional: bool) -> Result<Expr> {
        let element = |parser: &mut Self| match without_conditional {
            true => parser.nested(Self::or),
            false => parser.expression(),
        };
        let first = element(self)?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut elements = vec![first];
        while self.skip(",") {
            if self.ends_tuple() {
                break;
            }
            elements.push(element(self)?);
        }
        Ok(Expr::Tuple(elements))
    }

    fn conditional(&mut self) -> Result<Expr> {
        let mut then = self.or()?;
        let mut length = 0;
        while self.skip_name("if") {
            length += 1;
            self.check_chain(length)?;
            let test = Box::new(self.or()?);
            let otherwise = match self.skip_name("else") {
                true => Some(Box::new(self.nested(Self::conditional)?)),
                false => None,
            };
            then = Expr::Conditional { test, then: Box::new(then), otherwise };
        }
        Ok(then)
    }

    /// A chain of operators that bind to the left.
    fn chain(
        &mut self,
        next: fn(&mut Self) -> Result<Expr>,
        joined: fn(&mut Self) -> Option<Join>,
    ) -> Result<Expr> {
        let mut left = next(self)?;
        let mut length = 0;
        while let Some(join) = joined(self) {
            length += 1;
            self.check_chain(length)?;
            let right = next(self)?;
            left = join(Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn or(&mut self) -> Result<Expr> {
        self.chain(Self::and, |parser| parser.skip_name("or").then_some(Expr::Or as fn(_, _) -> _))
    }

    fn and(&mut self) -> Result<Expr> {
        self.chain(Self::not, |parser| parser.skip_name("and").then_some(Expr::And as fn(_, _) -> _))
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let left = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.token() {
                Token::Operator("==") => Comparison::Equal,
                Token::Operator("!=") => Comparison::NotEqual,
                Token::Operator("<") => Comparison::Less,
                Token::Operator("<=") => Comparison::LessOrEqual,
                Token::Operator(">") => Comparison::Greater,
                Token::Operator(">=") => Comparison::GreaterOrEqual,
                Token::Name(name) if &**name == "in" => Comparison::In,
                Token::Name(name)
                    if &**name == "not" && matches!(self.ahead(), Token::Name(next) if &**next == "in") =>
                {
                    self.advance();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.advance();
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { left } else { Expr::Compare(Box::new(left), rest) })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.chain(Self::concat, |parser| {
            if parser.skip("+") {
                Some(|left, right| Expr::Binary(Operator::Add, left, right))
            } else if parser.skip("-") {
                Some(|left, right| Expr::Binary(Operator::Subtract, left, right))
            } else {
                None
            }
        })
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr> {
        self.chain(Self::power, |parser| {
            if parser.skip("*") {
                Some(|left, right| Expr::Binary(Operator::Multiply, left, right))
            } else if parser.skip("/") {
                Some(|left, right| Expr::Binary(Operator::Divide, left, right))
            } else if parser.skip("//") {
                Some(|left, right| Expr::Binary(Operator::FloorDivide, left, right))
            } else if parser.skip("%") {
                Some(|left, right| Expr::Binary(Operator::Remainder, left, right))
            } else {
                None
            }
        })
    }

    fn power(&mut self) -> Result<Expr> {
        self.chain(
            |parser| parser.unary(true),
            |parser| {
                parser
                    .skip("**")
                    .then_some((|left, right| Expr::Binary(Operator::Power, left, right)) as fn(_, _) -> _)
            },
        )
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let value = if self.skip("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let (value, length) = self.postfix(value, 0)?;
        if with_filters { self.filtered(value, length) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.token().clone() {
            Token::Name(name) => {
                self.advance();
                Ok(match &*name {
                    "true" | "True" => Expr::Const(Const::Bool(true)),
                    "false" | "False" => Expr::Const(Const::Bool(false)),
                    "none" | "None" => Expr::Const(Const::None),
                    _ => {
                        for seen in &mut self.macros {
                            match &*name {
                                "varargs" => seen.varargs = true,
                                "kwargs" => seen.kwargs = true,
                                "caller" => seen.caller = true,
                                _ => {}
                            }
                        }
                        Expr::Name(name)
                    }
                })
            }
            Token::Literal(Literal::Str(mut text)) => {
                self.advance();
                // Strings that follow each other are one.
                while let Token::Literal(Literal::Str(more)) = self.token() {
                    text.push_str(more);
                    self.advance();
                }
                Ok(Expr::Const(Const::Str(text.into())))
            }
            Token::Literal(literal) => {
                self.advance();
                Ok(Expr::Const(literal.into_const()))
            }
            Token::Operator("(") => {
                self.advance();
                let inner = if self.is(")") { Expr::Tuple(Vec::new()) } else { self.tuple(false)? };
                self.expect(")")?;
                Ok(inner)
            }
            Token::Operator("[") => {
                self.advance();
                let mut elements = Vec::new();
                while !self.is("]") {
                    elements.push(self.expression()?);
                    if !self.skip(",") {
                        break;
                    }
                }
                self.expect("]")?;
                Ok(Expr::List(elements))
            }
            Token::Operator("{") => {
                self.advance();
                let mut pairs = Vec::new();
                while !self.is("}") {
                    let key = self.expression()?;
                    self.expect(":")?;
                    pairs.push((key, self.expression()?));
                    if !self.skip(",") {
                        break;
                    }
                }
                self.expect("}")?;
                Ok(Expr::Dict(pairs))
            }
            _ => self.unexpected("a value"),
        }
    }

    /// What follows a value directly: attributes, items and calls. `length` counts what has followed.
    fn postfix(&mut self, mut value: Expr, mut length: usize) -> Result<(Expr, usize)> {
        loop {
            let line = self.line();
            if self.skip(".") {
                value = match self.token().clone() {
                    Token::Name(name) => Expr::Attribute(Box::new(value), name),
                    Token::Literal(Literal::Int(index)) => {
                        Expr::Item(Box::new(value), Box::new(Expr::Const(Const::Int(index))))
                    }
                    _ => return self.unexpected("a name"),
                };
                self.advance();
            } else if self.skip("[") {
                value = self.subscript(value)?;
            } else if self.skip("(") {
                let arguments = self.arguments()?;
                value = Expr::Call { callee: Box::new(value), arguments, line };
            } else {
                return Ok((value, length));
            }
            length += 1;
            self.check_chain(length)?;
        }
    }

    fn subscript(&mut self, value: Expr) -> Result<Expr> {
        let first = if self.is(":") { None } else { Some(self.expression()?) };
        if !self.is(":") {
            let Some(mut index) = first else { return self.unexpected("an index") };
            if self.is(",") {
                let mut elements = vec![index];
                while self.skip(",") {
                    elements.push(self.expression()?);
                }
                index = Expr::Tuple(elements);
            }
            self.expect("]")?;
            return Ok(Expr::Item(Box::new(value), Box::new(index)));
        }
        let mut parts = [first, None, None];
        let mut part = 0;
        while !self.is("]") {
            if self.skip(":") {
                part += 1;
                if part > 2 {
                    return self.unexpected("`]`");
                }
            } else {
                parts[part] = Some(self.expression()?);
                if !self.is(":") {
                    break;
                }
            }
        }
        self.expect("]")?;
        Ok(Expr::Slice(Box::new(value), Box::new(parts)))
    }

    /// Filters, tests and calls.
    fn filtered(&mut self, mut value: Expr, mut length: usize) -> Result<Expr> {
        loop {
            let line = self.line();
            if self.is("|") {
                for filter in self.filters(false)? {
                    length += 1;
                    self.check_chain(length)?;
                    value = Expr::Filter(Box::new(value), filter);
                }
            } else if self.skip_name("is") {
                value = self.test(value)?;
                length += 1;
            } else if self.skip("(") {
                let arguments = self.arguments()?;
                value = Expr::Call { callee: Box::new(value), arguments, line };
                length += 1;
            } else {
                return Ok(value);
            }
            self.check_chain(length)?;
        }
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.name()?;
        while self.skip(".") {
            let next = self.name()?;
            name = format!("{name}.{next}").into();
        }
        Ok(name)
    }

    /// Filters with a bar before each; with `inline` the first has none.
    fn filters(&mut self, mut inline: bool) -> Result<Vec<FilterCall>> {
        let mut filters = Vec::new();
        while inline || self.skip("|") {
            inline = false;
            let name = self.dotted_name()?;
            let arguments = if self.skip("(") { self.arguments()? } else { Arguments::default() };
            filters.push(FilterCall { name, arguments });
        }
        Ok(filters)
    }

    fn test(&mut self, value: Expr) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        let follows = match self.token() {
            Token::Literal(_) => true,
            Token::Operator(operator) => matches!(*operator, "[" | "{"),
            Token::Name(name) if &**name == "is" => return self.fail("tests cannot be chained with `is`"),
            Token::Name(name) => !matches!(&**name, "else" | "or" | "and"),
            _ => false,
        };
        if self.skip("(") {
            arguments = self.arguments()?;
        } else if follows
            && !self.is_name("not")
            && !self.is_name("if")
            && !self.is_name("in")
            && !self.is_name("recursive")
        {
            let argument = self.nested(Self::primary)?;
            arguments.positional.push(self.postfix(argument, 0)?.0);
        }
        let test = Expr::Test { value: Box::new(value), name, arguments };
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    /// Arguments after the opening bracket, with the closing one.
    fn arguments(&mut self) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.is(")") {
            if !first {
                self.expect(",")?;
                if self.is(")") {
                    break;
                }
            }
            first = false;
            if self.skip("**") {
                arguments.double_star = Some(Box::new(self.expression()?));
            } else if self.skip("*") {
                arguments.star = Some(Box::new(self.expression()?));
            } else if let Token::Name(name) = self.token().clone()
                && *self.ahead() == Token::Operator("=")
            {
                self.advance();
                self.advance();
                let value = self.expression()?;
                if arguments.named.iter().any(|(known, _)| *known == name) {
                    return self.fail(format!("argument `{name}` is given twice"));
                }
                arguments.named.push((name, value));
            } else {
                if !arguments.named.is_empty() || arguments.double_star.is_some() {
                    return self.fail("an argument without a name follows one with a name");
                }
                arguments.positional.push(self.expression()?);
            }
        }
        self.expect(")")?;
        Ok(arguments)
    }
}
