//! Runs a policy over the arrivals of a peer, as the monitor would have.
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

use super::{Arrival, Follower, PeerTrace, Quality, Sink, Trace, TraceError};
use crate::engine::sequence::Order;
use crate::engine::{Arrivals, Deadlines, Detector, Policy};
use crate::wire::{self, PeerId};
use std::path::Path;

/// What a replay found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Replay {
    /// All peers together.
    pub overall: Quality,
    /// Each peer, in the order of the trace.
    pub peers: Vec<Quality>,
}

impl Replay {
    fn of(peers: impl ExactSizeIterator<Item = Quality>) -> Replay {
        let mut replay = Replay::default();
        replay.peers.reserve(peers.len());
        for quality in peers {
            replay.overall.add(&quality);
            replay.peers.push(quality);
        }
        replay
    }
}

/// Replays a whole trace. `interval_us` gives the interval of a peer's heartbeats that state none, by
/// its place in the trace; 0 leaves it to the policy's default.
pub fn replay(trace: &Trace, policy: &Policy, interval_us: impl Fn(usize) -> u64) -> Replay {
    let peers = trace.peers.iter().enumerate();
    Replay::of(peers.map(|(place, peer)| replay_peer(peer, policy, interval_us(place))))
}

/// Replays one peer. `interval_us` is the interval of its heartbeats that state none; 0 leaves it to
/// the policy's default.
pub fn replay_peer(peer: &PeerTrace, policy: &Policy, interval_us: u64) -> Quality {
    let mut course = Course::new(interval_us, policy);
    peer.arrivals.iter().for_each(|arrival| course.take(arrival, policy));
    course.quality
}

/// Replays a file while it is read, all peers side by side. The trace that comes with it has the peers,
/// but not their heartbeats. `interval_us` is the interval of heartbeats that state none, if it is given.
///
/// `None` when the file has to be read whole before: heartbeats of a peer are not in the order of
/// arrival, or an interval must be estimated.
///
/// # Errors
/// The file cannot be read, or is no trace.
pub fn replay_file(
    path: &Path,
    policy: &Policy,
    interval_us: Option<u64>,
) -> Result<Option<(Trace, Replay)>, TraceError> {
    let timeout_is_given = matches!(policy.detector, Detector::Fixed { timeout_ns: Some(_) });
    let mut courses = Courses {
        policy,
        interval_us: interval_us.unwrap_or(0),
        interval_is_known: interval_us.is_some() || timeout_is_given,
        trace: Trace::default(),
        courses: Vec::new(),
        in_order: true,
    };
    courses.trace.losses = super::read(path, &mut courses)?;
    let Courses { trace, courses, in_order: true, .. } = courses else { return Ok(None) };
    let replay = Replay::of(courses.into_iter().map(|(_, course)| course.quality));
    Ok(Some((trace, replay)))
}

/// All peers side by side.
struct Courses<'a> {
    policy: &'a Policy,
    interval_us: u64,
    interval_is_known: bool,
    trace: Trace,
    /// The peers, with the time of the last arrival of each.
    courses: Vec<(u64, Course)>,
    /// Everything so far could be replayed as it came.
    in_order: bool,
}

impl Sink for Courses<'_> {
    fn peer(&mut self, id: PeerId, name: String) {
        self.trace.peer(id, name);
        self.courses.push((0, Course::new(self.interval_us, self.policy)));
    }

    #[inline]
    fn take(&mut self, peer: usize, arrival: &Arrival) -> bool {
        let (last_ns, course) = &mut self.courses[peer];
        let in_order = arrival.arrived_ns >= *last_ns;
        self.in_order = in_order && (arrival.interval != 0 || self.interval_is_known);
        if self.in_order {
            *last_ns = arrival.arrived_ns;
            course.take(arrival, self.policy);
        }
        self.in_order
    }
}

/// One peer's replay, as far as it has come.
#[derive(Clone)]
struct Course {
    quality: Quality,
    follower: Follower,
    learnt: Arrivals,
    /// The interval that holds, as the heartbeats state it and in microseconds.
    interval: (u32, u64),
    /// That of heartbeats that state none, microseconds.
    unstated_us: u64,
    maintenance: bool,
    /// When the last heartbeat that counted arrived. None: no silence is judged, as the peer is not
    /// known or has left.
    last_ns: Option<u64>,
    /// The deadlines that it left behind.
    deadlines: Deadlines,
}

impl Course {
    fn new(unstated_us: u64, policy: &Policy) -> Course {
        Course {
            quality: Quality::default(),
            follower: Follower::default(),
            learnt: Arrivals::NONE,
            interval: (0, unstated_us),
            unstated_us,
            maintenance: false,
            last_ns: None,
            deadlines: policy.deadlines(&Arrivals::NONE, unstated_us),
        }
    }

    #[inline(always)]
    fn take(&mut self, arrival: &Arrival, policy: &Policy) {
        let Course { quality, learnt, deadlines, .. } = self;
        quality.arrivals += 1;
        let order = self.follower.take(arrival);
        let steps = match order {
            Order::Newer { missing } => {
                quality.missing += u64::from(missing);
                missing.saturating_add(1)
            }
            Order::Restart => {
                quality.restarts += 1;
                self.last_ns = None;
                0
            }
            Order::Duplicate | Order::Late | Order::Stale => return,
        };
        quality.heartbeats += 1;
        let interval_changed = arrival.interval != self.interval.0;
        if interval_changed {
            let stated_us = wire::decode_interval(arrival.interval).unwrap_or(0);
            let us = if stated_us == 0 { self.unstated_us } else { stated_us };
            self.interval = (arrival.interval, us);
        }
        if let Some(last_ns) = self.last_ns {
            let elapsed_ns = arrival.arrived_ns - last_ns;
            quality.observed_ns += u128::from(elapsed_ns);
            quality.suspicions += u64::from(elapsed_ns > deadlines.suspect_ns);
            let was_down = elapsed_ns > deadlines.down_ns;
            if was_down {
                quality.mistakes += 1;
                quality.mistake_duration_ns += u128::from(elapsed_ns - deadlines.down_ns);
            }
            // As the shard does: `Shard::heard`.
            if interval_changed {
                *learnt = Arrivals::NONE;
            } else if was_down || arrival.maintenance || self.maintenance {
                learnt.resume();
            } else {
                policy.learn(learnt, elapsed_ns, steps, self.interval.1);
            }
        } else if interval_changed || order == Order::Restart {
            *learnt = Arrivals::NONE;
        } else {
            learnt.resume();
        }
        self.maintenance = arrival.maintenance;
        // Those of a detector that does not learn change with the interval only.
        if interval_changed || policy.detector.learns() {
            *deadlines = policy.deadlines(learnt, self.interval.1);
        }
        quality.detection.push(deadlines.down_ns);
        self.last_ns = (!arrival.bye).then_some(arrival.arrived_ns);
    }
}
