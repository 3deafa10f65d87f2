//! Seeded traces: what arrives of a fleet over networks of different temper.
//!
//! The sender beats on a grid of one second, the peers at different phases. Delays and losses are
//! drawn; none of the senders ever dies, so every down verdict over these traces is a mistake.

use systole::trace::{Arrival, PeerTrace, Trace};
use systole::wire;

/// The interval of every sender.
pub const INTERVAL_US: u64 = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014), and the distributions made of it.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform, above 0 and at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() <= probability
    }

    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    pub fn normal(&mut self) -> f64 {
        // Box and Muller 1958.
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    pub fn pareto(&mut self, least: f64, shape: f64) -> f64 {
        least * self.unit().powf(-1.0 / shape)
    }
}

/// A network's temper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Temper {
    /// One rack: 0.2 ms and a bit, a scheduler's hiccup of some ms once in 500, one in 10^5 lost.
    Lan,
    /// The open internet: 40 ms with a heavy tail (Pareto, shape 2.2), one in 200 lost.
    Wan,
    /// Bursts of loss (Gilbert): a bad spell of 2.5 heartbeats on average once in 300, in which 80 % are
    /// lost and the rest is late; 10 ms jitter otherwise.
    Bursty,
    /// A load that comes and goes: the delay wanders (a random walk, 20 ms to 400 ms), and the sender's
    /// clock runs 200 ppm slow.
    Drifting,
    /// A fleet of all four, and of senders that sleep a second between beats instead of keeping to a
    /// grid.
    Mixed,
}

impl Temper {
    pub const ALL: [Temper; 5] =
        [Temper::Lan, Temper::Wan, Temper::Bursty, Temper::Drifting, Temper::Mixed];

    pub fn name(self) -> &'static str {
        match self {
            Temper::Lan => "lan",
            Temper::Wan => "wan",
            Temper::Bursty => "bursty",
            Temper::Drifting => "drifting",
            Temper::Mixed => "mixed",
        }
    }
}

/// A fleet's arrivals.
pub fn fleet(temper: Temper, peers: u64, beats: u32, seed: u64) -> Trace {
    let interval = wire::encode_interval(INTERVAL_US);
    let of = |number: u64| {
        let mut rng =
            Rng::new(seed.wrapping_mul(1_000_003) ^ number.wrapping_mul(0xD134_2543_DE82_EF95));
        let own = match temper {
            Temper::Mixed => Temper::ALL[number as usize % 4],
            other => other,
        };
        let sleeps = temper == Temper::Mixed && number % 5 == 4;
        let mut arrivals = sender(own, sleeps, beats, &mut rng);
        arrivals.iter_mut().for_each(|arrival| arrival.interval = interval);
        PeerTrace::new(format!("{}-{number}", temper.name()), arrivals)
    };
    let mut trace = Trace { peers: (0..peers).map(of).collect(), ..Trace::default() };
    trace.sort();
    trace
}

fn sender(temper: Temper, sleeps: bool, beats: u32, rng: &mut Rng) -> Vec<Arrival> {
    const MS: f64 = 1e6;
    let start_ns = 1e12 + rng.unit() * 1e9;
    let rate = if temper == Temper::Drifting { 1.0002 } else { 1.0 };
    let (mut bad, mut wander_ns, mut slept_ns) = (false, 100.0 * MS, 0.0);
    let mut arrivals = Vec::with_capacity(beats as usize);
    for beat in 0..beats {
        if sleeps {
            // The work between two sleeps.
            slept_ns += rng.exponential(3.0 * MS);
        }
        let sent_ns = start_ns + f64::from(beat) * 1e9 * rate + slept_ns;
        let (lost, delay_ns) = match temper {
            Temper::Lan => {
                let hiccup = if rng.chance(0.002) { rng.exponential(4.0 * MS) } else { 0.0 };
                (rng.chance(1e-5), 0.2 * MS + rng.exponential(0.05 * MS) + hiccup)
            }
            Temper::Wan => {
                (rng.chance(0.005), 20.0 * MS + rng.pareto(20.0 * MS, 2.2).min(20_000.0 * MS))
            }
            Temper::Bursty => {
                bad = if bad { !rng.chance(0.4) } else { rng.chance(1.0 / 300.0) };
                let late = if bad { rng.exponential(300.0 * MS) } else { 0.0 };
                (bad && rng.chance(0.8), 30.0 * MS + rng.exponential(10.0 * MS) + late)
            }
            Temper::Drifting | Temper::Mixed => {
                wander_ns = (wander_ns + 8.0 * MS * rng.normal()).clamp(20.0 * MS, 400.0 * MS);
                (rng.chance(0.001), wander_ns + rng.exponential(0.1 * wander_ns))
            }
        };
        if !lost {
            arrivals.push(Arrival {
                arrived_ns: (sent_ns + delay_ns) as u64,
                sent_ns: sent_ns as u64,
                sequence: beat,
                ..Arrival::default()
            });
        }
    }
    arrivals
}
