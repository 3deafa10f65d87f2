//! How late a verdict is behind its deadline, under load, for each way of waiting, and what that costs.
//!
//! ```text
//!  other core:    50,000 peers, 100,000 heartbeats a second     they never fall silent
//!                 mortals, each beats once a second and promises fifty: down 110 ms later, every time
//!  this core:     the reactor │ a bare timer │ the reactor │ …  in turns, seconds each, the load the same
//! ```
//!
//! A *bare timer* is what the machine allows without a monitor: the same thread waits for as many deadlines a
//! second in the same way and does nothing else. `hybrid` sleeps until 100 µs before its time and polls,
//! `spin` polls, `sleep` sleeps until the time itself. Its load goes to a socket that nobody reads.
//!
//! Lateness is fired less deadline, as the transition says. Figures are medians of the turns' own percentiles.
//!
//! `cargo bench --bench precision` measures; without `--bench`, as the tests run it, a tiny size checks that
//! every mortal was called down, once for each life. `--rates N,N` deadlines a second (100,1000,10000),
//! `--rounds N` (5), `--load N` (100000).

mod harness;

use harness::fleet::{Datagrams, Fleet, Form};
use harness::monitor::Monitor;
use harness::sink::transport;
use harness::{Arguments, Bar, Figure, Report, become_receiver, become_sender, thread_cpu_ns};
use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use systole::clock::monotonic_ns;
use systole::engine::Policy;
use systole::engine::transition::{PeerState, Reason, Transition};
use systole::io::TransportChoice;
use systole::metrics::Counter;
use systole::reactor::IdleStrategy;
use systole::wire::PeerId;

/// What a mortal promises; it keeps it for one heartbeat.
const MORTAL_INTERVAL_US: u64 = 20_000;
/// How often a mortal comes back; longer than it is given, and shorter than it is remembered.
const LIFE_NS: u64 = 1_000_000_000;
/// How long before its time a bare hybrid timer wakes.
const BARE_MARGIN_NS: u64 = 100_000;
/// Longest that the last mortals may take; only a failure takes as long.
const LIMIT_NS: u64 = 30_000_000_000;

/// What is asked of every way of waiting.
#[derive(Clone, Copy)]
struct Plan {
    peers: u32,
    /// Heartbeats of them a second.
    load: u64,
    /// Deadlines a second, and so many mortals.
    rate: u64,
    rounds: usize,
    warm_up_ns: u64,
    measured_ns: u64,
}

fn main() {
    let arguments = Arguments::new();
    let mut report = Report::new("precision", &arguments);
    become_receiver();
    for rate in arguments.numbers("--rates", &[100, 1_000, 10_000], &[50]) {
        let second = if arguments.measures() { 1_000_000_000 } else { 200_000_000 };
        let plan = Plan {
            peers: arguments.number("--peers", 50_000, 100) as u32,
            load: arguments.number("--load", 100_000, 1_000),
            rate,
            rounds: arguments.number("--rounds", 5, 1) as usize,
            warm_up_ns: second,
            measured_ns: 2 * second,
        };
        report.section(&format!(
            "{rate} deadlines a second under {} heartbeats a second, {} rounds",
            plan.load, plan.rounds
        ));
        for idle in [IdleStrategy::Hybrid, IdleStrategy::Spin, IdleStrategy::Sleep] {
            measure(&mut report, plan, idle);
        }
    }
}

/// A turn's latenesses and share of the core.
struct Turn {
    late_ns: Vec<u64>,
    share: f64,
}

impl Turn {
    fn at_us(&mut self, share: f64) -> f64 {
        self.late_ns.sort_unstable();
        let last = self.late_ns.len().saturating_sub(1);
        let at = (share * last as f64).round() as usize;
        self.late_ns.get(at).map_or(0.0, |ns| *ns as f64 / 1e3)
    }
}

fn measure(report: &mut Report, plan: Plan, idle: IdleStrategy) {
    let (backend, socket) = transport(TransportChoice::Auto).expect("one of them works");
    let (_unread, aside) = unread();
    // Every deadline is a verdict.
    let policy = Policy { suspect_fraction: 1.0, ..Policy::default() };
    let room = plan.peers + plan.rate as u32;
    let mut monitor = Monitor::new(backend, room, policy, idle, Form::Plain);
    let mut senders = Senders::new(plan);
    let (mut fired, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        fired.push(reactor(&mut monitor, &socket, &mut senders, plan));
        bare.push(bare_timer(&aside, plan, idle));
    }
    assert!(fired.iter().all(|turn| !turn.late_ns.is_empty()), "some have fallen silent");
    let case = format!("{}, {} deadlines a second", idle.as_str(), plan.rate);
    let bare_case = format!("{}, bare timer, {} a second", idle.as_str(), plan.rate);
    let at =
        |turns: &mut [Turn], share| turns.iter_mut().map(|t| t.at_us(share)).collect::<Vec<_>>();
    let hybrid = idle == IdleStrategy::Hybrid;
    for (what, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let (ours, theirs) = (at(&mut fired, share), at(&mut bare, share));
        match what {
            "p50" if hybrid => {
                report.bar(&case, "late, p50", "µs", Figure::of(&ours), Bar::AtMost(1.0));
            }
            _ => report.figure(&case, &format!("late, {what}"), "µs", Figure::of(&ours)),
        }
        report.figure(&bare_case, &format!("late, {what}"), "µs", Figure::of(&theirs));
        if what == "p99" {
            let more: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| o - t).collect();
            let (what, more) = ("p99, more than bare", Figure::of(&more));
            match hybrid {
                true => report.bar(&case, what, "µs", more, Bar::AtMost(20.0)),
                false => report.figure(&case, what, "µs", more),
            }
        }
    }
    for (case, turns) in [(&case, &fired), (&bare_case, &bare)] {
        let shares: Vec<f64> = turns.iter().map(|turn| 100.0 * turn.share).collect();
        report.figure(case, "of a core", "%", Figure::of(&shares));
    }
}

/// A socket that nobody reads, and one that is connected to it.
fn unread() -> (UdpSocket, UdpSocket) {
    let unread = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let aside = UdpSocket::bind("127.0.0.1:0").expect("socket");
    aside.connect(unread.local_addr().expect("bound")).expect("connect");
    (unread, aside)
}

/// The living and the mortal, and when the next of each is due.
struct Senders {
    living: Fleet,
    mortals: Fleet,
}

impl Senders {
    fn new(plan: Plan) -> Senders {
        let interval_us = u64::from(plan.peers) * 1_000_000 / plan.load;
        let mortals = Fleet::new(plan.rate as u32, MORTAL_INTERVAL_US, Form::Plain);
        Senders {
            living: Fleet::new(plan.peers, interval_us, Form::Plain),
            mortals: mortals.beside(plan.peers).in_line(),
        }
    }

    /// Sends in open loop until the time is over. Held up for long, the mortals go on from there, or one would
    /// beat again before it is dead.
    fn send(&mut self, socket: &UdpSocket, plan: Plan, for_ns: u64) {
        let mut datagrams = Datagrams::default();
        let begun_ns = monotonic_ns();
        let mortal_each_ns = LIFE_NS / plan.rate;
        let (mut living, mut mortal_ns) = (0, 0);
        loop {
            let since_ns = monotonic_ns() - begun_ns;
            if since_ns >= for_ns {
                return;
            }
            datagrams.clear();
            if living * 1_000_000_000 / plan.load <= since_ns {
                self.living.push(&mut datagrams);
                living += 1;
            }
            if mortal_ns <= since_ns {
                self.mortals.push(&mut datagrams);
                mortal_ns = (mortal_ns + mortal_each_ns).max(since_ns.saturating_sub(LIFE_NS / 4));
            }
            for datagram in datagrams.iter() {
                // Nobody may read it: what does not fit is dropped, and that is no error of the sender's.
                let _ = socket.send(datagram);
            }
        }
    }
}

/// Lets the reactor run under the load until the last mortal is down.
fn reactor(monitor: &mut Monitor, socket: &UdpSocket, senders: &mut Senders, plan: Plan) -> Turn {
    let over = AtomicBool::new(false);
    let mortals: HashSet<PeerId> =
        (0..plan.rate as u32).map(|number| Fleet::id(plan.peers + number)).collect();
    let (drops_before, lives_before) = (monitor.reactor.turns.drops(), senders.mortals.beats());
    let mut verdicts: Vec<Transition> = Vec::with_capacity(4 * plan.rate as usize);
    let (mut cpu_ns, mut wall_ns) = (0, 0);
    let (mut from_ns, mut to_ns) = (0, 0);
    std::thread::scope(|scope| {
        let over = &over;
        let sender = scope.spawn(move || {
            become_sender();
            senders.send(socket, plan, plan.warm_up_ns + plan.measured_ns);
            // Release: pairs with the Acquire below.
            over.store(true, Ordering::Release);
            senders.mortals.beats()
        });
        // While the bare timer had its turn, nobody looked.
        turn(monitor, &mut verdicts);
        let blind_before_ns = monitor.count(Counter::BlindNs);
        from_ns = monotonic_ns() + plan.warm_up_ns;
        while monotonic_ns() < from_ns {
            turn(monitor, &mut verdicts);
        }
        let before = (thread_cpu_ns(), monotonic_ns());
        while !over.load(Ordering::Acquire) {
            turn(monitor, &mut verdicts);
        }
        to_ns = monotonic_ns();
        (cpu_ns, wall_ns) = (thread_cpu_ns() - before.0, to_ns - before.1);
        let lives = sender.join().expect("the sender sends") - lives_before;
        // The living will fall silent, too, now that nobody sends; but the mortals have less time.
        let (mut deaths, mut seen, end_ns) = (0, 0, to_ns + LIMIT_NS);
        while deaths + monitor.reactor.turns.drops() - drops_before < lives
            && monotonic_ns() < end_ns
        {
            turn(monitor, &mut verdicts);
            let new = &verdicts[seen..];
            deaths += new.iter().filter(|verdict| mortals.contains(&verdict.peer)).count() as u64;
            seen = verdicts.len();
        }
        let lost = monitor.reactor.turns.drops() - drops_before;
        assert!(deaths <= lives, "{deaths} deaths of {lives} lives");
        // Who could not look for half a life grants so much that two lives may be one.
        let looked = monitor.count(Counter::BlindNs) - blind_before_ns < LIFE_NS / 2;
        assert!(
            deaths + lost >= lives || !looked,
            "{deaths} deaths, {lives} lives, {lost} dropped"
        );
    });
    let is_measured = |verdict: &&Transition| {
        mortals.contains(&verdict.peer) && (from_ns..to_ns).contains(&verdict.deadline_ns)
    };
    let late = |verdict: &Transition| verdict.fired_ns - verdict.deadline_ns;
    let late_ns = verdicts.iter().filter(is_measured).map(late).collect();
    Turn { late_ns, share: cpu_ns as f64 / wall_ns as f64 }
}

/// A turn of the reactor and the wait behind it.
fn turn(monitor: &mut Monitor, verdicts: &mut Vec<Transition>) {
    let next = monitor.reactor.turn().expect("the transport works");
    monitor.take_transitions(|transition| {
        if transition.to == PeerState::Down && transition.reason == Reason::Silence {
            verdicts.push(*transition);
        }
    });
    monitor.reactor.rest(next).expect("the transport works");
}

/// As many deadlines as the mortals have, waited for by nothing but a timer.
fn bare_timer(aside: &UdpSocket, plan: Plan, idle: IdleStrategy) -> Turn {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut senders = Senders::new(plan);
        let over = &over;
        scope.spawn(move || {
            become_sender();
            senders.send(aside, plan, plan.measured_ns);
            // Relaxed: only to be seen soon.
            over.store(true, Ordering::Relaxed);
        });
        let mut late_ns = Vec::with_capacity(4 * plan.rate as usize);
        let (cpu_ns, begun_ns) = (thread_cpu_ns(), monotonic_ns());
        let mut due_ns = begun_ns;
        while !over.load(Ordering::Relaxed) {
            due_ns += LIFE_NS / plan.rate;
            match idle {
                IdleStrategy::Sleep => sleep_until(due_ns),
                IdleStrategy::Hybrid => sleep_until(due_ns - BARE_MARGIN_NS),
                IdleStrategy::Spin => {}
            }
            let mut now_ns = monotonic_ns();
            while now_ns < due_ns {
                std::hint::spin_loop();
                now_ns = monotonic_ns();
            }
            late_ns.push(now_ns - due_ns);
        }
        let wall_ns = monotonic_ns() - begun_ns;
        Turn { late_ns, share: (thread_cpu_ns() - cpu_ns) as f64 / wall_ns as f64 }
    })
}

fn sleep_until(time_ns: u64) {
    let time = libc::timespec {
        tv_sec: (time_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (time_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `time` is a valid timespec for the length of the call; what is left is not asked for. A signal
    // may end it early, and then the rest is polled.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &time,
            std::ptr::null_mut(),
        );
    }
}
