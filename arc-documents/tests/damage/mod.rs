//! Files that were damaged on the way.

/// Bytes changed, cut and repeated at random, but the same in each run.
pub(crate) fn damaged(whole: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let mut bytes = whole.to_vec();
    for _ in 0..=next(6) {
        let at = next(bytes.len());
        match next(4) {
            0 => bytes.truncate(at),
            1 => bytes[at] = next(256) as u8,
            2 => bytes[at] ^= 1 << next(8),
            _ => {
                let piece = bytes[at..bytes.len().min(at + next(40))].to_vec();
                let to = next(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}
