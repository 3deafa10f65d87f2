//! Everything that happened, as the world knows it: which heartbeat was sent, queued, read and by
//! when it must have been applied; what the monitor told; when it was held up.
//!
//! The oracle judges by this alone, after the run. Nothing here asks the engine.

use super::scenario::START_NS;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use systole::engine::notice::Notice;
use systole::engine::transition::Transition;

/// Not yet, or never.
pub const NEVER: u64 = u64::MAX;

/// A heartbeat in a datagram. A copy of a datagram has heartbeats of its own.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    pub peer: usize,
    pub datagram: usize,
    /// Incarnation and sequence as one number that only grows; the wire has both modulo 2^32.
    pub number: u64,
    /// False for text.
    pub numbered: bool,
    pub bye: bool,
    pub interval_us: u64,
    /// How long a relay held it.
    pub age_ns: u64,
    /// By when the owner has applied it.
    pub applied_ns: u64,
}

/// What became of a datagram on its way to the monitor.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fate {
    /// Lost in the network.
    Lost,
    /// Still on its way.
    Sent,
    /// The kernel queued it for a reactor.
    Queued { at_ns: u64, by: usize },
    /// The kernel dropped it: the receive buffer was full.
    Dropped { at_ns: u64, by: usize },
    /// There was no process to take it, or it ended before it did.
    Missed { at_ns: u64 },
}

impl Fate {
    /// The reactor at whose socket it was queued.
    pub fn by(self) -> Option<usize> {
        match self {
            Fate::Queued { by, .. } => Some(by),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Datagram {
    pub bytes: Rc<[u8]>,
    /// The sender's address, so to say.
    pub from: usize,
    pub beats: Range<usize>,
    pub sent_ns: u64,
    pub fate: Fate,
    /// When the transport handed it out.
    pub read_ns: u64,
    /// A mailbox was full while it was taken in.
    pub perhaps_lost: bool,
    /// The process was killed between reading and applying it: it did, or did not.
    pub cut_short: bool,
}

/// A transition as the control plane took it.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub reactor: usize,
    pub taken_ns: u64,
    pub transition: Transition,
}

/// A time in which the monitor was held up.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub from_ns: u64,
    pub to_ns: u64,
    /// Which reactor; all when none is named.
    pub reactor: Option<usize>,
    pub what: &'static str,
}

impl Trouble {
    /// Whether the reactor did not run in it.
    pub fn blind(&self) -> bool {
        self.what != FULL && self.what != OVERSLEPT
    }
}

/// A time without a process.
#[derive(Clone, Copy, Debug)]
pub struct Absence {
    pub from_ns: u64,
    pub to_ns: u64,
    /// Whether its sockets stayed open, and nothing that they held was lost.
    pub handed_over: bool,
}

/// The trouble of a reactor whose process has ended, until there is another.
pub const ABSENT: &str = "absent";
/// The trouble of a reactor that runs and has no room for what it finds.
pub const FULL: &str = "its report ring was full";
/// The trouble of a reactor that was held up on its way into the kernel, with the time to sleep in its
/// hand.
pub const OVERSLEPT: &str = "overslept";

#[derive(Default)]
pub struct Record {
    /// The owner of each peer.
    pub owners: Vec<usize>,
    pub names: Vec<(String, u64)>,
    pub by_id: BTreeMap<u64, usize>,
    pub beats: Vec<Beat>,
    pub datagrams: Vec<Datagram>,
    pub told: Vec<Told>,
    /// What else the control plane was told, by which reactor and when.
    pub notices: Vec<(u64, usize, Notice)>,
    pub troubles: Vec<Trouble>,
    /// When an operator asked for a peer's removal.
    pub removals: Vec<(u64, usize)>,
    /// When a process ended, and another began.
    pub absences: Vec<Absence>,
    /// When each reactor last ended a turn.
    turned_ns: Vec<u64>,
    /// For each reactor: datagrams read in its turn, heartbeats handed to it, and those among them
    /// that its present turn takes.
    in_turn: Vec<Vec<usize>>,
    mail: Vec<Vec<usize>>,
    collecting: Vec<Vec<usize>>,
}

impl Record {
    pub fn new(reactors: usize) -> Record {
        let none = || vec![Vec::new(); reactors];
        Record {
            in_turn: none(),
            mail: none(),
            collecting: none(),
            turned_ns: vec![START_NS; reactors],
            ..Record::default()
        }
    }

    pub fn trouble(
        &mut self,
        from_ns: u64,
        to_ns: u64,
        reactor: Option<usize>,
        what: &'static str,
    ) {
        if to_ns > from_ns {
            self.troubles.push(Trouble { from_ns, to_ns, reactor, what });
        }
    }

    pub fn turn_begins(&mut self, reactor: usize) {
        let mail = std::mem::take(&mut self.mail[reactor]);
        self.collecting[reactor].extend(mail);
    }

    pub fn read(&mut self, datagram: usize, by: usize, now_ns: u64) {
        self.datagrams[datagram].read_ns = now_ns;
        self.in_turn[by].push(datagram);
    }

    /// The process is killed, and another begins at `back_ns`. What it had read and not applied, it
    /// may have.
    pub fn kill(&mut self, now_ns: u64, back_ns: u64, lag_ns: u64) {
        self.absences.push(Absence { from_ns: now_ns, to_ns: back_ns, handed_over: false });
        for reactor in 0..self.turned_ns.len() {
            let mut beats: Vec<usize> = self.mail[reactor].drain(..).collect();
            beats.append(&mut self.collecting[reactor]);
            for datagram in self.in_turn[reactor].drain(..) {
                self.datagrams[datagram].cut_short = true;
                beats.extend(self.datagrams[datagram].beats.clone());
            }
            for beat in beats {
                self.datagrams[self.beats[beat].datagram].cut_short = true;
                self.beats[beat].applied_ns = now_ns;
            }
        }
        // They are known to have looked when the last of them said so.
        let turned_ns = self.turned_ns.iter().copied().min().unwrap_or(now_ns);
        let looked_ns = turned_ns.min(now_ns).saturating_sub(lag_ns);
        self.trouble(looked_ns, back_ns, None, ABSENT);
        self.turned_ns.fill(back_ns);
    }

    /// The process has ended in order between these times, and another begins at `back_ns`.
    pub fn hand_over(&mut self, from_ns: u64, ended_ns: u64, back_ns: u64) {
        self.absences.push(Absence { from_ns: ended_ns, to_ns: back_ns, handed_over: true });
        self.trouble(from_ns, back_ns, None, ABSENT);
        self.turned_ns.fill(back_ns);
    }

    pub fn turn_ends(&mut self, reactor: usize, now_ns: u64) {
        self.turned_ns[reactor] = now_ns;
        for beat in self.collecting[reactor].drain(..) {
            self.beats[beat].applied_ns = now_ns;
        }
        for datagram in self.in_turn[reactor].drain(..) {
            for beat in self.datagrams[datagram].beats.clone() {
                let owner = self.owners[self.beats[beat].peer];
                if owner == reactor {
                    self.beats[beat].applied_ns = now_ns;
                } else {
                    self.mail[owner].push(beat);
                }
            }
        }
    }
}
