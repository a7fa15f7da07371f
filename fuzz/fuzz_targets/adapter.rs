//! Whole packages from strangers, as folders and as archives: opened or refused, and what is opened
//! is what was checked in memory.
//!
//! An input is two bytes, a manifest and weights. The two bytes, big-endian, say how long the
//! manifest is; their highest bit has the package packed and unpacked too. No fuzzer finds a hash, so
//! the weights' own is written into the manifest.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use arc_adapters::{
    Adapter, AdapterManifest, AdapterWeights, MANIFEST_FILE, WEIGHTS_FILE, pack, sha256_hex, unpack,
};
use libfuzzer_sys::fuzz_target;

/// In memory where the system has such a folder: a run is then limited by what it reads.
static ROOM: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let room = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    room.expect("a temporary folder")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_first_chunk::<2>() else { return };
    let head = u16::from_be_bytes(*head);
    let Some((json, weights)) = rest.split_at_checked(usize::from(head & 0x7fff)) else { return };
    let Ok(json) = std::str::from_utf8(json) else { return };
    let Ok(mut manifest) = AdapterManifest::parse(json, Path::new("fuzz")) else { return };
    manifest.weights.file = WEIGHTS_FILE.to_owned();
    manifest.weights.sha256 = sha256_hex(weights);

    let checked = AdapterWeights::parse(weights.to_vec(), Path::new("fuzz"))
        .and_then(|weights| weights.check(&manifest));
    let package = ROOM.path().join("package");
    std::fs::create_dir_all(&package).expect("the folder");
    let json = manifest.to_json(Path::new("fuzz")).expect("a manifest that was read can be written");
    std::fs::write(package.join(MANIFEST_FILE), json).expect("the manifest");
    std::fs::write(package.join(WEIGHTS_FILE), weights).expect("the weights");
    let opened = Adapter::open(&package);
    // A projector in code is no package, whatever its weights are.
    assert_eq!(opened.is_ok(), checked.is_ok() && !manifest.projector.is_custom());

    if let Ok(adapter) = opened
        && head >> 15 == 1
    {
        let packed = pack(&package, ROOM.path()).expect("what was opened can be packed");
        let unpacked = unpack(&packed.path, &ROOM.path().join("unpacked"), Some(&packed.sha256))
            .expect("what was packed can be unpacked");
        let again = Adapter::open(&unpacked.path).expect("what was unpacked can be opened");
        assert_eq!(again.manifest, adapter.manifest);
        assert_eq!(again.weights.as_bytes(), adapter.weights.as_bytes());
        std::fs::remove_dir_all(&unpacked.path).expect("it is removed");
        std::fs::remove_file(&packed.path).expect("it is removed");
    }
});
