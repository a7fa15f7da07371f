//! The byte-level alphabet of GPT-2: every byte spelt as one printable character.
//!
//! Printable Latin-1 bytes stand for themselves, the others follow from U+0100 on, in order. This
//! is how byte-level BPE writes its tokens and merges (`Ġ` is a space, `Ċ` a line feed). Source:
//! `bytes_to_unicode` of the GPT-2 release.

/// Whether a byte is spelt as the Latin-1 character of the same number.
const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The character that spells each byte.
const SPELLINGS: [char; 256] = {
    let mut spellings = ['\0'; 256];
    let mut moved = 0;
    let mut byte = 0;
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            spellings[byte] = byte as u8 as char;
        } else {
            spellings[byte] = match char::from_u32(0x100 + moved) {
                Some(spelling) => spelling,
                None => panic!("0x100 to 0x1ff are characters"),
            };
            moved += 1;
        }
        byte += 1;
    }
    spellings
};

/// How many bytes do not stand for themselves.
const MOVED: usize = 68;

/// The byte that each character from U+0100 on spells.
const MOVED_BYTES: [u8; MOVED] = {
    let mut bytes = [0; MOVED];
    let mut byte = 0;
    while byte < 256 {
        let spelling = SPELLINGS[byte] as usize;
        if spelling >= 0x100 {
            bytes[spelling - 0x100] = byte as u8;
        }
        byte += 1;
    }
    bytes
};

/// Appends the spelling of `bytes` to `spelt`.
pub(super) fn spell(bytes: &[u8], spelt: &mut String) {
    spelt.extend(bytes.iter().map(|&byte| SPELLINGS[usize::from(byte)]));
}

/// The byte that a character spells, if it is of the alphabet.
pub(super) fn byte_of(spelling: char) -> Option<u8> {
    let code = u32::from(spelling);
    match u8::try_from(code) {
        Ok(byte) => stands_for_itself(byte).then_some(byte),
        Err(_) => MOVED_BYTES.get(usize::try_from(code).ok()?.checked_sub(0x100)?).copied(),
    }
}

/// The bytes that a token spells, or nothing if one of its characters is not of the alphabet.
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn every_byte_has_one_spelling_and_comes_back() {
        for byte in 0..=u8::MAX {
            let mut spelt = String::new();
            spell(&[byte], &mut spelt);
            assert_eq!(bytes_of(&spelt), Some(vec![byte]));
        }
        assert_eq!(bytes_of("\u{144}"), None);
        assert_eq!(bytes_of(" "), None);
    }

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers_crate() {
        let theirs = ByteLevel::alphabet();
        assert_eq!(theirs.len(), 256);
        assert!(theirs.iter().all(|&spelling| byte_of(spelling).is_some()));
    }
}
