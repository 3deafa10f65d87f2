//! Exact texts: what a person at three in the morning reads.

use super::super::events::tests::event;
use super::peer::{circumstances, detail, now, verdict};
use super::*;
use crate::api::{PeerCounts, PeerDetail, TimingSettings};
use clap::Parser;
use std::collections::BTreeMap;

/// A peer in a state, heard 400 ms before the answer unless it is down (then as in `event`).
pub fn peer(state: &str) -> PeerDetail {
    let summary = PeerSummary {
        name: "web-1".into(),
        id: "0123456789abcdef".into(),
        group: "web".into(),
        state: state.into(),
        status: "ok".into(),
        last_seen: "2026-11-23T10:02:03.123456000Z".into(),
        silent_ns: 400_000_000,
        interval_ns: 1_000_000_000,
        since: "2026-11-23T10:00:00.523456000Z".into(),
        key: None,
        ..PeerSummary::default()
    };
    PeerDetail {
        summary,
        labels: BTreeMap::from([("rack".into(), "r7".into())]),
        suspect_deadline: Some("2026-11-23T10:02:04.953456000Z".into()),
        deadline: Some("2026-11-23T10:02:06.173456000Z".into()),
        timeout_ns: 3_050_000_000,
        first_seen: "2026-11-22T09:00:00.000000000Z".into(),
        incarnation: 7,
        last_sequence: 812,
        heartbeats: 1_812,
        gaps: 3,
        duplicates: 0,
        reordered: 0,
        restarts: 1,
        stale: 0,
        reactor: 0,
        transitions: vec![],
        ..PeerDetail::default()
    }
}

fn down() -> PeerDetail {
    let mut peer = peer("down");
    peer.summary.since = "2026-11-23T10:02:06.173460000Z".into();
    peer.summary.silent_ns = 126_050_004_000;
    peer.transitions = vec![event(9)];
    peer
}

fn summary() -> Summary {
    Summary {
        version: "0.1.0".into(),
        monitor: "00000000000000a1".into(),
        epoch: 1,
        started: "2026-11-23T08:00:00Z".into(),
        time: "2026-11-23T10:04:09.173460000Z".into(),
        transport: "uring".into(),
        reactors: 3,
        udp: vec!["0.0.0.0:4600".into()],
        peers: PeerCounts {
            up: 49_499,
            down: 500,
            left: 1,
            total: 50_000,
            ..PeerCounts::default()
        },
        max_peers: 1_000_000,
        heartbeats: 9_000_000,
        heartbeats_per_second: 49_500.4,
        kernel_drops: 0,
        dropped: BTreeMap::from([("drop_text".into(), 12), ("stale".into(), 0)]),
        last_seq: 50_501,
        timing: TimingSettings {
            interval_ns: 1_000_000_000,
            missed: 3.0,
            grace_ns: 50_000_000,
            suspect_at: 0.6,
        },
        ..Summary::default()
    }
}

#[test]
fn the_verdict_tells_the_evidence() {
    assert_eq!(
        verdict(&down()),
        "down for 2m 3s: silent since 10:02:03.123456 (last heartbeat #812), \
         deadline 10:02:06.173456 passed, called 4 µs later"
    );
    assert_eq!(
        verdict(&peer("up")),
        "up for 2m 3s: last heard 400 ms ago (last heartbeat #812); \
         called down at 10:02:06.173456 (in 2.65 s) if it stays silent"
    );
    let mut suspect = peer("suspect");
    suspect.summary.silent_ns = 2_000_000_000;
    assert_eq!(
        verdict(&suspect),
        "suspect for 2m 4s: silent since 10:02:03.123456 (last heartbeat #812); \
         called down at 10:02:06.173456 (in 1.05 s) unless it beats"
    );
    // A brake holds it.
    suspect.summary.silent_ns = 20_000_000_000;
    assert_eq!(
        verdict(&suspect),
        "suspect for 2m 22s: silent since 10:02:03.123456 (last heartbeat #812); \
         held though its deadline 10:02:06.173456 has passed, as too many are silent or its parent is in \
         doubt (systole incidents)"
    );
    assert_eq!(
        verdict(&peer("left")),
        "left 2m 3s ago: said goodbye at 10:02:03.123456 (last heartbeat #812); no alarm follows"
    );
}

#[test]
fn evidence_that_is_not_there_is_not_told() {
    let mut text_form = down();
    text_form.incarnation = 0;
    text_form.transitions.clear();
    assert_eq!(
        verdict(&text_form),
        "down for 2m 3s: silent since 10:02:03.123456, deadline 10:02:06.173456 passed"
    );
}

#[test]
fn the_detail_is_exact() {
    assert_eq!(
        detail(&down(), Terminal::PLAIN),
        "web-1: down for 2m 3s: silent since 10:02:03.123456 (last heartbeat #812), \
         deadline 10:02:06.173456 passed, called 4 µs later
  says         ok
  group        web
  labels       rack=r7
  id           0123456789abcdef
  interval     1 s
  timeout      3.05 s
  first heard  2026-11-22 09:00:00.000000
  last heard   10:02:03.123456
  last beat    #812 of incarnation 7
  heartbeats   1,812 (3 missing, 0 duplicate, 0 reordered, 0 stale)
  restarts     1
  reactor      0
  verdicts     never called down wrongly
transitions, newest first (UTC)
  10:02:06.173460  suspect → down       silent for 3.05 s since #812, called 4 µs late"
    );
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: StatusArgs,
}

fn args(line: &str) -> StatusArgs {
    Line::parse_from(line.split(' ')).args
}

#[test]
fn the_overview_is_exact() {
    let peers = vec![down().summary, PeerSummary { group: String::new(), ..peer("left").summary }];
    let listing = Listing { summary: summary(), peers, truncated: true, ..Listing::default() };
    assert_eq!(
        overview(&listing, &args("status"), Terminal::PLAIN),
        "monitor 00000000000000a1 (0.1.0), running for 2h 4m, 3 reactors by uring on udp 0.0.0.0:4600
50,000 peers: 49,499 up, 0 suspect, 500 down, 1 left; 49,500 heartbeats/s; last event #50501
dropped or refused: 12 drop_text

PEER   GROUP  STATE    FOR  LAST HEARD       SILENT  INTERVAL  SAYS
web-1  web    down   2m 3s  10:02:03.123456   2m 6s       1 s  ok
web-1  -      left   4m 8s  10:02:03.123456  400 ms       1 s  ok
… 2 peers shown, there are more: --limit N, --state, --group, --prefix, --all"
    );
}

#[test]
fn an_empty_overview_says_why() {
    let check = |line: &str, anybody, says: &str| {
        let listing = Listing { summary: summary(), anybody, ..Listing::default() };
        let text = overview(&listing, &args(line), Terminal::PLAIN);
        assert!(text.ends_with(&format!("\n\n{says}")), "{line}: {text}");
    };
    check("status", false, "Everybody is up.");
    check("status --state down", false, "Nobody is in state down.");
    check("status --group web", true, "All who match are up: group web.");
    check("status --group wbe", false, "Nobody matches: group wbe.");
    check("status --label a=b --prefix x --all", false, "Nobody matches: name x…, label a=b.");
    check(
        "status --incident 3 --state left",
        true,
        "Of those who match nobody is in state left: incident #3.",
    );
    let fresh = Summary { peers: PeerCounts::default(), ..summary() };
    let listing = Listing { summary: fresh, ..Listing::default() };
    let text = overview(&listing, &args("status"), Terminal::PLAIN);
    assert!(text.contains("Nobody has beaten yet."));
}

#[test]
fn a_group_is_told_in_its_own_figures() {
    let peers = PeerCounts { up: 38, down: 2, total: 40, ..PeerCounts::default() };
    let qos = Qos {
        detections: 2,
        detection_time_ns: Some(3_050_000_000),
        detection_time_max_ns: Some(3_060_000_000),
        loss: 0.000_25,
        query_accuracy: 1.0,
        ..Qos::default()
    };
    let group = Some(GroupQos { group: "web".into(), peers, qos });
    let listing = Listing { summary: summary(), group, anybody: true, ..Listing::default() };
    let text = overview(&listing, &args("status --group web"), Terminal::PLAIN);
    assert_eq!(
        text.lines().skip(1).take(5).collect::<Vec<_>>(),
        [
            "50,000 peers in all; 49,500 heartbeats/s; last event #50501",
            "group web, 40 peers: 38 up, 0 suspect, 2 down, 0 left",
            "  called down 2 times, 3.05 s after the last heartbeat on average, 3.06 s at most",
            "  never called down wrongly",
            "  loss 0.0250 %",
        ]
    );
}

#[test]
fn who_is_missing_is_named() {
    let mut summary = summary();
    summary.alarms.missing = 10;
    let one = |i| Expected { peer: format!("db-{i}"), wanted: 1, ..Expected::default() };
    let missing = (0..10).map(one).collect();
    let listing = Listing { summary, missing, ..Listing::default() };
    let text = head(&listing, &args("status"), Terminal::PLAIN);
    let line = "10 expected and missing: db-0, db-1, db-2, db-3, db-4, db-5, db-6, db-7, … \
                (systole expected)";
    assert!(text.lines().any(|l| l == line), "{text}");
}

#[test]
fn which_peers_to_list_and_how_many() {
    let limits = ["status", "status --all", "status --all --limit 5", "status --limit 0"];
    assert_eq!(limits.map(|line| args(line).most()), [20, usize::MAX, 5, usize::MAX]);
    assert_eq!(args("status").states(), NOT_UP.map(Some));
    assert_eq!(args("status --all").states(), [None]);
    assert_eq!(args("status --state all").states(), [None]);
    assert_eq!(args("status --state down").states(), [Some("down")]);
}

#[test]
fn what_else_is_known_of_a_peer_is_told() {
    use crate::api::{Conflict, Parent, Silence};
    let mut peer = peer("unreachable");
    peer.parent = Some(Parent {
        name: "switch-1".into(),
        state: "down".into(),
        since: Some("2026-11-23T10:02:01.523456000Z".into()),
    });
    peer.incident = Some(3);
    peer.summary.flapping = true;
    peer.conflict = Some(Conflict {
        began: "2026-11-23T10:01:01.523456000Z".into(),
        seen: "2026-11-23T10:02:01.523456000Z".into(),
        incarnations: vec![9, 9],
    });
    peer.silence = Some(Silence {
        id: 2,
        reason: "new kernel".into(),
        until: "2026-11-23T12:00:00.000000000Z".into(),
        ..Silence::default()
    });
    assert_eq!(
        verdict(&peer),
        "unreachable for 2m 3s: silent since 10:02:03.123456 (last heartbeat #812), and so is \
         switch-1, which it is behind"
    );
    let rows = circumstances(&peer, now(&peer));
    let text: Vec<String> = rows.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let expected = [
        "parent: switch-1, down since 10:02:01.523456 (2 s)",
        "incident: #3 (systole incidents)",
        "flapping: yes: its changes are told once, and raise no incident",
        "two senders: since 10:01:01.523456, both of incarnation 9; give each another name",
        "silenced: until 12:00:00.000000 by #2: new kernel",
    ];
    assert_eq!(text, expected);
}

#[test]
fn mistakes_are_told_in_chens_figures() {
    let qos = Qos {
        mistakes: 2,
        mistake_recurrence_ns: Some(86_400_000_000_000),
        mistake_duration_ns: Some(4_000_000_000),
        query_accuracy: 0.999_953_7,
        wrong_suspicions: 1,
        ..Qos::default()
    };
    assert_eq!(
        quality(&qos),
        "called down wrongly 2 times, once in 1d 0h, for 4 s on average; right 99.9954 % of the \
         time; suspected wrongly once"
    );
}

#[test]
fn the_overview_says_what_is_the_matter() {
    use crate::api::AlarmCounts;
    let alarms_of = |counts| {
        let lines = alarms(&Summary { alarms: counts, ..summary() });
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    };
    assert!(alarms_of(AlarmCounts::default()).is_empty());
    let all = AlarmCounts {
        incidents: 1,
        held: 600,
        blind_ns: 2_100_000_000,
        extended: 7,
        silences: 1,
        in_conflict: 2,
        conflicts: 5,
        ..AlarmCounts::default()
    };
    let expected = [
        "1 incident open, 600 held as suspect: see systole incidents",
        "2 names have two senders: see systole incidents",
        "the monitor did not run for 2.1 s; 7 verdicts extended",
        "1 silence (systole silence list)",
    ];
    assert_eq!(alarms_of(all), expected);
    let lost = |kernel_drops, blind_ns, deaf_ns| {
        let alarms = AlarmCounts { blind_ns, deaf_ns, ..AlarmCounts::default() };
        super::alarms(&Summary { alarms, kernel_drops, ..summary() }).remove(0).1
    };
    let ours = |blind_ns, deaf_ns| lost(9, blind_ns, deaf_ns);
    assert_eq!(
        lost(0, 2_100_000_000, 400_000_000),
        "the monitor did not run for 2.1 s, and may have lost what was sent in 400 ms of it, at the \
         restart; 0 verdicts extended"
    );
    let (a, b) = (2_100_000_000, 400_000_000);
    assert_eq!(ours(0, b), "the monitor lost heartbeats in a time of 400 ms; 0 verdicts extended");
    assert_eq!(
        ours(a, a),
        "the monitor did not run for 2.1 s, and may have lost what was sent meanwhile; 0 verdicts \
         extended"
    );
    assert_eq!(
        ours(a, b),
        "the monitor did not run for 2.1 s, and lost heartbeats in a time of 400 ms, in part perhaps \
         the same; 0 verdicts extended"
    );
}
