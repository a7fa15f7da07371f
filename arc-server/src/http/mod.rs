//! The server: OpenAI's endpoints, and what is ours.

mod answer;
mod auth;
mod completions;
mod compress;
mod errors;
mod files;
mod metrics;
mod models;
mod openapi;
mod prepare;
mod router;
mod serving;
mod stored;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_core::Session;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::metrics::Metrics;
use crate::engine::{EngineLimits, Engines};
use crate::latents::LatentsCache;

/// What requests may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Requests that are worked on, or wait, at a time: of more, the next are told to come again.
    pub requests: usize,
    /// Connections that are open at a time; more wait to be accepted.
    pub connections: usize,
    /// New tokens of one answer.
    pub new_tokens: usize,
    /// How long a request may take, from its headers to its last token.
    pub request_time: Duration,
    /// How long a client may take for its headers.
    pub header_time: Duration,
    /// How long a client may take for its body.
    pub body_time: Duration,
    /// How long requests that are being answered have when the server is told to end.
    pub drain_time: Duration,
    /// Bytes of latents that are held for who asks next.
    pub latents_bytes: u64,
    /// Documents that wait to be compressed.
    pub compressing: usize,
    /// What the decoders may take.
    pub engine: EngineLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            requests: 128,
            connections: 512,
            new_tokens: 1024,
            request_time: Duration::from_secs(300),
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            drain_time: Duration::from_secs(30),
            latents_bytes: 512 << 20,
            compressing: 256,
            engine: EngineLimits::default(),
        }
    }
}

/// How the log is written, to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How the server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens. Other than on a loopback address it needs a key.
    pub host: IpAddr,
    /// The port; 0 is any that is free.
    pub port: u16,
    /// Keys, of which a request is to have one. Without any, whoever reaches the address may ask.
    pub keys: Vec<String>,
    /// What requests may take.
    pub limits: Limits,
    /// Decoders that are loaded, each with its encoder, before `/ready` says yes.
    pub preload: Vec<String>,
    /// Whether models may be fetched that are not on this machine; what is listed as available depends on it.
    pub may_pull: bool,
    /// A folder of latents files, which requests name by their ids.
    pub documents: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            keys: Vec::new(),
            limits: Limits::default(),
            preload: Vec::new(),
            may_pull: false,
            documents: None,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Others could reach it, and it asks for no key.
    #[error("`{host}` can be reached from other machines, and there is no key")]
    NeedsKey {
        /// The address.
        host: IpAddr,
    },
    /// A key that is too easily guessed.
    #[error("a key has {length} characters, and 16 at least are needed")]
    WeakKey {
        /// How many it has.
        length: usize,
    },
    /// The system refuses the address.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
    /// The folder of stored documents cannot be read.
    #[error("cannot read `{}`: {source}", folder.display())]
    Documents {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model that was to be loaded first cannot be, or a stored document is not sound.
    #[error(transparent)]
    Core(#[from] arc_core::Error),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) session: SessionHandle,
    pub(crate) engines: Engines,
    pub(crate) latents: LatentsCache,
    pub(crate) limits: Limits,
    pub(crate) keys: auth::Keys,
    /// Whether only this machine reaches it, so that names of other hosts in requests are a browser's that was led here.
    pub(crate) is_loopback: bool,
    pub(crate) metrics: Metrics,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) is_ready: AtomicBool,
    pub(crate) may_pull: bool,
    pub(crate) stored: stored::Stored,
}

/// A session, which cannot be printed.
#[derive(Clone)]
pub(crate) struct SessionHandle(pub(crate) Arc<Session>);

impl std::fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl std::ops::Deref for SessionHandle {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.0
    }
}

/// A server that listens, and answers once it runs.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: std::net::TcpListener,
    address: SocketAddr,
    preload: Vec<String>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    ///
    /// [`ServeError`] for an address that others reach where there is no key, a key that is too short, a stored document
    /// that is not sound, and whatever the system refuses.
    pub fn bind(session: Arc<Session>, options: Options) -> Result<Self, ServeError> {
        let Options { host, port, keys, limits, preload, may_pull, documents } = options;
        if !host.is_loopback() && keys.is_empty() {
            return Err(ServeError::NeedsKey { host });
        }
        if let Some(short) = keys.iter().find(|key| key.chars().count() < 16) {
            return Err(ServeError::WeakKey { length: short.chars().count() });
        }
        let stored = documents.as_deref().map(stored::Stored::open).transpose()?.unwrap_or_default();
        let address = SocketAddr::new(host, port);
        let failed = |source| ServeError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let latents =
            LatentsCache::new(limits.latents_bytes, limits.compressing).map_err(ServeError::Threads)?;
        let app = App {
            engines: Engines::new(limits.engine, session.precision()),
            latents,
            keys: auth::Keys::new(&keys),
            is_loopback: host.is_loopback(),
            metrics: Metrics::new(),
            requests: Arc::new(Semaphore::new(limits.requests)),
            is_ready: AtomicBool::new(false),
            may_pull,
            stored,
            session: SessionHandle(session),
            limits,
        };
        Ok(Self { app: Arc::new(app), listener, address, preload })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is set; what is being answered then is answered to its end, or to the end of the time that
    /// there is for it.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if the system gives no threads, or a model that was to be loaded first cannot be.
    pub fn run(self, stop: &AtomicBool) -> Result<(), ServeError> {
        let Self { app, listener, preload, .. } = self;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // The decoders' threads do the work; these pass it on.
            .worker_threads(2)
            .enable_all()
            .thread_name("http")
            .build()
            .map_err(ServeError::Threads)?;
        let loading = Arc::clone(&app);
        let loader = std::thread::spawn(move || -> arc_core::Result<()> {
            for name in &preload {
                loading.session.adapted_decoder(name)?;
                loading.session.encoder_for(name)?;
            }
            loading.is_ready.store(true, Ordering::SeqCst);
            Ok(())
        });
        let (of_loader, failed) = (Arc::clone(&app), Arc::new(AtomicBool::new(false)));
        let has_failed = Arc::clone(&failed);
        let stopped = async move {
            while !stop.load(Ordering::SeqCst) && !has_failed.load(Ordering::SeqCst) {
                if loader.is_finished() && !of_loader.is_ready.load(Ordering::SeqCst) {
                    has_failed.store(true, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            loader
        };
        let loader = runtime.block_on(async {
            let listener = TcpListener::from_std(listener).map_err(ServeError::Threads)?;
            Ok::<_, ServeError>(serving::serve(Arc::clone(&app), listener, stopped).await)
        })?;
        // Connections have ended, or their time was up: what is left is for nobody.
        runtime.shutdown_background();
        app.latents.drain();
        app.engines.drain();
        if failed.load(Ordering::SeqCst) {
            return match loader.join() {
                Ok(loaded) => Ok(loaded?),
                Err(panic) => std::panic::resume_unwind(panic),
            };
        }
        Ok(())
    }
}

/// Has the log written to standard error, unless somebody else takes it already.
pub fn log_to_standard_error(form: LogForm) {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    // Where somebody has set another subscriber, that one hears it.
    let _ = match form {
        LogForm::Text => builder.try_init(),
        LogForm::Json => builder.json().flatten_event(true).try_init(),
    };
}
