//! The relay against a list of what came in and when: everything leaves, once, in time, no younger.

use super::testing::{Kept, beat};
use super::*;
use crate::testing::{Rng, seeds};
use crate::wire::{
    BatchEncoder, Keyring, PackEncoder, Profile, Status, TAG, decode, encode_beat, encode_hello,
    encode_question,
};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const DELAY_NS: u64 = 5 * MS;
const RELAY: PeerId = PeerId(77);

fn open() -> Relay {
    Relay::new(RELAY, DELAY_NS, None, Guard::default())
}

fn key(id: u8) -> Key {
    Key::new(id, [id; 32]).unwrap()
}

/// A guard with key 1 for all, 2 for web, 3 for db, 4 for both.
fn guard() -> Guard {
    let mut keys = Keyring::default();
    let scopes: [(u8, &[&str]); 3] = [(2, &["web"]), (3, &["db"]), (4, &["web", "db"])];
    assert!(keys.insert(key(1), None));
    for (id, groups) in scopes {
        let groups: Vec<String> = groups.iter().map(|&group| group.into()).collect();
        assert!(keys.insert(key(id), Some(&groups)));
    }
    Guard { auth: Auth::Required, keys }
}

fn hello(beat: &Heartbeat, group: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_hello(beat, &Profile::new("a", group, &[]).unwrap(), &mut bytes);
    bytes
}

fn sealed(mut datagram: Vec<u8>, by: u8) -> Vec<u8> {
    key(by).seal(&mut datagram, 0);
    datagram
}

fn entries(datagram: &[u8]) -> Vec<Heartbeat> {
    match decode(datagram) {
        Ok(Form::Batch(batch)) => {
            assert_eq!((batch.relay(), batch.through()), (None, Some(RELAY)));
            batch.entries().collect()
        }
        other => panic!("no batch but {other:?}"),
    }
}

/// What was passed on in a bundle: who heard it, its age, the bytes.
fn pieces(datagram: &[u8]) -> Vec<(PeerId, u32, Vec<u8>)> {
    match decode(datagram) {
        Ok(Form::Bundle(bundle)) => {
            assert_eq!(bundle.through(), Some(RELAY));
            let said = |piece: Piece<'_>| {
                (piece.relay.expect("a peer"), piece.age_us, piece.datagram.to_vec())
            };
            bundle.pieces().map(said).collect()
        }
        other => panic!("no bundle but {other:?}"),
    }
}

#[test]
fn every_beat_leaves_once_in_time_and_as_old_as_it_is() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let (mut relay, mut kept) = (open(), Kept::default());
        let mut now_ns = 1 << 40;
        // What is held: the beat, when it came, the age that it came with.
        let mut held: Vec<(Heartbeat, u64, u64)> = Vec::new();
        let check = |kept: &mut Kept, held: &mut Vec<(Heartbeat, u64, u64)>, now_ns: u64| {
            for datagram in kept.forwarded.drain(..) {
                assert!(datagram.len() + TAG <= MAX_DATAGRAM);
                for entry in entries(&datagram) {
                    let (sent, came_ns, age_us) = held.remove(0);
                    assert_eq!(Heartbeat { age_us: 0, ..entry }, sent, "seed {seed}");
                    let age_ns = now_ns - came_ns + age_us * 1_000;
                    let got_ns = u64::from(entry.age_us) * 1_000;
                    // Rounded up to a microsecond at each end, or to a 32,768th of the oldest.
                    let most_ns = age_ns + 2_000 + (1 << 24) * 1_000 / 32_768 + DELAY_NS / 32_768;
                    assert!((age_ns..=most_ns).contains(&got_ns), "seed {seed}: {age_ns} {got_ns}");
                }
            }
        };
        for step in 0..4_000u32 {
            now_ns += rng.below(if step % 1_000 < 500 { 20_000 } else { 2 * MS });
            // As a loop does that keeps its times.
            if let Some(due_ns) = relay.due_ns().filter(|due_ns| *due_ns <= now_ns) {
                relay.flush_if_due(due_ns, &mut kept);
                check(&mut kept, &mut held, due_ns);
                assert!(held.is_empty(), "seed {seed} step {step}");
            }
            let spread = [1, 1 << 20, u32::MAX][step as usize / 100 % 3];
            let mut sent = beat(1 + rng.below(50), rng.below(u64::from(spread)) as u32);
            sent.interval_us = [0, 1_000_000, 250_000][rng.below(3) as usize];
            sent.status = Status::from_bits(rng.below(4) as u8);
            if rng.below(10) == 0 {
                // Of a relay below us, which has held it already.
                let age_us = rng.below(1 << 20);
                let mut encoder = BatchEncoder::new();
                assert!(encoder.push(&Heartbeat { age_us: age_us as u32, ..sent }));
                let mut datagram = Vec::new();
                encoder.finish(None, &mut datagram);
                held.push((sent, now_ns, age_us));
                relay.datagram(&datagram, now_ns, &mut kept);
            } else {
                held.push((sent, now_ns, 0));
                relay.datagram(&encode_beat(&sent), now_ns, &mut kept);
            }
            check(&mut kept, &mut held, now_ns);
            let oldest_ns = held.first().map(|(_, came_ns, _)| came_ns + DELAY_NS);
            assert_eq!(relay.due_ns(), oldest_ns, "seed {seed} step {step}");
        }
        relay.flush(now_ns, &mut kept);
        check(&mut kept, &mut held, now_ns);
        assert!(held.is_empty());
        assert!(relay.counts().held_us <= DELAY_NS / 1_000);
        assert!(relay.counts().packed == 4_000 && relay.counts().packs < 2_000, "seed {seed}");
    }
}

#[test]
fn what_says_more_than_alive_goes_on_as_it_came() {
    let (mut relay, mut kept) = (open(), Kept::default());
    let line = b"web-1 status=warn\n".to_vec();
    let a = beat(PeerId::of("a").0, 1);
    let bye = encode_beat(&Heartbeat { kind: Kind::Bye, ..beat(2, 9) }).to_vec();
    let sent = [line, hello(&a, "web"), bye];
    for (n, datagram) in sent.iter().enumerate() {
        relay.datagram(datagram, 5 * MS + n as u64 * MS, &mut kept);
    }
    assert!(kept.forwarded.is_empty());
    assert_eq!(relay.due_ns(), Some(5 * MS + DELAY_NS));
    relay.flush_if_due(5 * MS + DELAY_NS, &mut kept);
    let said = |n: usize| (RELAY, 5_000 - n as u32 * 1_000, sent[n].clone());
    assert_eq!(pieces(&kept.forwarded[0]), [said(0), said(1), said(2)]);
    let counts = relay.counts();
    assert_eq!((counts.passed_on, counts.bundled, counts.bundles, counts.sent()), (3, 3, 1, 1));
    // Of one peer, what came first leaves first, be it packed or bundled.
    let fast = beat(PeerId::of("web-1").0, 9);
    relay.datagram(&encode_beat(&fast), 20 * MS, &mut kept);
    relay.datagram(&sent[0], 20 * MS, &mut kept);
    relay.datagram(&encode_beat(&Heartbeat { sequence: 10, ..fast }), 20 * MS, &mut kept);
    relay.flush(20 * MS, &mut kept);
    assert_eq!(entries(&kept.forwarded[1])[0].sequence, 9);
    assert_eq!(pieces(&kept.forwarded[2])[0].2, sent[0]);
    assert_eq!(entries(&kept.forwarded[3])[0].sequence, 10);
    // What is too large for a bundle goes on alone.
    let long = format!("web-1 status=warn{}\n", " ".repeat(1_400)).into_bytes();
    relay.datagram(&long, 30 * MS, &mut kept);
    assert_eq!(kept.forwarded[4], long);
}

#[test]
fn what_another_relay_heard_goes_on_under_its_name() {
    const INNER: PeerId = PeerId(88);
    let (mut relay, mut kept) = (open(), Kept::default());
    let (mut pack, mut bundle) = (PackEncoder::new(), BundleEncoder::new());
    let innermost = Some(PeerId(99));
    assert!(pack.push(&beat(1, 1), None, 0) && pack.push(&beat(2, 1), innermost, 0));
    // We heard it, and a ring of relays has brought it back.
    assert!(pack.push(&beat(3, 1), Some(RELAY), 0));
    let line = b"web-1";
    let piece = |relay| Piece { datagram: line, age_us: 3, relay };
    assert!(bundle.push(PeerId(0), &piece(None), 0));
    assert!(bundle.push(PeerId(0), &piece(innermost), 0));
    assert!(bundle.push(PeerId(0), &piece(Some(RELAY)), 0));
    let (mut packed, mut bundled) = (Vec::new(), Vec::new());
    pack.finish(INNER, 0, &mut packed);
    bundle.finish(INNER, 0, &mut bundled);
    relay.datagram(&packed, 5 * MS, &mut kept);
    relay.datagram(&encode_beat(&beat(INNER.0, 1)), 5 * MS, &mut kept);
    relay.datagram(&bundled, 5 * MS, &mut kept);
    relay.flush(6 * MS, &mut kept);
    let Ok(Form::Batch(batch)) = decode(&kept.forwarded[0]) else { panic!("no batch") };
    let heard: Vec<_> = batch.heard().map(|(by, beat)| (beat.peer.0, by)).collect();
    assert_eq!(heard, [(1, Some(INNER)), (2, innermost), (INNER.0, None)]);
    let said = |by| (by, 1_003, line.to_vec());
    assert_eq!(pieces(&kept.forwarded[1]), [said(INNER), said(PeerId(99))]);
    let counts = relay.counts();
    assert_eq!((counts.received, counts.pieces, counts.batches, counts.looped), (3, 2, 2, 2));
    assert_eq!((counts.beats, counts.passed_on), (1, 2));
    // A bundle in a bundle is none.
    let mut nested = Vec::new();
    let piece = Piece { datagram: &bundled, age_us: 0, relay: None };
    assert!(bundle.push(PeerId(0), &piece, 0));
    bundle.finish(INNER, 0, &mut nested);
    relay.datagram(&nested, 7 * MS, &mut kept);
    assert_eq!((relay.counts().dropped(Reject::Kind), relay.due_ns()), (1, None));
}

#[test]
fn what_is_passed_on_overtakes_no_beat_of_its_sender() {
    let (mut relay, mut kept) = (open(), Kept::default());
    let bye = |peer| encode_beat(&Heartbeat { kind: Kind::Bye, ..beat(peer, 2) }).to_vec();
    relay.datagram(&encode_beat(&beat(1, 1)), 5, &mut kept);
    relay.datagram(&bye(2), 5, &mut kept);
    assert_eq!((kept.forwarded.len(), relay.due_ns().is_some()), (0, true), "another's may wait");
    relay.datagram(&bye(1), 5, &mut kept);
    assert_eq!(entries(&kept.forwarded[0])[0].peer, PeerId(1));
    assert_eq!(pieces(&kept.forwarded[1])[0].2, bye(2));
    relay.flush(5, &mut kept);
    assert_eq!(pieces(&kept.forwarded[2])[0].2, bye(1));
}

#[test]
fn what_goes_round_in_a_ring_of_relays_ends_with_who_heard_it() {
    let names = [RELAY, PeerId(88), PeerId(99)];
    let mut ring = names.map(|name| Relay::new(name, DELAY_NS, None, Guard::default()));
    let mut kept = [Kept::default(), Kept::default(), Kept::default()];
    let a = PeerId::of("a").0;
    let bye = encode_beat(&Heartbeat { kind: Kind::Bye, ..beat(a, 3) }).to_vec();
    let beats = encode_beat(&beat(a, 2)).to_vec();
    for said in [hello(&beat(a, 1), "web"), beats, b"web-1".to_vec(), bye] {
        ring[0].datagram(&said, 0, &mut kept[0]);
    }
    let mut sent = Vec::new();
    for round in 1..12 {
        let now_ns = round * DELAY_NS;
        let mut count = 0;
        for n in 0..3 {
            ring[n].flush_if_due(now_ns, &mut kept[n]);
            let forwarded: Vec<_> = kept[n].forwarded.drain(..).collect();
            count += forwarded.len();
            for datagram in forwarded {
                ring[(n + 1) % 3].datagram(&datagram, now_ns, &mut kept[(n + 1) % 3]);
            }
        }
        sent.push(count);
    }
    // The HELLO goes round twice before the relays know it; all else once.
    assert_eq!(sent[6..], [0; 5], "{sent:?}");
    assert!(ring[0].counts().looped >= 3 && ring[0].due_ns().is_none(), "{}", ring[0].counts());
}

#[test]
fn a_hello_that_says_nothing_new_is_a_beat() {
    let (mut relay, mut kept) = (open(), Kept::default());
    let a = PeerId::of("a").0;
    for sequence in 0..5 {
        relay.datagram(&hello(&beat(a, sequence), "web"), 5, &mut kept);
    }
    relay.flush(5, &mut kept);
    assert_eq!((relay.counts().passed_on, relay.counts().beats), (2, 3));
    assert_eq!(pieces(&kept.forwarded[0]).len(), 2);
    let sequences: Vec<u32> = entries(&kept.forwarded[1]).iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, [2, 3, 4]);
}

#[test]
fn only_who_could_say_all_that_the_relays_key_says_is_vouched_for() {
    // The relay's key, and which senders' it vouches for; everything else goes on with its own tag.
    for (own, packed) in [(1, vec![1]), (2, vec![2]), (3, vec![3]), (4, vec![4])] {
        for by in 1..=4 {
            let mut relay = Relay::new(RELAY, DELAY_NS, Some(key(own)), guard());
            let mut kept = Kept::default();
            let sent = sealed(encode_beat(&beat(9, 1)).to_vec(), by);
            relay.datagram(&sent, 5, &mut kept);
            relay.flush(5, &mut kept);
            if !packed.contains(&by) {
                assert_eq!(pieces(&kept.forwarded[0]), [(RELAY, 1, sent)], "{own} {by}");
                let guarded = guard();
                let Ok(Form::Bundle(bundle)) = guarded.decode(&kept.forwarded[0]) else {
                    panic!("a bundle");
                };
                assert_eq!(bundle.key_id(), own);
                continue;
            }
            // Ours is the tag of the whole.
            let Ok(Form::Batch(batch)) = guard().decode(&kept.forwarded[0]) else {
                panic!("a batch");
            };
            assert_eq!(batch.entries().map(|beat| beat.key_id).collect::<Vec<_>>(), [own]);
        }
    }
}

#[test]
fn what_is_forged_is_dropped_and_counted_and_so_are_probes() {
    let mut relay = Relay::new(RELAY, DELAY_NS, Some(key(1)), guard());
    let mut kept = Kept::default();
    let plain = encode_beat(&beat(9, 1)).to_vec();
    let mut altered = sealed(plain.clone(), 2);
    altered[20] ^= 1;
    let probe = crate::wire::encode_probe(PeerId(1), 2, 3);
    for datagram in [&plain, &altered, &sealed(plain.clone(), 9), &probe.to_vec(), &vec![]] {
        relay.datagram(datagram, 5, &mut kept);
    }
    relay.flush(5, &mut kept);
    assert!(kept.forwarded.is_empty() && kept.answered.is_empty());
    let counted = [Reject::Unauthenticated, Reject::BadTag, Reject::UnknownKey, Reject::Kind];
    assert!(counted.iter().all(|&reject| relay.counts().dropped(reject) == 1));
    assert_eq!((relay.counts().dropped(Reject::Runt), relay.counts().all_dropped()), (1, 5));
    let line = relay.counts().to_string();
    assert!(line.contains("dropped=5") && line.contains(" drop_bad_tag=1"), "{line}");
}

#[test]
fn a_hello_with_another_ones_name_is_dropped_however_often_it_comes() {
    let (mut relay, mut kept) = (open(), Kept::default());
    for sequence in 0..5 {
        relay.datagram(&hello(&beat(7, sequence), "web"), 5, &mut kept);
    }
    assert_eq!((relay.counts().dropped(Reject::Name), relay.due_ns()), (5, None));
}

/// Relay 88's key speaks for web; a beat of web, and one of db, come in a bundle by it.
#[test]
fn of_a_piece_is_believed_what_its_bundles_key_could_have_said() {
    for (by, relay_of, age_us) in [(2, PeerId(88), 700), (3, RELAY, 0)] {
        let mut relay = Relay::new(RELAY, DELAY_NS, Some(key(1)), guard());
        let mut kept = Kept::default();
        let said = sealed(encode_beat(&beat(9, 1)).to_vec(), by);
        let mut bundle = BundleEncoder::new();
        assert!(bundle.push(PeerId(9), &Piece { datagram: &said, age_us: 700, relay: None }, 0));
        let mut bundled = Vec::new();
        bundle.finish(PeerId(88), 0, &mut bundled);
        relay.datagram(&sealed(bundled, 2), 0, &mut kept);
        relay.flush(0, &mut kept);
        let bytes = &kept.forwarded[0];
        assert_eq!(pieces(&bytes[..bytes.len()]), [(relay_of, age_us, said)]);
    }
}

#[test]
fn who_is_a_relay_says_so_before_it_brings_anybody() {
    let mut relay = Relay::new(RELAY, DELAY_NS, Some(key(1)), guard());
    let mut kept = Kept::default();
    relay.introduce(&mut kept);
    let guarded = guard();
    let Ok(Form::Batch(batch)) = guarded.decode(&kept.forwarded[0]) else { panic!("a batch") };
    assert_eq!((batch.through(), batch.entries().len()), (Some(RELAY), 0));
}

#[test]
fn a_question_is_answered_to_who_asked() {
    let mut relay = Relay::new(RELAY, DELAY_NS, Some(key(1)), guard());
    let mut kept = Kept::default();
    let mut question = Vec::new();
    encode_question(99, Some(&key(3)), &mut question);
    relay.datagram(&question, 5, &mut kept);
    assert!(kept.forwarded.is_empty());
    assert!(crate::wire::is_answer(&kept.answered[0], 99, Some(&key(3))));
    assert_eq!(relay.counts().questions, 1);
}

#[test]
fn another_guard_holds_from_the_next_datagram_on() {
    let (mut relay, mut kept) = (open(), Kept::default());
    let plain = encode_beat(&beat(9, 1));
    relay.datagram(&plain, 5, &mut kept);
    relay.set_guard(guard());
    relay.datagram(&plain, 5, &mut kept);
    assert_eq!((relay.counts().beats, relay.counts().all_dropped()), (1, 1));
}

#[test]
fn whatever_comes_it_has_one_fate_and_nothing_is_sent_that_a_monitor_would_not_read() {
    let noise = prop::collection::vec(any::<u8>(), 0..120);
    let headed = (0x10..0x20u8, 0..4u8, any::<bool>(), noise.clone()).prop_map(
        |(kind, flags, tagged, noise)| {
            let head = [0xBE, kind, flags | u8::from(tagged) << 7, u8::from(tagged)];
            let mut datagram = [&head[..], &noise].concat();
            if tagged && datagram.len() >= 48 {
                datagram.truncate(datagram.len() - 16);
                key(1).seal(&mut datagram, 0);
            }
            datagram
        },
    );
    let datagrams = prop::collection::vec(prop_oneof![noise, headed], 0..40);
    let config = ProptestConfig {
        cases: 300,
        rng_seed: proptest::test_runner::RngSeed::Fixed(seeds()[0]),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(datagrams in datagrams, auth in 0..3usize)| {
        let auth = [Auth::Off, Auth::Optional, Auth::Required][auth];
        let rule = Guard { auth, ..guard() };
        let mut relay = Relay::new(RELAY, DELAY_NS, Some(key(1)), rule.clone());
        let mut kept = Kept::default();
        for (n, datagram) in datagrams.iter().enumerate() {
            let now_ns = n as u64 * MS;
            relay.datagram(datagram, now_ns, &mut kept);
            relay.flush_if_due(now_ns, &mut kept);
        }
        relay.flush(u64::MAX, &mut kept);
        let counts = relay.counts();
        let fates = counts.beats + counts.batches + counts.passed_on + counts.questions;
        prop_assert_eq!(counts.received + counts.pieces, fates + counts.all_dropped());
        prop_assert_eq!(counts.passed_on, counts.bundled + counts.alone);
        prop_assert_eq!(counts.received, datagrams.len() as u64);
        prop_assert_eq!(counts.sent(), kept.forwarded.len() as u64);
        prop_assert_eq!(counts.questions, kept.answered.len() as u64);
        let bytes: usize = kept.forwarded.iter().map(Vec::len).sum();
        prop_assert_eq!(counts.sent_bytes, bytes as u64);
        for datagram in &kept.forwarded {
            prop_assert!(rule.decode(datagram).is_ok(), "{:02x?}", datagram);
        }
    });
}
