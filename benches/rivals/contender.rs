//! A monitor in threads of its own, whoever wrote it: what it counts, what it costs, and its end.

use crate::harness::fleet::Form;
use crate::harness::monitor::Monitor;
use crate::harness::{become_receiver, sink};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use systole::engine::Policy;
use systole::engine::transition::PeerState;
use systole::io::TransportChoice;
use systole::io::sockets::bind_group;
use systole::metrics::Counter;
use systole::reactor::IdleStrategy;

/// What a contender says of itself. Relaxed throughout: figures that order nothing.
#[derive(Default)]
pub struct Tally {
    applied: AtomicU64,
    downs: AtomicU64,
    returns: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    pub fn add_applied(&self, count: u64) {
        self.applied.fetch_add(count, Ordering::Relaxed);
    }

    pub fn add_downs(&self, count: u64) {
        self.downs.fetch_add(count, Ordering::Relaxed);
    }

    /// So many that were down beat again.
    pub fn add_returns(&self, count: u64) {
        self.returns.fetch_add(count, Ordering::Relaxed);
    }

    pub fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A running monitor.
pub struct Contender {
    /// The sender's socket, connected to it.
    pub socket: UdpSocket,
    tally: Arc<Tally>,
    threads: Vec<(i32, JoinHandle<()>)>,
}

impl Contender {
    /// Heartbeats applied so far.
    pub fn applied(&self) -> u64 {
        self.tally.applied.load(Ordering::Relaxed)
    }

    /// Peers that are down.
    pub fn down_now(&self) -> u64 {
        self.downs().saturating_sub(self.tally.returns.load(Ordering::Relaxed))
    }

    /// How often a peer was called down so far.
    pub fn downs(&self) -> u64 {
        self.tally.downs.load(Ordering::Relaxed)
    }

    /// Processor time of its threads, ns.
    pub fn cpu_ns(&self) -> u64 {
        self.threads.iter().map(|(thread, _)| spent_ns(std::process::id(), *thread)).sum()
    }

    /// Ends it. A datagram wakes it, should it wait for one.
    pub fn end(self) {
        self.tally.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.threads {
            while !thread.is_finished() {
                let _ = self.socket.send(&[0]);
                std::thread::yield_now();
            }
            thread.join().expect("it ends well");
        }
    }

    /// Starts what each of `bodies` does in a thread, the first of them on the receiver's core, all with a
    /// reactor's priority.
    pub fn of(
        socket: UdpSocket,
        tally: Arc<Tally>,
        bodies: Vec<Box<dyn FnOnce() + Send>>,
    ) -> Contender {
        let start = |body: Box<dyn FnOnce() + Send>| {
            let (tell, told) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                become_receiver();
                // SAFETY: gettid(2) takes nothing and cannot fail.
                tell.send(unsafe { libc::gettid() }).expect("asked for");
                body();
            });
            (told.recv().expect("told at once"), thread)
        };
        Contender { socket, tally, threads: bodies.into_iter().map(start).collect() }
    }
}

/// Processor time of a thread, ns (proc_pid_schedstat).
pub fn spent_ns(process: u32, thread: i32) -> u64 {
    let path = format!("/proc/{process}/task/{thread}/schedstat");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first word is a number")
}

/// A bound socket with a receive buffer like ours, and one that is connected to it.
pub fn sockets() -> (UdpSocket, UdpSocket) {
    let group = bind_group("127.0.0.1:0".parse().expect("address"), 1, 16 << 20).expect("bind");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    sender.connect(group.address).expect("connect");
    (group.sockets.into_iter().next().expect("one"), sender)
}

/// Systole's reactor.
pub fn systole(peers: u32, choice: TransportChoice) -> Option<Contender> {
    // The transport has to be made in the thread that uses it.
    let (tell, told) = std::sync::mpsc::channel();
    let tally = Arc::<Tally>::default();
    let body = {
        let tally = tally.clone();
        move || {
            let opened = sink::transport(choice);
            let Some((backend, socket)) = opened else {
                let _ = tell.send(None);
                return;
            };
            // No suspicion: a verdict is a verdict, as with the others.
            let policy = Policy { suspect_fraction: 1.0, ..Policy::default() };
            let idle = IdleStrategy::Hybrid;
            let mut monitor = Monitor::new(backend, peers, policy, idle, Form::Plain);
            tell.send(Some(socket)).expect("asked for");
            let mut applied = 0;
            while !tally.must_stop() {
                let plan = monitor.reactor.turn().expect("the transport works");
                let (mut downs, mut returns) = (0, 0);
                let told = monitor.take_transitions(|transition| {
                    downs += u64::from(transition.to == PeerState::Down);
                    returns += u64::from(transition.from == PeerState::Down);
                });
                if told > 0 {
                    tally.add_downs(downs);
                    tally.add_returns(returns);
                }
                let now = monitor.count(Counter::Heartbeats);
                tally.add_applied(now - std::mem::replace(&mut applied, now));
                monitor.reactor.rest(plan).expect("the transport works");
            }
        }
    };
    let nowhere = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let mut contender = Contender::of(nowhere, tally, vec![Box::new(body)]);
    contender.socket = told.recv().ok().flatten()?;
    Some(contender)
}
