//! Documents as they lie around: text of plain files, Markdown, HTML, PDF, DOCX and JSONL, from files,
//! folders, patterns and standard input.
//!
//! ```no_run
//! let reader = arc_documents::Reader::default();
//! for document in reader.documents(&["notes", "papers/*.pdf"])? {
//!     let document = document?;
//!     println!("{}: {} bytes", document.name, document.text.len());
//! }
//! # Ok::<(), arc_documents::Error>(())
//! ```
//!
//! What a file is follows from its first bytes, else from its name. Whatever is in it, reading is bounded: no
//! more of a file than [`MAX_DOCUMENT_BYTES`] is read, and as much of what it unpacks to.

mod document;
#[cfg(feature = "docx")]
mod docx;
mod error;
mod format;
#[cfg(feature = "html")]
mod html;
mod json_lines;
#[cfg(feature = "pdf")]
mod pdf;
mod plain;
mod reader;
mod sources;

pub use document::Document;
pub use error::{Error, Result};
pub use format::Format;
pub use plain::{Refusal, text_of};
pub use reader::{Documents, MAX_DOCUMENT_BYTES, Reader, STDIN_NAME};
pub use sources::{Source, expand, expand_also};
