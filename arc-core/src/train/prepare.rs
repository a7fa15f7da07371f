//! Text to shards: deduplicated, checked against evaluation sets, shuffled, tokenised.
//!
//! Two passes, so that memory does not grow with the text: the first deals documents out to
//! buckets on disk, the second orders, tokenises and writes one bucket at a time. Where a document
//! goes follows from the seed and what it says, so the result does not depend on threads, and a document
//! that one corpus holds out is held out by every corpus of that seed and share. What stays in memory is
//! 16 bytes for each document, to know its repetition.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use arc_adapters::{setters, sha256_file, sha256_hex};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest as _, Sha256};

use super::corpus::{CorpusManifest, MANIFEST, SCHEMA, ShardRecord, SourceRecord};
use super::draw::{Purpose, mix};
use crate::json_lines::parse_line;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use arc_adapters::write_atomically;

/// Plain text is cut into documents of about this many bytes, between paragraphs.
const PIECE_BYTES: usize = 8000;
/// A document longer than this is not text that anybody wrote at once.
const MOST_DOCUMENT_BYTES: usize = 16 << 20;
/// Text that shares so many words in a row with an evaluation set is left out (as for GPT-3; Brown
/// et al., 2020).
const OVERLAP_WORDS: usize = 13;
/// How the folder is called in which documents are dealt out, until they are shards.
const BUCKETS: &str = ".buckets-";
/// What compressed text is assumed to unpack to.
const UNPACKED: u64 = 4;

/// A file of text with the licence of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrepareSource {
    /// Plain text, `.jsonl` or `.jsonl.zst` with a field `text`.
    pub path: PathBuf,
    /// The licence, as it is to stand in the manifest.
    pub licence: String,
}

impl PrepareSource {
    /// A file, and the licence that its text is under.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, licence: impl Into<String>) -> Self {
        Self { path: path.into(), licence: licence.into() }
    }
}

/// How text is prepared.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PrepareOptions {
    /// Draws the order of documents.
    pub seed: u64,
    /// The share of documents that is kept from training.
    pub held_out: f64,
    /// About how much text a shard holds, in bytes.
    pub shard_bytes: u64,
    /// Files of text, as the sources', that nothing may overlap with.
    pub unseen: Vec<PathBuf>,
}

setters!(PrepareOptions {
    seed: u64,
    held_out: f64,
    shard_bytes: u64,
    unseen: Vec<PathBuf>,
});

impl Default for PrepareOptions {
    fn default() -> Self {
        Self { seed: 0, held_out: 0.01, shard_bytes: 32 << 20, unseen: Vec::new() }
    }
}

/// What preparation did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PrepareReport {
    /// The corpus.
    pub manifest: CorpusManifest,
    /// Each document that was left out for its overlap: file, document number, and the document of
    /// `unseen` that it shares words with. Not the words: some of that text is for nobody's eyes.
    pub removed: Vec<(String, u64, String)>,
}

/// Prepares text into the folder `out`, which must be empty or not there.
///
/// # Errors
///
/// [`Error::Io`], [`Error::InvalidFile`] for a malformed source, [`Error::Document`] if there is no
/// text, [`Error::Occupied`] if `out` holds something, [`Error::InvalidValue`] if the options make no sense.
pub fn prepare(
    sources: &[PrepareSource],
    tokenizer: &Tokenizer,
    tokenizer_name: &str,
    out: &Path,
    options: &PrepareOptions,
) -> Result<PrepareReport> {
    if !(0.0..1.0).contains(&options.held_out) {
        return Err(Error::InvalidValue {
            what: "the held-out share".into(),
            found: options.held_out.to_string(),
            expected: "0 to less than 1".into(),
        });
    }
    if options.shard_bytes == 0 {
        return Err(Error::InvalidValue {
            what: "the length of a shard".into(),
            found: "0".into(),
            expected: "1 byte or more".into(),
        });
    }
    check_empty(out)?;
    let unseen = Overlap::open(&options.unseen)?;
    let mut size = 0;
    for source in sources {
        let bytes = std::fs::metadata(&source.path).map_err(Error::io("read", &source.path))?.len();
        size += if is_zstd(&source.path) { bytes.saturating_mul(UNPACKED) } else { bytes };
    }
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let work = tempfile::Builder::new()
        .prefix(BUCKETS)
        .tempdir_in(out)
        .map_err(Error::io("create a folder in", out))?;
    let shards = usize::try_from(size.div_ceil(options.shard_bytes)).unwrap_or(usize::MAX).clamp(1, 4096);
    // The last bucket is the held-out one.
    let mut buckets = (0..=shards)
        .map(|bucket| {
            let path = work.path().join(bucket.to_string());
            Ok(BufWriter::new(File::create(&path).map_err(Error::io("create", &path))?))
        })
        .collect::<Result<Vec<_>>>()?;

    let mut seen = HashSet::new();
    let (mut records, mut removed) = (Vec::new(), Vec::new());
    for source in sources {
        let mut record = SourceRecord {
            name: file_name(&source.path),
            licence: source.licence.clone(),
            sha256: sha256_file(&source.path)?,
            documents: 0,
            duplicates: 0,
            overlapping: 0,
            bytes: 0,
        };
        read_documents(&source.path, &mut |text| {
            let document = record.documents;
            record.documents += 1;
            let fingerprint = fingerprint(text);
            if !seen.insert(fingerprint) {
                record.duplicates += 1;
                return Ok(());
            }
            if let Some(place) = unseen.find(text) {
                record.overlapping += 1;
                removed.push((record.name.clone(), document, place));
                return Ok(());
            }
            record.bytes += text.len() as u64;
            let draw = mix(mix(options.seed ^ Purpose::Document as u64) ^ fingerprint as u64);
            let is_held_out = (mix(draw) as f64 / u64::MAX as f64) < options.held_out;
            let bucket = if is_held_out { shards } else { (draw % shards as u64) as usize };
            let file = &mut buckets[bucket];
            (file.write_all(&draw.to_le_bytes()))
                .and_then(|()| file.write_all(&(text.len() as u64).to_le_bytes()))
                .and_then(|()| file.write_all(text.as_bytes()))
                .map_err(Error::io("write a bucket in", out))
        })?;
        records.push(record);
    }
    for mut bucket in buckets {
        bucket.flush().map_err(Error::io("write a bucket in", out))?;
    }
    if records.iter().all(|record| record.bytes == 0) {
        return Err(Error::Document {
            name: sources.first().map_or_else(String::new, |source| source.path.display().to_string()),
            reason: "leaves no text to train on".into(),
            hint: "give text that is neither empty, repeated, nor part of an evaluation set".into(),
        });
    }

    let mut written = Vec::new();
    let mut held_out = None;
    for bucket in 0..=shards {
        let documents = read_bucket(&work.path().join(bucket.to_string()))?;
        if documents.is_empty() {
            continue;
        }
        let file = match bucket == shards {
            true => "held-out.safetensors".to_owned(),
            false => format!("shard-{:05}.safetensors", written.len()),
        };
        let record = write_shard(&out.join(&file), file, &documents, tokenizer)?;
        if bucket == shards {
            held_out = Some(record);
        } else {
            written.push(record);
        }
    }
    let manifest = CorpusManifest {
        schema: SCHEMA,
        tokenizer: tokenizer_name.to_owned(),
        tokenizer_sha256: tokenizer.sha256().to_owned(),
        seed: options.seed,
        sources: records,
        shards: written,
        held_out,
    };
    let path = out.join(MANIFEST);
    let mut json = serde_json::to_string_pretty(&manifest).map_err(|error| Error::InvalidFile {
        path: path.clone(),
        format: "corpus manifest",
        reason: error.to_string(),
    })?;
    json.push('\n');
    // Last, so that a folder with a manifest is complete.
    write_atomically(&path, |file| file.write_all(json.as_bytes()).map_err(Error::io("write", &path)))?;
    Ok(PrepareReport { manifest, removed })
}

fn is_zstd(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

/// Refuses a folder that holds something, and says so where it is hidden.
fn check_empty(out: &Path) -> Result<()> {
    let Ok(entries) = out.read_dir() else { return Ok(()) };
    let names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    match names.iter().find(|name| name.starts_with(BUCKETS)) {
        Some(left) => Err(Error::Occupied {
            path: out.to_owned(),
            state: format!("holds `{left}` of a preparation that was interrupted, or goes on"),
            hint: "delete it, or name another folder".into(),
        }),
        None if names.is_empty() => Ok(()),
        None => Err(Error::Occupied {
            path: out.to_owned(),
            state: "is not empty".into(),
            hint: "name another folder".into(),
        }),
    }
}

/// Enough of a hash to tell documents apart.
fn fingerprint(text: &str) -> u128 {
    let digest: [u8; 32] = Sha256::digest(text.trim().as_bytes()).into();
    digest.iter().take(16).fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// Calls `each` with every document of a file that is not blank.
pub(super) fn read_documents(path: &Path, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let reader: Box<dyn BufRead> = if is_zstd(path) {
        let decoder = zstd::stream::read::Decoder::new(file).map_err(Error::io("read", path))?;
        Box::new(BufReader::new(decoder))
    } else {
        Box::new(BufReader::new(file))
    };
    let inner = if is_zstd(path) { path.with_extension("") } else { path.to_owned() };
    if inner.extension().is_some_and(|extension| extension == "jsonl") {
        return read_json_lines(path, reader, each);
    }
    let mut piece = String::new();
    for (index, line) in reader.split(b'\n').enumerate() {
        let line =
            String::from_utf8(line.map_err(Error::io("read", path))?).map_err(|_| Error::Document {
                name: path.display().to_string(),
                reason: format!("is not UTF-8 in line {}", index + 1),
                hint: "convert it to UTF-8, or extract its text first".into(),
            })?;
        let line = line.strip_suffix('\r').unwrap_or(&line);
        if line.trim().is_empty() && piece.len() >= PIECE_BYTES {
            each(piece.trim())?;
            piece.clear();
            continue;
        }
        piece.push_str(line);
        piece.push('\n');
        if piece.len() > MOST_DOCUMENT_BYTES {
            each(piece.trim())?;
            piece.clear();
        }
    }
    if piece.trim().is_empty() { Ok(()) } else { each(piece.trim()) }
}

fn read_json_lines(
    path: &Path,
    mut reader: Box<dyn BufRead>,
    each: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = (&mut reader).take(MOST_DOCUMENT_BYTES as u64).read_until(b'\n', &mut line);
        if read.map_err(Error::io("read", path))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let invalid = |reason: String| Error::InvalidFile {
            path: path.to_owned(),
            format: "JSONL",
            reason: format!("line {number}: {reason}"),
        };
        let row: serde_json::Value = parse_line(&line).map_err(invalid)?;
        let text = row.get("text").and_then(serde_json::Value::as_str);
        let text = text.ok_or_else(|| invalid("there is no text in its field `text`".into()))?;
        if !text.trim().is_empty() {
            each(text.trim())?;
        }
    }
    Ok(())
}

/// The documents of a bucket in their drawn order.
fn read_bucket(path: &Path) -> Result<Vec<String>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let mut documents = Vec::new();
    let mut header = [0_u8; 16];
    loop {
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(Error::io("read", path)(error)),
        }
        let (draw, len) = header.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
        let mut text = String::new();
        (&mut file).take(number(len)).read_to_string(&mut text).map_err(Error::io("read", path))?;
        documents.push((number(draw), text));
    }
    documents.sort_by_key(|(draw, _)| *draw);
    Ok(documents.into_iter().map(|(_, text)| text).collect())
}

fn write_shard(
    path: &Path,
    file: String,
    documents: &[String],
    tokenizer: &Tokenizer,
) -> Result<ShardRecord> {
    let encodings = documents.par_iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
    let (mut text, mut ids, mut starts) = (Vec::new(), Vec::<u32>::new(), Vec::<u32>::new());
    let (mut document_tokens, mut document_bytes) = (vec![0_u64], vec![0_u64]);
    for (document, encoding) in documents.iter().zip(&encodings) {
        text.extend_from_slice(document.as_bytes());
        ids.extend(&encoding.ids);
        // Documents are shorter than 4 GiB: see `MOST_DOCUMENT_BYTES`.
        starts.extend(encoding.offsets.iter().map(|&(start, _)| u32::try_from(start).unwrap_or(u32::MAX)));
        document_tokens.push(ids.len() as u64);
        document_bytes.push(text.len() as u64);
    }
    let invalid = |error: safetensors::SafeTensorError| Error::InvalidFile {
        path: path.to_owned(),
        format: "shard",
        reason: error.to_string(),
    };
    let view = |dtype: Dtype, len: usize, bytes| TensorView::new(dtype, vec![len], bytes).map_err(invalid);
    let tensors = [
        ("text", view(Dtype::U8, text.len(), text.as_slice())?),
        ("ids", view(Dtype::U32, ids.len(), bytemuck::cast_slice(&ids))?),
        ("starts", view(Dtype::U32, starts.len(), bytemuck::cast_slice(&starts))?),
        ("document_tokens", view(Dtype::U64, document_tokens.len(), bytemuck::cast_slice(&document_tokens))?),
        ("document_bytes", view(Dtype::U64, document_bytes.len(), bytemuck::cast_slice(&document_bytes))?),
    ];
    let bytes = safetensors::serialize(tensors, None).map_err(invalid)?;
    write_atomically(path, |file| file.write_all(&bytes).map_err(Error::io("write", path)))?;
    Ok(ShardRecord {
        file,
        sha256: sha256_hex(&bytes),
        documents: documents.len() as u64,
        tokens: ids.len() as u64,
        bytes: text.len() as u64,
    })
}

/// The runs of words of texts that must stay unseen, as hashes.
pub(super) struct Overlap {
    names: Vec<String>,
    /// The file and the document that a run is in.
    runs: HashMap<u64, (u32, u32)>,
}

impl Overlap {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let (mut names, mut runs) = (Vec::new(), HashMap::new());
        for (file, path) in (0..).zip(paths) {
            let mut document = 0;
            read_documents(path, &mut |text| {
                for hash in word_runs(text) {
                    runs.entry(hash).or_insert((file, document));
                }
                document += 1;
                Ok(())
            })?;
            names.push(file_name(path));
        }
        Ok(Self { names, runs })
    }

    /// The file and document that a text shares words with.
    pub(super) fn find(&self, text: &str) -> Option<String> {
        if self.runs.is_empty() {
            return None;
        }
        let (file, document) = word_runs(text).find_map(|hash| self.runs.get(&hash))?;
        Some(format!("{} document {document}", self.names[*file as usize]))
    }
}

/// The hash of every run of words, lowercase and without punctuation.
fn word_runs(text: &str) -> impl Iterator<Item = u64> {
    let hashes: Vec<u64> = text
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte))))
        .collect();
    (0..hashes.len().saturating_sub(OVERLAP_WORDS - 1))
        .map(move |start| hashes[start..start + OVERLAP_WORDS].iter().fold(0, |hash, word| mix(hash ^ word)))
}

/// A file's name without its folder.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Leaves out rows of question files that share 13 words in a row with what must stay unseen, or
/// that came before. Each file is written to the folder `out` under its name. Returns for each file
/// its name, its rows, and how many of them were left out.
///
/// # Errors
///
/// [`Error::Io`], and [`Error::InvalidFile`] for a row that is no question.
pub fn prepare_questions(
    files: &[PathBuf],
    unseen: &[PathBuf],
    out: &Path,
) -> Result<Vec<(String, u64, u64)>> {
    let targets: Vec<PathBuf> = files.iter().map(|path| out.join(file_name(path))).collect();
    for (index, target) in targets.iter().enumerate() {
        let same =
            |path: &PathBuf| path.canonicalize().is_ok_and(|a| target.canonicalize().is_ok_and(|b| a == b));
        if files.iter().any(same) {
            return Err(Error::Occupied {
                path: target.clone(),
                state: "would be written over itself".into(),
                hint: "name another folder".into(),
            });
        }
        if targets[..index].contains(target) {
            return Err(Error::Occupied {
                path: target.clone(),
                state: "would be written for two files of questions".into(),
                hint: "give them different names".into(),
            });
        }
    }
    let unseen = Overlap::open(unseen)?;
    let mut seen = HashSet::new();
    let mut counts = Vec::new();
    for (path, target) in files.iter().zip(targets) {
        let (mut rows, mut left_out) = (0, 0);
        write_atomically(&target, |file| {
            super::questions::each_row(path, &mut |line, question| {
                rows += 1;
                let text = format!("{}\n{}\n{}", question.document, question.question, question.answer);
                if !seen.insert(fingerprint(&text)) || unseen.find(&text).is_some() {
                    left_out += 1;
                    return Ok(());
                }
                writeln!(file, "{line}").map_err(Error::io("write", &target))
            })
        })?;
        counts.push((file_name(path), rows, left_out));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(path: &Path) -> Vec<String> {
        let mut documents = Vec::new();
        read_documents(path, &mut |text| {
            documents.push(text.to_owned());
            Ok(())
        })
        .unwrap();
        documents
    }

    #[test]
    fn plain_text_json_lines_and_their_compression_are_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, lines, packed) =
            (folder.path().join("a.txt"), folder.path().join("a.jsonl"), folder.path().join("a.jsonl.zst"));
        std::fs::write(&plain, "one\n\ntwo\n").unwrap();
        let json = "{\"text\": \"one\\n\\ntwo\"}\n\n{\"text\": \" \"}\n";
        std::fs::write(&lines, json).unwrap();
        std::fs::write(&packed, zstd::encode_all(json.as_bytes(), 1).unwrap()).unwrap();
        for path in [plain, lines, packed] {
            assert_eq!(documents(&path), ["one\n\ntwo"], "{}", path.display());
        }
    }

    #[test]
    fn a_row_without_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\": \"x\"}\n{\"txt\": \"y\"}\n").unwrap();
        let error = read_documents(&path, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unseen.txt");
        std::fs::write(&path, "a b c d e f g h i j k l m n o p").unwrap();
        let unseen = Overlap::open(&[path]).unwrap();
        assert_eq!(unseen.find("x, B C-d e f g H i j k l m n!").as_deref(), Some("unseen.txt document 0"));
        assert_eq!(unseen.find("a b c d e f g h i j k l x"), None);
    }
}
