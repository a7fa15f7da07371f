//! How an adapter's template becomes the spans of a prompt.

use arc_jinja::{Limits, Options, Template, Value};

use crate::tokenizer::{SpecialTokens, Tokenizer};
use crate::{Error, Result};

/// Stands for the document while the template is rendered; a private-use character.
const DOCUMENT: char = '\u{F8FF}';
/// Stands for a question that spells special tokens.
const QUESTION: char = '\u{F8FE}';

/// A prompt as Jinja source, with `document` where the latents go and `question` as text.
#[derive(Clone, Debug)]
pub struct PromptTemplate {
    source: String,
}

/// A part of a rendered template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPart {
    /// Token ids of the decoder.
    Tokens(Vec<u32>),
    /// The place of the document.
    Document,
}

impl PromptTemplate {
    /// Checks a template's syntax, that it has a place for the document, and that it ends.
    ///
    /// It is a stranger's program: it runs within [`Limits`], here and whenever it is rendered.
    ///
    /// # Errors
    ///
    /// [`Error::Template`].
    pub fn parse(source: &str) -> Result<Self> {
        let template = Self { source: source.to_owned() };
        let rendered = template.render_text("question")?;
        match rendered.matches(DOCUMENT).count() {
            1 => Ok(template),
            count => Err(Error::Template {
                what: "prompt".into(),
                reason: format!("it uses `document` {count} times, expected once"),
            }),
        }
    }

    /// Renders the template to tokens and the document's place.
    ///
    /// The template's special tokens are recognised, a question's are not: what a user asks is
    /// text, whatever it spells. The first part begins with BOS where the tokenizer's rule adds it.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] or [`Error::Tokenizer`].
    pub fn render(&self, question: &str, tokenizer: &Tokenizer) -> Result<Vec<PromptPart>> {
        // A question has no use for the characters that stand for something.
        let question = &question.replace([DOCUMENT, QUESTION], "");
        let spells_special = tokenizer.encode(question)?.ids
            != tokenizer.encode_with(question, SpecialTokens::Recognised)?.ids;
        let stand_in = QUESTION.to_string();
        let text = self.render_text(if spells_special { &stand_in } else { question })?;
        let (before, after) = text.split_once(DOCUMENT).unwrap_or((&text, ""));
        let encode = |text: &str| -> Result<Vec<u32>> {
            // Joined with the template's words the question is tokenised as in running text. Only
            // a question that spells special tokens has to be kept apart from them.
            let mut ids = Vec::new();
            for (index, part) in text.split(QUESTION).enumerate() {
                if index > 0 {
                    ids.extend(tokenizer.encode(question)?.ids);
                }
                ids.extend(tokenizer.encode_with(part, SpecialTokens::Recognised)?.ids);
            }
            Ok(ids)
        };
        let mut first = encode(before)?;
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos())
            && first.first() != Some(&bos)
        {
            first.insert(0, bos);
        }
        Ok(vec![PromptPart::Tokens(first), PromptPart::Document, PromptPart::Tokens(encode(after)?)])
    }

    /// The text, in which a character stands for the document.
    fn render_text(&self, question: &str) -> Result<String> {
        const OPTIONS: Options = Options {
            trim_blocks: false,
            lstrip_blocks: false,
            keep_trailing_newline: true,
            strict_undefined: true,
        };
        let context = [("document", Value::from(DOCUMENT.to_string())), ("question", Value::from(question))];
        Template::compile(&self.source, OPTIONS)
            .and_then(|template| template.render(context, Limits::DEFAULT.with_input(question.len())))
            .map_err(|error| Error::Template { what: "prompt".into(), reason: error.to_string() })
    }
}
