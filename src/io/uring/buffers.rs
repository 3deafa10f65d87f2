//! The provided buffer ring: buffers that we lend to the kernel and it gives back full.
//!
//! ```text
//!        give back (tail, Release)                 recv picks the next (head, kernel's)
//!   ours ───────────────────────────▶ kernel's ────────────────────────────▶ completion
//!    ▲                                                                           │
//!    └────────────────────────── lease (on drop: given back) ◀───────────────────┘
//! ```
//!
//! Invariant: a buffer is the kernel's or a [`Lease`]'s, never both. A lease is made once for each
//! completion that names a buffer, and gives it back when dropped, on whichever path that is.
//!
//! The ring holds descriptors (address, length, id); its tail lies in the unused last field of
//! descriptor 0, which is why that field is never written as part of a descriptor.

use crate::io::arena::Arena;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::cell::Cell;
use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU16, Ordering};

/// The only buffer group of our rings.
pub(super) const GROUP: u16 = 0;

/// Consecutive buffers lie a cache line further apart than they are long: a datagram mostly fills
/// only its buffer's first line, and a stride of a power of two would make all of these compete
/// for a few sets of the first-level cache.
const STAGGER_BYTES: usize = 64;

/// How many buffers of which length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferPlan {
    /// How many: a power of two, at most 32,768.
    pub count: u16,
    /// Bytes of each. A datagram that fills one is taken for cut.
    pub bytes: usize,
}

/// The descriptors, the buffers and how far they were given out.
pub(super) struct BufferRing {
    descriptors: Arena,
    data: Arena,
    plan: BufferPlan,
    /// Our copy of the tail: how many buffers were ever given to the kernel, modulo 2^16.
    tail: Cell<u16>,
}

impl BufferRing {
    /// Allocates the buffers and lends all of them.
    pub(super) fn new(plan: BufferPlan) -> Self {
        assert!(plan.count.is_power_of_two(), "the kernel masks indices");
        let count = usize::from(plan.count);
        let ring = Self {
            descriptors: Arena::zeroed(count * size_of::<BufRingEntry>()),
            data: Arena::zeroed(count * stride(plan)),
            plan,
            tail: Cell::new(0),
        };
        (0..plan.count).for_each(|id| ring.give_back(id));
        ring
    }

    /// Tells the kernel of the ring.
    ///
    /// # Errors
    /// As io_uring_register(2) with IORING_REGISTER_PBUF_RING (Linux 5.19).
    ///
    /// # Safety
    /// The ring must live until it is unregistered, or until the io_uring is gone and no receive
    /// can run any more.
    pub(super) unsafe fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.descriptors.at(0) as u64;
        // SAFETY: the arena is page-aligned and large enough; the caller keeps it alive.
        unsafe { submitter.register_buf_ring_with_flags(address, self.plan.count, GROUP, 0) }
    }

    /// Bytes of each buffer.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.plan.bytes
    }

    /// Takes over buffer `id`, which a completion has just named.
    ///
    /// # Panics
    /// When there is no such buffer: the kernel and we disagree on everything then.
    pub(super) fn lease(&self, id: u16) -> Lease<'_> {
        assert!(id < self.plan.count, "the kernel names buffer {id} of {}", self.plan.count);
        Lease { ring: self, id }
    }

    fn give_back(&self, id: u16) {
        let tail = self.tail.get();
        let slot = usize::from(tail & (self.plan.count - 1));
        let descriptor = self.descriptors.at(slot * size_of::<BufRingEntry>());
        // SAFETY: the descriptor lies in the arena, aligned (16 bytes from a page's start), and
        // the kernel reads it only after the tail below says so.
        let descriptor = unsafe { &mut *descriptor.cast::<BufRingEntry>() };
        descriptor.set_addr(self.data.at(usize::from(id) * stride(self.plan)) as u64);
        descriptor.set_len(self.plan.bytes as u32);
        descriptor.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        // Release: pairs with the kernel's acquire load of the tail, so that it sees the
        // descriptor and that we have done with the buffer.
        self.published_tail().store(self.tail.get(), Ordering::Release);
    }

    fn published_tail(&self) -> &AtomicU16 {
        let base = self.descriptors.at(0).cast::<BufRingEntry>();
        // SAFETY: `base` is the ring's first descriptor, initialised by zeroing. The field is
        // two-byte aligned, lives as long as the arena, and is only accessed atomically.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) }
    }
}

/// A full buffer in our hands; dropping it lends it to the kernel again.
pub(super) struct Lease<'a> {
    ring: &'a BufferRing,
    id: u16,
}

impl Lease<'_> {
    /// The first `length` bytes.
    pub(super) fn bytes(&self, length: usize) -> &[u8] {
        assert!(length <= self.ring.plan.bytes, "a result longer than its buffer");
        let start = self.ring.data.at(usize::from(self.id) * stride(self.ring.plan));
        // SAFETY: the buffer lies in the arena and was zeroed, then written by the kernel before
        // the completion was published; it is ours until this lease is dropped.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.ring.give_back(self.id);
    }
}

const fn stride(plan: BufferPlan) -> usize {
    plan.bytes + STAGGER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_on_drop_and_the_tail_wraps() {
        let ring = BufferRing::new(BufferPlan { count: 4, bytes: 128 });
        // The dumb oracle: a queue of ids, as the kernel takes them.
        let mut lent: std::collections::VecDeque<u16> = (0..4).collect();
        for turn in 0..70_000u32 {
            let id = lent.pop_front().expect("four circulate");
            assert_eq!(ring.lease(id).bytes(128).len(), 128);
            lent.push_back(id);
            let tail = ring.published_tail().load(Ordering::Acquire);
            assert_eq!(tail, (turn + 5) as u16, "turn {turn}");
            let slot = usize::from(tail.wrapping_sub(1) & 3) * size_of::<BufRingEntry>();
            // SAFETY: a descriptor of the ring, and no kernel is involved here.
            let last = unsafe { &*ring.descriptors.at(slot).cast::<BufRingEntry>() };
            assert_eq!((last.bid(), last.len()), (id, 128));
            assert_eq!(last.addr(), ring.data.at(usize::from(id) * 192) as u64);
        }
    }

    #[test]
    #[should_panic(expected = "names buffer 4 of 4")]
    fn an_unknown_buffer_is_a_broken_invariant() {
        BufferRing::new(BufferPlan { count: 4, bytes: 128 }).lease(4);
    }
}
