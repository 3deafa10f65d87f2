//! The two rings that frames go round on, and the lease between them.
//!
//! ```text
//!          fill ring                                  receive ring
//!   ours ── producer (Release) ──▶ kernel ── a frame arrives ──▶ producer ──▶ lease
//!    ▲                                                                          │
//!    └──────────────────── on drop: back into the fill ring ◀───────────────────┘
//! ```
//!
//! Invariant: a frame is in the fill ring, the kernel's, in the receive ring or a [`Lease`]'s, and in
//! one place only. A lease is made once for each descriptor of the receive ring, and puts its frame
//! back when dropped, on whichever path that is. The fill ring has room for every frame, so it never
//! refuses one.
//!
//! Of each ring one side is ours and the other the kernel's (`net/xdp/xsk_queue.h`): the one that
//! produces stores the producer's count with Release once the entries are written, the other loads it
//! with Acquire before it reads them; the same holds for the consumer's count and the places that it
//! frees. Counts run freely, modulo 2^32; an entry's place is its count masked. Ours is published for
//! many frames at a time: the lines that hold the counts travel between cores.
//!
//! Absent on purpose: the transmit ring (we never answer), and reading the completion ring, which
//! would only tell of what was transmitted.

use super::umem::{FRAME_BYTES, Umem};
use memmap2::MmapRaw;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// Frames handled between two stores of our counts.
const PUBLISH_EVERY: u32 = 64;

/// One ring as it is mapped from the kernel.
pub(super) struct Ring {
    memory: MmapRaw,
    offsets: libc::xdp_ring_offset,
    entries: u32,
}

impl Ring {
    /// A ring of so many entries, laid out so in `memory`.
    pub(super) fn new(memory: MmapRaw, offsets: libc::xdp_ring_offset, entries: u32) -> Self {
        assert!(entries.is_power_of_two(), "the kernel masks indices");
        Self { memory, offsets, entries }
    }

    /// Bytes to map for so many entries of `entry_bytes`.
    pub(super) fn bytes(
        offsets: &libc::xdp_ring_offset,
        entries: u32,
        entry_bytes: usize,
    ) -> usize {
        offsets.desc as usize + entries as usize * entry_bytes
    }

    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    /// Whether the kernel wants a system call to go on.
    fn needs_wakeup(&self) -> bool {
        // Relaxed: a hint that stands for itself; who misses it sees it in the next round.
        self.word(self.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        assert!(
            offset as usize + 4 <= self.memory.len(),
            "the kernel's offsets are in the mapping"
        );
        // SAFETY: within the mapping, four-byte aligned as the kernel lays it out, and accessed
        // atomically by both sides.
        unsafe { AtomicU32::from_ptr(self.memory.as_mut_ptr().add(offset as usize).cast()) }
    }

    /// Where the entry of this count lies.
    fn entry<T>(&self, count: u32) -> *mut T {
        let nth = (count & (self.entries - 1)) as usize;
        let offset = self.offsets.desc as usize + nth * size_of::<T>();
        assert!(offset + size_of::<T>() <= self.memory.len(), "entries are in the mapping");
        // SAFETY: within the mapping, as just asserted.
        unsafe { self.memory.as_mut_ptr().add(offset).cast() }
    }
}

/// The frames of one socket, going round.
pub(super) struct Frames {
    // Field order is drop order: the kernel is done with the rings before the frames go.
    receive: Ring,
    fill: Ring,
    umem: Umem,
    /// Entries of the receive ring that we have taken.
    taken: Cell<u32>,
    /// Frames that we have put into the fill ring.
    given: Cell<u32>,
}

impl Frames {
    /// Gives all frames to the kernel.
    pub(super) fn new(receive: Ring, fill: Ring, umem: Umem) -> Self {
        assert!(fill.entries >= umem.frames(), "the fill ring has room for every frame");
        let frames = Self { receive, fill, umem, taken: Cell::new(0), given: Cell::new(0) };
        for frame in 0..frames.umem.frames() {
            frames.give(u64::from(frame) * FRAME_BYTES as u64);
        }
        frames.publish();
        frames
    }

    /// How many frames have arrived and were not taken.
    pub(super) fn waiting(&self) -> u32 {
        // Acquire: pairs with the kernel's release store, so that descriptors and frames are seen.
        self.receive.producer().load(Ordering::Acquire).wrapping_sub(self.taken.get())
    }

    /// Takes the next frame. Only while some are [`waiting`](Self::waiting).
    #[inline]
    pub(super) fn take(&self) -> Lease<'_> {
        let taken = self.taken.get();
        // SAFETY: the entry was published, as the caller has seen, and is not overwritten before we
        // publish that we took it.
        let descriptor = unsafe { self.receive.entry::<libc::xdp_desc>(taken).read() };
        self.taken.set(taken.wrapping_add(1));
        if taken.wrapping_add(1).is_multiple_of(PUBLISH_EVERY) {
            self.publish();
        }
        Lease { frames: self, address: descriptor.addr, length: descriptor.len }
    }

    /// Fetches the start of the n-th frame that waits behind the next one into the cache.
    #[inline]
    pub(super) fn prefetch(&self, nth: u32) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.taken.get().wrapping_add(nth);
            // SAFETY: any entry of the ring may be read, be it a stale one; prefetching an address,
            // be it a wrong one, has no effect but on the cache.
            unsafe {
                let address = (*self.receive.entry::<libc::xdp_desc>(at)).addr;
                let start = self.umem.registration().addr.wrapping_add(address) as *const i8;
                _mm_prefetch(start, _MM_HINT_T0);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = nth;
    }

    /// Tells the kernel what was taken and what was given back.
    pub(super) fn publish(&self) {
        // Release, both: pair with the kernel's acquire loads. It sees that we have done with the
        // entries that it may overwrite, and the addresses of the frames that it may fill.
        self.receive.consumer().store(self.taken.get(), Ordering::Release);
        self.fill.producer().store(self.given.get(), Ordering::Release);
    }

    /// Whether the driver waits for a system call before it takes frames from the fill ring.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    fn give(&self, address: u64) {
        let given = self.given.get();
        // SAFETY: the place is free: the ring has one for every frame, and this frame is in none.
        // The kernel reads it only behind the producer's count, which `publish` stores.
        unsafe { self.fill.entry::<u64>(given).write(address) };
        self.given.set(given.wrapping_add(1));
    }
}

/// A frame that has arrived, in our hands; dropping it gives it back.
pub(super) struct Lease<'a> {
    frames: &'a Frames,
    address: u64,
    length: u32,
}

impl Lease<'_> {
    /// What arrived.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        let start = self.frames.umem.at(self.address, self.length);
        // SAFETY: within one frame, which was zeroed and then written by the kernel before it
        // published the descriptor, and which is ours until this lease is dropped.
        unsafe { std::slice::from_raw_parts(start, self.length as usize) }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.frames.give(self.address & !(FRAME_BYTES as u64 - 1));
    }
}

#[cfg(test)]
mod tests;
