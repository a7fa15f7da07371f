//! What a decoder has read of a prompt: kept in memory for the next question, and in a file for the next process.

use std::io::Write;
use std::path::Path;

use arc_adapters::{hexadecimal, sha256_hex};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Decoder, KvCache};
use crate::host::InstructionSet;
use crate::prompt::Prompt;
use crate::weights::{SafetensorsFile, TensorSource as _};
use crate::{Error, Result};

/// The file's only tensor, `[layers, 2, g, n, k]`: keys and values of `n` positions, per layer and group of heads.
const TENSOR: &str = "keys_and_values";

/// What several prompts begin with, read once: see [`Decoder::read_prefix`].
#[derive(Debug)]
pub struct Prefix {
    pub(super) cache: KvCache,
    pub(super) token_ids: Vec<u32>,
}

impl Prefix {
    /// The number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Writes keys and values as safetensors, with their sha256; `decoder` is whose they are. Returns whether there
    /// was something to write: a decoder in burn keeps them on its device.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], which calls the file `path`.
    pub(crate) fn write(&self, file: &mut impl Write, path: &Path, decoder: &str) -> Result<bool> {
        let Some((filled, pieces)) = self.cache.filled() else { return Ok(false) };
        let mut digest = Sha256::new();
        pieces.for_each(|piece| digest.update(piece));
        let bytes = filled.dtype.bytes_of_shape(&filled.shape).expect("they are in memory");
        let mut header = json!({
            "__metadata__": {
                "decoder": decoder,
                "positions": self.len().to_string(),
                "sha256": hexadecimal(&digest.finalize()),
            },
            TENSOR: { "dtype": filled.dtype.to_string(), "shape": filled.shape, "data_offsets": [0, bytes] },
        })
        .to_string();
        // Data begins at a multiple of 8, as in every safetensors file.
        let length = header.len().next_multiple_of(8);
        header.extend(std::iter::repeat_n(' ', length - header.len()));
        let written = file.write_all(&(length as u64).to_le_bytes()).and_then(|()| {
            file.write_all(header.as_bytes())?;
            let (_, mut pieces) = self.cache.filled().expect("as before");
            pieces.try_for_each(|piece| file.write_all(piece))
        });
        written.map_err(Error::io("write", path))?;
        Ok(true)
    }
}

/// Whose keys and values a file has, and of how many positions, by what it says of itself.
pub(crate) fn described(path: &Path) -> Option<(String, usize)> {
    let file = SafetensorsFile::open(path).ok()?;
    Some((file.meta("decoder")?.to_owned(), file.meta("positions")?.parse().ok()?))
}

impl Decoder {
    /// What keys and values of a prompt depend on, in one digest: the model's content, how its products are computed,
    /// and all that is read. `None` where that is not known: for a model that is not pinned, or in burn.
    pub(crate) fn prefix_key(&self, prompt: &Prompt) -> Option<String> {
        let precision = self.network.host()?.precision().name();
        let content = &self.known_content.as_ref()?.sha256;
        let (set, version) = (InstructionSet::best().name(), env!("CARGO_PKG_VERSION"));
        let unscaled = self.settings.unscaled_rope;
        let key = json!([content, unscaled, precision, set, version, prompt.sha256()]).to_string();
        Some(sha256_hex(key.as_bytes()))
    }

    /// What a file of [`Prefix::write`] has of a prompt that this decoder has read.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::InvalidFile`] if it is damaged, or of another prompt or decoder by its shape.
    pub(crate) fn prefix_in(&self, path: &Path, prompt: &Prompt) -> Result<Prefix> {
        let invalid = |reason: &str| Error::InvalidFile {
            path: path.to_owned(),
            format: "keys and values",
            reason: reason.to_owned(),
        };
        let file = SafetensorsFile::open(path)?;
        let tensor = file.tensor(TENSOR)?;
        let host = self.network.host().ok_or_else(|| invalid("the decoder is in burn"))?;
        let attention = self.network.config().block.attention;
        let heads = [attention.n_kv_heads, attention.head_dim];
        let (mut cache, expected) = KvCache::to_fill(host.layers(), prompt.len(), heads, host.precision());
        if tensor.shape() != expected.shape || tensor.dtype() != expected.dtype {
            return Err(invalid("it is of another shape"));
        }
        if file.meta("sha256") != Some(hexadecimal(&Sha256::digest(&**tensor.bytes())).as_str()) {
            return Err(invalid("it does not have the digest that it states"));
        }
        cache.fill(&expected, tensor.bytes());
        Ok(Prefix { cache, token_ids: prompt.token_ids() })
    }
}
