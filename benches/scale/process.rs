//! A monitor in a process of its own, with so many peers.

use crate::harness::monitor::TempDir;
use crate::harness::{Figure, Report, shuffled};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use systole::api::{PeerPage, Summary};
use systole::clock::monotonic_ns;
use systole::wire::{Heartbeat, Kind, PeerId, Profile, Status, encode_beat, encode_hello};

/// Longest that anything may take; only a failure does.
const LIMIT_NS: u64 = 300_000_000_000;
/// Times that the summary is asked for.
const SUMMARIES: usize = 50;

/// A monitor that ends with the value, and the directory with its state.
struct Process {
    child: Child,
    udp: String,
    http: String,
}

impl Process {
    /// Starts one that goes on with what is in `state`; how long it took until it was ready, ns.
    fn start(state: &TempDir, peers: u32) -> (Process, u64) {
        let begun_ns = monotonic_ns();
        let mut child = Command::new(env!("CARGO_BIN_EXE_systole"))
            .args(["serve", "--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--reactors", "1"])
            .args(["--newcomers-per-source", "off", "--max-peers", &peers.to_string()])
            .arg("--state-dir")
            .arg(state.path().join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the monitor's program");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it says something");
        let took_ns = monotonic_ns() - begun_ns;
        let word = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
        };
        (Process { udp: word("udp="), http: word("http="), child }, took_ns)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let url = format!("http://{}/api/v1/{path}", self.http);
        ureq::get(&url).call().expect("an answer").body_mut().read_json().expect("JSON")
    }

    fn summary(&self) -> Summary {
        self.get("summary")
    }

    /// Waits until the summary is as wanted.
    fn until(&self, what: &str, so: impl Fn(&Summary) -> bool) {
        let end_ns = monotonic_ns() + LIMIT_NS;
        loop {
            let summary = self.summary();
            if so(&summary) {
                return;
            }
            let (peers, dropped) = (summary.peers, summary.dropped);
            assert!(monotonic_ns() < end_ns, "in vain: {what}: {peers:?} {dropped:?}");
            std::thread::yield_now();
        }
    }

    /// Processor time of its reactor, ns.
    fn reactor_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let mut reactors = tasks.filter_map(|task| {
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            (name.trim() == "systole-0").then_some(path)
        });
        let path = reactors.next().expect("a reactor").join("schedstat");
        let text = std::fs::read_to_string(path).expect("proc_pid_schedstat");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
    }

    /// Resident memory of its own and in shared mappings (the state), bytes.
    fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("it runs");
        let kib = |name: &str| -> u64 {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).expect("proc_pid_status");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        (kib("RssAnon:") * 1_024, kib("RssShmem:") * 1_024)
    }

    /// All peers by pages of a thousand: how many, and how long it took, ns.
    fn list(&self) -> (u64, u64) {
        let (begun_ns, mut count, mut path) = (monotonic_ns(), 0, "peers?limit=1000".to_owned());
        loop {
            let page: PeerPage = self.get(&path);
            count += page.peers.len() as u64;
            match page.next {
                Some(next) => path = format!("peers?limit=1000&cursor={next}"),
                None => return (count, monotonic_ns() - begun_ns),
            }
        }
    }

    /// As `kill -9` does.
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Peers with names.
struct Peers {
    ids: Vec<PeerId>,
    order: Vec<u32>,
    interval_us: u64,
    beats: u64,
}

impl Peers {
    fn name(number: u32) -> String {
        format!("node-{number:07}")
    }

    fn new(peers: u32, rate: u64) -> Peers {
        let ids = (0..peers).map(|number| PeerId::of(&Peers::name(number))).collect();
        // Twice as long as a round takes: who beats at this rate is never near its deadline.
        let interval_us = (2_000_000 * u64::from(peers) / rate).max(60_000_000);
        Peers { ids, order: shuffled(peers), interval_us, beats: 0 }
    }

    fn heartbeat(&self, number: u32, sequence: u32) -> Heartbeat {
        Heartbeat {
            peer: self.ids[number as usize],
            kind: Kind::Beat,
            status: Status::Ok,
            sequenced: true,
            key_id: 0,
            incarnation: 9,
            sequence,
            interval_us: self.interval_us,
            sent_ns: 0,
            age_us: 0,
            profile_digest: 0,
        }
    }

    /// Everybody says who it is, at so many a second.
    fn join(&self, socket: &UdpSocket, rate: u64) {
        let mut datagram = Vec::new();
        paced(rate, self.ids.len() as u64, |at| {
            let name = Peers::name(at as u32);
            let profile = Profile::new(&name, "scale", &[]).expect("a name");
            datagram.clear();
            encode_hello(&self.heartbeat(at as u32, 0), &profile, &mut datagram);
            socket.send(&datagram).expect("loopback takes it");
        });
    }

    /// So many heartbeats, at so many a second.
    fn beat(&mut self, socket: &UdpSocket, rate: u64, count: u64) {
        let first = self.beats;
        paced(rate, count, |at| {
            let (round, place) =
                ((first + at) / self.ids.len() as u64, (first + at) % self.ids.len() as u64);
            let beat = self.heartbeat(self.order[place as usize], round as u32 + 1);
            socket.send(&encode_beat(&beat)).expect("loopback takes it");
        });
        self.beats += count;
    }
}

/// Calls `act` so often, each time in its time.
fn paced(rate: u64, count: u64, mut act: impl FnMut(u64)) {
    let begun_ns = monotonic_ns();
    for at in 0..count {
        while monotonic_ns() - begun_ns < at * 1_000_000_000 / rate {
            std::hint::spin_loop();
        }
        act(at);
    }
}

pub fn grow(report: &mut Report, peers: u32, rate: u64, rounds: usize, measured_ns: u64) {
    report.section(&format!("{peers} peers, {rate} heartbeats a second"));
    let case = format!("{peers} peers");
    let state = TempDir::new("scale");
    let (monitor, first_start_ns) = Process::start(&state, peers);
    report.figure(&case, "start with nothing", "ms", Figure::exactly(first_start_ns as f64 / 1e6));
    let (own_before, shared_before) = monitor.memory();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.connect(&monitor.udp).expect("connect");
    let mut senders = Peers::new(peers, rate);
    // Half as fast as the load: each of them is told of twice, and named.
    senders.join(&socket, (rate / 2).max(1));
    monitor.until("all have joined", |summary| summary.peers.up == u64::from(peers));

    let mut each_ns = Vec::new();
    for _ in 0..rounds {
        let before = (monitor.reactor_ns(), monitor.summary());
        let count = rate * measured_ns / 1_000_000_000;
        senders.beat(&socket, rate, count);
        monitor.until("all are applied", |now| {
            now.heartbeats + now.kernel_drops >= before.1.heartbeats + before.1.kernel_drops + count
        });
        let applied = monitor.summary().heartbeats - before.1.heartbeats;
        each_ns.push((monitor.reactor_ns() - before.0) as f64 / applied as f64);
    }
    report.figure(&case, "a heartbeat, its reactor", "ns", Figure::of(&each_ns));

    let (own, shared) = monitor.memory();
    let each = |now: u64, before: u64| {
        Figure::exactly(now.saturating_sub(before) as f64 / f64::from(peers))
    };
    report.figure(&case, "memory of its own, each", "bytes", each(own, own_before));
    report.figure(&case, "memory of the state, each", "bytes", each(shared, shared_before));
    let summary_us: Vec<f64> = (0..SUMMARIES)
        .map(|_| {
            let begun_ns = monotonic_ns();
            assert_eq!(monitor.summary().peers.up, u64::from(peers), "they live");
            (monotonic_ns() - begun_ns) as f64 / 1e3
        })
        .collect();
    report.figure(&case, "summary", "µs", Figure::of(&summary_us));
    let lists: Vec<f64> = (0..rounds)
        .map(|_| {
            let (listed, took_ns) = monitor.list();
            assert_eq!(listed, u64::from(peers), "everybody is listed");
            took_ns as f64 / 1e6
        })
        .collect();
    report.figure(&case, "all pages of the list", "ms", Figure::of(&lists));

    monitor.kill();
    let mut restarts = Vec::new();
    for round in 0..rounds {
        let (monitor, took_ns) = Process::start(&state, peers);
        restarts.push(took_ns as f64 / 1e6);
        let recovered = monitor.summary().peers.up;
        assert_eq!(recovered, u64::from(peers), "everybody is back, round {round}");
        monitor.kill();
    }
    report.figure(&case, "kill -9, start to ready", "ms", Figure::of(&restarts));
}
