//! What the benches share: arguments, processor time, figures with their spread, and bars.
//!
//! A figure is the median of many samples, with the 10th and the 90th percentile beside it. Where two
//! ways are compared they take turns within a round, so that drift of the machine hits both alike, and
//! the ratio is that of the medians, with the spread of the rounds' own ratios. A *bar* is a ratio or
//! a figure that the project wants to keep: whether it is met is printed, never asserted, since a busy
//! machine is no bug. What is asserted is each bench's answer.
//!
//! `--csv FILE` appends each figure to a file as well; `tools/bench` reads it.

// Each bench uses a part of it.
#![allow(dead_code)]

pub mod fleet;
pub mod monitor;
pub mod pace;
pub mod sink;

use std::fs::{File, OpenOptions};
use std::io::Write;

/// SplitMix64's mixer (Steele, Lea, Flood 2014): turns 0, 1, 2, … into numbers as random as a hash.
pub fn mix(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The numbers 0 .. count in an order that depends on the count only.
pub fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..count as usize).rev() {
        order.swap(last, mix(last as u64 + 1) as usize % (last + 1));
    }
    order
}

/// Makes this thread a receiver: on the first core that the process may use, with a reactor's priority.
pub fn become_receiver() {
    let cores = systole::reactor::cores::CorePlan::new(1);
    systole::reactor::cores::become_reactor(cores.reactor(0));
}

/// Keeps this thread off the receiver's core, if there is another, on the last one and with an ordinary
/// thread's priority.
pub fn become_sender() {
    let core = core_affinity::get_core_ids().unwrap_or_default().pop();
    core.map(core_affinity::set_for_current);
    // SAFETY: takes integers and touches no memory. A thread inherits the priority of its maker.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, 0) };
}

/// CPU time that this thread has used, in nanoseconds: what getrusage(2) has for RUSAGE_THREAD, finer.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(rc, 0, "every thread has a CPU clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What was asked on the command line.
pub struct Arguments(Vec<String>);

impl Arguments {
    /// The process's own.
    pub fn new() -> Arguments {
        Arguments(std::env::args().skip(1).collect())
    }

    /// Whether to measure; else a tiny size is to check the answers.
    pub fn measures(&self) -> bool {
        self.0.iter().any(|argument| argument == "--bench")
    }

    /// What follows an option.
    pub fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        Some(self.0.get(at + 1).unwrap_or_else(|| panic!("{name} wants a value")))
    }

    /// The number that follows an option, else `measured` or `tiny`.
    pub fn number(&self, name: &str, measured: u64, tiny: u64) -> u64 {
        let default = if self.measures() { measured } else { tiny };
        self.text(name).map_or(default, |text| text.parse().expect("a number"))
    }

    /// The numbers, separated by commas, that follow an option.
    pub fn numbers(&self, name: &str, measured: &[u64], tiny: &[u64]) -> Vec<u64> {
        let default = if self.measures() { measured } else { tiny };
        self.text(name).map_or(default.to_vec(), |text| {
            text.split(',').map(|number| number.parse().expect("numbers")).collect()
        })
    }

    /// Whether a part of the bench is wanted: named by a word, or no part is named.
    pub fn wants(&self, part: &str, parts: &[&str]) -> bool {
        let named = |part: &&str| self.0.iter().any(|argument| argument == *part);
        named(&part) || !parts.iter().any(named)
    }
}

/// A figure: the median of samples, and their 10th and 90th percentile.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Figure {
    /// That of so many samples, at least one.
    pub fn of(samples: &[f64]) -> Figure {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[(share * (sorted.len() - 1) as f64).round() as usize];
        Figure { low: at(0.1), median: at(0.5), high: at(0.9) }
    }

    /// One value, without a spread.
    pub fn exactly(value: f64) -> Figure {
        Figure { low: value, median: value, high: value }
    }

    /// How many times `other` this is: the ratio of the medians, and the spread of those of the rounds.
    pub fn ratio(these: &[f64], others: &[f64]) -> Figure {
        let ratios: Vec<f64> = these.iter().zip(others).map(|(this, other)| this / other).collect();
        let median = Figure::of(these).median / Figure::of(others).median;
        Figure { median, ..Figure::of(&ratios) }
    }
}

/// What a ratio or figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// Prints figures, and appends them to a file if one is asked for.
pub struct Report {
    bench: &'static str,
    /// Whether bars mean something; in a tiny size they do not.
    judges: bool,
    csv: Option<File>,
}

impl Report {
    /// The report of a bench.
    pub fn new(bench: &'static str, arguments: &Arguments) -> Report {
        let open = |path| OpenOptions::new().append(true).create(true).open(path).expect("the CSV");
        Report { bench, judges: arguments.measures(), csv: arguments.text("--csv").map(open) }
    }

    /// Prints a headline.
    pub fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// A figure `what`, of `case`, in `unit`.
    pub fn figure(&mut self, case: &str, what: &str, unit: &str, figure: Figure) {
        let Figure { low, median, high } = figure;
        let spread =
            if low == high { String::new() } else { format!("{} … {}", short(low), short(high)) };
        println!("  {case:<48} {what:<24} {:>9} {unit:<6} {spread}", short(median));
        self.write(case, what, unit, figure, "", "");
    }

    /// A figure that has a bar.
    pub fn bar(&mut self, case: &str, what: &str, unit: &str, figure: Figure, bar: Bar) {
        if !self.judges {
            return self.figure(case, what, unit, figure);
        }
        let Figure { low, median, high } = figure;
        let (word, limit, met) = match bar {
            Bar::AtMost(limit) => ("at most", limit, median <= limit),
            Bar::AtLeast(limit) => ("at least", limit, median >= limit),
        };
        let met = if met { "met" } else { "not met" };
        println!(
            "  {case:<48} {what:<24} {:>9} {unit:<6} {} … {}; bar: {word} {limit}, {met}",
            short(median),
            short(low),
            short(high)
        );
        self.write(case, what, unit, figure, &format!("{word} {limit}"), met);
    }

    fn write(&mut self, case: &str, what: &str, unit: &str, figure: Figure, bar: &str, met: &str) {
        let Figure { low, median, high } = figure;
        if let Some(csv) = &mut self.csv {
            let line = format!(
                "{},{case:?},{what:?},{unit},{low:.4},{median:.4},{high:.4},{bar},{met}\n",
                self.bench
            );
            csv.write_all(line.as_bytes()).expect("the CSV can be written");
        }
    }
}

/// A number with as many digits as say something.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1e5 => format!("{value:.0}"),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
