//! A file in memory for what is read from a path: one name, written anew for every input.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// In memory where the system has such a folder: a run is then limited by what it reads.
pub static ROOM: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let room = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    room.expect("a temporary folder")
});

/// Writes `bytes` to `name` in the room. Nothing may still map what was there before.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = ROOM.path().join(name);
    std::fs::write(&path, bytes).expect("the input");
    path
}
