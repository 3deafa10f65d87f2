//! The monitor as a process of its own, with real senders over loopback: the main job, end to end,
//! over each transport.

use super::common::{Folder, Monitor, Process, SYSTOLE, beat, eventually, systole};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;
use systole::wire::{Heartbeat, PeerId, encode_beat};

fn agent(monitor: &Monitor, name: &str) -> Process {
    let mut command = Command::new(SYSTOLE);
    command
        .args(["beat", "--to", &monitor.udp[0], "--name", name, "--interval", "50ms"])
        .args(["--group", "web", "--label", "rack=r7"]);
    Process::spawn(command.stderr(Stdio::null()))
}

/// Senders of every kind; one is killed, one leaves, one comes back.
fn the_main_job(options: &[&str], transport: &str) {
    let monitor = Monitor::start(options);
    let mut watch = monitor.watch();

    let mut killed = agent(&monitor, "killed");
    let mut leaver = agent(&monitor, "leaver");
    monitor.send(b"shell interval=100ms status=warn group=jobs\n");
    let beat = beat("job", 1, Duration::from_millis(100));
    monitor.send(&encode_beat(&beat));
    watch.until("shell", "down");
    let id = PeerId::of("job").to_string();
    assert_eq!(monitor.systole(&["is-up", "killed"]).status.code(), Some(0));
    assert_eq!(monitor.systole(&["is-up", "shell"]).status.code(), Some(1));
    assert_eq!(monitor.systole(&["is-up", "nobody"]).status.code(), Some(3));

    killed.kill();
    let down = watch.until("killed", "down");
    assert_eq!((&*down.from, &*down.reason, &*down.group), ("suspect", "silence", "web"));
    let timeout_ns = 3 * 50_000_000 + 50_000_000;
    assert!(down.detection_time_ns >= timeout_ns, "never early: {down:?}");
    let expected_ns = timeout_ns + down.extended_ns + down.lateness_ns;
    assert_eq!(down.detection_time_ns, expected_ns, "{down:?}");
    let detail = monitor.peer("killed");
    assert_eq!((&*detail.summary.state, detail.summary.interval_ns), ("down", 50_000_000));
    assert_eq!(detail.labels["rack"], "r7");
    assert_eq!(detail.transitions[0], down);

    leaver.signal(libc::SIGTERM);
    leaver.wait();
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
    let summary = monitor.summary();
    assert_eq!(summary.transport, transport);
    assert_eq!((summary.dropped["runt"], summary.dropped["magic"]), (1, 1), "{summary:?}");
    assert_eq!(summary.dropped["duplicate"], 1, "{summary:?}");
    assert_eq!(summary.kernel_drops, 0);
    assert_eq!(summary.peers.total, 4);
    drop(watch);
    monitor.end();
}

#[test]
fn the_main_job_over_the_best_transport() {
    // Whether io_uring is allowed is the machine's to say.
    let monitor = Monitor::start(&["--udp", "127.0.0.1:0"]);
    let summary = monitor.summary();
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
        let output = systole(&[&["serve", "--http", "127.0.0.1:0"], options].concat());
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
    let summary = monitor.summary();
    assert_eq!((summary.peers.total, summary.dropped["table_full"]), (2, 2));
    let removed = ureq::delete(format!("http://{}/api/v1/peers/a", monitor.http)).call();
    assert!(removed.expect("an operator may remove a peer").status().is_success());
    watch.until("a", "forgotten");
    monitor.send(b"e");
    watch.until("e", "up");
}

#[test]
fn a_rack_behind_a_switch_is_one_incident_from_its_beginning_to_its_end() {
    let folder = Folder::new("rack");
    let sections = "[[group]]\nname = \"rack-*\"\nparent = \"switch\"\n\n\
                    [[expect]]\nnames = [\"nobody\"]\nwithin = \"1s\"\n";
    let config = folder.written("systole.toml", sections);
    let monitor = Monitor::start(&["--config", &config]);
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
    let child = monitor.peer("node-3");
    assert_eq!(child.summary.state, "unreachable");
    assert_eq!(child.parent.map(|parent| parent.state).as_deref(), Some("down"));
    beat();
    while last["step"] != "closed" {
        last = watch.incident();
    }
    assert_eq!(last["incident"]["most"], 5, "{last:#}");
    let silence = monitor.systole(&["silence", "rack=r7,node-*", "--for", "2h"]);
    assert_eq!(silence.status.code(), Some(0));
    let missing = eventually("told as missing", || {
        let systole::api::Expectations { expected, .. } = monitor.get("/api/v1/expected");
        expected.into_iter().next()
    });
    assert_eq!(missing.peer, "nobody");
    assert_eq!(monitor.systole(&["expected"]).status.code(), Some(1));
    drop(watch);
    monitor.end();
}
