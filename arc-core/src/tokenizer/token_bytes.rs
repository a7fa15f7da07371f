//! What each token id spells, as bytes: the one table that decoding and offsets read.

/// The bytes of every token, by id.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where token `id` ends in `bytes`; it begins where `id - 1` ends.
    ends: Vec<usize>,
}

impl TokenBytes {
    /// An empty table with room for `tokens` tokens.
    pub(super) fn with_capacity(tokens: usize) -> Self {
        Self { bytes: Vec::with_capacity(tokens * 8), ends: Vec::with_capacity(tokens) }
    }

    /// Appends the token of the next id.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    /// The number of ids.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What token `id` spells; nothing for an id outside the vocabulary.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let Some(id) = usize::try_from(id).ok().filter(|&id| id < self.ends.len()) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..self.ends[id]]
    }
}

/// The byte that a SentencePiece byte token (`<0x0A>`) stands for.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // `from_str_radix` would take a sign for a digit.
    let well_formed = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    well_formed.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_by_id_and_unknown_ids_spell_nothing() {
        let mut table = TokenBytes::with_capacity(3);
        for token in ["a", "", "bcd"] {
            table.push(token.as_bytes());
        }
        assert_eq!(table.len(), 3);
        assert_eq!((table.get(0), table.get(1), table.get(2)), (&b"a"[..], &b""[..], &b"bcd"[..]));
        assert_eq!(table.get(3), b"");
        assert_eq!(table.get(u32::MAX), b"");
    }

    #[test]
    fn byte_tokens_are_recognised_exactly() {
        assert_eq!(byte_token("<0x0A>"), Some(0x0a));
        for other in ["<0xA>", "<0x0AB>", "0x0A", "<0xZZ>", "<0x+A>"] {
            assert_eq!(byte_token(other), None, "{other}");
        }
    }
}
