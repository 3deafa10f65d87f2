//! A sender's address as a number: enough to tell senders apart, and no more.
//!
//! What counts is who can hold the address. One machine holds an IPv4 address; of IPv6 it is given a
//! prefix of 64 bits at least, so that the rest says nothing. Ports say nothing either.
//!
//! The number is a hash keyed at the start of the process (SipHash, as in std's maps), so that nobody
//! outside can choose addresses that meet in one.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Bytes of the longest address that a socket of ours is told.
pub(super) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// Where a datagram came from, as far as the kernel was asked to tell.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Which of the transport's sockets it came to, in the order in which it was given them.
    pub socket: usize,
    /// Its sender's socket address as the kernel writes it; empty where that is not told.
    name: &'a [u8],
}

impl<'a> Origin<'a> {
    /// Of a datagram at this socket, from this name.
    pub(super) fn new(socket: usize, name: &'a [u8]) -> Origin<'a> {
        Origin { socket, name }
    }

    /// Nothing is known but the socket.
    pub fn untold(socket: usize) -> Origin<'static> {
        Origin { socket, name: &[] }
    }

    /// The sender's number; 0 where its address is not told.
    pub(super) fn number(&self, source_of: &SourceOf) -> u32 {
        if self.name.is_empty() { 0 } else { source_of.number(self.name) }
    }

    /// The sender's address, to answer to; `None` where it is not told.
    pub fn address(&self) -> Option<SocketAddr> {
        let name = self.name;
        let family = u16::from_ne_bytes(*name.first_chunk()?);
        let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
        match libc::c_int::from(family) {
            libc::AF_INET => {
                let ip: [u8; 4] = *name.get(4..)?.first_chunk()?;
                Some((Ipv4Addr::from(ip), port).into())
            }
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(*name.get(4..)?.first_chunk()?);
                let ip: [u8; 16] = *name.get(8..)?.first_chunk()?;
                let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

/// Numbers addresses. All transports of a process share one, see [`SourceOf::process`].
pub struct SourceOf(RandomState);

impl SourceOf {
    /// The one of this process: the same address has the same number at every reactor.
    pub fn process() -> &'static SourceOf {
        static SHARED: std::sync::OnceLock<SourceOf> = std::sync::OnceLock::new();
        SHARED.get_or_init(|| SourceOf(RandomState::new()))
    }

    /// The number of a socket address as the kernel writes it; 0 if it is none of IPv4 or IPv6.
    pub fn number(&self, name: &[u8]) -> u32 {
        let family = name.first_chunk::<2>().map(|bytes| u16::from_ne_bytes(*bytes));
        let place = match family.map(libc::c_int::from) {
            // sin_addr and the first half of sin6_addr.
            Some(libc::AF_INET) => name.get(4..8),
            Some(libc::AF_INET6) => name.get(8..16),
            _ => None,
        };
        place.map_or(0, |place| self.of_host(place))
    }

    /// The number of whoever holds the address: four bytes of IPv4, or the first eight of IPv6.
    pub(super) fn of_host(&self, host: &[u8]) -> u32 {
        (self.0.hash_one(host) as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8, port: u16) -> Vec<u8> {
        let family = (libc::AF_INET as u16).to_ne_bytes();
        [&family[..], &port.to_be_bytes(), &[10, 0, 0, last], &[0; 8]].concat()
    }

    fn v6(prefix: u8, last: u8) -> Vec<u8> {
        let family = (libc::AF_INET6 as u16).to_ne_bytes();
        let mut address = [0u8; 16];
        (address[0], address[7], address[15]) = (0xFD, prefix, last);
        [&family[..], &[0x11, 0xF8], &[0; 4], &address, &[0; 4]].concat()
    }

    #[test]
    fn who_holds_the_address_is_what_counts() {
        let of = SourceOf::process();
        assert_eq!(v6(1, 1).len(), NAME_BYTES);
        assert_eq!(of.number(&v4(1, 5)), of.number(&v4(1, 6)), "a port says nothing");
        assert_ne!(of.number(&v4(1, 5)), of.number(&v4(2, 5)));
        assert_eq!(of.number(&v6(1, 1)), of.number(&v6(1, 2)), "within one prefix");
        assert_ne!(of.number(&v6(1, 1)), of.number(&v6(2, 1)));
        for name in [&[][..], &[1], &[9, 9, 9, 9, 9, 9, 9, 9], &v4(1, 1)[..7], &v6(1, 1)[..15]] {
            assert_eq!(of.number(name), 0, "{name:?}");
        }
        assert_eq!(SourceOf::process().number(&v4(1, 5)), of.number(&v4(1, 5)));
        assert_eq!(of.of_host(&[10, 0, 0, 1]), of.number(&v4(1, 5)), "however it is told");
    }

    #[test]
    fn an_address_is_read_as_the_kernel_wrote_it() {
        let address = |name: &[u8]| Origin::new(0, name).address().map(|at| at.to_string());
        assert_eq!(address(&v4(7, 5)).as_deref(), Some("10.0.0.7:5"));
        assert_eq!(address(&v6(1, 2)).as_deref(), Some("[fd00:0:0:1::2]:4600"));
        assert_eq!(Origin::untold(0).address(), None);
        for length in 0..28 {
            assert_eq!(address(&v6(1, 2)[..length]), None, "{length}");
        }
    }
}
