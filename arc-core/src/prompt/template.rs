//! How an adapter's template becomes the spans of a prompt.

use arc_jinja::{Limits, Options, Template, Value};

use super::Prompt;
use super::stand_in::stand_ins;
use crate::tokenizer::{SpecialTokens, Tokenizer};
use crate::{Error, Result};

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
        let [document] = stand_ins(&[source]);
        let rendered = template.render_text(document, "question")?;
        match rendered.matches(document).count() {
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
        let [document, apart] = stand_ins(&[&self.source, question]);
        let apart_text = self.render_text(document, &apart.to_string())?;
        let together = self.render_text(document, question)?;
        // It must not complete one with the template's words either.
        let keep_apart = spells_special(question, tokenizer)?
            || control_count(&together, tokenizer)? != control_count(&apart_text, tokenizer)?;
        let text = if keep_apart { apart_text } else { together };
        let (before, after) = text.split_once(document).unwrap_or((&text, ""));
        let encode = |text: &str| -> Result<Vec<u32>> {
            // Joined with the template's words the question is tokenised as in running text. Only
            // a question that spells special tokens has to be kept apart from them.
            let mut ids = Vec::new();
            for (index, part) in text.split(apart).enumerate() {
                if index > 0 {
                    ids.extend(tokenizer.encode(question)?.ids);
                }
                ids.extend(tokenizer.encode_with(part, SpecialTokens::Recognised)?.ids);
            }
            Ok(ids)
        };
        let mut first = encode(before)?;
        let beginning = tokenizer.beginning();
        if !first.starts_with(&beginning) {
            first.splice(..0, beginning);
        }
        Ok(vec![PromptPart::Tokens(first), PromptPart::Document, PromptPart::Tokens(encode(after)?)])
    }

    /// The prompt with a document as plain text.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] or [`Error::Tokenizer`].
    pub fn prompt_with_text(&self, document: &str, question: &str, tokenizer: &Tokenizer) -> Result<Prompt> {
        let ids = tokenizer.encode(document)?.ids;
        let parts = self.render(question, tokenizer)?;
        Ok(parts.into_iter().fold(Prompt::new(), |prompt, part| match part {
            PromptPart::Tokens(ids) => prompt.tokens(ids),
            PromptPart::Document => prompt.tokens(ids.clone()),
        }))
    }

    /// The text, in which a character stands for the document.
    fn render_text(&self, document: char, question: &str) -> Result<String> {
        let context = [("document", Value::from(document.to_string())), ("question", Value::from(question))];
        Template::compile(&self.source, Options::AS_WRITTEN)
            .and_then(|template| template.render(context, Limits::DEFAULT.with_input(question.len())))
            .map_err(|error| Error::Template { what: "prompt".into(), reason: error.to_string() })
    }
}

/// Whether a text of a user spells special tokens.
pub(crate) fn spells_special(text: &str, tokenizer: &Tokenizer) -> Result<bool> {
    let as_text = tokenizer.encode(text)?.ids;
    Ok(as_text != tokenizer.encode_with(text, SpecialTokens::Recognised)?.ids)
}

/// How many control tokens there are in words of a template.
pub(crate) fn control_count(words: &str, tokenizer: &Tokenizer) -> Result<usize> {
    let ids = tokenizer.encode_with(words, SpecialTokens::Recognised)?.ids;
    Ok(ids.into_iter().filter(|&id| tokenizer.is_control(id)).count())
}
