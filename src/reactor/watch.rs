//! Notices when the reactor did not look at its sockets, and when heartbeats were lost at them.
//!
//! ```text
//!   look ── look ── sleep until t ── look ── … stopped … ── look      every pass over the sockets
//!                        └ t itself counts as a look           └─ blind from the last look to here
//! ```
//!
//! A sleeper is woken by what arrives, so while it sleeps it looks; what counts is how long after
//! the time that it meant to wake it really did. What arrived meanwhile mostly waits in the kernel,
//! and is read before anything is judged; but nobody can tell what did not get there, as when the
//! whole machine stood still. Hence every gap is told to the shard, which grants the silent for it.
//!
//! Deliberately absent: asking why. A stopped process, a paused machine, a busy neighbour, a page
//! fault look alike from here, and deserve the same.

/// A gap between two looks that is worth telling. Shorter ones occur all the time (a neighbour's time
/// slice is some milliseconds), lose nothing, and are less than what any timeout is granted anyway.
const BLIND_NS: u64 = 10_000_000;

/// What one reactor knows of its own attention.
pub struct Watch {
    looked_ns: u64,
    /// A gap that the shard has not been told of: from the first to the last of it.
    blind: Option<(u64, u64)>,
    /// Lost so far, and when that was counted.
    lost: u64,
    lost_ns: u64,
}

impl Watch {
    /// A watch that begins now.
    pub fn new(now_ns: u64) -> Watch {
        Watch { looked_ns: now_ns, blind: None, lost: 0, lost_ns: now_ns }
    }

    /// What was lost since `from_ns` will be told of, though nobody was there to count it.
    pub fn counted_at(&mut self, from_ns: u64) {
        self.lost_ns = from_ns;
    }

    /// When it was last counted what was lost.
    pub fn counted_ns(&self) -> u64 {
        self.lost_ns
    }

    /// The sockets are looked at now.
    #[inline]
    pub fn look(&mut self, now_ns: u64) {
        if now_ns > self.looked_ns + BLIND_NS {
            let from_ns = self.blind.map_or(self.looked_ns, |(from_ns, _)| from_ns);
            self.blind = Some((from_ns, now_ns));
        }
        self.looked_ns = self.looked_ns.max(now_ns);
    }

    /// The reactor waits now, and means to be awake by `until_ns` at the latest.
    pub fn sleep(&mut self, until_ns: u64) {
        self.looked_ns = self.looked_ns.max(until_ns);
    }

    /// It woke.
    pub fn wake(&mut self, now_ns: u64) {
        // Woken before its time, it looked all the while.
        self.looked_ns = self.looked_ns.min(now_ns);
        self.look(now_ns);
    }

    /// Whether there is a gap to tell of.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// The gap to tell of; forgotten by the call.
    pub fn take_blind(&mut self) -> Option<(u64, u64)> {
        self.blind.take()
    }

    /// So many datagrams and parcels have been lost up to now, since the start. Returns in which
    /// time the latest of them were, if there are new ones.
    pub fn lost(&mut self, total: u64, now_ns: u64) -> Option<(u64, u64)> {
        let since_ns = std::mem::replace(&mut self.lost_ns, now_ns);
        let before = std::mem::replace(&mut self.lost, total);
        (total > before).then_some((since_ns, now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_gap_between_looks_is_told_once() {
        let mut watch = Watch::new(100 * MS);
        watch.look(105 * MS);
        watch.look(115 * MS);
        assert_eq!(watch.take_blind(), None, "10 ms are not worth telling");
        watch.look(126 * MS);
        assert_eq!(watch.take_blind(), Some((115 * MS, 126 * MS)));
        assert_eq!(watch.take_blind(), None);
    }

    #[test]
    fn gaps_told_together_are_one() {
        let mut watch = Watch::new(0);
        watch.look(20 * MS);
        watch.look(21 * MS);
        watch.look(50 * MS);
        assert_eq!(watch.take_blind(), Some((0, 50 * MS)));
    }

    #[test]
    fn sleep_is_no_gap_but_what_comes_behind_it_is() {
        let mut watch = Watch::new(0);
        watch.sleep(500 * MS);
        watch.wake(505 * MS);
        assert!(!watch.is_blind());
        watch.sleep(1_000 * MS);
        watch.wake(3_000 * MS);
        assert_eq!(watch.take_blind(), Some((1_000 * MS, 3_000 * MS)));
    }

    #[test]
    fn woken_early_the_watch_goes_on_from_there() {
        let mut watch = Watch::new(0);
        watch.sleep(500 * MS);
        watch.wake(100 * MS);
        watch.look(300 * MS);
        assert_eq!(watch.take_blind(), Some((100 * MS, 300 * MS)));
    }

    #[test]
    fn losses_lie_between_two_counts() {
        let mut watch = Watch::new(0);
        assert_eq!(watch.lost(0, 10), None);
        assert_eq!(watch.lost(3, 20), Some((10, 20)));
        assert_eq!(watch.lost(3, 30), None);
        assert_eq!(watch.lost(4, 31), Some((30, 31)));
    }
}
