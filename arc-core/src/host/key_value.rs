//! Keys and values of positions that were read.

/// Keys and values of one layer in host memory, with room for more: `[b·g, capacity, k]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostKeyValue {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `g`
    groups: usize,
    capacity: usize,
    /// `k`
    width: usize,
}

impl HostKeyValue {
    /// Makes room for `capacity` slots of `[b, g, k]` and keeps the first `filled`.
    ///
    /// # Panics
    ///
    /// Panics if more slots are to be kept than there are.
    #[must_use]
    pub(crate) fn with_capacity(self, [b, g, k]: [usize; 3], filled: usize, capacity: usize) -> Self {
        let grow = |old: &[f32]| {
            let mut new = vec![0.0; b * g * capacity * k];
            if filled > 0 {
                for (new, old) in new.chunks_exact_mut(capacity * k).zip(old.chunks_exact(self.capacity * k))
                {
                    new[..filled * k].copy_from_slice(&old[..filled * k]);
                }
            }
            new
        };
        Self { keys: grow(&self.keys), values: grow(&self.values), groups: g, capacity, width: k }
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
    pub(super) fn write(&mut self, from: usize, keys: &[f32], values: &[f32]) {
        let (g, k) = (self.groups, self.width);
        let s = keys.len() / (self.keys.len() / self.capacity.max(1)).max(1);
        for (slots, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (sequence, slots) in slots.chunks_exact_mut(self.capacity * k).enumerate() {
                let (row, group) = (sequence / g, sequence % g);
                let slots = slots[from * k..(from + s) * k].chunks_exact_mut(k);
                for (slot, new) in slots.zip(new[row * s * g * k..].chunks_exact(g * k)) {
                    slot.copy_from_slice(&new[group * k..][..k]);
                }
            }
        }
    }

    /// The first `n` keys and values of a row's group, `[n, k]` each.
    pub(super) fn of(&self, row: usize, group: usize, n: usize) -> (&[f32], &[f32]) {
        let start = (row * self.groups + group) * self.capacity * self.width;
        let own = start..start + n * self.width;
        (&self.keys[own.clone()], &self.values[own])
    }

    /// The same `times` times over, for as many rows of a batch, of which this is one.
    #[must_use]
    pub(crate) fn repeated(&self, times: usize) -> Self {
        Self { keys: self.keys.repeat(times), values: self.values.repeat(times), ..*self }
    }

    /// Keeps these rows of a batch of `of`, in ascending order, without another copy.
    pub(crate) fn keep(&mut self, rows: &[usize], of: usize) {
        let size = self.keys.len() / of.max(1);
        for slots in [&mut self.keys, &mut self.values] {
            for (place, &row) in rows.iter().enumerate() {
                slots.copy_within(row * size..(row + 1) * size, place * size);
            }
            slots.truncate(rows.len() * size);
        }
    }

    /// What it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.values)
    }
}
