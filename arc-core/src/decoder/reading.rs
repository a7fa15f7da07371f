//! What a decoder makes of whole sequences, and the way back for a gradient.

use burn::tensor::{Int, Tensor, TensorData};

use super::Transformer;
use super::host::{HostDecoder, HostTape};
use crate::host::{padded, without_padding};

/// The normalised hidden states of a batch of sequences.
#[derive(Debug)]
pub struct Reading<'a> {
    decoder: &'a Transformer,
    /// What was read, `[b, s, d]`.
    embeddings: Tensor<3>,
    /// The length of each sequence.
    lengths: Vec<usize>,
    states: States<'a>,
}

#[derive(Debug)]
enum States<'a> {
    /// `[b, s, d]`, with a graph if the embeddings have one.
    Graph(Tensor<3>),
    /// `[r, d]` without padding, and what the backward pass needs, if there will be one.
    Host(&'a HostDecoder, Vec<f32>, Option<HostTape>),
}

impl<'a> Reading<'a> {
    pub(super) fn of(
        decoder: &'a Transformer,
        embeddings: Tensor<3>,
        lengths: &[usize],
        firsts: &[usize],
    ) -> Self {
        let states = match decoder.host() {
            None => States::Graph(decoder.hidden_states(embeddings.clone())),
            Some(host) => {
                let firsts = embeddings.is_autodiff().then_some(firsts);
                let x = without_padding(embeddings.clone().inner(), lengths);
                let (hidden, tape) = host.read(decoder.config(), &x, lengths, firsts);
                States::Host(host, hidden, firsts.is_some().then_some(tape))
            }
        };
        Self { decoder, embeddings, lengths: lengths.to_vec(), states }
    }

    /// The hidden states at `places` in `[b·s]`, without a graph, `[places, d]`.
    #[must_use]
    pub fn states_at(&self, places: &[usize]) -> Tensor<2> {
        match &self.states {
            States::Graph(hidden) => self.select(hidden.clone().inner(), places),
            States::Host(_, hidden, _) => {
                let d = self.width();
                let rows = self.rows_of(places).flat_map(|row| &hidden[row * d..][..d]).copied().collect();
                Tensor::from_data(TensorData::new(rows, [places.len(), d]), self.decoder.device())
            }
        }
    }

    /// A scalar, `[1]`, whose gradient at the embeddings is that of a loss which has `gradient` at the
    /// hidden states at `places`, `[places, d]`, and none elsewhere. Its value means nothing. Without a
    /// graph at the embeddings there is nothing to pass a gradient to, and so it has none.
    #[must_use]
    pub fn surrogate(&self, places: &[usize], gradient: Tensor<2>) -> Tensor<1> {
        match &self.states {
            States::Graph(hidden) => (self.select(hidden.clone(), places) * gradient).sum(),
            States::Host(_, _, None) => Tensor::zeros([1], self.decoder.device()),
            States::Host(host, hidden, Some(tape)) => {
                let d = self.width();
                let gradient = gradient.into_data();
                let gradient = gradient.as_slice::<f32>().expect("gradients are f32 on the CPU device");
                let mut d_hidden = vec![0.0; hidden.len()];
                for (row, gradient) in self.rows_of(places).zip(gradient.chunks_exact(d)) {
                    d_hidden[row * d..][..d].copy_from_slice(gradient);
                }
                let dx = host.gradient(tape, &d_hidden);
                let dx = padded(dx, &self.lengths, self.embeddings.dims(), self.decoder.device());
                (self.embeddings.clone() * dx).sum()
            }
        }
    }

    fn width(&self) -> usize {
        self.embeddings.dims()[2]
    }

    fn select(&self, hidden: Tensor<3>, places: &[usize]) -> Tensor<2> {
        let [b, s, d] = hidden.dims();
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), self.decoder.device());
        hidden.reshape([b * s, d]).select(0, places)
    }

    /// Places in `[b·s]` as rows of what has no padding.
    fn rows_of(&self, places: &[usize]) -> impl Iterator<Item = usize> {
        let s = self.embeddings.dims()[1];
        let starts: Vec<usize> = self
            .lengths
            .iter()
            .scan(0, |next, length| {
                let start = *next;
                *next += length;
                Some(start)
            })
            .collect();
        places.iter().map(move |place| starts[place / s] + place % s)
    }
}
