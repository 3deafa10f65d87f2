//! The relay as a process between senders and monitors, over loopback: what comes through, how old it
//! is, what its death means, and whom it believes.

use super::common::{
    Folder, Lines, Monitor, PATIENCE, Process, SYSTOLE, beat, hello, ready, systole,
};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use systole::api::Incidents;
use systole::config::keys_file;
use systole::wire::{Key, PeerId, encode_beat};

const SENDERS: usize = 200;
/// That of the senders.
const INTERVAL: Duration = Duration::from_millis(500);
const MINUTE: Duration = Duration::from_secs(60);

fn parent_of(monitor: &Monitor, peer: &str) -> Option<String> {
    monitor.peer(peer).parent.map(|parent| parent.name)
}

struct Relay {
    process: Process,
    udp: String,
    log: Lines,
}

impl Relay {
    fn start(to: &[&Monitor], options: &[&str]) -> Relay {
        let to: Vec<&str> = to.iter().map(|monitor| &*monitor.udp[0]).collect();
        Relay::named("relay-1", &to.join(","), options)
    }

    fn named(name: &str, to: &str, options: &[&str]) -> Relay {
        let fixed = ["relay", "--to", to, "--name", name, "--interval", "500ms"];
        let anywhere = ["--udp", "127.0.0.1:0"];
        let anywhere = if options.contains(&"--udp") { &[][..] } else { &anywhere[..] };
        let mut command = Command::new(SYSTOLE);
        command.args([&fixed, anywhere, options].concat());
        let (process, said, _, log) = ready(&mut command).expect("it is ready");
        let udp = said.strip_prefix("ready udp=").expect("its address").to_owned();
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
                1 => hello(&name, "rack", sequence, INTERVAL),
                _ => encode_beat(&beat(&name, sequence, INTERVAL)).to_vec(),
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
    let (near, far) = (Monitor::start(&two_reactors), Monitor::start(&ALONE));
    let mut watch = near.watch();
    let mut relay = Relay::start(&[&near, &far], &[]);
    let (killed, over) = (AtomicUsize::new(usize::MAX), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let to = relay.udp.clone();
        let (killed, over) = (&killed, &over);
        scope.spawn(move || beat_on(&to, killed, over));
        // Ends the senders however this ends.
        let _over = Ended(over);

        for monitor in [&near, &far] {
            monitor
                .eventually("all up", |monitor| monitor.summary().peers.up == SENDERS as u64 + 1);
            monitor.eventually("the relay their parent", |monitor| {
                let is_parent = |n| parent_of(monitor, &sender(n)).as_deref() == Some("relay-1");
                (0..SENDERS).all(is_parent)
            });
            assert_eq!(parent_of(monitor, "relay-1"), None);
        }
        // Relaxed: see `beat_on`.
        killed.store(7, Ordering::Relaxed);
        let down = watch.until("node-7", "down");
        assert_eq!((&*down.reason, &*down.group), ("silence", "rack"));
        // Three times 500 ms and the grace, from when the relay heard it: the way is not added.
        let expected_ns = 1_550_000_000 + down.extended_ns + down.lateness_ns;
        assert_eq!(down.detection_time_ns, expected_ns, "{down:?}");
        // Heard since, the relay cannot have been the reason.
        let heard = |near: &Monitor| near.peer("relay-1").heartbeats;
        let before = heard(&near);
        near.eventually("the relay heard", |near| heard(near) > before);
        let summary = near.summary();
        // Of two reactors one may be behind the other; that is all that may be refused.
        let refused =
            summary.dropped.iter().filter(|(why, count)| *why != "reordered" && **count > 0);
        assert_eq!((summary.peers.down, refused.collect::<Vec<_>>()), (1, vec![]));

        relay.process.kill();
        let mut behind = BTreeSet::new();
        while behind.len() < SENDERS - 1 {
            let event = watch.next();
            match (&*event.peer, &*event.to) {
                (peer, "unreachable") => assert!(behind.insert(peer.to_owned()), "{peer} twice"),
                ("relay-1", "down") | (_, "suspect") => {}
                // One that was suspect for a moment before the relay died.
                (_, "up") => {}
                (peer, to) => panic!("{peer} is {to}"),
            }
        }
        near.eventually("the relay down", |near| near.peer("relay-1").summary.state == "down");
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
    let monitor = Monitor::start(&[]);
    let mut watch = monitor.watch();
    let mut relay = Relay::start(&[&monitor], &["--max-delay", "1s"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&encode_beat(&beat("slow", 1, MINUTE)), &relay.udp).unwrap();
    // It has no name: only its id is known.
    let up = watch.until(&PeerId::of("slow").to_string(), "up");
    assert!(up.detection_time_ns >= 1_000_000_000, "heard when the relay heard it: {up:?}");

    socket.send_to(&encode_beat(&beat("last", 1, MINUTE)), &relay.udp).unwrap();
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
    assert_eq!(relay.process.wait().code(), Some(0));
    let up = watch.until(&PeerId::of("last").to_string(), "up");
    assert!(up.detection_time_ns < 1_000_000_000, "not held to the end: {up:?}");
    watch.until("relay-1", "left");
}

#[test]
fn an_agent_beats_directly_while_its_relay_is_dead() {
    let monitor = Monitor::start(&ALONE);
    let mut watch = monitor.watch();
    let mut relay = Relay::start(&[&monitor], &[]);
    let port = relay.udp.clone();
    let mut command = Command::new(SYSTOLE);
    command
        .args(["beat", "--to", &port, "--fallback", &monitor.udp[0], "--name", "web-1"])
        .args(["--interval", "50ms"]);
    let (agent, log) = Process::heard(&mut command);
    let behind = |name: Option<&'static str>| {
        move |monitor: &Monitor| parent_of(monitor, "web-1").as_deref() == name
    };
    watch.until("web-1", "up");
    monitor.eventually("behind the relay", behind(Some("relay-1")));

    // Its process is gone: the host says so.
    relay.process.kill();
    log.until("no relay lives");
    monitor.eventually("alone", behind(None));
    let relay = Relay::start(&[&monitor], &["--udp", &port]);
    log.until("a relay answers again");
    monitor.eventually("behind the relay again", behind(Some("relay-1")));

    // Its host is gone: nobody says anything. So it is with a process that is stopped.
    relay.process.signal(libc::SIGSTOP);
    log.until("no relay lives");
    monitor.eventually("alone again", behind(None));
    monitor.eventually("up again", |monitor| monitor.peer("web-1").summary.state == "up");
    relay.process.signal(libc::SIGCONT);
    log.until("a relay answers again");
    agent.signal(libc::SIGTERM);
    watch.until("web-1", "left");
}

fn keygen(arguments: &[&str]) {
    assert!(systole(&[&["keygen"], arguments].concat()).status.success());
}

#[test]
fn keys_are_asked_for_on_both_sides() {
    let folder = Folder::new("relay-keys-test");
    let keys = folder.file("keys");
    keygen(&[&keys]);
    keygen(&["--group", "rack", &keys]);
    let monitor = Monitor::start(&["--auth", "required", "--keys", &keys]);
    let mut watch = monitor.watch();
    // One that believes everybody and has no key of its own is not believed.
    let stranger = Relay::start(&[&monitor], &[]);
    monitor.eventually("dropped", |monitor| monitor.dropped("unauthenticated") > 0);
    drop(stranger);

    let own = ["--keys", &keys, "--key", &keys, "--key-id", "1"];
    let relay = Relay::start(&[&monitor], &own);
    watch.until("relay-1", "up");
    let agent = |name: &str, id: &str, group: &str| {
        let mut command = Command::new(SYSTOLE);
        command
            .args(["beat", "--to", &relay.udp, "--fallback", &monitor.udp[0]])
            .args(["--interval", "50ms", "--name", name, "--group", group])
            .args(["--key", &keys, "--key-id", id]);
        Process::heard(&mut command)
    };
    // The first key covers the relay's, the second does not: its beats go on with their own tags.
    let _wide = agent("wide", "1", "");
    let _narrow = agent("narrow", "2", "rack");
    monitor.eventually("both known", |monitor| monitor.summary().peers.up == 3);
    let key_of = |name: &str| monitor.peer(name).summary.key;
    assert_eq!((key_of("wide"), key_of("narrow")), (Some(1), Some(2)));
    for name in ["wide", "narrow"] {
        let is_child = |monitor: &Monitor| parent_of(monitor, name).as_deref() == Some("relay-1");
        monitor.eventually("behind the relay", is_child);
    }
    let end = Instant::now() + PATIENCE;
    while relay.count("packs") == 0 || relay.count("bundled") <= 2 {
        assert!(Instant::now() < end, "one is packed, the other bundled");
    }

    let before = monitor.dropped("unauthenticated");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = encode_beat(&beat("wide", 1, INTERVAL)).to_vec();
    socket.send_to(&forged, &relay.udp).unwrap();
    Key::new(1, [7; 32]).unwrap().seal(&mut forged, 0);
    socket.send_to(&forged, &relay.udp).unwrap();
    let mut unknown = encode_beat(&beat("wide", 1, INTERVAL)).to_vec();
    Key::new(9, [7; 32]).unwrap().seal(&mut unknown, 0);
    socket.send_to(&unknown, &relay.udp).unwrap();
    let end = Instant::now() + PATIENCE;
    while relay.count("dropped") < 3 {
        assert!(Instant::now() < end, "they never came");
    }
    let each = ["drop_unauthenticated", "drop_bad_tag", "drop_unknown_key"];
    assert_eq!(each.map(|why| relay.count(why)), [1; 3]);
    assert_eq!(monitor.dropped("unauthenticated"), before, "none of them went on");
    assert_eq!(monitor.dropped("bad_tag") + monitor.dropped("key_scope"), 0);

    // A key is added while it runs.
    keygen(&[&keys]);
    relay.process.signal(libc::SIGHUP);
    relay.log.until("keys read: 1, 2, 3");
    let third = keys_file::read(keys.as_ref()).unwrap().remove(2).key;
    let mut late = hello("late", "rack", 1, INTERVAL);
    third.seal(&mut late, 0);
    socket.send_to(&late, &relay.udp).unwrap();
    let (before, end) = (relay.count("passed_on"), Instant::now() + PATIENCE);
    while relay.count("passed_on") == before {
        assert!(Instant::now() < end, "it is never let in");
    }
}

/// Relay-2 sends to relay-1; each sender has the key of its group, and the relays one of all groups, so
/// that nobody is vouched for. One of the senders writes lines.
#[test]
fn children_are_unreachable_behind_the_relay_that_heard_them_whoever_vouches_for_them() {
    let folder = Folder::new("relay-chain-test");
    let keys = folder.file("keys");
    keygen(&["--group", "relays", "--group", "web", "--group", "db", &keys]);
    for group in ["web", "db"] {
        keygen(&["--group", group, &keys]);
    }
    let key = |nth: usize| keys_file::read(keys.as_ref()).unwrap().remove(nth).key;
    let (web, db) = (key(1), key(2));
    for with_keys in [true, false] {
        let rule = ["--auth", "required", "--keys", &keys];
        let rule = if with_keys { &rule[..] } else { &[] };
        let monitor = Monitor::start(&[&ALONE, rule].concat());
        let own = ["--group", "relays", "--keys", &keys, "--key", &keys, "--key-id", "1"];
        let own = if with_keys { &own[..] } else { &["--group", "relays"] };
        let outer = Relay::named("relay-1", &monitor.udp[0], own);
        let mut inner = Relay::named("relay-2", &outer.udp, own);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _over = Ended(&over);
            // To the outer one and to the inner one.
            for (to, place) in [(outer.udp.clone(), "near"), (inner.udp.clone(), "far")] {
                let (over, web, db) = (&over, &web, &db);
                scope.spawn(move || {
                    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
                    socket.connect(to).expect("an address");
                    let (name, mut sequence) = (format!("web-{place}"), 0);
                    // Relaxed: nothing else is told by it.
                    while !over.load(Ordering::Relaxed) {
                        sequence += 1;
                        let mut said = match sequence % 16 {
                            1 => hello(&name, "web", sequence, INTERVAL),
                            _ => encode_beat(&beat(&name, sequence, INTERVAL)).to_vec(),
                        };
                        let mut line = format!("db-{place} group=db interval=500ms");
                        if with_keys {
                            web.seal(&mut said, 0);
                            db.seal_line(&mut line);
                        }
                        // The relay may be dead by now.
                        let _ = socket.send(&said).and_then(|_| socket.send(line.as_bytes()));
                        std::thread::sleep(Duration::from_millis(100));
                    }
                });
            }
            monitor.eventually("all up", |monitor| monitor.summary().peers.up == 6);
            let is_child = |peer: &'static str, of: &'static str| {
                move |monitor: &Monitor| parent_of(monitor, peer).as_deref() == Some(of)
            };
            for peer in ["web-near", "db-near", "relay-2"] {
                monitor.eventually("behind the outer one", is_child(peer, "relay-1"));
            }
            for peer in ["web-far", "db-far"] {
                monitor.eventually("behind the inner one", is_child(peer, "relay-2"));
            }
            assert_eq!(parent_of(&monitor, "relay-1"), None);
            inner.process.kill();
            monitor.eventually("told", |monitor| {
                let state = |peer: &str| monitor.peer(peer).summary.state;
                let of = ["web-near", "db-near", "relay-1", "relay-2", "web-far", "db-far"];
                of.map(state) == ["up", "up", "up", "down", "unreachable", "unreachable"]
            });
            let summary = monitor.summary();
            assert_eq!(summary.peers.down, 1, "the relay alone");
            let Incidents { open, .. } = monitor.get("/api/v1/incidents");
            let told: Vec<_> = open.iter().map(|i| (&*i.kind, i.parent.as_deref())).collect();
            assert_eq!(told, [("parent", Some("relay-2"))], "{open:#?}");
        });
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
        let output = systole(&[&["relay"], &arguments[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(!one_line || said.lines().count() == 1, "{arguments:?}: {said}");
    }
}
