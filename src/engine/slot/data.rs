//! A peer's record as its owner and its readers copy it, outside the shared memory.

use crate::engine::detector::Arrivals;
use crate::engine::transition::{PeerState, Reason};
use crate::wire::{PeerId, Status};

/// A peer's record as a plain value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SlotData {
    /// Who.
    pub peer: PeerId,
    /// `Unknown` marks a free slot.
    pub state: PeerState,
    /// A change of state that is decided but could not be reported yet.
    pub pending: Option<Reason>,
    /// What the sender last said of itself.
    pub status: Status,
    /// Whether an operator has silenced it, as the control plane has told.
    pub silenced: bool,
    /// False until a binary form was seen (the text form has no sequence).
    pub sequenced: bool,
    /// The mark of the way that its last beat came, see [`way`](crate::engine::way).
    pub way: u8,
    /// Key of the last heartbeat.
    pub key_id: u8,
    /// Digest of the profile that the control plane was given; 0 is none yet, all set one that it has lost.
    pub profile_digest: u32,
    /// Last heartbeat, monotonic ns (arrival less the relay's age).
    pub last_seen_ns: u64,
    /// Since when it is in `state`, monotonic ns.
    pub since_ns: u64,
    /// Since when it is alive, up or suspect, or was last; monotonic ns.
    pub alive_since_ns: u64,
    /// First heartbeat, monotonic ns.
    pub first_seen_ns: u64,
    /// The sender's interval, microseconds, as stated; 0 is "not stated".
    pub interval_us: u64,
    /// The sender's start.
    pub incarnation: u32,
    /// Last sequence number.
    pub last_sequence: u32,
    /// Which of the 32 sequence numbers up to `last_sequence` were seen (bit 0 is the last itself).
    pub seen_mask: u32,
    /// Heartbeats applied, modulo 2^32.
    pub heartbeats: u32,
    /// Heartbeats missing from the sequence.
    pub gaps: u32,
    /// Heartbeats that came twice.
    pub duplicates: u32,
    /// Heartbeats that came after a later one.
    pub reordered: u32,
    /// Restarts of the sender.
    pub restarts: u32,
    /// Heartbeats of an earlier incarnation.
    pub stale: u32,
    /// What its detector has learnt.
    pub arrivals: Arrivals,
    /// Its group's number, 0 for none.
    pub group: u16,
    /// Whether the control plane has said which group that is, none included.
    pub assigned: bool,
    /// Its parent's number, 0 for none; with [`LEARNT`](crate::engine::way::LEARNT) if nobody named it.
    pub parent: u32,
    /// Another way that its heartbeats come, as a code of `Way`; 0 for none.
    pub other_way: u32,
    /// Which of its heartbeats, by their count, last came that way, too.
    pub other_way_at: u32,
    /// Its reactor's number for its last transition, modulo 2^32.
    pub report_no: u32,
}

impl SlotData {
    /// Its group's number, 0 for none; `None` when it has not been told yet.
    pub fn told_group(&self) -> Option<u16> {
        (self.assigned || self.group != 0).then_some(self.group)
    }

    /// What a free slot holds.
    pub const FREE: SlotData = SlotData {
        peer: PeerId(0),
        state: PeerState::Unknown,
        pending: None,
        status: Status::Ok,
        silenced: false,
        sequenced: false,
        way: 0,
        key_id: 0,
        profile_digest: 0,
        last_seen_ns: 0,
        since_ns: 0,
        alive_since_ns: 0,
        first_seen_ns: 0,
        interval_us: 0,
        incarnation: 0,
        last_sequence: 0,
        seen_mask: 0,
        heartbeats: 0,
        gaps: 0,
        duplicates: 0,
        reordered: 0,
        restarts: 0,
        stale: 0,
        arrivals: Arrivals::NONE,
        group: 0,
        assigned: false,
        parent: 0,
        other_way: 0,
        other_way_at: 0,
        report_no: 0,
    };
}
