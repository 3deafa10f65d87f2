//! One level of the wheel: a ring of 64 queues, and a word that says which of them are not empty.
//!
//! This file knows slots and queues; which level a timer belongs to, and when, is `mod.rs`'s affair.
//! Slots are named by their *number*, counted from time 0. The ring holds number `s` in its cell
//! `s mod 64`, and the caller sees to it that two numbers of one cell are never in use together.

use super::queue::{Batch, Blocks, Entry, Queue};

/// Levels of a wheel.
pub(super) const LEVELS: usize = 12;
/// A level's slots are 2^BITS times as wide as those of the level below.
pub(super) const BITS: u32 = 4;
/// Slots of a level: as many as a word has bits.
pub(super) const SLOTS: u64 = u64::BITS as u64;

/// One level of the wheel.
pub(super) struct Level {
    /// A tick's slot number is the tick shifted right by this.
    shift: u32,
    /// Bit `s mod 64` is set exactly if the queue of slot `s` is not empty.
    occupied: u64,
    queues: [Queue; SLOTS as usize],
}

impl Level {
    /// An empty level, counted from 0, the fastest.
    pub(super) fn new(level: usize) -> Level {
        Level { shift: level as u32 * BITS, occupied: 0, queues: [Queue::EMPTY; SLOTS as usize] }
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

    /// The queue of a slot.
    #[inline]
    pub(super) fn queue(&self, slot: u64) -> &Queue {
        &self.queues[(slot % SLOTS) as usize]
    }

    /// Empties a slot and hands out its queue.
    pub(super) fn take_all(&mut self, slot: u64) -> Queue {
        self.occupied &= !(1 << (slot % SLOTS));
        std::mem::replace(&mut self.queues[(slot % SLOTS) as usize], Queue::EMPTY)
    }

    /// Takes the first entries of a slot, at most so many and at most those of one block.
    #[inline]
    pub(super) fn take(&mut self, blocks: &mut Blocks, slot: u64, most: u32) -> Batch {
        let cell = slot % SLOTS;
        let queue = &mut self.queues[cell as usize];
        let batch = blocks.take(queue, most);
        if queue.len() == 0 {
            self.occupied &= !(1 << cell);
        }
        batch
    }

    /// Takes the first entry of a slot.
    #[inline]
    pub(super) fn pop(&mut self, blocks: &mut Blocks, slot: u64) -> Option<Entry> {
        let cell = slot % SLOTS;
        let queue = &mut self.queues[cell as usize];
        let entry = blocks.pop(queue);
        if queue.len() == 0 {
            self.occupied &= !(1 << cell);
        }
        entry
    }

    /// Appends an entry to the queue of its tick.
    #[inline]
    pub(super) fn push(&mut self, blocks: &mut Blocks, entry: Entry, tick: u64) {
        let cell = self.slot_of(tick) % SLOTS;
        self.occupied |= 1 << cell;
        blocks.push(&mut self.queues[cell as usize], entry);
    }

    /// The slots that are marked as occupied, in the order of the ring's cells.
    #[cfg(test)]
    pub(super) fn occupied(&self) -> u64 {
        self.occupied
    }
}
