//! Search by words: BM25 over the text of chunks, for stores that keep it.
//!
//! The index is no part of the store: it is made from it, in a folder of this machine, and brought up to
//! date where a search finds that the store has gone on. Deleting the folder costs the time to make it
//! again.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::Array as _;
use serde::{Deserialize, Serialize};
use tantivy::collector::TopDocs;
use tantivy::directory::MmapDirectory;
use tantivy::query::QueryParser;
use tantivy::schema::{
    FAST, Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value as _,
};
use tantivy::{Index, IndexWriter, TantivyDocument, TantivyError, Term};

use crate::manifest::{Manifest, Segment};
use crate::nearest::Hit;
use crate::segment::Column;
use crate::store::Store;
use crate::{Error, Result};

/// Memory that indexing may take, in bytes.
const INDEXING_BYTES: usize = 64 << 20;

/// How often a lock that another process holds is tried for, a tenth of a second apart.
const LOCK_ATTEMPTS: usize = 300;

/// Where in the store a chunk is, and its words.
struct Fields {
    segment: Field,
    id: Field,
    chunk: Field,
    text: Field,
}

/// What the index says of itself.
#[derive(Serialize, Deserialize)]
struct Indexed {
    store_id: String,
    /// The files of the segments that are in it.
    segments: BTreeSet<String>,
}

impl Store {
    /// The chunks whose words fit a question's best, best first. `folder` is where the index is kept: one
    /// for each store.
    ///
    /// # Errors
    ///
    /// [`Error::Search`] if the store keeps no text, or the index cannot be made there; [`Error::Damaged`]
    /// if the text cannot be read.
    pub fn words(&self, question: &str, count: usize, folder: &Path) -> Result<Vec<Hit>> {
        if !self.manifest().settings.keeps_text {
            return Err(Error::Search {
                place: self.place.to_string(),
                reason: "keeps no text to search for words in".into(),
                hint: "search by vectors, or make a store that keeps the text".into(),
            });
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        self.again_if_moved(|| {
            let manifest = self.manifest();
            let (index, fields) = self.word_index(&manifest, folder)?;
            let searched = search(&index, &fields, &manifest, question, count);
            searched.map_err(|error| self.index_failed(folder, &error))
        })
    }

    /// The index, with all segments of the manifest in it and no others.
    fn word_index(&self, manifest: &Manifest, folder: &Path) -> Result<(Index, Fields)> {
        let failed = |error: &TantivyError| self.index_failed(folder, error);
        std::fs::create_dir_all(folder).map_err(|error| failed(&TantivyError::from(error)))?;
        let (schema, fields) = schema();
        let open = || Index::open_or_create(MmapDirectory::open(folder)?, schema.clone());
        let index = open().map_err(|error| failed(&error))?;
        if indexed(&index, manifest) == Some(names(manifest)) {
            return Ok((index, fields));
        }
        let mut writer = self.lock_index(&index, folder)?;
        // Another process may have done it while this one waited.
        let before = indexed(&index, manifest).unwrap_or_default();
        let after = names(manifest);
        if before.is_empty() {
            writer.delete_all_documents().map_err(|error| failed(&error))?;
        }
        for gone in before.difference(&after) {
            writer.delete_term(Term::from_field_text(fields.segment, gone));
        }
        for segment in manifest.segments.iter().filter(|segment| !before.contains(&segment.file)) {
            self.index_segment(segment, &writer, &fields, folder)?;
        }
        let store_id = manifest.store_id.clone();
        let payload = serde_json::to_string(&Indexed { store_id, segments: after });
        let commit = || {
            let mut commit = writer.prepare_commit()?;
            commit.set_payload(&payload.unwrap_or_default());
            commit.commit()?;
            writer.wait_merging_threads()
        };
        commit().map_err(|error| failed(&error))?;
        Ok((index, fields))
    }

    fn lock_index(&self, index: &Index, folder: &Path) -> Result<IndexWriter> {
        for _ in 0..LOCK_ATTEMPTS {
            match index.writer_with_num_threads(1, INDEXING_BYTES) {
                Err(TantivyError::LockFailure(..)) => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                writer => return writer.map_err(|error| self.index_failed(folder, &error)),
            }
        }
        Err(Error::Search {
            place: self.place.to_string(),
            reason: format!("is being indexed in `{}` by another process", folder.display()),
            hint: "wait for it to finish, or end it".into(),
        })
    }

    fn index_segment(
        &self,
        segment: &Segment,
        writer: &IndexWriter,
        fields: &Fields,
        folder: &Path,
    ) -> Result<()> {
        let open = self.open_segment(segment)?;
        let columns = [Column::DocumentId, Column::Chunk, Column::Title, Column::Text];
        for batch in open.scan(&columns, None, None)? {
            let batch = batch?;
            let ids = open.checked(Column::DocumentId.text(&batch))?;
            let chunks = open.checked(Column::Chunk.int(&batch))?;
            let titles = open.checked(Column::Title.text(&batch))?;
            let texts = open.checked(Column::Text.text(&batch))?;
            for row in (0..batch.num_rows()).filter(|&row| texts.is_valid(row)) {
                let mut document = TantivyDocument::default();
                document.add_text(fields.segment, &segment.file);
                document.add_text(fields.id, ids.value(row));
                document.add_u64(fields.chunk, u64::from(chunks.value(row).cast_unsigned()));
                if titles.is_valid(row) {
                    document.add_text(fields.text, titles.value(row));
                }
                document.add_text(fields.text, texts.value(row));
                writer.add_document(document).map_err(|error| self.index_failed(folder, &error))?;
            }
        }
        Ok(())
    }

    fn index_failed(&self, folder: &Path, error: &TantivyError) -> Error {
        Error::Search {
            place: self.place.to_string(),
            reason: format!("cannot be searched by the index in `{}`: {error}", folder.display()),
            hint: "delete that folder: the index is made again".into(),
        }
    }
}

fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let words =
        TextFieldIndexing::default().set_tokenizer("en_stem").set_index_option(IndexRecordOption::WithFreqs);
    let fields = Fields {
        segment: builder.add_text_field("segment", STRING | STORED),
        id: builder.add_text_field("document_id", STORED),
        chunk: builder.add_u64_field("chunk", STORED | FAST),
        text: builder.add_text_field("text", TextOptions::default().set_indexing_options(words)),
    };
    (builder.build(), fields)
}

/// The segments that an index holds, if it is of this store.
fn indexed(index: &Index, manifest: &Manifest) -> Option<BTreeSet<String>> {
    let indexed: Indexed = serde_json::from_str(&index.load_metas().ok()?.payload?).ok()?;
    (indexed.store_id == manifest.store_id).then_some(indexed.segments)
}

fn names(manifest: &Manifest) -> BTreeSet<String> {
    manifest.segments.iter().map(|segment| segment.file.clone()).collect()
}

fn search(
    index: &Index,
    fields: &Fields,
    manifest: &Manifest,
    question: &str,
    count: usize,
) -> tantivy::Result<Vec<Hit>> {
    let searcher = index.reader()?.searcher();
    // A question is words, not the syntax of queries.
    let words: String =
        question.chars().map(|letter| if letter.is_alphanumeric() { letter } else { ' ' }).collect();
    let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let parser = QueryParser::for_index(index, vec![fields.text]);
    // Lower case, so that AND, OR and NOT are words too.
    let (query, _) = parser.parse_query_lenient(&words.join(" "));
    // Documents that were removed are in the index until their segment is rewritten.
    let is_live = |file: &str, id: &str| {
        let segment = manifest.segments.iter().find(|segment| segment.file == file);
        segment.is_some_and(|segment| !segment.removed.contains(id))
    };
    let mut wanted = count;
    loop {
        let found = searcher.search(&query, &TopDocs::with_limit(wanted).order_by_score())?;
        let exhausted = found.len() < wanted;
        let mut hits = Vec::new();
        for (score, address) in found {
            let document: TantivyDocument = searcher.doc(address)?;
            let text = |field| document.get_first(field).and_then(|value| value.as_str());
            let chunk = document.get_first(fields.chunk).and_then(|value| value.as_u64());
            let (Some(file), Some(id), Some(chunk)) = (text(fields.segment), text(fields.id), chunk) else {
                continue;
            };
            if is_live(file, id) {
                hits.push(Hit { document_id: id.to_owned(), chunk: chunk as u32, score });
            }
        }
        if hits.len() >= count || exhausted {
            hits.truncate(count);
            return Ok(hits);
        }
        wanted *= 2;
    }
}
