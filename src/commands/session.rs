//! A session as the global options have it.

use std::path::PathBuf;
use std::time::Duration;

use arc_adapters::{Isolation, ModelFile, PluginPolicy};
use arc_core::{Pins, Session};

use super::pulling::locate;
use super::registries::registry;
use crate::args::Global;
use crate::{Failure, invocation, output};

/// How long an isolated plugin may take for one answer.
const ISOLATED_ANSWER: Duration = Duration::from_secs(60);

/// A session on the chosen device, whose models are pulled with a bar and after asking.
pub(super) fn session(global: &Global) -> Result<Session, Failure> {
    let yes = global.yes;
    session_that_finds(global, move |model, name| locate(model, name, yes))
}

/// The same, whose models are pulled only where `--yes` agreed to it at the start: nobody is asked for each request.
#[cfg(feature = "server")]
pub(super) fn serving_session(global: &Global) -> Result<Session, Failure> {
    use arc_core::hub::{Cache, Consent, Silent, pull};

    let yes = global.yes;
    session_that_finds(global, move |model, name| {
        let consent = if yes { Consent::Given } else { Consent::Ask(&|_, _| false) };
        pull(model, name, &Cache::from_env()?, &Silent, consent)
    })
}

fn session_that_finds(
    global: &Global,
    find: impl Fn(&ModelFile, &str) -> arc_core::Result<PathBuf> + Send + Sync + 'static,
) -> Result<Session, Failure> {
    let registry = registry(global)?;
    for file in registry.sources() {
        output::detail(format!("registry: {}", file.display()));
    }
    let locate = move |model: &ModelFile, name: &str| {
        let path = find(model, name)?;
        output::detail(format!("`{name}`: {}", path.display()));
        Ok(path)
    };
    let pins = if global.force { Pins::Overridden } else { Pins::Checked };
    let session = Session::new(registry, global.device, Box::new(locate))?;
    Ok(session.with_plugins(plugin_policy(global)?).with_pins(pins).with_precision(global.precision))
}

/// What the command line says about code plugins.
pub(super) fn plugin_policy(global: &Global) -> Result<PluginPolicy, Failure> {
    let isolation = if global.isolate_plugins {
        let (program, mut arguments) = invocation::program()?;
        arguments.push("serve-plugin".into());
        let arguments = arguments.into_iter().map(|word| word.to_string_lossy().into_owned());
        Some(Isolation::new(program).args(arguments.collect()).timeout(ISOLATED_ANSWER))
    } else {
        None
    };
    let policy = PluginPolicy::default().allow(global.allow_plugins);
    Ok(policy.folders(global.plugin_folder.clone()).isolation(isolation))
}
