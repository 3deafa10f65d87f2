//! Tests of verdicts that are held, for a brake or for a parent, while the monitor is blind or deaf.

use super::guards::{DOWN_NS, MS, START, beats, braked, run};
use super::parents::family;
use super::tests::{Bench, beat};
use super::*;
use crate::engine::brake::BrakeSettings;
use crate::testing::{Rng, seeds};
use PeerState::*;
use std::collections::HashSet;

/// The brakes of `braked` hold for so long.
const HOLD_NS: u64 = 10_000 * MS;

/// A hundred fell silent and are held; we do not look from 4 s on, until behind the hold's end.
fn stopped_while_held(deaf: bool) -> (Bench, u64) {
    let mut bench = braked(50);
    bench.observe(&beats(1..=100, 1), START);
    run(&mut bench, START, START + 4_000 * MS, &[]);
    let back_ns = START + DOWN_NS + HOLD_NS + 2_000 * MS;
    // Sixty have come back meanwhile, and that was read.
    bench.observe(&beats(1..=60, 2), back_ns);
    bench.shard.blind(START + 4_000 * MS, back_ns, &mut bench.sink);
    if deaf {
        bench.shard.deaf(back_ns - MS, back_ns, &mut bench.sink);
    }
    (bench, back_ns)
}

#[test]
fn who_may_have_beaten_while_we_were_stopped_in_a_hold_has_time_for_one_more() {
    for deaf in [false, true] {
        let (mut bench, back_ns) = stopped_while_held(deaf);
        // Twenty beat on, whose heartbeats of the stop were lost; twenty are dead.
        let told = run(&mut bench, back_ns, back_ns + 90 * MS, &[Down]);
        assert_eq!(told, [], "deaf: {deaf}");
        bench.observe(&beats(1..=80, 3), back_ns + 95 * MS);
        let told = run(&mut bench, back_ns + 95 * MS, back_ns + 300 * MS, &[Down]);
        let dead: HashSet<u64> = told.iter().map(|t| t.peer.0).collect();
        assert_eq!(dead, (81..=100).collect(), "deaf: {deaf}");
        for t in told {
            let why = if deaf { Extensions::DEAF } else { Extensions::BLIND };
            assert!(t.extended_by.has(why) && t.lateness_ns() <= MS, "{t:?}");
            // One interval and the grace, times the ratio of the two deadlines.
            assert_eq!(t.deadline_ns, back_ns + 200 * MS);
        }
    }
}

#[test]
fn a_stop_behind_a_release_counts_as_well() {
    let mut bench = braked(50);
    bench.observe(&beats(1..=100, 1), START);
    run(&mut bench, START, START + 4_000 * MS, &[]);
    bench.observe(&beats(1..=90, 2), START + 4_000 * MS);
    // The others have time until 4.2 s; we do not look from 4.1 s on.
    let back_ns = START + 9_000 * MS;
    run(&mut bench, START + 4_000 * MS, START + 4_100 * MS, &[]);
    bench.observe(&beats(1..=90, 3), back_ns);
    bench.shard.blind(START + 4_100 * MS, back_ns, &mut bench.sink);
    assert_eq!(run(&mut bench, back_ns, back_ns + 90 * MS, &[Down]), []);
    bench.observe(&beats(1..=95, 4), back_ns + 95 * MS);
    let told = run(&mut bench, back_ns + 95 * MS, back_ns + 300 * MS, &[Down]);
    assert_eq!(told.len(), 5, "{told:?}");
}

#[test]
fn children_that_wait_for_a_parent_are_granted_what_we_missed_meanwhile() {
    let mut bench = family();
    // The parent beats a little longer, but is late itself when its children are.
    bench.observe(&beats([9], 2), START + 90 * MS);
    run(&mut bench, START, START + DOWN_NS + 10 * MS, &[]);
    assert_eq!(bench.state(1), Suspect, "it waits");
    let from_ns = START + DOWN_NS + 15 * MS;
    let back_ns = from_ns + 3_000 * MS;
    // The parent and one child were read; of the other all was lost.
    bench.observe(&[beat(9, 1, 3), beat(1, 1, 2)], back_ns);
    bench.shard.blind(from_ns, back_ns, &mut bench.sink);
    bench.shard.deaf(from_ns, back_ns, &mut bench.sink);
    assert_eq!(run(&mut bench, back_ns, back_ns + 90 * MS, &[Down, Unreachable]), []);
    bench.observe(&beats([1, 2, 9], 4), back_ns + 95 * MS);
    assert_eq!([1, 2].map(|peer| bench.state(peer)), [Up, Up]);
}

#[test]
fn the_children_of_a_parent_that_is_held_with_them_are_unreachable_with_it() {
    let mut bench = braked(50);
    let parent = bench.shard.shared.groups.parent_number(PeerId(100)).unwrap();
    bench.observe(&beats(1..=100, 1), START);
    (1..100).for_each(|peer| bench.shard.assign(PeerId(peer), 0, parent, START));
    let told = run(&mut bench, START, START + DOWN_NS + HOLD_NS + 1_000 * MS, &[Down, Unreachable]);
    let down: Vec<u64> = told.iter().filter(|t| t.to == Down).map(|t| t.peer.0).collect();
    assert_eq!(down, [100], "{} of 100", told.len());
    assert_eq!(told.len(), 100);
}

#[test]
fn who_was_held_by_the_fleets_brake_is_not_held_anew_by_its_groups() {
    let mut bench = braked(50);
    let brake = BrakeSettings { share: 0.5, least: 50, hold_ns: HOLD_NS };
    bench.observe(&beats(1..=300, 1), START);
    for group in 1..=3 {
        bench.shard.shared.groups.set_brake(group, brake);
        let own = u64::from(group - 1) * 100 + 1..=u64::from(group) * 100;
        own.for_each(|peer| bench.shard.assign(PeerId(peer), group, 0, START));
    }
    let over_ns = START + DOWN_NS + HOLD_NS;
    assert_eq!(run(&mut bench, START, over_ns - MS, &[Down]), []);
    let told = run(&mut bench, over_ns, over_ns + 10 * MS, &[Down]);
    assert_eq!(told.len(), 300);
    assert!(told.iter().all(|t| t.deadline_ns == over_ns && t.extended_by.has(Extensions::MASS)));
}

/// Peer 1 is behind 2, that behind 3, and so on; all beat once a second.
#[test]
fn a_child_waits_for_whom_its_parent_waits_for() {
    const PEERS: u64 = 5;
    let second = |peer, sequence| Heartbeat { interval_us: 1_000_000, ..beat(peer, 1, sequence) };
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::new(64, START);
        for peer in 1..=PEERS {
            bench.observe(&[second(peer, 1)], START);
        }
        for peer in 1..PEERS {
            let parent = bench.shard.shared.groups.parent_number(PeerId(peer + 1)).unwrap();
            bench.shard.assign(PeerId(peer), 0, parent, START);
        }
        // All die at one instant, each somewhere in its interval.
        let mut last: Vec<_> = (1..=PEERS).map(|peer| (rng.below(999) * MS, peer)).collect();
        last.sort_unstable();
        for (after_ns, peer) in last {
            bench.observe(&[second(peer, 2)], START + after_ns);
        }
        let told = run(&mut bench, START + 1_000 * MS, START + 6_000 * MS, &[Down, Unreachable]);
        let mut fates: Vec<_> = told.iter().map(|t| (t.peer.0, t.to)).collect();
        fates.sort_by_key(|fate| fate.0);
        let expected =
            (1..=PEERS).map(|peer| (peer, if peer == PEERS { Down } else { Unreachable }));
        assert_eq!(fates, expected.collect::<Vec<_>>(), "seed {seed}");
    }
}

/// Trees of peers, of which some die with all that is behind them, or come back in any order.
#[test]
fn in_any_forest_the_dead_are_down_and_whoever_is_behind_them_is_unreachable() {
    const PEERS: usize = 16;
    const SECOND: u64 = 1_000 * MS;
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::new(64, START);
        // A parent has a higher number, so that there is no ring.
        let parents: Vec<Option<usize>> = (0..PEERS)
            .map(|peer| {
                let above = (PEERS - 1 - peer) as u64;
                (above > 0 && !rng.one_in(4)).then(|| peer + 1 + rng.below(above.min(4)) as usize)
            })
            .collect();
        let id = |peer: usize| peer as u64 + 1;
        let mut sequence = 1;
        let phases: Vec<u64> = (0..PEERS).map(|_| rng.below(1_000)).collect();
        // Beats of a second from then on, until then, of all but those that are cut off.
        let mut beat_on = |bench: &mut Bench, from_ns: u64, seconds: u64, dead: &[bool]| {
            let mut told = Vec::new();
            let cut_off = |peer: usize| {
                std::iter::successors(Some(peer), |peer| parents[*peer]).any(|peer| dead[peer])
            };
            for step in 0..seconds * 1_000 {
                let now_ns = from_ns + step * MS;
                sequence += u32::from(step % 1_000 == 0);
                for peer in
                    (0..PEERS).filter(|peer| phases[*peer] == step % 1_000 && !cut_off(*peer))
                {
                    let beat = beat(id(peer), 1, sequence);
                    told.extend(
                        bench.observe(&[Heartbeat { interval_us: 1_000_000, ..beat }], now_ns),
                    );
                }
                told.extend(bench.advance(now_ns));
            }
            told
        };
        beat_on(&mut bench, START, 1, &[false; PEERS]);
        for (peer, parent) in parents.iter().enumerate() {
            let Some(parent) = parent else { continue };
            let number = bench.shard.shared.groups.parent_number(PeerId(id(*parent))).unwrap();
            bench.shard.assign(PeerId(id(peer)), 0, number, START + SECOND);
        }
        beat_on(&mut bench, START + SECOND, 2, &[false; PEERS]);
        let dead: Vec<bool> = (0..PEERS).map(|_| rng.one_in(5)).collect();
        let told = beat_on(&mut bench, START + 3 * SECOND, 8, &dead);
        for peer in 0..PEERS {
            let above = std::iter::successors(parents[peer], |peer| parents[*peer]);
            let expected: &[PeerState] =
                match (above.into_iter().any(|peer| dead[peer]), dead[peer]) {
                    (true, _) => &[Unreachable],
                    (false, true) => &[Down],
                    (false, false) => &[],
                };
            let fate =
                told.iter().filter(|t| t.peer.0 == id(peer) && t.to != Suspect && t.to != Up);
            let fate: Vec<_> = fate.map(|t| t.to).collect();
            assert_eq!(fate, expected, "seed {seed}: {peer} of {parents:?}, dead {dead:?}");
        }
        // All come back, in whichever order they beat.
        let told = beat_on(&mut bench, START + 11 * SECOND, 8, &[false; PEERS]);
        assert!(told.iter().all(|t| t.to == Up), "seed {seed}: {told:?}");
    }
}

/// Groups with brakes beside the fleet's; some die, at their own times, and some of these come back.
#[test]
fn whatever_is_held_the_living_are_not_blamed_and_the_dead_are_found_once() {
    const PEERS: u64 = 120;
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut bench = braked(30 + rng.below(60) as u32);
        bench.observe(&beats(1..=PEERS, 1), START);
        for group in 1..=3u16 {
            let least = 5 + rng.below(30) as u32;
            let hold_ns = (1 + rng.below(10)) * 1_000 * MS;
            bench
                .shard
                .shared
                .groups
                .set_brake(group, BrakeSettings { share: 0.5, least, hold_ns });
        }
        for peer in 1..=PEERS {
            bench.shard.assign(PeerId(peer), rng.below(4) as u16, 0, START);
        }
        let crash_ns = START + 500 * MS;
        // When each falls silent, and when it comes back; some never do either.
        let mut dies = |_| match rng.below(4) {
            0 => (u64::MAX, u64::MAX),
            1 => (crash_ns + rng.below(30) * 100 * MS, crash_ns + (30 + rng.below(90)) * 100 * MS),
            _ => (crash_ns + rng.below(20) * 100 * MS, u64::MAX),
        };
        let fates: Vec<(u64, u64)> = (1..=PEERS).map(&mut dies).collect();
        let end_ns = crash_ns + 2_000 * MS + 2 * HOLD_NS + 2_000 * MS;
        let (mut told, mut sequence) = (Vec::new(), 1);
        for now_ns in (START..end_ns).step_by(MS as usize) {
            if (now_ns - START).is_multiple_of(100 * MS) {
                sequence += 1;
                let beating = |peer: &u64| {
                    let (from_ns, to_ns) = fates[*peer as usize - 1];
                    !(from_ns..to_ns).contains(&now_ns)
                };
                told.extend(bench.observe(&beats((1..=PEERS).filter(beating), sequence), now_ns));
            }
            told.extend(bench.advance(now_ns));
        }
        for (peer, (from_ns, to_ns)) in (1..=PEERS).zip(&fates) {
            let downs = told.iter().filter(|t| t.peer.0 == peer && t.to == Down);
            let downs: Vec<u64> = downs.map(|t| t.fired_ns).collect();
            let context = format!(
                "seed {seed}: {peer} is down at {downs:?}, silent from {from_ns} to {to_ns}"
            );
            assert!(downs.iter().all(|at_ns| (from_ns..to_ns).contains(&at_ns)), "{context}");
            let died = *from_ns != u64::MAX && *to_ns == u64::MAX;
            assert!(downs.len() <= 1 && (!died || downs.len() == 1), "{context}");
        }
    }
}
