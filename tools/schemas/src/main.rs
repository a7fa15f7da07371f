//! The JSON schemas in `schemas/`: of the files that arc reads, made of the types that read them, and of what its
//! commands print.
//!
//! ```text
//! schemas           writes the schemas of files anew
//! schemas --check   fails where one is stale, where a shipped file does not fit, or where the code and a schema
//!                   disagree about a file that has a key too many, too few, or of another kind
//! schemas --printed FOLDER...
//!                   holds what tests kept there (`ARC_RECORDED_JSON`) against `schemas/output`: no key more or less
//! ```

mod agreement;
mod printed;

use std::error::Error;
use std::path::{Path, PathBuf};

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => write(),
        ["--check"] => check(),
        ["--printed", folders @ ..] if !folders.is_empty() => printed::check(folders),
        _ => Err("expected nothing, `--check`, or `--printed FOLDER...`".into()),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn path_of(name: &str) -> PathBuf {
    repository().join("schemas").join(format!("{name}.schema.json"))
}

fn text_of(schema: &Value) -> String {
    format!("{schema:#}\n")
}

fn write() -> Result<()> {
    for (name, schema) in arc_adapters::schemas() {
        std::fs::write(path_of(name), text_of(&schema))?;
    }
    Ok(())
}

/// A schema that can be asked, with those that it refers to.
struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn open(path: &Path) -> Result<Self> {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        let location = path.to_str().ok_or("a path that is not Unicode")?;
        let index = compiler.compile(location, &mut schemas).map_err(|error| error.to_string())?;
        Ok(Self { schemas, index })
    }

    /// What is wrong with a value.
    fn fault(&self, value: &Value) -> Option<String> {
        self.schemas.validate(value, self.index).err().map(|error| format!("{error:#}"))
    }
}

fn check() -> Result<()> {
    for (name, schema) in arc_adapters::schemas() {
        if std::fs::read_to_string(path_of(name))? != text_of(&schema) {
            return Err(format!(
                "schemas/{name}.schema.json is stale; `cargo run` in tools/schemas writes it"
            )
            .into());
        }
    }
    let open = |name: &str| Validator::open(&path_of(name));
    let (adapter, encoder, registry) = (open("adapter")?, open("encoder")?, open("registry")?);
    // Every shipped file.
    let mut seen = [0; 3];
    let is_own = |entry: &walkdir::DirEntry| {
        !matches!(entry.file_name().to_str(), Some("target" | ".git" | "node_modules" | "data" | "runs"))
    };
    for entry in walkdir::WalkDir::new(repository()).into_iter().filter_entry(is_own) {
        let entry = entry?;
        let (validator, place) = match entry.file_name().to_str() {
            Some("adapter.json") => (&adapter, 0),
            Some("encoder.json") => (&encoder, 1),
            Some("registry.toml") => (&registry, 2),
            _ => continue,
        };
        let text = std::fs::read_to_string(entry.path())?;
        let value = if place == 2 { toml::from_str(&text)? } else { serde_json::from_str(&text)? };
        if let Some(fault) = validator.fault(&value) {
            return Err(format!("{}: {fault}", entry.path().display()).into());
        }
        seen[place] += 1;
    }
    println!("{} adapters, {} encoders and {} registries fit their schemas", seen[0], seen[1], seen[2]);
    if seen.contains(&0) {
        return Err("there are none of a kind".into());
    }
    let compared = agreement::check(&adapter, &encoder, &registry)?;
    println!("the code and the schemas agree about {compared} changed files");
    // Those of what is printed are schemas, whether or not anything was printed.
    for path in printed::schemas()? {
        Validator::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
