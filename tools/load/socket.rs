//! Many datagrams in one system call: a connected UDP socket with a queue, sent by sendmmsg(2).
//!
//! ```text
//!  queue ▶ bytes   [beat 32][beat 32][hello 60][beat 32]…   one buffer, no allocation once grown
//!          queued  (end, tag)…                              what lies where, and whose it is
//!  flush ▶ iovec + mmsghdr, filled from these ▶ sendmmsg ▶ told back tag by tag: sent or not
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Datagrams that one system call takes at most.
pub const BATCH: usize = 64;
/// A refusal (ICMP, nobody listens) is reported by the send after it, which is then not made. It is
/// made again so often.
const RETRIES: u32 = 3;

/// The headers that sendmmsg(2) wants; one set serves all sockets of a thread.
pub struct Headers {
    parts: Box<[libc::iovec; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
}

impl Headers {
    /// Empty headers.
    pub fn new() -> Headers {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: mmsghdr is a plain C struct of integers and pointers; all-zero is a valid value
        // (no name, no parts, no control data).
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Headers { parts: Box::new([part; BATCH]), messages: Box::new([message; BATCH]) }
    }
}

/// A socket and what waits to be sent through it. `T` says whose a datagram is.
pub struct Outlet<T> {
    socket: UdpSocket,
    bytes: Vec<u8>,
    queued: Vec<(usize, T)>,
}

impl<T: Copy> Outlet<T> {
    /// Binds to `source` (port 0 draws one) and connects.
    pub fn open(source: SocketAddr, to: SocketAddr) -> io::Result<Outlet<T>> {
        let socket = UdpSocket::bind(source)?;
        socket.connect(to)?;
        Ok(Outlet { socket, bytes: Vec::new(), queued: Vec::with_capacity(BATCH) })
    }

    /// Queues a datagram that `write` appends. True when the queue is full and has to be flushed
    /// before the next one.
    #[inline]
    pub fn queue(&mut self, tag: T, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        assert!(self.queued.len() < BATCH, "queue() says when it is full");
        write(&mut self.bytes);
        self.queued.push((self.bytes.len(), tag));
        self.queued.len() == BATCH
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Sends what waits, in order, and tells of each datagram whether the kernel took it.
    pub fn flush(&mut self, headers: &mut Headers, mut told: impl FnMut(T, bool)) {
        let mut start = 0;
        for (i, &(end, _)) in self.queued.iter().enumerate() {
            let datagram = &mut self.bytes[start..end];
            headers.parts[i] =
                libc::iovec { iov_base: datagram.as_mut_ptr().cast(), iov_len: datagram.len() };
            headers.messages[i].msg_hdr.msg_iov = &mut headers.parts[i];
            headers.messages[i].msg_hdr.msg_iovlen = 1;
            start = end;
        }
        let (mut next, mut retries) = (0, 0);
        while next < self.queued.len() {
            let count = self.queued.len() - next;
            let first = headers.messages[next..].as_mut_ptr();
            // SAFETY: `first` begins `count` messages filled above; their parts point into `bytes`,
            // which nobody touches during the call; name and control data are null with length 0.
            let rc =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), first, count as libc::c_uint, 0) };
            if rc > 0 {
                let sent = rc as usize;
                self.queued[next..next + sent].iter().for_each(|&(_, tag)| told(tag, true));
                (next, retries) = (next + sent, 0);
                continue;
            }
            let error = io::Error::last_os_error();
            let again = matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::ECONNREFUSED | libc::ENOBUFS | libc::EAGAIN)
            );
            if again && retries < RETRIES {
                retries += 1;
                continue;
            }
            told(self.queued[next].1, false);
            (next, retries) = (next + 1, 0);
        }
        self.bytes.clear();
        self.queued.clear();
    }
}

/// The address that socket `number` binds to: any, or one of its own in 127.0.0.0/8.
pub fn source(number: usize, to: SocketAddr, spread: bool) -> SocketAddr {
    if spread {
        // 127.1.0.1 upwards, without .0 and .255 at the end.
        let (block, last) = (number / 254, number % 254 + 1);
        let address =
            Ipv4Addr::new(127, 1 + (block / 256 % 254) as u8, (block % 256) as u8, last as u8);
        return SocketAddr::from((address, 0));
    }
    match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_queued_datagram_arrives_in_order_from_one_port() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let mut outlet = Outlet::open(source(0, to, false), to).unwrap();
        let mut headers = Headers::new();
        for round in 0..3u8 {
            for i in 0..BATCH as u8 {
                let size = usize::from(i) + 1;
                let full = outlet.queue(i, |out| out.resize(out.len() + size, round ^ i));
                assert_eq!(full, i as usize == BATCH - 1);
            }
            let mut told = Vec::new();
            outlet.flush(&mut headers, |tag, sent| told.push((tag, sent)));
            assert_eq!(told, (0..BATCH as u8).map(|i| (i, true)).collect::<Vec<_>>());
            assert!(outlet.is_empty());
            let mut ports = HashSet::new();
            for i in 0..BATCH as u8 {
                let mut buffer = [0; 100];
                let (size, from) = receiver.recv_from(&mut buffer).unwrap();
                assert_eq!(buffer[..size], vec![round ^ i; usize::from(i) + 1]);
                ports.insert(from);
            }
            assert_eq!(ports.len(), 1);
        }
    }

    #[test]
    fn a_refusal_does_not_stop_the_rest() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut outlet = Outlet::open(source(0, gone, false), gone).unwrap();
        let mut headers = Headers::new();
        let mut told = 0;
        for _ in 0..5 {
            for i in 0..3 {
                outlet.queue(i, |out| out.push(0));
            }
            outlet.flush(&mut headers, |_, _| told += 1);
        }
        assert_eq!(told, 15);
    }

    #[test]
    fn spread_sources_are_distinct_and_can_be_bound() {
        let to: SocketAddr = "127.0.0.1:4600".parse().unwrap();
        let sources: HashSet<SocketAddr> = (0..100_000).map(|n| source(n, to, true)).collect();
        assert_eq!(sources.len(), 100_000);
        for number in [0, 253, 254, 65_024, 99_999] {
            UdpSocket::bind(source(number, to, true)).unwrap();
        }
    }
}
