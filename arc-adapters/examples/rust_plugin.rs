//! A code plugin that does what its input says, to see how the host takes it: 1 panics, 2 is an
//! error, 3 gives NaN, anything else is added up row by row.

const MANIFEST: &[u8] = include_bytes!("../tests/plugins/custom/adapter.json");
const WEIGHTS: &[u8] = include_bytes!("../tests/plugins/custom/adapter.safetensors");
const D_IN: usize = 8;
const D_OUT: usize = 12;

fn project(x: &[f32], _n: usize, y: &mut [f32]) -> Result<(), String> {
    for (x, y) in x.chunks_exact(D_IN).zip(y.chunks_exact_mut(D_OUT)) {
        match x[0] {
            1.0 => panic!("asked to"),
            2.0 => return Err("asked to".to_owned()),
            3.0 => y.fill(f32::NAN),
            _ => y.fill(x.iter().sum()),
        }
    }
    Ok(())
}

arc_plugin::export_adapter! {
    manifest: MANIFEST,
    weights: WEIGHTS,
    project: project,
    d_in: D_IN,
    d_out: D_OUT,
}
