//! A heartbeat's way through the engine, and what a fleet costs that falls silent.
//!
//! ```text
//!  datagrams ─▶ Guard::decode ─▶ batch of 64 ─▶ Shard::observe      timed: a heartbeat
//!                                               Shard::advance, weed    timed apart: the wheel's share
//! ```
//!
//! Time is simulated: each peer beats once in an interval, in an order that is not that of the slots,
//! and all detectors have learnt before anything is timed. Each detector has a shard of its own, and they
//! take turns. The datagrams of a run are made before it and fit the second-level cache, as those of a
//! receive do. Processor time of the thread.

use crate::harness::fleet::{Datagrams, Fleet, Form, guard_for};
use crate::harness::{Bar, Figure, Report, thread_cpu_ns};
use std::hint::black_box;
use std::sync::Arc;
use systole::engine::notice::Notice;
use systole::engine::shard::{BATCH, Outlet, Shard, Surroundings};
use systole::engine::slot::{SlotRegion, Slots};
use systole::engine::table::Table;
use systole::engine::transition::{PeerState, Transition};
use systole::engine::way::Way;
use systole::engine::{Budget, Detector, Groups, Policy};
use systole::metrics::{Counter, Counters};
use systole::wire::{self, Guard, Heartbeat};

const INTERVAL_US: u64 = 1_000_000;
const START_NS: u64 = 1 << 50;
/// Datagrams of one timed run.
const RUN: usize = 1_024;
/// As in a reactor's turn.
const WEEDED: u32 = 256;
const FIRE_LIMIT: usize = 512;
/// How often a shard looks whose peers are silent, and when all of them are down by default.
const STEP_NS: u64 = 100_000;
const EVERYBODY_DOWN_NS: u64 = 3_100_000_000;
/// Most peers that a cache may remember.
const CACHED: u64 = 1 << 17;
/// Rounds of the whole fleet before anything is timed: by then every detector has learnt enough.
const WARM_UP: u64 = 10;

/// Takes whatever is said, and counts it.
#[derive(Default)]
struct Tally {
    transitions: u64,
    to_down: u64,
}

impl Outlet for Tally {
    fn has_room(&self) -> bool {
        true
    }

    fn transition(&mut self, transition: Transition) {
        self.transitions += 1;
        self.to_down += u64::from(transition.to == PeerState::Down);
    }

    fn profile(&mut self, _place: usize, _beat: &Heartbeat) -> bool {
        true
    }

    fn notice(&mut self, _notice: Notice) {}

    fn way(&self, _place: usize) -> Way {
        // As for a BEAT; not known when this is compiled, as it is not in a reactor.
        black_box(Way::Direct)
    }
}

/// A shard with its fleet.
struct Engine {
    name: String,
    fleet: Fleet,
    guard: Arc<Guard>,
    shard: Shard,
    counters: Arc<Counters>,
    tally: Tally,
    batch: Vec<Heartbeat>,
    heartbeat_ns: Vec<f64>,
    wheel_ns: Vec<f64>,
}

impl Engine {
    /// Everybody has joined.
    fn new(peers: u32, detector: Detector, form: Form) -> Engine {
        let table = Table::new(
            Arc::new(Slots::new(SlotRegion::anonymous(peers).expect("memory"))),
            [0x5EED, 0xF00D],
        );
        let counters = Arc::new(Counters::default());
        let surroundings = Surroundings {
            groups: Arc::new(Groups::uniform(Policy { detector, ..Policy::default() })),
            views: Arc::new([table.view()]),
            budget: Arc::new(Budget::new(peers.into())),
            states: Arc::default(),
            counters: counters.clone(),
            histograms: Arc::default(),
        };
        let guard = guard_for(form);
        let mut shard = Shard::new(table, surroundings, START_NS);
        *shard.admission() =
            systole::engine::admission::Admission::new(guard.clone(), Default::default(), 1);
        let mut engine = Engine {
            name: format!("{detector}, {}", form.word()),
            fleet: Fleet::new(peers, INTERVAL_US, form),
            guard: guard.load_full(),
            shard,
            counters,
            tally: Tally::default(),
            batch: Vec::with_capacity(BATCH),
            heartbeat_ns: Vec::new(),
            wheel_ns: Vec::new(),
        };
        // One round in the order of the slots, the next in that of beating: only then does an interval
        // pass between two beats of a peer.
        while engine.fleet.beats() < u64::from(peers) {
            engine.apply_next();
        }
        engine
    }

    /// Peers are spread evenly over the interval; after the beats so far it is:
    fn now_ns(&self) -> u64 {
        let peers = u128::from(self.fleet.peers());
        let since_ns = u128::from(self.fleet.beats()) * u128::from(INTERVAL_US * 1_000) / peers;
        START_NS + since_ns as u64
    }

    /// A batch without its bytes.
    fn apply_next(&mut self) {
        let left = u64::from(self.fleet.peers()).saturating_sub(self.fleet.beats());
        let count = if left > 0 { left.min(BATCH as u64) } else { BATCH as u64 };
        self.batch.clear();
        self.batch.extend((0..count).map(|_| self.fleet.next()));
        if self.fleet.form() == Form::Tagged {
            self.batch.iter_mut().for_each(|beat| beat.key_id = 7);
        }
        let now_ns = self.now_ns();
        self.shard.observe(&self.batch, now_ns, &mut self.tally);
        self.batch.clear();
        self.look_after_the_wheel(now_ns);
    }

    fn look_after_the_wheel(&mut self, now_ns: u64) {
        while self.shard.advance(now_ns, now_ns, FIRE_LIMIT, &mut self.tally) {}
        self.shard.weed(now_ns, WEEDED);
    }

    /// A run of datagrams, timed unless it is one to warm up.
    fn run(&mut self, datagrams: &mut Datagrams) {
        let from_ns = self.now_ns();
        self.fleet.fill(datagrams, RUN);
        let batch_ns = (self.now_ns() - from_ns) / (RUN / BATCH) as u64;
        let mut now_ns = from_ns;
        let begun_ns = thread_cpu_ns();
        for datagram in black_box(&*datagrams).iter() {
            match self.guard.decode(datagram) {
                Ok(wire::Form::Beat(beat)) => self.batch.push(beat),
                other => panic!("{other:?} of a fleet's datagram"),
            }
            if self.batch.len() == BATCH {
                self.shard.observe(&self.batch, now_ns, &mut self.tally);
                self.batch.clear();
                now_ns += batch_ns;
            }
        }
        let applied_ns = thread_cpu_ns();
        // What has been asked of the wheel since is done in steps, as a reactor does.
        for step in 1..=(RUN / BATCH) as u64 {
            self.look_after_the_wheel(from_ns + step * batch_ns);
        }
        let looked_after_ns = thread_cpu_ns();
        self.heartbeat_ns.push((applied_ns - begun_ns) as f64 / RUN as f64);
        self.wheel_ns.push((looked_after_ns - applied_ns) as f64 / RUN as f64);
    }
}

/// What a heartbeat costs with each detector, tagged and not.
pub fn heartbeats(report: &mut Report, peers: u32, rounds: usize) {
    for form in [Form::Plain, Form::Tagged] {
        report.section(&format!(
            "{peers} peers, {}: ns of processor time a heartbeat, {rounds} rounds of {RUN} × 16",
            form.word()
        ));
        let detectors = Detector::WORDS.map(|word| word.parse::<Detector>().expect("a word"));
        let mut engines = detectors.map(|detector| Engine::new(peers, detector, form));
        for engine in &mut engines {
            for _ in 0..WARM_UP * u64::from(peers).div_ceil(BATCH as u64) {
                engine.apply_next();
            }
        }
        let mut datagrams = Datagrams::default();
        for _ in 0..rounds {
            for engine in &mut engines {
                // The others have had the caches meanwhile: what of this fleet would be in them is again.
                let warm = u64::from(peers).min(CACHED) / BATCH as u64;
                (0..warm).for_each(|_| engine.apply_next());
                (0..16).for_each(|_| engine.run(&mut datagrams));
            }
        }
        for engine in &engines {
            let applied = engine.counters.get(Counter::Heartbeats);
            assert_eq!(applied, engine.fleet.beats(), "{}: not all were applied", engine.name);
            let first_beats = u64::from(peers);
            assert_eq!(engine.tally.transitions, first_beats, "{}: who changed?", engine.name);
        }
        let case = |engine: &Engine| format!("{}, {peers} peers", engine.name);
        for engine in &engines {
            let figure = Figure::of(&engine.heartbeat_ns);
            let bar = match (form, peers) {
                (Form::Plain, 50_000) => Some(15.0),
                (Form::Plain, 1_000_000) => Some(35.0),
                _ => None,
            };
            match bar {
                Some(limit) if engine.name.starts_with("fixed") => {
                    report.bar(&case(engine), "a heartbeat", "ns", figure, Bar::AtMost(limit));
                }
                _ => report.figure(&case(engine), "a heartbeat", "ns", figure),
            }
        }
        let (fixed, others) = engines.split_first().expect("fixed comes first");
        for engine in others {
            let ratio = Figure::ratio(&engine.heartbeat_ns, &fixed.heartbeat_ns);
            report.bar(&case(engine), "against fixed", "×", ratio, Bar::AtMost(1.3));
        }
        for engine in &engines {
            let mean = engine.wheel_ns.iter().sum::<f64>() / engine.wheel_ns.len() as f64;
            report.figure(&case(engine), "its wheel besides, mean", "ns", Figure::exactly(mean));
        }
    }
}

/// Everybody falls silent: what it costs to call each of them suspect, then down, and how long one call
/// with the limit of a reactor's turn takes at most.
pub fn expiry(report: &mut Report, peers: u32, rounds: usize) {
    report.section(&format!("{peers} peers fall silent: ns of processor time a transition"));
    for (how, at_once) in [("each in its turn", false), ("all at one instant", true)] {
        let (mut each_ns, mut longest_us) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut engine = Engine::new(peers, Detector::default(), Form::Plain);
            let mut now_ns = engine.now_ns();
            if at_once {
                // All have been silent for as long: they beat once more, all at this time.
                for _ in 0..u64::from(peers).div_ceil(BATCH as u64) {
                    engine.batch.clear();
                    engine.batch.extend((0..BATCH).map(|_| engine.fleet.next()));
                    engine.shard.observe(&engine.batch, now_ns, &mut engine.tally);
                }
            }
            let before = engine.tally.transitions;
            let (mut spent_ns, mut longest_ns) = (0, 0);
            let end_ns = now_ns + EVERYBODY_DOWN_NS;
            while now_ns < end_ns {
                now_ns += STEP_NS;
                let mut left = true;
                while left {
                    let told = engine.tally.transitions;
                    let begun_ns = thread_cpu_ns();
                    left = engine.shard.advance(now_ns, now_ns, FIRE_LIMIT, &mut engine.tally);
                    let took_ns = thread_cpu_ns() - begun_ns;
                    longest_ns = longest_ns.max(took_ns);
                    // A call that finds nobody is mostly the reading of the clock.
                    spent_ns += if engine.tally.transitions > told { took_ns } else { 0 };
                }
                engine.shard.weed(now_ns, WEEDED);
            }
            assert_eq!(engine.tally.to_down, u64::from(peers), "all are down");
            let made = engine.tally.transitions - before;
            assert_eq!(made, 2 * u64::from(peers), "each is suspect, then down");
            each_ns.push(spent_ns as f64 / made as f64);
            longest_us.push(longest_ns as f64 / 1e3);
        }
        let case = format!("{how}, {peers} peers");
        report.figure(&case, "a transition", "ns", Figure::of(&each_ns));
        report.figure(&case, "longest call, 512 timers", "µs", Figure::of(&longest_us));
    }
}
