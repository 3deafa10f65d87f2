//! Second senders, held against a world that knows how many there are: a drawn network that loses,
//! doubles and reorders, senders whose clocks differ, and the question whether a conflict was told
//! exactly where two were alive.

use super::tests::{Bench, beat};
use super::*;
use crate::engine::conflict::quiet_ns;
use crate::testing::{Rng, seeds};
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const START: u64 = 5_000 * MS;
/// What the senders' clocks show at the monitor's time 0.
const WALL: u64 = 1_700_000_000 * S;
/// Of all senders here: that of `beat`.
const INTERVAL: u64 = 100 * MS;

/// One process that beats, by its clock.
#[derive(Clone, Copy)]
struct Sender {
    peer: u64,
    incarnation: u32,
    sequence: u32,
    clock_ns: i64,
    from_ns: u64,
    to_ns: u64,
}

impl Sender {
    fn new(peer: u64, incarnation: u32, sequence: u32) -> Sender {
        Sender { peer, incarnation, sequence, clock_ns: 0, from_ns: START, to_ns: u64::MAX }
    }

    fn clock(self, clock_ns: i64) -> Sender {
        Sender { clock_ns, ..self }
    }

    fn from(self, from_ns: u64) -> Sender {
        Sender { from_ns, ..self }
    }

    fn until(self, to_ns: u64) -> Sender {
        Sender { to_ns, ..self }
    }

    /// All that it sends until `end_ns`, each interval shortened by up to a tenth, as agents do.
    fn send(self, end_ns: u64, rng: &mut Rng) -> Vec<(u64, Heartbeat)> {
        let (mut now_ns, mut sequence, mut sent) = (self.from_ns, self.sequence, Vec::new());
        while now_ns < end_ns.min(self.to_ns) {
            let sent_ns = (WALL + now_ns).saturating_add_signed(self.clock_ns);
            sent.push((
                now_ns,
                Heartbeat { sent_ns, ..beat(self.peer, self.incarnation, sequence) },
            ));
            sequence = sequence.wrapping_add(1);
            now_ns += INTERVAL - rng.below(INTERVAL / 10);
        }
        sent
    }
}

/// Percent of the heartbeats that are lost, doubled, and held up for up to three intervals.
#[derive(Clone, Copy)]
struct Network {
    lost: u64,
    doubled: u64,
    late: u64,
}

const FAIR: Network = Network { lost: 0, doubled: 0, late: 0 };
const POOR: Network = Network { lost: 10, doubled: 10, late: 10 };

impl Network {
    fn carry(self, sent: Vec<(u64, Heartbeat)>, rng: &mut Rng) -> Vec<(u64, Heartbeat)> {
        let mut arrivals = Vec::new();
        for (at_ns, beat) in sent {
            let mut way_ns = MS;
            if rng.below(100) < self.late {
                way_ns += rng.below(3 * INTERVAL);
            }
            if rng.below(100) < self.doubled {
                arrivals.push((at_ns + MS + rng.below(3 * INTERVAL), beat));
            }
            if rng.below(100) >= self.lost {
                arrivals.push((at_ns + way_ns, beat));
            }
        }
        arrivals
    }
}

/// What was told of whom: when, and the incarnations.
type Told = BTreeMap<u64, Vec<(u64, [u32; 2])>>;

/// Lets the monitor hear all that arrives, in order.
fn hear(capacity: u32, mut arrivals: Vec<(u64, Heartbeat)>) -> (Bench, Told) {
    arrivals.sort_by_key(|(at_ns, beat)| (*at_ns, beat.peer.0, beat.incarnation, beat.sequence));
    let mut bench = Bench::new(capacity, START);
    for (at_ns, beat) in arrivals {
        bench.observe(&[beat], at_ns);
    }
    let mut told = Told::new();
    for notice in &bench.sink.notices {
        if let Notice::Conflict { peer, at_ns, incarnations, .. } = *notice {
            told.entry(peer.0).or_default().push((at_ns, incarnations));
        }
    }
    (bench, told)
}

fn live(senders: &[Sender], network: Network, end_ns: u64, rng: &mut Rng) -> (Bench, Told) {
    let sent = senders.iter().flat_map(|sender| sender.send(end_ns, rng)).collect();
    let arrivals = network.carry(sent, rng);
    hear(1_024, arrivals)
}

#[test]
fn one_sender_however_often_restarted_is_none_whatever_the_network_does() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let (mut senders, mut from_ns, end_ns) = (Vec::new(), START, START + 60 * S);
        let mut incarnation = u32::MAX - 2;
        while from_ns < end_ns {
            let to_ns = from_ns + rng.below(10 * S);
            let sequence = rng.next() as u32;
            senders.push(Sender::new(1, incarnation, sequence).from(from_ns).until(to_ns));
            incarnation = incarnation.wrapping_add(1);
            from_ns = to_ns;
        }
        let (bench, told) = live(&senders, POOR, end_ns, &mut rng);
        assert!(told.is_empty(), "seed {seed}: {told:?}");
        let refused = [Counter::Duplicate, Counter::Reordered, Counter::Stale];
        let refused = refused.map(|counter| bench.counters.get(counter));
        assert!(refused.iter().all(|&n| n > 0), "seed {seed}: nothing was tried: {refused:?}");
    }
}

#[test]
fn two_to_five_senders_are_told_in_a_poor_network_and_all_of_them_in_the_end() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        for count in 2..=5 {
            let senders: Vec<Sender> = (0..count)
                .map(|i| Sender::new(1, 5 + i, rng.next() as u32).from(START + rng.below(S)))
                .collect();
            let (bench, told) = live(&senders, POOR, START + 90 * S, &mut rng);
            let context = format!("seed {seed}, {count} senders: {told:?}");
            assert!(told[&1][0].0 <= START + 6 * S + 20 * INTERVAL, "{context}");
            assert_eq!(bench.counters.get(Counter::Conflicts), 1, "{context}");
            let others = told[&1].iter().map(|(_, incarnations)| incarnations[1]);
            let others: std::collections::BTreeSet<u32> = others.collect();
            assert!(
                others.contains(&(5 + count - 2)) && others.len() as u32 >= count - 1,
                "{context}"
            );
        }
    }
}

#[test]
fn two_of_one_incarnation_are_told_wherever_their_numbers_are() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        for ahead in [0, 1, 5, 31, 32, 33, 1_000, 99_000] {
            for network in [FAIR, POOR] {
                let one = Sender::new(1, 5, 7);
                let other = Sender::new(1, 5, 7 + ahead).from(START + rng.below(INTERVAL));
                let (_, told) = live(&[one, other], network, START + 60 * S, &mut rng);
                let context = format!("seed {seed}, {ahead} ahead: {told:?}");
                assert!(told.contains_key(&1), "{context}");
                assert_eq!(told[&1][0].1, [5, 5], "{context}");
                // Those that send the same number at nearly the same time look like one for a while.
                let at_once = ahead > 1 && network.lost == 0;
                let latest_ns = if at_once { 5 * S + 10 * INTERVAL } else { 60 * S };
                assert!(told[&1][0].0 <= START + latest_ns, "{context}");
            }
        }
    }
}

#[test]
fn a_clock_that_is_behind_puts_it_off_by_as_much_and_one_that_is_ahead_does_not() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        for clock_ns in [-20 * S as i64, 20 * S as i64] {
            let elder = Sender::new(1, 5, 7).clock(clock_ns);
            let (_, told) = live(&[elder, Sender::new(1, 6, 0)], FAIR, START + 60 * S, &mut rng);
            let behind_ns = (-clock_ns).max(0) as u64;
            let told_ns = told[&1][0].0 - START;
            let expected = behind_ns + 5 * S..=behind_ns + 5 * S + 10 * INTERVAL;
            assert!(expected.contains(&told_ns), "seed {seed}, {clock_ns}: {told_ns}");
        }
    }
}

/// A table of fewer places than that tells them one after another, as each gives up its place.
#[test]
fn of_thousands_of_names_with_three_senders_each_all_are_told_as_early_as_of_one() {
    for names in [600, 3_000] {
        let mut rng = Rng::new(names);
        let senders = (1..=names).flat_map(|peer| {
            [0, 1, 2].map(|i| Sender::new(peer, 5 + i, 0).from(START + u64::from(i) * 30 * MS))
        });
        let sent = senders.flat_map(|sender| sender.send(START + 6 * S, &mut rng)).collect();
        let (bench, told) = hear(8_192, sent);
        assert_eq!(told.len() as u64, names);
        let latest_ns = told.values().map(|all| all[0].0).max().unwrap();
        assert!(latest_ns <= START + 60 * MS + 5 * S + 5 * INTERVAL, "{latest_ns}");
        assert!(told.values().all(|all| all.len() == 1));
        assert_eq!(bench.counters.get(Counter::Conflicts), names);
    }
}

#[test]
fn it_is_said_again_while_it_goes_on_and_is_news_after_a_pause() {
    let mut rng = Rng::new(1);
    let again_ns = START + 200 * S + quiet_ns(INTERVAL);
    let senders = [
        Sender::new(1, 6, 0),
        Sender::new(1, 5, 0).from(START + 1).until(START + 100 * S),
        Sender::new(1, 5, 10_000).from(again_ns).until(again_ns + 7 * S),
    ];
    let (bench, told) = live(&senders, FAIR, again_ns + 8 * S, &mut rng);
    let gaps: Vec<u64> = told[&1].windows(2).map(|pair| (pair[1].0 - pair[0].0) / S).collect();
    let (last, others) = gaps.split_last().unwrap();
    assert!(others.len() >= 2 && others.iter().all(|gap| (30..=36).contains(gap)), "{gaps:?}");
    assert!(*last > quiet_ns(INTERVAL) / S, "{gaps:?}");
    assert_eq!(bench.counters.get(Counter::Conflicts), 2, "{gaps:?}");
}

/// One that takes its time to go when it was replaced is none.
#[test]
fn of_slow_senders_it_takes_four_contradictions_behind_the_first_refusal() {
    let mut bench = Bench::new(8, START);
    for i in 0..5u32 {
        assert!(bench.sink.notices.is_empty(), "by {i}");
        for (incarnation, after_ns) in [(6, 0), (5, 20 * S)] {
            let at_ns = START + u64::from(i) * 60 * S + after_ns;
            let sender = beat(1, incarnation, i);
            let sent = Heartbeat { interval_us: 60_000_000, sent_ns: WALL + at_ns, ..sender };
            bench.observe(&[sent], at_ns);
        }
    }
    assert!(matches!(bench.sink.notices[..], [Notice::Conflict { incarnations: [6, 5], .. }]));
}

#[test]
fn a_clock_that_is_set_back_makes_no_second_sender() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut clock_ns = 0i64;
        let sent = Sender::new(1, 5, 0).send(START + 300 * S, &mut rng).into_iter();
        let sent: Vec<_> = sent
            .map(|(at_ns, beat)| {
                // About each five seconds, by up to ten.
                if rng.below(50) == 0 {
                    clock_ns -= rng.below(10 * S) as i64;
                }
                let sent_ns = beat.sent_ns.saturating_add_signed(clock_ns);
                (at_ns, Heartbeat { sent_ns, ..beat })
            })
            .collect();
        let copying = Network { doubled: 100, ..POOR };
        let (bench, told) = hear(8, copying.carry(sent, &mut rng));
        assert!(told.is_empty(), "seed {seed}: {told:?}");
        assert!(bench.counters.get(Counter::Duplicate) > 1_000);
    }
}

#[test]
fn one_that_dates_each_copy_anew_is_one() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let sent = Sender::new(1, 5, 0).send(START + 100 * S, &mut rng);
        let copies = sent.clone().into_iter().map(|(at_ns, beat)| {
            let later_ns = rng.below(6 * MS);
            (at_ns + later_ns, Heartbeat { sent_ns: beat.sent_ns + later_ns, ..beat })
        });
        let both = sent.into_iter().chain(copies.collect::<Vec<_>>()).collect();
        let (bench, told) = hear(8, POOR.carry(both, &mut rng));
        assert!(told.is_empty(), "seed {seed}: {told:?}");
        assert!(bench.counters.get(Counter::Duplicate) > 500);
    }
}

/// Each run is a sender of its own that says little: nothing shows that they run on two machines.
#[test]
fn jobs_of_two_machines_that_beat_once_a_minute_are_not_told() {
    let mut rng = Rng::new(1);
    let run = |minute: u64, clock_ns: u64| {
        let incarnation = (minute * 600 + clock_ns / (100 * MS)) as u32;
        let (at_ns, until_ns) = (START + minute * 60 * S + clock_ns / 9, 2 * INTERVAL);
        Sender::new(1, incarnation, 0).clock(clock_ns as i64).from(at_ns).until(at_ns + until_ns)
    };
    let runs = (0..60).flat_map(|minute| [run(minute, 0), run(minute, 9 * 200 * MS)]);
    let (bench, told) = live(&runs.collect::<Vec<_>>(), POOR, u64::MAX, &mut rng);
    assert!(told.is_empty(), "{told:?}");
    assert!(bench.counters.get(Counter::Restarts) > 60);
}

#[test]
fn an_elder_whose_clock_is_a_day_behind_has_to_go_on_for_a_minute() {
    let mut rng = Rng::new(1);
    let elder = Sender::new(1, 5, 0).clock(-86_400 * S as i64).from(START + 1);
    let (_, told) = live(&[Sender::new(1, 6, 0), elder], FAIR, START + 70 * S, &mut rng);
    assert!((START + 60 * S..START + 62 * S).contains(&told[&1][0].0), "{told:?}");
}

#[test]
fn a_backlog_of_the_sender_before_is_none_if_it_comes_within_a_minute() {
    let mut rng = Rng::new(1);
    let began_ns = START + 30 * S;
    let old = Sender::new(1, 5, 0).until(began_ns).send(began_ns, &mut rng);
    let mut arrivals = Sender::new(1, 6, 0).from(began_ns).send(began_ns + 300 * S, &mut rng);
    arrivals.push(old[0]);
    let late = old[1..].iter().enumerate();
    let pace_ns = 55 * S / old.len() as u64;
    arrivals.extend(late.map(|(i, (_, beat))| (began_ns + i as u64 * pace_ns, *beat)));
    assert!(hear(8, arrivals).1.is_empty());
}

#[test]
fn a_sender_restarted_with_its_clock_set_back_is_refused_but_no_second_sender() {
    let mut rng = Rng::new(1);
    let back_ns = START + 10 * S;
    for hour_ns in [0, 3_600 * S as i64] {
        let before = Sender::new(1, 6, 0).until(back_ns);
        let after = Sender::new(1, 5, 0).from(back_ns).clock(-hour_ns);
        let (bench, told) = live(&[before, after], POOR, START + 200 * S, &mut rng);
        assert!(bench.counters.get(Counter::Stale) > 1_000);
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn without_dates_an_elder_has_to_go_on_for_a_minute() {
    let undated = |sender: Sender, rng: &mut Rng| {
        let all = sender.send(START + 100 * S, rng).into_iter();
        all.map(|(at_ns, beat)| (at_ns, Heartbeat { sent_ns: 0, ..beat })).collect::<Vec<_>>()
    };
    let mut rng = Rng::new(1);
    let heard = undated(Sender::new(1, 6, 0), &mut rng);
    let elder = |to_ns, rng: &mut Rng| undated(Sender::new(1, 5, 0).until(to_ns), rng);
    let (_, told) = hear(8, [heard.clone(), elder(START + 59 * S, &mut rng)].concat());
    assert!(told.is_empty(), "{told:?}");
    let (_, told) = hear(8, [heard.clone(), elder(START + 90 * S, &mut rng)].concat());
    assert!((START + 60 * S..START + 62 * S).contains(&told[&1][0].0), "{told:?}");
    // As old as a relay says they are, they came before.
    let old = elder(START + 90 * S, &mut rng).into_iter();
    let aged = old.map(|(at_ns, beat)| (at_ns, Heartbeat { age_us: 200_000_000, ..beat }));
    assert!(hear(8, heard.into_iter().chain(aged).collect()).1.is_empty());
    // Of one incarnation nothing shows that they are two.
    let [one, other] = [0, 40].map(|sequence| undated(Sender::new(1, 5, sequence), &mut rng));
    assert!(hear(8, [one, other].concat()).1.is_empty());
}

/// As behind a relay, which hands on the announcements whole and packs the beats without their dates.
#[test]
fn a_date_now_and_then_does_not_break_off_the_minute_of_an_elder() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let senders = [(6, START), (5, START + 1)];
        let sent = senders.map(|(incarnation, from_ns)| {
            let sender = Sender::new(1, incarnation, rng.next() as u32).from(from_ns);
            let all = sender.send(START + 80 * S, &mut rng).into_iter().enumerate();
            all.map(|(i, (at_ns, beat))| {
                let sent_ns = if i % 16 == 0 { beat.sent_ns } else { 0 };
                (at_ns, Heartbeat { sent_ns, ..beat })
            })
            .collect::<Vec<_>>()
        });
        for network in [FAIR, POOR] {
            let (_, told) = hear(8, network.carry(sent.concat(), &mut rng));
            let at_ns = told.get(&1).map(|all| all[0].0);
            let due = START + 60 * S..START + 64 * S;
            assert!(at_ns.is_some_and(|at_ns| due.contains(&at_ns)), "seed {seed}: {told:?}");
        }
    }
}

#[test]
fn a_peer_that_takes_anothers_slot_starts_with_nothing() {
    let mut rng = Rng::new(1);
    let mut bench = Bench::new(1, START);
    let two = |peer, from_ns: u64, rng: &mut Rng| {
        let senders = [5, 6].map(|i| Sender::new(peer, i, 0).from(from_ns));
        let mut sent: Vec<_> = senders.iter().flat_map(|s| s.send(from_ns + 6 * S, rng)).collect();
        sent.sort_by_key(|(at_ns, _)| *at_ns);
        sent
    };
    let first = two(1, START, &mut rng);
    let second = two(2, START + 8 * S, &mut rng);
    first.iter().take(7).for_each(|(at_ns, beat)| drop(bench.observe(&[*beat], *at_ns)));
    assert!(bench.shard.remove(PeerId(1), START + 7 * S, &mut bench.sink));
    second.iter().for_each(|(at_ns, beat)| drop(bench.observe(&[*beat], *at_ns)));
    let told: Vec<_> = bench.sink.notices.iter().collect();
    let [Notice::Conflict { peer, at_ns, .. }] = told[..] else { panic!("{told:?}") };
    assert_eq!(*peer, PeerId(2));
    assert!(*at_ns >= START + 13 * S);
}
