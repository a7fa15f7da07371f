//! Latents files from strangers: what is read holds together, and is read again as the same.
#![no_main]

mod room;

use arc_core::device::DeviceName;
use arc_core::encoder::Latents;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let device = DeviceName::CPU.open().expect("the CPU");
    let Ok(latents) = Latents::load(&room::file("x.arc.safetensors", bytes), &device) else { return };
    assert!(!latents.is_empty());
    assert_eq!(latents.chunk_lengths.iter().sum::<usize>(), latents.len());
    let values = latents.values.to_data().convert::<f32>();
    assert!(values.as_slice::<f32>().expect("numbers").iter().all(|value| value.is_finite()));
});
