//! The C ABI of code plugins: one symbol, one struct, two tables of bytes and one function.
//!
//! `include/arc_adapter.h` is generated from this file, and `ABI.md` gives the rules around it.
//! Fields are only ever added at the end, with a new minor version; anything else is a new major
//! version.

/// The major version: hosts and plugins of different majors do not work together.
pub const ARC_ABI_MAJOR: u32 = 1;

/// The minor version that this host knows. Minor 1 added `project`.
pub const ARC_ABI_MINOR: u32 = 1;

/// `abi_version` of a plugin built against this file: the major in the upper 16 bits, the minor in
/// the lower.
pub const ARC_ABI_VERSION: u32 = (ARC_ABI_MAJOR << 16) | ARC_ABI_MINOR;

/// `project`: the rows do not have the width that the plugin expects.
pub const ARC_ERROR_SHAPE: i64 = -1;
/// `project`: the output does not fit into `capacity` floats.
pub const ARC_ERROR_CAPACITY: i64 = -2;
/// `project`: the plugin's code panicked and the panic was caught inside the plugin.
pub const ARC_ERROR_PANIC: i64 = -3;
/// `project`: any other failure.
pub const ARC_ERROR_OTHER: i64 = -4;

/// Bytes that the plugin owns. They stay valid and unchanged as long as the process lives.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ArcBytes {
    /// The first byte; null when there is nothing to give.
    pub data: *const u8,
    /// How many bytes there are.
    pub len: usize,
}

impl ArcBytes {
    /// Nothing.
    pub const NULL: Self = Self { data: std::ptr::null(), len: 0 };
}

/// What a plugin is. The symbol `arc_adapter` gives a pointer to one that lives as long as the
/// process.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ArcAdapter {
    /// `sizeof(ArcAdapter)` as the plugin was compiled.
    pub struct_size: u32,
    /// `ARC_ABI_VERSION` as the plugin was compiled.
    pub abi_version: u32,
    /// Gives the content of `adapter.json`, UTF-8, without a terminating zero. It may be called
    /// more than once, from any thread, and gives the same bytes each time.
    pub manifest: Option<unsafe extern "C-unwind" fn() -> ArcBytes>,
    /// Gives the content of the weights file, whose sha256 is in the manifest, by the same rules.
    pub weights: Option<unsafe extern "C-unwind" fn() -> ArcBytes>,
    /// Since minor 1. Null unless the manifest's projector is `custom`.
    ///
    /// Projects `n` rows of `d_in` floats at `x`, contiguous in row-major order, to `n` rows of the
    /// decoder's width at `y`, which has room for `capacity` floats that the host has set to NaN.
    /// `x` and `y` do not overlap and are valid only during the call. It may be called from several
    /// threads at once. It gives the number of floats written, or a negative `ARC_ERROR_…`.
    pub project: Option<
        unsafe extern "C-unwind" fn(
            x: *const f32,
            n: usize,
            d_in: usize,
            y: *mut f32,
            capacity: usize,
        ) -> i64,
    >,
}

// The fields spell these out, since cbindgen knows an optional function for a nullable pointer only
// where it sees the function.

/// [`ArcAdapter::manifest`] and [`ArcAdapter::weights`].
pub(crate) type ArcBytesFn = unsafe extern "C-unwind" fn() -> ArcBytes;

/// [`ArcAdapter::project`].
pub(crate) type ArcProjectFn =
    unsafe extern "C-unwind" fn(x: *const f32, n: usize, d_in: usize, y: *mut f32, capacity: usize) -> i64;

/// The two numbers that every version of the struct begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) struct_size: u32,
    pub(crate) abi_version: u32,
}

/// Why a plugin's struct cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
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
pub(crate) unsafe fn read_adapter(adapter: *const ArcAdapter) -> Result<ArcAdapter, Refusal> {
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
pub(crate) unsafe fn copy_bytes(bytes: ArcBytes, limit: u64) -> Result<Vec<u8>, String> {
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
pub(crate) unsafe fn call_project(
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
