//! What most commands need first: the registry, and a session that pulls with a progress bar.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arc_adapters::{Chosen, Isolation, ModelFile, Pin, PluginPolicy, REGISTRY_FILE, Registry, RegistryFile};
use arc_core::document::Document;
use arc_core::hub::{Cache, Consent, pull};
use arc_core::prompt_template::PromptTemplate;
use arc_core::{AdaptedDecoder, Error, OverriddenPin, Pins, Session};
use indicatif::HumanBytes;

use crate::args::Global;
use crate::output::{Output, TransferBar};
use crate::{Failure, terminal};

/// How long an isolated plugin may take for one answer.
const ISOLATED_ANSWER: Duration = Duration::from_secs(60);

/// The registry files that apply, later ones winning: the user's, the project's (in this folder or
/// the nearest one above it), and those named on the command line.
pub(super) fn registry_files(global: &Global) -> Vec<RegistryFile> {
    let file = |chosen| move |path| RegistryFile { path, chosen };
    let own = user_registry().filter(|file| file.is_file()).map(file(Chosen::Own));
    let mut files: Vec<_> = own.into_iter().collect();
    // A file may be the user's own, the project's and named all at once; it is read once, in the
    // latest place, and is chosen in the sense that allows the most.
    let named = |path: &PathBuf| global.registry.iter().any(|named| same_file(named, path));
    let found = project_registry().filter(|path| !named(path));
    files.extend(
        found.filter(|path| !files.iter().any(|own| same_file(&own.path, path))).map(file(Chosen::Found)),
    );
    files.extend(global.registry.iter().cloned().map(file(Chosen::Named)));
    files
}

/// Whether two paths lead to the same file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// Reads the registry files that apply.
pub(super) fn registry(global: &Global) -> Result<Registry, Failure> {
    let files = registry_files(global);
    if files.is_empty() {
        return Err(Failure::usage(
            format!("there is no `{REGISTRY_FILE}` in this folder or above it"),
            "name one with `--registry FILE`",
        ));
    }
    Ok(Registry::layered(&files)?)
}

/// The registry of this folder, or of the nearest one above it.
pub(super) fn project_registry() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(REGISTRY_FILE)).find(|file| file.is_file())
}

/// The user's own registry, whether or not it is there.
pub(super) fn user_registry() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "arc-encoder")?;
    Some(folders.config_dir().join(REGISTRY_FILE))
}

/// A session on the chosen device, whose models are pulled with a bar and after asking.
pub(super) fn session(global: &Global) -> Result<Session, Failure> {
    let registry = registry(global)?;
    let yes = global.yes;
    let locate = move |model: &ModelFile, name: &str| locate(model, name, yes);
    let pins = if global.force { Pins::Overridden } else { Pins::Checked };
    let session = Session::new(registry, global.device, Box::new(locate))?;
    Ok(session.with_plugins(plugin_policy(global)?).with_pins(pins).with_precision(global.precision))
}

/// What the command line says about code plugins.
pub(super) fn plugin_policy(global: &Global) -> Result<PluginPolicy, Failure> {
    let isolation = if global.isolate_plugins {
        Some(Isolation {
            program: std::env::current_exe().map_err(Error::io("find", "arc"))?,
            args: vec!["serve-plugin".to_owned()],
            timeout: ISOLATED_ANSWER,
        })
    } else {
        None
    };
    Ok(PluginPolicy { allow: global.allow_plugins, folders: global.plugin_folder.clone(), isolation })
}

/// Says which pins `--force` overrode.
pub(super) fn warn_of_overridden_pins(pins: &[OverriddenPin], output: &Output) {
    for OverriddenPin { adapter, pin, expected, found } in pins {
        output.remark(match pin {
            Pin::Package => format!(
                "warning: adapter `{adapter}` is pinned as `{expected}`, this one is `{found}`; used all the same"
            ),
            _ => format!(
                "warning: adapter `{adapter}` was made for {pin} `{expected}`, this one is `{found}`; used all the same"
            ),
        });
    }
}

/// Says what an adapter does not pin.
pub(super) fn remark_on_unpinned(decoder: &AdaptedDecoder, output: &Output) {
    let unpinned: Vec<_> = decoder.unpinned().iter().map(ToString::to_string).collect();
    if !unpinned.is_empty() {
        output.remark(format!(
            "remark: adapter `{}` does not pin the {} of its decoder, so that nothing tells whether this is the one",
            decoder.adapter.manifest.name,
            unpinned.join(" and the ")
        ));
    }
}

/// Finds a model in the cache or pulls it.
pub(super) fn locate(model: &ModelFile, name: &str, yes: bool) -> arc_core::Result<PathBuf> {
    let bar = TransferBar::new(name);
    pull(model, name, &Cache::from_env()?, &bar, consent(yes))
}

/// Whether downloads are asked about: nobody can answer where there is no terminal.
pub(super) fn consent(yes: bool) -> Consent<'static> {
    if yes || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        Consent::Given
    } else {
        Consent::Ask(&agrees)
    }
}

/// Asks at the terminal before a large download.
fn agrees(name: &str, bytes: Option<u64>) -> bool {
    let size =
        bytes.map_or_else(|| "a file of unknown size".to_owned(), |bytes| HumanBytes(bytes).to_string());
    let mut stderr = std::io::stderr().lock();
    let name = terminal::in_line(name);
    let asked = write!(stderr, "`{name}` is not on this machine: download {size}? [Y/n] ");
    // Who cannot be asked has not agreed.
    if asked.and_then(|()| stderr.flush()).is_err() {
        return false;
    }
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

/// A prompt that asks nothing of the decoder's training.
pub(super) const PLAIN_TEMPLATE: &str = "{{ document }}\nQuestion: {{ question }}\nAnswer:";

/// A prompt template from a file, checked; without a file, one that asks nothing of the decoder's
/// training.
pub(super) fn prompt_template(file: Option<&Path>) -> Result<String, Failure> {
    let template = match file {
        Some(path) => Document::read(path)?.text,
        None => PLAIN_TEMPLATE.to_owned(),
    };
    PromptTemplate::parse(&template)?;
    Ok(template)
}

/// How the names of latents files end.
pub(super) const LATENTS_SUFFIX: &str = ".arc.safetensors";

/// Whether a file holds latents and not text, by its name.
pub(super) fn is_latents_file(path: &Path) -> bool {
    path.to_string_lossy().ends_with(LATENTS_SUFFIX)
}

/// An error about a document, with its path as the name.
pub(super) fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Document { reason, hint, .. } => {
            Error::Document { name: path.display().to_string(), reason, hint }
        }
        other => other,
    }
}

/// What is named, in order, and once where it is named twice.
pub(super) fn distinct<T: Clone + PartialEq>(named: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in named {
        if !distinct.contains(one) {
            distinct.push(one.clone());
        }
    }
    distinct
}

/// What the reader of an answer should know of latents at these pooling factors.
pub(super) fn warnings_of_factors(
    decoder: &AdaptedDecoder,
    factors: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = String> {
    factors.into_iter().filter_map(|factor| {
        let made_for: Vec<_> = decoder.other_factors(factor)?.iter().map(u32::to_string).collect();
        Some(format!(
            "adapter `{}` was made for pooling factor {}, the latents have {factor}",
            decoder.adapter.manifest.name,
            made_for.join(", ")
        ))
    })
}
