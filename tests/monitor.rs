//! The monitor as a process of its own, with real senders over loopback: the main job, end to end,
//! over each transport.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use systole::api::{Event, PeerDetail, Summary};
use systole::cli::client::Client;
use systole::wire::{Heartbeat, Kind, PeerId, Status, encode_beat};

const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");

/// A monitor on ports of its own; killed when the test is over.
struct Monitor {
    process: Child,
    udp: Vec<String>,
    http: String,
}

impl Monitor {
    fn start(options: &[&str]) -> Monitor {
        let mut process = Command::new(SYSTOLE)
            .args(["serve", "--http", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut ready = String::new();
        let out = process.stdout.as_mut().expect("it is piped");
        BufReader::new(out).read_line(&mut ready).expect("it says something");
        let said = ready.strip_prefix("ready udp=").unwrap_or_else(|| {
            let mut log = String::new();
            let _ = process.stderr.as_mut().expect("it is piped").read_to_string(&mut log);
            panic!("not ready but {ready:?}: {log}")
        });
        let (udp, http) = said.trim_end().split_once(" http=").expect("both addresses");
        let udp = udp.split(',').map(str::to_owned).collect();
        Monitor { process, udp, http: http.to_owned() }
    }

    fn send(&self, datagram: &[u8]) {
        let to = &self.udp[0];
        let from = if to.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
        let sent = UdpSocket::bind(from).expect("a free port").send_to(datagram, to);
        assert_eq!(sent.expect("loopback takes it"), datagram.len());
    }

    fn systole(&self, arguments: &[&str]) -> Output {
        Command::new(SYSTOLE)
            .args(arguments)
            .args(["--http", &self.http])
            .output()
            .expect("the binary is built")
    }

    fn watch(&self) -> Watch {
        let mut process = Command::new(SYSTOLE)
            .args(["watch", "--json", "--notes", "--after", "0", "--http", &self.http])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let lines = BufReader::new(process.stdout.take().expect("it is piped"));
        Watch { process, lines, seen: 0 }
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let client = Client::new(&self.http).expect("an address");
        client.get(path).unwrap_or_else(|failure| panic!("{path}: {failure}"))
    }

    fn end(mut self) -> std::process::ExitStatus {
        signal(&self.process, libc::SIGTERM);
        self.process.wait().expect("it is ours")
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Follows transitions and notes; asserts that none is missing.
struct Watch {
    process: Child,
    lines: BufReader<ChildStdout>,
    seen: u64,
}

impl Watch {
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the stream goes on");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        match said.get("event") {
            None => {
                assert_eq!(said["seq"], self.seen + 1, "gapless");
                self.seen += 1;
            }
            // A note has the number of the transition that it follows.
            Some(_) => assert_eq!(said["seq"], self.seen, "{said:#}"),
        }
        said
    }

    fn next(&mut self) -> Event {
        loop {
            let said = self.line();
            // Notes say which they are; a busy machine may well have been blind for a moment.
            if said.get("event").is_none() {
                return serde_json::from_value(said).expect("a transition");
            }
        }
    }

    /// The next note about an incident.
    fn incident(&mut self) -> Value {
        loop {
            let said = self.line();
            if said["event"] == "incident" {
                return said;
            }
        }
    }

    fn until(&mut self, peer: &str, to: &str) -> Event {
        loop {
            let event = self.next();
            if event.peer == peer && event.to == to {
                return event;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn signal(process: &Child, signal: libc::c_int) {
    // SAFETY: kill(2) takes integers; the process is our child and not yet waited for.
    assert_eq!(unsafe { libc::kill(process.id() as libc::pid_t, signal) }, 0);
}

fn agent(monitor: &Monitor, name: &str) -> Child {
    Command::new(SYSTOLE)
        .args(["beat", "--to", &monitor.udp[0], "--name", name, "--interval", "50ms"])
        .args(["--group", "web", "--label", "rack=r7"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary is built")
}

/// Senders of every kind; one is killed, one leaves, one comes back.
fn the_main_job(options: &[&str], transport: &str) {
    let monitor = Monitor::start(options);
    let mut watch = monitor.watch();

    let mut killed = agent(&monitor, "killed");
    let mut leaver = agent(&monitor, "leaver");
    monitor.send(b"shell interval=100ms status=warn group=jobs\n");
    let beat = Heartbeat {
        peer: PeerId::of("job"),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 5,
        sequence: 1,
        interval_us: 100_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    };
    monitor.send(&encode_beat(&beat));
    watch.until("shell", "down");
    let id = PeerId::of("job").to_string();
    assert_eq!(monitor.systole(&["is-up", "killed"]).status.code(), Some(0));
    assert_eq!(monitor.systole(&["is-up", "shell"]).status.code(), Some(1));
    assert_eq!(monitor.systole(&["is-up", "nobody"]).status.code(), Some(3));

    killed.kill().expect("it runs");
    killed.wait().expect("it is ours");
    let down = watch.until("killed", "down");
    assert_eq!((&*down.from, &*down.reason, &*down.group), ("suspect", "silence", "web"));
    let timeout_ns = 3 * 50_000_000 + 50_000_000;
    assert!(down.detection_time_ns >= timeout_ns, "never early: {down:?}");
    let expected_ns = timeout_ns + down.extended_ns + down.lateness_ns;
    assert_eq!(down.detection_time_ns, expected_ns, "{down:?}");
    let detail: PeerDetail = monitor.get("/api/v1/peers/killed");
    assert_eq!((&*detail.summary.state, detail.summary.interval_ns), ("down", 50_000_000));
    assert_eq!(detail.labels["rack"], "r7");
    assert_eq!(detail.transitions[0], down);

    signal(&leaver, libc::SIGTERM);
    leaver.wait().expect("it is ours");
    let left = watch.until("leaver", "left");
    assert_eq!(left.reason, "bye");

    // An old heartbeat brings nobody back, the next one does.
    monitor.send(&encode_beat(&beat));
    monitor.send(&encode_beat(&Heartbeat { sequence: 2, ..beat }));
    let back = watch.until(&id, "up");
    let back = if back.from == "unknown" { watch.until(&id, "up") } else { back };
    assert_eq!((&*back.from, back.last_sequence), ("down", 2));
    assert!(back.down_for_ns.is_some());

    monitor.send(b"\xBE\x11");
    monitor.send(b"\xFFnoise");
    monitor.send(b"shell");
    watch.until("shell", "up");
    let summary: Summary = monitor.get("/api/v1/summary");
    assert_eq!(summary.transport, transport);
    assert_eq!((summary.dropped["runt"], summary.dropped["magic"]), (1, 1), "{summary:?}");
    assert_eq!(summary.dropped["duplicate"], 1, "{summary:?}");
    assert_eq!(summary.kernel_drops, 0);
    assert_eq!(summary.peers.total, 4);
    drop(watch);
    assert_eq!(monitor.end().code(), Some(0), "an orderly end");
}

#[test]
fn the_main_job_over_the_best_transport() {
    // Whether io_uring is allowed is the machine's to say.
    let monitor = Monitor::start(&["--udp", "127.0.0.1:0"]);
    let summary: Summary = monitor.get("/api/v1/summary");
    monitor.end();
    the_main_job(&["--udp", "127.0.0.1:0", "--udp", "[::1]:0"], &summary.transport);
}

#[test]
fn the_main_job_over_poll() {
    the_main_job(&["--udp", "127.0.0.1:0", "--transport", "poll"], "poll");
}

#[test]
fn the_main_job_over_ipv6_and_several_reactors() {
    the_main_job(
        &["--udp", "[::1]:0", "--reactors", "3", "--transport", "poll", "--idle", "sleep"],
        "poll",
    );
}

#[test]
fn what_keeps_it_from_starting_is_said_in_one_message_with_exit_code_2() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("it is bound").to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["--udp", &taken], "is taken"),
        (&["--udp", "192.0.2.1:4600"], "not an address of this machine"),
        (&["--udp", "127.0.0.1:0", "--missed", "0"], "--missed"),
        (&["--config", "/nonexistent/systole.toml"], "cannot read the configuration"),
        (&["--no-such-option"], "--no-such-option"),
    ];
    for (options, says) in cases {
        let output = Command::new(SYSTOLE)
            .args(["serve", "--http", "127.0.0.1:0"])
            .args(options)
            .output()
            .expect("the binary is built");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {message}");
        assert!(message.contains(says), "{options:?}: {message}");
        assert!(output.stdout.is_empty(), "{options:?}: not ready");
    }
}

#[test]
fn newcomers_beyond_the_most_peers_are_refused_and_counted() {
    let monitor = Monitor::start(&["--udp", "127.0.0.1:0", "--max-peers", "2"]);
    let mut watch = monitor.watch();
    for name in ["a", "b", "c", "d"] {
        monitor.send(name.as_bytes());
    }
    watch.until("b", "up");
    // The first goes down: by then all four have been read.
    watch.until("a", "down");
    let summary: Summary = monitor.get("/api/v1/summary");
    assert_eq!((summary.peers.total, summary.dropped["table_full"]), (2, 2));
    let removed = ureq::delete(format!("http://{}/api/v1/peers/a", monitor.http)).call();
    assert!(removed.expect("an operator may remove a peer").status().is_success());
    watch.until("a", "forgotten");
    monitor.send(b"e");
    watch.until("e", "up");
}

#[test]
fn a_rack_behind_a_switch_is_one_incident_from_its_beginning_to_its_end() {
    let folder = std::env::temp_dir().join(format!("systole-{}-rack", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder to write to");
    let config = folder.join("systole.toml");
    let sections = "[[group]]\nname = \"rack-*\"\nparent = \"switch\"\n\n\
                    [[expect]]\nnames = [\"nobody\"]\nwithin = \"1s\"\n";
    std::fs::write(&config, sections).expect("it is ours");
    let config = config.to_str().expect("a plain path");
    let monitor = Monitor::start(&["--udp", "127.0.0.1:0", "--config", config]);
    let mut watch = monitor.watch();
    let beat = || {
        monitor.send(b"switch interval=100ms group=net");
        for i in 0..4 {
            monitor.send(format!("node-{i} interval=100ms group=rack-7").as_bytes());
        }
    };
    beat();
    let opened = watch.incident();
    assert_eq!(
        (&opened["step"], &opened["incident"]["kind"]),
        (&"opened".into(), &"parent".into())
    );
    assert_eq!(opened["incident"]["parent"], "switch", "{opened:#}");
    let mut last = opened;
    while last["incident"]["unreachable"] != 4 {
        last = watch.incident();
    }
    assert_eq!(monitor.systole(&["incidents"]).status.code(), Some(1));
    let child: PeerDetail = monitor.get("/api/v1/peers/node-3");
    assert_eq!(child.summary.state, "unreachable");
    assert_eq!(child.parent.map(|parent| parent.state).as_deref(), Some("down"));
    beat();
    while last["step"] != "closed" {
        last = watch.incident();
    }
    assert_eq!(last["incident"]["most"], 5, "{last:#}");
    let silence = monitor.systole(&["silence", "rack=r7,node-*", "--for", "2h"]);
    assert_eq!(silence.status.code(), Some(0));
    let asked = Instant::now();
    let missing = loop {
        assert!(asked.elapsed() < Duration::from_secs(30), "nobody is told as missing");
        let expected: systole::api::Expectations = monitor.get("/api/v1/expected");
        if let [missing] = &expected.expected[..] {
            break missing.clone();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(missing.peer, "nobody");
    assert_eq!(monitor.systole(&["expected"]).status.code(), Some(1));
    drop(watch);
    assert_eq!(monitor.end().code(), Some(0));
    std::fs::remove_dir_all(folder).expect("it is ours");
}
