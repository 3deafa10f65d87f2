//! Starts the reactors, one pinned thread each, and stops them.

use super::cores::{CorePlan, become_reactor};
use super::duty::Reactor;
use super::idle::{Idle, IdleStrategy};
use super::inbox::Inbox;
use super::mailbox::Mailbox;
use super::watch::Watch;
use super::{COMMAND_CAPACITY, REPORT_CAPACITY, ReactorHandle, ReportSender};
use crate::clock::{Clock, Monotonic};
use crate::engine::admission::{Admission, NewcomerLimits, SharedGuard};
use crate::engine::shard::{Shard, Surroundings};
use crate::engine::slot::{SlotRegion, Slots};
use crate::engine::table::Table;
use crate::engine::{Budget, Groups, StateCounts};
use crate::io::{self as transport, AnyBackend, Backend, OpenError, Transport, TransportChoice};
use crate::metrics::{Counters, Histograms};
use crate::trace::Tap;
use crossbeam::queue::ArrayQueue;
use std::hash::{BuildHasher, RandomState};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, Thread};

/// What all reactors have in common.
#[derive(Clone, Debug)]
pub struct ReactorSettings {
    /// Which transport the operator wants.
    pub transport: TransportChoice,
    /// How a reactor waits.
    pub idle: IdleStrategy,
    /// How deadlines are computed, for each group.
    pub groups: Arc<Groups>,
    /// Most peers over all reactors.
    pub max_peers: u32,
    /// Which reactor runs on which core.
    pub cores: CorePlan,
    /// Who is let in; may be replaced while the reactors run.
    pub guard: SharedGuard,
    /// How many newcomers there may be.
    pub newcomers: NewcomerLimits,
    /// Where each reactor's heartbeats are recorded; empty when they are not.
    pub taps: Vec<Tap>,
    /// Known only to this process; a probe that does not carry it is dropped.
    pub probe_secret: u64,
}

/// Why the reactors did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The transport cannot be used.
    #[error(transparent)]
    Transport(#[from] OpenError),
    /// No memory for the peers.
    #[error("no memory for {capacity} peers: {source}; lower --max-peers")]
    Memory {
        /// Slots that one reactor wanted.
        capacity: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No thread.
    #[error("starting a reactor thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A reactor panicked while it started; its message is on standard error.
    #[error("a reactor ended while it started")]
    Ended,
}

/// The running reactors.
pub struct Fleet {
    /// What other threads have of each.
    pub handles: Vec<ReactorHandle>,
    /// Why it is not io_uring although that was preferred; one line.
    pub fallback: Option<String>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Fleet {
    /// Lets each reactor read what has arrived, then ends them all.
    pub fn stop(self) {
        // Release: partner of the Acquire in the loop.
        self.stop.store(true, Ordering::Release);
        for handle in &self.handles {
            handle.waker.wake();
        }
        for thread in self.threads {
            // A panic has printed itself and has been reported as a failure.
            let _ = thread.join();
        }
    }
}

/// What a reactor thread tells when it is ready.
struct Ready {
    waker: transport::Waker,
    transport: Transport,
    fallback: Option<String>,
    cpu: Option<usize>,
}

/// Starts one reactor for each element of `sockets`. `listener` is unparked when there are reports;
/// `on_failure` gets a message when a reactor ends by itself.
///
/// # Errors
/// See [`StartError`]; no thread is left running then.
pub fn start(
    settings: &ReactorSettings,
    sockets: Vec<Vec<UdpSocket>>,
    listener: Option<Thread>,
    on_failure: impl Fn(String) + Clone + Send + 'static,
) -> Result<Fleet, StartError> {
    let reactors = sockets.len();
    let mailboxes: Arc<[Mailbox]> = (0..reactors).map(|_| Mailbox::default()).collect();
    let budget = Arc::new(Budget::new(settings.max_peers as u64));
    let mut tables = Vec::with_capacity(reactors);
    for _ in 0..reactors {
        let capacity = shard_capacity(settings.max_peers, reactors as u32);
        let region = SlotRegion::anonymous(capacity)
            .map_err(|source| StartError::Memory { capacity, source })?;
        let (a, b) = (RandomState::new(), RandomState::new());
        tables.push(Table::new(Arc::new(Slots::new(region)), [a.hash_one(0), b.hash_one(0)]));
    }
    let views: Arc<[_]> = tables.iter().map(Table::view).collect();

    let stop = Arc::new(AtomicBool::new(false));
    let mut fleet =
        Fleet { handles: Vec::new(), fallback: None, stop: stop.clone(), threads: Vec::new() };
    let mut gates = Vec::new();
    for (me, (sockets, table)) in sockets.into_iter().zip(tables).enumerate() {
        let states = Arc::new(StateCounts::default());
        let counters = Arc::new(Counters::default());
        let histograms = Arc::new(Histograms::default());
        let reports = Arc::new(ArrayQueue::new(REPORT_CAPACITY));
        let commands = Arc::new(ArrayQueue::new(COMMAND_CAPACITY));
        let core = settings.cores.reactor(me);
        let (ready, is_ready) = mpsc::channel::<Result<Ready, OpenError>>();
        let (gate, opened) = mpsc::channel::<()>();
        let build = {
            let (settings, mailboxes) = (settings.clone(), mailboxes.clone());
            let (counters, histograms) = (counters.clone(), histograms.clone());
            let commands = commands.clone();
            let views = views.clone();
            let surroundings = Surroundings {
                groups: settings.groups.clone(),
                views: views.clone(),
                budget: budget.clone(),
                states: states.clone(),
                counters: counters.clone(),
                histograms: histograms.clone(),
            };
            let reports = ReportSender::new(reports.clone(), listener.clone());
            let tap = settings.taps.get(me).cloned();
            move |backend: AnyBackend| {
                let clock = Monotonic;
                let now_ns = clock.now_ns();
                let secret = settings.probe_secret;
                let guard = settings.guard;
                let mut shard = Shard::new(table, surroundings, now_ns);
                *shard.admission() =
                    Admission::new(guard.clone(), settings.newcomers, reactors as u32);
                Reactor {
                    me,
                    backend,
                    clock,
                    shard,
                    inbox: Inbox::new(
                        me as u32,
                        secret,
                        counters.clone(),
                        mailboxes.clone(),
                        views,
                    )
                    .guarded(guard)
                    .recorded(tap),
                    reports,
                    commands,
                    mailboxes,
                    idle: Idle::new(settings.idle, now_ns),
                    counters,
                    histograms,
                    gets_mail: false,
                    drops: 0,
                    overlong: 0,
                    next_ns: None,
                    housekeeping_ns: 0,
                    watch: Watch::new(now_ns),
                }
            }
        };
        let (stop, on_failure, choice) = (stop.clone(), on_failure.clone(), settings.transport);
        let body = move || {
            let cpu = become_reactor(core);
            let opened_backend = match transport::open(choice, sockets) {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let backend = opened_backend.backend;
            let _ = ready.send(Ok(Ready {
                waker: backend.waker(),
                transport: backend.transport(),
                fallback: opened_backend.fallback.map(|reason| reason.to_string()),
                cpu,
            }));
            // Until all mailboxes know their wakers. An error means that another did not start.
            if opened.recv().is_err() {
                return;
            }
            if let Err(error) = run(build(backend), &stop) {
                on_failure(format!("reactor {me} failed: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name(format!("systole-{me}")).spawn(body)?;
        fleet.threads.push(thread);
        let ready = is_ready.recv().map_err(|_| StartError::Ended)??;
        mailboxes[me].set_waker(ready.waker.clone());
        fleet.fallback = fleet.fallback.or(ready.fallback);
        fleet.handles.push(ReactorHandle {
            view: views[me].clone(),
            states,
            counters,
            histograms,
            reports,
            commands,
            waker: ready.waker,
            transport: ready.transport,
            cpu: ready.cpu,
        });
        gates.push(gate);
    }
    for gate in gates {
        // A thread that has ended meanwhile has said so.
        let _ = gate.send(());
    }
    Ok(fleet)
}

/// Turns until it is told to stop, and once more then: what has arrived is still applied.
fn run<B: Backend, C: Clock>(mut reactor: Reactor<B, C>, stop: &AtomicBool) -> std::io::Result<()> {
    // Acquire: partner of the Release in `Fleet::stop`.
    while !stop.load(Ordering::Acquire) {
        let plan = reactor.turn()?;
        reactor.rest(plan)?;
    }
    reactor.turn().map(drop)
}

/// Slots of one shard. The hash does not deal the peers out exactly evenly, so with several shards
/// each has some to spare; the [`Budget`] keeps the total.
fn shard_capacity(max_peers: u32, reactors: u32) -> u32 {
    match reactors {
        1 => max_peers,
        _ => (max_peers.div_ceil(reactors) as u64 * 17 / 16 + 1_024).min(max_peers as u64) as u32,
    }
}
