//! The publisher: the one thread that takes the reactors' reports and makes them public.
//!
//! ```text
//! loop {
//!     take up to 256 reports of each reactor in turn      lock-free queues
//!     a profile     → registry; its group and parent, in numbers, back to the reactor
//!     a transition  → its name; judged by the alarms; its number, into the log
//!     a notice      → the alarms
//!     what the alarms note goes into the log of notes; the followers are woken once a round
//!     the alarms are kept, if it is time
//!     count heartbeats
//!     nothing taken → sleep until a reactor unparks us, or 100 ms
//! }
//! ```
//!
//! The reports of one reactor stay in their order; between reactors the order of taking decides. A
//! reactor pushes first and unparks then, so the park that follows an empty round cannot miss it.
//! The 100 ms are for the heartbeat rate.

use super::ControlState;
use super::alarms::{Alarms, Marks};
use super::assign::Assignments;
use super::events::{Entry, Names};
use super::kept::{self, AlarmsFile};
use super::notes::{self, NoteEntry};
use super::rate::Rate;
use super::registry;
use super::silences::Silences;
use crate::clock;
use crate::engine::notice::Notice;
use crate::engine::slot::SlotData;
use crate::engine::transition::{PeerState, Transition};
use crate::metrics::{Counter, HistogramKind};
use crate::reactor::{Command, ReactorHandle, Report};
use crate::store::events::Origin;
use crate::store::names::{NamesFile, NamesFound};
use crate::store::whole::{Body, WholeFile};
use crate::wire;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Most reports taken of one reactor before the next one's turn.
const BURST: usize = 256;
/// Longest sleep.
const NAP: Duration = Duration::from_millis(100);

/// Where names are kept.
#[derive(Default)]
pub enum NamesSource {
    /// Nowhere.
    #[default]
    Nowhere,
    /// In the file of this directory. The publisher reads it into the registry before all else: that
    /// takes long, and by then the reactors have something to do as well.
    Unread(PathBuf),
    /// In this file, whose names are in the registry.
    Read(NamesFile, NamesFound),
}

/// What the publisher goes on with when the monitor keeps state.
#[derive(Default)]
pub struct Continuation {
    /// Where names are kept.
    pub names: NamesSource,
    /// The number of the last transition in each reactor's journal; all up to it are published.
    pub published: Vec<u64>,
}

pub(super) struct Publisher {
    state: Arc<ControlState>,
    rate: Rate,
    /// Groups and parents on their way to the reactors.
    assignments: Assignments,
    /// This round's transitions, until they are appended.
    batch: Vec<Entry>,
    /// This round's notes, until they are appended.
    notes: Vec<NoteEntry>,
    source: NamesSource,
    names: Option<NamesFile>,
    /// By reactor: the number in its journal of the last transition taken.
    published: Vec<u64>,
    /// Forgotten in this round; their names are kept until that is published.
    gone: Vec<wire::PeerId>,
    /// Where the search for peers whose name we should know stands; `None` when it is over.
    nameless: Option<(usize, u32)>,
    /// The silences that the reactors are told of.
    silences: Silences,
    /// Where the walk that tells them stands, and whether it has found anything to tell; `None` when
    /// it is over.
    silencing: Option<(usize, u32, bool)>,
    /// Who may be quiet no more, until that is judged: as they were then.
    unquiet: Vec<SlotData>,
    /// The alarms of an earlier process, until they can be understood.
    alarms_found: Option<(WholeFile, Body)>,
    /// Where the alarms are kept.
    alarms_file: Option<AlarmsFile>,
    /// Alarms of an earlier process are still to be compared with the slots.
    unreconciled: bool,
}

impl Publisher {
    pub(super) fn new(state: Arc<ControlState>, continuation: Continuation) -> Publisher {
        let alarms_found = kept::open(&state);
        let silences = state.alarms().silences.clone();
        // Some may have ended while nobody ran.
        let any = silences.version() != Silences::default().version();
        Publisher {
            state,
            rate: Rate::default(),
            assignments: Assignments::default(),
            batch: Vec::with_capacity(BURST),
            notes: Vec::new(),
            source: continuation.names,
            names: None,
            nameless: None,
            silences,
            silencing: any.then_some((0, 0, false)),
            unquiet: Vec::new(),
            published: continuation.published,
            alarms_found,
            alarms_file: None,
            unreconciled: false,
            gone: Vec::new(),
        }
    }

    /// Reads the names if they are not read yet, and says so.
    fn read_names(&mut self) {
        let (names, found) = match std::mem::take(&mut self.source) {
            NamesSource::Nowhere => (None, NamesFound::default()),
            NamesSource::Read(file, found) => (Some(file), found),
            NamesSource::Unread(directory) => match self.state.registry.read(&directory) {
                Ok((file, found)) => (Some(file), found),
                Err(error) => {
                    tracing::error!(%error, "no names are kept");
                    (None, NamesFound::default())
                }
            },
        };
        // Relaxed: a count, and nothing is ordered by it.
        self.state.damaged.fetch_add(u64::from(found.cut > 0), Ordering::Relaxed);
        self.nameless = names.is_some().then_some((0, 0));
        self.names = names;
        let _ = self.state.names_read.set(found);
    }

    /// Goes on with the alarms, once, when there are names and reactors to understand them by.
    pub(super) fn resume_alarms(&mut self) {
        if self.state.reactors().is_empty() || self.state.alarms_resumed.get().is_some() {
            return;
        }
        self.alarms_file = self.alarms_found.take().map(|found| kept::resume(found, &self.state));
        self.unreconciled = self.alarms_file.is_some();
        let _ = self.state.alarms_resumed.set(());
    }

    /// Writes the alarms down if it is time, or for the last time.
    pub(super) fn keep_alarms(&mut self, last: bool) {
        self.alarms_file.iter_mut().for_each(|file| file.keep(&self.state, last));
    }

    /// Publishes until it is told to stop *and* every queue is empty.
    pub(super) fn run(mut self) {
        self.read_names();
        loop {
            // Acquire pairs with the Release in `Control::shutdown`: what was pushed before it is
            // seen by this round, the last.
            let stop = self.state.stopping.load(Ordering::Acquire);
            self.resume_alarms();
            let taken = self.round();
            self.count_heartbeats();
            if taken > 0 || self.ask_for_names() || self.tell_silences() {
                continue;
            }
            if std::mem::take(&mut self.unreconciled) {
                kept::reconcile(&self.state);
                continue;
            }
            if stop {
                self.names.iter_mut().for_each(NamesFile::flush);
                self.keep_alarms(true);
                return;
            }
            self.tidy_names();
            thread::park_timeout(NAP);
        }
    }

    /// Takes a burst of each reactor's reports and publishes them. Returns how many.
    pub(super) fn round(&mut self) -> usize {
        let state = self.state.clone();
        let wall_offset_ns = state.follow_wall_clock();
        let mut taken = 0;
        let mut notices = Vec::new();
        self.published.resize(state.reactors().len().max(self.published.len()), 0);
        // Not before the alarms of an earlier process are there to judge by.
        let reactors = state.alarms_resumed.get().map_or(&[][..], |()| state.reactors());
        for (number, reactor) in (0u32..).zip(reactors) {
            for report in std::iter::from_fn(|| reactor.reports.pop()).take(BURST) {
                taken += 1;
                match report {
                    Report::Profile { peer, profile } => {
                        self.learn(peer, profile);
                        self.assignments.place(&state, peer);
                        let slot = self.assignments.silence(&state, &self.silences, peer);
                        self.unquiet.extend(slot.filter(|slot| slot.silenced));
                    }
                    Report::Notice(notice) => notices.push(notice),
                    Report::Transition(transition) => {
                        let last = &mut self.published[number as usize];
                        *last += 1;
                        let origin = Origin::new(number, *last);
                        if transition.to == PeerState::Forgotten {
                            self.gone.push(transition.peer);
                        }
                        self.batch.push(entry(&state, transition, wall_offset_ns, origin));
                    }
                }
            }
        }
        self.assignments.send(&state);
        // A newcomer's profile follows its first transition: it may have come in this round.
        for entry in self.batch.iter_mut().filter(|entry| entry.names.name().is_none()) {
            entry.names = state.names_of_peer(Some(entry.transition.peer));
        }
        // Who reads the transition after a kill should find the name, too.
        self.names.iter_mut().for_each(NamesFile::flush);
        let noticed = !notices.is_empty() || !self.unquiet.is_empty();
        self.judge(notices, wall_offset_ns);
        let (changed, told) = (noticed || !self.batch.is_empty(), !self.notes.is_empty());
        self.publish();
        if let Some(file) = &mut self.alarms_file {
            file.note(changed, told);
            file.keep(&state, false);
        }
        if let Some(names) = &mut self.names {
            self.gone.drain(..).for_each(|peer| names.forget(peer));
        }
        self.gone.clear();
        taken
    }

    /// Goes through the peers that were taken over: gives them their groups, whose numbers are new,
    /// and looks for those whose profile a reactor had taken and we have not, because the process
    /// before us was killed in between; the next HELLO shall bring it again. Looks at some slots;
    /// true while there are more.
    fn ask_for_names(&mut self) -> bool {
        const SLOTS: u32 = 4_096;
        let Some((at, from)) = self.nameless else { return false };
        if !self.assignments.has_room_for(SLOTS as usize) {
            return false;
        }
        let Some(reactor) = self.state.reactors().get(at) else {
            if at > 0 {
                self.nameless = None;
            }
            return false;
        };
        let upto = reactor.view.high_water().min(from + SLOTS);
        for slot in (from..upto).filter_map(|index| reactor.view.read(index)) {
            if self.state.registry.with(slot.peer, |profile| profile.is_some()) {
                self.assignments.place(&self.state, slot.peer);
            } else if slot.profile_digest != 0 {
                // A full queue leaves it nameless until its profile changes.
                let _ = reactor.commands.push(Command::AskForName { peer: slot.peer });
                reactor.waker.wake();
            }
        }
        self.assignments.send(&self.state);
        self.nameless = Some(if upto == from { (at + 1, 0) } else { (at, upto) });
        true
    }

    /// Other silences hold than before: goes through all peers, some at a time, and tells the reactors
    /// of those for whom that makes a difference. True while there are more. Gone through again until
    /// nothing is left to tell, since a reactor may still have been about to be told the contrary.
    pub(super) fn tell_silences(&mut self) -> bool {
        const SLOTS: u32 = 4_096;
        const LEAST: u32 = 64;
        let Some((at, from, told)) = self.silencing else { return false };
        if !self.assignments.has_room_for(SLOTS as usize) {
            return false;
        }
        let Some(reactor) = self.state.reactors().get(at) else {
            if at > 0 {
                self.silencing = told.then_some((0, 0, false));
            }
            // Not at once: what was told takes a moment to be done.
            return false;
        };
        // Each silence is one more comparison; nobody waits long for a transition meanwhile.
        let slots = (SLOTS / (1 + self.silences.all().len() as u32 / 8)).max(LEAST);
        let upto = reactor.view.high_water().min(from + slots);
        let peers = (from..upto).filter_map(|index| reactor.view.read(index));
        let mut told = told;
        for slot in peers {
            // Its parent may be silenced no more.
            self.unquiet.extend(Some(slot).filter(|slot| slot.state == PeerState::Unreachable));
            if let Some(slot) = self.assignments.silence(&self.state, &self.silences, slot.peer) {
                told = true;
                self.unquiet.extend(Some(slot).filter(|slot| slot.silenced));
            }
        }
        self.assignments.send(&self.state);
        self.silencing = Some(if upto == from { (at + 1, 0, told) } else { (at, upto, told) });
        true
    }

    /// Writes the names anew when most of the file is out of date.
    fn tidy_names(&mut self) {
        let registry = &self.state.registry;
        if let Some(names) = &mut self.names
            && names.is_worn(registry.len())
            && let Err(error) = names.rewrite(|each| registry.for_each(each))
        {
            tracing::warn!(%error, "the names file could not be written anew; it goes on growing");
        }
    }

    /// Marks the transitions of this round, and notes what is to be said of them.
    fn judge(&mut self, notices: Vec<Notice>, wall_offset_ns: i64) {
        let Publisher {
            state, batch, notes: told, silences, silencing, assignments, unquiet, ..
        } = self;
        let mut alarms = state.alarms();
        let (mut seq, now) = (state.events.newest(), notes::order_now());
        let mut take = |seq: u64, alarms: &mut Alarms, behind: Option<&Entry>| {
            let least = if behind.is_some() { notes::FIRST } else { now };
            told.extend(alarms.take_notes(seq, least).into_iter().map(|(note, place)| {
                // Who is forgotten has its name in its last transition, and in its incident.
                let own = behind.filter(|entry| note.peer() == Some(entry.transition.peer));
                let own = own.map(|entry| entry.names.clone()).or_else(|| alarms.names_of(&note));
                let names = own.unwrap_or_else(|| state.names_of(&note));
                NoteEntry { note, place, wall_offset_ns, names }
            }));
        };
        for notice in notices {
            alarms.notice(notice, &state.groups);
        }
        take(seq, &mut alarms, None);
        for entry in batch {
            entry.marks = alarms.judge(&entry.transition, &entry.names, &state.surroundings());
            seq += 1;
            take(seq, &mut alarms, Some(entry));
        }
        let now_ns = clock::monotonic_ns();
        alarms.unquiet(unquiet, now_ns, &state.surroundings());
        unquiet.clear();
        let ceased = alarms.advance(now_ns, &state.surroundings());
        take(seq, &mut alarms, None);
        if ceased || alarms.silences.version() != silences.version() {
            *silences = alarms.silences.clone();
            assignments.forget_silences();
            *silencing = Some((0, 0, false));
        }
    }

    fn publish(&mut self) {
        if self.batch.is_empty() && self.notes.is_empty() {
            return;
        }
        let fired: Vec<u64> = self.batch.iter().map(|e| e.transition.fired_ns).collect();
        // The notes first: who is woken by the transitions finds them.
        self.state.notes.append(&mut self.notes);
        self.state.events.append(&mut self.batch);
        let visible_ns = clock::monotonic_ns();
        let histogram = self.state.histograms.of(HistogramKind::Publish);
        fired.iter().for_each(|fired_ns| histogram.record(visible_ns.saturating_sub(*fired_ns)));
    }

    fn count_heartbeats(&mut self) {
        let count = self.state.count(Counter::Heartbeats);
        self.rate.sample(clock::monotonic_ns(), count);
        // Relaxed: a figure for people.
        self.state.rate_bits.store(self.rate.per_second().to_bits(), Ordering::Relaxed);
    }
}

/// Names a transition, and forgets the profile of a peer that is forgotten: this very entry is the
/// last to need it.
fn entry(
    state: &ControlState,
    transition: Transition,
    wall_offset_ns: i64,
    origin: Origin,
) -> Entry {
    let names = state.registry.with(transition.peer, Names::of);
    if transition.to == PeerState::Forgotten {
        state.registry.remove(transition.peer);
    }
    state.transitions.count(transition.from, transition.to);
    Entry { transition, wall_offset_ns, names, marks: Marks::default(), origin }
}

impl Publisher {
    fn learn(&mut self, peer: wire::PeerId, profile: wire::OwnedProfile) {
        if let Some(names) = &mut self.names {
            names.learn(peer, &profile);
        }
        learn(&self.state, peer, profile);
    }
}

/// Keeps a profile. Never more of them than there are slots, though profiles may come whose peers
/// found no slot: a full registry takes only those of living peers, and drops others for them.
fn learn(state: &ControlState, peer: wire::PeerId, profile: wire::OwnedProfile) {
    let lives = |peer: wire::PeerId| owner(state, peer).view.find(peer).is_some();
    let slots: usize = state.reactors().iter().map(|r| r.view.capacity() as usize).sum();
    if state.registry.len() >= slots && !state.registry.with(peer, |known| known.is_some()) {
        if !lives(peer) {
            return;
        }
        // This peer has a slot and no profile, so some profile here has no slot.
        for _ in 0..registry::PARTS {
            state.registry.sweep(lives);
            if state.registry.len() < slots {
                break;
            }
        }
    }
    state.registry.insert(peer, profile);
}

/// The reactor that owns a peer. There is one: its report brought us here.
pub(super) fn owner(state: &ControlState, peer: wire::PeerId) -> &ReactorHandle {
    let reactors = state.reactors();
    &reactors[wire::steer(peer, reactors.len() as u32) as usize]
}
