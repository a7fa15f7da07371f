//! `'{} {name!r:>5}'.format(…)`.

use crate::calls::Args;
use crate::error::{Error, Result};
use crate::format_spec::FormatSpec;
use crate::interpreter::Renderer;
use crate::python_text::{to_str, write_repr};
use crate::value::Value;

pub(crate) fn format(renderer: &Renderer<'_>, format: &str, args: &Args) -> Result<String> {
    Formatter { renderer, args, automatic: 0, numbered: false }.fill(format, 0)
}

struct Formatter<'f, 'p> {
    renderer: &'f Renderer<'p>,
    args: &'f Args,
    /// The number of the next field that has none.
    automatic: usize,
    numbered: bool,
}

impl Formatter<'_, '_> {
    fn fill(&mut self, format: &str, depth: usize) -> Result<String> {
        let budget = self.renderer.budget();
        if depth > 1 {
            return Err(Error::failed("a format is nested deeper than Python takes it"));
        }
        let mut output = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            budget.write(&mut output, &rest[..at])?;
            let brace = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                budget.write(&mut output, brace)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(Error::failed("a format has a `}` alone"));
            }
            let mut open = 1_usize;
            let end = rest.find(|character| {
                match character {
                    '{' => open += 1,
                    '}' => open -= 1,
                    _ => {}
                }
                open == 0
            });
            let end = end.ok_or_else(|| Error::failed("a format has a `{` without `}`"))?;
            let text = self.field(&rest[..end], depth)?;
            budget.write(&mut output, &text)?;
            rest = &rest[end + 1..];
        }
        budget.write(&mut output, rest)?;
        Ok(output)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String> {
        let budget = self.renderer.budget();
        budget.spend(1)?;
        let name_end = field.find([':', '!']).unwrap_or(field.len());
        let mut value = self.lookup(&field[..name_end])?;
        let mut rest = &field[name_end..];
        if let Some(after) = rest.strip_prefix('!') {
            let conversion = after.chars().next().ok_or_else(|| Error::failed("a format ends after `!`"))?;
            value = match conversion {
                's' => Value::from(to_str(&value, budget)?),
                'r' | 'a' => {
                    let mut text = String::new();
                    write_repr(&mut text, &value, budget)?;
                    Value::from(text)
                }
                _ => return Err(Error::failed(format!("a format has the conversion `{conversion}`"))),
            };
            rest = &after[conversion.len_utf8()..];
        }
        let spec = match rest.strip_prefix(':') {
            Some(spec) if spec.contains('{') => self.fill(spec, depth + 1)?,
            Some(spec) => spec.to_owned(),
            None if rest.is_empty() => String::new(),
            None => return Err(Error::failed("a format has text between `!` and `:`")),
        };
        parsed(&spec)?.value(&value, budget)
    }

    fn lookup(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut path) = name.split_at(end);
        let index = if first.is_empty() {
            if self.numbered {
                return Err(Error::failed("a format has fields with numbers and without"));
            }
            self.automatic += 1;
            Some(self.automatic - 1)
        } else {
            let index = first.parse().ok();
            if index.is_some() {
                if self.automatic > 0 {
                    return Err(Error::failed("a format has fields with numbers and without"));
                }
                self.numbered = true;
            }
            index
        };
        let found = match index {
            Some(index) => self.args.positional.get(index).cloned(),
            None => {
                self.args.named.iter().find(|(known, _)| &**known == first).map(|(_, value)| value.clone())
            }
        };
        let mut value =
            found.ok_or_else(|| Error::failed(format!("a format has `{{{first}}}`, which is not given")))?;
        while !path.is_empty() {
            if let Some(after) = path.strip_prefix('[') {
                let end = after.find(']').ok_or_else(|| Error::failed("a format has a `[` without `]`"))?;
                let key = &after[..end];
                let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
                value = self.renderer.item(&value, &key)?;
                path = &after[end + 1..];
            } else if let Some(after) = path.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.renderer.attribute(&value, &after[..end].into())?;
                path = &after[end..];
            } else {
                return Err(Error::failed("a format has text behind a `]`"));
            }
        }
        Ok(value)
    }
}

/// `[[fill]align][sign][#][0][width][,][.precision][type]`.
fn parsed(text: &str) -> Result<FormatSpec> {
    let mut spec = FormatSpec::default();
    let mut rest: std::collections::VecDeque<char> = text.chars().collect();
    let is_align = |character: Option<&char>| character.is_some_and(|c| "<>=^".contains(*c));
    if is_align(rest.get(1)) {
        spec.fill = rest.pop_front();
        spec.align = rest.pop_front();
    } else if is_align(rest.front()) {
        spec.align = rest.pop_front();
    }
    if rest.front().is_some_and(|c| "+- ".contains(*c)) {
        spec.sign = rest.pop_front();
    }
    if rest.front() == Some(&'z') {
        rest.pop_front();
    }
    if rest.front() == Some(&'#') {
        spec.alternate = true;
        rest.pop_front();
    }
    if rest.front() == Some(&'0') {
        spec.zero = true;
        rest.pop_front();
    }
    let number = |rest: &mut std::collections::VecDeque<char>| -> Result<Option<usize>> {
        let mut digits = String::new();
        while let Some(digit) = rest.front().filter(|c| c.is_ascii_digit()) {
            digits.push(*digit);
            rest.pop_front();
        }
        match &*digits {
            "" => Ok(None),
            _ => digits.parse().map(Some).map_err(|_| Error::failed("a format has too large a width")),
        }
    };
    spec.width = number(&mut rest)?.unwrap_or(0);
    if rest.front().is_some_and(|c| ",_".contains(*c)) {
        spec.grouping = rest.pop_front();
    }
    if rest.front() == Some(&'.') {
        rest.pop_front();
        let precision = number(&mut rest)?;
        spec.precision =
            Some(precision.ok_or_else(|| Error::failed("a format has a `.` without a precision"))?);
    }
    spec.kind = rest.pop_front();
    if !rest.is_empty() {
        return Err(Error::failed(format!("a format has the field `{text}`, which is not known")));
    }
    Ok(spec)
}
