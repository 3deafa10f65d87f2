//! The monitor with sockets that whoever started it has opened, as systemd's socket activation does.

use super::common::{Monitor, SYSTOLE};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Command;

/// A monitor that inherits one socket.
fn start(inherited: UdpSocket, options: &[&str]) -> Monitor {
    // The shell knows the number of the process that it turns into, and puts the socket where
    // sd_listen_fds(3) wants it.
    let script = r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&0 0</dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, SYSTOLE, "serve", "--state-dir", "none"]);
    command.args(["--http", "127.0.0.1:0"]).args(options).env("NO_COLOR", "1");
    Monitor::of(command.stdin(OwnedFd::from(inherited)))
}

fn bound() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound").to_string();
    (socket, address)
}

#[test]
fn what_was_sent_to_an_inherited_socket_before_the_start_is_read() {
    for told in [true, false] {
        let (socket, address) = bound();
        let (sender, _) = bound();
        sender.send_to(b"early-bird", &address).expect("loopback takes it");
        let options = ["--reactors", "2", "--udp", &address];
        let monitor = start(socket, &options[..if told { 4 } else { 2 }]);
        assert_eq!(monitor.udp, [address]);
        monitor.eventually("known", |monitor| monitor.summary().peers.total == 1);
        let log = monitor.kill();
        assert!(log.contains("sockets are inherited udp=1"), "{log}");
        assert!(!log.contains("is not used"), "{log}");
    }
}

#[test]
fn an_inherited_socket_for_no_address_of_ours_is_said() {
    let (socket, address) = bound();
    let monitor = start(socket, &["--udp", "127.0.0.1:0"]);
    assert_ne!(monitor.udp, [&*address]);
    let log = monitor.kill();
    let warning = log.lines().find(|line| line.contains("is not used")).expect(&log);
    assert!(warning.contains("WARN") && warning.contains(&address), "{warning}");
}
