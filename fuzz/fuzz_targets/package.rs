//! Weights and archives from strangers: read or refused, never a crash.
#![no_main]

use std::path::Path;

use arc_adapters::{AdapterWeights, read_archive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz");
    if let Ok(weights) = AdapterWeights::parse(bytes.to_vec(), path) {
        for name in weights.names().map(str::to_owned).collect::<Vec<_>>() {
            let tensor = weights.tensor(&name).expect("a name that is listed");
            assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>());
        }
    }
    let _ = read_archive(bytes, path, &mut |_, _| Ok(()));
});
