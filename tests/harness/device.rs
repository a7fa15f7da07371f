//! Where the tests with tiny golden data run.

use arc_core::device::DeviceName;
use burn::tensor::Device;

/// What rounding may do on another device than the CPU, of a tensor's largest magnitude.
const TOLERANCE: f64 = 2e-3;

/// The device of `ARC_TEST_DEVICE`, else the CPU, and how far it may be off: `on_cpu`, or more.
pub(crate) fn device(on_cpu: f64) -> (Device, f64) {
    match std::env::var("ARC_TEST_DEVICE") {
        Ok(name) => {
            let device = name.parse::<DeviceName>().and_then(DeviceName::open).expect("a device");
            (device, on_cpu.max(TOLERANCE))
        }
        Err(_) => (DeviceName::CPU.open().expect("the CPU"), on_cpu),
    }
}
