//! Keys and values of the positions that a decoder has read.

use std::ops::Range;

use burn::tensor::{Int, Tensor};

use crate::host::HostKeyValue;
use crate::nn::{KeyValue, Precision, Visible};
use crate::weights::StorageType;

/// Slots are reserved in steps of this many positions.
const STEP: usize = 256;

/// The keys and values of every layer, for a batch whose rows end together.
///
/// Rows of different lengths are padded on the **left**, so that the newest position of every row
/// lies in the same slot. All rows may begin with the same `shared` slots; what row `r` has of its
/// own begins in slot `starts[r]`, and the slots between are padding.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: KeptLayers,
    shared: usize,
    starts: Vec<usize>,
    len: usize,
}

/// What filled slots are in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// What the numbers are.
    pub(super) dtype: StorageType,
    /// `[layers, 2, g, n, k]`
    pub(super) shape: [usize; 5],
}

/// The keys and values of each layer, with room for more.
#[derive(Clone, Debug)]
enum KeptLayers {
    /// Tensors, for a decoder in burn; none before the first positions.
    Graph(Vec<Option<KeyValue>>),
    /// Host memory, for a decoder there: nothing is copied to be attended to.
    Host(Vec<HostKeyValue>),
}

impl KvCache {
    /// An empty cache for rows that begin in the slots `starts`, for a decoder in burn.
    pub(super) fn in_tensors(n_layers: usize, starts: Vec<usize>) -> Self {
        Self { layers: KeptLayers::Graph(vec![None; n_layers]), shared: 0, starts, len: 0 }
    }

    /// The same for a decoder on host memory.
    pub(super) fn on_host(n_layers: usize, starts: Vec<usize>, precision: Precision) -> Self {
        let layers = vec![HostKeyValue::of_precision(precision); n_layers];
        Self { layers: KeptLayers::Host(layers), shared: 0, starts, len: 0 }
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
        let layers = match &self.layers {
            KeptLayers::Graph(layers) => {
                let layers = layers.iter().map(|layer| {
                    let filled = layer.as_ref().filter(|_| self.len > 0);
                    filled.map(|layer| KeyValue { keys: repeat(&layer.keys), values: repeat(&layer.values) })
                });
                KeptLayers::Graph(layers.collect())
            }
            KeptLayers::Host(layers) => {
                KeptLayers::Host(layers.iter().map(|layer| layer.repeated(padding.len())).collect())
            }
        };
        Self {
            layers,
            shared: self.len,
            starts: padding.iter().map(|padding| self.len + padding).collect(),
            len: self.len,
        }
    }

    /// The cache of one row, for another that begins with all that it has read: as [`Self::shared_by`] makes it,
    /// without a copy.
    ///
    /// # Panics
    ///
    /// Panics unless this cache has one row, without padding.
    #[must_use]
    pub(super) fn read_on(self) -> Self {
        assert_eq!(self.starts, [self.shared], "one row without padding is read on");
        Self { shared: self.len, starts: vec![self.len], ..self }
    }

    /// The shape `[layers, 2, g, n, k]` of the filled slots of one row in host memory, the type of their numbers, and
    /// what they are in pieces. `None` for a decoder in burn.
    pub(super) fn filled(&self) -> Option<(Filled, impl Iterator<Item = &[u8]>)> {
        let KeptLayers::Host(layers) = &self.layers else { return None };
        let first = layers.first().filter(|_| self.starts == [self.shared] && self.len > 0)?;
        let [g, k] = first.groups_and_width();
        let filled = Filled { dtype: first.dtype(), shape: [layers.len(), 2, g, self.len, k] };
        Some((filled, layers.iter().flat_map(|layer| layer.filled(self.len))))
    }

    /// A cache of one row in host memory, with room for `n` slots of `[g, k]` in each layer, and what they would be.
    pub(super) fn to_fill(
        n_layers: usize,
        n: usize,
        [g, k]: [usize; 2],
        precision: Precision,
    ) -> (Self, Filled) {
        let mut cache = Self::on_host(n_layers, vec![0], precision);
        let dtype = cache.host(n, [g, k]).first().map_or(StorageType::F32, HostKeyValue::dtype);
        (cache, Filled { dtype, shape: [n_layers, 2, g, n, k] })
    }

    /// Fills all slots that there is room for with what [`Self::filled`] gave of as many.
    ///
    /// # Panics
    ///
    /// Panics if the bytes are not of so many slots, or the cache is a decoder's in burn.
    pub(super) fn fill(&mut self, filled: &Filled, bytes: &[u8]) {
        let [layers, _, g, n, k] = filled.shape;
        let of_layer = bytes.len() / layers.max(1);
        for (layer, bytes) in self.host(n, [g, k]).iter_mut().zip(bytes.chunks_exact(of_layer.max(1))) {
            layer.fill(n, bytes);
        }
        self.advance(n);
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
        match &mut self.layers {
            KeptLayers::Graph(layers) => {
                for layer in layers.iter_mut().flatten() {
                    let places: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
                    let places = Tensor::<1, Int>::from_data(places.as_slice(), &layer.keys.device());
                    layer.keys = layer.keys.clone().select(0, places.clone());
                    layer.values = layer.values.clone().select(0, places);
                }
            }
            KeptLayers::Host(layers) => layers.iter_mut().for_each(|layer| layer.keep(rows, of)),
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
        match &self.layers {
            KeptLayers::Graph(layers) => {
                let size =
                    |layer: &KeyValue| 2 * layer.keys.shape().num_elements() * layer.keys.dtype().size();
                layers.iter().flatten().map(size).sum()
            }
            KeptLayers::Host(layers) => layers.iter().map(HostKeyValue::bytes).sum(),
        }
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

    /// The layers' tensors.
    ///
    /// # Panics
    ///
    /// Panics if the cache is a decoder's on host memory.
    pub(super) fn tensors(&mut self) -> &mut [Option<KeyValue>] {
        match &mut self.layers {
            KeptLayers::Graph(layers) => layers,
            KeptLayers::Host(_) => panic!("a cache is read by the decoder that made it"),
        }
    }

    /// The layers in host memory, with room for `s` more slots of `[g, k]`.
    ///
    /// # Panics
    ///
    /// Panics if the cache is a decoder's in burn.
    pub(super) fn host(&mut self, s: usize, [g, k]: [usize; 2]) -> &mut [HostKeyValue] {
        let (from, to, b) = (self.len, self.len + s, self.starts.len());
        let KeptLayers::Host(layers) = &mut self.layers else {
            panic!("a cache is read by the decoder that made it");
        };
        for layer in layers.iter_mut().filter(|layer| layer.capacity() < to) {
            *layer = std::mem::take(layer).with_capacity([b, g, k], from, to.next_multiple_of(STEP));
        }
        layers
    }

    /// Counts `s` slots as filled, after every layer has written them.
    pub(super) fn advance(&mut self, s: usize) {
        self.len += s;
    }

    /// What the next `s` queries may see, in layers with the given sliding window if any.
    pub(super) fn visible(&self, s: usize, window: Option<usize>) -> Visible {
        let n = self.len + s;
        let padded = self.starts.iter().any(|&start| start > self.shared);
        if !padded && window.is_none_or(|window| n <= window) {
            return if s == 1 { Visible::All } else { Visible::Causal };
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
        Visible::Masked(hidden)
    }
}

/// Writes keys and values into the slots from `from` on, and returns all up to there.
pub(super) fn append(layer: &mut Option<KeyValue>, new: KeyValue, from: usize) -> KeyValue {
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
        match cache.visible(s, window) {
            Visible::All => vec![row(&|_, _| false); cache.rows()],
            Visible::Causal => vec![row(&|query, key| key > first + query); cache.rows()],
            Visible::Masked(hidden) => {
                assert_eq!(hidden.len(), cache.rows() * s * n);
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
                            let cache =
                                KvCache { shared, len, ..KvCache::on_host(0, starts, Precision::Exact) };
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
    fn what_filled_slots_are_written_as_fills_others() {
        for precision in Precision::ALL {
            let (layers, [g, k], n) = (3, [2, 8], 5);
            let mut cache = KvCache::on_host(layers, vec![0], precision);
            let mut next = (0..).map(|i: i32| (i % 251) as f32 - 125.0);
            for position in 0..n {
                for layer in cache.host(1, [g, k]) {
                    let mut row = || next.by_ref().take(g * k).collect::<Vec<f32>>();
                    layer.write(position, &row(), &row());
                }
                cache.advance(1);
            }
            let bytes = |cache: &KvCache| {
                let (filled, pieces) = cache.filled().expect("host memory");
                (filled, pieces.collect::<Vec<_>>().concat())
            };
            let (filled, written) = bytes(&cache);
            assert_eq!(filled.shape, [layers, 2, g, n, k]);
            assert_eq!(filled.dtype.bytes_of_shape(&filled.shape), Some(written.len()));
            let (mut other, expected) = KvCache::to_fill(layers, n, [g, k], precision);
            assert_eq!(expected, filled);
            other.fill(&expected, &written);
            assert_eq!((other.len(), bytes(&other)), (n, (filled, written)));
        }
    }

    #[test]
    fn positions_count_a_rows_own_tokens() {
        let cache = KvCache { shared: 2, len: 1, ..KvCache::on_host(0, vec![2, 5], Precision::Exact) };
        let next = cache.next_positions(6);
        for (row, start) in [(0, 2), (1, 5)] {
            for (slot, position) in positions(2, start, 7).iter().enumerate().skip(1) {
                assert!(position.is_none_or(|position| next[row][slot - 1] == position), "{next:?}");
            }
        }
    }
}
