//! A shard's slots all together: the region that the caller hands in, and who owns it.
//!
//! The region is anonymous memory, or a mapping of a file that outlives the process. Of a file only
//! the *reserved* slots have memory behind them: more is asked of the caller as the table grows, a
//! chunk at a time, since a store to a page that the file system has no room for would be fatal.

use super::journal::{Journal, Left};
#[cfg(not(loom))]
pub use super::region::Mapping;
use super::region::Region;
use super::slot::{Slot, SlotData};
use super::transition::{PeerState, Transition};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

/// Finds memory for the slot with an index, and those behind it as it sees fit. Returns how many
/// slots from the first on have memory then; the index itself when there is none to be had.
pub type Reserve = Box<dyn Fn(u32) -> u32 + Send + Sync>;

/// Memory for slots, handed to the engine by its caller.
pub struct SlotRegion {
    region: Region<Slot>,
    reserved: u32,
    reserve: Option<Reserve>,
}

impl SlotRegion {
    /// Most slots that a region may have. The index keeps twice as many words, addressed by 32 bits.
    pub const MAX_CAPACITY: u32 = 1 << 30;

    /// An anonymous mapping for `capacity` slots of 128 bytes, all free. Memory is taken as slots
    /// are used.
    ///
    /// # Errors
    /// `InvalidInput` when `capacity` is 0 or above [`MAX_CAPACITY`](Self::MAX_CAPACITY); else what
    /// mmap(2) says.
    pub fn anonymous(capacity: u32) -> io::Result<SlotRegion> {
        if capacity == 0 || capacity > Self::MAX_CAPACITY {
            let says = format!("{capacity} slots: want 1 to {}", Self::MAX_CAPACITY);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, says));
        }
        let region = Region::anonymous(capacity as usize)?;
        Ok(SlotRegion { region, reserved: capacity, reserve: None })
    }

    /// The slots in a mapping, as many as fit; whatever bytes they are. `reserved` of them have
    /// memory behind them, and `reserve` finds more.
    #[cfg(not(loom))]
    pub fn mapped(mapping: impl Into<Mapping>, reserved: u32, reserve: Reserve) -> SlotRegion {
        let mapping = mapping.into();
        let capacity = (mapping.len / size_of::<Slot>()).min(Self::MAX_CAPACITY as usize);
        let region = Region::mapped(mapping, capacity);
        SlotRegion { region, reserved: reserved.min(capacity as u32), reserve: Some(reserve) }
    }
}

impl SlotRegion {
    /// How many slots there are.
    pub fn capacity(&self) -> u32 {
        self.region.len() as u32
    }

    /// The records in the slots that have memory, for moving them elsewhere: also those that an
    /// earlier process had not finished writing, as far as they make sense.
    pub fn records(&self) -> impl Iterator<Item = SlotData> + '_ {
        let used = self.region.iter().take(self.reserved as usize);
        used.filter_map(|slot| {
            slot.repair();
            let data = slot.data();
            (data.state != PeerState::Unknown).then_some(data)
        })
    }

    /// Puts a record into a slot, for moving it here; false when there is no room for it.
    pub fn put(&mut self, index: u32, data: &SlotData) -> bool {
        if index >= self.reserved && index < self.capacity() {
            self.reserved = self.reserve.as_ref().map_or(0, |reserve| reserve(index));
        }
        let there = index < self.reserved;
        if there {
            self.region[index as usize].write().set_data(data);
        }
        there
    }
}

/// A shard's memory: its slots, and what goes with them where they outlive the process.
pub struct ShardMemory {
    /// The slots.
    pub slots: SlotRegion,
    /// `None` in memory that ends with this process.
    pub kept: Option<Kept>,
}

/// What is known of the process that wrote the slots before us.
pub struct Kept {
    /// Where this process writes down what it does.
    pub journal: Arc<Journal>,
    /// Transitions of this shard's peers that may not have reached their slots, oldest first.
    pub history: Vec<Transition>,
    /// Until when it had read everything, monotonic ns.
    pub looked_ns: u64,
    /// How it left its sockets, if they are still ours; `None` says that what came since is lost.
    pub left: Option<Left>,
}

impl ShardMemory {
    /// Memory that ends with this process, for so many slots.
    ///
    /// # Errors
    /// As [`SlotRegion::anonymous`].
    pub fn anonymous(capacity: u32) -> io::Result<ShardMemory> {
        Ok(ShardMemory { slots: SlotRegion::anonymous(capacity)?, kept: None })
    }
}

/// A shard's slots, shared by their one owner (the [`Table`](super::table::Table)) and all readers.
pub struct Slots {
    memory: SlotRegion,
    owned: AtomicBool,
}

impl Slots {
    /// Slots in the region that the caller hands in.
    pub fn new(region: SlotRegion) -> Slots {
        Slots { memory: region, owned: AtomicBool::new(false) }
    }

    /// How many slots there are.
    pub fn capacity(&self) -> u32 {
        self.memory.region.len() as u32
    }

    /// The slots. Only the owner may write to them.
    #[inline]
    pub(super) fn all(&self) -> &[Slot] {
        &self.memory.region
    }

    /// How many slots from the first on had memory behind them when the region was handed in. The
    /// others were never written.
    pub(super) fn reserved(&self) -> u32 {
        self.memory.reserved
    }

    /// Finds memory for the slot with an index; returns how many slots have some then.
    pub(super) fn reserve(&self, index: u32) -> u32 {
        self.memory.reserve.as_ref().map_or(self.capacity(), |reserve| reserve(index))
    }

    /// Takes ownership; false when somebody has it.
    pub(super) fn claim(&self) -> bool {
        // Acquire: pairs with the Release in `give_up`; who follows sees all that was written.
        !self.owned.swap(true, Ordering::Acquire)
    }

    /// Gives ownership up. The owner's only.
    pub(super) fn give_up(&self) {
        // Release: as above.
        self.owned.store(false, Ordering::Release);
    }
}

impl From<SlotRegion> for Slots {
    fn from(region: SlotRegion) -> Slots {
        Slots::new(region)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::wire::PeerId;

    #[test]
    fn a_torn_record_is_moved_as_it_is_and_what_was_seen_of_it_counts_as_all() {
        let mut region = SlotRegion::anonymous(4).unwrap();
        let last = SlotData { incarnation: 5, last_sequence: 9, seen_mask: 1, ..SlotData::FREE };
        let data = SlotData { state: PeerState::Up, sequenced: true, ..last };
        for peer in 1..=2 {
            assert!(region.put(peer, &SlotData { peer: PeerId(u64::from(peer)), ..data }));
        }
        std::mem::forget(region.region[2].write());
        let masks = |region: &SlotRegion| -> Vec<_> {
            region
                .records()
                .map(|data| (data.last_sequence, data.sequenced, data.seen_mask))
                .collect()
        };
        assert_eq!(masks(&region), [(9, true, 1), (9, true, u32::MAX)]);
    }
}
