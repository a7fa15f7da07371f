//! Stores in folders of their own, with latents that are drawn.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;

use arc_store::{CommitPolicy, LatentCode, NewChunk, NewDocument, Place, Settings, Store, Writers};
use sha2::{Digest as _, Sha256};

pub(crate) const ENCODER: &str = "encoder-of-tests";
pub(crate) const WIDTH: usize = 8;

pub(crate) fn settings(latents: LatentCode) -> Settings {
    Settings { encoder_id: ENCODER.into(), d_encoder: WIDTH, latents, keeps_text: true }
}

pub(crate) fn place(folder: &Path) -> Place {
    Place::folder(folder, Writers::Many).expect("a place")
}

pub(crate) fn new_store(folder: &Path) -> Store {
    Store::init(place(folder), settings(LatentCode::F32)).expect("a new store")
}

/// A number from -1 to 1 that depends on the seed and the place alone.
fn drawn(seed: &str, place: usize) -> f32 {
    let digest = Sha256::digest(format!("{seed} {}", place / 8));
    let bytes = &digest[place % 8 * 4..place % 8 * 4 + 4];
    u32::from_le_bytes(bytes.try_into().expect("four bytes")) as f32 / (u32::MAX as f32 / 2.0) - 1.0
}

/// A document whose latents, title and text follow from its id and its version.
pub(crate) fn document(id: &str, version: u32, chunks: usize) -> NewDocument {
    let text = |chunk| format!("Chunk {chunk} of document {id} in version {version}. ");
    let all: String = (0..chunks).map(text).collect();
    NewDocument {
        id: id.to_owned(),
        title: (version.is_multiple_of(2)).then(|| format!("On {id}")),
        source_uri: Some(format!("file:///{id}")),
        source_sha256: Sha256::digest(&all).iter().map(|byte| format!("{byte:02x}")).collect(),
        factor: 4,
        chunks: (0..chunks)
            .map(|chunk| {
                let latents = 1 + chunk % 3;
                NewChunk {
                    tokens: 4 * latents as u32,
                    latents: (0..latents * WIDTH)
                        .map(|place| drawn(&format!("{id} {version} {chunk}"), place))
                        .collect(),
                    text: Some(text(chunk)),
                }
            })
            .collect(),
    }
}

/// Adds documents and commits them.
pub(crate) fn add(store: &Store, documents: impl IntoIterator<Item = NewDocument>) -> arc_store::Committed {
    let mut writer = store.writer(ENCODER, CommitPolicy::default()).expect("a writer");
    for document in documents {
        writer.add(document).expect("a document is added");
    }
    writer.commit().expect("a commit")
}

/// The ids of the store, sorted.
pub(crate) fn ids(store: &Store) -> Vec<String> {
    let mut ids: Vec<String> = store.documents().map(|document| document.expect("it is read").id).collect();
    ids.sort();
    ids
}

/// Checks that a document is in the store as it was given.
#[track_caller]
pub(crate) fn assert_holds(store: &Store, expected: &NewDocument) {
    let found = store.get(&expected.id).expect("the document");
    assert_eq!(found.summary.title, expected.title);
    assert_eq!(found.summary.source_uri, expected.source_uri);
    assert_eq!(found.summary.source_sha256, expected.source_sha256);
    assert_eq!(found.summary.factor, expected.factor);
    assert_eq!(found.chunks.len(), expected.chunks.len());
    for (found, expected) in found.chunks.iter().zip(&expected.chunks) {
        assert_eq!(found.tokens, expected.tokens);
        assert_eq!(found.latents, expected.latents);
        assert_eq!(found.text, expected.text);
    }
}

#[track_caller]
pub(crate) fn assert_clean(store: &Store) {
    let verified = store.verify(|_| {}).expect("it is read");
    assert!(verified.problems.is_empty(), "{:?}", verified.problems);
}
