//! The monitor with sockets that whoever started it has opened, as systemd's socket activation does.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use systole::api::Summary;
use systole::cli::client::Client;

/// A monitor that inherits one socket; killed when the test is over.
struct Monitor {
    process: Child,
    /// Where it listens for heartbeats, as it says when it is ready.
    udp: String,
    http: String,
}

impl Monitor {
    fn start(inherited: UdpSocket, options: &[&str]) -> Monitor {
        // The shell knows the number of the process that it turns into, and puts the socket where
        // sd_listen_fds(3) wants it.
        let script = r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&0 0</dev/null"#;
        let mut process = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_systole"), "serve", "--state-dir", "none"])
            .args(["--http", "127.0.0.1:0"])
            .args(options)
            .env("NO_COLOR", "1")
            .stdin(OwnedFd::from(inherited))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut ready = String::new();
        let out = process.stdout.as_mut().expect("it is piped");
        BufReader::new(out).read_line(&mut ready).expect("it says something");
        let said = ready.trim_end().strip_prefix("ready udp=");
        let (udp, http) = said.and_then(|said| said.split_once(" http=")).expect("both addresses");
        Monitor { udp: udp.into(), http: http.into(), process }
    }

    /// Ends it; what it logged.
    fn end(mut self) -> String {
        self.process.kill().expect("it is ours");
        let mut log = String::new();
        let err = self.process.stderr.as_mut().expect("it is piped");
        err.read_to_string(&mut log).expect("it is text");
        log
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn bound() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound").to_string();
    (socket, address)
}

/// Waits until the monitor knows this many peers.
fn wait_for_peers(monitor: &Monitor, peers: u64) {
    let client = Client::new(&monitor.http).expect("an address");
    while client.get::<Summary>("/api/v1/summary").expect("it is ready").peers.total < peers {
        std::thread::yield_now();
    }
}

#[test]
fn what_was_sent_to_an_inherited_socket_before_the_start_is_read() {
    for told in [true, false] {
        let (socket, address) = bound();
        let (sender, _) = bound();
        sender.send_to(b"early-bird", &address).expect("loopback takes it");
        let options = ["--reactors", "2", "--udp", &address];
        let monitor = Monitor::start(socket, &options[..if told { 4 } else { 2 }]);
        assert_eq!(monitor.udp, address);
        wait_for_peers(&monitor, 1);
        let log = monitor.end();
        assert!(log.contains("sockets are inherited udp=1"), "{log}");
        assert!(!log.contains("is not used"), "{log}");
    }
}

#[test]
fn an_inherited_socket_for_no_address_of_ours_is_said() {
    let (socket, address) = bound();
    let monitor = Monitor::start(socket, &["--udp", "127.0.0.1:0"]);
    assert_ne!(monitor.udp, address);
    let log = monitor.end();
    let warning = log.lines().find(|line| line.contains("is not used")).expect(&log);
    assert!(warning.contains("WARN") && warning.contains(&address), "{warning}");
}
