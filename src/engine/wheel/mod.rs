//! The timing wheel: which timer is due next, at a cost that does not depend on how many there are.
//!
//! Think of twelve clocks side by side, each with 64 marks on its dial. The first one's hand moves
//! a mark every microsecond, the second one's every 16 µs, the third one's every 256 µs, and so on. A
//! timer hangs at a mark of the *fastest* clock whose dial still reaches to its deadline. When a hand
//! comes to a mark, the timers there are taken down and hung on faster clocks (a *cascade*), until the
//! first clock's hand finds them at their very microsecond.
//!
//! ```text
//!            width of a slot    reach                    occupied (one word a level)
//!  level 0      1 µs            63 µs       c▽           0010…0001
//!  level 1     16 µs             1 ms       │ c▽         0000…0100   ▽ slot of `elapsed`
//!  level 2    256 µs            16 ms       │ │          0000…0000
//!  level 3    4.1 ms           258 ms       ▼ ▼          1100…1111
//!  level 4     66 ms           4.1 s     ┌───────┐   ┌──────────────┐   ┌──────────────┐
//!  level 5    1.0 s            1.1 min   │ queue ├──▶│ 17  4 90 8 … │──▶│ 66  2 …      │
//!  level 6     17 s             18 min   └───────┘   └──────────────┘   └──────────────┘
//!  …                                      blocks of 31 timers: `queue.rs`
//!  level 11   204 days        35 years
//! ```
//!
//! **Every level is a ring.** At level `l` the slots are numbered from time 0, `tick >> 4·l`; a
//! timer belongs to the lowest level at which its slot is at most 63 slots ahead of the slot of
//! `elapsed`, the tick up to which the wheel has worked. So a timer of three seconds is always put
//! on level 4. (The usual rule, the highest bit in which tick and `elapsed` differ, lets nearly a
//! whole fleet pile up in one slot before each boundary of a higher level: a million peers would be
//! cascaded at one blow.)
//!
//! **The dials overlap**: each has four times the marks that would do. So a timer hangs nearly four slots
//! ahead of `elapsed` at least, and is met shortly before its deadline. With slots 64 times as wide as those of
//! the level below, as is usual, it may hang in the very next one: a timeout of 2.1 s was met up to 0.4 s
//! early, before the heartbeat that was due in that time, and one of 21 s after 4 s.
//!
//! **The wheel is lazy.** A heartbeat does not touch it. When a timer is visited, the wheel asks
//! the record for its real deadline ([`Timers::deadline_us`]) and goes by the answer. A healthy
//! peer is met at a cascade about once in a timeout, however fast it beats, has moved on, and is
//! hung up at its new place without ever getting near level 0.
//!
//! **Arming anew and disarming** touch no queue either. The wheel counts for each record how often it
//! was armed and disarmed, and what hangs in a queue carries that number: when it is met and the numbers
//! differ, it does not count any more and is thrown away. There is room for one such leftover a record;
//! when it is used up, all are swept out at once.
//!
//! **Invariants.** Between two calls:
//! 1. a timer in slot number `s` of level `l` has `s - (elapsed >> 4·l)` in 1 ..= 63, or in
//!    0 ..= 63 at level 0. So a slot holds one rotation only, and what is due stands at level 0;
//! 2. an armed record has one entry that counts, any other none;
//! 3. a bit of `occupied` is set exactly if its queue has an entry;
//! 4. no slot of any level starts between `elapsed` and [`Wheel::next_us`].
//!
//! **Order.** Timers fire in ascending order of their ticks, where a deadline that was already in
//! the past when the wheel was told it counts as the tick at which it was told. Timers of *one*
//! tick fire in no promised order.
//!
//! **Why queues of blocks**, and not lists whose links are in the records: a visit then follows its list
//! from one cold record to the next, and changes two neighbours that are as cold. A cascade of 10,606
//! of 50,000 peers took 809 µs with such lists, and takes 156.
//!
//! **Absent:** locks and sharing (the wheel has one owner), allocation, a clock (the time is an
//! argument), stepping through empty ticks: a jump of hours costs as many steps as there are
//! occupied slots in it.

mod level;
#[cfg(test)]
mod model;
mod queue;
#[cfg(test)]
mod tests;

use super::prefetch::prefetch;
use level::{LEVELS, Level, SLOTS};
use queue::{Batch, Blocks, Entry};

/// What the wheel asks of the records whose timers it holds.
pub trait Timers {
    /// The record's real deadline now, in ticks (microseconds). It may have moved since the timer
    /// was armed; the wheel then hangs it at its true place instead of firing it. Only a move to a
    /// *later* tick may go unannounced: for an earlier one the owner arms anew, otherwise the timer
    /// fires as late as the tick it was armed for.
    fn deadline_us(&self, index: u32) -> u64;

    /// The record will be asked soon: a hint to bring what is needed into the cache.
    fn prefetch(&self, index: u32);
}

/// No block.
const NIL: u32 = u32::MAX;

/// Levels below this one are not worth weeding ahead of time: their slots are at most 4.1 ms wide,
/// so what is cascaded at one blow is a small share of the fleet.
const WEEDED_FROM: usize = 4;

/// Queues of all levels.
const QUEUES: u32 = LEVELS as u32 * SLOTS as u32;

/// So many entries ahead of the one that fires, a record is asked for.
const AHEAD: usize = 8;

/// The wheel: twelve levels of 64 queues, one microsecond a tick.
pub struct Wheel {
    /// All ticks before this one are done with; this one may have timers left to fire.
    elapsed: u64,
    levels: [Level; LEVELS],
    blocks: Blocks,
    /// Entries in all queues, those that do not count any more among them.
    entries: u32,
    /// For each record how often it was armed and disarmed, together: odd, it is armed. An entry counts
    /// while its turn is the record's.
    turns: Vec<u32>,
    /// How many records are armed.
    armed: u32,
    /// For each level, how far [`Wheel::weed`] has got.
    walks: [Walk; LEVELS],
}

/// A walk through the queue of a level's next slot; [`Wheel::weed`] says when it begins.
#[derive(Clone, Copy)]
struct Walk {
    slot: u64,
    /// Entries that are still to be visited.
    rest: u32,
}

impl Wheel {
    /// An empty wheel at `now_us`, any tick below 2^63, for records with indices below `capacity`.
    /// Memory: four bytes for each of them, and up to sixteen for each that is armed.
    pub fn new(now_us: u64, capacity: u32) -> Wheel {
        debug_assert!(now_us < 1 << 63);
        Wheel {
            elapsed: now_us,
            levels: std::array::from_fn(Level::new),
            // One more for the queue that is taken down.
            blocks: Blocks::new(most_entries(capacity), QUEUES + 1),
            entries: 0,
            turns: vec![0; capacity as usize],
            armed: 0,
            walks: [Walk { slot: 0, rest: 0 }; LEVELS],
        }
    }

    /// Arms a record's timer, anew if it is armed. A deadline in the past fires at the next `pop`.
    ///
    /// # Panics
    /// When `index` is not below the capacity.
    pub fn arm(&mut self, index: u32, deadline_us: u64) {
        if self.entries >= most_entries(self.turns.len() as u32) {
            self.sweep();
        }
        let turn = &mut self.turns[index as usize];
        self.armed += (*turn & 1) ^ 1;
        *turn = turn.wrapping_add(1) | 1;
        let entry = Entry { index, turn: *turn };
        self.entries += 1;
        self.place(entry, deadline_us);
    }

    /// Disarms a record's timer if it is armed.
    pub fn disarm(&mut self, index: u32) {
        let turn = &mut self.turns[index as usize];
        self.armed -= *turn & 1;
        *turn = turn.wrapping_add(*turn & 1);
    }

    /// Whether a record's timer is armed.
    pub fn is_armed(&self, index: u32) -> bool {
        self.turns[index as usize] & 1 == 1
    }

    /// Takes out the next record whose *real* deadline is at or before `now_us`, cascading and
    /// weeding out those that moved on the way. `None`: nothing (more) is due.
    ///
    /// The caller may stop at any time and go on later, at the same or a later `now_us`. Amortised
    /// constant time: a record is visited at most once a level between being armed and fired.
    ///
    /// ```text
    /// loop:
    ///     while the queue of tick `elapsed` has a first entry:
    ///         its deadline has come    → take it out, return it
    ///         it has moved             → hang it at its true place
    ///     tick ← start of the first occupied slot of any level
    ///     tick is after now            → elapsed ← now, return nothing
    ///     elapsed ← tick, cascade the slots that start at it
    /// ```
    pub fn pop(&mut self, timers: &impl Timers, now_us: u64) -> Option<u32> {
        debug_assert!(now_us < 1 << 63);
        loop {
            if self.elapsed <= now_us
                && let Some(index) = self.fire(timers)
            {
                return Some(index);
            }
            match self.next_us() {
                Some(tick) if tick <= now_us => self.enter(timers, tick),
                next => {
                    // What does not count any more must not be passed by, but met or swept out.
                    if next.is_none() && self.entries > 0 {
                        self.sweep();
                    }
                    // A time that goes back moves nothing.
                    self.elapsed = self.elapsed.max(now_us);
                    return None;
                }
            }
        }
    }

    /// The tick at which `pop` next has something to do: a deadline that may be real, or a cascade.
    /// `None`: no timer is armed. Exact for timers at most 63 µs ahead, and otherwise early: the
    /// start of the slot. Early, too, where a timer hung that was disarmed or armed anew.
    pub fn next_us(&self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        self.levels.iter().filter_map(|level| level.next_start(self.elapsed)).min()
    }

    /// The earliest deadline, for planning a wait: exact if it is at `until_us` or before and no more
    /// than `visits` timers have to be asked; otherwise a tick that is not after it. `None`: no timer
    /// is armed.
    ///
    /// [`next_us`](Self::next_us) knows slots, not deadlines: it would wake the owner for the start of
    /// each slot, to find there that everybody has beaten meanwhile. This one asks the timers of the
    /// slots that start before the earliest deadline found so far, and hangs up anew those that have
    /// moved. Slots beyond `until_us` are not looked into: until then most of theirs will have moved.
    pub fn next_exact_us(
        &mut self,
        timers: &impl Timers,
        until_us: u64,
        visits: u32,
    ) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        let mut left = visits;
        let mut earliest: Option<u64> = None;
        let mut from: [u64; LEVELS] =
            std::array::from_fn(|level| self.levels[level].slot_of(self.elapsed));
        loop {
            let ahead = self.levels.iter().zip(from).enumerate();
            let next = ahead.filter_map(|(level, (ring, from))| {
                Some((ring.next_occupied(self.elapsed, from)?, level))
            });
            let next = next.map(|(slot, level)| (self.levels[level].start_of(slot), slot, level));
            let Some((start, slot, level)) = next.min() else { return earliest };
            if earliest.is_some_and(|earliest| earliest <= start) {
                return earliest;
            }
            if start > until_us {
                return Some(start);
            }
            from[level] = slot + 1;
            // What stays goes to the end, and has been asked.
            let mut rest = self.levels[level].queue(slot).len();
            while rest > 0 {
                if left == 0 {
                    return Some(start);
                }
                let batch = self.levels[level].take(&mut self.blocks, slot, rest.min(left));
                let taken = batch.entries().len() as u32;
                (rest, left) = (rest - taken, left - taken);
                let due_us = self.place_all(timers, &batch);
                earliest = earliest.into_iter().chain(due_us).min();
            }
        }
    }

    /// Visits up to `visits` timers of the slots that will be cascaded next, and hangs each where its
    /// deadline says: those that have moved at their true places, the others on the level below, which
    /// reaches them by now. Returns how many it visited.
    ///
    /// Never needed, for `pop` does the same when the time comes, but then all at once: a slot of
    /// level 4 holds a twentieth of a fleet with three-second timeouts (`benches/engine/wheel.rs`). The
    /// owner calls this in its spare time.
    ///
    /// A slot is walked through once, from when `elapsed` has passed a quarter of the one before it. No timer
    /// is hung there any more then, for the level below reaches nearly four times as far as the slot is
    /// wide. Later is better, since who has beaten by then is not met again so soon, but it takes its time:
    /// 256 visits every 100 µs were enough for a healthy million. If all of them fall silent, each in its
    /// turn, some are left to the cascade: 1.1 ms at most.
    pub fn weed(&mut self, timers: &impl Timers, visits: u32) -> u32 {
        let mut left = visits;
        for level in WEEDED_FROM..LEVELS {
            self.begin_walk(level);
            while self.walks[level].rest > 0 {
                if left == 0 {
                    return visits;
                }
                let Walk { slot, rest } = self.walks[level];
                let batch = self.levels[level].take(&mut self.blocks, slot, rest.min(left));
                let taken = batch.entries().len() as u32;
                // Nothing when all has been taken otherwise.
                self.walks[level].rest = if taken == 0 { 0 } else { rest - taken };
                left -= taken;
                self.place_all(timers, &batch);
            }
        }
        visits - left
    }

    /// Begins the walk through the next slot of a level, if it is time and it has not begun.
    fn begin_walk(&mut self, level: usize) {
        let ring = &self.levels[level];
        let slot = ring.slot_of(self.elapsed) + 1;
        let width = ring.start_of(1);
        if self.walks[level].slot != slot && self.elapsed % width >= width / 4 {
            self.walks[level] = Walk { slot, rest: ring.queue(slot).len() };
        }
    }

    /// Takes the first timer of tick `elapsed` that is due indeed; those before it have moved.
    fn fire(&mut self, timers: &impl Timers) -> Option<u32> {
        loop {
            if let Some(later) = self.blocks.ahead(self.levels[0].queue(self.elapsed), AHEAD) {
                timers.prefetch(later.index);
            }
            let entry = self.levels[0].pop(&mut self.blocks, self.elapsed)?;
            if !self.counts(entry) {
                continue;
            }
            let deadline_us = timers.deadline_us(entry.index);
            if deadline_us <= self.elapsed {
                self.entries -= 1;
                self.disarm(entry.index);
                return Some(entry.index);
            }
            self.place(entry, deadline_us);
        }
    }

    /// Moves on to a tick, the next one with anything to do, and cascades what starts there.
    fn enter(&mut self, timers: &impl Timers, tick: u64) {
        debug_assert!(tick >= self.elapsed);
        self.elapsed = tick;
        for level in 1..LEVELS {
            if !self.levels[level].starts_at(tick) {
                break;
            }
            self.cascade(timers, level);
        }
    }

    /// Takes down all timers of the slot that starts now and hangs each where its deadline says.
    fn cascade(&mut self, timers: &impl Timers, level: usize) {
        // A walk through this slot ends here; the next one has not begun.
        self.walks[level].rest = 0;
        let slot = self.levels[level].slot_of(self.elapsed);
        let mut queue = self.levels[level].take_all(slot);
        loop {
            let batch = self.blocks.take(&mut queue, u32::MAX);
            if batch.entries().is_empty() {
                return;
            }
            self.place_all(timers, &batch);
        }
    }

    /// Hangs timers that were taken down where their deadlines say; the earliest tick of these, none
    /// before `elapsed`.
    fn place_all(&mut self, timers: &impl Timers, batch: &Batch) -> Option<u64> {
        for entry in batch.entries() {
            timers.prefetch(entry.index);
            prefetch(&raw const self.turns[entry.index as usize]);
        }
        let mut earliest = None;
        for &entry in batch.entries() {
            if self.counts(entry) {
                let due_us = self.place(entry, timers.deadline_us(entry.index));
                earliest = Some(earliest.map_or(due_us, |earliest: u64| earliest.min(due_us)));
            }
        }
        earliest
    }

    /// Whether an entry that was taken down counts; if not, it is gone with that.
    #[inline]
    fn counts(&mut self, entry: Entry) -> bool {
        let counts = self.turns[entry.index as usize] == entry.turn;
        self.entries -= u32::from(!counts);
        counts
    }

    /// Appends an entry to the queue of its tick, or as near to it as the wheel reaches: not before
    /// `elapsed`, and not beyond the horizon, where it waits to be hung up again. That tick, but for the
    /// horizon.
    #[inline]
    fn place(&mut self, entry: Entry, deadline_us: u64) -> u64 {
        let due_us = deadline_us.max(self.elapsed);
        let tick = due_us.min(self.horizon_us());
        self.levels[level_of(self.elapsed, tick)].push(&mut self.blocks, entry, tick);
        due_us
    }

    /// Throws out the entries that do not count any more. Half of them all at least when there is no
    /// room, so that arming takes constant time all the same.
    #[cold]
    fn sweep(&mut self) {
        for level in &mut self.levels {
            for slot in 0..SLOTS {
                let mut queue = level.take_all(slot);
                loop {
                    let batch = self.blocks.take(&mut queue, u32::MAX);
                    if batch.entries().is_empty() {
                        break;
                    }
                    for &entry in batch.entries() {
                        if self.turns[entry.index as usize] == entry.turn {
                            let tick = level.start_of(slot);
                            level.push(&mut self.blocks, entry, tick);
                        } else {
                            self.entries -= 1;
                        }
                    }
                }
            }
        }
    }

    /// Start of the farthest slot: 63 slots ahead at the top level, at least 62 · 2^44 µs (34
    /// years) and less than 2^50 µs from `elapsed`.
    #[inline]
    fn horizon_us(&self) -> u64 {
        let top = &self.levels[LEVELS - 1];
        top.start_of(top.slot_of(self.elapsed) + SLOTS - 1)
    }
}

/// Entries that a wheel has room for: one for each record, and as many that do not count any more, or
/// as many as there are queues, so that it pays to sweep them all.
fn most_entries(capacity: u32) -> u32 {
    capacity.saturating_add(capacity.max(QUEUES))
}

/// The lowest level at which the slot of `tick` is less than [`SLOTS`] slots ahead of that of
/// `elapsed`; `tick` is neither before `elapsed` nor beyond the horizon's slot.
#[inline]
fn level_of(elapsed: u64, tick: u64) -> usize {
    debug_assert!(tick >= elapsed);
    let beyond = ((tick - elapsed) | (SLOTS - 1)).ilog2() - (SLOTS - 1).ilog2();
    let level = beyond.div_ceil(level::BITS);
    // The distance decides but for one case: one slot less a tick, begun in the middle of a slot,
    // ends 64 slots ahead.
    let shift = level * level::BITS;
    let level = if (tick >> shift) - (elapsed >> shift) == SLOTS { level + 1 } else { level };
    debug_assert!((level as usize) < LEVELS);
    level as usize
}
