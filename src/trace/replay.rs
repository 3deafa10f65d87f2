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

use super::{Follower, PeerTrace, Quality, Trace};
use crate::engine::sequence::Order;
use crate::engine::{Arrivals, Deadlines, Policy};
use crate::wire;

/// What a replay found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Replay {
    /// All peers together.
    pub overall: Quality,
    /// Each peer, in the order of the trace.
    pub peers: Vec<Quality>,
}

/// Replays a whole trace. `interval_us` gives the interval of a peer's heartbeats that state none, by
/// its place in the trace; 0 leaves it to the policy's default.
pub fn replay(trace: &Trace, policy: &Policy, interval_us: impl Fn(usize) -> u64) -> Replay {
    let mut replay = Replay::default();
    replay.peers.reserve(trace.peers.len());
    for (place, peer) in trace.peers.iter().enumerate() {
        let quality = replay_peer(peer, policy, interval_us(place));
        replay.overall.add(&quality);
        replay.peers.push(quality);
    }
    replay
}

/// Replays one peer. `interval_us` is the interval of its heartbeats that state none; 0 leaves it to
/// the policy's default.
pub fn replay_peer(peer: &PeerTrace, policy: &Policy, interval_us: u64) -> Quality {
    let mut quality = Quality { arrivals: peer.arrivals.len() as u64, ..Quality::default() };
    let mut follower = Follower::default();
    let mut learnt = Arrivals::NONE;
    let mut interval = (0, interval_us);
    let mut maintenance = false;
    // The last heartbeat that counted, and the deadlines that it left behind. None: no silence is
    // judged, as the peer is not known or has left.
    let mut last: Option<(u64, Deadlines)> = None;
    for arrival in &peer.arrivals {
        let order = follower.take(arrival);
        let steps = match order {
            Order::Newer { missing } => {
                quality.missing += u64::from(missing);
                missing.saturating_add(1)
            }
            Order::Restart => {
                quality.restarts += 1;
                last = None;
                0
            }
            Order::Duplicate | Order::Late | Order::Stale => continue,
        };
        quality.heartbeats += 1;
        let interval_changed = arrival.interval != interval.0;
        if interval_changed {
            let stated_us = wire::decode_interval(arrival.interval).unwrap_or(0);
            let us = if stated_us == 0 { interval_us } else { stated_us };
            interval = (arrival.interval, us);
        }
        let judged = last.take();
        if let Some((last_ns, deadlines)) = judged {
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
                learnt = Arrivals::NONE;
            } else if was_down || arrival.maintenance || maintenance {
                learnt.resume();
            } else {
                policy.learn(&mut learnt, elapsed_ns, steps, interval.1);
            }
        } else if interval_changed || order == Order::Restart {
            learnt = Arrivals::NONE;
        } else {
            learnt.resume();
        }
        maintenance = arrival.maintenance;
        let deadlines = policy.deadlines(&learnt, interval.1);
        quality.detection.push(deadlines.down_ns);
        last = (!arrival.bye).then_some((arrival.arrived_ns, deadlines));
    }
    quality
}
