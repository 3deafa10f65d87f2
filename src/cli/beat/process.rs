//! A handle on a process that can neither miss its end nor hit another that got its number.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Child;
use std::time::Duration;

/// A file descriptor of a process (pidfd_open(2)).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Of a child that has not been waited for yet.
    ///
    /// # Errors
    /// As pidfd_open(2): no descriptor left, or a kernel before 5.3.
    pub fn of(child: &Child) -> io::Result<PidFd> {
        let pid = libc::c_long::from(child.id());
        // SAFETY: the call takes two integers. An unreaped child's number is not reused, so it is
        // the child's.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else closes it.
        Ok(PidFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Waits for the end of the process; false when it still runs after `timeout`.
    ///
    /// # Errors
    /// As poll(2).
    pub fn ends_within(&self, timeout: Duration) -> io::Result<bool> {
        let end = std::time::Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            // Rounded up, lest the last millisecond be spent in a busy loop.
            let left_ms = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
            let mut poll =
                libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one valid pollfd for the length of the call.
            match unsafe { libc::poll(&mut poll, 1, left_ms) } {
                0 if left.is_zero() => return Ok(false),
                0 => {}
                1.. => return Ok(true),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// Sends a signal, if the process still is.
    pub fn signal(&self, signal: i32) {
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the descriptor is ours and open; a null siginfo asks for that of kill(2). It fails
        // only when the process has ended, and then there is nothing to signal.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    }
}
