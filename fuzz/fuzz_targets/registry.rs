//! Whatever is read as a registry resolves every name and alias in it, and survives layering.
#![no_main]

use std::path::Path;

use arc_adapters::{Registry, list};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(registry) = Registry::parse(text, Path::new("registry.toml")) else { return };
    for entry in registry.decoders() {
        assert_eq!(registry.decoder(&entry.name).expect("its own name"), entry);
        for alias in &entry.aliases {
            assert_eq!(registry.decoder(alias).expect("its own alias"), entry);
        }
    }
    let _ = registry.decoder("smollm2-135n").map_err(|error| (error.to_string(), error.hint()));
    let mut layered = registry.clone();
    layered.overlay(registry.clone());
    assert_eq!(list(&layered).len(), list(&registry).len());
});
