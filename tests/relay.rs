//! The relay as a process between senders and monitors, over loopback: what comes through, how old it
//! is, what its death means, and whom it believes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use systole::api::{Event, Incidents, PeerDetail, Summary};
use systole::cli::client::Client;
use systole::config::keys_file;
use systole::wire::{Heartbeat, Key, Kind, PeerId, Profile, Status, encode_beat, encode_hello};

const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");
/// Longest wait for anything; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
const SENDERS: usize = 200;

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill(2) takes integers; the process is our child and not yet waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of a pipe, read by a thread of their own, so that waiting for one has an end.
struct Lines(Receiver<String>);

impl Lines {
    fn of(stderr: ChildStderr) -> Lines {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let read = BufReader::new(stderr).lines().map_while(Result::ok);
            read.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        Lines(lines)
    }

    /// Reads on to the line with this in it.
    #[track_caller]
    fn until(&self, part: &str) -> String {
        let mut said = Vec::new();
        loop {
            match self.0.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => said.push(line),
                Err(_) => panic!("no word of {part} in {said:#?}"),
            }
        }
    }
}

fn start(arguments: &[&str]) -> (Process, String, Lines) {
    let mut process = Command::new(SYSTOLE)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let log = Lines::of(process.stderr.take().expect("it is piped"));
    let mut ready = String::new();
    let out = process.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut ready).expect("it says something");
    if ready.is_empty() {
        panic!("not ready: {:?}", log.0.iter().collect::<Vec<_>>());
    }
    (Process(process), ready.trim_end().to_owned(), log)
}

struct Monitor {
    _process: Process,
    udp: String,
    client: Client,
    _watch: Process,
    events: BufReader<ChildStdout>,
}

impl Monitor {
    fn start(options: &[&str]) -> Monitor {
        let serve =
            ["serve", "--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state-dir", "none"];
        let (process, ready, _) = start(&[&serve, options].concat());
        let said = ready.strip_prefix("ready udp=").expect("it is ready");
        let (udp, http) = said.split_once(" http=").expect("both addresses");
        let mut watch = Command::new(SYSTOLE)
            .args(["watch", "--json", "--after", "0", "--http", http])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let events = BufReader::new(watch.stdout.take().expect("it is piped"));
        let client = Client::new(http).expect("an address");
        let udp = udp.to_owned();
        Monitor { _process: process, udp, client, _watch: Process(watch), events }
    }

    fn next(&mut self) -> Event {
        let mut line = String::new();
        self.events.read_line(&mut line).expect("the stream goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn until(&mut self, peer: &str, to: &str) -> Event {
        loop {
            let event = self.next();
            if (event.peer.as_str(), event.to.as_str()) == (peer, to) {
                return event;
            }
        }
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        self.client.get(path).unwrap_or_else(|failure| panic!("{path}: {failure}"))
    }

    /// Asks again until it is so.
    #[track_caller]
    fn eventually(&self, what: &str, is_so: impl Fn(&Monitor) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < end, "never {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn parent_of(&self, peer: &str) -> Option<String> {
        let detail: PeerDetail = self.get(&format!("/api/v1/peers/{peer}"));
        detail.parent.map(|parent| parent.name)
    }
}

struct Relay {
    process: Process,
    udp: String,
    log: Lines,
}

impl Relay {
    fn start(to: &[&Monitor], options: &[&str]) -> Relay {
        let to: Vec<&str> = to.iter().map(|monitor| monitor.udp.as_str()).collect();
        let to = to.join(",");
        let fixed = ["relay", "--to", &to, "--name", "relay-1", "--interval", "500ms"];
        let anywhere = ["--udp", "127.0.0.1:0"];
        let anywhere = if options.contains(&"--udp") { &[][..] } else { &anywhere[..] };
        let (process, ready, log) = start(&[&fixed, anywhere, options].concat());
        let udp = ready.strip_prefix("ready udp=").expect("it is ready").to_owned();
        Relay { process, udp, log }
    }

    /// What it counted, as its line says it.
    fn count(&self, what: &str) -> u64 {
        self.process.signal(libc::SIGUSR1);
        counted(&self.log.until(" received="), what)
    }
}

fn counted(line: &str, what: &str) -> u64 {
    let words = line.split(' ').filter_map(|word| word.split_once('='));
    let found = words.into_iter().find(|(key, _)| *key == what);
    found.map_or(0, |(_, value)| value.parse().expect("a number"))
}

fn beat(name: &str, sequence: u32) -> Heartbeat {
    Heartbeat {
        peer: PeerId::of(name),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 1,
        sequence,
        interval_us: 500_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

fn hello(name: &str, sequence: u32) -> Vec<u8> {
    let mut datagram = Vec::new();
    let profile = Profile::new(name, "rack", &[]).expect("valid words");
    encode_hello(&beat(name, sequence), &profile, &mut datagram);
    datagram
}

fn sender(number: usize) -> String {
    format!("node-{number}")
}

/// Beats for all senders but the one that is killed, every 100 ms, until it is over.
fn beat_on(to: &str, killed: &AtomicUsize, over: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(to).expect("an address");
    let mut sequence = 0;
    // Relaxed: nothing else is told by these.
    while !over.load(Ordering::Relaxed) {
        sequence += 1;
        for number in (0..SENDERS).filter(|number| *number != killed.load(Ordering::Relaxed)) {
            let name = sender(number);
            let datagram = match sequence % 16 {
                1 => hello(&name, sequence),
                _ => encode_beat(&beat(&name, sequence)).to_vec(),
            };
            // The relay may be dead by now.
            let _ = socket.send(&datagram);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The relay carries nearly all of the fleet, so its death would be a mass silence.
const ALONE: [&str; 2] = ["--mass-silence", "off"];

#[test]
fn two_hundred_behind_a_relay_and_its_death() {
    // What a relay brings to the one reactor may be the other's.
    let two_reactors = [&ALONE[..], &["--reactors", "2"]].concat();
    let (mut near, far) = (Monitor::start(&two_reactors), Monitor::start(&ALONE));
    let mut relay = Relay::start(&[&near, &far], &[]);
    let (killed, over) = (AtomicUsize::new(usize::MAX), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let to = relay.udp.clone();
        let (killed, over) = (&killed, &over);
        scope.spawn(move || beat_on(&to, killed, over));
        // Ends the senders however this ends.
        let _over = Ended(over);

        for monitor in [&near, &far] {
            monitor.eventually("all up", |monitor| {
                let summary: Summary = monitor.get("/api/v1/summary");
                summary.peers.up == SENDERS as u64 + 1
            });
            monitor.eventually("the relay their parent", |monitor| {
                let is_parent = |n| monitor.parent_of(&sender(n)).as_deref() == Some("relay-1");
                (0..SENDERS).all(is_parent)
            });
            assert_eq!(monitor.parent_of("relay-1"), None);
        }
        // Relaxed: see `beat_on`.
        killed.store(7, Ordering::Relaxed);
        let down = near.until("node-7", "down");
        assert_eq!((&*down.reason, &*down.group), ("silence", "rack"));
        // Three times 500 ms and the grace, from when the relay heard it: the way is not added.
        let expected_ns = 1_550_000_000 + down.extended_ns + down.lateness_ns;
        assert_eq!(down.detection_time_ns, expected_ns, "{down:?}");
        // Heard since, the relay cannot have been the reason.
        let heard = |near: &Monitor| {
            let detail: PeerDetail = near.get("/api/v1/peers/relay-1");
            detail.heartbeats
        };
        let before = heard(&near);
        near.eventually("the relay heard", |near| heard(near) > before);
        let summary: Summary = near.get("/api/v1/summary");
        // Of two reactors one may be behind the other; that is all that may be refused.
        let refused =
            summary.dropped.iter().filter(|(why, count)| *why != "reordered" && **count > 0);
        assert_eq!((summary.peers.down, refused.collect::<Vec<_>>()), (1, vec![]));

        relay.process.0.kill().expect("it runs");
        relay.process.0.wait().expect("it is ours");
        let mut behind = BTreeSet::new();
        while behind.len() < SENDERS - 1 {
            let event = near.next();
            match (&*event.peer, &*event.to) {
                (peer, "unreachable") => assert!(behind.insert(peer.to_owned()), "{peer} twice"),
                ("relay-1", "down") | (_, "suspect") => {}
                // One that was suspect for a moment before the relay died.
                (_, "up") => {}
                (peer, to) => panic!("{peer} is {to}"),
            }
        }
        near.eventually("the relay down", |near| {
            let detail: PeerDetail = near.get("/api/v1/peers/relay-1");
            detail.summary.state == "down"
        });
        let Incidents { open: incidents, .. } = near.get("/api/v1/incidents");
        let told: Vec<_> = incidents.iter().map(|i| (&*i.kind, i.parent.as_deref())).collect();
        assert_eq!(told, [("parent", Some("relay-1"))], "{incidents:#?}");
        assert_eq!(incidents[0].unreachable, SENDERS as u32 - 1);
    });
}

/// Ends the senders, also when an assertion fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        // Relaxed: see `beat_on`.
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_beat_is_as_old_as_the_relay_has_held_it_and_the_end_sends_what_is_held() {
    let mut monitor = Monitor::start(&[]);
    let mut relay = Relay::start(&[&monitor], &["--max-delay", "1s"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let slow = Heartbeat { interval_us: 60_000_000, ..beat("slow", 1) };
    socket.send_to(&encode_beat(&slow), &relay.udp).unwrap();
    // It has no name: only its id is known.
    let up = monitor.until(&PeerId::of("slow").to_string(), "up");
    assert!(up.detection_time_ns >= 1_000_000_000, "heard when the relay heard it: {up:?}");

    let last = Heartbeat { interval_us: 60_000_000, ..beat("last", 1) };
    socket.send_to(&encode_beat(&last), &relay.udp).unwrap();
    let end = Instant::now() + PATIENCE;
    while relay.count("beats") < 2 {
        assert!(Instant::now() < end, "it never came");
    }
    // Longer than any form: not even the transport keeps it.
    socket.send_to(&[0; 3_000], &relay.udp).unwrap();
    while relay.count("drop_length") < 1 {
        assert!(Instant::now() < end, "it is not counted");
    }
    assert_eq!(relay.count("received"), 3);
    relay.process.signal(libc::SIGTERM);
    let line = relay.log.until(" received=");
    assert_eq!([counted(&line, "packed"), counted(&line, "packs")], [2, 2], "{line}");
    assert_eq!(relay.process.0.wait().expect("it is ours").code(), Some(0));
    let up = monitor.until(&PeerId::of("last").to_string(), "up");
    assert!(up.detection_time_ns < 1_000_000_000, "not held to the end: {up:?}");
    monitor.until("relay-1", "left");
}

#[test]
fn an_agent_beats_directly_while_its_relay_is_dead() {
    let mut monitor = Monitor::start(&ALONE);
    let mut relay = Relay::start(&[&monitor], &[]);
    let port = relay.udp.clone();
    let mut agent = Command::new(SYSTOLE)
        .args(["beat", "--to", &port, "--fallback", &monitor.udp, "--name", "web-1"])
        .args(["--interval", "50ms"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let log = Lines::of(agent.stderr.take().expect("it is piped"));
    let agent = Process(agent);
    let behind = |name: Option<&'static str>| {
        move |monitor: &Monitor| monitor.parent_of("web-1").as_deref() == name
    };
    monitor.until("web-1", "up");
    monitor.eventually("behind the relay", behind(Some("relay-1")));

    // Its process is gone: the host says so.
    relay.process.0.kill().expect("it runs");
    relay.process.0.wait().expect("it is ours");
    log.until("no relay lives");
    monitor.eventually("alone", behind(None));
    let relay = Relay::start(&[&monitor], &["--udp", &port]);
    log.until("a relay answers again");
    monitor.eventually("behind the relay again", behind(Some("relay-1")));

    // Its host is gone: nobody says anything. So it is with a process that is stopped.
    relay.process.signal(libc::SIGSTOP);
    log.until("no relay lives");
    monitor.eventually("alone again", behind(None));
    monitor.eventually("up again", |monitor| {
        let detail: PeerDetail = monitor.get("/api/v1/peers/web-1");
        detail.summary.state == "up"
    });
    relay.process.signal(libc::SIGCONT);
    log.until("a relay answers again");
    agent.signal(libc::SIGTERM);
    monitor.until("web-1", "left");
}

/// A folder of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("systole-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn keygen(arguments: &[&str]) {
    let made = Command::new(SYSTOLE).arg("keygen").args(arguments).output();
    assert!(made.expect("the binary is built").status.success());
}

#[test]
fn keys_are_asked_for_on_both_sides() {
    let folder = Folder::new("relay-keys-test");
    let keys = folder.file("keys");
    keygen(&[&keys]);
    keygen(&["--group", "rack", &keys]);
    let mut monitor = Monitor::start(&["--auth", "required", "--keys", &keys]);
    let dropped = |monitor: &Monitor, why: &str| {
        let summary: Summary = monitor.get("/api/v1/summary");
        summary.dropped.get(why).copied().unwrap_or(0)
    };
    // One that believes everybody and has no key of its own is not believed.
    let stranger = Relay::start(&[&monitor], &[]);
    monitor.eventually("dropped", |monitor| dropped(monitor, "unauthenticated") > 0);
    drop(stranger);

    let own = ["--keys", &keys, "--key", &keys, "--key-id", "1"];
    let relay = Relay::start(&[&monitor], &own);
    monitor.until("relay-1", "up");
    let agent = |name: &str, id: &str, group: &str| {
        let agent = Command::new(SYSTOLE)
            .args(["beat", "--to", &relay.udp, "--fallback", &monitor.udp, "--interval", "50ms"])
            .args(["--name", name, "--key", &keys, "--key-id", id, "--group", group])
            .stderr(Stdio::piped())
            .spawn();
        let mut agent = agent.expect("the binary is built");
        let log = Lines::of(agent.stderr.take().expect("it is piped"));
        (Process(agent), log)
    };
    // The first key covers the relay's, the second does not: its beats go on with their own tags.
    let _wide = agent("wide", "1", "");
    let _narrow = agent("narrow", "2", "rack");
    monitor.eventually("both known", |monitor| {
        let summary: Summary = monitor.get("/api/v1/summary");
        summary.peers.up == 3
    });
    let key_of = |name: &str| {
        let detail: PeerDetail = monitor.get(&format!("/api/v1/peers/{name}"));
        detail.summary.key
    };
    assert_eq!((key_of("wide"), key_of("narrow")), (Some(1), Some(2)));
    monitor.eventually("packed", |monitor| monitor.parent_of("wide").is_some());
    assert_eq!(monitor.parent_of("narrow"), None, "a beat with its own tag came by itself");
    let (beats, passed) = (relay.count("beats"), relay.count("passed_on"));
    assert!(beats > 0 && passed > 2, "{beats} packed, {passed} passed on");

    let before = dropped(&monitor, "unauthenticated");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = encode_beat(&beat("wide", 1)).to_vec();
    socket.send_to(&forged, &relay.udp).unwrap();
    Key::new(1, [7; 32]).unwrap().seal(&mut forged, 0);
    socket.send_to(&forged, &relay.udp).unwrap();
    let mut unknown = encode_beat(&beat("wide", 1)).to_vec();
    Key::new(9, [7; 32]).unwrap().seal(&mut unknown, 0);
    socket.send_to(&unknown, &relay.udp).unwrap();
    let end = Instant::now() + PATIENCE;
    while relay.count("dropped") < 3 {
        assert!(Instant::now() < end, "they never came");
    }
    let each = ["drop_unauthenticated", "drop_bad_tag", "drop_unknown_key"];
    assert_eq!(each.map(|why| relay.count(why)), [1; 3]);
    assert_eq!(dropped(&monitor, "unauthenticated"), before, "none of them went on");
    assert_eq!(dropped(&monitor, "bad_tag") + dropped(&monitor, "key_scope"), 0);

    // A key is added while it runs.
    keygen(&[&keys]);
    relay.process.signal(libc::SIGHUP);
    relay.log.until("keys read: 1, 2, 3");
    let third = keys_file::read(keys.as_ref()).unwrap().remove(2).key;
    let mut late = hello("late", 1);
    third.seal(&mut late, 0);
    socket.send_to(&late, &relay.udp).unwrap();
    let (before, end) = (relay.count("passed_on"), Instant::now() + PATIENCE);
    while relay.count("passed_on") == before {
        assert!(Instant::now() < end, "it is never let in");
    }
}

#[test]
fn wrong_usage_is_2_and_one_line_that_says_what_is_right() {
    let folder = Folder::new("relay-usage-test");
    let (keys, other) = (folder.file("keys"), folder.file("other"));
    keygen(&[&keys]);
    keygen(&[&other]);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, part, one_line) in [
        (vec![], "--to <HOST:PORT>", false),
        (vec!["--to", "a", "--max-delay", "2s"], "give a duration from 100us to 1s", false),
        (vec!["--to", "a", "--udp", "relay:1"], "is not an address", false),
        (vec!["--to", "a", "--name", "x\n"], "is no name", true),
        (vec!["--to", "a", "--key", "/nonexistent"], "cannot read the keys", true),
        (vec!["--to", "a", "--keys", &keys, "--key", &other], "is another one in", true),
        (vec!["--to", "a", "--udp", &taken], "is taken", true),
    ] {
        let output = Command::new(SYSTOLE).arg("relay").args(&arguments).output();
        let output = output.expect("the binary is built");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(!one_line || said.lines().count() == 1, "{arguments:?}: {said}");
    }
}
