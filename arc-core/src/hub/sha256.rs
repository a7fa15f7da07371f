//! The sha256 of files, as lowercase hexadecimal: how the registry pins them.

use std::{io::Read, path::Path};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes read or written at once: large enough that the system calls do not count.
pub(super) const BLOCK: usize = 256 * 1024;

/// The sha256 of the file at `path`, as 64 lowercase hexadecimal digits.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub(super) fn sha256_of_file(path: &Path) -> Result<String> {
    let mut file = arc_adapters::open_file(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    hash_at_most(&mut file, u64::MAX, &mut [&mut hasher]).map_err(Error::io("read", path))?;
    Ok(hexadecimal(&hasher))
}

/// Feeds at most `limit` bytes of `reader` to all `hashers`, and says how many there were.
pub(crate) fn hash_at_most(
    reader: &mut impl Read,
    limit: u64,
    hashers: &mut [&mut Sha256],
) -> std::io::Result<u64> {
    let mut reader = reader.take(limit);
    let mut block = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                for hasher in &mut *hashers {
                    hasher.update(block.get(..n).unwrap_or_default());
                }
                total += n as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The digest of what `hasher` has seen so far; it can be fed on.
pub(crate) fn hexadecimal(hasher: &Sha256) -> String {
    arc_adapters::hexadecimal(&hasher.clone().finalize())
}

/// Whether a text is 64 hexadecimal digits.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_of_the_standard() {
        // FIPS 180-4, the one-block example.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256_of_file(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
