//! What most commands need first: the registry, and a session that pulls with a progress bar.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use arc_adapters::{ModelFile, REGISTRY_FILE, Registry};
use arc_core::Session;
use arc_core::hub::{Cache, Consent, pull};
use indicatif::HumanBytes;

use crate::Failure;
use crate::args::Global;
use crate::output::TransferBar;

/// Reads the registry files that apply, later ones winning: the user's, the project's (in this
/// folder or the nearest one above it), and those named on the command line.
pub(super) fn registry(global: &Global) -> Result<Registry, Failure> {
    let mut files: Vec<PathBuf> = user_registry().into_iter().filter(|file| file.is_file()).collect();
    if let Ok(here) = std::env::current_dir() {
        files.extend(here.ancestors().map(|folder| folder.join(REGISTRY_FILE)).find(|file| file.is_file()));
    }
    files.extend(global.registry.iter().cloned());
    if files.is_empty() {
        return Err(Failure::usage(
            format!("there is no `{REGISTRY_FILE}` in this folder or above it"),
            "name one with `--registry FILE`",
        ));
    }
    Ok(Registry::layered(&files)?)
}

/// The user's own registry, whether or not it is there.
fn user_registry() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "arc-encoder")?;
    Some(folders.config_dir().join(REGISTRY_FILE))
}

/// A session on the chosen device, whose models are pulled with a bar and after asking.
pub(super) fn session(global: &Global) -> Result<Session, Failure> {
    let registry = registry(global)?;
    let yes = global.yes;
    let locate = move |model: &ModelFile, name: &str| locate(model, name, yes);
    Ok(Session::new(registry, global.device, Box::new(locate))?)
}

/// Finds a model in the cache or pulls it.
pub(super) fn locate(model: &ModelFile, name: &str, yes: bool) -> arc_core::Result<PathBuf> {
    let bar = TransferBar::new(name);
    let consent = if yes || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        Consent::Given
    } else {
        Consent::Ask(&agrees)
    };
    pull(model, name, &Cache::from_env()?, &bar, consent)
}

/// Asks at the terminal before a large download.
fn agrees(name: &str, bytes: Option<u64>) -> bool {
    let size =
        bytes.map_or_else(|| "a file of unknown size".to_owned(), |bytes| HumanBytes(bytes).to_string());
    eprint!("`{name}` is not on this machine: download {size}? [Y/n] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

/// Whether a file holds latents and not text, by its name.
pub(super) fn is_latents_file(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(".arc.safetensors"))
}
