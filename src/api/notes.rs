//! Notes: what the event stream tells beside the transitions.

use super::{Expected, Incident};
use serde::{Deserialize, Serialize};

/// What every note of the event stream begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteHead {
    /// The number of the transition that it follows; the event's id has its place behind that one, too.
    pub seq: u64,
    /// The monitor's id.
    pub monitor: String,
    /// The monitor's start, nanoseconds since 1970.
    pub epoch: u64,
    /// When it happened.
    pub time: String,
}

/// A note: what is told on the event stream beside the transitions. The name of the server-sent event
/// says which it is ([`Note::event`]).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Note {
    /// `event: incident`.
    Incident(IncidentNote),
    /// `event: flapping`.
    Flapping(FlappingNote),
    /// `event: conflict`.
    Conflict(ConflictNote),
    /// `event: blind`.
    Blind(BlindNote),
    /// `event: missing`.
    Missing(MissingNote),
}

impl Note {
    /// The name of the server-sent event.
    pub fn event(&self) -> &'static str {
        match self {
            Note::Incident(_) => "incident",
            Note::Flapping(_) => "flapping",
            Note::Conflict(_) => "conflict",
            Note::Blind(_) => "blind",
            Note::Missing(_) => "missing",
        }
    }

    /// Reads the data of the event of this name; `None` for a name that is not a note's.
    pub fn parse(event: &str, data: &str) -> Option<Result<Note, serde_json::Error>> {
        Some(match event {
            "incident" => serde_json::from_str(data).map(Note::Incident),
            "flapping" => serde_json::from_str(data).map(Note::Flapping),
            "conflict" => serde_json::from_str(data).map(Note::Conflict),
            "blind" => serde_json::from_str(data).map(Note::Blind),
            "missing" => serde_json::from_str(data).map(Note::Missing),
            _ => return None,
        })
    }

    /// What they all begin with.
    pub fn head(&self) -> &NoteHead {
        match self {
            Note::Incident(note) => &note.head,
            Note::Flapping(note) => &note.head,
            Note::Conflict(note) => &note.head,
            Note::Blind(note) => &note.head,
            Note::Missing(note) => &note.head,
        }
    }
}

/// `event: incident`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentNote {
    /// Number and time.
    #[serde(flatten)]
    pub head: NoteHead,
    /// `opened`, `updated` (it has grown, or a hold has ended) or `closed`; `open` to who begins to
    /// follow, of what was opened before.
    pub step: String,
    /// As it is then; without the names of its members.
    pub incident: Incident,
}

/// `event: flapping`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlappingNote {
    /// Number and time.
    #[serde(flatten)]
    pub head: NoteHead,
    /// The peer's name; its id in hex while the name is unknown.
    pub peer: String,
    /// 16 hex digits.
    pub id: String,
    /// Its group.
    pub group: String,
    /// It began (above 30 %), or ended (25 % or less).
    pub began: bool,
    /// The weighted share of changes among the last 20 looks at it, percent.
    pub percent: f64,
}

/// `event: conflict`: two senders are alive under one id, or are no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConflictNote {
    /// Number and time.
    #[serde(flatten)]
    pub head: NoteHead,
    /// The peer's name; its id in hex while the name is unknown.
    pub peer: String,
    /// 16 hex digits.
    pub id: String,
    /// Its group.
    pub group: String,
    /// It began, or ended.
    pub began: bool,
    /// The incarnation that is heard, and the one that beats on beside it, the same or an older.
    pub incarnations: [u32; 2],
    /// From its beginning to when it was seen last, nanoseconds.
    pub lasted_ns: u64,
    /// Since it was seen last, nanoseconds.
    pub quiet_ns: u64,
}

/// `event: blind`: the monitor did not look, or did not hear all, for 100 ms or longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlindNote {
    /// Number and time (of its end).
    #[serde(flatten)]
    pub head: NoteHead,
    /// When it began.
    pub from: String,
    /// How long it was, nanoseconds.
    pub for_ns: u64,
    /// False: a reactor did not run. True: datagrams were lost.
    pub deaf: bool,
}

/// `event: missing`: somebody expected has not come, or has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MissingNote {
    /// Number and time.
    #[serde(flatten)]
    pub head: NoteHead,
    /// What is expected, and how it stands.
    pub expected: Expected,
}
