//! An adapter package inside a library. The host builds the projector from the description, so it
//! runs on the host's device and can be trained: the plugin only carries the bytes.

arc_plugin::export_adapter! {
    manifest: include_bytes!("../adapter.json"),
    weights: include_bytes!("../adapter.safetensors"),
}
