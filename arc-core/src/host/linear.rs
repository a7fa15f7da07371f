//! Linear maps, tables and normalisations on host memory.

use std::sync::Arc;

use burn::tensor::{FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use super::kernels::{
    add, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward, rms_norm_weight_gradient,
};
use super::product::{View, multiply, multiply_into, multiply_on_all_threads};
use super::tiles::{Part, TileKernel, Tiles, multiply_tiles};
use super::{PackedMatrix, VALUES_OF_A_JOB};
use crate::Result;
use crate::nn::{Linear, Norm, Residence, StoredLinear, StoredNorm, count_products};
use crate::weights::RawTensor;

/// What holds of every tensor on the CPU device.
const F32: &str = "dense weights are f32 on the CPU device";

/// A matrix in host memory, whose bytes may be those of a tensor. Copies share them.
#[derive(Clone, Debug)]
pub(crate) struct HostMatrix {
    /// `[rows, columns]`
    data: TensorData,
}

impl HostMatrix {
    /// A matrix of contiguous float32 data.
    pub(crate) fn new(data: TensorData) -> Self {
        assert_eq!(data.shape().len(), 2, "a matrix has two dimensions");
        let (bytes, shape, dtype) = data.into_parts();
        Self { data: TensorData::from_bytes(bytes.shared(), shape, dtype) }
    }

    fn from_stored(matrix: &RawTensor) -> Self {
        Self::new(TensorData::new(matrix.to_f32(), matrix.shape().to_vec()))
    }

    pub(crate) fn rows(&self) -> usize {
        self.data.shape()[0]
    }

    pub(crate) fn columns(&self) -> usize {
        self.data.shape()[1]
    }

    /// All values, row after row.
    pub(crate) fn values(&self) -> &[f32] {
        self.data.as_slice::<f32>().expect(F32)
    }

    /// A tensor in the same memory, until either is written to.
    pub(crate) fn tensor(&self, device: &burn::tensor::Device) -> Tensor<2> {
        Tensor::from_data(self.data.clone(), device)
    }

    fn view(&self) -> View<'_> {
        View::rows_of(self.values(), self.rows(), self.columns())
    }

    fn changed_over(&self) -> Self {
        let (rows, columns, values) = (self.rows(), self.columns(), self.values());
        let turned = (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column]));
        Self::new(TensorData::new(turned.collect(), [columns, rows]))
    }
}

/// A table of rows, `[vocabulary, d]`.
#[derive(Clone, Debug)]
pub(crate) enum HostTable {
    /// In float32.
    Dense(HostMatrix),
    /// As stored. Only the rows that are asked for are ever touched: a vocabulary of 262,144 costs no
    /// memory beyond the mapped file.
    Packed(PackedMatrix),
}

impl HostTable {
    /// The table of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) if it is no matrix.
    pub(crate) fn from_stored(table: RawTensor, residence: Residence) -> Result<Self> {
        Ok(match residence {
            Residence::Dense => Self::Dense(HostMatrix::from_stored(&table)),
            Residence::Packed(precision) => Self::Packed(PackedMatrix::new(table)?.with_precision(precision)),
        })
    }

    /// `[vocabulary, d]`
    pub(crate) fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(table) => [table.rows(), table.columns()],
            Self::Packed(table) => [table.rows(), table.cols()],
        }
    }

    /// The rows of `ids`, `[ids.len(), d]`.
    ///
    /// # Panics
    ///
    /// Panics if an id is outside the vocabulary; tokenizers never make such an id.
    pub(crate) fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let [_, d] = self.dims();
        let mut rows = vec![0.0; ids.len() * d];
        for (row, &id) in rows.chunks_exact_mut(d).zip(ids) {
            match self {
                Self::Dense(table) => row.copy_from_slice(&table.values()[id as usize * d..][..d]),
                Self::Packed(table) => table.row(id as usize, row),
            }
        }
        rows
    }

    /// An output head in the same memory.
    pub(crate) fn tied_head(&self) -> HostLinear {
        let weight = match self {
            Self::Dense(table) => HostWeight::Dense { matrix: table.clone(), is_transposed: true },
            Self::Packed(table) => HostWeight::Packed(table.clone().laid_out()),
        };
        HostLinear { weight, bias: None, tiles: None }
    }
}

/// A weight that training multiplies in bfloat16, laid out for both directions.
#[derive(Debug)]
struct TiledWeight {
    kernel: TileKernel,
    /// Of `y = x W`
    forward: Tiles,
    /// Of `dx = dy Wᵀ`
    backward: Tiles,
}

/// The weight of a linear map.
#[derive(Clone, Debug)]
pub(crate) enum HostWeight {
    /// In float32, `[d_in, d_out]`, or `[d_out, d_in]` if `is_transposed`: as checkpoints have it.
    Dense { matrix: HostMatrix, is_transposed: bool },
    /// As stored, `[d_out, d_in]`: loading is free, the resident size is the file's, and decoding,
    /// which is bound by memory, reads the quantised bytes.
    Packed(PackedMatrix),
}

/// `y = x W + b`
#[derive(Clone, Debug)]
pub(crate) struct HostLinear {
    weight: HostWeight,
    bias: Option<Vec<f32>>,
    /// What training multiplies by in place of the weight.
    tiles: Option<Arc<TiledWeight>>,
}

impl HostLinear {
    /// The map of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) if its weight is no matrix.
    pub(crate) fn from_stored(stored: &StoredLinear, residence: Residence) -> Result<Self> {
        let weight = match residence {
            Residence::Packed(precision) => {
                let matrix = PackedMatrix::new(stored.weight.clone())?.with_precision(precision);
                HostWeight::Packed(matrix.laid_out())
            }
            Residence::Dense => {
                let matrix = HostMatrix::from_stored(&stored.weight);
                // A weight is packed for a product by its inner width: where that is the longer one,
                // rows as checkpoints have them are so far apart that packing takes as long as a third
                // of the product.
                let [d_in, d_out] = stored.dims();
                let is_transposed = d_in <= d_out;
                let matrix = if is_transposed { matrix } else { matrix.changed_over() };
                HostWeight::Dense { matrix, is_transposed }
            }
        };
        Ok(Self { weight, bias: stored.bias.clone(), tiles: None })
    }

    /// The same map, which training multiplies in bfloat16 where this machine has instructions for it and
    /// the weight is dense. The weight in float32 is kept: it is what hashes and copies are made of.
    pub(crate) fn in_bfloat16(mut self) -> Self {
        if let (HostWeight::Dense { matrix, is_transposed }, Some(kernel)) =
            (&self.weight, TileKernel::here())
        {
            let weight = dense(matrix, *is_transposed);
            let (forward, backward) =
                rayon::join(|| Tiles::right(weight), || Tiles::right(weight.transposed()));
            self.tiles = Some(Arc::new(TiledWeight { kernel, forward, backward }));
        }
        self
    }

    /// What gradients of the weight are multiplied with, if in bfloat16.
    pub(super) fn tile_kernel(&self) -> Option<TileKernel> {
        self.tiles.as_ref().map(|tiles| tiles.kernel)
    }

    /// A copy of a map that is trained; `None` if it stands beside a LoRA delta.
    pub(crate) fn copied(linear: &Linear) -> Option<Self> {
        if linear.parameter().adapter().is_some() {
            return None;
        }
        let matrix = HostMatrix::new(linear.weight().inner().into_data());
        let bias = linear.bias().map(|bias| bias.inner().into_data().try_into_vec().expect(F32));
        let copy = Self { weight: HostWeight::Dense { matrix, is_transposed: false }, bias, tiles: None };
        Some(if linear.products() == Some(FloatDType::BF16) { copy.in_bfloat16() } else { copy })
    }

    /// `[d_in, d_out]`
    pub(crate) fn dims(&self) -> [usize; 2] {
        match &self.weight {
            HostWeight::Dense { matrix, is_transposed: true } => [matrix.columns(), matrix.rows()],
            HostWeight::Dense { matrix, is_transposed: false } => [matrix.rows(), matrix.columns()],
            HostWeight::Packed(matrix) => [matrix.cols(), matrix.rows()],
        }
    }

    pub(crate) fn weight(&self) -> &HostWeight {
        &self.weight
    }

    pub(super) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    fn add_bias(&self, y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
        }
    }

    /// Shows the bytes of all values: of a dense weight as `[d_in, d_out]`, then of the bias.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&[u8])) {
        match &self.weight {
            HostWeight::Dense { matrix, is_transposed: false } => {
                see(bytemuck::cast_slice(matrix.values()));
            }
            HostWeight::Dense { matrix, is_transposed: true } => {
                see(bytemuck::cast_slice(matrix.changed_over().values()));
            }
            HostWeight::Packed(matrix) => see(matrix.tensor().bytes()),
        }
        if let Some(bias) = &self.bias {
            see(bytemuck::cast_slice(bias));
        }
    }

    /// `[r, d_in] → [r, d_out]`, on this thread where the weight is dense: the level above shares
    /// sequences out to threads.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let [y] = Self::forward_together([self], x);
        y
    }

    /// The products of several maps with the same `x`, which is laid out once for those in bfloat16.
    pub(super) fn forward_together<const N: usize>(maps: [&Self; N], x: &[f32]) -> [Vec<f32>; N] {
        let d_in = maps.first().map_or(1, |map| map.dims()[0]);
        let rows = x.len() / d_in;
        let view = View::rows_of(x, rows, d_in);
        let forward = |tiles: Option<&Tiles>| {
            maps.map(|map| {
                let [_, d_out] = map.dims();
                let mut y = vec![0.0; rows * d_out];
                match (&map.weight, map.tiles.as_deref().zip(tiles)) {
                    (_, Some((TiledWeight { kernel, forward, .. }, left))) => {
                        multiply_tiles(*kernel, left, &Part::all(forward), false, &mut y, d_out);
                    }
                    (HostWeight::Dense { matrix, is_transposed }, None) => {
                        multiply(view, dense(matrix, *is_transposed), 1.0, &mut y);
                    }
                    (HostWeight::Packed(matrix), None) => matrix.matmul(x, rows, &mut y),
                }
                map.add_bias(&mut y);
                y
            })
        };
        match maps.iter().any(|map| map.tiles.is_some()) {
            true => Tiles::with_left(view, |tiles| forward(Some(tiles))),
            false => forward(None),
        }
    }

    /// `[r, d_in] → [r, d_out]` on all threads.
    pub(crate) fn read(&self, x: &[f32]) -> Vec<f32> {
        let [y] = Self::read_together([self], x);
        y
    }

    /// The products of several maps with the same `x`, on all threads, as one job where that saves
    /// waking them.
    pub(super) fn read_together<const N: usize>(maps: [&Self; N], x: &[f32]) -> [Vec<f32>; N] {
        let mut ys = maps.map(|map| {
            let [d_in, d_out] = map.dims();
            let rows = x.len() / d_in;
            count_products(1, [rows, d_in, d_out]);
            vec![0.0; rows * d_out]
        });
        let packed: Vec<&PackedMatrix> = maps.iter().filter_map(|map| map.packed()).collect();
        if packed.len() == N {
            let rows = packed.first().map_or(0, |matrix| x.len() / matrix.cols());
            let mut slices: Vec<&mut [f32]> = ys.iter_mut().map(Vec::as_mut_slice).collect();
            PackedMatrix::matmul_together(&packed, x, rows, &mut slices);
        } else {
            for (map, y) in maps.iter().zip(&mut ys) {
                let [d_in, _] = map.dims();
                let rows = x.len() / d_in;
                match &map.weight {
                    HostWeight::Dense { matrix, is_transposed } => {
                        let weight = dense(matrix, *is_transposed);
                        multiply_on_all_threads(View::rows_of(x, rows, d_in), weight, y);
                    }
                    HostWeight::Packed(matrix) => matrix.matmul(x, rows, y),
                }
            }
        }
        for (map, y) in maps.iter().zip(&mut ys) {
            map.add_bias(y);
        }
        ys
    }

    fn packed(&self) -> Option<&PackedMatrix> {
        match &self.weight {
            HostWeight::Packed(matrix) => Some(matrix),
            HostWeight::Dense { .. } => None,
        }
    }

    /// `dx = dy Wᵀ`, or adds it to `dx`; `[r, d_out] → [r, d_in]`.
    pub(super) fn backward(&self, dy: &[f32], sum: bool, dx: &mut [f32]) {
        let [d_in, d_out] = self.dims();
        let rows = dy.len() / d_out;
        let dy = View::rows_of(dy, rows, d_out);
        match (&self.weight, &self.tiles) {
            (_, Some(tiles)) => {
                let weight = Part::all(&tiles.backward);
                Tiles::with_left(dy, |dy| multiply_tiles(tiles.kernel, dy, &weight, sum, dx, d_in));
            }
            (HostWeight::Dense { matrix, is_transposed }, None) => {
                multiply_into(dy, dense(matrix, *is_transposed).transposed(), 1.0, sum, dx, d_in);
            }
            (HostWeight::Packed(matrix), None) => matrix.matmul_back(dy, sum, dx),
        }
    }
}

/// A dense weight, `[d_in, d_out]`.
fn dense(matrix: &HostMatrix, is_transposed: bool) -> View<'_> {
    if is_transposed { matrix.view().transposed() } else { matrix.view() }
}

/// A normalisation of rows of width `d`.
#[derive(Clone, Debug)]
pub(crate) struct HostNorm {
    weight: Option<Vec<f32>>,
    epsilon: f32,
    d: usize,
}

impl HostNorm {
    /// The normalisation of a checkpoint, over rows of width `d`.
    pub(crate) fn from_stored(stored: &StoredNorm, d: usize) -> Self {
        Self { weight: stored.weight.clone(), epsilon: stored.epsilon as f32, d }
    }

    /// The values of a normalisation over rows of width `d`.
    pub(super) fn copied(norm: &Norm, d: usize) -> Self {
        let weight = norm.weight().map(|weight| weight.inner().into_data().try_into_vec().expect(F32));
        Self { weight, epsilon: norm.epsilon() as f32, d }
    }

    pub(crate) fn weight(&self) -> Option<&[f32]> {
        self.weight.as_deref()
    }

    pub(crate) fn epsilon(&self) -> f64 {
        f64::from(self.epsilon)
    }

    /// Shows the bytes of the weight, where there is one.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&[u8])) {
        if let Some(weight) = &self.weight {
            see(bytemuck::cast_slice(weight));
        }
    }

    /// The width of a row.
    pub(super) fn width(&self) -> usize {
        self.d
    }

    fn normalise(&self, x: &[f32], y: &mut [f32]) {
        match &self.weight {
            Some(weight) => rms_norm(x, weight, self.epsilon, y),
            None => layer_norm(x, self.d, self.epsilon, y),
        }
    }

    /// Normalises each row.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        self.normalise(x, &mut y);
        y
    }

    /// The same, on all threads.
    pub(crate) fn read(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let job = (VALUES_OF_A_JOB / self.d).max(1) * self.d;
        if x.len() <= job {
            self.normalise(x, &mut y);
        } else {
            y.par_chunks_mut(job).zip(x.par_chunks(job)).for_each(|(y, x)| self.normalise(x, y));
        }
        y
    }

    /// Adds the gradient at `x` to `dx`.
    pub(crate) fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        match &self.weight {
            Some(weight) => rms_norm_backward(x, weight, self.epsilon, dy, dx),
            None => layer_norm_backward(x, self.d, self.epsilon, dy, dx),
        }
    }

    /// The gradient of the weight, where there is one.
    pub(super) fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Option<Vec<f32>> {
        let weight = self.weight.as_ref()?;
        let mut gradient = vec![0.0; weight.len()];
        rms_norm_weight_gradient(x, self.epsilon, dy, &mut gradient);
        Some(gradient)
    }
}
