//! A monitor without reactors' threads: real tables and queues, filled by hand.

use super::alarms::Marks;
use super::events::{Entry, Names};
use super::publisher::{Continuation, Publisher};
use super::survey::Survey;
use super::{ControlConfig, ControlState, Memory};
use crate::clock;
use crate::engine::brake::BrakeSettings;
use crate::engine::sight::Extensions;
use crate::engine::slot::{SlotData, SlotRegion, Slots};
use crate::engine::table::Table;
use crate::engine::transition::{PeerState, Reason, Transition};
use crate::engine::{Groups, Policy, StateCounts};
use crate::io::Waker;
use crate::metrics::{Counter, Counters, Histograms};
use crate::reactor::{Command, ReactorHandle, Report};
use crate::store::events::Origin;
use crate::wire::{self, OwnedProfile, PeerId, Profile, Status};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

pub(crate) fn config() -> ControlConfig {
    ControlConfig {
        monitor_id: 0xABCD,
        epoch_ns: 1_700_000_000_123_456_789,
        started_wall_ns: 1_700_000_000_123_456_789,
        state_dir: None,
        looked_ns: None,
        groups: Arc::new(Groups::uniform(Policy {
            suspect_fraction: 0.6,
            forget_down_ns: 1 << 50,
            forget_left_ns: 1 << 50,
            ..Policy::default()
        })),
        max_peers: 1 << 20,
        ring_capacity: 1 << 17,
        udp: vec!["127.0.0.1:4600".parse().unwrap()],
        brake: BrakeSettings { share: 0.5, least: 100, hold_ns: 120_000_000_000 },
        rules: Vec::new(),
        expect: Vec::new(),
        metrics_groups: 100,
        guard: Default::default(),
    }
}

pub(crate) fn profile(name: &str, group: &str, labels: &[(&str, &str)]) -> OwnedProfile {
    OwnedProfile::of(&Profile::new(name, group, labels).unwrap())
}

pub(crate) fn transition(peer: PeerId, from: PeerState, to: PeerState) -> Transition {
    let fired_ns = clock::monotonic_ns();
    Transition {
        peer,
        from,
        to,
        reason: if to == PeerState::Down { Reason::Silence } else { Reason::Beat },
        status: Status::Ok,
        index: 0,
        fired_ns,
        last_seen_ns: fired_ns - 3_050_000_000,
        deadline_ns: if to == PeerState::Down { fired_ns - 1_234 } else { 0 },
        incarnation: 7,
        last_sequence: 99,
        gaps: 2,
        in_from_ns: 5_000,
        group: 0,
        extended_ns: 0,
        extended_by: Extensions::NONE,
        report_no: 0,
    }
}

/// A log entry of the peer with this id, to a state, with or without names.
pub(crate) fn entry(id: u64, to: PeerState, names: Option<(&str, &str)>) -> Entry {
    let owned = names.map(|(name, group)| profile(name, group, &[]));
    Entry {
        transition: transition(PeerId(id), PeerState::Suspect, to),
        marks: Marks::default(),
        wall_offset_ns: clock::wall_offset_ns(),
        names: Names::of(owned.as_ref().map(OwnedProfile::profile)),
        origin: Origin::NONE,
    }
}

/// What a reactor's thread would own.
pub(crate) struct FakeReactor {
    pub(crate) table: Table,
    pub(crate) handle: ReactorHandle,
}

/// Reactors in the hands of a test, the state that reads them, and the publisher.
pub(crate) struct FakeMonitor {
    pub(crate) reactors: Vec<FakeReactor>,
    pub(crate) state: Arc<ControlState>,
    publisher: Publisher,
    survey: Survey,
}

impl FakeMonitor {
    pub(crate) fn new(reactors: usize, capacity: u32) -> FakeMonitor {
        FakeMonitor::with_config(config(), reactors, capacity)
    }

    pub(crate) fn with_config(config: ControlConfig, n: usize, capacity: u32) -> FakeMonitor {
        let memory = Memory::fresh(config.ring_capacity);
        FakeMonitor::with_memory(config, memory, n, capacity)
    }

    pub(crate) fn with_memory(
        config: ControlConfig,
        memory: Memory,
        n: usize,
        capacity: u32,
    ) -> FakeMonitor {
        let reactors: Vec<FakeReactor> = (0..n).map(|_| FakeReactor::new(capacity)).collect();
        let state = Arc::new(ControlState::new(config, memory));
        state.attach(reactors.iter().map(|reactor| reactor.handle.clone()).collect());
        let mut publisher = Publisher::new(state.clone(), Continuation::default());
        publisher.resume_alarms();
        FakeMonitor { reactors, publisher, survey: Survey::new(state.clone()), state }
    }

    pub(crate) fn owner(&mut self, peer: PeerId) -> &mut FakeReactor {
        let n = self.reactors.len() as u32;
        &mut self.reactors[wire::steer(peer, n) as usize]
    }

    /// Puts a peer in its owner's table, in a state, and tells of its profile.
    pub(crate) fn add(
        &mut self,
        name: &str,
        group: &str,
        labels: &[(&str, &str)],
        state: PeerState,
    ) -> PeerId {
        let peer = PeerId::of(name);
        self.add_unnamed(peer, state);
        self.report(peer, Report::Profile { peer, profile: profile(name, group, labels) });
        peer
    }

    /// Puts a peer in its owner's table whose HELLO has not come yet.
    pub(crate) fn add_unnamed(&mut self, peer: PeerId, state: PeerState) {
        let now_ns = clock::monotonic_ns();
        let data = SlotData {
            peer,
            state,
            last_seen_ns: now_ns - 250_000_000,
            since_ns: now_ns - 10_000_000_000,
            first_seen_ns: now_ns - 20_000_000_000,
            interval_us: 500_000,
            incarnation: 7,
            last_sequence: 99,
            heartbeats: 100,
            gaps: 2,
            ..SlotData::FREE
        };
        let owner = self.owner(peer);
        owner.table.insert(data).unwrap();
        owner.handle.states.moved(PeerState::Unknown, state);
    }

    /// Has a peer give a status of itself.
    pub(crate) fn say(&mut self, peer: PeerId, status: Status) {
        let table = &mut self.owner(peer).table;
        let index = table.find(peer).unwrap();
        table.slot(index).write().set_status(status);
    }

    /// Reports a change of state, without making it in the table.
    pub(crate) fn report_transition(&mut self, peer: PeerId, from: PeerState, to: PeerState) {
        self.report(peer, Report::Transition(transition(peer, from, to)));
    }

    pub(crate) fn report(&mut self, peer: PeerId, report: Report) {
        let pushed = self.owner(peer).handle.reports.push(report);
        assert!(pushed.is_ok(), "the test's queue is full");
    }

    /// Lets the survey take a step, and the reactors do as they are told.
    pub(crate) fn survey(&mut self) {
        self.survey.step();
        self.obey();
    }

    /// Carries out the assignments that the reactors were given.
    pub(crate) fn obey(&mut self) {
        for reactor in &mut self.reactors {
            let commands = std::iter::from_fn(|| reactor.handle.commands.pop());
            for command in commands {
                let (Command::Assign { peer, .. }
                | Command::Silence { peer, .. }
                | Command::AskForName { peer }
                | Command::Remove { peer }) = command;
                let Some(index) = reactor.table.find(peer) else { continue };
                let mut write = reactor.table.slot(index).write();
                match command {
                    Command::Assign { group, parent, .. } => {
                        write.set_group(group.unwrap_or(0), group.is_some());
                        write.set_parent(parent);
                    }
                    Command::Silence { silenced, .. } => write.set_silenced(silenced),
                    Command::AskForName { .. } | Command::Remove { .. } => {}
                }
            }
        }
    }

    /// Writes the alarms down, as is done when their time has come.
    pub(crate) fn keep(&mut self) {
        self.publisher.keep_alarms(true);
    }

    /// Publishes all that was reported.
    pub(crate) fn publish(&mut self) {
        while self.publisher.round() > 0 || self.publisher.tell_silences() {}
    }
}

impl FakeReactor {
    fn new(capacity: u32) -> FakeReactor {
        let slots = Slots::new(SlotRegion::anonymous(capacity).unwrap());
        let table = Table::new(Arc::new(slots), [1, 2]);
        let counters = Counters::default();
        counters.add(Counter::Turns, 1);
        let handle = ReactorHandle {
            view: table.view(),
            states: Arc::new(StateCounts::default()),
            counters: Arc::new(counters),
            histograms: Arc::new(Histograms::default()),
            reports: Arc::new(ArrayQueue::new(1 << 17)),
            commands: Arc::new(ArrayQueue::new(256)),
            waker: Waker::new().unwrap(),
            transport: crate::io::Transport::Poll,
            cpu: None,
        };
        FakeReactor { table, handle }
    }
}

/// Seeds for model runs: `SYSTOLE_TEST_SEED` alone when it is set, else a fixed list.
pub(crate) fn seeds() -> Vec<u64> {
    match std::env::var("SYSTOLE_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("SYSTOLE_TEST_SEED is a whole number")],
        Err(_) => (1..=8).collect(),
    }
}

/// Reproducible random numbers: splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
