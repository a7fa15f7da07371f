//! Documents and a decoder's window: whether all latents have room in it, and which chunks are taken where
//! they have not.

use std::borrow::Cow;
use std::cell::OnceCell;

use arc_core::encoder::{Encoder, Latents, LatentsFile};
use arc_core::nearest_chunks::nearest_chunks;
use serde_json::{Value, json};

use super::compressor::{Compression, Compressor};
use super::documents::{Content, Named};
use crate::Failure;

/// Compressed documents that are asked about together.
pub(super) struct Shelf {
    documents: Vec<Shelved>,
    chunks: OnceCell<Chunks>,
}

/// A document on the shelf.
pub(super) struct Shelved {
    pub(super) name: String,
    pub(super) latents: LatentsFile,
    /// Its text, where it is known.
    pub(super) text: Option<String>,
    /// The same in the encoder's tokens, where it was compressed just now.
    token_ids: Option<Vec<u32>>,
}

/// What chunks are chosen by.
struct Chunks {
    /// The document and the chunk in it.
    places: Vec<(usize, usize)>,
    pooled: Vec<Vec<f32>>,
    /// As many as places, or none where a document's text is not known.
    texts: Vec<String>,
}

/// What is taken of the documents.
pub(super) enum Taken {
    All,
    /// These chunks of each document, ascending.
    Nearest {
        chunks: Vec<Vec<usize>>,
        of: usize,
    },
}

impl Taken {
    /// How the answer's JSON says it.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::All => Value::Null,
            Self::Nearest { chunks, of } => {
                json!({ "chunks": chunks.iter().map(Vec::len).sum::<usize>(), "of": of, "by_document": chunks })
            }
        }
    }
}

impl Shelf {
    /// Documents as they are where they are compressed, else compressed now; texts are left out where nobody
    /// compresses. Returns how long compressing took, too, if any had to be.
    pub(super) fn of(
        documents: &[Named],
        compression: Option<&Compression>,
        compressor: &Compressor<'_>,
    ) -> Result<(Self, Option<f64>), Failure> {
        let (mut shelved, mut seconds) = (Vec::new(), None);
        for document in documents {
            let (latents, text, token_ids) = match (&document.content, compression) {
                (Content::Latents(file), _) => (file.clone(), None, None),
                (Content::Text(text), Some(compression)) => {
                    let compressed = compressor.compress(&document.name, text, compression)?;
                    if let Some(took) = compressed.seconds {
                        seconds = Some(seconds.unwrap_or(0.0) + took);
                    }
                    (compressed.latents, Some(text.clone()), compressed.token_ids)
                }
                (Content::Text(_), None) => continue,
            };
            shelved.push(Shelved { name: document.name.clone(), latents, text, token_ids });
        }
        Ok((Self { documents: shelved, chunks: OnceCell::new() }, seconds))
    }

    pub(super) fn documents(&self) -> &[Shelved] {
        &self.documents
    }

    /// All latents of all documents.
    pub(super) fn latents(&self) -> usize {
        self.documents.iter().map(|document| document.latents.len()).sum()
    }

    /// All encoder tokens.
    pub(super) fn tokens(&self) -> usize {
        self.documents.iter().map(|document| document.latents.description().source_tokens).sum()
    }

    fn chunk_count(&self) -> usize {
        self.documents.iter().map(|document| document.latents.description().chunk_lengths.len()).sum()
    }

    /// What is taken of the documents for a question, where `room` positions are left for them and each takes
    /// `extra` of its own: all of them if they fit and no `top` says otherwise, else the chunks nearest to the
    /// question, of which `top` at most.
    pub(super) fn take(
        &self,
        question: &str,
        (room, extra): (usize, usize),
        top: Option<usize>,
        encoder: impl FnOnce() -> Result<(std::sync::Arc<Encoder>, Compression), Failure>,
    ) -> Result<Taken, Failure> {
        let needed = self.latents() + extra * self.documents.len();
        if needed <= room && top.is_none_or(|top| top >= self.chunk_count()) {
            return Ok(Taken::All);
        }
        let (encoder, compression) = encoder()?;
        let chunks = self.chunks(&encoder)?;
        let asked = encoder.compress(question, compression.options())?;
        let [n, _] = asked.values.dims();
        let pooled = asked.values.sum_dim(0).div_scalar(n as f32).into_data().convert::<f32>();
        let pooled = pooled.as_slice::<f32>().expect("converted to f32");
        let nearest = nearest_chunks((pooled, question), &chunks.pooled, &chunks.texts);
        let mut taken: Vec<Vec<usize>> = vec![Vec::new(); self.documents.len()];
        let (mut left, mut count) = (room, 0);
        for (document, chunk) in nearest.into_iter().map(|place| chunks.places[place]) {
            let length = self.documents[document].latents.description().chunk_lengths[chunk];
            let needed = length + if taken[document].is_empty() { extra } else { 0 };
            // The last chunk of a text may be short, and fit where no whole one does.
            if needed <= left {
                taken[document].push(chunk);
                (left, count) = (left - needed, count + 1);
            }
            if top.is_some_and(|top| count >= top) {
                break;
            }
        }
        if count == 0 {
            return Err(Failure::failed(
                format!("not one chunk of the documents fits: there is room for {room} positions"),
                "ask with a larger `--factor`, a shorter question, or fewer `--max-tokens`",
            ));
        }
        taken.iter_mut().for_each(|chunks| chunks.sort_unstable());
        Ok(Taken::Nearest { chunks: taken, of: self.chunk_count() })
    }

    /// The latents of what was taken: of each document that has some.
    pub(super) fn read(
        &self,
        taken: &Taken,
        device: &arc_core::burn::tensor::Device,
    ) -> Result<Vec<Latents>, Failure> {
        let documents = self.documents.iter().map(|document| &document.latents);
        match taken {
            // They were verified when they were opened.
            Taken::All => documents
                .map(|latents| {
                    let all: Vec<usize> = (0..latents.description().chunk_lengths.len()).collect();
                    Ok(latents.read_chunks(&all, device)?)
                })
                .collect(),
            Taken::Nearest { chunks, .. } => documents
                .zip(chunks)
                .filter(|(_, chunks)| !chunks.is_empty())
                .map(|(latents, chunks)| Ok(latents.read_chunks(chunks, device)?))
                .collect(),
        }
    }

    /// Made once, however many questions there are.
    fn chunks(&self, encoder: &Encoder) -> Result<&Chunks, Failure> {
        if let Some(chunks) = self.chunks.get() {
            return Ok(chunks);
        }
        let (mut places, mut pooled, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for (place, document) in self.documents.iter().enumerate() {
            let lengths = &document.latents.description().chunk_lengths;
            places.extend((0..lengths.len()).map(|chunk| (place, chunk)));
            pooled.extend(document.latents.pooled()?);
            if let Some(text) = &document.text {
                let ids = match &document.token_ids {
                    Some(ids) => Cow::Borrowed(ids.as_slice()),
                    None => Cow::Owned(encoder.tokenise(text)?.ids),
                };
                let chunks = ids.chunks(encoder.chunk_tokens());
                texts.extend(chunks.map(|ids| encoder.tokenizer.decode(ids, true)));
            }
        }
        if texts.len() != places.len() {
            texts.clear();
        }
        Ok(self.chunks.get_or_init(|| Chunks { places, pooled, texts }))
    }
}

/// A line about documents that do not fit, before anything is compressed: how much there is, how much there is
/// room for, and what would fit.
pub(super) fn does_not_fit(
    decoder: &str,
    (latents, tokens): (usize, usize),
    room: usize,
    factor: Option<usize>,
) -> String {
    let enough = factor.and_then(|_| (1..=4096).find(|&factor| tokens.div_ceil(factor) < room));
    let larger = match (factor, enough) {
        (Some(factor), Some(enough)) if enough > factor && enough <= 16 => {
            format!("; with `--factor {enough}` all of it would fit")
        }
        _ => String::new(),
    };
    format!(
        "{tokens} tokens make {latents} latents, and the window of `{decoder}` has room for {room} of them: the \
         chunks nearest to each question are read{larger}"
    )
}
