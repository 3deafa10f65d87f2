//! Which transitions `systole watch` leaves out, so that a storm is a few lines.
//!
//! Left out is what a line of its own tells already: the members of an incident and the changes of a
//! peer that flaps. And of changes that are alike (one group, from one state to the same other) five
//! in a second are shown; how many more there were comes in one line, when the second is over.
//!
//! The monitor's own times decide, so the same stream is always folded alike.

use crate::api::Event;
use std::collections::BTreeMap;

/// Lines shown of changes that are alike, a second.
const SHOWN: u64 = 5;
const WINDOW_NS: i128 = 1_000_000_000;
/// Most kinds of change that are counted apart; more are all shown.
const MOST_KINDS: usize = 1_024;

/// A kind of change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Alike {
    /// The group.
    pub group: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
}

#[derive(Debug)]
struct Window {
    began_ns: i128,
    count: u64,
}

/// Whether to show a change.
#[derive(Debug, Default)]
pub struct Fold {
    windows: BTreeMap<Alike, Window>,
}

/// So many more were alike, and not shown.
pub type More = (Alike, u64);

impl Fold {
    /// Whether to show this one, and what has to be said before: how many of its kind were left out.
    pub fn show(&mut self, event: &Event, time_ns: i128) -> (bool, Option<More>) {
        // That somebody has a peer forgotten is no incident's to tell.
        let is_told = event.incident.is_some() && event.to != "forgotten";
        if is_told || event.flapping {
            return (false, None);
        }
        let alike =
            Alike { group: event.group.clone(), from: event.from.clone(), to: event.to.clone() };
        if self.windows.len() >= MOST_KINDS && !self.windows.contains_key(&alike) {
            return (true, None);
        }
        let fresh = Window { began_ns: time_ns, count: 0 };
        let window = self.windows.entry(alike.clone()).or_insert(fresh);
        let mut more = None;
        if time_ns >= window.began_ns + WINDOW_NS {
            more = left_out(&alike, window);
            *window = Window { began_ns: time_ns, count: 0 };
        }
        window.count += 1;
        (window.count <= SHOWN, more)
    }

    /// An incident tells of this group: what was left out of its failures is in it.
    pub fn told(&mut self, group: &str) {
        let failure = |alike: &Alike| {
            alike.group == group && matches!(alike.to.as_str(), "suspect" | "down" | "unreachable")
        };
        self.windows.retain(|alike, _| !failure(alike));
    }

    /// Nothing has come for a while: what was left out and not told yet, in the order in which it began.
    pub fn quiet(&mut self) -> Vec<More> {
        let mut windows: Vec<_> = std::mem::take(&mut self.windows).into_iter().collect();
        windows.sort_by_key(|(_, window)| window.began_ns);
        windows.iter().filter_map(|(alike, window)| left_out(alike, window)).collect()
    }

    /// Whether something was left out and not told yet.
    pub fn is_pending(&self) -> bool {
        self.windows.values().any(|window| window.count > SHOWN)
    }
}

fn left_out(alike: &Alike, window: &Window) -> Option<More> {
    (window.count > SHOWN).then(|| (alike.clone(), window.count - SHOWN))
}

#[cfg(test)]
mod tests {
    use super::super::events::tests::event;
    use super::*;

    const MS: i128 = 1_000_000;

    #[test]
    fn a_storm_of_forty_thousand_is_five_lines_and_a_sum() {
        let mut fold = Fold::default();
        let shown = (0..40_000).filter(|i| fold.show(&event(*i), i128::from(*i) * MS / 100).0);
        assert_eq!(shown.count(), 5);
        assert!(fold.is_pending());
        let more = fold.quiet();
        assert_eq!(more.len(), 1);
        assert_eq!((more[0].0.group.as_str(), more[0].1), ("web", 39_995));
        assert!(!fold.is_pending());
    }

    #[test]
    fn each_second_begins_anew_and_tells_what_the_last_left_out() {
        let mut fold = Fold::default();
        for i in 0..8 {
            fold.show(&event(i), i128::from(i));
        }
        assert_eq!(fold.show(&event(9), 999 * MS), (false, None));
        let (shown, more) = fold.show(&event(10), 1_000 * MS);
        assert_eq!((shown, more.map(|more| more.1)), (true, Some(4)));
        assert_eq!(fold.show(&event(11), 2_500 * MS), (true, None), "nothing was left out");
    }

    #[test]
    fn what_is_not_alike_is_counted_apart() {
        let mut fold = Fold::default();
        for i in 0..5 {
            assert!(fold.show(&event(i), 0).0);
            assert!(fold.show(&Event { to: "suspect".into(), ..event(i) }, 0).0);
            assert!(fold.show(&Event { group: "db".into(), ..event(i) }, 0).0);
        }
        assert!(!fold.show(&event(9), 0).0);
        fold.told("web");
        assert!(fold.show(&event(10), 0).0, "told by an incident, and counted anew");
    }

    #[test]
    fn members_of_incidents_and_who_flaps_are_told_elsewhere() {
        let mut fold = Fold::default();
        assert_eq!(fold.show(&Event { incident: Some(3), ..event(1) }, 0), (false, None));
        assert_eq!(fold.show(&Event { flapping: true, ..event(1) }, 0), (false, None));
        let forgotten = Event { incident: Some(3), to: "forgotten".into(), ..event(2) };
        assert_eq!(fold.show(&forgotten, 0), (true, None), "by nobody else");
        assert!(fold.quiet().is_empty());
    }
}
