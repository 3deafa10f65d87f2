//! What holds for every datagram.

use super::arbitrary::{check, datagram, fleet, heartbeat, hello_bytes, line, other_relay, words};
use super::{Meaning, agree, decode};
use crate::wire::{
    BatchEncoder, Form, Heartbeat, Kind, MAX_UNTAGGED, OwnedProfile, PackEncoder, PeerId, Profile,
    encode_beat, encode_hello,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn a_beat_comes_back() {
    check(1_000, heartbeat(), |heartbeat| {
        assert_eq!(decode(&encode_beat(&heartbeat)), Ok(Meaning::Beat(heartbeat)));
    });
}

#[test]
fn a_profile_comes_back_in_every_way() {
    check(1_000, (heartbeat(), words()), |(heartbeat, words)| {
        let heartbeat = Heartbeat { kind: Kind::Beat, ..heartbeat };
        let (name, group, labels) = &words;
        let pairs: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let by_hand = hello_bytes(&heartbeat, &words);
        let Ok(profile) = Profile::new(name, group, &pairs) else {
            let too_long_for_its_byte = labels.iter().any(|(k, v)| k.len().max(v.len()) > 255);
            assert!(name.len() > 255 || too_long_for_its_byte || decode(&by_hand).is_err());
            return;
        };
        let mut bytes = Vec::new();
        encode_hello(&heartbeat, &profile, &mut bytes);
        assert_eq!(bytes, by_hand);
        let owned = OwnedProfile::of(&profile);
        assert_eq!(owned.as_bytes(), &bytes[32..]);
        assert_eq!(owned.profile(), profile);
        assert_eq!(owned.profile().digest(), profile.digest());
        let (name, group, labels) = words;
        assert_eq!(decode(&bytes), Ok(Meaning::Hello(heartbeat, name, group, labels)));
    });
}

#[test]
fn a_batch_comes_back() {
    let beats = vec((heartbeat(), 0..1u32 << 25), 0..80);
    check(300, (prop::option::of(heartbeat()), beats), |(relay, beats)| {
        let relay = relay.map(|relay| Heartbeat { kind: Kind::Beat, ..relay });
        let mut encoder = BatchEncoder::new();
        let mut expected = Vec::new();
        for (beat, age_us) in beats {
            let beat = Heartbeat { kind: Kind::Beat, age_us, ..beat };
            if encoder.push(&beat) {
                let age_us = age_us.min((1 << 24) - 1);
                expected.push(Heartbeat { sent_ns: 0, age_us, ..beat });
            }
        }
        assert_eq!(encoder.len(), expected.len());
        let mut bytes = Vec::new();
        encoder.finish(relay.as_ref(), &mut bytes);
        assert!(encoder.is_empty());
        let by = vec![PeerId(0); expected.len()];
        assert_eq!(decode(&bytes), Ok(Meaning::Batch(relay, expected, by)));
    });
}

#[test]
fn a_pack_comes_back_and_nobody_in_it_is_younger_than_before() {
    let held_us = || prop_oneof![0..10_000u64, 0..1u64 << 32];
    let relays = || prop_oneof![2 => Just(vec![None; 110]), 1 => vec(other_relay(), 110)];
    check(
        500,
        (fleet(), vec(held_us(), 110), relays(), any::<u64>()),
        |(beats, held_us, relays, relay)| {
            let mut encoder = PackEncoder::new();
            let now_us = 1 << 40;
            let mut expected = Vec::new();
            for ((beat, held_us), relay) in beats.iter().zip(held_us).zip(&relays) {
                if encoder.push(beat, *relay, now_us - held_us) {
                    expected.push((beat, u64::from(beat.age_us) + held_us, *relay));
                }
            }
            let mut bytes = Vec::new();
            encoder.finish(PeerId(relay), now_us, &mut bytes);
            assert!(encoder.is_empty() && bytes.len() <= MAX_UNTAGGED);
            let Ok(Form::Batch(batch)) = crate::wire::decode(&bytes) else {
                panic!("{bytes:02x?}")
            };
            assert_eq!(
                (batch.relay(), batch.through().unwrap_or(PeerId(0))),
                (None, PeerId(relay))
            );
            assert_eq!(batch.entries().len(), expected.len());
            let oldest_us = expected.iter().map(|(_, age_us, _)| *age_us).max().unwrap_or(0);
            let most_us = u64::from(u16::MAX) << 15;
            for ((by, got), (beat, age_us, relay)) in batch.heard().zip(expected) {
                assert_eq!(by, relay);
                assert_eq!(Heartbeat { age_us: beat.age_us, ..got }, *beat);
                // To a 32,768th of the oldest, or the most that there is.
                let age_us = age_us.min(most_us);
                let got_us = u64::from(got.age_us);
                assert!((age_us..=age_us + oldest_us.min(most_us) / 32_768).contains(&got_us));
            }
        },
    );
}

#[test]
fn both_decoders_agree_on_whole_datagrams() {
    check(5_000, datagram(), |datagram| agree(&datagram));
}

#[test]
fn both_decoders_agree_on_every_truncation() {
    check(200, datagram(), |datagram| {
        (0..datagram.len()).for_each(|len| agree(&datagram[..len]));
    });
}

#[test]
fn both_decoders_agree_on_every_flipped_bit() {
    check(100, datagram(), |mut datagram| {
        for bit in 0..8 * datagram.len().min(400) {
            datagram[bit / 8] ^= 1 << (bit % 8);
            agree(&datagram);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
    });
}

#[test]
fn both_decoders_agree_on_lengthened_and_overwritten_datagrams() {
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    check(2_000, (datagram(), damage, vec(any::<u8>(), 0..40)), |(mut datagram, damage, tail)| {
        for (at, byte) in damage {
            if !datagram.is_empty() {
                let at = at.index(datagram.len());
                datagram[at] = byte;
            }
        }
        agree(&datagram);
        datagram.extend(tail);
        agree(&datagram);
    });
}

#[test]
fn both_decoders_agree_on_noise() {
    check(5_000, vec(any::<u8>(), 0..200), |noise| agree(&noise));
    // With a valid start, so that most of it is not refused at once.
    let kinds = prop::sample::select(vec![0x11, 0x12, 0x13, 0x14, 0x15, 0x1F]);
    check(5_000, (kinds, vec(any::<u8>(), 29..120)), |(kind, noise)| {
        let mut datagram = vec![0xBE, kind, noise[0] & 3, 0];
        datagram.extend(&noise[1..]);
        agree(&datagram);
    });
}

#[test]
fn both_parsers_agree_on_lines() {
    check(20_000, line(), |line| agree(&line));
}

#[test]
fn both_parsers_agree_on_durations() {
    let number = "0{0,3}[0-9]{0,21}(\\.[0-9]{0,7})?(us|ms|s|m|h|d|w|)";
    check(20_000, number, |number| agree(format!("a interval={number}").as_bytes()));
}
