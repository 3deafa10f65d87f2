//! The server in this process, over real sockets, before reactors in the test's hands.

use super::*;
use crate::api::{ErrorBody, Event, EventGap, PeerDetail, PeerPage, Removal, Summary};
use crate::control::ControlConfig;
use crate::control::testing::{FakeMonitor, config};
use crate::engine::transition::PeerState;
use crate::metrics::{Counter, HistogramKind};
use crate::reactor::Command;
use crate::wire::{PeerId, Status};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

pub(super) struct Site {
    pub(super) monitor: FakeMonitor,
    base: String,
    stop: watch::Sender<bool>,
    server: Option<Server>,
}

impl Site {
    pub(super) fn open(monitor: FakeMonitor) -> Site {
        Site::open_within(MAX_SUBSCRIBERS, Limits::default(), monitor)
    }

    fn open_within(most_subscribers: usize, limits: Limits, monitor: FakeMonitor) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, shutdown) = watch::channel(false);
        let server =
            serve_within(most_subscribers, limits, listener, monitor.state.clone(), shutdown)
                .unwrap();
        Site { monitor, base, stop, server: Some(server) }
    }

    /// Status, content type and body of an answer, errors included.
    fn ask(&self, method: &str, path: &str) -> (u16, String, String) {
        let request = ureq::http::Request::builder().method(method).uri(self.base.clone() + path);
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.run(request.body(()).unwrap()).unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), kind, answer.body_mut().read_to_string().unwrap())
    }

    /// As `ask`, with a body of JSON.
    fn send(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(self.base.clone() + path)
            .header("content-type", "application/json");
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.run(request.body(body).unwrap()).unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), kind, answer.body_mut().read_to_string().unwrap())
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, _, body) = self.ask("GET", path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn check_error(&self, method: &str, path: &str, status: u16, code: &str) {
        let (got, kind, body) = self.ask(method, path);
        assert_eq!((got, &*kind), (status, "application/json"), "{method} {path}: {body}");
        let error: ErrorBody = serde_json::from_str(&body).unwrap();
        assert_eq!(error.error.code, code, "{method} {path}");
        assert!(error.error.message.len() > 10, "{method} {path}: a sentence");
    }

    pub(super) fn follow(&self, query: &str) -> Stream {
        let answer = ureq::get(format!("{}/api/v1/events{query}", self.base)).call().unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let body =
            BufReader::new(Box::new(answer.into_body().into_reader()) as Box<dyn Read + Send>);
        Stream { body, id: String::new() }
    }

    pub(super) fn close(mut self) {
        self.stop.send(true).unwrap();
        self.server.take().unwrap().join().unwrap();
    }
}

/// A follower of the events.
pub(super) struct Stream {
    body: BufReader<Box<dyn Read + Send>>,
    /// The last `id:`.
    id: String,
}

#[derive(Debug)]
pub(super) enum Heard {
    Transition(Box<Event>),
    Gap(EventGap),
    Note(Box<api::Note>),
}

impl Iterator for Stream {
    type Item = Heard;

    fn next(&mut self) -> Option<Heard> {
        let mut kind = String::new();
        loop {
            let mut line = String::new();
            if self.body.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => self.id = id.to_owned(),
                Some(("event", event)) => kind = event.to_owned(),
                Some(("data", data)) if kind == "gap" => {
                    return Some(Heard::Gap(serde_json::from_str(data).unwrap()));
                }
                Some(("data", data)) if kind != "transition" => {
                    let note = api::Note::parse(&kind, data).expect("a note's name");
                    return Some(Heard::Note(Box::new(note.unwrap())));
                }
                Some(("data", data)) => {
                    return Some(Heard::Transition(serde_json::from_str(data).unwrap()));
                }
                _ => {}
            }
        }
    }
}

impl Stream {
    /// The next note of an incident, past transitions: what became of it, and of which.
    fn incident(&mut self) -> (String, u32) {
        let note = self.find_map(|heard| match heard {
            Heard::Note(note) => Some(*note),
            _ => None,
        });
        match note {
            Some(api::Note::Incident(note)) => (note.step, note.incident.id),
            other => panic!("an incident was due: {other:?}"),
        }
    }

    pub(super) fn sequence(&mut self) -> u64 {
        match self.next() {
            Some(Heard::Transition(event)) => event.seq,
            other => panic!("a transition was due: {other:?}"),
        }
    }
}

fn fleet() -> FakeMonitor {
    let mut monitor = FakeMonitor::new(2, 1_000);
    for i in 0..30 {
        let state = if i % 10 == 0 { PeerState::Down } else { PeerState::Up };
        monitor.add(&format!("web-{i}"), "web", &[("rack", "r7")], state);
    }
    monitor.add("rack 7/unit ü", "", &[], PeerState::Up);
    monitor.publish();
    monitor
}

#[test]
fn the_answers_are_those_of_the_api() {
    let site = Site::open(fleet());
    let summary: Summary = site.get("/api/v1/summary");
    assert_eq!((summary.peers.down, summary.peers.total), (3, 31));
    let page: PeerPage = site.get("/api/v1/peers?limit=1000&state=down&group=web&label=rack%3Dr7");
    assert_eq!(page.peers.len(), 3);
    assert!(page.next.is_none());
    let first: PeerPage = site.get("/api/v1/peers?limit=20");
    let rest: PeerPage =
        site.get(&format!("/api/v1/peers?limit=20&cursor={}", first.next.unwrap()));
    assert_eq!(first.peers.len() + rest.peers.len(), 31);
    for path in ["rack%207%2Funit%20%C3%BC", "rack%207/unit%20%C3%BC"] {
        let detail: PeerDetail = site.get(&format!("/api/v1/peers/{path}"));
        assert_eq!(detail.summary.name, "rack 7/unit ü");
    }
    let histograms: api::Histograms = site.get("/api/v1/histograms?since=interval&buckets=1");
    assert_eq!(histograms.histograms.len(), HistogramKind::ALL.len());
    let (status, _, body) = site.ask("POST", "/api/v1/histograms/reset");
    assert_eq!(status, 200, "{body}");
    for (path, kind) in [
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/", "text/html; charset=utf-8"),
    ] {
        let (status, got, _) = site.ask("GET", path);
        assert_eq!((status, &*got), (200, kind), "{path}");
    }
    site.close();
}

/// The API leaves out what extended no deadline, and an older one the members of a mass silence that is
/// held. A page that trips over such a thing must not hide it.
#[test]
fn the_page_bears_lists_that_are_left_out_and_swallows_no_error() {
    let event = serde_json::to_string(&api::Event::default());
    assert!(!event.unwrap().contains("extended_by"));
    for guarded in ["if (i.first?.length)", "e.extended_by ?? []"] {
        assert!(super::PAGE.contains(guarded), "{guarded}");
    }
    assert!(!super::PAGE.contains("catch(() => {})") && !super::PAGE.contains("catch {}"));
}

/// An incident begins and ends by time alone, behind a transition that all have seen.
#[test]
fn who_was_away_or_is_new_knows_what_is_open_and_hears_it_end() {
    let mut site = Site::open(fleet());
    let new = api::NewSilence { selector: "db-*".into(), for_ns: 1 << 40, reason: String::new() };
    let silence = site.monitor.state.silence(new).unwrap();
    let down = ["db-0", "db-1"].map(|name| site.monitor.add(name, "db", &[], PeerState::Down));
    site.monitor.report_transition(PeerId::of("web-1"), PeerState::Up, PeerState::Suspect);
    let settle = |site: &mut Site| {
        for _ in 0..4 {
            site.monitor.publish();
            site.monitor.obey();
        }
    };
    settle(&mut site);
    let mut always = site.follow("?after=0&notes=1");
    assert_eq!(always.sequence(), 1);
    let before = always.id.clone();
    site.monitor.state.end_silence(silence.id).unwrap();
    settle(&mut site);
    let opened = ("opened".to_owned(), 1);
    assert_eq!(always.incident(), opened);
    let mut returned = site.follow(&format!("?after={before}&notes=1"));
    assert_eq!(returned.incident(), opened, "it has not heard of it");
    assert_eq!(returned.id, always.id);
    let mut knows = site.follow(&format!("?after={}&notes=1", always.id));
    let mut new = site.follow("?notes=1");
    assert_eq!(new.incident(), ("open".to_owned(), 1));
    assert_eq!(new.id, always.id);
    let mut other = site.follow("?notes=1&group=web");
    for peer in down {
        site.monitor.report_transition(peer, PeerState::Down, PeerState::Up);
    }
    site.monitor.report_transition(PeerId::of("web-1"), PeerState::Suspect, PeerState::Up);
    settle(&mut site);
    for follower in [&mut always, &mut returned, &mut knows, &mut new] {
        assert_eq!(follower.incident(), ("closed".to_owned(), 1));
    }
    // Of another group, it hears of no incident.
    assert!((2..=4).contains(&other.sequence()));
    site.close();
}

#[test]
fn incidents_silences_expectations_and_quality_are_served() {
    let mut site = Site::open(fleet());
    for (peer, status) in [
        ("web-1", Status::Warn),
        ("web-2", Status::Critical),
        ("web-3", Status::Critical),
        // It is down, and what it last said is long ago.
        ("web-0", Status::Critical),
    ] {
        site.monitor.say(PeerId::of(peer), status);
    }
    site.monitor.obey();
    site.monitor.survey();
    let failing: PeerPage = site.get("/api/v1/peers?failing=1&state=up");
    assert_eq!(failing.peers.len(), 3);
    let mut stream = site.follow("?after=0&notes=1");
    let mut transitions = site.follow("?after=0");
    for i in 0..4 {
        let peer = PeerId::of(&format!("web-{i}"));
        site.monitor.report_transition(peer, PeerState::Suspect, PeerState::Down);
    }
    site.monitor.publish();
    // Two downs, a third that makes a crowd, the incident behind it, a fourth.
    assert_eq!((0..3).map(|_| stream.sequence()).collect::<Vec<_>>(), [1, 2, 3]);
    match stream.next() {
        Some(Heard::Note(note)) => {
            assert_eq!((note.event(), note.head().seq), ("incident", 3));
        }
        other => panic!("an incident was due: {other:?}"),
    }
    assert_eq!(stream.sequence(), 4);
    let plain: Vec<u64> = (0..4).map(|_| transitions.sequence()).collect();
    assert_eq!(plain, [1, 2, 3, 4], "who asks for transitions alone gets just these");
    let incidents: api::Incidents = site.get("/api/v1/incidents?closed=1");
    assert_eq!((incidents.open.len(), incidents.open[0].down), (1, 4));
    assert_eq!(incidents.open[0].first, ["web-0", "web-1", "web-2", "web-3"]);
    let members: PeerPage = site.get("/api/v1/peers?incident=1");
    assert_eq!(members.peers.len(), 4);

    let new = r#"{"selector":"web-*","for_ns":3600000000000,"reason":"kernel"}"#;
    let (status, _, body) = site.send("POST", "/api/v1/silences", new);
    assert_eq!(status, 201, "{body}");
    let added: api::Silence = serde_json::from_str(&body).unwrap();
    assert_eq!((added.id, added.reason.as_str(), added.matches), (1, "kernel", Some(30)));
    let all: api::Silences = site.get("/api/v1/silences");
    assert_eq!(all.silences.len(), 1);
    for (body, code) in [
        ("{}", 400),
        (r#"{"selector":"","for_ns":3600000000000}"#, 400),
        (r#"{"selector":"x","for_ns":1}"#, 400),
        (r#"{"selector":"x","for_ns":3600000000000,"colour":1}"#, 400),
    ] {
        let (status, _, answer) = site.send("POST", "/api/v1/silences", body);
        assert_eq!(status, code, "{body}: {answer}");
        let error: ErrorBody = serde_json::from_str(&answer).unwrap();
        assert!(error.error.message.len() > 10, "{answer}");
    }
    let (status, ..) = site.ask("DELETE", "/api/v1/silences/1");
    assert_eq!(status, 200);
    site.check_error("DELETE", "/api/v1/silences/1", 404, "not_found");
    site.check_error("DELETE", "/api/v1/silences/x", 404, "not_found");
    site.check_error("GET", "/api/v1/incidents?closed=maybe", 400, "bad_request");
    site.check_error("GET", "/api/v1/qos?limit=1001", 400, "bad_request");

    let expected: api::Expectations = site.get("/api/v1/expected?all=1");
    assert_eq!(expected, api::Expectations::default());
    let qos: api::QosReport = site.get("/api/v1/qos?group=web");
    assert_eq!((qos.groups.len(), qos.groups[0].peers.total), (1, 30));
    assert_eq!(qos.fleet.detections, 4);
    let (_, _, body) = site.ask("GET", "/metrics");
    for line in [
        "systole_incidents_open 1",
        "systole_peers{state=\"unreachable\"} 0",
        "systole_living_peers{scope=\"fleet\"} 28",
        "systole_peer_status{status=\"ok\"} 25",
        "systole_peer_status{status=\"warn\"} 1",
        "systole_peer_status{status=\"critical\"} 2",
        "systole_living_peers{scope=\"group\",group=\"web\"} 27",
        "systole_detections_total{scope=\"group\",group=\"web\"} 4.0",
        "systole_mistakes_total{scope=\"fleet\"} 0.0",
        "systole_incidents_refused_total 0",
    ] {
        assert!(body.lines().any(|l| l == line), "no `{line}` in\n{body}");
    }
    site.close();
}

#[test]
fn every_error_is_json_with_a_code_and_a_sentence() {
    let site = Site::open(fleet());
    site.check_error("GET", "/nothing", 404, "not_found");
    site.check_error("GET", "/api/v1/peers/nobody", 404, "not_found");
    site.check_error("DELETE", "/api/v1/peers/nobody", 404, "not_found");
    site.check_error("POST", "/api/v1/peers", 405, "method_not_allowed");
    for query in [
        "peers?state=gone",
        "peers?limit=0",
        "peers?cursor=zzz",
        "peers?color=red",
        "peers/%FF",
        "events?after=x",
        "histograms?since=monday",
        "histograms?buckets=2",
    ] {
        site.check_error("GET", &format!("/api/v1/{query}"), 400, "bad_request");
    }
    site.close();
    let site = Site::open(FakeMonitor::new(0, 1));
    site.check_error("GET", "/readyz", 503, "unavailable");
    site.check_error("GET", "/api/v1/peers/web-1", 503, "unavailable");
    site.close();
}

#[test]
fn a_removal_is_handed_to_the_reactor_that_owns_the_peer() {
    let mut site = Site::open(fleet());
    let (status, _, body) = site.ask("DELETE", "/api/v1/peers/web-3");
    assert_eq!(status, 202, "{body}");
    let peer = PeerId::of("web-3");
    let removal: Removal = serde_json::from_str(&body).unwrap();
    let id = peer.to_string();
    assert_eq!(removal, Removal { name: "web-3".into(), id, ..Removal::default() });
    let commands = site.monitor.owner(peer).handle.commands.clone();
    let mut asked = std::iter::from_fn(|| commands.pop());
    assert!(asked.any(|command| command == Command::Remove { peer }));
    while commands.push(Command::Remove { peer }).is_ok() {}
    site.check_error("DELETE", "/api/v1/peers/web-3", 503, "unavailable");
    site.close();
}

#[test]
fn a_follower_gets_what_comes_what_was_and_the_end() {
    let mut site = Site::open(fleet());
    let down = |monitor: &mut FakeMonitor, i: u32| {
        let peer = PeerId::of(&format!("web-{i}"));
        monitor.report_transition(peer, PeerState::Suspect, PeerState::Down);
        monitor.publish();
    };
    (0..10).for_each(|i| down(&mut site.monitor, i));
    let mut from_now = site.follow("");
    let mut from_start = site.follow("?after=0");
    let mut resumed = site.follow("?after=7");
    let mut another_epoch = site.follow("?after=9999");
    let mut chosen = site.follow("?after=0&peer=web-4");
    down(&mut site.monitor, 11);
    assert_eq!(from_now.sequence(), 11);
    assert_eq!((0..11).map(|_| from_start.sequence()).collect::<Vec<_>>(), Vec::from_iter(1..=11));
    assert_eq!((0..4).map(|_| resumed.sequence()).collect::<Vec<_>>(), [8, 9, 10, 11]);
    assert_eq!(another_epoch.sequence(), 1);
    assert_eq!(chosen.sequence(), 5);
    down(&mut site.monitor, 12);
    site.close();
    // The last event came although the server was ending, and then the end.
    assert_eq!((from_now.sequence(), from_now.next().is_none()), (12, true));
    assert!(chosen.next().is_none());
}

#[test]
fn a_follower_is_told_what_the_ring_no_longer_holds() {
    let config = ControlConfig { ring_capacity: 100, ..config() };
    let mut monitor = FakeMonitor::with_config(config, 1, 10);
    (1..=250).for_each(|id| monitor.report_transition(PeerId(id), PeerState::Up, PeerState::Down));
    monitor.publish();
    let site = Site::open(monitor);
    let mut late = site.follow("?after=20");
    match late.next() {
        Some(Heard::Gap(gap)) => assert_eq!(gap, EventGap { from_seq: 21, to_seq: 150 }),
        other => panic!("a gap was due: {other:?}"),
    }
    assert_eq!((0..100).map(|_| late.sequence()).collect::<Vec<_>>(), Vec::from_iter(151..=250));
    // Number 200 was given here too, but the one that this follower has seen was another's.
    let mut from_before = site.follow("?after=200&epoch=1");
    match from_before.next() {
        Some(Heard::Gap(gap)) => assert_eq!(gap, EventGap { from_seq: 1, to_seq: 150 }),
        other => panic!("a gap was due: {other:?}"),
    }
    assert_eq!(from_before.sequence(), 151);
    let epoch = crate::control::testing::config().epoch_ns;
    assert_eq!(site.follow(&format!("?after=200&epoch={epoch}")).sequence(), 201);
    site.close();
}

#[test]
fn one_follower_too_many_is_refused_and_counted() {
    let site = Site::open_within(2, Limits::default(), fleet());
    let followers = [site.follow(""), site.follow("")];
    site.check_error("GET", "/api/v1/events", 503, "unavailable");
    // A wrong question is told so, whether or not there is room.
    site.check_error("GET", "/api/v1/events?after=x", 400, "bad_request");
    let (_, _, body) = site.ask("GET", "/metrics");
    for line in [
        "systole_subscribers 2",
        "systole_max_subscribers 2",
        "systole_subscribers_refused_total 1",
    ] {
        assert!(body.lines().any(|l| l == line), "no `{line}` in\n{body}");
    }
    site.close();
    drop(followers);
}

#[test]
fn who_does_not_ask_in_time_loses_its_place_and_a_follower_keeps_its() {
    let limits = Limits { connections: 3, patience: Duration::from_millis(100) };
    let mut site = Site::open_within(MAX_SUBSCRIBERS, limits, fleet());
    let mut follower = site.follow("");
    let address = site.base.strip_prefix("http://").unwrap();
    let connect = |sent: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        stream
    };
    let half = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
    let held = [connect(""), connect(half)];
    // All places are taken: this one is answered once one is free again, and then idles.
    let mut waiting = connect("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    for mut stream in held {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "closed without an answer");
    }
    let body = "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let mut slow = connect(&format!("POST /api/v1/silences HTTP/1.1\r\nHost: x\r\n{body}"));
    let mut refusal = String::new();
    slow.read_to_string(&mut refusal).unwrap();
    assert!(refusal.starts_with("HTTP/1.1 400") && refusal.contains("in time"), "{refusal}");
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    site.monitor.report_transition(PeerId::of("web-1"), PeerState::Suspect, PeerState::Down);
    site.monitor.publish();
    assert_eq!(follower.sequence(), 1, "an answer under way has its time");
    site.close();
}

#[test]
fn a_scrape_is_open_metrics() {
    let mut site = Site::open(fleet());
    site.monitor.report_transition(PeerId::of("web-1"), PeerState::Suspect, PeerState::Down);
    site.monitor.publish();
    let handle = &site.monitor.reactors[1].handle;
    handle.counters.add(Counter::Heartbeats, 12);
    handle.counters.add(Counter::DropMagic, 3);
    handle.histograms.of(HistogramKind::Lateness).record(3_000);
    let (status, kind, body) = site.ask("GET", "/metrics");
    assert_eq!(status, 200);
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    for line in [
        "systole_peers{state=\"down\"} 3",
        "systole_heartbeats_total{reactor=\"1\"} 12",
        "systole_datagrams_dropped_total{reason=\"magic\"} 3",
        "systole_datagrams_dropped_total{reason=\"runt\"} 0",
        "systole_heartbeats_refused_total{reason=\"stale\"} 0",
        "systole_kernel_drops_total{reactor=\"0\"} 0",
        "systole_transitions_total{from=\"suspect\",to=\"down\"} 1",
        "systole_lateness_seconds_bucket{le=\"0.0000025\"} 0",
        "systole_lateness_seconds_bucket{le=\"0.000005\"} 1",
        "systole_lateness_seconds_bucket{le=\"+Inf\"} 1",
        "systole_lateness_seconds_count 1",
    ] {
        assert!(body.lines().any(|l| l == line), "no `{line}` in\n{body}");
    }
    let build = "systole_build_info{version=";
    assert!(body.lines().any(|l| l.starts_with(build)), "no {build}");
    assert!(body.contains("process_resident_memory_bytes "));
    assert!(body.ends_with("# EOF\n"));
    site.close();
}
