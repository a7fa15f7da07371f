//! The test of each crate that makes a library of a package: the library that cargo has built is
//! loaded as a host does, and is the package beside it.

use std::path::Path;

use arc_adapters::{Adapter, PluginEntry, PluginPolicy, sha256_file};

#[test]
fn the_plugin_is_the_package() {
    // Cargo puts the library beside the tests.
    let tests = std::env::current_exe().unwrap();
    let name = env!("CARGO_PKG_NAME").replace('-', "_");
    let file = format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = tests.with_file_name(file);
    let folders = vec![library.parent().unwrap().to_owned()];
    let policy = PluginPolicy::default().allow(true).folders(folders);
    let sha256 = sha256_file(&library).unwrap();
    let plugin = Adapter::load_plugin(&PluginEntry::new(library, sha256), &policy).unwrap();
    let package = Adapter::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert_eq!(plugin.manifest, package.manifest);
    assert_eq!(plugin.weights.as_bytes(), package.weights.as_bytes());
    assert!(plugin.is_trainable() && plugin.host_projector().is_none());
}
