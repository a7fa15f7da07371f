//! Jinja templates from strangers, rendered as Python renders them and within a budget.
//!
//! Chat templates travel with models, and prompts with adapters. Both are programs. What they are
//! written for is Jinja2's `ImmutableSandboxedEnvironment` as Hugging Face transformers sets it up, so
//! that is the language here: Python's strings, lists, dicts and numbers with their methods, printed as
//! Python prints them; the tags, filters and tests of Jinja 3.1; `{% generation %}`, `{% break %}`,
//! `raise_exception`, `strftime_now` and transformers' `tojson`. Nothing can be imported or included,
//! and no value can be changed, save through `namespace`.
//!
//! A template can ask for more than there is: a loop in a loop, a string doubled forty times, a list
//! that holds itself twice, forty levels deep. So whatever runs here spends *fuel*, for every step and
//! for every byte and element that it makes or looks at, before it is made; how deep a template or a
//! value may be nested is bounded, so that nothing overflows the stack; and how much is written has a
//! limit of its own. A template that reaches one of them ends with an error. There is no unsafe code,
//! and nothing panics.
//!
//! ```
//! use arc_jinja::{Limits, Options, Template, Value};
//!
//! let source = "{% for m in messages %}{{ '[%s] ' % m.role }}{{ m.content | trim }}{% endfor %}";
//! let template = Template::compile(source, Options::TRANSFORMERS)?;
//! let message = Value::dict([("role", Value::from("user")), ("content", Value::from(" Hi! "))]);
//! let context = [("messages", Value::list([message]))];
//! assert_eq!(template.render(context, Limits::DEFAULT)?, "[user] Hi!");
//!
//! let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
//! let error = Template::compile(endless, Options::TRANSFORMERS)?.render([], Limits::DEFAULT).unwrap_err();
//! assert_eq!(error.to_string(), "it takes more steps than a template may (line 1)");
//! # Ok::<(), arc_jinja::Error>(())
//! ```

mod budget;
mod calls;
mod error;
mod filters;
mod format_spec;
mod functions;
mod html;
mod interpreter;
mod json;
mod lexer;
mod markup;
mod methods;
mod operators;
mod parser;
mod percent_format;
mod python_text;
mod scope;
mod str_format;
mod strftime;
mod syntax;
mod tests_of_values;
mod value;
mod word_wrap;

pub use budget::Limits;
pub use error::{Error, ErrorKind};
pub use strftime::Moment;
pub use value::Value;

/// How a template is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The line feed after a tag is dropped.
    pub trim_blocks: bool,
    /// The spaces between a line's begin and a tag are dropped.
    pub lstrip_blocks: bool,
    /// A line feed at the template's end stays.
    pub keep_trailing_newline: bool,
    /// A name that is not given is an error when it is printed, and not nothing.
    pub strict_undefined: bool,
}

impl Options {
    /// As transformers reads chat templates.
    pub const TRANSFORMERS: Self = Self {
        trim_blocks: true,
        lstrip_blocks: true,
        keep_trailing_newline: false,
        strict_undefined: false,
    };
    /// As it stands, and without a name that is not given.
    pub const AS_WRITTEN: Self = Self {
        trim_blocks: false,
        lstrip_blocks: false,
        keep_trailing_newline: true,
        strict_undefined: true,
    };

    /// The same, dropping the line feed after a tag or not.
    #[must_use]
    pub const fn trim_blocks(self, trim_blocks: bool) -> Self {
        Self { trim_blocks, ..self }
    }

    /// The same, dropping the spaces between a line's begin and a tag or not.
    #[must_use]
    pub const fn lstrip_blocks(self, lstrip_blocks: bool) -> Self {
        Self { lstrip_blocks, ..self }
    }

    /// The same, keeping a line feed at the template's end or not.
    #[must_use]
    pub const fn keep_trailing_newline(self, keep_trailing_newline: bool) -> Self {
        Self { keep_trailing_newline, ..self }
    }

    /// The same, refusing to print a name that is not given, or not.
    #[must_use]
    pub const fn strict_undefined(self, strict_undefined: bool) -> Self {
        Self { strict_undefined, ..self }
    }
}

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    program: syntax::Program,
    options: Options,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] where it is not Jinja, is nested deeper than a template may be, or is longer
    /// than [`Limits::SOURCE_BYTES`]. Filters, tests and functions are looked up when they are used.
    pub fn compile(source: &str, options: Options) -> Result<Self, Error> {
        if source.len() > Limits::SOURCE_BYTES {
            let reason =
                format!("syntax error: it has {} bytes, more than {}", source.len(), Limits::SOURCE_BYTES);
            return Err(Error::new(ErrorKind::Syntax, reason));
        }
        let tokens = lexer::tokens(source, options)?;
        Ok(Self { program: parser::parse(tokens)?, options })
    }

    /// Renders the template with these values, at the present time in UTC.
    ///
    /// # Errors
    /// [`ErrorKind::Raised`] where the template refuses what it is given, [`ErrorKind::Limit`] where it
    /// reaches a limit, and [`ErrorKind::Failed`] for whatever Python would raise.
    pub fn render<'n>(
        &self,
        context: impl IntoIterator<Item = (&'n str, Value)>,
        limits: Limits,
    ) -> Result<String, Error> {
        self.render_at(context, limits, Moment::now())
    }

    /// The same at a time of one's own.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_at<'n>(
        &self,
        context: impl IntoIterator<Item = (&'n str, Value)>,
        limits: Limits,
        moment: Moment,
    ) -> Result<String, Error> {
        interpreter::render(&self.program, context, limits, moment, self.options)
    }
}
