//! Groups that end at rare words, so that what a text says that others do not has latents of its own.
//!
//! The paper's groups are of equal size. In running text most of the information is in few words: names,
//! numbers, what the text is about. Here a sequence is cut into as many groups as it would be, behind its
//! rarest words. With [`PoolingKind::Last`](super::PoolingKind::Last) the latent of a group grows from the
//! state of such a word; the commoner words before it reach it by attention.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;

use super::PoolingGroups;
use crate::tokenizer::Tokenizer;
use crate::weights::{RawTensor, SafetensorsFile, StorageType, TensorSource as _, write_tensors};
use crate::{Error, Result};

/// The self-information of each token, nats, `[vocabulary]`.
const NATS: &str = "nats";
/// 1 for a token that goes on with the word before it, `[vocabulary]`.
const JOINS: &str = "joins";

/// How rare each token of an encoder's vocabulary is, whatever stands around it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRarity {
    nats: Vec<f16>,
    joins: Vec<bool>,
}

impl TokenRarity {
    /// The self-information of each token, nats, rounded to 16 bits, and whether it goes on with the word
    /// before it.
    #[must_use]
    pub fn new(nats: impl IntoIterator<Item = f32>, joins: Vec<bool>) -> Self {
        Self { nats: nats.into_iter().map(f16::from_f32).collect(), joins }
    }

    /// The rarity of the tokens below `vocabulary` by how often each id occurs in a text. One that never
    /// does counts as half an occurrence.
    #[must_use]
    pub fn of_text(ids: impl Iterator<Item = u32>, vocabulary: usize, tokenizer: &Tokenizer) -> Self {
        let mut counts = vec![0_u64; vocabulary];
        for id in ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        let total: u64 = counts.iter().sum::<u64>().max(1);
        let nats = |&count: &u64| -((count as f64).max(0.5) / total as f64).ln() as f32;
        // Letters of alphabets that take two bytes, and later bytes of any; what takes three is most often a
        // script without spaces, or punctuation.
        let goes_on = |bytes: &[u8]| {
            bytes.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || (0x80..0xe0).contains(byte))
        };
        let joins = (0..counts.len() as u32).map(|id| goes_on(tokenizer.token_bytes(id))).collect();
        Self::new(counts.iter().map(nats), joins)
    }

    /// The groups of a sequence, as many as groups of equal size would be. The last one ends with the
    /// sequence, the others with the rarest words' tokens.
    ///
    /// A word is worth the information of its tokens by the root of their number; each of its tokens
    /// counts as much as the word, so that a word is kept whole.
    #[must_use]
    pub fn groups(&self, ids: &[u32], groups: usize) -> PoolingGroups {
        let Some(last) = ids.len().checked_sub(1) else { return PoolingGroups::ending_at(&[]) };
        let mut ends = self.rarest_below(last, ids, groups.saturating_sub(1));
        ends.push(last);
        PoolingGroups::ending_at(&ends)
    }

    /// The places of so many tokens of a sequence, those of its rarest words, in their order.
    #[must_use]
    pub fn rarest(&self, ids: &[u32], count: usize) -> Vec<usize> {
        self.rarest_below(ids.len(), ids, count)
    }

    fn rarest_below(&self, end: usize, ids: &[u32], count: usize) -> Vec<usize> {
        let worth = self.worth(ids);
        let mut places: Vec<usize> = (0..end).collect();
        // Stable: of equal ones the earlier.
        places.sort_by(|&a, &b| worth[b].total_cmp(&worth[a]));
        places.truncate(count);
        places.sort_unstable();
        places
    }

    fn worth(&self, ids: &[u32]) -> Vec<f32> {
        let mut worth = Vec::with_capacity(ids.len());
        while worth.len() < ids.len() {
            let rest = &ids[worth.len()..];
            let joined =
                rest[1..].iter().take_while(|&&id| self.joins.get(id as usize) == Some(&true)).count();
            let word = &rest[..1 + joined];
            let nats = |&id: &u32| self.nats.get(id as usize).map_or(0.0, |nats| nats.to_f32());
            let value = word.iter().map(nats).sum::<f32>() / (word.len() as f32).sqrt();
            worth.extend(std::iter::repeat_n(value, word.len()));
        }
        worth
    }

    /// Reads the file of a package.
    pub(super) fn open(path: &Path, vocabulary: usize) -> Result<Self> {
        let file = SafetensorsFile::open(path)?;
        let read = |name: &str| -> Result<Vec<f32>> {
            let tensor = file.tensor(name)?;
            tensor.expect_shape(&[vocabulary])?;
            Ok(tensor.to_f32())
        };
        let nats = read(NATS)?;
        if let Some(value) = nats.iter().find(|value| !value.is_finite()) {
            return Err(Error::InvalidFile {
                path: path.to_owned(),
                format: "token rarity",
                reason: format!("`{NATS}` has a value of {value}"),
            });
        }
        let joins = read(JOINS)?.into_iter().map(|value| value != 0.0).collect();
        Ok(Self::new(nats, joins))
    }

    /// Writes the file of a package.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let tensor = |name: &str, values: &[f16]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            RawTensor::new(name, StorageType::F16, vec![values.len()], bytes.into(), path.to_owned())
        };
        let joins: Vec<f16> =
            self.joins.iter().map(|&joins| if joins { f16::ONE } else { f16::ZERO }).collect();
        let tensors = [tensor(NATS, &self.nats)?, tensor(JOINS, &joins)?];
        write_tensors(path, &tensors, &BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Token 0 is common, 1 and 2 are rare, 3 goes on with a word.
    fn rarity() -> TokenRarity {
        TokenRarity::new([1.0, 8.0, 9.0, 4.0], vec![false, false, false, true])
    }

    fn sizes(ids: &[u32], groups: usize) -> Vec<usize> {
        rarity().groups(ids, groups).sizes().to_vec()
    }

    #[test]
    fn groups_end_at_the_rarest_words_and_with_the_sequence() {
        assert_eq!(sizes(&[0, 1, 0, 0, 2, 0], 3), [2, 3, 1]);
        assert_eq!(sizes(&[0, 1, 0, 0, 2, 0], 2), [5, 1], "the rarer of the two");
        assert_eq!(sizes(&[0, 0, 1, 0, 2], 2), [3, 2], "the last is a rare one itself");
        assert_eq!(sizes(&[0, 0, 0, 0], 2), [1, 3], "of equal ones the first");
    }

    #[test]
    fn a_word_of_several_tokens_is_worth_more_than_each_of_them_and_is_kept_whole() {
        // (4 + 8) / sqrt 2 is more than 8, and less than 9.
        assert_eq!(sizes(&[1, 0, 1, 3, 0], 3), [3, 1, 1]);
        assert_eq!(sizes(&[2, 0, 1, 3, 0], 2), [1, 4]);
        assert_eq!(sizes(&[3, 0, 0], 2), [1, 2], "what nothing stands before begins a word");
    }

    #[test]
    fn there_are_as_many_groups_as_asked_for_and_they_cover_the_sequence() {
        for n in 0..20 {
            let ids: Vec<u32> = (0..n).map(|i| (i * i + 1) % 4).collect();
            for groups in 1..=ids.len() {
                let sizes = sizes(&ids, groups);
                assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (groups, ids.len()));
                assert!(sizes.iter().all(|&size| size > 0));
            }
        }
        assert!(sizes(&[], 0).is_empty());
    }

    #[test]
    fn a_file_gives_back_what_was_written_and_another_vocabulary_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rarity.safetensors");
        rarity().write(&path).unwrap();
        assert_eq!(TokenRarity::open(&path, 4).unwrap(), rarity());
        let error = TokenRarity::open(&path, 5).unwrap_err().to_string();
        assert!(error.contains("`nats`"), "{error}");
        TokenRarity::new([1.0, f32::INFINITY], vec![false; 2]).write(&path).unwrap();
        let error = TokenRarity::open(&path, 2).unwrap_err().to_string();
        assert!(error.contains("inf"), "{error}");
    }
}
