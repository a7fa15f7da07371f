//! What this program is: version, commit, what it was built with, and what it runs on.

use arc_core::device::{DeviceKind, Processor};

/// The commit that the program was built from, and whether files had been changed since; empty where it was
/// built outside of its repository. By the compiler, so that nothing else is built again for a new commit.
const COMMIT: &str = git_version::git_version!(
    args = ["--always", "--dirty=-modified", "--abbrev=12", "--exclude=*"],
    fallback = ""
);

/// One line: the version, and the commit where it is known.
pub(crate) fn short() -> String {
    let version = env!("CARGO_PKG_VERSION");
    if COMMIT.is_empty() { version.to_owned() } else { format!("{version} ({COMMIT})") }
}

/// The version, and a line each for the commit, the features of this build and the instruction sets of this
/// machine.
pub(crate) fn long() -> String {
    let commit = if COMMIT.is_empty() { "unknown: built outside of the repository" } else { COMMIT };
    let devices = DeviceKind::ALL.into_iter().filter(|kind| kind.is_built()).map(DeviceKind::name);
    let formats = cfg!(feature = "pdf").then_some("pdf");
    let server = cfg!(feature = "server").then_some("server");
    let features: Vec<&str> = devices.chain(formats).chain(server).collect();
    let processor = Processor::here();
    format!(
        "{}\ncommit: {commit}\nfeatures: {}\ninstruction sets: {}\nvector instructions in use: {}",
        env!("CARGO_PKG_VERSION"),
        features.join(", "),
        processor.instruction_sets.join(", "),
        processor.instructions,
    )
}
