//! The way in through real sockets: what a heartbeat costs in the null sink and in the whole monitor.
//!
//! The null sink (`harness/sink.rs`) receives by the same transport in the same loop and does nothing with
//! the datagrams; the full path is the product's own reactor: decode, look up, update, wheel, counters. What
//! the full path costs over the null sink is what the monitor costs beside the kernel.
//!
//! - `drain`: a burst is queued on a loopback socket, then drained; only the draining is timed. Warm: no
//!   sleeping, no waking, no softirq. For each transport, BEATs plain and tagged and a relay's batches of 70,
//!   for 50,000 and a million peers.
//! - `paced`: a thread on the other core sends so many heartbeats a second, each in its time, and the
//!   receiver sleeps and wakes as a reactor does.
//! - `buffers`: null sinks with io_uring buffers of different number and size, and with sources told.
//!
//! Null and full take turns within a round. Processor time of the receiving thread, which is pinned.
//!
//! `cargo bench --bench receive` measures, `… -- drain` only that part; without `--bench`, as the tests run
//! it, a tiny size checks that everything arrives and is applied. `--rounds N` (400 of drain, a twentieth of
//! them of paced), `--burst N` (200), `--peers N,N` (50000,1000000), `--rates N,N` (50000,200000,400000).

mod harness;

use harness::fleet::{Datagrams, Fleet, Form};
use harness::pace::{Load, Spent, receive};
use harness::sink::{Sink, send_all, transport};
use harness::{Arguments, Bar, Figure, Report, become_receiver, thread_cpu_ns};
use std::hint::black_box;
use std::net::UdpSocket;
use systole::io::sockets::bind_group;
use systole::io::uring::{BufferPlan, UringBackend, UringPlan};
use systole::io::{AnyBackend, Backend, TransportChoice};

const PARTS: &[&str] = &["drain", "paced", "buffers"];
const TRANSPORTS: [TransportChoice; 2] = [TransportChoice::Uring, TransportChoice::Poll];
/// Far beyond what a run takes, so that nobody falls silent in a drain.
const DRAIN_INTERVAL_US: u64 = 60_000_000;
const RELAYED: u32 = 70;

fn main() {
    let arguments = Arguments::new();
    let mut report = Report::new("receive", &arguments);
    become_receiver();
    let rounds = arguments.number("--rounds", 400, 4) as usize;
    let burst = arguments.number("--burst", 200, 50) as usize;
    let peers = arguments.numbers("--peers", &[50_000, 1_000_000], &[60, 300]);
    let peers: Vec<u32> = peers.into_iter().map(|n| u32::try_from(n).expect("peers")).collect();
    if arguments.wants("drain", PARTS) {
        for choice in TRANSPORTS {
            for &peers in &peers {
                for form in [Form::Plain, Form::Tagged, Form::Batch(RELAYED)] {
                    drain(&mut report, choice, peers, form, rounds, burst);
                }
            }
        }
    }
    if arguments.wants("paced", PARTS) {
        let rates = arguments.numbers("--rates", &[50_000, 200_000, 400_000], &[2_000]);
        let second_ns = if arguments.measures() { 1_000_000_000 } else { 100_000_000 };
        let turns = (rounds.div_ceil(20), second_ns);
        for choice in TRANSPORTS {
            for &rate in &rates {
                paced(&mut report, choice, peers[0], Form::Plain, rate, turns);
            }
            paced(&mut report, choice, peers[0], Form::Tagged, rates[0], turns);
        }
    }
    if arguments.wants("buffers", PARTS) {
        buffers(&mut report, rounds, burst);
    }
}

/// A receiver, its socket's other end and its senders, and what each of their heartbeats cost.
struct Way {
    sink: Sink,
    socket: UdpSocket,
    fleet: Fleet,
    joined: u64,
    samples: Vec<f64>,
}

impl Way {
    /// `None` where there is no such transport.
    fn new(choice: TransportChoice, full: bool, fleet: Fleet) -> Option<Way> {
        let (backend, socket) = transport(choice)?;
        let mut way = Way {
            sink: match full {
                true => Sink::full(backend, fleet.peers(), fleet.form()),
                false => Sink::null(backend),
            },
            socket,
            fleet,
            joined: 0,
            samples: Vec::new(),
        };
        if let Sink::Full(monitor) = &mut way.sink {
            monitor.join(&mut way.fleet);
            way.joined = way.fleet.beats();
        }
        Some(way)
    }

    /// Queues a burst and drains it.
    fn burst(&mut self, datagrams: &mut Datagrams, count: usize) {
        self.fleet.fill(datagrams, count);
        send_all(&self.socket, datagrams);
        let target = self.sink.datagrams() + count as u64;
        self.sink.stop_clock(false);
        let begun_ns = thread_cpu_ns();
        while self.sink.datagrams() < target {
            self.sink.turn();
        }
        let spent_ns = thread_cpu_ns() - begun_ns;
        self.sink.stop_clock(true);
        let beats = count as u64 * u64::from(self.fleet.form().beats());
        self.samples.push(spent_ns as f64 / beats as f64);
    }
}

fn drain(
    report: &mut Report,
    choice: TransportChoice,
    peers: u32,
    form: Form,
    rounds: usize,
    burst: usize,
) {
    let fleet = || Fleet::new(peers, DRAIN_INTERVAL_US, form);
    let ways = [false, true].map(|full| Way::new(choice, full, fleet()));
    let [Some(mut null), Some(mut full)] = ways else { return };
    let case = format!("drain, {choice}, {}, {peers} peers", form.word());
    let mut datagrams = Datagrams::default();
    for _ in 0..rounds {
        for way in [&mut null, &mut full] {
            // An untimed one first, for the other has had the cache meanwhile.
            way.burst(&mut datagrams, burst);
            way.samples.pop();
            (0..4).for_each(|_| way.burst(&mut datagrams, burst));
        }
    }
    let sent = (rounds * 5 * burst) as u64;
    for way in [&null, &full] {
        assert_eq!(way.sink.drops(), 0, "{case}: the queue holds a burst");
        way.sink.check(form, sent, 0, way.joined);
    }
    report.figure(&case, "null sink", "ns", Figure::of(&null.samples));
    report.figure(&case, "full path", "ns", Figure::of(&full.samples));
    let more: Vec<f64> =
        full.samples.iter().zip(&null.samples).map(|(full, null)| full - null).collect();
    report.figure(&case, "full less null", "ns", Figure::of(&more));
    let ratio = Figure::ratio(&full.samples, &null.samples);
    let limit = match (choice, form, peers) {
        (TransportChoice::Uring, Form::Plain, 50_000) => Some(1.08),
        (TransportChoice::Uring, Form::Plain, 1_000_000) => Some(1.15),
        (TransportChoice::Uring, Form::Tagged, 50_000) => Some(1.20),
        (TransportChoice::Uring, Form::Tagged, 1_000_000) => Some(1.30),
        _ => None,
    };
    match limit {
        Some(limit) => report.bar(&case, "full over null", "×", ratio, Bar::AtMost(limit)),
        None => report.figure(&case, "full over null", "×", ratio),
    }
    if let (Form::Batch(_), 50_000) = (form, peers) {
        let millions: Vec<f64> = full.samples.iter().map(|ns| 1e3 / ns).collect();
        report.bar(&case, "a core takes", "M/s", Figure::of(&millions), Bar::AtLeast(20.0));
    }
}

fn paced(
    report: &mut Report,
    choice: TransportChoice,
    peers: u32,
    form: Form,
    rate: u64,
    (rounds, second_ns): (usize, u64),
) {
    // Each peer beats as often as makes the rate.
    let fleet = || Fleet::new(peers, u64::from(peers) * 1_000_000 / rate, form);
    let ways = [false, true].map(|full| Way::new(choice, full, fleet()));
    let [Some(mut null), Some(mut full)] = ways else { return };
    let case = format!("paced, {choice}, {}, {rate} a second", form.word());
    let load = Load { rate, measured_ns: second_ns, warm_up_ns: second_ns / 5 };
    let (mut nulls, mut fulls) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (way, spent) in [(&mut null, &mut nulls), (&mut full, &mut fulls)] {
            let forget_reports = |sink: &mut Sink| {
                if let Sink::Full(monitor) = sink {
                    monitor.take_transitions(|_| {});
                }
            };
            let Way { sink, socket, fleet, .. } = way;
            spent.push(receive(sink, socket, fleet, load, forget_reports));
        }
    }
    for (way, spent) in [(&null, &nulls), (&full, &fulls)] {
        let sum = |of: fn(&Spent) -> u64| spent.iter().map(of).sum::<u64>();
        let (sent, probes) = (sum(|s| s.sent.datagrams), sum(|s| s.sent.probes));
        way.sink.check(form, sent, probes, way.joined);
    }
    let each = |spent: &[Spent]| spent.iter().map(Spent::each_ns).collect::<Vec<_>>();
    for (what, spent) in [("null sink", &nulls), ("full path", &fulls)] {
        let all = |of: fn(&Spent) -> f64| Figure::of(&spent.iter().map(of).collect::<Vec<_>>());
        let case = format!("{case}, {what}");
        report.figure(&case, "a heartbeat", "ns", all(Spent::each_ns));
        report.figure(&case, "of a core", "%", all(|spent| 100.0 * spent.share()));
        report.figure(&case, "datagrams a turn", "", all(Spent::batch));
        report.figure(&case, "kernel drops", "", all(|spent| spent.drops as f64));
        report.figure(
            &case,
            "sender behind, at most",
            "µs",
            all(|s| s.sent.behind_ns as f64 / 1e3),
        );
        let mut ingest = spent[0].ingest.clone();
        spent[1..].iter().for_each(|spent| ingest.merge(&spent.ingest));
        let hdr = ingest.to_hdr();
        let us = |percent: f64| hdr.value_at_quantile(percent / 100.0) as f64 / 1e3;
        // A short load may have had no probe.
        if ingest.count() == 0 {
            continue;
        }
        for (what, percent) in [("sent to taken in, p50", 50.0), ("sent to taken in, p99", 99.0)] {
            report.figure(&case, what, "µs", Figure::exactly(us(percent)));
        }
    }
    let ratio = Figure::ratio(&each(&fulls), &each(&nulls));
    match (form, rate) {
        (Form::Plain, 200_000) => {
            report.bar(&case, "full over null", "×", ratio, Bar::AtMost(1.10));
        }
        _ => report.figure(&case, "full over null", "×", ratio),
    }
}

/// A null sink with buffers of its own, outside of any loop.
struct Buffers {
    name: String,
    backend: AnyBackend,
    socket: UdpSocket,
    samples: Vec<f64>,
}

impl Buffers {
    fn uring(count: u16, bytes: usize) -> Option<Buffers> {
        let completions = (4 * u32::from(count)).max(1024);
        let plan = UringPlan { buffers: BufferPlan { count, bytes }, completions };
        let group = bind_group("127.0.0.1:0".parse().expect("address"), 1, 16 << 20).expect("bind");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("sender");
        socket.connect(group.address).expect("connect");
        let backend = match UringBackend::new(group.sockets, plan) {
            Ok(backend) => AnyBackend::Uring(Box::new(backend)),
            Err((_, reason)) => {
                eprintln!("not tested here: {reason}");
                return None;
            }
        };
        let name = format!("uring, {count} buffers of {bytes} bytes");
        Some(Buffers { name, backend, socket, samples: Vec::new() })
    }

    fn poll() -> Option<Buffers> {
        let (backend, socket) = transport(TransportChoice::Poll)?;
        let name = "poll, recvmmsg of 64".into();
        Some(Buffers { name, backend, socket, samples: Vec::new() })
    }

    /// The same, with the sources told.
    fn with_sources(mut self) -> Buffers {
        self.name.push_str(", sources");
        self.backend.tell_sources(true).expect("switch");
        self
    }

    fn round(&mut self, datagrams: &Datagrams) {
        send_all(&self.socket, datagrams);
        let begun_ns = thread_cpu_ns();
        let mut received = 0;
        let mut sink = |datagram: &[u8], source: u32| {
            received += black_box((datagram, source)).0.len() / 32;
        };
        while self.backend.receive_from(&mut sink).expect("receive") > 0 {}
        let spent_ns = thread_cpu_ns() - begun_ns;
        assert_eq!(received, datagrams.len(), "{}", self.name);
        self.samples.push(spent_ns as f64 / received as f64);
    }
}

fn buffers(report: &mut Report, rounds: usize, burst: usize) {
    report.section(&format!("null sinks, {rounds} rounds of {burst}"));
    let plans = [(64, 2048), (256, 2048), (1024, 2048), (64, 256)];
    let mut modes: Vec<Buffers> = plans
        .into_iter()
        .filter_map(|(count, bytes)| Buffers::uring(count, bytes))
        .chain(Buffers::uring(64, 2048).map(Buffers::with_sources))
        .chain(Buffers::poll())
        .chain(Buffers::poll().map(Buffers::with_sources))
        .collect();
    let mut datagrams = Datagrams::default();
    Fleet::new(100, DRAIN_INTERVAL_US, Form::Plain).fill(&mut datagrams, burst);
    for _ in 0..rounds + rounds / 10 {
        modes.iter_mut().for_each(|mode| mode.round(&datagrams));
    }
    for mode in &modes {
        let warm = &mode.samples[rounds / 10..];
        report.figure(&mode.name, "a datagram", "ns", Figure::of(warm));
        let calls = mode.backend.counts().system_calls as f64 / (mode.samples.len() * burst) as f64;
        report.figure(&mode.name, "system calls a datagram", "", Figure::exactly(calls));
    }
}
