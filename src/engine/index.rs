//! From a peer id to its slot: open addressing over 64-bit words, eight to a cache line.
//!
//! ```text
//!  word:  │ tag: 32 bits of the keyed hash │ slot index + 1 │      0 is an empty place
//!  home place of an entry = the tag's top bits; it lies there or behind, with no empty place between
//! ```
//!
//! At capacity half the places are empty, so a search nearly always ends in the line it began in.
//! The tag answers for the slot (a wrong one is met once in thousands of searches), so slots of other
//! peers are not touched; and as the home place is part of the tag, a removal can close its gap
//! (backward shift, no tombstones) without touching any slot at all.
//!
//! One thread writes, any thread searches. A hit is proved by the slot itself, whose seqlock says
//! whose it is. A miss could be the fault of a removal that moved the entry from in front of the
//! searcher to behind it; so removals step a [`Version`], and a miss counts only if it stood still.
//!
//! Absent on purpose: growing. Places for all the slots are mapped, not touched, from the start, so
//! no heartbeat ever pays for a rehash.

use super::prefetch::prefetch;
use super::region::Region;
use crate::sync::outliving::AtomicU64;
use crate::sync::seqlock::{Patience, Version};
use crate::wire::PeerId;
use std::sync::atomic::Ordering;

/// A keyed hash of peer ids, since their senders choose them.
///
/// First `(a × id + b) mod 2^128`, its upper half: strongly universal (Dietzfelbinger 1996), so any
/// two ids that somebody picked without knowing the key meet as rarely as two random ones. But it
/// keeps arithmetic progressions in order, which linear probing suffers from; so a second, folded
/// multiplication with two more secrets breaks them up. Three multiplications, about 2 ns.
#[derive(Clone, Copy)]
pub(super) struct KeyedHash {
    /// a
    multiplier: u128,
    /// b
    addend: u128,
    whitener: u64,
    folder: u64,
}

impl KeyedHash {
    /// A hash with its secrets drawn out of `seed`, which has to be random.
    pub(super) fn new(seed: [u64; 2]) -> KeyedHash {
        let mut state = seed;
        let mut draw = || {
            // SplitMix64 on either half, with different constants; the halves are summed.
            state[0] = state[0].wrapping_add(0x9E37_79B9_7F4A_7C15);
            state[1] = state[1].wrapping_add(0xD1B5_4A32_D192_ED03);
            state.iter().fold(0u64, |sum, &half| {
                let z = (half ^ (half >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                sum.rotate_left(32).wrapping_add(z ^ (z >> 31))
            })
        };
        let mut wide = || (draw() as u128) << 64 | draw() as u128;
        let (multiplier, addend, last) = (wide(), wide(), wide());
        // Odd and with its top bit set, so that neither half of the product is ever short of bits.
        let folder = last as u64 | 1 | 1 << 63;
        KeyedHash { multiplier, addend, whitener: (last >> 64) as u64, folder }
    }

    #[inline]
    fn tag(&self, peer: PeerId) -> Tag {
        let linear = self.multiplier.wrapping_mul(peer.0 as u128).wrapping_add(self.addend);
        let product = ((linear >> 64) as u64 ^ self.whitener) as u128 * self.folder as u128;
        let folded = (product >> 64) as u64 ^ product as u64;
        Tag((folded >> 32) as u32)
    }
}

/// What the index knows a peer by: 32 bits of its keyed hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag(u32);

/// The index. See the module.
pub(super) struct Index {
    words: Region<AtomicU64>,
    /// A tag shifted right by so much is its home place.
    shift: u32,
    hash: KeyedHash,
    /// Steps with every removal.
    removals: Version,
}

/// An entry's word.
#[inline]
fn entry(tag: Tag, slot: u32) -> u64 {
    (tag.0 as u64) << 32 | (slot as u64 + 1)
}

#[inline]
fn tag_of(word: u64) -> Tag {
    Tag((word >> 32) as u32)
}

#[inline]
fn slot_of(word: u64) -> u32 {
    (word as u32).wrapping_sub(1)
}

impl Index {
    /// An empty index for up to `capacity` entries (at most 2^30), at most half full then.
    pub(super) fn new(capacity: u32, hash: KeyedHash) -> Index {
        // At least a cache line of them.
        let places = (capacity as usize * 2).next_power_of_two().max(8);
        // Where nothing can be mapped the heap serves, or ends the process as it does for all.
        let words = Region::anonymous(places).unwrap_or_else(|_| Region::heap(places));
        Index { words, shift: 32 - places.ilog2(), hash, removals: Version::default() }
    }

    #[inline]
    fn home(&self, tag: Tag) -> usize {
        (tag.0 >> self.shift) as usize
    }

    #[inline]
    fn mask(&self) -> usize {
        self.words.len() - 1
    }

    /// Asks for the cache line that a search for `peer` begins in.
    #[inline]
    pub(super) fn prefetch(&self, peer: PeerId) -> Tag {
        let tag = self.hash.tag(peer);
        prefetch(&self.words[self.home(tag)]);
        tag
    }

    /// The first slot with a tag, whosever it is. For the owner.
    ///
    /// Nine of ten entries are at home or one place behind, at random, so the choice between the two
    /// is made without a branch. An entry can be behind only if another is at home: the home place
    /// need not be looked at for being empty.
    #[inline]
    pub(super) fn guess(&self, tag: Tag) -> Option<u32> {
        let mut place = self.home(tag);
        // Relaxed: the owner's own writes.
        let at_home = self.words[place].load(Ordering::Relaxed);
        let behind = self.words[(place + 1) & self.mask()].load(Ordering::Relaxed);
        let likely = std::hint::select_unpredictable(tag_of(at_home) == tag, at_home, behind);
        if tag_of(likely) == tag && likely != 0 {
            return Some(slot_of(likely));
        }
        loop {
            let word = self.words[place].load(Ordering::Relaxed);
            if word == 0 {
                return None;
            }
            if tag_of(word) == tag {
                return Some(slot_of(word));
            }
            place = (place + 1) & self.mask();
        }
    }

    /// The first slot with the peer's tag that `is_it` accepts. For the owner.
    #[inline]
    pub(super) fn find(&self, peer: PeerId, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = self.hash.tag(peer);
        let mut place = self.home(tag);
        loop {
            // Relaxed: the owner's own writes.
            let word = self.words[place].load(Ordering::Relaxed);
            if word == 0 {
                return None;
            }
            if tag_of(word) == tag && is_it(slot_of(word)) {
                return Some(slot_of(word));
            }
            place = (place + 1) & self.mask();
        }
    }

    /// The same for any thread: `look` proves a slot (and takes what it wants of it). A miss is
    /// returned only if no entry moved meanwhile.
    pub(super) fn find_shared<T>(
        &self,
        peer: PeerId,
        mut look: impl FnMut(u32) -> Option<T>,
    ) -> Option<T> {
        let tag = self.hash.tag(peer);
        let home = self.home(tag);
        let mut patience = Patience::default();
        loop {
            if let Some(seen) = self.removals.at_rest() {
                for step in 0..self.words.len() {
                    // Acquire: pairs with the Release stores in `insert` and `remove`, so that the
                    // slot is seen at least as it was when the entry was made.
                    let word = self.words[(home + step) & self.mask()].load(Ordering::Acquire);
                    if word == 0 {
                        break;
                    }
                    if tag_of(word) == tag
                        && let Some(found) = look(slot_of(word))
                    {
                        return Some(found);
                    }
                }
                if self.removals.unchanged_since(seen) {
                    return None;
                }
            }
            patience.wait();
        }
    }

    /// Adds an entry for a peer that has none. The slot must be written before. The caller sees to
    /// it that there are never more than `capacity` entries.
    pub(super) fn insert(&self, peer: PeerId, slot: u32) {
        let tag = self.hash.tag(peer);
        let mut place = self.home(tag);
        // Relaxed: the owner's own writes.
        while self.words[place].load(Ordering::Relaxed) != 0 {
            place = (place + 1) & self.mask();
        }
        // Release: pairs with the Acquire load in `find_shared`.
        self.words[place].store(entry(tag, slot), Ordering::Release);
    }

    /// Takes out the entry of a peer, and closes the gap: every entry behind it, up to the next
    /// empty place, that would stand nearer to its home there moves into the gap and leaves its own.
    pub(super) fn remove(&self, peer: PeerId, slot: u32) {
        let tag = self.hash.tag(peer);
        let mut gap = self.home(tag);
        // Relaxed loads, here and below: the owner's own writes.
        loop {
            let word = self.words[gap].load(Ordering::Relaxed);
            assert!(word != 0, "no entry for slot {slot}");
            if word == entry(tag, slot) {
                break;
            }
            gap = (gap + 1) & self.mask();
        }
        let _moving = self.removals.write();
        let mut place = gap;
        loop {
            place = (place + 1) & self.mask();
            let word = self.words[place].load(Ordering::Relaxed);
            if word == 0 {
                break;
            }
            let from_home = place.wrapping_sub(self.home(tag_of(word))) & self.mask();
            let from_gap = place.wrapping_sub(gap) & self.mask();
            if from_home >= from_gap {
                // Copied before it is overwritten: it is always somewhere. Release as in `insert`.
                self.words[gap].store(word, Ordering::Release);
                gap = place;
            }
        }
        // Release, for the sake of one rule: all entries are stored so.
        self.words[gap].store(0, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
