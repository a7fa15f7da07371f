//! A plugin that is part of this process: loaded once from a copy that nobody can change, for good.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arc_plugin::abi::{
    ARC_ABI_MAJOR, ARC_ERROR_CAPACITY, ARC_ERROR_PANIC, ARC_ERROR_SHAPE, ArcAdapter, ArcBytesFn, ArcProjectFn,
};

use super::abi::{Refusal, call_project, copy_bytes, read_adapter};
use crate::digest::sha256_hex;
use crate::files::io_error;
use crate::manifest::{MAX_MANIFEST_BYTES, MAX_WEIGHTS_BYTES};
use crate::{Adapter, AdapterManifest, Error, HostProjector, PluginEntry, Result};

/// The one symbol of a plugin.
const SYMBOL: &str = "arc_adapter";

/// Makes an adapter of what a plugin gave.
pub(super) fn from_plugin_parts(
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

/// A plugin that is part of this process.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    path: PathBuf,
    adapter: ArcAdapter,
}

/// The plugins of this process by SHA-256: they stay for good, so each is loaded once.
static LOADED: LazyLock<Mutex<HashMap<String, ArcAdapter>>> = LazyLock::new(Mutex::default);

impl Loaded {
    /// Loads bytes that were read and checked by [`read_checked`](super::checks::read_checked).
    pub(super) fn load(bytes: &[u8], plugin: &PluginEntry) -> Result<Self> {
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

    pub(super) fn manifest(&self) -> Result<Vec<u8>> {
        self.bytes("manifest", self.adapter.manifest, MAX_MANIFEST_BYTES)
    }

    pub(super) fn weights(&self) -> Result<Vec<u8>> {
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
    pub(super) fn projector(&self, d_in: usize, d_out: usize) -> Option<Arc<dyn HostProjector>> {
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
pub(super) fn output_len(x: &[f32], n: usize, d_in: usize, d_out: usize) -> Result<usize> {
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
