//! The switch between std's primitives and loom's.
//!
//! Code in [`crate::sync`] takes its atomics from here, so that `RUSTFLAGS="--cfg loom"` runs the
//! very same code under loom, which tries every interleaving and every value that the memory model
//! allows a load to return.

#[cfg(not(loom))]
mod chosen {
    pub use super::super::outliving::{AtomicU32, fence};
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicBool, Ordering};
    pub use std::thread::yield_now;
}

#[cfg(loom)]
mod chosen {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
    pub use loom::thread::yield_now;
}

pub use chosen::*;
