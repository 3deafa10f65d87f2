//! What outlives the process of the alarms and of the silences.
//!
//! ```text
//!   alarms    as they were at number n ─┐
//!   events    n+1, n+2, … newest ───────┴▶ gone through with the marks of then ─▶ as they were
//!   journals  not published before the kill ─▶ judged now, for the first time ──▶ as they are
//!   slots     who is not down any more leaves its incident, once nothing is on its way
//! ```
//!
//! The events file has every transition that was published, and the marks that it got. So the alarms
//! need not be written with each: at once when something was told, else every ten seconds, and never
//! for more than a twentieth of the publisher's time. What was told stands in the file; nothing is
//! told twice. Only what no transition tells (a mass silence, a conflict) can be: in the time between
//! its being told and the end of the next write, twenty times what a write takes.
//!
//! A silence is an order. It is in its file, and on its disk, before it is confirmed.
//!
//! Times are monotonic and mean something in one boot. In another they are moved by the difference of
//! the wall clocks.

use super::alarms::{Alarms, Marks};
use super::expect::Expected;
use super::notes::{self, NoteEntry, Place};
use super::silences::{MOST_SILENCES, SilenceError, Silences};
use super::{ControlState, events::Entry};
use crate::clock;
use crate::engine::groups::Scope;
use crate::engine::transition::PeerState;
use crate::store::StateError;
use crate::store::dir::boot_id;
use crate::store::whole::{Body, WholeFile};
use serde::{Deserialize, Serialize};
use serde_json::Deserializer;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::Ordering;

const VERSION: u32 = 1;
/// The alarms have another layout than the silences by now.
const ALARMS_VERSION: u32 = 2;
/// Entries of the log that are gone through at a time.
const STRIDE: usize = 4_096;
/// What nothing was told of is written after so long, nanoseconds.
const LAZILY_NS: u64 = 10_000_000_000;
/// Writing may take one part of so many of the time.
const SHARE: u64 = 20;

/// What monotonic times are to be understood by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Era {
    boot: [u8; 16],
    wall_offset_ns: i64,
}

impl Era {
    /// This boot, and the wall clock as it goes now.
    pub fn now() -> Era {
        Era { boot: boot_id(), wall_offset_ns: clock::wall_offset_ns() }
    }

    fn is_same_boot(self, other: Era) -> bool {
        self.boot == other.boot && self.boot != [0; 16]
    }

    /// What times of this era are moved by in another, nanoseconds.
    fn shift_ns(self, to: Era) -> i64 {
        match self.is_same_boot(to) {
            true => 0,
            false => self.wall_offset_ns.saturating_sub(to.wall_offset_ns),
        }
    }
}

/// The silences as they are kept.
#[derive(Serialize, Deserialize)]
struct KeptSilences<S> {
    era: Era,
    silences: S,
}

/// Where the silences are kept.
#[derive(Debug, Default)]
pub enum SilencesFile {
    /// Nowhere.
    #[default]
    Nowhere,
    /// In this file.
    In(WholeFile),
    /// In a file that is another process's by now.
    Ended,
}

impl SilencesFile {
    /// Opens the directory's file; `None` instead of what it holds when that is damaged.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(dir: &Path, now: Era) -> Result<(SilencesFile, Option<Silences>), StateError> {
        let (file, body) = WholeFile::open(dir, "silences", VERSION)?;
        let silences = match body {
            Body::Absent => Some(Silences::default()),
            Body::Damaged => None,
            Body::Whole(bytes) => serde_json::from_slice(&bytes).ok().and_then(
                |KeptSilences::<Silences> { era, mut silences }| {
                    silences.shift(era.shift_ns(now));
                    (silences.all().len() <= MOST_SILENCES).then_some(silences)
                },
            ),
        };
        Ok((SilencesFile::In(file), silences))
    }

    /// Whether what is changed now would be kept, if anything is.
    pub(super) fn check(&self) -> Result<(), SilenceError> {
        match self {
            SilencesFile::Ended => Err(SilenceError::Ending),
            SilencesFile::Nowhere | SilencesFile::In(_) => Ok(()),
        }
    }

    /// Writes them, if they are kept anywhere; false when that fails.
    pub(super) fn keep(&mut self, silences: &Silences) -> bool {
        let SilencesFile::In(file) = self else { return true };
        let kept = KeptSilences { era: Era::now(), silences };
        file.write(true, |out| serde_json::to_writer(out, &kept).map_err(io::Error::from))
    }

    /// Leaves the file to who comes next.
    pub(super) fn end(&mut self) {
        if let SilencesFile::In(_) = self {
            *self = SilencesFile::Ended;
        }
    }
}

/// What lies in front of the alarms, to be had without reading them all.
#[derive(Serialize, Deserialize)]
struct Head {
    era: Era,
    /// So many groups had a number, and the check of their names: numbers must mean the same.
    groups: (usize, u32),
    /// Of whom a brake is on, and until when, monotonic nanoseconds.
    holds: Vec<(Scope, u64)>,
}

/// The alarms as they are kept, behind their head.
#[derive(Serialize, Deserialize)]
struct KeptAlarms<A> {
    /// Whose numbers: the monitor's, and their beginning.
    identity: (u64, u64),
    /// The number of the last transition that is in it.
    seq: u64,
    /// When it was written, monotonic nanoseconds.
    at_ns: u64,
    /// Peers in each group.
    sizes: Vec<u32>,
    alarms: A,
    /// Who was told as missing.
    missing: Vec<Expected>,
}

/// Where the alarms are kept, and when they were written last.
pub(super) struct AlarmsFile {
    file: WholeFile,
    /// Something has changed since, something was told since.
    changed: bool,
    told: bool,
    /// The number of the last transition that is in it.
    seq: u64,
    written_ns: u64,
    took_ns: u64,
}

impl AlarmsFile {
    /// Notes what a round has brought.
    pub(super) fn note(&mut self, changed: bool, told: bool) {
        self.changed |= changed || told;
        self.told |= told;
    }

    /// Writes what there is to write, if it is time or `last` is. Nothing is between the judging of a
    /// transition and its publication.
    pub(super) fn keep(&mut self, state: &ControlState, last: bool) {
        let (began_ns, newest) = (clock::monotonic_ns(), state.events.newest());
        let pause_ns = if self.told { 0 } else { LAZILY_NS };
        let is_time = began_ns >= self.written_ns + pause_ns.max(self.took_ns * SHARE);
        // What the ring lets go of could not be gone through again.
        let is_pressing = newest - self.seq > state.config.ring_capacity as u64 / 2;
        if !last && !(self.changed && (is_time || is_pressing)) {
            return;
        }
        let written = self.file.write(last, |out| {
            let (groups, alarms) = (state.groups.count(), state.alarms());
            let head = Head {
                era: Era::now(),
                groups: (groups, state.groups.check(groups)),
                holds: alarms.incidents.holds().collect(),
            };
            let kept = KeptAlarms {
                identity: (state.config.monitor_id, state.config.epoch_ns),
                seq: newest,
                at_ns: began_ns,
                sizes: state.tallies.sizes(),
                alarms: &*alarms,
                missing: alarms.expect.missing_ones().cloned().collect(),
            };
            serde_json::to_writer(&mut *out, &head)?;
            serde_json::to_writer(out, &kept).map_err(io::Error::from)
        });
        self.written_ns = clock::monotonic_ns();
        self.took_ns = self.written_ns - began_ns;
        if written {
            (self.changed, self.told, self.seq) = (false, false, newest);
        }
    }
}

/// Opens the alarms of the process before, and goes on with its holds: before there is a reactor that
/// judges anybody. `None` when they are kept nowhere.
pub(super) fn open(state: &ControlState) -> Option<(WholeFile, Body)> {
    let directory = state.config.state_dir.as_deref()?;
    let (file, body) = WholeFile::open(directory, "alarms", ALARMS_VERSION)
        .inspect_err(|error| tracing::error!(%error, "no alarms are kept"))
        .ok()?;
    if let Body::Whole(bytes) = &body
        && let Some(Ok(head)) = Deserializer::from_slice(bytes).into_iter::<Head>().next()
        && is_known(&head, state)
    {
        let shift_ns = head.era.shift_ns(Era::now());
        for (scope, until_ns) in head.holds {
            state.groups.resume_hold(scope, until_ns.saturating_add_signed(shift_ns));
        }
    }
    Some((file, body))
}

/// Goes on with the alarms of the process before. Names are read, and the reactors have their peers.
pub(super) fn resume((file, body): (WholeFile, Body), state: &ControlState) -> AlarmsFile {
    let (now, now_ns, newest) = (Era::now(), clock::monotonic_ns(), state.events.newest());
    let pending = state.events.latest(usize::MAX, |entry| entry.marks.pending).len() as u64;
    let judged = newest - pending;
    let mut alarms = state.alarms();
    begin(state, &mut alarms, judged);
    match understand(body, state) {
        Ok(Some((head, kept))) => {
            let config = &state.config;
            let (same_boot, shift_ns) = (head.era.is_same_boot(now), head.era.shift_ns(now));
            head.holds.iter().for_each(|(scope, _)| state.groups.settle_hold(*scope, now_ns));
            // The last look is known by the clock of its boot; in another, the last write must do.
            let looked_ns = match same_boot {
                true => config.looked_ns,
                false => Some(kept.at_ns.saturating_add_signed(shift_ns)),
            };
            state.tallies.were(kept.sizes);
            alarms.resume(kept.alarms, shift_ns);
            alarms.expect.were_missing(&kept.missing);
            let same_numbers = kept.identity == (config.monitor_id, config.epoch_ns);
            if !same_numbers {
                alarms.incidents.renumbered();
            }
            // Without the log, or in another boot, what the file says must do.
            if same_numbers && same_boot {
                begin(state, &mut alarms, kept.seq);
                go_through(state, &mut alarms, kept.seq + 1..=judged);
            }
            let unseen_ns = looked_ns.map_or(0, |looked_ns| now_ns.saturating_sub(looked_ns));
            alarms.flapping.skip(unseen_ns as i64);
            alarms.conflicts.skip(unseen_ns);
        }
        Ok(None) => {}
        Err(why) => {
            // Numbers that were given are not given again.
            let last = |seq| state.events.read(seq, STRIDE).entries;
            let given = (0..newest).step_by(STRIDE).flat_map(last).map(|e| e.marks.incident).max();
            alarms.incidents.numbered(given.map_or(0, |given| given + 1));
            tracing::warn!("the alarms are begun anew: {why}");
            // Relaxed: a count, and nothing is ordered by it.
            state.damaged.fetch_add(1, Ordering::Relaxed);
        }
    }
    let marks = go_through(state, &mut alarms, judged + 1..=newest);
    drop(alarms);
    // Nobody has seen them without: HTTP comes later.
    if pending > 0 {
        state.events.settle(judged + 1, &marks);
    }
    let mut file =
        AlarmsFile { file, changed: true, told: true, seq: newest, written_ns: 0, took_ns: 0 };
    file.keep(state, false);
    file
}

fn understand(
    body: Body,
    state: &ControlState,
) -> Result<Option<(Head, KeptAlarms<Alarms>)>, &'static str> {
    let bytes = match body {
        Body::Absent => return Ok(None),
        Body::Damaged => return Err("their file is damaged, or of another version"),
        Body::Whole(bytes) => bytes,
    };
    let kept = parse(&bytes).map_err(|_| "their file is of another version")?;
    match is_known(&kept.0, state) {
        true => Ok(Some(kept)),
        false => Err("the groups have other numbers than they had"),
    }
}

fn parse(bytes: &[u8]) -> serde_json::Result<(Head, KeptAlarms<Alarms>)> {
    let mut documents = Deserializer::from_slice(bytes);
    let both = (Head::deserialize(&mut documents)?, KeptAlarms::deserialize(&mut documents)?);
    documents.end()?;
    Ok(both)
}

/// Whether the numbers of groups mean what they meant.
fn is_known(head: &Head, state: &ControlState) -> bool {
    let (groups, check) = head.groups;
    groups <= state.groups.count() && state.groups.check(groups) == check
}

/// The log of notes begins behind this transition, and behind all that was told there before.
fn begin(state: &ControlState, alarms: &mut Alarms, seq: u64) {
    let place = Place { seq, order: notes::order_now() };
    alarms.noted_before(place);
    state.notes.begin(place);
}

/// Goes through these transitions of the log: again with what was decided of them, or for the first
/// time. Returns their marks. Their notes go to the log of notes, in their places: who resumes behind
/// an earlier number has not seen them.
fn go_through(
    state: &ControlState,
    alarms: &mut Alarms,
    numbers: RangeInclusive<u64>,
) -> Vec<Marks> {
    let (mut after, last) = (numbers.start().saturating_sub(1), *numbers.end());
    let mut all = Vec::new();
    while after < last {
        let chunk = state.events.read(after, STRIDE.min((last - after) as usize));
        let mut told = Vec::new();
        for (seq, entry) in chunk.numbered().take_while(|(seq, _)| *seq <= last) {
            let Entry { transition: t, marks, names, wall_offset_ns, .. } = entry;
            let around = state.surroundings();
            all.push(match marks.pending {
                false => alarms.judge_again(t, names, *marks, &around),
                true => alarms.judge(t, names, &around),
            });
            told.extend(alarms.take_notes(seq, notes::FIRST).into_iter().map(|(note, place)| {
                let names = alarms.names_of(&note).unwrap_or_else(|| state.names_of(&note));
                NoteEntry { note, place, wall_offset_ns: *wall_offset_ns, names }
            }));
            after = seq;
        }
        if chunk.entries.is_empty() {
            break;
        }
        state.notes.append(&mut told);
    }
    all
}

/// Lets whoever is not down any more leave its incident. For those of whom no transition tells, as
/// when their slots were lost; so it is asked when none is on its way.
pub(super) fn reconcile(state: &ControlState) {
    let failed = [PeerState::Down, PeerState::Unreachable];
    let failed = |peer| state.slot_of(peer).is_some_and(|slot| failed.contains(&slot.state));
    state.alarms().incidents.reconcile(failed, clock::monotonic_ns());
}

#[cfg(all(test, not(miri)))]
mod tests;
