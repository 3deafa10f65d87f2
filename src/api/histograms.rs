//! Histograms in figures.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /api/v1/histograms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// What the values are counted from: `start`, or `interval` since the last reset.
    pub since: String,
    /// When that was.
    pub since_time: String,
    /// The histograms, by name (`lateness_ns`, `detection_time_ns`, …).
    pub histograms: BTreeMap<String, HistogramSummary>,
}

/// One histogram in figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramSummary {
    /// What it measures, in a sentence.
    pub help: String,
    /// Values recorded.
    pub count: u64,
    /// Lower bound of the bucket of the smallest value, which is at most 1 % larger.
    pub min: u64,
    /// Mean of the values.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// 99.99th percentile.
    pub p9999: u64,
    /// 99.999th percentile.
    pub p99999: u64,
    /// Largest value.
    pub max: u64,
    /// Every non-empty bucket, `[highest equivalent value, count]`, ascending; only with `?buckets=1`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub buckets: Vec<(u64, u64)>,
}
