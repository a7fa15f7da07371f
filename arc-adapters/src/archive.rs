//! Archives of adapter packages: `NAME.arc.tar.zst`, with a hash of every file.
//!
//! An archive holds one folder named as the adapter, with regular files directly in it: first
//! `SHA256SUMS` in the form of the tool of that name, then `adapter.json`, then the rest. Reading is
//! strict, since archives come from strangers: whatever else is in one makes it no archive of this
//! project. The first two files say what may follow and how much of it, so that every name and size
//! is judged before a byte of the file is unpacked, and each name comes once: an archive unpacks to
//! no more than the weights that its manifest describes, and a few texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, Write as _};
use std::path::{Component, Path, PathBuf};

use crate::atomic_file::replace;
use crate::digest::{HashingReader, sha256_file, sha256_hex};
use crate::files::{io_error, open_file, read_bytes};
use crate::manifest::{MAX_MANIFEST_BYTES, MAX_WEIGHTS_BYTES, check_sha256};
use crate::names::{check_file_name, check_name};
use crate::staging::{Staging, check_absent};
use crate::{Adapter, AdapterManifest, Error, MANIFEST_FILE, Result};

const WHAT: &str = "adapter archive";
const SUMS_FILE: &str = "SHA256SUMS";
const MAX_TEXT_BYTES: u64 = 1 << 20;
const MAX_FILES: usize = 16;

/// A tar file is filled up with zeros to a multiple of its record, which is of this size by default.
const MAX_PADDING: u64 = 20 * 512;

/// How much of a file is in memory at a time.
const PIECE: usize = 1 << 20;

/// An archive that was written or unpacked.
#[derive(Debug, Clone)]
#[non_exhaustive]
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
pub(crate) fn is_document(name: &str) -> bool {
    matches!(name, "README.md" | "NOTICE" | "LICENSE" | "LICENCE" | "LICENSE-MIT" | "LICENSE-APACHE")
}

/// What the archive of an adapter is called.
#[must_use]
pub fn archive_name(adapter: &str) -> String {
    format!("{adapter}.arc.tar.zst")
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
    let path = folder.join(archive_name(&manifest.name));
    let mut contents = BTreeMap::new();
    // What was verified is what is packed, whatever happens to the folder meanwhile.
    contents.insert(manifest.weights.file.clone(), adapter.weights.as_bytes().to_vec());
    let json = manifest.to_json(package)?.into_bytes();
    contents.insert(MANIFEST_FILE.to_owned(), json.clone());
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
        append(&mut tar, &manifest.name, MANIFEST_FILE, &json)?;
        for (name, bytes) in contents.iter().filter(|(name, _)| *name != MANIFEST_FILE) {
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
    // The format that holds folder and name apart, so that no name needs an entry of its own, which
    // `read_archive` would refuse.
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("{folder}/{name}"))?;
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    tar.append(&header, bytes)
}

/// Unpacks an archive into a new folder in `parent`, named as the adapter, after it was verified
/// as a whole. `sha256` is the digest of the archive file where the user has one.
///
/// # Errors
/// [`Error::Sha256Mismatch`] when the archive or a file in it is not what was promised,
/// [`Error::Invalid`] when it is not an archive of this project, [`Error::Exists`] when there is a
/// folder of that name, otherwise as [`Adapter::open`].
pub fn unpack(archive: &Path, parent: &Path, sha256: Option<&str>) -> Result<Archive> {
    let staged = StagedArchive::unpack(archive, parent, sha256)?;
    let folder = parent.join(&staged.manifest.name);
    staged.publish(&folder)?;
    let StagedArchive { manifest, sha256, files, .. } = staged;
    Ok(Archive { manifest, sha256, files, path: folder })
}

/// An archive that was unpacked and verified, in a temporary folder of where it is to be. Unless it is
/// published it is gone when this is dropped; if the process is killed, [`sweep`](crate::sweep) removes it.
#[derive(Debug)]
pub struct StagedArchive {
    staging: Staging,
    manifest: AdapterManifest,
    sha256: String,
    files: BTreeMap<String, String>,
}

impl StagedArchive {
    /// Unpacks an archive into a temporary folder in `parent`. `sha256` is the digest of the archive file
    /// where the user has one.
    ///
    /// # Errors
    /// As [`unpack`], save for [`Error::Exists`].
    pub fn unpack(archive: &Path, parent: &Path, sha256: Option<&str>) -> Result<Self> {
        let mut file = open_file(archive).map_err(io_error("open", archive))?;
        // Nothing of an archive that is not the pinned one is looked at.
        let found = digest_of(&mut file, archive)?;
        if let Some(expected) = sha256.filter(|expected| *expected != found) {
            let (path, expected) = (archive.to_owned(), expected.to_owned());
            return Err(Error::Sha256Mismatch { path, expected, found });
        }
        file.rewind().map_err(io_error("read", archive))?;
        let staging = Staging::within(parent)?;
        let folder = staging.new_folder();
        let mut reader = HashingReader::new(file);
        let mut keep = |name: &str, piece: &[u8]| {
            let path = folder.join(name);
            let mut file =
                File::options().create(true).append(true).open(&path).map_err(io_error("create", &path))?;
            file.write_all(piece).map_err(io_error("write", &path))
        };
        let ArchiveContents { files, .. } = read_archive(&mut reader, archive, &mut keep)?;
        let read = digest_of(&mut reader, archive).map(|_| reader.sha256())?;
        if read != found {
            // It was changed since it was hashed.
            return Err(Error::Sha256Mismatch { path: archive.to_owned(), expected: found, found: read });
        }
        for name in files.keys() {
            let path = folder.join(name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(io_error("write", &path))?;
        }
        // What is published verifies like any package.
        let manifest = Adapter::open(&folder)?.manifest;
        Ok(Self { staging, manifest, sha256: found, files })
    }

    /// The manifest, which has been checked.
    #[must_use]
    pub fn manifest(&self) -> &AdapterManifest {
        &self.manifest
    }

    /// The SHA-256 of the archive file.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The SHA-256 of the manifest's file.
    #[must_use]
    pub fn manifest_sha256(&self) -> &str {
        self.files.get(MANIFEST_FILE).map_or("", String::as_str)
    }

    /// Whether a folder holds this very package, as a command leaves it that was killed a moment before it
    /// wrote the registry.
    #[must_use]
    pub fn is_in(&self, folder: &Path) -> bool {
        Adapter::open(folder).is_ok_and(|adapter| adapter.manifest == self.manifest)
    }

    /// Moves a folder into the temporary one, where it is deleted with it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_aside(&self, folder: &Path) -> Result<()> {
        self.staging.put_aside(folder)
    }

    /// Puts back what was moved aside.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_back(&self, folder: &Path) -> Result<()> {
        self.staging.put_back(folder)
    }

    /// Gives the package its name.
    ///
    /// # Errors
    /// [`Error::Exists`] where there is something of that name, [`Error::Io`].
    pub fn publish(&self, folder: &Path) -> Result<()> {
        check_absent(folder)?;
        self.staging.publish(folder)
    }
}

/// The SHA-256 of what is left of an archive file.
fn digest_of(reader: impl Read, archive: &Path) -> Result<String> {
    let mut rest = HashingReader::new(reader.take(MAX_WEIGHTS_BYTES + 1));
    let n = std::io::copy(&mut rest, &mut std::io::sink()).map_err(io_error("read", archive))?;
    if n > MAX_WEIGHTS_BYTES {
        return Err(Error::TooLarge { path: archive.to_owned(), what: WHAT, limit: MAX_WEIGHTS_BYTES });
    }
    Ok(rest.sha256())
}

/// What is in an archive.
#[derive(Debug)]
#[non_exhaustive]
pub struct ArchiveContents {
    /// The manifest, which has been checked; the weights have been checked by their hash alone.
    pub manifest: AdapterManifest,
    /// The files with their SHA-256, which has been checked.
    pub files: BTreeMap<String, String>,
}

/// The manifest of an archive file, without unpacking what follows it.
///
/// # Errors
/// As [`read_archive`], as far as the manifest.
pub fn archive_manifest(archive: &Path, origin: &Path) -> Result<AdapterManifest> {
    let file = open_file(archive).map_err(io_error("open", archive))?;
    let mut tar = tar::Archive::new(decoder(file, origin)?);
    Ok(Opened::begin(&mut tar.entries().map_err(|e| broken(origin, &e))?.raw(true), origin)?.manifest)
}

/// Reads an archive. `keep` is given the name of a file and a piece of it, in order; a file is whole
/// and as promised only if there is no error. `origin` is the file named in errors.
///
/// # Errors
/// Those of [`unpack`] that are about the archive, and those of `keep`.
pub fn read_archive(
    archive: impl Read,
    origin: &Path,
    keep: &mut dyn FnMut(&str, &[u8]) -> Result<()>,
) -> Result<ArchiveContents> {
    let mut tar = tar::Archive::new(decoder(archive, origin)?);
    // Raw, so that no entry is read into memory to be the name of the next one.
    let mut entries = tar.entries().map_err(|e| broken(origin, &e))?.raw(true);
    let opened = Opened::begin(&mut entries, origin)?;
    keep(MANIFEST_FILE, &opened.json)?;
    let mut seen = BTreeSet::from([MANIFEST_FILE.to_owned()]);
    while let Some(mut entry) = opened.next(&mut entries)? {
        let name = entry.name.clone();
        let expected = opened
            .sums
            .get(&name)
            .ok_or_else(|| opened.invalid(format!("`{name}` is not in `{SUMS_FILE}`")))?;
        if !seen.insert(name.clone()) {
            return Err(opened.invalid(format!("it has `{name}` twice")));
        }
        // Whatever is in the sums and is no text is the weights.
        let limit = if is_document(&name) { MAX_TEXT_BYTES } else { opened.manifest.largest_weights() };
        check_digest(origin, &name, expected, entry.read(limit, origin, &mut |piece| keep(&name, piece))?)?;
    }
    if let Some(name) = opened.sums.keys().find(|name| !seen.contains(*name)) {
        return Err(opened.invalid(format!("`{name}` is missing")));
    }
    let contents = ArchiveContents { manifest: opened.manifest, files: opened.sums };
    check_end(tar.into_inner(), origin)?;
    Ok(contents)
}

/// Refuses what stands behind the end of an archive: in the tar file, where zeros may fill up a block, and
/// behind the compressed data. Nobody has looked at it, and other programs might.
fn check_end(mut decoder: zstd::Decoder<'_, BufReader<impl Read>>, origin: &Path) -> Result<()> {
    let behind = || invalid(origin, "there is something behind its end".to_owned());
    let mut block = Vec::new();
    (&mut decoder).take(MAX_PADDING + 1).read_to_end(&mut block).map_err(|e| broken(origin, &e))?;
    if block.len() as u64 > MAX_PADDING || block.iter().any(|&byte| byte != 0) {
        return Err(behind());
    }
    match decoder.finish().read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(behind()),
        Err(error) => Err(broken(origin, &error)),
    }
}

fn decoder<R: Read>(archive: R, origin: &Path) -> Result<zstd::Decoder<'static, BufReader<R>>> {
    let mut decoder = zstd::Decoder::new(archive).map_err(|e| broken(origin, &e))?.single_frame();
    // 128 MiB: what the zstd tool itself accepts without being told to.
    decoder.window_log_max(27).map_err(|e| broken(origin, &e))?;
    Ok(decoder)
}

fn invalid(origin: &Path, reason: String) -> Error {
    Error::Invalid { path: origin.to_owned(), what: WHAT, reason }
}

fn broken(origin: &Path, error: &std::io::Error) -> Error {
    invalid(origin, error.to_string().replace('\n', ", "))
}

fn check_digest(origin: &Path, name: &str, expected: &str, found: String) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Sha256Mismatch { path: origin.join(name), expected: expected.to_owned(), found })
}

/// The first two files of an archive, which say what may follow.
struct Opened<'a> {
    origin: &'a Path,
    folder: String,
    sums: BTreeMap<String, String>,
    json: Vec<u8>,
    manifest: AdapterManifest,
}

impl<'a> Opened<'a> {
    fn begin<R: Read>(entries: &mut tar::Entries<'_, R>, origin: &'a Path) -> Result<Self> {
        let mut whole = |expected: &str, limit: u64| {
            let mut entry = next_entry(entries, origin)?
                .ok_or_else(|| invalid(origin, format!("it ends before `{expected}`")))?;
            if entry.name != expected {
                let name = &entry.name;
                return Err(invalid(origin, format!("it has `{name}` where `{expected}` is expected")));
            }
            let mut content = Vec::new();
            let sha256 = entry.read(limit, origin, &mut |piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            Ok((entry.folder, content, sha256))
        };
        let (folder, sums, _) = whole(SUMS_FILE, MAX_TEXT_BYTES)?;
        let sums = parse_sums(&sums).map_err(|reason| invalid(origin, reason))?;
        let (second_folder, json, sha256) = whole(MANIFEST_FILE, MAX_MANIFEST_BYTES)?;
        let expected = sums
            .get(MANIFEST_FILE)
            .ok_or_else(|| invalid(origin, format!("`{MANIFEST_FILE}` is not in `{SUMS_FILE}`")))?;
        check_digest(origin, MANIFEST_FILE, expected, sha256)?;
        let text = std::str::from_utf8(&json)
            .map_err(|_| invalid(origin, format!("its `{MANIFEST_FILE}` is not UTF-8")))?;
        let manifest = AdapterManifest::parse(text, &origin.join(MANIFEST_FILE))?;
        let opened = Self { origin, folder, sums, json, manifest };
        opened.check_folder(&second_folder)?;
        if opened.manifest.name != opened.folder {
            let (folder, name) = (&opened.folder, &opened.manifest.name);
            return Err(opened.invalid(format!("its folder is `{folder}`, its adapter is `{name}`")));
        }
        let belongs =
            |name: &str| name == opened.manifest.weights.file || name == MANIFEST_FILE || is_document(name);
        if let Some(name) = opened.sums.keys().find(|name| !belongs(name)) {
            return Err(opened.invalid(format!("it has `{name}`, which no adapter package has")));
        }
        Ok(opened)
    }

    /// The next file, which is in the same folder.
    fn next<'b, R: Read>(&self, entries: &mut tar::Entries<'b, R>) -> Result<Option<ArchiveEntry<'b, R>>> {
        let entry = next_entry(entries, self.origin)?;
        if let Some(entry) = &entry {
            self.check_folder(&entry.folder)?;
        }
        Ok(entry)
    }

    fn check_folder(&self, folder: &str) -> Result<()> {
        if folder == self.folder {
            return Ok(());
        }
        Err(self.invalid("it has more than one folder".to_owned()))
    }

    fn invalid(&self, reason: String) -> Error {
        invalid(self.origin, reason)
    }
}

/// A regular file of an archive, not read yet.
struct ArchiveEntry<'a, R: Read> {
    folder: String,
    name: String,
    entry: tar::Entry<'a, R>,
}

fn next_entry<'a, R: Read>(
    entries: &mut tar::Entries<'a, R>,
    origin: &Path,
) -> Result<Option<ArchiveEntry<'a, R>>> {
    let Some(entry) = entries.next() else { return Ok(None) };
    let entry = entry.map_err(|e| broken(origin, &e))?;
    if entry.header().entry_type() != tar::EntryType::Regular {
        return Err(invalid(origin, "it has an entry that is not a regular file".to_owned()));
    }
    let path = entry.path().map_err(|e| broken(origin, &e))?.into_owned();
    let (folder, name) = folder_and_name(&path)
        .ok_or_else(|| invalid(origin, format!("it has `{}`, expected `NAME/FILE`", path.display())))?;
    Ok(Some(ArchiveEntry { folder, name, entry }))
}

impl<R: Read> ArchiveEntry<'_, R> {
    /// Reads the file in pieces and gives its SHA-256. Nothing is read of one that says that it is
    /// longer than `limit`; none is longer than it says.
    fn read(
        &mut self,
        limit: u64,
        origin: &Path,
        keep: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<String> {
        if self.entry.size() > limit {
            return Err(Error::TooLarge { path: origin.join(&self.name), what: "file in an archive", limit });
        }
        let mut reader = HashingReader::new(&mut self.entry);
        let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(limit).unwrap_or(PIECE)));
        loop {
            piece.clear();
            let n = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            n.map_err(|e| broken(origin, &e))?;
            // An empty file is kept as one.
            keep(&piece)?;
            if piece.len() < PIECE {
                return Ok(reader.sha256());
            }
        }
    }
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
    fn an_archive_is_unpacked_under_another_name_than_its_adapters() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        let plugins = root.path().join("plugins");
        unpack(&packed.path, &plugins, None).unwrap();
        let (mine, sha256) = (plugins.join("mine"), Some(packed.sha256.as_str()));
        StagedArchive::unpack(&packed.path, &plugins, sha256).unwrap().publish(&mine).unwrap();
        assert_eq!(Adapter::open(&mine).unwrap().manifest, packed.manifest);
        let again = StagedArchive::unpack(&packed.path, &plugins, None).unwrap().publish(&mine);
        assert!(matches!(again, Err(Error::Exists { path }) if path == mine));
    }

    fn read(bytes: &[u8]) -> Result<(ArchiveContents, BTreeMap<String, Vec<u8>>)> {
        let mut kept: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let contents = read_archive(bytes, Path::new("x"), &mut |name, piece| {
            kept.entry(name.to_owned()).or_default().extend_from_slice(piece);
            Ok(())
        })?;
        Ok((contents, kept))
    }

    /// The manifest and the weights of a package.
    fn manifest_and_weights() -> (Vec<u8>, Vec<u8>) {
        let (_root, folder) = package();
        let read = |name| std::fs::read(folder.join(name)).unwrap();
        (read(MANIFEST_FILE), read(WEIGHTS_FILE))
    }

    fn sums_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        files
            .iter()
            .map(|(name, bytes)| format!("{}  {name}\n", sha256_hex(bytes)))
            .collect::<String>()
            .into()
    }

    #[test]
    fn archives_that_reach_outside_or_hide_something_are_refused() {
        use tar::EntryType::{Directory, GNULongName, Regular, Symlink, XHeader};
        let (json, weights) = manifest_and_weights();
        let (json, weights) = (json.as_slice(), weights.as_slice());
        let sums = sums_of(&[(MANIFEST_FILE, json), (WEIGHTS_FILE, weights), ("README.md", b"x")]);
        let sums = ("tiny/SHA256SUMS", Regular, sums.as_slice());
        let manifest = ("tiny/adapter.json", Regular, json);
        let data = ("tiny/adapter.safetensors", Regular, weights);
        let text = ("tiny/README.md", Regular, b"x".as_slice());
        let other = json.to_ascii_uppercase();
        let more = sums_of(&[(MANIFEST_FILE, json), ("secret.key", b"x")]);
        assert_eq!(read(&tar_of(&[sums, manifest, text, data])).unwrap().1.len(), 3, "the order is free");
        for (entries, expected) in [
            (vec![], "it ends before `SHA256SUMS`"),
            (vec![sums], "it ends before `adapter.json`"),
            (vec![manifest, sums], "it has `adapter.json` where `SHA256SUMS` is expected"),
            (vec![sums, data, manifest], "it has `adapter.safetensors` where `adapter.json` is expected"),
            (vec![sums, ("tiny/adapter.json", Regular, &other)], "pinned is"),
            (vec![("other/SHA256SUMS", Regular, sums.2), manifest], "more than one folder"),
            (
                vec![("other/SHA256SUMS", Regular, sums.2), ("other/adapter.json", Regular, json)],
                "its folder is `other`, its adapter is `tiny`",
            ),
            (vec![("tiny/SHA256SUMS", Regular, &more), manifest], "`secret.key`, which no adapter package"),
            (vec![("/tiny/SHA256SUMS", Regular, sums.2)], "expected `NAME/FILE`"),
            (vec![("tiny/SHA256SUMS", Symlink, b"")], "not a regular file"),
            (vec![("tiny/", Directory, b"")], "not a regular file"),
            // Neither a long name nor an attribute is read, however long it says it is.
            (vec![("././@LongLink", GNULongName, b"tiny/SHA256SUMS")], "not a regular file"),
            (vec![("tiny/pax", XHeader, b"20 path=tiny/sums\n")], "not a regular file"),
            (vec![sums, manifest, ("tiny/../../a", Regular, b"x")], "expected `NAME/FILE`"),
            (vec![sums, manifest, ("m/README.md", Regular, b"x")], "more than one folder"),
            (vec![sums, manifest, ("tiny/NOTICE", Regular, b"x")], "`NOTICE` is not in"),
            (vec![sums, manifest, ("tiny/README.md", Regular, b"y")], "pinned is"),
            (vec![sums, manifest, text, text], "`README.md` twice"),
            (vec![sums, manifest, manifest], "`adapter.json` twice"),
            (vec![sums, manifest, data], "`README.md` is missing"),
            (vec![("tiny/SHA256SUMS", Regular, b"zz  a\n")], "64 lowercase"),
        ] {
            let error = read(&tar_of(&entries)).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_small_archive_that_unpacks_to_much_is_refused_before_it_is_unpacked() {
        use tar::EntryType::Regular;
        let (json, _) = manifest_and_weights();
        // More than the few numbers that the manifest describes, and their header.
        let zeros = vec![0u8; (2 << 20) + 1];
        for name in ["SHA256SUMS", "adapter.json", "README.md", "adapter.safetensors"] {
            let sums = sums_of(&[(MANIFEST_FILE, &json), (WEIGHTS_FILE, &zeros), ("README.md", &zeros)]);
            let path = format!("tiny/{name}");
            let mut entries =
                vec![("tiny/SHA256SUMS", Regular, sums.as_slice()), ("tiny/adapter.json", Regular, &json)];
            entries.retain(|(other, ..)| *other != path);
            let place = if name == "SHA256SUMS" { 0 } else { entries.len() };
            entries.insert(place, (&path, Regular, &zeros));
            let bomb = tar_of(&entries);
            assert!(bomb.len() < 8192, "{} bytes", bomb.len());
            let mut kept = 0;
            let result = read_archive(bomb.as_slice(), Path::new("x"), &mut |_, piece| {
                kept += piece.len();
                Ok(())
            });
            assert!(matches!(result, Err(Error::TooLarge { .. })), "{name}: {result:?}");
            assert!(kept <= json.len(), "{name}: {kept} bytes were unpacked");
        }
    }

    #[test]
    fn the_manifest_is_read_without_what_follows() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        assert_eq!(archive_manifest(&packed.path, Path::new("x")).unwrap(), packed.manifest);
        let (json, weights) = manifest_and_weights();
        let sums = sums_of(&[(MANIFEST_FILE, &json), (WEIGHTS_FILE, &weights)]);
        let path = root.path().join("cut");
        let entries = [("tiny/SHA256SUMS", &sums), ("tiny/adapter.json", &json)]
            .map(|(name, bytes)| (name, tar::EntryType::Regular, bytes.as_slice()));
        std::fs::write(&path, tar_of(&entries)).unwrap();
        assert_eq!(archive_manifest(&path, &path).unwrap(), packed.manifest);
        assert!(matches!(unpack(&path, root.path(), None), Err(Error::Invalid { .. })));
    }

    #[test]
    fn what_stands_behind_the_end_of_an_archive_is_refused() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        let whole = std::fs::read(&packed.path).unwrap();
        let tar = zstd::decode_all(whole.as_slice()).unwrap();
        let packed_again = |tar: &[u8]| zstd::encode_all(tar, 3).unwrap();
        // As other programs fill up their last record.
        assert!(read(&packed_again(&[tar.as_slice(), &[0; 8 * 512]].concat())).is_ok());
        let empty_frame = packed_again(&[]);
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7];
        for junk in [
            [whole.as_slice(), b"x"].concat(),
            [whole.as_slice(), &[0]].concat(),
            [whole.as_slice(), &whole].concat(),
            [whole.as_slice(), &empty_frame].concat(),
            [whole.as_slice(), &skippable].concat(),
            packed_again(&[tar.as_slice(), b"x"].concat()),
            packed_again(&[tar.as_slice(), &tar].concat()),
            packed_again(&[tar.as_slice(), &[0; 1 << 20]].concat()),
        ] {
            let error = read(&junk).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            let path = root.path().join("junk.arc.tar.zst");
            std::fs::write(&path, junk).unwrap();
            assert!(unpack(&path, &root.path().join("plugins"), None).is_err());
        }
        assert!(!root.path().join("plugins/tiny").exists());
    }

    #[test]
    fn the_longest_names_are_packed_and_unpacked() {
        let root = tempfile::tempdir().unwrap();
        let mut manifest = example();
        manifest.name = "n".repeat(128);
        manifest.weights.file = format!("{}.st", "0".repeat(97));
        AdapterPackage::write(&root.path().join("p"), &manifest, &tensors(WeightType::F32)).unwrap();
        let packed = pack(&root.path().join("p"), root.path()).unwrap();
        let unpacked = unpack(&packed.path, &root.path().join("plugins"), None).unwrap();
        assert_eq!(Adapter::open(&unpacked.path).unwrap().manifest, packed.manifest);
    }

    #[test]
    fn a_cut_off_archive_is_refused() {
        let (root, folder) = package();
        let packed = pack(&folder, root.path()).unwrap();
        let bytes = std::fs::read(packed.path).unwrap();
        for n in (0..bytes.len() - 4).step_by(7) {
            assert!(read(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
        }
    }
}
