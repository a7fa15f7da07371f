//! The encoder, projector and splice against what the reference code computed in float32.

#[path = "harness/device.rs"]
mod device;
mod forward;
#[path = "harness/recorded.rs"]
mod recorded;

use std::path::{Path, PathBuf};

use arc_core::encoder::ArcEncoder;
use arc_core::eval::check_reference;
use arc_core::weights::{ArcCheckpoint, TensorSource as _, TrainingSources};
use forward::{Llama, Numbers, Pooling, Row, Sizes, Tensors, linear, row};
use serde_json::{Value, json};

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

/// Exit code, standard output and standard error of `arc check-reference`.
fn check(folder: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_arc"))
        .arg("check-reference")
        .arg(folder)
        .args(more)
        .env_remove("ARC_DEVICE")
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_reports_each_tensor_and_fails_above_its_tolerance() {
    for folder in folders() {
        let (code, stdout, stderr) = check(&folder, &["--json"]);
        assert_eq!(code, Some(0), "{}: {stderr}", folder.display());
        recorded::record(&["check-reference"], stdout.as_bytes());
        let report: Value = serde_json::from_str(&stdout).expect("one JSON object");
        for case in report["cases"].as_array().expect("cases") {
            let tensors: Vec<_> = case["deviations"].as_array().expect("tensors").iter().collect();
            assert_eq!(tensors.len(), 4, "latents, projected, special vector and logits: {case}");
            let numbers = |tensor: &&Value| tensor["absolute"].is_number() && tensor["relative"].is_number();
            assert!(tensors.iter().all(numbers), "{case}");
        }
        let (code, stdout, stderr) = check(&folder, &["--tolerance", "1e-12"]);
        assert_eq!(code, Some(1));
        assert!(stdout.contains("case000") && stderr.contains("above the tolerance of 1.0e-12"), "{stderr}");
    }
}

/// The sizes of the folder below: no fixture has any of them.
fn encoder_sizes() -> Sizes {
    Sizes { d: 20, layers: 4, h: 5, g: 1, k: 4, f: 28, vocabulary: 37, epsilon: 1e-5, theta: 1000.0 }
}

fn decoder_sizes() -> Sizes {
    Sizes { d: 18, layers: 2, h: 3, g: 3, k: 6, f: 26, vocabulary: 29, epsilon: 1e-6, theta: 300.0 }
}

/// A folder of a checkpoint for two decoders, whose expected values a forward pass in f64 makes.
fn other_sizes(folder: &Path) {
    const KEPT: usize = 3;
    const HIDDEN: usize = 10;
    let (encoder, decoder) = (encoder_sizes(), decoder_sizes());
    let mut numbers = Numbers(11);
    let mut tensors = Tensors::default();
    numbers.llama(&mut tensors, "embedder.", &encoder, KEPT);
    for index in 0..2 {
        for special in ["cont_tok", "rec_tok"] {
            numbers.table(&mut tensors, format!("embedder.{special}.{index}.weight"), [1, encoder.d]);
        }
        let bridge = format!("bridge_module.{index}");
        numbers.matrix(&mut tensors, format!("{bridge}.layer1.weight"), [HIDDEN, encoder.d]);
        numbers.matrix(&mut tensors, format!("{bridge}.layer2.weight"), [decoder.d, HIDDEN]);
    }
    tensors.save(&folder.join("model.safetensors"));
    let config = json!({
        "embedder_args": {
            "n_truncated_layers": encoder.layers - KEPT, "compress_rates": [-3, -2],
            "pooling_module": { "pool_type": "fusion_pooled_queries", "where": "before" },
            "memory_tokens": 0, "causal_embedder": false, "rec_tok": true, "cont_tok": true,
        },
        "bridge_args": {
            "bridge_type": "multi_module", "in_dim": encoder.d, "hidden_dim": HIDDEN, "out_dim": decoder.d,
        },
        "model_args": encoder.to_json(),
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    let decoders: Vec<Tensors> = (0..2)
        .map(|index| {
            let mut tensors = Tensors::default();
            numbers.llama(&mut tensors, "", &decoder, decoder.layers);
            numbers.head(&mut tensors, &decoder);
            let folder = folder.join(format!("decoder{index}"));
            std::fs::create_dir_all(&folder).expect("a folder");
            tensors.save(&folder.join("consolidated.safetensors"));
            std::fs::write(folder.join("params.json"), decoder.to_json().to_string()).expect("sizes");
            tensors
        })
        .collect();

    let own = tensors.below("embedder.");
    let pooling = Pooling {
        kind: "fusion",
        queries_only: true,
        place: "before",
        rates: &[-3, -2],
        causal: false,
        memory: Vec::new(),
        words: None,
    };
    let ids =
        |n: u32, seed: u32, size: u32| (0..n).map(|i| (i * i + seed * 7 + i) % size).collect::<Vec<_>>();
    let (mut cases, mut expected) = (Vec::new(), Tensors::default());
    for (id, index, task, contexts, tokens, insert_after) in [
        (
            "two sequences",
            0,
            "continuation",
            vec![vec![ids(13, 1, 37), ids(4, 2, 37)], vec![ids(6, 3, 37)]],
            vec![ids(9, 4, 29), ids(3, 5, 29)],
            vec![vec![2, 3], vec![0]],
        ),
        (
            "second decoder",
            1,
            "reconstruction",
            vec![vec![ids(30, 6, 37)]],
            vec![ids(5, 7, 29)],
            vec![vec![5]],
        ),
    ] {
        let project = |x: &Row| {
            let layer = |layer| tensors.values(&format!("bridge_module.{index}.layer{layer}.weight"));
            linear(layer(2), &linear(layer(1), x))
        };
        let special = if task == "continuation" { "cont_tok" } else { "rec_tok" };
        let special = project(&row(tensors.values(&format!("embedder.{special}.{index}.weight"))));
        let (mut latents, mut projected, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        let model = Llama { sizes: decoder.clone(), tensors: &decoders[index] };
        for ((contexts, tokens), insert_after) in contexts.iter().zip(&tokens).zip(&insert_after) {
            let mut rest = model.embed(tokens);
            let (mut input, mut is_token) = (Vec::new(), Vec::new());
            for (context, &count) in contexts.iter().zip(insert_after) {
                let of = Llama { sizes: encoder.clone(), tensors: &own }.encode(context, KEPT, &pooling);
                let given: Vec<Row> = of.iter().map(project).collect();
                let after = rest.split_off(count);
                is_token.extend([vec![true; count], vec![false; given.len() + 1]].concat());
                input.extend([rest, given.clone(), vec![special.clone()]].concat());
                rest = after;
                latents.extend(of);
                projected.extend(given);
            }
            is_token.extend(vec![true; rest.len()]);
            input.extend(rest);
            let all = model.logits(input);
            logits
                .extend(all.into_iter().zip(is_token).filter_map(|(row, is_token)| is_token.then_some(row)));
        }
        expected.insert_rows(format!("{id}.latents"), &latents);
        expected.insert_rows(format!("{id}.projected"), &projected);
        expected.insert_rows(format!("{id}.projected_special"), &[special]);
        expected.insert_rows(format!("{id}.logits"), &logits);
        cases.push(json!({
            "id": id, "decoder": index, "task": task, "contexts": contexts, "tokens": tokens,
            "insert_after": insert_after,
        }));
    }
    expected.save(&folder.join("expected.safetensors"));
    std::fs::write(folder.join("cases.json"), json!(cases).to_string()).expect("cases");
}

#[test]
fn a_folder_of_any_sizes_is_checked_and_agrees_with_a_forward_pass_in_f64() {
    let folder = tempfile::tempdir().expect("a folder");
    other_sizes(folder.path());
    let (device, tolerance) = device::device(TOLERANCE);
    let reports = check_reference(folder.path(), &device).expect("a report");
    assert_eq!(reports.iter().map(|report| report.deviations.len()).collect::<Vec<_>>(), [4, 4]);
    for report in &reports {
        assert!(report.worst() > 0.0 && report.worst() <= tolerance / 10.0, "{report:?}");
    }
}

#[test]
fn relative_is_over_the_largest_magnitude() {
    let folder = tempfile::tempdir().expect("a folder");
    other_sizes(folder.path());
    let path = folder.path().join("expected.safetensors");
    let source = arc_core::weights::SafetensorsFile::open(&path).expect("a file");
    let mut expected = Tensors::default();
    let mut largest = 0.0;
    for name in source.names() {
        let tensor = source.tensor(name).expect("a tensor");
        let mut values = tensor.to_f32();
        if name == "two sequences.projected" {
            largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let at = values.iter().position(|value| value.abs() < largest / 2.0).expect("a small one");
            values[at] += largest / 4.0;
        }
        expected.insert(name, tensor.shape(), values);
    }
    drop(source);
    expected.save(&path);
    let (device, _) = device::device(TOLERANCE);
    let reports = check_reference(folder.path(), &device).expect("a report");
    let found = &reports[0].deviations[1];
    assert_eq!(found.tensor, "projected");
    assert!((found.relative - 0.25).abs() < 1e-3, "{found:?}");
    assert!((found.absolute - f64::from(largest) / 4.0).abs() < 1e-3 * f64::from(largest), "{found:?}");
    assert_eq!(check(folder.path(), &[]).0, Some(1));
}

/// A folder with one thing changed is refused in one line.
#[test]
fn malformed_folders_are_refused_with_what_is_wrong() {
    let cases = |change: fn(&mut Value)| {
        move |folder: &Path| {
            let path = folder.join("cases.json");
            let text = std::fs::read_to_string(&path).expect("cases");
            let mut cases: Value = serde_json::from_str(&text).expect("cases");
            change(&mut cases);
            std::fs::write(path, cases.to_string()).expect("cases");
        }
    };
    fn config(folder: &Path, file: &str, field: &str, value: Value) {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).expect("a config");
        let mut config: Value = serde_json::from_str(&text).expect("a config");
        *config.pointer_mut(field).expect("the field") = value;
        std::fs::write(path, config.to_string()).expect("a config");
    }
    fn without(folder: &Path, file: &str, name: &str, instead: Option<&[usize]>) {
        let path = folder.join(file);
        let source = arc_core::weights::SafetensorsFile::open(&path).expect("a file");
        let mut tensors = Tensors::default();
        for name in source.names() {
            let tensor = source.tensor(name).expect("a tensor");
            tensors.insert(name, tensor.shape(), tensor.to_f32());
        }
        tensors.remove(name);
        if let Some(shape) = instead {
            tensors.insert(name, shape, vec![0.0; shape.iter().product()]);
        }
        drop(source);
        tensors.save(&path);
    }
    type Change = Box<dyn Fn(&Path)>;
    let changes: Vec<(Change, &[&str])> = vec![
        (
            Box::new(|folder| std::fs::write(folder.join("cases.json"), "[{").expect("a file")),
            &["cases.json", "not a valid cases file"],
        ),
        (Box::new(cases(|cases| *cases = json!([]))), &["it has no cases"]),
        (
            Box::new(cases(|cases| cases[0]["tokens"][1][2] = json!(29))),
            &["`two sequences`", "token 29 in `tokens`, expected less than 29"],
        ),
        (
            Box::new(cases(|cases| cases[1]["contexts"][0][0][3] = json!(37))),
            &["`second decoder`", "token 37 in `contexts`, expected less than 37"],
        ),
        (
            Box::new(cases(|cases| cases[0]["insert_after"][0] = json!([2]))),
            &["2 contexts in sequence 0, but 1 numbers in `insert_after`"],
        ),
        (
            Box::new(cases(|cases| cases[0]["tokens"] = json!([[1, 2, 3, 4, 5, 6]]))),
            &["`contexts` of 2 sequences, `tokens` of 1"],
        ),
        (
            Box::new(cases(|cases| cases[1]["insert_after"] = json!([[6]]))),
            &["inserts after 6 tokens in sequence 0, which has 5"],
        ),
        (Box::new(cases(|cases| cases[1]["contexts"] = json!([[[]]]))), &["without a token in sequence 0"]),
        (
            Box::new(cases(|cases| {
                cases[1]["contexts"] = json!([[]]);
                cases[1]["insert_after"] = json!([[]]);
            })),
            &["has no contexts"],
        ),
        (Box::new(cases(|cases| cases[1]["decoder"] = json!(2))), &["decoder2"]),
        (Box::new(cases(|cases| cases[1]["task"] = json!("sing"))), &["unknown variant `sing`"]),
        (
            Box::new(|folder| without(folder, "expected.safetensors", "two sequences.logits", None)),
            &["has no tensor `two sequences.logits`"],
        ),
        (
            Box::new(|folder| {
                without(folder, "expected.safetensors", "two sequences.latents", Some(&[2, 20]));
            }),
            &["`two sequences.latents`", "[2, 20]"],
        ),
        (
            Box::new(|folder| {
                without(folder, "model.safetensors", "embedder.layers.1.ffn_norm.weight", None);
            }),
            &["has no tensor `embedder.layers.1.ffn_norm.weight`"],
        ),
        (
            Box::new(|folder| {
                without(folder, "model.safetensors", "bridge_module.1.layer2.weight", Some(&[18, 9]));
            }),
            &["`bridge_module.1.layer2.weight`", "[18, 9]", "[18, 10]"],
        ),
        (
            Box::new(|folder| without(folder, "decoder0/consolidated.safetensors", "norm.weight", None)),
            &["has no tensor `norm.weight`"],
        ),
        (
            Box::new(|folder| config(folder, "config.json", "/model_args/n_heads", json!("five"))),
            &["config.json", "expected usize"],
        ),
        (
            Box::new(|folder| {
                let mut tensors = Tensors::default();
                let sizes = Sizes { d: 12, k: 4, ..decoder_sizes() };
                let mut numbers = Numbers(3);
                numbers.llama(&mut tensors, "", &sizes, sizes.layers);
                numbers.head(&mut tensors, &sizes);
                tensors.save(&folder.join("decoder0/consolidated.safetensors"));
                std::fs::write(folder.join("decoder0/params.json"), sizes.to_json().to_string())
                    .expect("sizes");
            }),
            &["decoder 0 of case `two sequences`", "`18`", "`12`"],
        ),
    ];
    for (change, says) in changes {
        let folder = tempfile::tempdir().expect("a folder");
        other_sizes(folder.path());
        change(folder.path());
        let (code, stdout, stderr) = check(folder.path(), &[]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{says:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors[..] else { panic!("{stderr}") };
        for part in says {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }
}
