//! A weight matrix that stays as its file stores it and is multiplied as it lies.
//!
//! `y = x Wᵀ` in f32 with the exact dequantised weights; activations are never quantised. There
//! are two regimes. For a few activations (decoding), what bounds the product is reading and
//! decoding the weights, so each block is decoded in registers and multiplied there. For many
//! (prefill), arithmetic bounds it, so tiles of rows are dequantised into a buffer of each thread
//! that stays in its cache, and multiplied by `gemm`. Both share rows out among rayon's threads.
//!
//! With [`Precision::Fast`] activations are rounded: to 8 bits, by which weights of up to 8 bits are
//! multiplied as integers, as they lie or from panels that they were laid out in once; or, for many, to
//! bfloat16 where the machine multiplies that.

use std::cell::RefCell;
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::Arc;

use rayon::prelude::*;

use super::Vectors;
use super::integer_rows::{self, ROWS_TOGETHER, RoundedRows, Workspace};
#[cfg(target_arch = "x86_64")]
use super::panels::{PanelKernel, Panels};
use super::product::{SharedOutput, View, multiply_into, multiply_tile};
use super::quantised_rows;
use super::tiles::{Part, Tile, TileKernel, Tiles, multiply_tiles_at};
use crate::nn::Precision;
use crate::weights::RawTensor;
use crate::{Error, Result};

/// Up to so many activations, weights are multiplied in registers, four activations at a time.
/// Beyond, a tile's dequantisation and gemm's packing of it are paid for by gemm's higher speed
/// (measured: they break even near 20).
const FEW: usize = 16;
/// The same of 8-bit integers, which are laid out in less time (measured: they break even near 4).
const FEW_OF_INTEGERS: usize = 4;
/// Up to so many activations, panels are multiplied in 8-bit integers where there is bfloat16 too, whose
/// tiles take 32 of them at a time.
const FEW_OF_PANELS: usize = 16;
/// Tiles of bfloat16 that one job lays out: 256 KiB, half of which the second-level cache of any processor
/// that multiplies them keeps.
const TILES_OF_A_JOB: usize = 256;
/// Values of a tile: 512 KiB, a quarter of the second-level cache of current server cores, half of
/// that of current desktop cores.
const TILE_VALUES: usize = 128 * 1024;
/// Rows of a tile are a multiple of the rows of gemm's largest micro-kernel (4 vectors of 16).
const TILE_ROW_STEP: usize = 64;
/// Fewer multiplications than this are not worth waking another thread for (a few microseconds).
const WORTH_A_THREAD: usize = 64 * 1024;

thread_local! {
    /// A thread's tile of dequantised rows.
    static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// A thread's tiles of bfloat16.
    static TILES: RefCell<Vec<Tile>> = const { RefCell::new(Vec::new()) };
    /// A thread's rows of integers.
    static LAID_OUT: RefCell<Workspace> = RefCell::default();
}

/// A two-dimensional weight `[rows, cols]`, left as stored. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    tensor: RawTensor,
    rows: usize,
    cols: usize,
    precision: Precision,
    #[cfg(target_arch = "x86_64")]
    panels: Option<Arc<Panels>>,
}

/// How a matrix is multiplied by so many activations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Rows are read as they lie.
    AsTheyLie,
    /// A few rows at a time are dequantised or laid out first.
    ByTiles,
    /// From panels.
    Panels,
    /// In bfloat16.
    Bfloat16(TileKernel),
}

impl PackedMatrix {
    /// A matrix over a two-dimensional tensor.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if the tensor has another number of dimensions, or an empty one.
    pub fn new(tensor: RawTensor) -> Result<Self> {
        match *tensor.shape() {
            [rows, cols] if rows > 0 && cols > 0 => Ok(Self {
                tensor,
                rows,
                cols,
                precision: Precision::Exact,
                #[cfg(target_arch = "x86_64")]
                panels: None,
            }),
            ref shape => Err(Error::InvalidFile {
                path: tensor.path().to_owned(),
                format: "tensor",
                reason: format!("tensor `{}` has shape {shape:?}, not of a matrix", tensor.name()),
            }),
        }
    }

    /// The same matrix, multiplied in this precision.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The same matrix, its weights laid out for the kernels of this machine if its precision has such. They
    /// stand in the place of the mapped bytes, whose memory is given back until something reads them again.
    #[must_use]
    pub(crate) fn laid_out(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self.is_integer() && PanelKernel::here().is_some() {
            let (dtype, bytes) = (self.tensor.dtype(), self.tensor.bytes());
            let panels = Panels::new(dtype, bytes, self.rows, self.cols, |read| bytes.give_back(0..read));
            return Self { panels: Some(Arc::new(panels)), ..self };
        }
        self
    }

    fn way(&self, m: usize) -> Way {
        if let Some(kernel) = TileKernel::here()
            && self.precision == Precision::Fast
            && m > FEW_OF_PANELS
        {
            return Way::Bfloat16(kernel);
        }
        #[cfg(target_arch = "x86_64")]
        if self.panels.is_some() {
            return Way::Panels;
        }
        let few = if self.is_integer() { FEW_OF_INTEGERS } else { FEW };
        if m <= few { Way::AsTheyLie } else { Way::ByTiles }
    }

    /// Whether it is multiplied in 8-bit integers, which takes longer than float32 without instructions for it.
    fn is_integer(&self) -> bool {
        self.precision == Precision::Fast
            && integer_rows::has(self.tensor.dtype())
            && Vectors::best() != Vectors::Portable
    }

    /// Output width: `d_out` of a linear layer.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input width: `d_in` of a linear layer.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The tensor it lies over.
    #[must_use]
    pub fn tensor(&self) -> &RawTensor {
        &self.tensor
    }

    /// The stored bytes of rows `first` to `first + count`.
    fn row_bytes(&self, first: usize, count: usize) -> &[u8] {
        let dtype = self.tensor.dtype();
        let row = self.cols / dtype.block_len() * dtype.block_bytes();
        &self.tensor.bytes()[first * row..][..count * row]
    }

    /// Dequantises row `i` into `values` (length `cols`): a token's embedding, from a table.
    ///
    /// # Panics
    /// If `i` is not a row or `values` is not as long as one.
    pub fn row(&self, i: usize, values: &mut [f32]) {
        assert!(i < self.rows, "row {i} of a matrix of {} rows", self.rows);
        assert_eq!(values.len(), self.cols, "a row's values");
        let set = Vectors::best();
        quantised_rows::decode(set, self.tensor.dtype(), self.row_bytes(i, 1), self.cols, values);
    }

    /// `y = x Wᵀ`: `x` is `[m, cols]`, `y` is `[m, rows]`, both row-major.
    ///
    /// # Panics
    /// If `x` or `y` is of another length.
    pub fn matmul(&self, x: &[f32], m: usize, y: &mut [f32]) {
        Self::matmul_together(&[self], x, m, &mut [y]);
    }

    /// The products of several matrices of equal width with the same `x`, as one parallel job:
    /// what queries, keys and values, or gate and up projections, take. For a single activation,
    /// waking the threads costs as much as a small product.
    ///
    /// `x` is `[m, cols]`; `ys[i]` is `[m, matrices[i].rows()]`.
    ///
    /// # Panics
    /// If the matrices differ in width, or `x` or one of `ys` is of another length.
    pub fn matmul_together(matrices: &[&Self], x: &[f32], m: usize, ys: &mut [&mut [f32]]) {
        assert_eq!(matrices.len(), ys.len(), "a product for each matrix");
        for (matrix, y) in matrices.iter().zip(ys.iter()) {
            assert_eq!(x.len(), m * matrix.cols, "x is [m, cols]");
            assert_eq!(y.len(), m * matrix.rows, "y is [m, rows]");
        }
        if m == 0 {
            return;
        }
        let x = Activations::new(x, m, matrices);
        let (mut few, mut many) = ((Vec::new(), Vec::new()), Vec::new());
        for (&matrix, y) in matrices.iter().zip(ys) {
            match matrix.way(m) {
                Way::AsTheyLie => {
                    few.0.push(matrix);
                    few.1.push(&mut **y);
                }
                way => jobs(matrix, way, &x, y, &mut many),
            }
        }
        if !few.0.is_empty() {
            multiply_few(&few.0, &x, m, &mut few.1);
        }
        let work: usize = many.iter().map(|job| job.rows.len() * job.matrix.cols * m).sum();
        if work < WORTH_A_THREAD {
            many.into_iter().for_each(|job| job.multiply(&x));
        } else {
            many.into_par_iter().for_each(|job| job.multiply(&x));
        }
    }
}

impl PackedMatrix {
    /// `dx = dy W`, or adds it to `dx`, on this thread: `dy` is `[m, rows]`, `dx` is `[m, cols]`.
    pub(super) fn matmul_back(&self, dy: View<'_>, sum: bool, dx: &mut [f32]) {
        let (cols, together) = (self.cols, (TILE_VALUES / self.cols).max(1));
        let mut tile = vec![0.0; together.min(self.rows) * cols];
        for first in (0..self.rows).step_by(together) {
            let count = together.min(self.rows - first);
            let w = &mut tile[..count * cols];
            let set = Vectors::best();
            quantised_rows::decode(set, self.tensor.dtype(), self.row_bytes(first, count), cols, w);
            let part = dy.columns_from(first, count);
            multiply_into(part, View::rows_of(w, count, cols), 1.0, sum || first > 0, dx, cols);
        }
    }
}

/// What products of 8-bit integers are computed with on this machine.
pub(crate) fn integer_products() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = PanelKernel::here() {
        return match kernel {
            PanelKernel::AvxVnni => "AVX-VNNI",
            PanelKernel::Avx512Vnni => "AVX-512 VNNI",
        };
    }
    match Vectors::best() {
        Vectors::Portable => "none: as float32",
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 | Vectors::Avx512 => "AVX2",
    }
}

/// What matrices are multiplied by.
struct Activations<'a> {
    /// `[m, cols]`
    values: &'a [f32],
    m: usize,
    /// The same in 8 bits, where a matrix asks for it.
    rounded: Option<RoundedRows>,
    /// The same in bfloat16, where a matrix asks for it.
    tiles: Option<Tiles>,
}

impl<'a> Activations<'a> {
    fn new(values: &'a [f32], m: usize, matrices: &[&PackedMatrix]) -> Self {
        let cols = values.len() / m;
        let mut x = Self { values, m, rounded: None, tiles: None };
        for matrix in matrices {
            match matrix.way(m) {
                Way::Bfloat16(_) if x.tiles.is_none() => {
                    x.tiles = Some(Tiles::left_on_all_threads(View::rows_of(values, m, cols)));
                }
                Way::AsTheyLie | Way::ByTiles | Way::Panels if matrix.is_integer() && x.rounded.is_none() => {
                    x.rounded = Some(RoundedRows::new(values, cols));
                }
                _ => {}
            }
        }
        x
    }

    /// In 8 bits, if a matrix is multiplied so.
    fn rounded_for(&self, matrix: &PackedMatrix) -> Option<&RoundedRows> {
        self.rounded.as_ref().filter(|_| matrix.is_integer())
    }
}

/// Rows `first..` of a matrix, of which `y` `[rows, m]` takes the products.
struct RowsByFew<'a> {
    matrix: &'a PackedMatrix,
    first: usize,
    y: &'a mut [f32],
}

impl RowsByFew<'_> {
    fn multiply(self, x: &Activations<'_>, m: usize) {
        let bytes = self.matrix.row_bytes(self.first, self.y.len() / m);
        let (set, dtype) = (Vectors::best(), self.matrix.tensor.dtype());
        match x.rounded_for(self.matrix) {
            Some(x) => integer_rows::dot(set, dtype, bytes, x, self.y),
            None => quantised_rows::dot(set, dtype, bytes, self.matrix.cols, x.values, self.y),
        }
    }
}

fn multiply_few(matrices: &[&PackedMatrix], x: &Activations<'_>, m: usize, ys: &mut [&mut [f32]]) {
    // Kernels write `[rows, m]`, so that threads write to slices of their own.
    let mut transposed: Vec<Vec<f32>> =
        if m == 1 { Vec::new() } else { ys.iter().map(|y| vec![0.0; y.len()]).collect() };
    let outputs: Vec<&mut [f32]> = if m == 1 {
        ys.iter_mut().map(|y| &mut **y).collect()
    } else {
        transposed.iter_mut().map(Vec::as_mut_slice).collect()
    };
    let all_rows: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    let cols = matrices.first().map_or(1, |matrix| matrix.cols);
    let share = share_of_rows(all_rows, cols * m);
    let mut jobs = Vec::new();
    for (&matrix, y) in matrices.iter().zip(outputs) {
        for (i, y) in y.chunks_mut(share * m).enumerate() {
            jobs.push(RowsByFew { matrix, first: i * share, y });
        }
    }
    if all_rows * cols * m < WORTH_A_THREAD {
        jobs.into_iter().for_each(|job| job.multiply(x, m));
    } else {
        jobs.into_par_iter().for_each(|job| job.multiply(x, m));
    }
    for (from, to) in transposed.iter().zip(ys) {
        let rows = from.len() / m;
        for (r, from) in from.chunks_exact(m).enumerate() {
            for (i, value) in from.iter().enumerate() {
                to[i * rows + r] = *value;
            }
        }
    }
}

/// Rows that one job takes: a few jobs for each thread, so that a thread that is held up does not
/// hold up the others, but each worth its while, and a multiple of what kernels take at once.
fn share_of_rows(rows: usize, work_per_row: usize) -> usize {
    const JOBS_PER_THREAD: usize = 4;
    const ROWS_AT_ONCE: usize = 4;
    let fair = rows.div_ceil(rayon::current_num_threads() * JOBS_PER_THREAD);
    let worthwhile = (WORTH_A_THREAD / 2).div_ceil(work_per_row);
    fair.max(worthwhile).next_multiple_of(ROWS_AT_ONCE)
}

/// Rows of a matrix whose products go to their columns of `y`.
struct Job<'a> {
    matrix: &'a PackedMatrix,
    way: Way,
    rows: Range<usize>,
    y: SharedOutput,
}

impl Job<'_> {
    fn multiply(&self, x: &Activations<'_>) {
        let Self { matrix, rows, y, .. } = self;
        let cols = matrix.cols;
        let bytes = || matrix.row_bytes(rows.start, rows.len());
        let (set, dtype) = (Vectors::best(), matrix.tensor.dtype());
        // In what follows: jobs of one matrix have rows of their own, and the products of different matrices
        // are different slices, borrowed for as long as jobs exist.
        match (self.way, x.rounded_for(matrix), &x.tiles) {
            (Way::Bfloat16(kernel), _, Some(left)) => {
                let right = self.right_tiles();
                y.check(x.m, rows.start, rows.len());
                // SAFETY: as above; the columns are in `y`.
                unsafe {
                    let product = y.at(0, rows.start);
                    multiply_tiles_at(kernel, left, &Part::all(&right), false, product, y.row_stride());
                }
                TILES.set(right.into_memory());
            }
            #[cfg(target_arch = "x86_64")]
            (Way::Panels, Some(x), _) => {
                if let (Some(panels), Some(kernel)) = (&matrix.panels, PanelKernel::here()) {
                    let panel = rows.start / ROWS_TOGETHER..rows.end.div_ceil(ROWS_TOGETHER);
                    // SAFETY: as above.
                    unsafe { panels.multiply(kernel, panel, x, *y) };
                }
            }
            (_, Some(x), _) => LAID_OUT.with_borrow_mut(|workspace| {
                // SAFETY: as above.
                unsafe { integer_rows::multiply(set, dtype, bytes(), x, workspace, *y, rows.start) };
            }),
            _ => TILE.with_borrow_mut(|buffer| {
                buffer.resize(buffer.len().max(rows.len() * cols), 0.0);
                let w = &mut buffer[..rows.len() * cols];
                quantised_rows::decode(set, dtype, bytes(), cols, w);
                // SAFETY: as above.
                unsafe { multiply_tile(w, x.values, cols, *y, rows.start) };
            }),
        }
    }

    /// The rows as the right factor of a product in bfloat16.
    fn right_tiles(&self) -> Tiles {
        let Self { matrix, rows, .. } = self;
        #[cfg(target_arch = "x86_64")]
        if let Some(panels) = &matrix.panels {
            return panels.tiles(rows.start / ROWS_TOGETHER..rows.end.div_ceil(ROWS_TOGETHER), TILES.take());
        }
        TILE.with_borrow_mut(|buffer| {
            let cols = matrix.cols;
            buffer.resize(buffer.len().max(rows.len() * cols), 0.0);
            let w = &mut buffer[..rows.len() * cols];
            let bytes = matrix.row_bytes(rows.start, rows.len());
            quantised_rows::decode(Vectors::best(), matrix.tensor.dtype(), bytes, cols, w);
            Tiles::right_in(TILES.take(), View::rows_of(w, rows.len(), cols).transposed())
        })
    }
}

/// Shares a matrix out in jobs.
fn jobs<'a>(matrix: &'a PackedMatrix, way: Way, x: &Activations<'_>, y: &mut [f32], jobs: &mut Vec<Job<'a>>) {
    let threads = rayon::current_num_threads();
    let count = match way {
        // Integers are laid out a few rows at a time whatever the job, so that small ones cost nothing.
        _ if way == Way::ByTiles && matrix.is_integer() => TILE_ROW_STEP,
        Way::Panels => share_of_rows(matrix.rows, matrix.cols * x.m).next_multiple_of(ROWS_TOGETHER),
        Way::Bfloat16(_) => {
            // As many for each thread, in pairs of panels.
            const STEP: usize = 2 * ROWS_TOGETHER;
            let most = (TILES_OF_A_JOB * ROWS_TOGETHER / matrix.cols.div_ceil(32)).max(STEP);
            let parts = matrix.rows.div_ceil(most).next_multiple_of(threads);
            matrix.rows.div_ceil(parts).next_multiple_of(STEP)
        }
        _ => {
            let fits = TILE_VALUES / matrix.cols / TILE_ROW_STEP * TILE_ROW_STEP;
            let fair = matrix.rows.div_ceil(threads).next_multiple_of(TILE_ROW_STEP);
            fits.min(fair).max(TILE_ROW_STEP)
        }
    };
    let y = SharedOutput::new(y, matrix.rows);
    for first in (0..matrix.rows).step_by(count) {
        jobs.push(Job { matrix, way, rows: first..matrix.rows.min(first + count), y });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::noise::noise;
    use crate::weights::StorageType;

    /// Golden blocks of the type: three rows of 256 values, the last of which has the extremes.
    fn golden(dtype: StorageType) -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/quants/quants.safetensors");
        let golden = std::fs::read(path).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
        golden.tensor(&format!("{dtype}.blocks")).unwrap().data().to_vec()
    }

    /// A matrix `[rows, 512]` of golden blocks in changing order, but for the extremes, beside which
    /// everything else would be lost in rounding.
    fn matrix(dtype: StorageType, rows: usize) -> PackedMatrix {
        let golden = golden(dtype);
        let golden: Vec<_> = golden.chunks_exact(golden.len() / 3).take(2).collect();
        let order = (0..rows * 2).map(|i| (i ^ i >> 1 ^ i >> 3) % 2);
        let bytes: Vec<u8> = order.flat_map(|i| golden[i].iter().copied()).collect();
        let tensor = RawTensor::new("w", dtype, vec![rows, 512], bytes.into(), "golden").unwrap();
        PackedMatrix::new(tensor).unwrap()
    }

    /// The product in double precision, and the sum of the products' magnitudes.
    fn reference(matrix: &PackedMatrix, x: &[f32]) -> Vec<(f64, f64)> {
        let w = matrix.tensor().to_f32();
        x.chunks_exact(matrix.cols())
            .flat_map(|x| w.chunks_exact(matrix.cols()).map(move |w| (x, w)))
            .map(|(x, w)| {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
            })
            .collect()
    }

    /// Sums of up to a few thousand products, in any order: some roundings of f32.
    fn assert_close(y: &[f32], expected: &[(f64, f64)], what: &str) {
        assert_eq!(y.len(), expected.len());
        for (i, (y, (sum, size))) in y.iter().zip(expected).enumerate() {
            let error = (f64::from(*y) - sum).abs();
            assert!(error <= 2e-6 * size + 1e-12, "{what} at {i}: {y} is not {sum}");
        }
    }

    #[test]
    fn every_instruction_set_decodes_the_same_bits() {
        for dtype in StorageType::ALL {
            let bytes = golden(dtype);
            let mut expected = vec![f32::NAN; 3 * 256];
            dtype.dequantise(&bytes, &mut expected);
            for set in Vectors::available() {
                let mut values = vec![f32::NAN; expected.len()];
                quantised_rows::decode(set, dtype, &bytes, 256, &mut values);
                let same = values.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{dtype} by {set:?}");
            }
        }
    }

    #[test]
    fn every_instruction_set_multiplies_as_double_precision_does() {
        for dtype in StorageType::ALL {
            // Not a multiple of the rows that kernels take at once.
            let matrix = matrix(dtype, 7);
            for m in 1..=9 {
                let x = noise(m as u64, m * 512);
                let expected = reference(&matrix, &x);
                for set in Vectors::available() {
                    let mut transposed = vec![f32::NAN; 7 * m];
                    let bytes = matrix.tensor().bytes();
                    quantised_rows::dot(set, dtype, bytes, 512, &x, &mut transposed);
                    let y: Vec<f32> = (0..m * 7).map(|i| transposed[i % 7 * m + i / 7]).collect();
                    assert_close(&y, &expected, &format!("{dtype} by {set:?}, m = {m}"));
                }
            }
        }
    }

    /// A matrix `[rows, cols]` of golden blocks, from changing places of them.
    fn drawn(dtype: StorageType, rows: usize, cols: usize, seed: usize) -> PackedMatrix {
        let golden = golden(dtype);
        let block = dtype.block_bytes();
        // Not the last third, which has the extremes.
        let blocks: Vec<&[u8]> = golden[..golden.len() / 3 * 2].chunks_exact(block).collect();
        let count = rows * cols / dtype.block_len();
        let bytes: Vec<u8> = (0..count)
            .flat_map(|i| blocks[(i.wrapping_mul(2_654_435_761) >> 7).wrapping_add(seed) % blocks.len()])
            .copied()
            .collect();
        let tensor = RawTensor::new("w", dtype, vec![rows, cols], bytes.into(), "golden").unwrap();
        PackedMatrix::new(tensor).unwrap()
    }

    /// All instructions' products in 8-bit integers, `[m, rows]`, by rows as they lie and laid out.
    fn integer_products(matrix: &PackedMatrix, x: &RoundedRows) -> Vec<(String, Vec<f32>)> {
        let (rows, m, dtype) = (matrix.rows(), x.rows(), matrix.tensor().dtype());
        let mut found = Vec::new();
        for set in Vectors::available() {
            let mut transposed = vec![f32::NAN; rows * m];
            integer_rows::dot(set, dtype, matrix.tensor().bytes(), x, &mut transposed);
            let y = (0..m * rows).map(|i| transposed[i % rows * m + i / rows]).collect();
            found.push((format!("{dtype} {rows} by {m} as they lie, {set:?}"), y));
            // Behind a first column that belongs to somebody else.
            let mut wide = vec![f32::NAN; (rows + 1) * m];
            let shared = SharedOutput::new(&mut wide, rows + 1);
            let mut workspace = Workspace::default();
            let bytes = matrix.tensor().bytes();
            // SAFETY: nothing else writes there.
            unsafe { integer_rows::multiply(set, dtype, bytes, x, &mut workspace, shared, 1) };
            assert!(wide.iter().step_by(rows + 1).all(|value| value.is_nan()), "another's column");
            let y = (0..m * rows).map(|i| wide[i / rows * (rows + 1) + 1 + i % rows]).collect();
            found.push((format!("{dtype} {rows} by {m} laid out, {set:?}"), y));
        }
        #[cfg(target_arch = "x86_64")]
        if PanelKernel::here().is_some() {
            let panels = Panels::new(dtype, matrix.tensor().bytes(), rows, x.cols, |_| {});
            for kernel in PanelKernel::available() {
                let mut y = vec![f32::NAN; rows * m];
                let shared = SharedOutput::new(&mut y, rows);
                // One panel, then the others.
                for part in [0..1, 1..panels.count()] {
                    // SAFETY: the machine has the kernel; nothing else writes there.
                    unsafe { panels.multiply(kernel, part, x, shared) };
                }
                found.push((format!("{dtype} {rows} by {m} from panels, {kernel:?}"), y));
            }
        }
        found
    }

    #[test]
    fn integer_products_are_those_of_the_rounded_activations_in_double_precision() {
        for dtype in StorageType::ALL.into_iter().filter(|&dtype| integer_rows::has(dtype)) {
            let step = dtype.block_len();
            let shapes = [(1, 1), (2, 3), (5, 2), (15, 1), (16, 4), (17, 5), (33, 3), (40, 1)];
            for (number, (rows, blocks)) in shapes.into_iter().enumerate() {
                let cols = blocks * step;
                let matrix = drawn(dtype, rows, cols, number);
                for m in [1, 2, 3, 4, 5, 7, 8, 17] {
                    let mut x = noise((number * 31 + m) as u64, m * cols);
                    // One activation that is nothing, and one block that is much larger than its
                    // neighbours.
                    x[..cols].iter_mut().filter(|_| m == 3).for_each(|x| *x = 0.0);
                    x[..32].iter_mut().filter(|_| m == 5).for_each(|x| *x *= 1000.0);
                    let rounded = RoundedRows::new(&x, cols);
                    let expected = reference(&matrix, &rounded.values());
                    for (what, y) in integer_products(&matrix, &rounded) {
                        // A weight of a type with an offset is the difference of two larger numbers.
                        let slack: Vec<(f64, f64)> =
                            expected.iter().map(|(sum, size)| (*sum, 4.0 * size + 1e-3)).collect();
                        assert_close(&y, &slack, &what);
                    }
                }
            }
        }
    }

    /// A value as bfloat16 has it.
    fn in_bfloat16(value: f32) -> f32 {
        half::bf16::from_f32(value).to_f32()
    }

    #[test]
    fn many_activations_are_multiplied_in_bfloat16_where_the_machine_does() {
        for dtype in StorageType::ALL {
            for rows in [1, 16, 31, 33, 200] {
                let matrix = matrix(dtype, rows).with_precision(Precision::Fast).laid_out();
                for m in [FEW_OF_PANELS + 1, 33, 70] {
                    let x = noise((rows * m) as u64, m * 512);
                    let mut y = vec![f32::NAN; m * rows];
                    matrix.matmul(&x, m, &mut y);
                    let Way::Bfloat16(_) = matrix.way(m) else { continue };
                    let rounded =
                        |values: Vec<f32>| values.into_iter().map(in_bfloat16).collect::<Vec<f32>>();
                    let w = rounded(matrix.tensor().to_f32());
                    let tensor = RawTensor::from_f32("w", vec![rows, 512], &w).unwrap();
                    let expected = reference(&PackedMatrix::new(tensor).unwrap(), &rounded(x));
                    // A weight that lies between two values may be rounded to the other one, since offsets are
                    // added in another order.
                    let slack: Vec<(f64, f64)> =
                        expected.iter().map(|(sum, size)| (*sum, 20.0 * size + 1e-3)).collect();
                    assert_close(&y, &slack, &format!("{dtype} {rows}, m = {m}"));
                }
            }
        }
    }

    #[test]
    fn activations_are_rounded_by_half_a_step_at_most() {
        let x = noise(11, 96 * 40);
        for (x, rounded) in x.chunks(32).zip(RoundedRows::new(&x, 96).values().chunks(32)) {
            let step = x.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
            for (x, rounded) in x.iter().zip(rounded) {
                assert!((x - rounded).abs() <= 0.5001 * step, "{rounded} for {x}");
            }
        }
    }

    #[test]
    fn fast_products_do_not_depend_on_the_number_of_threads() {
        let fast = |dtype| matrix(dtype, 200).with_precision(Precision::Fast).laid_out();
        for dtype in [StorageType::Q4_1, StorageType::Q6K, StorageType::Q8_0] {
            let matrix = fast(dtype);
            for m in [1, 4, 6, 40] {
                let x = noise(m as u64, m * 512);
                let on = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut y = vec![f32::NAN; m * 200];
                    pool.install(|| matrix.matmul(&x, m, &mut y));
                    y.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
                };
                assert_eq!(on(1), on(3), "{dtype}, m = {m}");
            }
        }
    }

    #[test]
    fn products_are_right_in_both_regimes_and_at_their_border() {
        for (dtype, rows) in [(StorageType::Q4_1, 300), (StorageType::Q6K, 64), (StorageType::F32, 1)] {
            let matrix = matrix(dtype, rows);
            for m in [0, 1, 2, 7, FEW, FEW + 1, 33, 130] {
                let x = noise(7, m * 512);
                let mut y = vec![f32::NAN; m * rows];
                matrix.matmul(&x, m, &mut y);
                assert_close(&y, &reference(&matrix, &x), &format!("{dtype} {rows}, m = {m}"));
            }
        }
    }

    #[test]
    fn products_together_are_those_of_each() {
        let matrices = [matrix(StorageType::Q4_1, 200), matrix(StorageType::Q8_0, 3)];
        for m in [1, 5, 40] {
            let x = noise(3, m * 512);
            let (mut a, mut b) = (vec![f32::NAN; m * 200], vec![f32::NAN; m * 3]);
            let both = [&matrices[0], &matrices[1]];
            PackedMatrix::matmul_together(&both, &x, m, &mut [&mut a, &mut b]);
            assert_close(&a, &reference(&matrices[0], &x), "first");
            assert_close(&b, &reference(&matrices[1], &x), "second");
        }
    }

    #[test]
    fn rows_of_plain_types_may_have_any_width() {
        for dtype in [StorageType::F32, StorageType::F16, StorageType::BF16] {
            for cols in [1, 31, 33, 100] {
                let bytes = matrix(dtype, 10).tensor().bytes()[..6 * cols * dtype.block_bytes()].to_vec();
                let tensor = RawTensor::new("w", dtype, vec![6, cols], bytes.into(), "x").unwrap();
                let matrix = PackedMatrix::new(tensor).unwrap();
                for m in [1, 3, 20] {
                    let x = noise(5, m * cols);
                    let mut y = vec![f32::NAN; m * 6];
                    matrix.matmul(&x, m, &mut y);
                    assert_close(&y, &reference(&matrix, &x), &format!("{dtype} {cols}, m = {m}"));
                }
                let mut row = vec![f32::NAN; cols];
                matrix.row(4, &mut row);
                assert_eq!(row, matrix.tensor().to_f32()[4 * cols..5 * cols]);
            }
        }
    }

    #[test]
    fn only_a_matrix_can_be_packed() {
        for shape in [&[6][..], &[1, 2, 3], &[0, 6], &[6, 0]] {
            let values = vec![0.0; shape.iter().product()];
            let tensor = RawTensor::from_f32("norm", shape.to_vec(), &values).unwrap();
            let error = PackedMatrix::new(tensor).unwrap_err().to_string();
            assert!(error.contains("tensor `norm` has shape"), "{error}");
        }
    }
}
