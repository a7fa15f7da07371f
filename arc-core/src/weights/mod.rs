//! Weights as files store them: GGUF, safetensors and Hugging Face folders, mapped and never copied whole.
//!
//! A [`TensorSource`] finds tensors by name. A [`RawTensor`] is a named, shaped view of the mapped
//! bytes; [`RawTensor::to_f32`] copies it out, and a
//! [`PackedMatrix`](crate::host::PackedMatrix) multiplies by it as it lies.
//! Shapes are outermost dimension first everywhere: a linear layer's weight is `[d_out, d_in]`.
//!
//! No burn type appears here.

mod arc_layout;
pub(crate) mod eight_bit_blocks;
pub(crate) mod foreign_format;
mod gguf;
mod hf_folder;
mod mapped_bytes;
mod meta_folder;
mod part_name;
mod quantisation;
mod raw_tensor;
mod safetensors_file;
mod tensor_names;
mod tensor_source;
mod text_tensors;

pub(crate) use arc_layout::write_tensors;
pub use arc_layout::{
    ArcCheckpoint, ArcConfig, BridgeArgs, BridgeType, EmbedderArgs, PoolingArgs, ProjectorTensors, Special,
    TrainingSources, write_released,
};
pub use eight_bit_blocks::EIGHT_BIT_BLOCK;
pub use gguf::{GgufFile, GgufValue};
pub use hf_folder::HfFolder;
pub use mapped_bytes::MappedBytes;
pub use meta_folder::{MetaFolder, ModelArgs};
pub(crate) use part_name::PartName;
pub use quantisation::StorageType;
pub use raw_tensor::RawTensor;
pub use safetensors_file::SafetensorsFile;
pub use tensor_names::TensorNames;
pub use tensor_source::TensorSource;
