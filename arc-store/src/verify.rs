//! Reading everything once, to see that it is as it was written.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use sha2::{Digest as _, Sha256};

use crate::Result;
use crate::manifest::{Manifest, Segment};
use crate::segment::hex;
use crate::store::Store;

/// Bytes that are read at once.
const PIECE: u64 = 8 << 20;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Segments that were read.
    pub segments: u64,
    /// Documents in them, those that were removed left out.
    pub documents: u64,
    /// Chunks, those of documents that were removed included.
    pub rows: u64,
    /// What is wrong, file by file.
    pub problems: Vec<Problem>,
    /// Segments that no manifest names: of writers that were interrupted, or are about to commit. They
    /// are no part of the store.
    pub unnamed: Vec<String>,
}

/// Something that is wrong with a file of a store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file, by its name in the store.
    pub file: String,
    /// What was found, and what was expected.
    pub reason: String,
    /// Documents that cannot be relied on with it.
    pub documents: u64,
}

impl Store {
    /// Reads all segments to their end: sizes, hashes, rows, checksums, ids that come twice, and what the
    /// manifest says of each. `progress` is called after each segment with how many were read.
    ///
    /// # Errors
    ///
    /// Where the place cannot be listed or the manifest not be read. What is wrong with a segment is among
    /// the problems.
    pub fn verify(&self, mut progress: impl FnMut(usize)) -> Result<Verified> {
        let unnamed = self.unnamed()?.into_iter().map(|file| file.name).collect();
        let manifest = self.manifest();
        let mut verified = Verified { unnamed, ..Verified::default() };
        if let Some(codebooks) = &manifest.codebooks {
            let checked = self.sha256_of(&codebooks.file).and_then(|sha256| {
                self.quantiser(&codebooks.file)?;
                Ok(sha256)
            });
            let reason = match checked {
                Ok(sha256) if sha256 == codebooks.sha256 => None,
                Ok(sha256) => Some(format!("its sha256 is {sha256}, the manifest says {}", codebooks.sha256)),
                Err(error) => Some(error.to_string()),
            };
            let of = |segment: &&Segment| segment.codebooks.as_ref() == Some(&codebooks.file);
            let documents = manifest.segments.iter().filter(of).map(Segment::live_documents).sum();
            verified.problems.extend(reason.map(|reason| Problem {
                file: codebooks.file.clone(),
                reason,
                documents,
            }));
        }
        // A hash for each id in place of the id: so many documents have two alike with a chance of 1 in
        // 10^7 for a million, and those are compared by their names.
        let hasher = RandomState::new();
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for (index, segment) in manifest.segments.iter().enumerate() {
            let documents = segment.live_documents();
            let mut problem = |reason: String| {
                verified.problems.push(Problem { file: segment.file.clone(), reason, documents });
            };
            match self.verify_segment(segment, &manifest, |id| seen.insert(hasher.hash_one(id), index as u32))
            {
                Ok(twice) => {
                    for (id, earlier) in twice {
                        let other = &manifest.segments[earlier as usize];
                        let there = !other.removed.contains(&id)
                            && self
                                .open_segment(other)
                                .and_then(|open| open.find(&id))
                                .is_ok_and(|f| f.is_some());
                        if there {
                            problem(format!("document `{id}` is in `{}` too", other.file));
                        }
                    }
                }
                Err(error) => problem(error.to_string()),
            }
            verified.segments += 1;
            verified.documents += documents;
            verified.rows += segment.rows;
            progress(index + 1);
        }
        Ok(verified)
    }

    /// Reads a segment; returns ids that `see` had seen before, with where.
    fn verify_segment(
        &self,
        segment: &Segment,
        manifest: &Manifest,
        mut see: impl FnMut(&str) -> Option<u32>,
    ) -> Result<Vec<(String, u32)>> {
        let damaged =
            |reason: String| crate::Error::Damaged { file: self.place.full_name(&segment.file), reason };
        let open = self.open_segment(segment)?;
        let sha256 = self.sha256_of(&segment.file)?;
        if sha256 != segment.sha256 {
            return Err(damaged(format!("its sha256 is {sha256}, the manifest says {}", segment.sha256)));
        }
        let mut twice = Vec::new();
        let (mut documents, mut removed, mut tokens, mut latents) = (0, 0, 0, 0);
        let (mut first, mut last) = (None, None);
        self.with_coder(segment, |coder| {
            open.check(coder, manifest.settings.d_encoder, |summary| {
                documents += 1;
                tokens += summary.tokens;
                latents += summary.latents;
                if segment.removed.contains(&summary.id) {
                    removed += 1;
                } else if let Some(earlier) = see(&summary.id) {
                    twice.push((summary.id.clone(), earlier));
                }
                first.get_or_insert_with(|| summary.id.clone());
                last = Some(summary.id);
                Ok(())
            })
        })?;
        let found = [documents, removed, tokens, latents];
        let expected =
            [segment.documents, segment.removed.len() as u64, segment.tokens, segment.latent_count];
        if found != expected {
            return Err(damaged(format!(
                "it has {found:?} documents, removed ones, tokens and latents, its manifest says {expected:?}"
            )));
        }
        if first.as_ref() != Some(&segment.first_id) || last.as_ref() != Some(&segment.last_id) {
            return Err(damaged("its first and last ids are not those that its manifest says".into()));
        }
        Ok(twice)
    }

    fn sha256_of(&self, file: &str) -> Result<String> {
        let size = self.place.size(file)?;
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < size {
            let end = size.min(at + PIECE);
            hasher.update(self.place.read_range(file, at..end)?);
            at = end;
        }
        Ok(hex(&hasher.finalize()))
    }
}
