//! Tests of what a peer's parent means for it: who is unreachable, and who gets more time.

use super::guards::{DOWN_NS, MS, START, beats, run};
use super::tests::{Bench, beat, policy};
use super::*;
use crate::engine::Policy;
use crate::engine::brake::BrakeSettings;
use crate::wire::KeySet;
use PeerState::*;

/// Peer 9 is the parent of 1 and 2.
pub(super) fn family() -> Bench {
    let mut bench = Bench::new(64, START);
    let parent = bench.shard.shared.groups.parent_number(PeerId(9)).unwrap();
    bench.observe(&beats([1, 2, 9], 1), START);
    (1..=2).for_each(|peer| bench.shard.assign(PeerId(peer), 0, parent, START));
    bench
}

#[test]
fn the_children_of_a_dead_parent_are_unreachable_whoever_is_late_first() {
    for parent_beats_last in [true, false] {
        let mut bench = family();
        // One of the two goes on a little longer, and so its deadline is the later one.
        let late: &[u64] = if parent_beats_last { &[9] } else { &[1, 2] };
        bench.observe(&beats(late.iter().copied(), 2), START + 90 * MS);
        let mut told = run(&mut bench, START, START + 900 * MS, &[Down, Unreachable]);
        told.sort_by_key(|t| t.peer.0);
        let story: Vec<_> = told.iter().map(|t| (t.peer.0, t.to, t.reason)).collect();
        let unreachable = |peer| (peer, Unreachable, Reason::Parent);
        assert_eq!(story, [unreachable(1), unreachable(2), (9, Down, Reason::Silence)]);
    }
}

#[test]
fn children_that_were_called_down_before_their_slower_parent_become_unreachable() {
    let mut bench = family();
    // The parent beats once a second, so it cannot be missed when its children are.
    let slow = Heartbeat { interval_us: 1_000_000, ..beat(9, 1, 2) };
    bench.observe(&[slow], START + 10 * MS);
    // Child 2 died alone, long before, and the parent was heard since.
    bench.observe(&[beat(1, 1, 2)], START + 500 * MS);
    let later = Heartbeat { sequence: 3, ..slow };
    let mut told = run(&mut bench, START, START + 900 * MS, &[Down, Unreachable]);
    bench.observe(&[later], START + 900 * MS);
    bench.observe(&[beat(1, 1, 3)], START + 900 * MS);
    told.extend(run(&mut bench, START + 900 * MS, START + 9_000 * MS, &[Down, Unreachable]));
    let story: Vec<_> = told.iter().map(|t| (t.peer.0, t.from, t.to)).collect();
    assert_eq!(story[0], (2, Suspect, Down));
    let of = |peer: u64| story.iter().filter(move |t| t.0 == peer).map(|t| t.2);
    assert_eq!(of(2).collect::<Vec<_>>(), [Down], "it is down by itself: {story:?}");
    assert_eq!(of(9).collect::<Vec<_>>(), [Down]);
    // Down at once, as its parent might be alive; unreachable when that turns out to be dead.
    assert_eq!(of(1).collect::<Vec<_>>(), [Down, Down, Unreachable], "{story:?}");
}

/// Peer 9 is a relay, which brings 1 and 2.
fn relayed() -> Bench {
    let mut bench = Bench::new(64, START);
    bench.observe(&[beat(9, 1, 1)], START);
    bench.shard.shared.groups.parent_number(PeerId(9)).unwrap();
    bench.sink.way = bench.shard.way_through(PeerId(9), 0, &mut bench.sink);
    assert!(matches!(bench.sink.way, Way::Relay(_)));
    bench.observe(&beats([1, 2], 1), START);
    bench.sink.way = Way::Unsaid;
    bench
}

fn fates(bench: &mut Bench, from_ns: u64) -> Vec<(u64, PeerState)> {
    let told = run(bench, from_ns, from_ns + 900 * MS, &[Down, Unreachable]);
    let mut fates: Vec<_> = told.iter().map(|t| (t.peer.0, t.to)).collect();
    fates.sort_by_key(|fate| fate.0);
    fates
}

#[test]
fn a_relay_is_the_parent_of_those_that_it_brings() {
    assert_eq!(fates(&mut relayed(), START), [(1, Unreachable), (2, Unreachable), (9, Down)]);
}

#[test]
fn a_peer_is_no_relays_child_once_it_beats_directly() {
    let mut bench = relayed();
    // A HELLO, a BYE, a line of text do not say which way they came.
    bench.observe(&[beat(1, 1, 2)], START);
    bench.sink.way = Way::Direct;
    bench.observe(&[beat(2, 1, 2)], START);
    assert_eq!(fates(&mut bench, START), [(1, Unreachable), (2, Down), (9, Down)]);
}

#[test]
fn a_named_parent_goes_before_the_relay_and_none_may_be_wanted() {
    let mut bench = relayed();
    let switch = bench.shard.shared.groups.parent_number(PeerId(8)).unwrap();
    bench.shard.assign(PeerId(1), 0, switch, START);
    bench.shard.assign(PeerId(2), 0, way::NOBODY, START);
    bench.sink.way = Way::Relay(1);
    bench.observe(&beats([1, 2], 2), START);
    assert_eq!(fates(&mut bench, START), [(1, Down), (2, Down), (9, Down)]);
    // Neither is named any more: the next beats say whose children they are.
    let mut bench = relayed();
    bench.shard.assign(PeerId(1), 0, switch, START);
    bench.shard.assign(PeerId(1), 0, 0, START);
    bench.shard.assign(PeerId(2), 3, 0, START);
    bench.sink.way = Way::Relay(1);
    bench.observe(&beats([1], 2), START);
    assert_eq!(fates(&mut bench, START), [(1, Unreachable), (2, Unreachable), (9, Down)]);
}

#[test]
fn a_relay_without_a_number_is_reported_if_it_is_a_peer_and_never_its_own_parent() {
    let mut bench = Bench::new(64, START);
    let way = bench.shard.way_through(PeerId(9), 0, &mut bench.sink);
    assert_eq!((way, bench.sink.notices.len()), (Way::Unsaid, 0), "nobody knows it");
    bench.observe(&[beat(9, 1, 1)], START);
    let way = bench.shard.way_through(PeerId(9), 0, &mut bench.sink);
    assert_eq!(
        (way, &bench.sink.notices[..]),
        (Way::Unsaid, &[Notice::Relay { relay: PeerId(9) }][..])
    );
    let number = bench.shard.shared.groups.parent_number(PeerId(9)).unwrap();
    for _ in 0..2 {
        let way = bench.shard.way_through(PeerId(9), 0, &mut bench.sink);
        assert_eq!(way, Way::Relay(number as u16));
        bench.sink.way = way;
    }
    bench.observe(&beats([9], 2), START);
    assert_eq!(fates(&mut bench, START), [(9, Down)]);
}

#[test]
fn a_relay_is_named_only_by_a_key_that_may_speak_for_it() {
    let mut bench = Bench::new(64, START);
    bench.observe(&[beat(9, 1, 1)], START);
    let groups = bench.shard.shared.groups.clone();
    let number = groups.parent_number(PeerId(9)).unwrap() as u16;
    bench.shard.assign(PeerId(9), 3, 0, START);
    let mut relays_key = KeySet::default();
    relays_key.insert(1);
    groups.set_keys(3, relays_key);
    let ways = [0, 1, 2].map(|key_id| bench.shard.way_through(PeerId(9), key_id, &mut bench.sink));
    assert_eq!(ways, [Way::Relay(number), Way::Relay(number), Way::Unsaid]);
}

/// Relays 8 and 9, and their ways.
fn two_relays() -> (Bench, [Way; 2]) {
    let mut bench = Bench::new(64, START);
    bench.observe(&beats([8, 9], 1), START);
    let ways = [8, 9].map(|relay| {
        bench.shard.shared.groups.parent_number(PeerId(relay)).unwrap();
        bench.shard.way_through(PeerId(relay), 0, &mut bench.sink)
    });
    assert!(matches!(ways, [Way::Relay(_), Way::Relay(_)]));
    (bench, ways)
}

/// Peer 1's beats of these numbers come by these ways, one copy behind the other.
fn brought(bench: &mut Bench, sequences: std::ops::RangeInclusive<u32>, ways: &[Way]) {
    for sequence in sequences {
        for &way in ways {
            bench.sink.way = way;
            bench.observe(&[beat(1, 1, sequence)], START);
        }
    }
    bench.sink.way = Way::Unsaid;
}

/// What becomes of peer 1, which is heard no more, while these relays go on.
fn fate_beside(bench: &mut Bench, living: &[u64]) -> PeerState {
    for round in 0..8u64 {
        let now_ns = START + round * 100 * MS;
        bench.observe(&beats(living.iter().copied(), 2 + round as u32), now_ns);
        run(bench, now_ns, now_ns + 99 * MS, &[]);
    }
    bench.state(1)
}

#[test]
fn whoever_two_relays_bring_is_down_while_one_of_them_lives() {
    let all: [&[u64]; 4] = [&[8, 9], &[8], &[9], &[]];
    for living in all {
        for turned in [false, true] {
            let (mut bench, mut ways) = two_relays();
            if turned {
                ways.reverse();
            }
            brought(&mut bench, 1..=3, &ways);
            let fate = if living.is_empty() { Unreachable } else { Down };
            assert_eq!(fate_beside(&mut bench, living), fate, "{living:?} {turned}");
            // No copies, but now by the one and now by the other.
            let (mut bench, _) = two_relays();
            for sequence in 1..=4 {
                brought(&mut bench, sequence..=sequence, &[ways[sequence as usize % 2]]);
            }
            assert_eq!(fate_beside(&mut bench, living), fate, "{living:?} {turned}");
        }
    }
}

#[test]
fn a_relay_that_brings_a_peer_no_more_says_nothing_of_it() {
    for (more, fate) in [(64, Down), (65, Unreachable)] {
        let (mut bench, ways) = two_relays();
        brought(&mut bench, 1..=3, &ways);
        brought(&mut bench, 4..=3 + more, &ways[..1]);
        assert_eq!(fate_beside(&mut bench, &[9]), fate, "after {more} by the other alone");
    }
}

#[test]
fn whoever_beats_directly_as_well_is_no_relays_child() {
    for ways_of in [|relay| [relay, Way::Direct], |relay| [Way::Direct, relay]] {
        let (mut bench, [relay, _]) = two_relays();
        brought(&mut bench, 1..=3, &ways_of(relay));
        assert_eq!(fate_beside(&mut bench, &[]), Down);
    }
    // Directly only while its relay was away.
    let (mut bench, [relay, _]) = two_relays();
    brought(&mut bench, 1..=70, &[relay]);
    brought(&mut bench, 71..=80, &[Way::Direct]);
    brought(&mut bench, 81..=82, &[relay]);
    assert_eq!(fate_beside(&mut bench, &[]), Down, "a moment ago it was heard directly");
    let (mut bench, [relay, _]) = two_relays();
    brought(&mut bench, 1..=10, &[relay]);
    brought(&mut bench, 11..=80, &[Way::Direct]);
    brought(&mut bench, 81..=82, &[relay]);
    assert_eq!(fate_beside(&mut bench, &[]), Unreachable);
}

#[test]
fn a_child_that_dies_alone_is_down() {
    let mut bench = family();
    let mut told = Vec::new();
    for round in 0..6u64 {
        let now_ns = START + round * 100 * MS;
        bench.observe(&beats([2, 9], 2 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &[Down, Unreachable]));
    }
    let story: Vec<_> = told.iter().map(|t| (t.peer.0, t.to, t.deadline_ns)).collect();
    assert_eq!(story, [(1, Down, START + DOWN_NS)]);
}

#[test]
fn children_get_a_timeout_behind_a_parent_that_recovers_first() {
    let mut bench = family();
    run(&mut bench, START, START + 1_000 * MS, &[]);
    assert_eq!([1, 2, 9].map(|peer| bench.state(peer)), [Unreachable, Unreachable, Down]);
    let back_ns = START + 5_000 * MS;
    let mut told = run(&mut bench, START + 1_000 * MS, back_ns, &[Up, Suspect, Down, Unreachable]);
    assert!(told.is_empty(), "nothing is told again: {told:?}");
    for round in 0..8u64 {
        let now_ns = back_ns + round * 100 * MS;
        // Child 1 comes back behind its parent, child 2 never does.
        let awake: &[u64] = if round < 2 { &[9] } else { &[1, 9] };
        bench.observe(&beats(awake.iter().copied(), 2 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &[Down, Unreachable]));
    }
    let story: Vec<_> = told.iter().map(|t| (t.peer.0, t.to, t.deadline_ns)).collect();
    assert_eq!(story, [(2, Down, back_ns + DOWN_NS)]);
    assert_eq!(bench.state(1), Up);
}

/// A cut a little longer than the timeout: the parent is back before its children were to be missed.
#[test]
fn children_whose_turn_comes_behind_their_parents_return_get_a_timeout_too() {
    let mut bench = family();
    bench.observe(&beats([1, 2], 2), START + 90 * MS);
    let back_ns = START + DOWN_NS + 20 * MS;
    let mut told = run(&mut bench, START, back_ns, &[Down, Unreachable]);
    for round in 0..8u64 {
        let now_ns = back_ns + round * 100 * MS;
        // Child 1 comes back behind its own deadline, child 2 never does.
        let awake: &[u64] = if round < 2 { &[9] } else { &[1, 9] };
        bench.observe(&beats(awake.iter().copied(), 3 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &[Down, Unreachable]));
    }
    let story: Vec<_> = told.iter().map(|t| (t.peer.0, t.to, t.deadline_ns)).collect();
    assert_eq!(story, [(9, Down, START + DOWN_NS), (2, Down, back_ns + DOWN_NS)]);
}

/// No process looks while they come back.
#[test]
fn an_absence_behind_their_parents_return_is_granted_to_children_too() {
    let mut bench = family();
    run(&mut bench, START, START + 1_000 * MS, &[]);
    let back_ns = START + 5_000 * MS;
    run(&mut bench, START + 1_000 * MS, back_ns, &[]);
    bench.observe(&[beat(9, 1, 2)], back_ns);
    bench.shard.was_absent(back_ns + 10 * MS, back_ns + 2_010 * MS, true);
    let again_ns = back_ns + 2_060 * MS;
    let mut told = run(&mut bench, back_ns + 2_010 * MS, again_ns, &[Down]);
    for round in 0..4u64 {
        let now_ns = again_ns + round * 100 * MS;
        bench.observe(&beats([1, 9], 3 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &[Down]));
    }
    let story: Vec<_> = told.iter().map(|t| (t.peer.0, t.to, t.deadline_ns)).collect();
    assert_eq!(story, [(2, Down, back_ns + 2_000 * MS + DOWN_NS)]);
    assert_eq!(bench.state(1), Up);
}

/// A cut that is over before the parent is called down, and after its children were to be.
#[test]
fn children_of_a_parent_that_was_only_suspect_get_time_for_one_more_heartbeat() {
    let mut bench = family();
    bench.observe(&[beat(9, 1, 2)], START + 60 * MS);
    let back_ns = START + DOWN_NS + 30 * MS;
    let mut told = run(&mut bench, START, back_ns, &[Suspect, Down]);
    assert!(told.iter().any(|t| (t.peer.0, t.to) == (9, Suspect)), "{told:?}");
    for round in 0..8u64 {
        let now_ns = back_ns + round * 100 * MS;
        let awake: &[u64] = if round < 1 { &[9] } else { &[1, 9] };
        bench.observe(&beats(awake.iter().copied(), 3 + round as u32), now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &[Down]));
    }
    let downs: Vec<_> = told.iter().filter(|t| t.to == Down).map(|t| t.peer.0).collect();
    assert_eq!(downs, [2], "{told:?}");
    let once_more_ns = told.last().unwrap().deadline_ns - START - DOWN_NS;
    assert!((100 * MS..DOWN_NS).contains(&once_more_ns), "{told:?}");
}

/// The same where the children are much faster than their parent, and were due long before its return.
#[test]
fn children_of_a_slower_parent_get_time_for_one_more_heartbeat_behind_its_return() {
    for flaps in [false, true] {
        let mut bench = family();
        let slow = |sequence| Heartbeat { interval_us: 200_000, ..beat(9, 1, sequence) };
        bench.observe(&[slow(2)], START + MS);
        // Suspect for long, and not down yet.
        let back_ns = START + policy().deadlines(&Arrivals::NONE, 200_000).down_ns - 50 * MS;
        let mut told = run(&mut bench, START + MS, back_ns, &[Suspect, Down]);
        assert_eq!(told.iter().filter(|t| t.peer.0 == 9).count(), 1, "suspect: {told:?}");
        bench.observe(&[slow(3)], back_ns);
        told.extend(run(&mut bench, back_ns, back_ns + 95 * MS, &[Down]));
        bench.observe(&beats([1], 2), back_ns + 95 * MS);
        for round in 0..12u64 {
            let now_ns = back_ns + 100 * MS + round * 100 * MS;
            bench.observe(&beats([1], 3 + round as u32), now_ns);
            // Suspect now and then.
            if !flaps || round % 5 == 4 {
                bench.observe(&[slow(4 + round as u32)], now_ns);
            }
            told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &[Down]));
        }
        let downs: Vec<_> = told.iter().filter(|t| t.to == Down).map(|t| t.peer.0).collect();
        assert_eq!(downs, [2], "{told:?}");
        let behind_ns = told.last().unwrap().deadline_ns - back_ns;
        let most_ns = if flaps { 2 * DOWN_NS } else { DOWN_NS };
        assert!((100 * MS..most_ns).contains(&behind_ns), "{flaps} {behind_ns}");
    }
}

/// Behind a parent that is away for longer than the dead of their group are remembered.
#[test]
fn nobody_is_forgotten_before_its_parent_of_whom_nobody_knows_whether_it_lives() {
    for parent_returns in [true, false] {
        let forgetting = |after_ms: u64| Policy { forget_down_ns: after_ms * MS, ..policy() };
        let policies = vec![forgetting(5_000), forgetting(2_000)];
        let mut bench = Bench::with(Groups::new(policies, BrakeSettings::OFF), 64, START);
        let groups = bench.shard.shared.groups.clone();
        let group = 3;
        groups.set_policy(group, 1);
        let parent = groups.parent_number(PeerId(9)).unwrap();
        bench.observe(&beats([1, 2, 9], 1), START);
        (1..=2).for_each(|peer| bench.shard.assign(PeerId(peer), group, parent, START));
        let telling = [Down, Unreachable, Forgotten];
        let mut told = run(&mut bench, START, START + 4_000 * MS, &telling);
        for round in 0..60u64 {
            let now_ns = START + 4_000 * MS + round * 100 * MS;
            if parent_returns {
                bench.observe(&[beat(9, 1, 2 + round as u32)], now_ns);
            }
            told.extend(run(&mut bench, now_ns, now_ns + 99 * MS, &telling));
        }
        let of = |peer: u64| told.iter().filter(move |t| t.peer.0 == peer).map(|t| t.to);
        let fate: &[PeerState] = match parent_returns {
            true => &[Unreachable, Down, Forgotten],
            false => &[Unreachable, Forgotten],
        };
        for child in [1, 2] {
            assert_eq!(of(child).collect::<Vec<_>>(), fate, "{told:?}");
        }
    }
}

/// Its timeout behind a parent that has come back counts from the return, not from the last suspicion.
#[test]
fn a_parent_that_is_suspect_now_and_then_hides_no_dead_child() {
    let mut bench = family();
    run(&mut bench, START, START + 1_000 * MS, &[]);
    let back_ns = START + 5_000 * MS;
    run(&mut bench, START + 1_000 * MS, back_ns, &[]);
    let mut told = Vec::new();
    for round in 0..12u64 {
        let now_ns = back_ns + round * 250 * MS;
        bench.observe(&[beat(9, 1, 2 + round as u32)], now_ns);
        told.extend(run(&mut bench, now_ns, now_ns + 249 * MS, &[Suspect, Down]));
    }
    let suspicions = told.iter().filter(|t| t.peer.0 == 9 && t.to == Suspect).count();
    assert_eq!(suspicions, 12, "{told:?}");
    let downs: Vec<_> = told.iter().filter(|t| t.to == Down).map(|t| t.peer.0).collect();
    assert_eq!(downs, [1, 2]);
    assert!(told.iter().filter(|t| t.to == Down).all(|t| t.deadline_ns == back_ns + DOWN_NS));
}

#[test]
fn two_that_name_each_other_as_parents_do_not_wait_for_ever() {
    let mut bench = Bench::new(64, START);
    let groups = bench.shard.shared.groups.clone();
    let [one, two] = [1, 2].map(|peer| groups.parent_number(PeerId(peer)).unwrap());
    bench.observe(&beats([1, 2], 1), START);
    bench.shard.assign(PeerId(1), 0, two, START);
    bench.shard.assign(PeerId(2), 0, one, START);
    let told = run(&mut bench, START, START + 1_000 * MS, &[Down, Unreachable]);
    assert_eq!(told.iter().filter(|t| t.to == Down).count(), 1, "one of them: {told:?}");
    assert_eq!(told.len(), 2);
}
