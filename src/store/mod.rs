//! What outlives the process: the state directory and the files in it.
//!
//! ```text
//!   lock     held by the one monitor that may use the directory
//!   hot      mapped: each shard's slots and journal          written by the reactors
//!   events   mapped: the numbered transitions, a ring        written by the publisher
//!   names    appended: who is behind an id                   written by the publisher
//!   places   appended: the numbers of groups and parents     written by the publisher
//!   alarms   whole: incidents, who flaps, what was told      written by the publisher
//!   silences whole: planned silences                         written by who answers over HTTP
//! ```
//!
//! A kill loses nothing that a process has stored to a mapped page or written to a file: both are
//! the kernel's by then. So nothing is flushed or synced while the monitor runs, and no reactor makes
//! a system call for it. What a crash of the *machine* leaves on a disk is another matter, see
//! [`hot`].
//!
//! Every file says what it is and whose, and is believed only as far as it can be checked. What
//! cannot be used is begun anew, and the log says so in one line: a monitor that does not start
//! because of its past is worse than one that begins anew.

pub mod dir;
pub mod events;
pub mod hot;
mod huge;
pub mod names;
pub mod places;
pub mod whole;

pub use dir::{StateDir, StateError};

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Makes sure that the bytes of a file have memory or disk behind them: a store to a mapped page that
/// the file system has no room for ends the process (SIGBUS).
fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: posix_fallocate takes no pointer; the descriptor lives through the call.
    let errno = unsafe { libc::posix_fallocate(file.as_raw_fd(), offset as i64, len as i64) };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}
