//! One level of the wheel: a ring of 64 lists, and a word that says which of them are not empty.
//!
//! This file knows slots and lists; which level a timer belongs to, and when, is `mod.rs`'s affair.
//! Slots are named by their *number*, counted from time 0. The ring holds number `s` in its cell
//! `s mod 64`, and the caller sees to it that two numbers of one cell are never in use together.

use super::{Link, NIL, Timers};

/// Levels of a wheel.
pub(super) const LEVELS: usize = 8;
/// A level's slots are 2^BITS times as wide as those of the level below.
pub(super) const BITS: u32 = 6;
/// Slots of a level: as many as a word has bits.
pub(super) const SLOTS: u64 = 1 << BITS;

/// The ends of a slot's list; both [`NIL`] when it is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl List {
    pub(super) const EMPTY: List = List { head: NIL, tail: NIL };
}

/// One level of the wheel.
pub(super) struct Level {
    /// A tick's slot number is the tick shifted right by this.
    shift: u32,
    /// Bit `s mod 64` is set exactly if the list of slot `s` is not empty.
    occupied: u64,
    lists: [List; SLOTS as usize],
}

impl Level {
    /// An empty level, counted from 0, the fastest.
    pub(super) fn new(level: usize) -> Level {
        Level { shift: level as u32 * BITS, occupied: 0, lists: [List::EMPTY; SLOTS as usize] }
    }

    /// Number of the slot that a tick lies in.
    #[inline]
    pub(super) fn slot_of(&self, tick: u64) -> u64 {
        tick >> self.shift
    }

    /// First tick of a slot.
    #[inline]
    pub(super) fn start_of(&self, slot: u64) -> u64 {
        slot << self.shift
    }

    /// Whether a slot starts at this very tick.
    #[inline]
    pub(super) fn starts_at(&self, tick: u64) -> bool {
        self.start_of(self.slot_of(tick)) == tick
    }

    /// Start of the first occupied slot, counted from that of `elapsed` and around the ring. At
    /// level 0 this may be the slot of `elapsed` itself; above, that one is always empty.
    #[inline]
    pub(super) fn next_start(&self, elapsed: u64) -> Option<u64> {
        if self.occupied == 0 {
            return None;
        }
        let current = self.slot_of(elapsed);
        let ahead = self.occupied.rotate_right((current % SLOTS) as u32).trailing_zeros();
        debug_assert!(ahead > 0 || self.shift == 0, "a slot that was entered was not cascaded");
        Some(self.start_of(current + u64::from(ahead)))
    }

    /// The first occupied slot that is not before `from`, counted around the ring of `elapsed`.
    #[inline]
    pub(super) fn next_occupied(&self, elapsed: u64, from: u64) -> Option<u64> {
        let current = self.slot_of(elapsed);
        let passed = from - current;
        let ring = self.occupied.rotate_right((current % SLOTS) as u32);
        let left = if passed < SLOTS { ring >> passed << passed } else { 0 };
        (left != 0).then(|| current + u64::from(left.trailing_zeros()))
    }

    /// The list of a slot.
    #[inline]
    pub(super) fn list(&self, slot: u64) -> List {
        self.lists[(slot % SLOTS) as usize]
    }

    /// Empties a slot and hands out its list; the records keep their links.
    pub(super) fn take(&mut self, slot: u64) -> List {
        self.occupied &= !(1 << (slot % SLOTS));
        std::mem::replace(&mut self.lists[(slot % SLOTS) as usize], List::EMPTY)
    }

    /// Appends a record to the list of its tick.
    #[inline]
    pub(super) fn push_back(&mut self, timers: &mut impl Timers, index: u32, armed_us: u64) {
        let cell = self.occupy(armed_us);
        let prev = std::mem::replace(&mut self.lists[cell].tail, index);
        if prev == NIL {
            self.lists[cell].head = index;
        } else {
            timers.set_link(prev, Link { next: index, ..timers.link(prev) });
        }
        timers.set_link(index, Link { prev, next: NIL, armed_us });
    }

    /// Puts a record before all others of the list of its tick.
    #[inline]
    pub(super) fn push_front(&mut self, timers: &mut impl Timers, index: u32, armed_us: u64) {
        let cell = self.occupy(armed_us);
        let next = std::mem::replace(&mut self.lists[cell].head, index);
        if next == NIL {
            self.lists[cell].tail = index;
        } else {
            timers.set_link(next, Link { prev: index, ..timers.link(next) });
        }
        timers.set_link(index, Link { prev: NIL, next, armed_us });
    }

    /// Takes a record, whose links are `link`, out of its list and leaves its own links as they
    /// are. If it is neither the first nor the last, it may be in a list of any level.
    #[inline]
    pub(super) fn unlink(&mut self, timers: &mut impl Timers, index: u32, link: Link) {
        let slot = self.slot_of(link.armed_us);
        let cell = (slot % SLOTS) as usize;
        if link.prev == NIL {
            debug_assert_eq!(self.lists[cell].head, index);
            self.lists[cell].head = link.next;
        } else {
            timers.set_link(link.prev, Link { next: link.next, ..timers.link(link.prev) });
        }
        if link.next == NIL {
            debug_assert_eq!(self.lists[cell].tail, index);
            self.lists[cell].tail = link.prev;
        } else {
            timers.set_link(link.next, Link { prev: link.prev, ..timers.link(link.next) });
        }
        if self.lists[cell] == List::EMPTY {
            self.occupied &= !(1 << cell);
        }
    }

    /// Marks the slot of a tick as occupied; its place in the ring.
    #[inline]
    fn occupy(&mut self, tick: u64) -> usize {
        let cell = self.slot_of(tick) % SLOTS;
        self.occupied |= 1 << cell;
        cell as usize
    }

    /// The slots that are marked as occupied, in the order of the ring's cells.
    #[cfg(test)]
    pub(super) fn occupied(&self) -> u64 {
        self.occupied
    }
}
