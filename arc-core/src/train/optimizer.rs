//! AdamW (Loshchilov and Hutter, 2019) with a rate for each group of parameters.
//!
//! The arithmetic stays on the device, the clipping factor with it, so that a step waits for
//! nothing.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::OptimizerConfig;
use super::parameters::with_parameters;

/// Gradients by parameter name, flattened.
pub type Gradients = BTreeMap<String, Tensor<1>>;

/// Which learning rate a parameter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParameterGroup {
    /// The shared encoder.
    Encoder,
    /// The projectors.
    Projector,
    /// `<Cont>`, `<Rec>` and memory tokens.
    Special,
    /// The scales of projectors' outputs.
    Scale,
}

impl ParameterGroup {
    /// The group of a parameter, by its name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let field = name.rsplit('.').next().unwrap_or(name);
        if matches!(field, "cont" | "rec" | "memory") {
            Self::Special
        } else if field == "log_scale" {
            Self::Scale
        } else if name.starts_with("encoder.") {
            Self::Encoder
        } else {
            Self::Projector
        }
    }
}

/// The running averages of one parameter.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    /// Of the gradient.
    pub(super) first: Tensor<1>,
    /// Of its square.
    pub(super) second: Tensor<1>,
    /// How often the parameter was updated. A step trains one decoder's adapter, so parameters
    /// differ in this.
    pub(super) updates: u64,
}

/// The optimiser and its state.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    /// The rates of projectors that have one of their own, by the names that their parameters begin with.
    projector_rates: Vec<(String, f64)>,
    pub(super) moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser that has seen nothing.
    #[must_use]
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, projector_rates: Vec::new(), moments: BTreeMap::new() }
    }

    /// The same with rates of their own for the projectors of some adapters, in the adapters' order.
    #[must_use]
    pub fn with_projector_rates(mut self, rates: impl IntoIterator<Item = Option<f64>>) -> Self {
        let rates = rates.into_iter().enumerate();
        self.projector_rates =
            rates.filter_map(|(index, rate)| Some((format!("adapters.{index}."), rate?))).collect();
        self
    }

    /// Moves the parameters that have a gradient, after clipping all gradients together to the
    /// configured norm. `factor` scales the learning rates. Returns the model and the norm before
    /// clipping, `[1]`.
    #[must_use]
    pub fn step<M: Module>(
        &mut self,
        model: M,
        gradients: Gradients,
        factor: f64,
        device: &Device,
    ) -> (M, Tensor<1>) {
        self.step_of_norm(model, gradients, None, factor, device)
    }

    /// As [`AdamW::step`], with the norm of the gradients where it is known already.
    pub(super) fn step_of_norm<M: Module>(
        &mut self,
        model: M,
        gradients: Gradients,
        norm: Option<f64>,
        factor: f64,
        device: &Device,
    ) -> (M, Tensor<1>) {
        let norm = match norm {
            Some(norm) => Tensor::from_data([norm as f32], device),
            None if gradients.is_empty() => Tensor::zeros([1], device),
            None => {
                let squares: Vec<Tensor<1>> = gradients.values().flat_map(square_sums).collect();
                Tensor::cat(squares, 0).sum().sqrt()
            }
        };
        let clip = ((norm.clone() + 1e-6).recip() * self.config.clip_norm).clamp_max(1.0);
        // On the CPU nothing is gained by waiting with the factor.
        let on_host = (*device == Device::flex()).then(|| clip.clone().into_scalar::<f32>());
        let mut gradients = gradients;
        let model = with_parameters(model, &mut |name, rank, value| {
            let Some(gradient) = gradients.remove(name) else { return value };
            let rule = self.rule(name, rank, factor);
            let moments = self.moments.remove(name).unwrap_or_else(|| Moments {
                first: gradient.zeros_like(),
                second: gradient.zeros_like(),
                updates: 0,
            });
            let (value, moments) = match on_host {
                Some(clip) => rule.update_on_host(value, gradient, clip, moments),
                None => rule.update(value, gradient * clip.clone(), moments),
            };
            self.moments.insert(name.to_owned(), moments);
            value
        });
        (model, norm)
    }

    /// How a parameter is updated.
    fn rule(&self, name: &str, rank: usize, factor: f64) -> Rule {
        let OptimizerConfig { beta1, beta2, epsilon, .. } = self.config;
        let group = ParameterGroup::of(name);
        let rate = factor
            * match group {
                ParameterGroup::Encoder => self.config.encoder_rate,
                ParameterGroup::Projector => {
                    let own = self.projector_rates.iter().find(|(prefix, _)| name.starts_with(prefix));
                    own.map_or(self.config.projector_rate, |(_, rate)| *rate)
                }
                ParameterGroup::Scale => self.config.scale_rate,
                ParameterGroup::Special => self.config.special_rate,
            };
        // Norms and special vectors have no preferred scale of zero.
        let decays = rank > 1 && group != ParameterGroup::Special;
        Rule { beta1, beta2, epsilon, rate, decay: if decays { self.config.weight_decay } else { 0.0 } }
    }
}

/// The update of one parameter in one step.
#[derive(Clone, Copy, Debug)]
struct Rule {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    rate: f64,
    decay: f64,
}

impl Rule {
    fn update(self, value: Tensor<1>, gradient: Tensor<1>, moments: Moments) -> (Tensor<1>, Moments) {
        let Self { beta1, beta2, epsilon, rate, decay } = self;
        let updates = moments.updates + 1;
        let correction = |beta: f64| 1.0 - beta.powf(updates as f64);
        let first = moments.first * beta1 + gradient.clone() * (1.0 - beta1);
        let second = moments.second * beta2 + gradient.square() * (1.0 - beta2);
        let spread = (second.clone() / correction(beta2)).sqrt() + epsilon;
        let moved = first.clone() * (rate / correction(beta1)) / spread;
        (value * (1.0 - rate * decay) - moved, Moments { first, second, updates })
    }

    /// The same in one pass over host memory: on the CPU the dozen passes of [`Rule::update`] take
    /// longer than anything else in a small step.
    fn update_on_host(
        self,
        value: Tensor<1>,
        gradient: Tensor<1>,
        clip: f32,
        moments: Moments,
    ) -> (Tensor<1>, Moments) {
        let device = value.device();
        let updates = moments.updates + 1;
        let correction = |beta: f64| 1.0 - beta.powf(updates as f64);
        let (beta1, beta2, epsilon) = (self.beta1 as f32, self.beta2 as f32, self.epsilon as f32);
        let unbias = (1.0 / correction(self.beta2)) as f32;
        let rate = (self.rate / correction(self.beta1)) as f32;
        let keep = (1.0 - self.rate * self.decay) as f32;

        // Moves, where nothing else holds the tensor.
        let gradient = gradient.into_data();
        let [mut value, mut first, mut second] =
            [value, moments.first, moments.second].map(Tensor::into_data);
        {
            let slices = (
                value.as_mut_slice::<f32>().expect(F32),
                gradient.as_slice::<f32>().expect(F32),
                first.as_mut_slice::<f32>().expect(F32),
                second.as_mut_slice::<f32>().expect(F32),
            );
            let (values, gradients, firsts, seconds) = slices;
            values
                .par_chunks_mut(HOST_CHUNK)
                .zip(gradients.par_chunks(HOST_CHUNK))
                .zip(firsts.par_chunks_mut(HOST_CHUNK).zip(seconds.par_chunks_mut(HOST_CHUNK)))
                .for_each(|((values, gradients), (firsts, seconds))| {
                    for (((value, gradient), first), second) in
                        values.iter_mut().zip(gradients).zip(firsts).zip(seconds)
                    {
                        let gradient = gradient * clip;
                        *first = beta1 * *first + (1.0 - beta1) * gradient;
                        *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                        *value = keep * *value - rate * *first / ((*second * unbias).sqrt() + epsilon);
                    }
                });
        }
        let [value, first, second] = [value, first, second].map(|data| Tensor::from_data(data, &device));
        (value, Moments { first, second, updates })
    }
}

/// What host data on the CPU device is.
const F32: &str = "parameters are f32 on the CPU device";
/// Values that a thread updates at once.
const HOST_CHUNK: usize = 1 << 14;
/// Longer sums are taken in parts: those of the CPU backend depend on its threads.
const LONGEST_SUM: usize = 1 << 20;

/// The sums of squares of a gradient's parts, `[1]` each.
fn square_sums(gradient: &Tensor<1>) -> Vec<Tensor<1>> {
    let count = gradient.dims()[0];
    (0..count)
        .step_by(LONGEST_SUM)
        .map(|start| {
            let part = gradient.clone().narrow(0, start, LONGEST_SUM.min(count - start));
            part.square().sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor<1>) -> Vec<f32> {
        tensor.clone().try_into_vec_as::<f32>().expect("f32")
    }

    #[test]
    fn updates_are_those_of_the_published_algorithm() {
        let device = Device::flex();
        let config =
            OptimizerConfig { weight_decay: 0.1, projector_rate: 0.01, ..OptimizerConfig::default() };
        let (beta1, beta2) = (config.beta1, config.beta2);
        let optimizer = AdamW::new(config);
        let rule = optimizer.rule("adapters.0.projector.layers.0.matrix", 2, 1.0);
        let (mut m, mut v, mut expected) = (0.0_f64, 0.0_f64, 2.0_f64);
        let one = |value: f64| Tensor::<1>::from_data([value as f32], &device);
        let start = || (one(2.0), Moments { first: one(0.0), second: one(0.0), updates: 0 });
        let (mut on_device, mut on_host) = (start(), start());
        for (step, g) in [0.5_f64, -1.0, 0.25].into_iter().enumerate() {
            m = beta1 * m + (1.0 - beta1) * g;
            v = beta2 * v + (1.0 - beta2) * g * g;
            let t = step as i32 + 1;
            let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
            expected = expected * (1.0 - 0.01 * 0.1) - 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            on_device = rule.update(on_device.0, one(g), on_device.1);
            // Clipped by a half.
            on_host = rule.update_on_host(on_host.0, one(2.0 * g), 0.5, on_host.1);
            for (value, _) in [&on_device, &on_host] {
                assert!((f64::from(values(value)[0]) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_projector_has_the_rate_of_its_decoder() {
        let config =
            OptimizerConfig { projector_rate: 0.5, special_rate: 0.25, ..OptimizerConfig::default() };
        let optimizer = AdamW::new(config).with_projector_rates([None, Some(2.0)]);
        for (name, rate) in [
            ("adapters.0.projector.layers.0.matrix", 0.5),
            ("adapters.1.projector.layers.0.matrix", 2.0),
            ("adapters.10.projector.layers.0.matrix", 0.5),
            ("adapters.1.cont", 0.25),
        ] {
            assert_eq!(optimizer.rule(name, 2, 1.0).rate, rate, "{name}");
        }
    }

    #[test]
    fn groups_follow_from_names() {
        for (name, group) in [
            ("encoder.blocks.3.attention.query.weight", ParameterGroup::Encoder),
            ("encoder.memory", ParameterGroup::Special),
            ("adapters.1.cont", ParameterGroup::Special),
            ("rec", ParameterGroup::Special),
            ("adapters.0.log_scale", ParameterGroup::Scale),
            ("adapters.0.projector.layers.1.matrix", ParameterGroup::Projector),
        ] {
            assert_eq!(ParameterGroup::of(name), group, "{name}");
        }
    }
}
