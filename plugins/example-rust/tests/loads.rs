//! The library that cargo has built is loaded as a host does.

use std::path::Path;

use arc_adapters::{Adapter, PluginPolicy, Registry, sha256_file};

#[test]
fn the_plugin_is_the_package_that_it_embeds() {
    // Cargo puts the library beside the tests.
    let tests = std::env::current_exe().unwrap();
    let file =
        format!("{}arc_adapter_example_rust{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = tests.with_file_name(file);
    let text = format!(
        "schema = 1\nallow_code_plugins = true\nplugin_folders = ['.']\n[decoders.d]\n\
         source = 'file:none'\nplugin = {{ path = '{}', sha256 = '{}' }}\n",
        library.display(),
        sha256_file(&library).unwrap()
    );
    let registry = Registry::parse(&text, &tests.with_file_name("registry.toml")).unwrap();
    let adapter = registry.resolve("d", None).unwrap().open(&PluginPolicy::default()).unwrap();
    assert!(adapter.is_trainable() && adapter.host_projector().is_none());

    let package = Adapter::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert_eq!(adapter.manifest, package.manifest);
    assert_eq!(adapter.weights.as_bytes(), package.weights.as_bytes());
}
