//! The fixed detector: from a sender's interval to its two deadlines.

/// How long a peer may be silent. Two deadlines, both a function of its own interval:
/// suspicion after a share of the timeout, down after all of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timing {
    /// Interval of peers that state none, microseconds.
    pub default_interval_us: u64,
    /// Intervals that a peer may miss; at least 1.
    pub missed: f64,
    /// Added to every timeout, for the network and the sender's scheduler, nanoseconds.
    pub grace_ns: u64,
    /// Share of the timeout after which a silent peer is suspected, above 0 and at most 1.
    pub suspect_fraction: f64,
    /// A peer that has been down for so long is forgotten, nanoseconds.
    pub forget_down_ns: u64,
    /// A peer that left so long ago is forgotten, nanoseconds.
    pub forget_left_ns: u64,
}

impl Timing {
    /// The interval that holds for a peer: its own, or the default when it stated none.
    #[inline]
    pub fn interval_us(&self, stated_us: u64) -> u64 {
        if stated_us == 0 { self.default_interval_us } else { stated_us }
    }

    /// From a peer's last heartbeat to its being called down, nanoseconds.
    #[inline]
    pub fn timeout_ns(&self, stated_us: u64) -> u64 {
        (self.interval_us(stated_us) as f64 * 1e3 * self.missed) as u64 + self.grace_ns
    }

    /// From a peer's last heartbeat to its being suspected, nanoseconds.
    #[inline]
    pub fn suspect_ns(&self, stated_us: u64) -> u64 {
        (self.timeout_ns(stated_us) as f64 * self.suspect_fraction) as u64
    }
}
