//! Every layer of a described projector against its definition in float64, and its gradients against
//! the slopes of that definition.

use std::collections::BTreeMap;

use arc_adapters::{Adapter, ProjectorLayer, ProjectorSpec, TensorF32};
use arc_core::device::DeviceName;
use arc_core::projector::{Projector, ProjectorWeights};
use burn::module::Module as _;
use burn::tensor::{Tensor, TensorData};

/// Rows that are projected.
const N: usize = 3;

/// Weights by name, in torch layout.
type Weights = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

fn linear(d_in: usize, d_out: usize, bias: bool) -> ProjectorLayer {
    ProjectorLayer::Linear { d_in, d_out, bias }
}

fn rms_norm(d: usize) -> ProjectorLayer {
    ProjectorLayer::RmsNorm { d, eps: 0.03 }
}

fn layer_norm(d: usize) -> ProjectorLayer {
    ProjectorLayer::LayerNorm { d, eps: 0.02 }
}

fn residual(layers: Vec<ProjectorLayer>) -> ProjectorLayer {
    ProjectorLayer::Residual { layers }
}

/// Each piece alone, and together.
fn projectors() -> Vec<(&'static str, usize, Vec<ProjectorLayer>)> {
    let scale = ProjectorLayer::Scale { factor: -1.75 };
    let (gelu, silu) = (ProjectorLayer::Gelu {}, ProjectorLayer::Silu {});
    vec![
        ("linear", 5, vec![linear(5, 4, false)]),
        ("linear with bias", 5, vec![linear(5, 4, true)]),
        ("rms norm", 5, vec![rms_norm(5)]),
        ("layer norm", 5, vec![layer_norm(5)]),
        ("gelu", 5, vec![gelu.clone()]),
        ("silu", 5, vec![silu.clone()]),
        ("scale", 5, vec![scale.clone()]),
        ("residual", 5, vec![residual(vec![linear(5, 5, true)])]),
        ("the paper's", 5, vec![linear(5, 3, false), linear(3, 6, false)]),
        (
            "a transformer's feed-forward",
            5,
            vec![
                residual(vec![layer_norm(5), linear(5, 7, true), gelu, linear(7, 5, true)]),
                rms_norm(5),
                linear(5, 6, false),
            ],
        ),
        (
            "nested",
            4,
            vec![
                residual(vec![rms_norm(4), residual(vec![silu, linear(4, 4, true)]), scale]),
                linear(4, 6, true),
                layer_norm(6),
            ],
        ),
    ]
}

/// Numbers that look random and are the same each time, between -1 and 1.
fn numbers(seed: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| ((seed * 7919 + i * 104_729 + i * i * 31) % 2003) as f64 / 1001.0 - 1.0).collect()
}

fn weights_of(spec: &ProjectorSpec) -> Weights {
    spec.weight_slots()
        .into_iter()
        .enumerate()
        .map(|(seed, slot)| {
            let values = numbers(seed + 1, slot.shape.iter().product());
            (slot.name, (slot.shape, values))
        })
        .collect()
}

/// The standard normal distribution function, by Simpson's rule: `burn` is not asked.
fn phi(x: f64) -> f64 {
    const STEPS: u32 = 400;
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let h = x / f64::from(STEPS);
    let inner = |i: u32| density(h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 };
    0.5 + h / 3.0 * (density(0.0) + density(x) + (1..STEPS).map(inner).sum::<f64>())
}

/// One row through layers, as [`ProjectorLayer`] defines them.
fn defined(prefix: &str, layers: &[ProjectorLayer], weights: &Weights, row: &[f64]) -> Vec<f64> {
    let mut x = row.to_vec();
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("{prefix}.{index}");
        let weight = |field: &str| &weights[&format!("{name}.{field}")].1;
        let d = x.len() as f64;
        x = match layer {
            ProjectorLayer::Linear { d_in, bias, .. } => weight("weight")
                .chunks(*d_in)
                .enumerate()
                .map(|(o, w)| {
                    let sum: f64 = w.iter().zip(&x).map(|(w, x)| w * x).sum();
                    sum + if *bias { weight("bias")[o] } else { 0.0 }
                })
                .collect(),
            ProjectorLayer::RmsNorm { eps, .. } => {
                let rms = (x.iter().map(|x| x * x).sum::<f64>() / d + eps).sqrt();
                x.iter().zip(weight("weight")).map(|(x, w)| x / rms * w).collect()
            }
            ProjectorLayer::LayerNorm { eps, .. } => {
                let mean = x.iter().sum::<f64>() / d;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d;
                let (w, b) = (weight("weight"), weight("bias"));
                let normed = x.iter().map(|x| (x - mean) / (variance + eps).sqrt());
                normed.zip(w.iter().zip(b)).map(|(x, (w, b))| x * w + b).collect()
            }
            ProjectorLayer::Gelu {} => x.iter().map(|x| x * phi(*x)).collect(),
            ProjectorLayer::Silu {} => x.iter().map(|x| x / (1.0 + (-x).exp())).collect(),
            ProjectorLayer::Residual { layers } => {
                let inner = defined(&name, layers, weights, &x);
                x.iter().zip(inner).map(|(x, y)| x + y).collect()
            }
            ProjectorLayer::Scale { factor } => x.iter().map(|x| factor * x).collect(),
            other => panic!("no definition of {other:?}"),
        };
    }
    x
}

fn project(layers: &[ProjectorLayer], weights: &Weights, rows: &[f64], d_in: usize) -> Vec<f64> {
    rows.chunks(d_in).flat_map(|row| defined("projector", layers, weights, row)).collect()
}

/// The projector of these weights on the CPU, and its rows.
fn built(spec: &ProjectorSpec, weights: &Weights, rows: &[f64], d_in: usize) -> (Projector, Tensor<2>) {
    let device = DeviceName::CPU.open().expect("the CPU");
    let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
    let load = |name: &str| {
        let (shape, values) = &weights[name];
        Ok(TensorF32 { shape: shape.clone(), values: single(values) })
    };
    let projector = Projector::from_weights(spec.clone(), &load, &device).expect("a projector");
    (projector, Tensor::from_data(TensorData::new(single(rows), [N, d_in]), &device))
}

#[test]
fn every_layer_computes_what_its_definition_says() {
    for (what, d_in, layers) in projectors() {
        let spec = ProjectorSpec::new(layers);
        let (weights, rows) =
            (weights_of(&spec), numbers(99, N * d_in).iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        let expected = project(&spec.layers, &weights, &rows, d_in);
        spec.check(d_in, expected.len() / N).unwrap_or_else(|reason| panic!("{what}: {reason}"));
        let (projector, x) = built(&spec, &weights, &rows, d_in);
        let y = projector.forward(x).expect("rows");
        assert_eq!(y.dims(), [N, expected.len() / N], "{what}");
        let y = y.into_data().convert::<f32>();
        for (i, (found, expected)) in y.as_slice::<f32>().expect("f32").iter().zip(&expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error < 1e-5 * expected.abs().max(1.0),
                "{what}, value {i}: {found}, expected {expected}"
            );
        }
    }
}

/// `scripts/golden/adapter_package.py` was written from the page about adapter packages, and wrote this one.
#[test]
fn a_package_of_another_implementation_is_read_as_it_was_meant() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapter-package");
    let expected = std::fs::read(folder.join("expected.json")).expect("golden data");
    let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().expect("a row").iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    let device = DeviceName::CPU.open().expect("the CPU");
    let adapter = Adapter::open(&folder).expect("a package");
    let projector = Projector::from_adapter(&adapter, &device).expect("a projector");
    let token = |name: &str| adapter.weights.tensor(name).expect("a special vector").values;
    let mut rows: Vec<(Vec<f32>, Vec<f64>)> = vec![
        (token("tokens.cont"), numbers(&expected["cont"])),
        (token("tokens.rec"), numbers(&expected["rec"])),
    ];
    let pairs = expected["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .zip(expected["projected"].as_array().expect("rows"));
    rows.extend(pairs.map(|(row, out)| (numbers(row).iter().map(|v| *v as f32).collect(), numbers(out))));
    for (row, expected) in rows {
        let x = Tensor::<2>::from_data(TensorData::new(row, [1, adapter.manifest.d_encoder]), &device);
        let y = projector.forward(x).expect("rows").into_data().convert::<f32>();
        let y = y.as_slice::<f32>().expect("f32");
        assert_eq!(y.len(), expected.len());
        for (found, expected) in y.iter().zip(&expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 1e-5 * expected.abs().max(1.0), "{found}, expected {expected}");
        }
    }
}

/// The weights of a projector by name, with the gradient of each in torch layout.
fn gradients(
    prefix: &str,
    layers: &[ProjectorWeights],
    all: &burn::tensor::Gradients,
    found: &mut BTreeMap<String, Vec<f32>>,
) {
    let values = |data: TensorData| data.convert::<f32>().try_to_vec::<f32>().expect("f32");
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("{prefix}.{index}");
        if let Some(matrix) = &layer.matrix {
            let gradient = matrix.val().grad(all).expect("a gradient of the matrix");
            found.insert(format!("{name}.weight"), values(gradient.transpose().into_data()));
        }
        for (field, vector) in [("weight", &layer.scale), ("bias", &layer.bias)] {
            if let Some(vector) = vector {
                let gradient = vector.val().grad(all).expect("a gradient of the vector");
                found.insert(format!("{name}.{field}"), values(gradient.into_data()));
            }
        }
        gradients(&name, &layer.inner, all, found);
    }
}

#[test]
fn gradients_are_the_slopes_of_the_definition() {
    const STEP: f64 = 1e-5;
    for (what, d_in, layers) in projectors() {
        let spec = ProjectorSpec::new(layers);
        let (mut weights, mut rows) = (weights_of(&spec), numbers(99, N * d_in));
        let n_out = project(&spec.layers, &weights, &rows, d_in).len();
        // A loss in which every output counts differently.
        let shares = numbers(5, n_out);
        let loss = |weights: &Weights, rows: &[f64]| -> f64 {
            project(&spec.layers, weights, rows, d_in).iter().zip(&shares).map(|(y, c)| y * c).sum()
        };

        let (projector, x) = built(&spec, &weights, &rows, d_in);
        let (projector, x) = (projector.train(), x.autodiff().require_grad());
        let shares = TensorData::new(shares.iter().map(|c| *c as f32).collect::<Vec<_>>(), [N, n_out / N]);
        let shares = Tensor::<2>::from_data(shares, &x.device());
        let y = projector.forward(x.clone()).expect("rows");
        let all = (y * shares).sum().backward();
        let mut found = BTreeMap::new();
        gradients("projector", &projector.layers, &all, &mut found);
        let of_rows = x.grad(&all).expect("a gradient of the rows").into_data().convert::<f32>();

        let agrees = |name: &str, i: usize, found: f32, slope: f64| {
            let error = (f64::from(found) - slope).abs();
            assert!(error <= 1e-2 * slope.abs().max(0.05), "{what}, {name} {i}: {found}, slope {slope}");
        };
        assert_eq!(found.keys().collect::<Vec<_>>(), weights.keys().collect::<Vec<_>>(), "{what}");
        for (name, gradient) in &found {
            for (i, gradient) in gradient.iter().enumerate() {
                let mut at = |change: f64| {
                    let value = weights[name].1[i];
                    weights.get_mut(name).expect("it is there").1[i] = value + change;
                    let loss = loss(&weights, &rows);
                    weights.get_mut(name).expect("it is there").1[i] = value;
                    loss
                };
                agrees(name, i, *gradient, (at(STEP) - at(-STEP)) / (2.0 * STEP));
            }
        }
        for (i, gradient) in of_rows.as_slice::<f32>().expect("f32").iter().enumerate() {
            let mut at = |change: f64| {
                let value = rows[i];
                rows[i] = value + change;
                let loss = loss(&weights, &rows);
                rows[i] = value;
                loss
            };
            agrees("row value", i, *gradient, (at(STEP) - at(-STEP)) / (2.0 * STEP));
        }
    }
}
