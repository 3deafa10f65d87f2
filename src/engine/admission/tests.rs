//! The table of the module, the buckets against counting, and the shard behind the gate.

use super::*;
use crate::testing::{Rng, seeds};
use crate::wire::{Key, Keyring, Kind, PeerId, Status};
use std::collections::VecDeque;

const SECOND: u64 = 1_000_000_000;

/// Key 1 is unbound, 2 and 4 serve web, 3 serves web and db, 5 serves db.
fn guard(auth: Auth) -> SharedGuard {
    let mut keys = Keyring::default();
    let scopes: [Option<&[&str]>; 5] =
        [None, Some(&["web"]), Some(&["web", "db"]), Some(&["web"]), Some(&["db"])];
    for (id, scope) in (1..).zip(scopes) {
        let scope = scope.map(|groups| groups.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(keys.insert(Key::new(id, [id; 32]).expect("not 0"), scope.as_deref()));
    }
    Arc::new(ArcSwap::from_pointee(Guard { auth, keys }))
}

fn beat(key_id: u8, hello: bool) -> Heartbeat {
    Heartbeat {
        peer: PeerId(1),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id,
        incarnation: 1,
        sequence: 1,
        interval_us: 1_000_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: hello.into(),
    }
}

#[test]
fn the_table_of_keys() {
    let gate = Admission::new(guard(Auth::Optional), NewcomerLimits::default(), 1);
    const NO: Result<bool, Counter> = Err(Counter::KeyScope);
    const NEVER: Result<bool, Counter> = Err(Counter::Unauthenticated);
    // The slot's key, the heartbeat's, what comes of a beat, what of a HELLO. 9 is gone.
    for (remembered, key, of_beat, of_hello) in [
        (1, 0, NEVER, NEVER),
        (9, 0, NEVER, NEVER),
        (0, 1, Ok(true), Ok(true)),
        (0, 2, NO, Ok(true)),
        (9, 1, Ok(true), Ok(true)),
        (9, 2, NO, Ok(true)),
        (1, 2, NO, NO),
        (2, 1, Ok(false), Ok(true)),
        (2, 3, Ok(false), Ok(true)),
        (2, 4, Ok(false), Ok(true)),
        (2, 5, NO, NO),
        (3, 2, NO, NO),
    ] {
        assert_eq!(
            gate.other_key(remembered, &beat(key, false), false),
            of_beat,
            "{remembered} {key}"
        );
        assert_eq!(
            gate.other_key(remembered, &beat(key, true), false),
            of_hello,
            "{remembered} {key}"
        );
    }
    let gate = Admission::new(guard(Auth::Off), NewcomerLimits::default(), 1);
    assert_eq!(gate.other_key(3, &beat(0, false), false), Ok(true), "nobody looks at keys");
}

#[test]
fn a_bound_key_brings_a_newcomer_by_its_hello_only() {
    let mut gate = Admission::new(guard(Auth::Optional), NewcomerLimits::default(), 1);
    for (key, hello, expected) in [
        (0, false, Ok(())),
        (1, false, Ok(())),
        (2, false, Err(Counter::KeyScope)),
        (2, true, Ok(())),
        (9, false, Err(Counter::KeyScope)),
    ] {
        assert_eq!(gate.newcomer(&beat(key, hello), 0, 0), expected, "key {key}, hello {hello}");
    }
}

#[test]
fn a_newcomer_is_fresh_within_the_window_by_the_wall_clock() {
    let limits = NewcomerLimits { fresh_ns: Some(30 * SECOND), ..NewcomerLimits::default() };
    let mut gate = Admission::new(guard(Auth::Required), limits, 1);
    gate.set_wall_offset_ns(1_000 * SECOND as i64);
    let now_ns = 100 * SECOND;
    let mut sent = |at_s: u64, key| {
        let newcomer = Heartbeat { sent_ns: at_s * SECOND, ..beat(key, true) };
        gate.newcomer(&newcomer, 0, now_ns)
    };
    assert_eq!(sent(1_100, 1), Ok(()));
    assert_eq!(sent(1_070, 1), Ok(()));
    assert_eq!(sent(1_069, 1), Err(Counter::NotFresh));
    assert_eq!(sent(1_102, 1), Ok(()));
    assert_eq!(sent(1_103, 1), Err(Counter::NotFresh));
    assert_eq!(sent(0, 1), Err(Counter::NotFresh), "not stated");
    assert_eq!(sent(0, 0), Ok(()), "an unproven time proves nothing");
}

#[test]
fn each_key_has_its_own_allowance() {
    let limits = NewcomerLimits { per_key: Some(10), ..NewcomerLimits::default() };
    let mut gate = Admission::new(guard(Auth::Required), limits, 1);
    let mut admitted = |key, now_ns| {
        (0..1_000).filter(|_| gate.newcomer(&beat(key, true), 0, now_ns).is_ok()).count()
    };
    assert_eq!([admitted(1, SECOND), admitted(1, SECOND)], [10, 0]);
    assert_eq!(admitted(2, SECOND), 10);
    assert_eq!(admitted(1, SECOND * 3 / 2), 5);
    assert_eq!(admitted(1, 100 * SECOND), 10, "a burst of a second, however long nobody came");
}

#[test]
fn sources_are_asked_for_when_all_are_too_many_and_told_apart_then() {
    let limits = NewcomerLimits { per_source: Some(100), ..NewcomerLimits::default() };
    let mut gate = Admission::new(SharedGuard::default(), limits, 1);
    let now_ns = 5 * SECOND;
    for n in 0..100 {
        assert!(!gate.wants_sources(now_ns), "newcomer {n}");
        assert_eq!(gate.newcomer(&beat(0, false), 0, now_ns), Ok(()));
    }
    assert_eq!(gate.newcomer(&beat(0, false), 0, now_ns), Err(Counter::NewcomersOfSource));
    assert!(gate.wants_sources(now_ns));
    // The flooder from source 7 spends its own allowance, others come in beside it.
    let flood = (0..5_000).filter(|_| gate.newcomer(&beat(0, false), 7, now_ns).is_ok()).count();
    assert_eq!(flood, 100);
    assert_eq!(gate.newcomer(&beat(0, false), 8, now_ns), Ok(()));
    assert!(gate.wants_sources(now_ns + EXCESS_NS - 1));
    assert!(!gate.wants_sources(now_ns + EXCESS_NS), "quiet for long enough");
}

#[test]
fn reactors_share_an_allowance() {
    let limits = NewcomerLimits { per_source: Some(100), ..NewcomerLimits::default() };
    let mut gate = Admission::new(SharedGuard::default(), limits, 4);
    let admitted = (0..200).filter(|_| gate.newcomer(&beat(0, false), 9, SECOND).is_ok()).count();
    assert_eq!(admitted, 25);
}

/// A second's allowance at once, and the rate in the long run: against the times of all that were
/// let in.
#[test]
fn a_bucket_never_lets_in_more_than_its_rate_and_a_burst() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let rate = 1 + rng.below(50) as u32;
        let mut buckets = Buckets::new(1, rate, 1);
        let mut now_ns = rng.below(SECOND);
        let mut last: VecDeque<u64> = VecDeque::new();
        for step in 0..5_000 {
            now_ns += rng.below(SECOND / 20);
            let taken = buckets.take(0, now_ns);
            last.retain(|&at| at + SECOND > now_ns);
            if taken {
                last.push_back(now_ns);
            }
            // Within a second: what was saved up, and what comes in that second.
            assert!(last.len() as u32 <= 2 * rate, "seed {seed} step {step}: {last:?}");
            assert!(taken || last.len() as u32 >= rate.min(2) - 1, "seed {seed} step {step}");
        }
    }
}
