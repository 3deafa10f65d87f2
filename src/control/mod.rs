//! The control plane: what people and scripts see of the reactors, without ever stopping one.
//!
//! ```text
//!  reactor ──reports──▶ publisher ──▶ registry   who is behind an id
//!  (each)   queue       (a thread)└─▶ event log  transitions, numbered ──▶ followers
//!     │                                                                       ▲
//!     └── table view, counters, histograms ──▶ listing, figures ──────────────┤ http
//!     ◀── commands ──────────────────────────────────────── removal ──────────┘
//! ```
//!
//! The publisher writes, everything else reads. Whatever concerns a single peer is read from its
//! slot at the moment of asking; the control plane keeps no second copy of a peer's state that
//! could disagree. Deliberately absent: a scan of all peers behind any one answer, and any lock that
//! a reactor can reach.

pub mod events;
pub mod figures;
pub mod peers;
pub mod present;
mod publisher;
mod rate;
pub mod registry;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::engine::Groups;
use crate::engine::transition::PeerState;
use crate::metrics::{Counter, Histograms};
use crate::reactor::{self, ReactorHandle};
use events::EventLog;
use figures::Baseline;
use publisher::Publisher;
use registry::Registry;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};

/// What the control plane is told once.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The monitor's id.
    pub monitor_id: u64,
    /// The monitor's start, wall-clock nanoseconds since 1970.
    pub epoch_ns: u64,
    /// How deadlines are computed: the very ones that the shards use.
    pub groups: Arc<Groups>,
    /// Most peers that the monitor takes, over all reactors.
    pub max_peers: usize,
    /// Transitions that the event log keeps.
    pub ring_capacity: usize,
    /// The UDP addresses that the reactors listen on, ports resolved.
    pub udp: Vec<SocketAddr>,
}

/// Owns the publisher's thread. Dropped without [`Control::shutdown`] it leaves the thread running.
pub struct Control {
    state: Arc<ControlState>,
    publisher: JoinHandle<()>,
}

impl Control {
    /// Starts the publisher, which has nothing to do until [`Control::attach`].
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(config: ControlConfig) -> io::Result<Control> {
        let state = Arc::new(ControlState::new(config));
        let publisher = Publisher::new(state.clone());
        let publisher =
            thread::Builder::new().name("systole-control".into()).spawn(move || publisher.run())?;
        Ok(Control { state, publisher })
    }

    /// The thread that a reactor unparks after it has pushed a report.
    pub fn publisher_thread(&self) -> Thread {
        self.publisher.thread().clone()
    }

    /// Hands over the reactors, in the order that the steering numbers them. Reports that they
    /// have pushed already are not lost.
    ///
    /// # Panics
    /// When it is called twice.
    pub fn attach(&self, reactors: Vec<ReactorHandle>) {
        self.state.attach(reactors);
        self.publisher.thread().unpark();
    }

    /// What the HTTP server reads.
    pub fn state(&self) -> Arc<ControlState> {
        self.state.clone()
    }

    /// Publishes what the reactors have reported, then ends the thread. Call it when the reactors
    /// have ended, and before the HTTP server is told to end: followers then get the last event.
    pub fn shutdown(self) {
        // Release pairs with the Acquire in `Publisher::run`.
        self.state.stopping.store(true, Ordering::Release);
        self.publisher.thread().unpark();
        if self.publisher.join().is_err() {
            tracing::error!("the publisher panicked; its last transitions may be missing");
        }
    }
}

/// All that can be asked of the monitor. Shared by the publisher and the HTTP server's threads.
pub struct ControlState {
    /// What it was told at its start.
    pub config: ControlConfig,
    /// Names, groups and labels.
    pub registry: Registry,
    /// The latest transitions.
    pub events: EventLog,
    /// Transitions since the start, by their two ends.
    pub transitions: TransitionCounts,
    /// What the publisher measures (`Publish` alone); the reactors have their own.
    histograms: Histograms,
    /// What the resettable histograms count from.
    baseline: Mutex<Baseline>,
    reactors: OnceLock<Box<[ReactorHandle]>>,
    /// See `wall_offset_ns`.
    wall_offset_ns: AtomicI64,
    /// Heartbeats per second, the bits of an f64.
    rate_bits: AtomicU64,
    stopping: AtomicBool,
    started_ns: u64,
}

impl ControlState {
    fn new(config: ControlConfig) -> ControlState {
        ControlState {
            registry: Registry::default(),
            events: EventLog::new(config.ring_capacity),
            transitions: TransitionCounts::default(),
            histograms: Histograms::default(),
            baseline: Mutex::new(Baseline::start(config.epoch_ns)),
            reactors: OnceLock::new(),
            wall_offset_ns: AtomicI64::new(clock::wall_offset_ns()),
            rate_bits: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            started_ns: clock::monotonic_ns(),
            config,
        }
    }

    fn attach(&self, reactors: Vec<ReactorHandle>) {
        let again = self.reactors.set(reactors.into()).is_err();
        assert!(!again, "the reactors are attached once");
    }

    /// The reactors, in the order that the steering numbers them; none before they are attached.
    pub fn reactors(&self) -> &[ReactorHandle] {
        self.reactors.get().map_or(&[], |reactors| reactors)
    }

    /// The receive transport's name, `mixed` when some reactors fell back; `starting` before they
    /// are attached.
    pub fn transport(&self) -> &'static str {
        reactor::transport_of(self.reactors()).unwrap_or("starting")
    }

    /// Whether every reactor has gone round its loop: heartbeats sent now are heard.
    pub fn is_ready(&self) -> bool {
        let reactors = self.reactors();
        !reactors.is_empty() && reactors.iter().all(|r| r.counters.get(Counter::Turns) > 0)
    }

    /// A counter, over all reactors.
    pub fn count(&self, counter: Counter) -> u64 {
        self.reactors().iter().map(|reactor| reactor.counters.get(counter)).sum()
    }

    /// Peers in a state, over all reactors. No scan: the shards keep count.
    pub fn peers_in(&self, state: PeerState) -> u64 {
        self.reactors().iter().map(|reactor| reactor.states.get(state)).sum()
    }

    /// Heartbeats per second over the last second.
    pub fn heartbeats_per_second(&self) -> f64 {
        // Relaxed: a figure for people.
        f64::from_bits(self.rate_bits.load(Ordering::Relaxed))
    }

    /// What turns monotonic into wall time in everything that is shown, nanoseconds: one value for
    /// all, so that two answers do not label the same instant differently.
    pub fn wall_offset_ns(&self) -> i64 {
        // Relaxed: a label.
        self.wall_offset_ns.load(Ordering::Relaxed)
    }

    /// Follows the wall clock. Readings scatter by tens of nanoseconds; only what is more than a
    /// microsecond is the clock's own doing. The publisher calls it, at least every 100 ms.
    fn follow_wall_clock(&self) -> i64 {
        let (held, sampled) = (self.wall_offset_ns(), clock::wall_offset_ns());
        if sampled.abs_diff(held) <= 1_000 {
            return held;
        }
        // Relaxed: as above.
        self.wall_offset_ns.store(sampled, Ordering::Relaxed);
        sampled
    }

    /// For how long the monitor has been running, nanoseconds.
    pub fn uptime_ns(&self) -> u64 {
        clock::monotonic_ns().saturating_sub(self.started_ns)
    }
}

/// The states in the order of their numbers.
pub const STATES: [PeerState; 6] = [
    PeerState::Unknown,
    PeerState::Up,
    PeerState::Suspect,
    PeerState::Down,
    PeerState::Left,
    PeerState::Forgotten,
];

/// Transitions since the start. Written by the publisher, read by anybody.
#[derive(Default)]
pub struct TransitionCounts([[AtomicU64; 6]; 6]);

impl TransitionCounts {
    fn count(&self, from: PeerState, to: PeerState) {
        // Relaxed: a count, and nothing is ordered by it.
        self.0[from as usize][to as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that occurred: from, to, how often.
    pub fn occurred(&self) -> impl Iterator<Item = (PeerState, PeerState, u64)> + '_ {
        let pairs = STATES.into_iter().flat_map(|from| STATES.map(|to| (from, to)));
        pairs.filter_map(|(from, to)| {
            // Relaxed: as in `count`.
            let n = self.0[from as usize][to as usize].load(Ordering::Relaxed);
            (n > 0).then_some((from, to, n))
        })
    }
}
