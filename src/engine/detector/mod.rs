//! Failure detectors: when is a silent peer's next heartbeat overdue?
//!
//! ```text
//!            last arrival        expected arrival                     down
//!  ──────────────┼────────────────────────┼───────────────┼─────────────┼──▶ time
//!  fixed         │◀──────────── missed × interval ─────────────────────▶│
//!  the others    │◀ interval, less the lag▶│◀ (missed − 1) × interval + margin ▶│
//!                                                      suspect
//! ```
//!
//! Like waiting for a bus: `fixed` gives up so many minutes after the last one, whatever the
//! timetable says. `chen` knows the timetable: a bus that came late does not make the next one late,
//! so the wait begins at the *expected* arrival. `bertier` and `phi` moreover learn how punctual the
//! line is, and wait the longer the less it is. `blend` asks besides whether there is a timetable
//! at all.
//!
//! Each is a function from a few learnt words ([`Arrivals`]) to the next deadline, so all cost the
//! same: a heartbeat updates the words in a few nanoseconds, and the deadline is computed only when
//! the timing wheel asks. Where a paper keeps a window of arrivals, here an exponentially weighted
//! mean takes its place; until it has seen a window's worth it is the plain mean of all there were.
//! `docs/detection.md` says what the difference is.
//!
//! Absent on purpose: time, and the peer. What may be learnt from is the caller's to decide: a
//! restart and another interval begin anew with `Arrivals::default()`, an outage and maintenance are
//! passed over by [`Arrivals::resume`].

pub mod bertier;
pub mod blend;
pub mod chen;
pub mod phi;

pub use bertier::Bertier;
pub use blend::Blend;
pub use chen::Chen;
pub use phi::Phi;

use std::fmt;
use std::str::FromStr;

/// What was learnt of one peer's arrivals; its default is "nothing yet". Which words a detector uses,
/// and for what, is its own: when the detector changes, begin anew.
///
/// All are differences from what the stated interval makes expect, so that 32 bits keep a daily job
/// as exact as it is punctual.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Arrivals {
    /// How much later than expected the last heartbeat came, nanoseconds; negative when early.
    pub lag_ns: f32,
    /// How much the mean interval exceeds the stated one, nanoseconds.
    pub mean_ns: f32,
    /// How far arrivals scatter: nanoseconds, or squared nanoseconds, as the detector defines it.
    pub spread: f32,
    /// One more word, as the detector defines it.
    pub extra: f32,
    /// Heartbeats learnt from; stays at 255.
    pub samples: u8,
}

impl Arrivals {
    /// Nothing learnt; the same as the default.
    pub const NONE: Arrivals =
        Arrivals { lag_ns: 0.0, mean_ns: 0.0, spread: 0.0, extra: 0.0, samples: 0 };

    /// With fewer samples than this, nothing is concluded from them.
    pub const WARM: u8 = 8;

    /// A heartbeat came whose distance from the one before teaches nothing, as behind a stall of the
    /// monitor's own: the timetable goes on from it.
    #[inline]
    pub fn resume(&mut self) {
        self.lag_ns = 0.0;
    }

    /// The weight of a sample: that of a plain mean over all so far, of which there are
    /// `samples + before` with this one, until that is less than `gain`.
    #[inline(always)]
    fn weight(&self, before: f32, gain: f32) -> f32 {
        let all = f32::from(self.samples) + before;
        // Not the greater of both, as a division is the dearest of it, and soon needed no more.
        if all * gain < 1.0 { 1.0 / all } else { gain }
    }

    /// The weights of a sample with 1 and with 2 before, for those who need both: where the former is
    /// `gain` the latter is too.
    #[inline(always)]
    fn weights(&self, gain: f32) -> (f32, f32) {
        match (f32::from(self.samples) + 1.0) * gain < 1.0 {
            true => (self.weight(1.0, gain), self.weight(2.0, gain)),
            false => (gain, gain),
        }
    }
}

/// A detector's answer, in nanoseconds from the last arrival.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Forecast {
    /// When the next heartbeat should be here.
    pub expected_ns: f64,
    /// How much later it may come for its jitter; what may be *lost* is the policy's `missed`.
    pub margin_ns: f64,
}

/// How a peer's deadline is found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Detector {
    /// So long after the last arrival; learns nothing.
    Fixed {
        /// The timeout in nanoseconds; `None` is `missed` × interval.
        timeout_ns: Option<u64>,
    },
    /// NFD-E of Chen, Toueg and Aguilera (2002): expected arrival and a constant margin.
    Chen(Chen),
    /// Bertier, Marin and Sens (2002): expected arrival and a margin after Jacobson.
    Bertier(Bertier),
    /// The φ accrual detector of Hayashibara et al. (2004).
    Phi(Phi),
    /// The better of two forecasts, with a margin after its error.
    Blend(Blend),
}

impl Default for Detector {
    fn default() -> Self {
        Detector::Fixed { timeout_ns: None }
    }
}

impl Detector {
    /// All words that [`FromStr`] takes.
    pub const WORDS: [&'static str; 5] = ["fixed", "chen", "bertier", "phi", "blend"];

    /// Whether its deadlines depend on what was learnt.
    #[inline]
    pub fn learns(&self) -> bool {
        !matches!(self, Detector::Fixed { .. })
    }

    /// Its word in options and answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Detector::Fixed { .. } => "fixed",
            Detector::Chen(_) => "chen",
            Detector::Bertier(_) => "bertier",
            Detector::Phi(_) => "phi",
            Detector::Blend(_) => "blend",
        }
    }

    /// Takes in a heartbeat that came `late_ns` later than `steps` whole intervals after the one
    /// before (negative when earlier).
    ///
    /// A gap (`steps` above 1) moves the phase of the peer's timetable; how far arrivals scatter is
    /// learnt from neighbours only, as a loss is no jitter.
    #[inline(always)]
    pub(super) fn learn(&self, arrivals: &mut Arrivals, late_ns: f32, steps: u32) {
        match self {
            Detector::Fixed { .. } => return,
            Detector::Chen(chen) => chen.learn(arrivals, late_ns),
            Detector::Bertier(bertier) => bertier.learn(arrivals, late_ns, steps),
            Detector::Phi(phi) => phi.learn(arrivals, late_ns, steps),
            Detector::Blend(blend) => blend.learn(arrivals, late_ns, steps),
        }
        arrivals.samples = arrivals.samples.saturating_add(1);
    }

    /// What was learnt makes expect, given the stated interval. `None` when the detector does not
    /// forecast, or not yet.
    #[inline(always)]
    pub(super) fn forecast(&self, arrivals: &Arrivals, interval_ns: f64) -> Option<Forecast> {
        if arrivals.samples < Arrivals::WARM {
            return None;
        }
        match self {
            Detector::Fixed { .. } => None,
            Detector::Chen(chen) => Some(chen.forecast(arrivals, interval_ns)),
            Detector::Bertier(bertier) => Some(bertier.forecast(arrivals, interval_ns)),
            Detector::Phi(phi) => Some(phi.forecast(arrivals, interval_ns)),
            Detector::Blend(blend) => Some(blend.forecast(arrivals, interval_ns)),
        }
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No detector has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no detector; there are {words}", words = Detector::WORDS.join(", "))]
pub struct UnknownDetector(pub String);

impl FromStr for Detector {
    type Err = UnknownDetector;

    /// The detector of a word, with its usual constants.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "fixed" => Ok(Detector::Fixed { timeout_ns: None }),
            "chen" => Ok(Detector::Chen(Chen::default())),
            "bertier" => Ok(Detector::Bertier(Bertier::default())),
            "phi" => Ok(Detector::Phi(Phi::default())),
            "blend" => Ok(Detector::Blend(Blend::default())),
            _ => Err(UnknownDetector(word.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod theorem;
