//! Tests of what must change nothing: replays, forgeries, and keys that speak for somebody else's
//! peers. Tags are the wire's matter; here a key id says who has proven to be the sender.

use super::tests::{Bench, beat};
use super::*;
use crate::engine::admission::{NewcomerLimits, SharedGuard};
use crate::engine::slot::SlotData;
use crate::testing::{Rng, seeds};
use crate::wire::Kind;
use crate::wire::{Auth, Guard, Key, KeySet, Keyring};
use PeerState::*;

const MS: u64 = 1_000_000;
const START: u64 = 5_000 * MS;

/// Key 1 speaks for all, 2 and 3 for web, 4 for db.
fn guard(auth: Auth) -> Guard {
    let mut keys = Keyring::default();
    let scopes: [Option<&str>; 4] = [None, Some("web"), Some("web"), Some("db")];
    for (id, scope) in (1..).zip(scopes) {
        let scope = scope.map(|group| vec![group.to_owned()]);
        assert!(keys.insert(Key::new(id, [id; 32]).expect("not 0"), scope.as_deref()));
    }
    Guard { auth, keys }
}

fn gated(auth: Auth, limits: NewcomerLimits) -> (Bench, SharedGuard) {
    let mut bench = Bench::new(64, START);
    let shared = SharedGuard::default();
    shared.store(Arc::new(guard(auth)));
    *bench.shard.admission() = Admission::new(shared.clone(), limits, 1);
    (bench, shared)
}

fn by(key_id: u8, beat: Heartbeat) -> Heartbeat {
    Heartbeat { key_id, ..beat }
}

fn hello(profile_digest: u32, beat: Heartbeat) -> Heartbeat {
    Heartbeat { profile_digest, ..beat }
}

fn slot(bench: &Bench, peer: u64) -> SlotData {
    let table = bench.shard.table();
    table.slot(table.find(PeerId(peer)).expect("it is there")).data()
}

/// What a slot holds beside its counts of refusals.
fn substance(data: SlotData) -> SlotData {
    SlotData { duplicates: 0, stale: 0, ..data }
}

#[test]
fn an_old_hello_brings_no_old_profile_back() {
    let mut bench = Bench::new(8, START);
    bench.observe(&[hello(70, beat(1, 5, 1))], START);
    bench.observe(&[hello(71, beat(1, 5, 2))], START + MS);
    bench.observe(&[beat(1, 6, 1)], START + 2 * MS);
    let before = slot(&bench, 1);
    for old in [hello(70, beat(1, 5, 1)), hello(70, beat(1, 6, 1)), hello(70, beat(1, 6, 0))] {
        bench.observe(&[old], START + 3 * MS);
        assert_eq!(slot(&bench, 1).profile_digest, 71, "{old:?}");
    }
    assert_eq!(substance(slot(&bench, 1)), before);
}

#[test]
fn a_replayed_bye_sends_nobody_away() {
    let mut bench = Bench::new(8, START);
    let bye = Heartbeat { kind: Kind::Bye, ..beat(1, 5, 2) };
    bench.observe(&[beat(1, 5, 1), bye], START);
    assert_eq!(bench.state(1), Left);
    bench.observe(&[beat(1, 5, 3)], START + MS);
    assert_eq!(bench.state(1), Up, "it went on in the same incarnation");
    for wait in [2, 40] {
        assert!(bench.observe(&[bye], START + wait * MS).is_empty());
        assert_eq!(bench.state(1), Up);
        let beats: Vec<_> = (4..=40).map(|sequence| beat(1, 5, sequence)).collect();
        bench.observe(&beats, START + wait * MS);
    }
}

#[test]
fn who_has_authenticated_is_never_again_heard_without_a_key() {
    let (mut bench, _) = gated(Auth::Optional, NewcomerLimits::default());
    bench.observe(&[beat(2, 5, 1)], START);
    assert_eq!(bench.state(2), Up, "it has no key yet");
    bench.observe(&[by(1, hello(7, beat(1, 5, 1)))], START);
    let before = slot(&bench, 1);
    let forged = [
        beat(1, 5, 2),
        beat(1, u32::MAX, 2),
        hello(8, beat(1, 6, 1)),
        Heartbeat { kind: Kind::Bye, ..beat(1, 5, 3) },
        Heartbeat { sequenced: false, kind: Kind::Bye, ..beat(1, 0, 0) },
    ];
    assert!(bench.observe(&forged, START + MS).is_empty());
    assert_eq!(slot(&bench, 1), before, "not even a count");
    assert_eq!(bench.counters.get(Counter::Unauthenticated), forged.len() as u64);
    bench.observe(&[by(1, beat(1, 5, 2))], START + 2 * MS);
    assert_eq!(slot(&bench, 1).last_sequence, 2);
}

#[test]
fn what_a_forger_said_before_the_first_proof_does_not_bind() {
    let (mut bench, _) = gated(Auth::Optional, NewcomerLimits::default());
    // The most ahead that an incarnation can be: everything true is stale for 6.8 years.
    bench.observe(&[beat(1, 5, 1), beat(1, 5 + (u32::MAX >> 1), 1)], START);
    bench.observe(&[beat(1, 5, 2)], START + MS);
    assert_eq!(bench.counters.get(Counter::Stale), 1);
    bench.observe(&[by(1, beat(1, 5, 3))], START + 2 * MS);
    let slot = slot(&bench, 1);
    assert_eq!((slot.incarnation, slot.last_sequence, slot.key_id), (5, 3, 1));
    assert_eq!(slot.last_seen_ns, START + 2 * MS);
}

#[test]
fn numbers_that_nobody_has_proven_make_no_line_of_its_sender_stale() {
    let (mut bench, _) = gated(Auth::Optional, NewcomerLimits::default());
    let line = by(1, Heartbeat { sequenced: false, incarnation: 0, ..beat(1, 0, 0) });
    bench.observe(&[beat(1, 9, 7), line, line], START);
    assert_eq!((slot(&bench, 1).heartbeats, slot(&bench, 1).stale), (3, 0));
    // Its own numbers do.
    bench.observe(&[by(1, beat(1, 5, 1)), line], START);
    assert_eq!((slot(&bench, 1).heartbeats, slot(&bench, 1).stale), (4, 1));
}

#[test]
fn a_key_speaks_for_its_own_groups_peers_only() {
    let (mut bench, _) = gated(Auth::Required, NewcomerLimits::default());
    bench.observe(&[by(2, hello(7, beat(1, 5, 1))), by(4, hello(9, beat(2, 5, 1)))], START);
    let before = [slot(&bench, 1), slot(&bench, 2)];
    let foreign = [
        by(4, beat(1, 5, 2)),
        by(4, hello(8, beat(1, 6, 1))),
        by(2, Heartbeat { kind: Kind::Bye, ..beat(2, 5, 2) }),
    ];
    bench.observe(&foreign, START + MS);
    assert_eq!([slot(&bench, 1), slot(&bench, 2)], before);
    assert_eq!(bench.counters.get(Counter::KeyScope), 3);
    // A beat says no group, so a bound key makes nobody by it.
    bench.observe(&[by(2, beat(3, 5, 1))], START + MS);
    assert_eq!(bench.state(3), Unknown);
    // The relay's key speaks for all and may bring the beat; the peer's own key stays in force.
    bench.observe(&[by(1, beat(1, 5, 2)), by(2, beat(1, 5, 3))], START + 2 * MS);
    assert_eq!((slot(&bench, 1).last_sequence, slot(&bench, 1).key_id), (3, 2));
}

#[test]
fn a_peer_that_only_a_relay_spoke_for_is_its_own_keys_with_its_first_hello() {
    let (mut bench, _) = gated(Auth::Required, NewcomerLimits::default());
    bench.observe(&[by(1, hello(5, beat(9, 5, 1))), by(2, hello(5, beat(8, 5, 1)))], START);
    let relays = [9, 8].map(|relay| bench.shard.shared.groups.parent_number(PeerId(relay)));
    assert_eq!(relays, [Some(1), Some(2)]);
    // Its first HELLO was lost on the way; what the relay packs has the relay's key.
    bench.sink.way = Way::Relay(1);
    bench.observe(&[by(1, beat(1, 5, 2))], START);
    // What another relay bundles has the peer's own, and so is nobody else's.
    bench.sink.way = Way::Relay(2);
    bench.observe(&[by(1, beat(2, 5, 2))], START);
    bench.sink.way = Way::Unsaid;
    bench.observe(&[by(2, hello(7, beat(2, 5, 3)))], START);
    assert_eq!((slot(&bench, 2).key_id, bench.counters.get(Counter::KeyScope)), (1, 1));
    bench.observe(&[by(2, beat(1, 5, 3))], START);
    assert_eq!((slot(&bench, 1).key_id, bench.counters.get(Counter::KeyScope)), (1, 2));
    bench.observe(&[by(2, hello(7, beat(1, 5, 4)))], START);
    assert_eq!((slot(&bench, 1).key_id, slot(&bench, 1).last_sequence), (2, 4));
    // From then on another key cannot claim it.
    bench.observe(&[by(4, hello(8, beat(1, 5, 5)))], START);
    assert_eq!(slot(&bench, 1).key_id, 2);
}

fn set(ids: &[u8]) -> KeySet {
    let mut keys = KeySet::default();
    ids.iter().for_each(|id| keys.insert(*id));
    keys
}

/// Key 1 speaks for all until it is bound to web, which is group 1; db is 2.
#[test]
fn a_key_speaks_for_no_peer_of_a_group_that_was_taken_from_it() {
    let (mut bench, shared) = gated(Auth::Required, NewcomerLimits::default());
    bench.observe(&[by(1, hello(7, beat(1, 5, 1))), by(1, hello(7, beat(2, 5, 1)))], START);
    (1..).zip([1, 2]).for_each(|(peer, group)| bench.shard.assign(PeerId(peer), group, 0, START));
    bench.shard.peers.groups.set_keys(1, set(&[1, 2, 3]));
    bench.shard.peers.groups.set_keys(2, set(&[4]));
    let mut keys = Keyring::default();
    for (id, group) in [(1, "web"), (2, "web"), (4, "db")] {
        let key = Key::new(id, [id; 32]).expect("not 0");
        assert!(keys.insert(key, Some(&[group.to_owned()])));
    }
    shared.store(Arc::new(Guard { auth: Auth::Required, keys }));
    // Those of web go on, in the usual way.
    bench.observe(&[by(1, beat(1, 5, 2))], START + MS);
    assert_eq!(slot(&bench, 1).last_sequence, 2);
    let before = slot(&bench, 2);
    let bye = Heartbeat { kind: Kind::Bye, ..beat(2, 5, 3) };
    let tried = [beat(2, 5, 2), bye, hello(8, beat(2, 5, 4)), hello(8, beat(2, 6, 1))];
    for key_id in [1, 2] {
        for tried in tried {
            bench.observe(&[by(key_id, tried)], START + MS);
        }
    }
    assert_eq!((slot(&bench, 2), bench.counters.get(Counter::KeyScope)), (before, 8));
    // Whose group it is may claim it.
    bench.observe(&[by(4, beat(2, 5, 2))], START + 2 * MS);
    assert_eq!(slot(&bench, 2), before);
    bench.observe(&[by(4, hello(9, beat(2, 5, 3))), by(4, beat(2, 5, 4))], START + 3 * MS);
    assert_eq!((slot(&bench, 2).key_id, slot(&bench, 2).last_sequence), (4, 4));
}

/// Key 1 speaks for all until it is bound to web, key 5 for all.
#[test]
fn a_key_that_is_bound_to_groups_speaks_for_no_peer_that_is_in_none() {
    let (mut bench, shared) = gated(Auth::Required, NewcomerLimits::default());
    // One that has said that it is in none, one of which that is about to be told, and one that has said
    // nothing at all.
    let newcomers = [hello(7, beat(1, 5, 1)), hello(7, beat(2, 5, 1)), beat(3, 5, 1)];
    bench.observe(&newcomers.map(|newcomer| by(1, newcomer)), START);
    bench.shard.assign(PeerId(1), 0, 0, START);
    assert_eq!([1, 2, 3].map(|peer| slot(&bench, peer).assigned), [true, false, false]);
    let mut keys = Keyring::default();
    assert!(keys.insert(Key::new(1, [1; 32]).expect("not 0"), Some(&["web".to_owned()])));
    assert!(keys.insert(Key::new(5, [5; 32]).expect("not 0"), None));
    bench.shard.peers.groups.set_keys(0, keys.admitting(""));
    shared.store(Arc::new(Guard { auth: Auth::Required, keys }));

    let tried = |peer, sequence| {
        let bye = Heartbeat { kind: Kind::Bye, ..beat(peer, 5, sequence) };
        let tried = [beat(peer, 5, sequence), bye, hello(8, beat(peer, 6, sequence))];
        tried.map(|tried| by(1, tried))
    };
    let before = slot(&bench, 1);
    bench.observe(&tried(1, 2), START + MS);
    assert_eq!((slot(&bench, 1), bench.counters.get(Counter::KeyScope)), (before, 3));
    bench.observe(&[by(1, beat(2, 5, 2)), by(1, beat(3, 5, 2))], START + MS);
    assert_eq!([2, 3].map(|peer| slot(&bench, peer).last_sequence), [2, 2]);
    // Now it is told.
    bench.shard.assign(PeerId(2), 0, 0, START + 2 * MS);
    let before = slot(&bench, 2);
    bench.observe(&tried(2, 3), START + 2 * MS);
    assert_eq!((slot(&bench, 2), bench.counters.get(Counter::KeyScope)), (before, 6));
    // Whoever speaks for those in none goes on with it.
    bench.observe(&[by(5, beat(2, 5, 3)), by(5, beat(2, 5, 4))], START + 3 * MS);
    assert_eq!((slot(&bench, 2).key_id, slot(&bench, 2).last_sequence), (5, 4));
}

/// Somebody untagged came first, under its name and in a group, or none, that its key does not speak for.
#[test]
fn a_group_that_nobody_has_proven_locks_no_key_out() {
    for group in [2, 0] {
        let (mut bench, _) = gated(Auth::Optional, NewcomerLimits::default());
        bench.observe(&[hello(7, beat(1, 5, 1))], START);
        bench.shard.assign(PeerId(1), group, 0, START);
        bench.shard.peers.groups.set_keys(group, KeySet::default());
        bench.observe(&[by(2, hello(8, beat(1, 4, 1))), by(2, beat(1, 4, 2))], START + MS);
        let found = slot(&bench, 1);
        let expected = (2, 0, false, 2);
        assert_eq!((found.key_id, found.group, found.assigned, found.last_sequence), expected);
        // Its own group, when it is told.
        bench.shard.peers.groups.set_keys(1, set(&[2]));
        bench.shard.assign(PeerId(1), 1, 0, START + 2 * MS);
        bench.observe(&[by(2, beat(1, 4, 3))], START + 2 * MS);
        assert_eq!((slot(&bench, 1).group, slot(&bench, 1).last_sequence), (1, 3));
    }
}

/// More groups are named than there are numbers: its key may well speak for the one that it names.
#[test]
fn a_peer_whose_group_has_no_number_stays_with_its_key() {
    let (mut bench, _) = gated(Auth::Required, NewcomerLimits::default());
    bench.observe(&[by(2, hello(7, beat(1, 5, 1)))], START);
    bench.shard.peers.groups.set_keys(0, KeySet::default());
    bench.shard.unassign(PeerId(1), 0, START);
    bench.observe(&[by(2, beat(1, 5, 2))], START + MS);
    assert_eq!(slot(&bench, 1).last_sequence, 2);
    bench.shard.assign(PeerId(1), 0, 0, START + MS);
    bench.shard.unassign(PeerId(1), 0, START + MS);
    bench.observe(&[by(2, beat(1, 5, 3))], START + 2 * MS);
    assert_eq!(slot(&bench, 1).last_sequence, 3);
}

/// Its name is lost with a monitor that is killed before it is written, and asked for again.
#[test]
fn a_peer_whose_name_was_lost_is_still_nobody_elses() {
    let (mut bench, _) = gated(Auth::Required, NewcomerLimits::default());
    bench.sink.way = Way::Relay(1);
    bench.observe(&[by(4, hello(7, beat(1, 5, 1)))], START);
    bench.shard.ask_for_name(PeerId(1));
    bench.observe(&[by(2, hello(8, beat(1, 5, 2)))], START + MS);
    assert_eq!((slot(&bench, 1).key_id, slot(&bench, 1).last_sequence), (4, 1));
    assert_eq!(bench.counters.get(Counter::KeyScope), 1);
    // Its own HELLO is passed on once more.
    bench.observe(&[by(4, hello(7, beat(1, 5, 2)))], START + 2 * MS);
    assert_eq!((slot(&bench, 1).last_sequence, slot(&bench, 1).profile_digest), (2, 7));
    // Who never had a name is asked for none.
    bench.observe(&[by(1, beat(2, 5, 1))], START + 3 * MS);
    bench.shard.ask_for_name(PeerId(2));
    assert_eq!(slot(&bench, 2).profile_digest, 0);
}

#[test]
fn keys_are_changed_while_everybody_beats() {
    let (mut bench, shared) = gated(Auth::Required, NewcomerLimits::default());
    bench.observe(&[by(2, hello(7, beat(1, 5, 1)))], START);
    bench.observe(&[by(3, beat(1, 5, 2)), by(3, hello(7, beat(1, 5, 3)))], START + MS);
    assert_eq!(slot(&bench, 1).key_id, 3, "the new one after its HELLO");
    // The old one is taken out; a peer that still remembers one that is gone is not lost.
    let mut fewer = guard(Auth::Required);
    fewer.keys = Keyring::default();
    let groups = ["web".to_owned()];
    assert!(fewer.keys.insert(Key::new(2, [9; 32]).expect("not 0"), Some(&groups)));
    shared.store(Arc::new(fewer));
    bench.observe(&[by(2, beat(1, 5, 4))], START + 2 * MS);
    assert_eq!(slot(&bench, 1).last_sequence, 3, "a beat does not say that it is of web");
    bench.observe(&[by(2, hello(7, beat(1, 5, 5)))], START + 3 * MS);
    assert_eq!((slot(&bench, 1).last_sequence, slot(&bench, 1).key_id), (5, 2));
}

#[test]
fn a_line_is_not_believed_of_a_peer_that_counts() {
    let (mut bench, _) = gated(Auth::Required, NewcomerLimits::default());
    let line = |kind| by(1, Heartbeat { sequenced: false, kind, ..beat(1, 0, 0) });
    bench.observe(&[line(Kind::Beat)], START);
    bench.observe(&[by(1, beat(1, 5, 1))], START + MS);
    let before = slot(&bench, 1);
    bench.observe(&[line(Kind::Beat), line(Kind::Bye)], START + 2 * MS);
    assert_eq!(substance(slot(&bench, 1)), before);
    assert_eq!(bench.counters.get(Counter::Stale), 2);
}

#[test]
fn who_was_forgotten_does_not_come_back_by_a_replay_if_newcomers_must_be_fresh() {
    for fresh_ns in [None, Some(30_000 * MS)] {
        let limits = NewcomerLimits { fresh_ns, ..NewcomerLimits::default() };
        let (mut bench, _) = gated(Auth::Required, limits);
        let sent =
            |sequence, at_ns| by(1, Heartbeat { sent_ns: at_ns, ..hello(7, beat(1, 5, sequence)) });
        bench.observe(&[sent(1, START)], START);
        assert!(bench.shard.remove(PeerId(1), START + MS, &mut bench.sink));
        let later = START + 3_600_000 * MS;
        bench.observe(&[sent(1, START)], later);
        let expected = if fresh_ns.is_some() { Unknown } else { Up };
        assert_eq!(bench.state(1), expected, "{fresh_ns:?}");
        bench.observe(&[sent(2, later)], later);
        assert_eq!(bench.state(1), Up, "itself it comes back");
    }
}

/// An attacker who has recorded everything and sends it again at any time, and who makes up what he
/// cannot sign, against a twin shard that hears the senders alone.
#[test]
fn nothing_that_an_attacker_without_a_key_can_send_makes_a_difference() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let auth = if seed % 2 == 0 { Auth::Optional } else { Auth::Required };
        let (mut attacked, _) = gated(auth, NewcomerLimits::default());
        let (mut quiet, _) = gated(auth, NewcomerLimits::default());
        let mut recorded: Vec<Heartbeat> = Vec::new();
        let mut senders = [(5u32, 1u32); 8];
        let mut now_ns = START;
        for step in 0..3_000 {
            now_ns += rng.below(15 * MS);
            let peer = 1 + rng.below(8);
            let (incarnation, sequence) = &mut senders[peer as usize - 1];
            if rng.one_in(50) {
                *incarnation += 1 + rng.below(1_000) as u32;
                *sequence = rng.below(100_000) as u32;
            }
            *sequence += 1 + u32::from(rng.one_in(10));
            let mut sent = by(2, beat(peer, *incarnation, *sequence));
            // The first is a HELLO, since a bound key makes a peer by that only.
            let known = quiet.shard.table().find(PeerId(peer)).is_some();
            if rng.one_in(10) || !known {
                sent.profile_digest = 1 + rng.below(3) as u32;
            } else if rng.one_in(20) {
                sent.kind = Kind::Bye;
            }
            let told = [&mut attacked, &mut quiet].map(|bench| bench.observe(&[sent], now_ns));
            assert_eq!(told[0], told[1], "seed {seed} step {step}");
            recorded.push(sent);
            for _ in 0..rng.below(4) {
                let mut replayed = recorded[rng.below(recorded.len() as u64) as usize];
                if auth == Auth::Optional && rng.one_in(3) {
                    replayed.key_id = 0;
                    replayed.incarnation = rng.next() as u32;
                    replayed.sequence = rng.next() as u32;
                }
                let told = attacked.observe(&[replayed], now_ns);
                assert!(told.is_empty(), "seed {seed} step {step}: {replayed:?} made {told:?}");
            }
            let told = [&mut attacked, &mut quiet].map(|bench| bench.advance(now_ns));
            assert_eq!(told[0], told[1], "seed {seed} step {step}");
            for peer in 1..=8 {
                if quiet.shard.table().find(PeerId(peer)).is_some() {
                    let slots = [&attacked, &quiet].map(|bench| substance(slot(bench, peer)));
                    assert_eq!(slots[0], slots[1], "seed {seed} step {step}");
                }
            }
        }
        assert!(attacked.counters.get(Counter::Duplicate) > 100, "seed {seed}: it was attacked");
    }
}
