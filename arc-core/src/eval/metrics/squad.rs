//! Exact match and F1 of short answers, with the normalisation of SQuAD's evaluation script
//! (version 1.1, Rajpurkar et al., arXiv 1606.05250).

use std::collections::HashMap;

/// An answer in the form that is compared: lowercase, without ASCII punctuation, without English
/// articles, with single spaces.
#[must_use]
pub fn normalise(answer: &str) -> String {
    let bare: String = answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // An article is a whole word in the sense of regular expressions: what stands beside it is not
    // alphanumeric, be it a space or a dash outside ASCII.
    let mut spaced = String::with_capacity(bare.len());
    let mut rest = bare.as_str();
    while let Some(first) = rest.chars().next() {
        let in_word = is_word(first);
        let end = rest.find(|c| is_word(c) != in_word).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        spaced.push_str(if matches!(piece, "a" | "an" | "the") { " " } else { piece });
        rest = after;
    }
    spaced.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// 1 if the answer is one of the golds after normalisation, else 0.
#[must_use]
pub fn exact_match(answer: &str, golds: &[String]) -> f64 {
    let answer = normalise(answer);
    f64::from(u8::from(golds.iter().any(|gold| normalise(gold) == answer)))
}

/// The harmonic mean of precision and recall over the words of the answer, for the gold that gives
/// the most.
#[must_use]
pub fn f1(answer: &str, golds: &[String]) -> f64 {
    golds.iter().map(|gold| f1_of_pair(answer, gold)).fold(0.0, f64::max)
}

fn f1_of_pair(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (normalise(answer), normalise(gold));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in gold.split_whitespace() {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0_usize;
    for word in answer.split_whitespace() {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / answer.split_whitespace().count() as f64;
    let recall = common as f64 / gold.split_whitespace().count() as f64;
    2.0 * precision * recall / (precision + recall)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// White space as Python's `str.split` has it: Unicode's, and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
