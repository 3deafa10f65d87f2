//! What things cost, as measured in this tree. `docs/capacity.md` has the machine and the commands.

use serde::Serialize;

/// Unit costs of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// To get a datagram from the kernel and decode it: datagrams a second of a reactor, and
    /// nanoseconds for each. With few it sleeps and wakes in between; the last is a full queue.
    pub datagram_ns: [(f64, f64); 3],
    /// To apply a heartbeat: peers of a reactor, and nanoseconds. A large table is not in the cache.
    pub heartbeat_ns: [(f64, f64); 2],
    /// To check the tag of a heartbeat's own datagram, nanoseconds.
    pub tag_ns: f64,
    /// To check that of a full PACK, nanoseconds for each of its heartbeats.
    pub tag_entry_ns: f64,
    /// What a peer takes beside its name, bytes: slot, index, registry.
    pub peer_bytes: f64,
    /// What the process takes without peers, bytes: itself, and its history of events when that is full.
    pub base_bytes: f64,
    /// To take over a peer after a kill, nanoseconds.
    pub restart_ns: f64,
    /// To start, and to take over a history that is full, nanoseconds.
    pub start_ns: f64,
    /// What the kernel accounts a small datagram with, bytes of the receive buffer.
    pub queued_bytes: f64,
    /// The receive buffer of a reactor as it is granted by default, bytes.
    pub buffer_bytes: f64,
}

impl Costs {
    /// As measured.
    pub fn measured() -> Costs {
        Costs {
            datagram_ns: [(5e4, 1_600.0), (2.5e5, 1_120.0), (2e6, 480.0)],
            heartbeat_ns: [(5e4, 9.5), (1e6, 29.0)],
            tag_ns: 44.0,
            tag_entry_ns: 15.0,
            peer_bytes: 226.0,
            base_bytes: 36.0 * 1024.0 * 1024.0,
            restart_ns: 330.0,
            start_ns: 50e6,
            queued_bytes: 800.0,
            buffer_bytes: 128.0 * 1024.0 * 1024.0,
        }
    }

    /// Costs of which none is for datagrams but this one.
    pub fn with_datagram_ns(self, ns: f64) -> Costs {
        Costs { datagram_ns: self.datagram_ns.map(|(per_s, _)| (per_s, ns)), ..self }
    }
}

/// What is at `x` between the points, by the logarithm of `x`; beyond them what is at the nearest.
pub fn at(points: &[(f64, f64)], x: f64) -> f64 {
    let above = points.partition_point(|point| point.0 < x);
    let (Some(low), Some(high)) = (above.checked_sub(1), points.get(above)) else {
        return points[above.min(points.len() - 1)].1;
    };
    let low = points[low];
    low.1 + (high.1 - low.1) * (x / low.0).ln() / (high.0 / low.0).ln()
}
