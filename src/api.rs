//! The JSON that the monitor speaks: one struct per answer, used by the server, the commands and
//! the generator alike, so that they cannot disagree.
//!
//! Times are RFC 3339 in UTC with nanoseconds (`2026-11-23T10:00:00.123456789Z`); durations are
//! integers with their unit last (`lateness_ns`). Peer ids are 16 hex digits.

mod histograms;
mod notes;

pub use histograms::{HistogramSummary, Histograms};
pub use notes::{BlindNote, ConflictNote, FlappingNote, IncidentNote, MissingNote, Note, NoteHead};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Header of the event stream's answer: the sequence number after which it begins.
pub const SEQ_HEADER: &str = "systole-after";
/// Header of the event stream's answer: the epoch of its numbers.
pub const EPOCH_HEADER: &str = "systole-epoch";

/// `GET /api/v1/summary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the monitor.
    pub version: String,
    /// The monitor's id: 16 hex digits, drawn at random when it starts without a configured one.
    pub monitor: String,
    /// When the numbers of the transitions began, nanoseconds since 1970: the start of this process,
    /// or of the one whose state it goes on with. With `monitor` and `seq` it names a transition.
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
    /// What the monitor makes of it beyond single peers.
    #[serde(default)]
    pub alarms: AlarmCounts,
    /// When a mass silence is held; null when it never is.
    #[serde(default)]
    pub mass_silence: Option<BrakeSettings>,
    /// Where state is kept, and what came of it at the start; absent when it ends with the process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<StateFigures>,
}

/// Where state is kept, and what this process took over from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFigures {
    /// The directory.
    pub directory: String,
    /// Peers taken over.
    pub peers_recovered: u64,
    /// Slots of theirs that the process before had not finished writing.
    pub slots_repaired: u64,
    /// Slots that could not be taken over.
    pub slots_discarded: u64,
    /// Transitions written down by the process before and made by this one.
    pub transitions_redone: u64,
    /// How long nobody looked between the process before and this one, nanoseconds; deadlines are
    /// extended for it. 0 when there was no state to go on with.
    #[serde(default)]
    pub blind_ns: u64,
    /// Files that were found damaged, and begun anew or cut off.
    #[serde(default)]
    pub files_damaged: u64,
}

/// Figures of what alarms, and what keeps from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmCounts {
    /// Open incidents.
    pub incidents: u64,
    /// Peers held as suspect because too many fell silent at once.
    pub held: u64,
    /// Peers that flap.
    pub flapping: u64,
    /// Expectations that are not met.
    pub missing: u64,
    /// Silences that hold.
    pub silences: u64,
    /// Peers that have two senders or more.
    #[serde(default)]
    pub in_conflict: u64,
    /// Times that a peer was found to have two senders, since the start.
    pub conflicts: u64,
    /// Time in which a reactor did not run when it should have, since the start, nanoseconds.
    pub blind_ns: u64,
    /// Time in which heartbeats are known to have been lost at the monitor, nanoseconds.
    pub deaf_ns: u64,
    /// Verdicts that came later for what the monitor missed, or was held for.
    pub extended: u64,
}

/// When a mass silence is held.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrakeSettings {
    /// The share of the living that has to be suspect.
    pub share: f64,
    /// How many at least.
    pub least: u32,
    /// For how long at most they are held, nanoseconds.
    pub hold_ns: u64,
}

/// How deadlines are computed: `timeout = missed × interval + grace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Silent behind a parent that is down.
    #[serde(default)]
    pub unreachable: u64,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerSummary {
    /// Its name; its id in hex while the name is unknown.
    pub name: String,
    /// 16 hex digits.
    pub id: String,
    /// Its group; empty when it has none.
    pub group: String,
    /// `up`, `suspect`, `down`, `left` or `unreachable`.
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
    /// Id of the key that it is bound to; absent when it has not authenticated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<u8>,
    /// Whether it flaps.
    #[serde(skip_serializing_if = "is_false", default)]
    pub flapping: bool,
    /// Whether it is under a silence.
    #[serde(skip_serializing_if = "is_false", default)]
    pub silenced: bool,
}

/// `GET /api/v1/peers/{name}`: everything known of one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The parent that it or its group names, else the relay that its beats come through.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<Parent>,
    /// Its second sender, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conflict: Option<Conflict>,
    /// The silence that it is under.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub silence: Option<Silence>,
    /// The open incident that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub incident: Option<u32>,
    /// How good the verdicts on it were.
    #[serde(default)]
    pub qos: Qos,
    /// Its latest transitions that the monitor still holds, newest first.
    pub transitions: Vec<Event>,
}

/// One transition: the data of a server-sent event on `GET /api/v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Monotonic in this epoch, without holes; also the event's id.
    pub seq: u64,
    /// The monitor's id.
    pub monitor: String,
    /// When the numbers began, nanoseconds since 1970; goes on over a restart where state is kept.
    pub epoch: u64,
    /// When the engine made the transition.
    pub time: String,
    /// The peer's name; its id in hex while the name is unknown.
    pub peer: String,
    /// 16 hex digits.
    pub id: String,
    /// Its group; empty when it has none.
    pub group: String,
    /// State before: `unknown`, `up`, `suspect`, `down`, `left` or `unreachable`.
    pub from: String,
    /// State after: `up`, `suspect`, `down`, `left`, `unreachable` or `forgotten`.
    pub to: String,
    /// `first_beat`, `silence`, `beat`, `restart`, `bye`, `expired`, `removed` or `parent`.
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
    /// How much later the deadline was than its detector alone would have had it, nanoseconds.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub extended_ns: u64,
    /// Why: `blind`, `deaf`, `mass`, `parent`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub extended_by: Vec<String>,
    /// Whether its peer flaps.
    #[serde(skip_serializing_if = "is_false", default)]
    pub flapping: bool,
    /// Whether its peer is under a silence.
    #[serde(skip_serializing_if = "is_false", default)]
    pub silenced: bool,
    /// The incident that it is part of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub incident: Option<u32>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
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

/// An incident: failures that belong together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number, from 1, in this epoch.
    pub id: u32,
    /// `group` (many of a group went down together), `parent` (a parent is down, and its children
    /// are unreachable), `mass_silence` (so many fell silent that they are held as suspect) or
    /// `still_down` (peers of a group were down when their planned silence was over).
    pub kind: String,
    /// The group; empty when it is about a parent or the whole fleet.
    pub group: String,
    /// The parent's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<String>,
    /// The first failure.
    pub began: String,
    /// When it was recognised as an incident.
    pub opened: String,
    /// When all were back; null while it is open.
    pub closed: Option<String>,
    /// How long it has lasted, nanoseconds.
    pub lasted_ns: u64,
    /// Members that are down now.
    pub down: u32,
    /// Members that are unreachable now.
    pub unreachable: u32,
    /// Peers held as suspect because of it.
    pub held: u32,
    /// The most members, or peers held, at once.
    pub most: u32,
    /// Peers that could have been members: those of the group, or of the fleet; the most members if they
    /// are more.
    pub size: u32,
    /// The incident that has taken it in, where one has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub part_of: Option<u32>,
    /// The names of the first members, 32 at most; empty in a note. All of them are listed by
    /// `/api/v1/peers?incident=ID`.
    #[serde(default)]
    pub first: Vec<String>,
}

/// Two senders or more under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// When it was recognised.
    pub began: String,
    /// When it was seen last.
    pub seen: String,
    /// The incarnation that was heard last, and the others; one stands twice if it has two senders.
    pub incarnations: Vec<u32>,
}

/// Whose name has two senders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConflict {
    /// The peer's name; its id in hex while the name is unknown.
    pub peer: String,
    /// Since when, and who.
    #[serde(flatten)]
    pub conflict: Conflict,
}

/// `GET /api/v1/incidents`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Incidents {
    /// The monitor's wall clock when it answered.
    pub time: String,
    /// The open ones, newest first.
    pub open: Vec<Incident>,
    /// The last 256 closed ones, newest first; only with `?closed=1`.
    #[serde(default)]
    pub closed: Vec<Incident>,
    /// Incidents that were not opened because 4,096 are open.
    pub refused: u64,
    /// Whose names have two senders; no incidents, and at most 1,000 of them.
    #[serde(default)]
    pub conflicts: Vec<PeerConflict>,
}

/// An expectation and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The name of the peer that is expected; empty when peers of a group are.
    pub peer: String,
    /// The group of which peers are expected.
    pub group: String,
    /// How many are expected.
    pub wanted: u32,
    /// How many are known.
    pub known: u32,
    /// Whether it has been unmet for longer than is allowed.
    pub missing: bool,
}

/// `GET /api/v1/expected`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectations {
    /// How many there are in the configuration.
    pub total: u64,
    /// How many of them are missing.
    pub missing: u64,
    /// The first 1,000 that are missing; with `?all=1` the first 1,000 of all.
    pub expected: Vec<Expected>,
}

/// A peer's parent, and how that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its name.
    pub name: String,
    /// Its state; `unknown` when it has never beaten.
    pub state: String,
    /// Since when; null when it is unknown.
    pub since: Option<String>,
}

/// A planned silence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its number, from 1, in this epoch.
    pub id: u32,
    /// For whom: terms with commas between them, each a name or pattern, `group=` or `LABEL=`.
    pub selector: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub from: String,
    /// Until when.
    pub until: String,
    /// How long it still holds, nanoseconds.
    pub left_ns: u64,
    /// How many of the peers known then it is for; told when it is made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub matches: Option<u64>,
    /// Where state is kept, this change could not be written: it holds, and a restart undoes it.
    #[serde(skip_serializing_if = "is_false", default)]
    pub unkept: bool,
}

/// `POST /api/v1/silences`: what to silence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSilence {
    /// For whom.
    pub selector: String,
    /// For how long, nanoseconds.
    pub for_ns: u64,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// `GET /api/v1/silences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silences {
    /// Those that hold, in the order of their numbers.
    pub silences: Vec<Silence>,
}

/// Chen's metrics of a peer, a group or the fleet; see docs/guards.md for their definitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Qos {
    /// Time that living peers were watched, in sum, nanoseconds.
    pub watched_ns: u64,
    /// Calls of down that a heartbeat of the same incarnation ended.
    pub mistakes: u64,
    /// λ_M: mistakes per peer and second.
    pub mistake_rate: f64,
    /// T_MR: from one mistake to the next, for one peer, nanoseconds; null without a mistake.
    pub mistake_recurrence_ns: Option<u64>,
    /// T_M: how long a mistake lasts, the mean, nanoseconds; null without a mistake.
    pub mistake_duration_ns: Option<u64>,
    /// P_A: the share of their time that living peers were not called down.
    pub query_accuracy: f64,
    /// Suspicions that a heartbeat of the same incarnation ended.
    pub wrong_suspicions: u64,
    /// How long those lasted, the mean, nanoseconds; null without one.
    pub suspicion_duration_ns: Option<u64>,
    /// Calls of down, right and wrong; 0 for a single peer.
    pub detections: u64,
    /// T_D: from the last heartbeat to the call of down, the mean, nanoseconds; for a peer the one
    /// that a crash now would have.
    pub detection_time_ns: Option<u64>,
    /// The longest of them, nanoseconds.
    pub detection_time_max_ns: Option<u64>,
    /// Share of the heartbeats that never came, 0 to 1.
    pub loss: f64,
    /// The spread of arrivals that the detector has learnt, the mean over peers, nanoseconds; null
    /// while it has learnt none.
    pub jitter_ns: Option<u64>,
}

/// A group in figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupQos {
    /// Its name; empty for the peers without one.
    pub group: String,
    /// Its peers by state.
    pub peers: PeerCounts,
    /// How good the verdicts on them were.
    pub qos: Qos,
}

/// `GET /api/v1/qos`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QosReport {
    /// The whole fleet.
    pub fleet: Qos,
    /// The groups, the largest first: as many as `?limit=` says, 100 without it; or the one of
    /// `?group=`.
    pub groups: Vec<GroupQos>,
    /// How many groups there are.
    pub groups_total: u64,
}

/// `DELETE /api/v1/peers/{name}`: the removal was handed to the peer's reactor; a transition to
/// `forgotten` follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The peer's name; its id in hex while the name is unknown.
    pub name: String,
    /// 16 hex digits.
    pub id: String,
    /// Peers that have it for a parent, and lose it.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub children: u64,
    /// Those of them that are unreachable, which means down without a parent.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub unreachable: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_incidents_are_there_when_they_are_empty() {
        let open = vec![Incident::default()];
        let text = serde_json::to_value(Incidents { open, ..Incidents::default() }).unwrap();
        assert_eq!(text["open"][0]["first"], serde_json::json!([]));
        for list in ["closed", "conflicts"] {
            assert_eq!(text[list], serde_json::json!([]), "{list}");
        }
    }
}
