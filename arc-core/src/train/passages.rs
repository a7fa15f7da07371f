//! Passages of running text that questions can be asked about.

use rand::RngExt as _;
use rand::rngs::StdRng;

/// The characters of a passage: from a short context to several.
const CHARACTERS: std::ops::RangeInclusive<usize> = 300..=1200;
/// A passage has so many sentences at least.
const SENTENCES: usize = 3;
/// So much of what is no white space is letters, or it is a table, an index or code. Prose with years and
/// numbers in it has more.
const LETTERS: f64 = 0.85;
/// A sentence of more characters is none.
const LONGEST_SENTENCE: usize = 600;

/// Whole sentences of a document's paragraphs, one passage after the other, each as long as `random` says.
/// Neighbouring paragraphs may be about different things, and what is no running text is left out.
pub(super) fn passages(document: &str, random: &mut StdRng) -> Vec<String> {
    let mut passages = Vec::new();
    let mut wanted = random.random_range(CHARACTERS);
    let mut sentences: Vec<String> = Vec::new();
    for paragraph in document.split("\n\n") {
        passages.extend(passage(&std::mem::take(&mut sentences)));
        for sentence in sentences_of(paragraph) {
            let length: usize = sentences.iter().map(|sentence| sentence.len() + 1).sum();
            if length > 0 && length + sentence.len() > wanted {
                passages.extend(passage(&sentences));
                sentences.clear();
                wanted = random.random_range(CHARACTERS);
            }
            sentences.push(sentence);
        }
    }
    passages.extend(passage(&sentences));
    passages
}

/// Sentences as one passage, if they are one.
fn passage(sentences: &[String]) -> Option<String> {
    let text = sentences.join(" ");
    let characters = text.chars().count();
    let letters = text.chars().filter(|character| character.is_alphabetic()).count();
    let written = text.chars().filter(|character| !character.is_whitespace()).count();
    let is_prose = letters as f64 >= LETTERS * written as f64
        && sentences.iter().all(|sentence| sentence.len() <= LONGEST_SENTENCE);
    (sentences.len() >= SENTENCES && CHARACTERS.contains(&characters) && is_prose).then_some(text)
}

/// The sentences of a paragraph, with one space between words.
fn sentences_of(paragraph: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let mut rest = paragraph.split_whitespace().peekable();
    while let Some(word) = rest.next() {
        words.push(word);
        let bare = word.trim_end_matches(['"', '\'', ')', ']', '”', '’']);
        let ends = bare.ends_with(['.', '!', '?']) && !is_abbreviation(bare);
        let begins = rest.peek().is_none_or(|next| {
            next.trim_start_matches(['"', '\'', '(', '[', '“', '‘']).starts_with(char::is_uppercase)
        });
        if ends && begins {
            sentences.push(words.join(" "));
            words.clear();
        }
    }
    if !words.is_empty() {
        sentences.push(words.join(" "));
    }
    sentences
}

/// Whether a full stop belongs to the word: `Mr.`, an initial.
fn is_abbreviation(word: &str) -> bool {
    let stem = word.trim_end_matches('.').trim_start_matches(['(', '"', '“']);
    let is_initial = stem.chars().count() == 1 && stem.chars().all(char::is_uppercase);
    is_initial
        || ["Mr", "Mrs", "Ms", "Dr", "St", "Gen", "Col", "Capt", "Lt", "Sr", "Jr", "vs"].contains(&stem)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        let text =
            "Mr. Hale built it in 1831, at 3.5 times the cost. \"It burns!\" J. Brandt\nsaid (twice). no end";
        let sentences = sentences_of(text);
        assert_eq!(
            sentences,
            [
                "Mr. Hale built it in 1831, at 3.5 times the cost.",
                "\"It burns!\"",
                "J. Brandt said (twice). no end"
            ]
        );
    }

    #[test]
    fn passages_are_whole_sentences_of_prose_and_follow_from_the_seed() {
        let sentence = "The river rose in the night and took the bridge away with it.";
        let document = format!("{}\n\nToo short.\n\n{}", [sentence; 20].join(" "), [sentence; 30].join("\n"));
        let cut = |seed| passages(&document, &mut StdRng::seed_from_u64(seed));
        let passages = cut(1);
        assert!(passages.len() >= 2);
        for passage in &passages {
            assert!(
                CHARACTERS.contains(&passage.len()) && passage.starts_with("The") && passage.ends_with("it.")
            );
        }
        assert_eq!(cut(1), passages);
        assert_ne!(cut(2), passages);
        let table = "12 34 56 78 90. A1 = 33; 44 55. X 10 20 30. ".repeat(12);
        assert!(super::passages(&table, &mut StdRng::seed_from_u64(1)).is_empty());
    }
}
