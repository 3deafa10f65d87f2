//! The duty cycle of one pinned thread: receive, decode, apply, expire, wait.
//!
//! ```text
//!   receive ──▶ inbox ──▶ shard.observe      what arrived
//!                 ▲ │
//!        mailbox ─┘ └─▶ another's mailbox    what belongs to another core
//!   drain, then shard.advance                what is due
//!   idle: poll or wait                       until the next deadline
//! ```
//!
//! The rule that everything else bends to: a deadline is judged only after every heartbeat that
//! had arrived by then was applied. So a turn samples the time first, reads everything that was
//! queued at that time, and only then fires the deadlines up to that time.

pub mod cores;
pub mod duty;
pub mod idle;
pub mod inbox;
pub mod mailbox;
pub mod probe;
pub mod start;
mod watch;

pub use idle::IdleStrategy;
pub use start::{Fleet, ReactorSettings, anonymous_memory, shard_capacity, start};

use crate::engine::StateCounts;
use crate::engine::journal::Journal;
use crate::engine::notice::Notice;
use crate::engine::shard::Outlet;
use crate::engine::table::TableView;
use crate::engine::transition::Transition;
use crate::io::{Transport, Waker};
use crate::metrics::{Counters, Histograms};
use crate::wire::{Heartbeat, OwnedProfile, PeerId};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::thread::Thread;

/// Reports that a reactor's ring holds. When it is full, changes of state wait in their slots.
pub const REPORT_CAPACITY: usize = 16_384;
/// Commands that a reactor's ring holds.
pub const COMMAND_CAPACITY: usize = 1_024;

/// What a reactor tells the control plane, in the order in which it happened.
pub enum Report {
    /// A peer changed its state.
    Transition(Transition),
    /// A peer's name, group or labels are new.
    Profile {
        /// Whose they are.
        peer: PeerId,
        /// What they are.
        profile: OwnedProfile,
    },
    /// Something else that an operator may want to know.
    Notice(Notice),
}

/// What the control plane asks of a reactor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Remove a peer from the table; a transition to forgotten follows.
    Remove {
        /// Whom.
        peer: PeerId,
    },
    /// Take the peer's profile for unknown: the next HELLO brings it again.
    AskForName {
        /// Whose.
        peer: PeerId,
    },
    /// Put a peer into a group, and name its parent.
    Assign {
        /// Whom.
        peer: PeerId,
        /// The group's number in [`Groups`](crate::engine::Groups), 0 for none; `None` for one that has no
        /// number.
        group: Option<u16>,
        /// The parent's number there, 0 for none.
        parent: u32,
    },
    /// Take note that a peer is silenced, or no longer: it is not held by the brake on mass silence.
    Silence {
        /// Whom.
        peer: PeerId,
        /// Whether it is.
        silenced: bool,
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
    /// Its receive transport.
    pub transport: Transport,
    /// The core that it is pinned to; `None` when it could not be pinned.
    pub cpu: Option<usize>,
}

/// What the reactors receive with: `uring`, `poll`, or `mixed` when some fell back; `None` without
/// reactors.
pub fn transport_of(reactors: &[ReactorHandle]) -> Option<&'static str> {
    let first = reactors.first()?.transport;
    let alike = reactors.iter().all(|reactor| reactor.transport == first);
    Some(if alike { first.as_str() } else { "mixed" })
}

/// A reactor's end of its report ring; it wakes the control plane once a turn, not once a report.
pub struct ReportSender {
    ring: Arc<ArrayQueue<Report>>,
    listener: Option<Thread>,
    unannounced: bool,
    journal: Option<Arc<Journal>>,
}

impl ReportSender {
    /// The sending end of `ring`, which `listener` empties; `None` when nobody has to be woken.
    pub fn new(ring: Arc<ArrayQueue<Report>>, listener: Option<Thread>) -> ReportSender {
        ReportSender { ring, listener, unannounced: false, journal: None }
    }

    /// The same, with a journal in which each transition is written down before it is told.
    pub fn with_journal(self, journal: Option<Arc<Journal>>) -> ReportSender {
        ReportSender { journal, ..self }
    }

    /// Pushes a report. Only after `has_room`, by the ring's only producer.
    pub fn push(&mut self, report: Report) {
        let pushed = self.ring.push(report);
        debug_assert!(pushed.is_ok(), "the only producer asked for room");
        self.unannounced = true;
    }

    /// Wakes the control plane if something was pushed since the last time.
    pub fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced)
            && let Some(listener) = &self.listener
        {
            listener.unpark();
        }
    }
}

impl Outlet for ReportSender {
    fn has_room(&self) -> bool {
        self.ring.len() < self.ring.capacity()
    }

    fn transition(&mut self, transition: Transition) {
        if let Some(journal) = &self.journal {
            journal.append(&transition);
        }
        self.push(Report::Transition(transition));
    }

    fn notice(&mut self, notice: Notice) {
        // The last place is a transition's, whose sender has asked for it already.
        if self.ring.len() + 1 < self.ring.capacity() {
            self.push(Report::Notice(notice));
        }
    }

    fn profile(&mut self, _place: usize, _beat: &Heartbeat) -> bool {
        // Profiles come with heartbeats only; the inbox has its own outlet for those.
        false
    }
}

#[cfg(test)]
mod tests;
