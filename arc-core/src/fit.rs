//! A fitted start without gradients: the projector as a ridge regression.
//!
//! The regression maps each latent to the embedding of the decoder's token that ends where the
//! latent's group of positions ends, in bytes of the text, since two tokenizers cut a text
//! differently. Latents are normalised first: their length varies over orders of magnitude and says
//! nothing about the token, so that without it the longest decide the map. Only the normal
//! equations are kept, so memory does not grow with the text.
//!
//! Shapes: `n` latents, `e` encoder width, `d` decoder width.

use std::collections::HashMap;

use arc_adapters::{
    AdapterManifest, AdapterTensor, Append, EncoderPin, ProjectorLayer, ProjectorSpec, WeightType,
};
use burn::tensor::{Int, Tensor, TensorData};
use nalgebra::{Cholesky, DMatrix, DVector};

use crate::decoder::Decoder;
use crate::encoder::{CompressOptions, Encoder, PoolingKind, PoolingRate};
use crate::prompt::Prompt;
use crate::{Error, Result};

/// One text in this many is kept from the regression, to choose its strength.
const HELD_OUT_EVERY: usize = 10;

/// The strengths that are tried, in units of each input's own mean square.
const STRENGTHS: [f64; 7] = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// Added to a latent's mean square when it is normalised.
const NORM_EPSILON: f64 = 1e-6;

/// So many different tokens are followed, from the first that are met: frequent ones are among them.
const TOKENS_FOLLOWED: usize = 64;
/// And so many of them, the most frequent, are tried as special vectors.
const SPECIALS_TRIED: usize = 12;
/// They are tried on so many held-out texts, after so many of the encoder's tokens of each,
const TRIAL_TEXTS: usize = 6;
/// which are the context,
const TRIAL_CONTEXT: usize = 64;
/// by the loss of so many of the decoder's tokens that follow.
const TRIAL_TOKENS: usize = 32;

/// The sums that a regression needs, over any number of samples.
#[derive(Clone, Debug)]
struct NormalEquations {
    /// `Xᵀ X`, `[e, e]`
    gram: DMatrix<f64>,
    /// `Xᵀ Y`, `[e, d]`
    cross: DMatrix<f64>,
    /// The sum of the squares of `Y`.
    target_squares: f64,
    /// The sum of `X`, `[e]`
    input_sum: DVector<f64>,
    /// The sum of `Y`, `[d]`
    target_sum: DVector<f64>,
    samples: usize,
}

impl NormalEquations {
    fn new(e: usize, d: usize) -> Self {
        Self {
            gram: DMatrix::zeros(e, e),
            cross: DMatrix::zeros(e, d),
            target_squares: 0.0,
            input_sum: DVector::zeros(e),
            target_sum: DVector::zeros(d),
            samples: 0,
        }
    }

    /// Adds the samples `x [n, e]`, `y [n, d]`.
    fn add(&mut self, x: Tensor<2>, y: Tensor<2>) {
        let n = x.dims()[0];
        add_rows(&mut self.input_sum, x.clone());
        add_rows(&mut self.target_sum, y.clone());
        let xt = x.clone().transpose();
        // Products in f32 on the device over one chunk, sums over all chunks in f64.
        add_to(&mut self.gram, xt.clone().matmul(x));
        add_to(&mut self.cross, xt.matmul(y.clone()));
        self.target_squares += f64::from(y.square().sum().into_scalar::<f32>());
        self.samples += n;
    }

    /// The map `[e, d]` of least squares with a penalty of `strength` times each input's own mean
    /// square: hidden states have a few dimensions a thousand times larger than the rest, which a
    /// common penalty would leave free while it crushes the others.
    fn solve(&self, strength: f64) -> Option<DMatrix<f64>> {
        let scale = self.gram.diagonal().map(|square| 1.0 / square.max(f64::MIN_POSITIVE).sqrt());
        let scaling = DMatrix::from_diagonal(&scale);
        let mut system = &scaling * &self.gram * &scaling;
        for i in 0..system.nrows() {
            system[(i, i)] += strength;
        }
        let solution = Cholesky::new(system)?.solve(&(&scaling * &self.cross));
        Some(scaling * solution)
    }

    /// The share of the targets' variance that a map `[e, d]` explains on these samples.
    fn r_squared(&self, map: &DMatrix<f64>) -> f64 {
        let n = self.samples.max(1) as f64;
        let variance = self.target_squares - self.target_sum.norm_squared() / n;
        let residual = self.target_squares - 2.0 * map.dot(&self.cross) + map.dot(&(&self.gram * map));
        1.0 - residual / variance.max(f64::MIN_POSITIVE)
    }
}

/// The latents of one token of the decoder.
#[derive(Clone, Debug)]
struct TokenLatents {
    token: u32,
    /// `[e]`
    sum: DVector<f64>,
    count: usize,
}

/// Held-out text on which special vectors are tried.
#[derive(Clone, Debug)]
struct Trial {
    /// Of the context, normalised, `[n, e]`
    latents: Tensor<2>,
    /// The decoder's tokens that follow.
    continuation: Vec<u32>,
}

/// Rows of mean square 1, `[n, e] → [n, e]`.
fn normalised(x: Tensor<2>) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1);
    x / (mean_square + NORM_EPSILON).sqrt()
}

fn add_rows(total: &mut DVector<f64>, rows: Tensor<2>) {
    let sums = rows.sum_dim(0).into_data().convert::<f32>();
    for (total, &sum) in total.iter_mut().zip(sums.as_slice::<f32>().expect("converted to f32")) {
        *total += f64::from(sum);
    }
}

fn add_to(total: &mut DMatrix<f64>, part: Tensor<2>) {
    let data = part.into_data().convert::<f32>();
    let columns = total.ncols();
    for (i, &value) in data.as_slice::<f32>().expect("converted to f32").iter().enumerate() {
        total[(i / columns, i % columns)] += f64::from(value);
    }
}

/// A regression under way.
#[derive(Debug)]
pub struct Fit<'a> {
    encoder: &'a Encoder,
    decoder: &'a Decoder,
    factor: usize,
    fitted: NormalEquations,
    held_out: NormalEquations,
    latents: usize,
    texts: usize,
    tokens: Vec<TokenLatents>,
    trials: Vec<Trial>,
}

/// What a regression gave.
#[derive(Debug)]
#[non_exhaustive]
pub struct FitReport {
    /// The adapter, without scores and with the weights' hash still to be filled in by
    /// [`arc_adapters::AdapterPackage::write`].
    pub manifest: AdapterManifest,
    /// Its weights.
    pub tensors: Vec<AdapterTensor>,
    /// Latents that had a token ending where they end.
    pub aligned: usize,
    /// All latents seen.
    pub latents: usize,
    /// Explained variance on the texts that were fitted.
    pub r_squared: f64,
    /// Explained variance on the texts that were kept back.
    pub r_squared_held_out: f64,
    /// The penalty chosen, in units of each input's mean square.
    pub strength: f64,
}

impl<'a> Fit<'a> {
    /// Begins a regression for latents that stand for `factor` tokens each.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for factor 0; [`Error::Mismatch`] for an encoder that merges by
    /// similarity, since the clusters that it makes end nowhere in the text.
    pub fn new(encoder: &'a Encoder, decoder: &'a Decoder, factor: usize) -> Result<Self> {
        if factor == 0 {
            return Err(Error::factor_of_0());
        }
        let pool_type = encoder.network.config().pooling.pool_type;
        if matches!(pool_type.kind, PoolingKind::KMeans(_)) && factor > 1 {
            return Err(Error::Mismatch {
                what: format!("encoder `{}` for a regression", encoder.name),
                expected: "groups of consecutive positions, which end where a token ends".into(),
                found: format!("clusters, pooled by `{pool_type}`"),
                hint: "train the adapter from scratch".into(),
            });
        }
        let (e, d) = (encoder.network.d_model(), decoder.network.config().d_model());
        Ok(Self {
            encoder,
            decoder,
            factor,
            fitted: NormalEquations::new(e, d),
            held_out: NormalEquations::new(e, d),
            latents: 0,
            texts: 0,
            tokens: Vec::new(),
            trials: Vec::new(),
        })
    }

    /// Adds a text.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] if a tokenizer refuses it, or gives a token that the decoder lacks.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let encoding = self.encoder.tokenizer.encode(text)?;
        if encoding.ids.is_empty() {
            return Ok(());
        }
        let target = self.decoder.tokenizer.encode(text)?;
        self.decoder.check_tokens(&target.ids)?;
        let token_ending_at: HashMap<usize, u32> =
            target.offsets.iter().zip(&target.ids).map(|(&(_, end), &id)| (end, id)).collect();

        let options = CompressOptions { factor: Some(self.factor) };
        let chunks = self.encoder.encode_chunks(&encoding.ids, options)?;
        let is_held_out = self.texts % HELD_OUT_EVERY == HELD_OUT_EVERY - 1;
        self.texts += 1;
        if is_held_out && self.trials.len() < TRIAL_TEXTS {
            self.trials.extend(self.trial(text)?);
        }
        let mut first = 0;
        for (latents, ids) in chunks.into_iter().zip(encoding.ids.chunks(self.encoder.chunk_tokens())) {
            let rate = if self.factor == 1 { PoolingRate::Off } else { PoolingRate::Factor(self.factor) };
            let (places, tokens): (Vec<i64>, Vec<u32>) = self
                .encoder
                .network
                .groups(ids, rate)
                .ranges()
                .enumerate()
                .filter_map(|(place, group)| {
                    let (_, end) = encoding.offsets[first + group.end - 1];
                    Some((place as i64, *token_ending_at.get(&end)?))
                })
                .unzip();
            first += ids.len();
            self.latents += latents.dims()[0];
            if places.is_empty() {
                continue;
            }
            let places = Tensor::<1, Int>::from_data(places.as_slice(), self.encoder.device());
            let y = self.decoder.network.embed(&tokens).to_device(self.encoder.device());
            let x = normalised(latents.select(0, places));
            if is_held_out {
                self.held_out.add(x, y);
            } else {
                self.follow(&tokens, x.clone());
                self.fitted.add(x, y);
            }
        }
        Ok(())
    }

    /// Adds the latents `x [n, e]` to those of their tokens.
    fn follow(&mut self, tokens: &[u32], x: Tensor<2>) {
        let e = x.dims()[1];
        let data = x.into_data().convert::<f32>();
        let rows = data.as_slice::<f32>().expect("converted to f32").chunks_exact(e);
        for (&token, row) in tokens.iter().zip(rows) {
            let place = match self.tokens.iter().position(|followed| followed.token == token) {
                Some(place) => place,
                None if self.tokens.len() < TOKENS_FOLLOWED => {
                    self.tokens.push(TokenLatents { token, sum: DVector::zeros(e), count: 0 });
                    self.tokens.len() - 1
                }
                None => continue,
            };
            let followed = &mut self.tokens[place];
            followed.count += 1;
            for (sum, &value) in followed.sum.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
    }

    /// A text as a context and what follows it, if it is long enough.
    fn trial(&self, text: &str) -> Result<Option<Trial>> {
        let encoding = self.encoder.tokenizer.encode(text)?;
        if encoding.ids.len() <= TRIAL_CONTEXT {
            return Ok(None);
        }
        let Some(rest) = text.get(encoding.offsets[TRIAL_CONTEXT - 1].1..) else { return Ok(None) };
        let continuation = self.decoder.tokenizer.encode(rest)?.ids;
        let options = CompressOptions { factor: Some(self.factor) };
        let mut chunks = self.encoder.encode_chunks(&encoding.ids[..TRIAL_CONTEXT], options)?;
        Ok(match continuation.get(..TRIAL_TOKENS) {
            Some(continuation) if chunks.len() == 1 => {
                Some(Trial { latents: normalised(chunks.remove(0)), continuation: continuation.to_vec() })
            }
            _ => None,
        })
    }

    /// The special vector, `[e]`: the mean latent of the token that the decoder minds least between
    /// a context and what follows.
    fn special_vector(&self, map: &DMatrix<f64>) -> Result<DVector<f64>> {
        let mut candidates: Vec<&TokenLatents> = self.tokens.iter().collect();
        candidates.sort_by_key(|followed| std::cmp::Reverse(followed.count));
        candidates.truncate(SPECIALS_TRIED);
        let (e, d) = map.shape();
        let values: Vec<f32> = map.transpose().iter().map(|&value| value as f32).collect();
        let map = Tensor::<2>::from_data(TensorData::new(values, [e, d]), self.encoder.device());
        let beginning = self.decoder.tokenizer.beginning();
        let mut best = (f64::INFINITY, &self.fitted.input_sum / self.fitted.samples as f64);
        for followed in candidates {
            let mean = &followed.sum / followed.count as f64;
            let values: Vec<f32> = mean.iter().map(|&value| value as f32).collect();
            let row = Tensor::<2>::from_data(TensorData::new(values, [1, e]), self.encoder.device());
            let row = normalised(row);
            let mut loss = 0.0;
            for trial in &self.trials {
                let rows = Tensor::cat(vec![trial.latents.clone(), row.clone()], 0).matmul(map.clone());
                let prompt =
                    Prompt::from_tokens(beginning.clone()).latents(rows).tokens(trial.continuation.clone());
                let losses = self.decoder.token_losses(&prompt)?;
                loss += losses.iter().flatten().map(|&loss| f64::from(loss)).sum::<f64>();
            }
            if loss < best.0 {
                best = (loss, mean);
            }
        }
        Ok(best.1)
    }

    /// The number of latents seen so far.
    #[must_use]
    pub fn latents(&self) -> usize {
        self.latents
    }

    /// Solves the regression and describes the adapter.
    ///
    /// The map is split evenly between the projector's two layers by its singular values, which
    /// leaves both equally well scaled for training to go on from.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnough`] if the texts were too short or few for a regression, [`Error::Regression`].
    pub fn finish(self, name: &str, prompt_template: &str) -> Result<FitReport> {
        let Self { encoder, decoder, ref fitted, ref held_out, .. } = self;
        let (e, d) = (encoder.network.d_model(), decoder.network.config().d_model());
        if fitted.samples < e {
            return Err(Error::NotEnough {
                what: format!("aligned latents in {} texts for a regression of width {e}", self.texts),
                found: fitted.samples,
                needed: e,
            });
        }
        if held_out.samples == 0 {
            return Err(Error::NotEnough {
                what: "texts that give aligned latents, of which some are held out".into(),
                found: self.texts,
                needed: HELD_OUT_EVERY,
            });
        }
        let (strength, map) = STRENGTHS
            .into_iter()
            .filter_map(|strength| Some((strength, fitted.solve(strength)?)))
            .max_by(|(_, a), (_, b)| held_out.r_squared(a).total_cmp(&held_out.r_squared(b)))
            .ok_or(Error::Regression { reason: "the latents are degenerate" })?;
        let (r_squared, r_squared_held_out) = (fitted.r_squared(&map), held_out.r_squared(&map));

        let special: Vec<f32> = self.special_vector(&map)?.iter().map(|&value| value as f32).collect();

        let rank = e.min(d);
        let decomposition = map.svd(true, true);
        let (Some(u), Some(vt)) = (decomposition.u, decomposition.v_t) else {
            return Err(Error::Regression { reason: "its map has no decomposition" });
        };
        let root = decomposition.singular_values.map(f64::sqrt);
        // Torch layout, `[d_out, d_in]`, row by row.
        let first: Vec<f32> = (0..rank)
            .flat_map(|h| (0..e).map(move |i| (i, h)))
            .map(|(i, h)| (u[(i, h)] * root[h]) as f32)
            .collect();
        let second: Vec<f32> = (0..d)
            .flat_map(|o| (0..rank).map(move |h| (o, h)))
            .map(|(o, h)| (vt[(h, o)] * root[h]) as f32)
            .collect();

        let mut projector = ProjectorSpec::two_linear(e, rank, d);
        projector.layers.insert(0, ProjectorLayer::RmsNorm { d: e, eps: NORM_EPSILON });
        // Half precision is far finer than the fit, and keeps packages small.
        let tensors = vec![
            AdapterTensor::new("projector.0.weight", &[e], &vec![1.0; e], WeightType::F32),
            AdapterTensor::new("projector.1.weight", &[rank, e], &first, WeightType::F16),
            AdapterTensor::new("projector.2.weight", &[d, rank], &second, WeightType::F16),
            AdapterTensor::new("tokens.cont", &[e], &special, WeightType::F32),
            AdapterTensor::new("tokens.rec", &[e], &special, WeightType::F32),
        ];
        let pin = EncoderPin::new(&encoder.name, &encoder.id);
        let manifest = AdapterManifest::new((decoder.pin(), d), (pin, e), projector)
            .name(name.to_owned())
            .pooling_factors(vec![u32::try_from(self.factor).unwrap_or(u32::MAX)])
            // Even the best of them costs some hundredths of a nat where nothing was trained, so a
            // fitted adapter appends none; training starts from the one that was found.
            .append(Append::None)
            .prompt_template(prompt_template)
            .training(serde_json::json!({
                "method": "ridge regression from latents to token embeddings",
                "texts": self.texts,
                "latents": self.latents,
                "aligned_latents": fitted.samples + held_out.samples,
                "strength": strength,
                "r_squared": r_squared,
                "r_squared_held_out": r_squared_held_out,
            }));
        Ok(FitReport {
            manifest,
            tensors,
            aligned: fitted.samples + held_out.samples,
            latents: self.latents,
            r_squared,
            r_squared_held_out,
            strength,
        })
    }
}
