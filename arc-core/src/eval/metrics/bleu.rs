//! Corpus BLEU as `sacrebleu` computes it by default: tokens of `mteval-v13a`, n-grams to 4, the
//! closest reference length, exponential smoothing (Post, 2018, arXiv 1804.08771).

use std::collections::HashMap;

/// The longest n-grams that count.
const ORDER: usize = 4;

/// The counts that BLEU is made of. Those of several answers are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BleuCounts {
    /// N-grams of the answer that are in a reference, by length.
    pub correct: [usize; ORDER],
    /// N-grams of the answer, by length.
    pub total: [usize; ORDER],
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// Tokens of the reference whose length is closest.
    pub reference_tokens: usize,
}

impl BleuCounts {
    /// The counts of one answer.
    #[must_use]
    pub fn of(answer: &str, golds: &[String]) -> Self {
        let answer = tokens(answer);
        let references: Vec<Vec<String>> = golds.iter().map(|gold| tokens(gold)).collect();
        // Of two references that are equally close, the shorter counts.
        let reference_tokens = references
            .iter()
            .map(Vec::len)
            .min_by_key(|&length| (length.abs_diff(answer.len()), length))
            .unwrap_or(0);
        let mut counts = Self { answer_tokens: answer.len(), reference_tokens, ..Self::default() };
        for n in 1..=ORDER {
            let of_references: Vec<_> = references.iter().map(|reference| ngrams(reference, n)).collect();
            for (ngram, count) in ngrams(&answer, n) {
                let most = of_references.iter().filter_map(|ngrams| ngrams.get(ngram)).max();
                counts.correct[n - 1] += count.min(most.copied().unwrap_or(0));
                counts.total[n - 1] += count;
            }
        }
        counts
    }

    /// The counts as numbers that can be added, in the order of the fields.
    #[must_use]
    pub fn to_vec(self) -> Vec<f64> {
        let lengths = [self.answer_tokens, self.reference_tokens];
        self.correct.iter().chain(&self.total).chain(&lengths).map(|&count| count as f64).collect()
    }
}

/// BLEU of added counts ([`BleuCounts::to_vec`]), 0 to 100.
#[must_use]
pub fn bleu(sums: &[f64]) -> f64 {
    let [correct, total, lengths] = [0..ORDER, ORDER..2 * ORDER, 2 * ORDER..2 * ORDER + 2]
        .map(|range| sums.get(range).unwrap_or_default());
    let [answer, reference] = lengths else { return 0.0 };
    if correct.iter().all(|&count| count == 0.0) {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let mut sum_of_logs = 0.0;
    for (&correct, &total) in correct.iter().zip(total) {
        // Without n-grams of some length the score is 0 whatever the others are.
        if total == 0.0 {
            return 0.0;
        }
        let precision = if correct == 0.0 {
            smoothing *= 2.0;
            1.0 / (smoothing * total)
        } else {
            correct / total
        };
        sum_of_logs += precision.ln();
    }
    let brevity = if answer >= reference { 1.0 } else { (1.0 - reference / answer).exp() };
    100.0 * brevity * (sum_of_logs / ORDER as f64).exp()
}

fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// The tokens of `mteval-v13a`: punctuation is set apart, except full stops and commas between
/// digits, and dashes that no digit precedes.
fn tokens(text: &str) -> Vec<String> {
    let mut line = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        line = line.replace(entity, character);
    }
    let mut spaced: Vec<char> = vec![' '];
    for c in line.chars() {
        let apart = c.is_ascii_punctuation() && !matches!(c, '.' | ',' | '-' | '\'');
        spaced.extend(if apart { vec![' ', c, ' '] } else { vec![c] });
    }
    spaced.push(' ');
    let is_stop = |c: char| matches!(c, '.' | ',');
    let is_digit = |c: char| c.is_ascii_digit();
    spaced = respace(&spaced, |a, b| !is_digit(a) && is_stop(b), |a, b| [a, ' ', b, ' ']);
    spaced = respace(&spaced, |a, b| is_stop(a) && !is_digit(b), |a, b| [' ', a, ' ', b]);
    spaced = respace(&spaced, |a, b| is_digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    spaced.split(|c| c.is_whitespace()).filter(|word| !word.is_empty()).map(String::from_iter).collect()
}

/// Replaces pairs of characters, from the left and without overlap, as a regular expression does.
fn respace(
    text: &[char],
    applies: impl Fn(char, char) -> bool,
    replacement: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match text.get(at + 1) {
            Some(&next) if applies(text[at], next) => {
                out.extend(replacement(text[at], next));
                at += 2;
            }
            _ => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}
