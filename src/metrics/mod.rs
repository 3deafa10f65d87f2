//! What a reactor counts and measures: written by its one thread with plain stores, read by
//! anybody at any time without stopping it.

pub mod counters;
pub mod histogram;

pub use counters::{Counter, Counters};
pub use histogram::{Histogram, HistogramKind, Histograms};
