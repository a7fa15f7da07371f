//! How good answers are: pure functions of the answer and the golds.
//!
//! Every metric is a function of sums over the questions, so that a bootstrap can draw questions
//! and add: see [`Metric::statistics`] and [`Metric::score`].

mod bleu;
mod rouge;
mod squad;

use serde::{Deserialize, Serialize};

pub use bleu::{BleuCounts, bleu};
pub use rouge::{rouge_l, rouge_n};
pub use squad::{exact_match, f1, normalise};

/// A measure of answers against golds. All are given in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Metric {
    /// The normalised answer is one of the golds (SQuAD).
    ExactMatch,
    /// Shared words (SQuAD).
    F1,
    /// The first word of the answer is the gold's: `yes` or `no`. Anything else is wrong.
    YesNo,
    /// A gold, normalised, is among the words of the answer.
    Contains,
    /// Shared words (ROUGE).
    #[serde(rename = "rouge-1")]
    Rouge1,
    /// Shared pairs of words (ROUGE).
    #[serde(rename = "rouge-2")]
    Rouge2,
    /// The longest common subsequence of words (ROUGE).
    RougeL,
    /// Corpus BLEU.
    Bleu,
}

impl Metric {
    /// What reports call it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ExactMatch => "EM",
            Self::F1 => "F1",
            Self::YesNo => "accuracy",
            Self::Contains => "found",
            Self::Rouge1 => "ROUGE-1",
            Self::Rouge2 => "ROUGE-2",
            Self::RougeL => "ROUGE-L",
            Self::Bleu => "BLEU",
        }
    }

    /// The numbers of one answer that are added over the questions.
    #[must_use]
    pub fn statistics(self, answer: &str, golds: &[String]) -> Vec<f64> {
        let score = match self {
            Self::ExactMatch => exact_match(answer, golds),
            Self::F1 => f1(answer, golds),
            Self::YesNo => yes_no(answer, golds),
            Self::Contains => contains(answer, golds),
            Self::Rouge1 => rouge_n(answer, golds, 1),
            Self::Rouge2 => rouge_n(answer, golds, 2),
            Self::RougeL => rouge_l(answer, golds),
            Self::Bleu => return BleuCounts::of(answer, golds).to_vec(),
        };
        vec![score]
    }

    /// The score of `count` answers from their added numbers, in per cent.
    #[must_use]
    pub fn score(self, sums: &[f64], count: usize) -> f64 {
        match self {
            Self::Bleu => bleu(sums),
            _ => 100.0 * sums.first().copied().unwrap_or(0.0) / count.max(1) as f64,
        }
    }
}

/// 1 if the first word of the answer is that of a gold, else 0.
#[must_use]
pub fn yes_no(answer: &str, golds: &[String]) -> f64 {
    let first = |text: &str| normalise(text).split(' ').next().unwrap_or_default().to_owned();
    let answer = first(answer);
    f64::from(u8::from(!answer.is_empty() && golds.iter().any(|gold| first(gold) == answer)))
}

/// 1 if the words of a gold follow each other in the answer, both normalised, else 0.
#[must_use]
pub fn contains(answer: &str, golds: &[String]) -> f64 {
    let pad = |text: &str| format!(" {} ", normalise(text));
    let answer = pad(answer);
    let found = golds.iter().any(|gold| !normalise(gold).is_empty() && answer.contains(&pad(gold)));
    f64::from(u8::from(found))
}

#[cfg(test)]
mod golden_tests {
    use super::*;

    /// Answers, golds and what the reference implementations made of them: see
    /// `scripts/golden/metrics.py`.
    const GOLDEN: &str = include_str!("../../../../tests/golden/metrics/metrics.json");

    #[derive(Deserialize)]
    struct Golden {
        pairs: Vec<Pair>,
        corpora: Vec<Corpus>,
    }

    #[derive(Deserialize)]
    struct Pair {
        answer: String,
        golds: Vec<String>,
        exact_match: f64,
        f1: f64,
        rouge1: f64,
        rouge2: f64,
        rouge_l: f64,
        bleu: f64,
    }

    #[derive(Deserialize)]
    struct Corpus {
        answers: Vec<String>,
        golds: Vec<Vec<String>>,
        bleu: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(GOLDEN).expect("golden data")
    }

    fn score(metric: Metric, answers: &[String], golds: &[Vec<String>]) -> f64 {
        let mut sums = Vec::new();
        for (answer, golds) in answers.iter().zip(golds) {
            let statistics = metric.statistics(answer, golds);
            sums.resize(statistics.len(), 0.0);
            sums.iter_mut().zip(statistics).for_each(|(sum, value)| *sum += value);
        }
        metric.score(&sums, answers.len())
    }

    #[test]
    fn single_answers_score_as_the_reference_implementations_say() {
        let golden = golden();
        assert!(golden.pairs.len() > 30);
        for pair in golden.pairs {
            for (metric, expected) in [
                (Metric::ExactMatch, pair.exact_match),
                (Metric::F1, pair.f1),
                (Metric::Rouge1, pair.rouge1),
                (Metric::Rouge2, pair.rouge2),
                (Metric::RougeL, pair.rouge_l),
                (Metric::Bleu, pair.bleu / 100.0),
            ] {
                let found =
                    score(metric, std::slice::from_ref(&pair.answer), std::slice::from_ref(&pair.golds));
                assert!(
                    (found - 100.0 * expected).abs() < 1e-9,
                    "{metric:?} of {:?} against {:?}: {found}, expected {}",
                    pair.answer,
                    pair.golds,
                    100.0 * expected
                );
            }
        }
    }

    #[test]
    fn bleu_of_a_corpus_is_that_of_sacrebleu() {
        for corpus in golden().corpora {
            let found = score(Metric::Bleu, &corpus.answers, &corpus.golds);
            assert!((found - corpus.bleu).abs() < 1e-9, "{found}, expected {}", corpus.bleu);
        }
    }

    #[test]
    fn yes_and_no_are_read_from_the_first_word() {
        let yes = ["yes".to_owned()];
        for (answer, expected) in
            [("Yes.", 1.0), (" yes, it does", 1.0), ("no", 0.0), ("It does, yes", 0.0), ("", 0.0)]
        {
            assert_eq!(yes_no(answer, &yes), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_gold_is_found_as_whole_words() {
        let gold = ["42".to_owned(), "the Blue Whale".to_owned()];
        for (answer, expected) in
            [("It is 42.", 1.0), ("it is 421", 0.0), ("A blue whale!", 1.0), ("blue", 0.0), ("", 0.0)]
        {
            assert_eq!(contains(answer, &gold), expected, "{answer:?}");
        }
        assert_eq!(contains("anything", &["the".to_owned()]), 0.0, "a gold without words is never found");
    }
}
