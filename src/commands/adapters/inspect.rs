//! `arc adapters inspect`: an adapter in full.

use arc_adapters::AdapterManifest;
use serde_json::json;

use super::subject::Subject;
use super::{shown, table};
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Inspect;
use crate::commands::session::plugin_policy;
use crate::output::Output;

pub(super) fn run(global: &Global, inspect: &Inspect, output: &Output) -> Result<(), Failure> {
    let subject = Subject::find(global, &inspect.adapter)?;
    let inspection = match subject.open(&plugin_policy(global)?) {
        // Its weights are published elsewhere, and its manifest describes them.
        Err(arc_adapters::Error::NotImported { .. }) if let Some(folder) = subject.folder() => {
            arc_adapters::inspect_manifest(&AdapterManifest::open(folder)?, folder)
        }
        opened => arc_adapters::inspect(&opened?),
    };
    let manifest = &inspection.manifest;

    let factors: Vec<_> = manifest.pooling_factors.iter().map(ToString::to_string).collect();
    let facts = [
        ("adapter", manifest.name.clone()),
        ("from", shown(&inspection.origin)),
        ("decoder", format!("{} ({})", manifest.decoder.name, manifest.decoder.architecture)),
        ("  embedding table", pinned(&manifest.decoder.embedding_sha256)),
        ("  tokenizer", pinned(&manifest.decoder.tokenizer_sha256)),
        ("encoder", manifest.encoder.name.clone()),
        ("  encoder_id", manifest.encoder.encoder_id.clone()),
        ("projector", format!("{} to {}", manifest.d_encoder, manifest.d_decoder)),
        ("pooling factors", factors.join(", ")),
        ("parameters", inspection.n_parameters.to_string()),
        ("trainable", if inspection.trainable { "yes" } else { "no, it is a plugin's function" }.to_owned()),
        (
            "weights",
            if inspection.imported { "here" } else { "published elsewhere, not imported" }.to_owned(),
        ),
        ("prompt", format!("{:?}", manifest.prompt_template)),
    ];
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, fact) in &facts {
        output.line(format!("{name:<width$}  {fact}"))?;
    }
    let layers = manifest.projector.layers.iter().enumerate().map(|(index, layer)| {
        let text = serde_json::to_string(layer).unwrap_or_default();
        [index.to_string(), text]
    });
    output.block(format!("\n{}", table(["LAYER", ""], layers)))?;
    let tensors = inspection.tensors.iter().map(|tensor| {
        [tensor.name.clone(), tensor.dtype.unwrap_or_default().to_owned(), format!("{:?}", tensor.shape)]
    });
    output.block(format!("\n{}", table(["TENSOR", "TYPE", "SHAPE"], tensors)))?;
    let mut object = json!(inspection);
    if let Subject::Decoder(registry, name) = &subject {
        let pairs = registry.pairs(name)?;
        if let [pair, others @ ..] = pairs.as_slice() {
            output.line("")?;
            output.line(pair.why())?;
            object["why"] = json!(pair.why());
            for other in others {
                if let Some(place) = other.adapter {
                    output.line(format!("{}: {}", other.label(), shown(place.path())))?;
                }
            }
        }
        let listed = arc_adapters::list(registry);
        let adapters = listed.iter().find(|decoder| decoder.name == *name).map(|decoder| &decoder.adapters);
        if let Some(adapters) = adapters.filter(|adapters| !adapters.is_empty()) {
            object["adapters"] = adapters
                .iter()
                .map(|(encoder, folder)| (encoder.clone(), json!(folder.to_string_lossy())))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
    }
    output.json(&object)
}

fn pinned(sha256: &str) -> String {
    if sha256.is_empty() { "not pinned" } else { sha256 }.to_owned()
}
