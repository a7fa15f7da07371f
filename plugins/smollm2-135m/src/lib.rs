//! The adapter of SmolLM2 135M Instruct as one library: the package in this folder, exported through the
//! plugin ABI. The registry names the package itself, which runs no code.

arc_plugin::export_adapter! {
    manifest: include_bytes!("../adapter.json"),
    weights: include_bytes!("../adapter.safetensors"),
}
