//! Killed before any one of its stores, in any order that a compiler may have given them: whatever
//! is found, nobody is lost, blamed, or told of twice.

use super::*;
use crate::engine::Detector;
use crate::engine::sight::Window;
use crate::sync::outliving::{Killed, stores_of, until_store};

/// So many peers, the first of which has this number: an empty slot's is none of them.
const PEERS: u64 = 6;
const FIRST: u64 = 100;
/// Steps of a life, and those that its heir goes on for.
const STEPS: usize = if cfg!(miri) { 8 } else { 60 };
const MORE_STEPS: usize = 12;
/// One store in so many is the last of a run; each seed begins with another one.
const EVERY: u64 = if cfg!(miri) { 100 } else { 16 };

/// What one turn of a process is about.
#[derive(Clone, Copy, Debug)]
enum Step {
    Beat(Heartbeat),
    /// The same once more, as a network doubles it.
    Again(PeerId),
    Remove(PeerId),
    /// Something was lost in the time of the turn before.
    Deaf,
    Nothing,
}

/// A turn, and when.
type Turn = (u64, Step);

fn place(peer: PeerId) -> usize {
    (peer.0 - FIRST) as usize
}

/// What a sender says of itself next.
#[derive(Clone, Copy, Default)]
struct Sender {
    incarnation: u32,
    sequence: u32,
}

/// The turns of a run: all that can befall peers, so that every kind of store comes.
fn turns(rng: &mut Rng, from_ns: u64, count: usize, senders: &mut [Sender]) -> Vec<Turn> {
    let mut now_ns = from_ns;
    let turn = |_| {
        now_ns += rng.below(60) * MS;
        let peer = PeerId(FIRST + rng.below(PEERS));
        let sender = &mut senders[place(peer)];
        let kind = if rng.one_in(10) { Kind::Bye } else { Kind::Beat };
        if rng.one_in(8) {
            sender.incarnation += 1 + rng.below(1_000) as u32;
            sender.sequence = rng.below(3) as u32;
        }
        sender.sequence += 1 + u32::from(rng.one_in(6));
        let heartbeat = Heartbeat {
            incarnation: 1 + sender.incarnation,
            profile_digest: rng.below(3) as u32,
            ..beat(peer.0, sender.sequence, kind)
        };
        let step = match rng.below(16) {
            0 => Step::Nothing,
            1 => Step::Again(peer),
            2 => Step::Remove(peer),
            3 => Step::Deaf,
            // A silence long enough for everything that a silence leads to.
            4 => {
                now_ns += 900 * MS;
                Step::Beat(heartbeat)
            }
            _ => Step::Beat(heartbeat),
        };
        (now_ns, step)
    };
    (0..count).map(turn).collect()
}

/// What a process has lived to see.
#[derive(Default)]
struct Lived {
    turns: usize,
    newest: [Option<Heartbeat>; PEERS as usize],
    /// What it did not hear, each time that it wrote it down.
    sights: Vec<Vec<Window>>,
}

/// Does the turns.
fn live(shard: &mut Shard, process: &mut Process<'_>, turns: &[Turn], lived: &mut Lived) {
    let mut before_ns = turns[0].0;
    for &(now_ns, step) in turns {
        match step {
            Step::Beat(heartbeat) => {
                shard.observe(&[heartbeat], now_ns, process);
                lived.newest[place(heartbeat.peer)] = Some(heartbeat);
                let taken = shard.table().find(heartbeat.peer);
                let seen_ns = taken.map(|index| shard.table().slot(index).last_seen_ns());
                let is_there = heartbeat.kind == Kind::Beat || seen_ns.is_some();
                assert!(!is_there || seen_ns == Some(now_ns), "{heartbeat:?} was not taken");
            }
            Step::Again(peer) => {
                if let Some(heartbeat) = lived.newest[place(peer)] {
                    shard.observe(&[heartbeat], now_ns, process);
                }
            }
            Step::Remove(peer) => {
                shard.remove(peer, now_ns, process);
            }
            Step::Deaf => {
                shard.deaf(before_ns, now_ns, process);
                lived.sights.push(shard.sight().windows().to_vec());
                process.world.journal.keep_sight(shard.sight().windows());
            }
            Step::Nothing => {}
        }
        shard.advance(now_ns, now_ns, usize::MAX, process);
        process.world.journal.looked(now_ns);
        before_ns = now_ns;
        lived.turns += 1;
    }
}

/// A world with a detector that learns or one that does not.
fn world(learns: bool) -> World {
    let detector = match learns {
        true => Detector::Blend(Default::default()),
        false => Detector::Fixed { timeout_ns: None },
    };
    World { policy: Policy { detector, floor_ns: 310 * MS, ..policy() }, ..World::new(8) }
}

/// Whether anybody was called down before it had been silent for the shortest timeout there is.
fn nobody_is_blamed(world: &World, heard: &[(u64, u64)], context: &str) {
    for t in world.stream.iter().filter(|t| t.to == PeerState::Down) {
        let last = heard.iter().filter(|(peer, at_ns)| *peer == t.peer.0 && *at_ns <= t.fired_ns);
        let last_ns = last.map(|(_, at_ns)| *at_ns).max().unwrap_or(0);
        assert!(t.fired_ns >= last_ns + 310 * MS, "{context}: heard at {last_ns}, {t:?}");
    }
}

#[test]
fn killed_before_any_store_nobody_is_lost_or_blamed_or_told_of_twice() {
    for seed in seeds().into_iter().take(if cfg!(miri) { 1 } else { usize::MAX }) {
        let learns = seed / 2 % 2 == 1;
        let mut rng = Rng::new(seed);
        let mut senders = [Sender::default(); PEERS as usize];
        let turns = turns(&mut rng, 1_000_000 * MS, STEPS + MORE_STEPS, &mut senders);
        let (first_life, second_life) = turns.split_at(STEPS);
        let begin = |world: &mut World| world.start(turns[0].0).0;
        let mut whole = world(learns);
        let mut shard = begin(&mut whole);
        let stores = stores_of(|| {
            let mut process = Process { world: &mut whole, kill: Kill::Never, count: 0 };
            live(&mut shard, &mut process, first_life, &mut Lived::default());
        });
        assert!(whole.stream.len() > STEPS / 4, "seed {seed}: something happened");
        for nth in (1 + seed % EVERY..=stores).step_by(EVERY as usize) {
            let context = format!("seed {seed}, store {nth} of {stores}, learns: {learns}");
            let mut world = world(learns);
            let mut shard = begin(&mut world);
            let mut lived = Lived::default();
            let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
            let ended = until_store(nth, &mut rng, || {
                live(&mut shard, &mut process, first_life, &mut lived);
            });
            assert!(matches!(ended, Err(Killed)), "{context}");
            drop(shard);
            // The turn that was cut short is not done again: what it brought is lost.
            let done = lived.turns;
            let back_ns = first_life[done].0 + 1 + rng.below(500) * MS;
            let sight: Vec<_> = world.journal.sight().collect();
            let either = lived.sights.iter().rev().take(2).any(|kept| *kept == sight);
            assert!(either || lived.sights.len() < 2 && sight.is_empty(), "{context}: {sight:?}");
            let (mut shard, found) = world.start(back_ns);
            assert_eq!(found.discarded, 0, "{context}");
            assert!(found.repaired <= 1, "{context}");
            world.check(&shard, &context);
            // From here the turns are later by the time of the absence.
            let later_ns = back_ns.saturating_sub(second_life[0].0);
            let second_life: Vec<_> =
                second_life.iter().map(|&(at_ns, step)| (at_ns + later_ns, step)).collect();
            let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
            live(&mut shard, &mut process, &second_life, &mut lived);
            let last_ns = second_life[MORE_STEPS - 1].0;
            for later_ns in (0..20_000 * MS).step_by(500_000_000) {
                let now_ns = last_ns + later_ns;
                shard.advance(now_ns, now_ns, usize::MAX, &mut process);
            }
            world.check(&shard, &context);
            let heard_in = |turns: &[Turn]| -> Vec<(u64, u64)> {
                let beats = turns.iter().filter_map(|&(at_ns, step)| match step {
                    Step::Beat(beat) if beat.kind == Kind::Beat => Some((beat.peer.0, at_ns)),
                    _ => None,
                });
                beats.collect()
            };
            let heard = [heard_in(&first_life[..done]), heard_in(&second_life)].concat();
            nobody_is_blamed(&world, &heard, &context);
            // All have long been silent, so whoever was ever told of is told to be gone.
            let mut last: BTreeMap<u64, PeerState> = BTreeMap::new();
            last.extend(world.stream.iter().map(|t| (t.peer.0, t.to)));
            assert!(
                last.values().all(|state| *state == PeerState::Forgotten),
                "{context}: {last:?}"
            );
            let ours = FIRST..FIRST + PEERS;
            assert!(last.keys().all(|peer| ours.contains(peer)), "{context}: {last:?}");
            for (peer, _) in heard {
                assert!(last.contains_key(&peer), "{context}: {peer} was heard and is lost");
            }
            assert_eq!(shard.table().len(), 0, "{context}");
        }
    }
}
