//! The agent as a process of its own, over loopback: what arrives, in which order, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use systole::wire::{Form, Heartbeat, Kind, PeerId, Status, decode};

/// Longest wait for anything; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// An agent that is ended with the test, whatever becomes of it.
struct Agent(Child);

impl Agent {
    fn start(monitor: &Monitor, arguments: &[&str]) -> Agent {
        let to = monitor.address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_systole"));
        command.args(["beat", "--to", &to, "--name", "web-1"]).args(arguments);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
        Agent(command.spawn().expect("the binary is built"))
    }

    /// Reads the agent's messages up to the one with `part` in it.
    fn until_it_says(&mut self, part: &str) {
        until_line(self.0.stderr.take().expect("stderr is read once"), part);
    }

    /// Reads the child's output up to the line with `part` in it.
    fn until_the_child_says(&mut self, part: &str) {
        until_line(self.0.stdout.take().expect("stdout is read once"), part);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the call takes two integers; the child has not been waited for, so the number is
        // its.
        let rc = unsafe { libc::kill(self.0.id() as i32, signal) };
        assert_eq!(rc, 0);
    }

    fn end(mut self) -> ExitStatus {
        self.0.wait().expect("it is our child")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until_line(pipe: impl Read, part: &str) {
    let mut lines = BufReader::new(pipe).lines();
    let found = lines.any(|line| line.expect("the pipe can be read").contains(part));
    assert!(found, "it ended without a word of {part}");
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
    let mut agent = Agent::start(&monitor, &["--interval", "10ms"]);
    monitor.next();
    // The monitor dies and comes back on the same port. Whatever it hears first has the name in it,
    // though the schedule has no HELLO due for a long time.
    drop(monitor);
    agent.until_it_says("cannot reach");
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_systole"));
    command.args(["beat", "--to", &named, "--name", "web-1", "--", "sh", "-c", "exit 7"]);
    let agent = Agent(command.stdin(Stdio::null()).spawn().expect("the binary is built"));
    assert_eq!(agent.end().code(), Some(7));
    monitor.until(|_, heartbeat| heartbeat.status == Status::Critical);
}

#[test]
fn signals_reach_the_child_and_a_stop_is_a_leave() {
    let monitor = Monitor::new();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let arguments = ["--interval", "10ms", "--", "sh", "-c", script];
    let mut agent = Agent::start(&monitor, &arguments);
    agent.until_the_child_says("ready");
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
    let flag = std::env::temp_dir().join(format!("systole-check-{}", std::process::id()));
    std::fs::write(&flag, "").unwrap();
    let script = format!("test ! -e {}", flag.display());
    let agent = Agent::start(&monitor, &["--interval", "20ms", "--check", &script]);
    monitor.until(|_, heartbeat| heartbeat.status == Status::Warn);
    std::fs::remove_file(&flag).unwrap();
    monitor.until(|_, heartbeat| heartbeat.status == Status::Ok);
    agent.signal(libc::SIGTERM);
    monitor.until(|said, _| *said == Said::Bye);
}

#[test]
fn wrong_usage_is_2_and_says_what_is_right() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_systole"));
        let output = command.args(arguments).output().expect("the binary is built");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
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
        let (code, message) = run(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
}
