//! A file in memory with huge pages.
//!
//! A heartbeat goes to any slot of the file, and with pages of 4 KiB that is a TLB miss nearly every time:
//! at a million peers it was two fifths of what a heartbeat cost beside the kernel. A file system in memory
//! gives small pages, unless it was mounted otherwise; but since Linux 6.1 a process may ask that a stretch
//! of its mapping be put together to a huge page (`MADV_COLLAPSE`, madvise(2)). Where the kernel does
//! not, as for files on a disk, the pages stay small and everything else is the same.
//!
//! ```text
//!  file     ├──────── 2 MiB ────────┼──────── 2 MiB ────────┼──      its huge pages begin here
//!  memory   ┊ slack ├──────── 2 MiB ────────┼──────── 2 MiB ┼──      and must begin here, too
//! ```

use crate::engine::slot::Mapping;
use memmap2::MmapOptions;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of a huge page.
pub(super) const HUGE: usize = 2 << 20;

/// Maps `len` bytes of a file from `offset` on, a multiple of [`HUGE`], so that its huge pages can be
/// those of the memory.
///
/// # Errors
/// What mmap(2) says.
pub(super) fn map(file: &File, offset: u64, len: usize) -> io::Result<Mapping> {
    debug_assert!(offset.is_multiple_of(HUGE as u64));
    // Address space alone, to be given the file; what is left over of it is never touched.
    let memory = MmapOptions::new().len(len + HUGE).no_reserve_swap().map_anon()?;
    let begin = memory.as_ptr().align_offset(HUGE);
    let address = memory.as_ptr().wrapping_add(begin).cast_mut().cast();
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: the range lies within `memory`, which is ours, was not handed to anybody yet, and unmaps
    // all of it in the end, whatever is mapped there. What is laid over it consists of atomics, for
    // which any bytes are values; and a file in our locked directory is cut off by nobody.
    let mapped =
        unsafe { libc::mmap(address, len, protection, flags, file.as_raw_fd(), offset as i64) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(Mapping { memory, begin, len })
}

/// Asks for huge pages in `len` bytes of memory from `address` on, for which the file has been given
/// room; what is in them stays. True: they are there.
pub(super) fn collapse(address: usize, len: usize) -> bool {
    // SAFETY: it changes no byte of any memory, and where nothing is mapped it fails.
    unsafe { libc::madvise(address as *mut libc::c_void, len, libc::MADV_COLLAPSE) == 0 }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    #[test]
    fn the_bytes_are_those_of_the_file_whatever_its_pages_are() {
        let temp = TempDir::new();
        let name = format!("systole-huge-{}", std::process::id());
        for directory in [Path::new("/dev/shm"), temp.path()] {
            let path = directory.join(&name);
            let mut options = File::options();
            options.read(true).write(true).create_new(true);
            let Ok(file) = options.open(&path) else { continue };
            std::fs::remove_file(&path).unwrap();
            file.set_len(3 * HUGE as u64).unwrap();
            file.write_all_at(b"here", HUGE as u64 + 7).unwrap();
            let mut mapping = map(&file, HUGE as u64, HUGE + 100).unwrap();
            let address = mapping.memory.as_ptr() as usize + mapping.begin;
            assert_eq!((address % HUGE, mapping.len), (0, HUGE + 100));
            for collapsed in [false, true] {
                if collapsed {
                    let there = collapse(address, HUGE);
                    println!("a huge page in {}: {there}", directory.display());
                }
                let begin = mapping.begin;
                assert_eq!(&mapping.memory[begin + 7..begin + 11], b"here");
                mapping.memory[begin + HUGE + 99] = 1 + u8::from(collapsed);
                let mut last = [0];
                file.read_exact_at(&mut last, 2 * HUGE as u64 + 99).unwrap();
                assert_eq!(last, [1 + u8::from(collapsed)]);
            }
        }
    }

    #[test]
    fn where_nothing_is_mapped_nothing_happens() {
        assert!(!collapse(HUGE, HUGE));
    }
}
