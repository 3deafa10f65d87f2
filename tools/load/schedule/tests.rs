//! The schedule against a dumb oracle that works out every peer by itself and sorts.

use super::*;
use crate::plan::Figures;
use crate::plan::tests::{calm, seeds};
use std::collections::HashMap;

/// Every datagram of one peer up to `until_ns`, with what orders it: time, peer, step, follow-up.
fn oracle_of_peer(plan: &Plan, peer: u32, until_ns: u64, out: &mut Vec<(Entry, u8, Due)>) {
    let f = &plan.figures;
    let (mut incarnation, mut sequence) = plan.incarnation(plan.beat_ns(peer, 0));
    let mut held = None;
    let mut restarted = false;
    for n in 0.. {
        let mut at_ns = plan.beat_ns(peer, n);
        let mut step = Step::Beat { n };
        let dead = plan.fate(peer) == Fate::Dies && at_ns > f.kill_at_ns;
        if dead && !f.kill_together {
            return;
        }
        if dead {
            (at_ns, step) = (f.kill_at_ns, Step::Death);
        }
        if at_ns > until_ns {
            return;
        }
        let mut form = if plan.is_hello(peer, n) { Form::Hello } else { Form::Beat };
        let restarts = plan.fate(peer) == Fate::Restarts && n > 0 && at_ns >= plan.turn_ns(peer);
        let fresh_start = restarts && !restarted;
        if fresh_start {
            restarted = true;
            held = None;
            form = Form::Hello;
            let old = incarnation;
            (incarnation, sequence) = plan.incarnation(at_ns);
            if incarnation == old {
                incarnation += 1;
            }
        }
        let number = sequence;
        sequence = sequence.wrapping_add(1);
        let entry = Entry { at_ns, peer, step };
        let due = Due { intended_ns: at_ns, peer, form, incarnation, sequence: number, old: false };
        if dead {
            out.push((entry, 0, Due { form: Form::Beat, ..due }));
            return;
        }
        if plan.is_flapping(peer, at_ns) || (plan.is_lost(peer, n) && !fresh_start) {
            continue;
        }
        if plan.is_reordered(peer, n) && held.is_none() && !fresh_start {
            held = Some(number);
            continue;
        }
        out.push((entry, 0, due));
        if let Some(sequence) = held.take() {
            out.push((entry, 1, Due { form: Form::Beat, sequence, old: true, ..due }));
        }
        if let Some(at_ns) = plan.copy_ns(peer, n, at_ns).filter(|at_ns| *at_ns <= until_ns) {
            let step = Step::Copy { incarnation, sequence: number };
            let copy = Due { intended_ns: at_ns, form: Form::Beat, old: true, ..due };
            out.push((Entry { at_ns, peer, step }, 0, copy));
        }
    }
}

fn oracle(plan: &Plan, until_ns: u64) -> Vec<Due> {
    let mut all = Vec::new();
    (0..plan.figures.senders).for_each(|p| oracle_of_peer(plan, p, until_ns, &mut all));
    all.sort();
    all.into_iter().map(|(_, _, due)| due).collect()
}

/// Takes everything until `until_ns` in uneven steps of time.
fn take_all(schedule: &mut Schedule, until_ns: u64) -> Vec<Due> {
    let (mut now, mut all) = (0, Vec::new());
    loop {
        while let Some(due) = schedule.pop(now) {
            assert!(due.intended_ns <= now || due.form == Form::Bye);
            all.push(due);
        }
        if now == until_ns {
            return all;
        }
        let next = schedule.next_ns().unwrap_or(until_ns);
        assert!(next > now);
        now = (next + now % 7_919 * 1_000).min(until_ns);
    }
}

fn check_against_oracle(figures: Figures) {
    let plan = Arc::new(Plan::new(figures));
    let until = plan.figures.ramp_ns + plan.figures.duration_ns;
    let got = take_all(&mut Schedule::new(plan.clone(), 0, 1), until);
    let want = oracle(&plan, until);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got, want, "number {i} of {:?}", plan.figures);
    }
    assert_eq!(got.len(), want.len(), "{:?}", plan.figures);
}

fn rough(seed: u64) -> Figures {
    Figures {
        kill: 100,
        flap: 100,
        restart: 100,
        loss: 0.1,
        reorder: 0.1,
        duplicate: 0.1,
        senders: 700,
        ..calm(seed)
    }
}

#[test]
fn calm_and_rough_runs_follow_the_oracle() {
    for seed in seeds() {
        check_against_oracle(calm(seed));
        check_against_oracle(rough(seed));
        check_against_oracle(Figures { kill_together: true, ..rough(seed) });
        check_against_oracle(Figures {
            interval_ns: 1_000_000,
            senders: 30,
            kill: 10,
            flap: 10,
            restart: 10,
            ramp_ns: 0,
            duration_ns: 900_000_000,
            kill_at_ns: 400_000_000,
            flap_for_ns: 100_000_000,
            ..rough(seed)
        });
    }
}

#[test]
fn shares_of_several_threads_make_up_the_whole() {
    for seed in seeds() {
        let plan = Arc::new(Plan::new(rough(seed)));
        let until = 10_000_000_000;
        let mut parts: Vec<Due> =
            (0..3).flat_map(|i| take_all(&mut Schedule::new(plan.clone(), i, 3), until)).collect();
        let mut whole = take_all(&mut Schedule::new(plan.clone(), 0, 1), until);
        parts.sort();
        whole.sort();
        assert_eq!(parts, whole, "seed {seed}");
    }
}

#[test]
fn the_killed_are_silent_after_the_kill_and_the_living_are_not() {
    for seed in seeds() {
        for kill_together in [false, true] {
            let plan = Arc::new(Plan::new(Figures { kill: 100, kill_together, ..calm(seed) }));
            let f = &plan.figures;
            let until = f.ramp_ns + f.duration_ns;
            let mut last: HashMap<u32, u64> = HashMap::new();
            for due in take_all(&mut Schedule::new(plan.clone(), 0, 1), until) {
                last.insert(due.peer, due.intended_ns);
            }
            for peer in 0..f.senders {
                let last = last[&peer];
                match plan.fate(peer) {
                    Fate::Dies if kill_together => assert_eq!(last, f.kill_at_ns, "seed {seed}"),
                    Fate::Dies => {
                        let before = f.kill_at_ns - f.kill_at_ns.min(1_200_000_000);
                        assert!((before..=f.kill_at_ns).contains(&last), "seed {seed}");
                    }
                    _ => assert!(last + 1_200_000_000 >= until, "seed {seed} peer {peer}"),
                }
            }
        }
    }
}

#[test]
fn numbers_ascend_but_for_what_is_old_and_restarts_ascend_too() {
    for seed in seeds() {
        let plan = Arc::new(Plan::new(rough(seed)));
        let mut highest: HashMap<u32, (u32, u32)> = HashMap::new();
        for due in take_all(&mut Schedule::new(plan.clone(), 0, 1), 14_000_000_000) {
            let number = (due.incarnation, due.sequence);
            match highest.get(&due.peer) {
                None => assert_eq!(due.form, Form::Hello, "seed {seed}: HELLO comes first"),
                Some(highest) => assert_eq!(number <= *highest, due.old, "seed {seed}: {due:?}"),
            }
            if !due.old {
                highest.insert(due.peer, number);
            }
        }
    }
}

#[test]
fn everybody_alive_says_bye_once_and_last() {
    for seed in seeds() {
        for (finish_at, window) in [(5_000_000_000, 2_000_000_000), (9_000_000_000, 50_000_000)] {
            let plan = Arc::new(Plan::new(Figures { duplicate: 0.3, ..rough(seed) }));
            let mut schedule = Schedule::new(plan.clone(), 0, 1);
            take_all(&mut schedule, finish_at);
            let promised = schedule.finish(finish_at, window);
            let byes = take_all(&mut schedule, finish_at + window);
            assert_eq!(schedule.next_ns(), None, "seed {seed}");
            let killed = if finish_at > plan.figures.kill_at_ns { 100 } else { 0 };
            let living = (plan.figures.senders - killed) as usize;
            assert_eq!((byes.len(), promised), (living, living as u64), "seed {seed}");
            let peers: std::collections::HashSet<u32> = byes.iter().map(|d| d.peer).collect();
            assert_eq!(peers.len(), living, "seed {seed}");
            assert!(byes.iter().all(|d| d.form == Form::Bye && !d.old), "seed {seed}");
        }
    }
}

#[test]
fn whoever_has_not_said_hello_says_no_bye() {
    let plan = Arc::new(Plan::new(calm(1)));
    let mut schedule = Schedule::new(plan, 0, 1);
    let begun = take_all(&mut schedule, 1_000_000_000 - 1);
    let begun: std::collections::HashSet<u32> = begun.iter().map(|due| due.peer).collect();
    assert_eq!(begun.len(), 500);
    assert_eq!(schedule.finish(1_000_000_000, 1), 500);
}
