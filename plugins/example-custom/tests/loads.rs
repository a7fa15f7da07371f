//! The library that cargo has built is loaded as a host does.

use arc_adapters::{PluginPolicy, Registry, sha256_file};

#[test]
fn the_plugin_projects_by_products_of_neighbours() {
    // Cargo puts the library beside the tests.
    let tests = std::env::current_exe().unwrap();
    let file =
        format!("{}arc_adapter_example_custom{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = tests.with_file_name(file);
    let text = format!(
        "schema = 1\nallow_code_plugins = true\nplugin_folders = ['.']\n[decoders.d]\n\
         source = 'file:none'\nplugin = {{ path = '{}', sha256 = '{}' }}\n",
        library.display(),
        sha256_file(&library).unwrap()
    );
    let registry = Registry::parse(&text, &tests.with_file_name("registry.toml")).unwrap();
    let adapter = registry.resolve("d", None).unwrap().open(&PluginPolicy::default()).unwrap();
    assert!(!adapter.is_trainable());

    let projector = adapter.host_projector().unwrap();
    let x: Vec<f32> = (1..=16).map(|i| i as f32).collect();
    let y = projector.project(&x, 2).unwrap();
    assert_eq!(y[..12], [2.0, 6.0, 12.0, 20.0, 30.0, 42.0, 56.0, 8.0, 2.0, 6.0, 12.0, 20.0]);
    assert_eq!(y[12], 90.0);
    assert!(projector.project(&x, 3).is_err(), "16 values are not three rows of 8");
    assert!(projector.project(&[], 0).unwrap().is_empty());
}
