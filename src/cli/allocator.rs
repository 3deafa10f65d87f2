//! The allocator: mimalloc for the monitor, the system's for the agent.
//!
//! mimalloc asks for huge pages, so a process that needs 300 KiB has 6 MiB resident. For the monitor
//! that is right; the agent runs on every machine and ought not to be seen. Which one it is follows
//! from the command line and is decided by the very first allocation, before `main`, for good: a
//! block goes back to where it came from. Deciding may therefore not allocate itself.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

/// The system's allocator for `systole beat …`, mimalloc for everything else.
pub struct ByCommand;

const UNDECIDED: u8 = 0;
const SYSTEM: u8 = 1;
const MIMALLOC: u8 = 2;

static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

#[inline]
fn is_system() -> bool {
    // Relaxed on both sides: whoever decides comes to the same answer, and nothing hangs on it.
    match CHOICE.load(Ordering::Relaxed) {
        UNDECIDED => {
            let choice = if is_agent(command_line(&mut [0; 4096])) { SYSTEM } else { MIMALLOC };
            CHOICE.store(choice, Ordering::Relaxed);
            choice == SYSTEM
        }
        choice => choice == SYSTEM,
    }
}

/// Whether a command line, its words ended by zeros, is that of the agent.
fn is_agent(command_line: &[u8]) -> bool {
    command_line.split(|byte| *byte == 0).nth(1) == Some(b"beat")
}

/// The beginning of this process's command line (proc_pid_cmdline(5)); empty when it cannot be read.
fn command_line(buffer: &mut [u8; 4096]) -> &[u8] {
    // SAFETY: the path is a C string; the call keeps no pointer.
    let file =
        unsafe { libc::open(c"/proc/self/cmdline".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return &[];
    }
    // SAFETY: `buffer` is writable for its whole length, which the call is told.
    let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
    // SAFETY: the descriptor was opened above and is used nowhere else.
    unsafe { libc::close(file) };
    &buffer[..usize::try_from(length).unwrap_or(0)]
}

// SAFETY: every call goes to one of two allocators, each of which keeps the contract, and to the same
// one throughout the life of the process.
unsafe impl GlobalAlloc for ByCommand {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are those of the allocator called, in both arms.
        unsafe { if is_system() { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`; the block came from the same allocator, since the choice is final.
        unsafe {
            if is_system() {
                System.dealloc(block, layout)
            } else {
                MiMalloc.dealloc(block, layout)
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe {
            if is_system() { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`.
        unsafe {
            if is_system() {
                System.realloc(block, layout, size)
            } else {
                MiMalloc.realloc(block, layout, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_is_the_agent() {
        assert!(is_agent(b"/usr/bin/systole\0beat\0--to\0x\0"));
        assert!(!is_agent(b"systole\0serve\0beat\0"));
        assert!(!is_agent(b"beat\0"));
        assert!(!is_agent(b""));
    }

    #[test]
    fn the_command_line_is_ours() {
        let mut buffer = [0; 4096];
        let first = command_line(&mut buffer).split(|byte| *byte == 0).next().unwrap_or(&[]);
        let expected = std::env::args_os().next().expect("a test has a name");
        assert_eq!(first, expected.as_encoded_bytes());
    }
}
