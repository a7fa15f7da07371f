//! A code plugin without `export_adapter!` that lets a panic out of the function that the environment
//! variable `ARC_UNWINDS` names: what rule 6 of the ABI forbids, to see what becomes of the host.

use arc_plugin::abi::{ARC_ABI_VERSION, ArcAdapter, ArcBytes};

const MANIFEST: &[u8] = include_bytes!("../tests/plugins/custom/adapter.json");
const WEIGHTS: &[u8] = include_bytes!("../tests/plugins/custom/adapter.safetensors");

fn unwind_from(function: &str) {
    if std::env::var("ARC_UNWINDS").is_ok_and(|named| named == function) {
        panic!("let out of `{function}`");
    }
}

unsafe extern "C-unwind" fn manifest() -> ArcBytes {
    unwind_from("manifest");
    ArcBytes { data: MANIFEST.as_ptr(), len: MANIFEST.len() }
}

unsafe extern "C-unwind" fn weights() -> ArcBytes {
    unwind_from("weights");
    ArcBytes { data: WEIGHTS.as_ptr(), len: WEIGHTS.len() }
}

unsafe extern "C-unwind" fn project(_: *const f32, _: usize, _: usize, y: *mut f32, capacity: usize) -> i64 {
    unwind_from("project");
    // SAFETY: the host gives `capacity` floats that are set to something.
    unsafe { std::slice::from_raw_parts_mut(y, capacity) }.fill(4.0);
    i64::try_from(capacity).unwrap_or(i64::MIN)
}

static ADAPTER: ArcAdapter = ArcAdapter {
    struct_size: size_of::<ArcAdapter>() as u32,
    abi_version: ARC_ABI_VERSION,
    manifest: Some(manifest),
    weights: Some(weights),
    project: Some(project),
};

/// The adapter of this plugin.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn arc_adapter() -> *const ArcAdapter {
    unwind_from("arc_adapter");
    &raw const ADAPTER
}
