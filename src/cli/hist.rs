//! `systole hist`: what the monitor measures of itself, from p50 to p99.999.

use super::client::{Client, MonitorArgs, query};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, hgrm, words};
use crate::api::{HistogramSummary, Histograms};
use crate::config::closest;
use crate::metrics::HistogramKind;
use clap::ValueEnum;
use comfy_table::Cell;
use std::fmt::Write;

const EXAMPLES: &str = "\
Examples:
  systole hist
  systole hist lateness detection_time
  systole hist lateness --format hgrm > lateness.hgrm
  systole hist --reset && sleep 60 && systole hist --since interval
";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES)]
pub struct HistArgs {
    /// Which histograms, by the names of the table (`lateness`, or `lateness_ns` as JSON and CSV have
    /// it); all when none is named.
    names: Vec<String>,
    /// How to print them: a table, JSON with all buckets, HdrHistogram's percentile text, or one
    /// CSV line each.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Count from the monitor's start, or from the last reset.
    #[arg(long, value_enum, default_value = "start")]
    since: Since,
    /// Begin a new interval after reading.
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
    Hgrm,
    Csv,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Since {
    Start,
    Interval,
}

/// Reads and prints the histograms.
///
/// # Errors
/// No monitor answers (exit code 3), or a name that no histogram has (2).
pub fn hist(args: HistArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let client = Client::new(&args.monitor.http)?;
    let since = match args.since {
        Since::Start => "start",
        Since::Interval => "interval",
    };
    let buckets = matches!(args.format, Format::Json | Format::Hgrm).then_some("1");
    let parameters = query([("since", Some(since)), ("buckets", buckets)]);
    let all: Histograms = client.get(&format!("/api/v1/histograms{parameters}"))?;
    let chosen = select(all, &args.names)?;
    if args.reset {
        client.post("/api/v1/histograms/reset")?;
    }
    match args.format {
        Format::Table => terminal::print(&table(&chosen, Terminal::detect()))?,
        Format::Json => terminal::print_json(&chosen)?,
        Format::Csv => terminal::print(csv(&chosen).trim_end())?,
        Format::Hgrm => terminal::print(distributions(&chosen)?.trim_end())?,
    }
    Ok(0)
}

/// A histogram's name as people write it; its values have their unit beside them.
fn short(name: &str) -> &str {
    name.strip_suffix("_ns").unwrap_or(name)
}

/// Those named, with `_ns` or without, or all.
fn select(mut all: Histograms, names: &[String]) -> Result<Histograms, Failure> {
    for name in names {
        if !all.histograms.keys().any(|key| short(key) == short(name)) {
            let known: Vec<&str> = all.histograms.keys().map(|key| short(key)).collect();
            let near = closest(short(name), HistogramKind::ALL.iter().map(|k| short(k.label())));
            let hint = near.map_or(".".into(), |near| format!(", did you mean `{near}`?"));
            return Err(Failure::usage(format!(
                "no histogram `{name}`{hint} There are {}",
                known.join(", ")
            )));
        }
    }
    if !names.is_empty() {
        all.histograms.retain(|key, _| names.iter().any(|name| short(name) == short(key)));
    }
    Ok(all)
}

fn table(all: &Histograms, terminal: Terminal) -> String {
    let header = ["HISTOGRAM", "COUNT", "P50", "P90", "P99", "P99.9", "P99.99", "P99.999", "MAX"];
    let mut table = terminal.table(&header, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for (name, figures) in &all.histograms {
        let f = figures;
        let values = [f.p50, f.p90, f.p99, f.p999, f.p9999, f.p99999, f.max];
        let mut row = vec![Cell::new(short(name)), Cell::new(words::count(f.count))];
        row.extend(values.map(|ns| match f.count {
            0 => Cell::new("-"),
            _ => Cell::new(words::duration(ns)),
        }));
        table.add_row(row);
    }
    let since = match all.since.as_str() {
        "interval" => "the last reset",
        _ => "the monitor's start",
    };
    let note = format!("since {since}, {}", all.since_time);
    format!("{}\n{}", terminal::render(&table), terminal.paint(Severity::Quiet, &note))
}

fn csv(all: &Histograms) -> String {
    let mut text = String::from("histogram,count,min,mean,p50,p90,p99,p999,p9999,p99999,max\n");
    for (name, f) in &all.histograms {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name},{},{},{:.1},{},{},{},{},{},{},{}",
            f.count, f.min, f.mean, f.p50, f.p90, f.p99, f.p999, f.p9999, f.p99999, f.max
        );
    }
    text
}

/// One distribution after the other. More than one is announced by a comment: a plotter wants one
/// a file.
fn distributions(all: &Histograms) -> Result<String, Failure> {
    let mut text = String::new();
    for (name, figures) in &all.histograms {
        if all.histograms.len() > 1 {
            let _ = writeln!(text, "#[Histogram = {name}]");
        }
        text.push_str(&hgrm::format(&rebuild(figures)?));
    }
    Ok(text)
}

/// The histogram that has these buckets.
fn rebuild(figures: &HistogramSummary) -> Result<hdrhistogram::Histogram<u64>, Failure> {
    let most = figures.buckets.last().map_or(2, |(value, _)| (*value).max(2));
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("the monitor's buckets make no histogram: {error}"))
    };
    // Three digits keep apart whatever the monitor's two digits do.
    let mut histogram =
        hdrhistogram::Histogram::new_with_bounds(1, most, 3).map_err(|error| failed(&error))?;
    for &(value, count) in &figures.buckets {
        histogram.record_n(value, count).map_err(|error| failed(&error))?;
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sample() -> Histograms {
        let lateness = HistogramSummary {
            help: "From a deadline to the transition being fired.".into(),
            count: 100,
            min: 10,
            mean: 28.0,
            p50: 10,
            p90: 10,
            p99: 4_000,
            p999: 40_000,
            p9999: 40_000,
            p99999: 40_000,
            max: 40_000,
            buckets: vec![(10, 98), (4_000, 1), (40_000, 1)],
        };
        let empty = HistogramSummary::default();
        Histograms {
            since: "start".into(),
            since_time: "2026-11-23T10:00:00Z".into(),
            histograms: BTreeMap::from([
                ("ingest_ns".to_owned(), empty),
                ("lateness_ns".to_owned(), lateness),
            ]),
        }
    }

    #[test]
    fn csv_is_exact() {
        assert_eq!(
            csv(&sample()),
            "histogram,count,min,mean,p50,p90,p99,p999,p9999,p99999,max\n\
             ingest_ns,0,0,0.0,0,0,0,0,0,0,0\n\
             lateness_ns,100,10,28.0,10,10,4000,40000,40000,40000,40000\n"
        );
    }

    #[test]
    fn the_table_is_exact() {
        assert_eq!(
            table(&sample(), Terminal::PLAIN),
            "HISTOGRAM  COUNT    P50    P90   P99  P99.9  P99.99  P99.999    MAX\n\
             ingest         0      -      -     -      -       -        -      -\n\
             lateness     100  10 ns  10 ns  4 µs  40 µs   40 µs    40 µs  40 µs\n\
             since the monitor's start, 2026-11-23T10:00:00Z"
        );
    }

    #[test]
    fn buckets_survive_the_way_into_the_percentile_text() {
        let one = select(sample(), &["lateness".into()]).unwrap();
        let text = distributions(&one).unwrap();
        assert!(text.starts_with("       Value     Percentile"), "{text}");
        assert!(text.contains("      10.000 0.900000000000         98          10.00"), "{text}");
        assert!(text.contains("Total count    =          100]"), "{text}");
        let both = distributions(&sample()).unwrap();
        assert!(both.starts_with("#[Histogram = ingest_ns]\n"), "{both}");
    }

    #[test]
    fn a_name_may_lack_its_unit_and_an_unknown_one_is_explained() {
        let names = ["lateness_ns".to_owned()];
        assert_eq!(select(sample(), &names).unwrap().histograms.len(), 1);
        assert_eq!(select(sample(), &[]).unwrap().histograms.len(), 2);
        let failure = select(sample(), &["latenes".into()]).unwrap_err();
        assert_eq!(failure.code(), 2);
        assert_eq!(
            failure.to_string(),
            "no histogram `latenes`, did you mean `lateness`? \
             There are ingest, lateness"
        );
    }
}
