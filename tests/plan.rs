//! What `arc plan` counts against what a forward pass issues, and through the binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use arc_adapters::{EncoderManifest, ProjectorSpec};
use arc_core::decoder::{Architecture, Transformer};
use arc_core::device::DeviceName;
use arc_core::encoder::{ArcEncoder, PoolingRate};
use arc_core::nn::{Residence, trace_flops};
use arc_core::plan::{DecoderSizes, EncoderSizes, PlanRequest, plan};
use arc_core::projector::Projector;
use arc_core::weights::{ArcCheckpoint, MetaFolder, TrainingSources};
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

/// Of the traced count. Nothing is left out, so that it is far above what is seen.
const TOLERANCE: f64 = 0.02;

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reference");
    let entries = std::fs::read_dir(root).expect("golden data");
    let folders: Vec<PathBuf> = entries.map(|entry| entry.expect("golden data").path()).collect();
    assert_eq!(folders.len(), 8, "{folders:?}");
    folders
}

/// The encoder of a fixture as a package would describe it.
fn manifest(checkpoint: &ArcCheckpoint, chunk_tokens: usize) -> EncoderManifest {
    let config = checkpoint.config();
    let embedder = &config.embedder_args;
    let manifest = json!({
        "schema": 1, "name": "fixture", "encoder_id": "x", "architecture": "llama",
        "d_encoder": config.model_args.dim, "n_truncated_layers": embedder.n_truncated_layers,
        "compress_rates": embedder.compress_rates, "pool_type": embedder.pooling_module.pool_type,
        "where": embedder.pooling_module.place, "causal": embedder.causal_embedder,
        "memory_tokens": embedder.memory_tokens, "chunk_tokens": chunk_tokens,
        "shape": config.model_args.shape(),
        "weights": { "kind": "published", "source": "hf:o/r@main#model.safetensors" },
    });
    EncoderManifest::parse(&manifest.to_string(), Path::new("fixture")).expect("a manifest")
}

fn close(what: &str, planned: f64, traced: u64) {
    let traced = traced as f64;
    assert!((planned - traced).abs() <= TOLERANCE * traced, "{what}: planned {planned}, traced {traced}");
}

#[test]
fn the_planned_work_is_what_a_forward_pass_issues() {
    let device: Device = DeviceName::CPU.open().expect("the CPU");
    let (mut plans, mut olmos, mut factors) = (0, 0, 0);
    for fixture in fixtures() {
        let checkpoint = ArcCheckpoint::open(&fixture, &TrainingSources::default()).expect("a checkpoint");
        for index in 0..checkpoint.decoders() {
            let decoder_folder = fixture.join(format!("decoder{index}"));
            let sizes = DecoderSizes::read(&decoder_folder).expect("sizes");
            olmos += usize::from(sizes.config().architecture == Architecture::Olmo);
            // An encoder with memory tokens has no factor.
            let pools = checkpoint.config().embedder_args.memory_tokens == 0;
            for (context, chunk_tokens, factor) in [
                (37, 64, None),
                (100, 32, None),
                (3, 8, None),
                (37, 64, Some(3)),
                (100, 32, Some(1)),
                (75, 30, Some(16)),
            ] {
                if factor.is_none() || pools {
                    traced(
                        &checkpoint,
                        index,
                        &sizes,
                        &decoder_folder,
                        context,
                        chunk_tokens,
                        factor,
                        &device,
                    );
                    plans += 1;
                    factors += usize::from(factor.is_some());
                }
            }
        }
    }
    assert_eq!((plans, olmos, factors), (9 * 3 + 8 * 3, 1, 8 * 3));
}

/// Compares one plan with the passes that it is of.
#[expect(clippy::too_many_arguments, reason = "a plan depends on all of them")]
fn traced(
    checkpoint: &ArcCheckpoint,
    index: usize,
    sizes: &DecoderSizes,
    decoder_folder: &Path,
    context: usize,
    chunk_tokens: usize,
    factor: Option<usize>,
    device: &Device,
) {
    let name = format!("{}, {context} in {chunk_tokens}, factor {factor:?}", decoder_folder.display());
    let encoder = ArcEncoder::from_checkpoint(checkpoint, index, device).expect("an encoder");
    let encoder = match factor {
        None => encoder,
        Some(1) => encoder.with_rates(vec![PoolingRate::Off]),
        Some(factor) => encoder.with_rates(vec![PoolingRate::Factor(factor)]),
    };
    let projector = Projector::from_checkpoint(checkpoint, index, device).expect("a projector");
    let projector = projector.expect("every fixture has one");
    let weights = MetaFolder::open(decoder_folder).expect("a decoder");
    let decoder = Transformer::from_meta(&weights, device, Residence::Dense).expect("a decoder");
    let encoder_sizes = EncoderSizes::new(&manifest(checkpoint, chunk_tokens), None).expect("sizes");
    let request = PlanRequest::new(context).factor(factor).new_tokens(5);
    let spec: &ProjectorSpec = projector.spec();
    let plan = plan(&encoder_sizes, spec, true, sizes, &request).expect("a plan");

    let ids: Vec<u32> = (0..context).map(|i| (i % 61) as u32).collect();
    let (latents, encoding) = trace_flops(|| {
        let chunks = ids.chunks(chunk_tokens);
        let chunks = chunks.map(|chunk| encoder.forward(&[chunk.to_vec()], device).row(0));
        Tensor::cat(chunks.collect(), 0)
    });
    assert_eq!(latents.dims()[0], plan.latents, "{name}");
    let special = Tensor::zeros([1, latents.dims()[1]], device);
    let rows = Tensor::cat(vec![latents, special], 0);
    let (projected, projecting) = trace_flops(|| projector.forward(rows).expect("projected"));
    close(&name, plan.compressed.flops.compress, encoding + projecting);

    for (arm, embeddings) in [(&plan.compressed, projected), (&plan.plain, decoder.embed(&ids))] {
        assert_eq!(embeddings.dims()[0], arm.positions);
        let mut cache = decoder.new_cache(vec![0]);
        let last = |hidden: Tensor<3>| {
            let s = hidden.dims()[1];
            decoder.logits(hidden.narrow(1, s - 1, 1))
        };
        let (_, prefill) = trace_flops(|| last(decoder.forward(embeddings.unsqueeze(), &mut cache)));
        close(&name, arm.flops.prefill, prefill);
        let (_, decode) = trace_flops(|| {
            for _ in 1..request.new_tokens {
                last(decoder.forward(decoder.embed(&[7]).unsqueeze(), &mut cache));
            }
        });
        close(&name, arm.flops.decode, decode);
    }
}

fn arc(arguments: &[&str]) -> (bool, String, String) {
    let home = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_arc"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("ARC_HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        .env("ARC_OFFLINE", "1")
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn published_decoders_are_planned_without_a_download() {
    // Values as their makers' cards state them.
    for (decoder, parameters) in [
        ("llama-3.1-8b", 8_030_261_248_u64),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("llama-2-7b-chat", 6_738_415_616),
        ("olmo-7b", 6_888_095_744),
    ] {
        let plan = ["plan", "--decoder", decoder, "--device-memory", "80G", "--context", "1024", "--json"];
        let (success, stdout, stderr) = arc(&plan);
        assert!(success, "{stderr}");
        let plan: Value = serde_json::from_str(&stdout).expect("one JSON object");
        assert_eq!(plan["plan"]["parameters"]["decoder"], parameters, "{decoder}");
        assert_eq!(plan["plan"]["latents"], 128);
        assert_eq!(plan["fits"]["compressed"], true);
    }
}

#[test]
fn memory_that_does_not_suffice_and_windows_that_are_too_short_are_said() {
    let plan = |memory: &str| {
        let arguments =
            ["plan", "--decoder", "llama-2-7b-chat", "--device-memory", memory, "--context", "32768"];
        let (success, stdout, stderr) = arc(&arguments);
        assert!(success, "{stderr}");
        stdout
    };
    let small = plan("8G");
    assert_eq!(small.matches("does not fit").count(), 4, "{small}");
    // 32,768 tokens are 4,096 latents, which alone fill the window of 4,096.
    let large = plan("1T");
    assert_eq!(large.matches("does not fit").count(), 2, "{large}");
}

#[test]
fn an_encoder_whose_backbone_is_a_file_of_its_own_is_planned() {
    let place = tempfile::tempdir().expect("a folder");
    let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reference/arc8_single/decoder0");
    let weights = decoder.join("consolidated.safetensors");
    let manifest = |source: &Path| {
        json!({
            "schema": 1, "name": "cut", "encoder_id": "x", "architecture": "llama", "d_encoder": 24,
            "n_truncated_layers": 1, "compress_rates": [-2], "pool_type": "mean", "where": "before",
            "chunk_tokens": 64,
            "backbone": {
                "source": format!("file:{}", source.display()),
                "sha256": arc_adapters::sha256_file(&weights).expect("a hash"),
            },
            "weights": { "kind": "backbone" },
        })
    };
    let registry = place.path().join("registry.toml");
    let entries = format!(
        "schema = 1\ndefault_encoder = \"cut\"\n[encoders.cut]\npackage = \".\"\n[decoders.zero]\nsource = {:?}\n",
        format!("file:{}", decoder.display())
    );
    std::fs::write(&registry, entries).expect("a registry");
    let plan = |source: &Path| {
        std::fs::write(place.path().join("encoder.json"), manifest(source).to_string()).expect("a package");
        let registry = registry.to_str().expect("UTF-8");
        arc(&["plan", "--registry", registry, "--decoder", "zero", "--context", "64", "--json"])
    };
    let (success, stdout, stderr) = plan(&weights);
    assert!(success, "{stderr}");
    let planned: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!(planned["plan"]["latents"], 32);
    // One of the two blocks, and the table.
    let block = 24 * (24 + 12 + 12 + 24) + 3 * 24 * 48 + 2 * 24;
    assert_eq!(planned["plan"]["parameters"]["encoder"], 89 * 24 + block);
    let (success, _, stderr) = plan(&place.path().join("elsewhere.safetensors"));
    assert!(
        !success && stderr.contains("the sizes of the backbone of encoder `cut` are not known"),
        "{stderr}"
    );
}

#[test]
fn a_decoder_without_sizes_is_refused_with_what_to_do() {
    let (success, _, stderr) = arc(&["plan", "--decoder", "gemma3-270m", "--context", "100"]);
    assert!(!success && stderr.contains("the sizes of `gemma3-270m` are not known"), "{stderr}");
    assert!(stderr.contains("hint: pull it with `arc pull gemma3-270m`"), "{stderr}");
}

#[test]
fn a_context_may_have_as_many_chunks_as_it_needs() {
    let (success, stdout, stderr) =
        arc(&["plan", "--decoder", "llama-3.1-8b", "--context", "40000", "--json"]);
    assert!(success, "{stderr}");
    let planned: Value = serde_json::from_str(&stdout).expect("one JSON object");
    assert_eq!(planned["plan"]["chunks"], 40);
}

#[test]
fn published_encoders_say_that_their_weights_are_not_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "a text").expect("a file");
    let latents = folder.path().join("x.arc.safetensors");
    let compress = |encoder: &str| {
        arc(&[
            "compress",
            text.to_str().expect("UTF-8"),
            "-o",
            latents.to_str().expect("UTF-8"),
            "--encoder",
            encoder,
        ])
    };
    for encoder in ["arc8-llama", "arc8-mistral", "arc8-multi"] {
        let (success, _, stderr) = compress(encoder);
        assert!(!success && stderr.contains(&format!("encoder `{encoder}`")), "{stderr}");
        assert!(stderr.contains("only their description") && stderr.contains("arc import"), "{stderr}");
    }
    let (success, stdout, stderr) = arc(&["models", "--json"]);
    assert!(success, "{stderr}");
    for name in ["llama-3.1-8b", "mistral-7b-v0.3", "olmo-7b", "llama-2-7b-chat", "arc8-multi"] {
        assert!(stdout.contains(&format!("\"{name}\"")), "{name}");
    }
}
