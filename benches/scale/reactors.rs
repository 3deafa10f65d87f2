//! Reactors in threads of this process, steered by the kernel and not.
//!
//! Not steered, the kernel spreads datagrams by their sender's address, and nearly all of what a reactor receives is
//! another's but for one in so many; it is handed over. What that costs is the difference.

use crate::harness::fleet::{Datagrams, Fleet, Form};
use crate::harness::{Figure, Report, become_sender};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use systole::clock::monotonic_ns;
use systole::engine::{Groups, Policy};
use systole::io::TransportChoice;
use systole::io::sockets::{bind_group, by_reactor};
use systole::metrics::Counter;
use systole::reactor::cores::CorePlan;
use systole::reactor::{self, IdleStrategy, ReactorHandle, ReactorSettings};

/// Senders' sockets a reactor: enough that the kernel's hash of their addresses spreads them.
const SOURCES: usize = 32;
/// Longest that anything may take; only a failure does.
const LIMIT_NS: u64 = 60_000_000_000;

/// What is sent for each reactor.
#[derive(Clone, Copy)]
pub struct Load {
    pub peers: u32,
    /// Heartbeats a second.
    pub rate: u64,
    pub measured_ns: u64,
    pub rounds: usize,
}

pub fn run(report: &mut Report, reactors: usize, steered: bool, load: Load) {
    let group =
        bind_group("127.0.0.1:0".parse().expect("address"), reactors, 16 << 20).expect("bind");
    if !steered {
        detach(&group.sockets[0]);
    }
    // Each thread has senders of its own; a peer always sends through the same socket.
    let threads = reactors.div_ceil(2);
    let sources = (threads * SOURCES) as u32;
    let of_source = (load.peers * reactors as u32).div_ceil(sources);
    let peers = of_source * sources;
    let settings = ReactorSettings {
        transport: TransportChoice::Auto,
        idle: IdleStrategy::Hybrid,
        groups: Arc::new(Groups::uniform(Policy::default())),
        learnt_holds: false,
        max_peers: peers,
        cores: CorePlan::new(reactors),
        guard: Default::default(),
        newcomers: Default::default(),
        taps: Vec::new(),
        probe_secret: 0,
    };
    let memory = reactor::anonymous_memory(2 * peers, reactors as u32).expect("memory");
    let failed = |message: String| panic!("{message}");
    let sockets = by_reactor([group.sockets]);
    let inlets = sockets.into_iter().map(Into::into).collect();
    let fleet = reactor::start(&settings, inlets, memory, None, failed).expect("reactors");
    let handles = &fleet.handles;

    let interval_us = (u64::from(load.peers) * 1_000_000 / load.rate).max(1_000_000);
    let each_ns = threads as u64 * 1_000_000_000 / (load.rate * reactors as u64);
    let of_thread = |thread| {
        let fleet = |source| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
            socket.connect(group.address).expect("connect");
            let others = of_source * (thread * SOURCES + source) as u32;
            (Fleet::new(of_source, interval_us, Form::Plain).beside(others), socket)
        };
        Senders { fleets: (0..SOURCES).map(fleet).collect(), each_ns }
    };
    let mut senders: Vec<Senders> = (0..threads).map(of_thread).collect();
    let mut sent = 0;
    let mut round = |measured_ns| {
        sent += std::thread::scope(|scope| {
            let sends = senders.iter_mut().map(|senders| {
                scope.spawn(move || {
                    become_sender();
                    senders.send(measured_ns)
                })
            });
            let running: Vec<_> = sends.collect();
            running.into_iter().map(|thread| thread.join().expect("it sends")).sum::<u64>()
        });
        settle(handles, sent);
    };
    // Everybody joins, and more.
    round(2 * u64::from(peers) * 1_000_000_000 / (load.rate * reactors as u64));
    let (mut each_ns, mut handed) = (Vec::new(), Vec::new());
    for _ in 0..load.rounds {
        let before = (cpu_ns(handles), sum(handles, Counter::Heartbeats));
        let handed_before = sum(handles, Counter::HandedOver);
        round(load.measured_ns);
        let applied = (sum(handles, Counter::Heartbeats) - before.1) as f64;
        each_ns.push((cpu_ns(handles) - before.0) as f64 / applied);
        handed.push(100.0 * (sum(handles, Counter::HandedOver) - handed_before) as f64 / applied);
    }
    let steering = if steered { "steered" } else { "not steered" };
    let case = format!("{reactors} reactors, {steering}, {} a second each", load.rate);
    report.figure(&case, "a heartbeat, all reactors", "ns", Figure::of(&each_ns));
    report.figure(&case, "handed over", "%", Figure::of(&handed));
    let lost = sum(handles, Counter::KernelDrops) + sum(handles, Counter::HandOverFull);
    report.figure(&case, "lost", "", Figure::exactly(lost as f64));
    let known: usize = handles.iter().map(known).sum();
    assert!(known as u64 + lost >= u64::from(peers), "{known} of {peers} known, {lost} lost");
    if steered && reactors > 1 {
        assert_eq!(sum(handles, Counter::HandedOver), 0, "the kernel steers");
    }
    fleet.stop();
}

/// Peers in a reactor's table.
fn known(handle: &ReactorHandle) -> usize {
    (0..handle.view.high_water()).filter(|index| handle.view.read(*index).is_some()).count()
}

fn sum(handles: &[ReactorHandle], counter: Counter) -> u64 {
    handles.iter().map(|handle| handle.counters.get(counter)).sum()
}

/// Waits until everything that was sent is applied or lost, and empties the report rings meanwhile.
fn settle(handles: &[ReactorHandle], sent: u64) {
    let end_ns = monotonic_ns() + LIMIT_NS;
    loop {
        handles.iter().for_each(|handle| while handle.reports.pop().is_some() {});
        let known = [Counter::Heartbeats, Counter::KernelDrops, Counter::HandOverFull];
        let refused = [Counter::Stale, Counter::Duplicate, Counter::Reordered];
        let done: u64 = known.iter().chain(&refused).map(|c| sum(handles, *c)).sum();
        if done >= sent {
            return;
        }
        assert!(monotonic_ns() < end_ns, "{done} of {sent}");
        std::thread::yield_now();
    }
}

/// Processor time of the reactors' threads, ns.
fn cpu_ns(handles: &[ReactorHandle]) -> u64 {
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.ok()?.path();
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let reactor = name.trim().strip_prefix("systole-")?.parse::<usize>().ok()?;
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        (reactor < handles.len()).then_some(text.split(' ').next()?.parse::<u64>().ok()?)
    };
    std::fs::read_dir("/proc/self/task").expect("proc").filter_map(of).sum()
}

/// Takes the steering program away: the kernel goes by addresses again.
fn detach(socket: &UdpSocket) {
    let nothing: libc::c_int = 0;
    // SAFETY: the value lives through the call, and its size is said; the kernel does not look at it.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const nothing).cast(),
            size_of_val(&nothing) as libc::socklen_t,
        )
    };
    assert_eq!(rc, 0, "detaching: {}", std::io::Error::last_os_error());
}

/// One thread's senders.
struct Senders {
    fleets: Vec<(Fleet, UdpSocket)>,
    /// From one of its heartbeats to the next.
    each_ns: u64,
}

impl Senders {
    /// Sends in open loop until the time is over; how many were sent.
    fn send(&mut self, for_ns: u64) -> u64 {
        let (begun_ns, mut sent, mut datagrams) = (monotonic_ns(), 0, Datagrams::default());
        loop {
            let since_ns = monotonic_ns() - begun_ns;
            if since_ns >= for_ns {
                return sent;
            }
            if sent * self.each_ns > since_ns {
                std::hint::spin_loop();
                continue;
            }
            let at = sent as usize % self.fleets.len();
            let (fleet, socket) = &mut self.fleets[at];
            fleet.fill(&mut datagrams, 1);
            datagrams.iter().for_each(|datagram| {
                socket.send(datagram).expect("loopback takes it");
            });
            sent += 1;
        }
    }
}
