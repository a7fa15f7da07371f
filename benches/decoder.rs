//! Reading 512 tokens, and writing one more after them, for each decoder that is in the cache.
//!
//! `cargo bench --bench decoder`; a decoder that is not in the cache is left out and says so.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use arc_core::Session;
use arc_core::device::DeviceName;
use arc_core::hub::Cache;
use arc_core::prompt::Prompt;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const PROMPT: usize = 512;

fn decoders(criterion: &mut Criterion) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let session = Session::open(&root.join("registry.toml"), DeviceName::CPU).expect("the registry");
    let cache = Cache::from_env().expect("a cache folder");
    for entry in session.registry().decoders() {
        if cache.find(&entry.model, &entry.name).is_none() {
            eprintln!("left out: `{}` is not in the cache, `arc pull {}`", entry.name, entry.name);
            continue;
        }
        let decoder = session.decoder(&entry.name).expect("the decoder");
        let mut group = criterion.benchmark_group(&entry.name);
        group.sample_size(10).warm_up_time(Duration::from_secs(1));

        let prompt = [Prompt::from_tokens((0..PROMPT as u32).map(|i| 1000 + i * 7919 % 9000).collect())];
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function("prefill 512", |bencher| bencher.iter(|| black_box(decoder.prefill(&prompt))));

        let embedded = decoder.network.embed(&[1000]).unsqueeze::<3>();
        group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
        group.bench_function("decode after 512", |bencher| {
            bencher.iter_custom(|steps| {
                let (_, mut cache) = decoder.prefill(&prompt);
                let start = Instant::now();
                for _ in 0..steps {
                    let hidden = decoder.network.forward(embedded.clone(), &mut cache);
                    // The next token waits for the logits, so the clock does too.
                    black_box(decoder.network.logits(hidden).into_data());
                }
                start.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, decoders);
criterion_main!(benches);
