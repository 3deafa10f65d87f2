//! Waking a reactor from outside: one flag that coalesces, one eventfd that wakes.
//!
//! ```text
//!   waker                              owner
//!   put something in the mailbox       wait(): flag.take()? then do not sleep
//!   flag.swap(true) was false?         sleep (sockets, eventfd, other rings' messages)
//!     then write the eventfd           flag.take(), return
//!     (or send a message to the ring)  look in the mailbox
//! ```
//!
//! Invariant: the owner never sleeps while the flag was set before its last look at the mailbox.
//! It goes to sleep only after it has seen the flag down, and whoever raises it afterwards also
//! wakes. So wakes are coalesced but never lost, and a storm of them costs one write(2). A wake
//! that comes late, when its cause has been seen already, makes one wait return early.

use super::sys::check;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// What [`Shared::ring`] holds when there is no ring to send messages to.
const NO_RING: RawFd = -1;

/// Wakes a reactor out of [`Backend::wait`](super::Backend::wait), from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    signalled: AtomicBool,
    event: OwnedFd,
    /// The owner's io_uring, so that other rings may send it a message; [`NO_RING`] for none.
    ring: AtomicI32,
}

impl Waker {
    /// A waker that no transport listens to yet.
    ///
    /// # Errors
    /// When there are no file descriptors left (eventfd(2)).
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer.
        let event = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and ours alone.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        let shared =
            Shared { signalled: AtomicBool::new(false), event, ring: AtomicI32::new(NO_RING) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Wakes the reactor. Safe at any time, also when it is not waiting or has ended.
    pub fn wake(&self) {
        if self.raise() {
            self.write_event();
        }
    }

    /// Raises the flag. True when the caller has to wake the owner: nobody else is about to.
    pub(super) fn raise(&self) -> bool {
        // AcqRel: the release half publishes what the waker put in the mailbox to the acquire
        // half of the owner's swap in `take`, also through the swaps of wakers in between.
        !self.shared.signalled.swap(true, Ordering::AcqRel)
    }

    /// The owner lowers the flag. True when it was up.
    pub(super) fn take(&self) -> bool {
        // Acquire pairs with the release half of `raise`; the release half keeps the release
        // sequence of the flag unbroken. A swap even when it is down: a plain load could miss a
        // waker that is just raising it, and then nobody would look in the mailbox.
        self.shared.signalled.swap(false, Ordering::AcqRel)
    }

    /// Makes the eventfd readable, whatever the flag says.
    pub(super) fn write_event(&self) {
        let one: u64 = 1;
        // SAFETY: the kernel reads the eight bytes of `one`, which lives through the call.
        let _ = unsafe {
            libc::write(self.event(), (&raw const one).cast(), std::mem::size_of_val(&one))
        };
        // The only failure is a full counter (EAGAIN): then the eventfd is readable already.
    }

    /// Makes the eventfd unreadable again.
    pub(super) fn clear_event(&self) {
        let mut count: u64 = 0;
        // SAFETY: the kernel writes eight bytes to `count`, which lives through the call.
        let _ = unsafe {
            libc::read(self.event(), (&raw mut count).cast(), std::mem::size_of_val(&count))
        };
        // The only failure is an empty counter (EAGAIN): then there is nothing to clear.
    }

    /// The eventfd, open as long as this waker lives.
    pub(super) fn event(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    /// The owner's ring, if it has one.
    ///
    /// The number may go stale between the look and the use, when the owner ends meanwhile. The
    /// message then reaches nobody, or wakes another ring of this process for nothing.
    pub(super) fn ring(&self) -> Option<RawFd> {
        // Relaxed: the number stands for itself, nothing is read through it.
        Some(self.shared.ring.load(Ordering::Relaxed)).filter(|&ring| ring != NO_RING)
    }

    /// Says which ring the owner sleeps on; `None` when it has ended.
    pub(super) fn set_ring(&self, ring: Option<RawFd>) {
        // Relaxed: see `ring`.
        self.shared.ring.store(ring.unwrap_or(NO_RING), Ordering::Relaxed);
    }

    /// Whether both wake the same reactor.
    pub fn same(&self, other: &Waker) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}
