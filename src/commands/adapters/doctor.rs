//! `arc adapters doctor`: what keeps a setup from working, the likeliest cause first.

use arc_adapters::Likelihood;
use arc_core::hub::Cache;
use serde_json::json;

use crate::Failure;
use crate::args::Global;
use crate::commands::setup::{plugin_policy, registry_files};
use crate::output::Output;

const WHAT_TO_DO: &str = "the report says which, and what to do about each";

pub(super) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let files = registry_files(global);
    let cache = Cache::from_env()?;
    let findings =
        arc_adapters::doctor(&files, &plugin_policy(global)?, &|entry| cache.find(&entry.model, &entry.name));
    for finding in &findings {
        let likelihood = match finding.likelihood {
            Likelihood::Certain => "certain ",
            Likelihood::Likely => "likely  ",
            Likelihood::Possible => "possible",
        };
        output.line(format!("{likelihood}  {}: {}", finding.subject, finding.problem))?;
        if let Some(hint) = &finding.hint {
            output.line(format!("          {hint}"))?;
        }
    }
    let faults = findings.iter().filter(|finding| finding.likelihood < Likelihood::Possible).count();
    if findings.is_empty() {
        output.line("nothing is wrong")?;
    }
    let files: Vec<_> = files.iter().map(|file| &file.path).collect();
    output.json(&json!({ "sound": faults == 0, "registries": files, "findings": findings }))?;
    match faults {
        0 => Ok(()),
        1 => Err(Failure::failed("there is a fault in the setup", WHAT_TO_DO)),
        n => Err(Failure::failed(format!("there are {n} faults in the setup"), WHAT_TO_DO)),
    }
}
