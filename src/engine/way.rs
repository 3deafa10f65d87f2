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
//!
//! **Two ways at once.** Who sends to two relays, or to a relay and the monitor, is heard once and
//! refused once, and either may be first. The second copy says that there is another way; so does a peer
//! that goes to and fro between two. While one of the two lives, silence is the peer's own.

use super::groups::MAX_GROUPS;
use super::slot::{Slot, SlotData};
use super::table::TableView;
use crate::wire::{self, PeerId};

/// Which way a heartbeat came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Way {
    /// It does not say, as one that is too long for a relay's BUNDLE, or is not believed.
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

    /// As a slot keeps it: 0 unsaid, 1 direct, then the relays.
    pub(super) fn code(self) -> u32 {
        match self {
            Way::Unsaid => 0,
            Way::Direct => 1,
            Way::Relay(number) => 2 + u32::from(number),
        }
    }

    /// The way of such a code; `None` if there is none.
    pub(super) fn of_code(code: u32) -> Option<Way> {
        match code {
            0 => Some(Way::Unsaid),
            1 => Some(Way::Direct),
            relay => (relay - 2).try_into().ok().map(Way::Relay),
        }
    }

    /// The way by which a peer became the child of this parent.
    fn to(parent: u32) -> Way {
        // A number that was learnt is a relay's, and so fits.
        match number_of(parent).try_into() {
            Ok(0) | Err(_) => Way::Direct,
            Ok(relay) => Way::Relay(relay),
        }
    }
}

/// A way that no copy has come by for so many heartbeats is used no more.
const LATELY: u32 = 64;

impl Slot {
    /// The other way that its heartbeats come at present; unsaid for none.
    pub(super) fn other_way_lately(&self) -> Way {
        let age = self.heartbeats().wrapping_sub(self.other_way_at());
        let other = Way::of_code(self.other_way()).filter(|_| age <= LATELY);
        other.unwrap_or_default()
    }

    /// What the other way is once its heartbeats come this way, and whoever named no parent.
    pub(super) fn other_way_than(&self, way: Way) -> Way {
        let (before, other) = (Way::to(self.parent()), self.other_way_lately());
        match (before, way) {
            _ if before == way => other,
            _ if other == way => before,
            // Back from where it went while its relay was away.
            (Way::Direct, Way::Relay(_)) => Way::Unsaid,
            _ => before,
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

/// A peer's record, in whichever shard it is.
pub(super) fn record_of(views: &[TableView], peer: PeerId) -> Option<SlotData> {
    let shard = wire::steer(peer, views.len().max(1) as u32);
    let (_, record) = views.get(shard as usize)?.find(peer)?;
    Some(record)
}
