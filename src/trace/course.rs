//! One peer's replay: what a policy makes of its heartbeats, as the monitor would.
//!
//! ```text
//!  for each arrival:
//!      old, repeated or late?                    it proves nothing, and is only counted
//!      silence since the last one > deadline?    a mistake, until now: begin to learn anew
//!      else                                      learn
//!      set the deadline that it leaves behind
//! ```
//!
//! To the nanosecond: a heartbeat that arrives *at* the deadline is in time, because the monitor reads
//! all that had arrived by then before it judges. The first heartbeat makes a peer known, and is judged
//! by nothing. The end of the trace is not a crash: the silence after the last heartbeat is not judged.

use super::{Arrival, Follower, Percentiles, Quality};
use crate::engine::sequence::Order;
use crate::engine::{Arrivals, Policy};
use crate::wire;

/// Does some work with a policy, compiled for each detector by itself: what it does besides is asked
/// once and not for each heartbeat.
macro_rules! for_each_detector {
    ($policy:expr, |$own:ident| $work:expr) => {{
        let policy: &Policy = $policy;
        let with = |detector| Policy { detector, ..*policy };
        match policy.detector {
            Detector::Fixed { timeout_ns } => {
                let $own = &with(Detector::Fixed { timeout_ns });
                $work
            }
            Detector::Chen(chen) => {
                let $own = &with(Detector::Chen(chen));
                $work
            }
            Detector::Bertier(bertier) => {
                let $own = &with(Detector::Bertier(bertier));
                $work
            }
            Detector::Phi(phi) => {
                let $own = &with(Detector::Phi(phi));
                $work
            }
            Detector::Blend(blend) => {
                let $own = &with(Detector::Blend(blend));
                $work
            }
        }
    }};
}

pub(super) use for_each_detector;

/// One peer's replay, as far as it has come. What most heartbeats touch lies in its first two cache lines.
#[repr(C, align(64))]
pub(super) struct Course {
    /// When the newest heartbeat of all arrived.
    pub newest_ns: u64,
    /// When the last heartbeat that counted arrived. None: no silence is judged, as the peer is not
    /// known or has left.
    last_ns: Option<u64>,
    /// The deadline that it left behind.
    down_ns: u64,
    /// The interval that holds, and as the heartbeats state it.
    interval_ns: f64,
    stated: u32,
    maintenance: bool,
    timing: Timing,
    follower: Follower,
    learnt: Arrivals,
    detection: Percentiles,
    /// The interval of heartbeats that state none, microseconds; 0 if that is not known.
    unstated_us: u64,
    /// Since when the peer is watched, as long as there is a last one.
    since_ns: u64,
    /// Arrivals that proved nothing.
    old: u64,
    /// As in [`Quality`]; what the silences of one peer add up to is never longer than its trace.
    missing: u64,
    restarts: u64,
    mistakes: u64,
    mistake_duration_ns: u64,
    suspicions: u64,
    observed_ns: u64,
}

/// What is known of the interval of heartbeats that state none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timing {
    /// All that is needed.
    Known,
    /// Nothing; until now none was without.
    Unasked,
    /// Nothing; heartbeats are kept elsewhere until it can be estimated.
    Awaited,
}

impl Course {
    /// One that begins. `unstated_us` is the interval of heartbeats that state none; 0 leaves it to the
    /// policy's default, `None` is not known yet.
    pub(super) fn new(unstated_us: Option<u64>, policy: &Policy) -> Course {
        let timing = if unstated_us.is_some() { Timing::Known } else { Timing::Unasked };
        let unstated_us = unstated_us.unwrap_or(0);
        let interval_ns = policy.interval_ns(unstated_us);
        Course {
            newest_ns: 0,
            last_ns: None,
            down_ns: policy.deadlines_at(&Arrivals::NONE, interval_ns).down_ns,
            interval_ns,
            stated: 0,
            learnt: Arrivals::NONE,
            follower: Follower::default(),
            maintenance: false,
            timing,
            since_ns: 0,
            old: 0,
            missing: 0,
            restarts: 0,
            mistakes: 0,
            mistake_duration_ns: 0,
            suspicions: 0,
            observed_ns: 0,
            detection: Percentiles::default(),
            unstated_us,
        }
    }

    /// Whether all is known that is needed for a heartbeat.
    #[inline(always)]
    pub(super) fn can_take(&self, arrival: &Arrival) -> bool {
        match self.timing {
            Timing::Known => true,
            Timing::Unasked => arrival.interval != 0,
            Timing::Awaited => false,
        }
    }

    /// Waits for the interval, with all heartbeats. False when some were taken before.
    pub(super) fn wait(&mut self) -> bool {
        if self.timing == Timing::Unasked && self.old == 0 && self.detection.is_empty() {
            self.timing = Timing::Awaited;
        }
        self.timing == Timing::Awaited
    }

    /// Has waited long enough: this is the interval of heartbeats that state none, microseconds.
    pub(super) fn begin(&mut self, unstated_us: u64, policy: &Policy) {
        *self = Course { newest_ns: self.newest_ns, ..Course::new(Some(unstated_us), policy) };
    }

    /// The interval of heartbeats that state none, microseconds; 0 if that was not needed.
    pub(super) fn unstated_us(&self) -> u64 {
        self.unstated_us
    }

    /// What came of it.
    pub(super) fn quality(mut self) -> Quality {
        self.end_watch();
        let heartbeats = self.detection.len();
        Quality {
            arrivals: heartbeats + self.old,
            heartbeats,
            missing: self.missing,
            restarts: self.restarts,
            mistakes: self.mistakes,
            mistake_duration_ns: self.mistake_duration_ns.into(),
            suspicions: self.suspicions,
            observed_ns: self.observed_ns.into(),
            detection: self.detection,
        }
    }

    /// Until the next heartbeat that counts, no silence is judged.
    fn end_watch(&mut self) {
        if let Some(last_ns) = self.last_ns.take() {
            self.observed_ns += last_ns - self.since_ns;
        }
    }

    /// Takes in heartbeats in the order of arrival.
    #[inline(always)]
    pub(super) fn take_all(&mut self, arrivals: &[Arrival], policy: &Policy) {
        arrivals.iter().for_each(|arrival| self.take(arrival, policy));
    }

    /// Takes in a heartbeat.
    #[inline(always)]
    pub(super) fn take(&mut self, arrival: &Arrival, policy: &Policy) {
        let is_next = self.follower.take_next(arrival);
        // As most are: the very next of a peer that says what it said before, and that nobody suspected.
        if is_next
            && let Some(last_ns) = &mut self.last_ns
            && arrival.interval == self.stated
            && !(arrival.maintenance | self.maintenance | arrival.bye)
            && !policy.may_suspect(arrival.arrived_ns - *last_ns, self.down_ns)
        {
            let elapsed_ns = arrival.arrived_ns - *last_ns;
            *last_ns = arrival.arrived_ns;
            if policy.detector.learns() {
                let mut learnt = self.learnt;
                policy.learn_at(&mut learnt, elapsed_ns, 1, self.interval_ns);
                self.learnt = learnt;
                self.down_ns = policy.deadlines_at(&learnt, self.interval_ns).down_ns;
            }
            self.detection.push(self.down_ns);
        } else {
            self.take_any(arrival, is_next, policy);
        }
    }

    /// Takes in a heartbeat, whatever it is; its sequence has been followed if it is the very next.
    #[inline(never)]
    fn take_any(&mut self, arrival: &Arrival, is_next: bool, policy: &Policy) {
        let order = if is_next { Order::Newer { missing: 0 } } else { self.follower.take(arrival) };
        let steps = match order {
            Order::Newer { missing } => {
                self.missing += u64::from(missing);
                missing.saturating_add(1)
            }
            Order::Restart => {
                self.restarts += 1;
                self.end_watch();
                0
            }
            Order::Duplicate | Order::Late | Order::Stale => {
                self.old += 1;
                return;
            }
        };
        let before_ns = self.interval_ns;
        let interval_changed = arrival.interval != self.stated;
        if interval_changed {
            let stated_us = wire::decode_interval(arrival.interval).unwrap_or(0);
            let interval_us = if stated_us == 0 { self.unstated_us } else { stated_us };
            self.interval_ns = policy.interval_ns(interval_us);
            self.stated = arrival.interval;
        }
        let learnt = &mut self.learnt;
        if let Some(last_ns) = self.last_ns {
            let elapsed_ns = arrival.arrived_ns - last_ns;
            let suspect_ns = policy.deadlines_at(learnt, before_ns).suspect_ns;
            self.suspicions += u64::from(elapsed_ns > suspect_ns);
            let was_down = elapsed_ns > self.down_ns;
            if was_down {
                self.mistakes += 1;
                self.mistake_duration_ns += elapsed_ns - self.down_ns;
            }
            // As the shard does: `Shard::heard`.
            if interval_changed {
                *learnt = Arrivals::NONE;
            } else if was_down || arrival.maintenance || self.maintenance {
                learnt.resume();
            } else {
                policy.learn_at(learnt, elapsed_ns, steps, self.interval_ns);
            }
        } else {
            self.since_ns = arrival.arrived_ns;
            if interval_changed || order == Order::Restart {
                *learnt = Arrivals::NONE;
            } else {
                learnt.resume();
            }
        }
        self.maintenance = arrival.maintenance;
        // Those of a detector that does not learn change with the interval only.
        if interval_changed || policy.detector.learns() {
            self.down_ns = policy.deadlines_at(learnt, self.interval_ns).down_ns;
        }
        self.detection.push(self.down_ns);
        self.last_ns = Some(arrival.arrived_ns);
        if arrival.bye {
            self.end_watch();
        }
    }
}
