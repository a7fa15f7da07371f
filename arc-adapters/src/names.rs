//! What adapters, encoders, decoders and their files may be called.

/// What [`is_name`] asks for, in words.
pub const NAME_FORM: &str = "letters, digits, `.`, `_` and `-`, beginning with a letter or digit";

/// Whether a text can be the name of an adapter, an encoder or a decoder. Names become folders and
/// command line arguments, so they hold nothing that either interprets.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.len() <= 128 && text.chars().all(plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Checks a name that a file has.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("`{field}` is `{}`, expected {NAME_FORM}", name.escape_debug()));
    }
    Ok(())
}

pub(crate) fn check_file_name(field: &str, name: &str) -> Result<(), String> {
    let bad = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.chars().any(bad) {
        return Err(format!("`{field}` is `{}`, expected a file name without a folder", name.escape_debug()));
    }
    Ok(())
}
