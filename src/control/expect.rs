//! Who ought to be here: peers that never show up would otherwise never be missed.
//!
//! An expectation is a name, or so many peers of a group. It is met while the monitor knows that peer
//! in any state, or that many; who fell silent is another matter. Unmet for as long as it allows
//! (counted from the monitor's start, or from when it was last met) it is reported as missing, once,
//! and once more when it is met. A time in which nobody looked, as when the monitor was stopped, is not
//! counted: who came then may not be known yet.
//!
//! Sans-IO: the time is an argument, and so is how many are known.

use crate::wire::PeerId;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Most expectations that are looked at in one go.
const STRIDE: usize = 8_192;
/// How often they are looked at, nanoseconds, or a little less often.
pub const LOOK_NS: u64 = 1_000_000_000;
/// Whoever looks less often than this did not run, nanoseconds. Well above [`LOOK_NS`], which no thread
/// keeps exactly.
const UNSEEN_NS: u64 = 2 * LOOK_NS;

/// What is expected.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Expected {
    /// A peer of this name.
    Peer(String),
    /// So many peers of a group.
    Group {
        /// The group's name.
        name: String,
        /// How many, at least.
        count: u32,
    },
}

/// An expectation, and how long it may be unmet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// What is expected.
    pub what: Expected,
    /// Missing after so long, nanoseconds.
    pub within_ns: u64,
}

/// An expectation became unmet for too long, or was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which, by its place in the configuration.
    pub index: u32,
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
    /// Missing, or there.
    pub missing: bool,
    /// How many are known.
    pub known: u32,
}

#[derive(Debug)]
struct Item {
    expected: Expectation,
    id: PeerId,
    /// Since when it is unmet, as [`Expectations::seen_ns`]; `None` while it is met.
    unmet_ns: Option<u64>,
    missing: bool,
    known: u32,
}

/// All expectations.
#[derive(Debug, Default)]
pub struct Expectations {
    items: Vec<Item>,
    next: usize,
    missing: usize,
    /// When it was looked last.
    looked_ns: u64,
    /// By a clock that stands still while nobody looks, nanoseconds.
    seen_ns: u64,
}

/// An expectation and how it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing<'a> {
    /// What is expected.
    pub what: &'a Expected,
    /// Whether it is reported as missing.
    pub missing: bool,
    /// How many were known when it was last looked at.
    pub known: u32,
}

impl Expectations {
    /// These, unmet since `now_ns`.
    pub fn new(expectations: Vec<Expectation>, now_ns: u64) -> Expectations {
        let item = |expected: Expectation| {
            let id = match &expected.what {
                Expected::Peer(name) => PeerId::of(name),
                Expected::Group { .. } => PeerId(0),
            };
            Item { expected, id, unmet_ns: Some(0), missing: false, known: 0 }
        };
        let items = expectations.into_iter().map(item).collect();
        Expectations { items, looked_ns: now_ns, ..Expectations::default() }
    }

    /// Looks at the next of them: `peer` says whether one is known, `group` how many are of one.
    pub fn check(
        &mut self,
        now_ns: u64,
        peer: impl Fn(PeerId) -> bool,
        group: impl Fn(&str) -> u32,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let since_ns = now_ns.saturating_sub(std::mem::replace(&mut self.looked_ns, now_ns));
        let ran = since_ns <= UNSEEN_NS;
        if ran {
            self.seen_ns += since_ns;
        }
        let seen_ns = self.seen_ns;
        for _ in 0..self.items.len().min(STRIDE) {
            let index = self.next;
            self.next = (self.next + 1) % self.items.len();
            let item = &mut self.items[index];
            let (known, wanted) = match &item.expected.what {
                Expected::Peer(_) => (u32::from(peer(item.id)), 1),
                Expected::Group { name, count } => (group(name), *count),
            };
            item.known = known;
            let since_ns = match known < wanted {
                true => Some(*item.unmet_ns.get_or_insert(seen_ns)),
                false => None,
            };
            item.unmet_ns = since_ns;
            let missing = match since_ns {
                Some(since_ns) => item.missing || since_ns + item.expected.within_ns <= seen_ns,
                None => false,
            };
            if missing != item.missing {
                item.missing = missing;
                if missing {
                    self.missing += 1;
                } else {
                    self.missing -= 1;
                }
                changes.push(Change { index: index as u32, at_ns: now_ns, missing, known });
            }
        }
        if !ran {
            // One who always looks late must come to an end, too.
            self.seen_ns += LOOK_NS;
        }
        changes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nobody is expected.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many are missing.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Who is reported as missing.
    pub fn missing_ones(&self) -> impl Iterator<Item = &Expected> {
        self.items.iter().filter(|item| item.missing).map(|item| &item.expected.what)
    }

    /// These were reported as missing by an earlier process, and are no news while they are.
    pub fn were_missing(&mut self, told: &[Expected]) {
        let told: HashSet<&Expected> = told.iter().collect();
        for item in &mut self.items {
            item.missing |= told.contains(&item.expected.what);
        }
        self.missing = self.items.iter().filter(|item| item.missing).count();
    }

    /// What a change is about.
    pub fn what(&self, index: u32) -> Option<&Expected> {
        self.items.get(index as usize).map(|item| &item.expected.what)
    }

    /// How all of them stand.
    pub fn all(&self) -> impl Iterator<Item = Standing<'_>> {
        self.items.iter().map(|item| Standing {
            what: &item.expected.what,
            missing: item.missing,
            known: item.known,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{Random, seeds};
    use std::collections::HashMap;

    const S: u64 = 1_000_000_000;

    fn peer(name: &str, within_s: u64) -> Expectation {
        Expectation { what: Expected::Peer(name.into()), within_ns: within_s * S }
    }

    fn group(name: &str, count: u32) -> Expectation {
        Expectation { what: Expected::Group { name: name.into(), count }, within_ns: 60 * S }
    }

    #[test]
    fn who_never_shows_up_is_missing_after_a_while_and_only_once() {
        let mut expect = Expectations::new(vec![peer("a", 60), group("web", 3)], 100 * S);
        let mut told = Vec::new();
        for at in 100..300 {
            let known = |id: PeerId| id == PeerId::of("a") && at >= 200;
            let of_web = |name: &str| if name == "web" && at >= 250 { 3 } else { 2 };
            told.extend(expect.check(at * S, known, of_web));
        }
        let change = |index, at, missing, known| Change { index, at_ns: at * S, missing, known };
        let expected = [
            change(0, 160, true, 0),
            change(1, 160, true, 2),
            change(0, 200, false, 1),
            change(1, 250, false, 3),
        ];
        assert_eq!(told, expected);
        assert_eq!(expect.missing(), 0);
    }

    #[test]
    fn who_comes_in_time_is_never_mentioned() {
        let mut expect = Expectations::new(vec![peer("a", 60)], 0);
        let told: Vec<_> =
            (0..300).flat_map(|at| expect.check(at * S, |_| at >= 59, |_| 0)).collect();
        assert_eq!(told, []);
    }

    #[test]
    fn a_time_in_which_nobody_looked_is_not_counted() {
        let mut expect = Expectations::new(vec![peer("a", 3)], 0);
        let mut missing =
            |at_ms: u64| !expect.check(at_ms * S / 1_000, |_| false, |_| 0).is_empty();
        assert!(!missing(1_000) && !missing(2_000));
        assert!(!missing(9_000), "stopped for seven seconds");
        assert!(missing(9_100), "and what may have come by then is known by now");
        let mut expect = Expectations::new(vec![peer("a", 3)], 0);
        let mut missing = |at_s: u64| !expect.check(at_s * S, |_| false, |_| 0).is_empty();
        assert!(!missing(60) && !missing(120) && !missing(180), "a second each");
        assert!(missing(240));
    }

    #[test]
    fn a_look_may_be_a_little_late() {
        for late_ms in [1, 60, 900] {
            let mut expect = Expectations::new(vec![peer("a", 60)], 100 * S);
            let at_ns = |look: u64| 100 * S + look * (S + late_ms * S / 1_000);
            let missing = |look: &u64| !expect.check(at_ns(*look), |_| false, |_| 0).is_empty();
            let look = (1..100).find(missing).expect("it is told");
            assert!((60 * S..62 * S).contains(&(at_ns(look) - 100 * S)), "{look} of {late_ms} ms");
        }
    }

    #[test]
    fn it_agrees_with_the_time_that_each_was_unmet() {
        for seed in seeds() {
            let mut random = Random::new(seed);
            let all = (0..20).map(|i| peer(&format!("p{i}"), i + 1)).collect();
            let mut expect = Expectations::new(all, 0);
            let mut unmet: HashMap<u32, u64> = (0..20).map(|i| (i, 0)).collect();
            let mut missing = [false; 20];
            for at in 1..2_000 {
                let here = random.below(1 << 20);
                let there = |i: u32| here >> i & 1 == 1;
                let index = |id: PeerId| (0..20).find(|i| PeerId::of(&format!("p{i}")) == id);
                for change in expect.check(at * S, |id| there(index(id).unwrap()), |_| 0) {
                    missing[change.index as usize] = change.missing;
                }
                for i in 0..20 {
                    match there(i) {
                        true => drop(unmet.remove(&i)),
                        false => drop(unmet.entry(i).or_insert(at)),
                    }
                    let late = unmet.get(&i).is_some_and(|since| at - since > u64::from(i));
                    assert_eq!(missing[i as usize], late, "seed {seed} at {at}: {i}");
                }
                let count = missing.iter().filter(|missing| **missing).count();
                assert_eq!(expect.missing(), count, "seed {seed}");
            }
        }
    }

    #[test]
    fn very_many_are_looked_at_by_and_by() {
        let many = STRIDE + 10;
        let all = (0..many).map(|i| peer(&i.to_string(), 1)).collect();
        let mut expect = Expectations::new(all, 0);
        assert_eq!(expect.check(S, |_| false, |_| 0).len(), STRIDE);
        assert_eq!(expect.check(2 * S, |_| false, |_| 0).len(), 10);
        assert_eq!((expect.missing(), expect.len()), (many, many));
    }
}
