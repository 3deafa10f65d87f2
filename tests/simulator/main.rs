//! A deterministic simulator of the whole monitor: the product's own reactors, inbox, mailboxes and
//! engine, under a simulated clock, kernel, network and fleet, all on one thread and all drawn from
//! one seed.
//!
//! ```text
//!  scenario ── the seed's world: sizes, settings, which misfortunes there are
//!  senders ──▶ network ──▶ world ──▶ machine ──▶ reactors ──▶ reports ──▶ record
//!  who beats,   loss, delay,  whose    clock, socket  the product's     what happened
//!  who dies     copies, jams  turn     queue, sleep   own (monitor)          │
//!                                                                     oracle ▼ verdict
//! ```
//!
//! In the manner of FoundationDB's simulation and TigerBeetle's VOPR. A failure names its seed, and
//! `tools/simulate SEED` tells its story. `docs/testing.md` says what is modelled and what is not.

mod bugs;
mod machine;
mod monitor;
mod oracle;
mod record;
mod replay;
mod run;
mod scenario;
mod senders;
#[path = "../../src/testing.rs"]
#[expect(dead_code, reason = "the seeds of the other tests")]
mod testing;
mod world;

use bugs::Bug;
use run::{Outcome, Tally, run};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use systole::io::Waker;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not '{value}'")))
}

fn wakers() -> Rc<Vec<Waker>> {
    Rc::new((0..4).map(|_| Waker::new().expect("a file descriptor")).collect())
}

/// Runs seeds from `first` on all cores, until one fails, all are done or the time is up. Returns
/// how many were run, and the failures.
fn run_seeds(first: u64, seeds: u64, limit: Option<Duration>) -> (u64, Tally, Vec<u64>) {
    let next = AtomicU64::new(first);
    let failed = AtomicBool::new(false);
    let begun = Instant::now();
    let work = || {
        let wakers = wakers();
        let (mut count, mut total, mut failures) = (0, Tally::default(), Vec::new());
        // Relaxed: the numbers stand for themselves.
        while !failed.load(Ordering::Relaxed) && limit.is_none_or(|limit| begun.elapsed() < limit) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let outcome = run(seed, None, &wakers);
            count += 1;
            total = total.plus(&outcome.tally);
            if let Some(violation) = &outcome.violation {
                println!("seed {seed}: {violation}\n  tells its story: tools/simulate {seed}");
                failures.push(seed);
                failed.store(setting("SYSTOLE_SIM_KEEP_GOING").is_none(), Ordering::Relaxed);
            }
        }
        (count, total, failures)
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(16);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = (0, Tally::default(), Vec::new());
        for worker in workers {
            let (count, total, failures) = worker.join().expect("a run's panic is caught");
            all.0 += count;
            all.1 = all.1.plus(&total);
            all.2.extend(failures);
        }
        all
    })
}

#[test]
fn seeds_hold() {
    let first = setting("SYSTOLE_SIM_FIRST").unwrap_or(1);
    let seeds = setting("SYSTOLE_SIM_SEEDS").unwrap_or(150);
    let limit = setting("SYSTOLE_SIM_SECONDS").map(Duration::from_secs);
    let begun = Instant::now();
    let (count, total, failures) = run_seeds(first, seeds, limit);
    println!(
        "{count} seeds from {first} in {:.1} s: {} datagrams, {} transitions ({} down), {} turns, \
         {:.1} days simulated",
        begun.elapsed().as_secs_f64(),
        total.datagrams,
        total.transitions,
        total.downs,
        total.turns,
        total.simulated_ns as f64 / 86_400e9,
    );
    assert!(failures.is_empty(), "seeds that failed: {failures:?}");
    assert!(count > 0 && total.downs > 0, "nothing was tried");
}

/// The simulator bites: every planted bug is found, by the invariant that it breaks.
#[test]
fn planted_bugs_are_found() {
    let wakers = wakers();
    for &bug in Bug::ALL {
        let mut found = BTreeMap::new();
        let mut first = None;
        let seeds = if setting("SYSTOLE_SIM_SURVEY").is_some() { 1..=300 } else { bug.seeds() };
        for seed in seeds.clone() {
            if let Some(violation) = run(seed, Some(bug), &wakers).violation {
                *found.entry(violation.invariant).or_insert(0u32) += 1;
                first.get_or_insert(seed);
                if setting("SYSTOLE_SIM_SURVEY").is_none() {
                    break;
                }
            }
        }
        println!("{bug:?}: first found with seed {first:?}, by {found:?}");
        assert!(first.is_some(), "{bug:?} was not found in seeds {seeds:?}");
    }
}

/// The same seed is the same run, to the nanosecond.
#[test]
fn a_seed_is_a_run() {
    let wakers = wakers();
    for seed in 1..=5 {
        let story = |outcome: Outcome| format!("{:?} {:?}", outcome.tally, outcome.record.told);
        assert_eq!(story(run(seed, None, &wakers)), story(run(seed, None, &wakers)), "{seed}");
    }
}

/// What `tools/simulate SEED` runs.
#[test]
#[ignore = "tells the story of SYSTOLE_SIM_SEED"]
fn replay() {
    let seed = setting("SYSTOLE_SIM_SEED").expect("SYSTOLE_SIM_SEED");
    let bug = std::env::var("SYSTOLE_SIM_BUG").ok();
    let bug = bug.map(|name| {
        let named = Bug::ALL.iter().find(|bug| format!("{bug:?}") == name);
        *named.unwrap_or_else(|| panic!("there are {:?}", Bug::ALL))
    });
    let outcome = run(seed, bug, &wakers());
    replay::tell(&outcome);
    assert!(outcome.violation.is_none(), "seed {seed} fails");
}
