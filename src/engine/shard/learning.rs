//! Tests of what a detector learns, and of what it must not.

use super::guards::{MS, START};
use super::tests::{Bench, beat, policy};
use super::*;
use crate::engine::brake::BrakeSettings;
use crate::engine::{Detector, Policy};
use crate::testing::{Rng, seeds};
use PeerState::*;

/// Whatever a detector learns, at any time and however it brings the deadline nearer, the timer goes
/// off at the deadline that its words make, to the microsecond.
#[test]
fn a_learnt_deadline_is_met_exactly() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        for word in Detector::WORDS {
            let policy = Policy { detector: word.parse().unwrap(), missed: 1.5, ..policy() };
            let groups = Groups::new(vec![policy], BrakeSettings::OFF);
            let mut bench = Bench::with(groups, 8, START);
            let (mut now_ns, mut last_ns) = (START, START);
            let mut learnt = Arrivals::NONE;
            bench.observe(&[beat(1, 1, 0)], START);
            let mut pauses = 0;
            for sequence in 1..400 {
                let context = format!("seed {seed} {word} {sequence}");
                let due = policy.deadlines(&learnt, 100_000);
                // Mostly punctual, now and then in a bunch or late; and sometimes as late as can be without
                // being down, again and again, so that a large deadline is unlearnt afterwards.
                if rng.one_in(150) {
                    pauses = rng.below(10);
                }
                let gap_ns = match rng.below(12) {
                    _ if pauses > 0 => due.down_ns / 100 * 93,
                    0 => rng.below(2 * MS),
                    1 => 100 * MS + rng.below(400 * MS),
                    2..5 => 50 * MS + rng.below(3 * MS),
                    _ => 95 * MS + rng.below(10 * MS),
                };
                pauses = u64::saturating_sub(pauses, 1);
                let arrives_ns = now_ns + gap_ns;
                let [suspect_ns, down_ns] = [due.suspect_ns, due.down_ns].map(|d| last_ns + d);
                let mut told = Vec::new();
                while let Some(next_ns) = bench.shard.next_deadline_ns(now_ns)
                    && next_ns < arrives_ns
                {
                    now_ns = next_ns;
                    told.extend(bench.advance(now_ns));
                }
                let deadlines: Vec<_> = told.iter().map(|t| (t.to, t.deadline_ns)).collect();
                let mut expected = vec![(Suspect, suspect_ns), (Down, down_ns)];
                expected.retain(|(_, at_ns)| at_ns.div_ceil(1_000) * 1_000 < arrives_ns);
                assert_eq!(deadlines, expected, "{context}");
                assert!(told.iter().all(|t| t.lateness_ns() < 1_000), "{context}: {told:?}");
                let was_down = bench.state(1) == Down;
                bench.observe(&[beat(1, 1, sequence)], arrives_ns);
                if was_down {
                    learnt.resume();
                } else {
                    policy.learn(&mut learnt, arrives_ns - last_ns, 1, 100_000);
                }
                (now_ns, last_ns) = (arrives_ns, arrives_ns);
            }
        }
    }
}

/// What was queued is read in one go: neither the gap before it nor the haste in it is the sender's.
#[test]
fn a_detector_learns_nothing_from_what_we_catch_up_with() {
    for word in ["chen", "bertier", "phi", "blend"] {
        let policy = Policy { detector: word.parse().unwrap(), ..policy() };
        let mut bench = Bench::with(Groups::uniform(policy), 4, START);
        let mut now_ns = START;
        for sequence in 1..=200 {
            now_ns += 100 * MS + u64::from(sequence % 7) * MS / 10;
            bench.observe(&[beat(1, 1, sequence)], now_ns);
        }
        let learnt = |bench: &Bench| bench.shard.table().slot(0).arrivals();
        let mut before = learnt(&bench);
        before.resume();
        let deadlines = policy.deadlines(&before, 100_000);
        // A stop of 10 s; what was queued is read behind it, and dated so.
        let (from_ns, to_ns) = (now_ns, now_ns + 10_000 * MS);
        bench.shard.catch_up();
        (201..=300).for_each(|sequence| _ = bench.observe(&[beat(1, 1, sequence)], to_ns + MS));
        bench.shard.caught_up(to_ns + MS);
        bench.shard.blind(from_ns, to_ns, &mut bench.sink);
        bench.observe(&[beat(1, 1, 301)], to_ns + 10 * MS);
        assert_eq!(policy.deadlines(&learnt(&bench), 100_000), deadlines, "{word}");
        bench.observe(&[beat(1, 1, 302)], to_ns + 115 * MS);
        assert_ne!(learnt(&bench), before, "{word} learns on");
    }
}

/// What was learnt is measured by the interval that holds.
#[test]
fn who_comes_to_another_interval_learns_anew() {
    let policies = [100_000, 500_000, 100_000].map(|default_interval_us| Policy {
        detector: "phi".parse().unwrap(),
        default_interval_us,
        ..policy()
    });
    let mut bench = Bench::with(Groups::new(policies.into(), BrakeSettings::OFF), 4, START);
    (1..=2).for_each(|number| bench.shard.shared.groups.set_policy(number, number));
    let unstated = |sequence| Heartbeat { interval_us: 0, ..beat(1, 1, sequence) };
    for sequence in 1..=50 {
        bench.observe(&[unstated(sequence)], START + u64::from(sequence) * 100 * MS);
    }
    let has_learnt = |bench: &Bench| bench.shard.table().slot(0).has_learnt();
    let now_ns = START + 5_010 * MS;
    assert!(has_learnt(&bench));
    bench.shard.assign(PeerId(1), 2, 0, now_ns);
    assert!(has_learnt(&bench), "the same of another group");
    bench.shard.assign(PeerId(1), 1, 0, now_ns);
    assert!(!has_learnt(&bench));
}
