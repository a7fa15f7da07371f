//! What the user's environment says about where models come from.

use std::{env, ffi::OsString};

/// The variables that a pull obeys, read once so that a pull does not change its mind half way.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// `ARC_OFFLINE`: nothing is fetched.
    pub(super) offline: bool,
    /// `ARC_PIP`: the program that is run as pip.
    pub(super) pip: Option<OsString>,
    /// `HF_ENDPOINT`: the hub's address, without a slash at the end.
    pub(super) hf_endpoint: String,
    /// `HF_TOKEN`: sent to the hub, and to no other host.
    pub(super) hf_token: Option<String>,
}

impl Environment {
    pub(super) fn read() -> Self {
        let text = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            offline: text("ARC_OFFLINE").is_some_and(|value| value.trim() != "0"),
            pip: env::var_os("ARC_PIP").filter(|value| !value.is_empty()),
            hf_endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            hf_token: text("HF_TOKEN").map(|token| token.trim().to_owned()),
        }
    }
}
