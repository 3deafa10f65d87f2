//! What the timing wheel costs: arming, meeting healthy peers, firing dead ones.
//!
//! Records are laid out as in the table: 128 bytes, the deadline's fields in the first cache line; the
//! order of arming has nothing to do with that in memory. Time is
//! simulated; what is measured is processor time. The lowest of a figure's rounds is what the code costs,
//! the highest what the machine's other work made of it.

use crate::harness::{Figure, Report, shuffled, thread_cpu_ns};
use memmap2::{Advice, MmapMut};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use systole::engine::wheel::{Timers, Wheel};

const INTERVAL_US: u64 = 1_000_000;
const TIMEOUT_US: u64 = 3 * INTERVAL_US + 50_000;
const START_US: u64 = 1 << 50;
/// How often the owner looks at its wheel in the paced runs.
const TURN_US: u64 = 100;
/// Timers it weeds in each turn.
pub const WEEDED_A_TURN: u32 = 256;

/// Goes while this thread is at work.
struct Stopwatch(u64);

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch(thread_cpu_ns())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(thread_cpu_ns() - self.0)
    }
}

/// When its peer was seen last.
#[repr(align(128))]
struct Record(u64);

/// Asks the processor for a record's cache line.
#[inline]
fn prefetch(record: &Record) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing, and every x86-64 CPU has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(record).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = record;
}

/// The records, and how often the wheel asked one.
struct Records {
    records: Region,
    visits: Cell<u64>,
}

/// Memory like the table's: an anonymous mapping of, if the kernel has them to give, huge pages.
/// On small pages every visit costs a page walk besides.
struct Region {
    memory: MmapMut,
    peers: usize,
}

impl Region {
    fn new(peers: usize) -> Region {
        let mut memory = MmapMut::map_anon(peers * size_of::<Record>()).expect("memory");
        // Refused where huge pages are switched off; then they are small.
        let _ = memory.advise(Advice::HugePage);
        for place in 0..peers {
            // SAFETY: the mapping has room for `peers` records and is page-aligned; it is written
            // through the pointer that it gave for writing.
            unsafe { memory.as_mut_ptr().cast::<Record>().add(place).write(Record(0)) };
        }
        Region { memory, peers }
    }
}

impl Deref for Region {
    type Target = [Record];
    fn deref(&self) -> &[Record] {
        // SAFETY: `new` has written `peers` records, and the slice borrows the mapping.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.peers) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [Record] {
        // SAFETY: as in `deref`, and the mapping is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.peers) }
    }
}

impl Timers for Records {
    #[inline]
    fn deadline_us(&self, index: u32) -> u64 {
        self.visits.set(self.visits.get() + 1);
        self.records[index as usize].0 + TIMEOUT_US
    }

    #[inline]
    fn prefetch(&self, index: u32) {
        prefetch(&self.records[index as usize]);
    }
}

/// A fleet whose peers beat one after the other, in an order that is not that of their records.
struct Fleet {
    wheel: Wheel,
    records: Records,
    order: Vec<u32>,
    /// Beats so far, and the time of the last one.
    beats: u64,
    now_us: u64,
}

impl Fleet {
    fn new(peers: usize) -> Self {
        Fleet {
            wheel: Wheel::new(START_US, peers as u32),
            records: Records { records: Region::new(peers), visits: Cell::new(0) },
            order: shuffled(peers as u32),
            beats: 0,
            now_us: START_US,
        }
    }

    /// Peers are spread evenly over the interval; this many beats after the start, it is:
    fn time_of(&self, beat: u64) -> u64 {
        START_US + beat * INTERVAL_US / self.order.len() as u64
    }

    /// Every peer beats for the first time and is armed. The time that arming took.
    fn arm(&mut self) -> Duration {
        let deadlines: Vec<(u32, u64)> = (self.order.iter().zip(0..))
            .map(|(&index, beat)| (index, self.time_of(beat)))
            .collect();
        for &(index, seen_us) in &deadlines {
            self.records.records[index as usize].0 = seen_us;
        }
        let begun = Stopwatch::start();
        for &(index, seen_us) in &deadlines {
            self.wheel.arm(index, seen_us + TIMEOUT_US);
        }
        let took = begun.elapsed();
        self.beats = deadlines.len() as u64;
        self.now_us = self.time_of(self.beats);
        took
    }

    /// Time goes on and the peers beat in their turn, without touching the wheel.
    fn beat_until(&mut self, now_us: u64) {
        let peers = self.order.len() as u64;
        while self.time_of(self.beats) <= now_us {
            let index = self.order[(self.beats % peers) as usize];
            self.records.records[index as usize].0 = self.time_of(self.beats);
            self.beats += 1;
        }
        self.now_us = now_us;
    }

    /// What the owner does in a turn in which nobody is missed.
    fn look_after_the_wheel(&mut self, weeded: u32) {
        let popped = self.wheel.pop(&self.records, self.now_us);
        assert_eq!(popped, None, "a healthy peer fired");
        if weeded > 0 {
            self.wheel.weed(&self.records, weeded);
        }
    }

    /// Some timeouts of turns; the time that they took.
    fn turns(&mut self, timeouts: u64, mut turn: impl FnMut(&mut Fleet)) -> Duration {
        let end_us = self.now_us + timeouts * TIMEOUT_US;
        let begun = Stopwatch::start();
        while self.now_us < end_us {
            self.beat_until(self.now_us + TURN_US);
            turn(self);
        }
        begun.elapsed()
    }
}

/// What the wheel costs a living fleet.
pub struct Healthy {
    /// Time spent in the wheel, for each peer and timeout.
    pub per_timeout: Duration,
    /// Time spent in the wheel, for each visit of a peer.
    per_visit: Duration,
    /// Visits, for each peer and timeout.
    visits: f64,
    /// The longest that one turn stayed in the wheel, and the most visits of one turn.
    longest: Duration,
    most: u64,
}

/// Everybody beats for some timeouts, and the owner looks at its wheel every [`TURN_US`].
pub fn healthy(peers: usize, weeded: u32, timeouts: u64) -> Healthy {
    let mut fleet = Fleet::new(peers);
    fleet.arm();
    // The first timeout is not counted: arming has put them all in order.
    fleet.turns(1, |fleet| fleet.look_after_the_wheel(weeded));
    let before = fleet.records.visits.get();
    let with = fleet.turns(timeouts, |fleet| fleet.look_after_the_wheel(weeded));
    let visits = fleet.records.visits.get() - before;
    // Each turn by itself: what that takes altogether is more than half reading the clock.
    let (mut longest, mut most) = (Duration::ZERO, 0);
    fleet.turns(timeouts, |fleet| {
        let before = fleet.records.visits.get();
        let begun = Stopwatch::start();
        fleet.look_after_the_wheel(weeded);
        longest = longest.max(begun.elapsed());
        most = most.max(fleet.records.visits.get() - before);
    });
    let without = fleet.turns(timeouts, |_| {});
    let spent = with.saturating_sub(without);
    Healthy {
        per_timeout: spent / (peers as u32 * timeouts as u32),
        per_visit: spent / visits as u32,
        visits: visits as f64 / (peers as u64 * timeouts) as f64,
        longest,
        most,
    }
}

/// Everybody falls silent; all fire, each in its turn. Time for each.
pub fn fire(peers: usize) -> Duration {
    let mut fleet = Fleet::new(peers);
    fleet.arm();
    let end = fleet.now_us + TIMEOUT_US;
    let begun = Stopwatch::start();
    let mut fired = 0;
    while let Some(index) = fleet.wheel.pop(&fleet.records, end) {
        assert_eq!(index, fleet.order[fired], "out of turn");
        fired += 1;
    }
    let took = begun.elapsed();
    assert_eq!(fired, peers);
    took / peers as u32
}

/// Everybody fell silent at one instant, a timeout ago. Time for each.
fn fire_on_one_tick(peers: usize) -> Duration {
    let mut fleet = Fleet::new(peers);
    for &index in &fleet.order {
        fleet.records.records[index as usize].0 = START_US;
        fleet.wheel.arm(index, START_US + TIMEOUT_US);
    }
    let begun = Stopwatch::start();
    assert_eq!(fleet.wheel.pop(&fleet.records, START_US + TIMEOUT_US - 1), None);
    let mut fired = 0;
    while let Some(index) = fleet.wheel.pop(&fleet.records, START_US + TIMEOUT_US) {
        assert!(index < peers as u32);
        fired += 1;
    }
    let took = begun.elapsed();
    assert_eq!(fired, peers);
    took / peers as u32
}

/// Arming one timer.
pub fn arm(peers: usize) -> Duration {
    let mut fleet = Fleet::new(peers);
    fleet.arm() / peers as u32
}

/// Disarming one timer, in an order that is not that of the queues.
fn disarm(peers: usize) -> Duration {
    let mut fleet = Fleet::new(peers);
    fleet.arm();
    let begun = Stopwatch::start();
    for index in 0..peers as u32 {
        fleet.wheel.disarm(index);
    }
    let took = begun.elapsed();
    assert_eq!(fleet.wheel.next_us(), None);
    took / peers as u32
}

/// Asking a wheel with timers when nothing is due.
fn idle(peers: usize) -> Duration {
    const TURNS: u32 = 100_000;
    let mut fleet = Fleet::new(peers);
    fleet.arm();
    let begun = Stopwatch::start();
    for turn in 0..u64::from(TURNS) {
        assert_eq!(fleet.wheel.pop(&fleet.records, START_US + turn), None);
        assert!(fleet.wheel.next_us() > Some(START_US + turn));
    }
    begun.elapsed() / TURNS
}

fn suite(report: &mut Report, peers: usize, rounds: usize) {
    report.section(&format!("wheel, {peers} peers, {rounds} rounds"));
    let name = format!("{peers} peers");
    let mut row = |case: &str, what: &str, took: Vec<Duration>| {
        let ns: Vec<f64> = took.iter().map(|took| took.as_nanos() as f64).collect();
        report.figure(case, what, "ns", Figure::of(&ns));
    };
    let mut repeat = |what: &str, measure: fn(usize) -> Duration| {
        row(&name, what, (0..rounds).map(|_| measure(peers)).collect());
    };
    repeat("arm", arm);
    repeat("disarm", disarm);
    repeat("nothing due", idle);
    repeat("fire, each at its tick", fire);
    repeat("fire, all on one tick", fire_on_one_tick);
    for (how, weeded) in [("cascades only", 0), ("weeding ahead", WEEDED_A_TURN)] {
        let runs: Vec<Healthy> = (0..rounds).map(|_| healthy(peers, weeded, 2)).collect();
        let case = format!("healthy, {how}, {peers} peers");
        let mut row = |what: &str, of: fn(&Healthy) -> Duration| {
            let ns: Vec<f64> = runs.iter().map(|run| of(run).as_nanos() as f64).collect();
            report.figure(&case, what, "ns", Figure::of(&ns));
        };
        row("a peer and timeout", |run| run.per_timeout);
        row("a visit", |run| run.per_visit);
        row("longest turn", |run| run.longest);
        let mut figure = |what, value| report.figure(&case, what, "", Figure::exactly(value));
        figure("visits, peer and timeout", runs[0].visits);
        figure("most visits of a turn", runs[0].most as f64);
    }
}

/// All sizes; without `measures` a tiny one.
pub fn run(report: &mut Report, measures: bool) {
    if measures {
        suite(report, 50_000, 15);
        suite(report, 1_000_000, 9);
    } else {
        suite(report, 1_000, 1);
    }
}
