//! Measures a store of simulated latents: `measure DOCUMENTS CHUNKS LATENTS WIDTH FOLDER`.
//!
//! Adds so many documents of so many chunks, opens the store, fetches documents by id, searches by vectors,
//! compacts, and does it all again; prints one JSON object. Times are of this process, medians where there
//! are several; memory is the most that the process had.

use std::time::{Duration, Instant};

use arc_store::{
    CommitPolicy, CompactOptions, LatentCode, NewChunk, NewDocument, Place, Settings, Store, Writers,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const FETCHES: usize = 200;
const SEARCHES: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [documents, chunks, latents, width, folder] = arguments.as_slice() else {
        return Err("usage: measure DOCUMENTS CHUNKS LATENTS WIDTH FOLDER".into());
    };
    let [documents, chunks, latents, width] =
        [documents, chunks, latents, width].map(|number| number.parse::<usize>());
    let (documents, chunks, latents, width) = (documents?, chunks?, latents?, width?);
    let place = || Place::parse(folder, Writers::Many);
    let settings = Settings {
        encoder_id: "simulated".into(),
        d_encoder: width,
        latents: LatentCode::F16,
        keeps_text: true,
    };
    let store = Store::init(place()?, settings)?;
    let mut writer = store.writer("simulated", CommitPolicy::default())?;
    let mut random = StdRng::seed_from_u64(1);
    let (mut making, start) = (Duration::ZERO, Instant::now());
    for number in 0..documents {
        let before = Instant::now();
        let document = simulated(number, chunks, latents, width, &mut random);
        making += before.elapsed();
        // What ingest asks before it compresses.
        let (id, sha256, factor) = (&document.id, &document.source_sha256, document.factor);
        if store.holds(id, sha256, factor)? || store.find_text(sha256, factor)?.is_some() {
            return Err("a new text was there already".into());
        }
        writer.add(document)?;
    }
    writer.commit()?;
    let adding = start.elapsed() - making;
    let memory_of_adding = peak_memory();
    let added = measured(&place, documents, width)?;
    let start = Instant::now();
    let compacted = store.compact(CompactOptions { keep: Duration::ZERO, ..CompactOptions::default() })?;
    let compacting = start.elapsed().as_secs_f64();
    let after = measured(&place, documents, width)?;
    let rows = documents * chunks;
    println!(
        "{}",
        json!({
            "documents": documents,
            "rows": rows,
            "latents": rows * latents,
            "bytes": store.manifest().bytes(),
            "add_seconds": adding.as_secs_f64(),
            "add_microseconds_per_row": adding.as_secs_f64() * 1e6 / rows as f64,
            "add_bytes_per_second": store.manifest().bytes() as f64 / adding.as_secs_f64(),
            "peak_memory_of_adding": memory_of_adding,
            "segments": compacted.segments_before,
            "before_compaction": added,
            "compact_seconds": compacting,
            "segments_after": compacted.segments_after,
            "after_compaction": after,
            "peak_memory": peak_memory(),
        })
    );
    Ok(())
}

fn simulated(number: usize, chunks: usize, latents: usize, width: usize, random: &mut StdRng) -> NewDocument {
    let text = format!("The text of document {number}, which stands for a chunk of some words. ");
    NewDocument {
        id: id(number),
        title: Some(format!("Document {number}")),
        source_uri: Some(format!("file:///corpus/{number}.txt")),
        source_sha256: Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect(),
        factor: 4,
        chunks: (0..chunks)
            .map(|_| NewChunk {
                tokens: 4 * latents as u32,
                latents: (0..latents * width).map(|_| random.random_range(-1.0f32..1.0)).collect(),
                text: Some(text.clone()),
            })
            .collect(),
    }
}

/// Ids in no order.
fn id(number: usize) -> String {
    format!("{:08x}", (number as u32).wrapping_mul(2_654_435_761))
}

/// Opening, fetching and searching by a store that was opened anew.
fn measured(
    place: &dyn Fn() -> arc_store::Result<Place>,
    documents: usize,
    width: usize,
) -> Result<Value, Box<dyn std::error::Error>> {
    let mut random = StdRng::seed_from_u64(2);
    let start = Instant::now();
    let store = Store::open(place()?)?;
    let opening = start.elapsed();
    let mut fetch = || {
        let id = id(random.random_range(0..documents));
        let start = Instant::now();
        store.get(&id).map(|_| start.elapsed())
    };
    let first_fetch = fetch()?;
    let mut fetches = (0..FETCHES).map(|_| fetch()).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    store.load_vectors()?;
    let loading = start.elapsed();
    let mut searches = Vec::new();
    for _ in 0..SEARCHES {
        let question: Vec<f32> = (0..width).map(|_| random.random_range(-1.0f32..1.0)).collect();
        let start = Instant::now();
        store.nearest(&question, 10)?;
        searches.push(start.elapsed());
    }
    Ok(json!({
        "open_ms": ms(opening),
        "first_fetch_ms": ms(first_fetch),
        "fetch_ms": ms(median(&mut fetches)),
        "slowest_fetch_ms": ms(fetches.last().copied().unwrap_or_default()),
        "load_vectors_ms": ms(loading),
        "search_ms": ms(median(&mut searches)),
        "slowest_search_ms": ms(searches.last().copied().unwrap_or_default()),
    }))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The most memory that the process had, in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
