//! How fast a trace is replayed, and how fast one is read.
//!
//! `cargo bench --bench replay` measures with 10 million arrivals of 1,000 peers, on one core; without
//! `--bench` a tiny trace goes the same way, and only the answers count. Processor time, so that other work
//! on the machine counts as little as it can; best of five rounds, the worst beside it.

mod traces;

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use systole::clock::process_cpu_ns;
use systole::engine::{Detector, Policy};
use systole::trace::format::Encoder;
use systole::trace::{Trace, replay, replay_file};
use systole::wire::PeerId;
use traces::{INTERVAL_US, Temper, fleet};

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (peers, beats, rounds) = if measured { (1_000, 10_000, 5) } else { (4, 50, 1) };
    let trace = fleet(Temper::Wan, peers, beats, 1);
    let arrivals = trace.arrivals();
    for word in Detector::WORDS {
        let policy = Policy { detector: word.parse().expect("a word"), ..Policy::default() };
        let found = time(&format!("replay, {word}"), arrivals, rounds, || {
            let overall = replay(&trace, &policy, |_| 0).overall;
            let [p50, p99] = overall.detection.at([50.0, 99.0]);
            assert!(p50 <= p99);
            overall
        });
        assert_eq!(found.arrivals, arrivals);
        assert_eq!(found.heartbeats, found.detection.len());
    }

    let recording = TempFile::new("bench.rec", &record(&trace));
    let text = TempFile::new("bench.csv", as_csv(&trace).as_bytes());
    drop(trace);
    for (what, file) in [("recording", &recording), ("CSV", &text)] {
        println!("a {what} takes {:.1} bytes a heartbeat", file.len as f64 / arrivals as f64);
        // What nothing can beat that looks at each byte.
        let found =
            time(&format!("{what}, count line ends"), arrivals, rounds, || line_ends(&file.path));
        assert!(found > 0);
        let read = time(&format!("{what}, into memory"), arrivals, rounds, || {
            Trace::open(&file.path).expect("a trace")
        });
        assert_eq!(read.arrivals(), arrivals);
        for word in Detector::WORDS {
            let policy = Policy { detector: word.parse().expect("a word"), ..Policy::default() };
            let found = time(&format!("{what} to {word}"), arrivals, rounds, || {
                let found = replay_file(&file.path, &policy, Some(INTERVAL_US)).expect("a trace");
                let (_, _, replay) = found.expect("each peer's heartbeats are in order");
                replay.overall.detection.at([50.0, 99.0, 100.0]);
                replay
            });
            assert_eq!(found.overall.arrivals, arrivals);
        }
    }
    for word in ["fixed", "blend"] {
        let policy = Policy { detector: word.parse().expect("a word"), ..Policy::default() };
        let found = time(&format!("CSV, interval estimated, to {word}"), arrivals, rounds, || {
            let found = replay_file(&text.path, &policy, None).expect("a trace");
            let (_, _, replay) = found.expect("no heartbeat states its interval");
            replay.overall.detection.at([50.0, 99.0, 100.0]);
            replay
        });
        assert_eq!(found.overall.arrivals, arrivals);
    }
}

/// A file that goes with the process.
struct TempFile {
    path: PathBuf,
    len: usize,
}

impl TempFile {
    fn new(name: &str, bytes: &[u8]) -> TempFile {
        let path = std::env::temp_dir().join(format!("systole-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("the temporary directory is writable");
        TempFile { path, len: bytes.len() }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn line_ends(path: &Path) -> usize {
    let mut file = File::open(path).expect("it is there");
    let (mut buffer, mut found) = (vec![0; 1 << 18], 0);
    loop {
        match file.read(&mut buffer).expect("it can be read") {
            0 => return found,
            len => found += buffer[..len].iter().filter(|byte| **byte == b'\n').count(),
        }
    }
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
    println!("{what:<34} {best:7.1} M/s (worst {worst:.1}), {:.1} ns each", 1e3 / best);
    last.expect("a round was run")
}
