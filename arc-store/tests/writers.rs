//! Several writers at once, killed in the middle of what they do: nothing that was committed is lost, and
//! nothing is there twice.
#![cfg(unix)]

mod harness;
#[path = "../../tests/harness/notice.rs"]
mod notice;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use arc_store::{CommitPolicy, CompactOptions, Error, Place, Store, Writers};
use harness::{ENCODER, assert_clean, assert_holds, document, ids, settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const WRITERS: usize = 8;

/// The place that a writer writes to, where this process is one.
const PLACE: &str = "ARC_STORE_TEST_PLACE";
/// What tells its documents from others'.
const NAME: &str = "ARC_STORE_TEST_NAME";

/// Rounds; `ARC_STORE_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("ARC_STORE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

/// The process that is killed: it adds documents, and prints the id of each once it is committed.
#[test]
fn writer_process() {
    let (Ok(place), Ok(name)) = (std::env::var(PLACE), std::env::var(NAME)) else { return };
    let store = Store::open(Place::parse(&place, Writers::Many).unwrap()).unwrap();
    let mut writer = store.writer(ENCODER, CommitPolicy::default()).unwrap();
    let compacts = name.ends_with('0');
    for n in 0.. {
        // One in four is added by all writers of the round.
        let (round, _) = name.split_once('-').unwrap();
        let id = if n % 4 == 0 { format!("{round}-all-{n}") } else { format!("{name}-{n}") };
        writer.add(document(&id, 0, 1 + n % 3)).unwrap();
        writer.commit().unwrap();
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "committed {id}").unwrap();
        stdout.flush().unwrap();
        if compacts && n % 5 == 4 {
            match store.compact(CompactOptions { segment_bytes: 1 << 16, keep: Duration::from_secs(60) }) {
                Ok(_) | Err(Error::Moved { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn start(place: &str, name: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writer_process", "--nocapture", "--test-threads=1"]);
    command.env(PLACE, place).env(NAME, name).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Kills a writer after a while, and returns what it said it had committed.
fn kill(mut child: Child, after: Duration) -> Vec<String> {
    std::thread::sleep(after);
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(ended.is_none(), "a writer ended by itself: {}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8_lossy(&output.stdout);
    // A last line may be cut off by the kill; its commit was before it.
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    whole.lines().filter_map(|line| line.split_once("committed ")).map(|(_, id)| id.to_owned()).collect()
}

fn kill_writers(place: &str, rounds: u64) -> usize {
    let open = || Store::open(Place::parse(place, Writers::Many).unwrap()).unwrap();
    Store::init(Place::parse(place, Writers::Many).unwrap(), settings(arc_store::LatentCode::F32)).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut committed: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds {
        let children: Vec<(Child, Duration)> = (0..WRITERS)
            .map(|writer| {
                let child = start(place, &format!("r{round}-{writer}"));
                (child, Duration::from_millis(random.random_range(20..600)))
            })
            .collect();
        std::thread::scope(|scope| {
            let killed: Vec<_> =
                children.into_iter().map(|(child, after)| scope.spawn(move || kill(child, after))).collect();
            for killed in killed {
                committed.extend(killed.join().unwrap());
            }
        });
        let store = open();
        let there = ids(&store);
        let distinct: BTreeSet<String> = there.iter().cloned().collect();
        assert_eq!(there.len(), distinct.len(), "round {round}: a document is there twice");
        let lost: Vec<_> = committed.difference(&distinct).collect();
        assert!(lost.is_empty(), "round {round}: committed and not there: {lost:?}");
        if round % 10 == 9 || round + 1 == rounds {
            assert_clean(&store);
        }
    }
    let store = open();
    for id in ids(&store) {
        let n: usize = id.rsplit('-').next().unwrap().parse().unwrap();
        assert_holds(&store, &document(&id, 0, 1 + n % 3));
    }
    // What the killed ones left is swept, and the store is as before.
    let before = ids(&store);
    store.compact(CompactOptions { keep: Duration::ZERO, ..CompactOptions::default() }).unwrap();
    assert_eq!(ids(&store), before);
    assert_clean(&store);
    committed.len()
}

#[test]
fn eight_writers_that_are_killed_lose_nothing_that_they_committed() {
    let folder = tempfile::tempdir().unwrap();
    let committed = kill_writers(&folder.path().display().to_string(), rounds());
    assert!(committed > 0, "nobody was given the time to commit");
    notice::notice(format_args!("{committed} documents committed in {} rounds", rounds()));
}

/// On an emulator of S3: `ARC_STORE_TEST_S3` names a prefix, and the variables of AWS the rest.
#[cfg(feature = "cloud")]
#[test]
fn eight_writers_that_are_killed_lose_nothing_on_s3() {
    let Ok(place) = std::env::var("ARC_STORE_TEST_S3") else {
        notice::notice("left out: no S3 to write to (`ARC_STORE_TEST_S3` names a prefix on one)");
        return;
    };
    let place = format!("{place}/killed-{}", std::process::id());
    let committed = kill_writers(&place, rounds());
    notice::notice(format_args!("{committed} documents committed in {} rounds", rounds()));
}

#[test]
fn a_process_that_is_killed_while_it_compacts_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    let store =
        Store::init(Place::parse(&place, Writers::Many).unwrap(), settings(arc_store::LatentCode::F32));
    let store = store.unwrap();
    for n in 0..20 {
        harness::add(&store, [document(&format!("d{n:02}"), 0, 2)]);
    }
    // Files of every stage of a commit: a segment without a manifest, and one that was being written.
    let path = |name: &str| Path::new(&place).join(name);
    std::fs::copy(path(&store.manifest().segments[0].file), path("segments/left.parquet")).unwrap();
    std::fs::write(path("segments/half.parquet#1"), b"PAR1 half").unwrap();
    std::fs::write(path("manifests/00000000000000000099.json#1"), b"{").unwrap();
    let store = Store::open(Place::parse(&place, Writers::Many).unwrap()).unwrap();
    assert_eq!(ids(&store).len(), 20);
    let verified = store.verify(|_| {}).unwrap();
    assert!(verified.problems.is_empty());
    assert_eq!(verified.unnamed, ["segments/left.parquet"]);
    store.compact(CompactOptions { keep: Duration::ZERO, ..CompactOptions::default() }).unwrap();
    // They may be of a writer that is about to commit: only what is old is deleted.
    assert!(path("segments/left.parquet").exists());
    let old = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
    for name in ["segments/left.parquet", "segments/half.parquet#1", "manifests/00000000000000000099.json#1"]
    {
        std::fs::File::options().append(true).open(path(name)).unwrap().set_modified(old).unwrap();
    }
    store.compact(CompactOptions { keep: Duration::ZERO, ..CompactOptions::default() }).unwrap();
    assert!(!path("segments/left.parquet").exists() && !path("segments/half.parquet#1").exists());
    assert_eq!(ids(&store).len(), 20);
    assert_clean(&store);
}
