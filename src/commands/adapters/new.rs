//! `arc adapters new`: an untrained adapter that verifies as it is.

use std::path::{Path, PathBuf};

use arc_adapters::{EncoderManifest, Scaffold};
use serde_json::json;

use super::shown;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::New;
use crate::commands::destination::check_folder;
use crate::commands::session::session;
use crate::output::Output;

pub(super) fn run(global: &Global, new: &New, output: &Output) -> Result<(), Failure> {
    let folder = new.output.clone().unwrap_or_else(|| PathBuf::from(&new.name));
    // Found out before a model is pulled.
    if folder.exists() {
        return Err(arc_adapters::Error::Exists { path: folder }.into());
    }
    check_folder(&folder)?;
    let dependency = new.code.then(|| dependency(new.arc_plugin.as_deref())).transpose()?;
    let session = session(global)?;
    let registry = session.registry();
    let pair = registry.resolve(&new.decoder, new.encoder.as_deref())?;
    let entry = pair.decoder;
    let encoder = EncoderManifest::open(&pair.encoder()?.package)?;
    let decoder = session.decoder(&entry.name)?;
    let d_decoder = decoder.network.config().d_model();
    let ends = ((decoder.pin(), d_decoder), (encoder.pin(), encoder.d_encoder));
    let scaffold = Scaffold::new(&new.name, ends.0, ends.1)
        .d_hidden(new.d_hidden.map_or(d_decoder, |d_hidden| d_hidden as usize))
        .pooling_factors(if new.factor.is_empty() { vec![rate_of(&encoder)] } else { new.factor.clone() });
    let manifest = match &dependency {
        Some(dependency) => scaffold.plugin_crate(&folder, dependency)?,
        None => scaffold.package(&folder)?,
    };
    output.line(format!("made {}", shown(&folder)))?;
    if new.code {
        output.remark(format!(
            "build it with `cargo build --release --manifest-path {}`",
            shown(&folder.join("Cargo.toml"))
        ));
    }
    output.json(&json!({
        "adapter": manifest.name,
        "folder": folder.to_string_lossy(),
        "code": new.code,
        "decoder": manifest.decoder,
        "encoder": manifest.encoder,
        "weights_sha256": manifest.weights.sha256,
    }))
}

/// How many tokens a latent of the encoder stands for: its layers' rates together.
fn rate_of(encoder: &EncoderManifest) -> u32 {
    let rates = encoder.compress_rates.iter().filter(|rate| **rate < -1);
    rates.fold(1, |product: u64, rate| product.saturating_mul(rate.unsigned_abs())).min(4096) as u32
}

/// What the crate's `Cargo.toml` says about arc-plugin: the path of its source, which lies in
/// this project.
fn dependency(named: Option<&Path>) -> Result<String, Failure> {
    let is_source = |folder: &Path| folder.join("Cargo.toml").is_file() && folder.join("ABI.md").is_file();
    let folder = match named {
        Some(folder) => Some(folder.to_owned()).filter(|folder| is_source(folder)),
        None => {
            let here = std::env::current_dir().unwrap_or_default();
            here.ancestors().map(|folder| folder.join("arc-plugin")).find(|folder| is_source(folder))
        }
    };
    let folder = folder.ok_or_else(|| {
        Failure::usage(
            match named {
                Some(folder) => format!("`{}` is not the source of arc-plugin", folder.display()),
                None => "there is no `arc-plugin` in this folder or above it".to_owned(),
            },
            "name the folder of its source with `--arc-plugin DIR`",
        )
    })?;
    let folder = folder.canonicalize().map_err(arc_core::Error::io("find", &folder))?;
    let path = folder.to_str().ok_or_else(|| {
        Failure::failed(
            format!("`{}` cannot stand in a `Cargo.toml`: it is not Unicode", folder.display()),
            "name the folder by another path, such as a link, with `--arc-adapters DIR`",
        )
    })?;
    // A JSON string is a TOML string.
    Ok(format!("{{ path = {} }}", json!(path)))
}
