//! The documents that a command line names, read.

use std::path::{Path, PathBuf};

use arc_core::Error;
use arc_core::encoder::LatentsFile;
use arc_documents::{Source, expand, expand_also};

use super::pdf_text;
use crate::Failure;
use crate::output::Output;

/// How the names of latents files end.
pub(super) const LATENTS_SUFFIX: &str = ".arc.safetensors";

/// Whether a file holds latents and not text, by its name.
pub(super) fn is_latents_file(path: &Path) -> bool {
    path.to_string_lossy().ends_with(LATENTS_SUFFIX)
}

/// An error about a text, with the document's own name.
pub(super) fn named_document(error: Error, name: &str) -> Error {
    match error {
        Error::Document { reason, hint, .. } => Error::Document { name: name.to_owned(), reason, hint },
        other => other,
    }
}

/// A document with the name that it is shown by.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) content: Content,
}

/// What a document is before any encoder has seen it.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are as many as documents")]
pub(super) enum Content {
    Text(String),
    Latents(LatentsFile),
}

impl Named {
    /// Its text, unless it is latents.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Latents(_) => None,
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.content, Content::Latents(_))
    }
}

/// The texts of all documents, as one.
pub(super) fn joined_text(documents: &[Named]) -> String {
    documents.iter().filter_map(Named::text).collect::<Vec<_>>().join("\n\n")
}

/// The places of texts that arguments lead to.
pub(super) fn sources(arguments: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    sources_by(arguments, expand)
}

/// The places of texts and latents that arguments lead to. Of a folder that has both of a document the text is
/// taken.
fn sources_to_read(arguments: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    sources_by(arguments, |argument| {
        expand_also(argument, |path| {
            let text = path.to_str().and_then(|path| path.strip_suffix(LATENTS_SUFFIX));
            text.is_some_and(|text| !Path::new(text).exists())
        })
    })
}

fn sources_by(
    arguments: &[PathBuf],
    expand: impl Fn(&Path) -> arc_documents::Result<Vec<Source>>,
) -> Result<Vec<Source>, Failure> {
    if arguments.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage(
            "standard input is named twice as a document, and can be read once",
            "name the second document by its file",
        ));
    }
    let mut sources = Vec::new();
    for argument in arguments {
        sources.extend(expand(argument)?);
    }
    Ok(sources)
}

/// The documents that arguments lead to, in order. One that cannot be read ends it, or with `skip_bad` is named
/// and passed over; at least one is there.
pub(super) fn read(arguments: &[PathBuf], skip_bad: bool, output: &Output) -> Result<Vec<Named>, Failure> {
    let mut documents = Vec::new();
    let sources = sources_to_read(arguments)?;
    let are_many = sources.len() > 1;
    for source in sources {
        match read_one(&source) {
            Ok(read) => documents.extend(read),
            Err(failure) if skip_bad => output.warning(format!("left out: {}", failure.message())),
            Err(failure) if are_many => return Err(failure.or_skip_bad()),
            Err(failure) => return Err(failure),
        }
    }
    match documents.is_empty() {
        true => Err(Failure::failed("none of the documents can be read", "name one that can")),
        false => Ok(documents),
    }
}

/// The documents at a place: one, but for JSONL.
pub(super) fn read_one(source: &Source) -> Result<Vec<Named>, Failure> {
    if let Source::File(path) = source
        && is_latents_file(path)
    {
        let latents = LatentsFile::open(path)?;
        latents.verify()?;
        return Ok(vec![Named { name: path.display().to_string(), content: Content::Latents(latents) }]);
    }
    let documents = pdf_text::reader().read(source)?;
    Ok(documents.into_iter().map(|d| Named { name: d.name, content: Content::Text(d.text) }).collect())
}
