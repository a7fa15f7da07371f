//! `arc adapters pack`: one archive of a package, with a hash of every file in it.

use arc_adapters::{AdapterManifest, AdapterPlace, archive_name};
use serde_json::json;

use super::shown;
use super::subject::Subject;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Pack;
use crate::commands::destination::check_file;
use crate::output::Output;

pub(super) fn run(global: &Global, pack: &Pack, output: &Output) -> Result<(), Failure> {
    let no_package = |what: &str| {
        Failure::usage(
            format!("{what}, and only data packages are packed"),
            "name a folder with an `adapter.json`; a code plugin is one file already",
        )
    };
    let folder = match Subject::find(global, &pack.adapter)? {
        Subject::Decoder(registry, name) => match registry.resolve(&name, None)?.adapter()? {
            AdapterPlace::Package { folder, .. } => folder.to_owned(),
            _ => return Err(no_package(&format!("the adapter of `{name}` is code"))),
        },
        Subject::Package(folder) => folder,
        Subject::Archive(path) | Subject::Plugin(path) => {
            return Err(no_package(&format!("`{}` is a file", path.display())));
        }
    };
    let name = AdapterManifest::open(&folder)?.name;
    check_file(&pack.output.join(archive_name(&name)), pack.replace)?;
    let archive = arc_adapters::pack(&folder, &pack.output)?;
    output.line(format!("{}  {}", archive.sha256, shown(&archive.path)))?;
    output.json(&json!({
        "adapter": archive.manifest.name,
        "archive": archive.path.to_string_lossy(),
        "sha256": archive.sha256,
        "files": archive.files,
    }))
}
