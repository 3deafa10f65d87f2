//! Generators: heartbeats, profiles, lines, and datagrams that are nearly right.

use super::KEYS;
use crate::wire::{
    BatchEncoder, BundleEncoder, Heartbeat, Key, Kind, PackEncoder, PeerId, Piece, Profile, Status,
    decode_interval, encode_beat, encode_hello, encode_probe,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

/// Runs a property on `cases` values; a failure names the seed.
pub(super) fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value))
where
    S::Value: std::fmt::Debug,
{
    let given = std::env::var("SYSTOLE_TEST_SEED").ok();
    let seed = given.map_or(0x5157_01E0, |seed| seed.parse().expect("SYSTOLE_TEST_SEED: a number"));
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("SYSTOLE_TEST_SEED={seed}: {failure}"));
}

pub(super) fn interval_us() -> impl Strategy<Value = u64> {
    let code = prop_oneof![
        Just(0u32),
        1_000..1u32 << 31,
        (1u32..=7_776_000).prop_map(|seconds| 1 << 31 | seconds),
    ];
    code.prop_map(|code| decode_interval(code).expect("a valid code"))
}

/// A heartbeat that a binary form can carry: no age, no profile.
pub(super) fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let numbers = (1..=u64::MAX, any::<u32>(), any::<u32>(), any::<u64>());
    let kind = prop_oneof![Just(Kind::Beat), Just(Kind::Bye)];
    (numbers, kind, 0..4u8, interval_us()).prop_map(
        |((peer, incarnation, sequence, sent_ns), kind, status, interval_us)| Heartbeat {
            peer: PeerId(peer),
            kind,
            status: Status::from_bits(status),
            sequenced: true,
            key_id: 0,
            incarnation,
            sequence,
            interval_us,
            sent_ns,
            age_us: 0,
            profile_digest: 0,
        },
    )
}

pub(super) type Words = (String, String, Vec<(String, String)>);

/// A name, a group and labels, mostly valid.
pub(super) fn words() -> impl Strategy<Value = Words> {
    let labels = vec(("[a-e]{1,3}|[^\\pC]{0,70}", "[^\\pC]{0,20}|[x-z]{0,260}"), 0..18);
    ("[^\\pC]{1,20}|[a-z]{0,257}|.{1,4}", "[^\\pC]{0,8}|[a-z]{60,66}", labels)
}

/// The HELLO of any words, kept or not.
pub(super) fn hello_bytes(heartbeat: &Heartbeat, words: &Words) -> Vec<u8> {
    let heartbeat = Heartbeat { kind: Kind::Beat, ..*heartbeat };
    let mut bytes = encode_beat(&heartbeat).to_vec();
    bytes[1] = 0x12;
    let (name, group, labels) = words;
    bytes.extend([name.len() as u8, group.len() as u8, labels.len() as u8, 0]);
    bytes.extend(name.bytes().chain(group.bytes()));
    for (key, value) in labels {
        bytes.extend([key.len() as u8, value.len() as u8]);
        bytes.extend(key.bytes().chain(value.bytes()));
    }
    bytes
}

pub(super) fn batch_bytes() -> impl Strategy<Value = Vec<u8>> {
    let beats = vec((heartbeat(), 0..1u32 << 25), 0..80);
    (prop::option::of(heartbeat()), beats, vec(interval_us(), 1..8)).prop_map(
        |(relay, beats, intervals)| {
            let mut encoder = BatchEncoder::new();
            for (n, (mut beat, age_us)) in beats.into_iter().enumerate() {
                beat.kind = Kind::Beat;
                beat.age_us = age_us;
                beat.interval_us = intervals[n % intervals.len()];
                if !encoder.push(&beat) {
                    break;
                }
            }
            let mut bytes = Vec::new();
            encoder.finish(relay.as_ref(), &mut bytes);
            bytes
        },
    )
}

/// Beats whose numbers lie near one another, as those of one fleet do, or anywhere.
pub(super) fn fleet() -> impl Strategy<Value = Vec<Heartbeat>> {
    let spread = || prop::sample::select(vec![0u32, 200, 60_000, 10_000_000, u32::MAX]);
    let beats = vec((heartbeat(), prop_oneof![0..5_000u32, 0..1u32 << 27]), 0..110);
    (beats, vec(interval_us(), 1..8), spread(), spread(), any::<[u32; 2]>()).prop_map(
        |(mut beats, intervals, incarnations, sequences, [incarnation, sequence])| {
            for (n, (beat, age_us)) in beats.iter_mut().enumerate() {
                beat.kind = Kind::Beat;
                beat.sent_ns = 0;
                beat.age_us = *age_us;
                beat.interval_us = intervals[n % intervals.len()];
                let near = |base: u32, number: u32, spread: u32| match spread {
                    u32::MAX => number,
                    spread => base.saturating_add(number % (spread + 1)),
                };
                beat.incarnation = near(incarnation, beat.incarnation, incarnations);
                beat.sequence = near(sequence, beat.sequence, sequences);
            }
            beats.into_iter().map(|(beat, _)| beat).collect()
        },
    )
}

/// Another relay than the one in the header, or none.
pub(super) fn other_relay() -> impl Strategy<Value = Option<PeerId>> {
    prop::option::of(
        (1..=u64::MAX, 0..70u64).prop_map(|(any, few)| PeerId(if few < 4 { any } else { few })),
    )
}

fn pack_bytes() -> impl Strategy<Value = Vec<u8>> {
    let relays = prop_oneof![2 => Just(vec![None; 110]), 1 => vec(other_relay(), 110)];
    (fleet(), relays, any::<u64>(), any::<u64>()).prop_map(|(beats, relays, relay, at_us)| {
        let mut encoder = PackEncoder::new();
        let _ = beats.iter().zip(relays).all(|(beat, by)| encoder.push(beat, by, at_us));
        let mut bytes = Vec::new();
        encoder.finish(PeerId(relay), at_us, &mut bytes);
        bytes
    })
}

/// Any bytes in pieces; what each says is looked at by whoever takes the bundle apart.
fn bundle_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = (vec(any::<u8>(), 0..60), any::<u32>(), other_relay());
    (vec(piece, 0..30), any::<u64>()).prop_map(|(pieces, relay)| {
        let mut encoder = BundleEncoder::new();
        for (datagram, age_us, relay) in &pieces {
            let piece = Piece { datagram, age_us: *age_us, relay: *relay };
            let taken = encoder.push(PeerId(1), &piece, 0);
            assert!(taken != datagram.is_empty() || encoder.len() > 9, "it is full too soon");
        }
        let mut bytes = Vec::new();
        encoder.finish(PeerId(relay), 0, &mut bytes);
        bytes
    })
}

/// A line of the text form, mostly valid, with all its mistakes.
pub(super) fn line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => "interval=[0-9]{1,4}(\\.[0-9]{1,3})?(us|ms|s|m|h|d)",
        1 => "interval=[0-9.]{0,24}[a-z]{0,2}",
        4 => "status=(ok|warn|critical|maintenance)",
        1 => "status=[a-z]{0,4}",
        4 => "group=[^\\pC\\pZ]{0,12}",
        4 => "[a-z]{1,2}=[^\\pC\\pZ]{0,8}",
        1 => "[^\\pC\\pZ]{0,66}=[^\\pC\\pZ]{0,10}",
        2 => Just(String::from("bye")),
        1 => "tag:[0-9]{0,3}:[0-9a-f]{32}",
        1 => "tag:7:[0-9a-g]{31,33}",
        1 => "[^\\pC]{0,5}|.{0,3}",
    ];
    let space = || "[ \t]|[ \t]{2,3}";
    let tail = vec((space(), word), 0..6);
    ("[ \t]{0,2}", "[^\\pC\\pZ=]{1,20}|[^\\pC]{0,5}", tail, "|\n|\r\n|\r|\n\n| \t").prop_map(
        |(lead, name, tail, end)| {
            let tail: String = tail.into_iter().map(|(space, word)| space + &word).collect();
            format!("{lead}{name}{tail}{end}").into_bytes()
        },
    )
}

/// A valid datagram of any form, or one that is wrong in its words only; every other one tagged, by
/// a key that may be known.
pub(super) fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        2 => Just(KEYS[0]),
        1 => Just(KEYS[1]),
        1 => (1..=u8::MAX, any::<[u8; 32]>()),
    ];
    (untagged(), prop::option::of(key)).prop_map(|(datagram, key)| match key {
        None => datagram,
        Some((id, secret)) => sealed(datagram, &Key::new(id, secret).expect("not 0")),
    })
}

/// The same with a tag, where there can be one.
fn sealed(mut datagram: Vec<u8>, key: &Key) -> Vec<u8> {
    if datagram[0] == 0xBE {
        key.seal(&mut datagram, 0);
        return datagram;
    }
    match String::from_utf8(datagram) {
        Ok(mut line) => {
            key.seal_line(&mut line);
            line.into_bytes()
        }
        Err(error) => error.into_bytes(),
    }
}

fn untagged() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        heartbeat().prop_map(|heartbeat| encode_beat(&heartbeat).to_vec()),
        (heartbeat(), words()).prop_map(|(heartbeat, words)| hello_bytes(&heartbeat, &words)),
        (heartbeat(), "[a-z]{1,8}").prop_map(|(heartbeat, name)| {
            let mut bytes = Vec::new();
            let pairs = [("rack", "r7"), ("os", "")];
            let profile = Profile::new(&name, "web", &pairs).expect("valid words");
            let heartbeat = Heartbeat { kind: Kind::Beat, ..heartbeat };
            encode_hello(&heartbeat, &profile, &mut bytes);
            bytes
        }),
        batch_bytes(),
        pack_bytes(),
        bundle_bytes(),
        any::<[u64; 3]>().prop_map(|[token, secret, sent]| {
            encode_probe(PeerId(token), secret, sent).to_vec()
        }),
        line().prop_filter("a line of text", |line| !line.is_empty()),
    ]
}
