//! The agent as a process of its own, over loopback: what arrives, in which order, and how it ends.

use super::common::{Folder, Lines, PATIENCE, Process, SYSTOLE, systole};
use std::net::UdpSocket;
use std::process::{Command, ExitStatus, Stdio};
use systole::wire::{Form, Heartbeat, Kind, PeerId, Status, decode};

/// What a datagram says, as far as these tests look at it.
#[derive(Debug, PartialEq)]
enum Said {
    Hello { name: String, group: String, labels: Vec<(String, String)> },
    Beat,
    Bye,
}

/// A monitor that only listens.
struct Monitor {
    socket: UdpSocket,
}

impl Monitor {
    fn new() -> Monitor {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.set_read_timeout(Some(PATIENCE)).expect("the patience is not zero");
        Monitor { socket }
    }

    fn address(&self) -> String {
        self.socket.local_addr().expect("the socket is bound").to_string()
    }

    fn next(&self) -> (Said, Heartbeat) {
        let mut datagram = [0; 2_048];
        let length = self.socket.recv(&mut datagram).expect("the agent beats");
        match decode(&datagram[..length]).expect("the agent sends what decodes") {
            Form::Hello(heartbeat, profile) => {
                assert!(profile.matches(heartbeat.peer), "the name is the id's");
                let labels = profile.labels().map(|(k, v)| (k.to_owned(), v.to_owned()));
                let said = Said::Hello {
                    name: profile.name.to_owned(),
                    group: profile.group.to_owned(),
                    labels: labels.collect(),
                };
                (said, heartbeat)
            }
            Form::Beat(heartbeat) if heartbeat.kind == Kind::Bye => (Said::Bye, heartbeat),
            Form::Beat(heartbeat) => (Said::Beat, heartbeat),
            other => panic!("the agent sent {other:?}"),
        }
    }

    /// Reads on until a heartbeat says so; asserts that sequences ascend on the way.
    fn until(&self, wanted: impl Fn(&Said, &Heartbeat) -> bool) -> (Said, Heartbeat) {
        let mut last = None;
        loop {
            let (said, heartbeat) = self.next();
            if let Some(last) = last.replace(heartbeat.sequence) {
                assert_eq!(heartbeat.sequence, u32::wrapping_add(last, 1), "no gap, no repeat");
            }
            if wanted(&said, &heartbeat) {
                return (said, heartbeat);
            }
        }
    }
}

/// An agent, with what it and its child say.
struct Agent {
    process: Process,
    log: Lines,
    out: Lines,
}

impl Agent {
    fn start(monitor: &Monitor, arguments: &[&str]) -> Agent {
        Agent::beating(&monitor.address(), arguments)
    }

    fn beating(to: &str, arguments: &[&str]) -> Agent {
        let mut command = Command::new(SYSTOLE);
        command.args(["beat", "--to", to, "--name", "web-1"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (mut process, log) = Process::heard(&mut command);
        let out = Lines::of(process.0.stdout.take().expect("it is piped"));
        Agent { process, log, out }
    }

    fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    fn end(mut self) -> ExitStatus {
        self.process.wait()
    }
}

#[test]
fn hello_comes_first_then_beats_and_bye_last_on_sigterm() {
    let monitor = Monitor::new();
    let arguments = ["--group", "web", "--label", "rack=r7", "--interval", "20ms"];
    let agent = Agent::start(&monitor, &arguments);

    let (said, first) = monitor.next();
    let labels = vec![("rack".to_owned(), "r7".to_owned())];
    assert_eq!(said, Said::Hello { name: "web-1".into(), group: "web".into(), labels });
    assert_eq!(first.peer, PeerId::of("web-1"));
    assert_eq!((first.interval_us, first.status, first.sequenced), (20_000, Status::Ok, true));
    assert!(first.sequence < 100_000, "it starts at the microseconds of a tenth of a second");

    // The 17th is the next HELLO; all carry the same start and ascend one by one.
    for n in 1..=16 {
        let (said, beat) = monitor.next();
        assert_eq!(matches!(said, Said::Hello { .. }), n == 16, "beat {n} is {said:?}");
        assert_eq!(beat.incarnation, first.incarnation);
        assert_eq!(beat.sequence, first.sequence + n);
        assert!(beat.sent_ns > first.sent_ns);
    }

    agent.signal(libc::SIGTERM);
    monitor.until(|said, _| *said == Said::Bye);
    assert_eq!(agent.end().code(), Some(0));
    monitor.socket.set_nonblocking(true).unwrap();
    assert!(monitor.socket.recv(&mut [0; 64]).is_err(), "nothing follows a BYE");
}

#[test]
fn an_interrupt_says_bye_too_and_exits_with_130() {
    let monitor = Monitor::new();
    let agent = Agent::start(&monitor, &["--interval", "1h"]);
    assert!(matches!(monitor.next().0, Said::Hello { .. }));
    agent.signal(libc::SIGINT);
    monitor.until(|said, _| *said == Said::Bye);
    assert_eq!(agent.end().code(), Some(130));
}

#[test]
fn each_of_several_monitors_gets_every_beat() {
    let (one, other) = (Monitor::new(), Monitor::new());
    let agent = Agent::start(&one, &["--to", &other.address(), "--interval", "20ms"]);
    let ((_, a), (_, b)) = (one.next(), other.next());
    assert_eq!((a.sequence, a.incarnation), (b.sequence, b.incarnation));
    agent.signal(libc::SIGTERM);
    one.until(|said, _| *said == Said::Bye);
    other.until(|said, _| *said == Said::Bye);
}

#[test]
fn an_absent_monitor_is_waited_for_and_greeted_with_a_hello() {
    let monitor = Monitor::new();
    let address = monitor.address();
    let agent = Agent::start(&monitor, &["--interval", "10ms"]);
    monitor.next();
    // The monitor dies and comes back on the same port. Whatever it hears first has the name in it,
    // though the schedule has no HELLO due for a long time.
    drop(monitor);
    agent.log.until("cannot reach");
    let socket = UdpSocket::bind(&address).expect("the port is free again");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let monitor = Monitor { socket };
    assert!(matches!(monitor.next().0, Said::Hello { .. }));
    agent.signal(libc::SIGTERM);
    monitor.until(|said, _| *said == Said::Bye);
}

#[test]
fn a_childs_success_is_a_leave_and_its_code_is_ours() {
    let monitor = Monitor::new();
    let agent = Agent::start(&monitor, &["--interval", "20ms", "--", "true"]);
    assert_eq!(agent.end().code(), Some(0));
    monitor.until(|said, _| *said == Said::Bye);
}

#[test]
fn a_childs_failure_alarms_and_its_code_is_ours() {
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137)] {
        let monitor = Monitor::new();
        let agent = Agent::start(&monitor, &["--interval", "1h", "--", "sh", "-c", script]);
        assert_eq!(agent.end().code(), Some(code), "{script}");
        monitor.until(|_, heartbeat| heartbeat.status == Status::Critical);
        monitor.socket.set_nonblocking(true).unwrap();
        assert!(monitor.socket.recv(&mut [0; 64]).is_err(), "{script}: no BYE, so that it alarms");
    }
}

#[test]
fn a_job_that_fails_at_once_is_told_even_to_a_monitor_with_a_name() {
    let monitor = Monitor::new();
    let named = monitor.address().replace("127.0.0.1", "localhost");
    let agent = Agent::beating(&named, &["--", "sh", "-c", "exit 7"]);
    assert_eq!(agent.end().code(), Some(7));
    monitor.until(|_, heartbeat| heartbeat.status == Status::Critical);
}

#[test]
fn signals_reach_the_child_and_a_stop_is_a_leave() {
    let monitor = Monitor::new();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let arguments = ["--interval", "10ms", "--", "sh", "-c", script];
    let agent = Agent::start(&monitor, &arguments);
    agent.out.until("ready");
    agent.signal(libc::SIGTERM);
    monitor.until(|said, _| *said == Said::Bye);
    assert_eq!(agent.end().code(), Some(5));
}

#[test]
fn a_command_that_does_not_exist_is_127_as_in_a_shell() {
    let monitor = Monitor::new();
    let agent = Agent::start(&monitor, &["--", "/nonexistent/command"]);
    assert_eq!(agent.end().code(), Some(127));
}

#[test]
fn the_check_sets_the_status_at_once() {
    for (script, status) in [
        ("exit 1", Status::Warn),
        ("exit 2", Status::Critical),
        ("exit 99", Status::Critical),
        ("sleep 600", Status::Critical),
    ] {
        let monitor = Monitor::new();
        let arguments = ["--interval", "1h", "--check", script, "--check-timeout", "50ms"];
        let agent = Agent::start(&monitor, &arguments);
        assert_eq!(monitor.next().1.status, Status::Ok, "{script}");
        let (_, heartbeat) = monitor.next();
        assert_eq!(heartbeat.status, status, "{script}");
        agent.signal(libc::SIGTERM);
        assert_eq!(agent.end().code(), Some(0), "{script}");
    }
}

#[test]
fn a_check_that_succeeds_again_clears_the_status() {
    let monitor = Monitor::new();
    let folder = Folder::new("check");
    let flag = folder.written("flag", "");
    let script = format!("test ! -e {flag}");
    let agent = Agent::start(&monitor, &["--interval", "20ms", "--check", &script]);
    monitor.until(|_, heartbeat| heartbeat.status == Status::Warn);
    std::fs::remove_file(&flag).unwrap();
    monitor.until(|_, heartbeat| heartbeat.status == Status::Ok);
    agent.signal(libc::SIGTERM);
    monitor.until(|said, _| *said == Said::Bye);
}

#[test]
fn wrong_usage_is_2_and_says_what_is_right() {
    for (arguments, part) in [
        (vec!["beat", "--name", "x"], "--to <HOST:PORT>"),
        (vec!["beat", "--to", "a", "--name", "x\n"], "--name: `x\\n` is no name"),
        (vec!["beat", "--to", "a:b", "--name", "x"], "has no valid port; give HOST:PORT"),
        (vec!["beat", "--to", "a", "--interval", "91d"], "is out of range; give a duration"),
        (vec!["serve", "--interval", "5"], "--interval: `5` has no unit"),
        (vec!["serve", "--max-peers", "-3"], "--max-peers: `-3` is out of range"),
        (vec!["serve", "--config", "/nonexistent.toml"], "cannot read the configuration"),
        (vec!["status", "--http", "https://x"], "give a URL like"),
        (vec!["serve", "--max-peer", "1"], "--max-peers"),
    ] {
        let output = systole(&arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
}
