//! Systole beside what one would otherwise use, in the same harness and on the same two cores.
//!
//! - `live`: 50,000 peers beat from the other core. Systole's reactor over both transports, a monitor of
//!   tokio, dashmap and tokio-util's DelayQueue (`tokio_monitor.rs`), and one of recvmmsg, a mutexed HashMap
//!   and a BinaryHeap (`locked.rs`) take turns: processor time of all their threads for each heartbeat that
//!   they applied. Then the senders stop, and every contender must call all of them down.
//! - `redis`: Redis with keys that expire (`redis.rs`), where there is a redis-server, against Systole's
//!   reactor under a flood; rates on the same two cores. A sender's core is busy sooner than the reactor's, so
//!   there are two floods: datagram by datagram, and bunches that the kernel cuts up (UDP_SEGMENT), which cost
//!   the sender less and the receiver as much.
//! - `timers`: Systole's wheel, DelayQueue and another wheel alone (`timers.rs`).
//!
//! `cargo bench --bench rivals` measures, `… -- live` only that part; without `--bench`, as the tests run it,
//! a tiny size checks that all of them find who is silent. `--rounds N` (5), `--peers N` (50000),
//! `--rates N,N` (50000,200000).

mod contender;
#[path = "../harness/mod.rs"]
mod harness;
mod locked;
mod redis;
mod timers;
mod tokio_monitor;
// Its figures of Systole's own wheel.
#[allow(dead_code)]
#[path = "../engine/wheel.rs"]
mod wheel;

use contender::Contender;
use harness::fleet::{Datagrams, Fleet, Form};
use harness::pace::{Load, Sent, send};
use harness::sink::send_all;
use harness::{Arguments, Bar, Figure, Report, become_sender};
use redis::Run;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;
use systole::clock::monotonic_ns;
use systole::io::TransportChoice;

const PARTS: &[&str] = &["live", "redis", "timers"];
/// Longest that a contender may take for what it has to do; only a failure takes as long.
const LIMIT_NS: u64 = 60_000_000_000;

fn main() {
    let arguments = Arguments::new();
    let mut report = Report::new("rivals", &arguments);
    become_sender();
    let rounds = arguments.number("--rounds", 5, 1) as usize;
    let peers = arguments.number("--peers", 50_000, 100) as u32;
    if arguments.wants("live", PARTS) {
        for rate in arguments.numbers("--rates", &[50_000, 200_000], &[1_000]) {
            live(&mut report, peers, rate, rounds, arguments.measures());
        }
    }
    if arguments.wants("redis", PARTS) {
        against_redis(&mut report, peers, rounds, arguments.number("--beats", 500_000, 6_400));
    }
    if arguments.wants("timers", PARTS) {
        let sizes = arguments.numbers("--timers", &[50_000, 1_000_000], &[1_000]);
        sizes.iter().for_each(|&timers| timers::compare(&mut report, timers as u32, rounds));
    }
}

/// Waits until something is so.
fn until(what: &str, so: impl Fn() -> bool) {
    let end_ns = monotonic_ns() + LIMIT_NS;
    while !so() {
        assert!(monotonic_ns() < end_ns, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// A name and how to start it, with room for so many peers.
type Way = (&'static str, fn(u32) -> Option<Contender>);

const WAYS: [Way; 4] = [
    ("systole, uring", |peers| contender::systole(peers, TransportChoice::Uring)),
    ("systole, poll", |peers| contender::systole(peers, TransportChoice::Poll)),
    ("tokio, dashmap, DelayQueue", |peers| Some(tokio_monitor::start(peers))),
    ("recvmmsg, mutex, BinaryHeap", |peers| Some(locked::start(peers))),
];

fn live(report: &mut Report, peers: u32, rate: u64, rounds: usize, measures: bool) {
    report.section(&format!("{peers} peers, {rate} heartbeats a second, {rounds} rounds"));
    let mut costs: [Vec<f64>; WAYS.len()] = Default::default();
    let mut lost: [Vec<f64>; WAYS.len()] = Default::default();
    let mut mistakes: [Vec<f64>; WAYS.len()] = Default::default();
    let mut behind: [Vec<f64>; WAYS.len()] = Default::default();
    for _ in 0..rounds {
        for (at, (name, start)) in WAYS.iter().enumerate() {
            let Some(contender) = start(peers) else { continue };
            let live = one(name, &contender, peers, rate, measures);
            costs[at].push(live.each_ns);
            lost[at].push(live.lost_percent);
            mistakes[at].push(live.mistakes as f64);
            behind[at].push(live.behind_ns as f64 / 1e6);
            contender.end();
        }
    }
    let measured = |at: usize| !costs[at].is_empty();
    for at in (0..WAYS.len()).filter(|at| measured(*at)) {
        let case = format!("{}, {rate} a second", WAYS[at].0);
        report.figure(&case, "a heartbeat", "ns", Figure::of(&costs[at]));
        report.figure(&case, "lost", "%", Figure::of(&lost[at]));
        report.figure(&case, "called down while beating", "", Figure::of(&mistakes[at]));
        report.figure(&case, "sender behind, at most", "ms", Figure::of(&behind[at]));
    }
    for (at, against) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        if measured(at) {
            let ratio = Figure::ratio(&costs[at], &costs[against]);
            let case = format!("{} over {}", WAYS[at].0, WAYS[against].0);
            match (at, against) {
                (0, 2) => {
                    report.bar(&case, &format!("{rate} a second"), "×", ratio, Bar::AtMost(0.5));
                }
                _ => report.figure(&case, &format!("{rate} a second"), "×", ratio),
            }
        }
    }
}

/// What a live load came to.
struct Live {
    /// Processor time for each heartbeat.
    each_ns: f64,
    lost_percent: f64,
    /// How often a peer was called down that beat: somebody was held up, and it may be the sender.
    mistakes: u64,
    behind_ns: u64,
}

/// A live load and its end.
fn one(name: &str, contender: &Contender, peers: u32, rate: u64, measures: bool) -> Live {
    let mut fleet = Fleet::new(peers, u64::from(peers) * 1_000_000 / rate, Form::Plain);
    let warm_up_ns = if measures { 500_000_000 } else { 50_000_000 };
    let measured_ns = if measures { 2_000_000_000 } else { 200_000_000 };
    let never = AtomicBool::new(false);
    // Everybody joins, in an interval.
    let lap_ns = u64::from(peers) * 1_000_000_000 / rate;
    let mut load = |measured_ns| -> Sent {
        let load = Load { rate, warm_up_ns: 0, measured_ns };
        send(&contender.socket, &mut fleet, load, None, &never)
    };
    let before = load(lap_ns + warm_up_ns);
    let (cpu_ns, applied) = (contender.cpu_ns(), contender.applied());
    let sent = load(measured_ns);
    let (cpu_ns, applied) = (contender.cpu_ns() - cpu_ns, contender.applied() - applied);
    let all = u64::from(peers);
    until(&format!("{name} finds all {peers} silent"), || contender.down_now() == all);
    let (all_applied, all_sent) = (contender.applied(), before.datagrams + sent.datagrams);
    assert!(all_applied <= all_sent, "{name}: {all_applied} applied of {all_sent}");
    Live {
        each_ns: cpu_ns as f64 / applied as f64,
        lost_percent: 100.0 * (1.0 - all_applied as f64 / all_sent as f64),
        mistakes: contender.downs() - all,
        behind_ns: before.behind_ns.max(sent.behind_ns),
    }
}

fn against_redis(report: &mut Report, peers: u32, rounds: usize, beats: u64) {
    let Some(redis) = redis::Redis::start() else {
        eprintln!("not tested here: there is no redis-server");
        return;
    };
    report.section(&format!("{peers} peers, {beats} heartbeats, {rounds} rounds"));
    let (mut plain, mut cut, mut single, mut piped) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let (Some(one), Some(other)) = (flood(peers, beats, false), flood(peers, beats, true))
        else {
            return;
        };
        plain.push(one);
        cut.push(other);
        single.push(redis.one_at_a_time(peers, beats));
        piped.push(redis.pipelined(peers, beats));
    }
    let rates = |runs: &[Run]| runs.iter().map(|run| run.per_s).collect::<Vec<_>>();
    for (name, runs) in [
        ("systole, datagram by datagram", &plain),
        ("systole, bunches cut up", &cut),
        ("redis, one at a time", &single),
        ("redis, pipelines of 64", &piped),
    ] {
        let each: Vec<f64> = runs.iter().map(|run| run.each_ns).collect();
        report.figure(name, "a second", "", Figure::of(&rates(runs)));
        report.figure(name, "receiver, each", "ns", Figure::of(&each));
    }
    let over = |runs: &[Run], others: &[Run]| Figure::ratio(&rates(runs), &rates(others));
    let bar = Bar::AtLeast(6.0);
    report.bar("bunches over redis, one at a time", "rate", "×", over(&cut, &single), bar);
    report.figure("datagrams over redis, one at a time", "rate", "×", over(&plain, &single));
    report.figure("bunches over redis, pipelines", "rate", "×", over(&cut, &piped));
    let late_us: Vec<f64> =
        redis.lateness(peers.min(1_000)).iter().map(|late_ns| *late_ns as f64 / 1e3).collect();
    report.figure("redis, keys that expire", "told of after deadline", "µs", Figure::of(&late_us));
}

/// So many heartbeats as fast as the other core can send them. What the kernel drops is not applied; the
/// senders then go on until enough was.
fn flood(peers: u32, beats: u64, cut_up: bool) -> Option<Run> {
    let contender = contender::systole(peers, TransportChoice::Auto)?;
    if cut_up {
        segment(&contender.socket, 32);
    }
    let mut fleet = Fleet::new(peers, 1_000_000, Form::Plain);
    let mut datagrams = Datagrams::default();
    let mut sent = 0;
    let mut go_on = |until_applied: u64| {
        while contender.applied() < until_applied {
            fleet.fill(&mut datagrams, 64);
            match cut_up {
                true => {
                    assert_eq!(contender.socket.send(datagrams.bytes()).expect("sent"), 64 * 32)
                }
                false => send_all(&contender.socket, &datagrams),
            }
            sent += 64;
        }
    };
    go_on(beats / 10);
    let (cpu_ns, applied, begun_ns) = (contender.cpu_ns(), contender.applied(), monotonic_ns());
    go_on(applied + beats);
    let took_ns = monotonic_ns() - begun_ns;
    let applied = contender.applied() - applied;
    let each_ns = (contender.cpu_ns() - cpu_ns) as f64 / applied as f64;
    assert!(contender.applied() <= sent, "no more than there were");
    contender.end();
    Some(Run { per_s: applied as f64 * 1e9 / took_ns as f64, each_ns })
}

/// Lets the kernel cut what is sent into datagrams of so many bytes (udp(7)).
fn segment(socket: &UdpSocket, bytes: libc::c_int) {
    // SAFETY: the value lives through the call, and its size is said.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    assert_eq!(rc, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
}
