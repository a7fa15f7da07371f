//! The C ABI of code plugins: one symbol, one struct, two tables of bytes and one function.
//!
//! `include/arc_adapter.h` is generated from this file, and `ABI.md` gives the rules around it.
//! Fields are only ever added at the end, with a new minor version; anything else is a new major
//! version.

/// The major version: hosts and plugins of different majors do not work together.
pub const ARC_ABI_MAJOR: u32 = 1;

/// The minor version of this file. Minor 1 added `project`.
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
pub type ArcBytesFn = unsafe extern "C-unwind" fn() -> ArcBytes;

/// [`ArcAdapter::project`].
pub type ArcProjectFn =
    unsafe extern "C-unwind" fn(x: *const f32, n: usize, d_in: usize, y: *mut f32, capacity: usize) -> i64;
