//! How fast a trace is replayed, and how fast one is read.
//!
//! `cargo bench --bench replay` measures with 10 million arrivals of 1,000 peers, on one core; without
//! `--bench` a tiny trace goes the same way, and only the answers count. Processor time, so that other work
//! on the machine counts as little as it can; best of five rounds, the worst beside it.

mod traces;

use std::fmt::Write;
use std::io::Cursor;
use systole::clock::process_cpu_ns;
use systole::engine::{Detector, Policy};
use systole::trace::format::{Encoder, decode};
use systole::trace::{Trace, csv, replay};
use systole::wire::PeerId;
use traces::{Temper, fleet};

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (peers, beats, rounds) = if measured { (1_000, 10_000, 5) } else { (4, 50, 1) };
    let trace = fleet(Temper::Wan, peers, beats, 1);
    let arrivals = trace.arrivals();
    for word in Detector::WORDS {
        let policy = Policy { detector: word.parse().expect("a word"), ..Policy::default() };
        let found = time(&format!("replay, {word}"), arrivals, rounds, || {
            let mut overall = replay(&trace, &policy, |_| 0).overall;
            let [p50, p99] = overall.detection.at([50.0, 99.0]);
            assert!(p50 <= p99);
            overall
        });
        assert_eq!(found.arrivals, arrivals);
        assert_eq!(found.heartbeats, found.detection.len());
    }

    let recording = record(&trace);
    println!("a recording takes {:.1} bytes a heartbeat", recording.len() as f64 / arrivals as f64);
    let read = time("read a recording", arrivals, rounds, || decode(&recording).expect("whole"));
    assert_eq!(read.arrivals(), arrivals);
    let text = as_csv(&trace);
    let read = time("read CSV", arrivals, rounds, || csv::read(Cursor::new(&text)).expect("CSV"));
    assert_eq!(read.arrivals(), arrivals);
}

/// The heartbeats of all peers in the order of arrival.
fn merged(trace: &Trace) -> Vec<(usize, systole::trace::Arrival)> {
    let of = |(place, peer): (usize, &systole::trace::PeerTrace)| {
        peer.arrivals.iter().map(move |arrival| (place, *arrival)).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = trace.peers.iter().enumerate().flat_map(of).collect();
    all.sort_by_key(|(_, arrival)| arrival.arrived_ns);
    all
}

fn record(trace: &Trace) -> Vec<u8> {
    let (mut encoder, header) = Encoder::new(0, 0);
    let mut bytes = header.to_vec();
    for (place, arrival) in merged(trace) {
        encoder.push(PeerId(place as u64 + 1), &arrival);
        if encoder.is_full() {
            encoder.take(0, |block| bytes.extend_from_slice(block));
        }
    }
    encoder.take(0, |block| bytes.extend_from_slice(block));
    bytes
}

fn as_csv(trace: &Trace) -> String {
    let mut text = String::from("peer,seq,sent_ns,arrived_ns\n");
    for (place, arrival) in merged(trace) {
        let name = &trace.peers[place].name;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name},{},{},{}",
            arrival.sequence, arrival.sent_ns, arrival.arrived_ns
        );
    }
    text
}

fn time<T>(what: &str, arrivals: u64, rounds: u32, mut run: impl FnMut() -> T) -> T {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        let start_ns = process_cpu_ns();
        last = Some(run());
        // Never 0, which a tiny round would take by a coarse clock.
        times.push((process_cpu_ns() - start_ns).max(1) as f64 / 1e9);
    }
    times.sort_by(f64::total_cmp);
    let rate = |seconds: f64| arrivals as f64 / seconds / 1e6;
    let (best, worst) = (rate(times[0]), rate(times[times.len() - 1]));
    println!("{what:<20} {best:7.1} M/s (worst {worst:.1}), {:.1} ns each", 1e3 / best);
    last.expect("a round was run")
}
