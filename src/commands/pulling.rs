//! Models that are not on this machine: they are pulled with a bar, after asking.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use arc_adapters::ModelFile;
use arc_core::hub::{Cache, Consent, pull};
use indicatif::HumanBytes;

use crate::output::TransferBar;
use crate::terminal;

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
