//! One seed: builds its world, lets it run to its end, and has it judged.

use super::bugs::Bug;
use super::monitor::Monitor;
use super::oracle::{Oracle, Violation};
use super::record::{Fate, Record};
use super::scenario::{Ending, MS, SECOND, START_NS, Scenario, exponential};
use super::senders::{Fleet, MOST_PEERS, names};
use super::world::{Event, Next, World};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use systole::engine::transition::PeerState;
use systole::io::Waker;
use systole::metrics::Counter;
use systole::wire::{PeerId, Reject, steer};

/// What a run amounted to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub datagrams: u64,
    pub transitions: u64,
    pub downs: u64,
    pub turns: u64,
    pub simulated_ns: u64,
}

impl Tally {
    pub fn plus(self, other: &Tally) -> Tally {
        Tally {
            datagrams: self.datagrams + other.datagrams,
            transitions: self.transitions + other.transitions,
            downs: self.downs + other.downs,
            turns: self.turns + other.turns,
            simulated_ns: self.simulated_ns + other.simulated_ns,
        }
    }
}

/// A run and what was wrong with it.
pub struct Outcome {
    pub record: Record,
    pub scenario: Scenario,
    pub tally: Tally,
    pub violation: Option<Violation>,
}

/// Runs a seed; a panic is a violation like any other.
pub fn run(seed: u64, bug: Option<Bug>, wakers: &Rc<Vec<Waker>>) -> Outcome {
    let scenario = Scenario::of(seed);
    let world = Rc::new(World::new(scenario.clone(), START_NS));
    let mut tally = Tally::default();
    let ran = catch_unwind(AssertUnwindSafe(|| run_world(&world, bug, wakers, &mut tally)));
    let violation = ran.unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default();
        let at_ns = world.cores.iter().map(|core| core.now_ns.get()).max().unwrap_or(0);
        Err(Violation { invariant: "panic", peer: None, at_ns, what })
    });
    let record = world.record.take();
    Outcome { record, scenario, tally, violation: violation.err() }
}

fn run_world(
    world: &Rc<World>,
    bug: Option<Bug>,
    wakers: &Rc<Vec<Waker>>,
    tally: &mut Tally,
) -> Result<(), Violation> {
    let scenario = &world.scenario;
    {
        let mut record = world.record.borrow_mut();
        record.names = names().to_vec();
        let reactors = scenario.reactors as u32;
        record.owners =
            names().iter().map(|(_, id)| steer(PeerId(*id), reactors) as usize).collect();
        record.by_id = names().iter().enumerate().map(|(peer, (_, id))| (*id, peer)).collect();
    }
    let mut monitor = Monitor::start(world, wakers, bug);
    let mut fleet = Fleet::new(scenario, world, START_NS);
    for &Ending { at_ns, absent_ns, hands_over } in &scenario.endings {
        world.at(at_ns, Event::End { absent_ns, hands_over });
    }
    world.at(START_NS + scenario.control.gap_ns, Event::Take);
    if scenario.machine.stall_gap_ns > 0 {
        world.at(START_NS + scenario.machine.stall_gap_ns, Event::Stall);
    }
    while let Some(next) = world.next(scenario.end_ns) {
        match next {
            Next::Reactor(number) => {
                monitor.resume(number);
                if monitor.has_ended(world, bug) {
                    monitor.launch(world, wakers, bug);
                }
            }
            Next::Event(now_ns, event) => {
                happen(world, &mut monitor, &mut fleet, event, now_ns, (bug, wakers));
            }
        }
    }
    monitor.stop(world);
    let end_ns = world.cores.iter().map(|core| core.now_ns.get()).max().unwrap_or(0);
    // Whatever is still pending needs room in the rings; there is none to make after the end.
    monitor.take(world, usize::MAX, end_ns, bug);

    let record = world.record.borrow();
    let count = |counter| monitor.counters().map(|counters| counters.get(counter)).sum::<u64>();
    tally.datagrams = count(Counter::Datagrams);
    tally.turns = count(Counter::Turns);
    tally.transitions = record.told.len() as u64;
    tally.downs = record.told.iter().filter(|t| t.transition.to == PeerState::Down).count() as u64;
    tally.simulated_ns = end_ns - START_NS;
    let all_fit = count(Counter::TableFull) == 0;
    let oracle = Oracle { scenario, record: &record, end_ns: scenario.end_ns, all_fit };
    oracle.judge()?;
    counters_add_up(&record, count, end_ns)?;
    tables_agree(&record, &monitor, scenario, end_ns)
}

fn happen(
    world: &Rc<World>,
    monitor: &mut Monitor,
    fleet: &mut Fleet,
    event: Event,
    now_ns: u64,
    (bug, wakers): (Option<Bug>, &Rc<Vec<Waker>>),
) {
    let scenario = &world.scenario;
    let stormy = now_ns < scenario.stormy_until_ns;
    match event {
        // What comes in the last moment would not be read any more.
        Event::Arrive { .. } if now_ns + SECOND > scenario.end_ns => {}
        Event::Arrive { datagram } => world.arrive(datagram, now_ns),
        Event::Beat { sender, generation } => fleet.beat(world, sender, generation, now_ns),
        Event::Relay { relay } => fleet.flush(world, relay, now_ns),
        Event::Start { sender } if stormy => fleet.start(world, sender, now_ns),
        Event::StartAll if stormy => fleet.start_all(world, now_ns),
        Event::Start { .. } | Event::StartAll => {}
        Event::Mischief => {
            if let Some(peer) = fleet.mischief(world, now_ns) {
                monitor.remove(world, peer, now_ns);
            }
        }
        Event::Stall => {
            if stormy && world.is_running(now_ns) {
                let number = world.draw(world.cores.len() as u64 - 1) as usize;
                let stall_ns = MS + world.draw(scenario.machine.stall_ns);
                world.stall(number, now_ns, stall_ns);
                let mean_ns = scenario.machine.stall_gap_ns;
                let gap_ns = exponential(&mut world.rng.borrow_mut(), mean_ns);
                world.at(now_ns + stall_ns + gap_ns, Event::Stall);
            } else if stormy {
                world.at(now_ns + scenario.machine.stall_gap_ns, Event::Stall);
            }
        }
        // The one before may take long to end.
        Event::End { .. } if !world.is_running(now_ns) => {}
        Event::End { absent_ns, hands_over } => {
            if hands_over {
                monitor.begin_to_end(world, now_ns, absent_ns);
            } else {
                monitor.kill(world, now_ns, now_ns + absent_ns);
                monitor.launch(world, wakers, bug);
            }
        }
        Event::Take => {
            let control = &scenario.control;
            let take = if stormy { control.take } else { usize::MAX };
            monitor.take(world, take, now_ns, bug);
            let pause_ns = if stormy && world.one_in(control.pause_one_in) {
                world.draw(control.pause_ns)
            } else {
                0
            };
            world.at(now_ns + control.gap_ns + pause_ns, Event::Take);
        }
    }
}

/// What came in is what was applied, refused or dropped, each once.
fn counters_add_up(
    record: &Record,
    count: impl Fn(Counter) -> u64,
    end_ns: u64,
) -> Result<(), Violation> {
    let (mut read, mut beats, mut junk, mut dropped, mut cut_short) = (0, 0, 0, 0, 0);
    for datagram in &record.datagrams {
        match datagram.fate {
            Fate::Queued { .. } => {
                read += 1;
                beats += datagram.beats.len() as u64;
                junk += u64::from(datagram.beats.is_empty() && datagram.from < MOST_PEERS);
                if datagram.cut_short {
                    cut_short += datagram.beats.len().max(1) as u64;
                }
            }
            Fate::Dropped { .. } => dropped += 1,
            Fate::Lost | Fate::Sent | Fate::Missed { .. } => {}
        }
    }
    // A process that is killed takes what it has not counted yet with it.
    let uncounted = |truth: u64| match record.absences.is_empty() {
        true => 0,
        false => truth,
    };
    let told: u64 = Reject::ALL.iter().map(|reject| count(reject.counter())).sum();
    let taken = [
        Counter::Heartbeats,
        Counter::Stale,
        Counter::Duplicate,
        Counter::Reordered,
        Counter::TableFull,
        Counter::ByeUnknown,
        Counter::HandOverFull,
    ];
    let taken: u64 = taken.into_iter().map(&count).sum();
    let pairs = [
        ("datagrams", read, count(Counter::Datagrams), cut_short),
        ("heartbeats", beats, taken, cut_short),
        ("rejected", junk, told, cut_short),
        ("kernel drops", dropped, count(Counter::KernelDrops), uncounted(dropped)),
    ];
    let fits = |truth: u64, counted: u64, uncounted: u64| {
        (truth.saturating_sub(uncounted)..=truth).contains(&counted)
    };
    match pairs.into_iter().find(|&(_, truth, counted, lost)| !fits(truth, counted, lost)) {
        None => Ok(()),
        Some((what, truth, counted, _)) => Err(Violation {
            invariant: "counters",
            peer: None,
            at_ns: end_ns,
            what: format!("{what}: {truth} there were, {counted} were counted"),
        }),
    }
}

/// The tables hold the peers that were told of, in the states that were told, and nobody else; no
/// slot and no part of the budget has leaked.
fn tables_agree(
    record: &Record,
    monitor: &Monitor,
    scenario: &Scenario,
    end_ns: u64,
) -> Result<(), Violation> {
    let wrong = |peer, what| Err(Violation { invariant: "table", peer, at_ns: end_ns, what });
    let mut states = vec![PeerState::Unknown; scenario.peers];
    for told in &record.told {
        states[record.by_id[&told.transition.peer.0]] = told.transition.to;
    }
    let mut kept = 0;
    for (peer, state) in states.into_iter().enumerate() {
        let view = &monitor.handles[record.owners[peer]].view;
        let slot = view.find(PeerId(record.names[peer].1)).map(|(_, slot)| slot);
        // Never told of: its first beat is pending, and its place taken.
        let pending = slot.is_some_and(|slot| slot.pending.is_some());
        let found = slot.map_or(PeerState::Unknown, |slot| slot.state);
        let told = if state == PeerState::Forgotten { PeerState::Unknown } else { state };
        if found != told && !pending {
            return wrong(Some(peer), format!("told to be {told:?}, in the table {found:?}"));
        }
        kept += u64::from(slot.is_some());
    }
    let used = monitor.handles.iter().map(|handle| {
        (0..handle.view.high_water()).filter(|&index| handle.view.read(index).is_some()).count()
    });
    let used = used.sum::<usize>() as u64;
    let kinds = [PeerState::Up, PeerState::Suspect, PeerState::Down, PeerState::Left];
    let counted: u64 = monitor
        .handles
        .iter()
        .map(|handle| kinds.into_iter().map(|kind| handle.states.get(kind)).sum::<u64>())
        .sum();
    let left = std::iter::from_fn(|| monitor.budget.take().then_some(())).count() as u64;
    if used != kept || counted != kept || kept + left != scenario.max_peers {
        let what = format!(
            "{kept} peers, {used} slots in use, {counted} counted, {left} of {} left to take",
            scenario.max_peers
        );
        return wrong(None, what);
    }
    Ok(())
}
