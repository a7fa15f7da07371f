//! Needle in a haystack: a fact at a known depth of a text of a known length.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

use super::data::{NeedlePlace, Row};

/// Places whose secret numbers are hidden.
const PLACES: [&str; 16] = [
    "Lisbon", "Oslo", "Cairo", "Lima", "Kyoto", "Dublin", "Prague", "Havana", "Nairobi", "Toronto", "Athens",
    "Warsaw", "Bogota", "Jakarta", "Vienna", "Tunis",
];

/// The grid of lengths and depths.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Needle {
    /// Lengths of the texts, in words.
    pub words: Vec<usize>,
    /// Depths of the fact, from 0 (the beginning) to 1 (the end).
    pub depths: Vec<f64>,
    /// Questions for each length and depth.
    pub per_cell: usize,
}

impl Needle {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.words.is_empty() || self.depths.is_empty() || self.per_cell == 0 {
            return Err("`[needle]` needs lengths, depths and at least 1 question for each".into());
        }
        if self.words.contains(&0) {
            return Err("`words` has a length of 0".into());
        }
        match self.depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
            Some(depth) => Err(format!("`depths` has {depth}, expected 0 to 1")),
            None => Ok(()),
        }
    }

    /// Questions for every cell, fixed by the seed; the first of every cell come first, so that a
    /// limit takes from the whole grid.
    #[must_use]
    pub fn rows(&self, texts: &[Row], seed: u64) -> Vec<Row> {
        let (_, share) = Share::of(texts, seed);
        let mut random = StdRng::seed_from_u64(seed);
        let mut rows = Vec::new();
        for _ in 0..self.per_cell {
            for &words in &self.words {
                for &depth in &self.depths {
                    rows.push(share.hide(words, depth, &mut random));
                }
            }
        }
        rows
    }

    /// Examples for a prompt: short, in other texts and about other places than the questions. None
    /// if there are fewer than two texts.
    #[must_use]
    pub fn examples(&self, texts: &[Row], count: usize, seed: u64) -> Vec<Row> {
        let (share, _) = Share::of(texts, seed);
        if share.texts.is_empty() {
            return Vec::new();
        }
        let mut random = StdRng::seed_from_u64(!seed);
        let words = self.words.iter().copied().min().unwrap_or(1).min(100);
        (0..count)
            .map(|_| {
                let depth = random.random::<f64>();
                share.hide(words, depth, &mut random)
            })
            .collect()
    }
}

/// The texts and places of the examples, or of the questions.
struct Share<'a> {
    texts: Vec<&'a str>,
    places: Vec<&'static str>,
}

impl<'a> Share<'a> {
    /// A quarter for the examples, the rest for the questions.
    fn of(rows: &'a [Row], seed: u64) -> (Self, Self) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut texts: Vec<&str> = rows.iter().map(|row| row.document.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        texts.shuffle(&mut random);
        let mut places = PLACES.to_vec();
        places.shuffle(&mut random);
        let few = if texts.len() < 2 { 0 } else { (texts.len() / 4).max(1) };
        let (rest, rest_places) = (texts.split_off(few), places.split_off(PLACES.len() / 4));
        (Self { texts, places }, Self { texts: rest, places: rest_places })
    }

    fn hide(&self, words: usize, depth: f64, random: &mut StdRng) -> Row {
        hide(&self.texts, &self.places, words, depth, random)
    }
}

/// A text of `words` words with a secret number `depth` of the way into it.
fn hide(texts: &[&str], places: &[&str], words: usize, depth: f64, random: &mut StdRng) -> Row {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.shuffle(random);
    let mut hay: Vec<&str> = Vec::with_capacity(words);
    // A haystack longer than all texts together begins again.
    for text in order.iter().cycle().filter_map(|&index| texts.get(index)) {
        hay.extend(text.split_whitespace().take(words - hay.len()));
        if hay.len() >= words {
            break;
        }
    }
    let place = places[random.random_range(0..places.len())];
    let number: u32 = random.random_range(10_000..100_000);
    // Between sentences where there is a sentence's end near, so that the fact reads as one.
    let wanted = (depth * hay.len() as f64).round() as usize;
    let ends = |&at: &usize| at == 0 || at == hay.len() || hay[at - 1].ends_with('.');
    let at = (0..=hay.len()).filter(ends).min_by_key(|at| at.abs_diff(wanted)).unwrap_or(wanted);
    let fact = format!("The secret number of {place} is {number}.");
    let parts = [hay[..at].join(" "), fact, hay[at..].join(" ")];
    let document = parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ");
    Row {
        document,
        question: format!("What is the secret number of {place}?"),
        answers: vec![number.to_string()],
        needle: Some(NeedlePlace { words, depth }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<Row> {
        (0..5)
            .map(|index| Row {
                document: format!("Sentence {index} has some words. ").repeat(8).trim().to_owned(),
                question: String::new(),
                answers: Vec::new(),
                needle: None,
            })
            .collect()
    }

    #[test]
    fn the_fact_lies_at_its_depth_and_the_seed_fixes_all() {
        let needle = Needle { words: vec![100, 400], depths: vec![0.0, 0.5, 1.0], per_cell: 2 };
        let rows = needle.rows(&texts(), 7);
        assert_eq!(rows.len(), 12);
        for row in &rows {
            let place = row.needle.unwrap();
            let fact = format!("is {}.", row.answers[0]);
            let before = row.document.split(&fact).next().unwrap().split_whitespace().count();
            let words = row.document.split_whitespace().count();
            assert_eq!(words, place.words + 7);
            let depth = before.saturating_sub(5) as f64 / place.words as f64;
            assert!((depth - place.depth).abs() < 0.06, "{depth}, expected {}", place.depth);
        }
        assert_eq!(rows, needle.rows(&texts(), 7));
        assert_ne!(rows, needle.rows(&texts(), 8));
    }

    #[test]
    fn examples_share_neither_text_nor_place_with_questions() {
        let needle = Needle { words: vec![40], depths: vec![0.5], per_cell: 60 };
        // Data that ask several questions of one text have it several times.
        let texts: Vec<Row> = texts().into_iter().cycle().take(15).collect();
        let of = |rows: &[Row], part: fn(&Row) -> Vec<String>| -> std::collections::BTreeSet<String> {
            rows.iter().flat_map(part).collect()
        };
        let numbers = |row: &Row| -> Vec<String> {
            let words = row.document.split_whitespace().collect::<Vec<_>>();
            words.windows(2).filter(|w| w[0] == "Sentence").map(|w| w[1].to_owned()).collect()
        };
        let questions = needle.rows(&texts, 7);
        let examples = needle.examples(&texts, 60, 7);
        assert_eq!(examples.len(), 60);
        for part in [numbers as fn(&Row) -> Vec<String>, |row| vec![row.question.clone()]] {
            let (theirs, ours) = (of(&examples, part), of(&questions, part));
            assert!(!theirs.is_empty() && theirs.is_disjoint(&ours), "{theirs:?} and {ours:?}");
        }
        assert!(needle.examples(&texts[..1], 2, 7).is_empty(), "one text is the questions'");
    }

    #[test]
    fn no_text_at_all_leaves_the_fact_alone() {
        let needle = Needle { words: vec![10], depths: vec![0.5], per_cell: 1 };
        let row = &needle.rows(&[], 1)[0];
        assert!(row.document.starts_with("The secret number of"), "{}", row.document);
    }
}
