//! What the relay's tests share: heartbeats, and an outside that keeps everything.

use super::Outside;
use crate::wire::{Heartbeat, Kind, PeerId, Status};

/// A beat every second of a peer, with this number.
pub fn beat(peer: u64, sequence: u32) -> Heartbeat {
    Heartbeat {
        peer: PeerId(peer),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 1_000,
        sequence,
        interval_us: 1_000_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

/// What was sent, in order.
#[derive(Default)]
pub struct Kept {
    /// To the monitors.
    pub forwarded: Vec<Vec<u8>>,
    /// To who asked.
    pub answered: Vec<Vec<u8>>,
}

impl Outside for Kept {
    fn forward(&mut self, datagram: &[u8]) {
        self.forwarded.push(datagram.to_vec());
    }

    fn answer(&mut self, datagram: &[u8]) {
        self.answered.push(datagram.to_vec());
    }
}
