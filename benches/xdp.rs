//! AF_XDP beside io_uring and recvmmsg over the same virtual cable, taking turns.
//!
//! The receiver is on one end of a veth, the sender's sockets on the other; each way opens its transport
//! anew, so that no program of AF_XDP's is in the others' way. What comes is the whole of what the benches
//! of `receive` compare: the null sink, and the product's own reactor with 50,000 peers.
//!
//! - `drain`: a burst is sent, then drained; only the draining is timed. For AF_XDP that is the reading of
//!   rings and nothing else: what brought the frames there ran in the sender's time.
//! - `paced`: a thread on the other core sends so many heartbeats a second. Processor time of the receiving
//!   thread, and of the whole process: on a veth the kernel's part runs in whoever's time it is.
//! - `flood`: the same, as fast as the sender can with 32 heartbeats a system call (UDP_SEGMENT): what is
//!   taken in each second, and what is lost.
//!
//! `cargo bench --bench xdp` measures; without `--bench` a tiny size checks that everything arrives. Needs
//! root and `ip`; says `not tested here: …` without. `--rounds N` (10), `--rate N` (200000).

mod harness;

use harness::fleet::{Datagrams, Fleet, Form};
use harness::pace::{Load, receive};
use harness::sink::{Sink, send_all};
use harness::{Arguments, Bar, Figure, Report, become_receiver, become_sender, thread_cpu_ns};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use systole::clock::monotonic_ns;
use systole::io::sockets::bind_group;
use systole::io::xdp::{Attachment, XdpMode, XdpSettings, attach};
use systole::io::{Inlet, TransportChoice, open};

const PARTS: &[&str] = &["drain", "paced", "flood"];
const PEERS: u32 = 50_000;
const INTERVAL_US: u64 = 60_000_000;
const RECEIVE_BUFFER: usize = 64 << 20;
/// A veth holds 256 frames.
const BURST: usize = 128;
const SEGMENTS: usize = 32;

/// A way to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Uring,
    Poll,
    Native,
    Generic,
}

const ALL: [By; 4] = [By::Uring, By::Poll, By::Native, By::Generic];

impl By {
    fn word(self) -> &'static str {
        match self {
            By::Uring => "uring",
            By::Poll => "poll",
            By::Native => "xdp-native",
            By::Generic => "xdp-generic",
        }
    }
}

/// The cable; removed when it is dropped.
struct Cable {
    near: String,
    far: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn enter(namespace: &str) {
    let place = std::fs::File::open(format!("/run/netns/{namespace}")).expect("`ip` made it");
    // SAFETY: setns(2) takes a descriptor, which is open.
    let rc = unsafe { libc::setns(place.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

impl Cable {
    /// Lays it, and moves this thread to its near end.
    fn lay() -> Result<Cable, String> {
        let name = format!("systole-bench-{}", std::process::id());
        let cable = Cable { near: format!("{name}-near"), far: format!("{name}-far") };
        let (near, far) = (&cable.near, &cable.far);
        ip(&format!("netns add {near}"))?;
        ip(&format!("netns add {far}"))?;
        ip(&format!("link add near0 netns {near} type veth peer name far0 netns {far}"))?;
        for (namespace, device, host) in [(near, "near0", 1), (far, "far0", 2)] {
            ip(&format!("-n {namespace} address add 10.77.0.{host}/24 dev {device}"))?;
            ip(&format!("-n {namespace} link set {device} up"))?;
        }
        enter(near);
        Ok(cable)
    }

    /// A socket of the far end.
    fn sender(&self, to: SocketAddr) -> UdpSocket {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.far);
                let socket = UdpSocket::bind("10.77.0.2:0").expect("sender");
                socket.connect(to).expect("connect");
                socket
            });
            thread.join().expect("a socket")
        })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

/// A receiver that everybody has joined, its program if it has one, and its sender.
struct Way {
    sink: Sink,
    _attachment: Option<Attachment>,
    socket: UdpSocket,
    fleet: Fleet,
    joined: u64,
}

impl Way {
    fn open(cable: &Cable, by: By, full: bool) -> Option<Way> {
        let group = bind_group("10.77.0.1:0".parse().expect("address"), 1, RECEIVE_BUFFER);
        let group = group.expect("bind");
        let mut inlet = Inlet::from(group.sockets);
        let mut attachment = None;
        let mode = match by {
            By::Native => Some(XdpMode::Native),
            By::Generic => Some(XdpMode::Generic),
            _ => None,
        };
        if mode.is_some() {
            let interfaces = vec!["near0".parse().expect("a name")];
            let frames = 8192;
            let settings =
                XdpSettings { interfaces, mode, frames, busy_poll: false, checksum: false };
            let (held, mut shares) = attach(&settings, &[group.address], 1).expect("attach");
            (attachment, inlet.xdp) = (Some(held), Some(shares.remove(0)));
        }
        let choice = if by == By::Poll { TransportChoice::Poll } else { TransportChoice::Uring };
        let backend = match open(choice, inlet) {
            Ok(opened) => opened.backend,
            Err(error) => {
                eprintln!("not tested here: {error}");
                return None;
            }
        };
        let mut fleet = Fleet::new(PEERS, INTERVAL_US, Form::Plain);
        let mut sink = match full {
            true => Sink::full(backend, PEERS, Form::Plain),
            false => Sink::null(backend),
        };
        let mut joined = 0;
        if let Sink::Full(monitor) = &mut sink {
            monitor.join(&mut fleet);
            joined = fleet.beats();
        }
        let socket = cable.sender(group.address);
        Some(Way { sink, _attachment: attachment, socket, fleet, joined })
    }
}

fn main() {
    let arguments = Arguments::new();
    let mut report = Report::new("xdp", &arguments);
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => {
            eprintln!("not tested here: {why}");
            return;
        }
    };
    become_receiver();
    let rounds = arguments.number("--rounds", 10, 1) as usize;
    let rate = arguments.number("--rate", 200_000, 2_000);
    let bursts = if arguments.measures() { 200 } else { 3 };
    let measured_ns = if arguments.measures() { 1_000_000_000 } else { 50_000_000 };
    let warm_up_ns = measured_ns / 5;
    if arguments.wants("drain", PARTS) {
        drain(&mut report, &cable, rounds, bursts);
    }
    if arguments.wants("paced", PARTS) {
        paced(&mut report, &cable, rounds, Load { rate, measured_ns, warm_up_ns });
    }
    if arguments.wants("flood", PARTS) {
        flood(&mut report, &cable, rounds, measured_ns);
    }
}

fn drain(report: &mut Report, cable: &Cable, rounds: usize, bursts: usize) {
    report.section(&format!("drain, bursts of {BURST}, {PEERS} peers"));
    for full in [false, true] {
        let mut samples = ALL.map(|_| Vec::new());
        for _ in 0..rounds {
            for (by, samples) in ALL.into_iter().zip(&mut samples) {
                let Some(mut way) = Way::open(cable, by, full) else { continue };
                let mut datagrams = Datagrams::default();
                for nth in 0..bursts + bursts / 5 {
                    way.fleet.fill(&mut datagrams, BURST);
                    send_all(&way.socket, &datagrams);
                    let target = way.sink.datagrams() + BURST as u64;
                    let begun_ns = thread_cpu_ns();
                    while way.sink.datagrams() < target {
                        way.sink.turn();
                    }
                    if nth >= bursts / 5 {
                        samples.push((thread_cpu_ns() - begun_ns) as f64 / BURST as f64);
                    }
                }
                let sent = (BURST * (bursts + bursts / 5)) as u64;
                assert_eq!(way.sink.drops(), 0, "{}: the queue holds a burst", by.word());
                way.sink.check(Form::Plain, sent, 0, way.joined);
            }
        }
        for (by, samples) in ALL.into_iter().zip(&samples).filter(|(_, all)| !all.is_empty()) {
            let case = format!("drain, {}, {}", by.word(), path(full));
            match (by, full) {
                (By::Native, true) => {
                    report.bar(&case, "a heartbeat", "ns", Figure::of(samples), Bar::AtMost(45.0));
                }
                _ => report.figure(&case, "a heartbeat", "ns", Figure::of(samples)),
            }
        }
    }
}

fn paced(report: &mut Report, cable: &Cable, rounds: usize, load: Load) {
    report.section(&format!("paced, {} a second, {PEERS} peers", load.rate));
    let mut each = ALL.map(|_| Vec::new());
    let mut whole = ALL.map(|_| Vec::new());
    let mut lost = ALL.map(|_| Vec::new());
    let mut batch = ALL.map(|_| Vec::new());
    let mut waits = ALL.map(|_| Vec::new());
    for _ in 0..rounds {
        for (nth, by) in ALL.into_iter().enumerate() {
            let Some(mut way) = Way::open(cable, by, true) else { continue };
            let forget_reports = |sink: &mut Sink| {
                if let Sink::Full(monitor) = sink {
                    monitor.take_transitions(|_| {});
                }
            };
            let before_ns = process_cpu_ns();
            let Way { sink, socket, fleet, .. } = &mut way;
            let spent = receive(sink, socket, fleet, load, forget_reports);
            let all_ns = process_cpu_ns() - before_ns;
            // The sender spins between two heartbeats, so the whole is comparable and not small.
            let all = (spent.sent.datagrams + spent.sent.probes) as f64;
            whole[nth].push(all_ns as f64 / all);
            each[nth].push(spent.each_ns());
            lost[nth].push(spent.drops as f64);
            batch[nth].push(spent.batch());
            waits[nth].push(spent.ingest.to_hdr().value_at_quantile(0.5) as f64 / 1e3);
            let (datagrams, probes) = (spent.sent.datagrams, spent.sent.probes);
            way.sink.check(Form::Plain, datagrams, probes, way.joined);
        }
    }
    for (nth, by) in ALL.into_iter().enumerate().filter(|(nth, _)| !each[*nth].is_empty()) {
        let case = format!("paced, {}", by.word());
        report.figure(&case, "receiving thread", "ns", Figure::of(&each[nth]));
        report.figure(&case, "sender and receiver", "ns", Figure::of(&whole[nth]));
        report.figure(&case, "datagrams a turn", "", Figure::of(&batch[nth]));
        report.figure(&case, "sent to taken in, p50", "µs", Figure::of(&waits[nth]));
        report.figure(&case, "kernel drops", "", Figure::of(&lost[nth]));
    }
    if !each[0].is_empty() {
        let ratio = Figure::ratio(&each[2], &each[0]);
        report.bar("paced", "xdp-native over uring", "×", ratio, Bar::AtMost(0.6));
    }
}

fn flood(report: &mut Report, cable: &Cable, rounds: usize, measured_ns: u64) {
    report.section(&format!("flood, {SEGMENTS} heartbeats a system call, {PEERS} peers"));
    let mut rates = ALL.map(|_| Vec::new());
    let mut shares = ALL.map(|_| Vec::new());
    for _ in 0..rounds {
        for (nth, by) in ALL.into_iter().enumerate() {
            let Some(mut way) = Way::open(cable, by, true) else { continue };
            let over = AtomicBool::new(false);
            let Way { sink, socket, fleet, .. } = &mut way;
            let (mut taken, mut wall_ns) = (0, 1);
            let sent = std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    become_sender();
                    segment(socket, 32);
                    let (mut sent, mut datagrams) = (0, Datagrams::default());
                    // Relaxed: the flag orders nothing, it is only to be seen soon.
                    while !over.load(Ordering::Relaxed) {
                        fleet.fill(&mut datagrams, SEGMENTS);
                        // ENOBUFS and the like: the sender's own trouble, not sent.
                        sent += socket.send(datagrams.bytes()).map_or(0, |bytes| bytes as u64 / 32);
                    }
                    sent
                });
                let turn = |sink: &mut Sink| {
                    let plan = sink.turn();
                    if let Sink::Full(monitor) = sink {
                        monitor.take_transitions(|_| {});
                    }
                    sink.rest(plan);
                };
                let warm_ns = monotonic_ns() + measured_ns / 5;
                while monotonic_ns() < warm_ns {
                    turn(sink);
                }
                let (begun_ns, before) = (monotonic_ns(), sink.datagrams());
                while monotonic_ns() < begun_ns + measured_ns {
                    turn(sink);
                }
                (taken, wall_ns) = (sink.datagrams() - before, monotonic_ns() - begun_ns);
                over.store(true, Ordering::Relaxed);
                sender.join().expect("it sends")
            });
            while sink.turn() == systole::reactor::idle::Plan::Poll {}
            rates[nth].push(taken as f64 / wall_ns as f64 * 1e3);
            shares[nth].push(100.0 * (1.0 - sink.datagrams().min(sent) as f64 / sent as f64));
            assert!(sink.datagrams() > 0 && sink.datagrams() <= sent, "no more than were sent");
        }
    }
    for (nth, by) in ALL.into_iter().enumerate().filter(|(nth, _)| !rates[*nth].is_empty()) {
        let case = format!("flood, {}", by.word());
        report.figure(&case, "taken in", "M/s", Figure::of(&rates[nth]));
        report.figure(&case, "lost of what was sent", "%", Figure::of(&shares[nth]));
    }
    if !rates[0].is_empty() {
        let ratio = Figure::ratio(&rates[2], &rates[0]);
        report.bar("flood", "xdp-native over uring", "×", ratio, Bar::AtLeast(1.4));
    }
}

/// Has the kernel cut what is sent into datagrams of so many bytes.
fn segment(socket: &UdpSocket, bytes: libc::c_int) {
    // SAFETY: the kernel reads the four bytes of the option, which live through the call.
    let rc = unsafe {
        let length = size_of_val(&bytes) as libc::socklen_t;
        let fd = socket.as_raw_fd();
        libc::setsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const bytes).cast(), length)
    };
    assert_eq!(rc, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
}

fn path(full: bool) -> &'static str {
    if full { "full path" } else { "null sink" }
}

/// Processor time of all threads of this process, nanoseconds.
fn process_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(rc, 0, "every process has a CPU clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
