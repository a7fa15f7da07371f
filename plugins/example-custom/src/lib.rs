//! A projector that no description says: each output is the product of two inputs.
//!
//! A plugin like this one runs on host memory and for inference alone. Where layers of
//! `arc_adapters::ProjectorLayer` can say the same, a package is the better choice.

/// Width of the latents.
const D_ENCODER: usize = 8;
/// Width of the decoder's embeddings.
const D_DECODER: usize = 12;

/// Output j of a row is `x[j mod d] · x[(j + 1) mod d]`, with d the width of the latents.
fn project(x: &[f32], _n: usize, y: &mut [f32]) -> Result<(), String> {
    for (x, y) in x.chunks_exact(D_ENCODER).zip(y.chunks_exact_mut(D_DECODER)) {
        for (j, y) in y.iter_mut().enumerate() {
            *y = x[j % D_ENCODER] * x[(j + 1) % D_ENCODER];
        }
    }
    Ok(())
}

arc_plugin::export_adapter! {
    manifest: include_bytes!("../adapter.json"),
    weights: include_bytes!("../adapter.safetensors"),
    project: project,
    d_in: D_ENCODER,
    d_out: D_DECODER,
}
