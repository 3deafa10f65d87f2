//! What is told beside the transitions, in the same log and by the same numbers: incidents, who
//! flaps, identity conflicts, the monitor's own blindness, who is missing. Plain data, as they are.

use super::expect;
use super::flapping;
use super::incidents::{Cause, Told};
use crate::engine::groups::Scope;
use crate::wire::PeerId;

/// One note.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Note {
    /// An incident was opened, has grown, or was closed.
    Incident(Told),
    /// A peer began or ended to flap.
    Flapping(flapping::Change),
    /// Two senders are alive under one id.
    Conflict {
        /// Whose.
        peer: PeerId,
        /// When it was recognised, monotonic nanoseconds.
        at_ns: u64,
        /// The two incarnations.
        incarnations: [u32; 2],
    },
    /// The monitor did not look for a while, or did not hear all.
    Blind {
        /// From when, monotonic nanoseconds.
        from_ns: u64,
        /// Until when.
        to_ns: u64,
        /// False: a reactor did not run. True: datagrams were lost.
        deaf: bool,
    },
    /// Somebody expected is missing, or has come.
    Missing {
        /// What became of the expectation.
        change: expect::Change,
        /// Whether peers of a group are expected, or one by its name.
        of_group: bool,
        /// How many are expected.
        wanted: u32,
    },
}

impl Note {
    /// When, monotonic nanoseconds.
    pub fn at_ns(&self) -> u64 {
        match *self {
            Note::Incident(told) => told.at_ns,
            Note::Flapping(change) => change.at_ns,
            Note::Conflict { at_ns, .. } => at_ns,
            Note::Blind { to_ns, .. } => to_ns,
            Note::Missing { change, .. } => change.at_ns,
        }
    }

    /// The peer that it is about, when it is about one.
    pub fn peer(&self) -> Option<PeerId> {
        match *self {
            Note::Flapping(change) => Some(change.peer),
            Note::Conflict { peer, .. } => Some(peer),
            Note::Incident(Told { figures, .. }) => match figures.cause {
                Cause::Parent(parent) => Some(parent),
                Cause::Group(_) | Cause::MassSilence(_) => None,
            },
            Note::Blind { .. } | Note::Missing { .. } => None,
        }
    }

    /// The number of the group that it is about, when it is about one.
    pub fn group(&self) -> Option<u16> {
        match *self {
            Note::Incident(Told { figures, .. }) => match figures.cause {
                Cause::Group(group) | Cause::MassSilence(Scope::Group(group)) => Some(group),
                Cause::Parent(_) | Cause::MassSilence(Scope::Fleet) => None,
            },
            _ => None,
        }
    }
}
