//! The shared encoder: text in, latents out, the same for every decoder.

mod arc_encoder;
mod compression;
mod forward;
mod latents;
mod latents_file;
mod network;
mod package;
mod pooling;
mod rarity;
mod released;
mod trained_weights;

pub use arc_adapters::PoolingPlace;
pub use arc_encoder::{ArcEncoder, ArcEncoderConfig, EncodedBatch};
pub use compression::TokenisedText;
pub use latents::Latents;
pub use latents_file::{LatentsDescription, LatentsFile, LatentsType, LatentsWriter};
pub use network::{EncoderNetwork, HostEncoder};
pub(crate) use package::{CHUNKS_AT_ONCE, encoder_config, layers_of_package};
pub use package::{CompressOptions, Encoder, encoder_id, factor_of_package};
pub use pooling::{ClusterMetric, PoolType, Pooled, Pooling, PoolingGroups, PoolingKind, PoolingRate};
pub use rarity::TokenRarity;
pub use released::special_vector;
pub(crate) use released::{pooling, projector_spec};
pub(crate) use trained_weights::MEMORY_TENSOR;
pub use trained_weights::package_tensor_name;
