//! The monitor's state over a restart: finds it, puts it in the hands of who goes on with it, and
//! says in one line what came of it.
//!
//! ```text
//!   lock the directory
//!   events ─▶ the log, and up to where each journal was published ─┐
//!   hot ────▶ its journals ─▶ what was not published is, now ◀─────┘
//!        └──▶ in place, or dealt out anew ────────────────────────────▶ reactors
//!   names ── read by the publisher, while the reactors take over ─────▶ registry
//! ```

use super::Failure;
use super::run::explain;
use crate::clock;
use crate::config::{Settings, StateChoice};
use crate::control::alarms::Marks;
use crate::control::events::{Entry, EventLog, Names};
use crate::control::kept::{Era, SilencesFile};
use crate::control::registry::Registry;
use crate::control::{Continuation, ControlState, Memory, NamesSource};
use crate::engine::Policy;
use crate::engine::slot::ShardMemory;
use crate::engine::transition::{PeerState, Transition};
use crate::metrics::Counter;
use crate::reactor::{self, Fleet};
pub use crate::store::events::Identity;
use crate::store::events::{EventFile, Origin};
use crate::store::hot::{self, Hot, HotFile, Shape, Unusable};
use crate::store::places::{PlacesFile, Unsettled};
use crate::store::{StateDir, StateError, dir};
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// What the monitor goes on with.
pub struct State {
    memory: Vec<ShardMemory>,
    control: Memory,
    identity: Identity,
    keeper: Option<Keeper>,
}

impl State {
    /// For the reactors, for the control plane, for everybody, for the end.
    pub fn split(self) -> (Vec<ShardMemory>, Memory, Identity, Option<Keeper>) {
        (self.memory, self.control, self.identity, self.keeper)
    }
}

/// Holds the state directory until the end.
pub struct Keeper {
    dir: StateDir,
    hot: Hot,
    /// Transitions published for the process before.
    told: usize,
    began_ns: u64,
    /// When the process before last looked; `None` without one.
    looked_ns: Option<u64>,
    unsettled: Option<Unsettled>,
}

/// Opens the state that the settings ask for.
///
/// # Errors
/// Exit code 2: the directory is in use, not ours, or cannot be written.
pub fn open(settings: &Settings, reactors: u32, fresh: Identity) -> Result<State, Failure> {
    let anonymous = || {
        let memory = reactor::anonymous_memory(settings.max_peers, reactors).map_err(explain)?;
        let control = Memory::fresh(settings.events);
        Ok(State { memory, control, identity: fresh, keeper: None })
    };
    let Some((path, chosen)) = place(settings) else {
        info!("no state is kept over a restart");
        return anonymous();
    };
    match StateDir::open(&path).and_then(|dir| recover(dir, settings, reactors, fresh)) {
        Ok(state) => Ok(state),
        Err(error @ StateError::System { .. }) if !chosen => {
            warn!("no state is kept over a restart: {error}");
            anonymous()
        }
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

/// The directory, and whether somebody asked for this very one.
pub fn place(settings: &Settings) -> Option<(PathBuf, bool)> {
    match &settings.state_dir {
        StateChoice::None => None,
        StateChoice::At(path) => Some((path.clone(), true)),
        StateChoice::Auto => Some((StateDir::default_path(&settings.udp)?, false)),
    }
}

/// Whether a process before us has left state where the settings say.
pub fn is_there(settings: &Settings) -> bool {
    place(settings).is_some_and(|(path, _)| path.join("hot").exists())
}

fn recover(
    dir: StateDir,
    settings: &Settings,
    reactors: u32,
    fresh: Identity,
) -> Result<State, StateError> {
    let began_ns = clock::monotonic_ns();
    if !dir.is_memory() {
        warn!(
            directory = %dir.path().display(),
            "state is kept on a disk: while the kernel writes it back a reactor may have to wait"
        );
    }
    let boot = dir::boot_id();
    let mut damaged = 0;
    let found = match HotFile::open(&dir, boot)? {
        Ok(found) => Some(found),
        Err(Unusable::Absent) => None,
        Err(why) => {
            warn!("the peers' state is begun anew: {why}");
            damaged += u64::from(why == Unusable::Damaged);
            hot::discard(&dir)?;
            None
        }
    };
    let newest = |hot: &HotFile| hot.journals().iter().map(|j| j.newest()).collect::<Vec<_>>();
    let journals = found.as_ref().map(|hot| (hot.generation(), newest(hot))).unwrap_or_default();
    let mut held = Vec::new();
    let (mut events, anew) = EventFile::open(
        &dir,
        settings.events,
        fresh,
        settings.monitor_id.is_some(),
        (journals.0, &journals.1),
        |published| held.push(Entry::of(&published)),
    )?;
    if let Some(why) = anew {
        warn!("the events file is begun anew, and with it their numbers: {why}");
        damaged += 1;
    }
    let (silences_file, silences) = SilencesFile::open(dir.path(), Era::now())?;
    if silences.is_none() {
        warn!("the silences are lost: their file is damaged, or of another version");
        damaged += 1;
    }

    let untold = found.as_ref().map_or_else(Vec::new, |hot| untold(hot, &events));
    let looked_ns = found.as_ref().and_then(last_look);
    let seq = held.last().map_or(0, |(seq, _)| *seq);
    let told = untold.len();
    let registry = Registry::default();
    let mut names = NamesSource::Unread(dir.path().to_owned());
    if told > 0 {
        let (mut file, found) = registry.read(dir.path())?;
        for (seq, (origin, transition)) in (seq + 1..).zip(untold) {
            let names = registry.with(transition.peer, Names::of);
            let wall_offset_ns = clock::wall_offset_ns();
            let marks = Marks::PENDING;
            let entry = Entry { transition, wall_offset_ns, names, marks, origin };
            entry.keep(seq, &mut events);
            if transition.to == PeerState::Forgotten {
                registry.remove(transition.peer);
                file.forget(transition.peer);
            }
            held.push((seq, entry));
        }
        names = NamesSource::Read(file, found);
    }

    let shape =
        Shape { shards: reactors, capacity: reactor::shard_capacity(settings.max_peers, reactors) };
    if let Some(hot) = found.as_ref().filter(|hot| hot.shape() != shape) {
        let was = hot.shape();
        info!(
            reactors = was.shards,
            slots = was.capacity,
            now_reactors = shape.shards,
            now_slots = shape.capacity,
            "the peers are dealt out anew"
        );
    }
    let hot = hot::go_on(&dir, found, shape, boot, fresh.epoch_ns, clock::monotonic_ns())?;
    events.begin_generation(hot.generation);
    let identity = events.identity();
    let (hot, memory) = hot.split();
    let published = memory.iter().map(|m| m.kept.as_ref().map_or(0, |k| k.journal.newest()));
    let continuation = Continuation { published: published.collect(), names };
    let log = EventLog::resume(settings.events, Some(events), held);
    let (file, places, unsettled) = PlacesFile::open(dir.path(), &detectors(settings))?;
    let keeper = Keeper { dir, hot, told, began_ns, looked_ns, unsettled };
    let places_file = Some(file);
    let control = Memory {
        registry,
        events: log,
        continuation,
        places,
        places_file,
        silences: silences.unwrap_or_default(),
        silences_file,
        damaged,
    };
    Ok(State { memory, control, identity, keeper: Some(keeper) })
}

/// Which detector holds for whom, as a line of text; and at which interval for who states none, since that
/// is what it takes for its measure.
fn detectors(settings: &Settings) -> String {
    let of = |policy: &Policy| format!("{}@{}", policy.detector, policy.default_interval_us);
    let own = settings.groups.iter().map(|g| format!(" {}={}", g.name, of(&g.policy)));
    std::iter::once(of(&settings.policy)).chain(own).collect()
}

/// The transitions in the journals that were not published, oldest first.
fn untold(hot: &HotFile, events: &EventFile) -> Vec<(Origin, Transition)> {
    let published = events.published(hot.generation(), hot.journals().len());
    let mut untold = Vec::new();
    for ((reactor, journal), after) in (0..).zip(hot.journals()).zip(published) {
        let one = |(number, transition)| (Origin::new(reactor, number), transition);
        untold.extend(journal.behind(after).map(one));
    }
    // One reactor's stay in their order.
    untold.sort_by_key(|(_, transition)| transition.fired_ns);
    untold
}

fn last_look(hot: &HotFile) -> Option<u64> {
    let looks = hot.journals().iter().map(|journal| journal.looked_ns());
    looks.max().filter(|looked_ns| *looked_ns > 0)
}

impl Keeper {
    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// When the process before last looked, monotonic nanoseconds; `None` without one.
    pub fn looked_ns(&self) -> Option<u64> {
        self.looked_ns
    }

    /// The reactors have taken over: what other detectors had learnt is forgotten.
    pub fn settle(&mut self) {
        if let Some(Err(error)) = self.unsettled.take().map(Unsettled::settle) {
            warn!(%error, "what the detectors learn is not kept over a restart");
        }
    }

    /// One line for the log.
    pub fn say_what_was_recovered(&self, fleet: &Fleet, control: &ControlState) {
        let reactors_ms = (clock::monotonic_ns() - self.began_ns) / 1_000_000;
        let found = control.wait_for_names();
        control.wait_for_alarms();
        if found.cut > 0 {
            warn!(
                bytes = found.cut,
                records = found.records,
                "the names file was damaged, and is cut off behind the records that are whole"
            );
        }
        let count = |counter| -> u64 {
            fleet.handles.iter().map(|handle| handle.counters.get(counter)).sum()
        };
        let now_ns = clock::monotonic_ns();
        let took_ms = (now_ns - self.began_ns) / 1_000_000;
        let directory = self.dir.path().display();
        let discarded = count(Counter::SlotsDiscarded) + u64::from(self.hot.refused);
        if discarded > 0 {
            warn!(
                peers = discarded,
                "let go of peers of the state, which are not watched any more: they found no room \
                 (raise --max-peers), or their slots are damaged"
            );
        }
        let Some(looked_ns) = self.looked_ns else {
            info!(%directory, "state is kept; there was none to go on with");
            return;
        };
        // Let go of before the line is made: each field's lock would last to its end.
        let (incidents, silences) = {
            let alarms = control.alarms();
            (alarms.incidents.open_ones().len(), alarms.silences.all().len())
        };
        info!(
            %directory,
            peers = count(Counter::PeersRecovered),
            repaired = count(Counter::SlotsRepaired),
            discarded,
            redone = count(Counter::TransitionsRedone),
            told = self.told,
            names = control.registry.len(),
            incidents,
            silences,
            blind_ms = now_ns.saturating_sub(looked_ns) / 1_000_000,
            reactors_ms,
            took_ms,
            "went on from the state of the process before"
        );
    }

    /// Notes that the end is in order. Called when nobody writes any more.
    pub fn end(self) {
        if let Err(error) = self.hot.end() {
            warn!(%error, "the state could not be closed in order; a reboot would lose it");
        }
    }
}
