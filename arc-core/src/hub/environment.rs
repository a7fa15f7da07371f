//! What the user's environment says about where models come from.
//!
//! For the hub the variables are those of `huggingface_hub`, with what they mean there (its
//! `constants.py` and `utils/_auth.py`): who has set up one has set up the other.

use std::{
    env,
    ffi::OsString,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use arc_adapters::ModelSource;

use crate::{Error, Result};

/// The variables that a pull obeys, read once so that a pull does not change its mind half way.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// `ARC_OFFLINE`: nothing is fetched.
    pub(super) offline: bool,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`, whichever says so: nothing is fetched from the hub.
    pub(super) hub_offline: Option<&'static str>,
    /// `ARC_PIP`: the program that is run as pip.
    pub(super) pip: Option<OsString>,
    /// `HF_ENDPOINT`: the hub's address, without a slash at the end.
    pub(super) hf_endpoint: String,
    /// Sent to the hub, and to no other origin.
    pub(super) hf_token: HubToken,
}

/// The user's token for the hub.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum HubToken {
    /// There is none, or `HF_HUB_DISABLE_IMPLICIT_TOKEN` keeps it back.
    None,
    /// It is this, and is to be found in this variable or file.
    Known { token: String, place: String },
    /// The user has logged in, and the file cannot be read.
    Unreadable { path: PathBuf, kind: io::ErrorKind },
}

impl std::fmt::Debug for HubToken {
    /// Without the token: what is printed may be seen by others.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Known { place, .. } => write!(f, "Known in {place}"),
            Self::Unreadable { path, kind } => write!(f, "Unreadable in {}: {kind}", path.display()),
        }
    }
}

impl HubToken {
    /// The token, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] if the file that it is in cannot be read.
    pub(super) fn get(&self) -> Result<Option<&str>> {
        match self {
            Self::None => Ok(None),
            Self::Known { token, .. } => Ok(Some(token)),
            Self::Unreadable { path, kind } => Err(Error::io("read", path)((*kind).into())),
        }
    }

    /// Where it comes from, as an error names it.
    pub(super) fn place(&self) -> Option<&str> {
        match self {
            Self::Known { place, .. } => Some(place),
            _ => None,
        }
    }
}

impl Environment {
    /// The variable that forbids to fetch anything from such a source, if one does.
    pub(super) fn forbids(&self, source: &ModelSource) -> Option<&'static str> {
        let hub = self.hub_offline.filter(|_| matches!(source, ModelSource::Hf { .. }));
        if self.offline { Some("ARC_OFFLINE") } else { hub }
    }

    pub(super) fn read() -> Self {
        Self::from(&|name| env::var_os(name))
    }

    /// What the variables say that `variable` gives.
    fn from(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| {
            Some(variable(name)?.into_string().ok()?.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        // The second is asked only where the first says nothing at all.
        let offline =
            ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| text(name).is_some());
        Self {
            offline: text("ARC_OFFLINE").is_some_and(|value| value != "0"),
            hub_offline: offline.filter(|name| text(name).is_some_and(|value| is_true(&value))),
            pip: variable("ARC_PIP").filter(|value| !value.is_empty()),
            hf_endpoint: endpoint.trim_end_matches('/').to_owned(),
            hf_token: hub_token(variable, &text),
        }
    }
}

/// The token of `HF_TOKEN`, else of the file that `hf auth login` writes.
fn hub_token(variable: &dyn Fn(&str) -> Option<OsString>, text: &dyn Fn(&str) -> Option<String>) -> HubToken {
    if text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return HubToken::None;
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = text(name).map(|token| cleaned(&token)) {
            return HubToken::Known { token, place: format!("`{name}`") };
        }
    }
    let Some(path) = token_path(variable) else { return HubToken::None };
    match read_token(&path) {
        Ok(token) => match cleaned(&token) {
            token if token.is_empty() => HubToken::None,
            token => HubToken::Known { token, place: format!("`{}`", path.display()) },
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            HubToken::None
        }
        Err(error) => HubToken::Unreadable { path, kind: error.kind() },
    }
}

/// What stands in a file of a token, which has some tens of bytes.
fn read_token(path: &Path) -> io::Result<String> {
    const LIMIT: u64 = 64 << 10;
    let mut token = String::new();
    arc_adapters::open_file(path)?.take(LIMIT).read_to_string(&mut token)?;
    Ok(token)
}

/// Where the token is kept: `HF_TOKEN_PATH`, else `token` in `HF_HOME`, which is `huggingface` in the
/// user's folder for caches where it is not set.
fn token_path(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || {
        folder("HOME").or_else(|| directories::BaseDirs::new().map(|folders| folders.home_dir().to_owned()))
    };
    let expanded = |path: PathBuf| match path.strip_prefix("~") {
        Ok(rest) => home().map(|home| home.join(rest)),
        Err(_) => Some(path),
    };
    if let Some(path) = folder("HF_TOKEN_PATH") {
        return expanded(path);
    }
    if let Some(hugging_face) = folder("HF_HOME") {
        return Some(expanded(hugging_face)?.join("token"));
    }
    let caches = match folder("XDG_CACHE_HOME") {
        Some(caches) => expanded(caches),
        None => Some(home()?.join(".cache")),
    };
    Some(caches?.join(Path::new("huggingface/token")))
}

/// Without what an editor or a shell may have put into it.
fn cleaned(token: &str) -> String {
    token.replace(['\r', '\n'], "").trim().to_owned()
}

/// What `huggingface_hub` takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|yes| yes.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use std::collections::HashMap;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Environment {
        let variables: HashMap<String, OsString> =
            variables.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        // No test reads the home of who runs it.
        let variables = HashMap::from([("HOME".to_owned(), "/nowhere".into())]).into_iter().chain(variables);
        let variables: HashMap<_, _> = variables.collect();
        Environment::from(&|name| variables.get(name).cloned())
    }

    fn token(variables: &[(&str, &str)]) -> Option<String> {
        of(variables).hf_token.get().unwrap().map(str::to_owned)
    }

    #[test]
    fn the_token_is_where_huggingface_hub_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, token: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, token).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let home = folder.path().to_str().unwrap();
        assert_eq!(token(&[]), None);
        write(".cache/huggingface/token", " of-home\r\n");
        assert_eq!(token(&[("HOME", home)]).as_deref(), Some("of-home"));
        let caches = write("caches/huggingface/token", "of-caches");
        let caches = caches.strip_suffix("/huggingface/token").unwrap();
        let mut variables = vec![("HOME", home), ("XDG_CACHE_HOME", caches)];
        assert_eq!(token(&variables).as_deref(), Some("of-caches"));
        write("hf/token", "of-hf-home");
        variables.push(("HF_HOME", "~/hf"));
        assert_eq!(token(&variables).as_deref(), Some("of-hf-home"));
        let path = write("elsewhere", "of-path");
        variables.push(("HF_TOKEN_PATH", &path));
        assert_eq!(token(&variables).as_deref(), Some("of-path"));
        variables.push(("HUGGING_FACE_HUB_TOKEN", "old"));
        assert_eq!(token(&variables).as_deref(), Some("old"));
        variables.push(("HF_TOKEN", " new\n"));
        assert_eq!(token(&variables).as_deref(), Some("new"));
        assert_eq!(of(&variables).hf_token.place(), Some("`HF_TOKEN`"));
        variables.push(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes"));
        assert_eq!(token(&variables), None);
        // An empty file is no login, and an empty variable is none.
        let path = write("empty", "\n");
        assert_eq!(token(&[("HF_TOKEN", ""), ("HF_TOKEN_PATH", &path)]), None);
    }

    #[test]
    fn a_token_that_cannot_be_read_is_an_error_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let environment = of(&[("HF_TOKEN_PATH", folder)]);
        assert!(matches!(environment.hf_token.get(), Err(Error::Io { .. })));
        let environment = of(&[("HF_TOKEN", "secret")]);
        assert!(!format!("{environment:?}").contains("secret"));
    }

    #[test]
    fn offline_is_what_huggingface_hub_takes_for_it() {
        let hub = |variables: &[(&str, &str)]| of(variables).hub_offline;
        assert_eq!(hub(&[]), None);
        for yes in ["1", "on", "Yes", "TRUE"] {
            assert_eq!(hub(&[("HF_HUB_OFFLINE", yes)]), Some("HF_HUB_OFFLINE"));
            assert_eq!(hub(&[("TRANSFORMERS_OFFLINE", yes)]), Some("TRANSFORMERS_OFFLINE"));
        }
        for no in ["0", "false", "off", "2"] {
            assert_eq!(hub(&[("HF_HUB_OFFLINE", no)]), None);
            assert_eq!(hub(&[("HF_HUB_OFFLINE", no), ("TRANSFORMERS_OFFLINE", "1")]), None);
        }
        let environment = of(&[("HF_HUB_OFFLINE", "1")]);
        assert!(!environment.offline, "packages and addresses are no hub");
    }

    #[test]
    fn the_endpoint_has_no_slash_at_its_end() {
        assert_eq!(of(&[]).hf_endpoint, "https://huggingface.co");
        assert_eq!(
            of(&[("HF_ENDPOINT", "http://mirror.example/hub//")]).hf_endpoint,
            "http://mirror.example/hub"
        );
    }
}
