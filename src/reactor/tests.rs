//! A reactor under a scripted transport and a test's clock: what arrives when is the test's to say.

use super::duty::{Reactor, Turns};
use super::idle::{Idle, IdleStrategy, Plan};
use super::inbox::Inbox;
use super::mailbox::{Mailbox, Parcel};
use super::*;
use crate::clock::Clock;
use crate::engine::journal::Journal;
use crate::engine::shard::{Shard, Surroundings};
use crate::engine::sight::Extensions;
use crate::engine::slot::{SlotRegion, Slots};
use crate::engine::table::Table;
use crate::engine::transition::{PeerState, Reason};
use crate::engine::way::Way;
use crate::engine::{Budget, Groups, Policy};
use crate::io::{Backend, Patience, Queues, Transport, TransportCounts};
use crate::metrics::Counter;
use crate::testing::{Rng, seeds};
use crate::wire::{self, Kind, Profile, Status};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

const MS: u64 = 1_000_000;
const SECRET: u64 = 42;
/// Fixed: three intervals and nothing else; no suspicion.
fn policy() -> Policy {
    Policy { missed: 3.0, grace_ns: 0, suspect_fraction: 1.0, ..Policy::default() }
}

#[derive(Clone, Default)]
struct TestClock(Rc<Cell<u64>>);

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        // Reading it takes a moment, as on a real machine.
        self.0.set(self.0.get() + 50);
        self.0.get()
    }
}

/// A datagram and when it arrives, ns.
type Arrival = (u64, Vec<u8>);

/// The network: datagrams by the time at which they arrive.
#[derive(Clone, Default)]
struct Script(Rc<RefCell<VecDeque<Arrival>>>);

struct Scripted {
    clock: TestClock,
    script: Script,
    burst: usize,
    /// How late a wait ends.
    late_ns: u64,
    /// Where all of it comes from, and whether that is told.
    source: u32,
    tells_sources: bool,
    /// Datagrams that the kernel dropped.
    drops: Rc<Cell<u64>>,
    /// Draws when the reactor is interrupted on its way to the sockets, and for how long.
    interrupts: Option<Rng>,
}

impl Scripted {
    fn arrived(&self) -> usize {
        let now_ns = self.clock.0.get();
        self.script.0.borrow().iter().take_while(|(at_ns, _)| *at_ns <= now_ns).count()
    }
}

impl Backend for Scripted {
    fn let_go(&mut self) {}

    fn transport(&self) -> Transport {
        Transport::Poll
    }

    fn receive_from(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        let source = if self.tells_sources { self.source } else { 0 };
        self.receive(&mut |datagram| sink(datagram, source))
    }

    fn tell_sources(&mut self, wanted: bool) -> io::Result<()> {
        self.tells_sources = wanted;
        Ok(())
    }

    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        if let Some(rng) = &mut self.interrupts
            && rng.one_in(300)
        {
            self.clock.0.set(self.clock.0.get() + rng.below(60 * MS));
        }
        let count = self.arrived().min(self.burst);
        for _ in 0..count {
            let (_, datagram) = self.script.0.borrow_mut().pop_front().unwrap();
            sink(&datagram);
        }
        Ok(count)
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        let now_ns = self.clock.0.get();
        let first = self.script.0.borrow().front().map(|(at_ns, _)| (*at_ns).max(now_ns));
        let timeout = patience.timeout_ns.map(|timeout| now_ns + timeout + self.late_ns);
        let until_ns = first.into_iter().chain(timeout).min().unwrap_or(now_ns);
        self.clock.0.set(until_ns);
        Ok(())
    }

    fn queues(&self) -> Queues {
        Queues { waiting: self.arrived() as u64, drops: self.drops.get() }
    }

    fn counts(&self) -> TransportCounts {
        TransportCounts::default()
    }

    fn wake(&mut self, _other: &Waker) {}

    fn waker(&self) -> Waker {
        Waker::new().unwrap()
    }
}

/// A reactor and the strings that the test pulls.
struct Bench {
    reactor: Reactor<Scripted, TestClock>,
    clock: TestClock,
    script: Script,
    mailboxes: Arc<[Mailbox]>,
    reports: Arc<ArrayQueue<Report>>,
    groups: Arc<Groups>,
}

impl Bench {
    fn new(reactors: usize, report_capacity: usize) -> Bench {
        let clock = TestClock(Rc::new(Cell::new(1_000 * MS)));
        let script = Script::default();
        let tables: Vec<Table> = (0..reactors)
            .map(|_| Table::new(Arc::new(Slots::new(SlotRegion::anonymous(256).unwrap())), [1, 2]))
            .collect();
        let views: Arc<[TableView]> = tables.iter().map(Table::view).collect();
        let mailboxes: Arc<[Mailbox]> = (0..reactors).map(|_| Mailbox::new(64)).collect();
        let counters = Arc::new(Counters::default());
        let histograms = Arc::new(Histograms::default());
        let reports = Arc::new(ArrayQueue::new(report_capacity));
        let now_ns = clock.now_ns();
        let groups = Arc::new(Groups::uniform(policy()));
        let shared = Surroundings {
            groups: groups.clone(),
            views: views.clone(),
            budget: Arc::new(Budget::new(256)),
            states: Arc::default(),
            counters: counters.clone(),
            histograms: histograms.clone(),
        };
        let shard = Shard::new(tables.into_iter().next().unwrap(), shared, now_ns);
        let backend = Scripted {
            clock: clock.clone(),
            script: script.clone(),
            burst: 7,
            late_ns: 0,
            source: 0,
            tells_sources: false,
            drops: Rc::default(),
            interrupts: None,
        };
        let inbox = Inbox::new(0, SECRET, counters.clone(), mailboxes.clone(), views);
        let reactor = Reactor {
            journal: None,
            me: 0,
            backend,
            clock: clock.clone(),
            shard,
            inbox,
            reports: ReportSender::new(reports.clone(), None),
            commands: Arc::new(ArrayQueue::new(8)),
            mailboxes: mailboxes.clone(),
            idle: Idle::new(IdleStrategy::Hybrid, now_ns),
            counters,
            histograms,
            sockets: 1,
            turns: Turns::begin(now_ns),
        };
        Bench { reactor, clock, script, mailboxes, reports, groups }
    }

    fn arrive(&self, at_ns: u64, datagram: &[u8]) {
        let mut script = self.script.0.borrow_mut();
        let place = script.partition_point(|(other_ns, _)| *other_ns <= at_ns);
        script.insert(place, (at_ns, datagram.to_vec()));
    }

    fn now_ns(&self) -> u64 {
        self.clock.0.get()
    }

    fn turn(&mut self) -> Plan {
        self.reactor.turn().unwrap()
    }

    fn run_until(&mut self, until_ns: u64) -> Vec<Transition> {
        let mut told = Vec::new();
        while self.now_ns() < until_ns {
            let plan = self.turn();
            told.extend(self.transitions());
            let plan = match plan {
                Plan::Wait { until_ns: planned_ns, want, min_wait_ns } => {
                    Plan::Wait { until_ns: planned_ns.min(until_ns), want, min_wait_ns }
                }
                Plan::Poll => Plan::Poll,
            };
            self.reactor.rest(plan).unwrap();
        }
        told
    }

    fn transitions(&self) -> Vec<Transition> {
        let reports = std::iter::from_fn(|| self.reports.pop());
        reports
            .filter_map(|report| match report {
                Report::Transition(transition) => Some(transition),
                Report::Profile { .. } | Report::Notice(_) => None,
            })
            .collect()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.reactor.counters.get(counter)
    }
}

fn beat(peer: u64, sequence: u32, interval_ms: u64) -> Heartbeat {
    Heartbeat {
        peer: PeerId(peer),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 9,
        sequence,
        interval_us: interval_ms * 1_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

#[test]
fn what_was_queued_during_a_stall_is_read_before_anybody_is_judged() {
    let mut extended = 0;
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::new(1, 1_024);
        bench.reactor.backend.interrupts = Some(rng.clone());
        let start_ns = bench.now_ns();
        // 40 peers beat every 100 ms for ten seconds; timeout 300 ms. Peers up to 5 die on the way.
        let mut last = BTreeMap::new();
        for peer in 1..=40u64 {
            let dies_ns = if peer <= 5 { start_ns + rng.below(9_000 * MS) } else { u64::MAX };
            let mut at_ns = start_ns + rng.below(100 * MS);
            let mut sequence = 0;
            while at_ns < start_ns + 10_000 * MS && at_ns < dies_ns {
                bench.arrive(at_ns, &wire::encode_beat(&beat(peer, sequence, 100)));
                last.insert(peer, at_ns);
                sequence += 1;
                at_ns += 50 * MS + rng.below(200 * MS);
            }
        }
        let mut told = Vec::new();
        let mut stalls_ns = 0;
        while bench.now_ns() < start_ns + 9_900 * MS {
            let next_ns = bench.now_ns() + rng.below(900 * MS);
            told.extend(bench.run_until(next_ns.min(start_ns + 9_900 * MS)));
            // Stopped, suspended, starved: we do not run, the kernel goes on queueing.
            let stall_ns = rng
                .below(1_000 * MS)
                .min(start_ns + 9_900 * MS - bench.now_ns().min(start_ns + 9_900 * MS));
            stalls_ns += stall_ns;
            bench.clock.0.set(bench.now_ns() + stall_ns);
        }
        told.extend(bench.run_until(start_ns + 9_950 * MS));
        let down: Vec<_> = told.iter().filter(|t| t.to == PeerState::Down).collect();
        for t in &down {
            assert!(t.peer.0 <= 5, "seed {seed}: {t:?} beat all the time");
            assert!(t.deadline_ns >= last[&t.peer.0] + 300 * MS, "seed {seed}: {t:?}");
            extended += usize::from(t.extended_ns > 0);
        }
        let found: std::collections::BTreeSet<_> = down.iter().map(|t| t.peer.0).collect();
        for peer in 1..=5 {
            // Each stall puts the verdict off by its length and an interval; in two and a half
            // seconds there is room enough between them.
            if last[&peer] + 2_500 * MS < start_ns + 9_900 * MS {
                assert!(
                    found.contains(&peer),
                    "seed {seed}: {peer} was missed, stalled {stalls_ns}"
                );
            }
        }
    }
    assert!(extended > 0, "in half of the time we did not look, and somebody was granted it");
}

#[test]
fn a_deadline_is_met_within_the_polls_of_a_hybrid_wait() {
    let mut bench = Bench::new(1, 1_024);
    bench.reactor.backend.late_ns = 60_000;
    let start_ns = bench.now_ns();
    bench.arrive(start_ns + MS, &wire::encode_beat(&beat(1, 0, 100)));
    let told = bench.run_until(start_ns + 500 * MS);
    let down = told.iter().find(|t| t.to == PeerState::Down).expect("it fell silent");
    assert!(down.lateness_ns() < 2_000, "late by {} ns", down.lateness_ns());
}

#[test]
fn a_flood_of_others_delays_a_verdict_by_no_more_than_the_queue() {
    let mut bench = Bench::new(1, 4_096);
    let start_ns = bench.now_ns();
    bench.arrive(start_ns, &wire::encode_beat(&beat(1, 0, 100)));
    // From 290 ms on the queue is never empty again.
    for i in 0..4_000u32 {
        let at_ns = start_ns + 290 * MS + i as u64 * 10_000;
        bench.arrive(at_ns, &wire::encode_beat(&beat(2 + i as u64 % 100, i, 1_000)));
    }
    let told = bench.run_until(start_ns + 320 * MS);
    let down = told.iter().find(|t| t.to == PeerState::Down).expect("it fell silent");
    assert!(down.lateness_ns() < MS, "late by {} ns", down.lateness_ns());
}

/// After a kill the time since the last look counts as blindness.
#[test]
fn traffic_without_an_end_does_not_keep_the_journal_from_knowing_that_we_look() {
    let mut bench = Bench::new(1, 1_024);
    let journal = Arc::new(Journal::anonymous().unwrap());
    bench.reactor.journal = Some(journal.clone());
    let start_ns = bench.now_ns();
    journal.looked(start_ns);
    // Nothing is due for seconds, and every look finds a datagram.
    for i in 0..20_000u32 {
        let at_ns = start_ns + i as u64 * 20_000;
        bench.arrive(at_ns, &wire::encode_beat(&beat(1 + i as u64 % 100, i, 10_000)));
    }
    while bench.now_ns() < start_ns + 390 * MS {
        let plan = bench.turn();
        bench.reactor.rest(plan).unwrap();
        let lag_ns = bench.now_ns().saturating_sub(journal.looked_ns());
        assert!(lag_ns < 6 * MS, "{lag_ns} ns behind");
    }
}

#[test]
fn when_the_report_ring_is_full_the_reactor_goes_on_and_tells_later() {
    let mut bench = Bench::new(1, 4);
    let start_ns = bench.now_ns();
    for peer in 1..=20 {
        bench.arrive(start_ns, &wire::encode_beat(&beat(peer, 0, 100)));
    }
    // The listener is slow: it takes what is there only every 50 ms.
    let mut told = Vec::new();
    for step in 1..=20 {
        while bench.now_ns() < start_ns + step * 50 * MS {
            let plan = bench.turn();
            assert!(bench.reports.len() <= 4);
            bench.reactor.rest(plan).unwrap();
        }
        told.extend(bench.transitions());
    }
    for (to, reason) in [(PeerState::Up, Reason::FirstBeat), (PeerState::Down, Reason::Silence)] {
        let peers: std::collections::BTreeSet<_> =
            told.iter().filter(|t| t.to == to && t.reason == reason).map(|t| t.peer.0).collect();
        assert_eq!(peers.len(), 20, "{to:?}");
    }
    assert_eq!(told.len(), 40, "each once");
    assert!(bench.count(Counter::ReportsDeferred) > 0);
    assert!(bench.count(Counter::Turns) < 20_000, "it waits for room instead of spinning");
}

#[test]
fn each_reject_is_counted_and_a_forged_probe_too() {
    let mut bench = Bench::new(1, 64);
    let now_ns = bench.now_ns();
    bench.arrive(now_ns, b"\xBE");
    bench.arrive(now_ns, b"\xFFjunk");
    bench.arrive(now_ns, b"");
    bench.arrive(now_ns, &wire::encode_probe(PeerId(1), SECRET + 1, now_ns));
    bench.arrive(now_ns, &wire::encode_probe(PeerId(1), SECRET, now_ns));
    bench.turn();
    assert_eq!(bench.count(Counter::DropRunt), 2);
    assert_eq!(bench.count(Counter::DropMagic), 1);
    assert_eq!(bench.count(Counter::DropKind), 1);
    let ingest = bench.reactor.histograms.of(crate::metrics::HistogramKind::Ingest).snapshot();
    assert_eq!(ingest.count(), 1);
}

#[test]
fn a_profile_is_told_once_and_a_name_that_is_not_the_ids_is_dropped() {
    let mut bench = Bench::new(1, 64);
    let profile = Profile::new("web-1", "web", &[("rack", "r7")]).unwrap();
    let beat = |sequence, name: &str| Heartbeat {
        profile_digest: profile.digest(),
        ..beat(PeerId::of(name).0, sequence, 100)
    };
    let hello = |heartbeat: &Heartbeat| {
        let mut datagram = Vec::new();
        wire::encode_hello(heartbeat, &profile, &mut datagram);
        datagram
    };
    let now_ns = bench.now_ns();
    bench.arrive(now_ns, &hello(&beat(0, "web-1")));
    bench.arrive(now_ns, &hello(&beat(1, "web-1")));
    bench.arrive(now_ns, &hello(&beat(0, "somebody-else")));
    bench.arrive(now_ns, b"web-2 group=web\n");
    bench.turn();
    bench.arrive(bench.now_ns(), &hello(&beat(2, "web-1")));
    bench.turn();
    let mut names = Vec::new();
    while let Some(report) = bench.reports.pop() {
        if let Report::Profile { peer, profile } = report {
            assert_eq!(peer, PeerId::of(profile.profile().name));
            names.push(profile.profile().name.to_owned());
        }
    }
    assert_eq!(names, ["web-1", "web-2"]);
    assert_eq!(bench.count(Counter::DropName), 1);
    assert_eq!(bench.count(Counter::Heartbeats), 4);
}

#[test]
fn what_belongs_to_another_reactor_is_handed_over_with_its_age() {
    let mut bench = Bench::new(2, 64);
    let theirs = PeerId::steered_to(1, 2);
    let mine = PeerId::steered_to(0, 2);
    let now_ns = bench.now_ns();
    bench.arrive(now_ns, &wire::encode_beat(&beat(theirs.0, 0, 100)));
    bench.arrive(now_ns, &wire::encode_beat(&beat(mine.0, 0, 100)));
    bench.turn();
    let parcel = bench.mailboxes[1].pop().expect("handed over");
    assert_eq!(parcel.beat.peer, theirs);
    assert_eq!(bench.count(Counter::HandedOver), 1);
    assert_eq!(bench.count(Counter::Heartbeats), 1);

    for _ in 0..70 {
        bench.arrive(bench.now_ns(), &wire::encode_beat(&beat(theirs.0, 0, 100)));
    }
    for _ in 0..12 {
        bench.turn();
    }
    assert_eq!(bench.count(Counter::HandOverFull), 6, "bounded, and counted");
}

#[test]
fn mail_is_waited_for_before_its_peer_is_judged() {
    let mut bench = Bench::new(2, 64);
    let mine = PeerId::steered_to(0, 2);
    let start_ns = bench.now_ns();
    let parcel = |sequence, arrived_ns| Parcel {
        beat: beat(mine.0, sequence, 100),
        arrived_ns,
        source: 0,
        way: Way::Unsaid,
        profile: None,
    };
    assert!(bench.mailboxes[0].push(parcel(0, start_ns)).is_ok());
    bench.mailboxes[1].set_watermark_ns(start_ns);
    bench.run_until(start_ns + 350 * MS);
    assert!(bench.mailboxes[1].take_asked(), "the other reactor is asked to read its sockets");
    // It had a heartbeat in its socket, and now says how far it has read.
    assert!(bench.mailboxes[0].push(parcel(1, start_ns + 290 * MS)).is_ok());
    bench.mailboxes[1].set_watermark_ns(start_ns + 360 * MS);
    let told = bench.run_until(start_ns + 360 * MS);
    assert!(told.is_empty(), "it beat in time: {told:?}");
    bench.mailboxes[1].set_watermark_ns(start_ns + 1_000 * MS);
    let told = bench.run_until(start_ns + 700 * MS);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].to, told[0].reason), (PeerState::Down, Reason::Silence));
}

#[test]
fn who_is_only_asked_asks_nobody() {
    let mut bench = Bench::new(2, 64);
    let mine = PeerId::steered_to(0, 2);
    let arrived_ns = bench.now_ns();
    let parcel = Parcel {
        beat: beat(mine.0, 0, 1_000),
        arrived_ns,
        profile: None,
        source: 0,
        way: Way::Unsaid,
    };
    assert!(bench.mailboxes[0].push(parcel).is_ok());
    bench.turn();
    // Nothing is due for seconds, but the other one wants to know how far we have read.
    bench.mailboxes[0].ask();
    bench.turn();
    assert!(bench.mailboxes[0].watermark_ns() > arrived_ns);
    assert!(!bench.mailboxes[1].take_asked(), "they would ask each other for ever");
}
mod guarded;
mod missed;
