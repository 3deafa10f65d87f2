//! How good the verdicts are, measured while they are given: Chen's metrics, per peer, group and fleet.
//!
//! After Chen, Toueg and Aguilera, "On the Quality of Service of Failure Detectors" (2002):
//!
//! - **T_D**, detection time: from a peer's last heartbeat to its being called down. A crash falls
//!   behind that heartbeat, so it is an upper bound of theirs.
//! - A **mistake** is a call of down that a heartbeat of the same incarnation ended: the sender was
//!   alive all along. (Its network may have been down, or its host suspended: the sender cannot tell,
//!   and neither can we.) A peer that comes back as a new incarnation had died; so may one have that
//!   speaks the text form, which has no incarnation, and its returns count nowhere.
//! - **T_M**, mistake duration: from the call to that heartbeat.
//! - **λ_M**, mistake rate: mistakes by the time that living peers were watched; **T_MR**, mistake
//!   recurrence time: its inverse, for one peer.
//! - **P_A**, query accuracy: the share of their time that living peers were not called down.
//!
//! Wrong suspicions (suspect, then up by a heartbeat of the same incarnation) are counted beside
//! them: those are warnings, not verdicts.
//!
//! A living peer is one that is up or suspect; it was alive during a mistake, too, which is added
//! when the mistake ends. Bounded: one record a group, and one for each peer with a mistake or a wrong
//! suspicion, [`MOST_PEERS`] at most; further ones count in their group and the fleet alone.

use crate::engine::transition::{PeerState, Reason, Transition};
use crate::wire::PeerId;
use std::collections::HashMap;

/// Most peers with a record of their own. 3 MiB.
pub const MOST_PEERS: usize = 65_536;

/// Mistakes and wrong suspicions, with their durations.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Mistakes {
    /// Calls of down that were wrong.
    pub mistakes: u64,
    /// How long those held, in sum, nanoseconds.
    pub mistake_ns: u64,
    /// Suspicions that were wrong.
    pub suspicions: u64,
    /// How long those held, in sum, nanoseconds.
    pub suspicion_ns: u64,
}

/// What was seen of a group or of the fleet.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Totals {
    /// The mistakes.
    pub wrong: Mistakes,
    /// Time that living peers were watched, in sum, nanoseconds; without the mistakes' own.
    pub watched_ns: f64,
    /// Calls of down.
    pub detections: u64,
    /// Their detection times, in sum, nanoseconds.
    pub detection_ns: u64,
    /// The longest of them, nanoseconds.
    pub detection_max_ns: u64,
}

/// Chen's figures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figures {
    /// λ_M, mistakes per second and peer; 0 when nothing was watched.
    pub mistake_rate: f64,
    /// T_MR, nanoseconds; none without a mistake.
    pub recurrence_ns: Option<f64>,
    /// T_M, the mean, nanoseconds; none without a mistake.
    pub duration_ns: Option<f64>,
    /// P_A, 0 to 1; 1 when nothing was watched.
    pub accuracy: f64,
}

impl Mistakes {
    fn take(&mut self, kind: Kind, duration_ns: u64) {
        let (count, sum) = match kind {
            Kind::Mistake => (&mut self.mistakes, &mut self.mistake_ns),
            Kind::Suspicion => (&mut self.suspicions, &mut self.suspicion_ns),
        };
        *count += 1;
        *sum = sum.saturating_add(duration_ns);
    }

    /// Chen's figures, of peers that were watched for so long in sum, mistakes not included.
    pub fn figures(&self, watched_ns: f64) -> Figures {
        let alive_ns = watched_ns + self.mistake_ns as f64;
        let (n, none) = (self.mistakes as f64, self.mistakes == 0);
        Figures {
            mistake_rate: if alive_ns > 0.0 { n * 1e9 / alive_ns } else { 0.0 },
            recurrence_ns: (!none).then(|| alive_ns / n),
            duration_ns: (!none).then(|| self.mistake_ns as f64 / n),
            accuracy: if alive_ns > 0.0 { watched_ns / alive_ns } else { 1.0 },
        }
    }
}

impl Totals {
    /// Adds another's.
    pub fn add(&mut self, other: &Totals) {
        self.wrong.mistakes += other.wrong.mistakes;
        self.wrong.mistake_ns = self.wrong.mistake_ns.saturating_add(other.wrong.mistake_ns);
        self.wrong.suspicions += other.wrong.suspicions;
        self.wrong.suspicion_ns = self.wrong.suspicion_ns.saturating_add(other.wrong.suspicion_ns);
        self.watched_ns += other.watched_ns;
        self.detections += other.detections;
        self.detection_ns = self.detection_ns.saturating_add(other.detection_ns);
        self.detection_max_ns = self.detection_max_ns.max(other.detection_max_ns);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Mistake,
    Suspicion,
}

/// All that is measured.
#[derive(Debug, Default)]
pub struct Qos {
    fleet: Totals,
    /// By number; shorter than there are groups.
    groups: Vec<Totals>,
    peers: HashMap<PeerId, Mistakes>,
    untracked: u64,
}

impl Qos {
    /// Takes a transition of a peer in a group.
    pub fn observe(&mut self, group: u16, t: &Transition) {
        if t.to == PeerState::Forgotten {
            self.peers.remove(&t.peer);
        }
        if t.to == PeerState::Down {
            let detection_ns = t.fired_ns.saturating_sub(t.last_seen_ns);
            for totals in [&mut self.fleet, at(&mut self.groups, group)] {
                totals.detections += 1;
                totals.detection_ns = totals.detection_ns.saturating_add(detection_ns);
                totals.detection_max_ns = totals.detection_max_ns.max(detection_ns);
            }
        }
        let kind = match (t.from, t.to) {
            (PeerState::Down, PeerState::Up) => Kind::Mistake,
            (PeerState::Suspect, PeerState::Up) => Kind::Suspicion,
            _ => return,
        };
        if t.reason != Reason::Beat || t.incarnation == 0 {
            return;
        }
        self.fleet.wrong.take(kind, t.in_from_ns);
        at(&mut self.groups, group).wrong.take(kind, t.in_from_ns);
        if self.peers.len() < MOST_PEERS || self.peers.contains_key(&t.peer) {
            self.peers.entry(t.peer).or_default().take(kind, t.in_from_ns);
        } else {
            self.untracked += 1;
        }
    }

    /// So many peers of a group were alive for so long.
    pub fn watched(&mut self, group: u16, living: u64, for_ns: u64) {
        let sum_ns = living as f64 * for_ns as f64;
        self.fleet.watched_ns += sum_ns;
        at(&mut self.groups, group).watched_ns += sum_ns;
    }

    /// The fleet's.
    pub fn fleet(&self) -> Totals {
        self.fleet
    }

    /// A group's, by its number.
    pub fn group(&self, group: u16) -> Totals {
        self.groups.get(group as usize).copied().unwrap_or_default()
    }

    /// A peer's; nothing but zeros for one that was never wronged.
    pub fn peer(&self, peer: PeerId) -> Mistakes {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// Mistakes of peers for which there was no room.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }
}

fn at(groups: &mut Vec<Totals>, group: u16) -> &mut Totals {
    if groups.len() <= group as usize {
        groups.resize(group as usize + 1, Totals::default());
    }
    &mut groups[group as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{Random, seeds, transition};

    const S: u64 = 1_000_000_000;

    fn change(peer: u64, from: PeerState, to: PeerState, reason: Reason, for_s: u64) -> Transition {
        let t = transition(PeerId(peer), from, to);
        Transition { reason, in_from_ns: for_s * S, incarnation: 7, ..t }
    }

    #[test]
    fn chens_figures_of_an_example() {
        // 100 peers for 1,000 s, of which one was called down for 10 s and one for 30 s, wrongly.
        let wrong = Mistakes { mistakes: 2, mistake_ns: 40 * S, ..Mistakes::default() };
        let figures = wrong.figures((100_000 - 40) as f64 * 1e9);
        assert_eq!(figures.mistake_rate, 2.0 / 100_000.0);
        assert_eq!(figures.recurrence_ns, Some(50_000.0 * 1e9));
        assert_eq!(figures.duration_ns, Some(20.0 * 1e9));
        assert!((figures.accuracy - (1.0 - 40.0 / 100_000.0)).abs() < 1e-12);
        // Chen's theorem 1: P_A = 1 − E(T_M)/E(T_MR).
        let theorem = 1.0 - figures.duration_ns.unwrap() / figures.recurrence_ns.unwrap();
        assert!((figures.accuracy - theorem).abs() < 1e-12);
        let nothing = Mistakes::default().figures(0.0);
        assert_eq!((nothing.mistake_rate, nothing.accuracy), (0.0, 1.0));
        assert_eq!((nothing.recurrence_ns, nothing.duration_ns), (None, None));
    }

    #[test]
    fn only_a_heartbeat_of_the_same_incarnation_shows_a_mistake() {
        use PeerState::{Down, Left, Suspect, Up};
        let count = |change: Transition| {
            let mut qos = Qos::default();
            qos.observe(3, &change);
            let wrong = qos.group(3).wrong;
            assert_eq!(qos.peer(PeerId(1)), wrong);
            assert_eq!(qos.fleet().wrong, wrong);
            (wrong.mistakes, wrong.suspicions, wrong.mistake_ns, wrong.suspicion_ns)
        };
        assert_eq!(count(change(1, Down, Up, Reason::Beat, 9)), (1, 0, 9 * S, 0));
        assert_eq!(count(change(1, Suspect, Up, Reason::Beat, 1)), (0, 1, 0, S));
        assert_eq!(count(change(1, Down, Up, Reason::Restart, 9)), (0, 0, 0, 0));
        assert_eq!(count(change(1, Down, Left, Reason::Bye, 9)), (0, 0, 0, 0));
        let text = Transition { incarnation: 0, ..change(1, Down, Up, Reason::Beat, 9) };
        assert_eq!(count(text), (0, 0, 0, 0));
    }

    #[test]
    fn the_sums_are_those_of_plain_lists() {
        use PeerState::{Down, Suspect, Up};
        for seed in seeds() {
            let mut random = Random::new(seed);
            let mut qos = Qos::default();
            let mut mistakes: Vec<(u16, u64, u64)> = Vec::new();
            for _ in 0..2_000 {
                let (peer, for_s) = (random.below(40), 1 + random.below(100));
                let group = (peer % 3) as u16;
                match random.below(3) {
                    0 => {
                        qos.observe(group, &change(peer, Down, Up, Reason::Beat, for_s));
                        mistakes.push((group, peer, for_s));
                    }
                    1 => qos.observe(group, &change(peer, Down, Up, Reason::Restart, for_s)),
                    _ => qos.observe(group, &change(peer, Suspect, Down, Reason::Silence, 1)),
                }
            }
            let sum = |own: &dyn Fn(&&(u16, u64, u64)) -> bool| {
                let own: Vec<_> = mistakes.iter().filter(own).collect();
                (own.len() as u64, own.iter().map(|m| m.2 * S).sum::<u64>())
            };
            let of = |wrong: Mistakes| (wrong.mistakes, wrong.mistake_ns);
            assert_eq!(of(qos.fleet().wrong), sum(&|_| true), "seed {seed}");
            for group in 0..3 {
                assert_eq!(of(qos.group(group).wrong), sum(&|m| m.0 == group), "seed {seed}");
            }
            for peer in 0..40 {
                assert_eq!(of(qos.peer(PeerId(peer))), sum(&|m| m.1 == peer), "seed {seed}");
            }
        }
    }

    #[test]
    fn records_of_peers_are_bounded_and_end_with_the_peer() {
        use PeerState::{Down, Forgotten, Up};
        let mut qos = Qos::default();
        for peer in 0..MOST_PEERS as u64 + 5 {
            qos.observe(0, &change(peer, Down, Up, Reason::Beat, 1));
        }
        assert_eq!((qos.peers.len(), qos.untracked()), (MOST_PEERS, 5));
        assert_eq!(qos.fleet().wrong.mistakes, MOST_PEERS as u64 + 5);
        qos.observe(0, &change(1, Down, Forgotten, Reason::Expired, 1));
        assert_eq!(qos.peer(PeerId(1)), Mistakes::default());
    }

    #[test]
    fn watched_time_is_peers_times_time() {
        let mut qos = Qos::default();
        qos.watched(2, 100, S);
        qos.watched(5, 10, 2 * S);
        assert_eq!(qos.fleet().watched_ns, 120e9);
        assert_eq!((qos.group(2).watched_ns, qos.group(9).watched_ns), (100e9, 0.0));
    }
}
