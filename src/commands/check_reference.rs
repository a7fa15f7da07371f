//! `arc check-reference`: this encoder against what the reference code computed.

use arc_core::eval::check_reference;
use serde_json::json;

use crate::Failure;
use crate::args::{CheckReference, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &CheckReference, output: &Output) -> Result<(), Failure> {
    let device = global.device.open()?;
    let reports = check_reference(&args.folder, &device)?;
    let mut worst = 0.0_f64;
    output.line(format!("{:<16} {:<18} {:>10} {:>10}", "case", "tensor", "absolute", "relative"))?;
    for report in &reports {
        for deviation in &report.deviations {
            output.line(format!(
                "{:<16} {:<18} {:>10.1e} {:>10.1e}",
                report.id, deviation.tensor, deviation.absolute, deviation.relative
            ))?;
        }
        let of_case = report.worst();
        if of_case.is_nan() || of_case > worst {
            worst = of_case;
        }
    }
    // Written so that a deviation that is not a number fails.
    let passed = worst <= args.tolerance;
    output.line(format!(
        "{} cases, worst relative {worst:.1e}, tolerance {:.1e}",
        reports.len(),
        args.tolerance
    ))?;
    output.json(&json!({
        "cases": reports,
        "worst": worst,
        "tolerance": args.tolerance,
        "passed": passed,
    }))?;
    if passed {
        return Ok(());
    }
    Err(Failure::failed(
        format!("the worst relative deviation is {worst:.1e}, above the tolerance of {:.1e}", args.tolerance),
        "the checkpoint or the expected values may be of another version",
    ))
}
