//! Memory of zeroed atomics: mapped lazily where the system can, from the heap elsewhere.
//!
//! A mapping costs nothing until it is touched: pages come zeroed, one by one, so a table for a
//! million peers that holds a thousand takes the room of a thousand. Huge pages are asked for,
//! since one random access a heartbeat would otherwise miss the TLB nearly every time.

use std::ops::Deref;
use std::ptr::NonNull;

/// A part of a mapping.
#[cfg(not(loom))]
pub struct Mapping {
    /// The mapping.
    pub memory: memmap2::MmapMut,
    /// Where the part begins, bytes.
    pub begin: usize,
    /// How long it is, bytes.
    pub len: usize,
}

#[cfg(not(loom))]
impl From<memmap2::MmapMut> for Mapping {
    /// All of it.
    fn from(memory: memmap2::MmapMut) -> Mapping {
        let len = memory.len();
        Mapping { memory, begin: 0, len }
    }
}

/// What may lie in a [`Region`].
///
/// # Safety
/// The type consists of atomics alone, so that every pattern of bytes is a value of it, zero bytes
/// are its `Default`, threads may share it, and there is nothing to drop.
#[cfg_attr(loom, allow(dead_code, reason = "only mappings ask for it"))]
pub(super) unsafe trait Words: Default + Send + Sync {}

// SAFETY: an atomic of std itself, or in tests a transparent cover of one.
unsafe impl Words for crate::sync::outliving::AtomicU64 {}

/// A fixed array of atomics, all zero at first.
pub(super) struct Region<T> {
    first: NonNull<T>,
    len: usize,
    memory: Memory,
}

/// Who gives the memory back.
enum Memory {
    #[cfg(not(loom))]
    Mapped {
        _mapping: memmap2::MmapMut,
    },
    Heap,
}

// SAFETY: the region owns its values as a `Box<[T]>` would, and hands out shared references only.
unsafe impl<T: Send> Send for Region<T> {}
// SAFETY: as above; sharing the region shares the values and nothing else.
unsafe impl<T: Sync> Sync for Region<T> {}

impl<T: Default> Region<T> {
    /// `len` values from the heap. For tests, for miri (which cannot map), and as a fallback.
    pub(super) fn heap(len: usize) -> Region<T> {
        let values: Box<[T]> = (0..len).map(|_| T::default()).collect();
        let first = NonNull::from(Box::leak(values)).cast();
        Region { first, len, memory: Memory::Heap }
    }
}

#[cfg(not(any(loom, miri)))]
impl<T> Region<T> {
    /// `len` values in a mapping of their own.
    ///
    /// # Errors
    /// What mmap(2) says: `len` is 0, or there is no address space.
    pub(super) fn anonymous(len: usize) -> std::io::Result<Region<T>>
    where
        T: Words,
    {
        let too_long = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_long)?;
        let mapping = memmap2::MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        Ok(Region::mapped(mapping.into(), len))
    }
}

#[cfg(not(loom))]
impl<T> Region<T> {
    /// The first `len` values of a mapping that the caller hands in, whatever bytes they are.
    ///
    /// # Panics
    /// When the mapping is shorter than that.
    pub(super) fn mapped(mapping: Mapping, len: usize) -> Region<T>
    where
        T: Words,
    {
        let bytes = len.checked_mul(size_of::<T>()).expect("a region fits the address space");
        let Mapping { memory: mapping, begin, len: mapped } = mapping;
        assert!(bytes <= mapped, "{mapped} bytes are mapped, {bytes} wanted");
        assert!(begin + mapped <= mapping.len(), "the part is within its mapping");
        // Only advice: a kernel without huge pages serves small ones.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let first = mapping.as_ptr().wrapping_add(begin);
        let first =
            NonNull::new(first.cast_mut().cast::<T>()).expect("a mapping is not at address 0");
        assert!(first.is_aligned(), "a mapping's part starts at a page");
        Region { first, len, memory: Memory::Mapped { _mapping: mapping } }
    }
}

/// Neither loom's atomics (which are no plain words) nor miri can live in a mapping.
#[cfg(any(loom, miri))]
impl<T: Default> Region<T> {
    /// `len` values, here from the heap.
    pub(super) fn anonymous(len: usize) -> std::io::Result<Region<T>> {
        Ok(Self::heap(len))
    }
}

impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `first` is the start of `len` values, aligned, that live as long as `self`: a
        // leaked box of so many, or a mapping of so many times the size, whose bytes are
        // values whatever they are, by the contract of `Words`. Nobody makes an exclusive reference to them.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        match self.memory {
            #[cfg(not(loom))]
            Memory::Mapped { .. } => {} // unmaps itself
            Memory::Heap => {
                let values = NonNull::slice_from_raw_parts(self.first, self.len);
                // SAFETY: leaked by `heap` with this very length, and not given back before.
                drop(unsafe { Box::from_raw(values.as_ptr()) });
            }
        }
    }
}
