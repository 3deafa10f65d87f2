//! Who beats when, and what becomes of whom: pure functions of a seed.
//!
//! Every intended send time follows from `(seed, peer, n)` alone, never from when an earlier
//! heartbeat went out. So the load is open loop: a late generator catches up, its lateness is
//! measured against the intention, and no pause of anybody's thins out the questions asked (no
//! coordinated omission). All times are nanoseconds since the run's start.
//!
//! ```text
//!  0        ramp                kill_at                        ramp + duration     end
//!  |HELLOs…|BEATs, one phase each  |K peers never beat again          | …deadlines   |BYEs
//! ```

/// What is rolled for; each has its own stream of numbers, so that one option does not shift the
/// outcome of another.
#[derive(Clone, Copy)]
enum Stream {
    Shuffle = 1,
    Phase,
    Jitter,
    Turn,
    HelloOffset,
    Loss,
    Reorder,
    Duplicate,
    CopyDelay,
}

/// What becomes of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Beats to the end, then says BYE.
    Lives,
    /// Falls silent for good at the kill.
    Dies,
    /// Falls silent once for `flap_for_ns`, then goes on.
    Flaps,
    /// Starts anew once: a new incarnation, HELLO first, no pause.
    Restarts,
}

/// The figures that a run is made of. Shares are between 0 and 1.
#[derive(Clone, Debug)]
pub struct Figures {
    /// All randomness comes from it.
    pub seed: u64,
    /// Number of peers.
    pub senders: u32,
    /// Between two heartbeats of a peer, nanoseconds.
    pub interval_ns: u64,
    /// The first HELLOs are spread over this long.
    pub ramp_ns: u64,
    /// From the end of the ramp to the end of the load; the deadlines of the killed come on top.
    pub duration_ns: u64,
    /// Each heartbeat moves by up to this share of the interval either way; below 0.5.
    pub jitter: f64,
    /// Share of the heartbeats that is not sent.
    pub loss: f64,
    /// Share of the heartbeats that is sent after its successor.
    pub reorder: f64,
    /// Share of the heartbeats that is sent a second time, up to two intervals later.
    pub duplicate: f64,
    /// Every how many heartbeats one is a HELLO; at least 1.
    pub hello_every: u32,
    /// Peers that die.
    pub kill: u32,
    /// When they die.
    pub kill_at_ns: u64,
    /// Whether each of them sends a last heartbeat at that very instant.
    pub kill_together: bool,
    /// Peers that flap.
    pub flap: u32,
    /// How long those are silent.
    pub flap_for_ns: u64,
    /// Peers that restart.
    pub restart: u32,
    /// The wall clock at the start, nanoseconds since 1970; incarnations are made of it.
    pub start_wall_ns: u64,
}

/// The figures together with who was drawn for which fate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub figures: Figures,
    fates: Vec<Fate>,
}

impl Plan {
    /// Draws the fates. Panics if more are to be drawn than there are peers (the options check it).
    pub fn new(figures: Figures) -> Plan {
        let mut fates = vec![Fate::Lives; figures.senders as usize];
        let drawn = [
            (figures.kill, Fate::Dies),
            (figures.flap, Fate::Flaps),
            (figures.restart, Fate::Restarts),
        ];
        let mut order: Vec<u32> = (0..figures.senders).collect();
        let mut next = 0;
        for (count, fate) in drawn {
            for _ in 0..count {
                // Fisher-Yates, only as far as needed.
                let left = u64::from(figures.senders) - next as u64;
                let roll = draw(figures.seed, Stream::Shuffle, next as u32, 0);
                order.swap(next, next + (roll % left) as usize);
                fates[order[next] as usize] = fate;
                next += 1;
            }
        }
        Plan { figures, fates }
    }

    /// What becomes of a peer.
    #[inline]
    pub fn fate(&self, peer: u32) -> Fate {
        self.fates[peer as usize]
    }

    /// When heartbeat `n` of a peer is intended; ascending in `n`. Heartbeat 0 is its first HELLO.
    pub fn beat_ns(&self, peer: u32, n: u32) -> u64 {
        let f = &self.figures;
        let first = (u128::from(f.ramp_ns) * u128::from(peer) / u128::from(f.senders)) as u64;
        if n == 0 {
            return first;
        }
        let interval = f.interval_ns;
        let phase = draw(f.seed, Stream::Phase, peer, 0) % interval;
        // The first instant of the peer's own phase after its HELLO.
        let round = (first + interval - phase) / interval;
        let regular = phase + (round + u64::from(n) - 1) * interval;
        let shift = (self.roll(Stream::Jitter, peer, n) * 2.0 - 1.0) * f.jitter * interval as f64;
        // HELLO comes first, whatever the jitter says.
        regular.saturating_add_signed(shift as i64).max(first + 1)
    }

    /// When a peer flaps or restarts: anywhere in the load where its consequences still fit.
    pub fn turn_ns(&self, peer: u32) -> u64 {
        let f = &self.figures;
        let room = match self.fate(peer) {
            Fate::Flaps => f.duration_ns.saturating_sub(f.flap_for_ns),
            _ => f.duration_ns,
        };
        f.ramp_ns + (self.roll(Stream::Turn, peer, 0) * room as f64) as u64
    }

    /// Whether a peer that flaps is silent then.
    pub fn is_flapping(&self, peer: u32, at_ns: u64) -> bool {
        self.fate(peer) == Fate::Flaps && {
            let from = self.turn_ns(peer);
            (from..from + self.figures.flap_for_ns).contains(&at_ns)
        }
    }

    /// Whether heartbeat `n` is a HELLO by rota. The rotas of the peers are spread.
    pub fn is_hello(&self, peer: u32, n: u32) -> bool {
        let every = u64::from(self.figures.hello_every);
        let offset = draw(self.figures.seed, Stream::HelloOffset, peer, 0) % every;
        n == 0 || (u64::from(n) + offset).is_multiple_of(every)
    }

    /// Whether heartbeat `n` is lost. Never the first: the monitor has to know whom to miss.
    pub fn is_lost(&self, peer: u32, n: u32) -> bool {
        n > 0 && self.figures.loss > 0.0 && self.roll(Stream::Loss, peer, n) < self.figures.loss
    }

    /// Whether heartbeat `n` is held back until its successor has been sent.
    pub fn is_reordered(&self, peer: u32, n: u32) -> bool {
        let share = self.figures.reorder;
        n > 0 && share > 0.0 && self.roll(Stream::Reorder, peer, n) < share
    }

    /// When the copy of heartbeat `n`, sent at `at_ns`, follows; `None` when there is none.
    pub fn copy_ns(&self, peer: u32, n: u32, at_ns: u64) -> Option<u64> {
        let share = self.figures.duplicate;
        if share == 0.0 || self.roll(Stream::Duplicate, peer, n) >= share {
            return None;
        }
        let delay = self.roll(Stream::CopyDelay, peer, n) * 2.0 * self.figures.interval_ns as f64;
        Some(at_ns + delay as u64)
    }

    /// The incarnation of a sender started then, and the sequence number that it starts with.
    pub fn incarnation(&self, at_ns: u64) -> (u32, u32) {
        systole::wire::start_of(self.figures.start_wall_ns + at_ns)
    }

    fn roll(&self, stream: Stream, peer: u32, n: u32) -> f64 {
        let bits = draw(self.figures.seed, stream, peer, n);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The number that belongs to `(seed, stream, peer, n)`: SplitMix64's finalizer, twice.
fn draw(seed: u64, stream: Stream, peer: u32, n: u32) -> u64 {
    let key = (u64::from(peer) << 32) | u64::from(n);
    mix(mix(seed ^ (stream as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) ^ mix(key))
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A second's interval, a thousand peers, nothing going wrong.
    pub fn calm(seed: u64) -> Figures {
        Figures {
            seed,
            senders: 1_000,
            interval_ns: 1_000_000_000,
            ramp_ns: 2_000_000_000,
            duration_ns: 12_000_000_000,
            jitter: 0.1,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            hello_every: 5,
            kill: 0,
            kill_at_ns: 8_000_000_000,
            kill_together: false,
            flap: 0,
            flap_for_ns: 4_000_000_000,
            restart: 0,
            start_wall_ns: 1_700_000_000_123_456_789,
        }
    }

    /// The seeds of a test: the one in `SYSTOLE_TEST_SEED`, else a fixed list.
    pub fn seeds() -> Vec<u64> {
        match std::env::var("SYSTOLE_TEST_SEED") {
            Ok(seed) => vec![seed.parse().expect("SYSTOLE_TEST_SEED is a number")],
            Err(_) => vec![1, 2, 3, 0xDEAD_BEEF, u64::MAX],
        }
    }

    #[test]
    fn as_many_as_asked_for_are_drawn_and_no_peer_twice() {
        for seed in seeds() {
            let plan = Plan::new(Figures { kill: 500, flap: 300, restart: 200, ..calm(seed) });
            let count = |fate| (0..1_000).filter(|&p| plan.fate(p) == fate).count();
            let drawn = [Fate::Dies, Fate::Flaps, Fate::Restarts, Fate::Lives].map(count);
            assert_eq!(drawn, [500, 300, 200, 0], "seed {seed}");
        }
    }

    #[test]
    fn heartbeats_ascend_about_an_interval_apart() {
        for seed in seeds() {
            let plan = Plan::new(Figures { jitter: 0.45, ..calm(seed) });
            for peer in 0..1_000 {
                let times: Vec<u64> = (0..20).map(|n| plan.beat_ns(peer, n)).collect();
                assert!(times[0] < plan.figures.ramp_ns, "seed {seed} peer {peer}");
                assert!(times[1] - times[0] <= 1_450_000_000, "seed {seed} peer {peer}");
                for pair in times[1..].windows(2) {
                    let gap = pair[1] - pair[0];
                    assert!(
                        (100_000_000..=1_900_000_000).contains(&gap),
                        "seed {seed} peer {peer}"
                    );
                }
            }
        }
    }

    #[test]
    fn phases_fill_the_interval() {
        for seed in seeds() {
            let plan = Plan::new(Figures { jitter: 0.0, ..calm(seed) });
            let mut tenths = [0; 10];
            for peer in 0..1_000 {
                tenths[(plan.beat_ns(peer, 3) % 1_000_000_000 / 100_000_000) as usize] += 1;
            }
            // 100 each are expected, with a standard deviation of 9.5.
            assert!(tenths.iter().all(|n| (50..=150).contains(n)), "seed {seed}: {tenths:?}");
        }
    }
}
