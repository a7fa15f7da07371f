//! `arc devices`: what this binary was built with, and what the machine has.

use arc_core::device::{DeviceKind, DeviceName, Processor};
use serde_json::json;

use crate::Failure;
use crate::output::Output;

pub(crate) fn run(output: &Output) -> Result<(), Failure> {
    // Says so if the environment asks for instructions that are not there.
    DeviceName::CPU.open()?;
    let processor = Processor::here();
    let mut kinds = Vec::new();
    for kind in DeviceKind::ALL {
        let found = kind.describe();
        if !kind.is_built() {
            output.line(format!("{:<8} not in this build (feature `{kind}`)", kind.name()))?;
        } else if found.is_empty() {
            output.line(format!("{:<8} in this build, no device found", kind.name()))?;
        }
        for device in &found {
            let about = match kind {
                DeviceKind::Cpu => {
                    format!(
                        ", {} threads, vector instructions: {}",
                        processor.threads, processor.instructions
                    )
                }
                _ if device.software => ", a driver that computes on the CPU".to_owned(),
                _ => String::new(),
            };
            output.line(format!("{:<8} {}{about}", device.name, device.hardware))?;
        }
        kinds.push(json!({
            "kind": kind.name(),
            "built": kind.is_built(),
            "devices": found.len(),
            "found": found,
        }));
    }
    let sets = processor.instruction_sets.join(", ");
    output.line(format!("sets that `ARC_INSTRUCTIONS` can force: {sets}"))?;
    for product in &processor.products {
        output.line(format!("products of {}: {}", product.kind, product.instructions))?;
    }
    let automatic = DeviceName::automatic().to_string();
    output.line(format!("`--device auto` takes `{automatic}`"))?;
    output.json(&json!({ "devices": kinds, "processor": processor, "auto": automatic }))
}
