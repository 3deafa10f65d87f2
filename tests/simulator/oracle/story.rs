//! One peer's story: each transition told of it, and each that should have been, held against what was
//! heard of it.
//!
//! ```text
//!  told     unknown ─▶ up ─────────▶ suspect ─▶ down ─▶ up ─▶ …     is each edge legal, and has it a cause?
//!  heard    ─ beat ─ beat ─ … silence …            beat ─ …         is each silence found, each beat seen?
//! ```

use super::{Heard, Oracle, ROUNDING_NS, Troubles, Violation};
use crate::record::{Absence, Datagram, Fate, NEVER, Told};
use systole::engine::transition::{PeerState, Reason, Transition};

/// One peer: what was heard of it, and what was told.
pub(super) struct Story<'a> {
    pub(super) oracle: &'a Oracle<'a>,
    pub(super) peer: usize,
    pub(super) owner: usize,
    pub(super) told: &'a [Told],
    /// In the order of reading.
    pub(super) heard: Vec<Heard>,
    pub(super) troubles: &'a Troubles,
    /// When its owner did not run, and when heartbeats were lost that may have been for it.
    pub(super) blind: &'a [(u64, u64)],
    pub(super) losses: &'a [u64],
    /// By when its owner had taken in what it was handed, in ascending order.
    pub(super) mail: &'a [u64],
}

impl Story<'_> {
    pub(super) fn judge(&self) -> Result<(), Violation> {
        let mut state = PeerState::Unknown;
        let mut since_ns = 0;
        // Of its first record everything that was heard is known to have met it; of a later one, or
        // when something was heard before that made no record, only what was read after its first
        // beat.
        let mut birth_ns = 0;
        for told in self.told {
            let t = &told.transition;
            self.legal(state, since_ns, told)?;
            let left = |h: &Heard| h.beat.bye && h.read_ns <= t.fired_ns;
            let others = since_ns > 0 || !self.oracle.all_fit || self.heard.iter().any(left);
            if t.reason == Reason::FirstBeat && others {
                birth_ns = t.fired_ns;
            }
            match t.reason {
                Reason::Silence | Reason::Parent => self.silence(t, birth_ns)?,
                Reason::Expired => self.expired(t, since_ns)?,
                Reason::Removed => self.removed(t)?,
                Reason::FirstBeat | Reason::Beat | Reason::Restart | Reason::Bye => {
                    self.has_cause(t, since_ns)?;
                }
            }
            (state, since_ns) = (t.to, t.fired_ns);
        }
        self.silence_is_found()?;
        self.beating_is_seen()?;
        self.removal_is_done()
    }

    fn wrong(&self, invariant: &'static str, at_ns: u64, what: String) -> Result<(), Violation> {
        Err(self.oracle.wrong(invariant, Some(self.peer), at_ns, what))
    }

    fn done_by(&self, due_ns: u64) -> u64 {
        self.troubles.done_by(due_ns, self.oracle.scenario.slack_ns())
    }

    /// The state that was told of last, at a time.
    fn state_at(&self, time_ns: u64) -> PeerState {
        let later = self.told.partition_point(|t| t.transition.fired_ns <= time_ns);
        later.checked_sub(1).map_or(PeerState::Unknown, |at| self.told[at].transition.to)
    }

    /// An edge of the state machine, from where the last one led, later than it.
    fn legal(&self, state: PeerState, since_ns: u64, told: &Told) -> Result<(), Violation> {
        use PeerState::{Down, Forgotten, Left, Suspect, Unknown, Unreachable, Up};
        let t = &told.transition;
        let from = if state == Forgotten { Unknown } else { state };
        let edge = matches!(
            (t.from, t.to, t.reason),
            (Unknown, Up, Reason::FirstBeat)
                | (Up, Suspect | Down, Reason::Silence)
                | (Suspect | Unreachable, Down, Reason::Silence)
                | (Up | Suspect, Unreachable, Reason::Parent)
                | (Suspect | Down | Unreachable | Left, Up, Reason::Beat | Reason::Restart)
                | (Up | Suspect | Down | Unreachable, Left, Reason::Bye)
                | (Down | Unreachable | Left, Forgotten, Reason::Expired)
                | (Up | Suspect | Down | Unreachable | Left, Forgotten, Reason::Removed)
        );
        let in_from_ns = if from == Unknown { 0 } else { t.fired_ns.saturating_sub(since_ns) };
        if !edge || t.from != from {
            let what = format!("{t:?} of a peer that was told to be {from:?}");
            return self.wrong("legal", t.fired_ns, what);
        }
        if told.reactor != self.oracle.record.owners[self.peer] {
            return self.wrong("legal", t.fired_ns, format!("{told:?} by another than its owner"));
        }
        if t.fired_ns < since_ns || told.taken_ns < t.fired_ns || t.in_from_ns != in_from_ns {
            let what = format!("{t:?} out of order, the last was at {since_ns}");
            return self.wrong("order", t.fired_ns, what);
        }
        Ok(())
    }

    /// Nobody is blamed whose heartbeat had arrived, nor before its time.
    fn silence(&self, t: &Transition, birth_ns: u64) -> Result<(), Violation> {
        let of = |us| match t.to {
            PeerState::Suspect => self.oracle.suspect_ns(us).least,
            _ => self.oracle.timeout_ns(us).least,
        };
        if t.deadline_ns > t.fired_ns || t.last_seen_ns > t.deadline_ns {
            return self.wrong("blame", t.fired_ns, format!("{t:?} before its own deadline"));
        }
        // A reactor that has never been handed anything, as far as its process knows, does not wait for
        // the others.
        let absences = self.oracle.record.absences.iter().rev();
        let mut ends = absences.filter(|one| !one.handed_over).map(|one| one.to_ns);
        let begun_ns = ends.find(|to_ns| *to_ns <= t.fired_ns);
        let begun_ns = begun_ns.unwrap_or(0);
        let first_mail = self.mail.partition_point(|applied_ns| *applied_ns < begun_ns);
        let first_mail_ns = self.mail.get(first_mail).copied().unwrap_or(NEVER);
        let in_time = |h: &&Heard| {
            h.queued_ns <= t.deadline_ns
                && h.read_ns >= birth_ns
                && h.surely_new
                && (h.at_home || h.beat.applied_ns < begun_ns || first_mail_ns < t.fired_ns)
        };
        let Some(newest) = self.heard.iter().filter(in_time).max_by_key(|h| h.beat.number) else {
            // A relay may have brought it so late that its deadline had passed before it came; it is
            // the copy of one that was perhaps lost; or it is the first mail of all.
            let old = |h: &Heard| {
                (h.beat.age_ns > 0 || h.perhaps_lost || !h.at_home) && h.queued_ns <= t.fired_ns
            };
            if birth_ns > 0 || self.heard.iter().any(old) {
                return Ok(());
            }
            return self.wrong("blame", t.fired_ns, format!("{t:?} of a peer that never beat"));
        };
        // A newer one, which came after the deadline or was perhaps lost, may have been taken in as
        // well, and have said that the interval is shorter.
        let later = |h: &&Heard| h.read_ns <= t.fired_ns && h.beat.number > newest.beat.number;
        let allowed_ns = self
            .heard
            .iter()
            .filter(later)
            .chain([newest])
            .map(|h| of(h.beat.interval_us))
            .min()
            .unwrap_or(0);
        let mut last_ns = newest.queued_ns.saturating_sub(newest.beat.age_ns);
        if self.heard.iter().all(|h| h.at_home) {
            let all = self.heard.iter().filter(in_time);
            last_ns = all.map(|h| h.queued_ns.saturating_sub(h.beat.age_ns)).max().unwrap_or(0);
        }
        if t.deadline_ns + ROUNDING_NS < last_ns + allowed_ns {
            let what = format!(
                "{:?} at {}, deadline {}; but it was heard at {last_ns} and may be silent for {allowed_ns}",
                t.to, t.fired_ns, t.deadline_ns
            );
            return self.wrong("blame", t.fired_ns, what);
        }
        self.absence_is_granted(t, newest, last_ns)?;
        // A relay may bring word so late that the deadline has passed when it comes.
        let old = |h: &&Heard| h.beat.age_ns > 0 && h.read_ns <= t.fired_ns;
        let told_ns = self.heard.iter().filter(old).map(|h| h.beat.applied_ns).max().unwrap_or(0);
        let by_ns = self.done_by(t.deadline_ns.max(told_ns));
        if t.fired_ns > by_ns {
            let what = format!("{:?} at {}, due at {}", t.to, t.fired_ns, t.deadline_ns);
            return self.wrong("lateness", t.fired_ns, what);
        }
        Ok(())
    }

    /// Who was silent while there was no process has as much time left behind it as before, and time
    /// for one more heartbeat.
    fn absence_is_granted(
        &self,
        t: &Transition,
        newest: &Heard,
        last_ns: u64,
    ) -> Result<(), Violation> {
        let oracle = self.oracle;
        // What was read later, if it was taken in, may have said that the interval is shorter.
        let later = |h: &&Heard| h.read_ns <= t.fired_ns && h.beat.number > newest.beat.number;
        let stated = self.heard.iter().filter(later).chain([newest]).map(|h| h.beat.interval_us);
        let stated: Vec<u64> = stated.collect();
        let least = |of: &dyn Fn(u64) -> u64| stated.iter().map(|us| of(*us)).min().unwrap_or(0);
        let suspect_ns = least(&|us| oracle.suspect_ns(us).least);
        let allowed_ns = match t.to {
            PeerState::Suspect => suspect_ns,
            _ => least(&|us| oracle.timeout_ns(us).least),
        };
        let one_ns = least(&|us| oracle.interval_ns(us)).min(suspect_ns);
        if oracle.record.absences.is_empty() {
            return Ok(());
        }
        let mut due_ns = last_ns + allowed_ns;
        // Only those that were surely its owner's: a mailbox's loss may have been another's.
        let dropped = |datagram: &Datagram| match datagram.fate {
            Fate::Dropped { at_ns, by } => (by == self.owner && at_ns > last_ns).then_some(at_ns),
            _ => None,
        };
        let mut losses: Vec<u64> = oracle.record.datagrams.iter().filter_map(dropped).collect();
        losses.sort_unstable();
        let mut losses = losses.into_iter().peekable();
        for absence in oracle.record.absences.iter().filter(|one| one.to_ns <= t.fired_ns) {
            let &Absence { from_ns, to_ns, handed_over } = absence;
            // What was lost before may have put the deadline off till behind the end.
            while let Some(at_ns) = losses.next_if(|at_ns| *at_ns < from_ns.min(due_ns)) {
                due_ns = due_ns.max(at_ns + one_ns);
            }
            // A deadline that had passed before it had been read up to.
            if last_ns < from_ns && from_ns < due_ns {
                due_ns += to_ns - from_ns;
                let lost = losses.peek().is_some_and(|at_ns| (from_ns..to_ns).contains(at_ns));
                if !handed_over || lost {
                    due_ns = due_ns.max(to_ns + one_ns);
                }
            }
        }
        if t.deadline_ns + ROUNDING_NS < due_ns {
            let what = format!(
                "{:?} at {}, deadline {}; with what an absence grants it is {due_ns}",
                t.to, t.fired_ns, t.deadline_ns
            );
            return self.wrong("absence", t.fired_ns, what);
        }
        Ok(())
    }

    fn expired(&self, t: &Transition, since_ns: u64) -> Result<(), Violation> {
        let policy = &self.oracle.scenario.policy;
        let after_ns = match t.from {
            PeerState::Left => policy.forget_left_ns,
            _ => policy.forget_down_ns,
        };
        let due_ns = since_ns.saturating_add(after_ns);
        if t.fired_ns < due_ns || t.fired_ns > self.done_by(due_ns + ROUNDING_NS) {
            return self.wrong("expiry", t.fired_ns, format!("{t:?}, due at {due_ns}"));
        }
        Ok(())
    }

    fn removed(&self, t: &Transition) -> Result<(), Violation> {
        let removals = &self.oracle.record.removals;
        if removals.iter().any(|&(at_ns, peer)| peer == self.peer && at_ns <= t.fired_ns) {
            return Ok(());
        }
        self.wrong("cause", t.fired_ns, format!("{t:?}, and nobody asked for it"))
    }

    /// A return, a first beat and a leave come from a heartbeat that brought news.
    fn has_cause(&self, t: &Transition, since_ns: u64) -> Result<(), Violation> {
        let bye = t.reason == Reason::Bye;
        let first = t.reason == Reason::FirstBeat;
        let caused = self.heard.iter().any(|h| {
            h.beat.bye == bye
                && h.read_ns <= t.fired_ns
                && h.beat.applied_ns >= since_ns
                && (h.perhaps_new || first)
        });
        if caused {
            return Ok(());
        }
        self.wrong("cause", t.fired_ns, format!("{t:?}, and no heartbeat brought that news"))
    }

    /// When a silence that would be judged at `due_ns`, of a peer that was heard at `dated_ns` or
    /// later, must be judged at the latest: later by what the monitor did not see of it, and the time
    /// for one more heartbeat behind what it did not see or hear.
    fn granted(&self, dated_ns: u64, due_ns: u64, interval_ns: u64, more_ns: u64) -> u64 {
        let slack_ns = self.oracle.scenario.slack_ns();
        let mut due_ns = due_ns;
        let mut blind = self.blind.iter().filter(|(_, ended_ns)| *ended_ns > dated_ns).peekable();
        let mut losses = self.losses.iter().peekable();
        let mut deaf = false;
        loop {
            // Whatever happens before it is judged may still put that off.
            let by_ns = self.done_by(due_ns);
            if losses.next_if(|at_ns| **at_ns <= by_ns).is_some() {
                // Noticed when somebody is to be judged, at the latest when this one is; with it all
                // that are lost in one go.
                while losses.next_if(|at_ns| **at_ns + slack_ns <= dated_ns).is_some() {}
                deaf = true;
                due_ns = by_ns + more_ns;
            } else if let Some((begun_ns, ended_ns)) = blind.next_if(|(at_ns, _)| *at_ns <= by_ns) {
                let blind_ns = ended_ns - begun_ns + slack_ns;
                due_ns += blind_ns;
                let absences = &self.oracle.record.absences;
                let killed = absences.iter().any(|absence| {
                    !absence.handed_over && (*begun_ns..=*ended_ns).contains(&absence.from_ns)
                });
                if blind_ns >= interval_ns || deaf || killed {
                    due_ns = due_ns.max(ended_ns + slack_ns + more_ns);
                }
            } else {
                return due_ns;
            }
        }
    }

    /// Who is silent for its timeout is down, and suspect before.
    fn silence_is_found(&self) -> Result<(), Violation> {
        let mut reads: Vec<u64> =
            self.heard.iter().filter(|h| h.perhaps_new).map(|h| h.read_ns).collect();
        reads.sort_unstable();
        let mut by_application: Vec<&Heard> = self.heard.iter().filter(|h| h.perhaps_new).collect();
        by_application.sort_by_key(|h| h.beat.applied_ns);
        for (place, h) in by_application.iter().enumerate() {
            let from_ns = h.beat.applied_ns;
            // One that had been read by then and was applied later is asked in this one's stead.
            let on_its_way = |later: &&Heard| {
                later.read_ns <= from_ns
                    && (later.beat.applied_ns > from_ns || later.beat.applied_ns == NEVER)
            };
            let same_time = |next: &&Heard| next.beat.applied_ns == from_ns;
            let behind = &by_application[place + 1..];
            if from_ns == NEVER || behind.first().is_some_and(same_time) {
                continue;
            }
            if behind.iter().any(on_its_way) {
                continue;
            }
            let next = reads.partition_point(|read_ns| *read_ns <= from_ns);
            let next_ns = reads.get(next).copied().unwrap_or(NEVER).min(self.oracle.end_ns);
            // The last that surely counted, and whatever may have counted behind it, say how long the
            // peer may be silent and since when; whichever of them is the most patient.
            let so_far = &by_application[..=place];
            let sure = so_far.iter().filter(|h| !h.perhaps_lost).map(|h| h.beat.number).max();
            let last = so_far.iter().filter(|l| Some(l.beat.number) >= sure).chain([h]);
            let intervals: Vec<u64> = last.clone().map(|last| last.beat.interval_us).collect();
            let dated_ns = last.map(|last| last.queued_ns.saturating_sub(last.beat.age_ns)).min();
            let dated_ns = dated_ns.unwrap_or(0);
            let longest =
                |of: &dyn Fn(u64) -> u64| intervals.iter().copied().map(of).max().unwrap_or(0);
            let timeout_ns = longest(&|us| self.oracle.timeout_ns(us).most);
            let suspect_ns = longest(&|us| self.oracle.suspect_ns(us).most);
            let interval_ns = longest(&|us| self.oracle.interval_ns(us));
            let one_more_ns = interval_ns + self.oracle.scenario.policy.grace_ns;
            let soonest = |us: &u64| self.oracle.suspect_ns(*us).least;
            let soonest_ns = intervals.iter().map(soonest).min().unwrap_or(0);
            let ratio = timeout_ns as f64 / soonest_ns.max(1) as f64;
            let more_ns = (one_more_ns as f64 * ratio) as u64;
            for (after_ns, more_ns, state) in
                [(suspect_ns, one_more_ns, "suspect"), (timeout_ns, more_ns, "down")]
            {
                let due_ns = self.granted(dated_ns, from_ns + after_ns, interval_ns, more_ns);
                let by_ns = self.done_by(due_ns + ROUNDING_NS);
                if by_ns >= next_ns {
                    continue;
                }
                let told = self.state_at(by_ns);
                let still = told == PeerState::Up || told == PeerState::Suspect && state == "down";
                if still {
                    let what = format!(
                        "silent since {from_ns}, had to be {state} by {by_ns} and was {told:?}"
                    );
                    return self.wrong("found", by_ns, what);
                }
            }
        }
        Ok(())
    }

    /// Who beats is up.
    fn beating_is_seen(&self) -> Result<(), Violation> {
        if !self.oracle.all_fit {
            return Ok(());
        }
        let byes: Vec<(u64, u64)> = self
            .heard
            .iter()
            .filter(|h| h.beat.bye)
            .map(|h| (h.queued_ns, h.beat.applied_ns))
            .collect();
        for h in self.heard.iter().filter(|h| h.surely_new && !h.beat.bye) {
            let applied_ns = h.beat.applied_ns;
            let dated_ns = h.queued_ns.saturating_sub(h.beat.age_ns);
            let by_ns = self.done_by(self.done_by(h.queued_ns).max(applied_ns));
            if applied_ns == NEVER {
                return self.wrong("all applied", h.read_ns, "read and never applied".to_owned());
            }
            if dated_ns + self.oracle.timeout_ns(h.beat.interval_us).least <= by_ns
                || by_ns > self.oracle.end_ns
            {
                continue;
            }
            let interfered = |from_ns: u64, to_ns: u64| to_ns >= h.queued_ns && from_ns <= by_ns;
            let removals = &self.oracle.record.removals;
            if byes.iter().any(|&(from_ns, to_ns)| interfered(from_ns, to_ns))
                || removals.iter().any(|&(at_ns, peer)| {
                    peer == self.peer && interfered(at_ns, self.done_by(at_ns))
                })
            {
                continue;
            }
            let by_then = self.done_by(applied_ns.min(self.done_by(h.queued_ns)));
            let was_up = self.state_at(h.queued_ns) == PeerState::Up
                || self.told.iter().any(|t| {
                    let t = &t.transition;
                    t.to == PeerState::Up && (h.queued_ns..=by_then).contains(&t.fired_ns)
                });
            if !was_up {
                let what = format!("beat at {} and was not up by {by_then}", h.queued_ns);
                return self.wrong("seen", by_then, what);
            }
        }
        Ok(())
    }

    /// Whom an operator removed is gone.
    fn removal_is_done(&self) -> Result<(), Violation> {
        let removals = self.oracle.record.removals.iter().filter(|(_, peer)| *peer == self.peer);
        for &(at_ns, _) in removals {
            let by_ns = self.done_by(at_ns);
            // Who was just coming or going is not looked at.
            let settled = self.told.iter().all(|t| {
                let t = &t.transition;
                t.to == PeerState::Forgotten || !(at_ns..=by_ns).contains(&t.fired_ns)
            });
            let known = !matches!(self.state_at(at_ns), PeerState::Unknown | PeerState::Forgotten);
            if known && settled && by_ns <= self.oracle.end_ns {
                let gone = self.told.iter().any(|t| {
                    let t = &t.transition;
                    t.to == PeerState::Forgotten && (at_ns..=by_ns).contains(&t.fired_ns)
                });
                if !gone {
                    return self.wrong("removal", by_ns, format!("asked at {at_ns}, not done"));
                }
            }
        }
        Ok(())
    }
}
