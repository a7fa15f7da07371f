//! What tests that pass have to say, such as that they did not run.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fmt::Display;
use std::io::Write as _;

/// Says it on standard error. The print macros would say it to libtest, which keeps what a passing
/// test prints to itself.
pub(crate) fn notice(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether `ARC_OFFLINE` leaves out a test that needs `what`; if so, it is said.
pub(crate) fn left_out_offline(what: impl Display) -> bool {
    let offline = std::env::var("ARC_OFFLINE").is_ok_and(|value| !matches!(value.trim(), "" | "0"));
    if offline {
        let current = std::thread::current();
        let test = current.name().unwrap_or("a test").to_owned();
        notice(format_args!("left out, since `ARC_OFFLINE` is set: `{test}` needs {what}"));
    }
    offline
}
