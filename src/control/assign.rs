//! Groups and parents on their way from the profiles to the reactors.
//!
//! A profile names a group and perhaps a parent; the engine knows both by numbers, and is told them
//! through its reactor's command ring. What finds no room there waits here, in order, and is tried
//! again in the next round. Bounded: [`MOST_WAITING`]; what finds no room here either is not lost, since
//! the survey compares every peer with its profile, at the latest after a round of its own.

use super::ControlState;
use super::publisher::owner;
use super::silences::Silences;
use crate::engine::slot::SlotData;
use crate::engine::way::named;
use crate::reactor::{Command, ReactorHandle};
use crate::wire::PeerId;
use std::collections::VecDeque;

/// Most assignments that wait; 2 MiB.
const MOST_WAITING: usize = 65_536;
/// Places of a command ring that are left to others.
const RESERVED: usize = 16;

#[derive(Default)]
pub(super) struct Assignments {
    waiting: VecDeque<(PeerId, Command)>,
}

impl Assignments {
    /// A peer's profile is new: works out where it belongs, and whether that has to be told.
    pub(super) fn place(&mut self, state: &ControlState, peer: PeerId) {
        let place = state.registry.with(peer, |profile| Some(state.groups.place(&profile?)));
        let Some(place) = place else { return };
        let Some(slot) = state.slot_of(peer) else { return };
        if self.waiting.is_empty()
            && (slot.told_group(), named(slot.parent)) == (place.group, place.parent)
        {
            return;
        }
        if self.waiting.len() < MOST_WAITING {
            let assign = Command::Assign { peer, group: place.group, parent: place.parent };
            self.waiting.push_back((peer, assign));
        }
    }

    /// Works out whether a peer is silenced, and whether that has to be told. If it has, this is its
    /// slot as it is before.
    pub(super) fn silence(
        &mut self,
        state: &ControlState,
        silences: &Silences,
        peer: PeerId,
    ) -> Option<SlotData> {
        let silenced = state.registry.with(peer, |profile| Some(silences.of(&profile?).is_some()));
        let (silenced, slot) = (silenced?, state.slot_of(peer)?);
        if slot.silenced == silenced {
            return None;
        }
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((peer, Command::Silence { peer, silenced }));
        }
        Some(slot)
    }

    /// Drops what waits to be told of silences: they are others by now.
    pub(super) fn forget_silences(&mut self) {
        self.waiting.retain(|(_, command)| !matches!(command, Command::Silence { .. }));
    }

    /// Whether so many more find room here.
    pub(super) fn has_room_for(&self, more: usize) -> bool {
        self.waiting.len() + more <= MOST_WAITING
    }

    /// Sends as many as there is room for, in order.
    pub(super) fn send(&mut self, state: &ControlState) {
        let mut told: Vec<&ReactorHandle> = Vec::new();
        while let Some(&(peer, assign)) = self.waiting.front() {
            let reactor = owner(state, peer);
            let room = reactor.commands.capacity().saturating_sub(RESERVED).max(1);
            if reactor.commands.len() >= room || reactor.commands.push(assign).is_err() {
                break;
            }
            self.waiting.pop_front();
            if !told.iter().any(|other| std::ptr::eq(*other, reactor)) {
                told.push(reactor);
            }
        }
        told.into_iter().for_each(|reactor| reactor.waker.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::FakeMonitor;
    use crate::engine::transition::PeerState;

    fn told(monitor: &mut FakeMonitor, peer: PeerId) -> Option<u16> {
        let table = &monitor.owner(peer).table;
        table.read(table.find(peer).unwrap()).told_group()
    }

    #[test]
    fn who_is_in_no_group_is_told_so_once_and_who_says_nothing_is_not() {
        let mut monitor = FakeMonitor::new(1, 16);
        let peer = monitor.add("x", "", &[], PeerState::Up);
        let silent = PeerId(77);
        monitor.add_unnamed(silent, PeerState::Up);
        assert_eq!(told(&mut monitor, peer), None);
        monitor.publish();
        monitor.obey();
        assert_eq!(told(&mut monitor, peer), Some(0));
        // Said again and again, it is no news.
        monitor.publish();
        assert!(monitor.reactors[0].handle.commands.is_empty());
        monitor.survey();
        assert_eq!(told(&mut monitor, silent), None);
        // A reactor that was not told, as when there was no room for it.
        let table = &monitor.reactors[0].table;
        table.slot(table.find(peer).unwrap()).write().set_group(0, false);
        monitor.survey();
        assert_eq!(told(&mut monitor, peer), Some(0));
    }
}
