//! Characters that stand for something while a template is rendered.

/// Characters of a private-use area that occur in none of these texts, so that each of them in what is
/// rendered is one that was put in: a user's own text may hold any character.
pub(crate) fn stand_ins<const N: usize>(texts: &[&str]) -> [char; N] {
    // Of plane 16, which hardly anybody uses. A text would have to hold all 65,534 to leave none.
    let mut unused =
        ('\u{100000}'..='\u{10FFFD}').filter(|&one| !texts.iter().any(|text| text.contains(one)));
    std::array::from_fn(|_| unused.next().unwrap_or(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_occurs_in_none_of_the_texts_and_is_given_once() {
        let [first] = stand_ins([].as_slice());
        let [second, third] = stand_ins(&["a", &format!("b{first}c")]);
        assert!(second != first && third != first && second != third);
    }
}
