//! PDF files, which another process of this program takes apart: however they are made, they cost no more memory
//! and time than is said here, and cannot end the command.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use arc_documents::{MAX_DOCUMENT_BYTES, Reader, Refusal};
use serde_json::{Value, json};

use crate::{Failure, invocation};

/// The hidden command that such a process runs.
const COMMAND: &str = "read-pdf";

/// How long a file may take: some twenty times what the longest books do.
const SECONDS: u64 = 60;

/// The variable that sets another time, in seconds.
const VARIABLE: &str = "ARC_PDF_SECONDS";

/// Memory that a file may take: the file, what it unpacks to, and several times that in objects.
const MOST_MEMORY: u64 = 1 << 30;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(5);

const HINT: &str = "extract its text first, for example with `pdftotext`";

/// A reader whose PDF files are taken apart by another process.
pub(super) fn reader() -> Reader {
    Reader::default().pdf_by(|bytes| {
        let took = Limits::of_environment().and_then(|limits| in_another_process(bytes, limits));
        // What goes wrong with the process is told as what is wrong with the file: it is what is passed over.
        took.unwrap_or_else(|failure| Err(Refusal::new(failure.message, failure.hint)))
    })
}

/// What a process may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    time: Duration,
    memory: u64,
}

impl Limits {
    fn of_environment() -> Result<Self, Failure> {
        let seconds = match std::env::var(VARIABLE) {
            Ok(text) => text.parse().ok().filter(|&seconds| seconds > 0).ok_or_else(|| {
                Failure::usage(
                    format!("cannot be read: `{VARIABLE}` is `{text}`, and no whole number of at least 1"),
                    "set it to seconds, or unset it",
                )
            })?,
            Err(_) => SECONDS,
        };
        Ok(Self { time: Duration::from_secs(seconds), memory: MOST_MEMORY })
    }
}

fn in_another_process(bytes: &[u8], limits: Limits) -> Result<Result<String, Refusal>, Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::failed(format!("cannot be read: {what} the process that reads PDF files: {error}"), HINT)
    };
    let (program, arguments) = invocation::program()?;
    let mut command = Command::new(program);
    command.args(arguments).arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Ended(command.spawn().map_err(|error| failed("cannot start", error))?);
    let (stdin, stdout) = (child.0.stdin.take(), child.0.stdout.take());
    thread::scope(|scope| {
        // One that ends early reads no more: what it says of it is what counts.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
        let said = scope.spawn(move || {
            let mut said = Vec::new();
            // More than the text, for what JSON makes of its characters.
            let stdout = stdout.map(|stdout| stdout.take(8 * MAX_DOCUMENT_BYTES));
            stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut said)).map(|_| said)
        });
        let ended = child.watch(limits).map_err(|error| failed("cannot wait for", error))?;
        let said = said.join().unwrap_or_else(|_| Ok(Vec::new()));
        let said = said.map_err(|error| failed("cannot hear", error))?;
        Ok(match ended {
            Watched::Ended(status) => answer(&said, status),
            Watched::TooLong => Err(Refusal::new(
                format!("is a PDF file that takes longer than {} s to read", limits.time.as_secs()),
                format!("{HINT}, or give it more seconds with `{VARIABLE}`"),
            )),
            Watched::TooLarge => Err(Refusal::new(
                format!("is a PDF file that takes more than {} MiB of memory to read", limits.memory >> 20),
                HINT,
            )),
        })
    })
}

/// What a process said that has ended.
fn answer(said: &[u8], status: ExitStatus) -> Result<String, Refusal> {
    let broken = || {
        let reason = format!("is a PDF file at which the process that reads it broke down: {status}");
        Refusal::new(reason, HINT)
    };
    let said: Value = serde_json::from_slice(said).map_err(|_| broken())?;
    if let Some(text) = said["text"].as_str() {
        return Ok(text.to_owned());
    }
    match (said["reason"].as_str(), said["hint"].as_str()) {
        (Some(reason), Some(hint)) => Err(Refusal::new(reason, hint)),
        _ => Err(broken()),
    }
}

/// How it went with a process.
enum Watched {
    Ended(ExitStatus),
    TooLong,
    TooLarge,
}

/// A process that does not outlive this.
struct Ended(Child);

impl Ended {
    /// Waits for its end, or ends it where it takes more than it may.
    fn watch(&mut self, limits: Limits) -> std::io::Result<Watched> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Watched::Ended(status));
            }
            let broken = if start.elapsed() > limits.time {
                Some(Watched::TooLong)
            } else {
                memory(self.0.id()).filter(|&memory| memory > limits.memory).map(|_| Watched::TooLarge)
            };
            if let Some(broken) = broken {
                // Its output ends with it, which whoever reads that waits for.
                self.0.kill()?;
                self.0.wait()?;
                return Ok(broken);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // One that has ended cannot be ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The memory of a process in bytes, where the system says it in a file.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The process: a PDF file on standard input, its text or why there is none on standard output.
pub(crate) fn serve() -> Result<(), Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes);
    read.map_err(arc_core::Error::io("read", "standard input"))?;
    let said = match Reader::default().from_bytes("x.pdf", bytes) {
        Ok(documents) => {
            json!({ "text": documents.into_iter().map(|document| document.text).collect::<String>() })
        }
        Err(arc_documents::Error::Unreadable { reason, hint, .. }) => {
            json!({ "reason": reason, "hint": hint })
        }
        Err(error) => return Err(error.into()),
    };
    let mut stdout = std::io::stdout().lock();
    let written = serde_json::to_writer(&mut stdout, &said).map_err(std::io::Error::from);
    written.and_then(|()| stdout.flush()).map_err(|error| Failure::output(&error))
}
