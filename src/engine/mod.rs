//! The engine: who is up, who fell silent. Sans-IO.
pub mod admission;
pub mod brake;
pub(crate) mod conflict;
pub mod detector;
pub mod groups;
mod index;
pub mod journal;
mod looks;
pub mod notice;
mod peers;
pub mod policy;
pub(crate) mod prefetch;
pub mod recover;
mod region;
pub mod sequence;
pub mod shard;
pub mod sight;
pub mod slot;
mod slots;
pub mod table;
pub mod transition;
pub mod way;
pub mod wheel;

pub use detector::{Arrivals, Detector};
pub use groups::Groups;
pub use policy::{Deadlines, Policy};

use std::sync::atomic::{AtomicU64, Ordering};
use transition::PeerState;

/// How many of a shard's peers are in each state. Written by the owner, read by anybody.
#[derive(Debug, Default)]
pub struct StateCounts([AtomicU64; 7]);

impl StateCounts {
    /// Moves one peer from a state to another. Only the shard's owner calls it.
    pub fn moved(&self, from: PeerState, to: PeerState) {
        // Relaxed throughout: one writer, and a reader wants a recent figure, nothing ordered by it.
        let step = |state: PeerState, by: u64| {
            if let Some(cell) = self.0.get(state as usize) {
                cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
            }
        };
        step(from, u64::MAX);
        step(to, 1);
    }

    /// Peers in a state now.
    pub fn get(&self, state: PeerState) -> u64 {
        match state {
            PeerState::Unknown | PeerState::Forgotten => 0,
            // Relaxed: as in `moved`.
            kept => self.0[kept as usize].load(Ordering::Relaxed),
        }
    }
}

/// How many peers all shards together may take. Asked only when a peer comes or goes.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
}

impl Budget {
    /// A budget of so many peers.
    pub fn new(max_peers: u64) -> Budget {
        Budget { left: AtomicU64::new(max_peers) }
    }

    /// Takes one. False when none is left.
    pub fn take(&self) -> bool {
        // Relaxed: the count stands for itself, no memory is handed over with it.
        let one = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok()
    }

    /// Gives one back.
    pub fn give_back(&self) {
        // Relaxed: as in `take`.
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}
