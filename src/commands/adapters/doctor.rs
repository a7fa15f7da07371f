//! `arc adapters doctor`: what keeps a setup from working, the likeliest cause first.

use std::collections::HashSet;

use arc_adapters::{DecoderEntry, Finding, Likelihood, PluginPolicy, Registry};
use arc_core::hub::Cache;
use serde_json::json;

use super::models::Models;
use crate::args::Global;
use crate::commands::adapters::verify::{check_model_of, template_fault};
use crate::commands::registries::registry_files;
use crate::commands::session::plugin_policy;
use crate::commands::target::sweep_left;
use crate::output::Output;
use crate::{Failure, hints};

/// The decoders whose model is not the one that their adapters were made for.
fn faults_of_models(
    registry: &Registry,
    policy: &PluginPolicy,
    known: &[Finding],
) -> Result<Vec<Finding>, Failure> {
    let (mut faults, models) = (Vec::new(), Models::default());
    // A subject is `decoder NAME`, with or without words behind it.
    let is_fault = |finding: &&Finding| finding.likelihood < Likelihood::Possible;
    let faulty: HashSet<&str> =
        known.iter().filter(is_fault).filter_map(|finding| decoder_of(&finding.subject)).collect();
    for entry in registry.decoders() {
        let subject = format!("decoder `{}`", entry.name);
        if faulty.contains(entry.name.as_str()) {
            continue;
        }
        // The first says enough: another model has another width too.
        let checks = check_model_of(registry, entry, policy, &models)?;
        let fault = checks.iter().find_map(|check| Finding::of_check(&subject, check));
        faults.extend(fault.map(|fault| fault.at(Likelihood::Certain)));
    }
    Ok(faults)
}

/// The name in `decoder NAME`.
fn decoder_of(subject: &str) -> Option<&str> {
    subject.strip_prefix("decoder `")?.split('`').next()
}

const WHAT_TO_DO: &str = "the report says which, and what to do about each";

pub(super) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let files = registry_files(global);
    for file in &files {
        sweep_left(&file.path);
    }
    let cache = Cache::from_env()?;
    let model = |entry: &DecoderEntry| cache.find(&entry.model, &entry.name);
    let policy = plugin_policy(global)?;
    let mut findings = arc_adapters::doctor(&files, &policy, &model, &template_fault);
    // What only the models know, where nothing simpler is wrong and they are here.
    if let Ok(registry) = Registry::layered(&files) {
        findings.extend(faults_of_models(&registry, &policy, &findings)?);
        findings.sort_by_key(|finding| finding.likelihood);
    }
    for finding in &mut findings {
        finding.hint = hints::reworded(finding.hint.take());
    }
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
    let files: Vec<_> = files.iter().map(|file| file.path.to_string_lossy()).collect();
    output.json(&json!({ "sound": faults == 0, "registries": files, "findings": findings }))?;
    match faults {
        0 => Ok(()),
        1 => Err(Failure::failed("there is a fault in the setup", WHAT_TO_DO)),
        n => Err(Failure::failed(format!("there are {n} faults in the setup"), WHAT_TO_DO)),
    }
}
