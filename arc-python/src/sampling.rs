//! How answers are written: the keyword arguments of `ask` and `generate`.

use arc_core::decoder::GenerateOptions;
use arc_core::{Error, Result};
use arc_encoder::Sampling;

/// The keyword arguments that say how to write: those of the command line, and one that it has for documents alone.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) sampling: Sampling,
    pub(crate) answer_ends: Option<String>,
}

impl Writing {
    /// As options of `arc-core`, checked.
    pub(crate) fn options(self) -> Result<GenerateOptions> {
        let answer_ends = self.answer_ends.map(|text| {
            text.parse().map_err(|expected| Error::InvalidValue {
                what: "answer_ends".into(),
                found: text,
                expected,
            })
        });
        Ok(self.sampling.options()?.answer_ends(answer_ends.transpose()?))
    }
}
