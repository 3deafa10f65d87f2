//! The replay against an oracle that goes through the CSV's rows and keeps everything.

use super::*;
use crate::engine::{Detector, Policy};
use crate::testing::{Rng, seeds};

/// No guard, no grace.
fn plain(detector: Detector) -> Policy {
    Policy { detector, grace_ns: 0, ..Policy::default() }
}

fn fixed_ns(timeout_ns: u64) -> Policy {
    plain(Detector::Fixed { timeout_ns: Some(timeout_ns) })
}

fn trace_of(beats: &[(u32, u64)]) -> Trace {
    let arrivals = beats.iter().map(|&(sequence, arrived_ns)| Arrival {
        arrived_ns,
        sequence,
        ..Arrival::default()
    });
    Trace { peers: vec![PeerTrace::new("a".into(), arrivals.collect())], ..Trace::default() }
}

#[track_caller]
fn check(
    beats: &[(u32, u64)],
    timeout_ns: u64,
    mistakes: u64,
    duration_ns: u128,
    observed_ns: u128,
) {
    let quality = replay(&trace_of(beats), &fixed_ns(timeout_ns), |_| 0).overall;
    assert_eq!(
        (quality.mistakes, quality.mistake_duration_ns, quality.observed_ns),
        (mistakes, duration_ns, observed_ns)
    );
}

#[test]
fn an_arrival_at_the_deadline_is_in_time_and_a_nanosecond_later_is_not() {
    check(&[(1, 1_000), (2, 1_200)], 200, 0, 0, 200);
    check(&[(1, 1_000), (2, 1_201)], 200, 1, 1, 201);
}

#[test]
fn neither_the_first_beat_nor_the_end_is_judged() {
    check(&[], 200, 0, 0, 0);
    check(&[(9, 5_000_000)], 200, 0, 0, 0);
}

#[test]
fn an_old_or_repeated_beat_proves_nothing() {
    // The copy of 2 at 350 and the late 1 at 360 do not end the mistake that begins at 300.
    check(&[(2, 100), (2, 350), (1, 360), (3, 400)], 200, 1, 100, 300);
}

#[test]
fn a_restart_and_a_bye_are_no_mistakes() {
    let mut trace = trace_of(&[(1, 100), (0, 1_000), (1, 1_100), (2, 9_000)]);
    let arrivals = &mut trace.peers[0].arrivals;
    arrivals[1..].iter_mut().for_each(|arrival| arrival.incarnation = 1);
    arrivals[2].bye = true;
    let quality = replay(&trace, &fixed_ns(200), |_| 0).overall;
    assert_eq!((quality.mistakes, quality.restarts, quality.observed_ns), (0, 1, 100));
    assert_eq!(quality.heartbeats, 4);
}

#[test]
fn detection_time_of_a_fixed_timeout_is_that_timeout() {
    let quality = replay(&trace_of(&[(1, 0), (2, 900), (3, 901)]), &fixed_ns(250), |_| 0).overall;
    assert_eq!(quality.detection.at([50.0, 99.0, 100.0]), [250; 3]);
    assert_eq!(quality.detection.len(), 3);
    assert_eq!(quality.query_accuracy(), 1.0 - 650.0 / 901.0);
}

#[test]
fn the_interval_is_the_median_step() {
    let trace = trace_of(&[(0, 0), (1, 1_000_000), (1, 1_000_001), (4, 4_600_000), (5, 5_000_000)]);
    assert_eq!(trace.peers[0].estimate_interval_us(), 1_000);
    assert_eq!(trace_of(&[(0, 7)]).peers[0].estimate_interval_us(), 0);
}

/// Everybody's verdicts, by looking at each instant where something can happen.
fn oracle(rows: &[(usize, u32, u64)], peer: usize, timeout_ns: u64) -> (u64, u128, u128) {
    let mut rows: Vec<_> = rows.iter().filter(|row| row.0 == peer).collect();
    rows.sort_by_key(|row| row.2);
    let (mut newest, mut mistakes, mut mistaken_ns, mut observed_ns) = (None, 0, 0, 0);
    for &&(_, sequence, arrived_ns) in &rows {
        match newest {
            Some((known, _)) if sequence <= known => continue,
            Some((_, last_ns)) => {
                observed_ns += u128::from(arrived_ns - last_ns);
                let deadline_ns = last_ns + timeout_ns;
                if arrived_ns > deadline_ns {
                    mistakes += 1;
                    mistaken_ns += u128::from(arrived_ns - deadline_ns);
                }
            }
            None => {}
        }
        newest = Some((sequence, arrived_ns));
    }
    (mistakes, mistaken_ns, observed_ns)
}

#[test]
fn random_traces_agree_with_the_oracle_to_the_nanosecond() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut rows = Vec::new();
        for peer in 0..5usize {
            for sequence in 0..400u32 {
                let copies = 1 + u64::from(rng.one_in(10));
                for _ in 0..if rng.one_in(20) { 0 } else { copies } {
                    let delay_ns = rng.below(1_000) << rng.below(12);
                    rows.push((peer, sequence, u64::from(sequence) * 100_000 + delay_ns));
                }
            }
        }
        rows.sort_by_key(|row| (row.2, row.0));
        let mut text = String::from("seq,peer,arrived_ns,sent_ns\r\n");
        for (peer, sequence, arrived_ns) in &rows {
            text += &format!("{sequence},peer-{peer},{arrived_ns},1\r\n");
        }
        let trace = csv::read(text.as_bytes()).unwrap();
        let file = std::env::temp_dir().join(format!("systole-trace-{}", std::process::id()));
        std::fs::write(&file, &text).unwrap();
        for timeout_ns in [50_000, 100_000, 110_001, 300_000, 10_000_000] {
            let replay = replay(&trace, &fixed_ns(timeout_ns), |_| 0);
            let (peers, _, while_read) =
                replay_file(&file, &fixed_ns(timeout_ns), None).unwrap().expect("all in order");
            assert_eq!(while_read, replay, "seed {seed}");
            assert!(
                peers
                    .peers
                    .iter()
                    .map(|peer| &peer.name)
                    .eq(trace.peers.iter().map(|peer| &peer.name))
            );
            for (place, quality) in replay.peers.iter().enumerate() {
                let number: usize = trace.peers[place].name["peer-".len()..].parse().unwrap();
                let got = (quality.mistakes, quality.mistake_duration_ns, quality.observed_ns);
                assert_eq!(got, oracle(&rows, number, timeout_ns), "seed {seed} peer {number}");
            }
            assert_eq!(replay.overall.arrivals, rows.len() as u64);
            let sum: u64 = replay.peers.iter().map(|peer| peer.mistakes).sum();
            assert_eq!(replay.overall.mistakes, sum);
        }
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_file_that_needs_to_be_read_whole_is_not_replayed_while_it_is_read() {
    let replayed = |name: &str, rows: &str, policy: &Policy, interval_us| {
        let file =
            std::env::temp_dir().join(format!("systole-trace-{name}-{}", std::process::id()));
        std::fs::write(&file, format!("seq,peer,arrived_ns,sent_ns\n{rows}")).unwrap();
        let replay = replay_file(&file, policy, interval_us).unwrap();
        std::fs::remove_file(&file).unwrap();
        replay.map(|(_, _, replay)| replay.overall.arrivals)
    };
    let (in_order, not) = ("1,a,100,1\n1,b,90,1\n2,a,200,1\n", "1,a,200,1\n2,a,100,1\n3,a,300,1\n");
    assert_eq!(replayed("order", in_order, &fixed_ns(200), None), Some(3));
    assert_eq!(replayed("disorder", not, &fixed_ns(200), None), None);
    let multiple = plain(Detector::Fixed { timeout_ns: None });
    assert_eq!(replayed("estimated", in_order, &multiple, None), Some(3));
    // What is left of a buffer when the reading stops is not a line, however long it is.
    let long = |first: &str| {
        let rows = (4..40_000).map(|n| format!("{n},a,{},1\n", n * 100));
        rows.fold(first.to_owned(), |text, row| text + &row)
    };
    assert_eq!(replayed("long disorder", &long(not), &fixed_ns(200), None), None);
    assert_eq!(replayed("long order", &long(in_order), &fixed_ns(200), None), Some(39_999));
}

/// Each peer's interval from so many of its first heartbeats as are kept until it is estimated: with fewer,
/// as many, and more of them than that.
#[test]
fn an_interval_is_estimated_alike_while_the_file_is_read() {
    let file = std::env::temp_dir().join(format!("systole-estimated-{}", std::process::id()));
    let multiple = plain(Detector::Fixed { timeout_ns: None });
    let mut rng = Rng::new(5);
    let beats =
        |peer: u64| [1, 2, ESTIMATED_FROM - 1, ESTIMATED_FROM, 3 * ESTIMATED_FROM][peer as usize];
    let mut rows = Vec::new();
    for peer in 0..5 {
        for n in 0..beats(peer) as u64 {
            // Twice as slow in its second half, which an estimate from the whole would show.
            let slow_ns = 1_000_000 * n.saturating_sub(2 * ESTIMATED_FROM as u64 / 3);
            rows.push((1_000_000 * n + slow_ns + rng.below(300_000), peer, n));
        }
    }
    rows.sort();
    let text: String = rows.iter().map(|(ns, peer, n)| format!("p{peer},{n},{ns},\n")).collect();
    // A peer that states its interval needs no estimate, until it does not.
    let stated: String = (0..9).map(|n| format!("s,{n},{},{}\n", 10 * n, 10)).collect();
    for (rows, at_once) in
        [(text.clone(), true), (stated.clone() + &text, true), (stated + "s,9,99,\n", false)]
    {
        std::fs::write(&file, format!("peer,seq,arrived_ns,interval_ns\n{rows}")).unwrap();
        for policy in [multiple, Policy::default(), plain(Detector::Chen(Default::default()))] {
            let trace = Trace::open(&file).unwrap();
            let intervals = trace.intervals_us(None);
            let whole = replay(&trace, &policy, |place| intervals[place]);
            let while_read = replay_file(&file, &policy, None).unwrap();
            assert_eq!(while_read.is_some(), at_once);
            if let Some((_, found, replay)) = while_read {
                assert_eq!((found, replay), (intervals, whole));
            }
        }
    }
    std::fs::remove_file(&file).unwrap();
}
