//! Timers alone: Systole's wheel, tokio-util's DelayQueue, and the cancellable four-level wheel of
//! hierarchical_hash_wheel_timer.
//!
//! What a monitor asks of them: arm a timer, move it on with each heartbeat, fire it. The first and the last
//! are timed as they are. Moving on is timed as each of them offers it: DelayQueue by `reset`, the crate's
//! wheel by cancelling and arming anew, Systole's by doing nothing and meeting the timer later; its figure is
//! what its wheel costs a healthy fleet in simulated time, for each of the three heartbeats of a timeout.

use crate::harness::{Figure, Report, shuffled, thread_cpu_ns};
use crate::wheel;
use hierarchical_hash_wheel_timer::IdOnlyTimerEntry;
use hierarchical_hash_wheel_timer::wheels::cancellable::QuadWheelWithOverflow;
use std::rc::Rc;
use std::time::Duration;
use tokio_util::time::DelayQueue;

/// Heartbeats of a timeout.
const BEATS: f64 = 3.0;

/// Nanoseconds for each timer.
struct Costs {
    arm: f64,
    move_on: f64,
    fire: f64,
}

pub fn compare(report: &mut Report, peers: u32, rounds: usize) {
    report.section(&format!("timers, {peers}: ns each, {rounds} rounds"));
    type Way = (&'static str, fn(u32) -> Costs);
    let ways: [Way; 3] =
        [("systole's wheel", ours), ("DelayQueue", delay_queue), ("quad wheel", quad_wheel)];
    let mut costs: [Vec<Costs>; 3] = Default::default();
    for _ in 0..rounds {
        for ((_, way), costs) in ways.iter().zip(&mut costs) {
            costs.push(way(peers));
        }
    }
    type Of = fn(&Costs) -> f64;
    let figures: [(&str, Of); 3] =
        [("arm", |c| c.arm), ("move on, a heartbeat", |c| c.move_on), ("fire", |c| c.fire)];
    for (what, of) in figures {
        let samples = |costs: &[Costs]| costs.iter().map(of).collect::<Vec<_>>();
        for ((name, _), costs) in ways.iter().zip(&costs) {
            report.figure(
                &format!("{name}, {peers} timers"),
                what,
                "ns",
                Figure::of(&samples(costs)),
            );
        }
        for ((name, _), costs_of_it) in ways.iter().zip(&costs).skip(1) {
            let ratio = Figure::ratio(&samples(costs_of_it), &samples(&costs[0]));
            report.figure(&format!("{name} over ours, {peers} timers"), what, "×", ratio);
        }
    }
}

fn ours(peers: u32) -> Costs {
    let ns = |took: Duration| took.as_nanos() as f64;
    let peers = peers as usize;
    Costs {
        arm: ns(wheel::arm(peers)),
        move_on: ns(wheel::healthy(peers, wheel::WEEDED_A_TURN, 2).per_timeout) / BEATS,
        fire: ns(wheel::fire(peers)),
    }
}

fn each(peers: u32, begun_ns: u64) -> f64 {
    (thread_cpu_ns() - begun_ns) as f64 / f64::from(peers)
}

/// The quad wheel's tick is a millisecond; its time is simulated.
fn quad_wheel(peers: u32) -> Costs {
    const TIMEOUT: u32 = 3_050;
    let order = shuffled(peers);
    let timeout = Duration::from_millis(TIMEOUT.into());
    let mut wheel = QuadWheelWithOverflow::new();
    let begun_ns = thread_cpu_ns();
    for &id in &order {
        let entry = Rc::new(IdOnlyTimerEntry { id, delay: timeout });
        wheel.insert_ref_with_delay(entry, timeout).expect("there is room");
    }
    let arm = each(peers, begun_ns);
    // Half of a timeout later, everybody beats.
    (0..TIMEOUT / 2).for_each(|_| assert!(wheel.tick().is_empty(), "nobody is due"));
    let order = shuffled(peers);
    let begun_ns = thread_cpu_ns();
    for &id in &order {
        wheel.cancel(&id).expect("it is armed");
        let entry = Rc::new(IdOnlyTimerEntry { id, delay: timeout });
        wheel.insert_ref_with_delay(entry, timeout).expect("there is room");
    }
    // Meeting those that were cancelled is a part of the price.
    let mut fired = 0;
    (0..TIMEOUT - 1).for_each(|_| fired += wheel.tick().len());
    let move_on = each(peers, begun_ns);
    assert_eq!(fired, 0, "everybody has beaten meanwhile");
    let begun_ns = thread_cpu_ns();
    (0..2).for_each(|_| fired += wheel.tick().len());
    let fire = each(peers, begun_ns);
    assert_eq!(fired, peers as usize, "all fire");
    Costs { arm, move_on, fire }
}

/// The queue goes by tokio's clock, so it fires in real time.
fn delay_queue(peers: u32) -> Costs {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let order = shuffled(peers);
        let mut queue = DelayQueue::with_capacity(peers as usize);
        let begun_ns = thread_cpu_ns();
        let long = Duration::from_secs(600);
        let keys: Vec<_> = order.iter().map(|&id| queue.insert(id, long)).collect();
        let arm = each(peers, begun_ns);
        let begun_ns = thread_cpu_ns();
        order.iter().for_each(|&place| queue.reset(&keys[place as usize], long));
        let move_on = each(peers, begun_ns);
        // Each at a time of its own, a bit ahead; they are waited for before they are fired.
        order.iter().enumerate().for_each(|(beat, &place)| {
            let ahead = Duration::from_millis(100 + beat as u64 * 100 / u64::from(peers));
            queue.reset(&keys[place as usize], ahead);
        });
        tokio::time::sleep(Duration::from_millis(210)).await;
        let mut fired = 0;
        let begun_ns = thread_cpu_ns();
        while !queue.is_empty() {
            let next = std::future::poll_fn(|cx| queue.poll_expired(cx)).await;
            fired += u32::from(next.is_some());
        }
        let fire = each(peers, begun_ns);
        assert_eq!(fired, peers, "all fire");
        Costs { arm, move_on, fire }
    })
}
