//! What takes datagrams in: the null sink, or the full path.
//!
//! Both have the same socket, transport, buffers, idle strategy and loop, with a look at all that is queued when
//! the last was some time ago. The null sink does nothing with a datagram, and its loop reads the clock twice a
//! turn, where the reactor's reads it as often as it needs to.

use super::fleet::{Datagrams, Form};
use super::monitor::{Monitor, PROBE_SECRET};
use std::hint::black_box;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use systole::clock::monotonic_ns;
use systole::engine::Policy;
use systole::io::sockets::bind_group;
use systole::io::{AnyBackend, Backend, TransportChoice, open};
use systole::metrics::histogram::Snapshot;
use systole::metrics::{Counter, Histogram, HistogramKind};
use systole::reactor::idle::{Idle, IdleStrategy, Plan};
use systole::wire::{PeerId, encode_probe};

/// Bytes of a probe that the null sink knows by its length, without a look at any other datagram.
const NULL_PROBE: usize = 24;
/// How old the last look at all that was queued may grow, as in the reactor.
const LOOK_NS: u64 = 5_000_000;
/// What a socket is asked to hold, as by default.
const RECEIVE_BUFFER: usize = 16 << 20;

/// A receiver. Made and used in one thread.
pub enum Sink {
    Null(Box<Null>),
    Full(Box<Monitor>),
}

/// Does nothing with the datagrams.
pub struct Null {
    backend: AnyBackend,
    idle: Idle,
    datagrams: u64,
    bytes: u64,
    probes: u64,
    turns: u64,
    looked_ns: u64,
    ingest: Histogram,
}

/// A socket's transport, and a sender's socket that is connected to it; `None` where there is no such
/// transport.
pub fn transport(choice: TransportChoice) -> Option<(AnyBackend, UdpSocket)> {
    let address = "127.0.0.1:0".parse().expect("address");
    let group = bind_group(address, 1, RECEIVE_BUFFER).expect("bind");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    sender.connect(group.address).expect("connect");
    match open(choice, group.sockets) {
        Ok(opened) => Some((opened.backend, sender)),
        Err(error) => {
            eprintln!("not tested here: {error}");
            None
        }
    }
}

impl Sink {
    /// The null sink.
    pub fn null(backend: AnyBackend) -> Sink {
        let idle = Idle::new(IdleStrategy::Hybrid, monotonic_ns());
        let (datagrams, bytes, probes, turns, looked_ns) = (0, 0, 0, 0, 0);
        let ingest = Histogram::default();
        let null = Null { backend, idle, datagrams, bytes, probes, turns, looked_ns, ingest };
        Sink::Null(Box::new(null))
    }

    /// The full path, with room for so many peers.
    pub fn full(backend: AnyBackend, peers: u32, form: Form) -> Sink {
        let (policy, idle) = (Policy::default(), IdleStrategy::Hybrid);
        Sink::Full(Box::new(Monitor::new(backend, peers, policy, idle, form)))
    }

    /// Stops the monitor's clock, or lets it go on.
    pub fn stop_clock(&self, stopped: bool) {
        if let Sink::Full(monitor) = self {
            let clock = &monitor.reactor.clock;
            if stopped { clock.stop() } else { clock.go_on() }
        }
    }

    /// One turn.
    #[inline]
    pub fn turn(&mut self) -> Plan {
        match self {
            Sink::Full(monitor) => monitor.reactor.turn().expect("the transport works"),
            Sink::Null(null) => null.turn(),
        }
    }

    /// Waits as the turn's plan says.
    #[inline]
    pub fn rest(&mut self, plan: Plan) {
        match self {
            Sink::Full(monitor) => monitor.reactor.rest(plan).expect("the transport works"),
            Sink::Null(null) => null.rest(plan),
        }
    }

    /// Datagrams taken in so far.
    #[inline]
    pub fn datagrams(&self) -> u64 {
        match self {
            Sink::Full(monitor) => monitor.count(Counter::Datagrams),
            Sink::Null(null) => null.datagrams,
        }
    }

    /// Turns so far.
    pub fn turns(&self) -> u64 {
        match self {
            Sink::Full(monitor) => monitor.count(Counter::Turns),
            Sink::Null(null) => null.turns,
        }
    }

    /// Datagrams that the kernel dropped so far.
    pub fn drops(&self) -> u64 {
        match self {
            Sink::Full(monitor) => monitor.reactor.backend.queues().drops,
            Sink::Null(null) => null.backend.queues().drops,
        }
    }

    /// From a probe's sending to its being taken in.
    pub fn ingest(&self) -> Snapshot {
        match self {
            Sink::Full(monitor) => monitor.reactor.histograms.of(HistogramKind::Ingest).snapshot(),
            Sink::Null(null) => null.ingest.snapshot(),
        }
    }

    /// What this sink takes for a probe sent now.
    pub fn probe(&self) -> fn(u64) -> Vec<u8> {
        match self {
            Sink::Full(_) => |now_ns| encode_probe(PeerId(1), PROBE_SECRET, now_ns).to_vec(),
            Sink::Null(_) => |now_ns| {
                let mut probe = now_ns.to_ne_bytes().to_vec();
                probe.resize(NULL_PROBE, 0);
                probe
            },
        }
    }

    /// Asserts that nothing was lost or refused but what the kernel dropped: `sent` datagrams of `form`
    /// and `probes` probes, and what was `joined` by another way.
    pub fn check(&self, form: Form, sent: u64, probes: u64, joined: u64) {
        assert_eq!(self.datagrams() + self.drops(), sent + probes, "received and dropped, or sent");
        let taken = self.datagrams();
        match self {
            Sink::Null(null) => {
                let length = match form {
                    Form::Plain => 32,
                    Form::Tagged => 48,
                    Form::Batch(beats) => 40 + 20 * u64::from(beats),
                };
                let expected = (taken - null.probes) * length + null.probes * NULL_PROBE as u64;
                assert_eq!(null.bytes, expected, "bytes of the datagrams");
            }
            Sink::Full(monitor) => {
                let beats = monitor.count(Counter::Heartbeats) - joined;
                // Of two probes in one batch, one is timed.
                let most = taken * u64::from(form.beats());
                let least = (taken - probes.min(taken)) * u64::from(form.beats());
                assert!((least..=most).contains(&beats), "{beats} applied of {least} to {most}");
                let refused = [Counter::Stale, Counter::Duplicate, Counter::TableFull];
                for counter in refused {
                    assert_eq!(monitor.count(counter), 0, "{}", counter.label());
                }
            }
        }
    }
}

impl Null {
    #[inline]
    fn turn(&mut self) -> Plan {
        let begun_ns = monotonic_ns();
        let mut received = self.receive();
        let mut last = received;
        while last > 0 && begun_ns > self.looked_ns + LOOK_NS {
            last = self.receive();
            received += last;
        }
        if last == 0 {
            self.looked_ns = begun_ns;
        }
        self.turns += 1;
        let now_ns = monotonic_ns();
        self.idle.received(received, now_ns);
        self.idle.plan(now_ns, None)
    }

    #[inline]
    fn receive(&mut self) -> u64 {
        let Null { backend, datagrams, bytes, probes, ingest, .. } = self;
        let mut sink = |datagram: &[u8], source: u32| {
            *datagrams += 1;
            *bytes += black_box((datagram, source)).0.len() as u64;
            if datagram.len() == NULL_PROBE {
                let sent = datagram[..8].try_into().expect("eight bytes");
                *probes += 1;
                ingest.record(monotonic_ns().saturating_sub(u64::from_ne_bytes(sent)));
            }
        };
        backend.receive_from(&mut sink).expect("the transport works") as u64
    }

    fn rest(&mut self, plan: Plan) {
        if plan != Plan::Poll
            && let Some((_, patience)) = plan.patience(monotonic_ns())
        {
            self.backend.wait(patience).expect("the transport works");
        }
    }
}

/// Sends all of `datagrams`, which wait in the receiver's queue then; few system calls.
pub fn send_all(socket: &UdpSocket, datagrams: &Datagrams) {
    let mut vectors: Vec<libc::iovec> = datagrams
        .iter()
        .map(|datagram| libc::iovec {
            iov_base: datagram.as_ptr().cast_mut().cast(),
            iov_len: datagram.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: all-zero bytes are a valid mmsghdr: null pointers and lengths of 0.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut rest = &mut messages[..];
    while !rest.is_empty() {
        // SAFETY: the headers point to vectors, and these to datagrams, that live through the call; the
        // kernel only reads what is sent.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        assert!(sent > 0, "sendmmsg: {}", std::io::Error::last_os_error());
        rest = &mut rest[sent as usize..];
    }
}
