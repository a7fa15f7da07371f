//! What the layers of one kind share in a pass: the rotation of positions, and what queries see.

use std::ops::Range;

use super::kernels::{rotate_half_split, rotate_interleaved};
use crate::nn::{RopeConfig, RopeLayout, Visible};

/// Cosines and sines of positions.
#[derive(Clone, Debug)]
struct HostRotation {
    /// `[positions, k/2]`
    cos: Vec<f32>,
    /// `[positions, k/2]`
    sin: Vec<f32>,
    layout: RopeLayout,
}

impl HostRotation {
    fn new(rope: &RopeConfig, positions: impl Iterator<Item = usize>) -> Self {
        let (cos, sin) = rope.table(positions);
        Self { cos, sin, layout: rope.layout }
    }

    /// Rotates heads `[r, heads·k]`, each row as the position at its place among those of the table,
    /// or with `sign` −1 back.
    fn rotate(
        &self,
        heads: &mut [f32],
        width: usize,
        places: impl ExactSizeIterator<Item = usize>,
        sign: f32,
    ) {
        let half = width / 2;
        let rotate = match self.layout {
            RopeLayout::HalfSplit => rotate_half_split,
            RopeLayout::Interleaved => rotate_interleaved,
        };
        let row = heads.len() / places.len().max(1);
        for (heads, place) in heads.chunks_exact_mut(row.max(1)).zip(places) {
            let place = place * half..(place + 1) * half;
            rotate(heads, &self.cos[place.clone()], &self.sin[place], sign);
        }
    }
}

/// Which keys of its own sequence a query sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostVisibility {
    /// All of them.
    All,
    /// Those up to its own place.
    Causal,
    /// Of those, so many at most.
    Window(usize),
}

impl HostVisibility {
    pub(super) fn of(self, query: usize, keys: usize) -> Range<usize> {
        match self {
            Self::All => 0..keys,
            Self::Causal => 0..query + 1,
            Self::Window(window) => (query + 1).saturating_sub(window)..query + 1,
        }
    }
}

/// What the layers of one kind share when whole sequences are read, each from its first position on.
#[derive(Clone, Debug)]
pub(crate) struct HostFrame {
    rotation: HostRotation,
    pub(super) visibility: HostVisibility,
}

impl HostFrame {
    /// For sequences of up to `longest` positions.
    pub(crate) fn new(rope: &RopeConfig, longest: usize, visibility: HostVisibility) -> Self {
        Self { rotation: HostRotation::new(rope, 0..longest), visibility }
    }

    /// Rotates heads `[r, heads·k]` of rows at `positions`, or with `sign` −1 back.
    pub(super) fn rotate(
        &self,
        heads: &mut [f32],
        width: usize,
        positions: impl Iterator<Item = usize>,
        sign: f32,
    ) {
        let positions: Vec<usize> = positions.collect();
        self.rotation.rotate(heads, width, positions.into_iter(), sign);
    }
}

/// What the layers of one kind share when the rows of a batch, padded to one length, are read at
/// positions of their own.
#[derive(Clone, Debug)]
pub(crate) struct BatchFrame {
    rotation: HostRotation,
    /// The positions in a row.
    s: usize,
    /// Whether all rows have the same positions.
    is_shared: bool,
    pub(super) visible: Visible,
}

impl BatchFrame {
    /// For rows at `positions`, one list for each, or one for all.
    pub(crate) fn new(rope: &RopeConfig, positions: &[Vec<usize>], visible: Visible) -> Self {
        Self {
            rotation: HostRotation::new(rope, positions.iter().flatten().copied()),
            s: positions.first().map_or(0, Vec::len),
            is_shared: positions.len() == 1,
            visible,
        }
    }

    /// The positions in a row.
    pub(super) fn positions(&self) -> usize {
        self.s
    }

    /// Rotates heads `[b·s, heads·k]`.
    pub(super) fn rotate(&self, heads: &mut [f32], heads_in_row: usize, width: usize) {
        let rows = heads.len() / (heads_in_row * width).max(1);
        let period = if self.is_shared { self.s.max(1) } else { rows.max(1) };
        self.rotation.rotate(heads, width, (0..rows).map(|row| row % period), 1.0);
    }
}

/// What the layers of one kind share when the next position of each of several sequences is read, each with a
/// context of its own.
#[derive(Clone, Debug)]
pub(crate) struct NextFrame {
    /// The rotation of the positions.
    pub(super) positions: BatchFrame,
    /// What each sequence's query sees of its own context.
    pub(super) visible: Vec<Visible>,
}

impl NextFrame {
    /// For sequences whose next positions are these.
    pub(crate) fn new(rope: &RopeConfig, positions: &[Vec<usize>], visible: Vec<Visible>) -> Self {
        Self { positions: BatchFrame::new(rope, positions, Visible::All), visible }
    }
}
