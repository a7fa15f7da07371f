//! Runs a code plugin in a process of its own, so that its crash or hang is an error here.
//!
//! The child is this program again, told by its arguments to call [`serve_plugin`]. Both sides
//! speak frames over the child's standard input and output: a tag, a length and that many bytes,
//! numbers little-endian. The child checks and loads the plugin itself; this process never does.
//! It contains crashes, not malice: the child has the user's rights.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checks::read_checked;
use super::in_process::{Loaded, from_plugin_parts, output_len};
use crate::digest::sha256_hex;
use crate::manifest::{MAX_MANIFEST_BYTES, MAX_WEIGHTS_BYTES};
use crate::setters;
use crate::{Adapter, AdapterManifest, Error, HostProjector, PluginEntry, Result};

/// How to start the process that a plugin runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Isolation {
    /// A program that calls [`serve_plugin`] when it is run with `args`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// How long an answer may take before the process is ended.
    pub timeout: Duration,
}

setters!(Isolation {
    args: Vec<String>,
    timeout: Duration,
});

impl Isolation {
    /// A program without arguments, whose answers may take a minute.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), timeout: Duration::from_secs(60) }
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    /// To the child: [`LoadRequest`] as JSON.
    Load = 1,
    /// To the child: n as u64, then n · d_in floats.
    Project = 2,
    /// To the parent: the manifest.
    Manifest = 3,
    /// To the parent: the weights.
    Weights = 4,
    /// To the parent: one byte, whether the plugin has a `project`.
    Ready = 5,
    /// To the parent: n · d_out floats.
    Output = 6,
    /// To the parent: [`ErrorReply`] as JSON.
    Error = 7,
}

#[derive(Serialize, Deserialize)]
struct LoadRequest {
    // Not paths, which serde writes only if they are Unicode.
    path: OsString,
    sha256: String,
    folders: Vec<OsString>,
}

#[derive(Serialize, Deserialize)]
struct ErrorReply {
    message: String,
    hint: Option<String>,
}

type Frame = (Tag, Vec<u8>);

fn write_frame(out: &mut impl Write, tag: Tag, payload: &[u8]) -> io::Result<()> {
    out.write_all(&[tag as u8])?;
    out.write_all(&(payload.len() as u64).to_le_bytes())?;
    out.write_all(payload)?;
    out.flush()
}

/// Reads a frame of at most the size of the largest thing that is ever sent.
fn read_frame(input: &mut impl Read) -> io::Result<Frame> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut head = [0u8; 9];
    input.read_exact(&mut head)?;
    let [tag, len @ ..] = head;
    let tag = match tag {
        1 => Tag::Load,
        2 => Tag::Project,
        3 => Tag::Manifest,
        4 => Tag::Weights,
        5 => Tag::Ready,
        6 => Tag::Output,
        7 => Tag::Error,
        _ => return Err(malformed("a frame of an unknown kind")),
    };
    let len = u64::from_le_bytes(len);
    let limit = match tag {
        Tag::Load | Tag::Manifest | Tag::Error | Tag::Ready => MAX_MANIFEST_BYTES,
        Tag::Weights | Tag::Project | Tag::Output => MAX_WEIGHTS_BYTES,
    };
    if len > limit {
        return Err(malformed("a frame that is too long"));
    }
    // The length is only believed as far as bytes come: memory grows with what is read.
    let mut payload = Vec::new();
    input.take(len).read_to_end(&mut payload)?;
    if payload.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((tag, payload))
}

fn to_bytes(values: &[f32]) -> impl Iterator<Item = u8> {
    values.iter().flat_map(|v| v.to_le_bytes())
}

fn to_floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| values.iter().map(|v| f32::from_le_bytes(*v)).collect())
}

/// The child's side, over its standard input and output; returns when the input ends.
///
/// What the plugin prints goes to standard error, since standard output carries the frames.
///
/// # Errors
/// [`Error::Io`] when the parent is gone.
pub fn serve_plugin() -> Result<()> {
    let stdio = |source| Error::Io { action: "use", path: PathBuf::from("stdout"), source };
    #[cfg(unix)]
    end_with_parent();
    #[cfg(unix)]
    let mut output = {
        let saved = rustix::io::dup(io::stdout()).map_err(|e| stdio(e.into()))?;
        rustix::stdio::dup2_stdout(io::stderr()).map_err(|e| stdio(e.into()))?;
        std::fs::File::from(saved)
    };
    #[cfg(not(unix))]
    let mut output = io::stdout();
    serve(&mut io::stdin().lock(), &mut output).map_err(stdio)
}

/// Ends this process with everything that a plugin started in it, once the process that asked for it is
/// gone: even one that is killed, and even while the plugin computes. It began a process group, which is what
/// is ended; a plugin that leaves the group on purpose is beyond this.
#[cfg(unix)]
fn end_with_parent() {
    use rustix::process::{Signal, getpgrp, getpid, getppid, kill_current_process_group};
    const LOOK: Duration = Duration::from_millis(100);
    if getpgrp() != getpid() {
        // Somebody else's group, as under a debugger.
        return;
    }
    let parent = getppid();
    std::thread::spawn(move || {
        while getppid() == parent {
            std::thread::sleep(LOOK);
        }
        let _ = kill_current_process_group(Signal::KILL);
    });
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut plugin: Option<(Loaded, Option<Arc<dyn HostProjector>>)> = None;
    loop {
        let (tag, payload) = match read_frame(input) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let answer = match (tag, &plugin) {
            (Tag::Load, None) => load(&payload).map(|(loaded, manifest, weights, projector)| {
                let ready = vec![u8::from(projector.is_some())];
                plugin = Some((loaded, projector));
                vec![(Tag::Manifest, manifest), (Tag::Weights, weights), (Tag::Ready, ready)]
            }),
            (Tag::Project, Some((_, Some(projector)))) => {
                project(projector.as_ref(), &payload).map(|y| vec![(Tag::Output, to_bytes(&y).collect())])
            }
            _ => Err(protocol("a request out of order")),
        };
        match answer {
            Ok(frames) => {
                for (tag, payload) in frames {
                    write_frame(output, tag, &payload)?;
                }
            }
            Err(error) => {
                let reply = ErrorReply {
                    message: error.to_string(),
                    hint: error.hint().map(|hint| hint.to_string()),
                };
                write_frame(output, Tag::Error, &serde_json::to_vec(&reply)?)?;
            }
        }
    }
}

type LoadedParts = (Loaded, Vec<u8>, Vec<u8>, Option<Arc<dyn HostProjector>>);

fn load(request: &[u8]) -> Result<LoadedParts> {
    let request: LoadRequest =
        serde_json::from_slice(request).map_err(|e| protocol(&format!("a malformed request: {e}")))?;
    // The parent sends only plugins that it would run.
    let plugin = PluginEntry {
        path: request.path.into(),
        sha256: request.sha256,
        allowed: true,
        folders: request.folders.into_iter().map(PathBuf::from).collect(),
    };
    let loaded = Loaded::load(&read_checked(&plugin, false, &[])?, &plugin)?;
    let (manifest, weights) = (loaded.manifest()?, loaded.weights()?);
    let mut projector = None;
    from_plugin_parts(&manifest, weights.clone(), &plugin.path, |manifest| {
        projector = loaded.projector(manifest.d_encoder, manifest.d_decoder);
        projector.clone()
    })?;
    Ok((loaded, manifest, weights, projector))
}

fn project(projector: &dyn HostProjector, payload: &[u8]) -> Result<Vec<f32>> {
    let (n, x) = payload
        .split_first_chunk::<8>()
        .and_then(|(n, x)| Some((usize::try_from(u64::from_le_bytes(*n)).ok()?, to_floats(x)?)))
        .ok_or_else(|| protocol("a malformed request"))?;
    projector.project(&x, n)
}

fn protocol(what: &str) -> Error {
    Error::PluginRefused { message: format!("the plugin process was sent {what}"), hint: None }
}

/// A plugin that runs in a process of its own. After a crash the next call starts it anew.
#[derive(Debug)]
pub(super) struct Isolated {
    plugin: PluginEntry,
    isolation: Isolation,
    manifest_sha256: String,
    d_in: usize,
    d_out: usize,
    /// Calls take turns: a process answers one request at a time.
    process: Mutex<Option<Process>>,
}

impl Isolated {
    /// Starts the process and takes manifest and weights from it.
    pub(super) fn load(plugin: PluginEntry, isolation: Isolation) -> Result<Adapter> {
        let path = plugin.path.clone();
        let (process, manifest, weights, has_project) = Process::start(&plugin, &isolation)?;
        from_plugin_parts(&manifest, weights, &path, |parsed: &AdapterManifest| {
            let isolated = Self {
                manifest_sha256: sha256_hex(&manifest),
                d_in: parsed.d_encoder,
                d_out: parsed.d_decoder,
                plugin,
                isolation,
                process: Mutex::new(Some(process)),
            };
            has_project.then(|| Arc::new(isolated) as Arc<dyn HostProjector>)
        })
    }

    fn restart(&self) -> Result<Process> {
        let (process, manifest, ..) = Process::start(&self.plugin, &self.isolation)?;
        if sha256_hex(&manifest) != self.manifest_sha256 {
            return Err(failed(&self.plugin.path, "gave another manifest when it was started again"));
        }
        Ok(process)
    }
}

impl HostProjector for Isolated {
    fn project(&self, x: &[f32], n: usize) -> Result<Vec<f32>> {
        let expected = output_len(x, n, self.d_in, self.d_out)?;
        if n == 0 {
            return Ok(Vec::new());
        }
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out, so that a process that fails is dropped and thereby ended.
        let mut process = match slot.take() {
            Some(process) => process,
            None => self.restart()?,
        };
        let payload = (n as u64).to_le_bytes().into_iter().chain(to_bytes(x)).collect();
        process.send(Tag::Project, payload)?;
        let y = match process.receive(Tag::Output) {
            Ok(bytes) => to_floats(&bytes).filter(|y| y.len() == expected && y.iter().all(|v| v.is_finite())),
            // An error that the process reports is an answer; it goes on.
            Err(error @ Error::PluginRefused { .. }) => {
                *slot = Some(process);
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let Some(y) = y else {
            return Err(failed(&self.plugin.path, "gave a malformed answer"));
        };
        *slot = Some(process);
        Ok(y)
    }
}

/// A running child. Dropping it ends it.
#[derive(Debug)]
struct Process {
    path: PathBuf,
    child: Child,
    /// Writing happens on a thread of its own: a child that does not read would block it for ever.
    requests: Sender<Frame>,
    replies: Receiver<io::Result<Frame>>,
    timeout: Duration,
    is_ended: bool,
}

impl Process {
    /// Starts a child and loads the plugin in it; gives the manifest, the weights, and whether the
    /// plugin has a `project`.
    fn start(plugin: &PluginEntry, isolation: &Isolation) -> Result<(Self, Vec<u8>, Vec<u8>, bool)> {
        let path = plugin.path.clone();
        let cannot_start = |e: io::Error| failed(&path, &format!("cannot be started: {e}"));
        let mut command = Command::new(&isolation.program);
        command.args(&isolation.args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own, so that what the plugin starts can be ended with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(cannot_start)?;
        let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&path, "has no pipes"));
        };
        let (requests, to_write) = channel::<Frame>();
        let (answered, replies) = channel();
        // Both threads end when the child does, since their pipes break.
        std::thread::spawn(move || {
            while let Ok((tag, payload)) = to_write.recv() {
                if write_frame(&mut stdin, tag, &payload).is_err() {
                    break;
                }
            }
        });
        std::thread::spawn(move || {
            loop {
                let frame = read_frame(&mut stdout);
                let last = frame.is_err();
                if answered.send(frame).is_err() || last {
                    break;
                }
            }
        });
        let mut process =
            Self { path, child, requests, replies, timeout: isolation.timeout, is_ended: false };
        let request = LoadRequest {
            path: plugin.path.clone().into(),
            sha256: plugin.sha256.clone(),
            folders: plugin.folders.iter().map(OsString::from).collect(),
        };
        let request = serde_json::to_vec(&request)
            .map_err(|e| failed(&process.path, &format!("cannot be asked: {e}")))?;
        process.send(Tag::Load, request)?;
        let manifest = process.receive(Tag::Manifest)?;
        let weights = process.receive(Tag::Weights)?;
        let has_project = process.receive(Tag::Ready)? == [1];
        Ok((process, manifest, weights, has_project))
    }

    fn send(&mut self, tag: Tag, payload: Vec<u8>) -> Result<()> {
        if self.requests.send((tag, payload)).is_ok() {
            return Ok(());
        }
        Err(self.gone())
    }

    fn receive(&mut self, expected: Tag) -> Result<Vec<u8>> {
        match self.replies.recv_timeout(self.timeout) {
            Ok(Ok((tag, payload))) if tag == expected => Ok(payload),
            Ok(Ok((Tag::Error, payload))) => match serde_json::from_slice(&payload) {
                Ok(ErrorReply { message, hint }) => Err(Error::PluginRefused { message, hint }),
                Err(_) => Err(failed(&self.path, "gave a malformed answer")),
            },
            Ok(Ok(_)) => Err(failed(&self.path, "gave an answer out of order")),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
            Err(RecvTimeoutError::Timeout) => {
                Err(failed(&self.path, &format!("did not answer within {:?}", self.timeout)))
            }
        }
    }

    /// Ends the child and what it started, once: after it was waited for its number may be another's.
    fn end(&mut self) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
    }

    /// The error for a child that closed its pipes: it died, or is about to.
    fn gone(&mut self) -> Error {
        self.end();
        match self.child.wait() {
            Ok(status) => failed(&self.path, &format!("ended with {status}")),
            Err(e) => failed(&self.path, &format!("ended: {e}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be in an endless loop; both fail only when it is gone already.
        self.end();
        let _ = self.child.wait();
    }
}

fn failed(path: &Path, reason: &str) -> Error {
    Error::PluginProcess { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_as_they_were_written() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Tag::Manifest, b"{}").unwrap();
        write_frame(&mut bytes, Tag::Ready, &[1]).unwrap();
        let mut input = bytes.as_slice();
        assert_eq!(read_frame(&mut input).unwrap(), (Tag::Manifest, b"{}".to_vec()));
        assert_eq!(read_frame(&mut input).unwrap(), (Tag::Ready, vec![1]));
        assert!(read_frame(&mut input).is_err());
    }

    #[test]
    fn frames_that_lie_about_their_length_are_refused() {
        let frame = |tag: u8, len: u64| [&[tag][..], &len.to_le_bytes(), b"abc"].concat();
        assert!(read_frame(&mut frame(9, 3).as_slice()).is_err());
        assert!(read_frame(&mut frame(3, MAX_MANIFEST_BYTES + 1).as_slice()).is_err());
        assert!(read_frame(&mut frame(6, 1 << 30).as_slice()).is_err(), "fewer bytes than announced");
        assert!(read_frame(&mut frame(6, u64::MAX).as_slice()).is_err());
    }

    #[test]
    fn requests_out_of_order_are_answered_with_an_error() {
        let mut requests = Vec::new();
        write_frame(&mut requests, Tag::Project, &[0; 12]).unwrap();
        write_frame(&mut requests, Tag::Load, b"{").unwrap();
        let mut replies = Vec::new();
        serve(&mut requests.as_slice(), &mut replies).unwrap();
        let mut replies = replies.as_slice();
        for expected in ["out of order", "malformed request"] {
            let (tag, payload) = read_frame(&mut replies).unwrap();
            assert_eq!(tag, Tag::Error);
            assert!(String::from_utf8(payload).unwrap().contains(expected));
        }
    }
}
