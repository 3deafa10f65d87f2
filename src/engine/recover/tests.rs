//! Killed at any transition, before or behind its record, and taken over: against the one thing
//! that a follower can check, that each peer's transitions form a chain without a break or a repeat.

mod any_store;

use super::*;
use crate::engine::journal::Journal;
use crate::engine::notice::Notice;
use crate::engine::shard::Surroundings;
use crate::engine::shard::{Outlet, Shard};
use crate::engine::slot::{Kept, SlotRegion};
use crate::engine::transition::{Reason, Transition};
use crate::engine::{Budget, Groups, Policy, StateCounts};
use crate::metrics::{Counters, Histograms};
use crate::sync::outliving::fence;
use crate::testing::{Rng, seeds};
use crate::wire::{Heartbeat, Kind, PeerId, Status};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;

const MS: u64 = 1_000_000;
const SEED: [u64; 2] = [3, 5];

fn policy() -> Policy {
    Policy {
        missed: 3.0,
        grace_ns: 20 * MS,
        suspect_fraction: 0.6,
        forget_down_ns: 2_000 * MS,
        forget_left_ns: 500 * MS,
        ..Policy::default()
    }
}

/// When a process is killed, counted in transitions.
#[derive(Clone, Copy)]
enum Kill {
    Never,
    BeforeRecord(u32),
    BehindRecord(u32),
    /// Told as well, but the slot not yet changed.
    Told(u32),
}

/// What outlives the processes: memory, and what was published.
struct World {
    policy: Policy,
    slots: Arc<Slots>,
    journal: Arc<Journal>,
    published: u64,
    stream: Vec<Transition>,
}

struct Process<'a> {
    world: &'a mut World,
    kill: Kill,
    count: u32,
}

impl Outlet for Process<'_> {
    fn has_room(&self) -> bool {
        true
    }

    fn transition(&mut self, transition: Transition) {
        self.count += 1;
        let die = || resume_unwind(Box::new("killed"));
        if matches!(self.kill, Kill::BeforeRecord(n) if n == self.count) {
            die();
        }
        let number = self.world.journal.append(&transition);
        if matches!(self.kill, Kill::BehindRecord(n) if n == self.count) {
            die();
        }
        // What the queue that it is told through does when it takes it in.
        fence(Ordering::Release);
        self.world.stream.push(transition);
        self.world.published = number;
        if matches!(self.kill, Kill::Told(n) if n == self.count) {
            die();
        }
    }

    fn profile(&mut self, _: usize, _: &Heartbeat) -> bool {
        false
    }

    fn notice(&mut self, _: Notice) {}
}

impl World {
    fn new(capacity: u32) -> World {
        World {
            policy: policy(),
            slots: Arc::new(Slots::new(SlotRegion::anonymous(capacity).unwrap())),
            journal: Arc::new(Journal::anonymous().unwrap()),
            published: 0,
            stream: Vec::new(),
        }
    }

    fn capacity(&self) -> u32 {
        self.slots.capacity()
    }

    /// A process that goes on from here: publishes what was not, takes the slots over.
    fn start(&mut self, now_ns: u64) -> (Shard, Found) {
        let untold: Vec<_> = self.journal.behind(self.published).collect();
        for (number, transition) in untold {
            self.stream.push(transition);
            self.published = number;
        }
        let groups = Arc::new(Groups::uniform(self.policy));
        let terms = Terms { now_ns, shard: 0, shards: 1, groups: &groups, learnt_holds: true };
        let (table, found) = Table::recover(self.slots.clone(), SEED, &terms);
        let surroundings = Surroundings {
            groups: groups.clone(),
            views: [].into(),
            budget: Arc::new(Budget::new(self.capacity() as u64)),
            states: Arc::new(StateCounts::default()),
            counters: Arc::new(Counters::default()),
            histograms: Arc::new(Histograms::default()),
        };
        let mut shard = Shard::new(table, surroundings, now_ns);
        let history = self.journal.behind(0).map(|(_, transition)| transition).collect();
        let looked_ns = self.journal.looked_ns();
        let journal = self.journal.clone();
        let kept = Kept { journal, history, looked_ns, left: None };
        assert_eq!(shard.go_on(kept, now_ns).1, 0, "refused");
        (shard, found)
    }

    /// Each peer's transitions form a chain, whose end is what its slot says.
    fn check(&self, shard: &Shard, context: &str) {
        let mut chains: BTreeMap<u64, PeerState> = BTreeMap::new();
        for t in &self.stream {
            let before = chains.insert(t.peer.0, t.to).unwrap_or(PeerState::Unknown);
            let before = if before == PeerState::Forgotten { PeerState::Unknown } else { before };
            assert_eq!(t.from, before, "{context}: {t:?}");
        }
        for (&peer, &state) in &chains {
            let slot = shard.table().find(PeerId(peer)).map(|index| shard.table().slot(index));
            // A newcomer that could not be told of yet has not begun its chain.
            let slot = slot.filter(|slot| slot.pending() != Some(Reason::FirstBeat));
            let is = slot.map_or(PeerState::Forgotten, |slot| slot.state());
            assert_eq!(is, state, "{context}: peer {peer}");
        }
    }
}

fn beat(peer: u64, sequence: u32, kind: Kind) -> Heartbeat {
    Heartbeat {
        peer: PeerId(peer),
        kind,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 1,
        sequence,
        interval_us: 100_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

#[test]
fn killed_at_any_transition_each_is_told_exactly_once() {
    // miri, a thousand times slower, is asked about the unsafe code and not about the logic.
    let (runs, lives, beats, least) =
        if cfg!(miri) { (1, 3, 10, 5) } else { (usize::MAX, 60, 40, 20) };
    for seed in seeds().into_iter().take(runs) {
        let mut rng = Rng::new(seed);
        let mut world = World::new(32);
        let mut now_ns = 1_000_000 * MS;
        let mut sequences = [0u32; 24];
        for life in 0..lives {
            let n = 1 + rng.below(12) as u32;
            let kill = match rng.below(4) {
                0 => Kill::Never,
                1 => Kill::BeforeRecord(n),
                2 => Kill::BehindRecord(n),
                _ => Kill::Told(n),
            };
            now_ns += rng.below(400) * MS;
            let (mut shard, found) = world.start(now_ns);
            let context = format!("seed {seed} life {life}");
            assert_eq!((found.repaired, found.discarded), (0, 0), "{context}");
            world.check(&shard, &context);
            let mut process = Process { world: &mut world, kill, count: 0 };
            let body = || {
                for _ in 0..beats {
                    now_ns += rng.below(120) * MS;
                    let peer = rng.below(24);
                    let kind = if rng.below(8) == 0 { Kind::Bye } else { Kind::Beat };
                    sequences[peer as usize] += 1;
                    let beat = beat(peer, sequences[peer as usize], kind);
                    shard.observe(&[beat], now_ns, &mut process);
                    shard.advance(now_ns, now_ns, usize::MAX, &mut process);
                    process.world.journal.looked(now_ns);
                }
            };
            let _killed = catch_unwind(AssertUnwindSafe(body)).is_err();
        }
        let (shard, _) = world.start(now_ns + 1);
        world.check(&shard, &format!("seed {seed} in the end"));
        assert!(world.stream.len() > least, "seed {seed}: something happened");
    }
}

#[test]
fn who_was_due_while_nobody_looked_gets_the_time_back_and_one_more_interval() {
    let mut world = World::new(4);
    let start = 5_000 * MS;
    let (mut shard, _) = world.start(start);
    let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
    shard.observe(&[beat(1, 1, Kind::Beat), beat(2, 1, Kind::Beat)], start, &mut process);
    world.journal.looked(start + 100 * MS);
    drop(shard);

    // Dead for 10 s. The timeout is 320 ms, 220 of them were left.
    let back = start + 10_100 * MS;
    let (mut shard, found) = world.start(back);
    assert_eq!(found, Found { peers: 2, ..Found::default() });
    let down_ns = back + 220 * MS;
    let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
    shard.observe(&[beat(2, 2, Kind::Beat)], back + 50 * MS, &mut process);
    shard.advance(down_ns - 1, down_ns - 1, 100, &mut process);
    let at = |shard: &Shard, peer| {
        let index = shard.table().find(PeerId(peer)).unwrap();
        shard.table().slot(index).state()
    };
    assert_eq!((at(&shard, 1), at(&shard, 2)), (PeerState::Suspect, PeerState::Up));
    shard.advance(down_ns + 1, down_ns + 1, 100, &mut process);
    assert_eq!((at(&shard, 1), at(&shard, 2)), (PeerState::Down, PeerState::Up));
    let told = process.world.stream.last().unwrap();
    assert_eq!((told.deadline_ns, told.last_seen_ns), (down_ns, start), "times stay true");
    drop(shard);

    // Looked until just before peer 2 was due: no more than one heartbeat could have been missed.
    let seen = back + 50 * MS;
    world.journal.looked(seen + 319 * MS);
    let back = seen + 325 * MS;
    let (mut shard, _) = world.start(back);
    let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
    // An interval and the grace, and as much longer to down as the two deadlines say.
    let (suspect_ns, down_ns) = (back + 120 * MS, back + 200 * MS);
    shard.advance(suspect_ns - 1, suspect_ns - 1, 100, &mut process);
    assert_eq!(at(&shard, 2), PeerState::Up);
    shard.advance(down_ns - 1, down_ns - 1, 100, &mut process);
    assert_eq!(at(&shard, 2), PeerState::Suspect);
    shard.advance(down_ns, down_ns, 100, &mut process);
    assert_eq!(at(&shard, 2), PeerState::Down);
}

/// Without the loss it would have been due before the kill, and that deadline nobody may judge by.
#[test]
fn what_a_loss_before_the_kill_granted_is_granted_behind_it() {
    let mut world = World::new(4);
    let start = 5_000 * MS;
    let (mut shard, _) = world.start(start);
    let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
    shard.observe(&[beat(1, 1, Kind::Beat)], start, &mut process);
    // The timeout is 320 ms. A loss just before leaves time for one more: 120 ms, 200 to down.
    shard.deaf(start + 290 * MS, start + 300 * MS, &mut process);
    world.journal.keep_sight(shard.sight().windows());
    world.journal.looked(start + 400 * MS);
    drop(shard);

    let back = start + 410 * MS;
    let (mut shard, _) = world.start(back);
    let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
    let state = |shard: &Shard| shard.table().slot(shard.table().find(PeerId(1)).unwrap()).state();
    shard.advance(back + 199 * MS, back + 199 * MS, 100, &mut process);
    assert_ne!(state(&shard), PeerState::Down);
    shard.advance(back + 211 * MS, back + 211 * MS, 100, &mut process);
    assert_eq!(state(&shard), PeerState::Down);
}

/// The sender starts anew, and its heartbeat is cut off before or behind the word that says so.
#[test]
fn a_torn_slot_is_kept_and_takes_what_is_newer_and_nothing_else() {
    for last in [(2, 1_000_000), (3, 5)] {
        let mut world = World::new(4);
        let now = 9_000 * MS;
        let (mut shard, _) = world.start(now);
        let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
        let of =
            |(incarnation, sequence), kind| Heartbeat { incarnation, ..beat(7, sequence, kind) };
        let heard = [(1, 5), (2, 999_998), (2, 1_000_000)];
        let heard = heard.map(|number| of(number, Kind::Beat));
        shard.observe(&heard, now, &mut process);
        let slot = shard.table().slot(0);
        let mut write = slot.write();
        write.set_last_seen_ns(now + MS);
        write.set_last(last.0, last.1);
        write.set_seen_mask(1);
        std::mem::forget(write);
        world.journal.looked(now);
        drop(shard);

        let (mut shard, found) = world.start(now + 2 * MS);
        assert_eq!(found, Found { peers: 1, repaired: 1, discarded: 0 });
        let before = shard.table().read(0);
        assert_eq!((before.incarnation, before.last_sequence), last);
        let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
        let byes = heard.map(|heard| Heartbeat { kind: Kind::Bye, ..heard });
        // It was missing, and its bit is not set: but who knows.
        let late = of((2, 999_999), Kind::Beat);
        shard.observe(&[heard[0], heard[1], heard[2], late], now + 3 * MS, &mut process);
        shard.observe(&byes, now + 3 * MS, &mut process);
        assert_eq!(substance(shard.table().read(0)), substance(before), "{last:?}");
        shard.observe(&[of((3, 6), Kind::Beat)], now + 4 * MS, &mut process);
        let data = shard.table().read(0);
        assert_eq!((data.last_seen_ns, data.last_sequence), (now + 4 * MS, 6), "{last:?}");
        assert_eq!(data.incarnation, 3);
    }
}

/// What a slot holds beside its counts of refusals.
fn substance(data: SlotData) -> SlotData {
    SlotData { duplicates: 0, stale: 0, ..data }
}

#[test]
fn a_slot_torn_in_a_change_says_what_the_journal_says() {
    let mut world = World::new(4);
    let now = 9_000 * MS;
    let (mut shard, _) = world.start(now);
    let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
    shard.observe(&[beat(7, 1, Kind::Beat)], now, &mut process);
    let last = Transition { to: PeerState::Left, fired_ns: now + MS, ..world.stream[0] };
    world.published = world.journal.append(&last);
    let mut write = shard.table().slot(0).write();
    write.set_since_ns(now + MS);
    std::mem::forget(write);
    drop(shard);
    let (shard, found) = world.start(now + 2 * MS);
    assert_eq!(found.repaired, 1);
    let data = shard.table().read(0);
    assert_eq!((data.state, data.since_ns), (PeerState::Left, now + MS));
}

/// A damaged slot: its peer is known, and what waits to be told contradicts its state.
#[test]
fn a_pending_change_that_contradicts_the_state_is_not_told() {
    for (state, reason) in [(PeerState::Up, Reason::Beat), (PeerState::Down, Reason::FirstBeat)] {
        let mut world = World::new(4);
        let now = 9_000 * MS;
        let (mut shard, _) = world.start(now);
        let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
        shard.observe(&[beat(7, 1, Kind::Beat)], now, &mut process);
        let made = Transition { to: state, fired_ns: now + MS, ..world.stream[0] };
        world.published = world.journal.append(&made);
        let mut write = shard.table().slot(0).write();
        write.set_state(state);
        write.set_since_ns(now + MS);
        write.set_pending(Some(reason));
        drop(write);
        drop(shard);
        let told = world.stream.len();
        let (mut shard, _) = world.start(now + 2 * MS);
        let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
        shard.advance(now + 3 * MS, now + 3 * MS, usize::MAX, &mut process);
        assert_eq!(world.stream[told..], [], "{state:?} {reason:?}");
        assert_eq!(shard.table().read(0).state, state);
    }
}

#[test]
fn what_no_process_can_have_written_is_emptied_and_the_rest_kept() {
    let now = 9_000 * MS;
    let groups = Groups::uniform(policy());
    let terms = Terms { now_ns: now, shard: 1, shards: 3, groups: &groups, learnt_holds: true };
    let mine: Vec<PeerId> =
        (1..).map(PeerId).filter(|id| wire::steer(*id, 3) == 1).take(4).collect();
    let stranger = (1..).map(PeerId).find(|id| wire::steer(*id, 3) == 2).unwrap();
    let slots = Arc::new(Slots::new(SlotRegion::anonymous(16).unwrap()));
    let good = SlotData { state: PeerState::Up, last_seen_ns: now, ..SlotData::FREE };
    let lie = |index: usize, data: SlotData| slots.all()[index].write().set_data(&data);
    lie(0, SlotData { peer: mine[0], ..good });
    lie(2, SlotData { peer: mine[1], last_seen_ns: now + 1, ..good });
    lie(3, SlotData { peer: mine[2], since_ns: u64::MAX, ..good });
    lie(4, SlotData { peer: stranger, ..good });
    lie(5, SlotData { peer: mine[0], ..good });
    lie(6, SlotData { peer: mine[3], ..good });
    // Free, but not empty.
    lie(7, SlotData { peer: mine[1], state: PeerState::Unknown, ..good });
    let (mut table, found) = Table::recover(slots, SEED, &terms);
    assert_eq!(found, Found { peers: 2, repaired: 0, discarded: 4 });
    assert_eq!((table.len(), table.find(mine[0]), table.find(mine[3])), (2, Some(0), Some(6)));
    let next: Vec<u32> = mine[1..3]
        .iter()
        .map(|&peer| table.insert(SlotData { peer, ..good }).expect("there is room"))
        .collect();
    assert_eq!(next, [1, 2], "the lowest free slots");
}

#[test]
fn a_group_and_what_was_learnt_are_kept_as_far_as_they_mean_something() {
    let groups = Groups::uniform(policy());
    groups.set_policy(2, 0);
    let learnt = Arrivals { mean_ns: 5.0, samples: 9, ..Arrivals::NONE };
    for (group, learnt_holds) in [(2, true), (2, false), (3, true), (0, true)] {
        let slots = Arc::new(Slots::new(SlotRegion::anonymous(4).unwrap()));
        let data = SlotData {
            peer: PeerId(7),
            state: PeerState::Up,
            arrivals: learnt,
            group,
            assigned: true,
            ..SlotData::FREE
        };
        slots.all()[0].write().set_data(&data);
        let terms = Terms { now_ns: 1, shard: 0, shards: 1, groups: &groups, learnt_holds };
        let (table, _) = Table::recover(slots, SEED, &terms);
        let found = table.read(0);
        let told = if group == 3 { None } else { Some(group) };
        assert_eq!((found.told_group(), found.assigned), (told, told.is_some()));
        assert_eq!(found.arrivals, if learnt_holds { learnt } else { Arrivals::NONE });
    }
}

#[test]
fn any_bytes_are_taken_for_what_they_are() {
    let (runs, capacity) = if cfg!(miri) { (1, 16) } else { (usize::MAX, 64) };
    for seed in seeds().into_iter().take(runs) {
        let mut rng = Rng::new(seed);
        let slots = Arc::new(Slots::new(SlotRegion::anonymous(capacity).unwrap()));
        slots.all().iter().for_each(|slot| slot.scramble(|| rng.next()));
        let groups = Groups::uniform(policy());
        let now_ns = u64::MAX >> 1;
        let terms = Terms { now_ns, shard: 0, shards: 1, groups: &groups, learnt_holds: true };
        let (table, found) = Table::recover(slots.clone(), SEED, &terms);
        assert_eq!(table.len(), found.peers, "seed {seed}");
        drop(table);
        let (table, again) = Table::recover(slots, SEED, &terms);
        assert_eq!(again, Found { peers: found.peers, ..Found::default() }, "seed {seed}");
        assert_eq!(table.len(), found.peers);
    }
}
