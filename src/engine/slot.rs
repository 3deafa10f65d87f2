//! One peer's record: two cache lines of atomic words behind a seqlock.
//! (CONTRACT SKELETON: owner = table helper; fields and signatures below are what the shard uses.)

use crate::engine::transition::PeerState;
use crate::wire::{PeerId, Status};

/// A peer's record as a plain value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotData {
    /// Who.
    pub peer: PeerId,
    /// `Unknown` marks a free slot.
    pub state: PeerState,
    /// What the sender last said of itself.
    pub status: Status,
    /// False until a binary form was seen (the text form has no sequence).
    pub sequenced: bool,
    /// Key of the last heartbeat.
    pub key_id: u8,
    /// Digest of the profile that the control plane was given; 0 is none yet.
    pub profile_digest: u32,
    /// Last heartbeat, monotonic ns (arrival less the relay's age).
    pub last_seen_ns: u64,
    /// Since when it is in `state`, monotonic ns.
    pub since_ns: u64,
    /// First heartbeat, monotonic ns.
    pub first_seen_ns: u64,
    /// The sender's interval, microseconds, as stated; 0 is "not stated".
    pub interval_us: u64,
    /// The sender's wall clock in the last heartbeat; 0 is "not stated".
    pub sent_ns: u64,
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
}
