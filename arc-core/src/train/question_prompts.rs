//! What a decoder reads before it writes questions about a passage, and before it answers them: worked
//! examples in plain text, so that a base model can do it too.

use crate::eval::metrics::{f1, normalise};

/// Before the passage that questions are written about.
pub(super) const WRITING: &str = "\
Each text is followed by questions about it. The answers are a few words, copied from the text.

Text: The lighthouse at Carrow Point was built in 1831 by Thomas Hale, after eleven ships had been lost on \
the rocks in a single winter. Its lamp burned whale oil until 1870, when gas replaced it. Hale's daughter \
Miriam kept the light for twenty-six years and wrote a journal of the weather, which is now in the museum at \
Easton.
Question: When was the lighthouse at Carrow Point built?
Answer: 1831
Question: What did the lamp of the lighthouse burn before gas?
Answer: whale oil
Question: Who kept the light for twenty-six years?
Answer: Miriam
Question: How many ships had been lost in a single winter?
Answer: eleven
Question: Where is the journal of the weather now?
Answer: the museum at Easton

Text: Putty for windows is made of powdered chalk and linseed oil. It hardens within two to three weeks, since \
the oil takes up oxygen from the air. Painters wait until a skin has formed before they cover it. Putty that \
has dried out in its tin can be softened with a few drops of oil.
Question: Which oil is putty for windows made of?
Answer: linseed oil
Question: How long does putty take to harden?
Answer: two to three weeks
Question: What does the oil take up from the air?
Answer: oxygen
Question: Who waits until a skin has formed?
Answer: Painters
Question: Where can putty dry out?
Answer: in its tin

Text: ";

/// Between the passage and the questions.
pub(super) const QUESTION: &str = "\nQuestion:";
/// Between a question and its answer.
pub(super) const ANSWER: &str = "\nAnswer:";

/// What questions begin with: one row for each, so that they ask for different things.
pub(super) const BEGINNINGS: [&str; 6] = ["What", "Who", "When", "Where", "Which", "How"];

/// Before the passage that an answer is looked for in: another form than the one it was written in, or the
/// answer would only be written again.
pub(super) const FINDING: &str = "\
Answer each question with a short span of its document.

Document:
The ferry between Aldmouth and the island of Sorn runs twice a day from April to October. Captain Ines Brandt \
bought it from the town in 1998 for a single pound.
Question: Who bought the ferry?
Answer: Captain Ines Brandt

Document:
Rye was sown on the upper fields, where the soil is thin, and barley by the river. In dry years the villagers \
ate more chestnuts than bread.
Question: Where was barley sown?
Answer: by the river

Document:
";

/// Before a question without its document.
pub(super) const KNOWING: &str = "\
Answer each question with a few words.

Question: Who bought the ferry to the island of Sorn?
Answer: Captain Ines Brandt

Question: How many legs does a spider have?
Answer: eight

Question:";

/// The words of an answer, at most.
const LONGEST_ANSWER: usize = 8;
/// The words of a question.
const QUESTION_WORDS: std::ops::RangeInclusive<usize> = 4..=24;
/// Two answers say the same from this F1 on (of words, as SQuAD counts it).
const SAME: f64 = 0.6;
/// Words of a question that say nothing of what it is about are shorter than this.
const CONTENT_WORD: usize = 4;

/// A question with its answer, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) question: String,
    pub(super) answer: String,
}

/// Why a question was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejected {
    /// It is no question, or has no short answer.
    Malformed,
    /// Its answer does not stand in the passage.
    NotInPassage,
    /// It gives its answer away, or asks for what the passage does not speak of.
    Unfit,
    /// It was asked before.
    Repeated,
    /// The decoder answers it without the passage.
    Known,
    /// The decoder does not find the answer in the passage.
    NotFound,
    /// It shares 13 words in a row with what must stay unseen.
    Overlapping,
}

impl Rejected {
    /// The reason in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Malformed => "no question with a short answer",
            Self::NotInPassage => "the answer does not stand in the passage",
            Self::Unfit => "the question gives its answer away, or asks for something else",
            Self::Repeated => "asked before",
            Self::Known => "answered without the passage",
            Self::NotFound => "not found again in the passage",
            Self::Overlapping => "shares 13 words in a row with what must stay unseen",
        }
    }
}

/// The question and the answer in what a decoder wrote after `beginning`.
pub(super) fn parse(beginning: &str, text: &str) -> Result<Written, Rejected> {
    let text = format!("{beginning}{text}");
    let (question, rest) = text.split_once(ANSWER).ok_or(Rejected::Malformed)?;
    let question = question.trim();
    let answer = rest.trim_start().lines().next().unwrap_or_default();
    let answer = answer.trim().trim_end_matches(['.', ',', ';']).trim_matches('"').trim();
    let words = |text: &str| text.split_whitespace().count();
    let is_one = question.ends_with('?')
        && !question[..question.len() - 1].contains(['?', '\n'])
        && QUESTION_WORDS.contains(&words(question))
        && (1..=LONGEST_ANSWER).contains(&words(answer))
        && !normalise(answer).is_empty();
    if !is_one {
        return Err(Rejected::Malformed);
    }
    Ok(Written { question: question.to_owned(), answer: answer.to_owned() })
}

impl Written {
    /// Whether it can be asked about a passage.
    pub(super) fn check(&self, passage: &str) -> Result<(), Rejected> {
        if !stands_in(&self.answer, passage) {
            return Err(Rejected::NotInPassage);
        }
        let asks = |word: &str| BEGINNINGS.iter().any(|beginning| beginning.eq_ignore_ascii_case(word));
        let is_content = |word: &String| word.len() >= CONTENT_WORD && !asks(word);
        let content: Vec<String> = words(&self.question).filter(is_content).collect();
        let of_passage: std::collections::HashSet<String> = words(passage).collect();
        let shared = content.iter().filter(|word| of_passage.contains(*word)).count();
        if stands_in(&self.answer, &self.question) || 2 * shared < content.len() {
            return Err(Rejected::Unfit);
        }
        Ok(())
    }

    /// Whether an answer to it says the same as its own.
    pub(super) fn is_answered_by(&self, answer: &str) -> bool {
        f1(answer, std::slice::from_ref(&self.answer)) >= SAME
    }

    /// What is the same for questions that are asked twice, whatever their letters and signs.
    pub(super) fn key(&self) -> String {
        words(&self.question).collect::<Vec<_>>().join(" ")
    }
}

/// The words of a text, lowercase and without signs.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Whether a text's words stand in another, one after the other.
fn stands_in(part: &str, whole: &str) -> bool {
    let (part, whole): (Vec<_>, Vec<_>) = (words(part).collect(), words(whole).collect());
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(question: &str, answer: &str) -> Written {
        Written { question: question.into(), answer: answer.into() }
    }

    #[test]
    fn a_question_is_read_up_to_its_answers_line() {
        let text = " is the lamp of the tower made of?\nAnswer: \"green glass\".\nQuestion: Who";
        assert_eq!(parse("What", text), Ok(written("What is the lamp of the tower made of?", "green glass")));
        for bad in [
            " is it",
            " is it?\nAnswer: glass",
            " is the lamp of the tower made of\nAnswer: glass",
            " is the lamp? What is the tower?\nAnswer: glass",
            " is the lamp of the tower made of?\nAnswer:",
            " is the lamp of the tower made of?\nAnswer: the",
            " is the lamp of the tower made of?\nAnswer: one two three four five six seven eight nine",
        ] {
            assert_eq!(parse("What", bad), Err(Rejected::Malformed), "{bad}");
        }
    }

    #[test]
    fn an_answer_stands_in_the_passage_in_whole_words_and_not_in_the_question() {
        let passage = "The tower's lamp, of green glass, was lit in 1831.";
        let check = |question, answer| written(question, answer).check(passage);
        assert_eq!(check("What was the lamp made of?", "Green glass"), Ok(()));
        assert_eq!(check("When was the lamp lit?", "183"), Err(Rejected::NotInPassage));
        assert_eq!(check("When was the lamp lit?", "lit glass"), Err(Rejected::NotInPassage));
        assert_eq!(check("Was the lamp lit in 1831?", "1831"), Err(Rejected::Unfit));
        assert_eq!(check("Which harbour has boats with sails?", "green"), Err(Rejected::Unfit));
    }

    #[test]
    fn answers_agree_in_most_words() {
        let lamp = written("What was it made of?", "green glass");
        assert!(lamp.is_answered_by(" the green glass.") && lamp.is_answered_by("old green glass"));
        assert!(!lamp.is_answered_by("glass of some other colour") && !lamp.is_answered_by(""));
        assert_eq!(lamp.key(), written("what was it made of", "x").key());
    }
}
