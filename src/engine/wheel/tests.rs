//! The wheel against its model: random runs, then every place where such wheels have gone wrong.

use super::level::{BITS, LEVELS, SLOTS};
use super::model::{Model, Random, Records, Seed, seeds};
use super::*;
use std::collections::BTreeSet;

/// Where random runs start: 0, beside boundaries of every level, in the middle of nowhere.
fn starts(random: &mut Random) -> u64 {
    let boundary = 1u64 << (BITS as u64 * random.below(11)).min(60);
    match random.below(4) {
        0 => 0,
        1 => boundary * (1 + random.below(3)) - random.below(3).min(boundary),
        2 => (1 << 48) * (1 + random.below(1 << 12)) - random.below(200),
        _ => (1 << 60) - (1 << 40) + random.below(1 << 50),
    }
}

fn random_run(seed: u64, steps: u32) {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    let count = [3, 40, 400][random.below(3) as usize];
    let mut model = Model::new(starts(&mut random), count);
    // Distances of one run are alike in magnitude, so that lists get long on every level.
    let bits = random.below(51);
    for step in 0..steps {
        let index = random.below(count as u64) as u32;
        let now = model.now_us;
        match random.below(13) {
            0..=3 if !model.is_armed(index) || random.below(4) == 0 => {
                let deadline = match random.below(8) {
                    0 => now.saturating_sub(random.distance(bits)),
                    1 => now,
                    // For one tick: that of another record.
                    2 => model.oracle.last().map_or(now, |&(due, _)| due),
                    _ => now + random.distance(bits),
                };
                model.arm(index, deadline);
            }
            4 => model.disarm(index),
            5 | 6 if model.is_armed(index) => {
                let due = model.due_us[&index].max(model.wheel.elapsed + 1);
                model.postpone(index, due + random.distance(bits));
            }
            7 => {
                let visits = random.below(20) as u32;
                assert!(model.wheel.weed(&model.records, visits) <= visits);
            }
            8 => {
                // Stop half way.
                let later = now + random.distance(bits);
                for _ in 0..random.below(5) {
                    model.pop(later);
                }
            }
            9 => {
                model.drain(now + random.distance(bits));
            }
            10 => {
                let next = model.wheel.next_us().unwrap_or(now).max(now);
                model.drain(next);
            }
            11 => model.check_next(),
            12 => {
                let until = now + random.distance(bits);
                let visits = if random.below(2) == 0 { u32::MAX } else { random.below(9) as u32 };
                model.check_exact(until, visits);
            }
            _ => {}
        }
        if step % 16 == 0 || count < 10 {
            model.check_structure();
        }
    }
    let end = model.oracle.last().map_or(0, |&(due, _)| due);
    model.drain(end.max(model.now_us));
    assert!(model.oracle.is_empty());
    model.check_structure();
    assert_eq!(model.wheel.next_us(), None);
}

#[test]
fn random_runs_agree_with_the_oracle() {
    for seed in seeds(if cfg!(miri) { 3 } else { 150 }) {
        random_run(seed, if cfg!(miri) { 200 } else { 2_000 });
    }
}

#[test]
fn the_level_is_the_lowest_that_reaches() {
    let brute = |elapsed: u64, tick: u64| {
        let reaches = |level: &usize| {
            (tick >> (BITS as usize * level)) - (elapsed >> (BITS as usize * level)) < SLOTS
        };
        (0..LEVELS).find(reaches).expect("within the horizon")
    };
    for seed in seeds(2_000) {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let elapsed = starts(&mut random);
        let horizon = Wheel::new(elapsed, 0).horizon_us();
        for _ in 0..100 {
            let tick = (elapsed + random.distance(50)).min(horizon);
            assert_eq!(level_of(elapsed, tick), brute(elapsed, tick), "{elapsed} {tick}");
        }
        assert_eq!(level_of(elapsed, horizon), brute(elapsed, horizon));
    }
}

/// Every distance within a tick of a whole number of slots of every level, from starts on both
/// sides of every boundary, one timer at a time and all at once.
#[test]
fn fires_at_its_tick_beside_every_boundary() {
    let mut starts = vec![0];
    for power in (BITS..=60).step_by(BITS as usize) {
        starts.extend([-2i64, -1, 0, 1].map(|offset| (1u64 << power).wrapping_add_signed(offset)));
    }
    let mut distances = BTreeSet::new();
    for level in 0..=LEVELS as u32 {
        for slots in [1u64, 2, 31, 62, 63, 64, 65] {
            for offset in [-1i64, 0, 1] {
                distances.insert((slots << (BITS * level)).wrapping_add_signed(offset));
            }
        }
    }
    for &start in &starts {
        let mut all = Model::new(start, distances.len());
        for (index, &distance) in distances.iter().enumerate() {
            let mut one = Model::new(start, 1);
            one.arm(0, start + distance);
            if distance > 0 {
                assert_eq!(one.pop(start + distance - 1), None);
            }
            assert_eq!(one.pop(start + distance), Some(0), "{start} + {distance}");
            all.arm(index as u32, start + distance);
        }
        all.check_structure();
        for &distance in &distances {
            assert_eq!(all.drain(start + distance).len(), 1, "{start} + {distance}");
            all.check_structure();
        }
    }
}

/// Timers one slot apart, all around the ring of each level and further, are met one by one.
#[test]
fn every_level_wraps() {
    for level in 0..LEVELS as u32 {
        let width = 1u64 << (BITS * level);
        for start in [0, 63 * width, 64 * width - 1, (1 << 59) + 17 * width + width / 2] {
            let mut model = Model::new(start, 1);
            let mut now = start;
            for step in 0..200 {
                model.arm(0, now + width * (1 + step % 63));
                now += width * (1 + step % 63);
                assert_eq!(model.drain(now - 1), [0; 0]);
                assert_eq!(model.drain(now), [0]);
            }
        }
    }
}

#[test]
fn one_jump_over_all_levels_fires_in_order() {
    for start in [0, (1 << 48) - 1, (1 << 60) + 12_345] {
        let mut model = Model::new(start, 49);
        for index in (0..49).rev() {
            model.arm(index, start + (1 << index));
        }
        assert_eq!(model.drain(start + (1 << 49)), Vec::from_iter(0..49));
    }
}

/// A week's jump with one timer, and an hour's with a thousand, visit a timer once a level at most.
#[test]
fn a_jump_costs_by_timers_not_by_ticks() {
    const HOUR: u64 = 3_600_000_000;
    let mut model = Model::new(1 << 50, 1_000);
    model.arm(0, (1 << 50) + 168 * HOUR);
    assert_eq!(model.drain((1 << 50) + 169 * HOUR), [0]);
    assert!(model.records.visits.get() <= LEVELS as u64);

    let now = model.now_us;
    for index in 0..1_000 {
        model.arm(index, now + u64::from(index) * HOUR / 1_000);
    }
    model.records.visits.set(0);
    assert_eq!(model.drain(now + HOUR).len(), 1_000);
    assert!(model.records.visits.get() <= 1_000 * LEVELS as u64);
}

#[test]
fn one_tick_told_from_ever_nearer_fires_whole() {
    // Each timer starts on a lower level than the one before.
    for tick in [1 << 42, (1 << 42) + 1, (1u64 << 42) + 63, (1 << 42) - 1, (1 << 59) + (1 << 41)] {
        let mut model = Model::new(tick - (1 << 40), 41 * 3);
        for step in 0..41 {
            let now = tick - (1 << 40 >> step);
            assert_eq!(model.drain(now), [0; 0]);
            for index in 3 * step..3 * step + 3 {
                model.arm(index, tick);
            }
            model.check_structure();
        }
        assert_eq!(model.drain(tick).len(), 41 * 3);
    }
}

#[test]
fn a_deadline_in_the_past_fires_at_the_next_pop() {
    let mut model = Model::new(1_000, 4);
    model.arm(0, 2_000);
    model.arm(1, 2_000);
    model.arm(2, 2_001);
    let first = model.pop(5_000).expect("two are due");
    model.arm(3, 7);
    model.arm(first, 0);
    assert_eq!(model.wheel.next_us(), Some(2_000));
    let mut rest = model.drain(5_000);
    // The one of a later tick comes behind those of this one.
    assert_eq!(rest.pop(), Some(2));
    rest.sort_unstable();
    assert_eq!(rest, [0, 1, 3]);
    model.arm(1, 4_999);
    assert_eq!(model.wheel.next_us(), Some(5_000));
    assert_eq!(model.drain(5_000), [1]);
}

#[test]
fn a_time_that_goes_back_fires_nothing_and_loses_nothing() {
    let mut model = Model::new(10_000, 2);
    model.arm(0, 10_000);
    model.arm(1, 10_001);
    assert_eq!(model.wheel.pop(&model.records, 9_000), None);
    assert_eq!(model.drain(10_001), [0, 1]);
}

#[test]
fn an_earlier_deadline_that_nobody_announced_fires_no_later_than_armed() {
    let mut model = Model::new(0, 1);
    model.arm(0, 5_000_000);
    model.records.deadlines_us[0] = 1_000;
    assert_eq!(model.wheel.pop(&model.records, 4_000_000), None);
    let fired = (4_000_000..=5_000_000).find(|&now| model.wheel.pop(&model.records, now).is_some());
    assert!(fired.is_some());
}

#[test]
fn beyond_the_horizon_timers_wait_and_fire_at_their_tick() {
    for start in [0, (1 << 42) - 1, (1 << 60) + 99] {
        let mut model = Model::new(start, 6);
        let far = [1u64 << 47, (1 << 48) - 1, 1 << 48, (1 << 48) + 1, 1 << 53, 5 << 54];
        for (index, distance) in far.into_iter().enumerate() {
            model.arm(index as u32, start + distance);
        }
        model.check_structure();
        for distance in far {
            assert_eq!(model.drain(start + distance - 1), [0; 0]);
            model.check_structure();
            assert_eq!(model.drain(start + distance).len(), 1);
        }
    }
    let mut model = Model::new(77, 1);
    model.arm(0, u64::MAX);
    assert_eq!(model.drain(1 << 60), [0; 0]);
    model.check_structure();
    model.disarm(0);
    assert_eq!(model.wheel.next_us(), None);
}

#[test]
fn whoever_is_disarmed_at_any_place_of_a_queue_does_not_fire() {
    // Five timers in one queue of each level; every one of them is disarmed in turn, before and
    // after a weeding has got half way through the queue.
    for level in 0..LEVELS as u32 {
        for removed in 0..5 {
            for weeded in [0, 1, 3, 5] {
                let start = (1 << 55) + 5;
                let tick = ((start >> (BITS * level)) + 1) << (BITS * level);
                let mut model = Model::new(start, 6);
                (0..5).for_each(|index| model.arm(index, tick));
                model.arm(5, tick + (2 << (BITS * level)));
                model.wheel.weed(&model.records, weeded);
                model.disarm(removed);
                model.check_structure();
                model.wheel.weed(&model.records, 1);
                model.disarm((removed + 1) % 5);
                model.disarm((removed + 1) % 5);
                model.check_structure();
                assert_eq!(model.wheel.next_us(), Some(tick));
                assert!(model.pop(tick).is_some());
                let rest: Vec<u32> = (0..5).filter(|&index| model.is_armed(index)).collect();
                assert_eq!(rest.len(), 2);
                // The head of a queue that is being fired.
                model.disarm(rest[0]);
                model.check_structure();
                model.disarm(rest[1]);
                let next = model.wheel.next_us().expect("the sixth");
                assert!(next <= tick + (2 << (BITS * level)));
                assert_eq!(model.drain(tick + (2 << (BITS * level))), [5]);
            }
        }
    }
}

#[test]
fn a_million_timers_on_one_tick() {
    const COUNT: u32 = if cfg!(miri) { 1_000 } else { 1_000_000 };
    for distance in [0, 3_050_000] {
        let start = (1 << 58) - 1_000_000;
        let mut wheel = Wheel::new(start, COUNT);
        let records =
            Records { deadlines_us: vec![start + distance; COUNT as usize], ..Records::default() };
        (0..COUNT).for_each(|index| wheel.arm(index, start + distance));
        if distance > 0 {
            assert_eq!(wheel.pop(&records, start + distance - 1), None);
        }
        let mut fired = vec![false; COUNT as usize];
        while let Some(index) = wheel.pop(&records, start + distance) {
            assert!(!std::mem::replace(&mut fired[index as usize], true), "{index} fired twice");
        }
        assert!(fired.iter().all(|fired| *fired));
        assert_eq!(wheel.next_us(), None);
        assert!(records.visits.get() <= 5 * u64::from(COUNT));
    }
}

/// Leftovers of one arming after the other are swept out when there is no more room for them.
#[test]
fn arming_anew_for_ever_takes_no_more_room() {
    for count in [1, 7, 1_000] {
        let mut model = Model::new(1 << 40, count);
        let mut random = Random(count as u64);
        for step in 0..20_000u64 {
            let index = random.below(count as u64) as u32;
            let now = model.now_us;
            match random.below(8) {
                0 => model.disarm(index),
                _ => model.arm(index, now + 1 + random.distance(40)),
            }
            if step % 1_024 == 0 {
                model.check_structure();
                model.drain(now + random.distance(22));
            }
        }
        let end = model.oracle.last().map_or(0, |&(due, _)| due);
        model.drain(end);
        model.check_structure();
    }
}

/// A fleet that beats every interval and never dies, over `timeouts` timeouts: how often the wheel
/// looked at a peer, per timeout and peer, and the most that one `pop` had to look at.
fn visits_of_healthy_peers(interval_us: u64, timeout_us: u64, weeding: u32) -> (f64, u64) {
    const PEERS: u64 = 500;
    const TIMEOUTS: u64 = 40;
    let start = (1 << 52) + 99;
    let mut model = Model::new(start, PEERS as usize);
    for index in 0..PEERS {
        model.arm(index as u32, start + index * interval_us / PEERS + timeout_us);
    }
    let mut most = 0;
    // The peers beat in turn, and the wheel is asked after each beat.
    for beat in 0..PEERS * TIMEOUTS * timeout_us / interval_us {
        let now = start + interval_us + beat * interval_us / PEERS;
        model.postpone((beat % PEERS) as u32, now + timeout_us);
        let before = model.records.visits.get();
        assert_eq!(model.pop(now), None, "a healthy peer was blamed");
        most = most.max(model.records.visits.get() - before);
        model.wheel.weed(&model.records, weeding);
    }
    (model.records.visits.get() as f64 / (PEERS * TIMEOUTS) as f64, most)
}

#[test]
fn healthy_peers_are_visited_about_once_in_a_timeout() {
    for interval_us in [50_000, 200_000, 1_000_000, 30_000_000] {
        let (visits, _) = visits_of_healthy_peers(interval_us, 3 * interval_us + 50_000, 0);
        assert!((0.9..1.7).contains(&visits), "{visits} at {interval_us}");
    }
}

#[test]
fn weeding_ahead_spreads_the_visits_and_adds_few() {
    for (interval_us, timeout_us) in [
        (150_000, 318_500),
        (200_000, 455_000),
        (200_000, 650_000),
        (1_000_000, 2_135_000),
        (1_000_000, 3_050_000),
        (10_000_000, 21_035_000),
        (10_000_000, 30_050_000),
        (30_000_000, 90_050_000),
    ] {
        let (plain, most_plain) = visits_of_healthy_peers(interval_us, timeout_us, 0);
        let (weeded, most_weeded) = visits_of_healthy_peers(interval_us, timeout_us, 4);
        let all = format!(
            "{weeded} for {plain} visits, at most {most_weeded} for {most_plain}, at {timeout_us}"
        );
        assert!(weeded < 2.25 * plain, "{all}");
        assert!(most_weeded * 10 <= most_plain, "{all}");
    }
}

#[test]
fn weeding_counts_its_visits_and_ends() {
    let mut model = Model::new(0, 100);
    for index in 0..100 {
        model.arm(index, 500_000 + u64::from(index));
    }
    let mut weeded_at = |now| {
        assert_eq!(model.drain(now), [0; 0]);
        let visited = model.wheel.weed(&model.records, 1_000);
        assert_eq!(model.wheel.weed(&model.records, 1_000), 0, "at {now}");
        model.check_structure();
        visited
    };
    // A quarter of slot 6 of level 4; theirs is the next.
    let quarter = (6 << 16) + (1 << 14);
    assert_eq!(weeded_at(quarter - 1), 0);
    assert_eq!(weeded_at(quarter), 100);
    assert_eq!(weeded_at(quarter + 1), 0);
    assert_eq!(weeded_at((7 << 16) - 1), 0, "they hang on a level below");
    assert_eq!(model.drain(600_000).len(), 100);
}

#[test]
fn a_walk_goes_on_where_it_was_left_and_a_cascade_ends_it() {
    for finished in [false, true] {
        let mut model = Model::new(0, 100);
        (0..100).for_each(|index| model.arm(index, 300_000 + u64::from(index)));
        model.drain((3 << 16) + (1 << 14));
        (0..50).for_each(|index| model.postpone(index, 320_000 + u64::from(index)));
        assert_eq!(model.wheel.weed(&model.records, 70), 70);
        model.check_structure();
        if finished {
            assert_eq!(model.wheel.weed(&model.records, 1_000), 30);
            model.check_structure();
        }
        assert_eq!(model.drain(4 << 16), [0; 0]);
        assert_eq!(model.wheel.weed(&model.records, 1_000), 0);
        model.check_structure();
        assert_eq!(model.drain(600_000).len(), 100);
    }
}
