//! Connections: accepted, given their time, and ended.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::{App, router};

/// Headers of a request, at most.
const HEADERS: usize = 64;
/// Bytes of a request's headers, and of what is read ahead of its body, at most.
const HEADER_BYTES: usize = 32 << 10;

/// Answers until `stopped` is there, and returns what it gives, once the connections have ended or their time is up.
pub(super) async fn serve<T>(app: Arc<App>, listener: TcpListener, stopped: impl Future<Output = T>) -> T {
    let service = router::router(Arc::clone(&app));
    let connections = Arc::new(Semaphore::new(app.limits.connections));
    let (ending, ended) = watch::channel(false);
    let mut stopped = std::pin::pin!(stopped);
    let stopped = loop {
        let accepted = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            stopped = &mut stopped => break stopped,
        };
        let (Ok((stream, _)), Ok(place)) = (accepted, place) else {
            // No file is left for it, say: who waits for one gets it when another connection ends.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Tokens are sent as they come.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(app.limits.header_time)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES);
        let connection =
            http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let mut ended = ended.clone();
        tokio::spawn(async move {
            let _place = place;
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // What goes wrong on a connection was told on it, or there is nobody to tell.
                _ = connection.as_mut() => return,
                _ = ended.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    };
    drop(listener);
    app.is_ready.store(false, Ordering::SeqCst);
    tracing::info!("ending: what is being answered is answered to its end");
    // Nobody is left to hear it where there are no connections.
    let _ = ending.send(true);
    let all = app.limits.connections as u32;
    if tokio::time::timeout(app.limits.drain_time, connections.acquire_many(all)).await.is_err() {
        tracing::warn!("ending: the time for it is up, and what is not answered is cut off");
    }
    stopped
}
