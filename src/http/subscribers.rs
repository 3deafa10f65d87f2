//! How many may follow the event stream at once: a stream never ends by itself, so without a bound
//! connections could take every file descriptor and the workers' time.
//!
//! A subscriber holds a [`Seat`] for as long as its stream lasts; dropping it frees the seat. One
//! that finds no seat is refused and counted, never queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most event streams at once. Each takes a connection and up to 160 KiB while a frame is in flight.
pub const MAX_SUBSCRIBERS: usize = 1_024;

/// The seats, and how many were refused one.
pub(super) struct Subscribers {
    free: Arc<Semaphore>,
    most: usize,
    refused: AtomicU64,
}

/// One subscriber's seat, until it is dropped.
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
}

impl Subscribers {
    pub(super) fn at_most(most: usize) -> Subscribers {
        Subscribers { free: Arc::new(Semaphore::new(most)), most, refused: AtomicU64::new(0) }
    }

    /// A seat, or `None` when all are taken, which is counted.
    pub(super) fn enter(&self) -> Option<Seat> {
        match self.free.clone().try_acquire_owned() {
            Ok(permit) => Some(Seat { _permit: permit }),
            Err(_) => {
                // Relaxed: a count, and nothing is ordered by it.
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Most at once.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// How many there are now.
    pub(super) fn now(&self) -> usize {
        self.most - self.free.available_permits()
    }

    /// How many were refused since the start.
    pub(super) fn refused(&self) -> u64 {
        // Relaxed: as in `enter`.
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_free_again_when_its_subscriber_has_gone() {
        let subscribers = Subscribers::at_most(2);
        let first = subscribers.enter();
        let second = subscribers.enter();
        assert!(first.is_some() && second.is_some());
        assert!(subscribers.enter().is_none());
        assert_eq!((subscribers.now(), subscribers.refused()), (2, 1));
        drop(first);
        assert_eq!(subscribers.now(), 1);
        assert!(subscribers.enter().is_some());
        assert_eq!((subscribers.now(), subscribers.refused()), (1, 1));
    }
}
