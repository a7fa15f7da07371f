//! Pooling: a sequence of hidden states becomes fewer states, one for each group of positions.
//!
//! Shapes: `b` sequences in a batch, `s` positions, `n` groups, `d` model width.
//!
//! Two things are decided here: which positions form a group ([`PoolingGroups`], integers alone),
//! and how a group becomes one state ([`PoolingKind`]). Where in a block it happens, and which
//! keys the pooled queries then see, is the encoder's. Source: ARC-Encoder, arXiv 2510.20535,
//! section 3 and table 8; names and edge cases are those of its public code.

use std::{fmt, ops::Range, str::FromStr};

use arc_adapters::PoolingPlace;
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What the name of a kind ends with when only the queries are pooled.
const QUERIES_ONLY: &str = "_pooled_queries";

/// Below this, a squared norm counts as zero: a pooled vector without direction cannot be rescaled.
const MIN_SQUARED_NORM: f32 = 1e-30;

/// How much a pooling layer pools: one entry of a configuration's `compress_rates`.
///
/// In configurations it is one integer: `-1` is [`Off`](Self::Off), `0` is
/// [`Whole`](Self::Whole), a positive `k` is [`Count`](Self::Count), and any other `-p` is
/// [`Factor`](Self::Factor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
#[non_exhaustive]
pub enum PoolingRate {
    /// Nothing is pooled.
    Off,
    /// The whole sequence is one group.
    Whole,
    /// This many groups, at least 1, whatever the length.
    Count(usize),
    /// Groups of this many positions, at least 2.
    Factor(usize),
}

impl TryFrom<i64> for PoolingRate {
    type Error = Error;

    fn try_from(rate: i64) -> Result<Self> {
        let size = usize::try_from(rate.unsigned_abs());
        let size = size.map_err(|_| Error::InvalidValue {
            what: "pooling rate".into(),
            found: rate.to_string(),
            expected: format!("at most {} either way", usize::MAX),
        })?;
        Ok(match rate {
            -1 => Self::Off,
            0 => Self::Whole,
            1.. => Self::Count(size),
            _ => Self::Factor(size),
        })
    }
}

impl From<PoolingRate> for i64 {
    fn from(rate: PoolingRate) -> Self {
        // Saturates only for sizes that no sequence reaches.
        let signed = |size| Self::try_from(size).unwrap_or(Self::MAX);
        match rate {
            PoolingRate::Off => -1,
            PoolingRate::Whole => 0,
            PoolingRate::Count(k) => signed(k),
            PoolingRate::Factor(p) => -signed(p),
        }
    }
}

/// The groups of consecutive positions that a sequence is cut into.
///
/// ```
/// use arc_core::encoder::{PoolingGroups, PoolingRate};
///
/// let groups = PoolingGroups::new(7, PoolingRate::Factor(4));
/// assert_eq!(groups.sizes(), [4, 3]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolingGroups {
    sizes: Vec<usize>,
}

impl PoolingGroups {
    /// The groups of `positions` positions under `rate`.
    ///
    /// A factor that leaves a remainder makes one more group, and sizes are levelled: the first
    /// groups are larger by one. Fewer positions than the factor are one group; fewer positions
    /// than a count are a group each. No positions are no groups.
    #[must_use]
    pub fn new(positions: usize, rate: PoolingRate) -> Self {
        let groups = match rate {
            PoolingRate::Off => positions,
            PoolingRate::Whole => positions.min(1),
            PoolingRate::Count(k) => positions.min(k),
            PoolingRate::Factor(p) => positions.div_ceil(p.max(1)),
        };
        if groups == 0 {
            return Self { sizes: Vec::new() };
        }
        let (size, larger) = (positions / groups, positions % groups);
        Self { sizes: (0..groups).map(|group| size + usize::from(group < larger)).collect() }
    }

    /// Groups that end with the given positions, which ascend.
    #[must_use]
    pub(super) fn ending_at(ends: &[usize]) -> Self {
        let starts = std::iter::once(0).chain(ends.iter().map(|end| end + 1));
        Self { sizes: starts.zip(ends).map(|(start, end)| end + 1 - start).collect() }
    }

    /// The number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Whether there are none: the sequence is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// The number of positions in each group, in order.
    #[must_use]
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The positions of each group, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.sizes.iter().scan(0, |start, &size| {
            let range = *start..*start + size;
            *start = range.end;
            Some(range)
        })
    }
}

/// What similarity means to [`PoolingKind::KMeans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClusterMetric {
    /// Squared distance.
    Euclidean,
    /// Angle.
    Cosine,
}

/// How the states of a group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolingKind {
    /// Their mean.
    Mean,
    /// The last of them.
    Last,
    /// Their sum.
    Sum,
    /// Their mean, rescaled to the largest norm among them. That norm carries no gradient.
    Fusion,
    /// The groups are not consecutive positions but clusters of similar states, and each becomes
    /// its mean (the ablation in table 8 of the paper).
    ///
    /// A factor `p` makes `s / p` clusters, rounded down, and leaves a sequence shorter than `p`
    /// as it is. Clusters start from consecutive groups and are ordered by their first position,
    /// so the result depends on nothing but the states; one that ends up empty is dropped.
    ///
    /// The reference agrees on the number of clusters, on means and on dropping, and not on the
    /// rest: it starts from states drawn at random and keeps the numbers that clusters then have,
    /// so that no two of its runs need give the same latents. (Its public code, besides, hands the
    /// number of clusters to the clustering in place of the states, and so fails for more than
    /// one.)
    KMeans(ClusterMetric),
}

/// The names in configurations, in the order in which they are tried.
const KIND_NAMES: [(&str, PoolingKind); 6] = [
    ("mean", PoolingKind::Mean),
    ("last", PoolingKind::Last),
    ("sum", PoolingKind::Sum),
    ("fusion", PoolingKind::Fusion),
    ("metric_kmeans_euclidean", PoolingKind::KMeans(ClusterMetric::Euclidean)),
    ("metric_kmeans_cosine", PoolingKind::KMeans(ClusterMetric::Cosine)),
];

/// A configuration's `pool_type`: how groups are pooled, and whether keys and values are too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub struct PoolType {
    /// How the states of a group become one.
    pub kind: PoolingKind,
    /// Only the queries are pooled: they attend to the keys and values of the unpooled states.
    /// Without effect for [`PoolingPlace::Between`].
    pub queries_only: bool,
}

impl FromStr for PoolType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let (kind, queries_only) = match name.strip_suffix(QUERIES_ONLY) {
            Some(kind) => (kind, true),
            None => (name, false),
        };
        let found = KIND_NAMES.iter().find(|(known, _)| *known == kind);
        found.map(|&(_, kind)| Self { kind, queries_only }).ok_or_else(|| {
            let known: Vec<_> = KIND_NAMES.iter().map(|(known, _)| format!("`{known}`")).collect();
            Error::InvalidValue {
                what: "pool_type".into(),
                found: name.to_owned(),
                expected: format!("{}, or one of them with `{QUERIES_ONLY}`", known.join(", ")),
            }
        })
    }
}

impl fmt::Display for PoolType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KIND_NAMES.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        f.write_str(name)?;
        f.write_str(if self.queries_only { QUERIES_ONLY } else { "" })
    }
}

impl TryFrom<String> for PoolType {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<PoolType> for String {
    fn from(pool_type: PoolType) -> Self {
        pool_type.to_string()
    }
}

/// A configuration's `pooling_module`: how and where pooling layers pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Pooling {
    /// How groups are pooled, and whether keys and values are too.
    pub pool_type: PoolType,
    /// Where in the block.
    #[serde(rename = "where")]
    pub place: PoolingPlace,
}

/// The reference's default, and that of every published encoder.
impl Default for Pooling {
    fn default() -> Self {
        let pool_type = PoolType { kind: PoolingKind::Mean, queries_only: true };
        Self { pool_type, place: PoolingPlace::Before }
    }
}

impl Pooling {
    /// How many states a layer that pools with `rate` makes of `positions`. Merging by similarity
    /// makes fewer where a cluster ends up empty.
    #[must_use]
    pub fn count(&self, positions: usize, rate: PoolingRate) -> usize {
        match (self.pool_type.kind, rate) {
            (PoolingKind::KMeans(_), rate) => clusters(positions, rate),
            (_, rate) => PoolingGroups::new(positions, rate).len(),
        }
    }

    /// A configuration's `compress_rates` under this pooling.
    ///
    /// Merging by similarity knows no fixed counts: the reference takes a positive rate there for
    /// the factor of this size.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a rate that is too large.
    pub fn rates(&self, compress_rates: &[i64]) -> Result<Vec<PoolingRate>> {
        let rate = |&rate: &i64| {
            Ok(match (self.pool_type.kind, PoolingRate::try_from(rate)?) {
                (PoolingKind::KMeans(_), PoolingRate::Count(1)) => PoolingRate::Off,
                (PoolingKind::KMeans(_), PoolingRate::Count(p)) => PoolingRate::Factor(p),
                (_, rate) => rate,
            })
        };
        compress_rates.iter().map(rate).collect()
    }
}

/// A batch of pooled states.
#[derive(Clone, Debug)]
pub struct Pooled {
    /// `[b, n, d]`, where `n` is the largest of `lengths`; beyond a sequence's length it is zero
    /// (or, where nothing was pooled, what it was).
    pub states: Tensor<3>,
    /// The number of states of each sequence.
    pub lengths: Vec<usize>,
}

impl PoolingKind {
    /// Pools a batch of sequences that are padded on the right.
    ///
    /// Padding does not reach the result, as long as it is finite.
    ///
    /// # Shapes
    /// - `states`: `[b, s, d]`
    /// - `lengths`: `b` numbers of at most `s`, not all of them 0
    /// - output: `[b, n, d]`
    ///
    /// # Panics
    /// If `lengths` does not fit `states`. [`Self::KMeans`] reads the states back from the device,
    /// and panics, like every read in burn, if the device fails.
    #[must_use]
    pub fn pool(self, states: Tensor<3>, lengths: &[usize], rate: PoolingRate) -> Pooled {
        let [b, s, _] = states.dims();
        assert_eq!(lengths.len(), b, "one length for each sequence of the batch");
        assert!(lengths.iter().all(|&length| length <= s), "lengths {lengths:?} of {s} positions");
        if rate == PoolingRate::Off {
            return Pooled { states, lengths: lengths.to_vec() };
        }

        if let Self::KMeans(metric) = self {
            let assignment = Assignment::clusters(&states, lengths, rate, metric);
            return self.pool_assigned(states, assignment);
        }
        let groups: Vec<_> = lengths.iter().map(|&length| PoolingGroups::new(length, rate)).collect();
        self.pool_groups(states, &groups)
    }

    /// Pools a batch of sequences by groups that somebody else has chosen, one for each sequence.
    /// [`Self::KMeans`] makes groups of its own: here it is [`Self::Mean`].
    pub(super) fn pool_groups(self, states: Tensor<3>, groups: &[PoolingGroups]) -> Pooled {
        let assignment = Assignment::consecutive(states.dims()[1], groups);
        self.pool_assigned(states, assignment)
    }

    fn pool_assigned(self, states: Tensor<3>, assignment: Assignment) -> Pooled {
        let pooled = match self {
            Self::Mean | Self::KMeans(_) => assignment.means(states),
            Self::Sum => assignment.membership(&states).matmul(states),
            Self::Last => assignment.last(states),
            Self::Fusion => {
                let largest = assignment.largest_norms(states.clone().detach());
                let means = assignment.means(states);
                let squared = means.clone().square().sum_dim(2);
                // The clamp keeps the gradient finite where padding has no norm.
                means * largest / squared.clamp_min(MIN_SQUARED_NORM).sqrt()
            }
        };
        Pooled { states: pooled, lengths: assignment.lengths }
    }
}

/// How many clusters merging by similarity starts from: rounded down, as in the reference, where
/// consecutive groups are rounded up.
fn clusters(length: usize, rate: PoolingRate) -> usize {
    match rate {
        PoolingRate::Off => length,
        PoolingRate::Whole => length.min(1),
        PoolingRate::Count(k) => k.min(length),
        PoolingRate::Factor(p) if length < p => length,
        PoolingRate::Factor(p) => length / p.max(1),
    }
}

/// Which group each position of each sequence is in.
struct Assignment {
    /// `s`
    positions: usize,
    /// For each sequence, the group of each of its positions.
    groups: Vec<Vec<usize>>,
    /// For each sequence, the number of its groups.
    lengths: Vec<usize>,
}

impl Assignment {
    fn consecutive(positions: usize, groups: &[PoolingGroups]) -> Self {
        Self::new(positions, groups.iter().map(consecutive_groups).collect())
    }

    fn clusters(states: &Tensor<3>, lengths: &[usize], rate: PoolingRate, metric: ClusterMetric) -> Self {
        let [_, positions, d] = states.dims();
        let values = states.clone().detach().into_data().convert::<f32>();
        let values = values.as_slice::<f32>().expect("converted to f32 just above");
        let rows = values.chunks_exact((positions * d).max(1));
        let groups = rows
            .zip(lengths)
            .map(|(row, &length)| cluster(&row[..length * d], d, clusters(length, rate), metric));
        Self::new(positions, groups.collect())
    }

    fn new(positions: usize, groups: Vec<Vec<usize>>) -> Self {
        let lengths = groups.iter().map(|groups| groups.iter().max().map_or(0, |last| last + 1)).collect();
        Self { positions, groups, lengths }
    }

    /// `[b, n]`
    fn dims(&self) -> [usize; 2] {
        [self.lengths.len(), self.lengths.iter().copied().max().unwrap_or(0)]
    }

    /// A value for each position of each group, 0 elsewhere: `[b, n, s]`, as `like` is stored.
    fn matrix(&self, like: &Tensor<3>, value: impl Fn(usize) -> f32) -> Tensor<3> {
        let ([b, n], s) = (self.dims(), self.positions);
        let mut matrix = vec![0.0_f32; b * n * s];
        for (row, groups) in self.groups.iter().enumerate() {
            let mut sizes = vec![0_usize; n];
            for &group in groups {
                sizes[group] += 1;
            }
            for (position, &group) in groups.iter().enumerate() {
                matrix[(row * n + group) * s + position] = value(sizes[group]);
            }
        }
        Tensor::from_data(TensorData::new(matrix, [b, n, s]), (&like.device(), like.dtype()))
    }

    fn membership(&self, like: &Tensor<3>) -> Tensor<3> {
        self.matrix(like, |_| 1.0)
    }

    fn means(&self, states: Tensor<3>) -> Tensor<3> {
        self.matrix(&states, |size| 1.0 / size as f32).matmul(states)
    }

    /// `[b, s, d] → [b, n, d]`. A gather and not a product, so that not a bit changes.
    fn last(&self, states: Tensor<3>) -> Tensor<3> {
        let ([b, n], [_, s, d]) = (self.dims(), states.dims());
        let (device, dtype) = (states.device(), states.dtype());
        let mut places = vec![0_i64; b * n];
        for (row, groups) in self.groups.iter().enumerate() {
            for (position, &group) in groups.iter().enumerate() {
                places[row * n + group] = (row * s + position) as i64;
            }
        }
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [b * n]), &device);
        let last = states.reshape([b * s, d]).select(0, places).reshape([b, n, d]);
        if self.lengths.iter().all(|&length| length == n) {
            return last;
        }
        let present = self
            .lengths
            .iter()
            .flat_map(|&length| (0..n).map(move |group| if group < length { 1.0_f32 } else { 0.0 }));
        let present = TensorData::new(present.collect(), [b, n, 1]);
        last * Tensor::from_data(present, (&device, dtype))
    }

    /// The largest norm in each group, `[b, s, d] → [b, n, 1]`.
    fn largest_norms(&self, states: Tensor<3>) -> Tensor<3> {
        let membership = self.membership(&states);
        let norms = states.square().sum_dim(2).sqrt();
        (membership * norms.swap_dims(1, 2)).max_dim(2)
    }
}

/// The group of each position.
fn consecutive_groups(groups: &PoolingGroups) -> Vec<usize> {
    let sizes = groups.sizes().iter().enumerate();
    sizes.flat_map(|(group, &size)| std::iter::repeat_n(group, size)).collect()
}

/// Lloyd's k-means from a start of consecutive groups: the cluster of each state.
///
/// `states` is `[s, d]` flattened; clusters are numbered by their first position, and every number
/// occurs.
fn cluster(states: &[f32], d: usize, clusters: usize, metric: ClusterMetric) -> Vec<usize> {
    /// The reference stops here; in practice it takes a few dozen rounds.
    const MAX_ROUNDS: usize = 1000;

    let rows: Vec<&[f32]> = states.chunks_exact(d.max(1)).collect();
    let groups = PoolingGroups::new(rows.len(), PoolingRate::Count(clusters.max(1)));
    let mut nearest = consecutive_groups(&groups);
    if clusters <= 1 || clusters >= rows.len() {
        return nearest;
    }
    let mut centroids = vec![0.0_f32; clusters * d];
    for _ in 0..MAX_ROUNDS {
        update_centroids(&mut centroids, &rows, &nearest);
        let next: Vec<_> = rows.iter().map(|row| nearest_centroid(row, &centroids, metric)).collect();
        if next == nearest {
            break;
        }
        nearest = next;
    }

    let mut numbers = vec![None; clusters];
    let mut next_number = 0..;
    let numbered = nearest
        .iter()
        .map(|&cluster| *numbers[cluster].get_or_insert_with(|| next_number.next().unwrap_or(usize::MAX)));
    numbered.collect()
}

/// Moves each centroid to the mean of its states; one without states stays.
fn update_centroids(centroids: &mut [f32], rows: &[&[f32]], nearest: &[usize]) {
    let d = rows.first().map_or(1, |row| row.len());
    for (number, centroid) in centroids.chunks_exact_mut(d).enumerate() {
        let members = || rows.iter().zip(nearest).filter(|&(_, &cluster)| cluster == number);
        let count = members().count();
        if count == 0 {
            continue;
        }
        centroid.fill(0.0);
        for (row, _) in members() {
            for (sum, value) in centroid.iter_mut().zip(*row) {
                *sum += value / count as f32;
            }
        }
    }
}

/// The most similar centroid, the first of them on a tie.
fn nearest_centroid(row: &[f32], centroids: &[f32], metric: ClusterMetric) -> usize {
    let similarity = |centroid: &[f32]| {
        let (mut dot, mut squared) = (0.0_f32, 0.0_f32);
        for (value, centre) in row.iter().zip(centroid) {
            dot += value * centre;
            squared += centre * centre;
        }
        match metric {
            // Minus the squared distance, less the row's own square, which all centroids share.
            ClusterMetric::Euclidean => 2.0 * dot - squared,
            ClusterMetric::Cosine => dot / squared.max(MIN_SQUARED_NORM).sqrt(),
        }
    };
    let mut best = (0, f32::NEG_INFINITY);
    for (number, centroid) in centroids.chunks_exact(row.len().max(1)).enumerate() {
        let similarity = similarity(centroid);
        if similarity > best.1 {
            best = (number, similarity);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    const KINDS: [PoolingKind; 4] =
        [PoolingKind::Mean, PoolingKind::Last, PoolingKind::Sum, PoolingKind::Fusion];
    const RATES: [PoolingRate; 6] = [
        PoolingRate::Off,
        PoolingRate::Whole,
        PoolingRate::Count(1),
        PoolingRate::Count(5),
        PoolingRate::Factor(2),
        PoolingRate::Factor(8),
    ];

    fn sizes(positions: usize, rate: i64) -> Vec<usize> {
        PoolingGroups::new(positions, PoolingRate::try_from(rate).unwrap()).sizes().to_vec()
    }

    #[test]
    fn a_factor_that_divides_makes_equal_groups() {
        assert_eq!(sizes(16, -4), [4; 4]);
        assert_eq!(sizes(8, -8), [8]);
        assert_eq!(sizes(6, -2), [2, 2, 2]);
    }

    #[test]
    fn a_remainder_makes_one_more_group_and_levels_the_sizes() {
        // The latent counts and sizes of the reference for its own test lengths.
        assert_eq!(sizes(37, -4), [4, 4, 4, 4, 4, 4, 4, 3, 3, 3]);
        assert_eq!(sizes(29, -4), [4, 4, 4, 4, 4, 3, 3, 3]);
        assert_eq!(sizes(18, -4), [4, 4, 4, 3, 3]);
        assert_eq!(sizes(7, -4), [4, 3]);
        assert_eq!(sizes(9, -8), [5, 4]);
    }

    #[test]
    fn fewer_positions_than_the_factor_are_one_group() {
        assert_eq!(sizes(3, -4), [3]);
        assert_eq!(sizes(1, -8), [1]);
    }

    #[test]
    fn a_count_makes_that_many_groups_or_one_each() {
        assert_eq!(sizes(16, 5), [4, 3, 3, 3, 3]);
        assert_eq!(sizes(5, 5), [1; 5]);
        assert_eq!(sizes(3, 5), [1; 3]);
        assert_eq!(sizes(9, 1), [9]);
    }

    #[test]
    fn zero_makes_one_group_minus_one_pools_nothing_and_nothing_has_no_groups() {
        assert_eq!(sizes(9, 0), [9]);
        assert_eq!(sizes(4, -1), [1; 4]);
        for rate in [-8, -1, 0, 5] {
            assert!(sizes(0, rate).is_empty());
        }
    }

    #[test]
    fn groups_cover_every_position_once_and_differ_by_one_at_most() {
        for rate in RATES {
            for positions in 1..100 {
                let groups = PoolingGroups::new(positions, rate);
                let covered: Vec<_> = groups.ranges().flatten().collect();
                assert_eq!(covered, (0..positions).collect::<Vec<_>>());
                let (first, last) = (groups.sizes()[0], groups.sizes()[groups.len() - 1]);
                assert!(last > 0 && first - last <= 1 && groups.sizes().is_sorted_by(|a, b| a >= b));
            }
        }
    }

    #[test]
    fn configuration_strings_survive_a_round_trip() {
        for name in [
            "mean",
            "last_pooled_queries",
            "sum",
            "fusion_pooled_queries",
            "metric_kmeans_cosine",
            "metric_kmeans_euclidean_pooled_queries",
        ] {
            assert_eq!(name.parse::<PoolType>().unwrap().to_string(), name);
        }
        let text = r#"{"pool_type":"mean_pooled_queries","where":"between"}"#;
        let pooling: Pooling = serde_json::from_str(text).unwrap();
        assert_eq!(pooling.place, PoolingPlace::Between);
        assert_eq!(serde_json::to_string(&pooling).unwrap(), text);
        let default: Pooling = serde_json::from_str("{}").unwrap();
        assert_eq!(default, Pooling::default());
        let rates: Vec<PoolingRate> = serde_json::from_str("[-8,-1,0,5]").unwrap();
        assert_eq!(serde_json::to_string(&rates).unwrap(), "[-8,-1,0,5]");
    }

    #[test]
    fn a_positive_rate_is_a_factor_where_similar_states_are_merged() {
        let rates = |name: &str| {
            let pooling = Pooling { pool_type: name.parse().unwrap(), place: PoolingPlace::Before };
            pooling.rates(&[1, 4, -4, 0, -1]).unwrap()
        };
        use PoolingRate::{Count, Factor, Off, Whole};
        assert_eq!(rates("metric_kmeans_cosine"), [Off, Factor(4), Factor(4), Whole, Off]);
        assert_eq!(rates("mean_pooled_queries"), [Count(1), Count(4), Factor(4), Whole, Off]);
    }

    #[test]
    fn an_unknown_pool_type_is_named_with_what_is_known() {
        let error = "median_pooled_queries".parse::<PoolType>().unwrap_err().to_string();
        assert!(error.contains("`median_pooled_queries`") && error.contains("`fusion`"), "{error}");
    }

    fn random(dims: [usize; 3], device: &Device) -> Tensor<3> {
        Tensor::random(dims, Distribution::Normal(0.0, 1.0), device)
    }

    fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
        tensor.to_data().convert::<f32>().try_into_vec().unwrap()
    }

    /// The definition, in f64, one sequence and one group at a time.
    fn by_definition(kind: PoolingKind, states: &[f32], d: usize, rate: PoolingRate) -> Vec<f64> {
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let rows: Vec<Vec<f64>> =
            states.chunks(d).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect();
        let pool = |rows: &[Vec<f64>]| -> Vec<f64> {
            let sum = |column: usize| rows.iter().map(|row| row[column]).sum::<f64>();
            let sums: Vec<f64> = (0..d).map(sum).collect();
            let means: Vec<f64> = sums.iter().map(|sum| sum / rows.len() as f64).collect();
            match kind {
                PoolingKind::Sum => sums,
                PoolingKind::Last => rows[rows.len() - 1].clone(),
                PoolingKind::Fusion => {
                    let largest = rows.iter().map(|row| norm(row)).fold(0.0, f64::max);
                    means.iter().map(|mean| mean * largest / norm(&means)).collect()
                }
                _ => means,
            }
        };
        if rate == PoolingRate::Off {
            return rows.concat();
        }
        let groups = PoolingGroups::new(rows.len(), rate);
        groups.ranges().flat_map(|range| pool(&rows[range])).collect()
    }

    #[test]
    fn every_kind_at_every_rate_is_what_its_definition_says_and_padding_does_not_reach_it() {
        let device = Device::flex();
        let (d, lengths) = (6, [1, 3, 13, 37, 16]);
        let states = random([lengths.len(), 37, d], &device);
        let all = values(&states);
        for kind in KINDS {
            for rate in RATES {
                let pooled = kind.pool(states.clone(), &lengths, rate);
                let n = pooled.states.dims()[1];
                let got = values(&pooled.states);
                for (row, &length) in lengths.iter().enumerate() {
                    let states = &all[row * 37 * d..][..length * d];
                    let expected = by_definition(kind, states, d, rate);
                    assert_eq!(expected.len(), pooled.lengths[row] * d, "{kind:?} {rate:?}");
                    let got = &got[row * n * d..][..n * d];
                    for (got, expected) in got.iter().zip(&expected) {
                        assert!((f64::from(*got) - expected).abs() < 1e-5, "{kind:?} {rate:?}");
                    }
                    if rate != PoolingRate::Off {
                        assert!(got[expected.len()..].iter().all(|x| *x == 0.0), "{kind:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_counted_is_what_is_made() {
        let device = Device::flex();
        let kinds = KINDS.into_iter().map(|kind| (kind, false));
        // Far from one another, so that no cluster ends up empty.
        let merging = [ClusterMetric::Euclidean, ClusterMetric::Cosine].map(PoolingKind::KMeans);
        for (kind, merges) in kinds.chain(merging.map(|kind| (kind, true))) {
            for length in [1, 3, 7, 11, 13, 37] {
                let states = match merges {
                    true => spread_states(length, &device),
                    false => random([1, length, 40], &device),
                };
                for rate in RATES {
                    let pooling = Pooling {
                        pool_type: PoolType { kind, queries_only: false },
                        place: PoolingPlace::Before,
                    };
                    let made = kind.pool(states.clone(), &[length], rate).lengths[0];
                    let counted = pooling.count(length, rate);
                    assert_eq!(counted, made, "{kind:?} {rate:?} of {length}");
                }
            }
        }
    }

    /// Each state along an axis of its own, `[1, s, 40]`.
    fn spread_states(s: usize, device: &Device) -> Tensor<3> {
        let mut values = vec![0.0; s * 40];
        (0..s).for_each(|row| values[row * 40 + row] = 1.0);
        Tensor::from_data(TensorData::new(values, [1, s, 40]), device)
    }

    #[test]
    fn gradients_agree_with_finite_differences_and_are_zero_on_padding() {
        const STEP: f32 = 1e-2;
        let device = Device::flex().autodiff();
        let (dims, lengths, rate) = ([2, 5, 3], [3, 5], PoolingRate::Factor(2));
        let states = random(dims, &device);
        let weights = random([2, 3, 3], &device);
        for kind in [PoolingKind::Mean, PoolingKind::Last, PoolingKind::Sum] {
            let loss = |states: Tensor<3>| (kind.pool(states, &lengths, rate).states * weights.clone()).sum();
            let leaf = Tensor::<3>::from_data(states.to_data(), &device).require_grad();
            let gradients = loss(leaf.clone()).backward();
            let gradient = values(&leaf.grad(&gradients).unwrap());
            let base = values(&states);
            for i in 0..base.len() {
                let at = |delta: f32| {
                    let mut moved = base.clone();
                    moved[i] += delta;
                    values(&loss(Tensor::from_data(TensorData::new(moved, dims), &device)))[0]
                };
                let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                assert!((gradient[i] - expected).abs() < 1e-3, "{kind:?} at {i}");
            }
            // Positions 3 and 4 of the first sequence are padding.
            assert!(gradient[9..15].iter().all(|x| *x == 0.0));
        }
    }

    #[test]
    fn fusion_keeps_the_largest_norm_out_of_the_gradient() {
        let device = Device::flex().autodiff();
        let states = random([1, 4, 3], &device);
        let leaf = Tensor::<3>::from_data(states.to_data(), &device).require_grad();
        let pooled = PoolingKind::Fusion.pool(leaf.clone(), &[4], PoolingRate::Whole).states;
        // The squared norm of the result is that of the longest state: a constant.
        let gradients = pooled.square().sum().backward();
        let gradient = values(&leaf.grad(&gradients).unwrap());
        assert!(gradient.iter().all(|x| x.abs() < 1e-4), "{gradient:?}");
    }

    #[test]
    fn fusion_has_a_finite_gradient_where_sequences_are_padded() {
        let device = Device::flex().autodiff();
        let leaf = random([2, 6, 3], &device).require_grad();
        let pooled = PoolingKind::Fusion.pool(leaf.clone(), &[1, 6], PoolingRate::Factor(2)).states;
        let gradients = (pooled * random([2, 3, 3], &device)).sum().backward();
        assert!(values(&leaf.grad(&gradients).unwrap()).iter().all(|x| x.is_finite()));
    }

    /// Two far apart bundles, interleaved: consecutive groups would mix them.
    fn interleaved_bundles(device: &Device) -> Tensor<3> {
        let rows = [[1.0, 0.1], [9.0, 9.1], [1.1, 0.0], [9.1, 9.0], [0.9, 0.1], [9.0, 9.2]];
        Tensor::from_data(TensorData::new(rows.concat(), [1, 6, 2]), device)
    }

    #[test]
    fn k_means_merges_similar_states_and_orders_clusters_by_first_position() {
        let device = Device::flex();
        for metric in [ClusterMetric::Euclidean, ClusterMetric::Cosine] {
            let kind = PoolingKind::KMeans(metric);
            let pooled = kind.pool(interleaved_bundles(&device), &[6], PoolingRate::Factor(3));
            assert_eq!(pooled.lengths, [2]);
            let expected = [1.0, 0.2 / 3.0, 27.1 / 3.0, 27.3 / 3.0];
            for (got, expected) in values(&pooled.states).iter().zip(expected) {
                assert!((got - expected).abs() < 1e-5, "{metric:?} {got} {expected}");
            }
        }
    }

    #[test]
    fn k_means_never_gets_worse_than_its_start() {
        let (s, d, clusters) = (40, 4, 5);
        let states = values(&random([1, s, d], &Device::flex()));
        let rows: Vec<&[f32]> = states.chunks(d).collect();
        let spread = |groups: &[usize]| {
            let mut centroids = vec![0.0; clusters * d];
            update_centroids(&mut centroids, &rows, groups);
            let distances = rows.iter().zip(groups).map(|(row, &group)| {
                let centroid = &centroids[group * d..][..d];
                row.iter().zip(centroid).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()
            });
            distances.sum::<f32>()
        };
        let start = consecutive_groups(&PoolingGroups::new(s, PoolingRate::Count(clusters)));
        let found = cluster(&states, d, clusters, ClusterMetric::Euclidean);
        assert!(spread(&found) < spread(&start));
        assert_eq!(found[0], 0);
    }

    #[test]
    fn k_means_rounds_the_number_of_clusters_down_and_leaves_short_sequences_alone() {
        let device = Device::flex();
        let states = random([2, 11, 4], &device);
        let kind = PoolingKind::KMeans(ClusterMetric::Euclidean);
        let pooled = kind.pool(states.clone(), &[11, 3], PoolingRate::Factor(4));
        assert!(pooled.lengths[0] <= 2);
        assert_eq!(pooled.lengths[1], 3);
        let (before, after) = (values(&states), values(&pooled.states));
        let n = pooled.states.dims()[1];
        assert_eq!(before[11 * 4..][..3 * 4], after[n * 4..][..3 * 4]);
    }
}
