//! Prompts: from an adapter's template, the forms of the paper or a model's chat template to the spans
//! that a decoder reads.

mod chat_template;
mod forms;
mod spans;
mod stand_in;
mod template;

pub use chat_template::{ChatTemplate, Message, SpecialTokenNames};
pub use forms::{EncodedPart, FormPart, Instruction, PromptForm, Shot, Turn, TurnPart};
pub use spans::{Prompt, Span};
pub use template::{PromptPart, PromptTemplate};
