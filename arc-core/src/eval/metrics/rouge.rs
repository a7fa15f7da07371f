//! ROUGE-1, ROUGE-2 and ROUGE-L, F measures as the package `rouge-score` computes them without a
//! stemmer (Lin, 2004; the package's tokens are runs of ASCII letters and digits).

use std::collections::HashMap;

/// ROUGE-`n`: the F measure of shared n-grams, for the gold that gives the most.
#[must_use]
pub fn rouge_n(answer: &str, golds: &[String], n: usize) -> f64 {
    best(answer, golds, |answer, gold| {
        let (answer, gold) = (ngrams(answer, n), ngrams(gold, n));
        let common: usize =
            gold.iter().map(|(ngram, &count)| count.min(answer.get(ngram).copied().unwrap_or(0))).sum();
        let total = |ngrams: &HashMap<&[String], usize>| ngrams.values().sum::<usize>();
        f_measure(common, total(&answer), total(&gold))
    })
}

/// ROUGE-L: the F measure of the longest common subsequence, for the gold that gives the most.
#[must_use]
pub fn rouge_l(answer: &str, golds: &[String]) -> f64 {
    best(answer, golds, |answer, gold| {
        f_measure(longest_common_subsequence(answer, gold), answer.len(), gold.len())
    })
}

fn best(answer: &str, golds: &[String], score: impl Fn(&[String], &[String]) -> f64) -> f64 {
    let answer = tokens(answer);
    golds.iter().map(|gold| score(&answer, &tokens(gold))).fold(0.0, f64::max)
}

fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(n.max(1)) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    // `row[j]` is the length for what of `a` has been read and the first `j` of `b`.
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

fn f_measure(common: usize, answer: usize, gold: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / answer as f64, common as f64 / gold as f64);
    2.0 * precision * recall / (precision + recall)
}
