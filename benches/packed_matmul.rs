//! Products with a weight left as stored, beside `gemm` on the same weight in f32.
//!
//! The shapes are those of smollm2-135m (d = 576, feed-forward 1536, vocabulary 49,152). The
//! throughput that criterion prints is in multiply-adds, so 1 Gelem/s is 2 GFLOP/s; what bounds it
//! is arithmetic for 512 activations, and reading and decoding the weights for one.

use std::hint::black_box;

use arc_core::host::PackedMatrix;
use arc_core::weights::{RawTensor, StorageType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Numbers from -1 to 1 that repeat only after long.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A `[rows, cols]` matrix of values that weights have: a product with subnormal numbers would be
/// a hundred times slower.
fn packed(dtype: StorageType, rows: usize, cols: usize) -> PackedMatrix {
    let values = noise(rows * cols);
    let bytes: Vec<u8> = match dtype {
        StorageType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        StorageType::BF16 => {
            values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        _ => {
            let len = dtype.bytes_of_shape(&[rows, cols]).expect("whole blocks in a row");
            // No byte above 0x2f: an f16 of two such bytes is at most 0.11, and never infinite.
            values.iter().cycle().take(len).map(|value| (value.abs() * 47.0) as u8).collect()
        }
    };
    let tensor = RawTensor::new("w", dtype, vec![rows, cols], bytes.into(), "(memory)");
    PackedMatrix::new(tensor.expect("as many bytes as the shape takes")).expect("a matrix")
}

/// `y = x Wᵀ` by gemm on all threads, with W in f32: what an engine without packed weights does.
fn multiply_f32(x: &[f32], w: &[f32], m: usize, cols: usize, rows: usize, y: &mut [f32]) {
    assert_eq!((x.len(), w.len(), y.len()), (m * cols, rows * cols, m * rows));
    let (rows_stride, cols_stride) = (rows.cast_signed(), cols.cast_signed());
    // SAFETY: the slices are as long as the sizes and strides say.
    unsafe {
        gemm::gemm(
            m,
            rows,
            cols,
            y.as_mut_ptr(),
            1,
            rows_stride,
            false,
            x.as_ptr(),
            1,
            cols_stride,
            w.as_ptr(),
            cols_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

fn prefill(criterion: &mut Criterion) {
    for (m, cols, rows) in [(512, 576, 1536), (512, 1536, 576), (32, 576, 1536)] {
        let mut group = criterion.benchmark_group(format!("{m}x{cols}x{rows}"));
        group.throughput(Throughput::Elements((m * cols * rows) as u64));
        let (x, mut y) = (noise(m * cols), vec![0.0; m * rows]);
        let w = noise(rows * cols);
        group.bench_function("gemm f32", |bencher| {
            bencher.iter(|| multiply_f32(black_box(&x), &w, m, cols, rows, &mut y));
        });
        for dtype in [StorageType::F32, StorageType::Q4_1] {
            let matrix = packed(dtype, rows, cols);
            group.bench_function(BenchmarkId::new("packed", dtype), |bencher| {
                bencher.iter(|| matrix.matmul(black_box(&x), m, &mut y));
            });
        }
        group.finish();
    }
}

fn decode(criterion: &mut Criterion) {
    let (cols, rows) = (768, 32_768);
    let mut group = criterion.benchmark_group(format!("1x{cols}x{rows}"));
    group.throughput(Throughput::Elements((cols * rows) as u64));
    let (x, mut y) = (noise(cols), vec![0.0; rows]);
    let w = noise(rows * cols);
    group.bench_function("gemm f32", |bencher| {
        bencher.iter(|| multiply_f32(black_box(&x), &w, 1, cols, rows, &mut y));
    });
    for dtype in StorageType::ALL {
        let matrix = packed(dtype, rows, cols);
        group.bench_function(BenchmarkId::new("packed", dtype), |bencher| {
            bencher.iter(|| matrix.matmul(black_box(&x), 1, &mut y));
        });
    }
    group.finish();
}

/// What reading the bytes alone takes: the floor of `decode`.
fn read(criterion: &mut Criterion) {
    let words = vec![1_u64; (64 << 20) / 8];
    let mut group = criterion.benchmark_group("read 64 MiB");
    group.throughput(Throughput::Bytes(64 << 20));
    group.bench_function("one thread", |bencher| {
        bencher.iter(|| black_box(&words).iter().fold(0, |a: u64, b| a.wrapping_add(*b)));
    });
    group.finish();
}

criterion_group!(benches, prefill, decode, read);
criterion_main!(benches);
