//! Starts the reactors, one pinned thread each, and stops them.

use super::cores::{CorePlan, become_reactor};
use super::duty::{Reactor, Turns};
use super::idle::{Idle, IdleStrategy};
use super::inbox::Inbox;
use super::mailbox::Mailbox;
use super::{COMMAND_CAPACITY, REPORT_CAPACITY, ReactorHandle, ReportSender};
use crate::clock::{Clock, Monotonic};
use crate::engine::admission::{Admission, NewcomerLimits, SharedGuard};
use crate::engine::recover::{Found, Terms};
use crate::engine::shard::{Shard, Surroundings};
use crate::engine::slot::{Kept, ShardMemory, Slots};
use crate::engine::table::Table;
use crate::engine::{Budget, Groups, StateCounts};
use crate::io::{
    self as transport, AnyBackend, Backend, Inlet, OpenError, Transport, TransportChoice, sockets,
};
use crate::metrics::{Counter, Counters, Histograms};
use crate::trace::Tap;
use crossbeam::queue::ArrayQueue;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    /// Whether what an earlier process's detectors had learnt means something to ours.
    pub learnt_holds: bool,
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

/// Memory for the slots of so many reactors, that ends with this process.
///
/// # Errors
/// [`StartError::Memory`].
pub fn anonymous_memory(max_peers: u32, reactors: u32) -> Result<Vec<ShardMemory>, StartError> {
    let capacity = shard_capacity(max_peers, reactors);
    let one = |_| {
        ShardMemory::anonymous(capacity).map_err(|source| StartError::Memory { capacity, source })
    };
    (0..reactors).map(one).collect()
}

/// Starts one reactor for each inlet, with the element of `memory` at its place; what
/// an earlier process left there is taken over. `listener` is unparked when there are reports;
/// `on_failure` gets a message when a reactor ends by itself.
///
/// # Errors
/// See [`StartError`]; no thread is left running then.
pub fn start(
    settings: &ReactorSettings,
    inlets: Vec<Inlet>,
    memory: Vec<ShardMemory>,
    listener: Option<Thread>,
    on_failure: impl Fn(String) + Clone + Send + 'static,
) -> Result<Fleet, StartError> {
    let reactors = inlets.len();
    let mailboxes: Arc<[Mailbox]> = (0..reactors).map(|_| Mailbox::default()).collect();
    let budget = Arc::new(Budget::new(settings.max_peers as u64));
    let estates = take_over(memory, settings);
    let views: Arc<[_]> = estates.iter().map(|estate| estate.table.view()).collect();

    let stop = Arc::new(AtomicBool::new(false));
    let mut fleet =
        Fleet { handles: Vec::new(), fallback: None, stop: stop.clone(), threads: Vec::new() };
    let reading = Arc::new(AtomicUsize::new(reactors));
    let (mut gates, mut waiting, mut handles) = (Vec::new(), Vec::new(), Vec::new());
    for (me, (inlet, mut estate)) in inlets.into_iter().zip(estates).enumerate() {
        // What the rings of AF_XDP held is gone with them.
        let sockets = if inlet.xdp.is_some() { 0 } else { sockets::identity(&inlet.sockets) };
        if let Some(kept) = &mut estate.kept {
            kept.left = kept.left.filter(|left| left.sockets == sockets);
        }
        let left = estate.kept.as_ref().and_then(|kept| kept.left);
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
            let (views, commands) = (views.clone(), commands.clone());
            let journal = estate.kept.as_ref().map(|kept| kept.journal.clone());
            let reports =
                ReportSender::new(reports.clone(), listener.clone()).with_journal(journal.clone());
            let tap = settings.taps.get(me).cloned();
            move |backend: AnyBackend, mut shard: Shard| {
                let clock = Monotonic;
                let now_ns = clock.now_ns();
                let secret = settings.probe_secret;
                let guard = settings.guard;
                *shard.admission() =
                    Admission::new(guard.clone(), settings.newcomers, reactors as u32);
                Reactor {
                    me,
                    backend,
                    clock,
                    shard,
                    journal,
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
                    sockets,
                    turns: Turns::begin(now_ns),
                }
            }
        };
        let shard = {
            let surroundings = Surroundings {
                groups: settings.groups.clone(),
                views: views.clone(),
                budget: budget.clone(),
                states: states.clone(),
                counters: counters.clone(),
                histograms: histograms.clone(),
            };
            move || estate.into_shard(surroundings)
        };
        let reading = Reading(reading.clone());
        let (stop, on_failure, choice) = (stop.clone(), on_failure.clone(), settings.transport);
        let body = move || {
            let cpu = become_reactor(core);
            let opened_backend = match transport::open(choice, inlet) {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let backend = opened_backend.backend;
            let (shard, looked_ns) = shard();
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
            let mut reactor = build(backend, shard);
            if let Some(looked_ns) = looked_ns {
                reactor.was_absent_since(looked_ns, left);
            }
            if let Err(error) = run(reactor, &stop, reading) {
                on_failure(format!("reactor {me} failed: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name(format!("systole-{me}")).spawn(body)?;
        fleet.threads.push(thread);
        waiting.push(is_ready);
        handles.push((states, counters, histograms, reports, commands));
        gates.push(gate);
    }
    for (me, (is_ready, shared)) in waiting.into_iter().zip(handles).enumerate() {
        let (states, counters, histograms, reports, commands) = shared;
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
    }
    for gate in gates {
        // A thread that has ended meanwhile has said so.
        let _ = gate.send(());
    }
    Ok(fleet)
}

/// What a reactor starts with: its peers, and what is known of the process that had them before.
struct Estate {
    table: Table,
    found: Found,
    kept: Option<Kept>,
}

/// Recovers the tables of all shards, each on a thread of its own and on the core of its reactor, which
/// the threads that read the names meanwhile keep off: that takes longest.
fn take_over(memory: Vec<ShardMemory>, settings: &ReactorSettings) -> Vec<Estate> {
    let shards = memory.len() as u32;
    let one = |shard: u32, memory: ShardMemory| {
        let slots = Arc::new(Slots::new(memory.slots));
        let (a, b) = (RandomState::new(), RandomState::new());
        let seed = [a.hash_one(0), b.hash_one(0)];
        let (table, found) = match &memory.kept {
            None => (Table::new(slots, seed), Found::default()),
            Some(_) => {
                let now_ns = Monotonic.now_ns();
                let ReactorSettings { ref groups, learnt_holds, .. } = *settings;
                let terms = Terms { now_ns, shard, shards, groups, learnt_holds };
                Table::recover(slots, seed, &terms)
            }
        };
        Estate { table, found, kept: memory.kept }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(memory)
            .map(|(shard, memory)| {
                scope.spawn(move || {
                    become_reactor(settings.cores.reactor(shard as usize));
                    one(shard, memory)
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Estate>| {
            thread.join().expect("any bytes can be recovered")
        };
        threads.into_iter().map(join).collect()
    })
}

impl Estate {
    /// The shard that goes on, and since when nobody has looked if there was somebody.
    fn into_shard(self, surroundings: Surroundings) -> (Shard, Option<u64>) {
        let now_ns = Monotonic.now_ns();
        let counters = surroundings.counters.clone();
        let mut shard = Shard::new(self.table, surroundings, now_ns);
        let Some(kept) = self.kept else { return (shard, None) };
        let before = (kept.looked_ns > 0).then_some(kept.looked_ns);
        let (redone, refused) = shard.go_on(kept, now_ns);
        counters.set(Counter::PeersRecovered, (self.found.peers - refused) as u64);
        counters.set(Counter::SlotsRepaired, self.found.repaired as u64);
        counters.set(Counter::SlotsDiscarded, (self.found.discarded + refused) as u64);
        counters.set(Counter::TransitionsRedone, redone as u64);
        (shard, before)
    }
}

/// How many reactors still read their sockets. One that ends in any way counts itself out.
struct Reading(Arc<AtomicUsize>);

impl Drop for Reading {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `run`; the mail pushed before it is seen behind it.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Turns until it is told to stop, and once more then: what has arrived is still applied. What comes
/// later stays in the sockets, for who has them next, and is not judged by.
fn run<B: Backend, C: Clock>(
    mut reactor: Reactor<B, C>,
    stop: &AtomicBool,
    reading: Reading,
) -> std::io::Result<()> {
    // Acquire: partner of the Release in `Fleet::stop`.
    while !stop.load(Ordering::Acquire) {
        let plan = reactor.turn()?;
        reactor.rest(plan)?;
    }
    reactor.turn()?;
    let horizon_ns = reactor.let_go()?;
    // The others may have read heartbeats of ours; none of them takes longer than a turn.
    let others = reading.0.clone();
    drop(reading);
    let mut patience = 1_000;
    while others.load(Ordering::Acquire) > 0 && patience > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        patience -= 1;
    }
    reactor.last_mail(horizon_ns);
    Ok(())
}

/// Slots of one shard of so many. The hash does not deal the peers out exactly evenly, so with several shards
/// each has some to spare; the [`Budget`] keeps the total.
pub fn shard_capacity(max_peers: u32, reactors: u32) -> u32 {
    match reactors {
        1 => max_peers,
        _ => (max_peers.div_ceil(reactors) as u64 * 17 / 16 + 1_024).min(max_peers as u64) as u32,
    }
}
