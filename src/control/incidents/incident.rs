//! What an incident is: its cause, its figures, the members that it names.

use crate::control::notes::Place;
use crate::engine::groups::Scope;
use crate::wire::PeerId;
use serde::{Deserialize, Serialize};

/// What an incident is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Cause {
    /// Many of a group, by its number, went down within a window.
    Group(u16),
    /// A parent is down, and its children with it.
    Parent(PeerId),
    /// So many fell silent at once that they are held as suspect.
    MassSilence(Scope),
    /// Peers of a group, by its number, were still down when their planned silence was over, or when they
    /// had ceased to flap.
    StillDown(u16),
}

/// What became of an incident.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It began before; told to who begins to follow.
    Open,
    /// It began.
    Opened,
    /// It has grown, or become worse, and stopped for the moment; or a hold has ended.
    Updated,
    /// All its members are back, have left, or were forgotten.
    Closed,
}

/// An incident in figures; plain data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Its number, from 1.
    pub id: u32,
    /// What it is about.
    pub cause: Cause,
    /// The first failure, monotonic nanoseconds.
    pub began_ns: u64,
    /// When it was recognised as one.
    pub opened_ns: u64,
    /// When the last failure was added.
    pub grew_ns: u64,
    /// When it was closed; 0 while it is open.
    pub closed_ns: u64,
    /// Members that are down now.
    pub down: u32,
    /// Members that are unreachable now.
    pub unreachable: u32,
    /// Held as suspect by the brake: the silent; 0 when nothing is held.
    pub held: u32,
    /// The most members that it had at once, or the most that were held.
    pub most: u32,
    /// Peers that it could have had: those of the group, or of the fleet; its members if they are more.
    pub size: u32,
    /// The incident that has taken it in, 0 for none.
    #[serde(default)]
    pub part_of: u32,
}

impl Figures {
    /// Members now.
    pub fn members(&self) -> u32 {
        self.down + self.unreachable
    }

    /// So many are held, and one at least, since a hold ends by its release alone.
    pub(super) fn hold(&mut self, suspect: u32) {
        self.held = suspect.max(1);
        self.most = self.most.max(self.held);
    }
}

/// An incident with the members that it names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Incident {
    /// In figures.
    pub figures: Figures,
    /// The first members, in the order in which they failed.
    pub first: Vec<PeerId>,
    /// The name of the parent that it is about, once that is forgotten: nobody else knows it then.
    #[serde(default)]
    pub parent_name: Option<String>,
    /// The size that was last told.
    pub(super) told: u32,
    /// Members that were unreachable are down, which is not told yet.
    #[serde(default)]
    pub(super) worse: bool,
    /// A hold ends then by itself, nanoseconds.
    pub(super) held_until_ns: u64,
    /// Nothing joins a mass silence after this time, nanoseconds.
    pub(super) joins_until_ns: u64,
    /// Where its beginning stands in the stream, once that is told.
    #[serde(default)]
    pub opened_at: Option<Place>,
    /// And its end.
    #[serde(default)]
    pub closed_at: Option<Place>,
}

impl Incident {
    /// Nobody is missing, nobody is held, and nobody can join any more that was.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        self.figures.members() == 0 && self.figures.held == 0 && self.joins_until_ns < now_ns
    }
}
