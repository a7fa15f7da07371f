//! A store gives back what was put into it, whatever is done to it in between.

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use arc_store::{
    CommitPolicy, CompactOptions, Error, LatentCode, NewDocument, Place, Quantiser, Settings, Store, Writers,
};
use harness::{ENCODER, WIDTH, add, assert_clean, assert_holds, document, ids, new_store, place, settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const SMALL: CompactOptions = CompactOptions { segment_bytes: 4096, keep: Duration::ZERO };

#[test]
fn documents_come_back_as_they_were_from_every_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    let documents: Vec<NewDocument> = (0..300).map(|n| document(&format!("d{n}"), 0, 1 + n % 7)).collect();
    let committed = add(&store, documents.clone());
    assert_eq!((committed.added, committed.replaced, committed.already_there), (300, 0, 0));
    let again = Store::open(place(folder.path())).unwrap();
    for store in [&store, &again] {
        documents.iter().for_each(|document| assert_holds(store, document));
        assert_eq!(ids(store).len(), 300);
        assert!(matches!(store.get("d300"), Err(Error::NoDocument { .. })));
        assert!(store.contains("d7").unwrap() && !store.contains("d").unwrap());
        assert_clean(store);
    }
}

#[test]
fn a_store_belongs_to_one_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    let refused = store.writer("another", CommitPolicy::default()).unwrap_err();
    assert!(matches!(refused, Error::OtherEncoder { .. }));
    assert!(refused.to_string().contains(ENCODER) && refused.to_string().contains("another"), "{refused}");
    assert!(matches!(
        Store::init(place(folder.path()), settings(LatentCode::F32)),
        Err(Error::Exists { .. })
    ));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(place(empty.path())), Err(Error::NoStore { .. })));
    assert!(matches!(Store::open(place(&empty.path().join("none"))), Err(Error::NoStore { .. })));
}

#[test]
fn what_is_there_is_not_stored_twice_and_another_text_takes_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    add(&store, [document("a", 0, 2), document("b", 0, 2)]);
    // The same text under the same id, and under another.
    let mut moved = document("a", 0, 2);
    moved.id = "elsewhere".into();
    let committed = add(&store, [document("a", 0, 2), moved.clone(), document("c", 0, 1)]);
    assert_eq!((committed.added, committed.replaced, committed.already_there), (2, 0, 1));
    assert_eq!(ids(&store), ["a", "b", "c", "elsewhere"]);
    let sha256 = &moved.source_sha256;
    assert!(store.holds("a", sha256, 4).unwrap() && store.holds("elsewhere", sha256, 4).unwrap());
    assert!(!store.holds("a", sha256, 8).unwrap() && !store.holds("b", sha256, 4).unwrap());
    store.remove(&["elsewhere".into()]).unwrap();
    assert_eq!(store.find_text(sha256, 4).unwrap().as_deref(), Some("a"));
    assert_eq!(store.find_text(sha256, 8).unwrap(), None);
    // All of it is there: nothing is committed.
    let version = store.manifest().version;
    assert_eq!(add(&store, [document("b", 0, 2)]).already_there, 1);
    assert_eq!(store.manifest().version, version);
    // Another text.
    assert_eq!(add(&store, [document("a", 1, 3)]).replaced, 1);
    assert_holds(&store, &document("a", 1, 3));
    assert_eq!(ids(&store), ["a", "b", "c"]);
    assert_eq!(store.find_text(sha256, 4).unwrap(), None, "its old text is not found");
    // A text that moves to another id while its own gets another text is in the store all the same.
    let mut swapped = document("b", 0, 2);
    swapped.id = "a".into();
    let committed = add(&store, [document("b", 1, 1), swapped.clone()]);
    assert_eq!((committed.added, committed.replaced), (0, 2));
    assert_holds(&store, &swapped);
    assert_holds(&store, &document("b", 1, 1));
    assert_clean(&store);
}

#[test]
fn removed_documents_are_gone_and_can_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    add(&store, (0..10).map(|n| document(&format!("d{n}"), 0, 2)));
    let refused = store.remove(&["d1".into(), "none".into()]);
    assert!(matches!(refused, Err(Error::NoDocument { .. })));
    assert!(store.contains("d1").unwrap(), "all or none");
    store.remove(&["d1".into(), "d2".into()]).unwrap();
    assert_eq!(ids(&store).len(), 8);
    assert!(matches!(store.get("d1"), Err(Error::NoDocument { .. })));
    assert!(matches!(store.remove(&["d1".into()]), Err(Error::NoDocument { .. })));
    add(&store, [document("d1", 0, 2)]);
    assert_holds(&store, &document("d1", 0, 2));
    store.compact(SMALL).unwrap();
    assert_eq!(ids(&store).len(), 9);
    assert_clean(&store);
    store.remove(&ids(&store)).unwrap();
    assert_eq!((store.manifest().documents(), store.manifest().segments.len()), (0, 0));
}

/// A store and a map, through the same random changes.
#[test]
fn a_store_is_a_map_whatever_is_done_to_it() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let store = new_store(folder.path());
        let mut expected: BTreeMap<String, NewDocument> = BTreeMap::new();
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            match random.random_range(0..10) {
                0 if !expected.is_empty() => {
                    let gone: Vec<String> = expected.keys().take(2).cloned().collect();
                    store.remove(&gone).unwrap();
                    gone.iter().for_each(|id| drop(expected.remove(id)));
                }
                1 => drop(store.compact(SMALL).unwrap()),
                2 => store.refresh().unwrap(),
                _ => {
                    let batch: Vec<NewDocument> = (0..random.random_range(1..6))
                        .map(|_| {
                            let id = format!("d{}", random.random_range(0..40));
                            document(&id, random.random_range(0..3), 1 + random.random_range(0..4))
                        })
                        .collect();
                    add(&store, batch.clone());
                    batch
                        .into_iter()
                        .for_each(|document| drop(expected.insert(document.id.clone(), document)));
                }
            }
        }
        assert_eq!(ids(&store), expected.keys().cloned().collect::<Vec<_>>());
        expected.values().for_each(|document| assert_holds(&store, document));
        assert_clean(&store);
    }
}

#[test]
fn compaction_leaves_segments_that_do_not_overlap_and_deletes_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    let reader = Store::open(place(folder.path())).unwrap();
    for n in 0..30 {
        add(&store, (0..10).map(|m| document(&format!("{:03}", (n * 7 + m * 31) % 300), 0, 3)));
    }
    reader.refresh().unwrap();
    let before = ids(&store);
    let options = CompactOptions { segment_bytes: 20_000, keep: Duration::ZERO };
    let compacted = store.compact(options).unwrap();
    assert!(compacted.segments_after < compacted.segments_before, "{compacted:?}");
    assert!(compacted.segments_after > 1, "{compacted:?}");
    let manifest = store.manifest();
    assert!(manifest.segments.is_sorted_by(|a, b| a.last_id < b.first_id));
    assert_eq!(std::fs::read_dir(folder.path().join("segments")).unwrap().count(), manifest.segments.len());
    assert_eq!(ids(&store), before);
    assert_clean(&store);
    // A reader of an earlier commit goes on to this one.
    assert_holds(&reader, &document("000", 0, 3));
    assert_eq!(store.compact(options).unwrap().segments_after, manifest.segments.len() as u64);
    assert_eq!(store.manifest().version, manifest.version, "nothing to do is no commit");
}

#[test]
fn a_compaction_keeps_what_was_removed_and_added_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    for n in 0..6 {
        add(&store, (0..20).map(|m| document(&format!("{n}-{m}"), 0, 2)));
    }
    let others = Store::open(place(folder.path())).unwrap();
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            for _ in 0..10 {
                match store.compact(SMALL) {
                    Ok(_) | Err(Error::Moved { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for m in 0..20 {
            others.remove(&[format!("0-{m}")]).unwrap();
            add(&others, [document(&format!("new-{m}"), 0, 1)]);
        }
        compacting.join().unwrap();
    });
    store.refresh().unwrap();
    let expected: Vec<String> = (1..6)
        .flat_map(|n| (0..20).map(move |m| format!("{n}-{m}")))
        .chain((0..20).map(|m| format!("new-{m}")))
        .collect();
    let mut expected = expected;
    expected.sort();
    assert_eq!(ids(&store), expected);
    assert_clean(&store);
}

#[test]
fn several_writers_in_threads_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_store(path);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let store = Store::open(place(path)).unwrap();
                for n in 0..10 {
                    // Every document is added by two writers.
                    add(&store, [document(&format!("{}-{n}", writer / 2), 0, 2)]);
                }
            });
        }
    });
    let store = Store::open(place(folder.path())).unwrap();
    assert_eq!(ids(&store).len(), 20);
    assert_eq!(store.manifest().documents(), 20);
    assert_clean(&store);
}

#[test]
fn codes_are_near_and_a_compaction_rewrites_the_rest_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { latents: LatentCode::F16, ..settings(LatentCode::F16) };
    let store = Store::init(place(folder.path()), settings).unwrap();
    let documents: Vec<NewDocument> = (0..400).map(|n| document(&format!("{n:03}"), 0, 3)).collect();
    add(&store, documents[..200].to_vec());
    let sample: Vec<f32> =
        documents.iter().flat_map(|d| &d.chunks).flat_map(|chunk| &chunk.latents).copied().collect();
    store.set_codebooks(&Quantiser::train(&sample, WIDTH, 2, 1, 1).unwrap()).unwrap();
    add(&store, documents[200..].to_vec());
    let error = |id: &NewDocument| {
        let stored = store.get(&id.id).unwrap().latents();
        let given: Vec<f32> = id.chunks.iter().flat_map(|chunk| &chunk.latents).copied().collect();
        let squares = stored.iter().zip(&given).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        squares / given.len() as f32
    };
    assert!(error(&documents[0]) < 1e-6, "half precision");
    // A quarter of the range of 16 steps in each of two dimensions, squared, and some.
    assert!((1e-5..5e-3).contains(&error(&documents[300])), "{}", error(&documents[300]));
    let before = store.manifest().bytes();
    store.compact(CompactOptions { keep: Duration::ZERO, ..CompactOptions::default() }).unwrap();
    assert!(error(&documents[0]) > 1e-6 && error(&documents[0]) < 5e-3);
    assert!(store.manifest().bytes() < before);
    let again = Store::open(place(folder.path())).unwrap();
    assert_eq!(again.get("000").unwrap(), store.get("000").unwrap());
    assert_clean(&again);
}

#[test]
fn what_cannot_be_read_again_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    let halves = tempfile::tempdir().unwrap();
    let halves = Store::init(place(halves.path()), settings(LatentCode::F16)).unwrap();
    let refused = |store: &Store, change: &dyn Fn(&mut NewDocument)| {
        let mut broken = document("x", 0, 1);
        change(&mut broken);
        let mut writer = store.writer(ENCODER, CommitPolicy::default()).unwrap();
        let error = writer.add(broken).unwrap_err();
        assert!(error.hint().is_some());
        error.to_string()
    };
    assert!(refused(&store, &|d| d.id.clear()).contains("empty id"));
    assert!(refused(&store, &|d| d.chunks.clear()).contains("no chunk"));
    assert!(refused(&store, &|d| d.source_sha256 = "xyz".into()).contains("sha256"));
    assert!(refused(&store, &|d| d.chunks[0].latents[3] = f32::NAN).contains("no numbers"));
    assert!(refused(&store, &|d| d.chunks[0].latents.truncate(7)).contains("7 values"));
    assert!(refused(&halves, &|d| d.chunks[0].latents[3] = 1e5).contains("half precision"));
    assert_eq!(store.manifest().version, 1);
}

#[test]
fn places_are_named_as_people_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let store = Store::init(Place::parse(&url, Writers::Many).unwrap(), settings(LatentCode::F32)).unwrap();
    add(&store, [document("a", 0, 1)]);
    let path = folder.path().display().to_string();
    assert_holds(&Store::open(Place::parse(&path, Writers::One).unwrap()).unwrap(), &document("a", 0, 1));
    std::fs::create_dir(folder.path().join("gone")).unwrap();
    for name in ["a b/é", "100%25", "x#1", "not/there/yet", "gone/../and back"] {
        let folder = folder.path().join(name);
        let store = Store::init(place(&folder), settings(LatentCode::F32)).unwrap();
        add(&store, [document("a", 0, 1)]);
        assert!(folder.join("manifests").is_dir(), "{name}");
        assert_holds(&Store::open(place(&folder)).unwrap(), &document("a", 0, 1));
    }
    for name in ["ftp://x/y", "s3:/", "nonsense://"] {
        let named = Place::parse(name, Writers::Many);
        assert!(named.is_err() || named.unwrap().as_folder().is_some(), "{name}");
    }
    let single = Store::init(
        Place::folder(&folder.path().join("single"), Writers::One).unwrap(),
        settings(LatentCode::F32),
    )
    .unwrap();
    add(&single, [document("a", 0, 1)]);
    add(&single, [document("b", 0, 1)]);
    assert_eq!(ids(&single), ["a", "b"]);
}

#[test]
fn the_nearest_chunks_are_found_and_removed_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(folder.path());
    let documents: Vec<NewDocument> = (0..60).map(|n| document(&format!("d{n}"), 0, 2)).collect();
    add(&store, documents[..30].to_vec());
    add(&store, documents[30..].to_vec());
    // A chunk of one latent is its own mean.
    let question = documents[41].chunks[0].latents.clone();
    let found = store.nearest(&question, 5).unwrap();
    assert_eq!((found[0].document_id.as_str(), found[0].chunk), ("d41", 0));
    assert!(found[0].score > 0.99 && found.len() == 5 && found.is_sorted_by(|a, b| a.score >= b.score));
    store.remove(&["d41".into()]).unwrap();
    assert!(store.nearest(&question, 60).unwrap().iter().all(|hit| hit.document_id != "d41"));
    assert!(matches!(store.nearest(&question[1..], 5), Err(Error::InvalidArgument(_))));
}
