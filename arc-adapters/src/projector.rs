//! What a projector computes, as data: the host builds it on its own device and can train it.
//!
//! Each layer maps rows of its input width to rows of its output width. Weights are named by the
//! position of the layer: layer 2 reads `projector.2.weight`, and layer 0 inside a residual at
//! position 1 reads `projector.1.0.weight`.

use serde::{Deserialize, Serialize};

/// Widths beyond this are a damaged or hostile file, not a model.
const MAX_WIDTH: usize = 1 << 20;
/// Layers in all, and how deep residuals nest.
const MAX_LAYERS: usize = 64;
const MAX_DEPTH: usize = 8;

/// The layers of a projector, first applied first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProjectorSpec {
    /// At least one layer.
    pub layers: Vec<ProjectorLayer>,
}

/// One step of a projector, on rows `x` of width d.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ProjectorLayer {
    /// `x Wᵀ + b`. Reads `weight` `[d_out, d_in]` and, with a bias, `bias` `[d_out]`.
    Linear {
        /// Input width.
        d_in: usize,
        /// Output width.
        d_out: usize,
        /// Whether a bias is added.
        #[serde(default)]
        bias: bool,
    },
    /// `x / sqrt(mean(x²) + eps) · w`. Reads `weight` `[d]`.
    RmsNorm {
        /// Width.
        d: usize,
        /// Added to the mean square.
        eps: f64,
    },
    /// `(x − mean(x)) / sqrt(var(x) + eps) · w + b`, variance over d. Reads `weight` and `bias` `[d]`.
    LayerNorm {
        /// Width.
        d: usize,
        /// Added to the variance.
        eps: f64,
    },
    /// `x · Φ(x)`, with the exact normal distribution function, not its tanh approximation.
    Gelu {},
    /// `x · sigmoid(x)`.
    Silu {},
    /// `x + f(x)`, where f is the inner layers and keeps the width.
    Residual {
        /// The layers of f.
        layers: Vec<ProjectorLayer>,
    },
    /// `factor · x`.
    Scale {
        /// The constant.
        factor: f64,
    },
    /// Computed by the `project` function of a code plugin: no weights here, inference only.
    /// It is the only layer of its projector.
    Custom {
        /// Input width.
        d_in: usize,
        /// Output width.
        d_out: usize,
    },
}

/// A weight that a projector reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightSlot {
    /// The name in the weights file.
    pub name: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl ProjectorSpec {
    /// These layers, the first applied first.
    #[must_use]
    pub fn new(layers: Vec<ProjectorLayer>) -> Self {
        Self { layers }
    }

    /// The width between its linear layers, where it has two.
    pub(crate) fn width_between(&self) -> Option<usize> {
        let mut widths = self.layers.iter().filter_map(|layer| match layer {
            ProjectorLayer::Linear { d_out, .. } => Some(*d_out),
            _ => None,
        });
        let first = widths.next();
        first.filter(|_| widths.count() == 1)
    }

    /// The projector of the ARC-Encoder paper: two linear layers without bias, nothing in between.
    #[must_use]
    pub fn two_linear(d_encoder: usize, d_hidden: usize, d_decoder: usize) -> Self {
        let linear = |d_in, d_out| ProjectorLayer::Linear { d_in, d_out, bias: false };
        Self { layers: vec![linear(d_encoder, d_hidden), linear(d_hidden, d_decoder)] }
    }

    /// Whether the projector is the `project` function of a code plugin.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        matches!(self.layers.as_slice(), [ProjectorLayer::Custom { .. }])
    }

    /// Every weight that the projector reads, in the order of the layers.
    #[must_use]
    pub fn weight_slots(&self) -> Vec<WeightSlot> {
        let mut slots = Vec::new();
        collect_slots("projector", &self.layers, &mut slots);
        slots
    }

    /// Checks that each layer takes the width that the one before gives, from `d_in` to `d_out`.
    ///
    /// # Errors
    /// [`Error::InvalidProjector`](crate::Error::InvalidProjector) says what is wrong, and where.
    pub fn check(&self, d_in: usize, d_out: usize) -> crate::Result<()> {
        self.fault(d_in, d_out).map_err(|reason| crate::Error::InvalidProjector { reason })
    }

    /// What is wrong with the layers, and where, as one line.
    pub(crate) fn fault(&self, d_in: usize, d_out: usize) -> Result<(), String> {
        for (what, d) in [("d_encoder", d_in), ("d_decoder", d_out)] {
            check_width(what, d)?;
        }
        if self.layers.is_empty() {
            return Err("the projector has no layers".to_owned());
        }
        let mut n_layers = 0;
        let found = check_layers("projector", &self.layers, d_in, 0, &mut n_layers)?;
        if found != d_out {
            return Err(format!("the projector gives width {found}, d_decoder is {d_out}"));
        }
        if !self.is_custom() && self.layers.iter().any(|l| matches!(l, ProjectorLayer::Custom { .. })) {
            return Err("a `custom` layer must be the only one".to_owned());
        }
        Ok(())
    }
}

fn check_width(what: &str, d: usize) -> Result<(), String> {
    if d == 0 || d > MAX_WIDTH {
        return Err(format!("{what} is {d}, expected 1 to {MAX_WIDTH}"));
    }
    Ok(())
}

/// The width that `layers` give for input width `d`.
fn check_layers(
    at: &str,
    layers: &[ProjectorLayer],
    mut d: usize,
    depth: usize,
    n_layers: &mut usize,
) -> Result<usize, String> {
    if depth > MAX_DEPTH {
        return Err(format!("`{at}` nests residuals more than {MAX_DEPTH} deep"));
    }
    for (i, layer) in layers.iter().enumerate() {
        let at = format!("{at}.{i}");
        *n_layers += 1;
        if *n_layers > MAX_LAYERS {
            return Err(format!("the projector has more than {MAX_LAYERS} layers"));
        }
        let takes = |d_in: usize, d: usize| {
            if d_in == d { Ok(()) } else { Err(format!("`{at}` takes width {d_in}, it is given {d}")) }
        };
        match layer {
            ProjectorLayer::Linear { d_in, d_out, .. } | ProjectorLayer::Custom { d_in, d_out } => {
                takes(*d_in, d)?;
                check_width(&format!("d_out of `{at}`"), *d_out)?;
                d = *d_out;
            }
            ProjectorLayer::RmsNorm { d: width, eps } | ProjectorLayer::LayerNorm { d: width, eps } => {
                takes(*width, d)?;
                if !(eps.is_finite() && *eps >= 0.0) {
                    return Err(format!("eps of `{at}` is {eps}, expected 0 or more"));
                }
            }
            ProjectorLayer::Gelu {} | ProjectorLayer::Silu {} => {}
            ProjectorLayer::Scale { factor } => {
                if !factor.is_finite() {
                    return Err(format!("factor of `{at}` is {factor}"));
                }
            }
            ProjectorLayer::Residual { layers } => {
                if layers.is_empty() {
                    return Err(format!("`{at}` has no layers"));
                }
                if layers.iter().any(|l| matches!(l, ProjectorLayer::Custom { .. })) {
                    return Err("a `custom` layer must be the only one".to_owned());
                }
                let inner = check_layers(&at, layers, d, depth + 1, n_layers)?;
                if inner != d {
                    return Err(format!("`{at}` adds width {inner} to width {d}"));
                }
            }
        }
    }
    Ok(d)
}

fn collect_slots(at: &str, layers: &[ProjectorLayer], slots: &mut Vec<WeightSlot>) {
    for (i, layer) in layers.iter().enumerate() {
        let at = format!("{at}.{i}");
        let mut slot = |field: &str, shape: Vec<usize>| {
            slots.push(WeightSlot { name: format!("{at}.{field}"), shape });
        };
        match layer {
            ProjectorLayer::Linear { d_in, d_out, bias } => {
                slot("weight", vec![*d_out, *d_in]);
                if *bias {
                    slot("bias", vec![*d_out]);
                }
            }
            ProjectorLayer::RmsNorm { d, .. } => slot("weight", vec![*d]),
            ProjectorLayer::LayerNorm { d, .. } => {
                slot("weight", vec![*d]);
                slot("bias", vec![*d]);
            }
            ProjectorLayer::Residual { layers } => collect_slots(&at, layers, slots),
            ProjectorLayer::Gelu {}
            | ProjectorLayer::Silu {}
            | ProjectorLayer::Scale { .. }
            | ProjectorLayer::Custom { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(spec: &ProjectorSpec) -> Vec<String> {
        spec.weight_slots().into_iter().map(|slot| slot.name).collect()
    }

    #[test]
    fn the_papers_projector_is_two_linear_weights() {
        let spec = ProjectorSpec::two_linear(4, 2, 6);
        assert_eq!(spec.fault(4, 6), Ok(()));
        let slots = spec.weight_slots();
        assert_eq!(slots[0], WeightSlot { name: "projector.0.weight".into(), shape: vec![2, 4] });
        assert_eq!(slots[1], WeightSlot { name: "projector.1.weight".into(), shape: vec![6, 2] });
    }

    #[test]
    fn every_layer_is_read_from_json() {
        let json = r#"{"layers": [
            {"kind": "rms_norm", "d": 4, "eps": 1e-6},
            {"kind": "linear", "d_in": 4, "d_out": 6, "bias": true},
            {"kind": "residual", "layers": [
                {"kind": "layer_norm", "d": 6, "eps": 1e-5},
                {"kind": "linear", "d_in": 6, "d_out": 6},
                {"kind": "gelu"}, {"kind": "silu"}]},
            {"kind": "scale", "factor": 0.5}]}"#;
        let spec: ProjectorSpec = serde_json::from_str(json).unwrap();
        assert_eq!(spec.fault(4, 6), Ok(()));
        assert_eq!(
            names(&spec),
            [
                "projector.0.weight",
                "projector.1.weight",
                "projector.1.bias",
                "projector.2.0.weight",
                "projector.2.0.bias",
                "projector.2.1.weight",
            ]
        );
        let again: ProjectorSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        for json in [
            r#"{"layers": [{"kind": "linear", "d_in": 1, "d_out": 1, "biass": true}]}"#,
            r#"{"layers": [{"kind": "gelu", "approximate": true}]}"#,
            r#"{"layers": [{"kind": "relu"}]}"#,
            r#"{"layers": [{"kind": "linear", "d_in": -1, "d_out": 1}]}"#,
        ] {
            assert!(serde_json::from_str::<ProjectorSpec>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn widths_that_do_not_fit_are_named() {
        let linear = |d_in, d_out| ProjectorLayer::Linear { d_in, d_out, bias: false };
        let check = |layers: Vec<ProjectorLayer>| ProjectorSpec { layers }.fault(4, 6).unwrap_err();
        assert!(check(vec![]).contains("no layers"));
        assert!(check(vec![linear(5, 6)]).contains("`projector.0` takes width 5, it is given 4"));
        assert!(check(vec![linear(4, 5)]).contains("gives width 5, d_decoder is 6"));
        assert!(check(vec![linear(4, 0)]).contains("d_out of `projector.0` is 0"));
        assert!(check(vec![linear(4, usize::MAX)]).contains("expected 1 to"));
        assert!(
            check(vec![ProjectorLayer::Residual { layers: vec![linear(4, 6)] }])
                .contains("`projector.0` adds width 6 to width 4")
        );
        assert!(
            check(vec![linear(4, 4), ProjectorLayer::Custom { d_in: 4, d_out: 6 }]).contains("the only one")
        );
        let mut deep = ProjectorLayer::Gelu {};
        for _ in 0..10 {
            deep = ProjectorLayer::Residual { layers: vec![deep] };
        }
        assert!(check(vec![deep]).contains("deep"));
        assert!(check(vec![ProjectorLayer::Silu {}; 65]).contains("more than 64 layers"));
    }
}
