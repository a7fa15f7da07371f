//! A text in parts that are taken apart one by one, so that what is needed for it does not grow with the text.

/// What a text has around a place: the two characters before, of which the first is missing at the beginning,
/// and the one after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub(super) before_last: Option<char>,
    pub(super) last: char,
    pub(super) next: char,
}

impl Around {
    /// The same with other characters.
    pub(super) fn map(self, of: impl Fn(char) -> char) -> Self {
        Self { before_last: self.before_last.map(&of), last: of(self.last), next: of(self.next) }
    }
}

/// The parts of `text` with the byte that each begins at. Each but the last has at least `bytes` bytes, and
/// ends at the first place after them that `is_cut` allows.
pub(super) fn of(
    text: &str,
    bytes: usize,
    is_cut: impl Fn(Around) -> bool,
) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == text.len() {
            return None;
        }
        let begin = start;
        start = end_of_part(text, begin.saturating_add(bytes), &is_cut);
        Some((begin, &text[begin..start]))
    })
}

/// The first place from `least` on where `is_cut` allows a part to end; the end of the text where there is none.
fn end_of_part(text: &str, least: usize, is_cut: impl Fn(Around) -> bool) -> usize {
    let least = text.ceil_char_boundary(least);
    let mut before = text[..least].chars().rev();
    let (mut last, mut before_last) = (before.next(), before.next());
    for (at, next) in text[least..].char_indices() {
        if let Some(last) = last
            && is_cut(Around { before_last, last, next })
        {
            return least + at;
        }
        (before_last, last) = (last, Some(next));
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_text_together_and_end_where_they_may() {
        let text = "é a b  c ddd";
        let cut = |bytes| {
            let parts = of(text, bytes, |around: Around| around.last != ' ' && around.next == ' ');
            parts.map(|(start, part)| {
                assert!(text[start..].starts_with(part));
                part
            })
        };
        assert_eq!(cut(1).collect::<Vec<_>>(), ["é", " a", " b", "  c", " ddd"]);
        assert_eq!(cut(4).collect::<Vec<_>>(), ["é a", " b  c", " ddd"]);
        assert_eq!(cut(100).collect::<Vec<_>>(), [text]);
        assert_eq!(of("", 4, |_| true).count(), 0);
    }
}
