//! Who flaps: is called down and up again so often that one more change says nothing.
//!
//! Icinga's scheme (icinga2, `lib/icinga/checkable-flapping.cpp`): the last 20 looks at a peer, each
//! changed or not, weighted from 0.8 for the oldest to 1.18 for the newest, as a share of 20.
//!
//! ```text
//!   oldest ▏· · ■ ■ ■ ■ · · · ■ · · · ■ · · ■ · · ■▕ newest       ■ changed
//!   weight  .80 .82 .84 .86 …                  1.18      Σ/20 = 39.1 %: flaps, as it is above 30 %
//! ```
//!
//! It begins above 30 % and ends at 25 % or less, so a peer on the edge does not flap between
//! flapping and not. Icinga looks at a peer when it checks it. Nobody checks peers here: a look is a
//! change from alive to down or back, and each minute (or detection time, if that is longer) that
//! passes without one. So three rounds of down and up in quick succession flap, and so does one
//! every five minutes; one every ten does not.
//!
//! Suspicion is no change: it is an early warning of the same silence. A BYE is none either, nor is
//! being unreachable, which is the parent's doing.
//!
//! Only peers that changed of late are remembered, and at most [`MOST_PEERS`] of them. What is
//! remembered outlives the process; a time in which no monitor looked has no looks.

use crate::engine::transition::{PeerState, Transition};
use crate::wire::PeerId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Most peers remembered at once; changes of others are counted as untracked. 3 MiB.
pub const MOST_PEERS: usize = 65_536;
/// Looks that count.
const LOOKS: u32 = 20;
/// Above this share it begins, percent.
const BEGIN_PERCENT: f64 = 30.0;
/// Down to this share it ends, percent.
const END_PERCENT: f64 = 25.0;
/// Between two looks without a change, nanoseconds, unless detecting takes longer.
const LOOK_NS: u64 = 60_000_000_000;
/// How often those are looked for that have become quiet, nanoseconds.
const SWEEP_NS: u64 = 1_000_000_000;

/// A peer began to flap, or ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// Who.
    pub peer: PeerId,
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
    /// Began, or ended.
    pub began: bool,
    /// The share of changes then, percent.
    pub percent: f64,
}

/// The last looks at one peer; bit 0 is the oldest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Looks(u32);

impl Looks {
    fn push(&mut self, changed: bool) {
        self.0 = self.0 >> 1 | u32::from(changed) << (LOOKS - 1);
    }

    fn percent(self) -> f64 {
        let weights = (0..LOOKS).filter(|i| self.0 >> i & 1 == 1).map(|i| 80 + 2 * i);
        f64::from(weights.sum::<u32>()) / f64::from(LOOKS)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Row", from = "Row")]
struct Record {
    looks: Looks,
    flapping: bool,
    /// The last look, monotonic nanoseconds.
    looked_ns: u64,
    /// Between two looks without a change, nanoseconds.
    every_ns: u64,
}

/// A record as it is kept: looks, whether it flaps, the last look, between two looks.
type Row = (u32, bool, u64, u64);

impl From<Record> for Row {
    fn from(record: Record) -> Row {
        (record.looks.0, record.flapping, record.looked_ns, record.every_ns)
    }
}

impl From<Row> for Record {
    fn from((looks, flapping, looked_ns, every_ns): Row) -> Record {
        let looks = Looks(looks & ((1 << LOOKS) - 1));
        Record { looks, flapping, looked_ns, every_ns: every_ns.max(LOOK_NS) }
    }
}

impl Record {
    /// Makes up for the looks that are due since the last. True when it ended to flap.
    fn look(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.looked_ns) / self.every_ns;
        self.looked_ns += due * self.every_ns;
        (0..due.min(LOOKS.into())).for_each(|_| self.looks.push(false));
        self.flapping && self.looks.percent() <= END_PERCENT
    }
}

/// The peers that changed of late.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Flapping {
    peers: HashMap<PeerId, Record>,
    #[serde(skip)]
    flapping: usize,
    #[serde(skip)]
    untracked: u64,
    #[serde(skip)]
    swept_ns: u64,
}

impl Flapping {
    /// Takes a transition; returns whether its peer began or ended to flap with it.
    pub fn observe(&mut self, t: &Transition) -> Option<Change> {
        let is_down = t.to == PeerState::Down;
        if t.to == PeerState::Forgotten {
            let gone = self.peers.remove(&t.peer)?;
            return gone.flapping.then(|| self.ended(t.peer, t.fired_ns, &gone));
        }
        if !is_down && (t.from, t.to) != (PeerState::Down, PeerState::Up) {
            return None;
        }
        if !self.peers.contains_key(&t.peer) && self.peers.len() >= MOST_PEERS {
            self.untracked += 1;
            return None;
        }
        let fresh = || Record {
            looks: Looks::default(),
            flapping: false,
            looked_ns: t.fired_ns,
            every_ns: LOOK_NS,
        };
        let record = self.peers.entry(t.peer).or_insert_with(fresh);
        let before = record.flapping;
        // It may have become quiet before this change.
        record.flapping &= !record.look(t.fired_ns);
        record.looks.push(true);
        record.looked_ns = record.looked_ns.max(t.fired_ns);
        if is_down {
            record.every_ns = LOOK_NS.max(t.fired_ns.saturating_sub(t.last_seen_ns));
        }
        let percent = record.looks.percent();
        record.flapping = percent > if record.flapping { END_PERCENT } else { BEGIN_PERCENT };
        let began = record.flapping;
        match (before, began) {
            (false, true) => self.flapping += 1,
            (true, false) => self.flapping -= 1,
            _ => return None,
        }
        Some(Change { peer: t.peer, at_ns: t.fired_ns, began, percent })
    }

    /// Whether a peer flaps.
    pub fn is_flapping(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|record| record.flapping)
    }

    /// How many flap.
    pub fn flapping(&self) -> usize {
        self.flapping
    }

    /// Changes of peers that could not be remembered.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Tells who has become quiet, and forgets whom nothing is remembered of. Looks once a second.
    pub fn advance(&mut self, now_ns: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        if now_ns < self.swept_ns + SWEEP_NS {
            return changes;
        }
        self.swept_ns = now_ns;
        self.peers.retain(|&peer, record| {
            if record.look(now_ns) {
                record.flapping = false;
                let percent = record.looks.percent();
                changes.push(Change { peer, at_ns: now_ns, began: false, percent });
            }
            record.looks != Looks::default()
        });
        self.flapping -= changes.len();
        changes.sort_by_key(|change| change.peer);
        changes
    }

    /// Goes on with what was kept; its times are moved by so much, nanoseconds.
    pub fn resume(mut self, by_ns: i64) -> Flapping {
        self.skip(by_ns);
        self.flapping = self.peers.values().filter(|record| record.flapping).count();
        self
    }

    /// Leaves out a time in which nobody looked, nanoseconds.
    pub fn skip(&mut self, by_ns: i64) {
        for record in self.peers.values_mut() {
            record.looked_ns = record.looked_ns.saturating_add_signed(by_ns);
        }
    }

    fn ended(&mut self, peer: PeerId, at_ns: u64, record: &Record) -> Change {
        self.flapping -= 1;
        Change { peer, at_ns, began: false, percent: record.looks.percent() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{Random, seeds, transition};

    const S: u64 = 1_000_000_000;

    fn change(id: u64, at_ns: u64, down: bool) -> Transition {
        let (from, to) = match down {
            true => (PeerState::Suspect, PeerState::Down),
            false => (PeerState::Down, PeerState::Up),
        };
        let last_seen_ns = at_ns - 3 * S;
        Transition { fired_ns: at_ns, last_seen_ns, ..transition(PeerId(id), from, to) }
    }

    #[test]
    fn the_example_of_icingas_documentation_is_39_percent() {
        // Changes worth 0.84 + 0.86 + 0.88 + 0.9 + 0.98 + 1.06 + 1.12 + 1.18 = 7.82.
        let changed = [2, 3, 4, 5, 9, 13, 16, 19];
        let mut looks = Looks::default();
        (0..20).for_each(|i| looks.push(changed.contains(&i)));
        assert_eq!(looks.percent(), 39.1);
        // "If the next seven check results then would not be state changes, the flapping percentage
        // would fall below the lower threshold of 25 %."
        (0..7).for_each(|_| looks.push(false));
        assert!(looks.percent() < END_PERCENT, "{}", looks.percent());
    }

    /// Icinga's own arithmetic: a ring of bits, its oldest place overwritten.
    #[derive(Clone)]
    struct Icinga {
        changed: [bool; 20],
        oldest: usize,
        flapping: bool,
    }

    impl Icinga {
        fn check(&mut self, changed: bool) -> f64 {
            self.changed[self.oldest] = changed;
            self.oldest = (self.oldest + 1) % 20;
            let mut changes = 0.0;
            for i in 0..20 {
                if self.changed[(self.oldest + i) % 20] {
                    changes += 0.8 + 0.02 * i as f64;
                }
            }
            let percent = 100.0 * changes / 20.0;
            // A hair for the sum of fractions, which are exact here and not there.
            let threshold = if self.flapping { 25.0 } else { 30.0 };
            self.flapping = percent > threshold + 1e-9;
            percent
        }
    }

    #[test]
    fn it_decides_as_icinga_does_at_every_look() {
        for seed in seeds() {
            let mut random = Random::new(seed);
            let mut flapping = Flapping::default();
            let mut models: HashMap<u64, (Icinga, u64, bool)> = HashMap::new();
            let mut now_ns = 1_000 * S;
            for step in 0..4_000 {
                now_ns += random.below(40) * S;
                let id = random.below(8);
                let fresh =
                    || (Icinga { changed: [false; 20], oldest: 0, flapping: false }, now_ns, false);
                let (model, looked_ns, down) = models.entry(id).or_insert_with(fresh);
                while *looked_ns + LOOK_NS <= now_ns {
                    *looked_ns += LOOK_NS;
                    model.check(false);
                }
                let context = format!("seed {seed} step {step} peer {id}");
                if random.below(3) == 0 {
                    *down = !*down;
                    let before = flapping.is_flapping(PeerId(id));
                    let told = flapping.observe(&change(id, now_ns, *down));
                    let percent = model.check(true);
                    *looked_ns = now_ns;
                    if let Some(told) = told {
                        assert_eq!(told.began, !before, "{context}");
                        assert!((told.percent - percent).abs() < 1e-6, "{context}");
                    }
                } else {
                    flapping.advance(now_ns);
                    // What was not looked at for now is so for both.
                    for (other, (model, looked_ns, _)) in &mut models {
                        while *looked_ns + LOOK_NS <= flapping.swept_ns {
                            *looked_ns += LOOK_NS;
                            model.check(false);
                        }
                        let is = flapping.is_flapping(PeerId(*other));
                        assert_eq!(is, model.flapping, "{context}, other {other}");
                    }
                }
                let own = models[&id].0.flapping;
                assert_eq!(flapping.is_flapping(PeerId(id)), own, "{context}");
                let all = models.keys().filter(|id| flapping.is_flapping(PeerId(**id)));
                assert_eq!(flapping.flapping(), all.count(), "{context}");
            }
        }
    }

    #[test]
    fn three_quick_rounds_flap_and_quiet_ends_it() {
        let mut flapping = Flapping::default();
        let told: Vec<_> = (0..6)
            .filter_map(|i| flapping.observe(&change(1, (100 + 5 * i) * S, i % 2 == 0)))
            .collect();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].began, told[0].percent), (true, 33.9));
        assert!(flapping.advance(200 * S).is_empty());
        let ended = (3..60).find_map(|minute| flapping.advance(minute * 60 * S).pop()).unwrap();
        assert!(!ended.began && ended.percent <= END_PERCENT);
        assert_eq!(flapping.flapping(), 0);
        flapping.advance(10_000 * S);
        assert!(flapping.peers.is_empty(), "nothing is remembered of who is quiet for long");
    }

    #[test]
    fn once_in_ten_minutes_is_no_flapping_and_once_in_five_is() {
        for (minutes, flaps) in [(10, false), (5, true)] {
            let mut flapping = Flapping::default();
            for round in 1..20 {
                let at_ns = round * minutes * 60 * S;
                flapping.observe(&change(1, at_ns, true));
                flapping.observe(&change(1, at_ns + 60 * S, false));
            }
            assert_eq!(flapping.is_flapping(PeerId(1)), flaps, "every {minutes} minutes");
        }
    }

    #[test]
    fn suspicion_farewell_and_a_parents_failure_are_no_changes() {
        let mut flapping = Flapping::default();
        use PeerState::{Left, Suspect, Unreachable, Up};
        for i in 0..100 {
            for (from, to) in [(Up, Suspect), (Suspect, Up), (Up, Left), (Left, Up)] {
                assert_eq!(flapping.observe(&transition(PeerId(i), from, to)), None);
            }
            for (from, to) in [(Up, Unreachable), (Unreachable, Up)] {
                assert_eq!(flapping.observe(&transition(PeerId(i), from, to)), None);
            }
        }
        assert!(flapping.peers.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_who_is_forgotten_leaves_it() {
        let mut flapping = Flapping::default();
        for id in 0..MOST_PEERS as u64 + 10 {
            flapping.observe(&change(id, 9 * S, true));
        }
        assert_eq!((flapping.peers.len(), flapping.untracked()), (MOST_PEERS, 10));
        for i in 0..6 {
            flapping.observe(&change(7, (10 + i) * S, i % 2 == 1));
        }
        assert_eq!(flapping.flapping(), 1);
        let gone = transition(PeerId(7), PeerState::Down, PeerState::Forgotten);
        assert!(flapping.observe(&gone).is_some_and(|change| !change.began));
        assert_eq!(flapping.flapping(), 0);
        assert!(!flapping.is_flapping(PeerId(7)));
    }
}
