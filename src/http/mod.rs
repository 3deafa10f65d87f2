//! The HTTP face: JSON for scripts, events for followers, metrics for Prometheus, a page for people.
//!
//! Ordinary async Rust on two threads of its own, away from the reactors' cores. It reads the
//! control plane and never waits for a reactor. Every answer, errors too, is one of [`crate::api`]'s
//! types, but for the page, the metrics and the two probes.

mod alarms;
mod connections;
mod error;
mod events;
#[cfg(test)]
mod measure;
mod metrics;
mod peers;
mod query;
mod subscribers;
#[cfg(test)]
mod tests;

use crate::api;
use crate::control::ControlState;
use crate::control::figures::Since;
use axum::extract::{Request, State};
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use connections::Limits;
use error::ApiError;
use query::{Pairs, bad_value, switch, unknown_key};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
pub use subscribers::MAX_SUBSCRIBERS;
use subscribers::Subscribers;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Threads that serve connections.
const WORKERS: usize = 2;
/// Threads for answers that take milliseconds (listings).
const MAX_ASIDE: usize = 2;
/// How long connections may take to end.
const GRACE: Duration = Duration::from_secs(2);

const PAGE: &str = include_str!("page.html");
/// The page is self-contained: it may run what is in it and ask this server, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// What every handler is given.
#[derive(Clone)]
struct Monitor {
    state: Arc<ControlState>,
    subscribers: Arc<Subscribers>,
    /// How long a request's body may take.
    patience: Duration,
    shutdown: watch::Receiver<bool>,
}

/// The running server.
pub struct Server {
    runtime: Runtime,
    task: JoinHandle<()>,
    shutdown: watch::Receiver<bool>,
}

/// Serves on a bound listener until `shutdown` turns true, or its sender is dropped; at most
/// [`MAX_SUBSCRIBERS`] follow the events at once.
///
/// # Errors
/// When the threads cannot be made or the listener cannot be used.
pub fn serve(
    listener: TcpListener,
    state: Arc<ControlState>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Server> {
    serve_within(MAX_SUBSCRIBERS, Limits::default(), listener, state, shutdown)
}

fn serve_within(
    most_subscribers: usize,
    limits: Limits,
    listener: TcpListener,
    state: Arc<ControlState>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Server> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(MAX_ASIDE)
        .thread_name("systole-http")
        .enable_all()
        .build()?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _in_runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let subscribers = Arc::new(Subscribers::at_most(most_subscribers));
    let patience = limits.patience;
    let app = router(Monitor { state, subscribers, patience, shutdown: shutdown.clone() });
    let task = runtime.spawn(connections::serve(listener, app, limits, ended(shutdown.clone())));
    Ok(Server { runtime, task, shutdown })
}

impl Server {
    /// Waits for the server to end, which it does once `shutdown` has turned true: answers under
    /// way are finished and event streams brought to their last event, for at most two seconds.
    ///
    /// # Errors
    /// When its task panicked.
    pub fn join(self) -> io::Result<()> {
        let done = self.runtime.block_on(async {
            tokio::select! {
                done = self.task => Some(done),
                () = overdue(self.shutdown) => None,
            }
        });
        self.runtime.shutdown_background();
        match done {
            Some(Err(panicked)) => Err(io::Error::other(panicked)),
            // `None` is connections that would not end; they are cut.
            Some(Ok(())) | None => Ok(()),
        }
    }
}

async fn overdue(shutdown: watch::Receiver<bool>) {
    ended(shutdown).await;
    tokio::time::sleep(GRACE).await;
}

async fn ended(mut shutdown: watch::Receiver<bool>) {
    // An error means that the sender is gone: that is an end, too.
    let _ = shutdown.wait_for(|&stop| stop).await;
}

fn router(monitor: Monitor) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::scrape))
        .route("/api/v1/summary", get(summary))
        .route("/api/v1/peers", get(peers::list))
        .route("/api/v1/peers/{*name}", get(peers::detail).delete(peers::remove))
        .route("/api/v1/events", get(events::subscribe))
        .route("/api/v1/incidents", get(alarms::incidents))
        .route("/api/v1/silences", get(alarms::silences).post(alarms::silence))
        .route("/api/v1/silences/{id}", delete(alarms::end_silence))
        .route("/api/v1/expected", get(alarms::expected))
        .route("/api/v1/qos", get(alarms::qos))
        .route("/api/v1/histograms", get(histograms))
        .route("/api/v1/histograms/reset", post(reset_histograms))
        .fallback(no_such_address)
        .method_not_allowed_fallback(no_such_method)
        .with_state(monitor)
}

/// `GET /`.
async fn page() -> impl IntoResponse {
    const POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    ([(POLICY, PAGE_POLICY), (header::CACHE_CONTROL, "no-cache")], Html(PAGE))
}

/// `GET /readyz`.
async fn ready(State(monitor): State<Monitor>) -> Result<&'static str, ApiError> {
    let starting = || ApiError::unavailable("the reactors are not running yet");
    monitor.state.is_ready().then_some("ok\n").ok_or_else(starting)
}

/// `GET /api/v1/summary`.
async fn summary(State(monitor): State<Monitor>) -> Json<api::Summary> {
    Json(monitor.state.summary())
}

/// `GET /api/v1/histograms`.
async fn histograms(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
) -> Result<Json<api::Histograms>, ApiError> {
    let (mut since, mut buckets) = (Since::Start, false);
    for (key, value) in pairs {
        match (key.as_str(), value.as_str()) {
            ("since", "start") => since = Since::Start,
            ("since", "interval") => since = Since::Interval,
            ("since", _) => return Err(bad_value(&key, &value, "must be start or interval")),
            ("buckets", _) => buckets = switch(&key, &value)?,
            _ => return Err(unknown_key(&key, "since, buckets")),
        }
    }
    Ok(Json(monitor.state.histograms(since, buckets)))
}

/// `POST /api/v1/histograms/reset`: ends the interval, begins another, answers with the ended one.
async fn reset_histograms(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
) -> Result<Json<api::Histograms>, ApiError> {
    let mut buckets = false;
    for (key, value) in pairs {
        match key.as_str() {
            "buckets" => buckets = switch(&key, &value)?,
            _ => return Err(unknown_key(&key, "buckets")),
        }
    }
    Ok(Json(monitor.state.reset_histograms(buckets)))
}

async fn no_such_address(request: Request) -> ApiError {
    ApiError::not_found(format!("there is nothing at `{}`", request.uri().path()))
}

async fn no_such_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::method_not_allowed(format!("`{path}` does not take {method}"))
}
