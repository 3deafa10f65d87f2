//! What is told beside the transitions: incidents, who flaps, identity conflicts, the monitor's own
//! blindness, who is missing. Plain data, as they are.
//!
//! Notes are kept in a log of their own, so that the transitions' numbers have no holes for who
//! follows those alone. A note has its place between them: the number of the transition that it was
//! made behind, and its order among the notes there.
//!
//! ```text
//!   transitions      7            8                        9
//!   notes                7.1 7.2      8.1 8.1796… 8.1799…
//! ```
//!
//! Places only grow, also over a restart that goes on with the numbers. What is told of a transition has
//! the first ones behind it, in each process that goes through it; what time brings about has the wall
//! clock's milliseconds, or one more than the last.

use super::conflicts;
use super::events::Names;
use super::expect;
use super::flapping;
use super::incidents::{Cause, Told};
use crate::clock;
use crate::engine::groups::Scope;
use crate::wire::PeerId;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::RwLock;

/// Notes that are kept; beyond them the oldest are dropped. Whoever was away so long asks for what
/// stands: open incidents, who flaps, who is missing.
const CAPACITY: usize = 4_096;

/// A place in the stream: that of a transition, or of a note behind it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Place {
    /// The number of the transition; 0 before the first.
    pub seq: u64,
    /// The order behind it; 0 is the transition's own.
    pub order: u64,
}

impl Place {
    /// That of a transition.
    pub fn of(seq: u64) -> Place {
        Place { seq, order: 0 }
    }

    /// The next one for a note behind this transition, whose order is `least` or more.
    pub fn next(self, seq: u64, least: u64) -> Place {
        let taken = if self.seq == seq { self.order } else { 0 };
        Place { seq, order: least.max(taken + 1) }
    }
}

/// The least order of a note that comes with its transition.
pub const FIRST: u64 = 1;

/// The least order of a note that comes by time: above all that an earlier process has given behind the
/// same transition, unless the wall clock was set back.
pub fn order_now() -> u64 {
    clock::wall_ns() / 1_000_000
}

/// `7`, or `7.1` behind it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { seq, order } = self;
        if *order == 0 { write!(f, "{seq}") } else { write!(f, "{seq}.{order}") }
    }
}

impl FromStr for Place {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Place, Self::Err> {
        let (seq, order) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Place { seq: seq.parse()?, order: order.parse()? })
    }
}

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
    /// Where it stands.
    pub place: Place,
    /// What turns its times into wall time, nanoseconds; sampled when it was published.
    pub wall_offset_ns: i64,
    /// The names of the peer, or of the group, that it is about.
    pub names: Names,
}

/// The log of notes. One appends, any number follow, each by the last place that it has seen.
#[derive(Default)]
pub struct NoteLog(RwLock<Ring>);

#[derive(Default)]
struct Ring {
    entries: VecDeque<NoteEntry>,
    /// All behind this place are here.
    begins: Place,
}

const UNPOISONED: &str = "nothing panics while it holds the ring";

impl NoteLog {
    /// What was told up to this place is not here, and was by an earlier process.
    pub fn begin(&self, place: Place) {
        self.0.write().expect(UNPOISONED).begins = place;
    }

    /// Appends in order; takes the notes out of `batch`. Their transitions are not in their log before.
    pub fn append(&self, batch: &mut Vec<NoteEntry>) {
        if batch.is_empty() {
            return;
        }
        let mut ring = self.0.write().expect(UNPOISONED);
        ring.entries.extend(batch.drain(..));
        let beyond = ring.entries.len().saturating_sub(CAPACITY);
        let last = ring.entries.drain(..beyond).next_back();
        ring.begins = last.map_or(ring.begins, |last| last.place);
    }

    /// The last place up to this transition and the notes behind it.
    pub fn end(&self, seq: u64) -> Place {
        let ring = self.0.read().expect(UNPOISONED);
        let behind = ring.entries.partition_point(|entry| entry.place.seq <= seq);
        let last = behind.checked_sub(1).map_or(ring.begins, |at| ring.entries[at].place);
        last.max(Place::of(seq))
    }

    /// At most `most` notes behind a place, and the place behind which all are held.
    pub fn read(&self, after: Place, most: usize) -> (Vec<NoteEntry>, Place) {
        let ring = self.0.read().expect(UNPOISONED);
        let seen = ring.entries.partition_point(|entry| entry.place <= after);
        (ring.entries.range(seen..).take(most).cloned().collect(), ring.begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(place: &str) -> NoteEntry {
        let note = Note::Blind { from_ns: 1, to_ns: 2, deaf: false };
        let place = place.parse().unwrap();
        NoteEntry { note, place, wall_offset_ns: 0, names: Names::default() }
    }

    fn places((entries, _): (Vec<NoteEntry>, Place)) -> Vec<String> {
        entries.iter().map(|entry| entry.place.to_string()).collect()
    }

    #[test]
    fn a_place_reads_back_and_grows() {
        let mut place = Place::default();
        let given = [(0, 5), (0, 5), (0, 9), (3, 1), (3, 1), (4, 7)];
        let given = given.map(|(seq, least)| {
            let next = place.next(seq, least);
            assert!(place < next && Place::of(seq) < next);
            place = next;
            assert_eq!(place.to_string().parse(), Ok(place));
            place.to_string()
        });
        assert_eq!(given, ["0.5", "0.6", "0.9", "3.1", "3.2", "4.7"]);
        assert_eq!(("17".parse(), Place::of(17).to_string()), (Ok(Place::of(17)), "17".into()));
        for bad in ["", ".", "7.", ".7", "7.1.1", "-7", "7.x"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_follower_gets_what_comes_behind_its_place_once() {
        let log = NoteLog::default();
        log.append(&mut ["1.1", "1.2", "3.1", "7.1"].map(note).into());
        let after = |place: &str, most| places(log.read(place.parse().unwrap(), most));
        assert_eq!(after("1", 9), ["1.1", "1.2", "3.1", "7.1"]);
        assert_eq!(after("1.1", 2), ["1.2", "3.1"]);
        assert_eq!(after("2", 9), ["3.1", "7.1"]);
        assert_eq!(after("7.1", 9), [""; 0]);
        let ends = [0, 1, 2, 3, 9].map(|seq| log.end(seq).to_string());
        assert_eq!(ends, ["0", "1.2", "2", "3.1", "9"]);
        log.append(&mut ["9.1"].map(note).into());
        assert_eq!(after("7.1", 9), ["9.1"]);
    }

    #[test]
    fn only_the_latest_are_kept_and_it_is_known_which() {
        let log = NoteLog::default();
        log.begin(Place { seq: 4, order: 8 });
        assert_eq!(log.end(4).to_string(), "4.8");
        log.append(&mut (1..=CAPACITY + 5).map(|i| note(&format!("5.{i}"))).collect());
        let (entries, begins) = log.read(Place::default(), usize::MAX);
        assert_eq!((entries.len(), begins.to_string().as_str()), (CAPACITY, "5.5"));
    }
}
