//! Where a redirect leads, and whether the user's token may go there.

use ureq::http::Uri;

/// The address that `location` means in an answer from `base` (RFC 9110, 10.2.2; RFC 3986, 4.2 and 5.3);
/// none if it is no web address.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default().trim();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if is_absolute(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = absolute.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri).filter(|uri| uri.host().is_some())
}

/// Whether a reference begins with a scheme.
fn is_absolute(location: &str) -> bool {
    location.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// Whether both are of one origin: scheme, host and port (RFC 6454, 5). A token of one is not for
/// another, be it another port of the same host (CVE-2022-27774) or the same host without encryption.
pub(super) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    origin(one) == origin(other)
}

fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let scheme = uri.scheme_str();
    let port = uri.port_u16().or(match scheme {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    });
    (scheme, uri.host().map(str::to_ascii_lowercase), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(location: &str) -> Option<String> {
        let base = "https://hub.example:8443/o/r/resolve/main/f.gguf?download=true".parse().unwrap();
        resolve(&base, location).map(|uri| uri.to_string())
    }

    #[test]
    fn a_location_may_be_a_part_of_an_address() {
        for (location, expected) in [
            ("https://cdn.example/f?x=1#part", "https://cdn.example/f?x=1"),
            ("//cdn.example/f", "https://cdn.example/f"),
            ("/new/name/f", "https://hub.example:8443/new/name/f"),
            ("g.gguf", "https://hub.example:8443/o/r/resolve/main/g.gguf"),
            ("?x=2", "https://hub.example:8443/o/r/resolve/main/f.gguf?x=2"),
            ("/a:b", "https://hub.example:8443/a:b"),
        ] {
            assert_eq!(resolved(location).as_deref(), Some(expected), "{location}");
        }
        for location in ["file:///etc/passwd", "ftp://cdn.example/f", "https://", "javascript:x"] {
            assert_eq!(resolved(location), None, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |one: &str, other: &str| is_same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://hub.example/a", "https://HUB.example:443/b?c"));
        for other in [
            "http://hub.example/a",
            "https://hub.example:8443/a",
            "https://cdn.hub.example/a",
            "https://hub.example.evil/a",
            "https://hub.example@evil.example/a",
        ] {
            assert!(!same("https://hub.example/a", other), "{other}");
        }
    }
}
