//! The dumb oracle that the wheel is tested against: a sorted set of real deadlines.
//!
//! It knows nothing of levels and slots. After every `pop` it says which tick had to come next and
//! that nothing due was left behind; the records count how often the wheel asked them.

use super::level::{BITS, SLOTS};
use super::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A distance of any magnitude up to 2^bits, often at or beside a power of 64.
    pub(super) fn distance(&mut self, bits: u64) -> u64 {
        let shift = self.below(bits + 1);
        match self.below(4) {
            0 => {
                let edge = 1u64 << (shift - shift % u64::from(BITS));
                let slots = [1, 2, 62, 63, 64, 65][self.below(6) as usize];
                (edge * slots + self.below(3)).saturating_sub(1)
            }
            _ => self.below((1 << shift) + 1),
        }
    }
}

/// Seeds of the random tests: `SYSTOLE_TEST_SEED`, or 1 ..= n.
pub(super) fn seeds(n: u64) -> Vec<u64> {
    match std::env::var("SYSTOLE_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("SYSTOLE_TEST_SEED is a number")],
        Err(_) => (1..=n).collect(),
    }
}

/// Says which seed was at work when a test panics.
pub(super) struct Seed(pub(super) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SYSTOLE_TEST_SEED={}", self.0);
        }
    }
}

#[derive(Default)]
pub(super) struct Records {
    pub(super) deadlines_us: Vec<u64>,
    pub(super) visits: Cell<u64>,
}

impl Timers for Records {
    fn deadline_us(&self, index: u32) -> u64 {
        self.visits.set(self.visits.get() + 1);
        self.deadlines_us[index as usize]
    }

    fn prefetch(&self, _index: u32) {}
}

/// A wheel, its records and the oracle.
pub(super) struct Model {
    pub(super) wheel: Wheel,
    pub(super) records: Records,
    /// Armed records by the tick at which they have to fire.
    pub(super) oracle: BTreeSet<(u64, u32)>,
    /// That tick, by record: the deadline, or the later tick at which the wheel was told it.
    pub(super) due_us: BTreeMap<u32, u64>,
    /// Tick of the last one that fired.
    last_us: u64,
    pub(super) now_us: u64,
}

impl Model {
    pub(super) fn new(now_us: u64, records: usize) -> Model {
        Model {
            wheel: Wheel::new(now_us, records as u32),
            records: Records { deadlines_us: vec![0; records], ..Records::default() },
            oracle: BTreeSet::new(),
            due_us: BTreeMap::new(),
            last_us: 0,
            now_us,
        }
    }

    pub(super) fn is_armed(&self, index: u32) -> bool {
        self.due_us.contains_key(&index)
    }

    fn expect(&mut self, index: u32, due_us: u64) {
        if let Some(old) = self.due_us.insert(index, due_us) {
            assert!(self.oracle.remove(&(old, index)));
        }
        self.oracle.insert((due_us, index));
    }

    fn forget(&mut self, index: u32) {
        let due = self.due_us.remove(&index).expect("armed");
        assert!(self.oracle.remove(&(due, index)));
    }

    /// Arms a record, anew if it is armed.
    pub(super) fn arm(&mut self, index: u32, deadline_us: u64) {
        self.records.deadlines_us[index as usize] = deadline_us;
        self.expect(index, deadline_us.max(self.wheel.elapsed));
        self.wheel.arm(index, deadline_us);
        assert!(self.wheel.is_armed(index));
    }

    pub(super) fn disarm(&mut self, index: u32) {
        self.wheel.disarm(index);
        assert!(!self.wheel.is_armed(index));
        if self.is_armed(index) {
            self.forget(index);
        }
    }

    /// The record beats: its deadline becomes a later one, and nobody tells the wheel.
    pub(super) fn postpone(&mut self, index: u32, deadline_us: u64) {
        assert!(deadline_us > self.wheel.elapsed && self.due_us[&index] <= deadline_us);
        self.records.deadlines_us[index as usize] = deadline_us;
        self.expect(index, deadline_us);
    }

    /// Asks for the exact next deadline and judges the answer.
    pub(super) fn check_exact(&mut self, until_us: u64, visits: u32) {
        let answer = self.wheel.next_exact_us(&self.records, until_us, visits);
        let first = self.oracle.first().map(|&(due, _)| due);
        assert_eq!(answer.is_none(), first.is_none(), "until {until_us}");
        let (Some(answer), Some(first)) = (answer, first) else { return };
        assert!(answer <= first, "{answer} is too late for {first}, until {until_us}");
        if visits == u32::MAX && first <= until_us {
            assert_eq!(answer, first, "not exact, until {until_us}");
        }
    }

    /// One `pop`, judged by the oracle.
    pub(super) fn pop(&mut self, now_us: u64) -> Option<u32> {
        self.now_us = now_us;
        let first = self.oracle.first().copied().filter(|&(due, _)| due <= now_us);
        let popped = self.wheel.pop(&self.records, now_us);
        let Some(index) = popped else {
            assert_eq!(first, None, "lost at {now_us}: {:?}", self.wheel.next_us());
            return None;
        };
        let due = *self.due_us.get(&index).expect("only armed records fire");
        assert_eq!(Some(due), first.map(|(due, _)| due), "record {index} out of turn at {now_us}");
        assert!(!self.wheel.is_armed(index));
        assert!(self.last_us <= due, "tick {due} after {}", self.last_us);
        self.last_us = due;
        self.forget(index);
        Some(index)
    }

    pub(super) fn drain(&mut self, now_us: u64) -> Vec<u32> {
        std::iter::from_fn(|| self.pop(now_us)).collect()
    }

    /// `next_us` is the first tick at which `pop` does anything.
    pub(super) fn check_next(&mut self) {
        let Some(next) = self.wheel.next_us() else {
            assert!(self.oracle.is_empty());
            return;
        };
        let (first, _) = *self.oracle.first().expect("a next tick without a timer");
        assert!(next <= first, "next is {next}, but {first} is due");
        let before = (self.records.visits.get(), self.wheel.entries);
        if next > self.wheel.elapsed {
            assert_eq!(self.pop(next - 1), None);
            let after = (self.records.visits.get(), self.wheel.entries);
            assert_eq!(after, before, "work before next_us");
            assert_eq!(self.wheel.next_us(), Some(next), "next_us moved without work");
        }
        self.pop(next.max(self.now_us));
        let after = (self.records.visits.get(), self.wheel.entries);
        assert_ne!(after, before, "nothing to do at next_us");
    }

    /// Every invariant that the module states, by brute force.
    pub(super) fn check_structure(&self) {
        let elapsed = self.wheel.elapsed;
        let (mut seen, mut entries) = (BTreeSet::new(), 0);
        for (number, level) in self.wheel.levels.iter().enumerate() {
            let current = elapsed >> (BITS as usize * number);
            for ahead in 0..SLOTS {
                let slot = current + ahead;
                let queue = level.queue(slot);
                let occupied = level.occupied() >> (slot % SLOTS) & 1 == 1;
                assert_eq!(occupied, queue.len() > 0, "occupied word of level {number}");
                assert!(!occupied || ahead > 0 || number == 0, "not cascaded: level {number}");
                for entry in self.wheel.blocks.entries(queue) {
                    entries += 1;
                    if self.wheel.turns[entry.index as usize] != entry.turn {
                        continue;
                    }
                    assert!(self.is_armed(entry.index) && seen.insert(entry.index));
                    // The tick that it hangs at is not behind the one at which it must fire.
                    assert!(level.start_of(slot) <= self.due_us[&entry.index]);
                }
            }
        }
        assert_eq!(entries, self.wheel.entries, "entries lost or found");
        assert!(entries <= most_entries(self.wheel.turns.len() as u32));
        assert_eq!(seen.len(), self.oracle.len(), "timers lost or found");
        assert_eq!(seen.len(), self.wheel.armed as usize);
        for index in 0..self.wheel.turns.len() as u32 {
            assert_eq!(self.wheel.is_armed(index), self.is_armed(index));
        }
    }
}
