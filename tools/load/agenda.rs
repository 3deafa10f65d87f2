//! A queue in the order of time that knows its peers beat about once an interval: a calendar.
//!
//! ```text
//!   near (sorted)    windows, a ring of 1,024, four intervals in all, unsorted      later
//!  |x x  xx x   x|  x x xx |  xx  x  | x   xx x|          …          |x  x  x |   x     x
//!                ▲ near_end
//! ```
//!
//! A heap of 50,000 entries costs a dozen cache misses a heartbeat, and was a sixth of the
//! generator's processor time. Here an entry is appended to the window it falls into, and a window
//! is sorted when its turn comes, some two hundred entries at once in the first-level cache.
//!
//! The order is exactly that of the entries' `Ord`, whose first part has to be the time.

/// What can be put in: ordered by its time first.
pub trait Timed: Ord + Copy {
    /// When, nanoseconds.
    fn at_ns(&self) -> u64;
}

const WINDOWS: u64 = 1_024;

/// The queue.
pub struct Agenda<T> {
    width_ns: u64,
    /// Descending, so that the earliest is taken from the end.
    near: Vec<T>,
    /// The first window that is not in `near`; everything earlier is.
    next: u64,
    windows: Vec<Vec<T>>,
    later: Vec<T>,
    /// Window of the earliest in `later`.
    later_from: u64,
}

impl<T: Timed> Agenda<T> {
    /// An empty queue for entries of whom most come again within an interval or two.
    pub fn new(interval_ns: u64) -> Agenda<T> {
        Agenda {
            width_ns: (interval_ns.saturating_mul(4) / WINDOWS).max(1),
            near: Vec::new(),
            next: 0,
            windows: (0..WINDOWS).map(|_| Vec::new()).collect(),
            later: Vec::new(),
            later_from: u64::MAX,
        }
    }

    /// Puts an entry in; it may lie in the past.
    #[inline]
    pub fn push(&mut self, entry: T) {
        let window = entry.at_ns() / self.width_ns;
        if window < self.next {
            let place = self.near.partition_point(|other| *other > entry);
            self.near.insert(place, entry);
        } else if window - self.next < WINDOWS {
            self.windows[(window % WINDOWS) as usize].push(entry);
        } else {
            self.later_from = self.later_from.min(window);
            self.later.push(entry);
        }
    }

    /// The earliest entry.
    #[inline]
    pub fn first(&mut self) -> Option<T> {
        if self.near.is_empty() {
            self.refill();
        }
        self.near.last().copied()
    }

    /// Takes the earliest entry out.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.first()?;
        self.near.pop()
    }

    /// Takes all entries out, in no order.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.later_from = u64::MAX;
        // Empty, it may start anew anywhere; what is put back need not squeeze into `near`.
        self.next = 0;
        let near = self.near.drain(..).chain(self.later.drain(..));
        near.chain(self.windows.iter_mut().flat_map(|window| window.drain(..)))
    }

    /// Brings the next window that holds anything to `near`, which is empty.
    fn refill(&mut self) {
        let filled = |from: u64, windows: &[Vec<T>]| {
            (from..from + WINDOWS).find(|window| !windows[(window % WINDOWS) as usize].is_empty())
        };
        let mut found = filled(self.next, &self.windows);
        // At most once every time around the ring: whatever is later then, is a ring away.
        if !self.later.is_empty() && found.is_none_or(|window| self.later_from <= window) {
            self.next = self.later_from;
            self.later_from = u64::MAX;
            let later = std::mem::take(&mut self.later);
            later.into_iter().for_each(|entry| self.push(entry));
            found = filled(self.next, &self.windows);
        }
        let Some(window) = found else { return };
        self.next = window + 1;
        std::mem::swap(&mut self.near, &mut self.windows[(window % WINDOWS) as usize]);
        self.near.sort_unstable_by(|a, b| b.cmp(a));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::seeds;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    impl Timed for (u64, u32) {
        fn at_ns(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn it_is_a_heap_seen_from_outside() {
        for seed in seeds() {
            for interval_ns in [1, 1_000, 1_000_000, u64::MAX] {
                check_against_heap(seed, interval_ns);
            }
        }
    }

    fn check_against_heap(seed: u64, interval_ns: u64) {
        let mut state = seed;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut agenda = Agenda::new(interval_ns);
        let mut heap = BinaryHeap::new();
        let mut now = 0;
        for round in 0..5_000 {
            // Now and then almost empty, so that it skips far ahead.
            let pushes = if round % 1_000 < 500 { random(3) } else { 0 };
            for _ in 0..pushes {
                let reach = [1, 100, 3_000_000, 500_000_000][random(4) as usize];
                let back = random(2) * random(1_000);
                let entry = ((now + random(reach)).saturating_sub(back), random(4) as u32);
                agenda.push(entry);
                heap.push(Reverse(entry));
            }
            let at = format!("seed {seed}, interval {interval_ns}, round {round}");
            assert_eq!(agenda.first(), heap.peek().map(|top| top.0), "{at}");
            let popped = agenda.pop();
            assert_eq!(popped, heap.pop().map(|top| top.0), "{at}");
            now = popped.map_or(now, |entry| entry.0);
        }
        let mut rest: Vec<_> = agenda.drain().collect();
        rest.sort_unstable();
        let want: Vec<_> = heap.into_sorted_vec().into_iter().rev().map(|top| top.0).collect();
        assert_eq!(rest, want, "seed {seed}, interval {interval_ns}");
        assert_eq!(agenda.first(), None);
    }
}
