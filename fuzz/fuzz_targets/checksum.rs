//! Checksums in the metadata of a safetensors file: no fuzzer finds one, so they are written for it.

use std::ops::Range;

const LENGTH: usize = size_of::<u64>();

/// The end of the header, which is that of the file where its length lies.
pub fn header_end(bytes: &[u8]) -> usize {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH)).map_or(bytes.len(), |end| end.min(bytes.len()))
}

/// Where the 64 digits are that the header has under `key`, if it has them.
pub fn place(bytes: &[u8], key: &str) -> Option<Range<usize>> {
    let header = bytes.get(LENGTH..header_end(bytes))?;
    let quoted = format!("\"{key}\":");
    let after_key = header.windows(quoted.len()).position(|window| window == quoted.as_bytes())? + quoted.len();
    let quote = header.get(after_key..)?.iter().position(|&byte| byte != b' ')? + after_key;
    let digits = quote + 1..quote + 65;
    let is_one = header.get(digits.clone())?.iter().all(u8::is_ascii_hexdigit) && header.get(quote) == Some(&b'"');
    is_one.then(|| digits.start + LENGTH..digits.end + LENGTH)
}
