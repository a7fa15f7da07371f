//! `--form`: the prompts of the ARC-Encoder's paper, from what was typed.

use arc_core::decoder::Decoder;
use arc_core::eval::{Fields, Row, Rows};
use arc_core::prompt::{Instruction, PromptForm, Shot};

use crate::Failure;
use crate::args::ask::{Ask, Form};

/// Where the first document after a base model's answer begins.
const END_OF_FEW_SHOT_ANSWER: &str = "\n\n";

/// Refuses what does not go together, and reads the answered questions.
pub(super) fn check(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let has_question = !ask.questions.is_empty();
    if ask.document.is_empty() {
        return Err(Failure::usage(
            "there is no document",
            "put it before the question: arc ask notes.txt \"Who wrote it?\"",
        ));
    }
    match ask.form {
        Form::Continuation => {}
        Form::Reconstruction if has_question => {
            return Err(Failure::usage(
                "`--form reconstruction` asks nothing",
                "leave out the question: the document is repeated",
            ));
        }
        Form::Reconstruction => {}
        _ if !has_question => {
            return Err(Failure::usage(
                "there is no question",
                "put it last: arc ask notes.txt \"Who wrote it?\"",
            ));
        }
        _ => {}
    }
    if matches!(ask.form, Form::Continuation | Form::Reconstruction) && ask.document.len() > 1 {
        return Err(Failure::usage(
            format!("{} documents are to be continued or repeated at once", ask.document.len()),
            "name one `--document`",
        ));
    }
    if ask.form == Form::Reconstruction && ask.no_special {
        return Err(Failure::usage(
            "nothing asks for a repetition but the special vector",
            "leave out `--no-special`",
        ));
    }
    if ask.system.is_some() && !matches!(ask.form, Form::Instruct | Form::Llama2Chat) {
        return Err(Failure::usage("only a chat has a system turn", "add `--form instruct`"));
    }
    if matches!(ask.form, Form::Instruct | Form::Llama2Chat) {
        ask.questions.iter().try_for_each(|question| instruction(question).map(drop))?;
    }
    match &ask.shots {
        None => Ok(Vec::new()),
        Some(_) if ask.form != Form::FewShot => {
            Err(Failure::usage("only one form shows answered questions", "add `--form few-shot`"))
        }
        Some(file) => Ok(Rows::read(file, &Fields::default(), true, false)?.rows),
    }
}

/// The prompt's form for a question; `None` for the adapter's own template.
pub(super) fn form(
    ask: &Ask,
    shots: &[Row],
    question: &str,
    contexts: usize,
    decoder: &Decoder,
) -> Result<Option<PromptForm>, Failure> {
    Ok(Some(match ask.form {
        Form::Adapter => return Ok(None),
        Form::FewShot => {
            let shots: Vec<Shot<'_>> = shots
                .iter()
                .map(|row| Shot::new(1, &row.question, row.answers.first().map_or("", String::as_str)))
                .collect();
            PromptForm::few_shot(&shots, contexts, question)
        }
        Form::Continuation => PromptForm::continuation(question),
        Form::Reconstruction => PromptForm::reconstruction(),
        Form::Instruct => {
            let Some(template) = &decoder.chat_template else {
                return Err(Failure::usage(
                    format!("decoder `{}` has no chat template", decoder.name),
                    "it is a base model: use `--form few-shot`, or `--form llama2-chat` for a Llama 2 Chat without one",
                ));
            };
            PromptForm::chat(template, ask.system.as_deref(), &instruction(question)?, contexts)?
        }
        Form::Llama2Chat => {
            PromptForm::llama_2_chat(ask.system.as_deref(), &instruction(question)?, contexts)
        }
    }))
}

/// `prefix||instruction||suffix`, or the instruction alone.
fn instruction(question: &str) -> Result<Instruction, Failure> {
    if question.contains("||") {
        return Ok(question.parse()?);
    }
    Ok(Instruction::new(question))
}

/// Where an answer ends, where nobody said so.
pub(super) fn stop(form: Form) -> Option<&'static str> {
    (form == Form::FewShot).then_some(END_OF_FEW_SHOT_ANSWER)
}
