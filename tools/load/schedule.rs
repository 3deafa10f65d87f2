//! The open-loop schedule: what is due by now, in the order of the intended send times.
//!
//! The agenda holds one entry a living peer (its next heartbeat) and one a copy still to be sent; the
//! plan says the rest. Nothing here knows the real time: `pop(now)` hands out what was intended by
//! `now`, one by one, and the caller may come as late as it likes.
//!
//! Loss takes a heartbeat out but not its sequence number; reordering holds one back until its
//! successor has been handed out; a copy of a heartbeat comes even after its sender's death, as it
//! would from a network.

use crate::agenda::{Agenda, Timed};
use crate::plan::{Fate, Plan};
use std::sync::Arc;

/// Form of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Form {
    /// 32 bytes.
    Beat,
    /// With the profile.
    Hello,
    /// The last one.
    Bye,
}

/// One datagram to be sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Due {
    /// When it should be sent, nanoseconds since the start. Of a BYE: when the heartbeat should
    /// have been sent whose place it takes; it may come sooner.
    pub intended_ns: u64,
    /// Whose it is.
    pub peer: u32,
    /// What to send.
    pub form: Form,
    /// The sender's start.
    pub incarnation: u32,
    /// Its number.
    pub sequence: u32,
    /// A copy, or overtaken by its successor: no sign of life that the monitor may count.
    pub old: bool,
}

/// What the schedule did to the heartbeats on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mischief {
    /// Not sent.
    pub lost: u64,
    /// Sent after their successor.
    pub reordered: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Senders started anew.
    pub restarted: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Beat {
        n: u32,
    },
    /// The kill; until then the peer lives, even if it has nothing more to say.
    Death,
    Copy {
        incarnation: u32,
        sequence: u32,
    },
    Bye,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at_ns: u64,
    peer: u32,
    step: Step,
}

impl Timed for Entry {
    fn at_ns(&self) -> u64 {
        self.at_ns
    }
}

#[derive(Clone, Copy)]
struct Sender {
    incarnation: u32,
    next_sequence: u32,
    held: Option<u32>,
    restarted: bool,
}

/// The schedule of one thread's share of the peers: `first`, `first + stride`, and so on.
pub struct Schedule {
    plan: Arc<Plan>,
    stride: u32,
    senders: Vec<Sender>,
    agenda: Agenda<Entry>,
    follows: Option<Due>,
    /// When each peer would have beaten next when the load ended.
    slots: Vec<u64>,
    mischief: Mischief,
}

impl Schedule {
    /// The schedule of every `stride`-th peer from `first` on.
    pub fn new(plan: Arc<Plan>, first: u32, stride: u32) -> Schedule {
        let peers = (first..plan.figures.senders).step_by(stride as usize);
        let mut senders = Vec::with_capacity(peers.len());
        let mut agenda = Agenda::new(plan.figures.interval_ns);
        for peer in peers {
            let at_ns = plan.beat_ns(peer, 0);
            let (incarnation, next_sequence) = plan.incarnation(at_ns);
            senders.push(Sender { incarnation, next_sequence, held: None, restarted: false });
            agenda.push(Entry { at_ns, peer, step: Step::Beat { n: 0 } });
        }
        let mischief = Mischief::default();
        Schedule { plan, stride, senders, agenda, follows: None, slots: Vec::new(), mischief }
    }

    /// The next datagram that was intended by `now_ns`, earliest first.
    pub fn pop(&mut self, now_ns: u64) -> Option<Due> {
        if self.follows.is_some() {
            return self.follows.take();
        }
        loop {
            let entry = self.agenda.first().filter(|entry| entry.at_ns <= now_ns)?;
            self.agenda.pop();
            if let Some(next) = successor(&self.plan, &entry) {
                self.agenda.push(next);
            }
            if let Some(due) = self.take(entry) {
                return Some(due);
            }
        }
    }

    /// When the next datagram is due (a lost one counts); `None` when all is said.
    pub fn next_ns(&mut self) -> Option<u64> {
        match self.follows {
            Some(due) => Some(due.intended_ns),
            None => self.agenda.first().map(|entry| entry.at_ns),
        }
    }

    /// What was done on purpose so far.
    pub fn mischief(&self) -> Mischief {
        self.mischief
    }

    /// Ends the load: from now on everybody who has said HELLO and still lives says BYE and no
    /// more, within `window_ns` or where the next heartbeat would have been, whichever is sooner.
    /// Returns how many will.
    pub fn finish(&mut self, now_ns: u64, window_ns: u64) -> u64 {
        let f = &self.plan.figures;
        let longest = f.interval_ns as f64 * (1.0 + 2.0 * f.jitter);
        let scale = (window_ns as f64 / longest).min(1.0);
        let killed = now_ns > f.kill_at_ns;
        self.slots = vec![0; self.senders.len()];
        let entries: Vec<Entry> = self.agenda.drain().collect();
        let mut byes = 0;
        for Entry { at_ns, peer, step } in entries {
            // A late generator may not have come to a death that is past.
            let dead = killed && self.plan.fate(peer) == Fate::Dies;
            let silent = matches!(step, Step::Beat { n: 0 } | Step::Copy { .. } | Step::Bye);
            if dead || silent {
                continue;
            }
            self.slots[(peer / self.stride) as usize] = at_ns;
            let wait_ns = at_ns.saturating_sub(now_ns) as f64 * scale;
            self.agenda.push(Entry { at_ns: now_ns + wait_ns as u64, peer, step: Step::Bye });
            byes += 1;
        }
        byes
    }

    fn take(&mut self, entry: Entry) -> Option<Due> {
        let Entry { at_ns, peer, step } = entry;
        let due = |form, incarnation, sequence, old| Due {
            intended_ns: at_ns,
            peer,
            form,
            incarnation,
            sequence,
            old,
        };
        let sender = &mut self.senders[(peer / self.stride) as usize];
        match step {
            Step::Beat { n } => self.beat(peer, n, at_ns),
            Step::Copy { incarnation, sequence } => {
                Some(due(Form::Beat, incarnation, sequence, true))
            }
            Step::Death => self
                .plan
                .figures
                .kill_together
                .then(|| due(Form::Beat, sender.incarnation, sender.number(), false)),
            Step::Bye => {
                let intended_ns = self.slots[(peer / self.stride) as usize];
                let bye = due(Form::Bye, sender.incarnation, sender.number(), false);
                Some(Due { intended_ns, ..bye })
            }
        }
    }

    fn beat(&mut self, peer: u32, n: u32, at_ns: u64) -> Option<Due> {
        let plan = &*self.plan;
        let sender = &mut self.senders[(peer / self.stride) as usize];
        let restarts = plan.fate(peer) == Fate::Restarts
            && !sender.restarted
            && n > 0
            && at_ns >= plan.turn_ns(peer);
        if restarts {
            let (incarnation, sequence) = plan.incarnation(at_ns);
            // Later than the old one even when it falls into the same tenth of a second.
            let ahead = incarnation.wrapping_sub(sender.incarnation).max(1);
            let incarnation = sender.incarnation.wrapping_add(ahead);
            *sender = Sender { incarnation, next_sequence: sequence, held: None, restarted: true };
            self.mischief.restarted += 1;
        }
        let sequence = sender.number();
        if plan.is_flapping(peer, at_ns) {
            return None;
        }
        if !restarts && plan.is_lost(peer, n) {
            self.mischief.lost += 1;
            return None;
        }
        if !restarts && sender.held.is_none() && plan.is_reordered(peer, n) {
            sender.held = Some(sequence);
            return None;
        }
        let hello = restarts || plan.is_hello(peer, n);
        let due = Due {
            intended_ns: at_ns,
            peer,
            form: if hello { Form::Hello } else { Form::Beat },
            incarnation: sender.incarnation,
            sequence,
            old: false,
        };
        if let Some(sequence) = sender.held.take() {
            self.follows = Some(Due { form: Form::Beat, sequence, old: true, ..due });
            self.mischief.reordered += 1;
        }
        if let Some(at_ns) = plan.copy_ns(peer, n, at_ns) {
            let step = Step::Copy { incarnation: due.incarnation, sequence };
            self.agenda.push(Entry { at_ns, peer, step });
            self.mischief.duplicated += 1;
        }
        Some(due)
    }
}

impl Sender {
    fn number(&mut self) -> u32 {
        let number = self.next_sequence;
        self.next_sequence = number.wrapping_add(1);
        number
    }
}

/// What follows an entry: the peer's next heartbeat, its death, or nothing.
fn successor(plan: &Plan, entry: &Entry) -> Option<Entry> {
    let Step::Beat { n } = entry.step else { return None };
    let at_ns = plan.beat_ns(entry.peer, n + 1);
    let f = &plan.figures;
    if plan.fate(entry.peer) == Fate::Dies && at_ns > f.kill_at_ns {
        return Some(Entry { at_ns: f.kill_at_ns, peer: entry.peer, step: Step::Death });
    }
    Some(Entry { at_ns, peer: entry.peer, step: Step::Beat { n: n + 1 } })
}

#[cfg(test)]
mod tests;
