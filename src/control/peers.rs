//! Listing and finding peers: straight from the tables, a bounded piece at a time.
//!
//! A page walks the slots of one reactor after the other from where the last page ended. Indexes
//! are stable, so a peer that lives through the whole walk is seen once, neither missed nor doubled,
//! whatever comes and goes meanwhile. No lock outlasts the look at one peer.

use super::ControlState;
use super::alarms::Alarms;
use super::present::{self, Now};
use crate::api::{PeerDetail, PeerPage, PeerSummary};
use crate::engine::slot::SlotData;
use crate::engine::transition::PeerState;
use crate::reactor::{Command, ReactorHandle};
use crate::wire::{self, PeerId, Profile, Status};
use std::fmt;
use std::str::FromStr;

/// Most slots that one page looks at.
pub const SCAN_LIMIT: u32 = 65_536;
/// Most transitions that a peer's detail shows.
const DETAIL_TRANSITIONS: usize = 32;

/// Which peers a listing shows; the default is all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<PeerState>,
    /// Only those in this group.
    pub group: Option<String>,
    /// Only those whose name starts so.
    pub prefix: Option<String>,
    /// Only those with all of these labels, with any value where none is given.
    pub labels: Vec<(String, Option<String>)>,
    /// Only members of this open incident.
    pub incident: Option<u32>,
    /// Only those that flap, or only those that do not.
    pub flapping: Option<bool>,
    /// Only those under a silence, or only those under none.
    pub silenced: Option<bool>,
    /// Only those that say of themselves that something is wrong, or only those that do not.
    pub failing: Option<bool>,
}

/// Whether a peer says that something is wrong. One that has left says nothing any more.
fn is_failing(slot: &SlotData) -> bool {
    slot.state != PeerState::Left && matches!(slot.status, Status::Warn | Status::Critical)
}

impl Filter {
    /// Whether a peer with this slot can match at all; the cheap question, asked first.
    fn wants_slot(&self, slot: &SlotData) -> bool {
        self.state.is_none_or(|wanted| wanted == slot.state)
            && self.silenced.is_none_or(|wanted| wanted == slot.silenced)
            && self.failing.is_none_or(|wanted| wanted == is_failing(slot))
    }

    /// Whether what the alarms know of a peer matches.
    fn wants_alarms(&self, peer: PeerId, alarms: &Alarms) -> bool {
        self.incident.is_none_or(|wanted| alarms.incidents.of(peer) == Some(wanted))
            && self.flapping.is_none_or(|wanted| alarms.flapping.is_flapping(peer) == wanted)
    }

    /// Whether a peer with this profile matches. One without a profile has no name, no group and
    /// no labels to match by.
    fn wants_profile(&self, profile: Option<&Profile<'_>>) -> bool {
        if self.group.is_none() && self.prefix.is_none() && self.labels.is_empty() {
            return true;
        }
        let Some(profile) = profile else { return false };
        let has = |(key, value): &(String, Option<String>)| {
            profile.labels().any(|(k, v)| k == key && value.as_deref().is_none_or(|want| want == v))
        };
        self.group.as_deref().is_none_or(|group| group == profile.group)
            && self.prefix.as_deref().is_none_or(|prefix| profile.name.starts_with(prefix))
            && self.labels.iter().all(has)
    }
}

/// Where a page begins: a slot of a reactor. Written `reactor-index`, opaque to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    reactor: u32,
    index: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.reactor, self.index)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Cursor, ()> {
        let (reactor, index) = text.split_once('-').ok_or(())?;
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| ());
        Ok(Cursor { reactor: number(reactor)?, index: number(index)? })
    }
}

/// A peer that was looked up.
pub struct Found<'a> {
    /// The number of its reactor.
    pub reactor: u32,
    /// What it can be asked through.
    pub handle: &'a ReactorHandle,
    /// Its record at that moment.
    pub slot: SlotData,
}

impl ControlState {
    /// One page of at most `limit` peers, from `cursor` on. It ends early after [`SCAN_LIMIT`]
    /// slots; only a page without `next` is the last.
    pub fn page(&self, filter: &Filter, cursor: Cursor, limit: usize) -> PeerPage {
        let now = Now::with(self.wall_offset_ns());
        let mut peers = Vec::new();
        let mut looks = SCAN_LIMIT;
        if filter.state.is_some_and(|state| self.peers_in(state) == 0) {
            return PeerPage { peers, next: None };
        }
        let Cursor { reactor: first, mut index } = cursor;
        for (reactor, handle) in self.reactors().iter().enumerate().skip(first as usize) {
            let end = handle.view.high_water();
            while index < end {
                if looks == 0 || peers.len() == limit {
                    let next = Cursor { reactor: reactor as u32, index };
                    return PeerPage { peers, next: Some(next.to_string()) };
                }
                peers.extend(self.look(handle, index, filter, &now));
                looks -= 1;
                index += 1;
            }
            index = 0;
        }
        PeerPage { peers, next: None }
    }

    fn look(
        &self,
        handle: &ReactorHandle,
        index: u32,
        filter: &Filter,
        now: &Now,
    ) -> Option<PeerSummary> {
        let slot = handle.view.read(index).filter(|slot| filter.wants_slot(slot))?;
        let asks_alarms = filter.incident.is_some() || filter.flapping.is_some();
        if asks_alarms && !filter.wants_alarms(slot.peer, &self.alarms()) {
            return None;
        }
        let mut summary = self.registry.with(slot.peer, |profile| {
            let profile = profile.as_ref();
            filter
                .wants_profile(profile)
                .then(|| present::peer_summary(&self.config, now, &slot, profile))
        })?;
        summary.flapping = self.alarms().flapping.is_flapping(slot.peer);
        Some(summary)
    }

    /// Finds a peer by its name, or, when none has that name, by its id in 16 hex digits.
    pub fn find(&self, name_or_id: &str) -> Option<Found<'_>> {
        let by_name = self.find_id(PeerId::of(name_or_id));
        by_name.or_else(|| self.find_id(PeerId::from_hex(name_or_id)?))
    }

    fn find_id(&self, peer: PeerId) -> Option<Found<'_>> {
        let reactors = self.reactors();
        if reactors.is_empty() {
            return None;
        }
        let reactor = wire::steer(peer, reactors.len() as u32);
        let handle = &reactors[reactor as usize];
        handle.view.find(peer).map(|(_, slot)| Found { reactor, handle, slot })
    }

    /// Everything known of a peer that was found, its latest transitions included.
    pub fn detail(&self, found: &Found<'_>) -> PeerDetail {
        let Found { reactor, ref slot, .. } = *found;
        let now = Now::with(self.wall_offset_ns());
        let mut detail = self.registry.with(slot.peer, |profile| {
            present::peer_detail(&self.config, &now, slot, profile.as_ref(), reactor)
        });
        let own = self.events.latest(DETAIL_TRANSITIONS, |e| e.transition.peer == slot.peer);
        detail.transitions =
            own.iter().map(|(seq, entry)| present::event(&self.config, *seq, entry)).collect();
        self.add_alarms(&mut detail, slot, &now);
        detail
    }

    /// How many peers have this one for a parent, and how many of them are unreachable now. Goes through
    /// all peers if it was ever anybody's parent.
    pub fn children(&self, parent: PeerId) -> (u64, u64) {
        let Some(is_child) = self.groups.children_of(parent) else { return (0, 0) };
        let views = self.reactors().iter().map(|reactor| &reactor.view);
        let slots = views.flat_map(|view| (0..view.high_water()).filter_map(|at| view.read(at)));
        slots.filter(is_child).fold((0, 0), |(all, unreachable), child| {
            (all + 1, unreachable + u64::from(child.state == PeerState::Unreachable))
        })
    }

    /// Asks a peer's reactor to remove it. False when the reactor has too much to do already.
    pub fn remove(&self, found: &Found<'_>) -> bool {
        let asked = found.handle.commands.push(Command::Remove { peer: found.slot.peer }).is_ok();
        if asked {
            found.handle.waker.wake();
        }
        asked
    }
}
