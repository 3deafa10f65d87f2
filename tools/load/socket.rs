//! Many datagrams in one system call: a connected UDP socket with a queue, sent by sendmmsg(2).
//!
//! ```text
//!  queue ▶ bytes   [beat 32][beat 32][hello 60][beat 32]…   one buffer, no allocation once grown
//!          queued  (end, tag)…                              what lies where, and whose it is
//!  flush ▶ iovec + mmsghdr, filled from these ▶ sendmmsg ▶ told back tag by tag: taken or not
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Datagrams that one system call takes at most.
pub const BATCH: usize = 64;
/// A refusal (ICMP, nobody listens) is reported by the send after it, which is then not made. It is
/// made again so often.
const RETRIES: u32 = 3;

/// Bytes of a control message that says how long the segments are, in words for its alignment.
const CONTROL_WORDS: usize = 3;
/// Room for it: a header, and 16 bits with what fills up the word.
const CONTROL: usize = CONTROL_WORDS * size_of::<u64>();

/// The headers that sendmmsg(2) wants; one set serves all sockets of a thread.
pub struct Headers {
    parts: Box<[libc::iovec; BATCH]>,
    controls: Box<[[u64; CONTROL_WORDS]; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
    /// Datagrams up to the end of each message.
    ends: [usize; BATCH],
    segments: bool,
}

impl Headers {
    /// Empty headers. With `segments`, neighbours of one length travel as one message that the
    /// kernel cuts up (UDP_SEGMENT, udp(7)): one way through its stack for all of them.
    pub fn new(segments: bool) -> Headers {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: mmsghdr is a plain C struct of integers and pointers; all-zero is a valid value
        // (no name, no parts, no control data).
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Headers {
            parts: Box::new([part; BATCH]),
            controls: Box::new([[0; CONTROL_WORDS]; BATCH]),
            messages: Box::new([message; BATCH]),
            ends: [0; BATCH],
            segments,
        }
    }

    /// Makes message `i` of `bytes`, datagrams of `length` each; they end at datagram `end`.
    fn fill(&mut self, i: usize, bytes: &mut [u8], length: usize, end: usize) {
        self.ends[i] = end;
        self.parts[i] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let header = &mut self.messages[i].msg_hdr;
        header.msg_iov = &mut self.parts[i];
        header.msg_iovlen = 1;
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        if bytes.len() > length {
            header.msg_control = self.controls[i].as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            // SAFETY: the control buffer is writable, aligned for a cmsghdr, and CONTROL bytes
            // long, which is CMSG_SPACE of a u16; so the first header and its data lie within it.
            unsafe {
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = libc::UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                libc::CMSG_DATA(control).cast::<u16>().write_unaligned(length as u16);
            }
        }
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
        let messages = self.arrange(headers);
        let (mut next, mut retries, mut tagged) = (0, 0, 0);
        let mut tell = |ends: usize, taken: bool| {
            self.queued[tagged..ends].iter().for_each(|&(_, tag)| told(tag, taken));
            tagged = ends;
        };
        while next < messages {
            let first = headers.messages[next..].as_mut_ptr();
            let count = (messages - next) as libc::c_uint;
            // SAFETY: `first` begins `count` messages that `fill` has filled; their parts point
            // into `bytes` and `controls`, which nobody touches during the call; names are null.
            let rc = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), first, count, 0) };
            if rc > 0 {
                next += rc as usize;
                retries = 0;
                tell(headers.ends[next - 1], true);
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
            tell(headers.ends[next], false);
            (next, retries) = (next + 1, 0);
        }
        self.bytes.clear();
        self.queued.clear();
    }

    /// Makes messages of what waits, and says how many.
    fn arrange(&mut self, headers: &mut Headers) -> usize {
        let (mut messages, mut start, mut i) = (0, 0, 0);
        while i < self.queued.len() {
            let length = self.queued[i].0 - start;
            let mut end = self.queued[i].0;
            i += 1;
            while headers.segments && i < self.queued.len() && self.queued[i].0 - end == length {
                end = self.queued[i].0;
                i += 1;
            }
            headers.fill(messages, &mut self.bytes[start..end], length, i);
            (messages, start) = (messages + 1, end);
        }
        messages
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

    /// Sends three full queues of datagrams whose lengths come in runs, and receives them.
    fn check_round_trip(segments: bool) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let mut outlet = Outlet::open(source(0, to, false), to).unwrap();
        let mut headers = Headers::new(segments);
        let length = |i: u8| [32, 32, 32, 60, 1_472, 1_472, 32, 1][usize::from(i / 8)];
        for round in 0..3u8 {
            for i in 0..BATCH as u8 {
                let full = outlet.queue(i, |out| out.resize(out.len() + length(i), round ^ i));
                assert_eq!(full, i as usize == BATCH - 1);
            }
            let mut told = Vec::new();
            outlet.flush(&mut headers, |tag, taken| told.push((tag, taken)));
            assert_eq!(told, (0..BATCH as u8).map(|i| (i, true)).collect::<Vec<_>>());
            assert!(outlet.is_empty());
            let mut ports = HashSet::new();
            for i in 0..BATCH as u8 {
                let mut buffer = [0; 2_000];
                let (size, from) = receiver.recv_from(&mut buffer).unwrap();
                assert_eq!(buffer[..size], vec![round ^ i; length(i)], "datagram {i}");
                ports.insert(from);
            }
            assert_eq!(ports.len(), 1);
        }
    }

    #[test]
    fn every_queued_datagram_arrives_in_order_from_one_port() {
        check_round_trip(false);
    }

    #[test]
    fn segments_arrive_as_the_datagrams_that_they_are() {
        check_round_trip(true);
    }

    #[test]
    fn the_control_message_fits() {
        // SAFETY: pure arithmetic.
        assert_eq!(CONTROL, unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as usize);
    }

    #[test]
    fn a_refusal_does_not_stop_the_rest() {
        for segments in [false, true] {
            let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut outlet = Outlet::open(source(0, gone, false), gone).unwrap();
            let mut headers = Headers::new(segments);
            let mut told = Vec::new();
            for _ in 0..5 {
                for i in 0..3 {
                    outlet.queue(i, |out| out.push(0));
                }
                outlet.flush(&mut headers, |tag, _| told.push(tag));
            }
            assert_eq!(told, [0, 1, 2].repeat(5));
        }
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
