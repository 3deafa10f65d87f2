//! A thread that walks all peers at leisure, for what nobody needs at once.
//!
//! ```text
//!   once a second: the next 65,536 slots ─▶ who is in which group and state, losses, jitter
//!                  at the end of a round ─▶ published; so a million peers are at most 16 s old
//! ```
//!
//! So no answer has to look at all peers, and no transition has to be counted twice. On its way it
//! puts right whose group or parent is not what its profile says: an assignment that found no room
//! in a reactor's ring is made here, and so are all of them after a restart. And it tells the alarms
//! how long the living were watched, and whom the monitor knows.

use super::ControlState;
use super::expect;
use super::groups::Place;
use crate::clock;
use crate::engine::detector::{Arrivals, Detector};
use crate::engine::slot::SlotData;
use crate::engine::transition::PeerState;
use crate::engine::way::named;
use crate::reactor::{Command, ReactorHandle};
use crate::wire::Status;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, RwLock};
use std::thread;
use std::time::Duration;

/// Slots looked at in one step.
const STRIDE: u32 = 65_536;
/// From one step to the next.
const PAUSE: Duration = Duration::from_nanos(expect::LOOK_NS);

/// What was counted of a group.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Tally {
    /// Peers by state, in the order of [`PeerState`]'s numbers.
    states: [u32; 7],
    /// The living by what they say of themselves, in the order of [`Status`]'s codes.
    statuses: [u32; Status::ALL.len()],
    /// Heartbeats applied, of the peers that there are.
    pub heartbeats: u64,
    /// Heartbeats missing from their sequences.
    pub gaps: u64,
    /// The spread of arrivals that the detector has learnt, in sum, nanoseconds.
    jitter_ns: f64,
    /// Peers of which it has learnt one.
    jittered: u32,
}

impl Tally {
    /// Peers in a state.
    pub fn of(&self, state: PeerState) -> u32 {
        self.states[state as usize]
    }

    /// Peers that are up or suspect and say this of themselves.
    pub fn saying(&self, status: Status) -> u32 {
        self.statuses[status as usize]
    }

    /// Peers in any state.
    pub fn known(&self) -> u32 {
        self.states.iter().sum()
    }

    /// Peers that are up or suspect.
    pub fn living(&self) -> u32 {
        self.of(PeerState::Up) + self.of(PeerState::Suspect)
    }

    /// Share of the heartbeats that never came, 0 to 1.
    pub fn loss(&self) -> f64 {
        match self.heartbeats + self.gaps {
            0 => 0.0,
            all => self.gaps as f64 / all as f64,
        }
    }

    /// The mean of the peers' jitters, nanoseconds; none while none is known.
    pub fn jitter_ns(&self) -> Option<f64> {
        (self.jittered > 0).then(|| self.jitter_ns / f64::from(self.jittered))
    }

    fn count(&mut self, slot: &SlotData, detector: &Detector) {
        self.states[slot.state as usize] += 1;
        self.statuses[slot.status as usize] += u32::from(slot.state.is_alive());
        self.heartbeats += u64::from(slot.heartbeats);
        self.gaps += u64::from(slot.gaps);
        if let Some(jitter_ns) = jitter_ns(detector, &slot.arrivals) {
            self.jitter_ns += jitter_ns;
            self.jittered += 1;
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Tally) {
        self.states.iter_mut().zip(other.states).for_each(|(own, more)| *own += more);
        self.statuses.iter_mut().zip(other.statuses).for_each(|(own, more)| *own += more);
        self.heartbeats += other.heartbeats;
        self.gaps += other.gaps;
        self.jitter_ns += other.jitter_ns;
        self.jittered += other.jittered;
    }
}

/// The spread of a peer's arrivals as its detector has learnt it, nanoseconds: for `phi` the standard
/// deviation, for `bertier` and `blend` the mean error of what they forecast. `None` for those that
/// learn none, and before it has learnt enough.
pub fn jitter_ns(detector: &Detector, arrivals: &Arrivals) -> Option<f64> {
    if arrivals.samples < Arrivals::WARM {
        return None;
    }
    match detector {
        Detector::Fixed { .. } | Detector::Chen(_) => None,
        Detector::Bertier(_) => Some(arrivals.spread.into()),
        Detector::Phi(_) => Some(f64::from(arrivals.spread).sqrt()),
        Detector::Blend(_) => Some(arrivals.spread.min(arrivals.extra).into()),
    }
}

/// The last whole round.
#[derive(Default)]
pub struct Tallies {
    groups: RwLock<Arc<Vec<Tally>>>,
    /// How many were in each group when an earlier process counted them.
    before: OnceLock<Vec<u32>>,
    /// How many were when that was first asked for, if it was before the end of a round.
    first: OnceLock<Vec<u32>>,
}

impl Tallies {
    /// A group's, by its number.
    pub fn group(&self, number: u16) -> Tally {
        self.all().get(number as usize).copied().unwrap_or_default()
    }

    /// Peers in a group; before the first round they are counted by their slots, once, and those that
    /// an earlier process has counted are believed. Nobody alarms about 3 of 0.
    pub fn size(&self, number: u16, state: &ControlState) -> u32 {
        let at = number as usize;
        match &self.all()[..] {
            [] => {
                let first = self.first.get_or_init(|| count_slots(state));
                let sizes = [Some(first), self.before.get()].into_iter().flatten();
                sizes.filter_map(|sizes| sizes.get(at)).copied().max().unwrap_or(0)
            }
            all => all.get(at).map_or(0, Tally::known),
        }
    }

    /// Of each group, by number.
    pub fn sizes(&self) -> Vec<u32> {
        match &self.all()[..] {
            [] => self.before.get().cloned().unwrap_or_default(),
            all => all.iter().map(Tally::known).collect(),
        }
    }

    /// So many were in each group when an earlier process counted them.
    pub fn were(&self, sizes: Vec<u32>) {
        // Only the first one is before us.
        let _ = self.before.set(sizes);
    }

    /// Every group's, by number.
    pub fn all(&self) -> Arc<Vec<Tally>> {
        self.groups.read().expect(UNPOISONED).clone()
    }

    fn publish(&self, round: Vec<Tally>) {
        *self.groups.write().expect(UNPOISONED) = Arc::new(round);
    }
}

const UNPOISONED: &str = "nothing panics while it holds the tallies";

/// How many are in each group, by its number, as their slots say.
fn count_slots(state: &ControlState) -> Vec<u32> {
    let mut sizes = Vec::new();
    for handle in state.reactors() {
        let slots = (0..handle.view.high_water()).filter_map(|index| handle.view.read(index));
        for slot in slots.filter(|slot| slot.state != PeerState::Unknown) {
            let group = slot.group as usize;
            if sizes.len() <= group {
                sizes.resize(group + 1, 0);
            }
            sizes[group] += 1;
        }
    }
    sizes
}

/// The walk.
pub(super) struct Survey {
    state: Arc<ControlState>,
    reactor: usize,
    index: u32,
    round: Vec<Tally>,
    stepped_ns: u64,
}

impl Survey {
    pub(super) fn new(state: Arc<ControlState>) -> Survey {
        let stepped_ns = clock::monotonic_ns();
        Survey { state, reactor: 0, index: 0, round: Vec::new(), stepped_ns }
    }

    /// Walks until it is told to stop.
    pub(super) fn run(mut self) {
        // Acquire pairs with the Release in `Control::shutdown`.
        while !self.state.stopping.load(Ordering::Acquire) {
            self.step();
            thread::park_timeout(PAUSE);
        }
    }

    /// One step: some slots, and what the last second has brought.
    pub(super) fn step(&mut self) {
        self.walk();
        let now_ns = clock::monotonic_ns();
        let passed_ns = now_ns.saturating_sub(self.stepped_ns);
        self.stepped_ns = now_ns;
        let state = &self.state;
        let tallies = state.tallies.all();
        let mut alarms = state.alarms();
        for (number, tally) in tallies.iter().enumerate() {
            alarms.qos.watched(number as u16, tally.living().into(), passed_ns);
        }
        // Who was told as missing by the process before is known by then.
        if state.alarms_resumed.get().is_none() {
            return;
        }
        let known = |name: &str| state.groups.number(name).map(|n| state.tallies.group(n).known());
        alarms.expect(now_ns, |peer| state.slot_of(peer).is_some(), |g| known(g).unwrap_or(0));
    }

    fn walk(&mut self) {
        let state = self.state.clone();
        let mut looks = STRIDE;
        while let Some(handle) = state.reactors().get(self.reactor) {
            let end = handle.view.high_water();
            while self.index < end {
                if looks == 0 {
                    return;
                }
                if let Some(slot) = handle.view.read(self.index) {
                    self.count(handle, &slot);
                }
                looks -= 1;
                self.index += 1;
            }
            self.reactor += 1;
            self.index = 0;
        }
        self.reactor = 0;
        let round = std::mem::take(&mut self.round);
        state.tallies.publish(round);
    }

    fn count(&mut self, handle: &ReactorHandle, slot: &SlotData) {
        if slot.state == PeerState::Unknown {
            return;
        }
        let groups = &self.state.groups;
        let place = self.state.registry.with(slot.peer, |profile| Some(groups.place(&profile?)));
        let is = Place { group: slot.told_group(), parent: named(slot.parent) };
        if let Some(place) = place.filter(|place| *place != is) {
            // Half of the ring is left to others; the next round comes here again.
            if handle.commands.len() < handle.commands.capacity() / 2 {
                let Place { group, parent } = place;
                // A full ring is no loss, for the same reason.
                let _ = handle.commands.push(Command::Assign { peer: slot.peer, group, parent });
            }
        }
        let group = place.unwrap_or(is).group.unwrap_or(0) as usize;
        if self.round.len() <= group {
            self.round.resize(group + 1, Tally::default());
        }
        let detector = &self.state.config.groups.policy(slot.group).detector;
        self.round[group].count(slot, detector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_what_each_detector_has_learnt() {
        let arrivals = Arrivals { spread: 9e6, extra: 4e6, samples: 200, ..Arrivals::NONE };
        let of = |word: &str, arrivals: &Arrivals| jitter_ns(&word.parse().unwrap(), arrivals);
        assert_eq!(of("fixed", &arrivals), None);
        assert_eq!(of("chen", &arrivals), None);
        assert_eq!(of("bertier", &arrivals), Some(9e6));
        assert_eq!(of("phi", &arrivals), Some(3e3));
        assert_eq!(of("blend", &arrivals), Some(4e6));
        assert_eq!(of("phi", &Arrivals { samples: 3, ..arrivals }), None);
    }

    #[test]
    fn losses_are_a_share_of_all() {
        let tally = Tally { heartbeats: 98, gaps: 2, ..Tally::default() };
        assert_eq!((tally.loss(), Tally::default().loss()), (0.02, 0.0));
        assert_eq!(tally.jitter_ns(), None);
    }
}
