//! From the engine's values to the words of [`crate::api`]: monotonic to wall time, ids to names.

use super::ControlConfig;
use super::events::{Entry, Names};
use super::incidents::{self, Cause, Step};
use super::notes::{Note, NoteEntry};
use crate::api::{self, Event, NoteHead, PeerDetail, PeerSummary};
use crate::clock;
use crate::engine::slot::SlotData;
use crate::engine::transition::PeerState;
use crate::wire::{PeerId, Profile};
use jiff::Timestamp;

/// Wall-clock nanoseconds since 1970 as RFC 3339 in UTC, always with nine decimals.
pub fn stamp(wall_ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(wall_ns)).unwrap_or(Timestamp::MAX);
    format!("{time:.9}")
}

/// What sets monotonic times in relation to the reader's: taken once for one answer.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time, nanoseconds.
    pub monotonic_ns: u64,
    /// What turns monotonic into wall time, nanoseconds.
    pub wall_offset_ns: i64,
}

impl Now {
    /// The time now, labelled with an offset from [`ControlState::wall_offset_ns`].
    ///
    /// [`ControlState::wall_offset_ns`]: super::ControlState::wall_offset_ns
    pub fn with(wall_offset_ns: i64) -> Now {
        Now { monotonic_ns: clock::monotonic_ns(), wall_offset_ns }
    }

    /// The stamp of a monotonic time.
    pub fn stamp(&self, monotonic_ns: u64) -> String {
        stamp(wall(monotonic_ns, self.wall_offset_ns))
    }
}

fn wall(monotonic_ns: u64, offset_ns: i64) -> u64 {
    monotonic_ns.saturating_add_signed(offset_ns)
}

/// A transition as subscribers see it.
pub fn event(config: &ControlConfig, seq: u64, entry: &Entry) -> Event {
    let Entry { transition: t, wall_offset_ns, names, marks, .. } = entry;
    let stamp = |monotonic_ns| stamp(wall(monotonic_ns, *wall_offset_ns));
    let id = t.peer.to_string();
    let returns = t.from == PeerState::Down && t.to == PeerState::Up;
    Event {
        seq,
        monitor: format!("{:016x}", config.monitor_id),
        epoch: config.epoch_ns,
        time: stamp(t.fired_ns),
        peer: names.name().map_or_else(|| id.clone(), String::from),
        id,
        group: names.group().into(),
        from: t.from.as_str().into(),
        to: t.to.as_str().into(),
        reason: t.reason.as_str().into(),
        status: t.status.as_str().into(),
        last_seen: stamp(t.last_seen_ns),
        deadline: (t.deadline_ns > 0).then(|| stamp(t.deadline_ns)),
        lateness_ns: t.lateness_ns(),
        detection_time_ns: t.fired_ns.saturating_sub(t.last_seen_ns),
        incarnation: t.incarnation,
        last_sequence: t.last_sequence,
        gaps: t.gaps,
        in_from_ns: t.in_from_ns,
        down_for_ns: returns.then_some(t.in_from_ns),
        extended_ns: t.extended_ns,
        extended_by: t.extended_by.words().map(String::from).collect(),
        flapping: marks.flapping,
        silenced: marks.silenced,
        incident: (marks.incident > 0).then_some(marks.incident),
    }
}

/// A note as subscribers see it.
pub fn note(config: &ControlConfig, entry: &NoteEntry) -> api::Note {
    let NoteEntry { note, place, wall_offset_ns, names } = entry;
    let stamp = |monotonic_ns| stamp(wall(monotonic_ns, *wall_offset_ns));
    let head = NoteHead {
        seq: place.seq,
        monitor: format!("{:016x}", config.monitor_id),
        epoch: config.epoch_ns,
        time: stamp(note.at_ns()),
    };
    let group = || String::from(names.group());
    match *note {
        Note::Incident(told) => {
            let now = Now { monotonic_ns: told.at_ns, wall_offset_ns: *wall_offset_ns };
            let step = match told.step {
                Step::Open => "open",
                Step::Opened => "opened",
                Step::Updated => "updated",
                Step::Closed => "closed",
            };
            let incident = incident(&now, &told.figures, names);
            api::Note::Incident(api::IncidentNote { head, step: step.into(), incident })
        }
        Note::Flapping(change) => api::Note::Flapping(api::FlappingNote {
            head,
            peer: name_or_id(names, change.peer),
            id: change.peer.to_string(),
            group: group(),
            began: change.began,
            percent: change.percent,
        }),
        Note::Conflict(change) => api::Note::Conflict(api::ConflictNote {
            head,
            peer: name_or_id(names, change.peer),
            id: change.peer.to_string(),
            group: group(),
            began: change.began,
            incarnations: change.incarnations,
            lasted_ns: change.seen_ns.saturating_sub(change.began_ns),
            quiet_ns: change.at_ns.saturating_sub(change.seen_ns),
        }),
        Note::Blind { from_ns, to_ns, deaf } => api::Note::Blind(api::BlindNote {
            head,
            from: stamp(from_ns),
            for_ns: to_ns.saturating_sub(from_ns),
            deaf,
        }),
        Note::Missing { change, wanted, .. } => api::Note::Missing(api::MissingNote {
            head,
            expected: api::Expected {
                peer: names.name().unwrap_or_default().into(),
                group: group(),
                wanted,
                known: change.known,
                missing: change.missing,
            },
        }),
    }
}

fn name_or_id(names: &Names, peer: PeerId) -> String {
    names.name().map_or_else(|| peer.to_string(), String::from)
}

/// An incident, whose parent or group has these names, without its members.
pub fn incident(now: &Now, figures: &incidents::Figures, names: &Names) -> api::Incident {
    let (kind, parent) = match figures.cause {
        Cause::Group(_) => ("group", None),
        Cause::Parent(parent) => ("parent", Some(name_or_id(names, parent))),
        Cause::MassSilence(_) => ("mass_silence", None),
        Cause::StillDown(_) => ("still_down", None),
    };
    let closed = figures.closed_ns > 0;
    let end_ns = if closed { figures.closed_ns } else { now.monotonic_ns };
    api::Incident {
        id: figures.id,
        kind: kind.into(),
        group: if parent.is_some() { String::new() } else { names.group().into() },
        parent,
        began: now.stamp(figures.began_ns),
        opened: now.stamp(figures.opened_ns),
        closed: closed.then(|| now.stamp(figures.closed_ns)),
        lasted_ns: end_ns.saturating_sub(figures.began_ns),
        down: figures.down,
        unreachable: figures.unreachable,
        held: figures.held,
        most: figures.most,
        size: figures.size,
        part_of: (figures.part_of > 0).then_some(figures.part_of),
        first: Vec::new(),
    }
}

/// A peer as a listing shows it; whether it flaps is the alarms' to add.
pub fn peer_summary(
    config: &ControlConfig,
    now: &Now,
    slot: &SlotData,
    profile: Option<&Profile<'_>>,
) -> PeerSummary {
    let id = slot.peer.to_string();
    PeerSummary {
        name: profile.map_or_else(|| id.clone(), |p| p.name.into()),
        id,
        group: profile.map_or_else(String::new, |p| p.group.into()),
        state: slot.state.as_str().into(),
        status: slot.status.as_str().into(),
        last_seen: now.stamp(slot.last_seen_ns),
        silent_ns: now.monotonic_ns.saturating_sub(slot.last_seen_ns),
        interval_ns: config.groups.policy(slot.group).interval_us(slot.interval_us) * 1_000,
        since: now.stamp(slot.since_ns),
        key: (slot.key_id != 0).then_some(slot.key_id),
        flapping: false,
        silenced: slot.silenced,
    }
}

/// Everything that a slot and a profile tell of a peer; what others know of it is theirs to add.
pub fn peer_detail(
    config: &ControlConfig,
    now: &Now,
    slot: &SlotData,
    profile: Option<&Profile<'_>>,
    reactor: u32,
) -> PeerDetail {
    let policy = config.groups.policy(slot.group);
    let deadlines = policy.deadlines(&slot.arrivals, slot.interval_us);
    let beating = slot.state != PeerState::Left;
    let after = |timeout_ns| beating.then(|| now.stamp(slot.last_seen_ns + timeout_ns));
    let labels = profile.into_iter().flat_map(|p| p.labels());
    PeerDetail {
        summary: peer_summary(config, now, slot, profile),
        labels: labels.map(|(key, value)| (key.into(), value.into())).collect(),
        suspect_deadline: after(deadlines.suspect_ns),
        deadline: after(deadlines.down_ns),
        timeout_ns: deadlines.down_ns,
        first_seen: now.stamp(slot.first_seen_ns),
        incarnation: slot.incarnation,
        last_sequence: slot.last_sequence,
        heartbeats: slot.heartbeats.into(),
        gaps: slot.gaps.into(),
        duplicates: slot.duplicates.into(),
        reordered: slot.reordered.into(),
        restarts: slot.restarts.into(),
        stale: slot.stale.into(),
        reactor,
        parent: None,
        conflict: None,
        silence: None,
        incident: None,
        qos: api::Qos::default(),
        transitions: Vec::new(),
    }
}
