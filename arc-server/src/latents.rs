//! Documents compressed once, whoever asks: latents by the hash of their text, under a budget of bytes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use arc_core::Error;
use arc_core::encoder::{CompressOptions, Encoder, Latents};

/// What latents depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LatentsKey {
    /// The encoder's identity.
    pub encoder_id: String,
    /// How many tokens a latent stands for; the encoder's own rate where `None`.
    pub factor: Option<usize>,
    /// The sha256 of the text's UTF-8 bytes.
    pub text_sha256: String,
}

impl LatentsKey {
    /// Of a text that an encoder is to compress.
    #[must_use]
    pub fn new(encoder: &Encoder, factor: Option<usize>, text: &str) -> Self {
        // Who asks for the encoder's own rate gets what those get who ask for none.
        let is_own = |factor: &usize| encoder.pools_by_factor() && *factor == encoder.default_factor();
        Self {
            encoder_id: encoder.id.clone(),
            factor: factor.filter(|factor| !is_own(factor)),
            text_sha256: arc_adapters::sha256_hex(text.as_bytes()),
        }
    }
}

/// Why there are no latents. Several may have waited for the same ones.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoLatents {
    /// As many documents wait to be compressed as may.
    #[error("{waiting} documents are waiting to be compressed, and no more may")]
    Full {
        /// How many that is.
        waiting: usize,
    },
    /// There would be more than whoever waits has room for; nothing was compressed.
    #[error("a document of {tokens} tokens makes {latents} latents, and there is room for {room} at most")]
    TooMany {
        /// Tokens of the text.
        tokens: usize,
        /// The latents that it would make.
        latents: usize,
        /// The most that somebody had room for.
        room: usize,
    },
    /// Compressing failed.
    #[error(transparent)]
    Failed(Arc<Error>),
    /// A fault of the program, caught.
    #[error("compressing the document ended in a fault of the program")]
    Panicked,
    /// The server is being shut down.
    #[error("the server is being shut down")]
    Closing,
}

/// Latents, and whether somebody had asked for them before.
#[derive(Clone, Debug)]
pub struct Found {
    /// The latents.
    pub latents: Arc<Latents>,
    /// Whether nothing had to be computed.
    pub is_hit: bool,
}

/// Who waits for latents.
pub trait Waiter: Send {
    /// Whether somebody still wants them.
    fn waits(&self) -> bool;

    /// How many there is room for.
    fn room(&self) -> usize;

    /// Gets them, or why there are none.
    fn take(self: Box<Self>, found: Result<Found, NoLatents>);
}

/// What the cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Latents that were there, or being made for somebody else.
    pub hits: u64,
    /// Latents that had to be made.
    pub misses: u64,
    /// Texts whose latents are held.
    pub entries: usize,
    /// What these take.
    pub bytes: u64,
    /// Texts that wait to be compressed, or are being compressed.
    pub waiting: usize,
}

/// Texts that are compressed at a time: a short one is not behind a long one.
const THREADS: usize = 2;

/// Latents of documents, and the threads that make them.
pub struct LatentsCache {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    budget: u64,
    waiting: usize,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    held: HashMap<LatentsKey, Held>,
    /// Keys by when they were last asked for.
    uses: BTreeMap<u64, LatentsKey>,
    clock: u64,
    bytes: u64,
    wanted: VecDeque<Task>,
    waiters: HashMap<LatentsKey, Vec<Box<dyn Waiter>>>,
    counts: CacheCounts,
    is_closing: bool,
}

struct Held {
    latents: Arc<Latents>,
    bytes: u64,
    used: u64,
}

struct Task {
    key: LatentsKey,
    encoder: Arc<Encoder>,
    text: Arc<str>,
}

impl std::fmt::Debug for LatentsCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LatentsCache").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl State {
    /// Marks latents as used just now.
    fn touch(&mut self, key: &LatentsKey) -> Option<Arc<Latents>> {
        self.clock += 1;
        let held = self.held.get_mut(key)?;
        self.uses.remove(&held.used);
        held.used = self.clock;
        self.uses.insert(self.clock, key.clone());
        Some(Arc::clone(&held.latents))
    }

    /// Keeps latents, and lets go what was used least recently until all fit.
    fn keep(&mut self, key: LatentsKey, latents: &Arc<Latents>, budget: u64) {
        let [n, d] = latents.values.dims();
        let bytes = (n * d * size_of::<f32>() + size_of::<Held>()) as u64;
        if bytes > budget || self.held.contains_key(&key) {
            return;
        }
        self.clock += 1;
        self.uses.insert(self.clock, key.clone());
        self.held.insert(key, Held { latents: Arc::clone(latents), bytes, used: self.clock });
        self.bytes += bytes;
        while self.bytes > budget {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            if let Some(held) = self.held.remove(&oldest) {
                self.bytes -= held.bytes;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits for these latents any more.
    fn is_unwanted(&self, key: &LatentsKey) -> bool {
        !self.lock().waiters.get(key).is_some_and(|waiters| waiters.iter().any(|waiter| waiter.waits()))
    }

    /// How many of these latents somebody has room for at most.
    fn room(&self, key: &LatentsKey) -> usize {
        let state = self.lock();
        state.waiters.get(key).into_iter().flatten().map(|waiter| waiter.room()).max().unwrap_or(0)
    }

    /// The next text that somebody waits for; nothing once the cache is closed.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            while let Some(task) = state.wanted.pop_front() {
                let waiters = state.waiters.get(&task.key);
                if waiters.is_some_and(|waiters| waiters.iter().any(|waiter| waiter.waits())) {
                    return Some(task);
                }
                state.waiters.remove(&task.key);
            }
            if state.is_closing {
                return None;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Compresses a text, unless nobody has room for what would come of it; ends early where nobody waits any more.
    fn compress(&self, Task { key, encoder, text }: &Task) -> Result<Latents, NoLatents> {
        let failed = |error| NoLatents::Failed(Arc::new(error));
        let tokens = encoder.tokenise_hashed(text, key.text_sha256.clone()).map_err(failed)?;
        let options = CompressOptions::default().with_factor(key.factor);
        let latents = encoder.chunk_latents(tokens.ids.len(), options).map_err(failed)?.iter().sum();
        let room = self.room(key);
        // Where nobody is left that is no reason: it ends with the first chunk.
        if latents > room && room > 0 {
            return Err(NoLatents::TooMany { tokens: tokens.ids.len(), latents, room });
        }
        let on_chunk = |_| if self.is_unwanted(key) { Err(Error::Interrupted) } else { Ok(()) };
        encoder.compress_tokenised(&tokens, options, on_chunk).map_err(failed)
    }

    fn run(&self) {
        while let Some(task) = self.next() {
            let made = catch_unwind(AssertUnwindSafe(|| self.compress(&task)));
            let Task { key, encoder, text } = task;
            let mut state = self.lock();
            let made = match made {
                Ok(Ok(latents)) => {
                    let latents = Arc::new(latents);
                    state.keep(key.clone(), &latents, self.budget);
                    Ok(latents)
                }
                // Somebody may have begun to wait just after the last one had gone.
                Ok(Err(NoLatents::Failed(error))) if matches!(*error, Error::Interrupted) => {
                    let is_wanted = state.waiters.get(&key).is_some_and(|w| w.iter().any(|w| w.waits()));
                    if is_wanted {
                        state.wanted.push_front(Task { key, encoder, text });
                    } else {
                        state.waiters.remove(&key);
                    }
                    continue;
                }
                Ok(Err(none)) => Err(none),
                Err(_) => Err(NoLatents::Panicked),
            };
            let waiters = state.waiters.remove(&key).unwrap_or_default();
            drop(state);
            for (place, waiter) in waiters.into_iter().enumerate() {
                let found = made.clone().map(|latents| Found { latents, is_hit: place > 0 });
                waiter.take(found);
            }
        }
    }
}

impl LatentsCache {
    /// A cache that holds at most so many bytes of latents, for which at most so many texts wait to be compressed.
    ///
    /// # Errors
    ///
    /// Of the system, which gives no thread.
    pub fn new(budget: u64, waiting: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { budget, waiting, state: Mutex::default(), arrived: Condvar::new() });
        let begin = |_| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("compressing".into()).spawn(move || shared.run())
        };
        let threads = (0..THREADS).map(begin).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Has a waiter get the latents of a text: at once where they are held, else once they are made. Two who ask for
    /// the same get the same.
    pub fn get(
        &self,
        encoder: &Arc<Encoder>,
        factor: Option<usize>,
        text: Arc<str>,
        waiter: Box<dyn Waiter>,
    ) {
        let key = LatentsKey::new(encoder, factor, &text);
        let mut state = self.shared.lock();
        if let Some(latents) = state.touch(&key) {
            state.counts.hits += 1;
            drop(state);
            return waiter.take(Ok(Found { latents, is_hit: true }));
        }
        if state.is_closing {
            drop(state);
            return waiter.take(Err(NoLatents::Closing));
        }
        if let Some(waiters) = state.waiters.get_mut(&key) {
            waiters.push(waiter);
            state.counts.hits += 1;
            return;
        }
        if state.wanted.len() >= self.shared.waiting {
            let waiting = state.wanted.len();
            drop(state);
            return waiter.take(Err(NoLatents::Full { waiting }));
        }
        state.counts.misses += 1;
        state.waiters.insert(key.clone(), vec![waiter]);
        state.wanted.push_back(Task { key, encoder: Arc::clone(encoder), text });
        drop(state);
        self.shared.arrived.notify_one();
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let state = self.shared.lock();
        let (entries, bytes, waiting) = (state.held.len(), state.bytes, state.waiters.len());
        CacheCounts { entries, bytes, waiting, ..state.counts }
    }

    /// Takes no more texts, and waits until those that are wanted have been compressed.
    pub fn drain(&self) {
        self.shared.lock().is_closing = true;
        self.shared.arrived.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // It catches what compressing panics with.
            let _ = thread.join();
        }
    }
}
