//! What keeps a setup from working: the failed checks of everything in it, the likeliest cause first.

use std::path::PathBuf;

use serde::Serialize;

use crate::check::{Check, Likelihood, Symptom};
use crate::checks::{TemplateFault, check_encoder, check_model_file, check_options, check_pairs};
use crate::read_once::ReadOnce;
use crate::{DecoderEntry, EncoderEntry, Error, Hint, PluginPolicy, Registry, RegistryFile};

/// A cause of trouble that [`doctor`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How likely it is to be what the user came about.
    pub likelihood: Likelihood,
    /// What it is about: a registry file, `decoder NAME`, `encoder NAME`.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<Hint>,
}

impl Finding {
    /// What a check found, if it found something.
    #[must_use]
    pub fn of_check(subject: &str, check: &Check) -> Option<Self> {
        let Symptom { likelihood, problem, hint } = check.symptom.clone()?;
        Some(Self { likelihood, subject: subject.to_owned(), problem, hint })
    }

    /// The same, as likely as this.
    #[must_use]
    pub fn at(self, likelihood: Likelihood) -> Self {
        Self { likelihood, ..self }
    }

    fn of_error(likelihood: Likelihood, subject: &str, error: &Error) -> Self {
        Self { likelihood, subject: subject.to_owned(), problem: error.to_string(), hint: error.hint() }
    }
}

/// Looks for everything that keeps a setup from working, the likeliest cause first.
///
/// `registries` are the files that would be layered. `model` says where the model file of a decoder
/// lies, if it has been pulled, and `template` what is wrong with a prompt template, as in
/// [`verify`](crate::verify). An empty answer means that nothing was found.
pub fn doctor(
    registries: &[RegistryFile],
    policy: &PluginPolicy,
    model: &dyn Fn(&DecoderEntry) -> Option<PathBuf>,
    template: &TemplateFault<'_>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut registry = Registry::default();
    if registries.is_empty() {
        findings.push(Finding {
            likelihood: Likelihood::Certain,
            subject: "registry".to_owned(),
            problem: "no registry file was found".to_owned(),
            hint: Some(Hint::NameRegistry),
        });
        return findings;
    }
    for file in registries {
        match Registry::open_file(file) {
            Ok(layer) => registry.overlay(layer),
            Err(error) => {
                let subject = file.path.display().to_string();
                findings.push(Finding::of_error(Likelihood::Certain, &subject, &error));
            }
        }
    }
    let default = registry.default_encoder();
    let no_default = default.as_ref().err().map(ToString::to_string);
    match &default {
        Err(error) => findings.push(Finding::of_error(Likelihood::Certain, "default_encoder", error)),
        Ok(None) if findings.is_empty() => findings.push(Finding {
            likelihood: Likelihood::Possible,
            subject: "default_encoder".to_owned(),
            problem: "no default encoder is set".to_owned(),
            hint: Some("set `default_encoder` in a registry, or name an encoder in each call".into()),
        }),
        Ok(_) => {}
    }
    if let Err(error) = registry.default_decoder() {
        findings.push(Finding::of_error(Likelihood::Certain, "default_decoder", &error));
    }
    let default = default.ok().flatten();
    let read = ReadOnce::default();
    for encoder in registry.encoders() {
        let is_default = default.is_some_and(|default| default.name == encoder.name);
        findings.extend(of_encoder(&registry, encoder, is_default, &read));
    }
    for decoder in registry.decoders() {
        let found = of_decoder(&registry, decoder, (policy, &read), model, template);
        // A default encoder that is not there was found already.
        findings.extend(found.into_iter().filter(|found| Some(&found.problem) != no_default.as_ref()));
    }
    // Stable, so that within a likelihood registries come before encoders before decoders.
    findings.sort_by_key(|finding| finding.likelihood);
    findings
}

fn of_encoder(registry: &Registry, entry: &EncoderEntry, is_default: bool, read: &ReadOnce) -> Vec<Finding> {
    let subject = format!("encoder `{}`", entry.name);
    let checks = check_encoder(registry, entry, read);
    let mut findings: Vec<_> = checks.iter().filter_map(|check| Finding::of_check(&subject, check)).collect();
    if is_default {
        for finding in &mut findings {
            // Without the default encoder nothing is compressed.
            if finding.likelihood == Likelihood::Possible {
                finding.hint = finding.hint.take().map(|hint| Hint::OrOtherDefault(Box::new(hint)));
            }
            finding.likelihood = Likelihood::Certain;
        }
    }
    findings
}

fn of_decoder(
    registry: &Registry,
    entry: &DecoderEntry,
    (policy, read): (&PluginPolicy, &ReadOnce),
    model: &dyn Fn(&DecoderEntry) -> Option<PathBuf>,
    template: &TemplateFault<'_>,
) -> Vec<Finding> {
    let subject = format!("decoder `{}`", entry.name);
    let mut findings = Vec::new();
    // What is wrong with an encoder is told once, of the encoder.
    for of_pair in check_pairs(registry, entry, policy, template, read) {
        let found = of_pair.adapter.iter().filter_map(|check| Finding::of_check(&of_pair.subject, check));
        findings.extend(found);
    }
    let options = check_options(entry, template);
    let pulled = model(entry);
    let (file, _) = check_model_file(entry, pulled.as_deref());
    let checks = options.into_iter().chain([file]);
    findings.extend(checks.filter_map(|check| Finding::of_check(&subject, &check)));
    if let Some(replaced) = entry.replaces.last() {
        findings.push(Finding {
            likelihood: Likelihood::Possible,
            subject,
            problem: format!(
                "its entry in `{}` replaces the one in `{}`",
                entry.origin.display(),
                replaced.display()
            ),
            hint: None,
        });
    }
    findings
}
