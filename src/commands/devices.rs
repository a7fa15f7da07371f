//! `arc devices`: what this binary was built with, and what the machine has.

use arc_core::device::DeviceKind;
use serde_json::json;

use crate::Failure;
use crate::output::Output;

pub(crate) fn run(output: &Output) -> Result<(), Failure> {
    let mut devices = Vec::new();
    for kind in DeviceKind::ALL {
        let found = kind.devices();
        let state = match (kind.is_built(), found.len()) {
            (false, _) => format!("not in this build (feature `{kind}`)"),
            (true, 0) => "in this build, no device found".to_owned(),
            (true, 1) => "1 device".to_owned(),
            (true, count) => format!("{count} devices"),
        };
        output.line(format!("{:<8} {state}", kind.name()))?;
        devices.push(json!({ "kind": kind.name(), "built": kind.is_built(), "devices": found.len() }));
    }
    output.json(&json!({ "devices": devices }))
}
