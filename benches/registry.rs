//! What a name costs: resolving it, loading what it means, swapping between two, and projecting
//! latents by the built-in projector and across the plugin ABI.
//!
//! The shapes are those of smollm2-135m and its encoder: 64 latents (256 tokens at 4 to 1) and the
//! special vector, through two layers of 576 by 576. The plugin is C that does the same sums in one
//! thread; `copy` in its place does none, and so shows what the boundary itself takes.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arc_adapters::{
    Adapter, AdapterManifest, AdapterPackage, AdapterTensor, Append, DecoderPin, EncoderPin, Isolation,
    PluginEntry, PluginPolicy, ProjectorLayer, ProjectorSpec, Registry, WeightType, WeightsFile, sha256_file,
};
use arc_core::decoder::GenerateOptions;
use arc_core::device::DeviceName;
use arc_core::encoder::CompressOptions;
use arc_core::hub::{self, Cache, Consent, Silent};
use arc_core::{AdaptedDecoder, Session};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

/// Width of the latents and of the decoder.
const D: usize = 576;
/// Rows that are projected for a context of 256 tokens.
const N: usize = 64 + 1;
const SMALL: &str = "smollm2-135m";
const OTHER: &str = "gemma3-270m";

fn registry() -> Registry {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("registry.toml");
    Registry::open(&path).expect("the repository's registry")
}

/// The package that a decoder's name resolves to.
fn package_of(name: &str) -> PathBuf {
    let registry = registry();
    let pair = registry.resolve(name, None).expect("an entry");
    pair.adapter().expect("a package").path().to_owned()
}

fn session() -> Session {
    let cache = Cache::from_env().expect("a cache");
    let locate = move |model: &_, name: &str| hub::pull(model, name, &cache, &Silent, Consent::Given);
    Session::new(registry(), DeviceName::CPU, Box::new(locate)).expect("the CPU")
}

fn resolve(criterion: &mut Criterion) {
    let registry = registry();
    let mut group = criterion.benchmark_group("resolve");
    for (what, name) in [("a name", SMALL), ("an alias", "smollm2")] {
        group
            .bench_function(what, |bencher| bencher.iter(|| registry.resolve(black_box(name), None).is_ok()));
    }
    group.bench_function("an unknown name, with the nearest", |bencher| {
        bencher.iter(|| registry.decoder(black_box("smolm2-135")).is_err());
    });
    group.bench_function("the registry file", |bencher| bencher.iter(self::registry));
    group.finish();
}

fn load(criterion: &mut Criterion) {
    let folder = package_of(SMALL);
    let mut group = criterion.benchmark_group("first load");
    group.sample_size(10);
    group.bench_function("package: read, hash and check", |bencher| {
        bencher.iter(|| Adapter::open(&folder).expect("the package"));
    });
    // The model is opened anew each time: it hashes its table when the first adapter asks, and once.
    group.bench_function("adapter, before a loaded model", |bencher| {
        bencher.iter_batched(
            || session().decoder(SMALL).expect("the model"),
            |model| {
                let adapter = Adapter::open(&folder).expect("the package");
                AdaptedDecoder::new(model, adapter).expect("it fits")
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("adapter and model", |bencher| {
        bencher.iter_batched(
            session,
            |session| session.adapted_decoder(SMALL).expect("the decoder"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn swap(criterion: &mut Criterion) {
    let session = session();
    session.adapted_decoder(SMALL).expect("the decoder");
    session.adapted_decoder(OTHER).expect("the other decoder");
    let mut names = [SMALL, OTHER].into_iter().cycle();
    criterion.bench_function("swap between two loaded decoders", |bencher| {
        bencher.iter(|| session.adapted_decoder(names.next().expect("without end")).expect("it is loaded"));
    });
}

fn project(criterion: &mut Criterion) {
    let session = session();
    let decoder = session.adapted_decoder(SMALL).expect("the decoder");
    let text = "The committee will meet again in the spring to look at what was found. ".repeat(40);
    let encoder = session.encoder().expect("the encoder");
    let ids = encoder.tokenizer.encode(&text).expect("tokens").offsets;
    let text = &text[..ids[255].1];
    let latents = encoder.compress(text, CompressOptions::at_factor(4)).expect("latents");
    assert_eq!(latents.len() + 1, N);

    let workshop = tempfile::tempdir().expect("a folder");
    let mut group = criterion.benchmark_group(format!("project {N} rows"));
    group.bench_function("built in", |bencher| {
        bencher.iter(|| decoder.project(&latents).expect("rows").into_data());
    });
    let x: Vec<f32> = (0..N * D).map(|i| ((i * 37) % 101) as f32 / 101.0 - 0.5).collect();
    for (name, body) in [("two products in C", PRODUCTS), ("copy", COPY)] {
        let library = compile(workshop.path(), name, body);
        for (place, isolation) in [("in process", None), ("isolated", Some(isolation()))] {
            let policy = PluginPolicy::default()
                .allow(true)
                .folders(vec![workshop.path().into()])
                .isolation(isolation);
            let entry = PluginEntry::new(library.clone(), sha256_file(&library).expect("its hash"));
            let adapter = Adapter::load_plugin(&entry, &policy).expect("the plugin");
            let projector = adapter.host_projector().expect("its function");
            group.bench_function(format!("plugin, {name}, {place}"), |bencher| {
                bencher.iter(|| projector.project(black_box(&x), N).expect("rows"));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("request");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    let options = GenerateOptions::default().max_tokens(16);
    group.bench_function("64 latents, a question, 16 new tokens", |bencher| {
        bencher.iter(|| {
            let documents = std::slice::from_ref(&latents);
            decoder.ask(documents, "What will the committee do?", &options).expect("an answer")
        });
    });
    group.bench_function("64 latents, a question, the first token", |bencher| {
        let options = GenerateOptions::default().max_tokens(1);
        bencher.iter(|| {
            let documents = std::slice::from_ref(&latents);
            decoder.ask(documents, "What will the committee do?", &options).expect("an answer")
        });
    });
    group.finish();
}

fn isolation() -> Isolation {
    Isolation::new(env!("CARGO_BIN_EXE_arc")).args(vec!["serve-plugin".to_owned()])
}

const COPY: &str = "memcpy(y, x, n * D * sizeof *y);";

/// The weights are the same in every row, which no compiler is told.
const PRODUCTS: &str = "
    static float w[D * D], h[D];
    if (!w[0]) for (size_t i = 0; i < D * D; i++) w[i] = (float)((i * 31) % 97) / 9700.0f + 1e-4f;
    for (size_t r = 0; r < n; r++) {
        for (size_t o = 0; o < D; o++) {
            float sum = 0;
            for (size_t i = 0; i < D; i++) sum += w[o * D + i] * x[r * D + i];
            h[o] = sum;
        }
        for (size_t o = 0; o < D; o++) {
            float sum = 0;
            for (size_t i = 0; i < D; i++) sum += w[o * D + i] * h[i];
            y[r * D + o] = sum;
        }
    }";

/// A plugin in C whose `project` is `body`.
fn compile(folder: &Path, name: &str, body: &str) -> PathBuf {
    let manifest = {
        let decoder =
            DecoderPin::new("none", "none").embedding_sha256("0".repeat(64)).tokenizer_sha256("0".repeat(64));
        let projector = ProjectorSpec::new(vec![ProjectorLayer::Custom { d_in: D, d_out: D }]);
        AdapterManifest::new((decoder, D), (EncoderPin::new("none", "none"), D), projector)
            .name("bench".into())
            .pooling_factors(vec![4])
            .append(Append::None)
            .prompt_template("{{ document }}{{ question }}")
            .weights(WeightsFile::new("adapter.safetensors", "0".repeat(64)))
    };
    let package = folder.join("package");
    let token = AdapterTensor::new("tokens.rec", &[D], &[0.0; D], WeightType::F32);
    AdapterPackage::write(&package, &manifest, &[token]).expect("a package");
    let array = |name: &str, file: &str| {
        let bytes = std::fs::read(package.join(file)).expect("a file of the package");
        let bytes: Vec<_> = bytes.iter().map(ToString::to_string).collect();
        format!("static const uint8_t {name}[] = {{{}}};\n", bytes.join(","))
    };
    let source = format!(
        "#include <string.h>\n#include \"arc_adapter.h\"\n#define D {D}\n{}{}\
         static ArcBytes manifest(void) {{ return (ArcBytes){{MANIFEST, sizeof MANIFEST}}; }}\n\
         static ArcBytes weights(void) {{ return (ArcBytes){{WEIGHTS, sizeof WEIGHTS}}; }}\n\
         static int64_t project(const float *x, size_t n, size_t d, float *y, size_t capacity) {{\n\
           if (d != D) return ARC_ERROR_SHAPE;\n\
           if (capacity < n * D) return ARC_ERROR_CAPACITY;\n\
           {body}\n\
           return (int64_t)(n * D);\n\
         }}\n\
         static const ArcAdapter adapter = {{\n\
           sizeof(ArcAdapter), ARC_ABI_VERSION, manifest, weights, project}};\n\
         const ArcAdapter *arc_adapter(void) {{ return &adapter; }}\n",
        array("MANIFEST", "adapter.json"),
        array("WEIGHTS", "adapter.safetensors"),
    );
    let (c, library) = (folder.join("plugin.c"), folder.join(format!("lib{}.so", name.replace(' ', "-"))));
    std::fs::write(&c, source).expect("the source");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O3", "-march=native", "-ffast-math", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("arc-plugin/include"))
        .arg("-o")
        .args([&library, &c])
        .status()
        .expect("the system's compiler");
    assert!(status.success());
    library
}

criterion_group!(benches, resolve, load, swap, project);
criterion_main!(benches);
