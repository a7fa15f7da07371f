//! Matrices as files of other programs: NumPy's, safetensors, and PyTorch's.

use std::io::{Cursor, Write as _};

use safetensors::tensor::{Dtype, TensorView, serialize};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::errors::Failure;

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::internal(format!("a file in memory cannot be written: {error}"))
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A file that `numpy.load` reads: float32, `[n, d]`. Source: NumPy's `numpy/lib/format.py`, version 1.0.
pub(super) fn npy([n, d]: [usize; 2], values: &[f32]) -> Vec<u8> {
    let described = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {d}), }}");
    // Magic, version and length take ten bytes; the data begin at a multiple of 64.
    let length = (10 + described.len() + 1).next_multiple_of(64) - 10;
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((length as u16).to_le_bytes());
    file.extend(described.as_bytes());
    file.resize(10 + length - 1, b' ');
    file.push(b'\n');
    file.extend(little_endian(values));
    file
}

/// A safetensors file with one tensor, float32 `[n, d]`.
pub(super) fn safetensors(
    name: &str,
    [n, d]: [usize; 2],
    values: &[f32],
    about: &[(&str, &str)],
) -> Result<Vec<u8>, Failure> {
    let bytes = little_endian(values);
    let view = TensorView::new(Dtype::F32, vec![n, d], &bytes).map_err(failed)?;
    let about = about.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    serialize([(name, view)], Some(about)).map_err(failed)
}

/// A file that `torch.load(weights_only=True)` reads: a float32 tensor `[n, d]`. Source: `torch/serialization.py`, the zip
/// format; the pickle is what `torch.save` writes, without memoising what is said once.
pub(super) fn torch([n, d]: [usize; 2], values: &[f32]) -> Result<Vec<u8>, Failure> {
    let int = |value: usize| -> Result<[u8; 5], Failure> {
        let value = i32::try_from(value).map_err(|_| failed("more values than a pickle's integer counts"))?;
        let [a, b, c, e] = value.to_le_bytes();
        Ok([b'J', a, b, c, e])
    };
    let text = |text: &str| [&[b'X'][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let pickle = [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(n * d)?.to_vec(),
        // The storage, where in it the tensor begins, its shape and its strides.
        b"tQK\x00".to_vec(),
        [int(n)?, int(d)?].concat(),
        b"\x86".to_vec(),
        [int(d)?, int(1)?].concat(),
        b"\x86\x89ccollections\nOrderedDict\n)RtR.".to_vec(),
    ]
    .concat();
    let mut file = ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let parts: [(&str, &[u8]); 4] = [
        ("archive/data.pkl", &pickle),
        ("archive/byteorder", b"little"),
        ("archive/data/0", &little_endian(values)),
        ("archive/version", b"3\n"),
    ];
    for (name, bytes) in parts {
        file.start_file(name, stored).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
    }
    Ok(file.finish().map_err(failed)?.into_inner())
}
