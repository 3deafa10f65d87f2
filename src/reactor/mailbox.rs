//! Heartbeats that arrived on the wrong core, on their way to their owner.
//!
//! The kernel steers binary heartbeats to the reactor that owns the peer. The text form, the
//! entries of a relay's batch and whatever the steering program misses land anywhere, and are
//! handed over here: one bounded lock-free ring per reactor, many producers, one consumer.
//!
//! **Waking without missing a wake-up.** The owner says that it sleeps, *then* looks into the ring
//! once more, then waits; a producer pushes, *then* looks whether it sleeps ([`Sleep`]).
//!
//! **Judging without missing a heartbeat.** A heartbeat may sit in another reactor's socket while
//! its owner is about to call the peer down. So each reactor publishes a *watermark*, the time
//! before which everything that arrived at its sockets has been applied or handed over, and an
//! owner that takes mail judges no deadline beyond the lowest of them. Nor does it know better than the
//! others what was lost: what the kernel dropped at their sockets may have been for its peers.

use crate::engine::admission::Source;
use crate::engine::way::Way;
use crate::io::Waker;
use crate::sync::sleep::Sleep;
use crate::wire::{Heartbeat, OwnedProfile};
use crossbeam::queue::ArrayQueue;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Parcels that a mailbox holds.
pub const MAILBOX_CAPACITY: usize = 16_384;

/// A heartbeat handed over to its owner.
pub struct Parcel {
    /// The heartbeat.
    pub beat: Heartbeat,
    /// When it arrived at the reactor that received it, monotonic ns.
    pub arrived_ns: u64,
    /// Where it came from, if that is known.
    pub source: Source,
    /// Which way it came.
    pub way: Way,
    /// The profile that came with it, if it is new.
    pub profile: Option<OwnedProfile>,
}

/// One reactor's mailbox, shared by all reactors.
pub struct Mailbox {
    ring: ArrayQueue<Parcel>,
    sleep: Sleep,
    watermark_ns: AtomicU64,
    asked: AtomicBool,
    lost: AtomicU64,
    dropped: AtomicU64,
    dropped_ns: AtomicU64,
    waker: OnceLock<Waker>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Mailbox::new(MAILBOX_CAPACITY)
    }
}

impl Mailbox {
    /// An empty mailbox of a reactor that is awake.
    pub fn new(capacity: usize) -> Mailbox {
        Mailbox {
            ring: ArrayQueue::new(capacity),
            sleep: Sleep::default(),
            watermark_ns: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            dropped_ns: AtomicU64::new(0),
            waker: OnceLock::new(),
        }
    }

    /// Says how the owner is woken; once, before the reactors start to turn.
    pub fn set_waker(&self, waker: Waker) {
        let already = self.waker.set(waker);
        debug_assert!(already.is_ok(), "a mailbox has one owner");
    }

    /// Hands a parcel over; gives it back, and counts it as lost, when the ring is full.
    ///
    /// # Errors
    /// The parcel, when the ring is full.
    pub fn push(&self, parcel: Parcel) -> Result<(), Parcel> {
        self.ring.push(parcel).inspect_err(|_| {
            // Relaxed: the watermark that the pusher publishes later orders it for the owner.
            self.lost.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Parcels that found no room so far. Whoever has seen a watermark sees all that were lost
    /// before it.
    pub fn lost(&self) -> u64 {
        // Relaxed: see `push`.
        self.lost.load(Ordering::Relaxed)
    }

    /// Publishes how many datagrams the kernel has dropped at the owner's sockets by `now_ns`.
    pub fn set_dropped(&self, datagrams: u64, now_ns: u64) {
        self.dropped_ns.store(now_ns, Ordering::Relaxed);
        // Release: partner of the Acquire in `dropped`; who sees the count sees its time, or a later one's.
        self.dropped.store(datagrams, Ordering::Release);
    }

    /// Datagrams that the kernel has dropped so far at the owner's sockets, and by when that was. Whoever
    /// has seen a watermark sees all that were counted before it.
    pub fn dropped(&self) -> (u64, u64) {
        // Acquire: partner of the Release in `set_dropped`.
        let datagrams = self.dropped.load(Ordering::Acquire);
        (datagrams, self.dropped_ns.load(Ordering::Relaxed))
    }

    /// Takes the oldest parcel. Only the owner calls it.
    pub fn pop(&self) -> Option<Parcel> {
        self.ring.pop()
    }

    /// The owner's waker if it is asleep and nobody has begun to wake it; to be called after a push.
    pub fn sleeper(&self) -> Option<&Waker> {
        if self.sleep.must_wake() { self.waker.get() } else { None }
    }

    /// Announces that the owner is going to wait. False when it must not: there is mail.
    pub fn fall_asleep(&self) -> bool {
        // Relaxed: `Sleep` has the fence that orders the look.
        self.sleep.begin(|| !self.ring.is_empty() || self.asked.load(Ordering::Relaxed))
    }

    /// Announces that the owner is awake.
    pub fn wake_up(&self) {
        self.sleep.end();
    }

    /// Publishes the time before which everything that arrived has been applied or handed over.
    pub fn set_watermark_ns(&self, time_ns: u64) {
        // Release: partner of the Acquire in `watermark_ns`; who sees the mark sees the pushes
        // before it.
        self.watermark_ns.store(time_ns, Ordering::Release);
    }

    /// Asks the owner to read its sockets and to raise its watermark; returns its waker if it is
    /// asleep.
    pub fn ask(&self) -> Option<&Waker> {
        // Relaxed: `Sleep` has the fence that orders this store before its look.
        self.asked.store(true, Ordering::Relaxed);
        self.sleeper()
    }

    /// Whether somebody waits for the watermark; forgotten by the call. Only the owner calls it.
    pub fn take_asked(&self) -> bool {
        // Relaxed look first, so that the usual turn only reads a shared line.
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed)
    }

    /// The time before which everything that arrived has been applied or handed over.
    pub fn watermark_ns(&self) -> u64 {
        // Acquire: partner of the Release in `set_watermark_ns`.
        self.watermark_ns.load(Ordering::Acquire)
    }
}
