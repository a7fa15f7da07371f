//! The few filters that are about HTML and URLs.

/// Markup's own escapes.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// The text without tags and comments, and with single spaces.
pub(crate) fn without_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        plain.push_str(&rest[..at]);
        let (end, len) = if rest[at..].starts_with("<!--") { ("-->", 3) } else { (">", 1) };
        match rest[at..].find(end) {
            Some(length) => rest = &rest[at + length + len..],
            None => {
                plain.push_str(&rest[at..]);
                rest = "";
            }
        }
    }
    plain.push_str(rest);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text with characters in the place of their references. Of the two thousand names that HTML has, those
/// that [`escaped`] writes are known; nothing is returned where there is another.
pub(crate) fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if !rest.starts_with(|c: char| c == '#' || c.is_ascii_alphanumeric()) {
            plain.push('&');
            continue;
        }
        let (name, after) = rest.split_once(';')?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let code = name.strip_prefix('#')?;
                let code = match code.strip_prefix(['x', 'X']) {
                    Some(code) => u32::from_str_radix(code, 16),
                    None => code.parse(),
                };
                // Below and between are control characters, some of which stand for others.
                char::from_u32(code.ok()?).filter(|c| !c.is_control())?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// The text as a part of a URL's path.
pub(crate) fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
