//! The trained parameters by name, flattened, for the optimiser and for checkpoints.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use sha2::{Digest as _, Sha256};

/// A parameter's name: the fields that lead to it, with dots between.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn name(&self) -> String {
        self.0.join(".")
    }
}

/// The parameters of a module that have a gradient, by name, with their shapes.
#[must_use]
pub fn named_parameters<M: Module>(module: &M) -> BTreeMap<String, (Vec<usize>, Tensor<1>)> {
    struct Collect {
        path: Path,
        found: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.base();
            if tensor.is_require_grad() {
                let shape = tensor.dims().to_vec();
                let count: usize = shape.iter().product();
                self.found.insert(self.path.name(), (shape, tensor.inner().reshape([count])));
            }
        }
    }
    let mut collect = Collect { path: Path::default(), found: BTreeMap::new() };
    module.visit(&mut collect);
    collect.found
}

/// The values that a module computes with, by parameter name and flattened, of those that `wanted`
/// picks: a low-rank delta is part of the value that it is added to.
pub(super) fn effective_values<M: Module>(
    module: &M,
    wanted: &dyn Fn(&str) -> bool,
) -> BTreeMap<String, (Vec<usize>, Tensor<1>)> {
    struct Collect<'a> {
        path: Path,
        wanted: &'a dyn Fn(&str) -> bool,
        found: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.name();
            if (self.wanted)(&name) {
                let tensor = param.val();
                let shape = tensor.dims().to_vec();
                let count: usize = shape.iter().product();
                let tensor = if tensor.is_autodiff() { tensor.inner() } else { tensor };
                self.found.insert(name, (shape, tensor.reshape([count])));
            }
        }
    }
    let mut collect = Collect { path: Path::default(), wanted, found: BTreeMap::new() };
    // A visitor sees a base and its delta apart.
    module.clone().materialize().visit(&mut collect);
    collect.found
}

/// The sha256 of every value that a module computes with, hexadecimal.
pub(super) fn values_sha256<M: Module>(module: &M) -> String {
    let hash = sha256_of(effective_values(module, &|_| true));
    arc_adapters::hexadecimal(&hash)
}

/// The sha256 of the parameters that have a gradient.
pub(super) fn parameters_sha256<M: Module>(module: &M) -> [u8; 32] {
    sha256_of(named_parameters(module))
}

fn sha256_of(values: BTreeMap<String, (Vec<usize>, Tensor<1>)>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (name, (_, value)) in values {
        hash.update(name.as_bytes());
        let data = value.into_data().convert::<f32>();
        hash.update(data.as_slice::<f32>().map_or(&[][..], bytemuck::cast_slice));
    }
    hash.finalize().into()
}

/// The gradients of a backward pass by parameter name, flattened; a parameter that the loss does
/// not reach has none.
pub(super) fn named_gradients<M: Module>(module: &M, gradients: &Gradients) -> BTreeMap<String, Tensor<1>> {
    struct Collect<'a> {
        path: Path,
        gradients: &'a Gradients,
        found: BTreeMap<String, Tensor<1>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.base().grad(self.gradients) {
                let count = gradient.shape().num_elements();
                self.found.insert(self.path.name(), gradient.reshape([count]));
            }
        }
    }
    let mut collect = Collect { path: Path::default(), gradients, found: BTreeMap::new() };
    module.visit(&mut collect);
    collect.found
}

/// Replaces trained parameters: `new` gets the name, the rank and the flattened value, and returns
/// the value that takes its place. What is given back unchanged is still a leaf of its own.
pub fn with_parameters<M: Module>(module: M, new: &mut dyn FnMut(&str, usize, Tensor<1>) -> Tensor<1>) -> M {
    struct Replace<'a> {
        path: Path,
        new: &'a mut dyn FnMut(&str, usize, Tensor<1>) -> Tensor<1>,
    }
    impl ModuleMapper for Replace<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !param.base().is_require_grad() {
                return param;
            }
            let name = self.path.name();
            param.map(|tensor| {
                let shape = tensor.shape();
                let strategy = tensor.gradient_checkpointing_strategy();
                let flat = tensor.inner().reshape([shape.num_elements()]);
                let value = (self.new)(&name, D, flat);
                // A leaf of its own: the graph of the last step ends here.
                let leaf = value.reshape(shape).autodiff();
                match strategy {
                    Some(strategy) => leaf.with_gradient_checkpointing_strategy(strategy),
                    None => leaf,
                }
                .require_grad()
            })
        }
    }
    module.map(&mut Replace { path: Path::default(), new })
}

/// A flat tensor of host values.
pub(super) fn flat(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
