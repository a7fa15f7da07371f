//! Checkpoints of a run that were cut off, changed or made by a stranger.
#![no_main]

mod room;

use arc_core::train::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Checkpoint::open(&room::file("step-00000001.safetensors", bytes)) {
        Ok(checkpoint) => assert!(checkpoint.path().ends_with("step-00000001.safetensors")),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
