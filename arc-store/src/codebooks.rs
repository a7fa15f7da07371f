//! Codebooks in a file: Parquet with a row for each centroid, so that whoever reads the codes can read
//! them too.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int32Type;
use arrow_array::{BinaryArray, Int32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::quantiser::{CENTROIDS, Quantiser};

const COLUMNS: [&str; 4] = ["stage", "subspace", "code", "centroid"];

/// The file of a quantiser's centroids.
pub(crate) fn write(quantiser: &Quantiser) -> Result<Bytes, ParquetError> {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    let [stage, subspace, code, centroid] = COLUMNS;
    let schema = Arc::new(Schema::new(vec![
        field(stage, DataType::Int32),
        field(subspace, DataType::Int32),
        field(code, DataType::Int32),
        field(centroid, DataType::Binary),
    ]));
    let parts = quantiser.width() / quantiser.subspace();
    let rows = || {
        (0..quantiser.stages()).flat_map(move |stage| {
            (0..parts).flat_map(move |part| (0..CENTROIDS).map(move |code| (stage, part, code)))
        })
    };
    let int = |value: fn((usize, usize, usize)) -> usize| -> Int32Array {
        rows().map(|row| Some(value(row) as i32)).collect()
    };
    let centroids = rows().map(|(stage, part, code)| {
        let start = code * quantiser.subspace();
        let centroid = &quantiser.centroids_of(stage, part)[start..start + quantiser.subspace()];
        centroid.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()
    });
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(int(|(stage, _, _)| stage)),
            Arc::new(int(|(_, part, _)| part)),
            Arc::new(int(|(_, _, code)| code)),
            Arc::new(BinaryArray::from_iter_values(centroids)),
        ],
    )?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.into())
}

/// The quantiser of a file of centroids for latents of width `width`.
pub(crate) fn read(bytes: Bytes, width: usize) -> Result<Quantiser, String> {
    let readable = |error: &dyn std::error::Error| error.to_string();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build());
    let mut centroids: Vec<f32> = Vec::new();
    let (mut stages, mut parts, mut rows) = (0, 0, 0usize);
    for batch in reader.map_err(|error| readable(&error))? {
        let batch = batch.map_err(|error| readable(&error))?;
        let column =
            |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"));
        let int = |name: &str| -> Result<&Int32Array, String> {
            let column = column(name)?.as_primitive_opt::<Int32Type>();
            column.ok_or_else(|| format!("its column `{name}` holds no 32-bit whole numbers"))
        };
        let [stage, part, code] = [int(COLUMNS[0])?, int(COLUMNS[1])?, int(COLUMNS[2])?];
        let centroid = column(COLUMNS[3])?.as_binary_opt::<i32>();
        let centroid = centroid.ok_or("its column `centroid` holds no bytes")?;
        for row in 0..batch.num_rows() {
            if code.value(row) as usize != rows % CENTROIDS {
                return Err(format!(
                    "code {} stands where {} is expected",
                    code.value(row),
                    rows % CENTROIDS
                ));
            }
            stages = stages.max(stage.value(row) + 1);
            parts = parts.max(part.value(row) + 1);
            centroids.extend(centroid.value(row).as_chunks::<4>().0.iter().map(|&v| f32::from_le_bytes(v)));
            rows += 1;
        }
    }
    let parts = usize::try_from(parts).ok().filter(|&parts| parts > 0 && width.is_multiple_of(parts));
    let Some(parts) = parts else { return Err(format!("its subspaces do not make up a width of {width}")) };
    Quantiser::of_centroids(width, width / parts, stages.max(0) as usize, centroids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantiser_comes_back_from_its_file_exactly() {
        let latents: Vec<f32> = (0..300 * 8).map(|i| ((i * 37 % 101) as f32).sin()).collect();
        for (subspace, stages) in [(2, 1), (4, 2), (8, 1), (1, 1)] {
            let quantiser = Quantiser::train(&latents, 8, subspace, stages, 3).unwrap();
            assert_eq!(read(write(&quantiser).unwrap(), 8).unwrap(), quantiser);
        }
        assert!(read(Bytes::from_static(b"PAR1 and no more"), 8).is_err());
    }
}
