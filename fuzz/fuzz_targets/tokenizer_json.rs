//! `tokenizer.json` from strangers: read, and then asked to encode and decode.
#![no_main]

mod room;

use arc_core::tokenizer::{SpecialTokens, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// What a document may hold: words, digits, a special token's usual names, bytes of other scripts.
const TEXT: &str = "A doc,  12 hi\n<s></s><|im_end|>é😀\u{2581}";

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_file(room::file("tokenizer.json", bytes)) else { return };
    for specials in [SpecialTokens::AsText, SpecialTokens::Recognised] {
        let Ok(encoding) = tokenizer.encode_with(TEXT, specials) else { continue };
        assert_eq!(encoding.ids.len(), encoding.offsets.len());
        let mut last = 0;
        for &(start, end) in &encoding.offsets {
            assert!(start <= end && end <= TEXT.len() && last <= end);
            last = end;
        }
        let _ = tokenizer.decode(&encoding.ids, specials == SpecialTokens::AsText);
    }
});
