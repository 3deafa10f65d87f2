//! The timing wheel: which timer is due next, at a cost that does not depend on how many there are.
//!
//! Think of eight clocks side by side, each with 64 marks on its dial. The first one's hand moves
//! a mark every microsecond, the second one's every 64 µs, and so on. A timer hangs at a mark of
//! the *fastest* clock whose dial still reaches to its deadline. When a hand comes to a mark, the
//! timers there are taken down and hung on faster clocks (a *cascade*), until the first clock's
//! hand finds them at their very microsecond.
//!
//! ```text
//!            width of a slot    reach                    occupied (one word a level)
//!  level 0      1 µs            63 µs       c▽           0010…0001
//!  level 1     64 µs             4 ms       │ c▽         0000…0100   ▽ slot of `elapsed`
//!  level 2      4.1 ms         258 ms       │ │          0000…0000
//!  level 3    262 ms          16.5 s        ▼ ▼          1100…1111
//!  level 4     16.8 s         17.6 min    ┌──────┐  head   ┌────┐   ┌────┐   ┌────┐  tail
//!  level 5     17.9 min       18.8 h      │ list ├────────▶│ 17 │◀─▶│  4 │◀─▶│ 90 │◀──────
//!  level 6     19.1 h         50.1 days   └──────┘         └────┘   └────┘   └────┘
//!  level 7     50.9 days       8.8 years                   links are kept inside the records
//! ```
//!
//! **Every level is a ring.** At level `l` the slots are numbered from time 0, `tick >> 6·l`; a
//! timer belongs to the lowest level at which its slot is at most 63 slots ahead of the slot of
//! `elapsed`, the tick up to which the wheel has worked. So a timer of three seconds is always put
//! on level 3. (The usual rule, the highest bit in which tick and `elapsed` differ, lets nearly a
//! whole fleet pile up in one slot before each boundary of a higher level: every 16.8 s a million
//! peers would be cascaded at one blow.)
//!
//! **The wheel is lazy.** A heartbeat does not touch it. When a timer is visited, the wheel asks
//! the record for its real deadline ([`Timers::deadline_us`]) and goes by the answer. A healthy
//! peer is met at a cascade about once in a timeout, however fast it beats, has moved on, and is
//! hung up at its new place without ever getting near level 0.
//!
//! **Invariants.** Between two calls:
//! 1. a timer in slot number `s` of level `l` has `s - (elapsed >> 6·l)` in 1 ..= 63, or in
//!    0 ..= 63 at level 0. So a slot holds one rotation only, and what is due stands at level 0;
//! 2. a bit of `occupied` is set exactly if its list has a timer;
//! 3. no slot of any level starts between `elapsed` and [`Wheel::next_us`].
//!
//! **Order.** Timers fire in ascending order of their ticks, where a deadline that was already in
//! the past when the wheel was told it counts as the tick at which it was told. Timers of *one*
//! tick fire in the order in which the wheel learnt of that tick: at [`Wheel::insert`], or when it
//! visited the record and got a new answer. For deadlines that do not move this is first in, first
//! out. It holds because the level of a fixed tick can only sink as `elapsed` grows: of two timers
//! for one tick the one on the higher level was placed earlier. So a cascade puts what did not
//! move *in front* of the lists below, lowest level first, and what did move at their ends; and
//! [`Wheel::weed`] sinks a timer by one level, not to the lowest that reaches, where it could come
//! before an earlier one that still hangs between. (Only a deadline beyond the horizon is, in this
//! sense, learnt anew when it comes within reach.)
//!
//! **Absent:** locks and sharing (the wheel has one owner), allocation, a clock (the time is an
//! argument), stepping through empty ticks: a jump of hours costs as many steps as there are
//! occupied slots in it.

mod level;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use level::{LEVELS, Level, List, SLOTS};

/// What the wheel needs of the records whose timers it holds: room for the links, and the truth.
pub trait Timers {
    /// The record's links and the tick at which it is armed. A record that was never in the wheel
    /// must answer [`Link::UNARMED`].
    fn link(&self, index: u32) -> Link;
    /// Stores them.
    fn set_link(&mut self, index: u32, link: Link);
    /// The record's real deadline now, in ticks (microseconds). It may have moved since the timer
    /// was armed; the wheel then re-inserts it at its true place instead of firing it. Only a move
    /// to a *later* tick may go unannounced: for an earlier one the owner removes and inserts,
    /// otherwise the timer fires as late as the tick it was armed for.
    fn deadline_us(&self, index: u32) -> u64;
}

/// A record's place in its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Index of the record before, or [`NIL`].
    pub prev: u32,
    /// Index of the record behind, or [`NIL`].
    pub next: u32,
    /// Tick that the timer is armed for; [`UNARMED`] when it is in no list.
    pub armed_us: u64,
}

impl Link {
    /// In no list.
    pub const UNARMED: Link = Link { prev: NIL, next: NIL, armed_us: UNARMED };
}

/// No record.
pub const NIL: u32 = u32::MAX;
/// In no list.
pub const UNARMED: u64 = u64::MAX;

/// Levels below this one are not worth weeding ahead of time: their slots are at most 4.1 ms wide,
/// so what is cascaded at one blow is a small share of the fleet.
const WEEDED_FROM: usize = 3;

/// The wheel: eight levels of 64 lists, one microsecond a tick.
pub struct Wheel {
    /// All ticks before this one are done with; this one may have timers left to fire.
    elapsed: u64,
    levels: [Level; LEVELS],
    /// For each level, how far [`Wheel::weed`] has got.
    weeding: [Weeding; LEVELS],
}

/// A walk through the list of a level's next slot; [`Wheel::weed`] says when it begins.
///
/// The first one goes from both ends to the middle. The records lie anywhere in memory, and where
/// the next one is says only this one. From two ends two chains of cache misses run at a time:
/// among a million peers a visit took 89 ns, against 167 in a cascade of the same run
/// (benches/engine/wheel.rs). Prefetching the next record showed no gain, neither here nor in cascades:
/// the processor has its index as early, and gets there by itself. The later ones go from the tail
/// only, as cascades do: what they sink goes in front of what is below.
#[derive(Clone, Copy)]
struct Weeding {
    /// The slot, and which of the walks through it this is, from 1.
    slot: u64,
    walk: u32,
    /// The part of the list that is still to be visited, first and last; empty: the walk is over.
    rest: List,
}

impl Weeding {
    /// Leaves out a record, whose links are `link`, if it is at an end of the rest.
    #[inline]
    fn leave_out(&mut self, index: u32, link: Link) {
        match (self.rest.head == index, self.rest.tail == index) {
            (true, true) => self.rest = List::EMPTY,
            (true, false) => self.rest.head = link.next,
            (false, true) => self.rest.tail = link.prev,
            (false, false) => {}
        }
    }
}

impl Wheel {
    /// An empty wheel at `now_us`, any tick below 2^63.
    pub fn new(now_us: u64) -> Wheel {
        debug_assert!(now_us < 1 << 63);
        Wheel {
            elapsed: now_us,
            levels: std::array::from_fn(Level::new),
            weeding: [Weeding { slot: 0, walk: 0, rest: List::EMPTY }; LEVELS],
        }
    }

    /// Arms a record's timer; it must not be armed. A deadline in the past fires at the next `pop`.
    pub fn insert(&mut self, timers: &mut impl Timers, index: u32, deadline_us: u64) {
        debug_assert_eq!(timers.link(index).armed_us, UNARMED, "record {index} is armed already");
        self.place_last(timers, index, deadline_us);
    }

    /// Disarms a record's timer if it is armed.
    pub fn remove(&mut self, timers: &mut impl Timers, index: u32) {
        let link = timers.link(index);
        if link.armed_us == UNARMED {
            return;
        }
        // The level is not stored. It is needed only for a record at an end of its list, and then
        // is the one whose list has this record at this end: at most eight to look at.
        let level = if link.prev != NIL && link.next != NIL {
            0
        } else {
            let at_end = |level: &Level| {
                let list = level.list(level.slot_of(link.armed_us));
                if link.prev == NIL { list.head == index } else { list.tail == index }
            };
            self.levels.iter().position(at_end).expect("an armed timer is in a list")
        };
        self.unlink(timers, level, index, link);
        timers.set_link(index, Link::UNARMED);
    }

    /// Takes out the next record whose *real* deadline is at or before `now_us`, cascading and
    /// weeding out those that moved on the way. `None`: nothing (more) is due.
    ///
    /// The caller may stop at any time and go on later, at the same or a later `now_us`. Amortised
    /// constant time: a record is visited at most once a level between being armed and fired.
    ///
    /// ```text
    /// loop:
    ///     while the list of tick `elapsed` has a first record:
    ///         its deadline has come    → take it out, return it
    ///         it has moved             → hang it at its true place
    ///     tick ← start of the first occupied slot of any level
    ///     tick is after now            → elapsed ← now, return nothing
    ///     elapsed ← tick, cascade the slots that start at it
    /// ```
    pub fn pop(&mut self, timers: &mut impl Timers, now_us: u64) -> Option<u32> {
        debug_assert!(now_us < 1 << 63);
        loop {
            if self.elapsed <= now_us
                && let Some(index) = self.fire(timers)
            {
                return Some(index);
            }
            match self.next_us() {
                Some(tick) if tick <= now_us => self.enter(timers, tick),
                // A time that goes back moves nothing.
                _ => {
                    self.elapsed = self.elapsed.max(now_us);
                    return None;
                }
            }
        }
    }

    /// The tick at which `pop` next has something to do: a deadline that may be real, or a cascade.
    /// `None`: no timer is armed. Exact for timers at most 63 µs ahead, and otherwise early: the
    /// start of the slot.
    pub fn next_us(&self) -> Option<u64> {
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
        timers: &mut impl Timers,
        until_us: u64,
        visits: u32,
    ) -> Option<u64> {
        let mut left = visits;
        let mut earliest = None;
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
            let List { head: mut index, tail } = self.levels[level].list(slot);
            while index != NIL {
                if left == 0 {
                    return Some(start);
                }
                left -= 1;
                let link = timers.link(index);
                let deadline_us = timers.deadline_us(index);
                let due_us = deadline_us.max(self.elapsed);
                earliest = Some(earliest.map_or(due_us, |earliest: u64| earliest.min(due_us)));
                if deadline_us > link.armed_us {
                    self.unlink(timers, level, index, link);
                    self.place_last(timers, index, deadline_us);
                }
                // What is hung up anew may come behind the tail; it has been asked.
                index = if index == tail { NIL } else { link.next };
            }
        }
    }

    /// Visits up to `visits` timers of the slots that will be cascaded next; returns how many it
    /// visited. Those whose deadline has moved it hangs at their true places, and of the others it
    /// sinks those one level down that the level below reaches by now.
    ///
    /// Never needed, for `pop` does the same when the time comes, but then all at once: a slot of
    /// level 3 holds a tenth of a fleet with three-second timeouts, and half of one with timeouts of
    /// half a second. The owner calls this in its spare time.
    ///
    /// ```text
    ///  the slot before        1/2    3/4 7/8 ┊  the slot that is walked through
    ///  elapsed runs here ├─────┼──────┼───┼─┼┊├────────────────────┬─────┬──┬─┬┤
    ///  walk                    1      2   3 4…         2 sinks      3 too 4…     63/64 in the end
    /// ```
    ///
    /// A slot is walked through when half of the time to its start is over, when half of the rest is,
    /// and so on: six times. The first walk finds all that have moved out of it, which is everybody in a
    /// fleet with timeouts of more than two slots. The later ones find who has moved since, and leave
    /// the last 64th of the slot for the cascade. Without sinking, 50,000 peers whose deadlines are
    /// 0.45 s ahead were cascaded 29,000 at a time: 4 ms, each 0.26 s.
    ///
    /// A walk that was not finished in its time goes on before the next one begins. To get through in
    /// time, a million peers with three-second timeouts that all joined within a second need about
    /// one visit a microsecond: 256 every 100 µs were enough, 64 were not.
    pub fn weed(&mut self, timers: &mut impl Timers, visits: u32) -> u32 {
        let mut left = visits;
        for level in WEEDED_FROM..LEVELS {
            self.begin_walk(level);
            while self.weeding[level].rest != List::EMPTY {
                if left == 0 {
                    return visits;
                }
                left -= 1;
                let Weeding { slot, walk, rest } = self.weeding[level];
                let from_head = sunk_by(walk) == 0 && left.is_multiple_of(2);
                let index = if from_head { rest.head } else { rest.tail };
                let link = timers.link(index);
                debug_assert_eq!(self.levels[level].slot_of(link.armed_us), slot);
                let deadline_us = timers.deadline_us(index);
                if deadline_us != link.armed_us {
                    self.unlink(timers, level, index, link);
                    self.place_last(timers, index, deadline_us);
                } else if self.levels[level - 1].slot_of(deadline_us) % SLOTS < sunk_by(walk) {
                    self.unlink(timers, level, index, link);
                    self.levels[level - 1].push_front(timers, index, deadline_us);
                } else {
                    self.weeding[level].leave_out(index, link);
                }
            }
        }
        visits - left
    }

    /// Begins the next walk through the next slot of a level, if it is time and none is under way.
    fn begin_walk(&mut self, level: usize) {
        let slot = self.levels[level].slot_of(self.elapsed) + 1;
        // How often the time to the slot's start has halved: the leading ones of the ticks that the
        // slot before is old.
        let age = self.elapsed << (u64::BITS - level as u32 * level::BITS);
        let walk = age.leading_ones().min(level::BITS);
        let Weeding { slot: last_slot, walk: last_walk, rest } = self.weeding[level];
        // What is hung up during a walk goes outside its rest, so that it ends.
        if rest == List::EMPTY && walk > 0 && (last_slot, last_walk) != (slot, walk) {
            self.weeding[level] = Weeding { slot, walk, rest: self.levels[level].list(slot) };
        }
    }

    /// Takes the first timer of tick `elapsed` that is due indeed; those before it have moved.
    fn fire(&mut self, timers: &mut impl Timers) -> Option<u32> {
        loop {
            let index = self.levels[0].list(self.elapsed).head;
            if index == NIL {
                return None;
            }
            let link = timers.link(index);
            debug_assert_eq!(link.armed_us, self.elapsed);
            let deadline_us = timers.deadline_us(index);
            self.levels[0].unlink(timers, index, link);
            if deadline_us <= self.elapsed {
                timers.set_link(index, Link::UNARMED);
                return Some(index);
            }
            self.place_last(timers, index, deadline_us);
        }
    }

    /// Moves on to a tick, the next one with anything to do, and cascades what starts there.
    fn enter(&mut self, timers: &mut impl Timers, tick: u64) {
        debug_assert!(tick >= self.elapsed);
        self.elapsed = tick;
        // Lowest level first: each goes in front of those that were placed after it.
        for level in 1..LEVELS {
            if !self.levels[level].starts_at(tick) {
                break;
            }
            self.cascade(timers, level);
        }
    }

    /// Takes down all timers of the slot that starts now and hangs each where its deadline says:
    /// the others *in front*, from the last to the first, those that moved at the end.
    fn cascade(&mut self, timers: &mut impl Timers, level: usize) {
        let slot = self.levels[level].slot_of(self.elapsed);
        // A walk through this slot ends here; the next one has not begun.
        self.weeding[level].rest = List::EMPTY;
        let mut index = self.levels[level].take(slot).tail;
        while index != NIL {
            let link = timers.link(index);
            debug_assert_eq!(self.levels[level].slot_of(link.armed_us), slot);
            let deadline_us = timers.deadline_us(index);
            if deadline_us == link.armed_us {
                let lower = level_of(self.elapsed, deadline_us);
                debug_assert!(lower < level);
                self.levels[lower].push_front(timers, index, deadline_us);
            } else {
                self.place_last(timers, index, deadline_us);
            }
            index = link.prev;
        }
    }

    /// Hangs a timer at the end of the list of its tick, or as near to it as the wheel reaches:
    /// not before `elapsed`, and not beyond the horizon, where it waits to be hung up again.
    fn place_last(&mut self, timers: &mut impl Timers, index: u32, deadline_us: u64) {
        let armed_us = deadline_us.clamp(self.elapsed, self.horizon_us());
        self.levels[level_of(self.elapsed, armed_us)].push_back(timers, index, armed_us);
    }

    /// Takes a timer out of its list, and out of what is still to be weeded. `level` matters only
    /// for a record at an end of its list.
    fn unlink(&mut self, timers: &mut impl Timers, level: usize, index: u32, link: Link) {
        for weeding in &mut self.weeding[WEEDED_FROM..] {
            weeding.leave_out(index, link);
        }
        self.levels[level].unlink(timers, index, link);
    }

    /// Start of the farthest slot: 63 slots ahead at the top level, at least 62 · 2^42 µs (8.6
    /// years) and less than 2^48 µs from `elapsed`.
    fn horizon_us(&self) -> u64 {
        let top = &self.levels[LEVELS - 1];
        top.start_of(top.slot_of(self.elapsed) + SLOTS - 1)
    }
}

/// How many of the 64 slots of the level below a walk may sink timers into, from the first one on:
/// none the first time, for most will have moved. When it begins, `elapsed` is at least in the one of this number in the slot before, so that all of
/// them are within reach; and since it is no more than these however long it takes, timers of one
/// tick are sunk by the same walk, or by none.
#[inline]
fn sunk_by(walk: u32) -> u64 {
    if walk == 1 { 0 } else { SLOTS - (SLOTS >> walk) }
}

/// The lowest level at which the slot of `tick` is less than [`SLOTS`] slots ahead of that of
/// `elapsed`; `tick` is neither before `elapsed` nor beyond the horizon's slot.
#[inline]
fn level_of(elapsed: u64, tick: u64) -> usize {
    debug_assert!(tick >= elapsed);
    let level = ((tick - elapsed) | (SLOTS - 1)).ilog2() / level::BITS;
    // The distance decides but for one case: one slot less a tick, begun in the middle of a slot,
    // ends 64 slots ahead.
    let shift = level * level::BITS;
    let level = if (tick >> shift) - (elapsed >> shift) == SLOTS { level + 1 } else { level };
    debug_assert!((level as usize) < LEVELS);
    level as usize
}
