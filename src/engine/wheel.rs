//! Hierarchical timing wheel. (CONTRACT SKELETON: owner = wheel helper.)

/// What the wheel needs of the records whose timers it holds: room for the links, and the truth.
pub trait Timers {
    /// The record's links and the tick at which it is armed.
    fn link(&self, index: u32) -> Link;
    /// Stores them.
    fn set_link(&mut self, index: u32, link: Link);
    /// The record's real deadline now, in ticks (microseconds). It may have moved since the timer
    /// was armed; the wheel then re-inserts it at its true place instead of firing it.
    fn deadline_us(&self, index: u32) -> u64;
}

/// A record's place in its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Index of the record before, or [`NIL`].
    pub prev: u32,
    /// Index of the record behind, or [`NIL`].
    pub next: u32,
    /// Tick that the timer is armed for; [`UNARMED`] when it is in no list.
    pub armed_us: u64,
}

/// No record.
pub const NIL: u32 = u32::MAX;
/// In no list.
pub const UNARMED: u64 = u64::MAX;

/// The wheel: eight levels of 64 lists, one microsecond a tick.
pub struct Wheel {}

impl Wheel {
    /// An empty wheel at `now_us`.
    pub fn new(now_us: u64) -> Wheel {
        let _ = now_us;
        todo!()
    }

    /// Arms a record's timer; it must not be armed. A deadline in the past fires at the next `pop`.
    pub fn insert(&mut self, timers: &mut impl Timers, index: u32, deadline_us: u64) {
        let _ = (timers, index, deadline_us);
        todo!()
    }

    /// Disarms a record's timer if it is armed.
    pub fn remove(&mut self, timers: &mut impl Timers, index: u32) {
        let _ = (timers, index);
        todo!()
    }

    /// Takes out the next record whose *real* deadline is at or before `now_us`, cascading and
    /// weeding out those that moved on the way. `None`: nothing (more) is due.
    pub fn pop(&mut self, timers: &mut impl Timers, now_us: u64) -> Option<u32> {
        let _ = (timers, now_us);
        todo!()
    }

    /// The tick at which `pop` next has something to do: a deadline that may be real, or a cascade.
    pub fn next_us(&self) -> Option<u64> {
        todo!()
    }
}
