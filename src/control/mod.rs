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

pub mod alarms;
mod assign;
pub mod conflicts;
pub mod events;
pub mod expect;
pub mod figures;
pub mod flapping;
pub mod groups;
pub mod incidents;
pub mod kept;
pub mod notes;
pub mod peers;
pub mod present;
mod publisher;
pub mod qos;
mod rate;
pub mod registry;
pub mod report;
pub mod silences;
mod standing;
pub mod survey;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use publisher::{Continuation, NamesSource};

use crate::clock;
use crate::engine::Groups;
use crate::engine::admission::SharedGuard;
use crate::engine::brake::BrakeSettings;
use crate::engine::slot::SlotData;
use crate::engine::transition::PeerState;
use crate::metrics::{Counter, Histograms};
use crate::reactor::{self, ReactorHandle};
use crate::store::names::NamesFound;
use crate::store::places::{Places, PlacesFile};
use crate::wire::{self, PeerId};
use alarms::{Alarms, Surroundings};
use events::{EventLog, Names};
use expect::{Expectation, Expectations, Expected};
use figures::Baseline;
use groups::{GroupTable, Rule};
use kept::SilencesFile;
use notes::{Note, NoteLog};
use publisher::Publisher;
use registry::Registry;
use silences::Silences;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use survey::{Survey, Tallies};

/// What the control plane is told once.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The monitor's id.
    pub monitor_id: u64,
    /// When the numbers of the transitions began, wall-clock nanoseconds since 1970: the start of
    /// this process, or of the one whose state it goes on with.
    pub epoch_ns: u64,
    /// The start of this process, wall-clock nanoseconds since 1970.
    pub started_wall_ns: u64,
    /// The state directory, if there is one.
    pub state_dir: Option<PathBuf>,
    /// When the process before last looked, monotonic nanoseconds; `None` without one whose state
    /// this one goes on with.
    pub looked_ns: Option<u64>,
    /// How deadlines are computed: the very ones that the shards use.
    pub groups: Arc<Groups>,
    /// Most peers that the monitor takes, over all reactors.
    pub max_peers: usize,
    /// Transitions that the event log keeps.
    pub ring_capacity: usize,
    /// The UDP addresses that the reactors listen on, ports resolved.
    pub udp: Vec<SocketAddr>,
    /// The brake of the fleet, and of groups without a rule.
    pub brake: BrakeSettings,
    /// What holds for groups, in the order of the configuration; the policies' numbers are the
    /// engine's.
    pub rules: Vec<Rule>,
    /// Who ought to be here.
    pub expect: Vec<Expectation>,
    /// Groups that the metrics tell apart; the rest are summed up.
    pub metrics_groups: usize,
    /// By which keys peers may be spoken for.
    pub guard: SharedGuard,
}

/// What the control plane remembers: of an earlier process, where its state was kept.
#[derive(Default)]
pub struct Memory {
    /// Who is behind an id.
    pub registry: Registry,
    /// The latest transitions.
    pub events: EventLog,
    /// What the publisher goes on with.
    pub continuation: Continuation,
    /// The numbers of groups and parents that were given before.
    pub places: Places,
    /// Where they are kept.
    pub places_file: Option<PlacesFile>,
    /// The silences that hold.
    pub silences: Silences,
    /// Where they are kept.
    pub silences_file: SilencesFile,
    /// Files of the state that were damaged, and begun anew or cut off.
    pub damaged: u64,
}

impl Memory {
    /// The memory of a monitor that knows nobody, and keeps so many transitions.
    pub fn fresh(events: usize) -> Memory {
        Memory { events: EventLog::new(events), ..Memory::default() }
    }
}

/// Owns the publisher's thread. Dropped without [`Control::shutdown`] it leaves the thread running.
pub struct Control {
    state: Arc<ControlState>,
    publisher: JoinHandle<()>,
    survey: JoinHandle<()>,
}

impl Control {
    /// Starts the publisher, which has nothing to do until [`Control::attach`].
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(config: ControlConfig, mut memory: Memory) -> io::Result<Control> {
        let continuation = std::mem::take(&mut memory.continuation);
        let state = Arc::new(ControlState::new(config, memory));
        let publisher = Publisher::new(state.clone(), continuation);
        let publisher =
            thread::Builder::new().name("systole-control".into()).spawn(move || publisher.run())?;
        let survey = Survey::new(state.clone());
        let survey =
            thread::Builder::new().name("systole-survey".into()).spawn(move || survey.run())?;
        Ok(Control { state, publisher, survey })
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
        self.survey.thread().unpark();
    }

    /// What the HTTP server reads.
    pub fn state(&self) -> Arc<ControlState> {
        self.state.clone()
    }

    /// Publishes what the reactors have reported, then ends the thread. Call it when the reactors
    /// have ended, and before the HTTP server is told to end: followers then get the last event.
    pub fn shutdown(self) {
        // Release pairs with the Acquire in `Publisher::run` and `Survey::run`.
        self.state.stopping.store(true, Ordering::Release);
        self.survey.thread().unpark();
        if self.survey.join().is_err() {
            tracing::error!("the survey panicked; groups and expectations were not followed");
        }
        self.publisher.thread().unpark();
        if self.publisher.join().is_err() {
            tracing::error!("the publisher panicked; its last transitions may be missing");
        }
        self.state.silences_file().end();
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
    /// What was told beside them.
    pub notes: NoteLog,
    /// Transitions since the start, by their two ends.
    pub transitions: TransitionCounts,
    /// The groups by name and number.
    pub groups: GroupTable,
    /// How large the groups are, and more.
    pub tallies: Tallies,
    alarms: Mutex<Alarms>,
    /// Locked before the alarms, by who changes the silences.
    silences_file: Mutex<SilencesFile>,
    /// Files of the state that were damaged.
    damaged: AtomicU64,
    /// What the publisher measures (`Publish` alone); the reactors have their own.
    histograms: Histograms,
    /// What the resettable histograms count from.
    baseline: Mutex<Baseline>,
    /// Set once the names of an earlier process are in the registry.
    names_read: OnceLock<NamesFound>,
    /// Set once the alarms of an earlier process are ours.
    alarms_resumed: OnceLock<()>,
    reactors: OnceLock<Box<[ReactorHandle]>>,
    /// When they were attached, monotonic nanoseconds.
    attached_ns: OnceLock<u64>,
    /// See `wall_offset_ns`.
    wall_offset_ns: AtomicI64,
    /// Heartbeats per second, the bits of an f64.
    rate_bits: AtomicU64,
    stopping: AtomicBool,
    started_ns: u64,
}

impl ControlState {
    fn new(config: ControlConfig, memory: Memory) -> ControlState {
        let expect = Expectations::new(config.expect.clone(), clock::monotonic_ns());
        let rules = config.rules.clone();
        ControlState {
            groups: GroupTable::new(config.groups.clone(), config.brake, rules)
                .guarded(config.guard.clone())
                .resume(memory.places, memory.places_file),
            tallies: Tallies::default(),
            alarms: Mutex::new(Alarms::new(expect, memory.silences)),
            silences_file: Mutex::new(memory.silences_file),
            damaged: AtomicU64::new(memory.damaged),
            registry: memory.registry,
            events: memory.events,
            notes: NoteLog::default(),
            transitions: TransitionCounts::default(),
            histograms: Histograms::default(),
            baseline: Mutex::new(Baseline::start(config.started_wall_ns)),
            names_read: OnceLock::new(),
            alarms_resumed: OnceLock::new(),
            reactors: OnceLock::new(),
            attached_ns: OnceLock::new(),
            wall_offset_ns: AtomicI64::new(clock::wall_offset_ns()),
            rate_bits: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            started_ns: clock::monotonic_ns(),
            config,
        }
    }

    /// Waits until the names of an earlier process are in the registry, and says what was found.
    pub fn wait_for_names(&self) -> NamesFound {
        *self.names_read.wait()
    }

    /// Waits until the alarms of an earlier process are ours. They wait for names and reactors.
    pub fn wait_for_alarms(&self) {
        self.alarms_resumed.wait();
    }

    /// Files of the state that were found damaged, and begun anew or cut off.
    pub fn damaged(&self) -> u64 {
        // Relaxed: a count, and nothing is ordered by it.
        self.damaged.load(Ordering::Relaxed)
    }

    fn attach(&self, reactors: Vec<ReactorHandle>) {
        let again = self.reactors.set(reactors.into()).is_err();
        assert!(!again, "the reactors are attached once");
        let _ = self.attached_ns.set(clock::monotonic_ns());
    }

    /// How long nobody looked between the process before and this one, nanoseconds; 0 without one.
    pub fn blind_at_start_ns(&self) -> u64 {
        let attached_ns = self.attached_ns.get().copied().unwrap_or_else(clock::monotonic_ns);
        self.config.looked_ns.map_or(0, |looked_ns| attached_ns.saturating_sub(looked_ns))
    }

    /// The reactors, in the order that the steering numbers them; none before they are attached.
    pub fn reactors(&self) -> &[ReactorHandle] {
        self.reactors.get().map_or(&[], |reactors| reactors)
    }

    /// What alarms, and what keeps from it; locked for as long as it is looked at. Not to be asked for
    /// while a part of the registry is looked at.
    pub fn alarms(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().expect("nothing panics while it holds the alarms")
    }

    fn silences_file(&self) -> MutexGuard<'_, SilencesFile> {
        self.silences_file.lock().expect("nothing panics while it writes the silences")
    }

    fn surroundings(&self) -> Surroundings<'_> {
        let ControlState { registry, groups, tallies, .. } = self;
        Surroundings { registry, groups, tallies, control: self }
    }

    /// A peer's record at this moment.
    pub fn slot_of(&self, peer: PeerId) -> Option<SlotData> {
        let reactors = self.reactors();
        let number = (!reactors.is_empty()).then(|| wire::steer(peer, reactors.len() as u32))?;
        reactors[number as usize].view.find(peer).map(|(_, slot)| slot)
    }

    /// A peer's names, as far as they are known.
    fn names_of_peer(&self, peer: Option<PeerId>) -> Names {
        peer.map_or_else(Names::default, |peer| self.registry.with(peer, Names::of))
    }

    /// The names of the peer or the group that a note is about. Those of an expectation are the
    /// configuration's.
    fn names_of(&self, note: &Note) -> Names {
        if let Note::Missing { change, .. } = note {
            return match self.config.expect.get(change.index as usize).map(|e| &e.what) {
                Some(Expected::Peer(name)) => Names::new(Some(name), ""),
                Some(Expected::Group { name, .. }) => Names::new(None, name),
                None => Names::default(),
            };
        }
        match note.group() {
            Some(group) => Names::new(None, &self.groups.name(group)),
            None => self.names_of_peer(note.peer()),
        }
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
pub const STATES: [PeerState; 7] = [
    PeerState::Unknown,
    PeerState::Up,
    PeerState::Suspect,
    PeerState::Down,
    PeerState::Left,
    PeerState::Forgotten,
    PeerState::Unreachable,
];

/// The states that a listed peer can be in.
pub const LISTED: [PeerState; 5] =
    [PeerState::Up, PeerState::Suspect, PeerState::Down, PeerState::Left, PeerState::Unreachable];

/// Transitions since the start. Written by the publisher, read by anybody.
#[derive(Default)]
pub struct TransitionCounts([[AtomicU64; 7]; 7]);

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
