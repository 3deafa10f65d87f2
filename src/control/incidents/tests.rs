//! Incidents against a world that is kept in plain lists, and the cases that operators will meet.

use super::*;
use crate::control::testing::{Random, seeds};
use std::collections::HashSet;

const S: u64 = 1_000_000_000;

fn failure(peer: u64, group: u16, size: u32, at_ns: u64) -> Failure {
    Failure { peer: PeerId(peer), group, size, at_ns, detection_ns: 3 * S, told: None }
}

fn down(incidents: &mut Incidents, failure: Failure) {
    incidents.down(failure);
}

fn back(incidents: &mut Incidents, peer: u64, group: u16, at_ns: u64) {
    incidents.back(PeerId(peer), group, at_ns);
}

fn steps(incidents: &mut Incidents) -> Vec<(u32, Step, u32)> {
    let told = incidents.take_told();
    told.iter().map(|t| (t.figures.id, t.step, t.figures.members())).collect()
}

#[test]
fn forty_thousand_lines_are_three() {
    let mut incidents = Incidents::default();
    for i in 0..40_000 {
        incidents.down(failure(i, 1, 40_000, 100 * S + i * 10_000));
    }
    (0..100).for_each(|i| incidents.advance(101 * S + i * S / 10, |_| 0));
    assert_eq!(steps(&mut incidents), [(1, Step::Opened, 19), (1, Step::Updated, 40_000)]);
    let incident = incidents.get(1).unwrap();
    assert_eq!((incident.first.len(), incident.first[0]), (FIRST, PeerId(0)));
    assert_eq!((incident.figures.began_ns, incident.figures.most), (100 * S, 40_000));
    (0..40_000).for_each(|i| assert_eq!(incidents.back(PeerId(i), 1, 500 * S + i), Some(1)));
    assert_eq!(steps(&mut incidents), [(1, Step::Closed, 0)]);
    assert_eq!(incidents.open_ones().len(), 0);
    assert_eq!(incidents.closed_ones().next().unwrap().figures.most, 40_000);
}

#[test]
fn a_forgotten_parent_leaves_its_name_and_its_children_are_told_anew() {
    let mut incidents = Incidents::default();
    let switch = PeerId(9);
    (1..=3).for_each(|i| _ = incidents.unreachable(PeerId(i), (switch, Some(true)), 3, 10 * S));
    incidents.advance(13 * S, |_| 0);
    assert_eq!(steps(&mut incidents), [(1, Step::Opened, 2), (1, Step::Updated, 4)]);
    incidents.forget(switch, Some("switch-1"));
    back(&mut incidents, 9, 0, 20 * S);
    assert_eq!(incidents.parent_name(1), Some("switch-1"));
    assert_eq!(incidents.get(1).unwrap().first, [1, 2, 3].map(PeerId));
    incidents.advance(23 * S, |_| 0);
    assert_eq!(steps(&mut incidents), [], "nobody is worse off yet");
    (1..=3).for_each(|i| down(&mut incidents, failure(i, 0, 3, 30 * S)));
    let figures = incidents.get(1).unwrap().figures;
    assert_eq!((figures.down, figures.unreachable, figures.most), (3, 0, 4));
    incidents.advance(31 * S, |_| 0);
    assert_eq!(steps(&mut incidents), [], "it may go on");
    (0..5).for_each(|i| incidents.advance(32 * S + i * S, |_| 0));
    assert_eq!(steps(&mut incidents), [(1, Step::Updated, 3)], "once");
    (1..=3).for_each(|i| back(&mut incidents, i, 0, 40 * S));
    assert_eq!(steps(&mut incidents), [(1, Step::Closed, 0)]);
    assert_eq!(incidents.parent_name(1), Some("switch-1"));
}

#[test]
fn two_of_two_is_one_and_one_after_the_other_is_none() {
    let mut incidents = Incidents::default();
    assert_eq!(incidents.down(failure(1, 1, 2, 10 * S)), None);
    assert_eq!(incidents.down(failure(2, 1, 2, 11 * S)), Some(1));
    assert_eq!(incidents.of(PeerId(1)), Some(1), "the first belongs to it, too");
    // Of another group, and a minute apart.
    assert_eq!(incidents.down(failure(3, 2, 2, 12 * S)), None);
    assert_eq!(incidents.down(failure(4, 2, 2, 72 * S)), None);
    // A group of one is what it is.
    assert_eq!(incidents.down(failure(5, 3, 1, 72 * S)), None);
}

#[test]
fn who_was_back_before_the_crowd_is_not_of_it() {
    let mut incidents = Incidents::default();
    incidents.down(failure(1, 1, 50, 10 * S));
    incidents.back(PeerId(1), 1, 11 * S);
    incidents.down(failure(2, 1, 50, 12 * S));
    assert_eq!(incidents.down(failure(3, 1, 50, 13 * S)), None);
    assert_eq!(incidents.down(failure(4, 1, 50, 14 * S)), Some(1));
    assert_eq!(incidents.of(PeerId(1)), None);
}

#[test]
fn a_straggler_much_later_is_no_part_of_it_but_a_second_crowd_is() {
    let mut incidents = Incidents::default();
    (0..3).for_each(|i| down(&mut incidents, failure(i, 1, 50, 10 * S)));
    assert_eq!(incidents.down(failure(3, 1, 50, 19 * S)), Some(1), "within the window");
    assert_eq!(incidents.down(failure(4, 1, 50, 60 * S)), None);
    assert_eq!(incidents.down(failure(5, 1, 50, 61 * S)), None);
    assert_eq!(incidents.down(failure(6, 1, 50, 62 * S)), Some(1));
    let told = steps(&mut incidents);
    assert_eq!(told, [(1, Step::Opened, 3), (1, Step::Updated, 7)]);
}

#[test]
fn children_belong_to_their_parents_incident() {
    let mut incidents = Incidents::default();
    let (switch, size) = (PeerId(1), 100);
    assert_eq!(incidents.down(failure(1, 9, 5, 10 * S)), None, "one switch is no crowd");
    for child in 10..50 {
        assert_eq!(
            incidents.unreachable(PeerId(child), (switch, Some(true)), size, 11 * S),
            Some(1)
        );
    }
    incidents.advance(20 * S, |_| 0);
    assert_eq!(steps(&mut incidents), [(1, Step::Opened, 2), (1, Step::Updated, 41)]);
    let figures = incidents.get(1).unwrap().figures;
    assert_eq!((figures.cause, figures.down, figures.unreachable), (Cause::Parent(switch), 1, 40));
    assert_eq!(incidents.get(1).unwrap().first[0], switch);
    // The parent is back; one child stays silent and is now down by itself, of the same failure.
    incidents.back(switch, 9, 30 * S);
    (10..49).for_each(|child| back(&mut incidents, child, 2, 31 * S));
    assert_eq!(incidents.down(failure(49, 2, 100, 32 * S)), Some(1));
    let figures = incidents.get(1).unwrap().figures;
    assert_eq!((figures.down, figures.unreachable), (1, 0));
    incidents.back(PeerId(49), 2, 40 * S);
    assert_eq!(steps(&mut incidents), [(1, Step::Closed, 0)]);
}

#[test]
fn children_that_were_found_before_their_parent_move_to_its_incident() {
    let mut incidents = Incidents::default();
    for child in 10..15 {
        incidents.down(failure(child, 1, 5, 10 * S));
    }
    assert_eq!(steps(&mut incidents), [(1, Step::Opened, 3)]);
    assert_eq!(incidents.down(failure(1, 9, 50, 14 * S)), None);
    for child in 10..15 {
        assert_eq!(
            incidents.unreachable(PeerId(child), (PeerId(1), Some(true)), 5, 15 * S),
            Some(2)
        );
    }
    let told = steps(&mut incidents);
    assert_eq!(told, [(2, Step::Opened, 2), (1, Step::Closed, 0)]);
    let figures = incidents.get(2).unwrap().figures;
    assert_eq!(
        (figures.cause, figures.down, figures.unreachable),
        (Cause::Parent(PeerId(1)), 1, 5)
    );
    // They are no beginning of a crowd either.
    assert_eq!(incidents.down(failure(20, 1, 5, 16 * S)), None);
}

#[test]
fn children_of_a_parent_that_failed_with_its_group_join_that() {
    let mut incidents = Incidents::default();
    (0..3).for_each(|i| down(&mut incidents, failure(i, 9, 5, 10 * S)));
    assert_eq!(incidents.unreachable(PeerId(10), (PeerId(1), Some(true)), 50, 11 * S), Some(1));
    assert_eq!(incidents.open_ones().len(), 1);
}

#[test]
fn a_mass_silence_is_one_incident_to_its_end() {
    let mut incidents = Incidents::default();
    let held = |incidents: &mut Incidents, held: bool, silent, at_ns| {
        let hold_ns = held.then_some(60 * S);
        let scope = Scope::Fleet;
        incidents.mass_silence(MassSilence { scope, hold_ns, silent, living: 1_000, at_ns })
    };
    assert_eq!(held(&mut incidents, true, 600, 10 * S), Some(1));
    assert_eq!(held(&mut incidents, false, 600, 20 * S), Some(1));
    // Let go, and called down: of several groups, all of the one incident.
    (0..600).for_each(|i| {
        assert_eq!(incidents.down(failure(i, i as u16 % 7, 90, 20 * S + i)), Some(1));
    });
    incidents.advance(25 * S, |_| 0);
    incidents.advance(40 * S, |_| 0);
    assert_eq!(incidents.open_ones().len(), 1);
    assert_eq!(incidents.down(failure(900, 1, 90, 60 * S)), None, "too late to be of it");
    (0..600).for_each(|i| back(&mut incidents, i, i as u16 % 7, 70 * S));
    let told = steps(&mut incidents);
    let (id, step, members) = told[told.len() - 1];
    assert_eq!((id, step, members), (1, Step::Closed, 0));
    assert_eq!(told.iter().filter(|t| t.1 == Step::Opened).count(), 1);

    // And one that ends well closes by the time alone.
    assert_eq!(held(&mut incidents, true, 600, 100 * S), Some(2));
    assert_eq!(held(&mut incidents, false, 3, 110 * S), Some(2));
    incidents.advance(119 * S, |_| 0);
    assert!(incidents.get(2).is_some_and(|i| i.figures.closed_ns == 0));
    incidents.advance(121 * S, |_| 0);
    assert!(incidents.get(2).is_some_and(|i| i.figures.closed_ns == 121 * S));
    assert_eq!(held(&mut incidents, false, 0, 130 * S), None, "a release of nothing");

    // And one whose hold runs out, unreleased.
    assert_eq!(held(&mut incidents, true, 600, 200 * S), Some(3));
    let group = MassSilence {
        scope: Scope::Group(4),
        hold_ns: Some(60 * S),
        silent: 100,
        living: 100,
        at_ns: 201 * S,
    };
    assert_eq!(incidents.mass_silence(group), None, "the fleet's says it all");
    incidents.advance(259 * S, |_| 580);
    assert_eq!(incidents.get(3).unwrap().figures.held, 580, "some have left");
    incidents.advance(260 * S, |_| 0);
    assert_eq!(incidents.get(3).unwrap().figures.held, 0);
    assert_eq!(incidents.down(failure(1, 4, 90, 260 * S)), Some(3));
}

#[test]
fn the_fleets_mass_silence_takes_those_of_its_groups_in() {
    let mut incidents = Incidents::default();
    let hold = |incidents: &mut Incidents, scope, silent, at_ns| {
        let hold_ns = Some(60 * S);
        incidents.mass_silence(MassSilence { scope, hold_ns, silent, living: 500, at_ns })
    };
    assert_eq!(hold(&mut incidents, Scope::Group(1), 100, 10 * S), Some(1));
    assert_eq!(hold(&mut incidents, Scope::Group(2), 100, 10 * S), Some(2));
    assert_eq!(incidents.down(failure(7, 1, 100, 11 * S)), Some(1));
    assert_eq!(hold(&mut incidents, Scope::Fleet, 300, 12 * S), Some(3));
    assert_eq!(hold(&mut incidents, Scope::Group(3), 100, 12 * S), None);
    let open: Vec<_> = incidents.open_ones().map(|i| i.figures).collect();
    assert_eq!((open.len(), open[0].id, open[0].down, open[0].held), (1, 3, 1, 300));
    assert_eq!(incidents.of(PeerId(7)), Some(3));
    let told = incidents.take_told();
    let closed = told.iter().filter(|t| t.step == Step::Closed);
    let closed: Vec<_> = closed.map(|t| (t.figures.id, t.figures.part_of)).collect();
    assert_eq!(closed, [(1, 3), (2, 3)]);
    back(&mut incidents, 7, 1, 13 * S);
    assert_eq!(incidents.get(3).unwrap().figures.down, 0);
}

/// The fleet is let go, and one of three groups that were held with it is held on.
#[test]
fn a_group_that_is_held_beyond_the_fleet_is_told() {
    for by_time in [false, true] {
        let mut incidents = Incidents::default();
        let hold = |incidents: &mut Incidents, scope, hold_s: Option<u64>, at_ns| {
            let hold_ns = hold_s.map(|s| s * S);
            incidents.mass_silence(MassSilence { scope, hold_ns, silent: 90, living: 100, at_ns })
        };
        assert_eq!(hold(&mut incidents, Scope::Group(1), Some(60), 9 * S), Some(1));
        assert_eq!(hold(&mut incidents, Scope::Fleet, Some(30), 10 * S), Some(2));
        assert_eq!(hold(&mut incidents, Scope::Group(2), Some(60), 11 * S), None);
        assert_eq!(hold(&mut incidents, Scope::Group(3), Some(30), 11 * S), None);
        assert_eq!(hold(&mut incidents, Scope::Group(2), None, 20 * S), None, "let go with them");
        let mut incidents = incidents.resume(0);
        let over_ns = if by_time { 40 * S } else { 35 * S };
        match by_time {
            true => incidents.advance(over_ns, |_| 70),
            false => _ = hold(&mut incidents, Scope::Fleet, None, over_ns),
        }
        let held: HashSet<_> = incidents.holds().map(|(scope, _)| scope).collect();
        assert_eq!(held, HashSet::from([Scope::Group(1), Scope::Group(3)]));
        let suspect = |scope| if scope == Scope::Group(1) { 70 } else { 0 };
        incidents.advance(over_ns + 10 * S, suspect);
        assert_eq!(incidents.open_ones().len(), 1, "it may still go with the fleet's");
        // Whose hold ends with that of the fleet, or soon after, was part of it.
        assert_eq!(incidents.down(failure(8, 3, 100, over_ns + 6 * S)), Some(2));
        incidents.advance(over_ns + 11 * S, suspect);
        let open: Vec<_> =
            incidents.open_ones().map(|i| (i.figures.cause, i.figures.held)).collect();
        let expected = [(Scope::Fleet, 0), (Scope::Group(1), 70)];
        assert_eq!(open, expected.map(|(scope, held)| (Cause::MassSilence(scope), held)));
        assert_eq!(incidents.down(failure(7, 1, 100, over_ns + 20 * S)), Some(3));
    }
}

/// As when heartbeats return to a fleet that is one group: the releases come one after the other.
#[test]
fn a_group_that_is_let_go_right_behind_the_fleet_is_not_told() {
    let mut incidents = Incidents::default();
    let hold = |incidents: &mut Incidents, scope, held: bool, at_ns| {
        let hold_ns = held.then_some(120 * S);
        incidents.mass_silence(MassSilence { scope, hold_ns, silent: 150, living: 150, at_ns })
    };
    assert_eq!(hold(&mut incidents, Scope::Fleet, true, 10 * S), Some(1));
    assert_eq!(hold(&mut incidents, Scope::Group(1), true, 10 * S), None);
    assert_eq!(hold(&mut incidents, Scope::Fleet, false, 20 * S), Some(1));
    incidents.advance(20 * S, |_| 70);
    assert_eq!(hold(&mut incidents, Scope::Group(1), false, 20 * S), None);
    incidents.advance(31 * S, |_| 0);
    let told = incidents.take_told();
    let told: Vec<_> = told.iter().map(|t| (t.figures.id, t.step)).collect();
    assert_eq!(told, [(1, Step::Opened), (1, Step::Updated), (1, Step::Closed)]);
}

#[test]
fn the_most_that_were_held_is_never_less_than_who_is() {
    let mut incidents = Incidents::default();
    let hold_ns = Some(60 * S);
    let scope = Scope::Fleet;
    incidents.mass_silence(MassSilence {
        scope,
        hold_ns,
        silent: 1_529,
        living: 2_000,
        at_ns: 10 * S,
    });
    let mut figures = |at_ns, suspect| {
        incidents.advance(at_ns, |_| suspect);
        let figures = incidents.get(1).unwrap().figures;
        (figures.held, figures.most)
    };
    assert_eq!(figures(11 * S, 2_000), (2_000, 2_000));
    assert_eq!(figures(12 * S, 1_100), (1_100, 2_000));
}

#[test]
fn what_has_no_room_is_counted_and_memory_stays_bounded() {
    let mut incidents = Incidents::default();
    for group in 0..MOST_OPEN as u16 + 5 {
        for i in 0..300 {
            incidents.down(failure(u64::from(group) * 1_000 + i, group, 2, 10 * S));
        }
    }
    assert_eq!(incidents.open_ones().len(), MOST_OPEN);
    assert!(incidents.refused() > 0);
    assert!(incidents.recent.values().all(|downs| downs.len() <= MOST_THRESHOLD as usize));
    incidents.advance(10 * S + KEPT_NS, |_| 0);
    assert!(incidents.recent.is_empty());
    for id in 1..=MOST_OPEN as u32 {
        let members: Vec<PeerId> =
            incidents.members.iter().filter(|(_, m)| m.incident == id).map(|(p, _)| *p).collect();
        members.iter().for_each(|peer| back(&mut incidents, peer.0, 0, 20 * S));
        if id > 300 {
            break;
        }
    }
    assert_eq!(incidents.closed_ones().len(), MOST_CLOSED);
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Is {
    Up,
    Down(u64),
    Unreachable,
}

/// A world in lists: who is what, and since when.
#[test]
fn it_agrees_with_a_world_of_plain_lists() {
    const PEERS: u64 = 60;
    for seed in seeds() {
        let mut random = Random::new(seed);
        let mut incidents = Incidents::default();
        let mut is = [Is::Up; PEERS as usize];
        // Downs of whoever belongs to no incident: what a crowd is made of.
        let mut single: Vec<(u64, u16, PeerId)> = Vec::new();
        let (mut now_ns, mut opened, mut closed) = (1_000 * S, 0, 0);
        // Groups of 20 by number; the first of each is the parent of its last five.
        let group = |peer: u64| (peer / 20) as u16;
        for step in 0..3_000 {
            let context = format!("seed {seed} step {step}");
            now_ns += random.below(3) * S;
            let peer = random.below(PEERS);
            let id = PeerId(peer);
            let before = is[peer as usize];
            match random.below(if step % 400 < 200 { 3 } else { 6 }) {
                0 if before == Is::Up => {
                    is[peer as usize] = Is::Down(now_ns);
                    single.push((now_ns, group(peer), id));
                    single.retain(|(then, ..)| then + WINDOW_NS >= now_ns);
                    let crowd = single.iter().filter(|(_, g, _)| *g == group(peer)).count();
                    let had = incidents.open_ones().any(|i| {
                        i.figures.cause == Cause::Group(group(peer))
                            && now_ns - i.figures.grew_ns <= WINDOW_NS
                    });
                    let missed =
                        incidents.open_ones().any(|i| i.figures.cause == Cause::Parent(id));
                    let joined = incidents.down(failure(peer, group(peer), 20, now_ns));
                    assert_eq!(joined.is_some(), missed || had || crowd >= 3, "{context}");
                    single.retain(|(.., peer)| incidents.of(*peer).is_none());
                }
                1 if before == Is::Up && peer % 20 >= 15 => {
                    let parent = PeerId(peer / 20 * 20);
                    if !matches!(is[parent.0 as usize], Is::Down(_)) {
                        continue;
                    }
                    is[peer as usize] = Is::Unreachable;
                    let joined = incidents.unreachable(id, (parent, Some(true)), 20, now_ns);
                    assert!(joined.is_some(), "{context}");
                    assert_eq!(joined, incidents.of(parent), "{context}");
                    single.retain(|(.., peer)| incidents.of(*peer).is_none());
                }
                2 if before == Is::Unreachable => {
                    is[peer as usize] = Is::Down(now_ns);
                    let was = incidents.of(id);
                    assert!(was.is_some(), "{context}");
                    assert_eq!(incidents.down(failure(peer, group(peer), 20, now_ns)), was);
                }
                3.. if before != Is::Up => {
                    is[peer as usize] = Is::Up;
                    single.retain(|(.., peer)| *peer != id);
                    let was = incidents.of(id);
                    assert_eq!(incidents.back(id, group(peer), now_ns), was, "{context}");
                }
                _ => incidents.advance(now_ns, |_| 600),
            }
            for told in incidents.take_told() {
                opened += u32::from(told.step == Step::Opened);
                closed += u32::from(told.step == Step::Closed);
                assert!(told.figures.most >= told.figures.members(), "{context}");
            }
            assert_eq!((opened - closed) as usize, incidents.open_ones().len(), "{context}");
            for incident in incidents.open_ones() {
                let figures = incident.figures;
                let of_it = |peer: &u64| incidents.of(PeerId(*peer)) == Some(figures.id);
                let count = |what: fn(Is) -> bool| {
                    (0..PEERS).filter(of_it).filter(|p| what(is[*p as usize])).count() as u32
                };
                assert_eq!(figures.down, count(|is| matches!(is, Is::Down(_))), "{context}");
                assert_eq!(figures.unreachable, count(|is| is == Is::Unreachable), "{context}");
                assert!(figures.members() > 0, "{context}: an empty one is open");
            }
            let up = (0..PEERS).filter(|peer| is[*peer as usize] == Is::Up);
            assert!(up.into_iter().all(|peer| incidents.of(PeerId(peer)).is_none()), "{context}");
        }
        assert!(opened > 10, "seed {seed}: the test has to meet some, not {opened}");
    }
}
