//! Whatever is read as a manifest is written back and read as the same.
#![no_main]

use std::path::Path;

use arc_adapters::{AdapterManifest, EncoderManifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("adapter.json");
    if let Ok(manifest) = AdapterManifest::parse(text, path) {
        let json = manifest.to_json(path).expect("a manifest that was read can be written");
        assert_eq!(AdapterManifest::parse(&json, path).expect("what was written can be read"), manifest);
        assert!(!manifest.required_tensors().is_empty() || manifest.projector.weight_slots().is_empty());
    }
    let _ = EncoderManifest::parse(text, path);
});
