//! Keys and values of the positions that a decoder has read.

use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::host::HostKeyValue;
use crate::nn::{Context, KeyValue, Visibility};

/// Slots are reserved in steps of this many positions.
const STEP: usize = 256;

/// The keys and values of every layer, for a batch whose rows end together.
///
/// Rows of different lengths are padded on the **left**, so that the newest position of every row
/// lies in the same slot. All rows may begin with the same `shared` slots; what row `r` has of its
/// own begins in slot `starts[r]`, and the slots between are padding.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Layer>,
    shared: usize,
    starts: Vec<usize>,
    len: usize,
}

/// One layer's keys and values, with room for more.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are as many as layers")]
enum Layer {
    /// Tensors, for dense weights; none before the first positions.
    Tensors(Option<KeyValue>),
    /// Host memory, for packed weights: nothing is copied to be attended to.
    Host(HostKeyValue),
}

impl KvCache {
    /// An empty cache for rows that begin in the slots `starts`, for dense weights.
    #[must_use]
    pub fn new(n_layers: usize, starts: Vec<usize>) -> Self {
        Self { layers: vec![Layer::Tensors(None); n_layers], shared: 0, starts, len: 0 }
    }

    /// The same in host memory, for packed weights.
    #[must_use]
    pub fn on_host(n_layers: usize, starts: Vec<usize>) -> Self {
        let layers = vec![Layer::Host(HostKeyValue::default()); n_layers];
        Self { layers, ..Self::new(0, starts) }
    }

    /// A cache whose rows all begin with what this cache's one row has read, each followed by
    /// `padding[row]` slots before its own positions.
    ///
    /// # Panics
    ///
    /// Panics unless this cache has one row, without padding.
    #[must_use]
    pub(super) fn shared_by(&self, padding: &[usize]) -> Self {
        assert_eq!(self.starts, [self.shared], "one row without padding is shared");
        let repeat = |tensor: &Tensor<4>| tensor.clone().narrow(2, 0, self.len).repeat_dim(0, padding.len());
        let layers = self.layers.iter().map(|layer| match layer {
            Layer::Tensors(layer) => Layer::Tensors(
                layer
                    .as_ref()
                    .filter(|_| self.len > 0)
                    .map(|layer| KeyValue { keys: repeat(&layer.keys), values: repeat(&layer.values) }),
            ),
            Layer::Host(layer) => Layer::Host(layer.repeated(padding.len())),
        });
        Self {
            layers: layers.collect(),
            shared: self.len,
            starts: padding.iter().map(|padding| self.len + padding).collect(),
            len: self.len,
        }
    }

    /// The number of filled slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.starts.len()
    }

    /// Keeps these rows, in ascending order: the others are read no further.
    pub(super) fn keep_rows(&mut self, rows: &[usize]) {
        let of = self.rows();
        for layer in &mut self.layers {
            match layer {
                Layer::Tensors(layer) => {
                    if let Some(KeyValue { keys, values }) = layer.take() {
                        let places: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
                        let places = Tensor::<1, Int>::from_data(places.as_slice(), &keys.device());
                        let values = values.select(0, places.clone());
                        *layer = Some(KeyValue { keys: keys.select(0, places), values });
                    }
                }
                Layer::Host(layer) => layer.keep(rows, of),
            }
        }
        self.starts = rows.iter().map(|&row| self.starts[row]).collect();
    }

    /// Forgets all slots from `len` on, to read on from there.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes that the reserved slots take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| match layer {
                Layer::Tensors(Some(layer)) => {
                    2 * layer.keys.shape().num_elements() * layer.keys.dtype().size()
                }
                Layer::Tensors(None) => 0,
                Layer::Host(layer) => layer.bytes(),
            })
            .sum()
    }

    /// The positions of the next `s` slots, per row. Padding has position 0.
    pub(super) fn next_positions(&self, s: usize) -> Vec<Vec<usize>> {
        self.starts
            .iter()
            .map(|&start| (self.len..self.len + s).map(|slot| self.position(slot, start)).collect())
            .collect()
    }

    /// The position of a slot in a row whose own slots begin at `start`. Padding has the first of
    /// its own positions.
    fn position(&self, slot: usize, start: usize) -> usize {
        if slot < self.shared { slot } else { self.shared + slot.saturating_sub(start) }
    }

    /// Writes the next keys and values `[b, g, s, k]` of a layer and returns all of them so far.
    ///
    /// The cache grows only when every layer has been written: see [`KvCache::advance`].
    pub(super) fn append(&mut self, layer: usize, new: KeyValue) -> Context<'_> {
        let [b, g, s, k] = new.keys.dims();
        let (from, to) = (self.len, self.len + s);
        match &mut self.layers[layer] {
            Layer::Tensors(layer) => Context::Tensors(append_tensors(layer, new, from)),
            Layer::Host(layer) => {
                if layer.capacity() < to {
                    let capacity = to.next_multiple_of(STEP);
                    *layer = std::mem::take(layer).with_capacity([b, g, k], from, capacity);
                }
                layer.write(from, new);
                Context::Host(layer, to)
            }
        }
    }

    /// Counts `s` slots as filled, after every layer has written them.
    pub(super) fn advance(&mut self, s: usize) {
        self.len += s;
    }

    /// What the next `s` queries may see, in layers with the given sliding window if any.
    pub(super) fn visibility(&self, s: usize, window: Option<usize>, device: &Device) -> Visibility {
        let n = self.len + s;
        let padded = self.starts.iter().any(|&start| start > self.shared);
        if !padded && window.is_none_or(|window| n <= window) {
            return if s == 1 { Visibility::All } else { Visibility::Causal };
        }
        let mut hidden = Vec::with_capacity(self.rows() * s * n);
        for &start in &self.starts {
            for query in self.len..n {
                let place = self.position(query, start);
                for key in 0..n {
                    let distance = place.saturating_sub(self.position(key, start));
                    let beyond_window = window.is_some_and(|window| distance >= window);
                    let padding = (self.shared..start).contains(&key);
                    // Padding sees itself: a query that sees nothing has no softmax.
                    hidden.push(key > query || beyond_window || (padding && key != query));
                }
            }
        }
        let mask = TensorData::new(hidden, [self.rows(), 1, s, n]);
        Visibility::Masked(Tensor::<4, Bool>::from_data(mask, device))
    }
}

/// Writes keys and values into the slots from `from` on, and returns all up to there.
fn append_tensors(layer: &mut Option<KeyValue>, new: KeyValue, from: usize) -> KeyValue {
    let [b, g, s, k] = new.keys.dims();
    let to = from + s;
    let slots = |range: Range<usize>| [0..b, 0..g, range, 0..k];
    let reserved = match layer.take() {
        Some(layer) if layer.keys.dims()[2] >= to => layer,
        kept => {
            let capacity = to.next_multiple_of(STEP);
            let grow = |old: Option<Tensor<4>>| {
                let room = Tensor::zeros([b, g, capacity, k], &new.keys.device());
                match old {
                    Some(old) if from > 0 => room.slice_assign(slots(0..from), old.slice(slots(0..from))),
                    _ => room,
                }
            };
            let (keys, values) = kept.map(|layer| (layer.keys, layer.values)).unzip();
            KeyValue { keys: grow(keys), values: grow(values) }
        }
    };
    let filled = KeyValue {
        // Written in place, since the layer was taken out and nothing else holds the tensor.
        keys: reserved.keys.slice_assign(slots(from..to), new.keys),
        values: reserved.values.slice_assign(slots(from..to), new.values),
    };
    let seen = KeyValue {
        keys: filled.keys.clone().slice(slots(0..to)),
        values: filled.values.clone().slice(slots(0..to)),
    };
    *layer = Some(filled);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a row's slots hold: the position of its own or shared tokens, nothing for padding.
    fn positions(shared: usize, start: usize, n: usize) -> Vec<Option<usize>> {
        let mut next = 0..;
        (0..n).map(|slot| if (shared..start).contains(&slot) { None } else { next.next() }).collect()
    }

    /// Whether each query sees each key, `[rows, s, n]`.
    fn seen(cache: &KvCache, s: usize, window: Option<usize>) -> Vec<Vec<Vec<bool>>> {
        let (first, n) = (cache.len(), cache.len() + s);
        let row = |hides: &dyn Fn(usize, usize) -> bool| {
            (0..s).map(|query| (0..n).map(|key| !hides(query, key)).collect()).collect()
        };
        match cache.visibility(s, window, &Device::flex()) {
            Visibility::All => vec![row(&|_, _| false); cache.rows()],
            Visibility::Causal => vec![row(&|query, key| key > first + query); cache.rows()],
            Visibility::Masked(mask) => {
                assert_eq!(mask.dims(), [cache.rows(), 1, s, n]);
                let hidden = mask.into_data();
                let hidden: Vec<bool> = hidden.iter::<bool>().collect();
                hidden.chunks(s * n).map(|hidden| row(&|query, key| hidden[query * n + key])).collect()
            }
        }
    }

    #[test]
    fn a_query_sees_its_rows_own_tokens_up_to_itself_and_within_the_window() {
        for shared in [0, 1, 4] {
            for padding in [vec![0], vec![0, 0], vec![0, 2], vec![3, 0, 1]] {
                for len in shared..shared + 6 {
                    for s in 1..6 {
                        for window in [None, Some(1), Some(2), Some(3), Some(7), Some(100)] {
                            let starts = padding.iter().map(|padding| shared + padding).collect();
                            let cache = KvCache { shared, len, ..KvCache::new(0, starts) };
                            check(&cache, s, window);
                        }
                    }
                }
            }
        }
    }

    fn check(cache: &KvCache, s: usize, window: Option<usize>) {
        let seen = seen(cache, s, window);
        for (row, &start) in cache.starts.iter().enumerate() {
            let positions = positions(cache.shared, start, cache.len + s);
            for query in 0..s {
                let seen = &seen[row][query];
                let Some(place) = positions[cache.len + query] else {
                    assert!(seen.contains(&true), "padding that sees nothing has no softmax: {cache:?}");
                    continue;
                };
                let first = window.map_or(0, |window| (place + 1).saturating_sub(window));
                for (key, position) in positions.iter().enumerate() {
                    let expected = position.is_some_and(|position| (first..=place).contains(&position));
                    assert_eq!(seen[key], expected, "{query} {key} {window:?} {cache:?}");
                }
            }
        }
    }

    #[test]
    fn positions_count_a_rows_own_tokens() {
        let cache = KvCache { shared: 2, len: 1, ..KvCache::new(0, vec![2, 5]) };
        let next = cache.next_positions(6);
        for (row, start) in [(0, 2), (1, 5)] {
            for (slot, position) in positions(2, start, 7).iter().enumerate().skip(1) {
                assert!(position.is_none_or(|position| next[row][slot - 1] == position), "{next:?}");
            }
        }
    }
}
