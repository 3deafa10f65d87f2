//! Taking over what an earlier process left in the slots, after whatever end it had.
//!
//! ```text
//!   slots as they lie ──▶ repaired, checked, indexed          Table::recover
//!        journal ───────▶ each peer's last transition made    Shard::resume
//!                         timers armed, peers counted
//!                         blind from the last look until now
//! ```
//!
//! **What a kill leaves.** The one writer of a shard had at most one slot open, whose words are old
//! and new side by side, each of them whole. Its peer is kept, for a lost peer is a death that
//! nobody will be told of: either `last_seen` will do, and the state is what the journal's last record
//! of the peer says. Nothing that was heard before is heard again, and the sender's next heartbeat is:
//!
//! ```text
//!   stored in this order        found without the rest
//!   incarnation and number      the old pair: as if not heard; the new one: no more than heard.
//!                               Never one of each, they are one word
//!   that there is a number      not: the next one begins it, as the sender's first
//!   the key                     not: the next one is its first proof, which what is there does not bind
//! ```
//!
//! Which of the numbers up to the last were seen is not known of such a slot: all count as seen, and only
//! what is newer is taken. A heartbeat in whose store the process ended counts as not heard.
//!
//! **What a damaged file holds** is any bytes. A slot that no process can have written (a time in
//! the future, a peer of another shard or one that came before) is emptied and counted.
//!
//! Nothing here is told to anybody: what had been decided and not told is in the journal.

use super::detector::Arrivals;
use super::groups::Groups;
use super::slot::{SlotData, Slots};
use super::table::Table;
use super::transition::PeerState;
use super::way::{Way, number_of};
use crate::wire;
use std::sync::Arc;

/// On what terms slots are taken over.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Monotonic time now: no time in a slot may be after it.
    pub now_ns: u64,
    /// This shard among the others.
    pub shard: u32,
    /// The numbers of groups and parents that slots may name.
    pub groups: &'a Groups,
    /// Whether what the detectors had learnt means something to ours.
    pub learnt_holds: bool,
    /// How many shards there are.
    pub shards: u32,
}

/// What was found in the slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Peers taken over.
    pub peers: u32,
    /// Those of them in the midst of whose last write the process had ended.
    pub repaired: u32,
    /// Slots that held something that could not be taken over.
    pub discarded: u32,
}

impl Terms<'_> {
    /// Whether a slot can have been written by a shard that we are the heirs of.
    fn admit(&self, data: &SlotData) -> bool {
        let SlotData { last_seen_ns, since_ns, first_seen_ns, alive_since_ns, .. } = *data;
        let times = [last_seen_ns, since_ns, first_seen_ns, alive_since_ns];
        times.into_iter().all(|time| time <= self.now_ns)
            && (self.shards == 1 || wire::steer(data.peer, self.shards) == self.shard)
    }
}

impl Table {
    /// A table over slots as an earlier process left them; no timer is armed. `seed` as in
    /// [`Table::new`].
    ///
    /// # Panics
    /// When the slots have an owner already.
    pub fn recover(slots: Arc<Slots>, seed: [u64; 2], terms: &Terms<'_>) -> (Table, Found) {
        let mut found = Found::default();
        let table = Table::adopt(slots, seed, |slot, is_new| {
            let torn = slot.repair();
            let data = slot.data();
            if data.state == PeerState::Unknown || !is_new || !terms.admit(&data) {
                found.discarded += u32::from(data.state != PeerState::Unknown);
                if torn || data != SlotData::FREE {
                    slot.write().set_data(&SlotData::FREE);
                }
                return false;
            }
            found.peers += 1;
            let mut write = slot.write();
            if !terms.groups.knows(data.group, number_of(data.parent)) {
                write.set_group(0, false);
                write.set_parent(0);
                write.set_way(0);
            }
            let is_known = |code| match Way::of_code(code) {
                Some(Way::Relay(number)) => terms.groups.knows(0, number.into()),
                other => other.is_some(),
            };
            if !is_known(data.other_way) {
                write.set_other_way(0);
            }
            if !terms.learnt_holds {
                write.set_arrivals(&Arrivals::NONE);
            }
            found.repaired += u32::from(torn);
            true
        });
        (table, found)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
