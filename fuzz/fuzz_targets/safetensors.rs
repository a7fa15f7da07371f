//! Safetensors files from strangers: header, metadata and every tensor's values.
#![no_main]

mod room;

use arc_core::weights::{SafetensorsFile, TensorSource as _};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = SafetensorsFile::open(room::file("model.safetensors", bytes)) else { return };
    for name in file.names() {
        if let Ok(tensor) = file.tensor(name) {
            let count = tensor.shape().iter().product::<usize>();
            assert!(2 * count <= bytes.len(), "{count} values of {} bytes", bytes.len());
            assert_eq!(tensor.to_f32().len(), count);
            assert!(file.tensor_of_shape(name, tensor.shape()).is_ok());
        }
    }
    let _ = file.tensor("no such tensor").map_err(|error| error.to_string());
});
