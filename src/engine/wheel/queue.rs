//! Queues of timers, in blocks from a common store.
//!
//! ```text
//!  Queue   head ──▶ ┌──────────────────┐ next ┌──────────────────┐ next ┌─────────┐ ◀── tail
//!                   │··· 7 8 9 … 31    │─────▶│ 31 entries       │─────▶│ 31 … 44 │
//!                   └────▲─────────────┘      └──────────────────┘      └───────▲─┘
//!                        begin                                                  end
//! ```
//!
//! What is taken from the front was written in a row, so the processor fetches it ahead; and whoever
//! takes a block knows at once which records it will have to ask, and can have all their cache misses
//! at a time. A linked list through the records themselves has one after the other.
//!
//! The store has as many blocks as its bound of entries can ever take: full ones, and for each queue one
//! that is partly taken and one that is partly filled. Blocks that were never used have no memory yet,
//! and the one that was given back last is used next.

use super::NIL;

/// Entries of a block.
pub(super) const BLOCK: usize = 31;

/// A timer in a queue: whose, and which arming of it. [`Wheel`](super::Wheel) says when it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) turn: u32,
}

/// Four cache lines.
#[derive(Clone)]
#[repr(C, align(64))]
struct Block {
    entries: [Entry; BLOCK],
    next: u32,
}

/// The ends of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
    /// First entry of the head block.
    begin: u8,
    /// One behind the last entry of the tail block.
    end: u8,
    len: u32,
}

impl Queue {
    pub(super) const EMPTY: Queue = Queue { head: NIL, tail: NIL, begin: 0, end: 0, len: 0 };

    /// Entries.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.len
    }
}

/// Entries taken from the front of a queue.
pub(super) struct Batch {
    entries: [Entry; BLOCK],
    begin: u8,
    end: u8,
}

impl Batch {
    /// They, in their order.
    #[inline]
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries[self.begin as usize..self.end as usize]
    }
}

/// The store.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    /// Blocks that there may be.
    most: u32,
    /// The block that was given back last; `next` leads on.
    free: u32,
}

impl Blocks {
    /// Room for this many entries in this many queues.
    pub(super) fn new(entries: u32, queues: u32) -> Blocks {
        let most = entries / BLOCK as u32 + 2 * queues;
        Blocks { blocks: Vec::with_capacity(most as usize), most, free: NIL }
    }

    /// Appends an entry.
    #[inline]
    pub(super) fn push(&mut self, queue: &mut Queue, entry: Entry) {
        if queue.len == 0 || queue.end as usize == BLOCK {
            self.extend(queue);
        }
        self.blocks[queue.tail as usize].entries[queue.end as usize] = entry;
        queue.end += 1;
        queue.len += 1;
    }

    /// Takes the first entries, at most so many and at most those of one block. Empty: the queue is.
    #[inline]
    pub(super) fn take(&mut self, queue: &mut Queue, most: u32) -> Batch {
        if queue.len == 0 {
            return Batch { entries: [Entry::default(); BLOCK], begin: 0, end: 0 };
        }
        let entries = self.blocks[queue.head as usize].entries;
        let begin = queue.begin;
        let len = (BLOCK as u32 - u32::from(begin)).min(queue.len).min(most) as u8;
        self.pass(queue, len);
        Batch { entries, begin, end: begin + len }
    }

    /// Takes the first entry.
    #[inline]
    pub(super) fn pop(&mut self, queue: &mut Queue) -> Option<Entry> {
        let entry = self.ahead(queue, 0)?;
        self.pass(queue, 1);
        Some(entry)
    }

    /// Leaves so many entries of the head block behind.
    #[inline]
    fn pass(&mut self, queue: &mut Queue, len: u8) {
        let head = queue.head;
        queue.begin += len;
        queue.len -= u32::from(len);
        if queue.len == 0 {
            *queue = Queue::EMPTY;
            self.give_back(head);
        } else if queue.begin as usize == BLOCK {
            (queue.head, queue.begin) = (self.blocks[head as usize].next, 0);
            self.give_back(head);
        }
    }

    /// The entry this far behind the first, if it is in the same block.
    #[inline]
    pub(super) fn ahead(&self, queue: &Queue, by: usize) -> Option<Entry> {
        let block = self.blocks.get(queue.head as usize)?;
        let at = queue.begin as usize + by;
        (by < queue.len as usize).then(|| block.entries.get(at).copied()).flatten()
    }

    /// Puts another block at the end of a queue.
    fn extend(&mut self, queue: &mut Queue) {
        let block = if self.free != NIL {
            let block = self.free;
            self.free = self.blocks[block as usize].next;
            block
        } else {
            assert!((self.blocks.len() as u32) < self.most, "more entries than there is room for");
            self.blocks.push(Block { entries: [Entry::default(); BLOCK], next: NIL });
            self.blocks.len() as u32 - 1
        };
        match queue.len {
            0 => queue.head = block,
            _ => self.blocks[queue.tail as usize].next = block,
        }
        if queue.len == 0 {
            queue.begin = 0;
        }
        (queue.tail, queue.end) = (block, 0);
    }

    fn give_back(&mut self, block: u32) {
        self.blocks[block as usize].next = std::mem::replace(&mut self.free, block);
    }

    /// All entries of a queue, in their order.
    #[cfg(test)]
    pub(super) fn entries(&self, queue: &Queue) -> Vec<Entry> {
        let mut entries = Vec::new();
        let (mut block, mut at) = (queue.head, queue.begin as usize);
        for _ in 0..queue.len {
            if at == BLOCK {
                (block, at) = (self.blocks[block as usize].next, 0);
            }
            entries.push(self.blocks[block as usize].entries[at]);
            at += 1;
        }
        entries
    }

    /// Blocks in no queue: used and given back, or never used.
    #[cfg(test)]
    fn free(&self) -> u32 {
        let next = |block: &u32| {
            let next = self.blocks[*block as usize].next;
            (next != NIL).then_some(next)
        };
        let given_back = std::iter::successors((self.free != NIL).then_some(self.free), next);
        self.most - self.blocks.len() as u32 + given_back.count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};
    use std::collections::VecDeque;

    #[test]
    fn agrees_with_queues_of_the_standard_library_and_never_wants_room() {
        const QUEUES: usize = 5;
        const MOST: usize = 200;
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut blocks = Blocks::new(MOST as u32, QUEUES as u32);
            let all_free = blocks.free();
            let mut queues = [Queue::EMPTY; QUEUES];
            let mut model: [VecDeque<Entry>; QUEUES] = Default::default();
            for step in 0..5_000u32 {
                let one = rng.below(QUEUES as u64) as usize;
                let len: usize = model.iter().map(VecDeque::len).sum();
                // For a while more come than go, then the other way.
                if rng.below(100) < [80, 20][(step / 600 % 2) as usize] && len < MOST {
                    let entry = Entry { index: step, turn: !step };
                    blocks.push(&mut queues[one], entry);
                    model[one].push_back(entry);
                } else if rng.one_in(4) {
                    assert_eq!(blocks.pop(&mut queues[one]), model[one].pop_front());
                } else {
                    let most = 1 + rng.below(40) as u32;
                    let batch = blocks.take(&mut queues[one], most);
                    assert!(batch.entries().len() <= most as usize);
                    assert_eq!(batch.entries().is_empty(), model[one].is_empty());
                    for entry in batch.entries() {
                        assert_eq!(model[one].pop_front(), Some(*entry), "seed {seed}");
                    }
                }
                assert_eq!(queues[one].len() as usize, model[one].len(), "seed {seed}");
                assert!(blocks.entries(&queues[one]).iter().eq(&model[one]), "seed {seed}");
                let by = rng.below(40) as usize;
                if let Some(entry) = blocks.ahead(&queues[one], by) {
                    assert_eq!(Some(&entry), model[one].get(by), "seed {seed}");
                }
            }
            for queue in &mut queues {
                while !blocks.take(queue, u32::MAX).entries().is_empty() {}
            }
            assert_eq!(blocks.free(), all_free, "seed {seed}: a block is lost");
        }
    }
}
