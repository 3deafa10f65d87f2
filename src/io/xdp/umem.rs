//! The frames: memory that the kernel writes arriving frames into.
//!
//! ```text
//!   0         2048       4096                        frames × 2048
//!   ├─ frame 0 ┼─ frame 1 ┼─ …                      ─┤      an address is an offset in bytes;
//!   │ headroom │ frame …  │                          │      its frame is what it is divided by 2048
//! ```
//!
//! Mapped, not allocated: should the kernel still hold the pages when we let go of them, they become
//! nobody else's before it does, too.

use memmap2::{MmapMut, MmapRaw};
use std::io;

/// Bytes of a frame: two to a page, one datagram each.
pub(super) const FRAME_BYTES: usize = 2048;

/// So many frames in one piece.
pub(super) struct Umem {
    memory: MmapRaw,
    frames: u32,
}

impl Umem {
    /// Maps a power of two of frames.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn new(frames: u32) -> io::Result<Self> {
        assert!(frames.is_power_of_two(), "the kernel masks indices");
        let memory = MmapMut::map_anon(frames as usize * FRAME_BYTES)?;
        Ok(Self { memory: memory.into(), frames })
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// How the kernel is told of it.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.as_ptr() as u64,
            len: self.memory.len() as u64,
            chunk_size: FRAME_BYTES as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// Where `length` bytes at `address` lie.
    ///
    /// # Panics
    /// When they are not within one frame: the kernel and we disagree on everything then.
    #[inline]
    pub(super) fn at(&self, address: u64, length: u32) -> *mut u8 {
        let within = address as usize % FRAME_BYTES;
        assert!(
            (address as usize) < self.memory.len() && within + length as usize <= FRAME_BYTES,
            "the kernel names {length} bytes at {address} of {}",
            self.memory.len()
        );
        self.memory.as_mut_ptr().wrapping_add(address as usize)
    }
}
