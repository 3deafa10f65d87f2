//! Lives of a monitor one after the other, against one that never ends and hears the same.

use super::*;
use crate::api::NewSilence;
use crate::control::events::EventLog;
use crate::control::incidents::{Incident, Step, StillDown};
use crate::control::notes::Note;
use crate::control::registry::Registry;
use crate::control::testing::{FakeMonitor, Random, config, profile, seeds, transition};
use crate::control::{ControlConfig, Memory};
use crate::engine::notice::Notice;
use crate::engine::transition::Transition;
use crate::reactor::Report;
use crate::store::places::Places;
use crate::testing::TempDir;
use crate::wire::{PeerId, Status};

const PEERS: u32 = 60;

fn name(i: u32) -> String {
    format!("web-{i}")
}

fn web(i: u32) -> PeerId {
    PeerId::of(&name(i))
}

/// Group and labels of a peer: half of them are behind a switch, which is number 0.
fn told_of(i: u32) -> (&'static str, &'static [(&'static str, &'static str)]) {
    match i {
        0 => ("net", &[]),
        1..30 => ("web", &[]),
        _ => ("db", &[("parent", "web-0")]),
    }
}

/// A monitor that goes on with what is in the directory, and with this log.
fn life(dir: Option<&TempDir>, held: Vec<(u64, Entry)>) -> FakeMonitor {
    let (silences_file, silences) = match dir {
        Some(dir) => SilencesFile::open(dir.path(), Era::now()).unwrap(),
        None => Default::default(),
    };
    let registry = Registry::default();
    for i in 0..PEERS {
        let (group, labels) = told_of(i);
        registry.insert(web(i), profile(&name(i), group, labels));
    }
    let memory = Memory {
        registry,
        events: EventLog::resume(config().ring_capacity, None, held),
        places: Places {
            groups: ["net", "web", "db"].map(String::from).into(),
            ..Places::default()
        },
        silences: silences.unwrap_or_default(),
        silences_file,
        ..Memory::default()
    };
    let state_dir = dir.map(|dir| dir.path().to_owned());
    let mut monitor =
        FakeMonitor::with_memory(ControlConfig { state_dir, ..config() }, memory, 2, 1_000);
    (0..PEERS).for_each(|i| monitor.add_unnamed(web(i), PeerState::Up));
    monitor.survey();
    monitor.keep();
    monitor
}

fn log(monitor: &FakeMonitor) -> Vec<(u64, Entry)> {
    let chunk = monitor.state.events.read(0, usize::MAX);
    chunk.numbered().map(|(seq, entry)| (seq, entry.clone())).collect()
}

fn open(monitor: &FakeMonitor) -> Vec<Incident> {
    monitor.state.alarms().incidents.open_ones().cloned().collect()
}

fn incident_of(monitor: &FakeMonitor, i: u32) -> Option<u32> {
    monitor.state.alarms().incidents.of(web(i))
}

fn flapping(monitor: &FakeMonitor) -> Vec<bool> {
    let alarms = monitor.state.alarms();
    (0..PEERS).map(|i| alarms.flapping.is_flapping(web(i))).collect()
}

fn notes(monitor: &FakeMonitor) -> Vec<Note> {
    monitor
        .state
        .notes
        .read(Place::default(), usize::MAX)
        .0
        .into_iter()
        .map(|entry| entry.note)
        .collect()
}

fn go_down(monitor: &mut FakeMonitor, peers: impl IntoIterator<Item = u32>) {
    for i in peers {
        monitor.report_transition(web(i), PeerState::Suspect, PeerState::Down);
    }
    monitor.publish();
}

#[test]
fn many_lives_are_as_one() {
    for seed in seeds() {
        let mut random = Random::new(seed);
        let dir = TempDir::new();
        let (mut one, mut lives) = (life(None, Vec::new()), life(Some(&dir), Vec::new()));
        let mut down = [false; PEERS as usize];
        let mut unpublished: Vec<Transition> = Vec::new();
        for step in 0..300 {
            for _ in 0..random.below(6) {
                // Some more often than others, so that they flap.
                let i = random.below(PEERS as u64).min(random.below(PEERS as u64)) as u32;
                let is_down = &mut down[i as usize];
                let to = match (*is_down, i) {
                    (true, _) => PeerState::Up,
                    (false, 30..) if random.below(2) == 0 => PeerState::Unreachable,
                    (false, _) => PeerState::Down,
                };
                *is_down = !*is_down;
                let from = if to == PeerState::Up { PeerState::Down } else { PeerState::Suspect };
                let status = if random.below(9) == 0 { Status::Maintenance } else { Status::Ok };
                let t = Transition { status, ..transition(web(i), from, to) };
                one.report(web(i), Report::Transition(t));
                lives.report(web(i), Report::Transition(t));
                unpublished.push(t);
                if random.below(3) > 0 {
                    one.publish();
                    lives.publish();
                    unpublished.clear();
                }
            }
            if random.below(4) == 0 {
                // Killed: what was not published is, by the next one, without marks.
                one.publish();
                let mut held = log(&lives);
                let unjudged = log(&one).split_off(held.len());
                assert_eq!(unjudged.len(), unpublished.len());
                unpublished.clear();
                let unmarked =
                    |(seq, entry): (u64, Entry)| (seq, Entry { marks: Marks::PENDING, ..entry });
                held.extend(unjudged.into_iter().map(unmarked));
                lives = life(Some(&dir), held);
                let marks = |monitor: &FakeMonitor| -> Vec<Marks> {
                    log(monitor).into_iter().map(|(_, entry)| entry.marks).collect()
                };
                assert_eq!(marks(&lives), marks(&one), "seed {seed} step {step}");
            }
            one.publish();
            lives.publish();
            unpublished.clear();
            let context = format!("seed {seed} step {step}");
            // How far its growth was told is left out: that settles by the clock, and they look at it one
            // after the other.
            let known = |monitor: &FakeMonitor| -> Vec<_> {
                open(monitor)
                    .into_iter()
                    .map(|incident| (incident.figures, incident.first))
                    .collect()
            };
            assert_eq!(known(&lives), known(&one), "{context}");
            assert_eq!(flapping(&lives), flapping(&one), "{context}");
            for i in 0..PEERS {
                assert_eq!(incident_of(&lives, i), incident_of(&one, i), "{context}: {i}");
            }
        }
        assert!(notes(&one).len() > 20, "seed {seed}: something was told");
    }
}

#[test]
fn an_incident_stays_one_and_is_told_once_and_its_end_is_told() {
    let dir = TempDir::new();
    let mut first = life(Some(&dir), Vec::new());
    go_down(&mut first, 1..9);
    assert_eq!(open(&first).len(), 1);
    let mut next = life(Some(&dir), log(&first));
    assert_eq!(open(&next), open(&first));
    // Who has seen all of the first is told nothing by the next; who has not, is told it in its place.
    let behind = |seq| next.state.notes_after(Place::of(seq), usize::MAX);
    assert_eq!(behind(next.state.events.newest()), []);
    assert_eq!(behind(0).len(), notes(&first).len());
    go_down(&mut next, 9..12);
    assert_eq!((open(&next)[0].figures.id, open(&next)[0].figures.down), (1, 11));
    // All are up in the slots, and nobody says so.
    reconcile(&next.state);
    assert_eq!(open(&next), []);
    let next = life(Some(&dir), log(&next));
    assert_eq!(next.state.incidents(true).closed.len(), 0, "it was not told, and so not written");
    assert_eq!(open(&next)[0].figures.down, 11);
    reconcile(&next.state);
    let closed = next.state.incidents(true).closed;
    assert_eq!((closed[0].id, closed[0].most), (1, 11));
}

/// By time alone, as when a silence ends: behind the last transition, which a follower may have seen.
#[test]
fn who_follows_over_restarts_hears_each_incident_open_once_and_close_once() {
    let said = |notes: Vec<NoteEntry>| -> Vec<_> {
        notes
            .iter()
            .map(|entry| match entry.note {
                Note::Incident(told) => (told.step, told.figures.id),
                _ => panic!("{entry:?}"),
            })
            .collect()
    };
    let behind = |monitor: &FakeMonitor, place| said(monitor.state.notes_after(place, 99));
    let standing = |monitor: &FakeMonitor, place| said(monitor.state.standing(place));
    let end = |monitor: &FakeMonitor| monitor.state.notes.end(monitor.state.events.newest());
    let dir = TempDir::new();
    let mut first = life(Some(&dir), Vec::new());
    go_down(&mut first, 1..3);
    let seen = Place::of(first.state.events.newest());
    let now_ns = clock::monotonic_ns();
    let still_down = StillDown { peer: web(1), group: 1, size: 29, since_ns: now_ns };
    first.state.alarms().incidents.still_down(&[still_down], now_ns);
    first.publish();
    let told = end(&first);
    assert_eq!(behind(&first, seen), [(Step::Opened, 1)]);
    assert_eq!((behind(&first, told), standing(&first, seen)), (vec![], vec![]));
    assert_eq!(standing(&first, told), [(Step::Open, 1)]);
    first.keep();

    let mut next = life(Some(&dir), log(&first));
    assert_eq!(behind(&next, seen), [(Step::Opened, 1)], "it was away when it opened");
    assert_eq!(behind(&next, told), []);
    let began = end(&next);
    assert_eq!(standing(&next, began), [(Step::Open, 1)], "it begins now");
    reconcile(&next.state);
    assert_eq!(standing(&next, began), [(Step::Open, 1)], "its end is still to be told");
    next.publish();
    for place in [told, began] {
        assert_eq!(behind(&next, place), [(Step::Closed, 1)]);
    }
    assert_eq!(behind(&next, seen), [(Step::Opened, 1), (Step::Closed, 1)]);
    assert_eq!(standing(&next, began), [(Step::Open, 1)]);
    let over = end(&next);
    assert_eq!(standing(&next, over), []);
    next.keep();

    let last = life(Some(&dir), log(&next));
    assert_eq!(behind(&last, told), [(Step::Closed, 1)]);
    assert_eq!(behind(&last, seen), [(Step::Opened, 1), (Step::Closed, 1)]);
    assert_eq!((behind(&last, over), standing(&last, end(&last))), (vec![], vec![]));
}

#[test]
fn what_was_not_published_is_judged_by_the_next_one() {
    let dir = TempDir::new();
    let mut first = life(Some(&dir), Vec::new());
    go_down(&mut first, 1..3);
    let mut held = log(&first);
    for i in 3..6 {
        let (_, last) = held.last().unwrap().clone();
        let t = transition(web(i), PeerState::Suspect, PeerState::Down);
        let names = first.state.registry.with(web(i), crate::control::events::Names::of);
        held.push((
            held.len() as u64 + 1,
            Entry { transition: t, names, marks: Marks::PENDING, ..last },
        ));
    }
    let next = life(Some(&dir), held);
    assert_eq!(open(&next)[0].figures.down, 5);
    assert!(matches!(notes(&next)[..], [Note::Incident(_)]), "{:?}", notes(&next));
}

#[test]
fn who_flaps_goes_on_flapping_and_time_that_nobody_looked_is_no_quiet() {
    let dir = TempDir::new();
    let mut first = life(Some(&dir), Vec::new());
    for round in 0..6 {
        let (from, to) = match round % 2 {
            0 => (PeerState::Suspect, PeerState::Down),
            _ => (PeerState::Down, PeerState::Up),
        };
        first.report_transition(web(1), from, to);
        first.publish();
    }
    assert_eq!(first.state.summary().alarms.flapping, 1);
    let next = life(Some(&dir), log(&first));
    assert!(flapping(&next)[1]);
    assert_eq!(next.state.summary().alarms.flapping, 1);
    // An hour in which nobody looked, then a minute.
    const HOUR_NS: u64 = 3_600_000_000_000;
    let now_ns = clock::monotonic_ns();
    let ended = |skipped: bool| {
        let kept = life(Some(&dir), log(&first));
        let mut alarms = kept.state.alarms();
        if skipped {
            alarms.flapping.skip(HOUR_NS as i64);
        }
        !alarms.flapping.advance(now_ns + HOUR_NS + HOUR_NS / 60).is_empty()
    };
    assert_eq!((ended(true), ended(false)), (false, true));
}

#[test]
fn conflicts_and_the_missing_are_told_once() {
    let dir = TempDir::new();
    let conflict = Notice::Conflict {
        peer: web(1),
        at_ns: clock::monotonic_ns(),
        incarnations: [9, 7],
        interval_ns: 1,
    };
    let expect = |monitor: &FakeMonitor| {
        let expected = vec![crate::control::expect::Expectation {
            what: Expected::Peer("db-1".into()),
            within_ns: 0,
        }];
        let now_ns = clock::monotonic_ns();
        let mut alarms = monitor.state.alarms();
        alarms.expect = crate::control::expect::Expectations::new(expected, now_ns);
    };
    let mut first = life(Some(&dir), Vec::new());
    expect(&first);
    first.survey();
    first.report(web(1), Report::Notice(conflict));
    first.publish();
    assert_eq!(notes(&first).len(), 2);
    first.keep();
    let kept = std::fs::read_to_string(dir.path().join("alarms")).unwrap();
    assert!(kept.contains(r#""missing":[{"Peer":"db-1"}]"#), "{kept}");
    let mut next = life(Some(&dir), log(&first));
    expect(&next);
    next.state.alarms().expect.were_missing(&[Expected::Peer("db-1".into())]);
    next.survey();
    assert_eq!(next.state.summary().alarms.in_conflict, 1);
    next.report(web(1), Report::Notice(conflict));
    next.publish();
    assert_eq!(notes(&next), []);
}

#[test]
fn a_damaged_file_or_other_numbers_of_groups_are_begun_anew_and_counted() {
    for damage in ["byte", "groups", "json"] {
        let dir = TempDir::new();
        let path = dir.path().join("alarms");
        let mut first = life(Some(&dir), Vec::new());
        go_down(&mut first, 1..9);
        let (mut file, body) = WholeFile::open(dir.path(), "alarms", ALARMS_VERSION).unwrap();
        let Body::Whole(body) = body else { panic!("{body:?}") };
        let text = String::from_utf8(body).unwrap();
        match damage {
            "byte" => std::fs::write(&path, "systole alarms 2\n{}\n00000000\n").unwrap(),
            "groups" => {
                let other = text.replacen(r#""groups":[4,"#, r#""groups":[3,"#, 1);
                assert_ne!(other, text);
                assert!(file.write(false, |out| out.write_all(other.as_bytes())));
            }
            _ => assert!(file.write(false, |out| out.write_all(&text.as_bytes()[1..]))),
        }
        let mut next = life(Some(&dir), log(&first));
        assert_eq!((open(&next).len(), next.state.damaged()), (0, 1), "{damage}");
        // Another incident is another number all the same.
        go_down(&mut next, 10..20);
        assert_eq!(open(&next)[0].figures.id, 2, "{damage}");
        let after = life(Some(&dir), log(&next));
        assert_eq!((open(&after), after.state.damaged()), (open(&next), 0), "{damage}");
    }
}

#[test]
fn a_silence_keeps_its_number_and_the_rest_of_its_time() {
    let dir = TempDir::new();
    let first = life(Some(&dir), Vec::new());
    let new = |selector: &str, for_ns| NewSilence {
        selector: selector.into(),
        for_ns,
        reason: "kernel".into(),
    };
    const H: u64 = 3_600_000_000_000;
    first.state.silence(new("web-1", H)).unwrap();
    first.state.silence(new("group=web, rack=*", 2 * H)).unwrap();
    first.state.end_silence(1).unwrap().unwrap();
    let next = life(Some(&dir), Vec::new());
    let (held, was) = (next.state.alarms().silences.clone(), first.state.alarms().silences.clone());
    assert_eq!(held, was);
    assert_eq!(next.state.silence(new("x", H)).unwrap().id, 3);
    // There is no writing: it holds all the same, and the answer says so.
    let in_the_way = dir.path().join("silences.new");
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(next.state.silence(new("unkept", H)).unwrap().unkept);
    assert!(next.state.end_silence(4).unwrap().unwrap().unkept);
    std::fs::remove_dir(&in_the_way).unwrap();
    // Another process has the file.
    next.state.silences_file().end();
    assert_eq!(next.state.silence(new("y", H)), Err(SilenceError::Ending));
    assert_eq!(next.state.end_silence(3), Err(SilenceError::Ending));

    // In another boot whose clock is two hours less far, the wall clock decides.
    let Era { wall_offset_ns, .. } = Era::now();
    let other = Era { boot: [7; 16], wall_offset_ns: wall_offset_ns + 2 * H as i64 };
    let (_, moved) = SilencesFile::open(dir.path(), other).unwrap();
    let (moved, kept) = (moved.unwrap(), next.state.alarms().silences.clone());
    let left = |silences: &Silences| silences.all()[0].until_ns;
    let difference_ns = (left(&kept) - left(&moved)).abs_diff(2 * H);
    assert!(difference_ns < H / 60, "but for what the wall clock was set by: {difference_ns}");
    std::fs::write(dir.path().join("silences"), "systole silences 1\n").unwrap();
    assert_eq!(SilencesFile::open(dir.path(), Era::now()).unwrap().1, None);
}

/// Whoever changes what is kept gives it another version.
#[test]
fn the_file_of_this_version_is_understood() {
    let body = r#"{"era":{"boot":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"wall_offset_ns":-5},
        "groups":[1,0],"holds":[["Fleet",5],[{"Group":2},6]]}
        {"identity":[7,8],"seq":9,"at_ns":4,"sizes":[4],"alarms":{"incidents":{"open":{"3":{"figures":
        {"id":3,"cause":{"MassSilence":"Fleet"},"began_ns":1,"opened_ns":2,"grew_ns":3,
        "closed_ns":0,"down":1,"unreachable":1,"held":2,"most":2,"size":4},"first":[17],"told":2,
        "held_until_ns":5,"joins_until_ns":18446744073709551615}},"members":{"17":[3,true],
        "18":[3,false],"19":[2,true]},"recent":{"1":[[6,20]]},"closed":[],"last_id":3},
        "flapping":{"peers":{"21":[1048575,true,7,60000000000]}},"conflicts":{"22":8}},
        "missing":[{"Peer":"a"},{"Group":{"name":"b","count":2}}]}"#;
    let (head, kept) = parse(body.as_bytes()).unwrap();
    assert_eq!(head.holds, [(Scope::Fleet, 5), (Scope::Group(2), 6)]);
    let mut alarms = Alarms::default();
    alarms.resume(kept.alarms, 100);
    let figures = alarms.incidents.get(3).unwrap().figures;
    assert_eq!((figures.began_ns, figures.closed_ns, figures.members()), (101, 0, 2));
    assert_eq!([17, 18, 19].map(|id| alarms.incidents.of(PeerId(id))), [Some(3), Some(3), None]);
    assert!(alarms.flapping.is_flapping(PeerId(21)));
    assert_eq!(kept.missing.len(), 2);
    // Nothing is lost on the way back.
    let again = serde_json::to_string(&alarms).unwrap();
    assert!(again.contains(r#""joins_until_ns":18446744073709551615"#), "{again}");
}
