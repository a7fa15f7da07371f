//! What the integration tests share: real models, and the golden data.

#[allow(clippy::duplicate_mod, reason = "a test binary may use both parts of the harness")]
pub(crate) mod notice;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_core::Session;
use arc_core::decoder::Decoder;
use arc_core::device::DeviceName;
use arc_core::nn::Precision;

/// A path in this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A session on the repository's own registry and the CPU, shared by the tests of one binary.
/// Models are pulled on first use. `None`, with a line on standard error, where `ARC_OFFLINE`
/// leaves out the tests that need models.
pub(crate) fn session() -> Option<&'static Session> {
    static SESSION: OnceLock<Session> = OnceLock::new();
    if notice::left_out_offline("a model") {
        return None;
    }
    Some(SESSION.get_or_init(|| {
        let session = Session::open(&repository("registry.toml"), DeviceName::CPU);
        session.expect("the repository's registry").with_precision(Precision::Exact)
    }))
}

/// A decoder of the registry, or `None` as in [`session`].
pub(crate) fn decoder(name: &str) -> Option<Arc<Decoder>> {
    Some(session()?.decoder(name).unwrap_or_else(|error| panic!("{name}: {error}")))
}
