//! What there is to know of an interface: its number, its receive queues, and which addresses the
//! host has.

use crate::io::sys::check;
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// An interface to receive from, and which of its receive queues: `eth1`, `eth1:2`, `eth1:0-3`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceChoice {
    /// Its name.
    pub name: String,
    /// The first and the last queue; `None` for all that it has.
    pub queues: Option<(u32, u32)>,
}

impl std::str::FromStr for InterfaceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, queues) = match text.split_once(':') {
            None => (text, None),
            Some((name, queues)) => {
                let (first, last) = queues.split_once('-').unwrap_or((queues, queues));
                let number = |text: &str| text.parse().map_err(|_| "names no queue".to_owned());
                (name, Some((number(first)?, number(last)?)))
            }
        };
        if queues.is_some_and(|(first, last)| first > last) {
            return Err("has its queues in the wrong order".into());
        }
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', ' ', '\0']) {
            return Err("is no name of an interface".into());
        }
        Ok(Self { name: name.to_owned(), queues })
    }
}

impl fmt::Display for InterfaceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.queues {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, ":{first}"),
            Some((first, last)) => write!(f, ":{first}-{last}"),
        }
    }
}

/// The number of an interface; `None` when there is none of that name.
pub(super) fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte and lives through the call.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|&index| index > 0)
}

/// The names of all interfaces that there are.
pub(super) fn names() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: if_nameindex(3) takes nothing; its list ends with a zero number, each name before that
    // is a terminated string, and it is freed once.
    unsafe {
        let first = libc::if_nameindex();
        let mut next = first;
        while let Some(entry) = next.as_ref().filter(|entry| entry.if_index > 0) {
            names.push(CStr::from_ptr(entry.if_name).to_string_lossy().into_owned());
            next = next.add(1);
        }
        if !first.is_null() {
            libc::if_freenameindex(first);
        }
    }
    names
}

/// How many receive queues it has in use; 1 where its driver does not say.
///
/// # Errors
/// No socket to ask with.
pub(super) fn receive_queues(name: &str) -> io::Result<u32> {
    /// linux/ethtool.h, `struct ethtool_channels`.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        command: u32,
        most: [u32; 4],
        receive: u32,
        transmit: u32,
        other: u32,
        combined: u32,
    }
    const ETHTOOL_GCHANNELS: u32 = 0x3C;
    const SIOCETHTOOL: libc::Ioctl = 0x8946 as libc::Ioctl;
    // SAFETY: socket(2) takes no pointer.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    // SAFETY: all-zero bytes are a valid ifreq, a plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: the request and the channels that it points to live through the call, and are what
    // this command of SIOCETHTOOL reads and writes.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }) {
        Ok(_) => Ok((channels.receive + channels.combined).max(1)),
        Err(_) => Ok(1),
    }
}

/// Where datagrams for `listening` may be sent to: an unspecified address stands for all that the
/// host has now. What gets an address later, broadcast and multicast reach the sockets by the stack.
///
/// # Errors
/// As getifaddrs(3).
pub(super) fn destinations(listening: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    let own = own_addresses()?;
    let mut destinations = Vec::new();
    for at in listening {
        if at.ip().is_unspecified() {
            let alike = own.iter().filter(|ip| ip.is_ipv4() == at.is_ipv4());
            destinations.extend(alike.map(|&ip| SocketAddr::new(ip, at.port())));
        } else {
            destinations.push(SocketAddr::new(at.ip(), at.port()));
        }
    }
    destinations.retain(|at| !at.ip().is_loopback() && !at.ip().is_multicast());
    destinations.sort();
    destinations.dedup();
    Ok(destinations)
}

fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first = ptr::null_mut();
    // SAFETY: `first` is where the list's start is written to.
    check(unsafe { libc::getifaddrs(&mut first) })?;
    let mut own = Vec::new();
    let mut next: *const libc::ifaddrs = first;
    // SAFETY: the list is valid until it is freed below; each address is null or as its family says.
    unsafe {
        while let Some(entry) = next.as_ref() {
            if let Some(address) = entry.ifa_addr.as_ref() {
                match i32::from(address.sa_family) {
                    libc::AF_INET => {
                        let v4 = &*entry.ifa_addr.cast::<libc::sockaddr_in>();
                        own.push(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()));
                    }
                    libc::AF_INET6 => {
                        let v6 = &*entry.ifa_addr.cast::<libc::sockaddr_in6>();
                        own.push(IpAddr::from(v6.sin6_addr.s6_addr));
                    }
                    _ => {}
                }
            }
            next = entry.ifa_next;
        }
        libc::freeifaddrs(first);
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_written_with_or_without_queues() {
        for text in ["eth1", "eth1:0", "eth1:2-5", "wlp0s20f3"] {
            assert_eq!(text.parse::<InterfaceChoice>().expect(text).to_string(), text);
        }
        let one: InterfaceChoice = "eth1:3-3".parse().expect("one queue");
        assert_eq!((one.queues, one.to_string().as_str()), (Some((3, 3)), "eth1:3"));
        for text in
            ["", ":1", "eth1:", "eth1:x", "eth1:3-1", "eth1:1-", "a/b", "longer-than-15-chars"]
        {
            assert!(text.parse::<InterfaceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_unspecified_address_is_all_that_the_host_has_but_loopback() {
        let fixed: SocketAddr = "192.0.2.7:4600".parse().expect("address");
        let any: SocketAddr = "0.0.0.0:4601".parse().expect("address");
        let loopback: SocketAddr = "127.0.0.1:4602".parse().expect("address");
        let all = destinations(&[fixed, fixed, any, loopback]).expect("addresses");
        assert_eq!(all.iter().filter(|at| **at == fixed).count(), 1);
        for at in all {
            assert!(at.is_ipv4() && !at.ip().is_loopback() && !at.ip().is_unspecified(), "{at}");
            assert!(at == fixed || at.port() == 4601, "{at}");
        }
    }

    #[test]
    fn loopback_is_an_interface_and_a_made_up_name_is_none() {
        assert_eq!(index("lo"), Some(1));
        assert_eq!(index("no-such-iface"), None);
        assert!(names().contains(&"lo".to_owned()), "{:?}", names());
        assert!(receive_queues("lo").expect("a socket to ask with") >= 1);
    }
}
