//! Device names, and which of them this build and this machine have.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use serde::Serialize;

use crate::host::{InstructionSet, Vectors, bfloat16_products, integer_products};
use crate::{Error, Hint, Result};

/// A kind of device, as users name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor; always there.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// AMD GPUs.
    Rocm,
    /// Apple GPUs.
    Metal,
    /// GPUs through Vulkan.
    Vulkan,
    /// GPUs through whatever wgpu finds.
    Wgpu,
}

impl DeviceKind {
    /// All kinds, the ones that `auto` prefers first.
    pub const ALL: [Self; 6] = [Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Wgpu, Self::Cpu];

    /// The name users write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether this binary has the backend; the feature has the kind's name.
    #[must_use]
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// The devices of this kind on this machine; empty where the backend is not built in or finds
    /// none. Never panics, even where a driver is missing.
    #[must_use]
    pub fn devices(self) -> Vec<Device> {
        #[cfg(feature = "gpu")]
        use burn::tensor::DeviceType;
        match self {
            Self::Cpu => vec![Device::flex()],
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(DeviceType::Cuda).into_vec(),
            #[cfg(feature = "rocm")]
            Self::Rocm => Device::enumerate(DeviceType::Rocm).into_vec(),
            #[cfg(feature = "metal")]
            Self::Metal => Device::enumerate(DeviceType::Metal).into_vec(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Device::enumerate(DeviceType::Vulkan).into_vec(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::enumerate(DeviceType::Wgpu).into_vec(),
            #[allow(unreachable_patterns, reason = "which kinds are left depends on the features")]
            _ => Vec::new(),
        }
    }

    /// What [`DeviceKind::devices`] finds, as users see it. This opens the devices, which takes a moment.
    #[must_use]
    pub fn describe(self) -> Vec<DeviceDescription> {
        let described = self.devices().into_iter().enumerate().map(|(index, device)| DeviceDescription {
            name: DeviceName::One { kind: self, index }.to_string(),
            hardware: self.hardware(&device),
            software: self.is_software(&device),
        });
        described.collect()
    }

    /// Whether a device of this kind is a driver that computes on the CPU, and more slowly than the CPU
    /// backend does.
    fn is_software(self, device: &Device) -> bool {
        match self {
            #[cfg(feature = "vulkan")]
            Self::Vulkan => *device == Device::vulkan(burn::tensor::DeviceKind::Cpu),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => *device == Device::wgpu(burn::tensor::DeviceKind::Cpu),
            _ => {
                let _ = device;
                false
            }
        }
    }

    /// What a device of this kind calls itself.
    fn hardware(self, device: &Device) -> String {
        #[cfg(feature = "gpu")]
        if self != Self::Cpu {
            return device.identity().map_or_else(|| "unnamed".to_owned(), |identity| identity.name);
        }
        let _ = device;
        Processor::here().name
    }
}

/// A device of this machine, as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceDescription {
    /// What a device can be named.
    pub name: String,
    /// What the hardware calls itself.
    pub hardware: String,
    /// Whether it is a driver that computes on the CPU, which `auto` does not take.
    pub software: bool,
}

/// The processor that the CPU backend runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Processor {
    /// What it calls itself, or else its architecture.
    pub name: String,
    /// How many threads the engine runs.
    pub threads: usize,
    /// The vector instructions that the kernels use: `AVX-512`, `AVX2`, `NEON`, or `none`.
    pub instructions: &'static str,
    /// The sets that `ARC_INSTRUCTIONS` can force on this machine, best last.
    pub instruction_sets: Vec<&'static str>,
    /// What each kind of product is computed with.
    pub products: Vec<ProcessorProduct>,
}

/// What a kind of product is computed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessorProduct {
    /// What is multiplied.
    pub kind: &'static str,
    /// By which instructions.
    pub instructions: String,
}

impl Processor {
    /// This machine's.
    #[must_use]
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        let name = raw_cpuid::CpuId::new()
            .get_processor_brand_string()
            .map(|brand| brand.as_str().split_whitespace().collect::<Vec<_>>().join(" "));
        #[cfg(not(target_arch = "x86_64"))]
        let name = None;
        Self {
            name: name
                .filter(|name: &String| !name.is_empty())
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            threads: rayon::current_num_threads(),
            instructions: described(Vectors::best()),
            instruction_sets: InstructionSet::available().into_iter().map(InstructionSet::name).collect(),
            products: products(),
        }
    }
}

fn described(vectors: Vectors) -> &'static str {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => "AVX2",
        // Part of the architecture, so that the compiler uses it in portable code.
        Vectors::Portable if cfg!(target_arch = "aarch64") => "NEON",
        Vectors::Portable => "none",
    }
}

fn products() -> Vec<ProcessorProduct> {
    let vectors = Vectors::best();
    let gemm = "the best that `gemm` finds, whatever `ARC_INSTRUCTIONS` says";
    [
        ("float32, matrices", gemm),
        ("float32, a few rows of stored weights", described(vectors)),
        ("bfloat16 (`fast`, many at a time; training)", bfloat16_products()),
        ("8-bit integers (`fast`)", integer_products()),
    ]
    .map(|(kind, instructions)| ProcessorProduct { kind, instructions: instructions.to_owned() })
    .into()
}

/// A device as users name it: `cpu`, `cuda`, `cuda:1`, `vulkan`, …, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU that this build and this machine have, else the CPU; see [`DeviceName::automatic`].
    Auto,
    /// One device of a kind.
    One {
        /// The kind.
        kind: DeviceKind,
        /// Which of them, from 0.
        index: usize,
    },
}

impl DeviceName {
    /// The CPU.
    pub const CPU: Self = Self::One { kind: DeviceKind::Cpu, index: 0 };

    /// What `auto` means on this machine: the first GPU in the order of [`DeviceKind::ALL`], else the
    /// CPU. A driver that computes on the CPU is no GPU; the CPU backend is faster.
    #[must_use]
    pub fn automatic() -> Self {
        let first = |kind: DeviceKind| {
            let index = kind.devices().iter().position(|device| !kind.is_software(device))?;
            Some(Self::One { kind, index })
        };
        DeviceKind::ALL.into_iter().find_map(first).unwrap_or(Self::CPU)
    }

    /// Finds the device.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if this build lacks the backend or this machine the device, or if
    /// `ARC_INSTRUCTIONS` names vector instructions that it does not have.
    pub fn open(self) -> Result<Device> {
        let Self::One { kind, index } = self else {
            return Self::automatic().open();
        };
        InstructionSet::chosen()?;
        let name = self.to_string();
        if !kind.is_built() {
            return Err(Error::Device {
                hint: Hint::BuildOrCpu { feature: kind.to_string() },
                reason: format!("this build has no {kind} backend"),
                name,
            });
        }
        let mut devices = kind.devices();
        if index < devices.len() {
            return Ok(devices.swap_remove(index));
        }
        let reason = match devices.len() {
            0 => format!("no {kind} device was found on this machine"),
            1 => format!("this machine has one {kind} device, number 0"),
            count => format!("this machine has {count} {kind} devices, numbers 0 to {}", count - 1),
        };
        Err(Error::Device { name, reason, hint: "run `arc devices` to see what there is".into() })
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::One { kind, index: 0 } => kind.fmt(f),
            Self::One { kind, index } => write!(f, "{kind}:{index}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::Device {
            name: text.to_owned(),
            reason: "there is no such name".into(),
            hint: "use `cpu`, `cuda`, `cuda:1`, `rocm`, `metal`, `vulkan`, `wgpu` or `auto`".into(),
        };
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, index.parse().map_err(|_| unknown())?),
            None => (text, 0),
        };
        let kind = DeviceKind::ALL.into_iter().find(|known| known.name() == kind).ok_or_else(unknown)?;
        Ok(Self::One { kind, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["auto", "cpu", "cuda", "cuda:3", "rocm", "metal", "vulkan:1", "wgpu"] {
            assert_eq!(name.parse::<DeviceName>().expect(name).to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_names_that_exist() {
        for name in ["", "gpu", "cuda:", "cuda:x", "cpu:-1", "CPU"] {
            let error = name.parse::<DeviceName>().expect_err(name);
            assert!(error.hint().is_some_and(|hint| hint.to_string().contains("vulkan")), "{name}");
        }
    }

    #[test]
    fn auto_never_takes_a_driver_that_computes_on_the_cpu() {
        let DeviceName::One { kind, index } = DeviceName::automatic() else { panic!("it is one device") };
        assert!(!kind.describe()[index].software);
        let better = DeviceKind::ALL.into_iter().take_while(|other| *other != kind);
        assert!(better.flat_map(DeviceKind::describe).all(|device| device.software));
    }

    #[test]
    fn the_cpu_is_always_there_and_only_once() {
        assert!(DeviceName::CPU.open().is_ok());
        let error = "cpu:1".parse::<DeviceName>().and_then(DeviceName::open).expect_err("one CPU");
        assert!(error.to_string().contains("number 0"), "{error}");
    }
}
