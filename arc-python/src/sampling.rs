//! How answers are written: the keyword arguments of `ask` and `generate`.

use arc_adapters::AnswerEnd;
use arc_core::decoder::GenerateOptions;
use arc_core::sampling::SamplingOptions;
use arc_core::{Error, Result};

/// The keyword arguments that say how to write.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) max_tokens: usize,
    pub(crate) temperature: f32,
    pub(crate) top_k: usize,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) repetition_penalty: f32,
    pub(crate) seed: u64,
    pub(crate) stop: Vec<String>,
    pub(crate) answer_ends: Option<String>,
}

impl Writing {
    /// As options of `arc-core`, checked.
    pub(crate) fn options(self) -> Result<GenerateOptions> {
        let answer_ends = match self.answer_ends.as_deref() {
            None => None,
            Some("model") => Some(AnswerEnd::Model),
            Some("line") => Some(AnswerEnd::Line),
            Some(other) => {
                return Err(Error::InvalidValue {
                    what: "answer_ends".into(),
                    found: other.to_owned(),
                    expected: "`model` or `line`".into(),
                });
            }
        };
        let sampling = SamplingOptions::default()
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .seed(self.seed);
        let options = GenerateOptions::default()
            .max_tokens(self.max_tokens)
            .sampling(sampling)
            .stop(self.stop)
            .answer_ends(answer_ends);
        options.check()?;
        Ok(options)
    }
}
