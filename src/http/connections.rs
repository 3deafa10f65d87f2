//! Connections: how many there may be, and how long one may take to ask.
//!
//! ```text
//! loop { a place ─▶ accept ─▶ a task: header in time ─▶ answer ─▶ next header … ─▶ place free }
//! ```
//!
//! A connection that has not sent its next request's header whole within [`Limits::patience`] is
//! closed: the idle ones, and those that send a byte now and then to keep us busy. A body that does
//! not come within it is refused (`alarms.rs`). While all places are taken
//! newcomers wait in the kernel's queue, so descriptors are left for everything else. An event stream
//! is an answer under way and stays; `subscribers.rs` bounds those.
//!
//! Deliberately absent: a limit by address. Behind a proxy all come from one.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most at once.
    pub(super) connections: usize,
    /// Longest wait for a request's header, also between two requests, and for its body.
    pub(super) patience: Duration,
}

impl Default for Limits {
    /// Room for all subscribers and as many others; patience for a scraper that comes every 15 s.
    fn default() -> Limits {
        Limits { connections: 2 * super::MAX_SUBSCRIBERS, patience: Duration::from_secs(30) }
    }
}

/// Pause after the system refused a connection, for want of descriptors most likely.
const REFUSED: Duration = Duration::from_millis(100);

/// Serves until `ended`, then lets the answers under way come to their end.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    ended: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let under_way = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.patience);
    let mut ended = pin!(ended);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place.expect("the semaphore is never closed"), accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            () = &mut ended => break,
        };
        let service = TowerToHyperService::new(app.clone());
        let connection = under_way.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection");
            }
            drop(place);
        });
    }
    drop(listener);
    under_way.shutdown().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Events are small and rare: waiting to fill a segment would only delay them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return stream;
            }
            Err(error) => {
                tracing::debug!(%error, "accepting an HTTP connection");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}
