//! Latency histograms: HdrHistogram's log-linear buckets in atomic cells, so that the one writer
//! never stops for a reader.
//!
//! The crate's own type needs `&mut` to record and a lock to share. This one has the same layout at
//! two significant digits (256 sub-buckets, under 0.8 % error); a reader copies the cells into an
//! [`hdrhistogram::Histogram`] and does everything else (quantiles, merging, logs) with that.

use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

/// Linear buckets per power of two; 128 keeps the relative error below 1/128.
const SUB_BUCKETS: u64 = 128;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// Values below two to this are kept apart. A job that beats daily is called down after days, and
/// one with the longest interval (90 days) after 270; 208 days cover all but the rarest. Each power
/// of two costs 1 KiB, so a histogram takes 48 KiB, and a reactor's seven 336.
const VALUE_BITS: u32 = 54;
/// Largest value kept apart, about 208 days in nanoseconds; larger ones count as this one.
pub const MAX_VALUE_NS: u64 = (1 << VALUE_BITS) - 1;
const BUCKETS: usize = ((VALUE_BITS - SUB_BITS) as usize + 1) * SUB_BUCKETS as usize;

/// Index of the bucket of a value: the values below `SUB_BUCKETS` one each, then 128 a power of two.
#[inline]
fn bucket(value: u64) -> usize {
    let value = value.min(MAX_VALUE_NS);
    let shift = (64 - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    (shift as u64 * SUB_BUCKETS + (value >> shift)) as usize
}

/// Largest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SUB_BUCKETS).saturating_sub(1);
    let sub = bucket - shift * SUB_BUCKETS;
    ((sub + 1) << shift) - 1
}

/// A histogram of nanoseconds with one writer and any number of readers.
pub struct Histogram {
    cells: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            // Pages of zeros from the system, which cost nothing before they are touched.
            cells: <[AtomicU64]>::new_box_zeroed_with_elems(BUCKETS).expect("memory"),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Records a value. Only the owning thread calls it.
    #[inline]
    pub fn record(&self, value_ns: u64) {
        self.record_n(value_ns, 1);
    }

    /// Records a value `n` times. Only the owning thread calls it.
    #[inline]
    pub fn record_n(&self, value_ns: u64, n: u64) {
        // Relaxed throughout: one writer; a reader that misses the last value sees it next time.
        let add = |cell: &AtomicU64, n: u64| {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed)
        };
        add(&self.cells[bucket(value_ns)], n);
        add(&self.sum, value_ns.saturating_mul(n));
        if value_ns > self.max.load(Ordering::Relaxed) {
            self.max.store(value_ns, Ordering::Relaxed);
        }
    }

    /// Copies the counts as they are now.
    pub fn snapshot(&self) -> Snapshot {
        // Relaxed: as in `record_n`.
        Snapshot {
            cells: self.cells.iter().map(|c| c.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

/// Counts of one or several histograms at one instant; a plain value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    cells: Box<[u64]>,
    sum: u64,
    max: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { cells: vec![0; BUCKETS].into(), sum: 0, max: 0 }
    }
}

impl Snapshot {
    /// Adds another one's counts (another reactor's).
    pub fn merge(&mut self, other: &Snapshot) {
        self.cells.iter_mut().zip(&other.cells).for_each(|(a, b)| *a += b);
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What was recorded since `earlier`, a snapshot of the same histograms.
    ///
    /// The largest value is exact when it was set since then, else that of its bucket.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let cells: Box<[u64]> =
            self.cells.iter().zip(&earlier.cells).map(|(a, b)| a.saturating_sub(*b)).collect();
        let top = cells.iter().rposition(|&n| n > 0).map_or(0, highest);
        let max = if self.max > earlier.max { self.max } else { top.min(self.max) };
        Snapshot { cells, sum: self.sum.wrapping_sub(earlier.sum), max }
    }

    /// Values recorded.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Sum of the values, nanoseconds, modulo 2^64.
    pub fn sum_ns(&self) -> u64 {
        self.sum
    }

    /// Largest value, nanoseconds, exact.
    pub fn max_ns(&self) -> u64 {
        self.max
    }

    /// The non-empty buckets, ascending: largest value of the bucket, count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.cells.iter().enumerate().filter(|(_, n)| **n > 0);
        filled.map(|(i, &n)| (highest(i).min(self.max), n))
    }

    /// The same counts as an [`hdrhistogram::Histogram`] of two significant digits, for quantiles
    /// and the log formats.
    pub fn to_hdr(&self) -> hdrhistogram::Histogram<u64> {
        let mut hdr = hdrhistogram::Histogram::new_with_bounds(1, MAX_VALUE_NS, 2)
            .expect("bounds are constants within the crate's limits");
        for (value, count) in self.buckets() {
            hdr.saturating_record_n(value, count);
        }
        hdr
    }
}

macro_rules! histograms {
    ($($(#[doc = $help:literal])+ $variant:ident = $label:literal,)+) => {
        /// Everything that a reactor, or the control plane, measures.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum HistogramKind { $($(#[doc = $help])+ $variant,)+ }

        impl HistogramKind {
            /// All of them, in their order.
            pub const ALL: &'static [HistogramKind] = &[$(HistogramKind::$variant,)+];

            /// Its name in JSON and tables, unit last.
            pub fn label(self) -> &'static str {
                match self { $(HistogramKind::$variant => $label,)+ }
            }

            /// What it measures, in a sentence.
            pub fn help(self) -> &'static str {
                match self { $(HistogramKind::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

histograms! {
    /// From a probe datagram's arrival in the kernel to its being applied.
    Ingest = "ingest_ns",
    /// From a deadline to the transition being fired.
    Lateness = "lateness_ns",
    /// From the last heartbeat to the peer being called down.
    DetectionTime = "detection_time_ns",
    /// From a transition being fired to its being visible to subscribers.
    Publish = "publish_ns",
    /// From the time a reactor asked to be woken to its being awake.
    WakeUp = "wake_up_ns",
    /// One turn of a reactor's loop, waiting left out.
    Turn = "turn_ns",
    /// Difference between a peer's inter-arrival time and its interval; one heartbeat in 16 of each peer.
    Deviation = "inter_arrival_deviation_ns",
}

/// One histogram of each kind. One writer, any number of readers.
#[derive(Default)]
pub struct Histograms([Histogram; HistogramKind::ALL.len()]);

impl Histograms {
    /// The histogram of a kind.
    #[inline]
    pub fn of(&self, kind: HistogramKind) -> &Histogram {
        &self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_one_percent() {
        let around = (0..VALUE_BITS)
            .flat_map(|p| [-2i64, -1, 0, 1, 2].map(|d| ((1i64 << p) + d).max(0) as u64));
        for value in around.chain(0..5_000).chain([MAX_VALUE_NS, MAX_VALUE_NS - 1]) {
            let high = highest(bucket(value));
            assert!(high >= value, "{value} above the top of its bucket, {high}");
            assert!(
                high - value <= value / 127,
                "{value} is far from the top of its bucket, {high}"
            );
            assert_eq!(bucket(high), bucket(value), "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(highest(BUCKETS - 1), MAX_VALUE_NS);
    }

    #[test]
    fn detection_times_of_daily_jobs_stay_apart() {
        const DAY_NS: u64 = 86_400_000_000_000;
        let histogram = Histogram::default();
        [1, 3, 3, 200].iter().for_each(|days| histogram.record(days * DAY_NS));
        let days = |q| histogram.snapshot().to_hdr().value_at_quantile(q) as f64 / DAY_NS as f64;
        for (quantile, expected) in [(0.25, 1.0), (0.5, 3.0), (0.75, 3.0), (1.0, 200.0)] {
            let found = days(quantile);
            assert!((found / expected - 1.0).abs() < 0.02, "{quantile}: {found} for {expected}");
        }
        assert!(size_of::<AtomicU64>() * histogram.cells.len() <= 50_000);
    }

    #[test]
    fn quantiles_agree_with_the_crate_fed_directly() {
        let ours = Histogram::default();
        let mut theirs =
            hdrhistogram::Histogram::<u64>::new_with_bounds(1, MAX_VALUE_NS, 2).unwrap();
        let mut x = 0x9E37_79B9_7F4A_7C15u64;
        for _ in 0..10_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let value = (x >> 40) >> (x & 15);
            ours.record(value);
            theirs.record(value.max(1)).unwrap();
        }
        let ours = ours.snapshot().to_hdr();
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let (a, b) = (ours.value_at_quantile(quantile), theirs.value_at_quantile(quantile));
            assert!(a.abs_diff(b) <= b / 64 + 1, "quantile {quantile}: {a} against {b}");
        }
        assert_eq!(ours.len(), theirs.len());
    }

    #[test]
    fn an_interval_is_the_difference_of_two_snapshots() {
        let histogram = Histogram::default();
        histogram.record(5_000);
        let earlier = histogram.snapshot();
        histogram.record_n(70, 3);
        let interval = histogram.snapshot().since(&earlier);
        assert_eq!((interval.count(), interval.sum_ns(), interval.max_ns()), (3, 210, 70));
        let mut twice = interval.clone();
        twice.merge(&earlier);
        assert_eq!((twice.count(), twice.max_ns()), (4, 5_000));
    }
}
