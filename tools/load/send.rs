//! One sender thread: takes what is due from the schedule, in batches, and keeps the truth of it.
//!
//! ```text
//!  loop:  now ▶ everything intended by now ▶ encoded into the outlet of its peer
//!         flush each outlet (one system call for up to 64 datagrams) ▶ log the real send times
//!         sleep until the next intended time, but at least a slice
//! ```
//!
//! The slice trades the generator's own lateness (half of it on average, recorded) against its
//! processor time: at 250,000 heartbeats a second it makes batches of some eight datagrams a
//! socket and 2,000 wake-ups a second. A peer always sends through the same socket, so that its
//! heartbeats keep their order.

use crate::peers::Peers;
use crate::plan::{Fate, Plan};
use crate::schedule::{Due, Form, Mischief, Schedule};
use crate::socket::{Headers, Outlet, source};
use crate::truth::{Rules, SendLog, Silence};
use anyhow::{Context, Result};
use core_affinity::CoreId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use systole::clock;
use systole::metrics::Histogram;
use systole::metrics::histogram::Snapshot;
use systole::wire::{self, Heartbeat, Key, Kind, Profile, Status};

/// From one turn to the next, at least, nanoseconds.
const SLICE_NS: u64 = 500_000;
/// Datagrams of one turn at most: a generator that lags must still hear its end.
const TURN: usize = 4_096;
/// At most, so that Ctrl-C is heard.
const ATTENTION_NS: u64 = 50_000_000;
/// All BYEs are said within this time.
const BYE_WINDOW_NS: u64 = 2_000_000_000;

/// What all threads of a run share.
pub struct Run {
    /// Who beats when.
    pub plan: Arc<Plan>,
    /// Who they are.
    pub peers: Peers,
    /// What a silence is.
    pub rules: Rules,
    /// Where to.
    pub to: SocketAddr,
    /// The start on the monotonic clock, nanoseconds.
    pub start_ns: u64,
    /// The end of the load, nanoseconds since the start: BYE from then on.
    pub end_ns: u64,
    /// Sockets a thread.
    pub sources: usize,
    /// Each with an address of its own.
    pub spread_addresses: bool,
    /// Let the kernel cut up bunches of datagrams.
    pub segments: bool,
    /// What heartbeats are tagged with.
    pub key: Option<Key>,
    /// Heartbeats of made-up peers.
    pub flood: u32,
    /// Set to end the load early.
    pub stop: Arc<AtomicBool>,
    /// Datagrams sent so far, for the progress bar.
    pub sent: AtomicU64,
}

/// What a sender thread hands back.
#[derive(Default)]
pub struct Sent {
    /// Peers of which at least one heartbeat was sent.
    pub sent_for: Vec<u32>,
    /// When the first BYE was sent, nanoseconds since the start.
    pub byes_from_ns: u64,
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that it refused.
    pub refused: u64,
    /// BYEs among those sent.
    pub byes: u64,
    /// Heartbeats of made-up peers.
    pub flooded: u64,
    /// What was done to the heartbeats on purpose.
    pub mischief: Mischief,
    /// Every silence that came near the timeout.
    pub silences: Vec<Silence>,
    /// Sent minus intended, nanoseconds.
    pub lateness: Snapshot,
    /// Processor time of the thread, nanoseconds.
    pub cpu_ns: u64,
    /// When the load ended, nanoseconds since the start.
    pub load_ns: u64,
}

/// A sender thread before it starts, its sockets bound.
pub struct Sender {
    run: Arc<Run>,
    number: u32,
    stride: u32,
    core: Option<CoreId>,
    outlets: Vec<Outlet<Due>>,
}

impl Sender {
    /// Opens the sockets of thread `number` of `stride`.
    pub fn open(run: Arc<Run>, number: u32, stride: u32, core: Option<CoreId>) -> Result<Sender> {
        let outlets = (0..run.sources).map(|i| {
            let from = source(number as usize * run.sources + i, run.to, run.spread_addresses);
            Outlet::open(from, run.to).with_context(|| {
                format!(
                    "cannot open socket {i} of thread {number} from {} to {}: ask for fewer \
                     --sources, or raise `ulimit -n`",
                    from.ip(),
                    run.to
                )
            })
        });
        Ok(Sender { outlets: outlets.collect::<Result<_>>()?, run, number, stride, core })
    }

    /// Runs the load to its end, and the BYEs.
    pub fn run(mut self) -> Sent {
        if let Some(core) = self.core {
            core_affinity::set_for_current(core);
        }
        let run = self.run.clone();
        let mut schedule = Schedule::new(run.plan.clone(), self.number, self.stride);
        let share = (self.number..run.plan.figures.senders).step_by(self.stride as usize);
        let mut books = Books {
            log: SendLog::new(&run.rules, share.len(), self.stride),
            lateness: Histogram::default(),
            sent: Sent::default(),
        };
        let mut headers = Headers::new(run.segments);
        let cpu_before = thread_cpu_ns();
        let mut ending = false;
        loop {
            let now = run.now_ns();
            // Relaxed: a flag that publishes nothing but itself.
            if !ending && (now >= run.end_ns || run.stop.load(Ordering::Relaxed)) {
                ending = true;
                books.sent.load_ns = now;
                schedule.finish(now, BYE_WINDOW_NS);
            }
            self.send_due(&mut schedule, now, &mut headers, &mut books);
            let Some(next) = schedule.next_ns().or((!ending).then_some(run.end_ns)) else { break };
            // From the turn's start: what a turn took is no reason to sleep longer.
            let until = next.max(now + SLICE_NS).min(now + ATTENTION_NS);
            let until = if ending { until } else { until.min(run.end_ns) };
            let wait_ns = until.saturating_sub(run.now_ns());
            if wait_ns > 0 {
                std::thread::sleep(Duration::from_nanos(wait_ns));
            }
        }
        let sent_for = books.log.sent_for(share.clone());
        for peer in share {
            // A run cut short before the kill has killed nobody.
            if run.plan.fate(peer) == Fate::Dies && books.sent.load_ns > run.plan.figures.kill_at_ns
            {
                books.log.killed(peer);
            }
        }
        Sent {
            cpu_ns: thread_cpu_ns() - cpu_before,
            mischief: schedule.mischief(),
            silences: books.log.into_silences(),
            sent_for,
            byes_from_ns: books.sent.load_ns,
            lateness: books.lateness.snapshot(),
            ..books.sent
        }
    }

    fn send_due(
        &mut self,
        schedule: &mut Schedule,
        now: u64,
        headers: &mut Headers,
        books: &mut Books,
    ) {
        let run = &*self.run;
        let wall_ns = clock::wall_ns();
        for _ in 0..TURN {
            let Some(due) = schedule.pop(now) else { break };
            let number = due.peer / self.stride;
            let outlet = number as usize % self.outlets.len();
            let outlet = &mut self.outlets[outlet];
            if outlet.queue(due, |out| run.encode(&due, wall_ns, out)) {
                books.flush(run, outlet, headers);
            }
        }
        for outlet in self.outlets.iter_mut().filter(|outlet| !outlet.is_empty()) {
            books.flush(run, outlet, headers);
        }
    }
}

struct Books {
    log: SendLog,
    lateness: Histogram,
    sent: Sent,
}

impl Books {
    fn flush(&mut self, run: &Run, outlet: &mut Outlet<Due>, headers: &mut Headers) {
        let at_ns = run.now_ns();
        let Books { log, lateness, sent } = self;
        let before = sent.sent;
        outlet.flush(headers, |due, taken| {
            if !taken {
                sent.refused += 1;
                return;
            }
            sent.sent += 1;
            sent.byes += u64::from(due.form == Form::Bye);
            if due.form != Form::Bye {
                lateness.record(at_ns.saturating_sub(due.intended_ns));
            }
            if !due.old {
                let flaps = run.plan.fate(due.peer) == Fate::Flaps;
                log.sent(due.peer, due.intended_ns, at_ns, flaps);
            }
        });
        // Relaxed: a figure for the progress bar.
        run.sent.fetch_add(sent.sent - before, Ordering::Relaxed);
    }
}

impl Run {
    /// Nanoseconds since the start; 0 before it.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        clock::monotonic_ns().saturating_sub(self.start_ns)
    }

    fn encode(&self, due: &Due, wall_ns: u64, out: &mut Vec<u8>) {
        let heartbeat = Heartbeat {
            peer: self.peers.id(due.peer),
            kind: if due.form == Form::Bye { Kind::Bye } else { Kind::Beat },
            status: Status::Ok,
            sequenced: true,
            key_id: 0,
            incarnation: due.incarnation,
            sequence: due.sequence,
            interval_us: self.plan.figures.interval_ns / 1_000,
            sent_ns: wall_ns,
            age_us: 0,
            profile_digest: 0,
        };
        let start = out.len();
        if due.form == Form::Hello {
            let name = self.peers.name(due.peer);
            let profile = Profile::new(&name, &self.peers.group, &[])
                .expect("the options bound name and group");
            wire::encode_hello(&heartbeat, &profile, out);
        } else {
            out.extend_from_slice(&wire::encode_beat(&heartbeat));
        }
        if let Some(key) = &self.key {
            key.seal(out, start);
        }
    }
}

/// The cores to pin the senders to, from the last one downwards: the monitor's reactors are likely
/// to sit on the first ones.
pub fn cores(threads: usize) -> Vec<Option<CoreId>> {
    let mut cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.reverse();
    (0..threads).map(|i| cores.get(i % cores.len().max(1)).copied()).collect()
}

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
