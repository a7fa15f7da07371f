//! What a plugin written in Rust exports: the [`export_adapter!`](crate::export_adapter) macro.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::{ARC_ERROR_CAPACITY, ARC_ERROR_OTHER, ARC_ERROR_PANIC, ARC_ERROR_SHAPE};

/// Makes the crate, a `cdylib`, an adapter plugin.
///
/// `manifest` and `weights` are the bytes of `adapter.json` and of the file that it names.
/// `project`, for a `custom` projector alone, is a function
/// `fn(x: &[f32], n: usize, y: &mut [f32]) -> Result<(), E>` with `E: Display` that fills `y`, `n`
/// rows of the decoder's width, from `x`, `n` rows of the encoder's. `d_in` and `d_out` are those
/// widths.
///
/// ```
/// # const JSON: &[u8] = b"{}";
/// # const WEIGHTS: &[u8] = b"";
/// fn double(x: &[f32], _n: usize, y: &mut [f32]) -> Result<(), String> {
///     for (y, x) in y.iter_mut().zip(x) {
///         *y = 2.0 * x;
///     }
///     Ok(())
/// }
///
/// arc_plugin::export_adapter! {
///     manifest: JSON,   // include_bytes!("../adapter.json")
///     weights: WEIGHTS, // include_bytes!("../adapter.safetensors")
///     project: double,
///     d_in: 8,
///     d_out: 8,
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_adapter {
    (manifest: $manifest:expr, weights: $weights:expr $(,)?) => {
        $crate::export_adapter!(@ $manifest, $weights, ::std::option::Option::None);
    };
    (
        manifest: $manifest:expr, weights: $weights:expr,
        project: $project:path, d_in: $d_in:expr, d_out: $d_out:expr $(,)?
    ) => {
        $crate::export_adapter!(@ $manifest, $weights, {
            unsafe extern "C-unwind" fn __arc_project(
                x: *const f32,
                n: usize,
                d_in: usize,
                y: *mut f32,
                capacity: usize,
            ) -> i64 {
                // SAFETY: the host keeps the rules of `ArcAdapter::project`.
                unsafe { $crate::export::run_project($project, ($d_in, $d_out), x, n, d_in, y, capacity) }
            }
            ::std::option::Option::Some(__arc_project)
        });
    };
    // Items of a macro share the names of their surroundings, so these have names of their own: a
    // plugin's function may well be called `project`.
    (@ $manifest:expr, $weights:expr, $project:expr) => {
        /// The adapter of this plugin.
        #[unsafe(no_mangle)]
        pub extern "C" fn arc_adapter() -> *const $crate::abi::ArcAdapter {
            unsafe extern "C-unwind" fn __arc_manifest() -> $crate::abi::ArcBytes {
                $crate::export::static_bytes(|| $manifest)
            }
            unsafe extern "C-unwind" fn __arc_weights() -> $crate::abi::ArcBytes {
                $crate::export::static_bytes(|| $weights)
            }
            static ADAPTER: $crate::abi::ArcAdapter = $crate::abi::ArcAdapter {
                struct_size: ::std::mem::size_of::<$crate::abi::ArcAdapter>() as u32,
                abi_version: $crate::abi::ARC_ABI_VERSION,
                manifest: ::std::option::Option::Some(__arc_manifest),
                weights: ::std::option::Option::Some(__arc_weights),
                project: $project,
            };
            &raw const ADAPTER
        }
    };
}

/// Hands out bytes of the plugin; nothing if making them panics.
#[doc(hidden)]
pub fn static_bytes(bytes: impl FnOnce() -> &'static [u8]) -> crate::abi::ArcBytes {
    catch_unwind(AssertUnwindSafe(bytes)).map_or(crate::abi::ArcBytes::NULL, |bytes| crate::abi::ArcBytes {
        data: bytes.as_ptr(),
        len: bytes.len(),
    })
}

/// Calls a plugin's projector with slices, and turns errors and panics into codes: neither may
/// cross into the host.
///
/// # Safety
/// `x` points to `n · d_in` floats and `y` to `capacity` floats that are set to something; they do
/// not overlap and stay valid during the call.
#[doc(hidden)]
pub unsafe fn run_project<E: Display>(
    project: impl FnOnce(&[f32], usize, &mut [f32]) -> Result<(), E>,
    (expected_d_in, d_out): (usize, usize),
    x: *const f32,
    n: usize,
    d_in: usize,
    y: *mut f32,
    capacity: usize,
) -> i64 {
    let sizes = (n.checked_mul(d_in), n.checked_mul(d_out));
    let (Some(n_in), Some(n_out)) = sizes else {
        return ARC_ERROR_SHAPE;
    };
    if d_in != expected_d_in
        || x.is_null()
        || y.is_null()
        || isize::try_from(n_in.max(n_out).saturating_mul(4)).is_err()
    {
        return ARC_ERROR_SHAPE;
    }
    if n_out > capacity {
        return ARC_ERROR_CAPACITY;
    }
    // SAFETY: the caller vouches for both; `n_out` is at most `capacity`.
    let (x, y) = unsafe { (std::slice::from_raw_parts(x, n_in), std::slice::from_raw_parts_mut(y, n_out)) };
    match catch_unwind(AssertUnwindSafe(|| project(x, n, y))) {
        Ok(Ok(())) => i64::try_from(n_out).unwrap_or(ARC_ERROR_SHAPE),
        Ok(Err(error)) => {
            // A code is all that the ABI carries, so the reason goes where people look.
            eprintln!("adapter plugin: {error}");
            ARC_ERROR_OTHER
        }
        Err(_) => ARC_ERROR_PANIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(
        project: impl FnOnce(&[f32], usize, &mut [f32]) -> Result<(), String>,
        d_in: usize,
        capacity: usize,
    ) -> i64 {
        let x = [1.0f32; 6];
        let mut y = [0.0f32; 6];
        // SAFETY: two rows of at most three floats in, at most six out.
        unsafe { run_project(project, (3, 2), x.as_ptr(), 2, d_in, y.as_mut_ptr(), capacity) }
    }

    #[test]
    fn errors_and_panics_become_codes() {
        assert_eq!(
            call(
                |_, _, y| {
                    y.fill(1.0);
                    Ok(())
                },
                3,
                6
            ),
            4
        );
        assert_eq!(call(|_, _, _| Ok(()), 2, 6), ARC_ERROR_SHAPE);
        assert_eq!(call(|_, _, _| Ok(()), 3, 3), ARC_ERROR_CAPACITY);
        assert_eq!(call(|_, _, _| Err("no".to_owned()), 3, 6), ARC_ERROR_OTHER);
        assert_eq!(call(|_, _, _| panic!("caught in the plugin"), 3, 6), ARC_ERROR_PANIC);
        assert!(static_bytes(|| panic!("caught in the plugin")).data.is_null());
    }

    #[test]
    fn sizes_that_overflow_are_a_shape_error() {
        let x = [0.0f32];
        let mut y = [0.0f32];
        // SAFETY: refused before anything is read.
        let code = unsafe {
            run_project::<String>(|_, _, _| Ok(()), (3, 2), x.as_ptr(), usize::MAX, 3, y.as_mut_ptr(), 1)
        };
        assert_eq!(code, ARC_ERROR_SHAPE);
    }
}
