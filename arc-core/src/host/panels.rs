//! Weights of up to 8 bits, laid out once for instructions that multiply bytes.
//!
//! Such an instruction (VNNI) multiplies four unsigned bytes by four signed ones and adds the products to
//! a sum of 32 bits, in each of 8 or 16 places. So sixteen rows make a panel: a vector holds four weights of
//! each, a quad, and an activation's four stand in all places. Weights keep their width: the lower four
//! bits of two quads share a vector, and what a type has above them is a bit a weight. Where a type's
//! offset is a whole number of quants (`Q4_0`, `Q5_0`, `Q6_K`, `Q8_0`) sums begin with it, and are exact.
//!
//! Sums are those of `integer_rows.rs`: exact within a group of 32, or half of one, then scaled in float32.
//! A panel can be taken apart into tiles of bfloat16, too.
//!
//! The unsafe functions are so for the reasons that `quantised_rows.rs` gives.

use std::alloc::{Layout, handle_alloc_error};
use std::arch::x86_64::*;
use std::ops::Range;

use bytemuck::{Pod, Zeroable, zeroed_vec};
use memmap2::MmapMut;
use rayon::prelude::*;

use super::InstructionSet;
use super::block_formats::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::integer_rows::{GROUP, Integers, ROWS_TOGETHER as ROWS, RoundedRows, changed_over, with_integers};
use super::product::SharedOutput;
use super::tiles::{Tile, Tiles};
use crate::weights::StorageType;
use narrow::multiply as multiply_narrow;
use wide::{multiply as multiply_wide, tiles as panel_tiles};

/// Quads of a group.
const QUADS: usize = GROUP / 4;
/// Bytes that are laid out before the memory that they are mapped in is given back.
const READ_AT_ONCE: usize = 4 << 20;

/// A vector of bytes, or a row of a cache.
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; 64]);

/// Lines in memory of their own, which is none until something is written there: a vector of anything that is
/// aligned like this would be filled with zeros by one thread first, page after page.
struct Lines {
    map: MmapMut,
    bytes: usize,
}

impl Lines {
    /// That many lines of zeros.
    fn zeros(count: usize) -> Self {
        let layout = Layout::array::<Line>(count).expect("panels are about as long as what they are made of");
        // There is no map of nothing.
        let Ok(map) = MmapMut::map_anon(layout.size().max(1)) else { handle_alloc_error(layout) };
        // Weights are written and read from end to end. Where the system has no such pages, nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { map, bytes: layout.size() }
    }

    fn all(&self) -> &[Line] {
        bytemuck::cast_slice(&self.map[..self.bytes])
    }

    fn all_mut(&mut self) -> &mut [Line] {
        bytemuck::cast_slice_mut(&mut self.map[..self.bytes])
    }
}

/// What multiplies panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanelKernel {
    /// Vectors of 256 bits.
    AvxVnni,
    /// Vectors of 512 bits.
    Avx512Vnni,
}

impl PanelKernel {
    /// That of a set of instructions, if it has one.
    fn of(set: InstructionSet) -> Option<Self> {
        match set {
            InstructionSet::Portable | InstructionSet::Avx2 | InstructionSet::Avx512 => None,
            InstructionSet::AvxVnni => Some(Self::AvxVnni),
            InstructionSet::Avx512Vnni | InstructionSet::Avx512Bf16 | InstructionSet::Amx => {
                Some(Self::Avx512Vnni)
            }
        }
    }

    /// That of this machine.
    pub(super) fn here() -> Option<Self> {
        Self::of(InstructionSet::best())
    }

    /// All that this machine has.
    #[cfg(test)]
    pub(super) fn available() -> Vec<Self> {
        let mut found: Vec<Self> = InstructionSet::available().into_iter().filter_map(Self::of).collect();
        found.dedup();
        found
    }
}

/// How the weights of a type stand in a panel.
trait LaidOut: Integers {
    /// Bits of a weight: 4 to 6, or 8.
    const BITS: usize;
    /// The quant that stands for 0, where a type has no other offset; 0 where it has.
    const ZERO: i32;
    /// Lines of a group.
    const LINES: usize = if Self::BITS == 8 { QUADS } else { Self::BITS };
    /// Whether values have an offset of their own.
    const HAS_OFFSET: bool = Self::ZERO == 0;
}

macro_rules! laid_out {
    ($($name:ident: $bits:literal bits from $zero:literal;)*) => {
        $(impl LaidOut for $name {
            const BITS: usize = $bits;
            const ZERO: i32 = $zero;
        })*
    };
}

laid_out! {
    Q4_0: 4 bits from 8;
    Q4_1: 4 bits from 0;
    Q5_0: 5 bits from 16;
    Q5_1: 5 bits from 0;
    Q8_0: 8 bits from 128;
    Q4K: 4 bits from 0;
    Q5K: 5 bits from 0;
    Q6K: 6 bits from 32;
}

/// Scales, or offsets, as blocks have them: a factor in 16 bits, and where a block has several groups, what each
/// part of them multiplies it by. The product of the two has no more bits than float32 holds.
#[derive(Default)]
struct Numbers {
    /// `[panels, blocks, rows]`
    factors: Vec<u16>,
    /// `[panels, groups, parts, rows]`; none where a block is one group.
    multiples: Vec<i8>,
}

impl Numbers {
    fn zeros<F: LaidOut>(panels: usize, groups: usize) -> Self {
        let multiples = if F::GROUPS > 1 { panels * groups * F::SCALES * ROWS } else { 0 };
        Self { factors: zeroed_vec(panels * (groups / F::GROUPS) * ROWS), multiples: zeroed_vec(multiples) }
    }

    /// For each panel, where its own are.
    fn of_panels<F: LaidOut>(&mut self, panels: usize, groups: usize) -> Vec<NumbersOfPanel<'_>> {
        let mut factors = self.factors.chunks_exact_mut((groups / F::GROUPS * ROWS).max(1));
        let mut multiples = self.multiples.chunks_exact_mut((groups * F::SCALES * ROWS).max(1));
        let mut next = || NumbersOfPanel {
            factors: factors.next().unwrap_or_default(),
            multiples: multiples.next().unwrap_or_default(),
        };
        (0..panels).map(|_| next()).collect()
    }
}

/// Those of one panel.
struct NumbersOfPanel<'a> {
    factors: &'a mut [u16],
    multiples: &'a mut [i8],
}

/// A matrix `[rows, cols]` in panels of sixteen rows; rows that lack to whole ones are zeros.
pub(super) struct Panels {
    dtype: StorageType,
    rows: usize,
    cols: usize,
    /// `[panels, groups, lines]`
    lines: Lines,
    scales: Numbers,
    /// Where there are any.
    offsets: Numbers,
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Panels({} [{}, {}])", self.dtype, self.rows, self.cols)
    }
}

/// Where a panel's parts are written while it is laid out.
struct Place<'a> {
    lines: &'a mut [Line],
    /// Scales and offsets.
    numbers: [NumbersOfPanel<'a>; 2],
}

impl Panels {
    /// Lays out whole rows of a type that [`super::integer_rows::has`]. Every few megabytes it says how many of
    /// the bytes it needs no more.
    ///
    /// # Panics
    /// If the bytes are not those of `rows` rows of `cols`, or the machine multiplies no bytes.
    pub(super) fn new(
        dtype: StorageType,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        were_read: impl FnMut(usize),
    ) -> Self {
        assert!(PanelKernel::here().is_some(), "the machine multiplies bytes");
        assert_eq!(dtype.bytes_of_shape(&[rows, cols]), Some(bytes.len()), "whole rows");
        with_integers!(dtype, laid_out::<_>(dtype, bytes, rows, cols, were_read))
    }

    /// How many panels there are.
    pub(super) fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Multiplies some panels by all activations, on this thread; their rows are columns of `y`.
    ///
    /// # Safety
    /// The CPU has the kernel's instructions; the slice that `y` was made of is still borrowed for it, and
    /// no other thread writes the same columns meanwhile.
    pub(super) unsafe fn multiply(
        &self,
        kernel: PanelKernel,
        panels: Range<usize>,
        x: &RoundedRows,
        y: SharedOutput,
    ) {
        assert!(panels.end <= self.count() && x.cols == self.cols, "panels of that width");
        if panels.is_empty() {
            return;
        }
        let first = panels.start * ROWS;
        y.check(x.rows(), first, (panels.end * ROWS).min(self.rows).saturating_sub(first));
        for panel in panels {
            // SAFETY: as the caller says; the panel and its columns are there.
            unsafe {
                match kernel {
                    PanelKernel::AvxVnni => {
                        with_integers!(self.dtype, multiply_narrow::<_>(self, panel, x, y));
                    }
                    PanelKernel::Avx512Vnni => {
                        with_integers!(self.dtype, multiply_wide::<_>(self, panel, x, y));
                    }
                }
            }
        }
    }

    /// Some panels as the right factor of a product in bfloat16, in the memory of other tiles.
    ///
    /// # Panics
    /// If the machine does not multiply bfloat16.
    pub(super) fn tiles(&self, panels: Range<usize>, mut tiles: Vec<Tile>) -> Tiles {
        assert!(InstructionSet::best() >= InstructionSet::Avx512Bf16, "the machine multiplies bfloat16");
        assert!(panels.end <= self.count(), "there are such panels");
        let columns = (panels.end * ROWS).min(self.rows) - panels.start * ROWS;
        let groups = self.cols / GROUP;
        // Every tile is written whole.
        tiles.resize(panels.len() * groups, Tile::ZERO);
        for (panel, tiles) in panels.zip(tiles.chunks_exact_mut(groups)) {
            // SAFETY: asserted above; the panel is there.
            unsafe { with_integers!(self.dtype, panel_tiles::<_>(self, panel, tiles)) }
        }
        Tiles::right_of(tiles, columns, self.cols)
    }
}

/// All rows of a type, on all threads.
fn laid_out<F: LaidOut>(
    dtype: StorageType,
    bytes: &[u8],
    rows: usize,
    cols: usize,
    mut were_read: impl FnMut(usize),
) -> Panels {
    let (panels, groups) = (rows.div_ceil(ROWS), cols / GROUP);
    let row_bytes = bytes.len() / rows;
    let mut lines = Lines::zeros(panels * groups * F::LINES);
    let mut scales = Numbers::zeros::<F>(panels, groups);
    let mut offsets = if F::HAS_OFFSET { Numbers::zeros::<F>(panels, groups) } else { Numbers::default() };
    let numbers =
        scales.of_panels::<F>(panels, groups).into_iter().zip(offsets.of_panels::<F>(panels, groups));
    let mut places: Vec<(Place<'_>, &[u8])> = lines
        .all_mut()
        .chunks_mut((groups * F::LINES).max(1))
        .zip(numbers)
        .map(|(lines, (scales, offsets))| Place { lines, numbers: [scales, offsets] })
        .zip(bytes.chunks(ROWS * row_bytes))
        .collect();
    let together = (READ_AT_ONCE / (ROWS * row_bytes)).max(1);
    let mut read = 0;
    for places in places.chunks_mut(together) {
        places.par_iter_mut().for_each(|(place, bytes)| {
            // SAFETY: who multiplies bytes has AVX2, FMA and F16C; the rows are whole, and so is the place.
            unsafe { lay_out::<F>(bytes, bytes.len() / row_bytes, groups, place) };
        });
        read += places.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        were_read(read);
    }
    drop(places);
    Panels { dtype, rows, cols, lines, scales, offsets }
}

/// Lays out up to sixteen rows.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C; `bytes` holds `rows` rows of `groups` groups, and the place a panel.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn lay_out<F: LaidOut>(bytes: &[u8], rows: usize, groups: usize, place: &mut Place<'_>) {
    let row_bytes = bytes.len() / rows;
    for block in 0..groups / F::GROUPS {
        for half in 0..2_usize {
            let own = rows.saturating_sub(8 * half).min(8);
            let mut quants = [[_mm256_setzero_si256(); 8]; 8];
            for r in 0..own {
                let row = 8 * half + r;
                // SAFETY: the row has that block.
                unsafe {
                    let bytes = bytes.as_ptr().add(row * row_bytes + block * F::BLOCK_BYTES);
                    for (numbers, factor) in place.numbers.iter_mut().zip(F::factors(bytes)) {
                        // There are no offsets where a type has none.
                        if let Some(to) = numbers.factors.get_mut(block * ROWS + row) {
                            *to = factor;
                        }
                    }
                    for (g, quants) in quants.iter_mut().enumerate().take(F::GROUPS) {
                        quants[r] = F::integers(bytes, g);
                        if F::SIGNED {
                            quants[r] = _mm256_xor_si256(quants[r], _mm256_set1_epi8(i8::MIN));
                        }
                        for part in 0..F::SCALES {
                            let at = ((block * F::GROUPS + g) * F::SCALES + part) * ROWS + row;
                            let multiples = F::multiples(bytes, g, part);
                            for (numbers, multiple) in place.numbers.iter_mut().zip(multiples) {
                                // Nor multiples where a block is one group.
                                if let Some(to) = numbers.multiples.get_mut(at) {
                                    *to = multiple;
                                }
                            }
                        }
                    }
                }
            }
            for (g, quants) in quants.iter().enumerate().take(F::GROUPS) {
                let group = block * F::GROUPS + g;
                let lines = &mut place.lines[group * F::LINES..][..F::LINES];
                for (quad, quants) in changed_over(quants).into_iter().enumerate() {
                    // SAFETY: a line has two halves of eight rows.
                    unsafe { put::<F>(lines, quad, half, quants) };
                }
            }
        }
    }
}

/// Writes a quad of eight rows of a group.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn put<F: LaidOut>(lines: &mut [Line], quad: usize, half: usize, quants: __m256i) {
    if F::BITS == 8 {
        // SAFETY: half of a line.
        unsafe { _mm256_storeu_si256(lines[quad].0.as_mut_ptr().add(32 * half).cast(), quants) };
        return;
    }
    let low = _mm256_and_si256(quants, _mm256_set1_epi8(15));
    // SAFETY: half of a line.
    unsafe {
        let to = lines[quad / 2].0.as_mut_ptr().add(32 * half).cast::<__m256i>();
        let both = if quad.is_multiple_of(2) {
            low
        } else {
            _mm256_or_si256(_mm256_loadu_si256(to), _mm256_slli_epi16::<4>(low))
        };
        _mm256_storeu_si256(to, both);
    }
    for plane in 0..F::BITS - 4 {
        // The bit becomes a byte's highest.
        let bits = if plane == 0 { _mm256_slli_epi16::<3>(quants) } else { _mm256_slli_epi16::<2>(quants) };
        let mask = _mm256_movemask_epi8(bits);
        lines[4 + plane].0[8 * quad + 4 * half..][..4].copy_from_slice(&mask.to_ne_bytes());
    }
}

/// A panel as kernels read it.
struct Panel {
    lines: *const Line,
    /// Of scales and offsets.
    factors: [*const u16; 2],
    multiples: [*const i8; 2],
}

impl Panel {
    fn of<F: LaidOut>(panels: &Panels, panel: usize) -> Self {
        let groups = panels.cols / GROUP;
        let (blocks, parts) = (panel * (groups / F::GROUPS) * ROWS, panel * groups * F::SCALES * ROWS);
        let both = [&panels.scales, &panels.offsets];
        Self {
            lines: panels.lines.all()[panel * groups * F::LINES..].as_ptr(),
            factors: both.map(|numbers| numbers.factors.get(blocks..).unwrap_or_default().as_ptr()),
            multiples: both.map(|numbers| numbers.multiples.get(parts..).unwrap_or_default().as_ptr()),
        }
    }
}

/// Defines what multiplies a panel by activations.
macro_rules! multiplication {
    (features: $features:literal, parts: $parts:literal, rows: $rows:literal) => {
        /// Multiplies a panel by all activations.
        ///
        /// # Safety
        /// The CPU has the instructions; `y` has room for the panel's columns, which nobody else uses.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn multiply<F: LaidOut>(
            panels: &Panels,
            panel: usize,
            x: &RoundedRows,
            y: SharedOutput,
        ) {
            let place = Panel::of::<F>(panels, panel);
            let columns = (panels.rows - panel * ROWS).min(ROWS);
            let mut row = 0;
            while row < x.rows() {
                // SAFETY: that many activations are left.
                unsafe {
                    let y = y.at(row, panel * ROWS);
                    row += match x.rows() - row {
                        8.. if LARGEST == 8 => by::<F, LARGEST>(&place, x, row, y, panels.rows, columns),
                        4.. => by::<F, 4>(&place, x, row, y, panels.rows, columns),
                        2.. => by::<F, 2>(&place, x, row, y, panels.rows, columns),
                        _ => by::<F, 1>(&place, x, row, y, panels.rows, columns),
                    };
                }
            }
        }

        /// Sixteen rows by `M` activations; returns `M`.
        #[target_feature(enable = $features)]
        unsafe fn by<F: LaidOut, const M: usize>(
            panel: &Panel,
            x: &RoundedRows,
            row: usize,
            y: *mut f32,
            stride: usize,
            columns: usize,
        ) -> usize {
            let groups = x.cols / GROUP;
            let quads = QUADS / F::SCALES;
            let mut results = [[[0.0_f32; $rows]; $parts]; M];
            for half in 0..$parts {
                let mut sums = [zero_floats(); M];
                for group in 0..groups {
                    for part in 0..F::SCALES {
                        // SAFETY: the panel has the group, each activation too.
                        unsafe {
                            let lines = panel.lines.add(group * F::LINES);
                            let mut exact = [zero_integers(); M];
                            let mut own = [0; M];
                            for i in 0..M {
                                own[i] = (row + i) * groups + group;
                                if F::ZERO != 0 {
                                    let totals = x.totals.as_ptr().add(2 * own[i]);
                                    let total = match F::SCALES {
                                        1 => *totals + *totals.add(1),
                                        _ => *totals.add(part),
                                    };
                                    exact[i] = integers(-F::ZERO * total);
                                }
                            }
                            for quad in part * quads..(part + 1) * quads {
                                let w = weights::<F>(lines, quad, half);
                                for i in 0..M {
                                    let quants = x.quants.as_ptr().add(own[i] * GROUP + 4 * quad);
                                    let quants = integers(quants.cast::<i32>().read_unaligned());
                                    exact[i] = dot(exact[i], w, quants);
                                }
                            }
                            let scale = numbers::<F>(panel, 0, group, part, half);
                            for i in 0..M {
                                let scale = times(scale, floats(*x.scales.as_ptr().add(own[i])));
                                sums[i] = times_plus(converted(exact[i]), scale, sums[i]);
                            }
                            if F::HAS_OFFSET {
                                let offset = numbers::<F>(panel, 1, group, part, half);
                                for i in 0..M {
                                    let halves = x.sums.as_ptr().add(2 * own[i]);
                                    let sum = match F::SCALES {
                                        1 => *halves + *halves.add(1),
                                        _ => *halves.add(part),
                                    };
                                    sums[i] = times_plus(offset, floats(sum), sums[i]);
                                }
                            }
                        }
                    }
                }
                for i in 0..M {
                    // SAFETY: a vector of results.
                    unsafe { store(results[i][half].as_mut_ptr(), sums[i]) };
                }
            }
            for (i, results) in results.iter().enumerate() {
                // SAFETY: the caller has room for `columns` products of each activation.
                unsafe { std::ptr::copy_nonoverlapping(results.as_ptr().cast(), y.add(i * stride), columns) };
            }
            M
        }
    };
}

/// Vectors of 512 bits.
mod wide {
    use super::*;

    const LARGEST: usize = 8;

    multiplication! { features: "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", parts: 1, rows: 16 }

    #[inline(always)]
    unsafe fn weights<F: LaidOut>(lines: *const Line, quad: usize, _: usize) -> __m512i {
        unsafe {
            if F::BITS == 8 {
                return _mm512_load_si512(lines.add(quad).cast());
            }
            let both = _mm512_load_si512(lines.add(quad / 2).cast());
            let own = if quad.is_multiple_of(2) { both } else { _mm512_srli_epi16::<4>(both) };
            let mut w = _mm512_and_si512(own, _mm512_set1_epi8(15));
            for plane in 0..F::BITS - 4 {
                let bits = lines.add(4 + plane).cast::<u64>().add(quad).read();
                w = _mm512_mask_add_epi8(w, bits, w, _mm512_set1_epi8(16 << plane));
            }
            w
        }
    }

    #[inline(always)]
    unsafe fn numbers<F: LaidOut>(
        panel: &Panel,
        which: usize,
        group: usize,
        part: usize,
        _: usize,
    ) -> __m512 {
        unsafe {
            let factors = panel.factors[which].add(group / F::GROUPS * ROWS);
            let factors = _mm512_cvtph_ps(_mm256_loadu_si256(factors.cast()));
            if F::GROUPS == 1 {
                return factors;
            }
            let multiples = panel.multiples[which].add((group * F::SCALES + part) * ROWS);
            let multiples = _mm512_cvtepi8_epi32(_mm_loadu_si128(multiples.cast()));
            times(converted(multiples), factors)
        }
    }

    /// A panel as tiles of bfloat16, one for each group.
    ///
    /// # Safety
    /// The CPU has the instructions; the panel is there, and a tile for each of its groups.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn tiles<F: LaidOut>(panels: &Panels, panel: usize, tiles: &mut [Tile]) {
        let panel = Panel::of::<F>(panels, panel);
        // Of sixteen first and sixteen second values: the first of each, then the second.
        let mut order = [0_u16; 32];
        for (place, order) in order.iter_mut().enumerate() {
            *order = (place / 2 + 16 * (place % 2)) as u16;
        }
        // SAFETY: it is a vector.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        for (group, tile) in tiles.iter_mut().enumerate() {
            for quad in 0..QUADS {
                // SAFETY: the panel has the group; a tile has two rows for each quad.
                unsafe {
                    let part = quad * F::SCALES / QUADS;
                    let scale = numbers::<F>(&panel, 0, group, part, 0);
                    let offset = if F::HAS_OFFSET {
                        numbers::<F>(&panel, 1, group, part, 0)
                    } else {
                        times(scale, floats(-F::ZERO as f32))
                    };
                    let w = weights::<F>(panel.lines.add(group * F::LINES), quad, 0);
                    let byte = _mm512_set1_epi32(0xff);
                    let value = |w: __m512i| times_plus(converted(_mm512_and_si512(w, byte)), scale, offset);
                    let values = [
                        value(w),
                        value(_mm512_srli_epi32::<8>(w)),
                        value(_mm512_srli_epi32::<16>(w)),
                        value(_mm512_srli_epi32::<24>(w)),
                    ];
                    for pair in 0..2 {
                        let both = _mm512_cvtne2ps_pbh(values[2 * pair + 1], values[2 * pair]);
                        let both: __m512i = std::mem::transmute(both);
                        let row = tile.row_mut(2 * quad + pair).as_mut_ptr();
                        _mm512_storeu_si512(row.cast(), _mm512_permutexvar_epi16(order, both));
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, w, x) }
    }

    #[inline(always)]
    fn zero_integers() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn zero_floats() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn integers(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn floats(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn converted(value: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(value) }
    }

    #[inline(always)]
    unsafe fn times(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn times_plus(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, values: __m512) {
        unsafe { _mm512_storeu_ps(to, values) }
    }
}

/// Vectors of 256 bits: half of a panel at a time.
mod narrow {
    use super::*;
    use crate::host::block_formats::{fifth_bits, load_32};

    const LARGEST: usize = 4;

    multiplication! { features: "avx2,fma,f16c,avxvnni", parts: 2, rows: 8 }

    #[inline(always)]
    unsafe fn weights<F: LaidOut>(lines: *const Line, quad: usize, half: usize) -> __m256i {
        unsafe {
            if F::BITS == 8 {
                return load_32(lines.add(quad).cast::<u8>().add(32 * half));
            }
            let both = load_32(lines.add(quad / 2).cast::<u8>().add(32 * half));
            let own = if quad.is_multiple_of(2) { both } else { _mm256_srli_epi16::<4>(both) };
            let mut w = _mm256_and_si256(own, _mm256_set1_epi8(15));
            for plane in 0..F::BITS - 4 {
                let bits = fifth_bits(lines.add(4 + plane).cast::<u8>().add(8 * quad + 4 * half));
                w = _mm256_or_si256(w, if plane == 0 { bits } else { _mm256_add_epi8(bits, bits) });
            }
            w
        }
    }

    #[inline(always)]
    unsafe fn numbers<F: LaidOut>(
        panel: &Panel,
        which: usize,
        group: usize,
        part: usize,
        half: usize,
    ) -> __m256 {
        unsafe {
            let factors = panel.factors[which].add(group / F::GROUPS * ROWS + half * 8);
            let factors = _mm256_cvtph_ps(_mm_loadu_si128(factors.cast()));
            if F::GROUPS == 1 {
                return factors;
            }
            let multiples = panel.multiples[which].add((group * F::SCALES + part) * ROWS + half * 8);
            let multiples = _mm256_cvtepi8_epi32(_mm_loadl_epi64(multiples.cast()));
            times(converted(multiples), factors)
        }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }

    #[inline(always)]
    fn zero_integers() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn zero_floats() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn integers(value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn floats(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn converted(value: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(value) }
    }

    #[inline(always)]
    unsafe fn times(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn times_plus(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, values: __m256) {
        unsafe { _mm256_storeu_ps(to, values) }
    }
}
