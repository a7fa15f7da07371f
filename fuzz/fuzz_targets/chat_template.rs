//! Templates from strangers, of chats and of adapters: read, and rendered within their limits.
#![no_main]

use arc_jinja::{Limits, Moment, Options, Template, Value};
use libfuzzer_sys::fuzz_target;

/// A thousandth of what a template is given otherwise, so that a run of a fuzzer gets somewhere.
const LIMITS: Limits = Limits::new(Limits::DEFAULT.fuel / 1000, 1 << 12);
/// As the prompts of adapters are read.
const STRICT: Options =
    Options::AS_WRITTEN;

fn message(role: &str, content: &str) -> Value {
    Value::dict([("role", Value::from(role)), ("content", Value::from(content))])
}

fuzz_target!(|source: &str| {
    for options in [Options::TRANSFORMERS, STRICT] {
        let Ok(template) = Template::compile(source, options) else { continue };
        let messages = [message("system", "Be brief."), message("user", "Hi!\n"), message("assistant", "yo")];
        let context = [
            ("messages", Value::list(messages)),
            ("tools", Value::NONE),
            ("add_generation_prompt", Value::from(true)),
            ("bos_token", Value::from("<s>")),
            ("document", Value::from("\u{f8ff}")),
            ("question", Value::from("Who?")),
        ];
        match template.render_at(context, LIMITS, Moment::from_unix_seconds(1_735_689_599)) {
            Ok(text) => assert!(text.len() <= LIMITS.output_bytes),
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
});
