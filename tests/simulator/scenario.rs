//! What a seed stands for: the size of the fleet, the settings, and which misfortunes may happen.
//!
//! Not every world has every misfortune. Each is switched on or off by the seed (*swarm testing*,
//! Groce et al. 2012): a bug that shows only while nothing else goes wrong, say a wake-up that was
//! never sent, hides in a world where there is always something that wakes everybody.

use super::monitor::SPIN_LOSS_NS;
use super::testing::Rng;
use systole::engine::{Detector, Policy};
use systole::reactor::IdleStrategy;

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// Everything about a world that is settled before it begins.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub reactors: usize,
    pub peers: usize,
    /// Whether all beat in step, and are suspected when hardly late.
    pub tight: bool,
    /// The interval that the others are drawn around.
    pub scale_ns: u64,
    /// Misfortunes happen until here; then all is calm.
    pub stormy_until_ns: u64,
    /// The end of the run.
    pub end_ns: u64,
    pub policy: Policy,
    pub idle: IdleStrategy,
    pub max_peers: u64,
    pub report_capacity: usize,
    pub mailbox_capacity: usize,
    pub machine: Machine,
    pub network: Network,
    pub control: Control,
    /// Mean time between two events of [`super::senders`]' menu.
    pub mischief_gap_ns: u64,
    /// When the monitor's process ends, in ascending order.
    pub endings: Vec<Ending>,
}

/// The end of a process, which another one goes on from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ending {
    pub at_ns: u64,
    /// For how long there is no process then.
    pub absent_ns: u64,
    /// Whether it ends in order and its sockets stay open, or it is killed with them.
    pub hands_over: bool,
}

/// The monitor's machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Whether the kernel's steering program is attached.
    pub steered: bool,
    /// Datagrams that a socket's receive buffer holds.
    pub queue_capacity: usize,
    /// Datagrams that one call of `receive` hands out.
    pub burst: usize,
    /// Longest time from queueing to announcing.
    pub announce_ns: u64,
    /// By how much the length of the queue is over-estimated.
    pub over_estimate: u64,
    /// What reading the clock, one system call and one datagram take.
    pub read_ns: u64,
    pub call_ns: u64,
    pub datagram_ns: u64,
    /// Longest time from being woken to running.
    pub wake_late_ns: u64,
    /// One step in so many is interrupted for up to `interrupt_ns`; 0 for never.
    pub interrupt_one_in: u64,
    pub interrupt_ns: u64,
    /// Mean time between stalls of a reactor, and the longest of them; 0 for never.
    pub stall_gap_ns: u64,
    pub stall_ns: u64,
}

/// The way from the senders to the monitor.
#[derive(Clone, Debug)]
pub struct Network {
    pub delay_ns: u64,
    /// Mean of what is added to the delay of each datagram; above an interval it reorders.
    pub jitter_ns: u64,
    pub loss_per_mille: u64,
    pub double_per_mille: u64,
    /// One datagram in so many is kept and sent again much later; 0 for none.
    pub replay_one_in: u64,
}

/// The control plane.
#[derive(Clone, Debug)]
pub struct Control {
    /// How often it takes reports, and how many of a ring at most.
    pub gap_ns: u64,
    pub take: usize,
    /// One gap in so many is a pause of up to `pause_ns`; 0 for none.
    pub pause_one_in: u64,
    pub pause_ns: u64,
}

/// Draws from a range, each order of magnitude as likely as the other.
pub fn log_uniform(rng: &mut Rng, from: u64, to: u64) -> u64 {
    let share = rng.below(1 << 24) as f64 / (1u64 << 24) as f64;
    (from as f64 * (to as f64 / from as f64).powf(share)) as u64
}

/// Draws from the exponential distribution, cut at ten times its mean.
pub fn exponential(rng: &mut Rng, mean: u64) -> u64 {
    let share = (rng.below(1 << 24) + 1) as f64 / (1u64 << 24) as f64;
    ((-share.ln()).min(10.0) * mean as f64) as u64
}

pub fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

/// In one world of three up to four endings, somewhere in the storm. They are drawn apart, so that the
/// rest of a world is what it is without them.
fn endings(seed: u64, scale_ns: u64, stormy_until_ns: u64) -> Vec<Ending> {
    let mut rng = Rng::new(seed ^ 0xDEAD);
    if !rng.one_in(3) {
        return Vec::new();
    }
    let mut endings = Vec::new();
    let mut from_ns = START_NS;
    for _ in 0..1 + rng.below(4) {
        let at_ns = from_ns + 1 + rng.below(stormy_until_ns - from_ns);
        let absent_ns = log_uniform(&mut rng, MS, (4 * scale_ns).clamp(2 * MS, 20 * SECOND));
        if at_ns + absent_ns >= stormy_until_ns {
            break;
        }
        endings.push(Ending { at_ns, absent_ns, hands_over: rng.one_in(3) });
        from_ns = at_ns + absent_ns;
    }
    endings
}

/// In one world of four the detector learns; drawn apart, too.
fn learning(seed: u64, scale_ns: u64, policy: Policy) -> Policy {
    let mut rng = Rng::new(seed ^ 0x1EA2);
    let detector = match rng.below(16) {
        0 => Detector::Chen(Default::default()),
        1 => Detector::Bertier(Default::default()),
        2 => Detector::Phi(Default::default()),
        3 => Detector::Blend(Default::default()),
        _ => return policy,
    };
    let timeout_ns = (scale_ns as f64 * policy.missed) as u64 + policy.grace_ns;
    let (floor_ns, ceiling_ns) = (timeout_ns / pick(&mut rng, &[2, 8]), 2 * timeout_ns);
    Policy { detector, floor_ns, ceiling_ns, ..policy }
}

impl Scenario {
    /// The world of a seed.
    pub fn of(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x5157_0C1E);
        let rng = &mut rng;
        let idle = match rng.below(10) {
            0 => IdleStrategy::Spin,
            1..=3 => IdleStrategy::Sleep,
            _ => IdleStrategy::Hybrid,
        };
        // Hours are rare: a reactor that sleeps half a second at a time takes many turns in them.
        let longest_ns = match (idle, rng.below(20)) {
            (IdleStrategy::Spin, _) => 50 * MS,
            (_, 0) => 2 * 3_600 * SECOND,
            _ => 20 * SECOND,
        };
        // In step, and suspected when hardly late: then heartbeats lie unread when a deadline comes.
        let tight = rng.one_in(4);
        let longest_ns = if tight { 60 * MS } else { longest_ns };
        let scale_ns = log_uniform(rng, 20 * MS, longest_ns);
        let peers = log_uniform(rng, if tight { 24 } else { 1 }, 48) as usize;
        let rounds = 8 + rng.below(24);
        let policy = Policy {
            detector: Detector::Fixed { timeout_ns: None },
            default_interval_us: scale_ns / US,
            missed: pick(rng, &[1.5, 2.0, 2.5, 3.0, 3.0, 5.0]),
            grace_ns: pick(rng, &[0, MS, 50 * MS, scale_ns / 2]),
            suspect_fraction: pick(rng, &[0.3, 0.7, 0.7, 0.95, 1.0]),
            forget_down_ns: pick(rng, &[scale_ns * 6, scale_ns * 20, u64::MAX / 4]),
            forget_left_ns: pick(rng, &[scale_ns * 3, scale_ns * 20, u64::MAX / 4]),
            floor_ns: 0,
            ceiling_ns: u64::MAX,
        };
        let hardly_late = (100 + rng.below(4)) as f64 / 150.0;
        let policy = match tight {
            true => Policy { missed: 1.5, grace_ns: 0, suspect_fraction: hardly_late, ..policy },
            false => policy,
        };
        let policy = learning(seed, scale_ns, policy);
        let stormy_until_ns = START_NS + rounds * scale_ns;
        // Long enough for everybody's silence to be found, where that is not too long to simulate.
        let silence_ns = match policy.detector {
            Detector::Fixed { .. } => {
                (2.0 * scale_ns as f64 * policy.missed) as u64 + policy.grace_ns
            }
            _ => policy.ceiling_ns,
        };
        let silence_ns = 2 * silence_ns + 2 * SECOND;
        let calm_ns = if silence_ns < 200 * SECOND { silence_ns } else { 20 * SECOND };
        let stalls = rng.one_in(2);
        let poll = rng.one_in(2);
        let on = |rng: &mut Rng, value: u64| if rng.one_in(2) { value } else { 0 };
        let jitter_ns = log_uniform(rng, 10 * US, 2 * scale_ns);
        let loss_per_mille = pick(rng, &[5, 50, 300]);
        Scenario {
            seed,
            reactors: pick(rng, &[1, 1, 2, 2, 3, 4]),
            peers,
            tight,
            scale_ns,
            stormy_until_ns,
            end_ns: stormy_until_ns + calm_ns,
            policy,
            idle,
            max_peers: if rng.one_in(8) { 1 + rng.below(peers as u64) } else { 256 },
            report_capacity: pick(rng, &[2, 4, 16, 64, 1_024, 1_024]),
            mailbox_capacity: pick(rng, &[2, 16, 1_024, 1_024, 1_024]),
            machine: Machine {
                steered: !rng.one_in(4),
                queue_capacity: pick(rng, &[4, 16, 256, 4_096, 4_096]),
                burst: pick(rng, if tight { &[1, 1, 2, 3] } else { &[1, 3, 16, 64] }),
                announce_ns: if poll { 0 } else { pick(rng, &[200, 5_000]) },
                over_estimate: if rng.one_in(4) { rng.below(3) } else { 0 },
                read_ns: pick(rng, &[25, 80, 200]),
                call_ns: pick(rng, &[600, 1_500, 4_000]),
                datagram_ns: pick(rng, &[100, 500, 2_000]),
                wake_late_ns: pick(rng, &[10 * US, 60 * US, 300 * US]),
                interrupt_one_in: on(rng, 400),
                interrupt_ns: pick(rng, &[5 * US, 100 * US, 2 * MS]),
                stall_gap_ns: if stalls { scale_ns * (1 + rng.below(6)) } else { 0 },
                stall_ns: log_uniform(rng, MS, 10 * SECOND).min(scale_ns * 6),
            },
            network: Network {
                delay_ns: log_uniform(rng, 20 * US, 200 * MS).min(scale_ns),
                jitter_ns: on(rng, jitter_ns),
                loss_per_mille: on(rng, loss_per_mille),
                double_per_mille: on(rng, 100),
                replay_one_in: on(rng, 20),
            },
            control: Control {
                gap_ns: pick(rng, &[MS, 5 * MS, 50 * MS]).max(scale_ns / 200),
                take: pick(rng, &[1, 8, 256, 256]),
                pause_one_in: on(rng, 100),
                pause_ns: (3 * scale_ns).min(10 * SECOND),
            },
            mischief_gap_ns: scale_ns / pick(rng, &[1, 2, 8]),
            endings: endings(seed, scale_ns, stormy_until_ns),
        }
    }

    /// Longest time that the monitor takes for what it does at once, if nothing holds it up: to wake
    /// and be woken by another reactor, to read a full queue, to wait for room that was just made.
    pub fn slack_ns(&self) -> u64 {
        let machine = &self.machine;
        let whole_queue_ns =
            machine.queue_capacity.min(512) as u64 * (machine.datagram_ns + 2 * US);
        // Where the queue seems never to be empty, each drain looks 64 times in vain; with several
        // reactors one waits for the drains of the others.
        let looks = if machine.over_estimate > 0 { 400 * (1 + self.reactors as u64) } else { 200 };
        let looks_ns = looks * machine.call_ns;
        2 * MS + 2 * SPIN_LOSS_NS + 4 * machine.wake_late_ns + 3 * whole_queue_ns + looks_ns
    }
}

/// Far from 0, and shortly before a wrap of the wheel's lowest levels.
pub const START_NS: u64 = (1 << 36) * US - 5 * SECOND;
