//! Continuous batching: requests to one decoder join the batch that is being written, and leave it, between two tokens.
//!
//! Each decoder that is asked has a thread. Between two tokens of those that are being written it reads a piece of one
//! prompt, so that a long one holds up nobody. Rows have keys and values of their own, and nothing is padded.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_core::burn::tensor::Tensor;
use arc_core::decoder::{Decoder, FinishReason, GenerateOptions, KvCache, Writing};
use arc_core::nn::Precision;
use arc_core::prompt::Prompt;

/// Positions of a prompt that are read at once while others wait for their next token.
const PIECE: usize = 128;
/// The same while nobody waits.
const PIECE_ALONE: usize = 512;
/// How often a thread looks after requests that wait for memory which another decoder's have.
const LOOK: Duration = Duration::from_millis(20);

/// What an engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Texts that one decoder writes at a time.
    pub rows: usize,
    /// Requests that wait, for all decoders together.
    pub waiting: usize,
    /// Bytes of keys and values of all decoders together. A request that finds nobody there is read whatever it takes.
    pub kv_bytes: u64,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self { rows: 16, waiting: 64, kv_bytes: 2 << 30 }
    }
}

/// A prompt, and the texts that are to be written behind it.
pub struct Job {
    /// Who reads it.
    pub decoder: Arc<Decoder>,
    /// What is read, once for all texts.
    pub prompt: Prompt,
    /// One for each text.
    pub texts: Vec<GenerateOptions>,
    /// How many likeliest tokens are told beside each one that is written; `None` tells nothing of the kind.
    pub likeliest: Option<usize>,
    /// When its time is up.
    pub deadline: Instant,
    /// Who hears of it.
    pub listener: Box<dyn Listener>,
}

/// Who hears what becomes of a job.
pub trait Listener: Send {
    /// Hears the next thing.
    fn hear(&mut self, event: Event);

    /// Whether somebody still wants to know. A job that nobody asks after leaves its place.
    fn listens(&self) -> bool;
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("Job");
        fields.field("decoder", &self.decoder.name).field("positions", &self.prompt.len());
        fields.field("texts", &self.texts.len()).finish_non_exhaustive()
    }
}

/// What becomes of a job.
#[derive(Debug)]
pub enum Event {
    /// It has left the queue, and its prompt is being read.
    Begun,
    /// A token of a text was written.
    Token {
        /// Which text.
        text: usize,
        /// The token, unless it was left out of the text: an end token, or a special token that stops.
        token: TokenWritten,
        /// What is certain of the text with it; often a word, sometimes nothing.
        piece: String,
    },
    /// A text has ended; its job has when all have.
    Ended {
        /// Which text.
        text: usize,
        /// Why.
        finish: FinishReason,
        /// What was held back of it until then.
        rest: String,
    },
    /// The job's time was up before its texts had ended.
    TimeUp,
    /// It failed.
    Failed(arc_core::Error),
    /// A fault of the program, caught: nothing else is to be heard of the job.
    Panicked,
}

/// A token, and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenWritten {
    /// Its id.
    pub id: u32,
    /// The natural logarithm of its probability, before temperature, top-p and the like, where it was asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens at its place, the most likely first, and theirs.
    pub likeliest: Vec<(u32, f32)>,
}

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many wait as may.
    #[error("{waiting} requests are waiting, and no more may")]
    Full {
        /// How many that is.
        waiting: usize,
        /// When there may be room, by what requests took lately.
        retry_after: Duration,
    },
    /// The engines are being shut down.
    #[error("the server is being shut down")]
    Closing,
    /// The system gives no thread.
    #[error("there is no thread for this decoder: {0}")]
    NoThread(#[from] std::io::Error),
}

/// What a decoder's engine is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// The decoder's name.
    pub decoder: String,
    /// Requests that wait.
    pub waiting: usize,
    /// Prompts that are being read.
    pub reading: usize,
    /// Texts that are being written.
    pub writing: usize,
    /// Bytes that are set aside for keys and values.
    pub kv_bytes: u64,
}

/// The engines of all decoders, each begun when it is first asked.
#[derive(Debug)]
pub struct Engines {
    limits: EngineLimits,
    precision: Precision,
    shared: Arc<Shared>,
    engines: Mutex<HashMap<String, Engine>>,
}

/// What all engines count together.
#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    kv_bytes: AtomicU64,
    /// What a job took lately, in microseconds, from its beginning to its end.
    usual: AtomicU64,
    closing: AtomicBool,
}

#[derive(Debug)]
struct Engine {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    arrived: Condvar,
    reading: AtomicUsize,
    writing: AtomicUsize,
    kv_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the keys and values of so many positions take.
#[must_use]
pub fn kv_bytes(decoder: &Decoder, precision: Precision, positions: usize) -> u64 {
    let config = decoder.network.config();
    let attention = config.block.attention;
    let size = if precision == Precision::Fast { 2 } else { 4 };
    (2 * config.n_layers * attention.n_kv_heads * attention.head_dim * size * positions) as u64
}

impl Engines {
    /// Engines for decoders that were opened with this precision.
    #[must_use]
    pub fn new(limits: EngineLimits, precision: Precision) -> Self {
        Self { limits, precision, shared: Arc::default(), engines: Mutex::default() }
    }

    /// Puts a job into the queue of its decoder.
    ///
    /// # Errors
    ///
    /// [`Refusal`], where nothing is heard of the job again.
    pub fn submit(&self, job: Job) -> Result<(), Refusal> {
        if self.shared.closing.load(Ordering::SeqCst) {
            return Err(Refusal::Closing);
        }
        let waiting = self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        if waiting >= self.limits.waiting {
            self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(Refusal::Full { waiting, retry_after: self.retry_after(waiting) });
        }
        let mut engines = lock(&self.engines);
        let name = job.decoder.name.clone();
        if !engines.contains_key(&name) {
            match self.begin(&name) {
                Ok(engine) => drop(engines.insert(name.clone(), engine)),
                Err(error) => {
                    self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
                    return Err(error.into());
                }
            }
        }
        if let Some(engine) = engines.get(&name) {
            lock(&engine.queue.jobs).push_back(job);
            engine.queue.arrived.notify_one();
        }
        Ok(())
    }

    /// When a place may be free, where so many wait.
    fn retry_after(&self, waiting: usize) -> Duration {
        let usual = Duration::from_micros(self.shared.usual.load(Ordering::Relaxed));
        let rounds = waiting.div_ceil(self.limits.rows.max(1)) as u32;
        (usual * rounds).clamp(Duration::from_secs(1), Duration::from_secs(60))
    }

    /// What each engine is doing, by name.
    #[must_use]
    pub fn states(&self) -> Vec<EngineState> {
        let engines = lock(&self.engines);
        let mut states: Vec<EngineState> = engines
            .iter()
            .map(|(name, Engine { queue, .. })| EngineState {
                decoder: name.clone(),
                waiting: lock(&queue.jobs).len(),
                reading: queue.reading.load(Ordering::Relaxed),
                writing: queue.writing.load(Ordering::Relaxed),
                kv_bytes: queue.kv_bytes.load(Ordering::Relaxed),
            })
            .collect();
        states.sort_by(|a, b| a.decoder.cmp(&b.decoder));
        states
    }

    /// Takes no more jobs, and waits until those that are there have ended.
    pub fn drain(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let engines: Vec<Engine> = lock(&self.engines).drain().map(|(_, engine)| engine).collect();
        for engine in &engines {
            engine.queue.arrived.notify_all();
        }
        for engine in engines {
            // It catches what its jobs panic with.
            let _ = engine.thread.join();
        }
    }

    fn begin(&self, name: &str) -> std::io::Result<Engine> {
        let queue = Arc::<Queue>::default();
        let run = Run {
            limits: self.limits,
            precision: self.precision,
            shared: Arc::clone(&self.shared),
            queue: Arc::clone(&queue),
            decoder: None,
            reading: VecDeque::new(),
            writing: Vec::new(),
        };
        let thread = std::thread::Builder::new().name(format!("decoder {name}")).spawn(move || run.go())?;
        Ok(Engine { queue, thread })
    }
}

/// A job that has left the queue, shared by its rows.
struct Begun {
    likeliest: Option<usize>,
    deadline: Instant,
    start: Instant,
    listener: Mutex<Box<dyn Listener>>,
    /// It has failed, or its time is up.
    is_gone: AtomicBool,
    /// Bytes that are set aside for its keys and values.
    kv_bytes: u64,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
}

impl Begun {
    fn tell(&self, event: Event) {
        if !self.is_gone.load(Ordering::Relaxed) {
            lock(&self.listener).hear(event);
        }
    }

    /// Tells a last thing of a job that ends before its texts do.
    fn give_up(&self, event: Event) {
        self.tell(event);
        self.is_gone.store(true, Ordering::Relaxed);
    }

    /// Whether it is to go on; a job whose time is up is told so.
    fn goes_on(&self) -> bool {
        if Instant::now() >= self.deadline {
            self.give_up(Event::TimeUp);
        }
        !self.is_gone.load(Ordering::Relaxed) && lock(&self.listener).listens()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.shared.kv_bytes.fetch_sub(self.kv_bytes, Ordering::SeqCst);
        self.queue.kv_bytes.fetch_sub(self.kv_bytes, Ordering::SeqCst);
        let took = self.start.elapsed().as_micros() as u64;
        let usual = self.shared.usual.load(Ordering::Relaxed);
        self.shared.usual.store((3 * usual + took) / 4, Ordering::Relaxed);
    }
}

/// A prompt that is being read.
struct Reading {
    job: Arc<Begun>,
    /// `[positions, d]`
    embeddings: Tensor<2>,
    cache: KvCache,
    texts: Vec<Writing>,
}

/// A text that is being written.
struct Row {
    job: Arc<Begun>,
    /// Its number among those of its job.
    text: usize,
    writing: Writing,
    cache: KvCache,
}

impl Row {
    /// Writes the next token, tells of it, and returns whether the text goes on.
    fn write(&mut self, logits: &mut [f32]) -> bool {
        let scores = self.job.likeliest.map(|count| Scores::of(logits, count));
        let mut piece = String::new();
        let id = match self.writing.write(logits, |text| piece.push_str(text)) {
            Ok(id) => id,
            Err(error) => {
                self.job.give_up(Event::Failed(error));
                return false;
            }
        };
        let token = TokenWritten {
            id,
            logprob: scores.as_ref().map(|scores| scores.before[id as usize]),
            likeliest: scores.map(|scores| scores.likeliest).unwrap_or_default(),
        };
        let finish = self.writing.finish();
        let (piece, rest) = if finish.is_some() { (String::new(), piece) } else { (piece, String::new()) };
        self.job.tell(Event::Token { text: self.text, token, piece });
        if let Some(finish) = finish {
            self.job.tell(Event::Ended { text: self.text, finish, rest });
        }
        finish.is_none()
    }
}

/// How likely tokens are, from logits.
struct Scores {
    /// The logarithm of each token's probability.
    before: Vec<f32>,
    likeliest: Vec<(u32, f32)>,
}

impl Scores {
    fn of(logits: &[f32], count: usize) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
        let all = highest + sum.ln() as f32;
        let before: Vec<f32> = logits.iter().map(|logit| logit - all).collect();
        let mut likeliest: Vec<(u32, f32)> = Vec::new();
        if count > 0 {
            let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
            let by_logit =
                |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
            let count = count.min(ids.len());
            ids.select_nth_unstable_by(count - 1, by_logit);
            ids.truncate(count);
            ids.sort_unstable_by(by_logit);
            likeliest = ids.into_iter().map(|id| (id, before[id as usize])).collect();
        }
        Self { before, likeliest }
    }
}

/// The thread of one decoder.
struct Run {
    limits: EngineLimits,
    precision: Precision,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    /// Whose rows these are. A name may come to mean another model; its jobs wait until these have ended.
    decoder: Option<Arc<Decoder>>,
    reading: VecDeque<Reading>,
    writing: Vec<Row>,
}

impl Run {
    fn go(mut self) {
        while self.take() {
            if catch_unwind(AssertUnwindSafe(|| self.step())).is_err() {
                // What the rows have is not to be trusted; the weights are never written.
                for Reading { job, .. } in self.reading.drain(..) {
                    job.give_up(Event::Panicked);
                }
                for Row { job, .. } in self.writing.drain(..) {
                    job.give_up(Event::Panicked);
                }
            }
            self.count();
        }
    }

    fn count(&self) {
        self.queue.reading.store(self.reading.len(), Ordering::Relaxed);
        self.queue.writing.store(self.writing.len(), Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.reading.is_empty() && self.writing.is_empty()
    }

    /// Takes jobs from the queue as long as there are places. Waits where there is nothing to do, and returns whether
    /// there ever will be.
    fn take(&mut self) -> bool {
        let queue = Arc::clone(&self.queue);
        let mut jobs = lock(&queue.jobs);
        loop {
            // Those whose time is up, or that nobody asks after, leave room for others.
            let now = Instant::now();
            let before = jobs.len();
            jobs.retain_mut(|job| {
                let has_time = now < job.deadline;
                if !has_time {
                    job.listener.hear(Event::TimeUp);
                }
                has_time && job.listener.listens()
            });
            self.shared.waiting.fetch_sub(before - jobs.len(), Ordering::SeqCst);
            while let Some(job) = jobs.front() {
                if self.is_idle() {
                    self.decoder = None;
                }
                let kv_bytes = self.kv_bytes(job);
                if !self.has_place(job, kv_bytes) {
                    break;
                }
                let Some(job) = jobs.pop_front() else { break };
                self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
                self.begin(job, kv_bytes);
            }
            self.count();
            if !self.is_idle() {
                return true;
            }
            if jobs.is_empty() {
                self.decoder = None;
                if self.shared.closing.load(Ordering::SeqCst) {
                    return false;
                }
            }
            jobs = match jobs.is_empty() {
                true => queue.arrived.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                false => match queue.arrived.wait_timeout(jobs, LOOK) {
                    Ok((jobs, _)) => jobs,
                    Err(poisoned) => poisoned.into_inner().0,
                },
            };
        }
    }

    /// What the keys and values of a job take at most: they are reserved in steps.
    fn kv_bytes(&self, job: &Job) -> u64 {
        let positions =
            job.texts.iter().map(|text| (job.prompt.len() + text.max_tokens).next_multiple_of(256)).sum();
        kv_bytes(&job.decoder, self.precision, positions)
    }

    fn has_place(&self, job: &Job, kv_bytes: u64) -> bool {
        if self.is_idle() {
            // Whoever comes first is served, however much it takes: its limits were checked before.
            let others = self.shared.kv_bytes.load(Ordering::SeqCst);
            return others == 0 || others + kv_bytes <= self.limits.kv_bytes;
        }
        let rows = self.writing.len() + self.reading.iter().map(|reading| reading.texts.len()).sum::<usize>();
        self.decoder.as_ref().is_some_and(|decoder| Arc::ptr_eq(decoder, &job.decoder))
            && rows + job.texts.len() <= self.limits.rows
            && self.shared.kv_bytes.load(Ordering::SeqCst) + kv_bytes <= self.limits.kv_bytes
    }

    fn begin(&mut self, job: Job, kv_bytes: u64) {
        let Job { decoder, prompt, texts, likeliest, deadline, mut listener } = job;
        listener.hear(Event::Begun);
        self.shared.kv_bytes.fetch_add(kv_bytes, Ordering::SeqCst);
        self.queue.kv_bytes.fetch_add(kv_bytes, Ordering::SeqCst);
        let job = Arc::new(Begun {
            likeliest,
            deadline,
            start: Instant::now(),
            listener: Mutex::new(listener),
            is_gone: AtomicBool::new(false),
            kv_bytes,
            shared: Arc::clone(&self.shared),
            queue: Arc::clone(&self.queue),
        });
        let ids = prompt.token_ids();
        let texts: arc_core::Result<Vec<Writing>> =
            texts.iter().map(|options| decoder.begin(ids.clone(), options)).collect();
        match texts {
            Ok(texts) => {
                let embeddings = prompt.embed(|ids| decoder.network.embed(ids));
                let cache = decoder.network.new_cache(vec![0]);
                self.reading.push_back(Reading { job, embeddings, cache, texts });
                self.decoder = Some(decoder);
            }
            Err(error) => job.give_up(Event::Failed(error)),
        }
    }

    /// Reads a piece of one prompt, and writes a token of every text.
    fn step(&mut self) {
        self.reading.retain(|reading| reading.job.goes_on());
        self.writing.retain(|row| row.job.goes_on());
        let Some(decoder) = self.decoder.clone() else { return };
        if let Some(reading) = self.reading.pop_front() {
            self.read(&decoder, reading);
        }
        if self.writing.is_empty() {
            return;
        }
        let last: Vec<u32> =
            self.writing.iter().filter_map(|row| row.writing.token_ids().last().copied()).collect();
        let embedded = decoder.network.embed(&last);
        let mut caches: Vec<&mut KvCache> = self.writing.iter_mut().map(|row| &mut row.cache).collect();
        let hidden = decoder.network.forward_next(embedded, &mut caches);
        let mut logits = logits_of(&decoder, hidden);
        let mut logits = logits.iter_mut();
        self.writing.retain_mut(|row| logits.next().is_some_and(|logits| row.write(logits)));
    }

    /// Reads the next piece of a prompt. Where it is the last one, the first token of each text is written.
    fn read(&mut self, decoder: &Decoder, mut reading: Reading) {
        let [positions, d] = reading.embeddings.dims();
        let from = reading.cache.len();
        let most = if self.writing.is_empty() && self.reading.is_empty() { PIECE_ALONE } else { PIECE };
        let s = most.min(positions - from);
        let piece = reading.embeddings.clone().narrow(0, from, s).reshape([1, s, d]);
        let hidden = decoder.network.forward(piece, &mut reading.cache);
        if from + s < positions {
            // Prompts are read in turns, so that a short one is not behind a long one for long.
            self.reading.push_back(reading);
            return;
        }
        let logits = logits_of(decoder, hidden.narrow(1, s - 1, 1).reshape([1, d])).remove(0);
        let Reading { job, cache, texts, .. } = reading;
        for (text, writing) in texts.into_iter().enumerate() {
            let mut row = Row { job: Arc::clone(&job), text, writing, cache: cache.clone() };
            if row.write(&mut logits.clone()) {
                self.writing.push(row);
            }
        }
    }
}

/// The logits behind hidden states `[b, d]`, on the host.
fn logits_of(decoder: &Decoder, hidden: Tensor<2>) -> Vec<Vec<f32>> {
    let [b, d] = hidden.dims();
    let logits = decoder.network.logits(hidden.reshape([b, 1, d]));
    let vocabulary = logits.dims()[2];
    let data = logits.into_data().convert::<f32>();
    let values = data.as_slice::<f32>().expect("converted to f32");
    values.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect()
}
