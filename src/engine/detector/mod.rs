//! From a peer's interval, and what was learnt of its arrivals, to its two deadlines.
//!
//! A detector is a function: statistics in, deadlines out, in constant space. It keeps nothing itself;
//! what it learns lies in the peer's slot as [`Arrivals`].

/// What was learnt of one peer's arrivals: four words and a count, in its slot. What they mean is the
/// detector's business.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Arrivals {
    /// How far the last arrival was behind its expected time, nanoseconds.
    pub lag_ns: f32,
    /// Mean of what the detector averages, nanoseconds.
    pub mean_ns: f32,
    /// Spread around it.
    pub spread: f32,
    /// One more word.
    pub extra: f32,
    /// Arrivals learnt from, up to what fits.
    pub samples: u8,
}

impl Arrivals {
    /// Nothing learnt.
    pub const NONE: Arrivals =
        Arrivals { lag_ns: 0.0, mean_ns: 0.0, spread: 0.0, extra: 0.0, samples: 0 };
}

/// How deadlines are computed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Detector {
    /// A multiple of the peer's interval.
    Fixed {
        /// A timeout of this many nanoseconds instead, whatever the interval.
        timeout_ns: Option<u64>,
    },
}

impl Detector {
    /// Whether its deadlines depend on what was learnt.
    #[inline]
    pub fn learns(&self) -> bool {
        match self {
            Detector::Fixed { .. } => false,
        }
    }
}

/// A peer's two deadlines, nanoseconds from its last heartbeat; suspicion is not behind down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// Until it is suspect.
    pub suspect_ns: u64,
    /// Until it is down.
    pub down_ns: u64,
}

/// How long a peer may be silent, and how long it is remembered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Policy {
    /// The detector.
    pub detector: Detector,
    /// Interval of peers that state none, microseconds.
    pub default_interval_us: u64,
    /// Intervals that a peer may miss; at least 1.
    pub missed: f64,
    /// Added to every timeout, for the network and the sender's scheduler, nanoseconds.
    pub grace_ns: u64,
    /// Share of the timeout after which a silent peer is suspected, above 0 and at most 1.
    pub suspect_fraction: f64,
    /// No timeout is shorter, nanoseconds.
    pub floor_ns: u64,
    /// No timeout is longer, nanoseconds.
    pub ceiling_ns: u64,
    /// A peer that has been down for so long is forgotten, nanoseconds.
    pub forget_down_ns: u64,
    /// A peer that left so long ago is forgotten, nanoseconds.
    pub forget_left_ns: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        const DAY_NS: u64 = 86_400_000_000_000;
        Policy {
            detector: Detector::Fixed { timeout_ns: None },
            default_interval_us: 1_000_000,
            missed: 3.0,
            grace_ns: 50_000_000,
            suspect_fraction: 0.7,
            floor_ns: 0,
            ceiling_ns: 1_000 * DAY_NS,
            forget_down_ns: 7 * DAY_NS,
            forget_left_ns: DAY_NS / 24,
        }
    }
}

impl Policy {
    /// The interval that holds for a peer: its own, or the default when it stated none.
    #[inline]
    pub fn interval_us(&self, stated_us: u64) -> u64 {
        if stated_us == 0 { self.default_interval_us } else { stated_us }
    }

    /// A peer's two deadlines.
    #[inline]
    pub fn deadlines(&self, _arrivals: &Arrivals, stated_us: u64) -> Deadlines {
        let timeout_ns = match self.detector {
            Detector::Fixed { timeout_ns: Some(timeout_ns) } => timeout_ns + self.grace_ns,
            Detector::Fixed { timeout_ns: None } => {
                (self.interval_us(stated_us) as f64 * 1e3 * self.missed) as u64 + self.grace_ns
            }
        };
        let down_ns = timeout_ns.clamp(self.floor_ns.min(self.ceiling_ns), self.ceiling_ns);
        let suspect_ns = (down_ns as f64 * self.suspect_fraction) as u64;
        Deadlines { suspect_ns: suspect_ns.min(down_ns), down_ns }
    }

    /// Learns from a heartbeat that continues the sequence: `elapsed_ns` since the one before, and
    /// `steps` numbers later (1 when none is missing).
    #[inline]
    pub fn learn(&self, _arrivals: &mut Arrivals, _elapsed_ns: u64, _steps: u32, _stated_us: u64) {
        // The fixed detector learns nothing.
    }
}
