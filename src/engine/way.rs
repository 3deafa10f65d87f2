//! Which way a heartbeat came: directly, or through a relay, which then is its peer's parent.
//!
//! ```text
//!  heartbeat's way ── the slot's mark says the same? ── (usual) nothing to do
//!                                      └─ no: mark, and learn the parent, if nobody named one
//! ```
//!
//! The mark is seven bits in the slot's hot line, so that a heartbeat that comes as the last one did
//! costs a comparison. Of two relays in 127 with one mark, the move of a peer from one to the other goes
//! unnoticed; the parent itself, in the cold line, is exact.

use super::groups::MAX_GROUPS;
use super::table::TableView;
use crate::wire::{self, PeerId};

/// Which way a heartbeat came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Way {
    /// It does not say: HELLO, BYE and text go through relays as they are.
    #[default]
    Unsaid,
    /// From the peer itself.
    Direct,
    /// Through the relay that has this number among the parents.
    Relay(u16),
}

impl Way {
    /// The slot's mark for it, 0 to 127; `None` when it leaves the mark alone.
    #[inline]
    pub(super) fn mark(self) -> Option<u8> {
        match self {
            Way::Unsaid => None,
            Way::Direct => Some(0),
            Way::Relay(number) => Some((number % 127) as u8 + 1),
        }
    }
}

const _: () = assert!(MAX_GROUPS <= 1 << u16::BITS, "a relay's number fits");

/// A slot's parent was learnt from the way of its heartbeats, not named: this bit of its number.
pub const LEARNT: u32 = 1 << 31;
/// The number of the parent of a peer that wants none.
pub const NOBODY: u32 = LEARNT - 1;

/// A parent's number without the note of how it came about.
pub fn number_of(parent: u32) -> u32 {
    parent & !LEARNT
}

/// A parent's number as it was named; 0 for one that was learnt.
pub fn named(parent: u32) -> u32 {
    if parent & LEARNT == 0 { parent } else { 0 }
}

/// The relays that one reactor has heard of, and their numbers, which never change.
#[derive(Default)]
pub(super) struct Relays {
    /// By id. Filled as relays come, at most as many as there are parents.
    known: Vec<(PeerId, u16)>,
}

impl Relays {
    pub(super) fn get(&self, relay: PeerId) -> Option<u16> {
        self.known.binary_search_by_key(&relay, |known| known.0).ok().map(|at| self.known[at].1)
    }

    pub(super) fn learn(&mut self, relay: PeerId, number: u16) {
        if let Err(at) = self.known.binary_search_by_key(&relay, |known| known.0) {
            self.known.insert(at, (relay, number));
        }
    }
}

/// Whether any shard has a record of a peer.
pub(super) fn is_known(views: &[TableView], peer: PeerId) -> bool {
    let shard = wire::steer(peer, views.len().max(1) as u32);
    views.get(shard as usize).is_some_and(|view| view.find(peer).is_some())
}
