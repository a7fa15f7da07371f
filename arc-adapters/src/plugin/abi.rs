//! Reads what a plugin hands over, by the rules of the ABI: nothing is believed before it is checked.

use arc_plugin::abi::{ARC_ABI_MAJOR, ArcAdapter, ArcBytes, ArcProjectFn};

/// The two numbers that every version of the struct begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) struct_size: u32,
    pub(super) abi_version: u32,
}

/// Why a plugin's struct cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Null,
    Misaligned,
    Abi { major: u32, minor: u32 },
    Short { found: u32, expected: u32 },
}

/// The size of the struct at minor 0, which ended before `project`.
const SIZE_AT_MINOR_0: usize = std::mem::offset_of!(ArcAdapter, project);

/// Copies a plugin's struct, with fields that its minor version did not have set to null.
///
/// # Safety
/// `adapter` is null, or points to a struct that begins with two `u32` and is as long as the first
/// of them says.
pub(super) unsafe fn read_adapter(adapter: *const ArcAdapter) -> Result<ArcAdapter, Refusal> {
    if adapter.is_null() {
        return Err(Refusal::Null);
    }
    if !adapter.is_aligned() {
        return Err(Refusal::Misaligned);
    }
    // The version decides what else is there, so nothing but these two numbers is read before.
    // SAFETY: the pointer is aligned, and the caller vouches for two u32.
    let header = unsafe {
        let numbers = adapter.cast::<u32>();
        Header { struct_size: numbers.read(), abi_version: numbers.add(1).read() }
    };
    let (major, minor) = (header.abi_version >> 16, header.abi_version & 0xffff);
    if major != ARC_ABI_MAJOR {
        return Err(Refusal::Abi { major, minor });
    }
    let expected = if minor == 0 { SIZE_AT_MINOR_0 } else { size_of::<ArcAdapter>() };
    let short =
        Refusal::Short { found: header.struct_size, expected: u32::try_from(expected).unwrap_or(u32::MAX) };
    if usize::try_from(header.struct_size).map_or(true, |size| size < expected) {
        return Err(short);
    }
    let mut copy =
        ArcAdapter { struct_size: 0, abi_version: 0, manifest: None, weights: None, project: None };
    // SAFETY: `expected` is at most the size of `copy`, and at most what the plugin says it has.
    // All fields are valid for any bits of a C pointer or number.
    unsafe {
        std::ptr::copy_nonoverlapping(adapter.cast::<u8>(), (&raw mut copy).cast::<u8>(), expected);
    }
    Ok(copy)
}

/// Copies the bytes that a plugin gives, of which there may be at most `limit`.
///
/// # Safety
/// `bytes.data` is null, or points to `bytes.len` readable bytes.
pub(super) unsafe fn copy_bytes(bytes: ArcBytes, limit: u64) -> Result<Vec<u8>, String> {
    if bytes.data.is_null() {
        return Err("gave a null pointer".to_owned());
    }
    if bytes.len as u64 > limit || isize::try_from(bytes.len).is_err() {
        return Err(format!("gave {} bytes, at most {limit} are accepted", bytes.len));
    }
    // SAFETY: not null, at most isize::MAX long, and the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts(bytes.data, bytes.len) }.to_vec())
}

/// Calls a plugin's `project` on a buffer with guards on both sides.
///
/// Returns what the plugin returned, the output buffer, and whether the guards are intact.
///
/// # Safety
/// `project` keeps the rules of [`ArcProjectFn`], or at worst breaks them within the guards.
pub(super) unsafe fn call_project(
    project: ArcProjectFn,
    x: &[f32],
    n: usize,
    d_in: usize,
    capacity: usize,
) -> Result<(i64, Vec<f32>, bool), std::collections::TryReserveError> {
    // A bit pattern that no computation gives: a NaN with a payload.
    let guard = f32::from_bits(0x7fc0_a5a5);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(capacity.saturating_add(2 * GUARD))?;
    buffer.resize(GUARD, guard);
    buffer.resize(GUARD + capacity, f32::NAN);
    buffer.resize(GUARD + capacity + GUARD, guard);
    // SAFETY: x has n rows of d_in floats by the check of the caller, and `capacity` floats follow
    // the leading guard.
    let written = unsafe { project(x.as_ptr(), n, d_in, buffer.as_mut_ptr().add(GUARD), capacity) };
    let mut output = buffer.split_off(GUARD);
    let tail = output.split_off(capacity);
    let intact = buffer.iter().chain(&tail).all(|v| v.to_bits() == guard.to_bits());
    Ok((written, output, intact))
}

/// Floats on each side of an output buffer.
const GUARD: usize = 64;

#[cfg(test)]
mod tests {
    use arc_plugin::abi::{ARC_ABI_VERSION, ARC_ERROR_CAPACITY};

    use super::*;

    unsafe extern "C-unwind" fn five() -> ArcBytes {
        ArcBytes { data: b"bytes".as_ptr(), len: 5 }
    }

    fn adapter(struct_size: usize, abi_version: u32) -> ArcAdapter {
        ArcAdapter {
            struct_size: u32::try_from(struct_size).unwrap(),
            abi_version,
            manifest: Some(five),
            weights: Some(five),
            project: Some(echo),
        }
    }

    unsafe extern "C-unwind" fn echo(
        x: *const f32,
        n: usize,
        d_in: usize,
        y: *mut f32,
        capacity: usize,
    ) -> i64 {
        // A capacity of 1 stands for a plugin that ignores it.
        if capacity != 1 && capacity < n * d_in {
            return ARC_ERROR_CAPACITY;
        }
        // SAFETY: the tests give n rows of d_in floats, and guards that hold them.
        unsafe { std::ptr::copy_nonoverlapping(x, y, n * d_in) };
        i64::try_from(n * d_in).unwrap()
    }

    fn read(adapter: &ArcAdapter) -> Result<ArcAdapter, Refusal> {
        // SAFETY: a whole struct.
        unsafe { read_adapter(adapter) }
    }

    #[test]
    fn a_plugin_of_an_older_minor_is_read_without_the_newer_fields() {
        let old = adapter(SIZE_AT_MINOR_0, 1 << 16);
        let copy = read(&old).unwrap();
        assert!(copy.project.is_none(), "what lies behind a minor 0 struct is not the plugin's");
        assert!(copy.manifest.is_some() && copy.weights.is_some());
        assert!(read(&adapter(size_of::<ArcAdapter>(), ARC_ABI_VERSION)).unwrap().project.is_some());
    }

    #[test]
    fn a_newer_minor_with_a_longer_struct_is_read() {
        assert!(read(&adapter(size_of::<ArcAdapter>() + 8, (1 << 16) | 9)).is_ok());
    }

    #[test]
    fn other_majors_short_structs_and_null_are_refused() {
        assert_eq!(read(&adapter(40, 2 << 16)).unwrap_err(), Refusal::Abi { major: 2, minor: 0 });
        assert_eq!(read(&adapter(40, 1)).unwrap_err(), Refusal::Abi { major: 0, minor: 1 });
        assert!(matches!(read(&adapter(8, 1 << 16)).unwrap_err(), Refusal::Short { found: 8, .. }));
        let short = adapter(SIZE_AT_MINOR_0, ARC_ABI_VERSION);
        assert!(matches!(read(&short).unwrap_err(), Refusal::Short { .. }));
        // SAFETY: null is allowed.
        assert_eq!(unsafe { read_adapter(std::ptr::null()) }.unwrap_err(), Refusal::Null);
        let bytes = [0u8; 64];
        let odd = bytes.as_ptr().wrapping_add(1 + bytes.as_ptr().align_offset(8));
        // SAFETY: a misaligned pointer is not read.
        assert_eq!(unsafe { read_adapter(odd.cast()) }.unwrap_err(), Refusal::Misaligned);
    }

    #[test]
    fn a_write_beyond_the_output_is_seen_in_the_guards() {
        let x = [1.0, 2.0, 3.0, 4.0];
        // SAFETY: what `echo` writes fits into output and guard.
        let (written, y, intact) = unsafe { call_project(echo, &x, 2, 2, 4) }.unwrap();
        assert_eq!((written, y.as_slice(), intact), (4, x.as_slice(), true));
        // SAFETY: as above.
        let (_, y, intact) = unsafe { call_project(echo, &x, 2, 2, 1) }.unwrap();
        assert_eq!((y.as_slice(), intact), ([1.0].as_slice(), false));
    }

    #[test]
    fn null_and_oversized_bytes_are_refused() {
        // SAFETY: null, and five bytes.
        unsafe {
            assert!(copy_bytes(ArcBytes::NULL, 9).unwrap_err().contains("null"));
            assert!(copy_bytes(five(), 4).unwrap_err().contains("at most 4"));
            assert_eq!(copy_bytes(five(), 5).unwrap(), b"bytes");
        }
        let lie = ArcBytes { data: b"x".as_ptr(), len: usize::MAX };
        // SAFETY: refused before anything is read.
        assert!(unsafe { copy_bytes(lie, u64::MAX) }.is_err());
    }
}
