//! Products in bfloat16, summed in float32.
//!
//! Both factors are laid out in tiles of 16 rows (or columns) by 32 values of the inner width, in the
//! order in which kernels read them; frozen weights once, activations as they come. The tiles are those
//! of AMX, whose instruction multiplies two of them; with AVX-512 alone a row of a right tile is one
//! vector, and values of a left one are broadcast. Values are rounded to the nearest, ties to even; both
//! kernels flush denormals, and add pairs in an order of their own.
//!
//! The unsafe code here is instructions that the CPU was found to have, on tiles and outputs whose places
//! were checked.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::product::View;
use super::{InstructionSet, Vectors};

/// Rows or columns of a tile.
const SIDE: usize = 16;
/// Values of the inner width in a tile.
const INNER: usize = 32;
/// Pairs of them.
const PAIRS: usize = INNER / 2;
/// Tiles of a right factor that all left ones meet before the next do: 384 KiB, which a second-level cache
/// keeps beside them.
const TILES_TOGETHER: usize = 384;

/// Panels of activations that one job lays out.
const PANELS_OF_A_JOB: usize = 4;

/// What multiplies tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TileKernel {
    /// Slower than products of float32 values: for tests.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl TileKernel {
    /// That of a set of instructions.
    fn of(set: InstructionSet) -> Self {
        match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx => Self::Amx,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16 => Self::Avx512,
            _ => Self::Portable,
        }
    }

    /// What this machine multiplies bfloat16 with, if it has instructions for it.
    pub(super) fn here() -> Option<Self> {
        Some(Self::of(InstructionSet::best())).filter(|&kernel| kernel != Self::Portable)
    }
}

/// Whether training multiplies in bfloat16 on this machine.
pub(crate) fn multiplies_bfloat16() -> bool {
    TileKernel::here().is_some()
}

/// What products in bfloat16 are computed with on this machine.
pub(crate) fn bfloat16_products() -> &'static str {
    match TileKernel::here() {
        #[cfg(target_arch = "x86_64")]
        Some(TileKernel::Amx) => "AMX",
        #[cfg(target_arch = "x86_64")]
        Some(TileKernel::Avx512) => "AVX-512 BF16",
        _ => "none: as float32",
    }
}

/// 16 rows of 16 pairs of bfloat16, or 16 pairs of 16 columns; the first of a pair lies in the low bits.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile([[u32; SIDE]; PAIRS]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0; SIDE]; PAIRS]);

    /// A row of pairs, or a pair of columns.
    pub(super) fn row_mut(&mut self, row: usize) -> &mut [u32; SIDE] {
        &mut self.0[row]
    }
}

/// The side of a product that tiles are laid out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Factor {
    /// `[rows, inner]`, rows of pairs.
    Left,
    /// `[inner, columns]`, pairs of columns.
    Right,
}

/// A factor of a product, in tiles; what lacks to whole ones is zero.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    /// `[outer / 16, inner / 32]`
    tiles: Vec<Tile>,
    /// Rows of a left factor, columns of a right one.
    outer: usize,
    inner: usize,
    factor: Factor,
}

thread_local! {
    /// A thread's tiles of activations.
    static ACTIVATIONS: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
}

impl Tiles {
    /// A left factor, `[rows, inner]`.
    pub(super) fn left(view: View<'_>) -> Self {
        Self::in_place_of(Vec::new(), view, Factor::Left)
    }

    /// A right factor, `[inner, columns]`.
    pub(super) fn right(view: View<'_>) -> Self {
        Self::in_place_of(Vec::new(), view.transposed(), Factor::Right)
    }

    /// A left factor, laid out on all threads.
    pub(super) fn left_on_all_threads(view: View<'_>) -> Self {
        assert!(view.fits(), "a factor lies in its slice");
        let depth = view.columns.div_ceil(INNER);
        let mut tiles = vec![Tile::ZERO; view.rows.div_ceil(SIDE) * depth];
        tiles.par_chunks_mut((depth * PANELS_OF_A_JOB).max(1)).enumerate().for_each(|(job, tiles)| {
            let first = job * PANELS_OF_A_JOB * SIDE;
            let values = &view.values[first * view.row_stride..];
            let rows = (view.rows - first).min(PANELS_OF_A_JOB * SIDE);
            fill(tiles, depth, 0, View { values, rows, ..view }, Factor::Left);
        });
        Self { tiles, outer: view.rows, inner: view.columns, factor: Factor::Left }
    }

    /// A right factor whose tiles were laid out elsewhere.
    pub(super) fn right_of(tiles: Vec<Tile>, columns: usize, inner: usize) -> Self {
        assert_eq!(tiles.len(), columns.div_ceil(SIDE) * inner.div_ceil(INNER), "all tiles");
        Self { tiles, outer: columns, inner, factor: Factor::Right }
    }

    /// A right factor in the memory of other tiles.
    pub(super) fn right_in(tiles: Vec<Tile>, view: View<'_>) -> Self {
        Self::in_place_of(tiles, view.transposed(), Factor::Right)
    }

    /// The memory, for other tiles.
    pub(super) fn into_memory(self) -> Vec<Tile> {
        self.tiles
    }

    /// Left factors `[rows, inner]` beside each other, and right ones `[inner, columns]` below each other,
    /// of the same inner widths: the product is the sum of theirs, and is written once. Each begins in a
    /// tile of its own.
    pub(super) fn joined(left: &[View<'_>], right: &[View<'_>]) -> (Self, Self) {
        let turned: Vec<View<'_>> = right.iter().map(|view| view.transposed()).collect();
        let join = |views: &[View<'_>], factor| {
            let depth: usize = views.iter().map(|view| view.columns.div_ceil(INNER)).sum();
            let outer = views.first().map_or(0, |view| view.rows);
            let mut tiles = vec![Tile::ZERO; outer.div_ceil(SIDE) * depth];
            let mut from = 0;
            for view in views {
                assert!(view.fits() && view.rows == outer, "factors of one width lie in their slices");
                fill(&mut tiles, depth, from, *view, factor);
                from += view.columns.div_ceil(INNER);
            }
            Self { tiles, outer, inner: depth * INNER, factor }
        };
        (join(left, Factor::Left), join(&turned, Factor::Right))
    }

    /// Lays out `[outer, inner]` where other tiles were.
    fn in_place_of(mut tiles: Vec<Tile>, view: View<'_>, factor: Factor) -> Self {
        assert!(view.fits(), "a factor lies in its slice");
        let (panels, depth) = (view.rows.div_ceil(SIDE), view.columns.div_ceil(INNER));
        // Every tile is written whole.
        tiles.resize(panels * depth, Tile::ZERO);
        fill(&mut tiles, depth, 0, view, factor);
        Self { tiles, outer: view.rows, inner: view.columns, factor }
    }

    /// Calls a function with a left factor that lasts as long.
    pub(super) fn with_left<T>(view: View<'_>, run: impl FnOnce(&Self) -> T) -> T {
        let tiles = Self::in_place_of(ACTIVATIONS.take(), view, Factor::Left);
        let result = run(&tiles);
        ACTIVATIONS.set(tiles.tiles);
        result
    }

    fn depth(&self) -> usize {
        self.inner.div_ceil(INNER)
    }

    fn panels(&self) -> usize {
        self.outer.div_ceil(SIDE)
    }
}

/// A part of a right factor: whole tiles, but for the last.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) tiles: &'a Tiles,
    /// Of its columns.
    pub(super) columns: Range<usize>,
    /// Of its inner width.
    pub(super) inner: Range<usize>,
}

impl<'a> Part<'a> {
    /// All of a factor.
    pub(super) fn all(tiles: &'a Tiles) -> Self {
        Self { tiles, columns: 0..tiles.outer, inner: 0..tiles.inner }
    }
}

/// `product = left · right`, or with `add` what is there plus that, on this thread; rows of the product
/// are `row_stride` apart.
pub(super) fn multiply_tiles(
    kernel: TileKernel,
    left: &Tiles,
    right: &Part<'_>,
    add: bool,
    product: &mut [f32],
    row_stride: usize,
) {
    assert!(right.columns.len() <= row_stride || left.outer == 0, "the product's place");
    let fits = (left.outer.max(1) - 1) * row_stride + right.columns.len() <= product.len();
    assert!(fits || left.outer == 0, "the product's place");
    // SAFETY: the product is borrowed for it, and has the place.
    unsafe { multiply_tiles_at(kernel, left, right, add, product.as_mut_ptr(), row_stride) }
}

/// The same where other threads write other columns.
///
/// # Safety
/// `product` has rows of as many values as the right part has columns, `row_stride` apart, for all rows of the
/// left factor, which nobody else reads or writes meanwhile.
pub(super) unsafe fn multiply_tiles_at(
    kernel: TileKernel,
    left: &Tiles,
    right: &Part<'_>,
    add: bool,
    product: *mut f32,
    row_stride: usize,
) {
    let Part { tiles: right, columns, inner } = right;
    assert!(left.factor == Factor::Left && right.factor == Factor::Right, "each on its side");
    assert_eq!(left.inner, inner.len(), "the inner width");
    let starts_whole = columns.start.is_multiple_of(SIDE) && inner.start.is_multiple_of(INNER);
    let ends_whole =
        |end: usize, all: usize, step: usize| end == all || end < all && end.is_multiple_of(step);
    assert!(
        starts_whole
            && ends_whole(columns.end, right.outer, SIDE)
            && ends_whole(inner.end, right.inner, INNER),
        "parts are whole tiles"
    );
    let (rows, count) = (left.outer, columns.len());
    if rows == 0 || count == 0 {
        return;
    }
    let first = inner.start / INNER;
    let depth = left.depth();
    if depth == 0 {
        if !add {
            // SAFETY: as the caller says.
            (0..rows).for_each(|row| unsafe { product.add(row * row_stride).write_bytes(0, count) });
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel is AMX only where it was granted.
    let _tiles = (kernel == TileKernel::Amx).then(|| unsafe { super::amx::TileRegisters::configure() });
    // Blocks of columns whose tiles stay in a cache while rows pass by. The product is written along them:
    // down a column each row would be on a page of its own.
    let group = (TILES_TOGETHER / (2 * depth)).max(1);
    let blocks = count.div_ceil(2 * SIDE);
    for first_block in (0..blocks).step_by(group) {
        for i in (0..left.panels()).step_by(2) {
            let panel = |number: usize| &left.tiles[number.min(left.panels() - 1) * depth..][..depth];
            let a = [panel(i), panel(i + 1)];
            for j in (first_block..blocks.min(first_block + group)).map(|block| 2 * block) {
                let panel = |number: usize| {
                    let number = (columns.start / SIDE + number).min(right.panels() - 1);
                    &right.tiles[number * right.depth() + first..][..depth]
                };
                let b = [panel(j), panel(j + 1)];
                let place = i * SIDE * row_stride + j * SIDE;
                if (i + 2) * SIDE <= rows && (j + 2) * SIDE <= count {
                    // SAFETY: 32 rows of 32 columns from `place` on are in the product.
                    unsafe { multiply_block(kernel, a, b, add, product.add(place), row_stride) };
                    continue;
                }
                let mut whole = [0.0; 2 * SIDE * 2 * SIDE];
                // SAFETY: the block is 32 rows of 32 columns.
                unsafe { multiply_block(kernel, a, b, false, whole.as_mut_ptr(), 2 * SIDE) };
                let (rows, columns) = ((rows - i * SIDE).min(2 * SIDE), (count - j * SIDE).min(2 * SIDE));
                for (row, found) in whole.chunks_exact(2 * SIDE).take(rows).enumerate() {
                    for (column, found) in found.iter().take(columns).enumerate() {
                        // SAFETY: as the caller says.
                        let value = unsafe { &mut *product.add(place + row * row_stride + column) };
                        *value = if add { *value + found } else { *found };
                    }
                }
            }
        }
    }
}

/// A block of 32 rows and 32 columns: `c = a b`, or plus what is there.
///
/// # Safety
/// The CPU has the kernel's instructions, tiles are configured for AMX, and `c` has 32 rows of 32 values
/// that are `row_stride` apart.
unsafe fn multiply_block(
    kernel: TileKernel,
    a: [&[Tile]; 2],
    b: [&[Tile]; 2],
    add: bool,
    c: *mut f32,
    row_stride: usize,
) {
    match kernel {
        // SAFETY: as the caller says.
        TileKernel::Portable => unsafe { block_portable(a, b, add, c, row_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as the caller says.
        TileKernel::Avx512 => unsafe { x86::block_avx512(a, b, add, c, row_stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as the caller says.
        TileKernel::Amx => unsafe { x86::block_amx(a, b, add, c, row_stride) },
    }
}

/// # Safety
/// `c` has 32 rows of 32 values that are `row_stride` apart.
unsafe fn block_portable(a: [&[Tile]; 2], b: [&[Tile]; 2], add: bool, c: *mut f32, row_stride: usize) {
    let halves = |pair: u32| [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)];
    for (i, a) in a.iter().enumerate() {
        for (j, b) in b.iter().enumerate() {
            for row in 0..SIDE {
                let mut sums = [0.0_f32; SIDE];
                for (a, b) in a.iter().zip(*b) {
                    for (&a, b) in a.0[row].iter().zip(&b.0) {
                        let [a0, a1] = halves(a);
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            let [b0, b1] = halves(b);
                            *sum += a0 * b0 + a1 * b1;
                        }
                    }
                }
                for (column, sum) in sums.into_iter().enumerate() {
                    // SAFETY: the place is in the block.
                    let place = unsafe { &mut *c.add((i * SIDE + row) * row_stride + j * SIDE + column) };
                    *place = if add { *place + sum } else { sum };
                }
            }
        }
    }
}

/// The nearest bfloat16, ties to even, in the upper half.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // Rounding up could make something else of what is no number.
    if value.is_nan() { bits | 0x0040_0000 } else { nearest }
}

#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    rounded(first) >> 16 | rounded(second) & 0xffff_0000
}

/// Lays out `[outer, inner]` in tiles that are `depth` to a panel, from place `from` of each on.
fn fill(tiles: &mut [Tile], depth: usize, from: usize, view: View<'_>, factor: Factor) {
    let own = view.columns.div_ceil(INNER);
    for (panel, tiles) in tiles.chunks_exact_mut(depth.max(1)).enumerate() {
        for (number, tile) in tiles[from..from + own].iter_mut().enumerate() {
            lay_out(view, panel * SIDE, number * INNER, factor, tile);
        }
    }
}

/// Lays out the tile of `[outer, inner]` at a place.
fn lay_out(view: View<'_>, outer: usize, inner: usize, factor: Factor, tile: &mut Tile) {
    let (rows, columns) = ((view.rows - outer).min(SIDE), (view.columns - inner).min(INNER));
    let start = outer * view.row_stride + inner * view.column_stride;
    let values = &view.values[start..];
    let is_whole = rows == SIDE && columns == INNER;
    let is_left = if is_whole && view.column_stride == 1 {
        rows_of_pairs(values, view.row_stride, tile);
        true
    } else if is_whole && view.row_stride == 1 {
        pairs_of_columns(values, view.column_stride, tile);
        false
    } else {
        let value = |row: usize, column: usize| {
            let is_there = row < rows && column < columns;
            if is_there { values[row * view.row_stride + column * view.column_stride] } else { 0.0 }
        };
        for (row, pairs) in tile.0.iter_mut().enumerate() {
            for (place, to) in pairs.iter_mut().enumerate() {
                *to = pair(value(row, 2 * place), value(row, 2 * place + 1));
            }
        }
        true
    };
    if is_left != (factor == Factor::Left) {
        transpose(tile);
    }
}

/// A whole tile as a left factor has it, of rows that are contiguous.
fn rows_of_pairs(values: &[f32], stride: usize, tile: &mut Tile) {
    assert!(values.len() >= (SIDE - 1) * stride + INNER, "a whole tile");
    #[cfg(target_arch = "x86_64")]
    if InstructionSet::best() >= InstructionSet::Avx512Bf16 {
        // SAFETY: the CPU was found to have these instructions; the values are there.
        return unsafe { x86::rows_of_pairs(values.as_ptr(), stride, tile) };
    }
    for (row, to) in tile.0.iter_mut().enumerate() {
        let (from, _) = values[row * stride..][..INNER].as_chunks::<2>();
        for (to, from) in to.iter_mut().zip(from) {
            *to = pair(from[0], from[1]);
        }
    }
}

/// A whole tile as a right factor has it, of columns that are contiguous.
fn pairs_of_columns(values: &[f32], stride: usize, tile: &mut Tile) {
    assert!(values.len() >= (INNER - 1) * stride + SIDE, "a whole tile");
    #[cfg(target_arch = "x86_64")]
    if InstructionSet::best() >= InstructionSet::Avx512Bf16 {
        // SAFETY: the CPU was found to have these instructions; the values are there.
        return unsafe { x86::pairs_of_columns(values.as_ptr(), stride, tile) };
    }
    for (number, to) in tile.0.iter_mut().enumerate() {
        let (first, second) =
            (&values[2 * number * stride..][..SIDE], &values[(2 * number + 1) * stride..][..SIDE]);
        for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
            *to = pair(*first, *second);
        }
    }
}

/// Rows of pairs become pairs of columns, and the other way.
fn transpose(tile: &mut Tile) {
    match Vectors::best() {
        // SAFETY: the CPU was found to have these instructions.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { x86::transpose(tile) },
        _ => {
            for row in 0..SIDE {
                for column in 0..row {
                    let other = tile.0[column][row];
                    tile.0[column][row] = std::mem::replace(&mut tile.0[row][column], other);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::super::amx::ROW_BYTES;
    use super::{PAIRS, SIDE, Tile};

    /// # Safety
    /// The CPU has AVX-512 F and BF16; 16 rows of 32 values lie `stride` apart.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn rows_of_pairs(values: *const f32, stride: usize, tile: &mut Tile) {
        for (row, to) in tile.0.iter_mut().enumerate() {
            // SAFETY: a row is two vectors; their values in 16 bits are one, as is a row of a tile.
            unsafe {
                let from = values.add(row * stride);
                let row = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(SIDE)), _mm512_loadu_ps(from));
                _mm512_store_si512(to.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(row));
            }
        }
    }

    /// # Safety
    /// The CPU has AVX-512 F, BW and BF16; 32 rows of 16 values lie `stride` apart.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn pairs_of_columns(values: *const f32, stride: usize, tile: &mut Tile) {
        /// Of 32 values, the places of one of each half in turn.
        const IN_TURN: [u16; 32] = {
            let mut places = [0; 32];
            let mut place = 0;
            while place < 32 {
                places[place] = (place / 2 + place % 2 * 16) as u16;
                place += 1;
            }
            places
        };
        // SAFETY: the array is one vector.
        let in_turn = unsafe { _mm512_loadu_si512(IN_TURN.as_ptr().cast()) };
        for (number, to) in tile.0.iter_mut().enumerate() {
            // SAFETY: a row is one vector, as is a row of a tile.
            unsafe {
                let from = values.add(2 * number * stride);
                let both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(stride)), _mm512_loadu_ps(from));
                let both = std::mem::transmute::<__m512bh, __m512i>(both);
                _mm512_store_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(in_turn, both));
            }
        }
    }

    /// # Safety
    /// The CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(tile: &mut Tile) {
        let mut r = [_mm512_setzero_si512(); SIDE];
        let mut t = r;
        for (r, row) in r.iter_mut().zip(&tile.0) {
            // SAFETY: a row is one vector.
            *r = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        }
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        for i in 0..4 {
            t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[i + 4]);
            t[i + 4] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[i + 4]);
            t[i + 8] = _mm512_shuffle_i32x4::<0x88>(r[i + 8], r[i + 12]);
            t[i + 12] = _mm512_shuffle_i32x4::<0xdd>(r[i + 8], r[i + 12]);
        }
        for i in 0..8 {
            let (low, high) =
                (_mm512_shuffle_i32x4::<0x88>(t[i], t[i + 8]), _mm512_shuffle_i32x4::<0xdd>(t[i], t[i + 8]));
            // SAFETY: a row is one vector.
            unsafe {
                _mm512_storeu_si512(tile.0[i].as_mut_ptr().cast(), low);
                _mm512_storeu_si512(tile.0[i + 8].as_mut_ptr().cast(), high);
            }
        }
    }

    /// # Safety
    /// The CPU has AVX-512 F and BF16; `c` has 32 rows of 32 values that are `row_stride` apart.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn block_avx512(
        a: [&[Tile]; 2],
        b: [&[Tile]; 2],
        add: bool,
        c: *mut f32,
        row_stride: usize,
    ) {
        /// Rows whose sums are kept in registers, two vectors each.
        const ROWS: usize = 8;
        let bf16 = |pairs: __m512i| -> __m512bh {
            // SAFETY: the same 512 bits.
            unsafe { std::mem::transmute(pairs) }
        };
        for (half, a) in a.iter().enumerate() {
            for from in (0..SIDE).step_by(ROWS) {
                // SAFETY: rows and vectors are inside tiles and block.
                unsafe {
                    let row = |row: usize| c.add((half * SIDE + from + row) * row_stride);
                    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
                    if add {
                        for (i, sums) in sums.iter_mut().enumerate() {
                            *sums = [_mm512_loadu_ps(row(i)), _mm512_loadu_ps(row(i).add(SIDE))];
                        }
                    }
                    for ((a, b0), b1) in a.iter().zip(b[0]).zip(b[1]) {
                        for place in 0..PAIRS {
                            let vector = |b: &Tile| bf16(_mm512_load_si512(b.0[place].as_ptr().cast()));
                            let b = [vector(b0), vector(b1)];
                            for (i, sums) in sums.iter_mut().enumerate() {
                                let a = bf16(_mm512_set1_epi32(a.0[from + i][place].cast_signed()));
                                for (sum, b) in sums.iter_mut().zip(b) {
                                    *sum = _mm512_dpbf16_ps(*sum, a, b);
                                }
                            }
                        }
                    }
                    for (i, sums) in sums.iter().enumerate() {
                        _mm512_storeu_ps(row(i), sums[0]);
                        _mm512_storeu_ps(row(i).add(SIDE), sums[1]);
                    }
                }
            }
        }
    }

    /// # Safety
    /// The CPU has AMX, and tiles are configured; there is a tile in each of `a` and `b`, as many in all;
    /// `c` has 32 rows of 32 values that are `row_stride` apart.
    pub(super) unsafe fn block_amx(
        a: [&[Tile]; 2],
        b: [&[Tile]; 2],
        add: bool,
        c: *mut f32,
        row_stride: usize,
    ) {
        let count = a[0].len();
        assert!(count > 0 && a[1].len() == count && b.iter().all(|b| b.len() == count), "as many tiles");
        // SAFETY: what is read is tiles, and what is written the block, as the caller says.
        unsafe {
            let below = c.add(SIDE * row_stride);
            asm!(
                "test {add:e}, {add:e}",
                "jz 2f",
                "tileloadd tmm0, [{c}+{stride}*1]",
                "tileloadd tmm1, [{c}+{stride}*1+64]",
                "tileloadd tmm2, [{below}+{stride}*1]",
                "tileloadd tmm3, [{below}+{stride}*1+64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{a0}+{side}*1]",
                "tileloadd tmm6, [{b0}+{side}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b1}+{side}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1}+{side}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, {tile}",
                "add {a1}, {tile}",
                "add {b0}, {tile}",
                "add {b1}, {tile}",
                "dec {count}",
                "jnz 3b",
                "tilestored [{c}+{stride}*1], tmm0",
                "tilestored [{c}+{stride}*1+64], tmm1",
                "tilestored [{below}+{stride}*1], tmm2",
                "tilestored [{below}+{stride}*1+64], tmm3",
                add = in(reg) u32::from(add),
                c = in(reg) c,
                below = in(reg) below,
                stride = in(reg) row_stride * size_of::<f32>(),
                side = in(reg) ROW_BYTES,
                tile = const size_of::<Tile>(),
                a0 = inout(reg) a[0].as_ptr() => _,
                a1 = inout(reg) a[1].as_ptr() => _,
                b0 = inout(reg) b[0].as_ptr() => _,
                b1 = inout(reg) b[1].as_ptr() => _,
                count = inout(reg) count => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::noise::noise;

    /// The kernels that this CPU has.
    fn kernels() -> Vec<TileKernel> {
        let mut found: Vec<TileKernel> =
            InstructionSet::available().into_iter().map(TileKernel::of).collect();
        found.dedup();
        found
    }

    fn bf16(value: f32) -> f64 {
        f64::from(half::bf16::from_f32(value).to_f32())
    }

    proptest! {
        /// Any shape, either order of either factor, any alignment, stored or added.
        #[test]
        fn products_are_those_of_rounded_values(
            (rows, inner, columns) in (1..70_usize, 1..1100_usize, 1..70_usize),
            (turned_left, turned_right, add) in any::<(bool, bool, bool)>(),
            (shift, gap) in (0..17_usize, 0..9_usize),
            seed in any::<u64>(),
        ) {
            let (a, b) = (noise(seed, shift + rows * inner), noise(!seed, shift + inner * columns));
            let view = |values, rows, columns, turned| match turned {
                false => View::rows_of(values, rows, columns),
                true => View::rows_of(values, columns, rows).transposed(),
            };
            let left = view(&a[shift..], rows, inner, turned_left);
            let right = view(&b[shift..], inner, columns, turned_right);
            let at = |view: View<'_>, i: usize, j: usize| {
                bf16(view.values[i * view.row_stride + j * view.column_stride])
            };
            let (left_tiles, right_tiles) = (Tiles::left(left), Tiles::right(right));
            let stride = columns + gap;
            let before = noise(seed ^ 5, shift + rows * stride);
            for kernel in kernels() {
                let mut found = before.clone();
                multiply_tiles(
                    kernel, &left_tiles, &Part::all(&right_tiles), add, &mut found[shift..], stride,
                );
                for i in 0..rows {
                    for j in 0..stride {
                        let place = shift + i * stride + j;
                        if j >= columns {
                            prop_assert_eq!(found[place], before[place], "{:?}: between rows", kernel);
                            continue;
                        }
                        let start = if add { f64::from(before[place]) } else { 0.0 };
                        let (sum, size) = (0..inner).fold((start, start.abs()), |(sum, size), k| {
                            let product = at(left, i, k) * at(right, k, j);
                            (sum + product, size + product.abs())
                        });
                        let error = (f64::from(found[place]) - sum).abs();
                        prop_assert!(error <= 3e-6 * size + 1e-12, "{kernel:?} at {i}, {j}: {error} of {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn parts_of_a_factor_add_up_to_it() {
        let (rows, inner, columns) = (37, 1000, 90);
        let (a, b) = (noise(1, rows * inner), noise(2, inner * columns));
        let left = View::rows_of(&a, rows, inner);
        let right = Tiles::right(View::rows_of(&b, inner, columns));
        for kernel in kernels() {
            let mut whole = vec![0.0; rows * columns];
            multiply_tiles(kernel, &Tiles::left(left), &Part::all(&right), false, &mut whole, columns);
            let mut found = vec![f32::NAN; rows * columns];
            for (add, inner) in [(false, 0..512), (true, 512..1000)] {
                let left = left.columns_from(inner.start, inner.len());
                Tiles::with_left(left, |left| {
                    for columns in [0..32, 32..80, 80..90] {
                        let found = &mut found[columns.start..];
                        let part = Part { tiles: &right, columns, inner: inner.clone() };
                        multiply_tiles(kernel, left, &part, add, found, 90);
                    }
                });
            }
            for (found, whole) in found.iter().zip(&whole) {
                assert!((found - whole).abs() < 1e-3, "{kernel:?}: {found} for {whole}");
            }
        }
    }

    #[test]
    fn joined_factors_give_the_sum_of_their_products() {
        let (rows, columns) = (45, 70);
        let widths = [31, 64, 1, 100];
        let values: Vec<(Vec<f32>, Vec<f32>)> =
            widths.iter().map(|&width| (noise(1, width * rows), noise(2, width * columns))).collect();
        let parts = values.iter().zip(widths);
        let (left, right): (Vec<_>, Vec<_>) = parts
            .map(|((a, b), width)| {
                (View::rows_of(a, width, rows).transposed(), View::rows_of(b, width, columns))
            })
            .unzip();
        let joined = Tiles::joined(&left, &right);
        for kernel in kernels() {
            let mut found = vec![f32::NAN; rows * columns];
            multiply_tiles(kernel, &joined.0, &Part::all(&joined.1), false, &mut found, columns);
            let mut expected = vec![0.0; rows * columns];
            for (left, right) in left.iter().zip(&right) {
                let right = Tiles::right(*right);
                multiply_tiles(kernel, &Tiles::left(*left), &Part::all(&right), true, &mut expected, columns);
            }
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{kernel:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_even_and_keeps_what_is_no_number() {
        let special =
            [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1.003_906_3, 1.011_718_8];
        for value in special.into_iter().chain(noise(7, 4096)) {
            let found = half::bf16::from_bits((rounded(value) >> 16) as u16);
            let expected = half::bf16::from_f32(value);
            assert!(
                found == expected || value.is_nan() && found.is_nan(),
                "{value}: {found}, not {expected}"
            );
        }
    }
}
