//! Encoder, projector and decoder written a second time, from the paper and the public code: in f64,
//! with plain loops, one sequence and one position at a time. Nothing of arc-core is in here.
//!
//! Shapes: `s` positions, `n` groups, `d` model width, `h` query heads, `g` key and value heads, `k`
//! head width, `f` feed-forward width.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

/// One position's state, or any other vector.
pub(crate) type Row = Vec<f64>;

/// The sizes of a llama.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) d: usize,
    pub(crate) layers: usize,
    pub(crate) h: usize,
    pub(crate) g: usize,
    pub(crate) k: usize,
    pub(crate) f: usize,
    pub(crate) vocabulary: usize,
    pub(crate) epsilon: f64,
    pub(crate) theta: f64,
}

impl Sizes {
    /// As `params.json` and `model_args` state them.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "dim": self.d, "n_layers": self.layers, "head_dim": self.k, "hidden_dim": self.f,
            "n_heads": self.h, "n_kv_heads": self.g, "norm_eps": self.epsilon,
            "vocab_size": self.vocabulary, "rope_theta": self.theta,
        })
    }
}

/// Named tensors of f32, as files hold them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    pub(crate) fn insert(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        self.0.insert(name.into(), (shape.to_vec(), values));
    }

    /// The rows of several results, as one tensor `[rows, width]`.
    pub(crate) fn insert_rows(&mut self, name: impl Into<String>, rows: &[Row]) {
        let values = rows.iter().flatten().map(|&value| value as f32).collect();
        self.insert(name, &[rows.len(), rows[0].len()], values);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name).expect("a tensor of that name");
    }

    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("no tensor `{name}`")).1
    }

    /// Those whose names begin so, without that beginning.
    pub(crate) fn below(&self, prefix: &str) -> Self {
        let named = self.0.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        Self(named.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect())
    }

    pub(crate) fn save(&self, path: &Path) {
        let bytes: Vec<(&str, &[usize], Vec<u8>)> = self
            .0
            .iter()
            .map(|(name, (shape, values))| {
                (
                    name.as_str(),
                    shape.as_slice(),
                    values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                )
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("a view"))
        });
        std::fs::write(path, serialize(views, None).expect("a file")).expect("a file");
    }
}

/// Numbers without a pattern, between -1 and 1.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        // Knuth's MMIX generator; the high bits are random enough.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn spread(&mut self, count: usize, centre: f64, width: f64) -> Vec<f32> {
        (0..count).map(|_| (centre + width * self.next()) as f32).collect()
    }

    /// A matrix `[rows, columns]` that keeps the magnitude of what it is applied to.
    pub(crate) fn matrix(&mut self, tensors: &mut Tensors, name: String, [rows, columns]: [usize; 2]) {
        let width = (3.0 / columns as f64).sqrt();
        tensors.insert(name, &[rows, columns], self.spread(rows * columns, 0.0, width));
    }

    /// A table of vectors with values between -1 and 1.
    pub(crate) fn table(&mut self, tensors: &mut Tensors, name: String, [rows, columns]: [usize; 2]) {
        tensors.insert(name, &[rows, columns], self.spread(rows * columns, 0.0, 1.0));
    }

    /// The embeddings and the first `layers` blocks of a llama, under Meta's names.
    pub(crate) fn llama(&mut self, tensors: &mut Tensors, prefix: &str, sizes: &Sizes, layers: usize) {
        let Sizes { d, h, g, k, f, vocabulary, .. } = *sizes;
        self.table(tensors, format!("{prefix}tok_embeddings.weight"), [vocabulary, d]);
        for layer in 0..layers {
            for (part, shape) in [
                ("attention.wq", [h * k, d]),
                ("attention.wk", [g * k, d]),
                ("attention.wv", [g * k, d]),
                ("attention.wo", [d, h * k]),
                ("feed_forward.w1", [f, d]),
                ("feed_forward.w2", [d, f]),
                ("feed_forward.w3", [f, d]),
            ] {
                self.matrix(tensors, format!("{prefix}layers.{layer}.{part}.weight"), shape);
            }
            for part in ["attention_norm", "ffn_norm"] {
                let name = format!("{prefix}layers.{layer}.{part}.weight");
                tensors.insert(name, &[d], self.spread(d, 1.0, 0.3));
            }
        }
    }

    /// What a decoder has beside its blocks.
    pub(crate) fn head(&mut self, tensors: &mut Tensors, sizes: &Sizes) {
        tensors.insert("norm.weight", &[sizes.d], self.spread(sizes.d, 1.0, 0.3));
        self.matrix(tensors, "output.weight".into(), [sizes.vocabulary, sizes.d]);
    }
}

/// A llama's blocks and tables.
pub(crate) struct Llama<'a> {
    pub(crate) sizes: Sizes,
    pub(crate) tensors: &'a Tensors,
}

/// How an encoder pools.
#[derive(Clone, Debug)]
pub(crate) struct Pooling<'a> {
    /// `mean`, `last`, `sum`, `fusion`, `metric_kmeans_euclidean` or `metric_kmeans_cosine`.
    pub(crate) kind: &'a str,
    pub(crate) queries_only: bool,
    /// `before` or `between`.
    pub(crate) place: &'a str,
    pub(crate) rates: &'a [i64],
    pub(crate) causal: bool,
    /// `[memory_tokens, d]`; empty to pool.
    pub(crate) memory: Vec<Row>,
    /// Where there are any, groups end at the rarest.
    pub(crate) words: Option<&'a Words>,
}

/// What makes words of tokens, and how rare each token is.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    pub(crate) nats: Vec<f32>,
    /// Whether a token goes on with the word before it.
    pub(crate) joins: Vec<bool>,
}

impl Words {
    /// The last positions of so many groups: the last of all, and of the others those whose words have
    /// the most nats by the root of their tokens, one after the other, of equal ones the first.
    pub(crate) fn ends(&self, ids: &[u32], groups: usize) -> Vec<usize> {
        let begins = |place: usize| place == 0 || !self.joins[ids[place] as usize];
        let worth = |place: usize| -> f64 {
            let first = (0..=place).rev().find(|&place| begins(place)).expect("the first begins a word");
            let after = (place + 1..ids.len()).find(|&place| begins(place)).unwrap_or(ids.len());
            let nats: f64 = ids[first..after].iter().map(|&id| f64::from(self.nats[id as usize])).sum();
            nats / ((after - first) as f64).sqrt()
        };
        let mut ends = vec![ids.len() - 1];
        while ends.len() < groups {
            let rest = (0..ids.len()).filter(|place| !ends.contains(place));
            let best =
                rest.reduce(|best, place| if worth(place) > worth(best) + 1e-6 { place } else { best });
            ends.push(best.expect("fewer groups than positions"));
        }
        ends.sort_unstable();
        ends
    }
}

impl Pooling<'_> {
    /// As `pool_type` spells it.
    pub(crate) fn pool_type(&self) -> String {
        format!("{}{}", self.kind, if self.queries_only { "_pooled_queries" } else { "" })
    }

    fn group_sizes(&self, ids: &[u32], s: usize, rate: i64) -> Vec<usize> {
        let sizes = group_sizes(s, rate);
        let Some(words) = self.words else { return sizes };
        let ends = words.ends(ids, sizes.len());
        let starts = std::iter::once(0).chain(ends.iter().map(|end| end + 1));
        ends.iter().zip(starts).map(|(end, start)| end + 1 - start).collect()
    }
}

impl Llama<'_> {
    pub(crate) fn embed(&self, ids: &[u32]) -> Vec<Row> {
        let table = self.tensors.values("tok_embeddings.weight");
        let d = self.sizes.d;
        ids.iter().map(|&id| row(&table[id as usize * d..][..d])).collect()
    }

    /// The latents of one sequence, from the first `layers` blocks.
    pub(crate) fn encode(&self, ids: &[u32], layers: usize, pooling: &Pooling<'_>) -> Vec<Row> {
        let mut x = self.embed(ids);
        x.extend(pooling.memory.clone());
        let first = layers - pooling.rates.len();
        for layer in 0..layers {
            let rate = if layer < first { -1 } else { pooling.rates[layer - first] };
            x = match pooling.place {
                _ if rate == -1 => self.fed(layer, self.attended(layer, &x, &x, pooling.causal)),
                "before" => {
                    let sizes = pooling.group_sizes(ids, x.len(), rate);
                    let pooled = pool(&x, rate, &sizes, pooling.kind);
                    let ends = sizes.iter().scan(0, |end, size| {
                        *end += size;
                        Some(*end - 1)
                    });
                    let places: Vec<usize> =
                        if pooling.words.is_some() { ends.collect() } else { (0..pooled.len()).collect() };
                    let attended = if pooling.queries_only {
                        self.attended_from(layer, (&pooled, &places), (&x, &places_of(&x)), pooling.causal)
                    } else {
                        self.attended_from(layer, (&pooled, &places), (&pooled, &places), pooling.causal)
                    };
                    self.fed(layer, attended)
                }
                "between" => {
                    let attended = self.attended(layer, &x, &x, pooling.causal);
                    let sizes = pooling.group_sizes(ids, x.len(), rate);
                    self.fed(layer, pool(&attended, rate, &sizes, pooling.kind))
                }
                other => panic!("no place `{other}`"),
            };
        }
        x.split_off(if pooling.memory.is_empty() { 0 } else { x.len() - pooling.memory.len() })
    }

    /// The logits at each position of a causal pass over embeddings.
    pub(crate) fn logits(&self, mut x: Vec<Row>) -> Vec<Row> {
        for layer in 0..self.sizes.layers {
            x = self.fed(layer, self.attended(layer, &x, &x, true));
        }
        let head = self.tensors.values("output.weight");
        x.iter().map(|x| linear(head, &self.norm("norm.weight", x))).collect()
    }

    fn weight(&self, layer: usize, part: &str) -> &[f32] {
        self.tensors.values(&format!("layers.{layer}.{part}.weight"))
    }

    /// `queries + attention(norm(queries), norm(keys))`; both count their positions from 0, and in a
    /// causal pass query `i` sees the keys `0..=i`.
    fn attended(&self, layer: usize, queries: &[Row], keys: &[Row], causal: bool) -> Vec<Row> {
        self.attended_from(layer, (queries, &places_of(queries)), (keys, &places_of(keys)), causal)
    }

    /// The same with positions of their own.
    fn attended_from(
        &self,
        layer: usize,
        (queries, query_places): (&[Row], &[usize]),
        (keys, key_places): (&[Row], &[usize]),
        causal: bool,
    ) -> Vec<Row> {
        let Sizes { h, g, k, .. } = self.sizes;
        let norm = format!("layers.{layer}.attention_norm.weight");
        let project = |part: &str, x: &[Row], places: Option<&[usize]>| -> Vec<Row> {
            let project = |(index, x): (usize, &Row)| {
                let mut y = linear(self.weight(layer, part), &self.norm(&norm, x));
                if let Some(places) = places {
                    y.chunks_mut(k).for_each(|head| self.rotate(head, places[index]));
                }
                y
            };
            x.iter().enumerate().map(project).collect()
        };
        let q = project("attention.wq", queries, Some(query_places));
        let (keyed, v) =
            (project("attention.wk", keys, Some(key_places)), project("attention.wv", keys, None));
        let mut result = Vec::new();
        for (i, residual) in queries.iter().enumerate() {
            let seen = if causal { (i + 1).min(keys.len()) } else { keys.len() };
            let mut heads = vec![0.0; h * k];
            for head in 0..h {
                let of = |x: &Row, head: usize| x[head * k..][..k].to_vec();
                let group = head * g / h;
                let scores: Row = keyed[..seen]
                    .iter()
                    .map(|key| dot(&of(&q[i], head), &of(key, group)) / (k as f64).sqrt())
                    .collect();
                let largest = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                let weights: Row = scores.iter().map(|score| (score - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&v) {
                    for (sum, value) in heads[head * k..][..k].iter_mut().zip(of(value, group)) {
                        *sum += weight / total * value;
                    }
                }
            }
            result.push(add(residual, &linear(self.weight(layer, "attention.wo"), &heads)));
        }
        result
    }

    /// `x + w2(silu(w1 norm(x)) · w3 norm(x))`
    fn fed(&self, layer: usize, x: Vec<Row>) -> Vec<Row> {
        let of = |x: &Row| {
            let normed = self.norm(&format!("layers.{layer}.ffn_norm.weight"), x);
            let gate = linear(self.weight(layer, "feed_forward.w1"), &normed);
            let up = linear(self.weight(layer, "feed_forward.w3"), &normed);
            let gated: Row = gate.iter().zip(&up).map(|(a, b)| a / (1.0 + (-a).exp()) * b).collect();
            add(x, &linear(self.weight(layer, "feed_forward.w2"), &gated))
        };
        x.iter().map(of).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Row {
        let scale = 1.0 / (dot(x, x) / x.len() as f64 + self.sizes.epsilon).sqrt();
        x.iter().zip(self.tensors.values(name)).map(|(x, &weight)| x * scale * f64::from(weight)).collect()
    }

    /// Neighbours are a pair.
    fn rotate(&self, head: &mut [f64], position: usize) {
        for pair in 0..head.len() / 2 {
            let angle = position as f64 / self.sizes.theta.powf(2.0 * pair as f64 / head.len() as f64);
            let (sine, cosine) = angle.sin_cos();
            let (a, b) = (head[2 * pair], head[2 * pair + 1]);
            (head[2 * pair], head[2 * pair + 1]) = (a * cosine - b * sine, a * sine + b * cosine);
        }
    }
}

/// Positions from 0.
fn places_of(rows: &[Row]) -> Vec<usize> {
    (0..rows.len()).collect()
}

/// The sizes of the groups that `s` positions are cut into.
fn group_sizes(s: usize, rate: i64) -> Vec<usize> {
    let size = rate.unsigned_abs() as usize;
    let levelled = |groups: usize| -> Vec<usize> {
        (0..groups).map(|group| s / groups + usize::from(group < s % groups)).collect()
    };
    match rate {
        0 => vec![s],
        1.. if s < size => vec![1; s],
        1.. => levelled(size),
        _ if s < size => vec![s],
        _ if s.is_multiple_of(size) => vec![size; s / size],
        _ => levelled(s / size + 1),
    }
}

fn pool(x: &[Row], rate: i64, sizes: &[usize], kind: &str) -> Vec<Row> {
    if let Some(metric) = kind.strip_prefix("metric_kmeans_") {
        return merge(x, rate, metric);
    }
    let mut rest = x;
    let pooled = sizes.iter().map(|&size| {
        let (group, after) = rest.split_at(size);
        rest = after;
        let mean = mean(group);
        match kind {
            "mean" => mean,
            "last" => group[size - 1].clone(),
            "sum" => mean.iter().map(|value| value * size as f64).collect(),
            "fusion" => {
                let largest = group.iter().map(|x| dot(x, x).sqrt()).fold(0.0, f64::max);
                mean.iter().map(|value| value * largest / dot(&mean, &mean).sqrt()).collect()
            }
            other => panic!("no kind `{other}`"),
        }
    });
    pooled.collect()
}

/// Lloyd's k-means over consecutive groups; the means of the clusters, by their first position.
fn merge(x: &[Row], rate: i64, metric: &str) -> Vec<Row> {
    let factor = rate.unsigned_abs() as usize;
    let clusters = match rate {
        0 => 1,
        // Of either sign.
        _ if x.len() < factor => return x.to_vec(),
        _ => x.len() / factor,
    };
    let sizes = group_sizes(x.len(), clusters as i64);
    let mut nearest: Vec<usize> =
        sizes.iter().enumerate().flat_map(|(cluster, &size)| vec![cluster; size]).collect();
    let mut centres = vec![Row::new(); clusters];
    let members = |nearest: &[usize], cluster: usize| -> Vec<Row> {
        x.iter().zip(nearest).filter(|(_, of)| **of == cluster).map(|(x, _)| x.clone()).collect()
    };
    loop {
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let members = members(&nearest, cluster);
            if !members.is_empty() {
                *centre = mean(&members);
            }
        }
        let distance = |x: &Row, centre: &Row| match metric {
            "euclidean" => x.iter().zip(centre).map(|(a, b)| (a - b).powi(2)).sum::<f64>(),
            "cosine" => -dot(x, centre) / (dot(x, x) * dot(centre, centre)).sqrt(),
            other => panic!("no metric `{other}`"),
        };
        let next: Vec<usize> = x
            .iter()
            .map(|x| {
                let by_distance =
                    |a: &usize, b: &usize| distance(x, &centres[*a]).total_cmp(&distance(x, &centres[*b]));
                (0..clusters).min_by(by_distance).expect("there is a cluster")
            })
            .collect();
        if next == nearest {
            break;
        }
        nearest = next;
    }
    let mut order: Vec<usize> = Vec::new();
    for &cluster in &nearest {
        if !order.contains(&cluster) {
            order.push(cluster);
        }
    }
    order.into_iter().map(|cluster| mean(&members(&nearest, cluster))).collect()
}

/// `W x`, with `W` of shape `[d_out, d_in]`.
pub(crate) fn linear(weight: &[f32], x: &[f64]) -> Row {
    weight
        .chunks(x.len())
        .map(|weights| weights.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum())
        .collect()
}

pub(crate) fn row(values: &[f32]) -> Row {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &[f64], b: &[f64]) -> Row {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn mean(rows: &[Row]) -> Row {
    let sum = rows.iter().skip(1).fold(rows[0].clone(), |sum, row| add(&sum, row));
    sum.iter().map(|value| value / rows.len() as f64).collect()
}
