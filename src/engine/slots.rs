//! A shard's slots all together: the region that the caller hands in, and who owns it.

use super::region::Region;
use super::slot::Slot;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

/// Memory for slots, all free, handed to the engine by its caller.
pub struct SlotRegion(Region<Slot>);

impl SlotRegion {
    /// Most slots that a region may have. The index keeps twice as many words, addressed by 32 bits.
    pub const MAX_CAPACITY: u32 = 1 << 30;

    /// An anonymous mapping for `capacity` slots of 128 bytes. Memory is taken as slots are used.
    ///
    /// # Errors
    /// `InvalidInput` when `capacity` is 0 or above [`MAX_CAPACITY`](Self::MAX_CAPACITY); else what
    /// mmap(2) says.
    pub fn anonymous(capacity: u32) -> io::Result<SlotRegion> {
        if capacity == 0 || capacity > Self::MAX_CAPACITY {
            let says = format!("{capacity} slots: want 1 to {}", Self::MAX_CAPACITY);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, says));
        }
        Region::anonymous(capacity as usize).map(SlotRegion)
    }
}

/// A shard's slots, shared by their one owner (the [`Table`](super::table::Table)) and all readers.
pub struct Slots {
    region: Region<Slot>,
    owned: AtomicBool,
}

impl Slots {
    /// Slots in the region that the caller hands in.
    pub fn new(region: SlotRegion) -> Slots {
        Slots { region: region.0, owned: AtomicBool::new(false) }
    }

    /// How many slots there are.
    pub fn capacity(&self) -> u32 {
        self.region.len() as u32
    }

    /// The slots. Only the owner may write to them.
    #[inline]
    pub(super) fn all(&self) -> &[Slot] {
        &self.region
    }

    /// Takes ownership; true the first time only.
    pub(super) fn claim(&self) -> bool {
        // Relaxed: one winner is all that is asked; the slots come with the `Arc` that holds them.
        !self.owned.swap(true, Ordering::Relaxed)
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
