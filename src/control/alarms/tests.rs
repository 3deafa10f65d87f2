//! The alarms where they meet: a publisher, a survey and profiles, with fabricated reactors.

use super::*;
use crate::api;
use crate::clock;
use crate::control::expect::{Expectation, Expected};
use crate::control::groups::Rule;
use crate::control::peers::Filter;
use crate::control::testing::{FakeMonitor, config, profile, transition};
use crate::control::{ControlConfig, present};
use crate::engine::brake::BrakeSettings;
use crate::engine::groups::{Groups, Scope};
use crate::engine::transition::Reason;
use crate::engine::{Policy, slot::SlotData};
use crate::reactor::Report;
use std::collections::HashMap;
use std::sync::Arc;
use wildmatch::WildMatch;

fn fleet(config: ControlConfig) -> FakeMonitor {
    let mut monitor = FakeMonitor::with_config(config, 2, 1_000);
    for i in 0..40 {
        monitor.add(&format!("web-{i}"), "web", &[("rack", "r7")], PeerState::Up);
    }
    monitor.add("switch-1", "net", &[], PeerState::Up);
    monitor.publish();
    monitor.obey();
    monitor.survey();
    monitor
}

fn web(i: u32) -> PeerId {
    PeerId::of(&format!("web-{i}"))
}

/// Everything in the logs, transitions as `peer: state marks`, notes as what they are, in order.
fn told(monitor: &FakeMonitor) -> Vec<String> {
    let chunk = monitor.state.events.read(0, usize::MAX);
    let (notes, _) = monitor.state.notes.read(Default::default(), usize::MAX);
    let config = &monitor.state.config;
    let mut told: Vec<(u64, String)> = Vec::new();
    for (seq, entry) in chunk.numbered() {
        let event = present::event(config, seq, entry);
        let mut text = format!("{}: {}", event.peer, event.to);
        let incident = event.incident.map(|id| format!(" #{id}"));
        text.push_str(&incident.unwrap_or_default());
        text.push_str(if event.silenced { " silenced" } else { "" });
        text.push_str(if event.flapping { " flapping" } else { "" });
        told.push((seq, text));
    }
    for entry in &notes {
        let text = match present::note(config, entry) {
            api::Note::Incident(note) => {
                let api::Incident { id, kind, group, parent, .. } = note.incident;
                let of = parent.unwrap_or(group);
                format!("{} #{id} {kind} {of}", note.step)
            }
            api::Note::Flapping(note) => format!("{} flaps: {}", note.peer, note.began),
            api::Note::Conflict(note) => format!("{} conflicts: {}", note.peer, note.began),
            api::Note::Blind(note) => format!("blind for {}", note.for_ns),
            api::Note::Missing(note) => {
                let api::Expected { peer, group, known, missing, .. } = note.expected;
                format!("missing {peer}{group} {known} {missing}")
            }
        };
        told.push((entry.place.seq, text));
    }
    // Stable: a note stands behind the transition whose number it has.
    told.sort_by_key(|(seq, _)| *seq);
    told.into_iter().map(|(_, text)| text).collect()
}

fn slot(monitor: &FakeMonitor, peer: PeerId) -> SlotData {
    monitor.state.slot_of(peer).unwrap()
}

#[test]
fn a_group_that_goes_down_is_one_incident_with_its_members() {
    let mut monitor = fleet(config());
    for i in 0..5 {
        monitor.report_transition(web(i), PeerState::Suspect, PeerState::Down);
        monitor.publish();
    }
    for i in 0..5 {
        monitor.report_transition(web(i), PeerState::Down, PeerState::Up);
        monitor.publish();
    }
    assert_eq!(
        told(&monitor),
        [
            "web-0: down",
            "web-1: down",
            "web-2: down #1",
            "opened #1 group web",
            "web-3: down #1",
            "web-4: down #1",
            "web-0: up #1",
            "web-1: up #1",
            "web-2: up #1",
            "web-3: up #1",
            "web-4: up #1",
            "closed #1 group web",
        ]
    );
    let closed = monitor.state.incidents(true).closed;
    assert_eq!((closed[0].most, closed[0].size, closed[0].first.len()), (5, 40, 5));
    assert_eq!(monitor.state.summary().alarms.incidents, 0);
}

#[test]
fn children_are_of_their_parents_incident_and_listed_by_it() {
    let rule = Rule {
        pattern: WildMatch::new("web"),
        policy: 0,
        brake: BrakeSettings::OFF,
        parent: Some("switch-1".into()),
    };
    let mut monitor = fleet(ControlConfig { rules: vec![rule], ..config() });
    let switch = PeerId::of("switch-1");
    monitor.add("late", "", &[("parent", "switch-1")], PeerState::Unreachable);
    monitor.publish();
    monitor.obey();
    assert_eq!(monitor.state.children(switch), (41, 1));
    assert_eq!(monitor.state.children(web(1)), (0, 0));
    monitor.report_transition(switch, PeerState::Suspect, PeerState::Down);
    for i in 0..4 {
        monitor.report(web(i), {
            let t = transition(web(i), PeerState::Suspect, PeerState::Unreachable);
            Report::Transition(Transition { reason: Reason::Parent, ..t })
        });
    }
    monitor.publish();
    let incidents = monitor.state.incidents(false);
    let [incident] = &incidents.open[..] else { panic!("{incidents:?}") };
    assert_eq!((incident.kind.as_str(), incident.parent.as_deref()), ("parent", Some("switch-1")));
    assert_eq!((incident.down, incident.unreachable), (1, 4));
    let filter = Filter { incident: Some(incident.id), ..Filter::default() };
    let listed = monitor.state.page(&filter, Default::default(), 100).peers;
    assert_eq!(listed.len(), 5);
    let detail = monitor.state.detail(&monitor.state.find("web-1").unwrap());
    assert_eq!(detail.parent.map(|parent| parent.name).as_deref(), Some("switch-1"));
    assert_eq!(detail.incident, Some(incident.id));

    // Forgotten, it leaves its name to its incident, and to what is told of that later.
    monitor.report_transition(switch, PeerState::Down, PeerState::Forgotten);
    monitor.publish();
    let incident = &monitor.state.incidents(false).open[0];
    assert_eq!((incident.parent.as_deref(), incident.unreachable), (Some("switch-1"), 4));
    assert_eq!(incident.first, ["web-0", "web-1", "web-2", "web-3"]);
    for i in 0..4 {
        monitor.report_transition(web(i), PeerState::Unreachable, PeerState::Up);
    }
    monitor.publish();
    assert_eq!(told(&monitor).last().map(String::as_str), Some("closed #1 parent switch-1"));
}

#[test]
fn planned_work_maintenance_and_flapping_raise_no_incident() {
    let mut monitor = fleet(config());
    let new = |selector: &str| api::NewSilence {
        selector: selector.into(),
        for_ns: 3_600_000_000_000,
        reason: "kernel".into(),
    };
    let added = monitor.state.silence(new("group=web,rack=r7")).unwrap();
    for i in 0..10 {
        monitor.report_transition(web(i), PeerState::Suspect, PeerState::Down);
    }
    monitor.publish();
    assert!(told(&monitor).iter().all(|line| line.ends_with(": down silenced")));
    let detail = monitor.state.detail(&monitor.state.find("web-1").unwrap());
    assert_eq!(detail.silence.map(|silence| silence.reason).as_deref(), Some("kernel"));
    let ended = monitor.state.end_silence(added.id).unwrap();
    assert_eq!(ended.map(|silence| silence.id), Some(added.id));
    assert!(monitor.state.silences().silences.is_empty());

    for i in 10..20 {
        let t = transition(web(i), PeerState::Suspect, PeerState::Down);
        let status = Status::Maintenance;
        monitor.report(web(i), Report::Transition(Transition { status, ..t }));
    }
    for round in 0..8 {
        let (from, to) = match round % 2 {
            0 => (PeerState::Suspect, PeerState::Down),
            _ => (PeerState::Down, PeerState::Up),
        };
        monitor.report_transition(web(20), from, to);
        monitor.publish();
    }
    // Those that have come to flap are no crowd, either.
    assert!(told(&monitor).contains(&"web-20: down flapping".to_owned()));
    let told = told(&monitor);
    assert!(!told.iter().any(|line| line.contains('#')), "{told:#?}");
    assert_eq!(told.iter().filter(|line| *line == "web-20 flaps: true").count(), 1);
    assert_eq!(monitor.state.summary().alarms.flapping, 1);
    let listed = |flapping| {
        let filter = Filter { flapping: Some(flapping), ..Filter::default() };
        monitor.state.page(&filter, Default::default(), 100).peers
    };
    assert!(matches!(&listed(true)[..], [one] if one.name == "web-20" && one.flapping));
    assert_eq!(listed(false).len(), 40);
    assert!(listed(false).iter().all(|peer| !peer.flapping));
}

#[test]
fn the_reactors_know_who_is_silenced_from_its_beginning_to_its_end() {
    let mut monitor = fleet(config());
    let new = |selector: &str| api::NewSilence {
        selector: selector.into(),
        for_ns: 3_600_000_000_000,
        reason: String::new(),
    };
    let settle = |monitor: &mut FakeMonitor| {
        for _ in 0..4 {
            monitor.publish();
            monitor.obey();
        }
        let all = (0..40).filter(|i| slot(monitor, web(*i)).silenced).count();
        (all, slot(monitor, PeerId::of("switch-1")).silenced)
    };
    let group = monitor.state.silence(new("group=web")).unwrap();
    assert_eq!(settle(&mut monitor), (40, false));
    // Who moves out of the group is no more under it, and who comes new is.
    let moved = profile("web-1", "canary", &[]);
    monitor.report(web(1), Report::Profile { peer: web(1), profile: moved });
    monitor.add("web-40", "web", &[], PeerState::Up);
    assert_eq!(settle(&mut monitor), (39, false));
    assert!(slot(&monitor, web(40)).silenced);
    let one = monitor.state.silence(new("web-7")).unwrap();
    monitor.state.end_silence(group.id).unwrap();
    assert_eq!(settle(&mut monitor), (1, false));
    assert!(slot(&monitor, web(7)).silenced);
    let filter = Filter { silenced: Some(true), ..Filter::default() };
    let listed = monitor.state.page(&filter, Default::default(), 100).peers;
    assert!(matches!(&listed[..], [one] if one.name == "web-7" && one.silenced));
    monitor.state.end_silence(one.id).unwrap();
    assert_eq!(settle(&mut monitor), (0, false));
}

#[test]
fn a_silence_that_is_over_tells_who_is_still_down() {
    let mut monitor = fleet(config());
    let new = |selector: &str| api::NewSilence {
        selector: selector.into(),
        for_ns: 1 << 40,
        reason: String::new(),
    };
    let settle = |monitor: &mut FakeMonitor| {
        for _ in 0..4 {
            monitor.publish();
            monitor.obey();
        }
    };
    let (all, one) = (new("group=web"), new("web-1"));
    let [all, one] = [all, one].map(|new| monitor.state.silence(new).unwrap());
    settle(&mut monitor);
    let become_down = |monitor: &mut FakeMonitor, i: u32, status: Status| {
        let table = &mut monitor.owner(web(i)).table;
        let index = table.find(web(i)).unwrap();
        let mut write = table.slot(index).write();
        write.set_state(PeerState::Down);
        write.set_status(status);
    };
    (0..3).for_each(|i| become_down(&mut monitor, i, Status::Ok));
    become_down(&mut monitor, 3, Status::Maintenance);
    monitor.state.end_silence(all.id).unwrap();
    settle(&mut monitor);
    // Once, and neither who is in maintenance nor who is under another silence.
    assert_eq!(told(&monitor), ["opened #1 still_down web"]);
    let incident = |monitor: &FakeMonitor| monitor.state.incidents(true).open[0].clone();
    let named = |incident: &api::Incident| {
        let mut names = incident.first.clone();
        names.sort();
        (incident.down, names)
    };
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(named(&incident(&monitor)), (2, names(&["web-0", "web-2"])));
    assert_eq!(incident(&monitor).size, 40);
    // The next one's join it; and when all are back it is closed.
    monitor.state.end_silence(one.id).unwrap();
    settle(&mut monitor);
    assert_eq!(named(&incident(&monitor)), (3, names(&["web-0", "web-1", "web-2"])));
    for i in 0..3 {
        monitor.report_transition(web(i), PeerState::Down, PeerState::Up);
        monitor.publish();
    }
    let told = told(&monitor);
    assert_eq!(told.last().map(String::as_str), Some("closed #1 still_down web"), "{told:#?}");
}

#[test]
fn a_child_that_is_silenced_no_more_belongs_to_its_parents_incident() {
    let mut monitor = fleet(config());
    let child = PeerId::of("child");
    monitor.add("child", "web", &[("parent", "switch-1")], PeerState::Unreachable);
    monitor.publish();
    monitor.obey();
    let new = api::NewSilence { selector: "child".into(), for_ns: 1 << 40, reason: String::new() };
    let silence = monitor.state.silence(new).unwrap();
    for _ in 0..4 {
        monitor.publish();
        monitor.obey();
    }
    assert!(slot(&monitor, child).silenced);
    monitor.state.end_silence(silence.id).unwrap();
    monitor.publish();
    assert_eq!(told(&monitor), ["opened #1 parent switch-1"]);
}

#[test]
fn a_silenced_switch_keeps_its_children_out_of_incidents() {
    let mut monitor = fleet(config());
    let child = PeerId::of("child");
    monitor.add_unnamed(child, PeerState::Up);
    let told_profile = profile("child", "web", &[("parent", "switch-1")]);
    monitor.report(child, Report::Profile { peer: child, profile: told_profile });
    monitor.publish();
    let new =
        api::NewSilence { selector: "switch-1".into(), for_ns: 1 << 40, reason: String::new() };
    monitor.state.silence(new).unwrap();
    monitor.report_transition(child, PeerState::Suspect, PeerState::Unreachable);
    monitor.publish();
    assert_eq!(told(&monitor), ["child: unreachable"]);
}

/// In the table, without a report of it.
fn become_silently(monitor: &mut FakeMonitor, peer: PeerId, to: PeerState) {
    let table = &mut monitor.owner(peer).table;
    let index = table.find(peer).unwrap();
    table.slot(index).write().set_state(to);
}

fn becomes(monitor: &mut FakeMonitor, peer: PeerId, from: PeerState, to: PeerState) {
    become_silently(monitor, peer, to);
    monitor.report_transition(peer, from, to);
    monitor.publish();
}

/// A host behind a switch behind a core.
fn chain(monitor: &mut FakeMonitor) -> [PeerId; 3] {
    monitor.add("core", "net", &[], PeerState::Up);
    monitor.add("edge", "net", &[("parent", "core")], PeerState::Up);
    monitor.add("host", "web", &[("parent", "edge")], PeerState::Up);
    ["core", "edge", "host"].map(PeerId::of)
}

#[test]
fn a_silenced_core_keeps_all_behind_it_quiet_and_alarms_with_them_when_it_is_over() {
    let mut monitor = fleet(config());
    let [core, edge, host] = chain(&mut monitor);
    let new = api::NewSilence { selector: "core".into(), for_ns: 1 << 40, reason: String::new() };
    let silence = monitor.state.silence(new).unwrap();
    for (peer, to) in
        [(core, PeerState::Down), (edge, PeerState::Unreachable), (host, PeerState::Unreachable)]
    {
        becomes(&mut monitor, peer, PeerState::Suspect, to);
    }
    assert!(monitor.state.incidents(true).open.is_empty(), "{:#?}", told(&monitor));
    for _ in 0..4 {
        monitor.publish();
        monitor.obey();
    }
    monitor.state.end_silence(silence.id).unwrap();
    for _ in 0..4 {
        monitor.publish();
        monitor.obey();
    }
    let open = monitor.state.incidents(true).open;
    let figures: Vec<_> = open.iter().map(|one| (one.down, one.unreachable)).collect();
    assert_eq!(figures, [(1, 2)], "{:#?}", told(&monitor));
}

/// Three generations, judged in any order, at once or one by one.
#[test]
fn who_is_unreachable_is_of_the_incident_of_who_is_down_above_it() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (order, at_once) in orders.into_iter().flat_map(|order| [(order, 3), (order, 1)]) {
        let mut monitor = fleet(config());
        let [core, edge, host] = chain(&mut monitor);
        for (peer, state) in [
            (core, PeerState::Down),
            (edge, PeerState::Unreachable),
            (host, PeerState::Unreachable),
        ] {
            become_silently(&mut monitor, peer, state);
        }
        monitor.publish();
        monitor.obey();
        let all = order.map(|i| slot(&monitor, [core, edge, host][i]));
        let around = monitor.state.surroundings();
        let now_ns = clock::monotonic_ns();
        for some in all.chunks(at_once) {
            monitor.state.alarms().unquiet(some, now_ns, &around);
        }
        let open = monitor.state.incidents(true).open;
        let figures: Vec<_> = open.iter().map(|one| (one.down, one.unreachable)).collect();
        assert_eq!(figures, [(1, 2)], "{order:?}, {at_once} at once");
        assert!(open[0].size >= 3, "three of {}", open[0].size);
    }
}

#[test]
fn the_size_of_a_group_is_known_before_the_first_survey() {
    let mut monitor = FakeMonitor::with_config(config(), 2, 1_000);
    for i in 0..40 {
        let state = if i < 3 { PeerState::Down } else { PeerState::Up };
        monitor.add(&format!("web-{i}"), "web", &[], state);
    }
    monitor.publish();
    monitor.obey();
    let down = [0, 1, 2].map(|i| slot(&monitor, web(i)));
    let around = monitor.state.surroundings();
    monitor.state.alarms().unquiet(&down, clock::monotonic_ns(), &around);
    let open = monitor.state.incidents(true).open;
    assert_eq!((open[0].down, open[0].size), (3, 40));
}

#[test]
fn who_ceases_to_flap_while_it_is_down_alarms_then_with_all_behind_it() {
    let mut monitor = fleet(config());
    let [core, edge, host] = chain(&mut monitor);
    for round in 0..9 {
        let (from, to) = match round % 2 {
            0 => (PeerState::Suspect, PeerState::Down),
            _ => (PeerState::Down, PeerState::Up),
        };
        becomes(&mut monitor, core, from, to);
    }
    becomes(&mut monitor, edge, PeerState::Suspect, PeerState::Unreachable);
    becomes(&mut monitor, host, PeerState::Suspect, PeerState::Unreachable);
    let opened =
        |monitor: &FakeMonitor| told(monitor).iter().any(|line| line.starts_with("opened"));
    let flapped_before = told(&monitor).iter().filter(|line| line.starts_with("opened")).count();
    assert_eq!(flapped_before, 0, "it flapped before its children were late");
    assert!(!opened(&monitor));
    let now_ns = crate::clock::monotonic_ns();
    let around = monitor.state.surroundings();
    let ceased = (1..60)
        .any(|minute| monitor.state.alarms().advance(now_ns + minute * 60_000_000_000, &around));
    assert!(ceased, "somebody who is down has ceased to flap");
    let open = monitor.state.incidents(true).open;
    assert_eq!((open[0].kind.as_str(), open[0].down), ("still_down", 1));
    // The publisher goes through all then; so do we.
    let all = [edge, host].map(|peer| slot(&monitor, peer));
    monitor.state.alarms().unquiet(&all, now_ns, &around);
    let open = monitor.state.incidents(true).open;
    let figures: Vec<_> = open.iter().map(|one| (one.down, one.unreachable)).collect();
    assert_eq!(figures, [(1, 2)]);
}

#[test]
fn a_mass_silence_is_an_incident_and_what_follows_belongs_to_it() {
    let mut monitor = fleet(config());
    let now_ns = crate::clock::monotonic_ns();
    let silence = |held| Notice::MassSilence {
        scope: Scope::Fleet,
        held,
        at_ns: now_ns,
        silent: 30,
        living: 41,
    };
    monitor.report(web(0), Report::Notice(silence(true)));
    monitor.publish();
    assert_eq!(monitor.state.summary().alarms.incidents, 1);
    monitor.report(web(0), Report::Notice(silence(false)));
    for i in 0..3 {
        monitor.report_transition(web(i), PeerState::Suspect, PeerState::Down);
    }
    monitor.publish();
    let expected = [
        "opened #1 mass_silence ",
        "updated #1 mass_silence ",
        "web-0: down #1",
        "web-1: down #1",
        "web-2: down #1",
    ];
    let mut told = told(&monitor);
    told.sort_by_key(|line| line.contains(": down"));
    assert_eq!(told, expected);
}

#[test]
fn long_blindness_is_told_short_blindness_is_not() {
    let mut monitor = fleet(config());
    let blind = |for_ns: u64| Notice::Blind { from_ns: 5_000, to_ns: 5_000 + for_ns, deaf: false };
    for notice in [blind(20_000_000), blind(2_000_000_000)] {
        monitor.report(web(1), Report::Notice(notice));
    }
    monitor.publish();
    assert_eq!(told(&monitor), ["blind for 2000000000"]);
}

#[test]
fn a_conflict_is_told_when_it_begins_and_when_it_ends_and_shown_in_between() {
    let mut monitor = fleet(config());
    let now_ns = clock::monotonic_ns();
    let mut find = |i: u32, incarnations| {
        let (peer, at_ns) = (web(i), now_ns);
        let conflict = Notice::Conflict { peer, at_ns, incarnations, interval_ns: 1 };
        monitor.report(peer, Report::Notice(conflict));
    };
    find(1, [9, 9]);
    find(1, [9, 7]);
    find(2, [5, 4]);
    monitor.publish();
    assert_eq!(told(&monitor), ["web-1 conflicts: true", "web-2 conflicts: true"]);
    assert_eq!(monitor.state.summary().alarms.in_conflict, 2);
    let state = monitor.state.clone();
    let of = |i: u32| state.detail(&state.find(&format!("web-{i}")).unwrap()).conflict;
    let shown = of(1).unwrap();
    assert_eq!((shown.incarnations, shown.began == shown.seen), (vec![9, 9, 7], true));
    assert_eq!(of(3), None);
    let listed = monitor.state.incidents(false).conflicts;
    let listed: HashMap<_, _> =
        listed.into_iter().map(|one| (one.peer, one.conflict.incarnations)).collect();
    let expected = [("web-1", vec![9, 9, 7]), ("web-2", vec![5, 4])];
    assert_eq!(listed, expected.map(|(peer, all)| (peer.to_owned(), all)).into());

    monitor.report_transition(web(2), PeerState::Down, PeerState::Forgotten);
    monitor.publish();
    let ended = told(&monitor).into_iter().filter(|line| line.ends_with("conflicts: false"));
    assert_eq!(ended.collect::<Vec<_>>(), ["web-2 conflicts: false"]);
    assert_eq!(monitor.state.summary().alarms.in_conflict, 1);
    let mut alarms = monitor.state.alarms();
    let around = monitor.state.surroundings();
    (1..140).for_each(|s| _ = alarms.advance(now_ns + s * 1_000_000_000, &around));
    assert!(matches!(alarms.take_notes(0, 1)[..], [(Note::Conflict(change), _)] if !change.began));
    drop(alarms);
    assert_eq!((monitor.state.summary().alarms.in_conflict, of(1)), (0, None));
}

#[test]
fn peers_are_put_in_their_groups_and_behind_their_parents() {
    let rule = |pattern: &str, policy| Rule {
        pattern: WildMatch::new(pattern),
        policy,
        brake: BrakeSettings::OFF,
        parent: None,
    };
    let slow = Policy { missed: 9.0, ..Policy::default() };
    let policies = vec![Policy::default(), slow];
    let groups = Arc::new(Groups::new(policies, BrakeSettings::OFF));
    let rules = vec![rule("web", 1)];
    let mut monitor = fleet(ControlConfig { groups, rules, ..config() });
    let number = monitor.state.groups.number("web").unwrap();
    assert!((0..40).all(|i| slot(&monitor, web(i)).group == number));
    assert_eq!(monitor.state.config.groups.policy(number).missed, 9.0);

    // Moved by a new profile; and what a reactor never got, the survey makes up for.
    let moved = profile("web-1", "canary", &[("parent", "switch-1")]);
    monitor.report(web(1), Report::Profile { peer: web(1), profile: moved });
    monitor.publish();
    while monitor.owner(web(1)).handle.commands.pop().is_some() {}
    assert_eq!(slot(&monitor, web(1)).group, number);
    monitor.survey();
    let canary = monitor.state.groups.number("canary").unwrap();
    let is = slot(&monitor, web(1));
    assert_eq!(is.group, canary);
    assert_eq!(monitor.state.config.groups.parent(is.parent), Some(PeerId::of("switch-1")));
}

#[test]
fn assignments_beyond_a_rings_room_wait_and_are_not_lost() {
    let mut monitor = FakeMonitor::with_config(config(), 1, 2_000);
    for i in 0..1_000 {
        monitor.add(&format!("web-{i}"), "web", &[], PeerState::Up);
    }
    monitor.publish();
    for _ in 0..10 {
        monitor.obey();
        monitor.publish();
    }
    assert!((0..1_000).all(|i| slot(&monitor, web(i)).group == 1));
}

#[test]
fn who_never_shows_up_is_missing_until_it_does() {
    let expect = |what| Expectation { what, within_ns: 0 };
    let group = Expected::Group { name: "web".into(), count: 41 };
    let expect = vec![expect(Expected::Peer("db-1".into())), expect(group)];
    let mut monitor = fleet(ControlConfig { expect, ..config() });
    monitor.publish();
    assert_eq!(told(&monitor), ["missing db-1 0 true", "missing web 40 true"]);
    assert_eq!(monitor.state.expected(false).expected.len(), 2);
    monitor.add("db-1", "db", &[], PeerState::Up);
    monitor.publish();
    monitor.survey();
    monitor.publish();
    assert_eq!(told(&monitor)[2..], ["missing db-1 1 false"]);
    assert_eq!(
        (monitor.state.expected(true).total, monitor.state.summary().alarms.missing),
        (2, 1)
    );
}

#[test]
fn the_quality_of_service_is_that_of_the_transitions_and_the_time_watched() {
    let mut monitor = fleet(config());
    let t = transition(web(1), PeerState::Down, PeerState::Up);
    let t = Transition { reason: Reason::Beat, in_from_ns: 4_000_000_000, ..t };
    monitor.report(web(1), Report::Transition(t));
    monitor.publish();
    monitor.survey();
    let report = monitor.state.qos(None, 100);
    assert_eq!((report.fleet.mistakes, report.groups_total), (1, 2));
    let web = &report.groups[0];
    assert_eq!((web.group.as_str(), web.peers.up, web.qos.mistakes), ("web", 40, 1));
    assert_eq!(web.qos.mistake_duration_ns, Some(4_000_000_000));
    assert!(web.qos.watched_ns > 0 && web.qos.query_accuracy < 1.0);
    // Two heartbeats of a hundred and two never came, of each peer.
    assert!((web.qos.loss - 2.0 / 102.0).abs() < 1e-9, "{}", web.qos.loss);
    let detail = monitor.state.detail(&monitor.state.find("web-1").unwrap());
    assert_eq!((detail.qos.mistakes, report.groups[1].qos.mistakes), (1, 0));
    assert_eq!(monitor.state.qos(Some("net"), 100).groups[0].peers.total, 1);

    let rows = monitor.state.quality_rows();
    let labels: Vec<_> = rows.iter().map(|row| (&row.label, row.tally.living())).collect();
    use crate::control::report::Scoped::{Fleet, Group};
    let (own, net) = (Group("web".into()), Group("net".into()));
    assert_eq!(labels, [(&Fleet, 41), (&own, 40), (&net, 1)]);
}

#[test]
fn groups_beyond_the_settings_are_one_in_the_metrics() {
    let mut monitor = fleet(ControlConfig { metrics_groups: 1, ..config() });
    monitor.add("db-1", "db", &[], PeerState::Up);
    monitor.publish();
    monitor.survey();
    let rows = monitor.state.quality_rows();
    use crate::control::report::Scoped::Other;
    let last = rows.last().unwrap();
    assert_eq!((rows.len(), &last.label, last.tally.living()), (3, &Other, 2));
}
