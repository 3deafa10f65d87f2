//! Which detector finds a crash soonest at a given rate of mistakes: each with its best constants, over
//! seeded traces of networks of different temper. The figures and curves of docs/detection.md.
//!
//! `cargo bench --bench detectors -- DIRECTORY` also draws the curves there. Without `--bench` a tiny
//! fleet goes the same way, and only the answers count. Nothing here depends on the machine's speed.

mod traces;

use std::path::Path;
use systole::engine::detector::{Bertier, Blend, Chen, Phi};
use systole::engine::{Arrivals, Detector, Policy};
use systole::trace::plot::{Curve, Marks, svg};
use systole::trace::tune::{Point, pareto, sweep};
use systole::trace::{PeerTrace, Trace};
use traces::{INTERVAL_US, Temper, fleet};

/// Mistakes a heartbeat at which the detectors are compared.
const RATES: [f64; 9] = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5];
const INTERVAL_NS: f64 = INTERVAL_US as f64 * 1e3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let directory = arguments.iter().find(|argument| !argument.starts_with("--"));
    let (peers, beats, seeds) = if measured { (64, 16_000, 3) } else { (5, 60, 1) };
    for temper in Temper::ALL {
        println!("{}: mean T_D in intervals, best of each detector", temper.name());
        let mut worst = [0.0f64; RATES.len()];
        for seed in 1..=seeds {
            let trace = fleet(temper, peers, beats, seed);
            let points = sweep(&trace, &settings(), &vec![0; trace.peers.len()]);
            assert_eq!(points.len(), settings().len());
            let ratios = compare(&trace, &points, seed == 1);
            worst.iter_mut().zip(ratios).for_each(|(worst, ratio)| *worst = worst.max(ratio));
            if let (1, Some(directory)) = (seed, directory) {
                draw(Path::new(directory), temper, &trace, &points);
            }
        }
        let cells: Vec<String> = worst.iter().map(|ratio| format!("{ratio:.3}")).collect();
        println!("blend / best of the four, worst of {seeds} seeds: {}\n", cells.join(" "));
    }
    window(peers, beats);
}

/// The constants that are tried, finer than `systole tune` has them.
fn settings() -> Vec<Policy> {
    let base = Policy { grace_ns: 0, ..Policy::default() };
    let grid = |from: f64, to: f64, n: u32| {
        (0..n).map(move |i| from * (to / from).powf(f64::from(i) / f64::from(n - 1)))
    };
    let mut all = Vec::new();
    let mut add = |detector, missed| all.push(Policy { detector, missed, ..base });
    for beyond in grid(0.0005, 10.0, 60) {
        let timeout_ns = Some(((1.0 + beyond) * INTERVAL_NS) as u64);
        add(Detector::Fixed { timeout_ns }, 1.0);
        let margin_ns = (beyond * INTERVAL_NS) as u64;
        add(Detector::Chen(Chen { margin_ns, ..Chen::default() }), 1.0);
    }
    for missed in [1.0, 1.03, 1.1, 1.2, 1.5, 2.0, 2.1, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    {
        for phi in grid(1.0, 64.0, 12) {
            add(Detector::Bertier(Bertier { phi: phi as f32, ..Bertier::default() }), missed);
        }
        for threshold in grid(0.5, 200.0, 12) {
            let mut phi = Phi::new(threshold);
            phi.least_deviation_ns = 100_000;
            add(Detector::Phi(phi), missed);
        }
        for deviations in grid(1.0, 256.0, 16) {
            let deviations = deviations as f32;
            add(Detector::Blend(Blend { deviations, ..Blend::default() }), missed);
        }
    }
    all
}

/// The least mean T_D of a detector with no more than so many mistakes a heartbeat, in intervals.
fn best(trace: &Trace, points: &[Point], word: &str, rate: f64) -> Option<f64> {
    let most = rate * trace.arrivals() as f64;
    let own = points.iter().filter(|point| point.policy.detector.as_str() == word);
    let right = own.filter(|point| point.mistakes as f64 <= most);
    right.map(|point| point.mean_ns / INTERVAL_NS).min_by(f64::total_cmp)
}

/// Compares, and returns the ratio of blend's T_D to the best of the others' at each rate, 0 where the
/// trace has nothing to say.
fn compare(trace: &Trace, points: &[Point], print: bool) -> [f64; RATES.len()] {
    let mut ratios = [0.0; RATES.len()];
    if print {
        println!("{:>8}  {}", "rate", Detector::WORDS.map(|word| format!("{word:>8}")).join(" "));
    }
    for (rate, ratio) in RATES.into_iter().zip(&mut ratios) {
        // Below one mistake in all, the trace has nothing to say.
        if rate * (trace.arrivals() as f64) < 1.0 {
            continue;
        }
        let times = Detector::WORDS.map(|word| (word, best(trace, points, word, rate)));
        if print {
            let cell = |time: Option<f64>| time.map_or("-".into(), |time| format!("{time:.4}"));
            println!(
                "{rate:>8.0e}  {}",
                times.map(|(_, time)| format!("{:>8}", cell(time))).join(" ")
            );
        }
        let others =
            times.iter().filter(|(word, _)| *word != "blend").filter_map(|(_, time)| *time);
        if let (Some(least), Some((_, Some(blend)))) =
            (others.min_by(f64::total_cmp), times.iter().find(|(word, _)| *word == "blend"))
        {
            *ratio = blend / least;
        }
    }
    ratios
}

fn draw(directory: &Path, temper: Temper, trace: &Trace, points: &[Point]) {
    let time = |point: &Point| point.mean_ns;
    let curve = |word: &str| {
        let own = points.iter().filter(|point| point.policy.detector.as_str() == word);
        let xy =
            |point: &&Point| (point.mean_ns / 1e9, point.mistakes as f64 / trace.arrivals() as f64);
        Curve { name: word.to_owned(), points: pareto(own, time).iter().map(xy).collect() }
    };
    let curves: Vec<Curve> = Detector::WORDS.iter().map(|word| curve(word)).collect();
    let title = format!("{}: detection time against mistakes, interval 1 s", temper.name());
    let text =
        svg(&title, "mean detection time, s", "mistakes a heartbeat", &curves, &Marks::default());
    let path = directory.join(format!("detection-{}.svg", temper.name()));
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Chen's window of the last 127 arrivals against the weighted mean of the same mean age (gain 1/64):
/// the margin, and with it the mean T_D, that either needs for one mistake in a thousand heartbeats.
fn window(peers: u64, beats: u32) {
    const RATE: f64 = 1e-3;
    println!(
        "chen at one mistake in 1,000 heartbeats: mean T_D in intervals, window of 127 / weighted"
    );
    for temper in Temper::ALL {
        let trace = fleet(temper, peers, beats, 1);
        let forecasts = |forecast: fn(&PeerTrace) -> Vec<(f64, f64)>| {
            trace.peers.iter().flat_map(forecast).collect::<Vec<_>>()
        };
        let [windowed, weighted] = [forecasts(by_window), forecasts(by_weight)].map(|mut beats| {
            // How late each next arrival is against its forecast: the margin it would have taken.
            let len = beats.len();
            let mean = beats.iter().map(|(expected, _)| expected).sum::<f64>() / len as f64;
            beats.sort_by(|a, b| a.1.total_cmp(&b.1));
            let margin = beats[(len as f64 * (1.0 - RATE)) as usize].1.max(0.0);
            (mean + margin) / INTERVAL_NS
        });
        println!("{:<9} {windowed:.4} / {weighted:.4}", temper.name());
        assert!(windowed > 0.9 && weighted > 0.9, "a forecast is an interval ahead");
    }
}

/// For each arrival that has a next: when that was expected, seen from it, and how much later it came.
fn by_window(peer: &PeerTrace) -> Vec<(f64, f64)> {
    let offset = |at: usize| {
        let arrival = &peer.arrivals[at];
        arrival.arrived_ns as f64 - f64::from(arrival.sequence) * INTERVAL_NS
    };
    let forecast = |at: usize| {
        let from = (at + 1).saturating_sub(127);
        let mean = (from..=at).map(offset).sum::<f64>() / (at + 1 - from) as f64;
        let expected = INTERVAL_NS + mean - offset(at);
        (expected, elapsed(peer, at) - expected)
    };
    (127..peer.arrivals.len().saturating_sub(1)).map(forecast).chain([(INTERVAL_NS, 0.0)]).collect()
}

fn by_weight(peer: &PeerTrace) -> Vec<(f64, f64)> {
    let detector = Detector::Chen(Chen::default());
    let policy = Policy { detector, missed: 1.0, grace_ns: 0, ..Policy::default() };
    let (mut learnt, mut all) = (Arrivals::NONE, vec![(INTERVAL_NS, 0.0)]);
    for at in 0..peer.arrivals.len().saturating_sub(1) {
        if at >= 127 {
            let expected = policy.deadlines(&learnt, INTERVAL_US).down_ns as f64;
            all.push((expected, elapsed(peer, at) - expected));
        }
        let steps = steps(peer, at);
        let ns = peer.arrivals[at + 1].arrived_ns.saturating_sub(peer.arrivals[at].arrived_ns);
        policy.learn(&mut learnt, ns, steps.max(1), INTERVAL_US);
    }
    all
}

fn steps(peer: &PeerTrace, at: usize) -> u32 {
    peer.arrivals[at + 1].sequence.saturating_sub(peer.arrivals[at].sequence)
}

/// From an arrival to the next; a loss is taken out, for both alike.
fn elapsed(peer: &PeerTrace, at: usize) -> f64 {
    let ns = peer.arrivals[at + 1].arrived_ns as f64 - peer.arrivals[at].arrived_ns as f64;
    ns - (f64::from(steps(peer, at)) - 1.0).max(0.0) * INTERVAL_NS
}
