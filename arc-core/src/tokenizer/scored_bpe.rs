//! SentencePiece BPE (Llama 2, Mistral, Gemma): of all neighbours that make a token together, the
//! pair with the best score is merged first, the leftmost of equals.
//!
//! The vocabulary and the scores are all there is; the merge list that the `tokenizers` crate
//! wants would first have to be derived from every way to cut every token in two (514,906 pairs
//! for Gemma 3). Tokens are kept as the text that they stand for, with spaces for `▁`, so the text
//! is read as it is and byte offsets need no translation. Source of the algorithm: the SentencePiece
//! paper (arXiv 1808.06226) and the behaviour of its `bpe` models.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ops::Range;

use tokenizers::models::bpe::Vocab;

use super::Encoding;
use super::parts::Around;

/// A SentencePiece BPE without its control and user-defined tokens.
pub(super) struct ScoredBpe {
    /// Ids by the text that they stand for; the crate's map, for its fast hash.
    ids: Vocab,
    /// Scores by id.
    scores: Vec<f32>,
    /// The token of each byte, for characters that are not in the vocabulary.
    byte_ids: [Option<u32>; 256],
    /// The token for characters that are not in the vocabulary where bytes are not either.
    unknown: Option<u32>,
    /// Characters that some token has right before a space. After any other character, no merge
    /// reaches across to a following space, so the text can be cut there.
    before_space: HashSet<char>,
}

/// A stretch of the text that is being merged, in a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// Zero once it has been merged into its left neighbour.
    len: usize,
    left: Option<usize>,
    right: Option<usize>,
}

/// Two neighbouring symbols that make a token together.
struct MergePair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of the token; if the symbols have changed since, it no longer fits.
    len: usize,
}

impl Ord for MergePair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for MergePair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MergePair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for MergePair {}

/// What merging needs beside the text, kept from word to word.
#[derive(Default)]
struct MergeWorkspace {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<MergePair>,
}

impl ScoredBpe {
    /// A model of `tokens`, as the text that they stand for, with their ids. `scores` are by id.
    pub(super) fn new(
        tokens: impl Iterator<Item = (String, u32)>,
        scores: Vec<f32>,
        byte_ids: [Option<u32>; 256],
        unknown: Option<u32>,
    ) -> Self {
        let mut ids = Vocab::with_capacity(scores.len());
        let mut before_space = HashSet::new();
        for (token, id) in tokens {
            if token.contains(' ') {
                let followers = token.chars().skip(1);
                before_space.extend(
                    token.chars().zip(followers).filter(|&(a, b)| a != ' ' && b == ' ').map(|(a, _)| a),
                );
            }
            ids.entry(token).or_insert(id);
        }
        Self { ids, scores, byte_ids, unknown, before_space }
    }

    /// Whether no merge reaches from the one character to the next, so that text can be cut there.
    pub(super) fn is_cut(&self, around: Around) -> bool {
        around.next == ' ' && around.last != ' ' && !self.before_space.contains(&around.last)
    }

    /// Appends the tokens of `text`, which begins `start` bytes into the whole text.
    pub(super) fn encode(&self, text: &str, start: usize, encoding: &mut Encoding) {
        let mut workspace = MergeWorkspace::default();
        let mut seen: HashMap<&str, (Range<usize>, usize)> = HashMap::new();
        let mut begin = 0;
        let mut previous = ' ';
        for (at, character) in text.char_indices().chain([(text.len(), ' ')]) {
            let around = Around { before_last: None, last: previous, next: character };
            let cut = at == text.len() || self.is_cut(around);
            previous = character;
            if !cut || begin == at {
                continue;
            }
            let word = &text[begin..at];
            if let Some((tokens, first)) = seen.get(word) {
                encoding.repeat(tokens.clone(), *first, start + begin);
            } else {
                let before = encoding.ids.len();
                self.merge(word, start + begin, &mut workspace, encoding);
                seen.insert(word, (before..encoding.ids.len(), start + begin));
            }
            begin = at;
        }
    }

    /// Appends the tokens of a stretch that no merge reaches out of.
    fn merge(&self, word: &str, start: usize, workspace: &mut MergeWorkspace, encoding: &mut Encoding) {
        if let Some(&id) = self.ids.get(word)
            && word.chars().nth(1).is_none()
        {
            encoding.push(id, start, start + word.len());
            return;
        }
        let MergeWorkspace { symbols, queue } = workspace;
        symbols.clear();
        queue.clear();
        for (at, character) in word.char_indices() {
            let index = symbols.len();
            symbols.push(Symbol {
                start: at,
                len: character.len_utf8(),
                left: index.checked_sub(1),
                right: Some(index + 1),
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.right = None;
        }
        for left in 1..symbols.len() {
            self.propose(word, symbols, left - 1, left, queue);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (symbols[pair.left], symbols[pair.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            symbols[pair.left].len = pair.len;
            symbols[pair.left].right = right.right;
            symbols[pair.right].len = 0;
            if let Some(next) = right.right {
                symbols[next].left = Some(pair.left);
                self.propose(word, symbols, pair.left, next, queue);
            }
            if let Some(before) = left.left {
                self.propose(word, symbols, before, pair.left, queue);
            }
        }
        let mut after_unknown = false;
        for symbol in symbols.iter().filter(|symbol| symbol.len != 0) {
            let text = &word[symbol.start..symbol.start + symbol.len];
            let from = start + symbol.start;
            after_unknown = match self.ids.get(text) {
                Some(&id) => {
                    encoding.push(id, from, from + symbol.len);
                    false
                }
                None => self.fall_back(text, from, after_unknown, encoding),
            };
        }
    }

    /// Queues two neighbours if they make a token together.
    fn propose(
        &self,
        word: &str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
        queue: &mut BinaryHeap<MergePair>,
    ) {
        let start = symbols[left].start;
        let len = symbols[left].len + symbols[right].len;
        if let Some(&id) = self.ids.get(&word[start..start + len]) {
            let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
            queue.push(MergePair { score, left, right, len });
        }
    }

    /// Appends a character that is not in the vocabulary: as bytes, else as the unknown token, one
    /// for a run of them. Says whether it was the unknown token.
    fn fall_back(&self, character: &str, start: usize, after_unknown: bool, encoding: &mut Encoding) -> bool {
        let bytes: Option<Vec<u32>> =
            character.bytes().map(|byte| self.byte_ids[usize::from(byte)]).collect();
        if let Some(ids) = bytes {
            for (at, id) in ids.into_iter().enumerate() {
                encoding.push(id, start + at, start + at + 1);
            }
            return false;
        }
        let Some(unknown) = self.unknown else {
            return false;
        };
        match encoding.offsets.last_mut() {
            Some((_, end)) if after_unknown => *end = start + character.len(),
            _ => encoding.push(unknown, start, start + character.len()),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tokens: &[(&str, f32)]) -> ScoredBpe {
        ScoredBpe::new(
            tokens.iter().zip(0..).map(|((token, _), id)| ((*token).to_owned(), id)),
            tokens.iter().map(|&(_, score)| score).collect(),
            [None; 256],
            Some(99),
        )
    }

    fn encode(model: &ScoredBpe, text: &str) -> Encoding {
        let mut encoding = Encoding::default();
        model.encode(text, 0, &mut encoding);
        encoding
    }

    #[test]
    fn the_best_score_merges_first_and_the_leftmost_of_equals() {
        let tokens = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0), ("aa", -3.0)];
        let model = model(&tokens);
        assert_eq!(encode(&model, "abc").ids, [0, 4]);
        assert_eq!(encode(&model, "aaa").ids, [5, 0]);
    }

    #[test]
    fn a_run_of_unknown_characters_is_one_token_that_covers_them_all() {
        let encoding = encode(&model(&[("a", 0.0)]), "a漢字a");
        assert_eq!(encoding.ids, [0, 99, 0]);
        assert_eq!(encoding.offsets, [(0, 1), (1, 7), (7, 8)]);
    }

    #[test]
    fn a_token_that_reaches_across_a_space_is_still_found() {
        let tokens = [("a", -5.0), (">", -5.0), (" ", -5.0), ("> ", -1.0), ("> a", -2.0), ("aa", -3.0)];
        let model = model(&tokens);
        assert_eq!(encode(&model, "aa> a").ids, [5, 4]);
        assert_eq!(encode(&model, "aa a> aa").ids, [5, 2, 0, 4, 0]);
    }
}
