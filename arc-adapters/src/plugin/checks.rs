//! What is checked of a plugin's file before any of its code can run: whether plugins are allowed at
//! all, where the file lies and who may write there, its SHA-256, and what it is built for.

use std::path::{Path, PathBuf};

use crate::digest::sha256_hex;
use crate::files::{io_error, read_bytes};
use crate::manifest::MAX_WEIGHTS_BYTES;
use crate::{Error, PluginEntry, Result};

/// A plugin carries its weights, so it may be as large as they are.
const MAX_PLUGIN_BYTES: u64 = MAX_WEIGHTS_BYTES + (1 << 28);

/// The bytes of a plugin that may be loaded: `allowed` is the user's word beside the registries', and
/// `folders` are those that it may lie in beside theirs.
pub(super) fn read_checked(plugin: &PluginEntry, allowed: bool, folders: &[PathBuf]) -> Result<Vec<u8>> {
    if !plugin.allowed && !allowed {
        return Err(Error::PluginNotAllowed { path: plugin.path.clone() });
    }
    let path = plugin.path.canonicalize().map_err(io_error("open", &plugin.path))?;
    let folders: Vec<_> = plugin.folders.iter().chain(folders).cloned().collect();
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
