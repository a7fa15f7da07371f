//! Operators on values, as Python's.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::markup;
use crate::percent_format::percent;
use crate::syntax::Operator;
use crate::value::{Repr, Value};

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    for operand in [left, right] {
        if let Repr::Undefined(undefined) = &operand.0 {
            return undefined.error();
        }
    }
    Error::failed(format!(
        "`{operator}` is not known between a {} and a {}",
        left.type_name(),
        right.type_name()
    ))
}

fn too_large() -> Error {
    Error::failed("a number has more than 127 bits")
}

pub(crate) fn binary(operator: Operator, left: &Value, right: &Value, budget: &Budget) -> Result<Value> {
    budget.spend(1)?;
    match (operator, &left.0, &right.0) {
        (Operator::Add, Repr::Str(a), Repr::Str(b)) => {
            budget.bytes(a.len() + b.len())?;
            return Ok(Value::from(format!("{a}{b}")));
        }
        (Operator::Add, Repr::Str(_) | Repr::Markup(_), Repr::Str(_) | Repr::Markup(_)) => {
            return markup::joined(left, right, budget);
        }
        (Operator::Add, Repr::List(a), Repr::List(b)) => {
            budget.spend(a.items.len() + b.items.len())?;
            return Value::new_list(a.items.iter().chain(&b.items).cloned().collect());
        }
        (Operator::Add, Repr::Tuple(a), Repr::Tuple(b)) => {
            budget.spend(a.items.len() + b.items.len())?;
            return Value::tuple(a.items.iter().chain(&b.items).cloned().collect());
        }
        (Operator::Multiply, Repr::Str(_) | Repr::Markup(_) | Repr::List(_) | Repr::Tuple(_), _) => {
            if let Some(times) = right.as_int() {
                return repeated(left, times, budget);
            }
        }
        (Operator::Multiply, _, Repr::Str(_) | Repr::Markup(_) | Repr::List(_) | Repr::Tuple(_)) => {
            if let Some(times) = left.as_int() {
                return repeated(right, times, budget);
            }
        }
        (Operator::Remainder, Repr::Str(format), _) => {
            return percent(format, right, budget).map(Value::from);
        }
        (Operator::Remainder, Repr::Markup(format), _) => return markup::formatted(format, right, budget),
        _ => {}
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(operator, a, b);
    }
    match (left.as_float(), right.as_float()) {
        (Some(a), Some(b)) => floats(operator, a, b),
        _ => Err(unsupported(operator.sign(), left, right)),
    }
}

fn repeated(value: &Value, times: i128, budget: &Budget) -> Result<Value> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match &value.0 {
        Repr::Str(text) | Repr::Markup(text) => {
            budget.bytes(text.len().saturating_mul(times))?;
            Ok(Value::text_like(value, text.repeat(times)))
        }
        Repr::List(sequence) | Repr::Tuple(sequence) => {
            let length = sequence.items.len().saturating_mul(times);
            budget.spend(length)?;
            let items = sequence.items.iter().cycle().take(length).cloned().collect();
            if matches!(value.0, Repr::List(_)) { Value::new_list(items) } else { Value::tuple(items) }
        }
        _ => Err(unsupported("*", value, value)),
    }
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Value> {
    let zero = || Error::failed("division by zero");
    let floor = || {
        let (quotient, remainder) = (a.checked_div(b)?, a.checked_rem(b)?);
        // Rounded down, and the remainder has the divisor's sign.
        let down = remainder != 0 && (remainder < 0) != (b < 0);
        Some(if down { (quotient - 1, remainder + b) } else { (quotient, remainder) })
    };
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if b == 0 => return Err(zero()),
        Operator::Divide => return Ok(Value::from(a as f64 / b as f64)),
        Operator::FloorDivide | Operator::Remainder if b == 0 => return Err(zero()),
        Operator::FloorDivide => floor().map(|(quotient, _)| quotient),
        Operator::Remainder => floor().map(|(_, remainder)| remainder),
        Operator::Power if b < 0 => return floats(operator, a as f64, b as f64),
        Operator::Power => u32::try_from(b).ok().and_then(|exponent| a.checked_pow(exponent)),
    };
    result.map(Value::from).ok_or_else(too_large)
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<Value> {
    let is_division = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if is_division && b == 0.0 {
        return Err(Error::failed("division by zero"));
    }
    let remainder = || {
        let remainder = a % b;
        if remainder == 0.0 {
            0.0_f64.copysign(b)
        } else if (remainder < 0.0) == (b < 0.0) {
            remainder
        } else {
            remainder + b
        }
    };
    Ok(Value::from(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => {
            let quotient = (a - remainder()) / b;
            let down = quotient.floor();
            if quotient - down > 0.5 { down + 1.0 } else { down }
        }
        Operator::Remainder => remainder(),
        Operator::Power => {
            if a == 0.0 && b < 0.0 {
                return Err(Error::failed("0 has no negative power"));
            }
            let power = a.powf(b);
            if power.is_nan() && !a.is_nan() && !b.is_nan() {
                return Err(Error::failed("complex numbers are not known here"));
            }
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(Error::failed("a number is too large"));
            }
            power
        }
    }))
}

pub(crate) fn negative(value: &Value) -> Result<Value> {
    match &value.0 {
        Repr::Float(number) => Ok(Value::from(-number)),
        Repr::Undefined(undefined) => Err(undefined.error()),
        _ => match value.as_int() {
            Some(number) => number.checked_neg().map(Value::from).ok_or_else(too_large),
            None => Err(Error::failed(format!("`-` is not known of a {}", value.type_name()))),
        },
    }
}

pub(crate) fn positive(value: &Value) -> Result<Value> {
    match &value.0 {
        Repr::Float(_) => Ok(value.clone()),
        Repr::Undefined(undefined) => Err(undefined.error()),
        _ => match value.as_int() {
            Some(number) => Ok(Value::from(number)),
            None => Err(Error::failed(format!("`+` is not known of a {}", value.type_name()))),
        },
    }
}

/// Python's `==`.
pub(crate) fn equal(left: &Value, right: &Value, budget: &Budget) -> Result<bool> {
    budget.spend(1)?;
    let sequences = |a: &[Value], b: &[Value]| {
        if a.len() != b.len() {
            return Ok(false);
        }
        for (a, b) in a.iter().zip(b) {
            if !equal(a, b, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(match (&left.0, &right.0) {
        (Repr::Undefined(_), Repr::Undefined(_)) | (Repr::None, Repr::None) => true,
        (Repr::Str(a) | Repr::Markup(a), Repr::Str(b) | Repr::Markup(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            a == b
        }
        (Repr::List(a), Repr::List(b)) | (Repr::Tuple(a), Repr::Tuple(b)) => {
            return sequences(&a.items, &b.items);
        }
        (Repr::Dict(a), Repr::Dict(b)) => {
            if a.pairs.len() != b.pairs.len() {
                return Ok(false);
            }
            for (key, value) in &a.pairs {
                match b.get(key)? {
                    Some(other) if equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Repr::Range(a), Repr::Range(b)) => {
            a.len() == b.len() && (a.len() == 0 || (a.start == b.start && (a.len() == 1 || a.step == b.step)))
        }
        (Repr::View(a, _), Repr::View(b, _)) if a == b => {
            return sequences(&left.elements(budget)?, &right.elements(budget)?);
        }
        (Repr::Namespace(a), Repr::Namespace(b)) => Rc::ptr_eq(a, b),
        (Repr::Iterator(a), Repr::Iterator(b)) => Rc::ptr_eq(a, b),
        (Repr::Callable(a), Repr::Callable(b)) => Rc::ptr_eq(a, b),
        (Repr::Loop(a), Repr::Loop(b)) => Rc::ptr_eq(a, b),
        _ => match (left.as_int(), right.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => matches!((left.as_float(), right.as_float()), (Some(a), Some(b)) if a == b),
        },
    })
}

/// Python's order.
pub(crate) fn order(sign: &str, left: &Value, right: &Value, budget: &Budget) -> Result<Ordering> {
    budget.spend(1)?;
    match (&left.0, &right.0) {
        (Repr::Str(a) | Repr::Markup(a), Repr::Str(b) | Repr::Markup(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            // The order of UTF-8's bytes is that of code points.
            Ok(a.cmp(b))
        }
        (Repr::List(a), Repr::List(b)) | (Repr::Tuple(a), Repr::Tuple(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(a, b, budget)? {
                    return order(sign, a, b, budget);
                }
            }
            Ok(a.items.len().cmp(&b.items.len()))
        }
        _ => {
            if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
                return Ok(a.cmp(&b));
            }
            match (left.as_float(), right.as_float()) {
                // A number that is none is neither before nor after; Python says so in other words.
                (Some(a), Some(b)) => Ok(a.partial_cmp(&b).unwrap_or(Ordering::Equal)),
                _ => Err(unsupported(sign, left, right)),
            }
        }
    }
}

/// Python's `in`.
pub(crate) fn contains(container: &Value, value: &Value, budget: &Budget) -> Result<bool> {
    match &container.0 {
        Repr::Str(text) | Repr::Markup(text) => match value.as_str() {
            Some(part) => {
                budget.bytes(text.len() + part.len())?;
                Ok(text.contains(&**part))
            }
            None => Err(unsupported("in", value, container)),
        },
        Repr::Dict(dict) => Ok(dict.get(value)?.is_some()),
        Repr::Namespace(_) | Repr::Callable(_) | Repr::Loop(_) => Err(unsupported("in", value, container)),
        Repr::Iterator(lazy) => {
            // What was looked at is gone.
            loop {
                let Some(item) = lazy.left.borrow_mut().pop_front() else { return Ok(false) };
                if equal(&item, value, budget)? {
                    return Ok(true);
                }
            }
        }
        Repr::List(sequence) | Repr::Tuple(sequence) => {
            for item in &sequence.items {
                if equal(item, value, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ if container.is_iterable() => {
            for item in container.elements(budget)? {
                if equal(&item, value, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(Error::failed(format!("a {} holds nothing that `in` could find", container.type_name()))),
    }
}

/// Sorts by Python's order, stably. A merge sort of its own, since an order that fails, or a number that
/// is none, is no order that the standard library would take.
pub(crate) fn sort_by_key(keyed: Vec<(Value, Value)>, reverse: bool, budget: &Budget) -> Result<Vec<Value>> {
    let sorted = merge_sorted(keyed, reverse, budget)?;
    Ok(sorted.into_iter().map(|(_, value)| value).collect())
}

fn merge_sorted(
    mut keyed: Vec<(Value, Value)>,
    reverse: bool,
    budget: &Budget,
) -> Result<Vec<(Value, Value)>> {
    if keyed.len() < 2 {
        return Ok(keyed);
    }
    budget.spend(keyed.len())?;
    let right = keyed.split_off(keyed.len() / 2);
    let mut left = merge_sorted(keyed, reverse, budget)?.into_iter().peekable();
    let mut right = merge_sorted(right, reverse, budget)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
        let order = order("<", b, a, budget)?;
        let right_first = if reverse { order == Ordering::Greater } else { order == Ordering::Less };
        merged.extend(if right_first { right.next() } else { left.next() });
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}
