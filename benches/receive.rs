//! Receiving CPU per datagram: what each transport costs when nothing is done with the datagrams.
//!
//! Each round queues a burst of heartbeat-sized datagrams on a loopback socket, then drains it and
//! counts the CPU time of the draining thread alone. The sends are outside of the measure, and the
//! modes take turns within a round, so that drift of the machine hits all of them alike. What is
//! measured is a warm drain: no sleeping, no waking, no softirq; a live load costs more.
//!
//! `cargo bench --bench receive` measures; without `--bench`, as the tests run it, a few rounds
//! only check that everything arrives. Arguments: `--rounds N` (2000), `--burst N` (200).

use std::hint::black_box;
use std::net::UdpSocket;
use systole::io::poll::PollBackend;
use systole::io::sockets::bind_group;
use systole::io::uring::{BufferPlan, UringBackend, UringPlan};
use systole::io::{AnyBackend, Backend};

const DATAGRAM: [u8; 32] = [0xBE; 32];

/// How many datagrams a mode took for how many system calls and nanoseconds.
struct Mode {
    name: String,
    backend: AnyBackend,
    sender: UdpSocket,
    /// Nanoseconds per datagram, one sample for each round.
    samples: Vec<f64>,
}

impl Mode {
    fn new(name: String, open: impl FnOnce(Vec<UdpSocket>) -> Option<AnyBackend>) -> Option<Self> {
        let address = "127.0.0.1:0".parse().expect("address");
        let group = bind_group(address, 1, 16 << 20).expect("bind");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
        sender.connect(group.address).expect("connect");
        Some(Self { name, backend: open(group.sockets)?, sender, samples: Vec::new() })
    }

    fn uring(count: u16, bytes: usize) -> Option<Self> {
        let plan = UringPlan {
            buffers: BufferPlan { count, bytes },
            completions: (4 * u32::from(count)).max(1024),
        };
        Self::new(format!("uring, {count} x {bytes} B"), |sockets| {
            UringBackend::new(sockets, plan)
                .map_err(|(_, reason)| eprintln!("no uring: {reason}"))
                .ok()
                .map(|backend| AnyBackend::Uring(Box::new(backend)))
        })
    }

    fn poll() -> Option<Self> {
        Self::new("poll, recvmmsg(64)".into(), |sockets| {
            Some(AnyBackend::Poll(Box::new(PollBackend::new(sockets).expect("poll"))))
        })
    }

    /// The same, with the sources told.
    fn with_sources(mut self) -> Self {
        self.name.push_str(", sources");
        self.backend.tell_sources(true).expect("switch");
        self
    }

    fn round(&mut self, burst: usize) {
        for _ in 0..burst {
            self.sender.send(&DATAGRAM).expect("send");
        }
        let start_ns = thread_cpu_ns();
        let (mut datagrams, mut bytes) = (0, 0);
        while self
            .backend
            .receive_from(&mut |datagram, source| {
                datagrams += 1;
                bytes += black_box((datagram, source)).0.len();
            })
            .expect("receive")
            > 0
        {}
        let spent_ns = thread_cpu_ns() - start_ns;
        assert_eq!((datagrams, bytes), (burst, burst * DATAGRAM.len()), "{}", self.name);
        self.samples.push(spent_ns as f64 / burst as f64);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().expect("a number"))
    };
    let rounds = number("--rounds", if measuring { 2000 } else { 5 });
    let burst = number("--burst", 200);

    let plans = [(64, 2048), (256, 2048), (1024, 2048), (64, 256)];
    let mut modes: Vec<Mode> = plans
        .into_iter()
        .filter_map(|(count, bytes)| Mode::uring(count, bytes))
        .chain(Mode::uring(64, 2048).map(Mode::with_sources))
        .chain(Mode::poll())
        .chain(Mode::poll().map(Mode::with_sources))
        .collect();
    for warm_up in [true, false] {
        let rounds = if warm_up { rounds / 10 } else { rounds };
        modes.iter_mut().for_each(|mode| mode.samples.clear());
        for _ in 0..rounds {
            modes.iter_mut().for_each(|mode| mode.round(burst));
        }
    }

    println!(
        "ns of receiving CPU per {}-byte datagram, {rounds} rounds of {burst}",
        DATAGRAM.len()
    );
    println!("{:<24} {:>6} {:>8} {:>6} {:>16}", "mode", "p10", "median", "p90", "calls/datagram");
    for mode in &mut modes {
        mode.samples.sort_by(f64::total_cmp);
        let at = |share: f64| mode.samples[(share * (mode.samples.len() - 1) as f64) as usize];
        let all = (rounds + rounds / 10) * burst;
        println!(
            "{:<24} {:>6.0} {:>8.0} {:>6.0} {:>16.4}",
            mode.name,
            at(0.1),
            at(0.5),
            at(0.9),
            mode.backend.counts().system_calls as f64 / all as f64,
        );
    }
}

/// CPU time that this thread has used, in nanoseconds.
fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(rc, 0, "every thread has a CPU clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
