//! What a golden file says in JSON, as a template is given it.

use arc_jinja::Value;
use serde_json::Value as Json;

/// The value of a template that a JSON value stands for.
pub(crate) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::NONE,
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::from(whole),
            None => Value::from(number.as_f64().unwrap()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(value)),
        Json::Object(pairs) => Value::dict(pairs.iter().map(|(key, json)| (key.as_str(), value(json)))),
    }
}
