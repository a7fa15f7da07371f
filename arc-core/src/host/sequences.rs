//! The sequences of a batch, one after another without padding.
//!
//! Shapes: `r` positions of all sequences; `l` those of them from which on a gradient is asked for.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

/// One sequence of several that lie one after another.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Its positions among all.
    pub(super) rows: Range<usize>,
    /// Its own first position at which a gradient is asked for. Earlier ones depend on nothing that
    /// has a gradient, and keep nothing.
    pub(super) first: usize,
}

/// The sequences that go through a block together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequences(Vec<Sequence>);

impl Sequences {
    /// Sequences of these lengths, with the first position of each that a gradient is asked for at.
    pub(crate) fn new(lengths: &[usize], firsts: &[usize]) -> Self {
        let sequences = lengths.iter().zip(firsts).scan(0, |start, (&length, &first)| {
            let rows = *start..*start + length;
            *start = rows.end;
            Some(Sequence { rows, first: first.min(length) })
        });
        Self(sequences.collect())
    }

    /// Each sequence.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Sequence> {
        self.0.iter()
    }

    /// The positions with a gradient, of all: `r → l`.
    pub(crate) fn later(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        if self.0.iter().all(|sequence| sequence.first == 0) {
            return values;
        }
        let mut later = Vec::with_capacity(values.len());
        for Sequence { rows, first } in &self.0 {
            later.extend_from_slice(&values[(rows.start + first) * width..rows.end * width]);
        }
        later
    }

    /// The other way: `l → r`, with zeros where no gradient was asked for.
    pub(crate) fn all(&self, later: Vec<f32>, width: usize) -> Vec<f32> {
        if self.0.iter().all(|sequence| sequence.first == 0) {
            return later;
        }
        let mut values = Vec::with_capacity(self.0.last().map_or(0, |last| last.rows.end * width));
        let mut rest = &later[..];
        for Sequence { rows, first } in &self.0 {
            let (own, others) = rest.split_at((rows.len() - first) * width);
            values.resize(values.len() + first * width, 0.0);
            values.extend_from_slice(own);
            rest = others;
        }
        values
    }

    /// The positions with a gradient of each sequence, among all of those.
    pub(super) fn later_rows(&self) -> impl Iterator<Item = (&Sequence, Range<usize>)> {
        self.0.iter().scan(0, |start, sequence| {
            let rows = *start..*start + sequence.rows.len() - sequence.first;
            *start = rows.end;
            Some((sequence, rows))
        })
    }
}

/// `[b, s, d]` without what lies behind each row's own positions, `[r, d]`.
pub(crate) fn without_padding(x: Tensor<3>, lengths: &[usize]) -> Vec<f32> {
    let [_, s, d] = x.dims();
    let values: Vec<f32> = x.into_data().try_into_vec().expect("activations are f32 on the CPU device");
    if lengths.iter().all(|&length| length == s) {
        return values;
    }
    let rows = values.chunks_exact((s * d).max(1)).zip(lengths);
    rows.flat_map(|(row, length)| &row[..length * d]).copied().collect()
}

/// The other way, with zeros behind.
pub(crate) fn padded(values: Vec<f32>, lengths: &[usize], shape: [usize; 3], device: &Device) -> Tensor<3> {
    let [_, s, d] = shape;
    let values = if lengths.iter().all(|&length| length == s) {
        values
    } else {
        let mut all = Vec::with_capacity(shape.iter().product());
        let mut rest = &values[..];
        for length in lengths {
            let (own, others) = rest.split_at(length * d);
            all.extend_from_slice(own);
            all.resize(all.len() + (s - length) * d, 0.0);
            rest = others;
        }
        all
    };
    Tensor::from_data(TensorData::new(values, shape), device)
}
