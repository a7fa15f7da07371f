//! The encoder, projector and splice against what the reference code computed in float32.

#[path = "harness/device.rs"]
mod device;

use std::path::{Path, PathBuf};

use arc_core::encoder::ArcEncoder;
use arc_core::eval::check_reference;
use arc_core::weights::{ArcCheckpoint, TensorSource as _, TrainingSources};

/// Of a tensor's largest magnitude. Latents are in the hundreds, where float32 resolves a hundredth
/// of this; a norm's epsilon that is wrong by a factor of ten shows as 4e-4.
const TOLERANCE: f64 = 1e-4;

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reference"))
            .expect("golden data")
            .map(|entry| entry.expect("golden data").path())
            .collect();
    folders.sort();
    assert_eq!(folders.len(), 8, "{folders:?}");
    folders
}

#[test]
fn every_case_of_the_reference_is_reproduced() {
    let (device, tolerance) = device::device(TOLERANCE);
    for folder in folders() {
        let reports =
            check_reference(&folder, &device).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        assert!(!reports.is_empty());
        for report in reports {
            assert!(report.worst() <= tolerance, "{}: {report:?}", folder.display());
        }
    }
}

#[test]
fn a_batch_is_its_sequences_one_by_one_in_any_order() {
    let (device, tolerance) = device::device(TOLERANCE);
    for folder in folders() {
        let checkpoint = ArcCheckpoint::open(&folder, &TrainingSources::default()).expect("a checkpoint");
        let encoder = ArcEncoder::from_checkpoint(&checkpoint, 0, &device).expect("an encoder");
        let sequences: Vec<Vec<u32>> =
            [17, 3, 29, 8].iter().map(|&n| (0..n).map(|i| (i * 7 + n) % 61).collect()).collect();
        let batch = encoder.forward(&sequences, &device);
        let mut reversed: Vec<Vec<u32>> = sequences.clone();
        reversed.reverse();
        let reversed = encoder.forward(&reversed, &device);
        for (row, sequence) in sequences.iter().enumerate() {
            let single = encoder.forward(std::slice::from_ref(sequence), &device).row(0);
            let largest = single.clone().abs().max().into_scalar::<f32>();
            for other in [batch.row(row), reversed.row(sequences.len() - 1 - row)] {
                assert_eq!(single.dims(), other.dims());
                let worst = (single.clone() - other).abs().max().into_scalar::<f32>();
                assert!(f64::from(worst / largest.max(1.0)) <= tolerance, "{}: {worst}", folder.display());
            }
        }
    }
}

#[test]
fn export_writes_the_bytes_that_were_imported() {
    for folder in folders() {
        let checkpoint = ArcCheckpoint::open(&folder, &TrainingSources::default()).expect("a checkpoint");
        checkpoint.check_finite().expect("finite values");
        let copy = tempfile::tempdir().expect("a folder");
        checkpoint.write_released(copy.path(), &[]).expect("an export");
        for file in ["config.json", "model.safetensors"] {
            let original = std::fs::read(folder.join(file)).expect("the original");
            assert!(
                original == std::fs::read(copy.path().join(file)).expect("the copy"),
                "{}",
                folder.display()
            );
        }
        assert!(!checkpoint.names().is_empty());
    }
}

#[test]
fn the_command_reports_each_tensor_and_fails_above_its_tolerance() {
    let check = |folder: &Path, more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_arc"))
            .arg("check-reference")
            .arg(folder)
            .args(more)
            .env_remove("ARC_DEVICE")
            .output()
            .expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for folder in folders() {
        let (code, stdout, stderr) = check(&folder, &["--json"]);
        assert_eq!(code, Some(0), "{}: {stderr}", folder.display());
        let report: serde_json::Value = serde_json::from_str(&stdout).expect("one JSON object");
        for case in report["cases"].as_array().expect("cases") {
            let tensors: Vec<_> = case["deviations"].as_array().expect("tensors").iter().collect();
            assert_eq!(tensors.len(), 4, "latents, projected, special vector and logits: {case}");
            assert!(
                tensors.iter().all(|tensor| tensor["absolute"].is_number() && tensor["scaled"].is_number())
            );
        }
        let (code, stdout, stderr) = check(&folder, &["--tolerance", "1e-12"]);
        assert_eq!(code, Some(1));
        assert!(stdout.contains("case000") && stderr.contains("above the tolerance of 1.0e-12"), "{stderr}");
    }
}
