//! What is damaged is named, and the rest is read.

mod harness;

use std::path::{Path, PathBuf};

use arc_store::{CompactOptions, Error, Store};
use harness::{add, assert_holds, document, ids, new_store, place};

/// A store of three segments of ten documents each.
fn three_segments(folder: &Path) -> Store {
    let store = new_store(folder);
    for n in 0..3 {
        // Their ids lie between each other's.
        add(&store, (0..10).map(|m| document(&format!("{m}-{n}"), 0, 2)));
    }
    store
}

fn segment_file(folder: &Path, store: &Store, index: usize) -> PathBuf {
    folder.join(&store.manifest().segments[index].file)
}

/// The documents of all segments but one are read, listed and found; that one's are errors that name it.
#[track_caller]
fn only_the_middle_is_lost(folder: &Path, file: &str) {
    let store = Store::open(place(folder)).unwrap();
    for n in [0, 2] {
        assert_holds(&store, &document(&format!("3-{n}"), 0, 2));
    }
    let error = store.get("3-1").unwrap_err();
    assert!(error.to_string().contains(file), "{error} does not name {file}");
    assert!(error.hint().is_some());
    let (listed, broken): (Vec<_>, Vec<_>) = store.documents().partition(Result::is_ok);
    assert_eq!((listed.len(), broken.len()), (20, 1));
    let verified = store.verify(|_| {}).unwrap();
    assert_eq!(verified.problems.len(), 1, "{:?}", verified.problems);
    assert!(verified.problems[0].file.ends_with(file), "{:?}", verified.problems);
    assert_eq!(verified.problems[0].documents, 10);
    // Nothing is thrown away by a compaction that cannot read it.
    assert!(store.compact(CompactOptions::default()).is_err());
    assert_eq!(Store::open(place(folder)).unwrap().manifest().version, store.manifest().version);
    // What is lost can be added again.
    assert!(!store.holds("3-1", &document("3-1", 0, 2).source_sha256, 4).unwrap());
    assert_eq!(add(&store, [document("3-1", 0, 2)]).added, 1);
    assert_holds(&store, &document("3-1", 0, 2));
}

/// What happens to a file.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn a_segment_that_is_missing_or_cut_off_or_something_else() {
    let damages: [(&str, Damage); 4] = [
        ("missing", &|file| std::fs::remove_file(file).unwrap()),
        ("cut off", &|file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("empty", &|file| std::fs::write(file, b"").unwrap()),
        ("something else", &|file| {
            let length = std::fs::metadata(file).unwrap().len() as usize;
            std::fs::write(file, vec![b'x'; length]).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let store = three_segments(folder.path());
        let file = segment_file(folder.path(), &store, 1);
        damage(&file);
        println!("{what}");
        only_the_middle_is_lost(folder.path(), file.file_name().unwrap().to_str().unwrap());
    }
}

#[test]
fn no_byte_of_a_segment_changes_latents_without_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_segments(folder.path());
    let file = segment_file(folder.path(), &store, 1);
    let whole = std::fs::read(&file).unwrap();
    let mut named = 0;
    for place_of_byte in (0..whole.len()).step_by(whole.len() / 500) {
        let mut damaged = whole.clone();
        damaged[place_of_byte] ^= 1 << (place_of_byte % 8);
        std::fs::write(&file, &damaged).unwrap();
        let store = Store::open(place(folder.path())).unwrap();
        for m in 0..10 {
            let expected = document(&format!("{m}-1"), 0, 2);
            match store.get(&expected.id) {
                Ok(found) => {
                    let latents: Vec<f32> =
                        expected.chunks.iter().flat_map(|chunk| &chunk.latents).copied().collect();
                    assert_eq!(found.latents(), latents, "byte {place_of_byte}");
                }
                Err(error) => {
                    named += 1;
                    assert!(error.hint().is_some());
                }
            }
        }
        let _ = store.documents().count();
        let _ = store.nearest(&document("1-1", 0, 1).chunks[0].latents, 3);
        let verified = store.verify(|_| {}).unwrap();
        assert_eq!(verified.problems.len(), 1, "byte {place_of_byte} is not noticed");
        assert_holds(&store, &document("0-0", 0, 2));
    }
    assert!(named > 50, "{named} of the reads were refused");
}

#[test]
fn a_manifest_that_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_segments(folder.path());
    let file = folder.path().join(format!("manifests/{:020}.json", store.manifest().version));
    let whole = std::fs::read_to_string(&file).unwrap();
    let open = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Store::open(place(folder.path()))
    };
    for text in ["", "{", "[]", "null", &whole[..whole.len() / 2], "{\"format\": \"other\", \"schema\": 1}"] {
        let error = open(text).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("0004.json"), "{error}");
    }
    let newer = open(&whole.replacen("\"schema\": 1", "\"schema\": 2", 1)).unwrap_err();
    assert!(matches!(newer, Error::UnsupportedSchema { found: 2, .. }), "{newer}");
    // A file outside the store is none of its own.
    for outside in ["../../etc/passwd", "/etc/passwd", "segments/../x", "segments/.x", "elsewhere/x"] {
        let segment = &store.manifest().segments[0].file;
        let error = open(&whole.replacen(segment.as_str(), outside, 1)).unwrap_err();
        assert!(error.to_string().contains("no file of a store"), "{outside}: {error}");
    }
    open(&whole).unwrap();
    for place_of_byte in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone().into_bytes();
        bytes[place_of_byte] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        if let Ok(store) = Store::open(place(folder.path())) {
            store.documents().for_each(drop);
            let _ = store.verify(|_| {});
        }
    }
}

/// Where no file may become longer than a limit, as where a disk is full, a commit fails as a whole.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_leaves_the_store_as_it_was() {
    const PLACE: &str = "ARC_STORE_TEST_FULL";
    if let Ok(folder) = std::env::var(PLACE) {
        let store = Store::open(place(Path::new(&folder))).unwrap();
        let mut writer = store.writer(harness::ENCODER, arc_store::CommitPolicy::default()).unwrap();
        for m in 0..400 {
            writer.add(document(&format!("new-{m}"), 0, 6)).unwrap();
        }
        let error = writer.commit().unwrap_err();
        let full = matches!(error, Error::Object { kind: arc_store::ObjectErrorKind::Full, .. });
        assert!(full && error.hint().is_some_and(|hint| hint.contains("free some space")), "{error}");
        assert_eq!(writer.waiting(), 400, "what waits can be committed once there is room");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = three_segments(folder.path());
    let before: Vec<_> = std::fs::read_dir(folder.path().join("segments")).unwrap().flatten().collect();
    let program = std::env::current_exe().unwrap();
    let script =
        "trap '' XFSZ; ulimit -f 32; exec \"$0\" --exact a_disk_that_fills_leaves_the_store_as_it_was";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .env(PLACE, folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let after: Vec<_> = std::fs::read_dir(folder.path().join("segments")).unwrap().flatten().collect();
    assert_eq!(before.len(), after.len(), "nothing half-written stays");
    let again = Store::open(place(folder.path())).unwrap();
    assert_eq!(again.manifest(), store.manifest());
    assert_eq!(ids(&again).len(), 30);
}
