//! The percentile distribution text (`.hgrm`) that HdrHistogram's plotters read.
//!
//! The same columns and rows as `AbstractHistogram.outputPercentileDistribution` of the Java
//! library with five ticks per half distance and a scaling of 1: values stay in their own unit.

use hdrhistogram::Histogram;
use std::fmt::Write;

const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// The distribution as text, its last line ended.
pub fn format(histogram: &Histogram<u64>) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to(), step.quantile_iterated_to());
        let row = format!("{value:12.3} {quantile:2.12} {total:10}", value = value as f64);
        // Writing to a String cannot fail.
        let _ = if quantile < 1.0 {
            writeln!(text, "{row} {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{row}")
        };
    }
    let (mean, deviation) =
        if histogram.is_empty() { (0.0, 0.0) } else { (histogram.mean(), histogram.stdev()) };
    let (max, count) = (histogram.max() as f64, histogram.len());
    let sub_buckets = 2 * 10u64.pow(u32::from(histogram.sigfig()));
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    let _ = writeln!(
        text,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.buckets(),
        sub_buckets.next_power_of_two()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_java_library_writes() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 2).unwrap();
        for (value, count) in [(10, 90), (100, 9), (1_000, 1)] {
            histogram.record_n(value, count).unwrap();
        }
        let text = format(&histogram);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "      10.000 0.000000000000         90           1.00");
        assert_eq!(lines[3], "      10.000 0.100000000000         90           1.11");
        let last = lines.iter().rposition(|line| !line.starts_with('#')).unwrap();
        assert_eq!(lines[last], "    1003.000 1.000000000000        100");
        assert_eq!(lines[last + 1], "#[Mean    =       28.020, StdDeviation   =      101.217]");
        assert_eq!(lines[last + 2], "#[Max     =     1003.000, Total count    =          100]");
        assert_eq!(lines[last + 3], "#[Buckets =           13, SubBuckets     =          256]");
        assert_eq!(lines.len(), last + 4);
    }

    #[test]
    fn an_empty_histogram_is_written_too() {
        let histogram = Histogram::new_with_bounds(1, 1_000_000, 2).unwrap();
        let text = format(&histogram);
        assert!(
            text.contains("#[Mean    =        0.000, StdDeviation   =        0.000]"),
            "{text}"
        );
        assert!(text.contains("Total count    =            0]"), "{text}");
    }
}
