//! What the reactor did not see or hear: told to the shard, kept for the next process, and granted.

use super::super::watch::Watch;
use super::*;

/// The one peer of a bench, 100 ms and three of them, last heard at the time returned.
fn silent_peer(bench: &mut Bench) -> u64 {
    let start_ns = bench.now_ns();
    bench.arrive(start_ns + MS, &wire::encode_beat(&beat(1, 0, 100)));
    bench.run_until(start_ns + 2 * MS);
    start_ns + MS
}

fn down(told: &[Transition]) -> Transition {
    *told.iter().find(|t| t.to == PeerState::Down).expect("it fell silent")
}

#[test]
fn a_stall_is_granted_to_who_is_silent_and_said_in_the_evidence() {
    let mut bench = Bench::new(1, 1_024);
    let heard_ns = silent_peer(&mut bench);
    bench.run_until(heard_ns + 200 * MS);
    // Stopped over its deadline: long enough to have swallowed heartbeats.
    bench.clock.0.set(heard_ns + 2_000 * MS);
    let told = bench.run_until(heard_ns + 2_050 * MS);
    assert!(told.iter().all(|t| t.to != PeerState::Down), "one more interval: {told:?}");
    let verdict = down(&bench.run_until(heard_ns + 2_500 * MS));
    // The 1.8 s that were missed, which leave 100 ms, as one more interval does.
    let expected_ns = heard_ns + 2_100 * MS;
    assert!(verdict.deadline_ns.abs_diff(expected_ns) < 2 * MS, "{verdict:?}");
    assert!(verdict.extended_ns.abs_diff(1_800 * MS) < 2 * MS, "{verdict:?}");
    assert!(verdict.extended_by.has(Extensions::BLIND));
    assert_eq!(bench.count(Counter::Stalls), 1);
}

#[test]
fn who_beat_during_a_stall_is_not_granted_anything() {
    let mut bench = Bench::new(1, 1_024);
    let heard_ns = silent_peer(&mut bench);
    bench.arrive(heard_ns + 1_000 * MS, &wire::encode_beat(&beat(1, 1, 100)));
    bench.clock.0.set(heard_ns + 2_000 * MS);
    // Read after the stall, it counts from there: when it really came, nobody knows.
    let verdict = down(&bench.run_until(heard_ns + 3_000 * MS));
    assert!(verdict.deadline_ns.abs_diff(heard_ns + 2_300 * MS) < 2 * MS, "{verdict:?}");
    assert_eq!(verdict.extended_ns, 0);
}

#[test]
fn a_dropped_datagram_may_have_been_anybodys() {
    let mut bench = Bench::new(1, 1_024);
    let heard_ns = silent_peer(&mut bench);
    bench.run_until(heard_ns + 290 * MS);
    bench.reactor.backend.drops.set(3);
    // Nobody has read the counter yet when the deadline comes.
    let verdict = down(&bench.run_until(heard_ns + 1_000 * MS));
    assert!(verdict.deadline_ns.abs_diff(heard_ns + 400 * MS) < 2 * MS, "{verdict:?}");
    assert!(verdict.extended_by.has(Extensions::DEAF));
    assert_eq!(bench.count(Counter::Stalls), 0);
}

#[test]
fn what_was_not_heard_is_in_the_journal_before_anybody_is_judged() {
    let mut bench = Bench::new(1, 1_024);
    let journal = Arc::new(Journal::anonymous().unwrap());
    bench.reactor.journal = Some(journal.clone());
    let heard_ns = silent_peer(&mut bench);
    bench.run_until(heard_ns + 290 * MS);
    bench.reactor.backend.drops.set(3);
    assert_eq!(journal.sight().count(), 0);
    let verdict = down(&bench.run_until(heard_ns + 1_000 * MS));
    assert!(verdict.extended_by.has(Extensions::DEAF));
    assert!(journal.sight().eq(bench.reactor.shard.sight().windows().iter().copied()));
    assert_eq!(journal.sight().filter(|window| window.deaf).count(), 1);
}

#[test]
fn who_goes_on_with_the_same_sockets_has_missed_what_they_dropped_and_nothing_else() {
    for (dropped_meanwhile, deaf) in [(0, 0), (2, 1)] {
        let mut bench = Bench::new(1, 1_024);
        let journal = Arc::new(Journal::anonymous().unwrap());
        bench.reactor.journal = Some(journal.clone());
        bench.reactor.backend.drops.set(3);
        let heard_ns = silent_peer(&mut bench);
        let horizon_ns = bench.reactor.let_go().unwrap();
        bench.reactor.last_mail(horizon_ns);
        assert_eq!(journal.looked_ns(), horizon_ns);
        let told: Vec<_> = journal.sight().collect();
        assert!(told.iter().all(|window| window.deaf), "before: {told:?}");

        let mut heir = Bench::new(1, 1_024);
        heir.reactor.backend.drops.set(3 + dropped_meanwhile);
        heir.clock.0.set(heard_ns + 100 * MS);
        heir.reactor.turns.watch = Watch::new(heir.now_ns());
        let left = journal.take_left();
        assert!(left.is_some());
        heir.reactor.was_absent_since(horizon_ns, left);
        let heard_ns = silent_peer(&mut heir);
        heir.run_until(heard_ns + 1_000 * MS);
        let windows = heir.reactor.shard.sight().windows();
        assert_eq!(windows.iter().filter(|window| window.deaf).count(), deaf, "{windows:?}");
        assert_eq!(windows[0].from_ns, horizon_ns);
        assert_eq!(heir.reactor.turns.drops(), dropped_meanwhile, "since it has them");
    }
}

#[test]
fn what_another_reactors_sockets_dropped_may_have_been_mail() {
    let judged = |gets_mail| {
        let mut bench = Bench::new(2, 1_024);
        bench.reactor.turns.gets_mail = gets_mail;
        bench.mailboxes[1].set_watermark_ns(u64::MAX);
        let heard_ns = silent_peer(&mut bench);
        bench.run_until(heard_ns + 290 * MS);
        bench.mailboxes[1].set_dropped(1, bench.now_ns());
        down(&bench.run_until(heard_ns + 1_000 * MS)).extended_by
    };
    assert_eq!(judged(true), Extensions::DEAF);
    assert_eq!(judged(false), Extensions::NONE, "the kernel steers all of ours to us");
}

#[test]
fn a_full_mailbox_may_have_lost_anybodys() {
    let mut bench = Bench::new(2, 1_024);
    let heard_ns = silent_peer(&mut bench);
    bench.mailboxes[1].set_watermark_ns(u64::MAX);
    bench.run_until(heard_ns + 290 * MS);
    let parcel = || Parcel {
        beat: beat(9, 1, 100),
        arrived_ns: 1,
        source: 0,
        way: Way::Unsaid,
        profile: None,
    };
    while bench.mailboxes[0].push(parcel()).is_ok() {}
    let mut told = bench.run_until(heard_ns + 1_000 * MS);
    told.retain(|t| t.peer.0 == 1);
    let verdict = down(&told);
    assert!(verdict.extended_by.has(Extensions::DEAF), "{verdict:?}");
}
