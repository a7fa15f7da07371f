//! Pulls against faults: a loopback server that misbehaves, a pip that fails, a disk that is full.

mod cache;
mod hugging_face;
#[cfg(unix)]
mod pip;

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    time::Duration,
};

use arc_adapters::{ModelFile, ModelSource};
use sha2::{Digest, Sha256};

use super::{
    Cache, Consent, Progress, Pull, Silent,
    environment::{Environment, HubToken},
};
use crate::{Error, Result};

const NAME: &str = "some-model";

/// What the tests put into the user's environment: no hub, no pip, no retry that waits.
fn environment() -> Environment {
    Environment {
        offline: false,
        pip: Some("/nonexistent/pip".into()),
        hub_offline: None,
        hf_endpoint: "http://127.0.0.1:9".into(),
        hf_token: HubToken::None,
    }
}

fn hub_token(token: &str) -> HubToken {
    HubToken::Known { token: token.into(), place: "`HF_TOKEN`".into() }
}

fn pull(model: &ModelFile, cache: &Cache, environment: Environment) -> Result<PathBuf> {
    pull_with(model, cache, environment, &Silent, Consent::Given)
}

fn pull_with(
    model: &ModelFile,
    cache: &Cache,
    environment: Environment,
    progress: &dyn Progress,
    consent: Consent<'_>,
) -> Result<PathBuf> {
    let retry_delay = Duration::ZERO;
    Pull { model, name: NAME, progress, consent, environment, retry_delay }.run(cache)
}

fn model(source: ModelSource, sha256: Option<String>, bytes: Option<u64>) -> ModelFile {
    ModelFile::unpinned(source).sha256(sha256).bytes(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    arc_adapters::hexadecimal(&Sha256::digest(bytes))
}

/// Bytes without a period, so that a piece out of place is seen.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Every path under `folder`, relative to it, folders left out.
fn files_under(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// What a progress bar would show.
#[derive(Default)]
struct Recorder {
    /// Total and position after each beginning.
    bars: RefCell<Vec<(Option<u64>, u64)>>,
    messages: RefCell<Vec<String>>,
    finished: RefCell<u32>,
}

impl Progress for Recorder {
    fn begin(&self, total: Option<u64>) {
        self.bars.borrow_mut().push((total, 0));
    }
    fn advance(&self, bytes: u64) {
        self.bars.borrow_mut().last_mut().expect("begun").1 += bytes;
    }
    fn message(&self, text: &str) {
        self.messages.borrow_mut().push(text.into());
    }
    fn finish(&self) {
        *self.finished.borrow_mut() += 1;
    }
}

fn assert_one_line(error: &Error) {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
}
