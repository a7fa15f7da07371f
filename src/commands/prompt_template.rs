//! The prompt template of an adapter that is made here.

use std::path::Path;

use arc_core::document::PlainText;
use arc_core::prompt::PromptTemplate;

use crate::Failure;

/// A prompt that asks nothing of the decoder's training.
pub(super) const PLAIN_TEMPLATE: &str = "{{ document }}\nQuestion: {{ question }}\nAnswer:";

/// A prompt template from a file, checked; without a file, one that asks nothing of the decoder's
/// training.
pub(super) fn prompt_template(file: Option<&Path>) -> Result<String, Failure> {
    let template = match file {
        Some(path) => PlainText::read(path)?.text,
        None => PLAIN_TEMPLATE.to_owned(),
    };
    PromptTemplate::parse(&template)?;
    Ok(template)
}
