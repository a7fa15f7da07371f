//! Loads code plugins: checked before anything runs, from a copy that cannot change, for good.
//!
//! The order is the point. Whether plugins are allowed at all, where the file lies and who may
//! write there, and its SHA-256 are checked before the system's loader sees a byte, since loading
//! already runs the library's constructors. What is loaded is the very bytes that were hashed.
//! Nothing here contains a crash in foreign code: that is what [`crate::Isolation`] is for.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::abi::{
    ARC_ABI_MAJOR, ARC_ERROR_CAPACITY, ARC_ERROR_PANIC, ARC_ERROR_SHAPE, ArcAdapter, ArcBytesFn,
    ArcProjectFn, Refusal, call_project, copy_bytes, read_adapter,
};
use crate::digest::sha256_hex;
use crate::files::{io_error, read_bytes};
use crate::isolate::{Isolated, Isolation};
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::package::MAX_WEIGHTS_BYTES;
use crate::{Adapter, AdapterManifest, Error, HostProjector, PluginEntry, Result};

/// The one symbol of a plugin.
const SYMBOL: &str = "arc_adapter";

/// A plugin carries its weights, so it may be as large as they are.
const MAX_PLUGIN_BYTES: u64 = MAX_WEIGHTS_BYTES + (1 << 28);

/// What the user of this process lets plugins do, beside what the registries say.
#[derive(Debug, Clone, Default)]
pub struct PluginPolicy {
    /// Run plugins even though their registry does not allow it (`--allow-plugins`).
    pub allow: bool,
    /// Folders that plugins may lie in, beside those that their registry lists.
    pub folders: Vec<PathBuf>,
    /// Run plugins in a process of their own.
    pub isolation: Option<Isolation>,
}

impl Adapter {
    /// Loads a code plugin, in this process or in one of its own.
    ///
    /// # Errors
    /// The `Plugin…` errors when it may not or cannot be loaded, and those of [`Adapter::open`]
    /// for its manifest and weights.
    pub fn load_plugin(plugin: &PluginEntry, policy: &PluginPolicy) -> Result<Self> {
        let bytes = read_checked(plugin, policy)?;
        if let Some(isolation) = &policy.isolation {
            let mut folders = plugin.folders.clone();
            folders.extend(policy.folders.iter().cloned());
            return Isolated::load(PluginEntry { folders, ..plugin.clone() }, isolation.clone());
        }
        let loaded = Loaded::load(&bytes, plugin)?;
        drop(bytes);
        let manifest = loaded.manifest()?;
        let weights = loaded.weights()?;
        from_plugin_parts(&manifest, weights, &plugin.path, |manifest| {
            loaded.projector(manifest.d_encoder, manifest.d_decoder)
        })
    }
}

/// Makes an adapter of what a plugin gave.
pub(crate) fn from_plugin_parts(
    manifest: &[u8],
    weights: Vec<u8>,
    path: &Path,
    projector: impl FnOnce(&AdapterManifest) -> Option<Arc<dyn HostProjector>>,
) -> Result<Adapter> {
    let manifest_sha256 = sha256_hex(manifest);
    let text = std::str::from_utf8(manifest).map_err(|e| Error::Invalid {
        path: path.to_owned(),
        what: "adapter manifest",
        reason: format!("byte {} is not UTF-8", e.valid_up_to()),
    })?;
    let manifest = AdapterManifest::parse(text, path)?;
    let host = projector(&manifest);
    if manifest.projector.is_custom() && host.is_none() {
        return Err(contract(path, "its projector is `custom` and `project` is null"));
    }
    Adapter::from_parts((manifest, manifest_sha256), weights, path, path.to_owned(), host)
}

/// The bytes of a plugin that may be loaded.
pub(crate) fn read_checked(plugin: &PluginEntry, policy: &PluginPolicy) -> Result<Vec<u8>> {
    if !plugin.allowed && !policy.allow {
        return Err(Error::PluginNotAllowed { path: plugin.path.clone() });
    }
    let path = plugin.path.canonicalize().map_err(io_error("open", &plugin.path))?;
    let folders: Vec<_> = plugin.folders.iter().chain(&policy.folders).cloned().collect();
    let listed = folders.iter().any(|f| f.canonicalize().is_ok_and(|f| path.starts_with(f)));
    if !listed {
        return Err(Error::PluginOutsideFolders { path, folders });
    }
    if let Some(writable) = writable_by_others(&path)? {
        return Err(Error::PluginWritable { path, writable });
    }
    let bytes = read_bytes(&path, "code plugin", MAX_PLUGIN_BYTES)?;
    let found = sha256_hex(&bytes);
    if found != plugin.sha256 {
        return Err(Error::Sha256Mismatch { path, expected: plugin.sha256.clone(), found });
    }
    if let Some(reason) = other_target(&bytes) {
        return Err(Error::PluginLoad { path, reason: reason.to_owned() });
    }
    Ok(bytes)
}

/// The file, or the folder above it, through which anyone could put another file in its place.
///
/// In a folder with the sticky bit, like the system's temporary one, only the owner of an entry can
/// replace it; such a folder is accepted when what lies in it on the way to `path` is ours or the
/// administrator's.
#[cfg(unix)]
fn writable_by_others(path: &Path) -> Result<Option<PathBuf>> {
    use std::os::unix::fs::MetadataExt as _;
    let me = rustix::process::geteuid().as_raw();
    let mut child_uid = None;
    for step in path.ancestors() {
        let meta = std::fs::symlink_metadata(step).map_err(io_error("read", step))?;
        let (world_writable, sticky) = (meta.mode() & 0o002 != 0, meta.mode() & 0o1000 != 0);
        let child_is_safe = child_uid.is_some_and(|uid| uid == me || uid == 0);
        if world_writable && !(sticky && meta.is_dir() && child_is_safe) {
            return Ok(Some(step.to_owned()));
        }
        child_uid = Some(meta.uid());
    }
    Ok(None)
}

/// Rights on other systems are lists that the standard library does not read.
#[cfg(not(unix))]
fn writable_by_others(_path: &Path) -> Result<Option<PathBuf>> {
    Ok(None)
}

/// Why the file cannot be a library for this target, told from its first bytes (System V gABI,
/// chapter 4): the loader's own message would name a file that the user does not know.
#[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
fn other_target(bytes: &[u8]) -> Option<&'static str> {
    const MACHINE: Option<u16> = match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => Some(62),
        b"aarch64" => Some(183),
        b"riscv64" => Some(243),
        _ => None,
    };
    let [0x7f, b'E', b'L', b'F', class, data, ..] = bytes else {
        return Some("it is not an ELF library");
    };
    let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok();
    let (Some(kind), Some(machine)) = (u16_at(16), u16_at(18)) else {
        return Some("it is cut off");
    };
    if (*class, *data) != (2, 1) || MACHINE.is_some_and(|here| here != machine) {
        return Some("it is built for another processor");
    }
    // The loader maps what the program headers say without asking whether the file is that long,
    // and what lies beyond its end is a bus error at the first touch.
    let whole = || {
        let (table, size, n) = (u64_at(32)?, u16_at(54)?, u16_at(56)?);
        for i in 0..usize::from(n) {
            let header = i.checked_mul(usize::from(size))?.checked_add(table)?;
            let (offset, len) = (u64_at(header.checked_add(8)?)?, u64_at(header.checked_add(32)?)?);
            if offset.checked_add(len)? > bytes.len() {
                return None;
            }
        }
        Some(())
    };
    if whole().is_none() {
        return Some("it is cut off");
    }
    (kind != 3).then_some("it is not a shared library")
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
fn other_target(_bytes: &[u8]) -> Option<&'static str> {
    None
}

/// A plugin that is part of this process.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    path: PathBuf,
    adapter: ArcAdapter,
}

/// The plugins of this process by SHA-256: they stay for good, so each is loaded once.
static LOADED: LazyLock<Mutex<HashMap<String, ArcAdapter>>> = LazyLock::new(Mutex::default);

impl Loaded {
    /// Loads bytes that were read and checked by [`read_checked`].
    pub(crate) fn load(bytes: &[u8], plugin: &PluginEntry) -> Result<Self> {
        let path = plugin.path.clone();
        // Nothing is left half done when a holder of the lock panics.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(adapter) = loaded.get(&plugin.sha256) {
            return Ok(Self { path, adapter: *adapter });
        }
        let adapter = load_once(bytes, &path)?;
        loaded.insert(plugin.sha256.clone(), adapter);
        Ok(Self { path, adapter })
    }

    pub(crate) fn manifest(&self) -> Result<Vec<u8>> {
        self.bytes("manifest", self.adapter.manifest, MAX_MANIFEST_BYTES)
    }

    pub(crate) fn weights(&self) -> Result<Vec<u8>> {
        self.bytes("weights", self.adapter.weights, MAX_WEIGHTS_BYTES)
    }

    fn bytes(&self, what: &str, function: Option<ArcBytesFn>, limit: u64) -> Result<Vec<u8>> {
        let Some(function) = function else {
            return Err(contract(&self.path, &format!("`{what}` is null")));
        };
        // SAFETY: the plugin was loaded for good, and its struct says that this is the function.
        let bytes = caught(&self.path, what, || unsafe { function() })?;
        // SAFETY: the ABI says that the bytes stay valid and unchanged.
        unsafe { copy_bytes(bytes, limit) }
            .map_err(|reason| contract(&self.path, &format!("`{what}` {reason}")))
    }

    /// The plugin's own projector, if it has one.
    pub(crate) fn projector(&self, d_in: usize, d_out: usize) -> Option<Arc<dyn HostProjector>> {
        let project = self.adapter.project?;
        Some(Arc::new(InProcess { path: self.path.clone(), project, d_in, d_out }))
    }
}

fn load_once(bytes: &[u8], path: &Path) -> Result<ArcAdapter> {
    let load_error = |reason: String| Error::PluginLoad { path: path.to_owned(), reason };
    let copy = private_copy(bytes).map_err(io_error("copy", path))?;
    // SAFETY: loading runs the library's constructors. The user allowed plugins, and the bytes are
    // the pinned ones.
    let library = unsafe { open_library(copy.path()) }.map_err(|e| load_error(one_line(&e, copy.path())))?;
    copy.keep();
    // A library is never unloaded: threads that it started and pointers that it gave outlive any
    // adapter made of it.
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    // SAFETY: the ABI says what the symbol is; a library that uses the name for something else
    // cannot be told apart.
    let entry = unsafe { library.get::<unsafe extern "C-unwind" fn() -> *const ArcAdapter>(SYMBOL) }
        .map_err(|_| Error::PluginSymbol { path: path.to_owned(), symbol: SYMBOL })?;
    // SAFETY: as above.
    let pointer = caught(path, SYMBOL, || unsafe { entry() })?;
    // SAFETY: the ABI says that the pointer is null or points to a struct that begins with its
    // version and size.
    unsafe { read_adapter(pointer) }.map_err(|refusal| match refusal {
        Refusal::Abi { major, minor } => {
            Error::PluginAbi { path: path.to_owned(), major, minor, supported: ARC_ABI_MAJOR }
        }
        Refusal::Null => contract(path, "`arc_adapter` gave a null pointer"),
        Refusal::Misaligned => contract(path, "`arc_adapter` gave a misaligned pointer"),
        Refusal::Short { found, expected } => {
            contract(path, &format!("struct_size is {found}, its version has {expected}"))
        }
    })
}

/// # Safety
/// As [`libloading::Library::new`].
unsafe fn open_library(path: &Path) -> Result<libloading::Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        // A symbol that is missing is an error now and not a crash at its first use, and the
        // plugin's symbols are not offered to other libraries.
        // SAFETY: passed on to the caller.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
    }
    #[cfg(not(unix))]
    // SAFETY: passed on to the caller.
    unsafe {
        libloading::Library::new(path)
    }
}

/// A copy of a plugin that nobody else can change.
enum PrivateCopy {
    /// Memory that is sealed against writing: not even this process can change it.
    #[cfg(target_os = "linux")]
    Sealed(File, PathBuf),
    /// A file in a folder that only this user can enter.
    InFolder(tempfile::TempDir, PathBuf),
}

impl PrivateCopy {
    fn path(&self) -> &Path {
        match self {
            #[cfg(target_os = "linux")]
            Self::Sealed(_, path) => path,
            Self::InFolder(_, path) => path,
        }
    }

    /// Keeps what the loaded library needs.
    fn keep(self) {
        match self {
            // The loader knows libraries by path. Were the descriptor closed, its number and so
            // its path would be given to the next plugin, and the loader would take that one for
            // this one.
            #[cfg(target_os = "linux")]
            Self::Sealed(file, _) => std::mem::forget(file),
            // A mapped file can be removed on Unix, and cannot be on Windows.
            Self::InFolder(folder, _) => {
                if cfg!(not(unix)) {
                    let _ = folder.keep();
                }
            }
        }
    }
}

fn private_copy(bytes: &[u8]) -> std::io::Result<PrivateCopy> {
    // Where memory files are forbidden or may not be executed, a private folder does.
    #[cfg(target_os = "linux")]
    if let Ok(copy) = sealed_copy(bytes) {
        return Ok(copy);
    }
    let folder = tempfile::Builder::new().prefix("arc-plugin-").tempdir()?;
    let path = folder.path().join(format!("plugin{}", std::env::consts::DLL_SUFFIX));
    std::fs::write(&path, bytes)?;
    Ok(PrivateCopy::InFolder(folder, path))
}

#[cfg(target_os = "linux")]
fn sealed_copy(bytes: &[u8]) -> std::io::Result<PrivateCopy> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    let fd = memfd_create("arc-plugin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(PrivateCopy::Sealed(file, path))
}

/// A plugin's `project`, called in this process.
#[derive(Debug)]
struct InProcess {
    path: PathBuf,
    project: ArcProjectFn,
    d_in: usize,
    d_out: usize,
}

impl HostProjector for InProcess {
    fn project(&self, x: &[f32], n: usize) -> Result<Vec<f32>> {
        let capacity = output_len(x, n, self.d_in, self.d_out)?;
        if n == 0 {
            return Ok(Vec::new());
        }
        let call = || {
            // SAFETY: x has n rows of d_in floats, checked above; that the function keeps to its
            // output is checked by the guards after the fact.
            unsafe { call_project(self.project, x, n, self.d_in, capacity) }
        };
        let out_of_memory = |e: std::collections::TryReserveError| Error::PluginOutput {
            path: self.path.clone(),
            reason: e.to_string(),
        };
        let (written, y, intact) = caught(&self.path, "project", call)?.map_err(out_of_memory)?;
        check_output(&self.path, written, &y, intact)?;
        Ok(y)
    }
}

/// How many values the projection of `x` has.
pub(crate) fn output_len(x: &[f32], n: usize, d_in: usize, d_out: usize) -> Result<usize> {
    match (n.checked_mul(d_in), n.checked_mul(d_out)) {
        (Some(n_in), Some(n_out)) if n_in == x.len() && n_out < isize::MAX as usize / 8 => Ok(n_out),
        _ => Err(Error::InputShape { n, d_in, found: x.len() }),
    }
}

fn check_output(path: &Path, written: i64, y: &[f32], intact: bool) -> Result<()> {
    let bad = |reason: String| Err(Error::PluginOutput { path: path.to_owned(), reason });
    if !intact {
        return bad("it wrote outside of its output".to_owned());
    }
    if written < 0 {
        let meaning = match written {
            ARC_ERROR_SHAPE => "the rows have another width than it expects",
            ARC_ERROR_CAPACITY => "the output does not fit",
            ARC_ERROR_PANIC => "it panicked",
            _ => "no further reason",
        };
        return Err(Error::PluginFailed { path: path.to_owned(), code: written, meaning });
    }
    if usize::try_from(written) != Ok(y.len()) {
        return bad(format!("it says that it wrote {written} values, expected {}", y.len()));
    }
    match y.iter().position(|v| !v.is_finite()) {
        Some(i) => bad(format!("value {i} is {}", y.get(i).copied().unwrap_or(f32::NAN))),
        None => Ok(()),
    }
}

/// Calls foreign code. An unwind that reaches this frame is an error where Rust can catch it, and
/// ends the process where it cannot.
fn caught<T>(path: &Path, what: &str, call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| contract(path, &format!("`{what}` let a panic out")))
}

fn contract(path: &Path, reason: &str) -> Error {
    Error::PluginContract { path: path.to_owned(), reason: reason.to_owned() }
}

/// The loader's reason without the path of the private copy, which means nothing to the user.
fn one_line(error: &libloading::Error, copy: &Path) -> String {
    let mut reason = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        reason = source.to_string();
    }
    reason.replace(&format!("{}: ", copy.display()), "").replace('\n', ", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_another_width_never_reach_the_plugin() {
        unsafe extern "C-unwind" fn unreachable(
            _: *const f32,
            _: usize,
            _: usize,
            _: *mut f32,
            _: usize,
        ) -> i64 {
            panic!("it was called")
        }
        let projector = InProcess { path: "p.so".into(), project: unreachable, d_in: 3, d_out: 2 };
        let error = projector.project(&[0.0; 5], 2).unwrap_err();
        assert!(matches!(error, Error::InputShape { n: 2, d_in: 3, found: 5 }));
        assert_eq!(error.to_string(), "the projector takes 2 rows of width 3, it is given 5 values");
        assert!(matches!(projector.project(&[0.0; 3], usize::MAX), Err(Error::InputShape { .. })));
        assert_eq!(projector.project(&[], 0).unwrap(), [0.0; 0], "no rows need no call");
    }
}
