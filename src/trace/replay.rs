//! Runs a policy over a trace: peer by peer where it is in memory, or all peers side by side while its
//! file is read. `course.rs` has the rules.
//!
//! ```text
//!  Trace ──▶ course of a, its arrivals one after the other ──┐
//!            course of b, …                                  ├──▶ Quality of each, and of all
//!  file ───▶ batch of arrivals ──▶ a b c a b …, each course  │
//!                                  asked for ahead of time ──┘
//! ```

use super::course::{Course, for_each_detector};
use super::{Arrival, ESTIMATED_FROM, Numbered, PeerTrace, Quality, Sink, Trace, TraceError};
use super::{estimate_interval_us, is_avx2_there};
use crate::engine::prefetch::prefetch;
use crate::engine::{Detector, Policy};
use crate::wire::PeerId;
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
    let mut course = Course::new(Some(interval_us), policy);
    let arrivals = &peer.arrivals[..];
    for_each_detector!(policy, |policy| course.take_all(arrivals, policy));
    course.quality()
}

/// Replays a file while it is read, all peers side by side. The trace that comes with it has the peers,
/// but not their heartbeats; beside it each peer's interval of heartbeats that state none, microseconds,
/// as [`Trace::intervals_us`] has it. `interval_us` is that interval for all, if it is given.
///
/// `None` when the file has to be read whole before: heartbeats of a peer are not in the order of
/// arrival, or some that state no interval come behind others that do.
///
/// # Errors
/// The file cannot be read, or is no trace.
pub fn replay_file(
    path: &Path,
    policy: &Policy,
    interval_us: Option<u64>,
) -> Result<Option<(Trace, Vec<u64>, Replay)>, TraceError> {
    // Where an interval plays no part, any will do.
    let plays_no_part = matches!(policy.detector, Detector::Fixed { timeout_ns: Some(_) });
    let interval_us = interval_us.or(plays_no_part.then_some(0));
    let mut courses = Courses {
        policy,
        interval_us,
        trace: Trace::default(),
        courses: Vec::new(),
        waiting: Vec::new(),
        must_be_whole: false,
    };
    courses.trace.losses = super::read(path, &mut courses)?;
    if courses.must_be_whole {
        return Ok(None);
    }
    (0..courses.waiting.len()).for_each(|peer| courses.begin(peer));
    let intervals = courses.courses.iter().map(Course::unstated_us).collect();
    let replay = Replay::of(courses.courses.into_iter().map(Course::quality));
    Ok(Some((courses.trace, intervals, replay)))
}

/// All peers side by side.
struct Courses<'a> {
    policy: &'a Policy,
    /// Interval of the heartbeats that state none, microseconds; `None` until it is estimated.
    interval_us: Option<u64>,
    trace: Trace,
    courses: Vec<Course>,
    /// The heartbeats of each peer whose interval is still to be estimated from them.
    waiting: Vec<Vec<Arrival>>,
    /// The file cannot be replayed as it comes.
    must_be_whole: bool,
}

impl Sink for Courses<'_> {
    const WANTS_SENT: bool = false;

    fn peer(&mut self, id: PeerId, name: String) {
        self.trace.peer(id, name);
        self.courses.push(Course::new(self.interval_us, self.policy));
        self.waiting.push(Vec::new());
    }

    fn take(&mut self, batch: &[Numbered]) -> bool {
        self.must_be_whole = !self.take_batch(batch);
        !self.must_be_whole
    }
}

/// Heartbeats from one that is taken to the one whose peer is asked for.
const AHEAD: usize = 8;

impl Courses<'_> {
    /// False when the file cannot be replayed as it comes.
    fn take_batch(&mut self, batch: &[Numbered]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if is_avx2_there() {
            // SAFETY: the processor has what it is compiled for, as was just asked.
            return unsafe { self.take_by_avx2(batch) };
        }
        for_each_detector!(self.policy, |policy| self.take_all(batch, policy))
    }

    /// The same with the processor's newer instructions, which are fewer.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn take_by_avx2(&mut self, batch: &[Numbered]) -> bool {
        for_each_detector!(self.policy, |policy| self.take_all(batch, policy))
    }

    #[inline(always)]
    fn take_all(&mut self, batch: &[Numbered], policy: &Policy) -> bool {
        for (at, (peer, arrival)) in batch.iter().enumerate() {
            let peer = *peer as usize;
            if let Some((next, _)) = batch.get(at + AHEAD) {
                ask_for(self.courses.as_ptr().wrapping_add(*next as usize));
            }
            let course = &mut self.courses[peer];
            if arrival.arrived_ns < course.newest_ns {
                return false;
            }
            course.newest_ns = arrival.arrived_ns;
            if course.can_take(arrival) {
                course.take(arrival, policy);
            } else if !self.wait(peer, arrival) {
                return false;
            }
        }
        true
    }

    /// Keeps a heartbeat until its peer's interval is estimated. False when it cannot be, as those before
    /// this one were not kept.
    #[cold]
    fn wait(&mut self, peer: usize, arrival: &Arrival) -> bool {
        if !self.courses[peer].wait() {
            return false;
        }
        self.waiting[peer].push(*arrival);
        if self.waiting[peer].len() == ESTIMATED_FROM {
            self.begin(peer);
        }
        true
    }

    /// Estimates the interval of a peer that waits for it, and replays what was kept.
    fn begin(&mut self, peer: usize) {
        let waiting = std::mem::take(&mut self.waiting[peer]);
        if !waiting.is_empty() {
            let course = &mut self.courses[peer];
            course.begin(estimate_interval_us(&waiting), self.policy);
            for_each_detector!(self.policy, |policy| course.take_all(&waiting, policy));
        }
    }
}

/// Asks for the two cache lines of a course that most heartbeats touch.
#[inline(always)]
fn ask_for(course: *const Course) {
    prefetch(course);
    prefetch(course.cast::<[u8; 64]>().wrapping_add(1));
}
