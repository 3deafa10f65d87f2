//! Tests of what keeps a peer from being blamed: windows and brakes; `parents.rs` has those of parents.

use super::tests::{Bench, beat, policy};
use super::*;
use crate::engine::Policy;
use crate::engine::brake::BrakeSettings;
use crate::testing::{Rng, seeds};
use crate::wire;
use PeerState::*;

pub(super) const MS: u64 = 1_000_000;
pub(super) const START: u64 = 5_000 * MS;

/// Peers of 100 ms: suspect 192 ms after the last heartbeat, down after 320 ms.
const SUSPECT_NS: u64 = 192 * MS;
pub(super) const DOWN_NS: u64 = 320 * MS;

pub(super) fn beats(peers: impl IntoIterator<Item = u64>, sequence: u32) -> Vec<Heartbeat> {
    peers.into_iter().map(|peer| beat(peer, 1, sequence)).collect()
}

pub(super) fn braked(least: u32) -> Bench {
    let brake = BrakeSettings { share: 0.5, least, hold_ns: 10_000 * MS };
    Bench::with(Groups::new(vec![policy()], brake), 4_096, START)
}

/// Advances in steps of a millisecond; what changed to one of these states.
pub(super) fn run(
    bench: &mut Bench,
    from_ns: u64,
    to_ns: u64,
    wanted: &[PeerState],
) -> Vec<Transition> {
    let mut told = Vec::new();
    for now_ns in (from_ns..=to_ns).step_by(MS as usize) {
        told.extend(bench.advance(now_ns).into_iter().filter(|t| wanted.contains(&t.to)));
    }
    told
}

fn mass(bench: &Bench) -> Vec<(Scope, bool)> {
    let all = bench.sink.notices.iter();
    all.filter_map(|notice| match *notice {
        Notice::MassSilence { scope, held, .. } => Some((scope, held)),
        _ => None,
    })
    .collect()
}

#[test]
fn a_blind_window_puts_the_verdict_off_and_says_so() {
    let mut bench = Bench::new(8, START);
    bench.observe(&[beat(1, 1, 1)], START);
    bench.shard.blind(START + 250 * MS, START + 300 * MS, &mut bench.sink);
    assert!(bench.advance(START + DOWN_NS).iter().all(|t| t.to != Down));
    let told = bench.advance(START + DOWN_NS + 50 * MS);
    assert_eq!(told[0].deadline_ns, START + DOWN_NS + 50 * MS);
    assert_eq!((told[0].to, told[0].extended_ns), (Down, 50 * MS));
    assert!(told[0].extended_by.has(Extensions::BLIND));
    assert_eq!(bench.counters.get(Counter::Extended), 1);
}

#[test]
fn when_most_fall_silent_at_once_they_are_held_and_one_notice_is_given() {
    let mut bench = braked(50);
    bench.observe(&beats(1..=100, 1), START);
    let told = run(&mut bench, START, START + 9_000 * MS, &[Suspect, Down]);
    assert_eq!(told.len(), 100, "all are suspect, nobody is down");
    assert!(told.iter().all(|t| t.to == Suspect));
    assert_eq!(mass(&bench), [(Scope::Fleet, true)]);
    // The hold began with the first verdict, and ends when its time is over.
    let told = run(&mut bench, START + 9_000 * MS, START + 10_400 * MS, &[Down]);
    assert_eq!(told.len(), 100);
    for t in told {
        assert_eq!(t.deadline_ns, START + DOWN_NS + 10_000 * MS);
        assert_eq!(t.extended_ns, 10_000 * MS);
        assert!(t.extended_by.has(Extensions::MASS));
        assert!(t.lateness_ns() <= MS);
    }
    assert_eq!(mass(&bench), [(Scope::Fleet, true)], "that its time is over is no news");
}

#[test]
fn when_heartbeats_return_the_rest_get_time_for_one_more() {
    let mut bench = braked(50);
    bench.observe(&beats(1..=100, 1), START);
    run(&mut bench, START, START + 2_000 * MS, &[]);
    // 10 stay silent.
    let back_ns = START + 2_000 * MS;
    bench.observe(&beats(1..=90, 2), back_ns);
    assert_eq!(mass(&bench), [(Scope::Fleet, true), (Scope::Fleet, false)]);
    let mut told = Vec::new();
    for round in 0..10u64 {
        let now_ns = back_ns + round * 50 * MS;
        bench.observe(&beats(1..=90, 3 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 49 * MS, &[Down]));
    }
    assert_eq!(told.len(), 10);
    // One interval and the grace, times the ratio of the two deadlines.
    let granted_ns = 120 * MS * DOWN_NS / SUSPECT_NS;
    for t in told {
        assert!(t.peer.0 > 90, "{t:?}");
        assert_eq!(t.deadline_ns, back_ns + granted_ns);
        assert!(t.lateness_ns() <= MS, "{t:?}");
    }
}

#[test]
fn less_than_the_share_is_no_mass_silence() {
    let mut bench = braked(50);
    bench.observe(&beats(1..=200, 1), START);
    let mut told = Vec::new();
    for round in 0..10u64 {
        let now_ns = START + round * 50 * MS;
        bench.observe(&beats(91..=200, 2 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 49 * MS, &[Down]));
    }
    assert_eq!(told.len(), 90);
    assert!(told.iter().all(|t| t.deadline_ns == START + DOWN_NS && t.extended_ns == 0));
    assert!(mass(&bench).is_empty());
}

#[test]
fn a_group_has_a_brake_of_its_own() {
    let mut bench = braked(1_000);
    bench.shard.shared.groups.set_brake(7, BrakeSettings { share: 0.5, least: 3, hold_ns: MS });
    bench.observe(&beats(1..=10, 1), START);
    (1..=5).for_each(|peer| bench.shard.assign(PeerId(peer), 7, 0, START));
    assert_eq!(bench.shard.shared.groups.census(Scope::Group(7)).living, 5);
    let told = run(&mut bench, START, START + DOWN_NS, &[Down]);
    let down: Vec<u64> = told.iter().map(|t| t.peer.0).collect();
    assert_eq!(down, [6, 7, 8, 9, 10]);
    assert_eq!(mass(&bench), [(Scope::Group(7), true)]);
    assert_eq!(run(&mut bench, START + DOWN_NS, START + 400 * MS, &[Down]).len(), 5);
}

/// Of 200, 150 fall silent whose silence is planned, and one of the others dies.
fn only_the_others_count(plan: impl Fn(&mut Bench)) {
    let mut bench = braked(50);
    bench.observe(&beats(1..=200, 1), START);
    plan(&mut bench);
    assert_eq!(bench.shard.shared.groups.census(Scope::Fleet).living, 50);
    let mut told = Vec::new();
    for round in 0..10u64 {
        let now_ns = START + round * 50 * MS;
        bench.observe(&beats(152..=200, 3 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 49 * MS, &[Down]));
    }
    assert_eq!(told.len(), 151);
    assert!(told.iter().all(|t| t.deadline_ns == START + DOWN_NS && t.extended_ns == 0));
    assert!(mass(&bench).is_empty());
    assert_eq!(bench.shard.shared.groups.census(Scope::Fleet).living, 49);
}

#[test]
fn who_is_silenced_is_not_held_and_holds_nobody() {
    only_the_others_count(|bench| {
        let Bench { shard, sink, .. } = bench;
        (1..=150).for_each(|peer| shard.silence(PeerId(peer), true, START, sink));
    });
}

#[test]
fn who_is_in_maintenance_is_not_held_and_holds_nobody() {
    only_the_others_count(|bench| {
        let beats = beats(1..=150, 2).into_iter();
        let beats = beats.map(|beat| Heartbeat { status: wire::Status::Maintenance, ..beat });
        bench.observe(&beats.collect::<Vec<_>>(), START);
    });
}

#[test]
fn a_group_whose_brake_is_off_is_not_held_by_the_fleets_and_does_not_count_for_it() {
    only_the_others_count(|bench| {
        bench.shard.shared.groups.set_brake(7, BrakeSettings::OFF);
        (1..=150).for_each(|peer| bench.shard.assign(PeerId(peer), 7, 0, START));
    });
}

/// All are held; then 60 of the 100 are silenced, which is the verdict for them, and a hold no more
/// for so few as are left.
#[test]
fn who_is_silenced_while_it_is_held_gets_its_verdict_at_once() {
    let mut bench = braked(50);
    bench.observe(&beats(1..=100, 1), START);
    let at_ns = START + 1_000 * MS;
    run(&mut bench, START, at_ns, &[]);
    assert_eq!(mass(&bench), [(Scope::Fleet, true)]);
    let Bench { shard, sink, .. } = &mut bench;
    (1..=60).for_each(|peer| shard.silence(PeerId(peer), true, at_ns, sink));
    let told = run(&mut bench, at_ns, at_ns + MS, &[Down]);
    assert_eq!(told.len(), 60);
    for t in told {
        assert_eq!((t.deadline_ns, t.peer.0 <= 60), (at_ns, true), "{t:?}");
        assert!(t.extended_by.has(Extensions::MASS) && t.lateness_ns() <= MS, "{t:?}");
    }
    assert_eq!(mass(&bench), [(Scope::Fleet, true)], "40 of 40 are still silent");
    let Bench { shard, sink, .. } = &mut bench;
    (61..=76).for_each(|peer| shard.silence(PeerId(peer), true, at_ns, sink));
    assert_eq!(mass(&bench), [(Scope::Fleet, true), (Scope::Fleet, false)], "fewer than the least");
    // And who is silenced no longer counts again.
    let living = bench.shard.shared.groups.census(Scope::Fleet).living;
    let Bench { shard, sink, .. } = &mut bench;
    shard.silence(PeerId(70), false, at_ns, sink);
    assert_eq!(shard.shared.groups.census(Scope::Fleet).living, living + 1);
}

/// Whoever comes, goes, is put in a group, silenced or in maintenance: a brake counts those that count
/// for it, as a look at all slots finds them.
#[test]
fn the_census_is_that_of_the_slots() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut bench = braked(20);
        let groups = bench.shard.shared.groups.clone();
        groups.set_brake(2, BrakeSettings::OFF);
        let mut now_ns = START;
        for step in 0..3_000u32 {
            now_ns += rng.below(30 * MS);
            let peer = PeerId(1 + rng.below(40));
            let status = match rng.below(4) {
                0 => wire::Status::Maintenance,
                _ => wire::Status::Ok,
            };
            match rng.below(8) {
                0 => bench.shard.assign(peer, rng.below(4) as u16, 0, now_ns),
                1 => bench.shard.silence(peer, rng.below(2) == 0, now_ns, &mut bench.sink),
                2 => _ = bench.shard.remove(peer, now_ns, &mut bench.sink),
                3 => _ = bench.advance(now_ns),
                4 => {
                    let bye = Heartbeat { kind: wire::Kind::Bye, ..beat(peer.0, 1, step) };
                    bench.observe(&[Heartbeat { status, ..bye }], now_ns);
                }
                _ => _ = bench.observe(&[Heartbeat { status, ..beat(peer.0, 1, step) }], now_ns),
            }
            bench.sink.room = [0, usize::MAX][(rng.below(4) > 0) as usize];
            for scope in [Scope::Fleet, Scope::Group(1), Scope::Group(2), Scope::Group(3)] {
                let table = &bench.shard.peers.table;
                let slots = (0..table.high_water()).map(|index| table.slot(index));
                let counted = slots.filter(|slot| {
                    let of_it = scope == Scope::Fleet || scope == Scope::Group(slot.group());
                    let planned = slot.silenced() || slot.status() == wire::Status::Maintenance;
                    of_it && !planned && slot.group() != 2
                });
                let states: Vec<_> = counted.map(|slot| slot.state()).collect();
                let in_state = |state| states.iter().filter(|s| **s == state).count() as u32;
                let census = groups.census(scope);
                let expected = (in_state(Up) + in_state(Suspect), in_state(Suspect));
                assert_eq!((census.living, census.suspect), expected, "seed {seed} step {step}");
            }
        }
    }
}

#[test]
fn a_group_has_a_policy_of_its_own() {
    let slow = Policy { missed: 10.0, ..policy() };
    let groups = Groups::new(vec![policy(), slow], BrakeSettings::OFF);
    groups.set_policy(3, 1);
    let mut bench = Bench::with(groups, 8, START);
    bench.observe(&beats(1..=2, 1), START);
    bench.shard.assign(PeerId(2), 3, 0, START + MS);
    let told = run(&mut bench, START, START + 1_100 * MS, &[Down]);
    let deadlines: Vec<_> = told.iter().map(|t| (t.peer.0, t.deadline_ns, t.group)).collect();
    assert_eq!(deadlines, [(1, START + DOWN_NS, 0), (2, START + 1_020 * MS, 3)]);
}
