//! `arc serve` as a process, and a client that writes requests byte by byte.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No answer takes longer, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that runs, and ends with the test.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Served {
    /// Starts `command`, which is `arc serve` with a port that is free, and waits until it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        let served = Self::start_unready(command.args(["--port", "0"]));
        let start = Instant::now();
        while served.get("/ready").status != 200 {
            assert!(start.elapsed() < PATIENCE, "it is not ready: {}", served.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        served
    }

    fn start_unready(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn();
        let mut child = child.expect("the binary runs");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("its first line");
        let log = Arc::<Mutex<String>>::default();
        let (of_reader, stderr) = (Arc::clone(&log), child.stderr.take().expect("a pipe"));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = of_reader.lock().expect("no panic");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = match serde_json::from_str::<Value>(&line) {
            Ok(object) => {
                crate::tiny::recorded::record(&["serve"], line.as_bytes());
                object["address"].as_str().and_then(|address| address.parse().ok())
            }
            Err(_) => {
                line.trim().strip_prefix("listening on http://").and_then(|address| address.parse().ok())
            }
        };
        let address = address.unwrap_or_else(|| panic!("where it listens: {line:?}"));
        Self { child, address, log, reader: Some(reader) }
    }

    /// What it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// The most memory that it had at once, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None if start.elapsed() > PATIENCE => panic!("it does not end: {}", self.log()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a log");
        }
        (status, self.log())
    }

    /// A connection.
    pub(crate) fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Connection { stream: BufReader::new(stream) }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.connect().ask(&head("GET", path, ""), b"")
    }

    /// Posts JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.connect().post(path, body)
    }

    /// A number that `/metrics` tells; 0 where it does not.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").body).expect("text");
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(0.0)
    }

    /// Waits until `/metrics` tells this number.
    pub(crate) fn wait_for(&self, line: &str, value: f64) {
        let start = Instant::now();
        while self.metric(line) != value {
            assert!(start.elapsed() < PATIENCE, "{line} is {}", self.metric(line));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request's head, with more headers.
pub(crate) fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}")
}

/// A connection to a server, kept between requests.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The JSON of an answer that is one.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Checks the form that every error has, and gives it back.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        for field in ["message", "hint", "type"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {error}");
        }
        assert_eq!(error["request_id"].as_str(), self.header("x-request-id"), "{error}");
        error
    }

    /// The objects of a stream that ended as it should.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert!(self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        let text = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end: {text}"));
        events_of(text)
    }
}

/// The objects of what has come of a stream.
pub(crate) fn events_of(text: &str) -> Vec<Value> {
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    events
        .map(|event| {
            let json = event.strip_prefix("data: ").unwrap_or_else(|| panic!("an event: {event:?}"));
            serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
        })
        .collect()
}

impl Connection {
    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Reply {
        let body = body.to_string();
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        self.ask(&head("POST", path, &more), body.as_bytes())
    }

    pub(crate) fn ask(&mut self, head: &str, body: &[u8]) -> Reply {
        self.send(head.as_bytes());
        self.send(b"\r\n");
        self.send(body);
        self.reply()
    }

    /// Sends bytes. A server that refuses a request need not take all of it.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The head of an answer, behind which its body comes.
    pub(crate) fn reply_head(&mut self) -> Reply {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        Reply { status, headers, body: Vec::new() }
    }

    /// The next chunk of a body that comes in chunks; empty at its end.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let line = self.line();
        let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("a size: {line:?}"));
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).expect("a chunk");
        chunk.truncate(size);
        chunk
    }

    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = self.reply_head();
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk();
                if chunk.is_empty() {
                    break;
                }
                reply.body.extend(chunk);
            }
        } else if let Some(length) = reply.header("content-length") {
            let mut body = vec![0; length.parse().expect("a length")];
            self.stream.read_exact(&mut body).expect("a body");
            reply.body = body;
        }
        reply
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_ended(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end, too.
        self.stream.read_to_end(&mut rest).map_or(true, |_| true)
    }
}
