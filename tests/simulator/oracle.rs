//! The verdict: was what the monitor told true, in time, complete and in order?
//!
//! Dumb on purpose. It knows every heartbeat, when the kernel queued it, when it was read, and by
//! when it must have been applied; it walks over all of them for every question, and shares no code
//! with the engine: a timeout is computed here anew.
//!
//! What it cannot know is in which order two reactors passed on what they read of one peer. So it
//! asks about bounds: what *surely* brought news (newer than all that had been queued before it)
//! must have counted, and what *perhaps* did (nothing newer had been applied before it was read) may
//! have.
//!
//! Here: what is known of the whole world, and who heard what when. `story` judges one peer by it.

mod story;

use super::record::{Beat, Datagram, Fate, NEVER, Record, Told, Trouble};
use super::scenario::{Scenario, US};
use std::fmt;
use story::Story;
use systole::engine::Detector;
use systole::engine::transition::{PeerState, Reason};

/// What was wrong.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which invariant; one word, so that planted bugs can be told apart by it.
    pub invariant: &'static str,
    pub peer: Option<usize>,
    pub at_ns: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Roundings of the oracle's and the engine's arithmetic.
const ROUNDING_NS: u64 = 2 * US;

/// Merged times of trouble.
struct Troubles(Vec<(u64, u64)>);

impl Troubles {
    fn of(record: &Record, reactor: Option<usize>, counts: impl Fn(&Trouble) -> bool) -> Troubles {
        let mut times: Vec<(u64, u64)> = record
            .troubles
            .iter()
            .filter(|t| counts(t))
            .filter(|t| reactor.is_none() || t.reactor.is_none() || t.reactor == reactor)
            .map(|t| (t.from_ns, t.to_ns))
            .collect();
        times.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (from_ns, to_ns) in times {
            match merged.last_mut() {
                Some(last) if from_ns <= last.1 => last.1 = last.1.max(to_ns),
                _ => merged.push((from_ns, to_ns)),
            }
        }
        Troubles(merged)
    }

    /// By when something due at `due_ns` is done: at once, or at once after the trouble it falls in.
    fn done_by(&self, due_ns: u64, slack_ns: u64) -> u64 {
        let mut by_ns = due_ns.saturating_add(slack_ns);
        let first = self.0.partition_point(|(_, to_ns)| to_ns.saturating_add(slack_ns) < due_ns);
        for (from_ns, to_ns) in &self.0[first..] {
            if *from_ns > by_ns {
                break;
            }
            by_ns = by_ns.max(to_ns.saturating_add(slack_ns));
        }
        by_ns
    }
}

/// A heartbeat that was queued, with the times that matter.
#[derive(Clone, Copy)]
struct Heard {
    beat: Beat,
    queued_ns: u64,
    read_ns: u64,
    /// Newer than all that had been queued before it, so it counted, or a newer one did.
    surely_new: bool,
    /// Nothing as new had been applied when it was read.
    perhaps_new: bool,
    perhaps_lost: bool,
    /// It came to its owner's own socket.
    at_home: bool,
}

/// A time that is not known exactly.
#[derive(Clone, Copy)]
struct Span {
    least: u64,
    most: u64,
}

pub struct Oracle<'a> {
    pub scenario: &'a Scenario,
    pub record: &'a Record,
    pub end_ns: u64,
    /// Whether every peer had a place: nobody was refused.
    pub all_fit: bool,
}

impl Oracle<'_> {
    fn interval_ns(&self, stated_us: u64) -> u64 {
        let default_us = self.scenario.policy.default_interval_us;
        if stated_us == 0 { default_us * US } else { stated_us * US }
    }

    /// For how long a peer may be silent, at least and at most, before it is down. What a detector
    /// learns is not computed here: it may choose between the floor and the ceiling.
    fn timeout_ns(&self, stated_us: u64) -> Span {
        let policy = &self.scenario.policy;
        if !matches!(policy.detector, Detector::Fixed { .. }) {
            return Span { least: policy.floor_ns, most: policy.ceiling_ns };
        }
        let timeout_ns = self.interval_ns(stated_us) as f64 * policy.missed;
        let timeout_ns = timeout_ns as u64 + policy.grace_ns;
        Span { least: timeout_ns, most: timeout_ns }
    }

    /// The same, before it is suspect: a share of the timeout, or of what is left of it behind the
    /// time when the next heartbeat is expected.
    fn suspect_ns(&self, stated_us: u64) -> Span {
        let Span { least, most } = self.timeout_ns(stated_us);
        let share = |ns: u64| (ns as f64 * self.scenario.policy.suspect_fraction) as u64;
        Span { least: share(least), most: if least == most { share(most) } else { most } }
    }

    /// Judges every peer's story.
    ///
    /// # Errors
    /// The first thing that was wrong.
    pub fn judge(&self) -> Result<(), Violation> {
        self.all_were_read()?;
        let mut told = vec![Vec::new(); self.scenario.peers];
        for one in &self.record.told {
            let Some(&peer) = self.record.by_id.get(&one.transition.peer.0) else {
                return Err(self.wrong("legal", None, one.taken_ns, "of nobody".to_owned()));
            };
            told[peer].push(*one);
        }
        let mut beats = vec![Vec::new(); self.scenario.peers];
        for beat in &self.record.beats {
            if let Fate::Queued { at_ns, .. } = self.record.datagrams[beat.datagram].fate {
                beats[beat.peer].push((at_ns, *beat));
            }
        }
        let mut mail = vec![Vec::new(); self.scenario.reactors];
        for beat in &self.record.beats {
            let owner = self.record.owners[beat.peer];
            if self.record.datagrams[beat.datagram].fate.by().is_some_and(|by| by != owner) {
                mail[owner].push(beat.applied_ns);
            }
        }
        mail.iter_mut().for_each(|times| times.sort_unstable());
        let reactors = 0..self.scenario.reactors;
        let all = Troubles::of(self.record, None, |_| true);
        let of = |reactor, blind: bool| {
            Troubles::of(self.record, Some(reactor), |trouble| !blind || trouble.blind())
        };
        let own: Vec<_> = reactors.clone().map(|reactor| of(reactor, false)).collect();
        let blind: Vec<_> = reactors.map(|reactor| of(reactor, true)).collect();
        let losses = self.losses();
        for (peer, (told, beats)) in told.iter().zip(beats).enumerate() {
            let owner = self.record.owners[peer];
            let several = self.scenario.reactors > 1;
            let story = Story {
                oracle: self,
                peer,
                owner,
                told,
                heard: self.heard(beats, told),
                mail: &mail[owner],
                troubles: if several { &all } else { &own[owner] },
                blind: &blind[owner].0,
                losses: &losses,
            };
            story.judge()?;
        }
        Ok(())
    }

    /// Whatever the kernel queued came out of the transport.
    fn all_were_read(&self) -> Result<(), Violation> {
        for (number, datagram) in self.record.datagrams.iter().enumerate() {
            let Fate::Queued { at_ns, by } = datagram.fate else { continue };
            if datagram.read_ns == NEVER {
                let what = format!("datagram {number} was queued for reactor {by} and never read");
                let peer = datagram.beats.clone().next().map(|beat| self.record.beats[beat].peer);
                return Err(self.wrong("all read", peer, at_ns, what));
            }
        }
        Ok(())
    }

    /// When datagrams were lost at the monitor: whose, and for which reactor, nobody can say.
    fn losses(&self) -> Vec<u64> {
        let lost = |datagram: &Datagram| match datagram.fate {
            Fate::Dropped { at_ns, .. } => Some(at_ns),
            _ => datagram.perhaps_lost.then_some(datagram.read_ns),
        };
        let mut times: Vec<u64> = self.record.datagrams.iter().filter_map(lost).collect();
        times.sort_unstable();
        times
    }

    fn heard(&self, mut beats: Vec<(u64, Beat)>, told: &[Told]) -> Vec<Heard> {
        beats.sort_by_key(|(queued_ns, _)| *queued_ns);
        let mut heard = Vec::with_capacity(beats.len());
        let mut newest = None;
        for (queued_ns, mut beat) in beats {
            if !beat.numbered {
                // Text says nothing of its place: each is news, and the last to come is the newest.
                beat.number = queued_ns;
            }
            let datagram = &self.record.datagrams[beat.datagram];
            let newer = !beat.numbered || newest.is_none_or(|newest| beat.number > newest);
            if beat.numbered && newer {
                newest = Some(beat.number);
            }
            let at_home = datagram.fate.by() == Some(self.record.owners[beat.peer]);
            let perhaps_lost = datagram.perhaps_lost && !at_home || datagram.cut_short;
            heard.push(Heard {
                beat,
                queued_ns,
                read_ns: datagram.read_ns,
                surely_new: newer && !perhaps_lost,
                perhaps_new: true,
                perhaps_lost,
                at_home,
            });
        }
        // In the order of reading, one that is not newer than something applied before, to the same
        // record, brought nothing.
        heard.sort_by_key(|heard| heard.read_ns);
        let mut applied: Vec<(u64, u64, u64)> = heard
            .iter()
            .filter(|h| h.beat.numbered && !h.perhaps_lost)
            .map(|h| (h.beat.applied_ns, h.beat.number, if h.beat.bye { h.read_ns } else { NEVER }))
            .collect();
        applied.sort_unstable();
        // A record begins with a first beat and ends with being forgotten.
        let edges: Vec<(u64, bool)> = told
            .iter()
            .map(|t| &t.transition)
            .filter(|t| t.reason == Reason::FirstBeat || t.to == PeerState::Forgotten)
            .map(|t| (t.fired_ns, t.reason == Reason::FirstBeat))
            .collect();
        let (mut next, mut best, mut life) = (0, 0, 0);
        for h in heard.iter_mut().filter(|h| h.beat.numbered) {
            let edge = edges.partition_point(|(at_ns, _)| *at_ns <= h.read_ns);
            if edge != life {
                (next, best, life) = (0, 0, edge);
            }
            let ends_first = edges.get(edge).is_some_and(|(at_ns, _)| *at_ns <= h.beat.applied_ns);
            let Some((birth_ns, true)) = edge.checked_sub(1).map(|edge| edges[edge]) else {
                continue;
            };
            // Of those before, what was applied from the birth on met this record, the beat that made
            // it first of all; but a BYE of the same turn may have come before it, and met none.
            while let Some((applied_ns, number, bye_read_ns)) = applied.get(next)
                && *applied_ns <= h.read_ns
            {
                if *applied_ns >= birth_ns && *bye_read_ns >= birth_ns {
                    best = best.max(*number);
                }
                next += 1;
            }
            h.perhaps_new = best < h.beat.number || ends_first;
        }
        heard
    }

    fn wrong(
        &self,
        invariant: &'static str,
        peer: Option<usize>,
        at_ns: u64,
        what: String,
    ) -> Violation {
        Violation { invariant, peer, at_ns, what }
    }
}
