//! Latents files from strangers: what is read holds together. The checksum of the values, where a file has
//! one, is made right first.
#![no_main]

mod checksum;
mod room;

use std::sync::LazyLock;

use arc_core::burn::tensor::Device;
use arc_core::device::DeviceName;
use arc_core::encoder::Latents;
use libfuzzer_sys::fuzz_target;

static CPU: LazyLock<Device> = LazyLock::new(|| DeviceName::CPU.open().expect("the CPU"));

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if let Some(place) = checksum::place(&bytes, "values_sha256") {
        let sha256 = arc_adapters::sha256_hex(&bytes[checksum::header_end(&bytes)..]);
        bytes[place].copy_from_slice(sha256.as_bytes());
    }
    let Ok(latents) = Latents::load(&room::file("x.arc.safetensors", &bytes), &CPU) else { return };
    assert!(!latents.is_empty());
    assert_eq!(latents.chunk_lengths.iter().sum::<usize>(), latents.len());
    assert!(latents.source_tokens >= latents.chunk_lengths.len());
    let values = latents.values.to_data().convert::<f32>();
    assert!(values.as_slice::<f32>().expect("numbers").iter().all(|value| value.is_finite()));
});
