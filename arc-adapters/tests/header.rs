//! `include/arc_adapter.h` is what cbindgen makes of `src/abi.rs` now.
//!
//! `ARC_WRITE_HEADER=1 cargo test -p arc-adapters --test header` writes it.

use std::path::Path;

#[test]
fn the_checked_in_header_is_generated_from_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let bindings =
        cbindgen::Builder::new().with_config(config).with_src(root.join("src/abi.rs")).generate().unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();
    let path = root.join("include/arc_adapter.h");
    if std::env::var_os("ARC_WRITE_HEADER").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), generated, "run with ARC_WRITE_HEADER=1");
}
