//! The quality of service of a failure detector, in the terms of Chen, Toueg and Aguilera (2002).
//!
//! ```text
//!   beat          deadline        beat, after all
//!    ├───────────────┤▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒├───────────────┤ …
//!    │◀──── T_D ────▶│◀──── T_M ────▶│
//! ```
//!
//! A *mistake* is a down verdict that a later heartbeat of the same incarnation refutes; it lasts from
//! the deadline to that heartbeat. What is not counted as one: silence that ends in a restart (the
//! sender really was gone), silence after a BYE, and the silence at the end, of which nobody knows.

use crate::engine::prefetch::prefetch;
use std::sync::Arc;

/// What a setting made of some arrivals.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Quality {
    /// Heartbeats that arrived, the useless ones too.
    pub arrivals: u64,
    /// Those that proved something: newer than all before.
    pub heartbeats: u64,
    /// Sequence numbers that were skipped.
    pub missing: u64,
    /// Restarts of senders.
    pub restarts: u64,
    /// Times that a living peer was called down.
    pub mistakes: u64,
    /// How long all mistakes lasted together, nanoseconds.
    pub mistake_duration_ns: u128,
    /// Times that a living peer was suspected, those that became mistakes too.
    pub suspicions: u64,
    /// How long peers were watched together: from each heartbeat to the next of the same sender,
    /// nanoseconds.
    pub observed_ns: u128,
    /// Detection times: for each heartbeat that proved something, from its arrival to the deadline
    /// that it set. A crash right after it would have been called after so long.
    pub detection: Percentiles,
}

impl Quality {
    /// Share of the observed time in which the verdict was right (P_A), 0 to 1.
    pub fn query_accuracy(&self) -> f64 {
        if self.observed_ns == 0 {
            return 1.0;
        }
        1.0 - self.mistake_duration_ns as f64 / self.observed_ns as f64
    }

    /// Mistakes in a nanosecond of observed time (λ_M), of one peer on average.
    pub fn mistakes_per_ns(&self) -> f64 {
        if self.observed_ns == 0 { 0.0 } else { self.mistakes as f64 / self.observed_ns as f64 }
    }

    /// Mean length of a mistake (T_M), nanoseconds; `None` without one.
    pub fn mean_mistake_ns(&self) -> Option<f64> {
        (self.mistakes > 0).then(|| self.mistake_duration_ns as f64 / self.mistakes as f64)
    }

    /// Mean time from one mistake to the next (T_MR), nanoseconds; `None` without one.
    pub fn mean_recurrence_ns(&self) -> Option<f64> {
        (self.mistakes > 0).then(|| self.observed_ns as f64 / self.mistakes as f64)
    }

    /// Adds what another peer contributes.
    pub fn add(&mut self, other: &Quality) {
        self.arrivals += other.arrivals;
        self.heartbeats += other.heartbeats;
        self.missing += other.missing;
        self.restarts += other.restarts;
        self.mistakes += other.mistakes;
        self.mistake_duration_ns += other.mistake_duration_ns;
        self.suspicions += other.suspicions;
        self.observed_ns += other.observed_ns;
        self.detection.add(&other.detection);
    }
}

/// Values of which percentiles are wanted, exactly: the nearest-rank percentile, which is always one
/// of the values. As long as they are all alike, as a fixed timeout's are, only their count is kept.
///
/// Of the others, those near the first take half a word. They lie in chunks that are not moved once they
/// are full, and shared by whoever adds them.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Percentiles {
    /// The chunk that is being filled. In front, for whoever keeps what is used most together.
    open: Chunk,
    first: u64,
    /// How many there are, as long as all are like the first.
    alike: u64,
    full: Vec<Arc<Chunk>>,
    /// Those that are too far from the first.
    far: Vec<u64>,
}

/// Values by how far they are above one that is not kept.
#[derive(Clone, Debug, Default)]
struct Chunk {
    base: u64,
    above: Vec<u32>,
}

impl Chunk {
    fn values(&self) -> impl Iterator<Item = u64> {
        self.above.iter().map(|above| self.base + u64::from(*above))
    }
}

/// Values in the first chunk. Each one has twice as many as the one before, up to the most, so that
/// at most half of the memory lies idle.
const FIRST_CHUNK: usize = 16;
const LARGEST_CHUNK: usize = 4_096;

/// So many values are all put in order; of more only those near the place.
const FEW: usize = 1 << 10;

/// Buckets of a histogram: as many as leave a few values in each of most, and fit in the nearest cache.
const BUCKETS: usize = 1 << 11;

impl Percentiles {
    /// Takes in a value.
    #[inline(always)]
    pub fn push(&mut self, value: u64) {
        let above = value.wrapping_sub(self.open.base);
        let open = &mut self.open.above;
        if open.len() < open.capacity() && above <= u64::from(u32::MAX) {
            // Many peers are written by turns, and a line is full after sixteen values: the next one is
            // on its way by then.
            prefetch(open.as_ptr().wrapping_add(open.len() + 16));
            open.push(above as u32);
        } else if self.is_alike() && self.alike > 0 && self.first == value {
            self.alike += 1;
        } else {
            self.push_otherwise(value);
        }
    }

    /// Takes in a value that is the first, the first that is not alike, far, or finds no room.
    #[cold]
    fn push_otherwise(&mut self, value: u64) {
        if self.is_empty() {
            (self.first, self.alike) = (value, 1);
            return;
        }
        if self.is_alike() {
            self.spread_out();
        }
        let above = value.wrapping_sub(self.open.base);
        match u32::try_from(above) {
            Err(_) => self.far.push(value),
            Ok(above) => {
                if self.open.above.len() == self.open.above.capacity() {
                    self.open_next();
                }
                self.open.above.push(above);
            }
        }
    }

    /// How many values there are.
    pub fn len(&self) -> u64 {
        if self.is_alike() {
            return self.alike;
        }
        let near: usize = self.chunks().map(|chunk| chunk.above.len()).sum();
        (near + self.far.len()) as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mean; 0 when there is no value.
    pub fn mean(&self) -> f64 {
        if self.is_alike() {
            return self.first as f64;
        }
        // As whole numbers, which may be added in any order, and so several at once.
        let sum_of = |chunk: &Chunk| {
            let above: u64 = chunk.above.iter().map(|above| u64::from(*above)).sum();
            chunk.above.len() as f64 * chunk.base as f64 + above as f64
        };
        let far = self.far.iter().map(|value| *value as f64).sum::<f64>();
        (self.chunks().map(sum_of).sum::<f64>() + far) / self.len() as f64
    }

    /// The percentiles asked for, in ascending order and each above 0 and at most 100; 0 when there is
    /// no value.
    pub fn at<const N: usize>(&self, percents: [f64; N]) -> [u64; N] {
        if self.is_alike() {
            return [self.first; N];
        }
        let len = self.len() as usize;
        let place = |percent: f64| (len as f64 * percent / 100.0).ceil().clamp(1.0, len as f64);
        let places = percents.map(|percent| place(percent) as usize - 1);
        if len > FEW {
            return self.of_many(places);
        }
        let mut values = self.values();
        // What is sorted out below one place need not be looked at for the next.
        let mut below = 0;
        places.map(|place| {
            let value = *values[below..].select_nth_unstable(place - below).1;
            below = place;
            value
        })
    }

    /// The values at these places of all in order, of many.
    fn of_many<const N: usize>(&self, places: [usize; N]) -> [u64; N] {
        #[cfg(target_arch = "x86_64")]
        if super::is_avx2_there() {
            // SAFETY: the processor has what it is compiled for, as was just asked.
            return unsafe { self.of_many_by_avx2(places) };
        }
        self.by_histogram(places)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn of_many_by_avx2<const N: usize>(&self, places: [usize; N]) -> [u64; N] {
        self.by_histogram(places)
    }

    /// A histogram tells in which of its buckets the value at a place lies, and how many lie below; only what
    /// is in that bucket is put in order.
    #[inline(always)]
    fn by_histogram<const N: usize>(&self, places: [usize; N]) -> [u64; N] {
        let (least, most) = self.bounds();
        let shift = (u64::BITS - (most - least).leading_zeros()).saturating_sub(BUCKETS.ilog2());
        let mut counts = [0u64; BUCKETS];
        for chunk in self.chunks() {
            let base = chunk.base.wrapping_sub(least);
            for above in &chunk.above {
                let bucket = base.wrapping_add(u64::from(*above)) >> shift;
                counts[bucket as usize % BUCKETS] += 1;
            }
        }
        for value in &self.far {
            counts[((value - least) >> shift) as usize % BUCKETS] += 1;
        }
        let last = self.len() as usize - 1;
        let mut buckets = places.map(|place| match place == last {
            true => Bucket::of_one(most),
            false => Bucket::of(place, &counts, least, shift),
        });
        for chunk in self.chunks() {
            for bucket in buckets.iter_mut().filter(|bucket| bucket.least < bucket.most) {
                bucket.gather(chunk);
            }
        }
        for bucket in &mut buckets {
            let own = bucket.least..=bucket.most;
            bucket.values.extend(self.far.iter().filter(|value| own.contains(value)));
        }
        buckets.map(Bucket::value)
    }

    /// The least and the most of many.
    #[inline(always)]
    fn bounds(&self) -> (u64, u64) {
        let (mut least, mut most) = (u64::MAX, 0);
        for chunk in self.chunks() {
            let (mut least_above, mut most_above) = (u32::MAX, 0);
            for above in &chunk.above {
                least_above = least_above.min(*above);
                most_above = most_above.max(*above);
            }
            if !chunk.above.is_empty() {
                least = least.min(chunk.base + u64::from(least_above));
                most = most.max(chunk.base + u64::from(most_above));
            }
        }
        for value in &self.far {
            (least, most) = (least.min(*value), most.max(*value));
        }
        (least, most)
    }

    #[inline(always)]
    fn is_alike(&self) -> bool {
        self.open.above.is_empty() && self.full.is_empty() && self.far.is_empty()
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.full.iter().map(|chunk| &**chunk).chain(std::iter::once(&self.open))
    }

    /// All of them, in no order.
    fn values(&self) -> Vec<u64> {
        let mut values = Vec::with_capacity(self.len() as usize);
        self.chunks().for_each(|chunk| values.extend(chunk.values()));
        values.extend(&self.far);
        values
    }

    fn add(&mut self, other: &Percentiles) {
        if other.is_alike() {
            if self.is_alike() && (self.alike == 0 || self.first == other.first) {
                self.first = other.first;
                self.alike += other.alike;
            } else {
                (0..other.alike).for_each(|_| self.push(other.first));
            }
            return;
        }
        if self.is_empty() {
            self.first = other.first;
        }
        if self.is_alike() {
            self.spread_out();
        }
        self.full.extend(other.full.iter().cloned());
        other.open.values().for_each(|value| self.push(value));
        other.far.iter().for_each(|value| self.push(*value));
    }

    /// Keeps each value from now on.
    fn spread_out(&mut self) {
        // So that what is less than the first is near too.
        self.open.base = self.first.saturating_sub(1 << 31);
        let above = (self.first - self.open.base) as u32;
        self.open.above.reserve_exact(FIRST_CHUNK);
        for _ in 0..std::mem::take(&mut self.alike) {
            if self.open.above.len() == self.open.above.capacity() {
                self.open_next();
            }
            self.open.above.push(above);
        }
    }

    fn open_next(&mut self) {
        let values = (2 * self.open.above.len()).clamp(FIRST_CHUNK, LARGEST_CHUNK);
        let next = Chunk { base: self.open.base, above: Vec::with_capacity(values) };
        self.full.push(Arc::new(std::mem::replace(&mut self.open, next)));
    }
}

/// The bucket of a histogram in which a value lies that is looked for.
struct Bucket {
    /// Between which values it lies; where they are alike, that is it.
    least: u64,
    most: u64,
    /// The value's place among those of the bucket in order.
    place: usize,
    values: Vec<u64>,
}

impl Bucket {
    fn of_one(value: u64) -> Bucket {
        Bucket { least: value, most: value, place: 0, values: Vec::new() }
    }

    fn of(mut place: usize, counts: &[u64; BUCKETS], least: u64, shift: u32) -> Bucket {
        let mut number = 0;
        while let Some(below) = place.checked_sub(counts[number] as usize) {
            (place, number) = (below, number + 1);
        }
        let least = least + ((number as u64) << shift);
        let most = least.saturating_add((1 << shift) - 1);
        Bucket { least, most, place, values: Vec::with_capacity(counts[number] as usize) }
    }

    /// Takes in a chunk's values of the bucket. Few are: most of the time it is asked of several at once
    /// whether any is.
    #[inline(always)]
    fn gather(&mut self, chunk: &Chunk) {
        let Some(most) = self.most.checked_sub(chunk.base) else { return };
        let Ok(least) = u32::try_from(self.least.saturating_sub(chunk.base)) else { return };
        let span = u32::try_from(most).unwrap_or(u32::MAX) - least;
        let (blocks, rest) = chunk.above.as_chunks::<16>();
        for block in blocks {
            let mut any = 0;
            for above in block {
                any |= u32::from(above.wrapping_sub(least) <= span);
            }
            if any != 0 {
                self.gather_from(block, chunk.base, least, span);
            }
        }
        self.gather_from(rest, chunk.base, least, span);
    }

    #[inline(always)]
    fn gather_from(&mut self, aboves: &[u32], base: u64, least: u32, span: u32) {
        for above in aboves {
            if above.wrapping_sub(least) <= span {
                self.values.push(base + u64::from(*above));
            }
        }
    }

    fn value(mut self) -> u64 {
        if self.least == self.most {
            return self.least;
        }
        *self.values.select_nth_unstable(self.place).1
    }
}

impl PartialEq for Percentiles {
    fn eq(&self, other: &Percentiles) -> bool {
        let sorted = |of: &Percentiles| {
            let mut values = of.values();
            values.sort_unstable();
            values
        };
        match (self.is_alike(), other.is_alike()) {
            (true, true) => (self.first, self.alike) == (other.first, other.alike),
            (false, false) => sorted(self) == sorted(other),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut whole = Percentiles::default();
            let mut all = Vec::new();
            for _ in 0..rng.below(6) {
                let kinds = [1, 2, 4, 1 << 20, u64::MAX][rng.below(5) as usize];
                let most = [3, 300, 20_000][rng.below(3) as usize];
                let mut part = Percentiles::default();
                for _ in 0..rng.below(most) {
                    let value = rng.below(kinds).wrapping_mul(7) >> (8 * rng.below(3));
                    part.push(value);
                    all.push(value);
                }
                whole.add(&part);
            }
            all.sort_unstable();
            assert_eq!(whole.len(), all.len() as u64, "seed {seed}");
            let rank = |percent: usize| match all.len() {
                0 => 0,
                n => all[(n * percent).div_ceil(100).max(1) - 1],
            };
            let expected = [rank(50), rank(99), rank(100)];
            assert_eq!(whole.at([50.0, 99.0, 100.0]), expected, "seed {seed}");
        }
    }
}
