//! Bounds, codes, ids and the steering, each by example.

use super::{Meaning, decode};
use crate::metrics::Counter;
use crate::wire::*;
use std::collections::HashSet;

const BEAT: Heartbeat = Heartbeat {
    peer: PeerId(7),
    kind: Kind::Beat,
    status: Status::Warn,
    sequenced: true,
    key_id: 0,
    incarnation: 1,
    sequence: 2,
    interval_us: 1_000_000,
    sent_ns: 3,
    age_us: 0,
    profile_digest: 0,
};

#[test]
fn interval_codes_round_up_and_stay_in_range() {
    let day = 86_400_000_000;
    for (us, back) in [
        (0, 0),
        (1, 1_000),
        (999, 1_000),
        (1_000, 1_000),
        (1_001, 1_001),
        ((1 << 31) - 1, (1 << 31) - 1),
        (1 << 31, 2_148_000_000),
        (2_148_000_000, 2_148_000_000),
        (2_148_000_001, 2_149_000_000),
        (30 * day, 30 * day),
        (90 * day, 90 * day),
        (90 * day + 1, 90 * day),
        (u64::MAX, 90 * day),
    ] {
        assert_eq!(decode_interval(encode_interval(us)), Some(back), "{us} µs");
    }
    for code in [1, 999, 1 << 31, 1 << 31 | 7_776_001, u32::MAX] {
        assert_eq!(decode_interval(code), None, "{code:#x}");
    }
}

#[test]
fn seventy_beats_of_five_intervals_fit_with_a_tag() {
    let mut encoder = BatchEncoder::new();
    let beat = |n: u32| Heartbeat { interval_us: 1_000 * u64::from(n % 5 + 1), ..BEAT };
    assert!((0..70).all(|n| encoder.push(&beat(n))));
    assert!(!encoder.push(&beat(70)));
    let mut bytes = Vec::new();
    encoder.finish(Some(&BEAT), &mut bytes);
    assert_eq!(bytes.len() + TAG, MAX_DATAGRAM);
    let Ok(Meaning::Batch(relay, entries, _)) = decode(&bytes) else { panic!("a batch") };
    assert_eq!((relay, entries.len()), (Some(BEAT), 70));
}

#[test]
fn a_pack_takes_as_many_bytes_as_its_fleet_is_spread() {
    let full = |incarnations: u32, sequences: u32| {
        let mut encoder = PackEncoder::new();
        let beat = |n: u32| Heartbeat {
            incarnation: n % 2 * incarnations,
            sequence: n % 2 * sequences,
            ..BEAT
        };
        let mut n = 0;
        while encoder.push(&beat(n), None, 0) {
            n += 1;
        }
        let mut bytes = Vec::new();
        encoder.finish(PeerId(9), 5_000, &mut bytes);
        assert!(bytes.len() + TAG <= MAX_DATAGRAM && decode(&bytes).is_ok());
        let entry = (bytes.len() - HEADER - 4 - 4) / n as usize;
        (n, entry)
    };
    // Started together; within 19 days of one another; anywhen.
    assert_eq!(full(255, 0xFF_FFFF), (94, 15));
    assert_eq!(full(0xFF_FFFF, 0xFF_FFFF), (83, 17));
    assert_eq!(full(u32::MAX, u32::MAX), (74, 19));
    let mut bytes = Vec::new();
    PackEncoder::new().finish(PeerId(0), 0, &mut bytes);
    assert_eq!(decode(&bytes), Ok(Meaning::Batch(None, vec![], vec![])));
}

#[test]
fn a_profile_is_bounded_so_that_a_tag_always_fits() {
    let value = "v".repeat(MAX_VALUE);
    let keys: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
    let labels: Vec<_> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
    let room = MAX_DATAGRAM - TAG - HEADER - 4 - 5 * (2 + 2 + MAX_VALUE);
    let name = "n".repeat(room);
    assert!(Profile::new(&name, "", &labels[..5]).is_ok());
    assert_eq!(Profile::new(&name, "g", &labels[..5]).err(), Some(Reject::Length));
    assert_eq!(Profile::new("", "", &[]).err(), Some(Reject::Name));
    assert_eq!(Profile::new("a\u{85}", "", &[]).err(), Some(Reject::Name));
    assert_eq!(Profile::new("a", "", &[("k", ""), ("k", "")]).err(), Some(Reject::Label));
    assert!(OwnedProfile::from_bytes(Box::new([1, 0, 0, 0])).is_err());
}

#[test]
fn a_digest_tells_fields_apart_and_forms_not() {
    let digest = |name, group, labels| Profile::new(name, group, labels).unwrap().digest();
    let all = [
        digest("web-1", "", &[]),
        digest("web-", "1", &[]),
        digest("web-1", "a", &[]),
        digest("web-1", "", &[("a", "")]),
        digest("web-1", "", &[("a", "b")]),
        digest("web-1", "", &[("ab", "")]),
        digest("web-2", "", &[]),
        digest("web-1", "", &[("b", "a")]),
    ];
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    let Ok(Form::Hello(text, profile)) = crate::wire::decode(b"web-1 rack=r7 group=web os=x")
    else {
        panic!("a text heartbeat")
    };
    assert_eq!(text.profile_digest, digest("web-1", "web", &[("rack", "r7"), ("os", "x")]));
    assert!(profile.matches(text.peer) && !profile.matches(BEAT.peer));
}

#[test]
fn ids_are_printed_and_read_as_sixteen_hex_digits() {
    assert_eq!(PeerId::of("a").to_string(), "cabd1bca128197ca");
    assert_eq!(PeerId::from_hex("CABD1BCA128197CA"), Some(PeerId::of("a")));
    assert_eq!(PeerId::from_hex("00000000000000ff"), Some(PeerId(255)));
    for bad in ["", "cabd1bca128197c", "cabd1bca128197ca0", "+abd1bca128197ca", "g000000000000000"]
    {
        assert_eq!(PeerId::from_hex(bad), None, "{bad}");
    }
}

#[test]
fn steering_reads_the_datagram_as_the_kernel_does_and_spreads_evenly() {
    for id in [PeerId::of("a"), PeerId::of("web-1"), PeerId::of("relay-1")] {
        let datagram = encode_beat(&Heartbeat { peer: id, ..BEAT });
        let loaded = u32::from_be_bytes(datagram[8..12].try_into().unwrap());
        for n in 1..20 {
            assert_eq!(steer(id, n), (loaded.wrapping_mul(0x9E37_79B1) >> 16) % n);
        }
    }
    assert_eq!([1, 2, 3, 8].map(|n| steer(PeerId::of("web-1"), n)), [0, 0, 2, 2]);
    for n in [2, 3, 7, 8, 64] {
        let mut peers = vec![0u32; n as usize];
        (0..64_000).for_each(|i| peers[steer(PeerId::of(&format!("web-{i}")), n) as usize] += 1);
        let fair = 64_000 / n;
        assert!(peers.iter().all(|&count| count.abs_diff(fair) < fair / 5), "{n}: {peers:?}");
        assert!((0..n).all(|owner| steer(PeerId::steered_to(owner, n), n) == owner));
    }
}

#[test]
fn a_later_start_ascends() {
    let (incarnation, sequence) = start_of(1_767_225_600_123_456_789);
    assert_eq!((incarnation, sequence), (492_386_817, 23_456));
    let later = start_of(1_767_225_600_123_457_789);
    assert_eq!(later, (incarnation, sequence + 1));
    assert_eq!(start_of(1_767_225_600_200_000_000), (incarnation + 1, 0));
}

#[test]
fn every_reason_has_a_counter_of_its_own() {
    let labels: HashSet<_> = Reject::ALL.map(|reject| Counter::label(reject.counter())).into();
    assert_eq!(labels.len(), Reject::ALL.len());
    assert!(labels.iter().all(|label| label.starts_with("drop_")));
}

#[test]
fn words_of_a_status_are_read_back() {
    for status in Status::ALL {
        assert_eq!(Status::parse(status.as_str()), Some(status));
        assert_eq!(Status::from_bits(status as u8), status);
    }
    assert_eq!(Status::parse("OK"), None);
}

#[test]
fn bounds_are_exact() {
    let check = |datagram: &[u8], expected: Option<Reject>| {
        assert_eq!(decode(datagram).err(), expected, "{} bytes", datagram.len());
        super::agree(datagram);
    };
    let hello = |name: usize, labels: &[(usize, usize)]| {
        let words = labels.iter().enumerate().map(|(n, &(key, value))| {
            (format!("{:a<key$}", (b'a' + n as u8) as char), "v".repeat(value))
        });
        let words = ("n".repeat(name), String::new(), words.collect());
        super::arbitrary::hello_bytes(&BEAT, &words)
    };
    check(&hello(255, &[]), None);
    check(&hello(1, &[(1, 0); 16]), None);
    check(&hello(1, &[(1, 0); 17]), Some(Reject::Label));
    check(&hello(1, &[(64, 255)]), None);
    check(&hello(1, &[(65, 0)]), Some(Reject::Label));
    let full = [(1, 255), (1, 255), (1, 255), (1, 255), (1, 255)];
    check(&hello(130, &full), None);
    assert_eq!(hello(130, &full).len(), MAX_DATAGRAM - TAG);
    check(&hello(131, &full), Some(Reject::Length));

    let batch = |entries: u8, intervals: u8| {
        let mut datagram = encode_beat(&BEAT).to_vec();
        datagram[1] = 0x14;
        datagram.extend([entries, intervals, 0, 0]);
        datagram.extend([0, 0, 1, 0].repeat(intervals.into()));
        let entry = [[1u8; 16].as_slice(), &[0, 0, 0, 0]].concat();
        datagram.extend(entry.repeat(entries.into()));
        datagram
    };
    check(&batch(0, 0), None);
    check(&batch(1, 0), Some(Reject::Length));
    check(&batch(70, 5), None);
    check(&batch(70, 6), Some(Reject::Length));
    check(&batch(71, 0), Some(Reject::Length));
    check(&batch(1, 64), None);
    check(&batch(1, 65), Some(Reject::Length));

    check(&[b"a".as_slice(), &[b' '; 1_471]].concat(), None);
    check(&[b"a".as_slice(), &[b' '; 1_472]].concat(), Some(Reject::Length));
}
