//! Documents as they go into a store and as they come out of it.

/// A document to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDocument {
    /// What it is known by in the store; another document of this id replaces it.
    pub id: String,
    /// Its title, where it has one.
    pub title: Option<String>,
    /// Where it came from.
    pub source_uri: Option<String>,
    /// The sha256 of its text, hexadecimal.
    pub source_sha256: String,
    /// How many tokens a latent stands for, at most.
    pub factor: u32,
    /// Its chunks, in order; there is at least one.
    pub chunks: Vec<NewChunk>,
}

/// A chunk to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewChunk {
    /// How many encoder tokens it has.
    pub tokens: u32,
    /// Its latents, `[n, d_encoder]`, row by row.
    pub latents: Vec<f32>,
    /// Its text. A store that keeps no text drops it.
    pub text: Option<String>,
}

/// A document of a store, without its latents.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DocumentSummary {
    /// What it is known by.
    pub id: String,
    /// Its title, where it has one.
    pub title: Option<String>,
    /// Where it came from.
    pub source_uri: Option<String>,
    /// The sha256 of its text, hexadecimal.
    pub source_sha256: String,
    /// How many tokens a latent stands for, at most.
    pub factor: u32,
    /// When it was stored, in milliseconds since 1970 (UTC).
    pub added_unix_ms: u64,
    /// How many chunks it has.
    pub chunks: u64,
    /// How many encoder tokens they have together.
    pub tokens: u64,
    /// How many latents they have together.
    pub latents: u64,
}

/// A document of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDocument {
    /// What is known of it.
    pub summary: DocumentSummary,
    /// Its chunks, in order.
    pub chunks: Vec<StoredChunk>,
}

/// A chunk of a stored document.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredChunk {
    /// How many encoder tokens it has.
    pub tokens: u32,
    /// Its latents, `[n, d_encoder]`, row by row: as near to what was stored as the store's code is.
    pub latents: Vec<f32>,
    /// Its text, where the store keeps it.
    pub text: Option<String>,
}

impl StoredDocument {
    /// The latents of all chunks, one after the other, `[n, d_encoder]`.
    #[must_use]
    pub fn latents(&self) -> Vec<f32> {
        self.chunks.iter().flat_map(|chunk| &chunk.latents).copied().collect()
    }

    /// The text of all chunks, where the store keeps it.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.chunks.iter().map(|chunk| chunk.text.as_deref()).collect()
    }
}
