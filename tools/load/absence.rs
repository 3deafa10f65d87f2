//! When there was no monitor: from a broken event stream to the next one that is answered.
//!
//! A monitor that was killed extends the deadlines by its absence, and what is sent meanwhile it
//! never hears. Both move the deadline that a silence is judged by; neither excuses a false alarm
//! of a peer that was never silent.

/// Spells without a monitor, apart and in order, nanoseconds since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Absences {
    spells: Vec<(u64, u64)>,
}

impl Absences {
    /// A monitor that was there all the time.
    pub const NONE: Absences = Absences { spells: Vec::new() };

    /// Adds a spell behind those that are there.
    pub fn add(&mut self, from_ns: u64, to_ns: u64) {
        debug_assert!(self.spells.last().is_none_or(|(_, end)| *end <= from_ns));
        if from_ns < to_ns {
            self.spells.push((from_ns, to_ns));
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.spells.len() as u64
    }

    /// All of them together.
    pub fn total_ns(&self) -> u64 {
        self.spells.iter().map(|(from, to)| to - from).sum()
    }

    /// The latest deadline that a silence since `since_ns` may be granted, whose heartbeat gave it
    /// `timeout_ns`: each absence that begins before the deadline moves it on by its length, and
    /// leaves at least `one_more_ns` behind it, time for one more heartbeat. An absence that begins
    /// within `reach_ns` behind the deadline counts, too: the kill came before the verdict was told.
    pub fn extend(&self, since_ns: u64, timeout_ns: u64, one_more_ns: u64, reach_ns: u64) -> u64 {
        let mut extended_ns = since_ns + timeout_ns;
        let begins = self.spells.partition_point(|(_, to)| *to <= since_ns);
        for (from, to) in &self.spells[begins..] {
            if *from > extended_ns + reach_ns {
                break;
            }
            extended_ns = (extended_ns + to - (*from).max(since_ns)).max(to + one_more_ns);
        }
        extended_ns
    }

    /// The end of the absence that `at_ns` falls in, or that begins within `reach_ns` behind it: when
    /// somebody could hear again what was said then.
    pub fn heard_from(&self, at_ns: u64, reach_ns: u64) -> Option<u64> {
        let next = self.spells.partition_point(|(_, to)| *to <= at_ns);
        let (from, to) = self.spells.get(next)?;
        (*from <= at_ns + reach_ns).then_some(*to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_moves_by_every_absence_before_it() {
        let mut absences = Absences::default();
        absences.add(100, 150);
        absences.add(300, 400);
        absences.add(900, 1_000);
        assert_eq!((absences.count(), absences.total_ns()), (3, 250));
        assert_eq!(absences.extend(0, 90, 0, 0), 90);
        assert_eq!(absences.extend(0, 100, 0, 0), 150);
        assert_eq!(absences.extend(0, 90, 0, 10), 150, "nobody is called down by nobody");
        assert_eq!(absences.extend(0, 260, 0, 0), 410, "the first moves it into the second");
        assert_eq!(absences.extend(120, 80, 0, 0), 230, "only the part since then");
        assert_eq!(absences.extend(150, 50, 0, 0), 200);
        assert_eq!(
            absences.extend(0, 100, 70, 0),
            220,
            "one more heartbeat is more than the length"
        );
        assert_eq!(absences.extend(0, 100, 160, 0), 560, "and leads into the second");
        assert_eq!(absences.extend(1_000, 1_000, 0, 0), 2_000);
        assert_eq!(Absences::default().extend(0, 5, 5, 5), 5);
    }

    #[test]
    fn what_nobody_heard_is_heard_after() {
        let mut absences = Absences::default();
        absences.add(100, 150);
        assert_eq!(absences.heard_from(99, 0), None);
        assert_eq!(absences.heard_from(99, 1), Some(150));
        assert_eq!(absences.heard_from(149, 0), Some(150));
        assert_eq!(absences.heard_from(150, 0), None);
    }
}
