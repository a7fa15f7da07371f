//! `arc plan`: what a context costs, before anything is downloaded.

use arc_adapters::{
    AdapterManifest, AdapterPlace, DecoderEntry, EncoderManifest, ModelFile, ModelSource, Pair, PluginPolicy,
    ProjectorSpec, Registry,
};
use arc_core::hub::Cache;
use arc_core::plan::{DecoderSizes, EncoderSizes, Plan, PlanRequest, ReadingCost, plan};
use bytesize::ByteSize;
use serde_json::json;

use super::registries::registry;
use super::session::plugin_policy;
use crate::Failure;
use crate::args::{self, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &args::Plan, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let pair = registry.resolve(&args.decoder, args.encoder.as_deref())?;
    let (entry, encoder_name) = (pair.decoder, &pair.encoder()?.name);
    let decoder = sizes(entry)?;
    let manifest = EncoderManifest::open(&pair.encoder()?.package)?;
    let backbone = backbone(&registry, &manifest)?;
    let encoder = EncoderSizes::new(&manifest, backbone.as_ref())?;
    let adapter = adapter(&pair, &plugin_policy(global)?, &manifest)?;
    let assumed = adapter.as_ref().err().cloned();
    let (projector, special) = match adapter {
        Ok(adapter) => (adapter.projector, adapter.append != arc_adapters::Append::None),
        Err(_) => {
            let d = manifest.d_encoder;
            (ProjectorSpec::two_linear(d, d, decoder.config().d_model()), true)
        }
    };
    let request = PlanRequest::new(args.context)
        .factor(args.factor.map(usize::from))
        .new_tokens(args.new_tokens)
        .bytes_per_value(args.dtype.bytes());
    let plan = plan(&encoder, &projector, special && !args.no_special, &decoder, &request)?;

    if let Some(reason) = assumed {
        output.remark(format!("{reason}: two linear layers are assumed"));
    }
    print(&plan, &entry.name, encoder_name, args, output)?;
    let fits = |arm: &ReadingCost| args.device_memory.map(|memory| arm.bytes.total <= memory.0);
    output.json(&json!({
        "decoder": entry.name,
        "encoder": encoder_name,
        "adapter": pair.adapter.map(|place| place.path().to_string_lossy()),
        "bytes_per_value": request.bytes_per_value,
        "device_memory": args.device_memory.map(|memory| memory.0),
        "fits": { "compressed": fits(&plan.compressed), "plain": fits(&plan.plain) },
        "plan": plan,
    }))
}

/// A decoder's sizes: those of its file, if it is here, else those that the registry states.
fn sizes(entry: &DecoderEntry) -> Result<DecoderSizes, Failure> {
    if let Some(path) = Cache::from_env()?.find(&entry.model, &entry.name) {
        return Ok(DecoderSizes::read(&path)?);
    }
    match (&entry.shape, &entry.architecture) {
        (Some(shape), Some(architecture)) => Ok(DecoderSizes::from_shape(architecture, shape)?),
        _ => Err(Failure::failed(
            format!(
                "the sizes of `{}` are not known: it is not here, and the registry has no `shape`",
                entry.name
            ),
            format!("pull it with `arc pull {}`, or state its `shape` in the registry", entry.name),
        )),
    }
}

/// The sizes of the model that an encoder was cut from, if it was: a decoder of the registry, or a
/// file of its own, which has to be here.
fn backbone(registry: &Registry, manifest: &EncoderManifest) -> Result<Option<DecoderSizes>, Failure> {
    let Some(backbone) = &manifest.backbone else { return Ok(None) };
    if let Some(name) = &backbone.decoder {
        return Ok(Some(sizes(registry.decoder(name)?)?));
    }
    let Some(source) = &backbone.source else { return Ok(None) };
    let model = ModelFile::unpinned(source.clone()).sha256(Some(backbone.sha256.clone()));
    let path = match (source, Cache::from_env()?.find(&model, &manifest.name)) {
        (_, Some(path)) => path,
        // Its sizes do not depend on whether its hash was checked before.
        (ModelSource::File { path }, None) if path.exists() => path.clone(),
        (_, None) => {
            return Err(Failure::failed(
                format!("the sizes of the backbone of encoder `{}` are not known", manifest.name),
                format!("pull it with `arc pull {}`", manifest.name),
            ));
        }
    };
    Ok(Some(DecoderSizes::read(&path)?))
}

/// The adapter's description, whether or not its weights are here, or why there is none to plan with.
fn adapter(
    pair: &Pair<'_>,
    policy: &PluginPolicy,
    encoder: &EncoderManifest,
) -> Result<Result<AdapterManifest, String>, Failure> {
    let name = &pair.decoder.name;
    let manifest = match pair.adapter {
        None => return Ok(Err(format!("`{name}` has no adapter for `{}`", pair.encoder()?.name))),
        Some(AdapterPlace::Plugin(_)) => match pair.open(policy) {
            Ok(adapter) => adapter.manifest,
            Err(arc_adapters::Error::PluginNotAllowed { .. }) => {
                return Ok(Err(format!("the adapter of `{name}` is a code plugin, which may not run")));
            }
            Err(error) => return Err(error.into()),
        },
        Some(_) => match pair.described()? {
            Some(manifest) => manifest,
            None => return Ok(Err(format!("the adapter of `{name}` says nothing about itself"))),
        },
    };
    // One for another encoder has other widths.
    Ok(match manifest.check_encoder(&encoder.encoder_id) {
        Ok(()) => Ok(manifest),
        Err(_) => Err(format!("`{name}` has no adapter for `{}`", pair.encoder()?.name)),
    })
}

fn print(
    plan: &Plan,
    decoder: &str,
    encoder: &str,
    args: &args::Plan,
    output: &Output,
) -> Result<(), Failure> {
    output.block(format!(
        "{} tokens in {} chunks: {} latents of encoder `{encoder}` for decoder `{decoder}`\n",
        plan.context, plan.chunks, plan.latents
    ))?;
    let parameters = &plan.parameters;
    let mut rows = vec![row("", "parameters", "with compression", "without")];
    let bytes = |count: u64| ByteSize::b(count).to_string();
    let (with, without) = (&plan.compressed.bytes, &plan.plain.bytes);
    for (part, count, with, without) in [
        ("encoder", Some(parameters.encoder), with.encoder, without.encoder),
        ("projector", Some(parameters.projector), with.projector, without.projector),
        ("decoder", Some(parameters.decoder), with.decoder, without.decoder),
        ("KV cache", None, with.kv_cache, without.kv_cache),
        ("activations", None, with.activations, without.activations),
        ("memory", None, with.total, without.total),
    ] {
        let count = count.map_or_else(String::new, thousands);
        rows.push(row(part, &count, &bytes(with), &bytes(without)));
    }
    let flops = |count: f64| format!("{:.3} TFLOP", count / 1e12);
    let (with, without) = (&plan.compressed.flops, &plan.plain.flops);
    for (stage, with, without) in [
        ("compress", with.compress, without.compress),
        ("prefill", with.prefill, without.prefill),
        ("decode", with.decode, without.decode),
        ("work", with.total, without.total),
    ] {
        rows.push(row(stage, "", &flops(with), &flops(without)));
    }
    let window = |arm: &ReadingCost| if arm.fits_window { "fits" } else { "does not fit" };
    rows.push(row("window", "", window(&plan.compressed), window(&plan.plain)));
    if let Some(memory) = args.device_memory {
        let fits = |arm: &ReadingCost| if arm.bytes.total <= memory.0 { "fits" } else { "does not fit" };
        let what = format!("in {}", ByteSize::b(memory.0));
        rows.push(row(&what, "", fits(&plan.compressed), fits(&plan.plain)));
    }
    for line in rows {
        output.line(line)?;
    }
    output.block(format!(
        "\n{:.2} times less work to the first token, {:.2} times less in all; {:.2} by the paper's estimate",
        plan.prefill_ratio, plan.total_ratio, plan.paper_ratio
    ))
}

fn row(part: &str, count: &str, with: &str, without: &str) -> String {
    format!("{part:<14}{count:>16}{with:>20}{without:>20}").trim_end().to_owned()
}

/// `1234567` as `1,234,567`.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
