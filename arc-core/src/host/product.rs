//! Products of float32 matrices, by [`gemm`].
//!
//! The unsafe code here is its call with slices whose lengths were checked.

/// A matrix in a slice: element `(i, j)` lies at `i·row_stride + j·column_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> View<'a> {
    /// `[rows, columns]`, row after row.
    pub(crate) fn rows_of(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same values with rows and columns changed over.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// `count` columns from `first` on.
    pub(super) fn columns_from(self, first: usize, count: usize) -> Self {
        Self { values: &self.values[first * self.column_stride..], columns: count, ..self }
    }

    /// Whether every element lies in the slice.
    pub(super) fn fits(&self) -> bool {
        let last = self.rows.checked_sub(1).zip(self.columns.checked_sub(1));
        last.is_none_or(|(i, j)| i * self.row_stride + j * self.column_stride < self.values.len())
    }
}

/// `product = scale · a b` on this thread; `product` is `[a.rows, b.columns]`, row after row.
pub(crate) fn multiply(a: View<'_>, b: View<'_>, scale: f32, product: &mut [f32]) {
    assert_eq!(product.len(), a.rows * b.columns, "the product's size");
    multiply_into(a, b, scale, false, product, b.columns);
}

/// `product = scale · a b`, or with `add` what is there plus that, on this thread; rows of the
/// product are `row_stride` apart.
pub(crate) fn multiply_into(
    a: View<'_>,
    b: View<'_>,
    scale: f32,
    add: bool,
    product: &mut [f32],
    row_stride: usize,
) {
    run(a, b, scale, add, product, row_stride, gemm::Parallelism::None);
}

/// `product = a b` on all threads; `product` is `[a.rows, b.columns]`, row after row.
pub(super) fn multiply_on_all_threads(a: View<'_>, b: View<'_>, product: &mut [f32]) {
    assert_eq!(product.len(), a.rows * b.columns, "the product's size");
    run(a, b, 1.0, false, product, b.columns, gemm::Parallelism::Rayon(0));
}

fn run(
    a: View<'_>,
    b: View<'_>,
    scale: f32,
    add: bool,
    product: &mut [f32],
    row_stride: usize,
    threads: gemm::Parallelism,
) {
    assert_eq!(a.columns, b.rows, "the inner width");
    assert!(a.fits() && b.fits(), "factors lie in their slices");
    let target = View { values: product, rows: a.rows, columns: b.columns, row_stride, column_stride: 1 };
    assert!(target.fits() && b.columns <= row_stride.max(1), "the product lies in its slice");
    let stride = |elements: usize| elements.cast_signed();
    // Transposed, since gemm is fastest where a destination's columns are contiguous.
    // SAFETY: by the assertions, all elements that sizes and strides name lie in the slices.
    unsafe {
        gemm::gemm(
            b.columns,
            a.rows,
            a.columns,
            product.as_mut_ptr(),
            stride(row_stride),
            1,
            add,
            b.values.as_ptr(),
            stride(b.row_stride),
            stride(b.column_stride),
            a.values.as_ptr(),
            stride(a.row_stride),
            stride(a.column_stride),
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Where tiles of a product are written: a `[m, row_stride]` matrix whose columns are shared out
/// among threads.
#[derive(Clone, Copy)]
pub(super) struct SharedOutput {
    start: *mut f32,
    len: usize,
    row_stride: usize,
}

// SAFETY: it is only written through by functions whose callers take disjoint columns.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(super) fn new(y: &mut [f32], row_stride: usize) -> Self {
        Self { start: y.as_mut_ptr(), len: y.len(), row_stride }
    }

    /// Asserts that `count` columns from `first` on of `m` rows are inside.
    pub(super) fn check(self, m: usize, first: usize, count: usize) {
        assert!(first + count <= self.row_stride && m * self.row_stride <= self.len, "a tile is inside y");
    }

    /// Where a value is written.
    ///
    /// # Safety
    /// The place is inside.
    pub(super) unsafe fn at(self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: as the caller says.
        unsafe { self.start.add(row * self.row_stride + column) }
    }

    pub(super) fn row_stride(self) -> usize {
        self.row_stride
    }
}

/// `y[.., first..first + n] = x wᵀ` on this thread: `x` is `[m, cols]`, `w` is `[n, cols]`.
///
/// # Safety
/// The slice that `y` was made of is still borrowed for it, and no other thread writes the same
/// columns meanwhile.
pub(super) unsafe fn multiply_tile(w: &[f32], x: &[f32], cols: usize, y: SharedOutput, first: usize) {
    let (n, m) = (w.len() / cols, x.len() / cols);
    assert!(w.len() == n * cols && x.len() == m * cols, "w and x are whole rows");
    y.check(m, first, n);
    let stride = |length: usize| isize::try_from(length).expect("a slice is at most isize::MAX long");
    // Transposed, `yᵀ = w xᵀ`, because gemm is fastest where a destination's columns are
    // contiguous.
    // SAFETY: the strides and sizes stay inside the slices, by the assertions above; the caller
    // promises that nothing else writes these columns.
    unsafe {
        gemm::gemm(
            n,
            m,
            cols,
            y.start.add(first),
            stride(y.row_stride),
            1,
            false,
            w.as_ptr(),
            1,
            stride(cols),
            x.as_ptr(),
            stride(cols),
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
