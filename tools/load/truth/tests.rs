//! The verdict against scenes whose outcome is known because they were made with it.

use super::*;
use crate::plan::tests::seeds;

const RULES: Rules = Rules {
    timeout_ns: 3_050_000_000,
    slack_ns: 1_000_000_000,
    slop_ns: 20_000_000,
    early_ns: 0,
    one_more_ns: 0,
    hold_ns: 0,
};
const MS: u64 = 1_000_000;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn sighting(peer: u32, verdict: Word, at_ns: u64) -> Sighting {
    Sighting { peer, verdict, at_ns, seen_ns: at_ns + MS, lateness_ns: 7 }
}

#[test]
fn a_perfect_monitor_is_found_perfect_and_each_fault_of_a_faulty_one() {
    for seed in seeds() {
        let mut random = Random(seed);
        let (mut silences, mut sightings) = (Vec::new(), Vec::new());
        let mut want = Verdict::default();
        for peer in 0..2_000 {
            // One to three silences a peer, the last of which may be its death.
            let mut from_ns = 1_000 * MS + random.below(1_000 * MS);
            for _ in 0..=random.below(3) {
                let cause =
                    [Cause::Kill, Cause::Flap, Cause::Loss, Cause::Stall][random.below(4) as usize];
                let deadline = from_ns + RULES.timeout_ns;
                let until_ns = deadline + 200 * MS + random.below(5_000 * MS);
                let until = (cause != Cause::Kill).then_some(until_ns);
                silences.push(Silence { peer, from_ns, until_ns: until, cause });
                let at_ns = deadline + random.below(50_000);
                let down = sighting(peer, Word::Down, at_ns);
                let fault = random.below(10);
                let told = match fault {
                    0 => None,
                    1 => Some(Sighting { seen_ns: deadline + RULES.slack_ns + 1, ..down }),
                    _ => Some(down),
                };
                sightings.extend(told);
                if fault == 2 {
                    // Blamed a second time for one silence.
                    sightings.push(sighting(peer, Word::Down, at_ns + 5 * MS));
                    want.false_alarms.push(peer);
                }
                let found = fault > 1;
                match cause {
                    Cause::Kill if found => {
                        want.detected += 1;
                        want.detection_ns.push(at_ns - from_ns);
                        want.lateness_ns.push(7);
                        want.visible_ns.push(at_ns + MS - deadline);
                    }
                    Cause::Kill => want.missed.push(peer),
                    Cause::Stall => want.stall_alarms += u64::from(fault > 0),
                    _ if found => want.lapses_detected += 1,
                    _ => want.lapses_missed.push(peer),
                }
                match cause {
                    Cause::Kill => want.killed += 1,
                    Cause::Stall => want.generator_stalls += 1,
                    _ => want.lapses += 1,
                }
                if cause == Cause::Kill {
                    if random.below(10) == 0 {
                        sightings.push(sighting(peer, Word::Up, at_ns + 9_000 * MS));
                        want.resurrected.push(peer);
                    }
                    break;
                }
                sightings.push(sighting(peer, Word::Up, until_ns + MS));
                from_ns = until_ns + random.below(3_000 * MS);
            }
            if random.below(20) == 0 {
                // Blamed while it beat: before its first silence.
                sightings.push(sighting(peer, Word::Down, 900 * MS));
                want.false_alarms.push(peer);
            }
        }
        want.false_alarms.sort_unstable();
        // The order of the stream must not matter.
        for i in (1..sightings.len()).rev() {
            sightings.swap(i, random.below(i as u64 + 1) as usize);
        }
        sightings.sort_by_key(|s| s.at_ns);
        let got = judge(&RULES, &Absences::NONE, &silences, &sightings);
        assert_eq!(got, want, "seed {seed}");
        assert!(!got.agrees());
    }
}

#[test]
fn a_silence_about_as_long_as_the_timeout_may_be_found_or_not() {
    for over_ns in [-15 * MS as i64, 0, 15 * MS as i64, 90 * MS as i64] {
        let until_ns = (MS + RULES.timeout_ns).saturating_add_signed(over_ns);
        let silence =
            Silence { peer: 4, from_ns: MS, until_ns: Some(until_ns), cause: Cause::Loss };
        assert!(judge(&RULES, &Absences::NONE, &[silence], &[]).agrees(), "{over_ns}");
        let down = sighting(4, Word::Down, MS + RULES.timeout_ns);
        assert!(judge(&RULES, &Absences::NONE, &[silence], &[down]).agrees(), "{over_ns}");
    }
}

#[test]
fn calling_somebody_down_before_the_deadline_or_after_its_return_is_a_false_alarm() {
    let silence = Silence { peer: 1, from_ns: MS, until_ns: Some(9_000 * MS), cause: Cause::Flap };
    for at_ns in [MS + RULES.timeout_ns - 2 * MS, 9_021 * MS] {
        let verdict = judge(&RULES, &Absences::NONE, &[silence], &[sighting(1, Word::Down, at_ns)]);
        assert_eq!((verdict.false_alarms, verdict.lapses_missed), (vec![1], vec![1]), "{at_ns}");
    }
}

#[test]
fn the_log_keeps_every_gap_that_comes_near_the_timeout_and_knows_its_cause() {
    for seed in seeds() {
        let mut random = Random(seed);
        let mut log = SendLog::new(&RULES, 10, 3);
        let mut want = Vec::new();
        for peer in (1..31).step_by(3) {
            let flaps = random.below(2) == 0;
            let (mut intended, mut at) = (0, random.below(MS));
            log.sent(peer, intended, at, flaps);
            for _ in 0..200 {
                let planned = random.below(100) == 0;
                let late = if random.below(100) == 0 { 5_000 * MS } else { random.below(MS) };
                let before = at;
                intended += if planned { 4_000 * MS } else { 1_000 * MS };
                at = (intended + late).max(before);
                log.sent(peer, intended, at, flaps);
                if at - before > RULES.timeout_ns - RULES.slop_ns {
                    let cause = match (planned, flaps) {
                        (false, _) => Cause::Stall,
                        (true, true) => Cause::Flap,
                        (true, false) => Cause::Loss,
                    };
                    want.push(Silence { peer, from_ns: before, until_ns: Some(at), cause });
                }
            }
            log.killed(peer);
            want.push(Silence { peer, from_ns: at, until_ns: None, cause: Cause::Kill });
        }
        assert_eq!(log.into_silences(), want, "seed {seed}");
    }
}

#[test]
fn whoever_was_never_sent_for_cannot_die() {
    let mut log = SendLog::new(&RULES, 2, 1);
    log.killed(1);
    assert!(log.into_silences().is_empty());
}

#[test]
fn while_there_is_no_monitor_deadlines_stand_still_and_nobody_hears() {
    let rules = Rules { early_ns: 1_000 * MS, one_more_ns: 1_500 * MS, ..RULES };
    let mut absences = Absences::default();
    absences.add(12_000 * MS, 12_500 * MS);
    let silence =
        |until_ns| Silence { peer: 1, from_ns: 10_000 * MS, until_ns, cause: Cause::Flap };
    let down = |at_ns| [sighting(1, Word::Down, at_ns)];
    let judge = |until_ns, sightings: &[Sighting]| {
        judge(&rules, &absences, &[silence(until_ns)], sightings)
    };
    // Due at 13.05 s, by the absence's length at 13.55, and by one more heartbeat at 14: who is back
    // by then need not be found, but may be.
    assert!(judge(Some(13_990 * MS), &[]).agrees());
    assert_eq!(judge(Some(14_150 * MS), &[]).lapses_missed, [1]);
    assert!(judge(Some(14_150 * MS), &down(13_550 * MS)).agrees());
    // Visible within the slack of the extended deadline.
    assert!(judge(Some(20_000 * MS), &down(14_990 * MS)).agrees());
    assert_eq!(judge(Some(20_000 * MS), &down(15_010 * MS)).lapses_missed, [1]);
    // Back while nobody heard it: first heard an interval after the monitor was back.
    let mut late = Absences::default();
    late.add(13_000 * MS, 14_000 * MS);
    let judge = |at_ns| super::judge(&rules, &late, &[silence(Some(13_200 * MS))], &down(at_ns));
    assert!(judge(15_010 * MS).agrees());
    assert_eq!(judge(15_030 * MS).false_alarms, [1]);
    // Who was never silent is not excused by an absence.
    assert_eq!(super::judge(&rules, &late, &[], &down(14_100 * MS)).false_alarms, [1]);
}
