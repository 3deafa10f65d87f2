//! The duty cycle of one pinned thread: receive, decode, apply, expire, wait.

use crate::engine::StateCounts;
use crate::engine::table::TableView;
use crate::engine::transition::Transition;
use crate::io::Waker;
use crate::metrics::{Counters, Histograms};
use crate::wire::PeerId;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// What a reactor tells the control plane, in the order in which it happened.
pub enum Report {
    /// A peer changed its state.
    Transition(Transition),
    /// A peer's name, group or labels are new: the canonical bytes of a HELLO's body.
    Profile {
        /// Whose they are.
        peer: PeerId,
        /// Its profile (becomes `wire::OwnedProfile`).
        profile: Box<[u8]>,
    },
}

/// What the control plane asks of a reactor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Remove a peer from the table; a transition to forgotten follows.
    Remove {
        /// Whom.
        peer: PeerId,
    },
}

/// All that other threads have of a reactor.
#[derive(Clone)]
pub struct ReactorHandle {
    /// Its peers.
    pub view: TableView,
    /// How many of them are in each state.
    pub states: Arc<StateCounts>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// What it measures.
    pub histograms: Arc<Histograms>,
    /// What it reports; the control plane's thread is the only consumer.
    pub reports: Arc<ArrayQueue<Report>>,
    /// What is asked of it.
    pub commands: Arc<ArrayQueue<Command>>,
    /// Wakes it when a command was pushed.
    pub waker: Waker,
    /// The core that it is pinned to; `None` when it could not be pinned.
    pub cpu: Option<usize>,
}
