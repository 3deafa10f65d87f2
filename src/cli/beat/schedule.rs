//! When to beat, in which form, and under which number. Pure: the time is an argument.
//!
//! ```text
//!  start   phase      interval − jitter    interval − jitter
//!    ├──────────────┼────────────────────┼───────────────────┼──▶
//!  HELLO          BEAT                 BEAT                 …      16th, or 30 s on: HELLO
//! ```
//!
//! The first beat goes out at once, so that a newcomer is known at once; the second after a random
//! part of an interval, so that a fleet started at one instant does not march in step; and each
//! interval after that is shortened a little, so that it never falls into step. Never lengthened: the
//! interval that is stated is a promise, and the monitor counts missed beats by it.

use crate::wire::{Heartbeat, Kind, PeerId, Status, start_of};

const SECOND_NS: u64 = 1_000_000_000;
/// A HELLO follows the last one after so long, at the next beat …
pub const HELLO_EVERY_NS: u64 = 30 * SECOND_NS;
/// … or with so manieth a beat, whichever comes first.
pub const HELLO_EVERY_BEATS: u32 = 16;

/// The form of a beat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Alive.
    Beat,
    /// Alive, and who I am.
    Hello,
}

/// When the next beat is due, and whether it is a HELLO. Times are monotonic nanoseconds.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval_ns: u64,
    jitter: f64,
    random: u64,
    next_ns: u64,
    last_hello_ns: Option<u64>,
    beats_since_hello: u32,
}

impl Schedule {
    /// A schedule that begins now. `jitter` is the share of the interval by which each one may be
    /// shorter, 0 to 0.5; `seed` is any random number.
    pub fn new(interval_ns: u64, jitter: f64, seed: u64, now_ns: u64) -> Schedule {
        Schedule {
            interval_ns,
            jitter,
            random: seed,
            next_ns: now_ns,
            last_hello_ns: None,
            beats_since_hello: 0,
        }
    }

    /// When the next beat is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes the beat that is due, if one is, and plans the next.
    ///
    /// The next is planned from when this one was due, not from when it was taken, so that delays do
    /// not add up. After a long stop (a suspended machine) it is planned from now: missed beats are
    /// not made up for.
    pub fn take(&mut self, now_ns: u64) -> Option<Form> {
        if now_ns < self.next_ns {
            return None;
        }
        let gap_ns = if self.last_hello_ns.is_none() { self.phase() } else { self.gap() };
        let from_ns = if now_ns - self.next_ns > self.interval_ns { now_ns } else { self.next_ns };
        self.next_ns = from_ns + gap_ns;
        Some(self.form(now_ns))
    }

    fn form(&mut self, now_ns: u64) -> Form {
        self.beats_since_hello += 1;
        let due = match self.last_hello_ns {
            None => true,
            Some(last_ns) => {
                self.beats_since_hello >= HELLO_EVERY_BEATS
                    || self.interval_ns >= HELLO_EVERY_NS
                    || now_ns - last_ns >= HELLO_EVERY_NS
            }
        };
        if !due {
            return Form::Beat;
        }
        self.last_hello_ns = Some(now_ns);
        self.beats_since_hello = 0;
        Form::Hello
    }

    fn phase(&mut self) -> u64 {
        (self.interval_ns as f64 * self.unit()) as u64
    }

    fn gap(&mut self) -> u64 {
        (self.interval_ns as f64 * (1.0 - self.jitter * self.unit())) as u64
    }

    /// A random number from 0 to 1 (splitmix64).
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Numbers the beats of one start: same incarnation, ascending sequence.
#[derive(Clone, Debug)]
pub struct Numbers {
    peer: PeerId,
    interval_us: u64,
    incarnation: u32,
    next_sequence: u32,
}

impl Numbers {
    /// The numbers of a sender that starts at `wall_ns`, nanoseconds since 1970.
    pub fn new(peer: PeerId, interval_us: u64, wall_ns: u64) -> Numbers {
        let (incarnation, next_sequence) = start_of(wall_ns);
        Numbers { peer, interval_us, incarnation, next_sequence }
    }

    /// The next heartbeat, sent at `wall_ns`.
    pub fn next(&mut self, kind: Kind, status: Status, wall_ns: u64) -> Heartbeat {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        Heartbeat {
            peer: self.peer,
            kind,
            status,
            sequenced: true,
            key_id: 0,
            incarnation: self.incarnation,
            sequence,
            interval_us: self.interval_us,
            sent_ns: wall_ns,
            age_us: 0,
            profile_digest: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 7_000 * SECOND_NS;

    fn seeds() -> Vec<u64> {
        match std::env::var("SYSTOLE_TEST_SEED") {
            Ok(seed) => vec![seed.parse().expect("SYSTOLE_TEST_SEED is a number")],
            Err(_) => vec![0, 1, 42, u64::MAX],
        }
    }

    /// The first beats of a schedule that is asked exactly when it said: when, and which form.
    fn beats(interval_ns: u64, seed: u64, count: usize) -> Vec<(u64, Form)> {
        let mut schedule = Schedule::new(interval_ns, 0.1, seed, START_NS);
        let one = |_| {
            let now_ns = schedule.next_ns();
            (now_ns, schedule.take(now_ns).expect("it is due now"))
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn the_first_beat_is_a_hello_at_once_and_the_phase_is_random() {
        for seed in seeds() {
            let beats = beats(SECOND_NS, seed, 2);
            assert_eq!(beats[0], (START_NS, Form::Hello), "seed {seed}");
            let phase_ns = beats[1].0 - START_NS;
            assert!(phase_ns <= SECOND_NS, "seed {seed}: {phase_ns}");
        }
        let phases: Vec<u64> =
            (0..1_000).map(|seed| beats(1_000, seed, 2)[1].0 - START_NS).collect();
        for tenth in 0..10u64 {
            let within = phases.iter().filter(|phase| **phase / 100 == tenth).count();
            assert!((50..200).contains(&within), "{within} of 1,000 in tenth {tenth}");
        }
    }

    #[test]
    fn no_interval_is_longer_than_stated_or_shorter_than_the_jitter() {
        for seed in seeds() {
            let beats = beats(SECOND_NS, seed, 10_000);
            let gaps: Vec<u64> = beats[1..].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
            assert!((900_000_000..910_000_000).contains(least), "seed {seed}: {least}");
            assert!((990_000_000..=SECOND_NS).contains(most), "seed {seed}: {most}");
            let mean = gaps.iter().sum::<u64>() / gaps.len() as u64;
            assert!(mean.abs_diff(950_000_000) < SECOND_NS / 200, "seed {seed}: {mean}");
        }
    }

    #[test]
    fn every_16th_beat_or_30_s_brings_a_hello() {
        for seed in seeds() {
            // At 1 s the count decides: the 1st, the 17th, the 33rd.
            let hellos = |interval_ns, count| -> Vec<usize> {
                let beats = beats(interval_ns, seed, count);
                (0..count).filter(|i| beats[*i].1 == Form::Hello).collect()
            };
            assert_eq!(hellos(SECOND_NS, 40), [0, 16, 32], "seed {seed}");
            assert_eq!(hellos(SECOND_NS / 1_000, 40), [0, 16, 32], "seed {seed}");
            // From 30 s on every beat is one.
            assert_eq!(hellos(30 * SECOND_NS, 4), [0, 1, 2, 3], "seed {seed}");
            assert_eq!(hellos(86_400 * SECOND_NS, 4), [0, 1, 2, 3], "seed {seed}");
            // In between the time decides: never more than 30 s and one interval apart.
            let beats = beats(7 * SECOND_NS, seed, 200);
            let hellos: Vec<u64> =
                beats.iter().filter(|b| b.1 == Form::Hello).map(|b| b.0).collect();
            assert!(hellos.len() > 30, "seed {seed}");
            for pair in hellos.windows(2) {
                let apart_ns = pair[1] - pair[0];
                let most_ns = HELLO_EVERY_NS + 7_700_000_000;
                assert!((HELLO_EVERY_NS..most_ns).contains(&apart_ns), "seed {seed}: {apart_ns}");
            }
        }
    }

    #[test]
    fn nothing_is_due_before_its_time_and_delays_do_not_add_up() {
        let mut schedule = Schedule::new(SECOND_NS, 0.0, 42, START_NS);
        assert_eq!(schedule.take(START_NS - 1), None);
        assert_eq!(schedule.take(START_NS), Some(Form::Hello));
        let second_ns = schedule.next_ns();
        for n in 0..1_000 {
            assert_eq!(schedule.next_ns(), second_ns + n * SECOND_NS);
            // Always served 300 µs late.
            assert!(schedule.take(second_ns + n * SECOND_NS + 300_000).is_some());
        }
    }

    #[test]
    fn after_a_long_stop_missed_beats_are_not_made_up_for() {
        let mut schedule = Schedule::new(SECOND_NS, 0.1, 42, START_NS);
        schedule.take(START_NS);
        let woken_ns = START_NS + 3_600 * SECOND_NS;
        assert_eq!(schedule.take(woken_ns), Some(Form::Hello), "the last one is an hour old");
        assert_eq!(schedule.take(woken_ns), None, "one beat, not 3,600");
        assert!(schedule.next_ns() >= woken_ns + 900_000_000);
    }

    #[test]
    fn sequences_ascend_within_a_start_and_from_start_to_start() {
        let wall_ns = 1_800_000_000 * SECOND_NS + 123_456_789;
        let beat = |numbers: &mut Numbers| numbers.next(Kind::Beat, Status::Ok, wall_ns);
        let mut first = Numbers::new(PeerId(7), 1_000_000, wall_ns);
        let (a, b) = (beat(&mut first), beat(&mut first));
        assert_eq!(a.incarnation, (18_000_000_001u64 % (1 << 32)) as u32);
        assert_eq!((a.sequence, b.sequence), (23_456, 23_457));
        assert_eq!(a.incarnation, b.incarnation);
        // Started anew 5 ms later, within the same tenth: the same incarnation, a later sequence.
        let c = beat(&mut Numbers::new(PeerId(7), 1_000_000, wall_ns + 5_000_000));
        assert_eq!((c.incarnation, c.sequence), (a.incarnation, 28_456));
        // A sequence wraps without a stop.
        first.next_sequence = u32::MAX;
        assert_eq!((beat(&mut first).sequence, beat(&mut first).sequence), (u32::MAX, 0));
    }
}
