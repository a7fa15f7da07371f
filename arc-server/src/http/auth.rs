//! Who may ask.

use std::fmt;

use axum::http::{HeaderMap, StatusCode, header};
use subtle::{Choice, ConstantTimeEq};

use super::errors::Failure;

/// Keys, of which only hashes are kept.
pub(crate) struct Keys(Vec<String>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| arc_adapters::sha256_hex(key.as_bytes())).collect())
    }

    /// Refuses who has none of the keys, where there are some. How long that takes tells nothing about them: hashes of
    /// one length are compared, with all keys each time.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        let key = match given.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
            _ => b"",
        };
        let hash = arc_adapters::sha256_hex(key);
        let is_one =
            self.0.iter().fold(Choice::from(0), |any, own| any | own.as_bytes().ct_eq(hash.as_bytes()));
        if is_one.into() {
            return Ok(());
        }
        Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            if key.is_empty() { "there is no API key" } else { "the API key is not one of the server's" },
            "send the key as `Authorization: Bearer KEY`",
        ))
    }
}

/// Refuses a request that names another host than this machine, where only this machine reaches the server: a browser
/// sends it for a page whose name was made to lead here.
pub(crate) fn check_host(headers: &HeaderMap) -> Result<(), Failure> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let is_here = name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_here {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        "host",
        "the request names another host than this machine",
        "ask `http://127.0.0.1`, or start the server with `--api-key-file` and the address that others reach",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a value"));
        headers
    }

    #[test]
    fn only_a_whole_key_is_let_in() {
        let keys = Keys::new(&["first key of the server".into(), "second key of the server".into()]);
        let check = |value: &str| keys.check(&headers(header::AUTHORIZATION, value)).is_ok();
        assert!(check("Bearer first key of the server") && check("bearer second key of the server"));
        for wrong in [
            "Bearer first key of the serve",
            "Bearer first key of the server2",
            "first key of the server",
            "Basic first key of the server",
            "Bearer ",
            "Bearer",
            "",
        ] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
        assert!(Keys::new(&[]).check(&HeaderMap::new()).is_ok());
        assert!(!format!("{keys:?}").contains("first"));
    }

    #[test]
    fn a_browser_that_was_led_here_is_refused() {
        let check = |value: &str| check_host(&headers(header::HOST, value)).is_ok();
        for here in ["localhost", "localhost:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "LOCALHOST:80"]
        {
            assert!(check(here), "{here}");
        }
        for elsewhere in
            ["evil.example", "localhost.evil.example:8080", "10.0.0.1", "[::2]", "", "127.0.0.1.evil"]
        {
            assert!(!check(elsewhere), "{elsewhere}");
        }
    }
}
