//! Keys and values of positions that were read.

use half::f16;

use super::{Vectors, halves};
use crate::nn::Precision;
use crate::weights::StorageType;

/// Keys and values of one layer in host memory, with room for more: `[b·g, capacity, k]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostKeyValue {
    keys: Slots,
    values: Slots,
    /// `g`
    groups: usize,
    capacity: usize,
    /// `k`
    width: usize,
}

/// Numbers as they are kept.
#[derive(Clone, Debug)]
enum Slots {
    Singles(Vec<f32>),
    Halves(Vec<f16>),
}

/// Numbers of some slots.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept<'a> {
    Singles(&'a [f32]),
    Halves(&'a [f16]),
}

impl Default for Slots {
    fn default() -> Self {
        Self::Singles(Vec::new())
    }
}

/// Does the same with the numbers of slots, whichever they are.
macro_rules! with_numbers {
    ($slots:expr, $numbers:ident => $result:expr) => {
        match $slots {
            Slots::Singles($numbers) => $result,
            Slots::Halves($numbers) => $result,
        }
    };
}

impl Slots {
    fn len(&self) -> usize {
        with_numbers!(self, numbers => numbers.len())
    }

    fn bytes(&self) -> usize {
        with_numbers!(self, numbers => size_of_val(&**numbers))
    }

    /// The same, with the first `filled` numbers of each `old` in the first of each `new`.
    fn moved(&self, sequences: usize, filled: usize, old: usize, new: usize) -> Self {
        fn moved<T: Copy + Default>(from: &[T], to: &mut [T], filled: usize, [old, new]: [usize; 2]) {
            if filled > 0 {
                for (to, from) in to.chunks_exact_mut(new).zip(from.chunks_exact(old)) {
                    to[..filled].copy_from_slice(&from[..filled]);
                }
            }
        }
        let length = sequences * new;
        match self {
            Self::Singles(from) => {
                let mut to = vec![0.0; length];
                moved(from, &mut to, filled, [old, new]);
                Self::Singles(to)
            }
            Self::Halves(from) => {
                let mut to = vec![f16::ZERO; length];
                moved(from, &mut to, filled, [old, new]);
                Self::Halves(to)
            }
        }
    }

    fn write(&mut self, at: usize, new: &[f32]) {
        match self {
            Self::Singles(numbers) => numbers[at..][..new.len()].copy_from_slice(new),
            Self::Halves(numbers) => halves::round(new, &mut numbers[at..][..new.len()]),
        }
    }

    fn of(&self, own: std::ops::Range<usize>) -> Kept<'_> {
        match self {
            Self::Singles(numbers) => Kept::Singles(&numbers[own]),
            Self::Halves(numbers) => Kept::Halves(&numbers[own]),
        }
    }

    fn bytes_of(&self, own: std::ops::Range<usize>) -> &[u8] {
        with_numbers!(self, numbers => bytemuck::cast_slice(&numbers[own]))
    }

    fn write_bytes(&mut self, own: std::ops::Range<usize>, bytes: &[u8]) {
        with_numbers!(self, numbers => bytemuck::cast_slice_mut(&mut numbers[own]).copy_from_slice(bytes));
    }

    fn repeated(&self, times: usize) -> Self {
        match self {
            Self::Singles(numbers) => Self::Singles(numbers.repeat(times)),
            Self::Halves(numbers) => Self::Halves(numbers.repeat(times)),
        }
    }

    fn keep(&mut self, rows: &[usize], size: usize) {
        with_numbers!(self, numbers => {
            for (place, &row) in rows.iter().enumerate() {
                numbers.copy_within(row * size..(row + 1) * size, place * size);
            }
            numbers.truncate(rows.len() * size);
        });
    }
}

impl HostKeyValue {
    /// Keeps what a precision asks for: 16 bits where it is not exact, and the machine turns them into float32
    /// in no time.
    pub(crate) fn of_precision(precision: Precision) -> Self {
        let slots = match precision {
            Precision::Fast if Vectors::best() != Vectors::Portable => Slots::Halves(Vec::new()),
            Precision::Fast | Precision::Exact => Slots::default(),
        };
        Self { keys: slots.clone(), values: slots, ..Self::default() }
    }

    /// Makes room for `capacity` slots of `[b, g, k]` and keeps the first `filled`.
    ///
    /// # Panics
    ///
    /// Panics if more slots are to be kept than there are.
    #[must_use]
    pub(crate) fn with_capacity(self, [b, g, k]: [usize; 3], filled: usize, capacity: usize) -> Self {
        let moved = |slots: &Slots| slots.moved(b * g, filled * k, self.capacity * k, capacity * k);
        Self { keys: moved(&self.keys), values: moved(&self.values), groups: g, capacity, width: k }
    }

    /// Groups, and the width of a head.
    pub(crate) fn groups_and_width(&self) -> [usize; 2] {
        [self.groups, self.width]
    }

    /// How many slots there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes keys and values `[b, s, g·k]` into the slots from `from` on.
    ///
    /// # Panics
    ///
    /// Panics if there is no room.
    pub(crate) fn write(&mut self, from: usize, keys: &[f32], values: &[f32]) {
        let (g, k) = (self.groups, self.width);
        let sequences = self.keys.len() / (self.capacity * k).max(1);
        let s = keys.len() / (sequences * k).max(1);
        assert!(from + s <= self.capacity, "there is room");
        for (slots, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for sequence in 0..sequences {
                let (row, group) = (sequence / g, sequence % g);
                for (slot, new) in new[row * s * g * k..].chunks_exact(g * k).take(s).enumerate() {
                    slots.write((sequence * self.capacity + from + slot) * k, &new[group * k..][..k]);
                }
            }
        }
    }

    /// The first `n` keys and values of a row's group, `[n, k]` each.
    pub(super) fn of(&self, row: usize, group: usize, n: usize) -> [Kept<'_>; 2] {
        let start = (row * self.groups + group) * self.capacity * self.width;
        let own = start..start + n * self.width;
        [self.keys.of(own.clone()), self.values.of(own)]
    }

    /// What the numbers are.
    pub(crate) fn dtype(&self) -> StorageType {
        match self.keys {
            Slots::Singles(_) => StorageType::F32,
            Slots::Halves(_) => StorageType::F16,
        }
    }

    /// The first `n` keys of each group of a batch of one, then the values: `[2, g, n, k]` in pieces `[n, k]`.
    pub(crate) fn filled(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        let own = move |group: usize| {
            let start = group * self.capacity * self.width;
            start..start + n * self.width
        };
        [&self.keys, &self.values]
            .into_iter()
            .flat_map(move |slots| (0..self.groups).map(move |group| slots.bytes_of(own(group))))
    }

    /// Fills the first `n` slots of a batch of one with what [`Self::filled`] gave; there is room for them.
    ///
    /// # Panics
    ///
    /// Panics if the bytes are not of so many slots.
    pub(crate) fn fill(&mut self, n: usize, bytes: &[u8]) {
        let piece = bytes.len() / (2 * self.groups).max(1);
        let whole = self.dtype().bytes_of_shape(&[2, self.groups, n, self.width]);
        assert_eq!(whole, Some(bytes.len()), "keys and values of {n} slots");
        let (keys, values) = bytes.split_at(self.groups * piece);
        for (slots, bytes) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (group, bytes) in bytes.chunks_exact(piece.max(1)).enumerate() {
                let start = group * self.capacity * self.width;
                slots.write_bytes(start..start + n * self.width, bytes);
            }
        }
    }

    /// The same `times` times over, for as many rows of a batch, of which this is one.
    #[must_use]
    pub(crate) fn repeated(&self, times: usize) -> Self {
        Self { keys: self.keys.repeated(times), values: self.values.repeated(times), ..*self }
    }

    /// Keeps these rows of a batch of `of`, in ascending order, without another copy.
    pub(crate) fn keep(&mut self, rows: &[usize], of: usize) {
        let size = self.keys.len() / of.max(1);
        self.keys.keep(rows, size);
        self.values.keep(rows, size);
    }

    /// What it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }
}
