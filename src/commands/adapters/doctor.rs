//! `arc adapters doctor`: what keeps a setup from working, the likeliest cause first.

use std::collections::HashSet;

use arc_adapters::{DecoderEntry, Finding, Likelihood, PluginPolicy, Registry};
use arc_core::hub::Cache;
use serde_json::json;

use super::models::Models;
use super::readiness::{Looking, Readiness, not_ready};
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

/// The first lines: who can be asked now, and what the others lack.
fn tell_what_is_ready(states: &[(&str, Readiness)], output: &Output) -> Result<(), Failure> {
    if states.is_empty() {
        return Ok(());
    }
    let ready = states.iter().filter(|(_, state)| *state == Readiness::Ready);
    let ready: Vec<&str> = ready.map(|(name, _)| *name).collect();
    output.line(match ready.is_empty() {
        true => "ready: none".to_owned(),
        false => format!("ready: {}", ready.join(", ")),
    })?;
    for line in not_ready(states) {
        output.line(line)?;
    }
    output.line("")
}

/// The decoders and encoders that are only described here, or not pulled, as subjects name them.
fn unused(registry: &Registry, states: &[(&str, Readiness)], looking: &Looking<'_>) -> HashSet<String> {
    let is_unused = |state: Readiness| {
        matches!(state, Readiness::NotPulled | Readiness::NotImported | Readiness::NoAdapter)
    };
    let decoders = states.iter().filter(|(_, state)| is_unused(*state)).map(|(name, _)| (*name).to_owned());
    let encoders = registry.encoders().filter(|entry| is_unused(looking.encoder(entry)));
    decoders.chain(encoders.map(|entry| entry.name.clone())).collect()
}

/// The name in `decoder NAME` or `encoder NAME`.
fn named_in(subject: &str) -> Option<&str> {
    subject.split('`').nth(1)
}

const WHAT_TO_DO: &str = "the report says which, and what to do about each";

pub(super) fn run(global: &Global, all: bool, output: &Output) -> Result<(), Failure> {
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
    let registry = Registry::layered(&files).unwrap_or_default();
    let looking = Looking::at(&registry, &cache);
    let states: Vec<(&str, Readiness)> =
        registry.decoders().map(|entry| (entry.name.as_str(), looking.decoder(entry))).collect();
    tell_what_is_ready(&states, output)?;
    // What may be meant, and is about something that is not in use here, is counted.
    let unused: HashSet<String> = unused(&registry, &states, &looking);
    let is_folded = |finding: &Finding| {
        !all && finding.likelihood == Likelihood::Possible
            && named_in(&finding.subject).is_some_and(|name| unused.contains(name))
    };
    for finding in findings.iter().filter(|finding| !is_folded(finding)) {
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
    if findings.iter().all(is_folded) {
        output.line("nothing is wrong")?;
    }
    match findings.iter().filter(|finding| is_folded(finding)).count() {
        0 => {}
        count => output.line(format!(
            "{count} remarks about what is only described or not pulled: `arc adapters doctor --all`"
        ))?,
    }
    let files: Vec<_> = files.iter().map(|file| file.path.to_string_lossy()).collect();
    let ready: Vec<&str> =
        states.iter().filter(|(_, state)| *state == Readiness::Ready).map(|(name, _)| *name).collect();
    output.json(&json!({
        "sound": faults == 0,
        "ready": ready,
        "registries": files,
        "findings": findings,
    }))?;
    match faults {
        0 => Ok(()),
        1 => Err(Failure::failed("there is a fault in the setup", WHAT_TO_DO)),
        n => Err(Failure::failed(format!("there are {n} faults in the setup"), WHAT_TO_DO)),
    }
}
