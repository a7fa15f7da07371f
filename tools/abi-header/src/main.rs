//! Makes `arc-plugin/include/arc_adapter.h` from `arc-plugin/src/abi.rs`.
//!
//! With `--check` it writes nothing and fails where the checked-in header is another one.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plugin = here.join("../../arc-plugin");
    let header = plugin.join("include/arc_adapter.h");
    let mut generated = Vec::new();
    cbindgen::Builder::new()
        .with_config(cbindgen::Config::from_file(here.join("cbindgen.toml"))?)
        .with_src(plugin.join("src/abi.rs"))
        .generate()?
        .write(&mut generated);
    if !std::env::args().any(|argument| argument == "--check") {
        std::fs::write(&header, generated)?;
    } else if std::fs::read(&header)? != generated {
        return Err("arc-plugin/include/arc_adapter.h is stale; `cargo run` in tools/abi-header writes it".into());
    }
    Ok(())
}
