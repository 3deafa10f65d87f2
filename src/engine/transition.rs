//! What the engine says: a peer went from one state to another, and the evidence for it.

use super::sight::Extensions;
use crate::wire::{PeerId, Status};

/// A peer's state.
///
/// ```text
///            first beat             suspicion            deadline
///  Unknown ────────────▶ Up ──────────────────▶ Suspect ──────────▶ Down
///                        ▲ ▲────────── beat ───────┘                  │ │
///                        │ └──────────────── beat ────────────────────┘ │
///                        │ beat          BYE (from any of these)        │ forget-after
///                        └─────── Left ◀──────────────                  ▼
///                                  └───────────── forget-after ───▶ Forgotten
/// ```
///
/// A peer whose parent is down becomes `Unreachable` where it would become `Down`; a heartbeat brings
/// it back as from there, and when its parent is back and it is not, it becomes `Down`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum PeerState {
    /// Never seen, or forgotten: no slot.
    Unknown = 0,
    /// Beating.
    Up = 1,
    /// Silent for the suspicion fraction of its timeout.
    Suspect = 2,
    /// Silent past its deadline.
    Down = 3,
    /// Said BYE.
    Left = 4,
    /// Silent past its deadline while its parent was down.
    Unreachable = 6,
    /// Removed from the table. Never stored in a slot; it exists only as the end of a transition.
    Forgotten = 5,
}

impl PeerState {
    /// The state that a number stands for.
    #[inline]
    pub fn from_code(code: u8) -> Option<PeerState> {
        const STATES: [PeerState; 7] = [
            PeerState::Unknown,
            PeerState::Up,
            PeerState::Suspect,
            PeerState::Down,
            PeerState::Left,
            PeerState::Forgotten,
            PeerState::Unreachable,
        ];
        STATES.get(code as usize).copied()
    }

    /// Whether it counts among the living: up or suspect.
    #[inline]
    pub fn is_alive(self) -> bool {
        matches!(self, PeerState::Up | PeerState::Suspect)
    }

    /// The word used in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Unknown => "unknown",
            PeerState::Up => "up",
            PeerState::Suspect => "suspect",
            PeerState::Down => "down",
            PeerState::Left => "left",
            PeerState::Unreachable => "unreachable",
            PeerState::Forgotten => "forgotten",
        }
    }
}

/// Why a transition was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The peer's first heartbeat.
    FirstBeat = 0,
    /// Its suspicion deadline or its down deadline passed without a heartbeat.
    Silence = 1,
    /// A heartbeat of the incarnation that we knew.
    Beat = 2,
    /// A heartbeat of a new incarnation: the sender was restarted.
    Restart = 3,
    /// It said BYE.
    Bye = 4,
    /// It was down or had left for longer than the forget time.
    Expired = 5,
    /// An operator removed it.
    Removed = 6,
    /// It was silent past its deadline, and so was its parent.
    Parent = 7,
}

impl Reason {
    /// The reason that a number stands for.
    #[inline]
    pub fn from_code(code: u8) -> Option<Reason> {
        const REASONS: [Reason; 8] = [
            Reason::FirstBeat,
            Reason::Silence,
            Reason::Beat,
            Reason::Restart,
            Reason::Bye,
            Reason::Expired,
            Reason::Removed,
            Reason::Parent,
        ];
        REASONS.get(code as usize).copied()
    }

    /// The word used in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::FirstBeat => "first_beat",
            Reason::Silence => "silence",
            Reason::Beat => "beat",
            Reason::Restart => "restart",
            Reason::Bye => "bye",
            Reason::Expired => "expired",
            Reason::Removed => "removed",
            Reason::Parent => "parent",
        }
    }
}

/// One change of state with its evidence. Times are monotonic nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// Who.
    pub peer: PeerId,
    /// From which state.
    pub from: PeerState,
    /// To which state.
    pub to: PeerState,
    /// Why.
    pub reason: Reason,
    /// What the sender last said of itself.
    pub status: Status,
    /// The peer's slot in its shard.
    pub index: u32,
    /// When the engine made the transition.
    pub fired_ns: u64,
    /// The last heartbeat before it (for a return: the heartbeat that brought it back).
    pub last_seen_ns: u64,
    /// The deadline that passed; 0 when the transition has none (a beat, a BYE, a removal).
    pub deadline_ns: u64,
    /// The incarnation that was last heard.
    pub incarnation: u32,
    /// The sequence number that was last heard.
    pub last_sequence: u32,
    /// Heartbeats missing from the sequence so far.
    pub gaps: u64,
    /// How long the peer had been in `from`, nanoseconds.
    pub in_from_ns: u64,
    /// The peer's group's number, 0 for none.
    pub group: u16,
    /// How much later the deadline was than its detector alone would have said, nanoseconds.
    pub extended_ns: u64,
    /// Why it was later.
    pub extended_by: Extensions,
    /// Its reactor's number for it, ascending, modulo 2^32.
    pub report_no: u32,
}

impl Transition {
    /// How late the transition was fired, nanoseconds; 0 when it has no deadline.
    pub fn lateness_ns(&self) -> u64 {
        if self.deadline_ns == 0 { 0 } else { self.fired_ns.saturating_sub(self.deadline_ns) }
    }
}
