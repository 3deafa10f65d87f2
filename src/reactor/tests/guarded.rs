//! The reactor behind a guard: what is dropped before anything looks at it, whose HELLO is believed,
//! and newcomers that are too many.

use super::*;
use crate::engine::admission::{Admission, NewcomerLimits, SharedGuard};
use crate::engine::way::number_of;
use crate::wire::{Auth, BatchEncoder, BundleEncoder, Guard, Key, Keyring, PackEncoder, Piece};

const KEYS: [(u8, Option<&str>); 3] = [(1, None), (2, Some("web")), (3, Some("db"))];

fn key(id: u8) -> Key {
    Key::new(id, [id; 32]).expect("not 0")
}

fn guard(auth: Auth, ids: &[u8]) -> Guard {
    let mut keys = Keyring::default();
    for (id, scope) in KEYS.into_iter().filter(|(id, _)| ids.contains(id)) {
        let scope = scope.map(|group| vec![group.to_owned()]);
        assert!(keys.insert(key(id), scope.as_deref()));
    }
    Guard { auth, keys }
}

fn guarded(reactors: usize, auth: Auth, limits: NewcomerLimits) -> (Bench, SharedGuard) {
    let mut bench = Bench::new(reactors, 1_024);
    let shared = SharedGuard::default();
    shared.store(Arc::new(guard(auth, &[1, 2, 3])));
    let counters = bench.reactor.counters.clone();
    let views = vec![bench.reactor.shard.table().view(); reactors].into();
    let inbox = Inbox::new(0, SECRET, counters, bench.mailboxes.clone(), views);
    bench.reactor.inbox = inbox.guarded(shared.clone());
    *bench.reactor.shard.admission() = Admission::new(shared.clone(), limits, reactors as u32);
    (bench, shared)
}

fn tagged(key_id: u8, mut datagram: Vec<u8>) -> Vec<u8> {
    key(key_id).seal(&mut datagram, 0);
    datagram
}

fn hello(name: &str, group: &str, sequence: u32) -> Vec<u8> {
    let mut datagram = Vec::new();
    let profile = Profile::new(name, group, &[]).expect("valid words");
    wire::encode_hello(&beat(PeerId::of(name).0, sequence, 100), &profile, &mut datagram);
    datagram
}

fn plain(name: &str, sequence: u32) -> Vec<u8> {
    wire::encode_beat(&beat(PeerId::of(name).0, sequence, 100)).to_vec()
}

/// Lets these arrive, and says what was told of profiles, by name and group.
fn told(bench: &mut Bench, datagrams: &[Vec<u8>]) -> Vec<(String, String)> {
    for datagram in datagrams {
        bench.arrive(bench.now_ns(), datagram);
    }
    for _ in 0..=datagrams.len() / 7 {
        bench.turn();
    }
    let reports = std::iter::from_fn(|| bench.reports.pop());
    reports
        .filter_map(|report| match report {
            Report::Profile { profile, .. } => {
                let profile = profile.profile();
                Some((profile.name.to_owned(), profile.group.to_owned()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_not_tagged_or_forged_is_dropped_by_reason_and_changes_nothing() {
    let (mut bench, _) = guarded(1, Auth::Required, NewcomerLimits::default());
    let mut forged = tagged(1, plain("web-1", 5));
    forged[20] ^= 1;
    let mut line = String::from("web-2 group=web");
    key(2).seal_line(&mut line);
    told(
        &mut bench,
        &[
            plain("web-1", 1),
            b"web-1 bye".to_vec(),
            forged,
            tagged(1, plain("web-1", 6)),
            line.clone().into_bytes(),
            line.replace("web-2", "web-3").into_bytes(),
            wire::encode_probe(PeerId(1), SECRET, 7).to_vec(),
        ],
    );
    let counted = [Counter::DropUnauthenticated, Counter::DropTag, Counter::Heartbeats]
        .map(|counter| bench.count(counter));
    assert_eq!(counted, [2, 2, 2]);
    assert_eq!(bench.reactor.shard.table().len(), 2);
    let ingest = bench.reactor.histograms.of(crate::metrics::HistogramKind::Ingest).snapshot();
    assert_eq!(ingest.count(), 1, "our own probe needs no tag");
}

#[test]
fn a_hello_is_believed_within_the_scope_of_its_key() {
    let (mut bench, _) = guarded(1, Auth::Required, NewcomerLimits::default());
    let of = |name: &str, group: &str| (name.to_owned(), group.to_owned());
    let first = [
        tagged(2, hello("web-1", "web", 1)),
        tagged(3, hello("db-1", "db", 1)),
        tagged(2, hello("db-2", "db", 1)),
        tagged(2, hello("any-1", "", 1)),
    ];
    assert_eq!(told(&mut bench, &first), [of("web-1", "web"), of("db-1", "db")]);
    assert_eq!(bench.count(Counter::KeyScope), 2);
    // web's key cannot pull a peer of db over to its own group, and none but a wider key can move it.
    assert_eq!(told(&mut bench, &[tagged(2, hello("db-1", "web", 2))]), []);
    assert_eq!(told(&mut bench, &[tagged(1, hello("db-1", "web", 2))]), [of("db-1", "web")]);
    assert_eq!(bench.count(Counter::KeyScope), 3);
}

#[test]
fn a_relay_speaks_for_what_its_key_speaks_for() {
    let (mut bench, _) = guarded(1, Auth::Required, NewcomerLimits::default());
    told(&mut bench, &[tagged(2, hello("web-1", "web", 1)), tagged(3, hello("db-1", "db", 1))]);
    let batch = |sequence| {
        let mut encoder = BatchEncoder::new();
        for name in ["web-1", "db-1", "new-1"] {
            assert!(encoder.push(&beat(PeerId::of(name).0, sequence, 100)));
        }
        let mut datagram = Vec::new();
        encoder.finish(None, &mut datagram);
        datagram
    };
    told(&mut bench, &[tagged(2, batch(2))]);
    assert_eq!(bench.count(Counter::Heartbeats), 3, "web-1 alone");
    assert_eq!(bench.count(Counter::KeyScope), 2);
    told(&mut bench, &[tagged(1, batch(3))]);
    assert_eq!(bench.count(Counter::Heartbeats), 6, "all, and the new one");
    told(&mut bench, &[tagged(3, plain("db-1", 4))]);
    assert_eq!(bench.count(Counter::Heartbeats), 7, "which locks no peer's own key out");
    let mut altered = tagged(1, batch(5));
    altered[40] ^= 1;
    told(&mut bench, &[altered]);
    assert_eq!(bench.count(Counter::DropTag), 1, "all of it or nothing");
}

#[test]
fn what_a_relay_bundles_is_judged_by_its_own_tags_and_comes_through_the_relay() {
    let (mut bench, _) = guarded(1, Auth::Optional, NewcomerLimits::default());
    told(&mut bench, &[tagged(1, hello("relay-1", "db", 1))]);
    let relay = PeerId::of("relay-1");
    let number = bench.groups.parent_number(relay).expect("room");
    let mut forged = tagged(2, plain("web-2", 5));
    forged[20] ^= 1;
    let mut line = String::from("web-3 group=web");
    key(2).seal_line(&mut line);
    let bundle = |pieces: &[&[u8]]| {
        let mut encoder = BundleEncoder::new();
        for datagram in pieces {
            let piece = Piece { datagram, age_us: 70_000, relay: None };
            assert!(encoder.push(PeerId(0), &piece, 0));
        }
        let mut datagram = Vec::new();
        encoder.finish(relay, 0, &mut datagram);
        datagram
    };
    let hello = tagged(2, hello("web-1", "web", 1));
    let pieces: [&[u8]; 5] =
        [&hello, &forged, line.as_bytes(), b"\xFF", &bundle(&[&plain("web-5", 1)])];
    let before_ns = bench.now_ns();
    told(&mut bench, &[tagged(1, bundle(&pieces))]);
    let slot = |bench: &Bench, name: &str| {
        bench.reactor.shard.table().view().find(PeerId::of(name)).map(|(_, slot)| slot)
    };
    for name in ["web-1", "web-3"] {
        let slot = slot(&bench, name).expect("it came in");
        assert_eq!((slot.key_id, number_of(slot.parent)), (2, number), "{name}");
        assert!(slot.last_seen_ns + 60 * MS < before_ns, "it was held");
    }
    assert_eq!((slot(&bench, "web-2"), slot(&bench, "web-5")), (None, None));
    let dropped = [Counter::DropTag, Counter::DropMagic, Counter::DropKind];
    assert_eq!(dropped.map(|counter| bench.count(counter)), [1, 1, 1]);
    // Who could not have said it himself may bring it, and says neither its way nor its age.
    let parent = |bench: &Bench, name: &str| number_of(slot(bench, name).expect("in").parent);
    for (n, brings) in [|bundle| bundle, |bundle| tagged(3, bundle)].into_iter().enumerate() {
        let (proven, unproven) = (format!("web-1{n}"), format!("any-{n}"));
        let proven_hello = tagged(2, self::hello(&proven, "web", 1));
        let before_ns = bench.now_ns();
        told(&mut bench, &[brings(bundle(&[&proven_hello, &plain(&unproven, 1)]))]);
        assert_eq!((parent(&bench, &proven), parent(&bench, &unproven)), (0, number));
        assert!(slot(&bench, &proven).expect("in").last_seen_ns >= before_ns, "{n}");
    }
}

#[test]
fn a_pack_of_several_relays_says_who_heard_whom() {
    let (mut bench, _) = guarded(1, Auth::Off, NewcomerLimits::default());
    told(&mut bench, &[plain("relay-1", 1), plain("relay-2", 1)]);
    let relays = ["relay-1", "relay-2"].map(PeerId::of);
    let numbers = relays.map(|id| bench.groups.parent_number(id).expect("room"));
    let mut encoder = PackEncoder::new();
    for (name, relay) in [("a", None), ("b", Some(relays[1])), ("c", Some(PeerId(7)))] {
        assert!(encoder.push(&beat(PeerId::of(name).0, 1, 100), relay, 0));
    }
    let mut datagram = Vec::new();
    encoder.finish(relays[0], 0, &mut datagram);
    told(&mut bench, &[datagram]);
    let parents = ["a", "b", "c"].map(|name| {
        let (_, slot) = bench.reactor.shard.table().view().find(PeerId::of(name)).expect("in");
        number_of(slot.parent)
    });
    assert_eq!(parents, [numbers[0], numbers[1], 0]);
}

#[test]
fn a_new_ring_holds_from_the_next_datagram_on() {
    let (mut bench, shared) = guarded(1, Auth::Required, NewcomerLimits::default());
    told(&mut bench, &[tagged(1, plain("web-1", 1))]);
    shared.store(Arc::new(guard(Auth::Required, &[2])));
    told(&mut bench, &[tagged(1, plain("web-1", 2)), tagged(2, hello("web-1", "web", 3))]);
    assert_eq!(bench.count(Counter::DropKey), 1);
    assert_eq!(bench.count(Counter::Heartbeats), 2);
}

#[test]
fn too_many_newcomers_make_the_transport_tell_sources_and_others_still_come_in() {
    let limits = NewcomerLimits { per_source: Some(20), ..NewcomerLimits::default() };
    let (mut bench, _) = guarded(1, Auth::Off, limits);
    let now_ns = bench.now_ns();
    bench.reactor.backend.source = 7;
    for peer in 1..=100 {
        bench.arrive(now_ns, &wire::encode_beat(&beat(peer, 0, 1_000)));
    }
    assert!(!bench.reactor.backend.tells_sources);
    while !bench.script.0.borrow().is_empty() {
        bench.turn();
    }
    assert!(bench.reactor.backend.tells_sources);
    let known = bench.reactor.shard.table().len();
    // What all may bring, and then what source 7 may bring itself.
    assert!((20..=41).contains(&known), "{known}");
    assert_eq!(bench.count(Counter::NewcomersOfSource), 100 - known as u64);
    // Known peers are heard as before, and somebody from elsewhere comes in.
    bench.arrive(bench.now_ns(), &wire::encode_beat(&beat(1, 1, 1_000)));
    bench.turn();
    bench.reactor.backend.source = 8;
    bench.arrive(bench.now_ns(), &wire::encode_beat(&beat(200, 0, 1_000)));
    bench.turn();
    assert_eq!(bench.reactor.shard.table().len(), known + 1);
    assert_eq!(bench.count(Counter::Heartbeats), known as u64 + 2);
    bench.run_until(now_ns + 11_000 * MS);
    assert!(!bench.reactor.backend.tells_sources, "quiet again");
}

#[test]
fn a_newcomer_of_another_reactor_takes_its_source_along() {
    let limits = NewcomerLimits { per_source: Some(1_000), ..NewcomerLimits::default() };
    let (mut bench, _) = guarded(2, Auth::Off, limits);
    bench.reactor.backend.source = 7;
    bench.reactor.backend.tells_sources = true;
    let theirs = PeerId::steered_to(1, 2);
    bench.arrive(bench.now_ns(), &wire::encode_beat(&beat(theirs.0, 0, 100)));
    let received = bench.reactor.backend.clock.now_ns();
    bench.reactor.inbox.set_source(0);
    let script = &mut |datagram: &[u8], source: u32| {
        assert_eq!((datagram.len(), source), (32, 7));
        bench.reactor.inbox.set_source(source);
        let (shard, reports) = (&mut bench.reactor.shard, &mut bench.reactor.reports);
        bench.reactor.inbox.datagram(datagram, &bench.clock, shard, reports);
    };
    assert_eq!(bench.reactor.backend.receive_from(script).unwrap(), 1);
    let parcel = bench.mailboxes[1].pop().expect("handed over");
    assert_eq!((parcel.source, parcel.beat.peer), (7, theirs));
    assert!(parcel.arrived_ns >= received);
}
