//! Which chunks of long documents a question is about, where a decoder's window has no room for all of them.
//!
//! Two rankings are joined. One is by vectors: the cosine of the question's pooled latents and a chunk's, after
//! the mean of all chunks is taken off both, since what all latents of an encoder share says nothing of a
//! text. The other is by words, where the text is at hand: BM25 (Robertson and Zaragoza 2009). They are joined
//! by reciprocal rank (Cormack, Clarke and Büttcher 2009), which needs no scale in common.

use std::collections::{HashMap, HashSet};

/// Saturation of a word's count, and the weight of a chunk's length: the usual values.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// The constant of reciprocal rank fusion, as its authors have it.
const RANK_OFFSET: f64 = 60.0;

/// Places of chunks, best first, by their pooled latents and by their words; `texts` may be empty where there
/// is no text. Equal ones stay in the order of the documents.
///
/// # Shapes
/// - `question`: `d` values
/// - `pooled`: `d` values for each chunk
#[must_use]
pub fn nearest_chunks(
    question: (&[f32], &str),
    pooled: &[impl AsRef<[f32]>],
    texts: &[impl AsRef<str>],
) -> Vec<usize> {
    let by_vectors = ranked(&cosines(question.0, pooled));
    let words = word_scores(question.1, texts);
    // A question that shares no word with any chunk says nothing by words.
    if words.iter().all(|&score| score <= 0.0) {
        return by_vectors;
    }
    let mut scores = vec![0.0; pooled.len()];
    // Nor does it say anything of the chunks that have none of its words.
    let by_words = ranked(&words).into_iter().filter(|&place| words[place] > 0.0).collect();
    for ranking in [by_vectors, by_words] {
        for (rank, place) in ranking.into_iter().enumerate() {
            scores[place] += 1.0 / (RANK_OFFSET + 1.0 + rank as f64);
        }
    }
    ranked(&scores)
}

/// Places from the largest score to the smallest, of equal ones the first.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places
}

/// The cosine of the question and each vector, the mean of the vectors taken off both.
fn cosines(question: &[f32], vectors: &[impl AsRef<[f32]>]) -> Vec<f64> {
    let mut mean = vec![0.0; question.len()];
    for vector in vectors {
        mean.iter_mut().zip(vector.as_ref()).for_each(|(mean, &value)| *mean += f64::from(value));
    }
    mean.iter_mut().for_each(|mean| *mean /= vectors.len().max(1) as f64);
    let apart = |vector: &[f32]| -> Vec<f64> {
        vector.iter().zip(&mean).map(|(&value, mean)| f64::from(value) - mean).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let question = apart(question);
    let cosine = |vector: &[f32]| {
        let vector = apart(vector);
        let length = dot(&vector, &vector).sqrt() * dot(&question, &question).sqrt();
        // One document alone is its own mean, and is as near as any other.
        if length > 0.0 { dot(&question, &vector) / length } else { 0.0 }
    };
    vectors.iter().map(|vector| cosine(vector.as_ref())).collect()
}

/// BM25 of the question's words in each text.
fn word_scores(question: &str, texts: &[impl AsRef<str>]) -> Vec<f64> {
    let asked: HashSet<String> = words(question).collect();
    if asked.is_empty() || texts.is_empty() {
        return vec![0.0; texts.len()];
    }
    let mut lengths = Vec::with_capacity(texts.len());
    let mut counts: Vec<HashMap<&str, f64>> = Vec::with_capacity(texts.len());
    for text in texts {
        let (mut length, mut count) = (0.0, HashMap::new());
        for word in words(text.as_ref()) {
            length += 1.0;
            if let Some(word) = asked.get(&word) {
                *count.entry(word.as_str()).or_insert(0.0) += 1.0;
            }
        }
        lengths.push(length);
        counts.push(count);
    }
    let n = texts.len() as f64;
    let mean_length = (lengths.iter().sum::<f64>() / n).max(1.0);
    // A word that most chunks have tells none of them apart.
    let weight = |word: &str| {
        let having = counts.iter().filter(|count| count.contains_key(word)).count() as f64;
        (1.0 + (n - having + 0.5) / (having + 0.5)).ln()
    };
    let weights: HashMap<&str, f64> = asked.iter().map(|word| (word.as_str(), weight(word))).collect();
    let score = |(count, length): (&HashMap<&str, f64>, &f64)| {
        let norm = K1 * (1.0 - B + B * length / mean_length);
        let of_word = |(word, count): (&&str, &f64)| weights[word] * count * (K1 + 1.0) / (count + norm);
        count.iter().map(of_word).sum()
    };
    counts.iter().zip(&lengths).map(score).collect()
}

/// Runs of letters and digits in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TEXT: [&str; 0] = [];

    #[test]
    fn the_nearest_vector_comes_first_whatever_all_have_in_common() {
        let common = [100.0, 7.0, -3.0];
        let apart = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -1.0, -1.0]];
        let add = |vector: [f32; 3]| [0, 1, 2].map(|i| common[i] + vector[i]);
        let vectors = apart.map(add);
        for (expected, direction) in apart.iter().enumerate() {
            let question = add(direction.map(|value| 0.5 * value));
            let found = nearest_chunks((&question, ""), &vectors, &NO_TEXT);
            assert_eq!(found[0], expected);
            assert_eq!(found.len(), 4);
        }
    }

    #[test]
    fn a_rare_word_of_the_question_counts_more_than_frequent_ones() {
        let texts = ["the whale and the sea", "the sea and the ship", "a harpoon for the sea", "the the the"];
        assert_eq!(ranked(&word_scores("Where is THE harpoon?", &texts))[0], 2);
        assert!(word_scores("", &texts).iter().all(|&score| score == 0.0));
        // By hand: one of four texts has it, once in five words, where the mean is of 4.5.
        let score = word_scores("ship harpoon", &texts)[1];
        let weight = (1.0_f64 + 3.5 / 1.5).ln();
        let norm = 1.2 * (0.25 + 0.75 * 5.0 / 4.5);
        assert!((score - weight * 2.2 / (1.0 + norm)).abs() < 1e-12, "{score}");
    }

    #[test]
    fn words_and_vectors_are_joined_and_ties_keep_the_order() {
        let vectors = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
        // First by vectors, second by words: together before the one that is last in both.
        let found = nearest_chunks((&[1.0, 0.0], "ship"), &vectors, &["sea", "ship", "sky"]);
        assert_eq!(found[2], 2);
        assert_eq!(nearest_chunks((&[0.0, 0.0], "none"), &[[0.0, 0.0]; 3], &NO_TEXT), [0, 1, 2]);
    }
}
