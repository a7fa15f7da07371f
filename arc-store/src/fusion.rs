//! Several rankings as one, and chunks as documents.

use std::collections::HashMap;

use crate::nearest::Hit;

/// How fast a place counts for less (Cormack, Clarke and Büttcher, 2009).
const FUSION_CONSTANT: f32 = 60.0;

/// Reciprocal rank fusion: a chunk's score is the sum, over the rankings that have it, of 1 over 60 and its
/// place in it.
#[must_use]
pub fn fuse(rankings: &[Vec<Hit>]) -> Vec<Hit> {
    let mut scores: HashMap<(&str, u32), f32> = HashMap::new();
    for ranking in rankings {
        for (place, hit) in ranking.iter().enumerate() {
            let score = 1.0 / (FUSION_CONSTANT + place as f32 + 1.0);
            *scores.entry((&hit.document_id, hit.chunk)).or_default() += score;
        }
    }
    let mut fused: Vec<Hit> = scores
        .into_iter()
        .map(|((id, chunk), score)| Hit { document_id: id.to_owned(), chunk, score })
        .collect();
    let place = |hit: &Hit| (hit.document_id.clone(), hit.chunk);
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| place(a).cmp(&place(b))));
    fused
}

/// The documents of chunks that were found, best first, each with its best chunk; at most `count`.
#[must_use]
pub fn best_documents(hits: &[Hit], count: usize) -> Vec<Hit> {
    let mut best: Vec<Hit> = Vec::new();
    for hit in hits {
        if best.len() == count {
            break;
        }
        if best.iter().all(|earlier| earlier.document_id != hit.document_id) {
            best.push(hit.clone());
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(ids: &[&str]) -> Vec<Hit> {
        ids.iter().map(|id| Hit { document_id: (*id).into(), chunk: 0, score: 0.0 }).collect()
    }

    #[test]
    fn what_both_rankings_have_comes_before_what_one_has() {
        let fused = fuse(&[hits(&["a", "b", "c"]), hits(&["d", "c", "b"])]);
        let ids: Vec<&str> = fused.iter().map(|hit| hit.document_id.as_str()).collect();
        // 1/61 for a and d; 1/62 + 1/63 for b and c.
        assert_eq!(ids, ["b", "c", "a", "d"]);
        assert!((fused[0].score - (1.0 / 62.0 + 1.0 / 63.0)).abs() < 1e-7);
    }

    #[test]
    fn a_document_is_found_once_by_its_best_chunk() {
        let mut found = hits(&["a", "a", "b", "c"]);
        found[1].chunk = 5;
        let best = best_documents(&found, 2);
        assert_eq!(
            best.iter().map(|hit| (hit.document_id.as_str(), hit.chunk)).collect::<Vec<_>>(),
            [("a", 0), ("b", 0)]
        );
    }
}
