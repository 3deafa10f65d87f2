//! What is told beside the transitions: incidents, who flaps, identity conflicts, the monitor's own
//! blindness, who is missing. Plain data, as they are.
//!
//! Notes are kept in a log of their own, so that the transitions' numbers have no holes for who
//! follows those alone. A note knows the number of the transition that it was made behind, which
//! gives it its place between them.

use super::conflicts;
use super::events::Names;
use super::expect;
use super::flapping;
use super::incidents::{Cause, Told};
use crate::engine::groups::Scope;
use crate::wire::PeerId;
use std::collections::VecDeque;
use std::sync::RwLock;

/// Notes that are kept; beyond them the oldest are dropped. Whoever was away so long asks for what
/// stands: open incidents, who flaps, who is missing.
const CAPACITY: usize = 4_096;

/// One note.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Note {
    /// An incident was opened, has grown, or was closed.
    Incident(Told),
    /// A peer began or ended to flap.
    Flapping(flapping::Change),
    /// Two senders are alive under one id, or are no longer.
    Conflict(conflicts::Change),
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
            Note::Conflict(change) => change.at_ns,
            Note::Blind { to_ns, .. } => to_ns,
            Note::Missing { change, .. } => change.at_ns,
        }
    }

    /// The peer that it is about, when it is about one.
    pub fn peer(&self) -> Option<PeerId> {
        match *self {
            Note::Flapping(change) => Some(change.peer),
            Note::Conflict(change) => Some(change.peer),
            Note::Incident(Told { figures, .. }) => match figures.cause {
                Cause::Parent(parent) => Some(parent),
                Cause::Group(_) | Cause::MassSilence(_) | Cause::StillDown(_) => None,
            },
            Note::Blind { .. } | Note::Missing { .. } => None,
        }
    }

    /// The number of the group that it is about, when it is about one.
    pub fn group(&self) -> Option<u16> {
        match *self {
            Note::Incident(Told { figures, .. }) => match figures.cause {
                Cause::Group(group)
                | Cause::StillDown(group)
                | Cause::MassSilence(Scope::Group(group)) => Some(group),
                Cause::Parent(_) | Cause::MassSilence(Scope::Fleet) => None,
            },
            _ => None,
        }
    }
}

/// A note as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct NoteEntry {
    /// What it says; its times are monotonic.
    pub note: Note,
    /// The number of the last transition before it.
    pub seq: u64,
    /// What turns its times into wall time, nanoseconds; sampled when it was published.
    pub wall_offset_ns: i64,
    /// The names of the peer, or of the group, that it is about.
    pub names: Names,
}

/// The log of notes. One appends, any number follow, each by its own cursor.
#[derive(Default)]
pub struct NoteLog(RwLock<Ring>);

#[derive(Default)]
struct Ring {
    entries: VecDeque<NoteEntry>,
    /// Notes ever appended.
    count: u64,
}

const UNPOISONED: &str = "nothing panics while it holds the ring";

impl NoteLog {
    /// Appends in order; takes the notes out of `batch`. Their transitions are in their log already.
    pub fn append(&self, batch: &mut Vec<NoteEntry>) {
        if batch.is_empty() {
            return;
        }
        let mut ring = self.0.write().expect(UNPOISONED);
        ring.count += batch.len() as u64;
        ring.entries.extend(batch.drain(..));
        let beyond = ring.entries.len().saturating_sub(CAPACITY);
        ring.entries.drain(..beyond);
    }

    /// A cursor behind the last note made behind transition `seq` or before.
    pub fn start(&self, seq: u64) -> u64 {
        let ring = self.0.read().expect(UNPOISONED);
        let behind = ring.entries.len() - ring.entries.partition_point(|entry| entry.seq <= seq);
        ring.count - behind as u64
    }

    /// At most `most` notes behind a cursor, and the cursor of the first of them; what is no longer
    /// kept is skipped.
    pub fn read(&self, cursor: u64, most: usize) -> (Vec<NoteEntry>, u64) {
        let ring = self.0.read().expect(UNPOISONED);
        let oldest = ring.count - ring.entries.len() as u64;
        let skip = cursor.saturating_sub(oldest) as usize;
        (ring.entries.iter().skip(skip).take(most).cloned().collect(), cursor.max(oldest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(seq: u64) -> NoteEntry {
        let note = Note::Blind { from_ns: seq, to_ns: seq + 1, deaf: false };
        NoteEntry { note, seq, wall_offset_ns: 0, names: Names::default() }
    }

    fn seqs(entries: &[NoteEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn a_follower_gets_what_comes_behind_its_transition_once() {
        let log = NoteLog::default();
        log.append(&mut [1, 1, 3, 7].map(note).into());
        let cursor = log.start(1);
        let (entries, cursor) = log.read(cursor, 1);
        assert_eq!(seqs(&entries), [3]);
        let (entries, cursor) = log.read(cursor + 1, 10);
        assert_eq!(seqs(&entries), [7]);
        log.append(&mut [9].map(note).into());
        assert_eq!(seqs(&log.read(cursor + 1, 10).0), [9]);
        assert_eq!(log.read(log.start(9), 10).0, []);
    }

    #[test]
    fn only_the_latest_are_kept() {
        let log = NoteLog::default();
        let most = CAPACITY as u64;
        log.append(&mut (1..=most + 5).map(note).collect());
        let (entries, cursor) = log.read(0, usize::MAX);
        assert_eq!((entries.len(), entries[0].seq), (CAPACITY, 6));
        assert_eq!(cursor, 5);
        assert_eq!(log.start(0), 5);
    }
}
