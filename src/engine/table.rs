//! CONTRACT SKELETON: owner = table helper.
use super::slot::SlotData;
use crate::wire::PeerId;

/// Reads one shard's table from any thread.
#[derive(Clone)]
pub struct TableView {}

impl TableView {
    /// Looks a peer up.
    pub fn find(&self, peer: PeerId) -> Option<(u32, SlotData)> {
        let _ = peer;
        todo!()
    }
    /// The record in a slot; `None` when it is free.
    pub fn read(&self, index: u32) -> Option<SlotData> {
        let _ = index;
        todo!()
    }
    /// Slots that the table has.
    pub fn capacity(&self) -> u32 {
        todo!()
    }
    /// Slots below this index have been used at some time; those above never.
    pub fn high_water(&self) -> u32 {
        todo!()
    }
}
