//! A shard's peers: slots, and the index that finds them. One owner, any number of readers.
//!
//! ```text
//!   Table (the owner's thread) ──┬── Slots   region of records, by index    ◀─┐
//!     free list, length          └── Index   peer id ─▶ slot index          ◀─┴── TableView (any)
//! ```
//!
//! A peer keeps its slot, and so its index, for as long as it is in the table. The slot freed last
//! is given out first (it is still in the cache); slots never used come in ascending order, so
//! memory is touched only as far as the table was ever full.
//!
//! A heartbeat costs two cache misses, a line of the index and the first line of the slot. A batch
//! can have them all at once, in three passes (measured in `benches/engine/table.rs`):
//!
//! ```text
//!   for each peer: tag ← prefetch(peer)                             ask for its index line
//!   for each peer: guess ← guess(tag); prefetch_slot(guess)         the tag names the slot
//!   for each peer: confirm(peer, guess)?                            the slot proves itself
//! ```

pub use super::index::Tag;
use super::index::{Index, KeyedHash};
use super::prefetch::prefetch;
use super::slot::{Slot, SlotData, Slots};
use super::transition::PeerState;
use crate::wire::PeerId;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// No slot.
const NIL: u32 = u32::MAX;

/// There is no free slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("every slot of the table is taken")]
pub struct TableFull;

/// What owner and readers share.
struct Shared {
    slots: Arc<Slots>,
    index: Index,
    /// Slots from here on were never used.
    high_water: AtomicU32,
}

impl Shared {
    #[inline]
    fn slot(&self, index: u32) -> &Slot {
        &self.slots.all()[index as usize]
    }
}

/// The table, for its one owner, who alone changes it. It may move to another thread but not be
/// shared: others read through a [`TableView`].
pub struct Table {
    shared: Arc<Shared>,
    /// Slots given back, the last one on top. Never grows beyond its first allocation.
    free: Vec<u32>,
    len: u32,
    /// Slots from here on have no memory yet.
    reserved: u32,
    /// Not `Sync`: a second thread with `&Table` would be a second writer.
    one_owner: PhantomData<Cell<()>>,
}

impl Table {
    /// An empty table over slots that are all free, as those of a fresh mapping are. `seed` keys the
    /// index: it must be random and stay secret, or senders can choose ids that collide.
    ///
    /// # Panics
    /// When the slots have an owner already.
    pub fn new(slots: Arc<Slots>, seed: [u64; 2]) -> Table {
        Table::with_hash(slots, KeyedHash::new(seed))
    }

    fn with_hash(slots: Arc<Slots>, hash: KeyedHash) -> Table {
        assert!(slots.claim(), "these slots have an owner already");
        let (capacity, reserved) = (slots.capacity(), slots.reserved());
        let index = Index::new(capacity, hash);
        Table {
            shared: Arc::new(Shared { slots, index, high_water: AtomicU32::new(0) }),
            free: Vec::with_capacity(capacity as usize),
            len: 0,
            reserved,
            one_owner: PhantomData,
        }
    }

    /// A table over slots that may hold peers already. `keep` is shown each slot that has memory,
    /// and whether its peer is in no slot before it; it leaves a slot that it does not keep free.
    pub(super) fn adopt(
        slots: Arc<Slots>,
        seed: [u64; 2],
        mut keep: impl FnMut(&Slot, bool) -> bool,
    ) -> Table {
        /// Index lines asked for ahead of time.
        const AHEAD: usize = 16;
        let mut table = Table::new(slots, seed);
        let mut high_water = 0;
        for index in 0..table.reserved {
            if let Some(slot) = table.shared.slots.all().get(index as usize + AHEAD) {
                table.prefetch(slot.peer());
            }
            let slot = table.slot(index);
            if keep(slot, table.find(slot.peer()).is_none()) {
                table.shared.index.insert(slot.peer(), index);
                table.len += 1;
                high_water = index + 1;
            } else {
                table.free.push(index);
            }
        }
        // The lowest on top.
        table.free.truncate((high_water - table.len) as usize);
        table.free.reverse();
        // Relaxed: nobody reads yet.
        table.shared.high_water.store(high_water, Ordering::Relaxed);
        table
    }

    /// The index of a peer's slot.
    #[inline]
    pub fn find(&self, peer: PeerId) -> Option<u32> {
        self.shared.index.find(peer, |index| self.slot(index).peer() == peer)
    }

    /// First pass of a batch: asks for the cache line in which the peer's entry is looked for.
    #[inline]
    pub fn prefetch(&self, peer: PeerId) -> Tag {
        self.shared.index.prefetch(peer)
    }

    /// Second pass: where the slot of the peer with this tag should be, by the index alone and
    /// without a look at the slot; `u32::MAX` when it has none. Right nearly always, and to be confirmed
    /// in any case.
    #[inline]
    pub fn guess(&self, tag: Tag) -> u32 {
        self.shared.index.guess(tag).unwrap_or(NIL)
    }

    /// Second pass: asks for the hot cache line of a slot. No slot (`u32::MAX`) is asked for nothing.
    #[inline]
    pub fn prefetch_slot(&self, index: u32) {
        if let Some(slot) = self.shared.slots.all().get(index as usize) {
            prefetch(slot);
        }
    }

    /// The slot that was guessed, if it has this peer's id; for one that turns out to be in use.
    #[inline]
    pub(super) fn guessed(&self, peer: PeerId, guess: u32) -> Option<&Slot> {
        self.shared.slots.all().get(guess as usize).filter(|slot| slot.peer() == peer)
    }

    /// Third pass: what [`find`](Self::find) says, at the price of one look when the guess is right.
    /// The table may have changed in any way since the guess was made.
    #[inline]
    pub fn confirm(&self, peer: PeerId, guess: u32) -> Option<u32> {
        match self.shared.slots.all().get(guess as usize) {
            // The state is asked too, for a free slot could pass for the peer with id 0.
            Some(slot) if slot.peer() == peer && slot.state() != PeerState::Unknown => Some(guess),
            _ => self.find(peer),
        }
    }

    /// A slot, for reading what is in it and for [writing](Slot::write) to it.
    ///
    /// # Panics
    /// When `index` is not below the capacity.
    #[inline]
    pub fn slot(&self, index: u32) -> &Slot {
        self.shared.slot(index)
    }

    /// The record in a slot, [`SlotData::FREE`] when it is free.
    pub fn read(&self, index: u32) -> SlotData {
        self.slot(index).data()
    }

    /// Gives a peer that is not in the table a slot. Readers see the whole
    /// record or nothing.
    ///
    /// # Errors
    /// [`TableFull`], and nothing has changed.
    pub fn insert(&mut self, data: SlotData) -> Result<u32, TableFull> {
        assert!(data.state != PeerState::Unknown, "an unknown peer is a free slot");
        debug_assert!(self.find(data.peer).is_none(), "{} has a slot already", data.peer);
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.take_unused().ok_or(TableFull)?,
        };
        let slot = self.slot(index);
        debug_assert!(slot.state() == PeerState::Unknown);
        slot.write().set_data(&data);
        self.shared.index.insert(data.peer, index);
        self.len += 1;
        Ok(index)
    }

    /// The lowest slot that was never used.
    fn take_unused(&mut self) -> Option<u32> {
        // Relaxed: only the owner writes it.
        let index = self.shared.high_water.load(Ordering::Relaxed);
        if index >= self.reserved {
            self.reserved =
                if index < self.capacity() { self.shared.slots.reserve(index) } else { 0 };
            if index >= self.reserved {
                return None;
            }
        }
        // Relaxed: it only bounds a walk over the slots; each slot's own seqlock says what is in it.
        self.shared.high_water.store(index + 1, Ordering::Relaxed);
        Some(index)
    }

    /// Takes a peer out and leaves its slot free. Its timer must have been disarmed.
    ///
    /// # Panics
    /// When the slot is free.
    pub fn remove(&mut self, index: u32) {
        let slot = self.slot(index);
        assert!(slot.state() != PeerState::Unknown, "slot {index} is free");
        self.shared.index.remove(slot.peer(), index);
        slot.write().set_data(&SlotData::FREE);
        self.free.push(index);
        self.len -= 1;
    }

    /// Peers in the table.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Slots below this index have been used at some time; those above never.
    pub(super) fn high_water(&self) -> u32 {
        // Relaxed: the owner's own.
        self.shared.high_water.load(Ordering::Relaxed)
    }

    /// Whether no peer is in the table.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most peers that the table can hold.
    pub fn capacity(&self) -> u32 {
        self.shared.slots.capacity()
    }

    /// A reader for any thread.
    pub fn view(&self) -> TableView {
        TableView { shared: self.shared.clone() }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.shared.slots.give_up();
    }
}

/// Reads one shard's table from any thread, without stopping its owner. Each record is as it was
/// between two writes; two records read one after the other are of different moments.
#[derive(Clone)]
pub struct TableView {
    shared: Arc<Shared>,
}

impl TableView {
    /// Looks a peer up. A peer that is in the table all the while is always found.
    pub fn find(&self, peer: PeerId) -> Option<(u32, SlotData)> {
        self.shared.index.find_shared(peer, |index| {
            let data = self.read(index)?;
            (data.peer == peer).then_some((index, data))
        })
    }

    /// The record in a slot; `None` when it is free, or beyond the capacity.
    pub fn read(&self, index: u32) -> Option<SlotData> {
        self.shared.slots.all().get(index as usize)?.read()
    }

    /// Slots that the table has.
    pub fn capacity(&self) -> u32 {
        self.shared.slots.capacity()
    }

    /// Slots below this index have been used at some time; those above never.
    pub fn high_water(&self) -> u32 {
        // Relaxed: see `take_unused`. A newcomer's slot may be missed by as much as it is new.
        self.shared.high_water.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for TableView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableView")
            .field("capacity", &self.capacity())
            .field("high_water", &self.high_water())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
