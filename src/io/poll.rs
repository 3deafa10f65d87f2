//! recvmmsg(2) and ppoll(2): the transport where io_uring is missing or forbidden.
//!
//! One recvmmsg takes up to 64 datagrams of a socket, and a receive asks each socket once, so
//! under load a datagram costs a 64th of a system call. The sleep is a ppoll on all sockets and
//! the waker's eventfd, to the nanosecond: the thread's timer slack (50 µs by default) is set to
//! the least.

use super::arena::Arena;
use super::meminfo::QueueMeter;
use super::source::{NAME_BYTES, Origin, SourceOf};
use super::sys::check;
use super::{Backend, LONGEST_DATAGRAM, Patience, Queues, Transport, TransportCounts, Waker};
use crate::clock;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

/// Datagrams asked of one socket at a time.
const BATCH: usize = 64;

/// So many rounds over the sockets with failures or overlong datagrams only stop the transport: it
/// would only spin.
const ROUNDS: u32 = 1024;

/// Bytes of each buffer: one more than the longest datagram, so that a cut one shows.
const BUFFER_BYTES: usize = super::BUFFER_BYTES;

/// So far apart that the buffers' first lines don't all compete for the same cache sets.
const STRIDE: usize = BUFFER_BYTES + 64;

/// The poll transport.
pub struct PollBackend {
    sockets: Vec<UdpSocket>,
    waker: Waker,
    batch: Batch,
    /// The eventfd first, then the sockets, then what lies beside them.
    watched: Vec<libc::pollfd>,
    /// A sleep found a socket readable, and nobody has asked since.
    readable: bool,
    counts: TransportCounts,
    queues: QueueMeter,
    /// Nothing is received any more.
    letting_go: bool,
}

impl PollBackend {
    /// Receives from `sockets`, in this thread, whose timer slack it takes away.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn new(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        Self::beside(sockets, [])
    }

    /// The same; arrivals at the other descriptors end a wait, too.
    ///
    /// # Errors
    /// As there.
    pub(super) fn beside(
        sockets: Vec<UdpSocket>,
        others: impl IntoIterator<Item = RawFd>,
    ) -> io::Result<Self> {
        let waker = Waker::new()?;
        // SAFETY: this prctl takes a plain number. It cannot fail, and would cost precision only.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
        let watch = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let watched = std::iter::once(waker.event())
            .chain(sockets.iter().map(AsRawFd::as_raw_fd))
            .chain(others)
            .map(watch)
            .collect();
        Ok(Self {
            sockets,
            waker,
            batch: Batch::new(),
            watched,
            readable: false,
            counts: TransportCounts::default(),
            queues: QueueMeter::default(),
            letting_go: false,
        })
    }

    /// Sleeps until one of the first `count` watched descriptors is readable, or so long.
    fn sleep(&mut self, count: usize, timeout_ns: Option<u64>) -> io::Result<()> {
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        self.counts.system_calls += 1;
        // SAFETY: the first `count` of `watched` and the timespec live through the call; a null
        // signal mask leaves the mask alone.
        let slept = check(unsafe {
            libc::ppoll(
                self.watched[..count].as_mut_ptr(),
                count as libc::nfds_t,
                timeout,
                ptr::null(),
            )
        });
        if let Err(error) = slept {
            return if is_passing(&error) { Ok(()) } else { Err(error) };
        }
        if self.watched[0].revents != 0 {
            self.counts.system_calls += 1;
            self.waker.clear_event();
        }
        let sockets = &self.watched[..count.min(1 + self.sockets.len())];
        self.readable |= sockets.iter().skip(1).any(|socket| socket.revents != 0);
        Ok(())
    }

    /// Whether a sleep has found a socket readable since this was asked last.
    pub(super) fn was_readable(&mut self) -> bool {
        mem::take(&mut self.readable)
    }
}

impl Backend for PollBackend {
    fn transport(&self) -> Transport {
        Transport::Poll
    }

    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        self.receive_from(&mut |datagram, _| sink(datagram))
    }

    fn tell_sources(&mut self, wanted: bool) -> io::Result<()> {
        self.batch.tell_sources(wanted);
        Ok(())
    }

    fn receive_from(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        let source_of = SourceOf::process();
        self.receive_with(&mut |datagram, origin| sink(datagram, origin.number(source_of)))
    }

    fn receive_with(&mut self, sink: &mut impl FnMut(&[u8], Origin<'_>)) -> io::Result<usize> {
        if self.letting_go {
            return Ok(0);
        }
        for _ in 0..ROUNDS {
            let mut handed = 0;
            let mut all_empty = true;
            for (number, socket) in self.sockets.iter().enumerate() {
                self.counts.system_calls += 1;
                match self.batch.fill(socket) {
                    Ok(count) => {
                        all_empty = false;
                        for nth in 0..count {
                            let Some(datagram) = self.batch.datagram(nth) else {
                                self.counts.overlong += 1;
                                continue;
                            };
                            sink(datagram, Origin::new(number, self.batch.name(nth)));
                            handed += 1;
                        }
                    }
                    Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                    Err(error) if is_passing(&error) => {
                        all_empty = false;
                        self.counts.errors += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
            if handed > 0 || all_empty {
                return Ok(handed);
            }
        }
        Err(io::Error::other("receiving fails again and again, with no datagram"))
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        if self.waker.take() || patience.timeout_ns == Some(0) {
            return Ok(());
        }
        let mut timeout_ns = patience.timeout_ns;
        let min_wait_ns = patience.min_wait_ns.min(timeout_ns.unwrap_or(u64::MAX));
        if patience.want > 1 && min_wait_ns > 0 {
            // The kernel's min-wait by hand: first let datagrams gather, heeding the waker only.
            let start_ns = clock::monotonic_ns();
            self.sleep(1, Some(min_wait_ns))?;
            let slept_ns = clock::monotonic_ns().saturating_sub(start_ns);
            timeout_ns = timeout_ns.map(|timeout_ns| timeout_ns.saturating_sub(slept_ns));
            if self.waker.take() {
                return Ok(());
            }
        }
        self.sleep(self.watched.len(), timeout_ns)?;
        self.waker.take();
        Ok(())
    }

    fn queues(&self) -> Queues {
        self.queues.read(&self.sockets)
    }

    fn let_go(&mut self) {
        self.letting_go = true;
    }

    fn counts(&self) -> TransportCounts {
        self.counts
    }

    fn wake(&mut self, other: &Waker) {
        self.counts.system_calls += 1;
        other.wake();
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// Whether the next try may succeed: a signal, memory pressure, or an error that a socket reports
/// once (from ICMP, a link that went down). Everything else would fail for ever.
fn is_passing(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(
            libc::EBADF
                | libc::EFAULT
                | libc::EINVAL
                | libc::ENOSYS
                | libc::ENOTCONN
                | libc::ENOTSOCK
                | libc::EOPNOTSUPP
                | libc::EPERM
        ) | None
    )
}

/// Buffers for one recvmmsg and the headers that point to them.
struct Batch {
    data: Arena,
    headers: Box<[libc::mmsghdr]>,
    /// Where the kernel writes addresses, [`NAME_BYTES`] each, when it is asked for them.
    names: Arena,
    tells_sources: bool,
    /// Pointed to by `headers`; boxed, so it does not move with the batch.
    _vectors: Box<[libc::iovec]>,
}

impl Batch {
    fn new() -> Self {
        let data = Arena::zeroed(BATCH * STRIDE);
        let mut vectors: Box<[_]> = (0..BATCH)
            .map(|nth| libc::iovec {
                iov_base: data.at(nth * STRIDE).cast(),
                iov_len: BUFFER_BYTES,
            })
            .collect();
        let first = vectors.as_mut_ptr();
        let headers = (0..BATCH)
            .map(|nth| {
                // SAFETY: all-zero bytes are a valid mmsghdr: null pointers and lengths of 0.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_iov = first.wrapping_add(nth);
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        let names = Arena::zeroed(BATCH * NAME_BYTES);
        Self { data, headers, names, tells_sources: false, _vectors: vectors }
    }

    /// Has the kernel tell addresses, or not.
    fn tell_sources(&mut self, wanted: bool) {
        if self.tells_sources == wanted {
            return;
        }
        self.tells_sources = wanted;
        for (nth, header) in self.headers.iter_mut().enumerate() {
            let name = self.names.at(nth * NAME_BYTES).cast();
            header.msg_hdr.msg_name = if wanted { name } else { ptr::null_mut() };
            header.msg_hdr.msg_namelen = 0;
        }
    }

    /// Who sent the n-th datagram of the last fill; empty when it was not asked for.
    fn name(&self, nth: usize) -> &[u8] {
        if !self.tells_sources {
            return &[];
        }
        let length = (self.headers[nth].msg_hdr.msg_namelen as usize).min(NAME_BYTES);
        // SAFETY: the name lies in the arena, zeroed and then filled by the kernel; nobody writes
        // to it until the next fill.
        unsafe { std::slice::from_raw_parts(self.names.at(nth * NAME_BYTES), length) }
    }

    /// Receives what the socket has, up to a batch, without waiting.
    fn fill(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        if self.tells_sources {
            // The kernel writes over it how long the address was.
            let most = NAME_BYTES as libc::socklen_t;
            self.headers.iter_mut().for_each(|header| header.msg_hdr.msg_namelen = most);
        }
        // SAFETY: the headers point to vectors, these to buffers, and names of NAME_BYTES, that live
        // as long as self; none of them is borrowed during the call. The kernel writes lengths,
        // flags and names only.
        let count = check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })?;
        Ok(count as usize)
    }

    /// The n-th datagram of the last fill; `None` if it was too long.
    fn datagram(&self, nth: usize) -> Option<&[u8]> {
        let header = &self.headers[nth];
        let length = header.msg_len as usize;
        if length > LONGEST_DATAGRAM || header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        // SAFETY: the buffer lies in the arena, was zeroed and then filled by the kernel up to
        // `length`, which is less than its size; nobody writes to it until the next fill.
        Some(unsafe { std::slice::from_raw_parts(self.data.at(nth * STRIDE), length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_passing_or_final() {
        let passing = |errno| is_passing(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EINTR, libc::ENOMEM, libc::ENOBUFS, libc::ECONNREFUSED] {
            assert!(passing(errno), "{errno}");
        }
        for errno in [libc::EBADF, libc::ENOTSOCK, libc::EINVAL, libc::ENOSYS] {
            assert!(!passing(errno), "{errno}");
        }
    }
}
