//! Calls that take a while: without the interpreter's lock, and ended by Ctrl-C.
//!
//! The work is done on a thread of its own. The one that called waits for it without holding the lock, and
//! looks for signals several times a second: Python's handlers run there, on its main thread alone. Where one
//! raises, the call ends at once; the work is told to end, and does so before its next chunk or token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_core::{Error, Result};
use pyo3::prelude::*;

use crate::errors;

/// How often signals are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How long work that was told to end is waited for: most ends before, and then nothing runs behind the back
/// of who pressed Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a thread that works says.
enum Message<T, E> {
    Event(E),
    Done(Result<T>),
}

/// The work's side of a call.
pub(crate) struct Work<T, E> {
    interrupted: Arc<AtomicBool>,
    messages: Sender<Message<T, E>>,
}

impl<T, E> Work<T, E> {
    /// Set when the work is to end.
    pub(crate) fn interrupted(&self) -> &Arc<AtomicBool> {
        &self.interrupted
    }

    /// Says something to the caller. Where it has gone, the work is told to end as well.
    pub(crate) fn tell(&self, event: E) {
        let _ = self.messages.send(Message::Event(event));
    }

    /// [`Error::Interrupted`] if the work is to end.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// What a call has come to.
pub(crate) enum Step<T, E> {
    Event(E),
    Done(T),
}

/// What a call sends, and the thread that sends it.
type Running<T, E> = (Receiver<Message<T, E>>, JoinHandle<()>);

/// A call that is under way. Dropped, it is told to end.
pub(crate) struct Call<T, E> {
    interrupted: Arc<AtomicBool>,
    /// None once it has ended.
    running: Option<Running<T, E>>,
}

impl<T: Send + 'static, E: Send + 'static> Call<T, E> {
    /// Begins work on a thread of its own.
    pub(crate) fn begin(work: impl FnOnce(&Work<T, E>) -> Result<T> + Send + 'static) -> Result<Self> {
        let (messages, receiver) = channel();
        let interrupted = Arc::new(AtomicBool::new(false));
        let of_work = Work { interrupted: Arc::clone(&interrupted), messages };
        let thread = std::thread::Builder::new().name("arc call".into()).spawn(move || {
            let done = work(&of_work);
            let _ = of_work.messages.send(Message::Done(done));
        });
        let thread = thread.map_err(Error::io("start", "a thread"))?;
        Ok(Self { interrupted, running: Some((receiver, thread)) })
    }

    /// Waits for what comes next; nothing after the end.
    pub(crate) fn next(&mut self, py: Python<'_>) -> PyResult<Option<Step<T, E>>> {
        loop {
            let Some((receiver, thread)) = self.running.take() else { return Ok(None) };
            let (receiver, received) = py.detach(move || {
                let received = receiver.recv_timeout(LOOK);
                (receiver, received)
            });
            match received {
                Ok(Message::Done(done)) => {
                    py.check_signals()?;
                    return done
                        .map(|done| Some(Step::Done(done)))
                        .map_err(|error| errors::raised(py, &error));
                }
                Ok(Message::Event(event)) => {
                    self.running = Some((receiver, thread));
                    self.look(py)?;
                    return Ok(Some(Step::Event(event)));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.running = Some((receiver, thread));
                    self.look(py)?;
                }
                // It ended without an answer: it panicked, which Python is told.
                Err(RecvTimeoutError::Disconnected) => match thread.join() {
                    Ok(()) => return Ok(None),
                    Err(panic) => std::panic::resume_unwind(panic),
                },
            }
        }
    }

    /// Ends the call where a signal's handler raises.
    fn look(&mut self, py: Python<'_>) -> PyResult<()> {
        py.check_signals().inspect_err(|_| self.end(py))
    }

    /// Tells the work to end, and waits for it a little.
    pub(crate) fn end(&mut self, py: Python<'_>) {
        self.interrupted.store(true, Ordering::Relaxed);
        let Some((receiver, _)) = self.running.take() else { return };
        py.detach(move || {
            let until = Instant::now() + PATIENCE;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match receiver.recv_timeout(left) {
                    Ok(Message::Event(_)) => {}
                    Ok(Message::Done(_)) | Err(_) => break,
                }
            }
        });
    }
}

impl<T, E> Drop for Call<T, E> {
    fn drop(&mut self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }
}

/// Does work to its end, and hands what it says to `on_event`, which ends it by what it raises.
pub(crate) fn call_with<T: Send + 'static, E: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Work<T, E>) -> Result<T> + Send + 'static,
    mut on_event: impl FnMut(E) -> PyResult<()>,
) -> PyResult<T> {
    let mut call = Call::begin(work).map_err(|error| errors::raised(py, &error))?;
    loop {
        match call.next(py)? {
            Some(Step::Done(done)) => return Ok(done),
            Some(Step::Event(event)) => on_event(event).inspect_err(|_| call.end(py))?,
            None => return Err(errors::raised(py, &Error::Interrupted)),
        }
    }
}

/// Does work that says nothing to its end.
pub(crate) fn call<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Work<T, ()>) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    call_with(py, work, |()| Ok(()))
}
