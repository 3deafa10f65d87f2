//! The publisher with fabricated reactors: order, names, numbers and listings.

use super::figures::{SCRAPE_BOUNDS_NS, Since, coarse};
use super::peers::{Cursor, Filter, SCAN_LIMIT};
use super::testing::{FakeMonitor, Random, config, profile, seeds};
use super::*;
use crate::api::PeerPage;
use crate::io::Transport;
use crate::metrics::{Histogram, HistogramKind};
use crate::reactor::Report;
use crate::wire::PeerId;
use std::collections::{BTreeMap, BTreeSet};

/// Walks a listing to its end and returns the names in their order.
fn walk(state: &ControlState, filter: &Filter, limit: usize) -> Vec<String> {
    let (mut cursor, mut names) = (Cursor::default(), Vec::new());
    loop {
        let PeerPage { peers, next } = state.page(filter, cursor, limit);
        assert!(peers.len() <= limit);
        names.extend(peers.into_iter().map(|peer| peer.name));
        match next {
            Some(next) => cursor = next.parse().unwrap(),
            None => return names,
        }
    }
}

#[test]
fn a_listing_shows_exactly_the_peers_that_match_whatever_the_page_size() {
    const LISTED: [PeerState; 4] =
        [PeerState::Up, PeerState::Suspect, PeerState::Down, PeerState::Left];
    for seed in seeds() {
        let mut random = Random::new(seed);
        let mut monitor = FakeMonitor::new(1 + random.below(3) as usize, 1_000);
        let mut model = BTreeMap::new();
        for i in 0..random.below(400) {
            let name = format!("{}-{i}", ["web", "db", "we"][random.below(3) as usize]);
            let group = ["", "a", "b"][random.below(3) as usize];
            let rack = ["r1", "r2"][random.below(2) as usize];
            let state = LISTED[random.below(4) as usize];
            monitor.add(&name, group, &[("rack", rack), ("os", "linux")], state);
            model.insert(name, (group, rack, state));
        }
        monitor.publish();
        for limit in [1, 7, 1_000] {
            let state = (random.below(2) == 0).then(|| LISTED[random.below(4) as usize]);
            let group = (random.below(2) == 0).then(|| "a".to_owned());
            let prefix = (random.below(2) == 0).then(|| "we".to_owned());
            let mut labels = vec![("os".to_owned(), None)];
            if random.below(2) == 0 {
                labels.push(("rack".to_owned(), Some("r2".to_owned())));
            }
            let filter = Filter { state, group, prefix, labels, ..Filter::default() };
            let expected: BTreeSet<&String> = model
                .iter()
                .filter(|(name, (group, rack, state))| {
                    filter.state.is_none_or(|s| s == *state)
                        && filter.group.as_ref().is_none_or(|g| g == group)
                        && filter.prefix.as_ref().is_none_or(|p| name.starts_with(p))
                        && (filter.labels.len() == 1 || *rack == "r2")
                })
                .map(|(name, _)| name)
                .collect();
            let names = walk(&monitor.state, &filter, limit);
            assert_eq!(names.len(), expected.len(), "seed {seed}, {filter:?}");
            assert_eq!(names.iter().collect::<BTreeSet<_>>(), expected, "seed {seed}, {filter:?}");
        }
        let all = walk(&monitor.state, &Filter::default(), 50);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), model.into_keys().collect());
    }
}

#[test]
fn one_page_looks_at_a_bounded_number_of_slots() {
    let mut monitor = FakeMonitor::new(1, SCAN_LIMIT + 10);
    (1..=u64::from(SCAN_LIMIT)).for_each(|id| monitor.add_unnamed(PeerId(id), PeerState::Up));
    monitor.add("last", "", &[], PeerState::Down);
    monitor.publish();
    let filter = Filter { state: Some(PeerState::Down), ..Filter::default() };
    let page = monitor.state.page(&filter, Cursor::default(), 10);
    assert_eq!((page.peers.len(), page.next.as_deref()), (0, Some("0-65536")));
    assert_eq!(walk(&monitor.state, &filter, 10), ["last"]);
    let nobody = Filter { state: Some(PeerState::Left), ..Filter::default() };
    let page = monitor.state.page(&nobody, Cursor::default(), 10);
    assert_eq!(page, PeerPage { peers: vec![], next: None }, "the counts say that none is there");
}

#[test]
fn a_cursor_reads_back_and_one_past_the_end_is_the_end() {
    let monitor = FakeMonitor::new(2, 8);
    for text in ["0-0", "1-7", "4294967295-4294967295"] {
        let cursor: Cursor = text.parse().unwrap();
        assert_eq!(cursor.to_string(), text);
        let page = monitor.state.page(&Filter::default(), cursor, 10);
        assert_eq!(page, PeerPage { peers: vec![], next: None });
    }
}

#[test]
fn a_peer_is_found_by_name_and_by_id_with_its_evidence() {
    let mut monitor = FakeMonitor::new(2, 100);
    let peer = monitor.add("web/1 ä", "web", &[("rack", "r7")], PeerState::Down);
    monitor.report_transition(peer, PeerState::Up, PeerState::Suspect);
    monitor.report_transition(peer, PeerState::Suspect, PeerState::Down);
    monitor.add("other", "", &[], PeerState::Up);
    monitor.publish();
    let state = &monitor.state;
    for key in ["web/1 ä".to_owned(), peer.to_string()] {
        let detail = state.detail(&state.find(&key).unwrap());
        assert_eq!((&*detail.summary.name, &*detail.summary.id), ("web/1 ä", &*peer.to_string()));
        assert_eq!(detail.labels, BTreeMap::from([("rack".into(), "r7".into())]));
        // Three intervals of 500 ms and 50 ms of grace.
        assert_eq!(detail.timeout_ns, 1_550_000_000);
        let changes: Vec<_> = detail.transitions.iter().map(|e| (e.seq, e.to.as_str())).collect();
        assert_eq!(changes, [(2, "down"), (1, "suspect")]);
        assert!(detail.deadline.is_some());
    }
    assert!(state.find("nobody").is_none() && state.find("0000000000000001").is_none());
    // A peer may be named like another's id; the name comes first.
    let impostor = monitor.add(&peer.to_string(), "", &[], PeerState::Up);
    assert_eq!(monitor.state.find(&peer.to_string()).unwrap().slot.peer, impostor);
}

#[test]
fn numbers_have_no_holes_and_each_reactor_keeps_its_order() {
    let mut monitor = FakeMonitor::new(3, 100);
    let peers: Vec<PeerId> =
        (0..30).map(|i| monitor.add(&format!("p{i}"), "g", &[], PeerState::Up)).collect();
    let steps =
        [PeerState::Unknown, PeerState::Up, PeerState::Suspect, PeerState::Down, PeerState::Up];
    for change in steps.windows(2) {
        peers.iter().for_each(|&peer| monitor.report_transition(peer, change[0], change[1]));
    }
    monitor.publish();
    let chunk = monitor.state.events.read(0, 1_000);
    assert_eq!((chunk.first_seq, chunk.entries.len()), (1, 120));
    for &peer in &peers {
        let own = chunk.entries.iter().map(|e| &e.transition).filter(|t| t.peer == peer);
        let path: Vec<PeerState> = own.map(|t| t.to).collect();
        assert_eq!(path, steps[1..]);
    }
    assert_eq!(monitor.state.transitions.occurred().map(|(_, _, n)| n).sum::<u64>(), 120);
    assert_eq!(monitor.state.histogram(HistogramKind::Publish).count(), 120);
}

#[test]
fn a_newcomer_is_named_although_its_profile_comes_second_and_keeps_its_name_to_the_end() {
    let mut monitor = FakeMonitor::new(1, 100);
    let peer = PeerId::of("web-1");
    monitor.report_transition(peer, PeerState::Unknown, PeerState::Up);
    monitor.report(peer, Report::Profile { peer, profile: profile("web-1", "web", &[]) });
    monitor.publish();
    assert_eq!(monitor.state.registry.len(), 1);
    monitor.report_transition(peer, PeerState::Down, PeerState::Forgotten);
    monitor.report_transition(peer, PeerState::Unknown, PeerState::Up);
    monitor.publish();
    let chunk = monitor.state.events.read(0, 10);
    let names: Vec<_> = chunk.entries.iter().map(|e| e.names.name()).collect();
    assert_eq!(names, [Some("web-1"), Some("web-1"), None]);
    assert!(monitor.state.registry.is_empty());
}

#[test]
fn profiles_of_peers_that_never_came_to_be_make_room() {
    let mut monitor = FakeMonitor::new(2, 25);
    let tell = |monitor: &mut FakeMonitor, name: &str| {
        let peer = PeerId::of(name);
        monitor.report(peer, Report::Profile { peer, profile: profile(name, "", &[]) });
        monitor.publish();
        monitor.state.registry.with(peer, |profile| profile.is_some())
    };
    for i in 0..50 {
        assert!(tell(&mut monitor, &format!("ghost-{i}")), "there is room");
    }
    assert!(!tell(&mut monitor, "ghost-50"), "no slot, no room");
    assert!(tell(&mut monitor, "ghost-0"), "known already");
    for i in 0..20 {
        let peer = monitor.add(&format!("real-{i}"), "", &[], PeerState::Up);
        monitor.publish();
        assert!(monitor.state.registry.with(peer, |profile| profile.is_some()));
        assert!(monitor.state.registry.len() <= 50);
    }
}

#[test]
fn the_publisher_thread_publishes_what_came_before_the_end() {
    let control = Control::start(config(), Memory::fresh(100)).unwrap();
    let reactors = FakeMonitor::new(1, 10);
    let reports = reactors.reactors[0].handle.reports.clone();
    for id in 1..=1_000 {
        let change = testing::transition(PeerId(id), PeerState::Up, PeerState::Down);
        assert!(reports.push(Report::Transition(change)).is_ok());
    }
    control.attach(vec![reactors.reactors[0].handle.clone()]);
    let (state, thread) = (control.state(), control.publisher_thread());
    let change = testing::transition(PeerId(1_001), PeerState::Up, PeerState::Down);
    assert!(reports.push(Report::Transition(change)).is_ok());
    thread.unpark();
    control.shutdown();
    assert_eq!(state.events.newest(), 1_001);
    assert!(reports.is_empty());
}

#[test]
fn an_interval_begins_where_the_last_one_ended() {
    let monitor = FakeMonitor::new(2, 10);
    let record = |reactor: usize, ns, n| {
        let histograms = &monitor.reactors[reactor].handle.histograms;
        histograms.of(HistogramKind::Lateness).record_n(ns, n);
    };
    let lateness = |h: crate::api::Histograms| h.histograms["lateness_ns"].clone();
    record(0, 100, 10);
    record(1, 900, 10);
    let before = lateness(monitor.state.histograms(Since::Interval, true));
    assert_eq!((before.count, before.min, before.max), (20, 100, 900));
    assert_eq!(before.mean, 500.0);
    assert_eq!(before.buckets.iter().map(|b| b.1).sum::<u64>(), 20);
    let ended = lateness(monitor.state.reset_histograms(false));
    assert_eq!((ended.count, ended.buckets.len()), (20, 0));
    record(1, 200, 5);
    let after = lateness(monitor.state.histograms(Since::Interval, false));
    assert_eq!((after.count, after.p50, after.max), (5, 200, 200));
    let since_start = lateness(monitor.state.histograms(Since::Start, false));
    assert_eq!((since_start.count, since_start.max), (25, 900));
    let empty = &monitor.state.histograms(Since::Start, false).histograms["ingest_ns"];
    assert_eq!((empty.count, empty.min, empty.p50, empty.max), (0, 0, 0, 0));
}

#[test]
fn every_value_lies_in_one_scrape_bucket_near_its_bound() {
    for (i, &bound) in SCRAPE_BOUNDS_NS.iter().enumerate() {
        for (value, at) in [(bound - bound / 50, i), (bound + bound / 50 + 1, i + 1)] {
            let histogram = Histogram::default();
            histogram.record(value);
            let counts = coarse(&histogram.snapshot());
            assert_eq!(counts[at], 1, "{value} ns");
            assert_eq!(counts.iter().sum::<u64>(), 1);
        }
    }
}

#[test]
fn a_summary_adds_the_reactors_up() {
    let mut monitor = FakeMonitor::new(2, 100);
    for i in 0..20 {
        let state = if i < 15 { PeerState::Up } else { PeerState::Down };
        monitor.add(&format!("p{i}"), "", &[], state);
    }
    for reactor in &monitor.reactors {
        let counters = &reactor.handle.counters;
        counters.add(Counter::Heartbeats, 500);
        counters.add(Counter::DropRunt, 2);
        counters.add(Counter::Stale, 1);
        counters.add(Counter::KernelDrops, 3);
    }
    let summary = monitor.state.summary();
    assert_eq!((summary.peers.up, summary.peers.down, summary.peers.total), (15, 5, 20));
    assert_eq!((summary.heartbeats, summary.kernel_drops), (1_000, 6));
    let dropped = [("runt".to_owned(), 4), ("stale".to_owned(), 2)];
    assert_eq!(summary.dropped, dropped.into());
    assert_eq!(summary.started, "2023-11-14T22:13:20.123456789Z");
    assert_eq!(summary.monitor, "000000000000abcd");
    assert!(monitor.state.is_ready());
    assert!(!ControlState::new(config(), Memory::fresh(100)).is_ready());
}

#[test]
fn reactors_of_two_transports_are_said_to_be_mixed() {
    let monitor = FakeMonitor::new(3, 10);
    assert_eq!(monitor.state.transport(), "poll");
    let mut handles: Vec<_> = monitor.state.reactors().to_vec();
    handles[2].transport = Transport::Uring;
    assert_eq!(reactor::transport_of(&handles), Some("mixed"));
    handles.iter_mut().for_each(|handle| handle.transport = Transport::Uring);
    assert_eq!(reactor::transport_of(&handles), Some("uring"));
    assert_eq!(reactor::transport_of(&[]), None);
}
