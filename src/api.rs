//! The JSON that the monitor speaks: one struct per answer, used by the server, the commands and
//! the generator alike, so that they cannot disagree.
//!
//! Times are RFC 3339 in UTC with nanoseconds (`2026-11-23T10:00:00.123456789Z`); durations are
//! integers with their unit last (`lateness_ns`). Peer ids are 16 hex digits.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Header of the event stream's answer: the sequence number after which it begins.
pub const SEQ_HEADER: &str = "systole-after";
/// Header of the event stream's answer: the epoch of its numbers.
pub const EPOCH_HEADER: &str = "systole-epoch";

/// `GET /api/v1/summary`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the monitor.
    pub version: String,
    /// The monitor's id: 16 hex digits, drawn at random when it starts without a configured one.
    pub monitor: String,
    /// The monitor's start, nanoseconds since 1970: with `monitor` and `seq` it names a transition.
    pub epoch: u64,
    /// When the monitor started.
    pub started: String,
    /// The monitor's wall clock now.
    pub time: String,
    /// `uring`, `poll`, or `mixed` when some reactors fell back.
    pub transport: String,
    /// Number of reactors.
    pub reactors: u32,
    /// The UDP addresses that it listens on, ports resolved.
    pub udp: Vec<String>,
    /// Peers by state.
    pub peers: PeerCounts,
    /// Most peers that the monitor takes (`--max-peers`).
    pub max_peers: u64,
    /// Heartbeats applied since the start.
    pub heartbeats: u64,
    /// Heartbeats per second over the last second.
    pub heartbeats_per_second: f64,
    /// Datagrams that the kernel dropped because a receive buffer was full, since the start.
    pub kernel_drops: u64,
    /// Datagrams dropped and heartbeats refused by us, by reason; only reasons that occurred.
    pub dropped: BTreeMap<String, u64>,
    /// The last transition's sequence number.
    pub last_seq: u64,
    /// How deadlines are computed.
    pub timing: TimingSettings,
}

/// How deadlines are computed: `timeout = missed × interval + grace`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimingSettings {
    /// Interval of peers that state none, nanoseconds.
    pub interval_ns: u64,
    /// Intervals that a peer may miss.
    pub missed: f64,
    /// Added to every timeout, nanoseconds.
    pub grace_ns: u64,
    /// Share of the timeout after which a peer is suspected.
    pub suspect_at: f64,
}

/// Peers by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Beating.
    pub up: u64,
    /// Silent for the suspicion fraction of its timeout.
    pub suspect: u64,
    /// Silent past its deadline.
    pub down: u64,
    /// Said BYE.
    pub left: u64,
    /// All of them.
    pub total: u64,
}

/// `GET /api/v1/peers`: one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerPage {
    /// The peers of this page, in table order. A page can be short, even empty, before the end:
    /// the server bounds how much it looks at for one answer.
    pub peers: Vec<PeerSummary>,
    /// Pass it as `?cursor=` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// One line of a peer listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerSummary {
    /// Its name; its id in hex while the name is unknown.
    pub name: String,
    /// 16 hex digits.
    pub id: String,
    /// Its group; empty when it has none.
    pub group: String,
    /// `up`, `suspect`, `down` or `left`.
    pub state: String,
    /// What the sender says of itself: `ok`, `warn`, `critical` or `maintenance`.
    pub status: String,
    /// When it was last heard.
    pub last_seen: String,
    /// How long ago that was, nanoseconds.
    pub silent_ns: u64,
    /// Its interval, nanoseconds.
    pub interval_ns: u64,
    /// Since when it is in this state.
    pub since: String,
}

/// `GET /api/v1/peers/{name}`: everything known of one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerDetail {
    /// What a listing shows.
    #[serde(flatten)]
    pub summary: PeerSummary,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it is suspected if it stays silent (or was, in `suspect` and `down`); absent in `left`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub suspect_deadline: Option<String>,
    /// When it is called down if it stays silent (or was); absent in `left`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline: Option<String>,
    /// From its last heartbeat to its deadline, nanoseconds.
    pub timeout_ns: u64,
    /// When it was first heard.
    pub first_seen: String,
    /// Its incarnation, tenths of a second since 1970 modulo 2^32; 0 for the text form.
    pub incarnation: u32,
    /// The last sequence number heard.
    pub last_sequence: u32,
    /// Heartbeats applied.
    pub heartbeats: u64,
    /// Heartbeats found missing from the sequence when a later one came; one that then comes late
    /// counts in `reordered` too.
    pub gaps: u64,
    /// Heartbeats that came twice.
    pub duplicates: u64,
    /// Heartbeats that came after a later one.
    pub reordered: u64,
    /// Times that the sender was restarted.
    pub restarts: u64,
    /// Heartbeats of an earlier incarnation, or more than 31 numbers back, refused.
    pub stale: u64,
    /// Which reactor owns it.
    pub reactor: u32,
    /// Its latest transitions that the monitor still holds, newest first.
    pub transitions: Vec<Event>,
}

/// One transition: the data of a server-sent event on `GET /api/v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Monotonic in this epoch, without holes; also the event's id.
    pub seq: u64,
    /// The monitor's id.
    pub monitor: String,
    /// The monitor's start, nanoseconds since 1970.
    pub epoch: u64,
    /// When the engine made the transition.
    pub time: String,
    /// The peer's name; its id in hex while the name is unknown.
    pub peer: String,
    /// 16 hex digits.
    pub id: String,
    /// Its group; empty when it has none.
    pub group: String,
    /// State before: `unknown`, `up`, `suspect`, `down` or `left`.
    pub from: String,
    /// State after: `up`, `suspect`, `down`, `left` or `forgotten`.
    pub to: String,
    /// `first_beat`, `silence`, `beat`, `restart`, `bye`, `expired` or `removed`.
    pub reason: String,
    /// What the sender last said of itself.
    pub status: String,
    /// The last heartbeat before the transition.
    pub last_seen: String,
    /// The deadline that passed; null when there was none.
    pub deadline: Option<String>,
    /// Fired minus deadline, nanoseconds; 0 when there was no deadline.
    pub lateness_ns: u64,
    /// From the last heartbeat to the transition, nanoseconds.
    pub detection_time_ns: u64,
    /// The incarnation last heard.
    pub incarnation: u32,
    /// The last sequence number heard.
    pub last_sequence: u32,
    /// Heartbeats missing from the sequence so far.
    pub gaps: u64,
    /// How long it had been in `from`, nanoseconds.
    pub in_from_ns: u64,
    /// How long it had been down, nanoseconds; null unless it comes back from down.
    pub down_for_ns: Option<u64>,
}

/// Sent as `event: gap` when a subscriber asks for, or falls behind to, transitions that the ring
/// no longer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventGap {
    /// First sequence number that is missing.
    pub from_seq: u64,
    /// Last sequence number that is missing.
    pub to_seq: u64,
}

/// `GET /api/v1/histograms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// What the values are counted from: `start`, or `interval` since the last reset.
    pub since: String,
    /// When that was.
    pub since_time: String,
    /// The histograms, by name (`lateness_ns`, `detection_time_ns`, …).
    pub histograms: BTreeMap<String, HistogramSummary>,
}

/// One histogram in figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramSummary {
    /// What it measures, in a sentence.
    pub help: String,
    /// Values recorded.
    pub count: u64,
    /// Lower bound of the bucket of the smallest value, which is at most 1 % larger.
    pub min: u64,
    /// Mean of the values.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// 99.99th percentile.
    pub p9999: u64,
    /// 99.999th percentile.
    pub p99999: u64,
    /// Largest value.
    pub max: u64,
    /// Every non-empty bucket, `[highest equivalent value, count]`, ascending; only with `?buckets=1`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub buckets: Vec<(u64, u64)>,
}

/// `DELETE /api/v1/peers/{name}`: the removal was handed to the peer's reactor; a transition to
/// `forgotten` follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The peer's name; its id in hex while the name is unknown.
    pub name: String,
    /// 16 hex digits.
    pub id: String,
}

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For scripts: `not_found`, `bad_request`, `unavailable`, …
    pub code: String,
    /// For people: one sentence.
    pub message: String,
}
