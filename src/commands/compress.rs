//! `arc compress`: documents become latents files.

use std::io::{Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arc_adapters::{write_atomically, write_new_atomically};
use arc_core::encoder::{CompressOptions, Encoder, LatentsDescription, LatentsWriter};
use arc_documents::Source;
use serde_json::{Value, json};

use super::compressor::compress_into;
use super::destination::{check_file, check_folder};
use super::documents::{self, Content, LATENTS_SUFFIX, is_latents_file, named_document};
use super::session::session;
use crate::Failure;
use crate::args::{Compress, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &Compress, output: &Output) -> Result<(), Failure> {
    if let Some(latents) = args.files.iter().find(|path| is_latents_file(path)) {
        return Err(Failure::usage(
            format!("`{}` holds latents: it is compressed already", latents.display()),
            "give it to `arc ask` as it is",
        ));
    }
    let sources = documents::sources(&args.files)?;
    // A folder or a pattern is several documents, however many it leads to.
    let are_many = args.files.len() > 1 || sources != as_they_are(&args.files);
    let to_stdout = args.output.as_os_str() == "-";
    if are_many {
        if to_stdout || is_latents_file(&args.output) {
            return Err(Failure::usage(
                "several documents are to be compressed into one file",
                "name a folder with `--output`: each gets a file of its own in it",
            ));
        }
        check_folder(&args.output)?;
        return Many { global, args, output }.run(sources);
    }
    if to_stdout {
        if output.is_json() {
            return Err(Failure::usage(
                "standard output cannot have the latents and `--json`",
                "leave out `--json`, or name a file with `--output`",
            ));
        }
    } else {
        if !is_latents_file(&args.output) {
            return Err(Failure::usage(
                format!(
                    "`{}` does not end in `{LATENTS_SUFFIX}`, by which latents are known",
                    args.output.display()
                ),
                format!("name it `{}{LATENTS_SUFFIX}`", args.output.with_extension("").display()),
            ));
        }
        check_file(&args.output, args.replace)?;
    }
    let mut documents = documents::read_one(&sources[0])?;
    if documents.len() > 1 {
        return Err(Failure::usage(
            format!("`{}` holds {} documents", args.files[0].display(), documents.len()),
            "name a folder with `--output`: each gets a file of its own in it",
        ));
    }
    let document = documents.remove(0);
    let Content::Text(text) = &document.content else { return Ok(()) };
    let encoder = open_encoder(global, args)?;
    let one = One { encoder: &encoder, args, name: &document.name, text };
    if to_stdout {
        let made = one.to_standard_output()?;
        output.remark(format!("{} tokens compressed to {} latents", made.source_tokens, made.latents()));
        return Ok(());
    }
    let made = one.to_file(&args.output, args.replace)?;
    output.line(made.line(&args.output))?;
    output.json(&made.to_json(&args.output, &encoder))
}

/// The arguments themselves as sources, none of them a folder or a pattern.
fn as_they_are(arguments: &[PathBuf]) -> Vec<Source> {
    let source = |path: &PathBuf| match path.as_os_str() == "-" {
        true => Source::Stdin,
        false => Source::File(path.clone()),
    };
    arguments.iter().map(source).collect()
}

fn open_encoder(global: &Global, args: &Compress) -> Result<Arc<Encoder>, Failure> {
    let session = session(global)?;
    Ok(match &args.encoder {
        Some(name) => session.encoder_named(name)?,
        None => session.encoder()?,
    })
}

/// A text that is to be compressed.
struct One<'a> {
    encoder: &'a Encoder,
    args: &'a Compress,
    name: &'a str,
    text: &'a str,
}

/// A file that was made.
struct Made {
    description: LatentsDescription,
    seconds: f64,
}

impl One<'_> {
    fn to_file(&self, path: &Path, replace: bool) -> Result<Made, Failure> {
        let start = Instant::now();
        let write = |file: &mut std::io::BufWriter<std::fs::File>| self.write(file, path);
        let made = if replace { write_atomically(path, write) } else { write_new_atomically(path, write) };
        let description = made.map_err(|error| named_document(error, self.name))?;
        Ok(Made { description, seconds: start.elapsed().as_secs_f64() })
    }

    /// Standard output cannot be gone back in, and the header is written last.
    fn to_standard_output(&self) -> Result<LatentsDescription, Failure> {
        let place = Path::new("standard output");
        let mut file =
            tempfile::tempfile().map_err(arc_core::Error::io("create a file in", std::env::temp_dir()))?;
        let made = self.write(&mut file, place).map_err(|error| named_document(error, self.name))?;
        let mut stdout = std::io::stdout().lock();
        let copied = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| std::io::copy(&mut file, &mut stdout))
            .and_then(|_| stdout.flush())
            .and_then(|()| crate::output::check_open());
        copied.map_err(|error| Failure::output(&error))?;
        Ok(made)
    }

    fn write<W: Write + std::io::Seek>(
        &self,
        file: &mut W,
        path: &Path,
    ) -> arc_core::Result<LatentsDescription> {
        let options = CompressOptions::default().with_factor(self.args.factor.map(usize::from));
        let text = self.encoder.tokenise(self.text)?;
        let description = self.encoder.describe(&text, options)?;
        let width = self.encoder.network.d_model();
        let mut writer = LatentsWriter::begin(file, path, description, width, self.args.dtype)?;
        compress_into(self.encoder, &text, options, self.name, |chunk| writer.push(chunk))?;
        writer.finish()
    }
}

impl Made {
    fn line(&self, path: &Path) -> String {
        format!(
            "{} tokens compressed to {} latents in {:.2} s: {}",
            self.description.source_tokens,
            self.description.latents(),
            self.seconds,
            path.display()
        )
    }

    fn to_json(&self, path: &Path, encoder: &Encoder) -> Value {
        json!({
            "output": path.to_string_lossy(),
            "encoder": encoder.name,
            "encoder_id": self.description.encoder_id,
            "factor": self.description.factor,
            "source_tokens": self.description.source_tokens,
            "latents": self.description.latents(),
            "chunks": self.description.chunk_lengths,
            "text_sha256": self.description.text_sha256,
            "compress_seconds": self.seconds,
        })
    }
}

/// Documents that go into a folder, each into a file of its own.
struct Many<'a> {
    global: &'a Global,
    args: &'a Compress,
    output: &'a Output,
}

impl Many<'_> {
    fn run(&self, sources: Vec<Source>) -> Result<(), Failure> {
        let (args, output) = (self.args, self.output);
        let encoder = open_encoder(self.global, args)?;
        let (mut made, mut there, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken = std::collections::HashSet::new();
        for source in sources {
            let documents = match documents::read_one(&source) {
                Ok(documents) => documents,
                Err(failure) if args.skip_bad => {
                    output.warning(format!("left out: {}", failure.message()));
                    left_out.push(failure.message().to_owned());
                    continue;
                }
                Err(failure) => return Err(failure.or_skip_bad()),
            };
            let are_lines = documents.len() > 1;
            for (number, document) in documents.iter().enumerate() {
                let Content::Text(text) = &document.content else { continue };
                let place = self.place(&source, are_lines.then_some(number));
                if !taken.insert(place.clone()) {
                    return Err(Failure::failed(
                        format!("two documents would be written to `{}`", place.display()),
                        "compress one of them by itself, under another name",
                    ));
                }
                if place.symlink_metadata().is_ok() && !args.replace {
                    there.push(place.to_string_lossy().into_owned());
                    continue;
                }
                let one = One { encoder: &encoder, args, name: &document.name, text };
                let file = one.to_file(&place, args.replace)?;
                output.line(file.line(&place))?;
                made.push(file.to_json(&place, &encoder));
            }
        }
        if !there.is_empty() {
            output.remark(format!("{} were there already: `--replace` makes them anew", there.len()));
        }
        output.json(&json!({
            "made": made,
            "there_before": there,
            "left_out": left_out,
        }))
    }

    /// The file of a document: its path below the argument that led to it, with the suffix; of a line of JSONL
    /// with its number.
    fn place(&self, source: &Source, line: Option<usize>) -> PathBuf {
        let below = match source {
            Source::Stdin => PathBuf::from("stdin"),
            Source::File(path) => {
                let folders = self.args.files.iter().filter(|argument| argument.is_dir());
                let below = folders.filter_map(|folder| path.strip_prefix(folder).ok()).next();
                below.map_or_else(|| path.file_name().unwrap_or_default().into(), Path::to_owned)
            }
        };
        let mut name = below.into_os_string();
        if let Some(line) = line {
            name.push(format!(".{}", line + 1));
        }
        name.push(LATENTS_SUFFIX);
        self.args.output.join(name)
    }
}
