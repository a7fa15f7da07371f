//! Every combination of kind, place, rate and mask against a forward pass in f64.

mod forward;

use std::path::Path;
use std::sync::Arc;

use arc_core::device::DeviceName;
use arc_core::encoder::{ArcEncoder, EncodedBatch, TokenRarity};
use arc_core::weights::{ArcCheckpoint, TrainingSources};
use burn::tensor::Device;
use forward::{Llama, Numbers, Pooling, Row, Sizes, Tensors, Words, row};
use serde_json::json;

/// Of the largest magnitude. float32 over three layers comes to 1e-6; the smallest mistakes below
/// to a hundred times this.
const TOLERANCE: f64 = 1e-5;

/// Blocks of the backbone that the encoder keeps.
const KEPT: usize = 3;

/// Lengths of a batch: shorter than a group, whole groups, and with a remainder.
const LENGTHS: [usize; 6] = [7, 1, 12, 2, 13, 5];

const KINDS: [&str; 4] = ["mean", "last", "sum", "fusion"];
const MERGING: [&str; 2] = ["metric_kmeans_euclidean", "metric_kmeans_cosine"];

fn sizes() -> Sizes {
    Sizes { d: 12, layers: 5, h: 4, g: 2, k: 6, f: 20, vocabulary: 23, epsilon: 1e-3, theta: 50.0 }
}

fn sequences() -> Vec<Vec<u32>> {
    LENGTHS.iter().map(|&n| (0..n).map(|i| ((i * i * 3 + i * 5 + n) % 23) as u32).collect()).collect()
}

/// A released checkpoint with this pooling, over the tensors that lie in `folder`.
fn encoder(folder: &Path, sizes: &Sizes, pooling: &Pooling<'_>, device: &Device) -> ArcEncoder {
    let config = json!({
        "embedder_args": {
            "n_truncated_layers": sizes.layers - KEPT, "compress_rates": pooling.rates,
            "pooling_module": { "pool_type": pooling.pool_type(), "where": pooling.place },
            "memory_tokens": pooling.memory.len(), "causal_embedder": pooling.causal,
            "rec_tok": false, "cont_tok": false,
        },
        "bridge_args": { "bridge_type": null },
        "model_args": sizes.to_json(),
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    let checkpoint = ArcCheckpoint::open(folder, &TrainingSources::default()).expect("a checkpoint");
    ArcEncoder::from_checkpoint(&checkpoint, 0, device).expect("an encoder")
}

fn device() -> Device {
    DeviceName::CPU.open().expect("the CPU")
}

fn rows(batch: &EncodedBatch, index: usize) -> Vec<Row> {
    let found = batch.row(index);
    let width = found.dims()[1];
    let data = found.into_data().convert::<f32>();
    data.as_slice::<f32>().expect("f32").chunks(width).map(row).collect()
}

/// The largest difference over the largest magnitude; infinite where the shapes differ.
fn difference(found: &[Row], expected: &[Row]) -> f64 {
    if found.iter().map(Vec::len).ne(expected.iter().map(Vec::len)) {
        return f64::INFINITY;
    }
    let pairs = || found.iter().flatten().zip(expected.iter().flatten());
    let largest = pairs().fold(0.0_f64, |largest, (_, value)| largest.max(value.abs()));
    // A difference that is no number must not pass for a small one.
    pairs().map(|(a, b)| (a - b).abs() / largest).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

/// Checks one pooling on all sequences: alone, in a batch of different lengths, and in the batch the
/// other way round. Returns the worst difference.
fn check(folder: &Path, tensors: &Tensors, pooling: &Pooling<'_>, device: &Device) -> f64 {
    let sizes = sizes();
    let reference = Llama { sizes: sizes.clone(), tensors };
    let mut network = encoder(folder, &sizes, pooling, device);
    if let Some(words) = pooling.words {
        let rarity = TokenRarity::new(words.nats.iter().copied(), words.joins.clone());
        network = network.with_rarity(Arc::new(rarity));
    }
    let sequences = sequences();
    let reversed: Vec<Vec<u32>> = sequences.iter().rev().cloned().collect();
    let batch = network.forward(&sequences, device);
    let reversed = network.forward(&reversed, device);
    let mut worst = 0.0_f64;
    for (index, ids) in sequences.iter().enumerate() {
        let expected = reference.encode(ids, KEPT, pooling);
        let alone = network.forward(std::slice::from_ref(ids), device);
        let counted = network.config().latents(ids.len());
        // Only a cluster can end up empty.
        let merges = MERGING.contains(&pooling.kind);
        assert!(
            alone.lengths[0] == counted || (merges && alone.lengths[0] < counted),
            "{pooling:?}, {} tokens: {counted} latents were counted, there are {}",
            ids.len(),
            alone.lengths[0]
        );
        for found in [rows(&alone, 0), rows(&batch, index), rows(&reversed, sequences.len() - 1 - index)] {
            let difference = difference(&found, &expected);
            assert!(difference <= TOLERANCE, "{pooling:?}, {} tokens: {difference}", ids.len());
            worst = worst.max(difference);
        }
    }
    worst
}

/// Tensors of an encoder, in a folder and as they are named there without the `embedder.`.
fn checkpoint(folder: &Path, memory_tokens: usize) -> Tensors {
    let mut tensors = Tensors::default();
    let mut numbers = Numbers(7);
    numbers.llama(&mut tensors, "embedder.", &sizes(), KEPT);
    if memory_tokens > 0 {
        let shape = [memory_tokens, sizes().d];
        numbers.table(&mut tensors, "embedder.mem_embeddings.0.weight".into(), shape);
    }
    tensors.save(&folder.join("model.safetensors"));
    tensors.below("embedder.")
}

/// All kinds in `kinds` at all rates, before and between, of queries and of the whole state, with and
/// without a causal mask; the worst difference and how many there were.
fn check_all(kinds: &[&str], all_rates: &[&[i64]]) -> (f64, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let tensors = checkpoint(folder.path(), 0);
    let device = device();
    let (mut worst, mut count) = (0.0_f64, 0);
    for &kind in kinds {
        for &rates in all_rates {
            for (queries_only, place, causal) in [
                (true, "before", false),
                (true, "before", true),
                (false, "before", false),
                (false, "before", true),
                (true, "between", false),
                (true, "between", true),
                (false, "between", false),
                (false, "between", true),
            ] {
                let pooling =
                    Pooling { kind, queries_only, place, rates, causal, memory: Vec::new(), words: None };
                worst = worst.max(check(folder.path(), &tensors, &pooling, &device));
                count += 1;
            }
        }
    }
    println!("{count} poolings, worst difference {worst:.1e} of the largest magnitude");
    (worst, count)
}

#[test]
fn every_kind_at_every_place_and_rate_is_its_definition_alone_in_a_batch_and_in_any_order() {
    let rates: [&[i64]; 9] = [&[], &[-1], &[-2], &[-3], &[0], &[3], &[-2, -2], &[-3, -1, 2], &[-2, 0]];
    let (worst, count) = check_all(&KINDS, &rates);
    assert_eq!(count, 4 * 9 * 8);
    assert!(worst > 0.0, "f32 and f64 cannot agree to the last bit");
}

/// A positive rate is a factor there, as in the reference.
#[test]
fn merging_similar_states_is_its_definition_at_factors_of_either_sign() {
    let rates: [&[i64]; 7] = [&[-1], &[-2], &[2], &[-3], &[3], &[0], &[-2, -2]];
    let (_, count) = check_all(&MERGING, &rates);
    assert_eq!(count, 2 * 7 * 8);
}

/// Each pooled query stands where its group ends.
#[test]
fn groups_that_end_at_rare_words_are_their_definition() {
    let folder = tempfile::tempdir().expect("a folder");
    let tensors = checkpoint(folder.path(), 0);
    let words = Words {
        nats: (0..23_u8).map(|id| f32::from(id * 7 % 11) * 0.5).collect(),
        joins: (0..23).map(|id| id % 3 == 1).collect(),
    };
    let even = sequences().iter().filter(|ids| ids.len() > 4).all(|ids| {
        let ends = words.ends(ids, ids.len().div_ceil(3));
        ends.windows(2).all(|pair| pair[1] - pair[0] == 3)
    });
    assert!(!even, "the groups are of unequal size");
    for kind in KINDS {
        for rates in [&[-2][..], &[-3], &[-4]] {
            for (queries_only, place) in [(true, "before"), (false, "before"), (true, "between")] {
                for causal in [false, true] {
                    let words = Some(&words);
                    let pooling =
                        Pooling { kind, queries_only, place, rates, causal, memory: Vec::new(), words };
                    check(folder.path(), &tensors, &pooling, &device());
                }
            }
        }
    }
}

#[test]
fn memory_tokens_are_their_definition() {
    for memory_tokens in [1, 4] {
        let folder = tempfile::tempdir().expect("a folder");
        let tensors = checkpoint(folder.path(), memory_tokens);
        let memory = tensors.values("mem_embeddings.0.weight").chunks(sizes().d).map(row).collect();
        let pooling = Pooling {
            kind: "mean",
            queries_only: false,
            place: "before",
            rates: &[],
            causal: false,
            memory,
            words: None,
        };
        for causal in [false, true] {
            check(folder.path(), &tensors, &Pooling { causal, ..pooling.clone() }, &device());
        }
    }
}

/// Each of these is far above the tolerance, so that the comparison can fail.
#[test]
fn what_is_computed_otherwise_is_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let tensors = checkpoint(folder.path(), 0);
    let device = device();
    let pooling = Pooling {
        kind: "mean",
        queries_only: true,
        place: "before",
        rates: &[-2],
        causal: false,
        memory: Vec::new(),
        words: None,
    };
    let ids = &sequences()[4];
    let network = encoder(folder.path(), &sizes(), &pooling, &device);
    let found = rows(&network.forward(std::slice::from_ref(ids), &device), 0);
    let with = |sizes: Sizes, pooling: &Pooling<'_>| {
        difference(&found, &Llama { sizes, tensors: &tensors }.encode(ids, KEPT, pooling))
    };
    assert!(with(sizes(), &pooling) <= TOLERANCE);
    for (what, other) in [
        ("epsilon", with(Sizes { epsilon: 2e-3, ..sizes() }, &pooling)),
        ("theta", with(Sizes { theta: 51.0, ..sizes() }, &pooling)),
        ("kind", with(sizes(), &Pooling { kind: "fusion", ..pooling.clone() })),
        ("keys", with(sizes(), &Pooling { queries_only: false, ..pooling.clone() })),
        ("place", with(sizes(), &Pooling { place: "between", ..pooling.clone() })),
        ("mask", with(sizes(), &Pooling { causal: true, ..pooling.clone() })),
        ("rate", with(sizes(), &Pooling { rates: &[-3], ..pooling.clone() })),
    ] {
        assert!(other > 10.0 * TOLERANCE, "{what}: {other}");
    }
}
