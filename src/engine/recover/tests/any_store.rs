//! Killed before any one of its stores, in any order that a compiler may have given them: whatever
//! is found, nobody is lost, blamed, or told of twice, nothing that was heard is heard again, and what the
//! sender says next is.

use super::*;
use crate::engine::Detector;
use crate::engine::admission::{Admission, NewcomerLimits, SharedGuard};
use crate::engine::sight::Window;
use crate::sync::outliving::{Killed, stores_of, until_store};
use crate::wire::{Auth, Guard, Key, Keyring};

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

/// What a peer is heard by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Form {
    /// Its own heartbeats, untagged.
    #[default]
    Plain,
    /// Lines, until its sender knows the binary form.
    Line,
    /// What anybody makes up, far ahead of the sender, until it has a key.
    MadeUp,
    /// Its own, by its key.
    Tagged,
}

/// What a sender says of itself next.
#[derive(Clone, Copy, Default)]
struct Sender {
    form: Form,
    incarnation: u32,
    sequence: u32,
    /// Starts of those who are not the sender.
    made_up: u32,
}

impl Sender {
    /// Two of each form. A start in the upper half is stale beside none at all.
    fn all() -> [Sender; PEERS as usize] {
        let forms = [Form::Plain, Form::Line, Form::MadeUp].into_iter().cycle();
        let mut senders = [Sender { incarnation: 3 << 30, ..Sender::default() }; PEERS as usize];
        senders.iter_mut().zip(forms).for_each(|(sender, form)| sender.form = form);
        senders
    }

    fn next(&mut self, peer: PeerId, kind: Kind, rng: &mut Rng) -> Heartbeat {
        if rng.one_in(8) {
            self.form = match self.form {
                Form::Plain | Form::Line => Form::Plain,
                Form::MadeUp | Form::Tagged => Form::Tagged,
            };
        }
        if rng.one_in(8) {
            self.incarnation += 1 + rng.below(1_000) as u32;
            self.sequence = rng.below(3) as u32;
        }
        self.sequence += 1 + u32::from(rng.one_in(6));
        self.made_up += 1;
        let own = Heartbeat {
            incarnation: 1 + self.incarnation,
            profile_digest: rng.below(3) as u32,
            ..beat(peer.0, self.sequence, kind)
        };
        match self.form {
            Form::Plain => own,
            Form::Line => Heartbeat { sequenced: false, incarnation: 0, sequence: 0, ..own },
            Form::MadeUp => {
                let incarnation = own.incarnation.wrapping_add(1 << 30).wrapping_add(self.made_up);
                Heartbeat { incarnation, ..own }
            }
            Form::Tagged => Heartbeat { key_id: 1, ..own },
        }
    }
}

/// Tagged heartbeats are taken, and untagged ones of who was never tagged.
fn guarded(shard: &mut Shard) {
    let mut keys = Keyring::default();
    assert!(keys.insert(Key::new(1, [1; 32]).expect("not 0"), None));
    let guard = SharedGuard::default();
    guard.store(Arc::new(Guard { auth: Auth::Optional, keys }));
    *shard.admission() = Admission::new(guard, NewcomerLimits::default(), 1);
}

/// The turns of a run: all that can befall peers, so that every kind of store comes.
fn turns(rng: &mut Rng, from_ns: u64, count: usize, senders: &mut [Sender]) -> Vec<Turn> {
    let mut now_ns = from_ns;
    let turn = |_| {
        now_ns += rng.below(60) * MS;
        let peer = PeerId(FIRST + rng.below(PEERS));
        let kind = if rng.one_in(10) { Kind::Bye } else { Kind::Beat };
        let heartbeat = senders[place(peer)].next(peer, kind, rng);
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
    /// All that it heard, as somebody may have recorded it.
    recorded: Vec<Heartbeat>,
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
                lived.recorded.push(heartbeat);
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

/// Nothing that was heard, and has a number, is heard again, as long as its peer is known. Of what is made
/// up that holds once it is known to be: of the first that is proven, the position may be found without the
/// key, and what nobody has proven anybody can make anew.
fn replays_change_nothing(
    shard: &mut Shard,
    process: &mut Process<'_>,
    recorded: &[Heartbeat],
    now_ns: u64,
    context: &str,
) {
    for heard in recorded.iter().filter(|heard| heard.sequenced) {
        let Some(index) = shard.table().find(heard.peer) else { continue };
        let before = shard.table().read(index);
        let made_up = place(heard.peer) % 3 == 2 && heard.key_id == 0;
        if made_up && before.key_id == 0 {
            continue;
        }
        let told = process.world.stream.len();
        for kind in [Kind::Beat, Kind::Bye] {
            shard.observe(&[Heartbeat { kind, ..*heard }], now_ns, process);
        }
        let after = shard.table().read(index);
        assert_eq!(substance(after), substance(before), "{context}: {heard:?}");
        assert_eq!(process.world.stream.len(), told, "{context}: {heard:?}");
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
        let mut senders = Sender::all();
        let turns = turns(&mut rng, 1_000_000 * MS, STEPS + MORE_STEPS, &mut senders);
        let (first_life, second_life) = turns.split_at(STEPS);
        let begin = |world: &mut World| {
            let (mut shard, _) = world.start(turns[0].0);
            guarded(&mut shard);
            shard
        };
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
            guarded(&mut shard);
            let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
            let recorded = std::mem::take(&mut lived.recorded);
            replays_change_nothing(&mut shard, &mut process, &recorded, back_ns, &context);
            // The sender goes on, and whoever recorded what was cut short may have been first.
            let cut = match first_life[done].1 {
                Step::Beat(heartbeat) => Some(heartbeat),
                _ => None,
            };
            if let Some(cut) = cut.filter(|_| rng.one_in(2)) {
                shard.observe(&[cut], back_ns, &mut process);
            }
            let next = first_life[done + 1..].iter().find(|(_, step)| {
                matches!(step, Step::Beat(beat) if beat.kind == Kind::Beat
                    && cut.is_none_or(|cut| cut.peer == beat.peer))
            });
            let next: Vec<_> = next.map(|&(_, step)| (back_ns, step)).into_iter().collect();
            if !next.is_empty() {
                live(&mut shard, &mut process, &next, &mut lived);
            }
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
            let heard = [&first_life[..done], &next, &second_life].map(heard_in).concat();
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

#[test]
fn a_repair_that_is_cut_short_is_done_again() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut nth = 0;
        loop {
            let slots = Slots::new(SlotRegion::anonymous(1).unwrap());
            let slot = &slots.all()[0];
            slot.write().set_data(&SlotData { seen_mask: 5, ..SlotData::FREE });
            std::mem::forget(slot.write());
            nth += 1;
            let ended = until_store(nth, &mut rng, || slot.repair());
            if ended.is_ok() {
                break;
            }
            slot.repair();
            assert_eq!(slot.seen_mask(), u32::MAX, "seed {seed}, store {nth}");
        }
        assert_eq!(nth, 4, "three stores");
    }
}

/// The first binary heartbeat behind lines, the first proof behind what somebody made up, and the first of
/// another start: what was there before must not bind the sender without them.
#[test]
fn killed_within_the_first_of_its_kind_the_next_one_is_taken() {
    let own = |incarnation, number| Heartbeat { incarnation, ..beat(FIRST, number, Kind::Beat) };
    let line = Heartbeat { sequenced: false, ..own(0, 0) };
    let tagged = |number| Heartbeat { key_id: 1, ..own(5, number) };
    let start = 3 << 30;
    let changes = [
        [line, own(start, 1), own(start, 2)],
        [own(6, 1), tagged(1), tagged(2)],
        [own(5, 9), own(6, 1), own(6, 2)],
    ];
    let (at_ns, next_ns) = (1_000_000 * MS, 1_000_070 * MS);
    for ([before, first, next], seed) in
        changes.into_iter().flat_map(|change| seeds().into_iter().take(4).map(move |s| (change, s)))
    {
        let mut rng = Rng::new(seed);
        for nth in 1.. {
            let mut world = world(false);
            let (mut shard, _) = world.start(at_ns);
            guarded(&mut shard);
            let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
            shard.observe(&[before], at_ns, &mut process);
            let ended = until_store(nth, &mut rng, || {
                shard.observe(&[first], at_ns + 50 * MS, &mut process);
            });
            drop(shard);
            if ended.is_ok() {
                assert!(nth > 10, "it stores something");
                break;
            }
            let (mut shard, _) = world.start(at_ns + 60 * MS);
            guarded(&mut shard);
            let mut process = Process { world: &mut world, kill: Kill::Never, count: 0 };
            shard.observe(&[next], next_ns, &mut process);
            let seen_ns = shard.table().read(0).last_seen_ns;
            assert_eq!(seen_ns, next_ns, "seed {seed}, store {nth}: {next:?} was not taken");
        }
    }
}
