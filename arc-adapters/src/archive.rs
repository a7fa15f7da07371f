//! Archives of adapter packages: `NAME.arc.tar.zst`, with a hash of every file.
//!
//! An archive holds one folder named as the adapter, with regular files directly in it, and first
//! among them `SHA256SUMS` in the form of the tool of that name. Reading is strict, since archives
//! come from strangers: whatever else is in one makes it no archive of this project.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::path::{Component, Path, PathBuf};

use crate::digest::{sha256_file, sha256_hex};
use crate::files::{io_error, publish_folder, read_bytes, replace};
use crate::manifest::{MAX_MANIFEST_BYTES, check_file_name, check_name, check_sha256};
use crate::package::MAX_WEIGHTS_BYTES;
use crate::{Adapter, AdapterManifest, Error, MANIFEST_FILE, Result};

const WHAT: &str = "adapter archive";
const SUMS_FILE: &str = "SHA256SUMS";
const MAX_TEXT_BYTES: u64 = 1 << 20;
const MAX_FILES: usize = 16;

/// An archive that was written or unpacked.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The manifest of the adapter in it.
    pub manifest: AdapterManifest,
    /// SHA-256 of the archive file, for those who pin it.
    pub sha256: String,
    /// The files in it with their SHA-256.
    pub files: BTreeMap<String, String>,
    /// The archive, or the folder that it was unpacked to.
    pub path: PathBuf,
}

/// Whether a file beside manifest and weights belongs into an archive.
fn is_document(name: &str) -> bool {
    matches!(name, "README.md" | "NOTICE" | "LICENSE" | "LICENCE" | "LICENSE-MIT" | "LICENSE-APACHE")
}

/// Packs a package into an archive in `folder`, named as the adapter. The same package gives the
/// same bytes.
///
/// # Errors
/// As [`Adapter::open`], since only what verifies is packed; [`Error::Io`] when the archive cannot
/// be written.
pub fn pack(package: &Path, folder: &Path) -> Result<Archive> {
    let adapter = Adapter::open(package)?;
    let manifest = adapter.manifest;
    let path = folder.join(format!("{}.arc.tar.zst", manifest.name));
    let mut contents = BTreeMap::new();
    // What was verified is what is packed, whatever happens to the folder meanwhile.
    contents.insert(manifest.weights.file.clone(), adapter.weights.as_bytes().to_vec());
    contents.insert(MANIFEST_FILE.to_owned(), manifest.to_json(package)?.into_bytes());
    for entry in std::fs::read_dir(package).map_err(io_error("read", package))? {
        let entry = entry.map_err(io_error("read", package))?;
        if let Some(name) = entry.file_name().to_str().filter(|name| is_document(name)) {
            contents.insert(name.to_owned(), read_bytes(&entry.path(), "document", MAX_TEXT_BYTES)?);
        }
    }
    let files: BTreeMap<_, _> = contents.iter().map(|(name, b)| (name.clone(), sha256_hex(b))).collect();
    let sums: String = files.iter().map(|(name, sha256)| format!("{sha256}  {name}\n")).collect();

    replace(&path, |file| {
        let mut tar = tar::Builder::new(zstd::Encoder::new(file, 10)?);
        append(&mut tar, &manifest.name, SUMS_FILE, sums.as_bytes())?;
        for (name, bytes) in &contents {
            append(&mut tar, &manifest.name, name, bytes)?;
        }
        tar.into_inner()?.finish()?.flush()
    })?;
    Ok(Archive { manifest, sha256: sha256_file(&path)?, files, path })
}

fn append(
    tar: &mut tar::Builder<impl std::io::Write>,
    folder: &str,
    name: &str,
    bytes: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, format!("{folder}/{name}"), bytes)
}

/// Unpacks an archive into a new folder in `parent`, named as the adapter, after it was verified
/// as a whole. `sha256` is the digest of the archive file where the user has one.
///
/// # Errors
/// [`Error::Sha256Mismatch`] when the archive or a file in it is not what was promised,
/// [`Error::Invalid`] when it is not an archive of this project, [`Error::Exists`] when there is a
/// package of that name, otherwise as [`Adapter::open`].
pub fn unpack(archive: &Path, parent: &Path, sha256: Option<&str>) -> Result<Archive> {
    let bytes = read_bytes(archive, WHAT, MAX_WEIGHTS_BYTES)?;
    let found = sha256_hex(&bytes);
    if let Some(expected) = sha256.filter(|expected| *expected != found) {
        return Err(Error::Sha256Mismatch { path: archive.to_owned(), expected: expected.to_owned(), found });
    }
    let contents = read_archive(&bytes, archive)?;
    let folder = parent.join(&contents.manifest.name);
    if folder.exists() {
        return Err(Error::Exists { path: folder });
    }
    std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    let temporary = tempfile::Builder::new()
        .prefix(".arc-")
        .tempdir_in(parent)
        .map_err(io_error("create a folder in", parent))?;
    let mut files = BTreeMap::new();
    for (name, bytes) in &contents.files {
        replace(&temporary.path().join(name), |file| file.write_all(bytes))?;
        files.insert(name.clone(), sha256_hex(bytes));
    }
    // What is published verifies like any package.
    let manifest = Adapter::open(temporary.path())?.manifest;
    publish_folder(temporary, &folder)?;
    Ok(Archive { manifest, sha256: found, files, path: folder })
}

/// What is in an archive.
#[derive(Debug)]
pub struct ArchiveContents {
    /// The manifest, which has been checked; the weights have been checked by their hash alone.
    pub manifest: AdapterManifest,
    /// The content of each file by its name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Reads an archive that is in memory; `origin` is the file named in errors.
///
/// # Errors
/// As [`unpack`], but for writing.
pub fn read_archive(bytes: &[u8], origin: &Path) -> Result<ArchiveContents> {
    let invalid = |reason: String| Error::Invalid { path: origin.to_owned(), what: WHAT, reason };
    let broken = |e: std::io::Error| invalid(e.to_string().replace('\n', ", "));
    let mut decoder = zstd::Decoder::new(bytes).map_err(broken)?;
    // 128 MiB: what the zstd tool itself accepts without being told to.
    decoder.window_log_max(27).map_err(broken)?;
    let mut tar = tar::Archive::new(decoder);
    let mut folder: Option<String> = None;
    let mut sums: Option<BTreeMap<String, String>> = None;
    let mut files = BTreeMap::new();
    for entry in tar.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(invalid("it has an entry that is not a regular file".to_owned()));
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let (parent, name) = folder_and_name(&path)
            .ok_or_else(|| invalid(format!("it has `{}`, expected `NAME/FILE`", path.display())))?;
        if *folder.get_or_insert_with(|| parent.clone()) != parent {
            return Err(invalid("it has more than one folder".to_owned()));
        }
        let limit = if name == SUMS_FILE || is_document(&name) || name == MANIFEST_FILE {
            MAX_MANIFEST_BYTES
        } else {
            MAX_WEIGHTS_BYTES
        };
        let mut content = Vec::new();
        entry.take(limit + 1).read_to_end(&mut content).map_err(broken)?;
        if content.len() as u64 > limit {
            return Err(Error::TooLarge { path: origin.join(&name), what: "file in an archive", limit });
        }
        let Some(sums) = &sums else {
            if name != SUMS_FILE {
                return Err(invalid(format!("it begins with `{name}`, expected `{SUMS_FILE}`")));
            }
            sums = Some(parse_sums(&content).map_err(invalid)?);
            continue;
        };
        // Each file is one that the sums name, so their number bounds what is held in memory.
        let expected = sums.get(&name).ok_or_else(|| invalid(format!("`{name}` is not in `{SUMS_FILE}`")))?;
        let found = sha256_hex(&content);
        if found != *expected {
            return Err(Error::Sha256Mismatch {
                path: origin.join(&name),
                expected: expected.clone(),
                found,
            });
        }
        if files.insert(name.clone(), content).is_some() {
            return Err(invalid(format!("it has `{name}` twice")));
        }
    }
    let (Some(folder), Some(sums)) = (folder, sums) else {
        return Err(invalid("it is empty".to_owned()));
    };
    if let Some(name) = sums.keys().find(|name| !files.contains_key(*name)) {
        return Err(invalid(format!("`{name}` is missing")));
    }
    let text = files
        .get(MANIFEST_FILE)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| invalid(format!("it has no `{MANIFEST_FILE}` in UTF-8")))?;
    let manifest = AdapterManifest::parse(text, &origin.join(MANIFEST_FILE))?;
    if manifest.name != folder {
        return Err(invalid(format!("its folder is `{folder}`, its adapter is `{}`", manifest.name)));
    }
    for name in files.keys() {
        if *name != manifest.weights.file && *name != MANIFEST_FILE && !is_document(name) {
            return Err(invalid(format!("it has `{name}`, which no adapter package has")));
        }
    }
    Ok(ArchiveContents { manifest, files })
}

fn folder_and_name(path: &Path) -> Option<(String, String)> {
    let mut parts = path.components();
    let (Some(Component::Normal(folder)), Some(Component::Normal(name)), None) =
        (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let (folder, name) = (folder.to_str()?, name.to_str()?);
    check_name("", folder).ok()?;
    check_file_name("", name).ok()?;
    Some((folder.to_owned(), name.to_owned()))
}

fn parse_sums(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("`{SUMS_FILE}` is not UTF-8"))?;
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let (sha256, name) =
            line.split_once("  ").ok_or_else(|| format!("`{SUMS_FILE}` has a malformed line"))?;
        check_sha256(SUMS_FILE, sha256)?;
        check_file_name(SUMS_FILE, name)?;
        sums.insert(name.to_owned(), sha256.to_owned());
        if sums.len() > MAX_FILES {
            return Err(format!("`{SUMS_FILE}` names more than {MAX_FILES} files"));
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::example;
    use crate::package::tests::tensors;
    use crate::{AdapterPackage, WEIGHTS_FILE, WeightType};

    fn package() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("somewhere");
        AdapterPackage::write(&folder, &example(), &tensors(WeightType::F16)).unwrap();
        std::fs::write(folder.join("README.md"), "read me").unwrap();
        std::fs::write(folder.join("secret.key"), "not to be packed").unwrap();
        (root, folder)
    }

    fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        for (path, kind, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o777);
            // Written as it is: the library itself refuses `..`.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_package_survives_packing_and_unpacking() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        assert_eq!(packed.path, root.path().join("tiny.arc.tar.zst"));
        let names: Vec<_> = packed.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["README.md", MANIFEST_FILE, WEIGHTS_FILE]);
        let unpacked = unpack(&packed.path, &root.path().join("plugins"), Some(&packed.sha256)).unwrap();
        assert_eq!(unpacked.path, root.path().join("plugins/tiny"));
        for (name, sha256) in &packed.files {
            assert_eq!(sha256_file(&unpacked.path.join(name)).unwrap(), *sha256);
        }
        assert_eq!(Adapter::open(&unpacked.path).unwrap().manifest, packed.manifest);
    }

    #[test]
    fn the_same_package_gives_the_same_archive() {
        let (root, folder) = package();
        let first = pack(&folder, &root.path().join("1")).unwrap();
        let second = pack(&folder, &root.path().join("2")).unwrap();
        assert_eq!(first.sha256, second.sha256);
    }

    #[test]
    fn unpacking_never_overwrites_and_leaves_nothing_behind_on_failure() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        let plugins = root.path().join("plugins");
        let wrong = unpack(&packed.path, &plugins, Some(&"0".repeat(64)));
        assert!(matches!(wrong, Err(Error::Sha256Mismatch { .. })));
        assert!(!plugins.exists());
        unpack(&packed.path, &plugins, None).unwrap();
        assert!(matches!(unpack(&packed.path, &plugins, None), Err(Error::Exists { .. })));
        assert_eq!(std::fs::read_dir(&plugins).unwrap().count(), 1);
    }

    #[test]
    fn archives_that_reach_outside_or_hide_something_are_refused() {
        use tar::EntryType::{Directory, Regular, Symlink};
        let sums = format!("{}  a\n", sha256_hex(b"x"));
        let sums = sums.as_bytes();
        for (entries, expected) in [
            (vec![], "empty"),
            (vec![("n/a", Regular, b"x".as_slice())], "expected `SHA256SUMS`"),
            (vec![("n/SHA256SUMS", Regular, sums), ("n/../../a", Regular, b"x")], "expected `NAME/FILE`"),
            (vec![("/n/SHA256SUMS", Regular, sums)], "expected `NAME/FILE`"),
            (vec![("n/SHA256SUMS", Symlink, b"")], "not a regular file"),
            (vec![("n/", Directory, b"")], "not a regular file"),
            (vec![("n/SHA256SUMS", Regular, sums), ("m/a", Regular, b"x")], "more than one folder"),
            (vec![("n/SHA256SUMS", Regular, sums), ("n/b", Regular, b"x")], "`b` is not in"),
            (vec![("n/SHA256SUMS", Regular, sums), ("n/a", Regular, b"y")], "pinned is"),
            (vec![("n/SHA256SUMS", Regular, sums)], "`a` is missing"),
            (
                vec![("n/SHA256SUMS", Regular, sums), ("n/a", Regular, b"x"), ("n/a", Regular, b"x")],
                "`a` twice",
            ),
            (vec![("n/SHA256SUMS", Regular, sums), ("n/a", Regular, b"x")], "no `adapter.json`"),
            (vec![("n/SHA256SUMS", Regular, b"zz  a\n")], "64 lowercase"),
        ] {
            let error = read_archive(&tar_of(&entries), Path::new("x")).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_small_archive_that_unpacks_to_much_is_refused() {
        let zeros = vec![0u8; (MAX_MANIFEST_BYTES + 1) as usize];
        let bomb = tar_of(&[("n/SHA256SUMS", tar::EntryType::Regular, &zeros)]);
        assert!(bomb.len() < 4096);
        assert!(matches!(read_archive(&bomb, Path::new("x")), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_cut_off_archive_is_refused() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        let bytes = std::fs::read(packed.path).unwrap();
        for n in (0..bytes.len() - 4).step_by(7) {
            assert!(read_archive(&bytes[..n], Path::new("x")).is_err(), "{n} of {} bytes", bytes.len());
        }
    }
}
