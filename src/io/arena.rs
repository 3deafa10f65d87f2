//! Zeroed, page-aligned memory that the kernel and we write by turns.
//!
//! Handed out as raw pointers only: a Rust reference to a whole arena would claim bytes that the
//! kernel may be writing.

use std::alloc::{self, Layout};
use std::ptr::NonNull;

const PAGE_BYTES: usize = 4096;

/// A page-aligned allocation, freed on drop.
pub(super) struct Arena {
    base: NonNull<u8>,
    layout: Layout,
}

impl Arena {
    /// Allocates `bytes` zero bytes, at least one page.
    pub(super) fn zeroed(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(PAGE_BYTES), PAGE_BYTES)
            .expect("an arena fits in the address space");
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { alloc::handle_alloc_error(layout) };
        Self { base, layout }
    }

    /// Where byte `offset` lies.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.layout.size(), "offset {offset} is outside the arena");
        // SAFETY: the offset is within the allocation, as just asserted.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `base` came from `alloc_zeroed` with this very layout and is freed once.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}
