//! A live load: a thread on another core sends so many heartbeats a second, each in its time.
//!
//! Open loop: a datagram is due at its time whether or not those before it were sent in theirs, so a
//! receiver that falls behind is not waited for. One system call a datagram, as from so many senders. One
//! of some hundred is a probe, which tells how long a datagram waits until it is taken in.

use super::fleet::{Datagrams, Fleet};
use super::sink::Sink;
use super::{become_sender, thread_cpu_ns};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use systole::clock::monotonic_ns;
use systole::metrics::histogram::Snapshot;

/// One of so many datagrams is followed by a probe.
const PROBE_EACH: u64 = 101;

/// What a load is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Heartbeats a second.
    pub rate: u64,
    /// For how long it is measured.
    pub measured_ns: u64,
    /// What goes before, unmeasured.
    pub warm_up_ns: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub datagrams: u64,
    pub probes: u64,
    /// The longest that the sender was behind.
    pub behind_ns: u64,
}

/// What the receiver spent on the measured part.
#[derive(Clone, Debug)]
pub struct Spent {
    pub sent: Sent,
    pub cpu_ns: u64,
    pub wall_ns: u64,
    pub datagrams: u64,
    pub turns: u64,
    pub drops: u64,
    pub ingest: Snapshot,
}

impl Spent {
    /// Processor time for each datagram.
    pub fn each_ns(&self) -> f64 {
        self.cpu_ns as f64 / self.datagrams.max(1) as f64
    }

    /// Share of a core.
    pub fn share(&self) -> f64 {
        self.cpu_ns as f64 / self.wall_ns as f64
    }

    /// Datagrams of a turn.
    pub fn batch(&self) -> f64 {
        self.datagrams as f64 / self.turns.max(1) as f64
    }
}

/// Sends a load until its time is over or `stop` says so.
pub fn send(
    socket: &UdpSocket,
    fleet: &mut Fleet,
    load: Load,
    probe: Option<fn(u64) -> Vec<u8>>,
    stop: &AtomicBool,
) -> Sent {
    let (mut sent, mut datagrams) = (Sent::default(), Datagrams::default());
    let beats = u64::from(fleet.form().beats());
    let begun_ns = monotonic_ns();
    let end_ns = begun_ns + load.warm_up_ns + load.measured_ns;
    // Relaxed: the flag orders nothing, it is only to be seen soon.
    while !stop.load(Ordering::Relaxed) {
        let now_ns = monotonic_ns();
        if now_ns >= end_ns {
            break;
        }
        let each_ns = beats as f64 * 1e9 / load.rate as f64;
        let next_ns = begun_ns + (sent.datagrams as f64 * each_ns) as u64;
        if now_ns < next_ns {
            std::hint::spin_loop();
            continue;
        }
        sent.behind_ns = sent.behind_ns.max(now_ns - next_ns);
        fleet.fill(&mut datagrams, 1);
        for datagram in datagrams.iter() {
            socket.send(datagram).expect("loopback takes it");
        }
        sent.datagrams += 1;
        if sent.datagrams.is_multiple_of(PROBE_EACH)
            && let Some(probe) = probe
        {
            socket.send(&probe(monotonic_ns())).expect("loopback takes it");
            sent.probes += 1;
        }
    }
    sent
}

/// Lets `sink` take in a load, sent from another core. `each_turn` is called after each turn.
pub fn receive(
    sink: &mut Sink,
    socket: &UdpSocket,
    fleet: &mut Fleet,
    load: Load,
    mut each_turn: impl FnMut(&mut Sink),
) -> Spent {
    let (probe, over) = (sink.probe(), AtomicBool::new(false));
    let (dropped_before, taken_before) = (sink.drops(), sink.datagrams());
    std::thread::scope(|scope| {
        let over = &over;
        let never = AtomicBool::new(false);
        let sender = scope.spawn(move || {
            become_sender();
            let sent = send(socket, fleet, load, Some(probe), &never);
            // Release: pairs with the Acquire below, though the kernel's queue orders what was sent.
            over.store(true, Ordering::Release);
            sent
        });
        let mut turn = |sink: &mut Sink| {
            let plan = sink.turn();
            each_turn(sink);
            sink.rest(plan);
        };
        let begin_ns = monotonic_ns() + load.warm_up_ns;
        while monotonic_ns() < begin_ns {
            turn(sink);
        }
        let before = (thread_cpu_ns(), monotonic_ns(), sink.datagrams(), sink.turns());
        let ingest_before = sink.ingest();
        let end_ns = begin_ns + load.measured_ns;
        while monotonic_ns() < end_ns && !over.load(Ordering::Acquire) {
            turn(sink);
        }
        let (cpu_ns, now_ns) = (thread_cpu_ns(), monotonic_ns());
        let (datagrams, turns) = (sink.datagrams(), sink.turns());
        let ingest = sink.ingest().since(&ingest_before);
        while !over.load(Ordering::Acquire) {
            turn(sink);
        }
        let sent = sender.join().expect("the sender sends");
        // What is still queued is taken in, too; what was dropped, never.
        let all = sent.datagrams + sent.probes;
        while sink.datagrams() - taken_before + sink.drops() - dropped_before < all {
            sink.turn();
        }
        Spent {
            sent,
            cpu_ns: cpu_ns - before.0,
            wall_ns: now_ns - before.1,
            datagrams: datagrams - before.2,
            turns: turns - before.3,
            drops: sink.drops() - dropped_before,
            ingest,
        }
    })
}
