//! The listening sockets: for each address one socket per reactor, bound to the same port.
//!
//! ```text
//!                  reactor 0   reactor 1   …          SO_REUSEPORT group of an address:
//!  0.0.0.0:4600       ●───────────●───────  group     its members in reactor order, so that
//!  [::]:4600          ●───────────●───────  group     the steering program's result is the
//!                  its own     its own                reactor
//! ```
//!
//! SO_REUSEPORT lets any process of the same user join the group and silently take its share of
//! the heartbeats, a second monitor above all. So the first socket of a group is bound *without*
//! it: that succeeds only if nobody at all has the port, with SO_REUSEPORT or not, and it is one
//! atomic step of the kernel. The socket stays, turns SO_REUSEPORT on, and the others join it. Two
//! monitors that start at the same instant cannot both pass, since each begins with the exclusive
//! bind, and no other user can come in at any time, since the kernel compares user ids. A group of
//! one never turns it on and is exclusive for good.
//!
//! What remains: a foreign program of the same user that asks for SO_REUSEPORT itself, later. That
//! is what the option means, and nothing here prevents it.

use super::steering;
use super::sys::{self, check, get_option, set_option};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Why an address cannot be listened on. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port, or another of our own addresses covers it.
    #[error(
        "{address} is taken: another program, perhaps a second monitor, or another listen address \
         already covers it; stop that one or choose another port"
    )]
    Taken {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The port is reserved for privileged processes.
    #[error(
        "no privilege to listen on {address}: choose a port from 1024 up, or grant \
         CAP_NET_BIND_SERVICE"
    )]
    Privilege {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The machine does not speak this address family, as without IPv6.
    #[error("{address} cannot be listened on: this machine has no {} ({source})", family(address))]
    FamilyUnavailable {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address belongs to no interface of this machine.
    #[error("{address} is not an address of this machine: choose one that `ip address` lists")]
    NotLocal {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Anything else, such as too many open files.
    #[error("listening on {address}: {call}: {source}")]
    System {
        /// What was asked for.
        address: SocketAddr,
        /// The call that failed.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    /// True when the machine lacks the address family: reason for a warning rather than an error
    /// where nobody asked for this very address.
    pub fn is_family_unavailable(&self) -> bool {
        matches!(self, Self::FamilyUnavailable { .. })
    }

    fn of(address: SocketAddr, call: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::Taken { address },
            Some(libc::EACCES) => Self::Privilege { address },
            Some(libc::EAFNOSUPPORT) => Self::FamilyUnavailable { address, source },
            // The wildcard and loopback belong to every machine that has the family at all: so
            // Linux answers when IPv6 is compiled in but disabled by sysctl.
            Some(libc::EADDRNOTAVAIL)
                if address.ip().is_unspecified() || address.ip().is_loopback() =>
            {
                Self::FamilyUnavailable { address, source }
            }
            Some(libc::EADDRNOTAVAIL) => Self::NotLocal { address },
            _ => Self::System { address, call, source },
        }
    }
}

/// What became of the wish for a receive buffer, in the bytes that were asked for (the kernel
/// accounts twice as much, for its bookkeeping).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveBuffer {
    /// What was asked for.
    pub asked: usize,
    /// What the kernel granted. Less than `asked` without CAP_NET_ADMIN, when `net.core.rmem_max`
    /// is lower.
    pub granted: usize,
}

/// The sockets of one listen address, one per reactor.
#[derive(Debug)]
pub struct Group {
    /// Where they listen, port 0 resolved.
    pub address: SocketAddr,
    /// In reactor order.
    pub sockets: Vec<UdpSocket>,
    /// The smallest that any of them got.
    pub receive_buffer: ReceiveBuffer,
    /// Why the kernel does not steer, `None` when it does or need not. Not an error: what lands
    /// at the wrong reactor is handed over.
    pub unsteered: Option<io::Error>,
}

/// Binds an address for an instant, without sharing it, to see whether it can be had.
///
/// # Errors
/// See [`BindError`].
pub fn probe(address: SocketAddr) -> Result<(), BindError> {
    let refused = |error| BindError::of(address, "bind", error);
    UdpSocket::bind(address).map(drop).map_err(refused)
}

/// Binds one socket per reactor to `address`; port 0 takes a free port, the same for all.
///
/// # Errors
/// See [`BindError`]; no socket stays open then.
///
/// # Panics
/// When `reactors` is 0.
pub fn bind_group(
    address: SocketAddr,
    reactors: usize,
    receive_buffer: usize,
) -> Result<Group, BindError> {
    assert!(reactors > 0, "a group needs a reactor");
    let first = socket(address)?;
    sys::bind(first.as_raw_fd(), &address).map_err(|e| BindError::of(address, "bind", e))?;
    join(vec![first], reactors, receive_buffer)
}

/// As [`bind_group`]; an address that is taken is tried again for so long, since the kernel takes some
/// milliseconds to let go of a killed process's sockets.
///
/// # Errors
/// As there.
pub fn bind_group_within(
    patience: Duration,
    address: SocketAddr,
    reactors: usize,
    receive_buffer: usize,
) -> Result<Group, BindError> {
    let began = Instant::now();
    loop {
        match bind_group(address, reactors, receive_buffer) {
            Err(BindError::Taken { .. }) if began.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound,
        }
    }
}

/// Makes a group of sockets that are bound already to one address, by ourselves or by whoever started
/// us: at least one, and no more than there are reactors.
///
/// # Errors
/// See [`BindError`]. What was bound by another user cannot be shared with sockets of ours: then the
/// address counts as taken.
///
/// # Panics
/// When there is no socket.
pub fn join(
    mut sockets: Vec<UdpSocket>,
    reactors: usize,
    receive_buffer: usize,
) -> Result<Group, BindError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let bound = sockets[0].local_addr().map_err(|e| BindError::of(nowhere, "getsockname", e))?;
    let address = bound;
    let fail = |call| move |source| BindError::of(address, call, source);
    let mut granted = usize::MAX;
    for socket in &sockets {
        granted = granted.min(ask_for_buffer(socket, receive_buffer).map_err(fail("SO_RCVBUF"))?);
    }

    let mut unsteered = None;
    if reactors > 1 {
        for socket in &sockets {
            share(socket).map_err(fail("SO_REUSEPORT"))?;
        }
        for _ in sockets.len()..reactors {
            let next = socket(address)?;
            granted =
                granted.min(ask_for_buffer(&next, receive_buffer).map_err(fail("SO_RCVBUF"))?);
            share(&next).map_err(fail("SO_REUSEPORT"))?;
            sys::bind(next.as_raw_fd(), &bound).map_err(fail("bind"))?;
            sockets.push(next);
        }
        unsteered = steering::attach(&sockets[0], reactors as u32).err();
    }
    let receive_buffer = ReceiveBuffer { asked: receive_buffer, granted };
    Ok(Group { address: bound, sockets, receive_buffer, unsteered })
}

/// The group of sockets that a process before us had, in its order and steered as it was.
///
/// # Errors
/// The system refuses; nothing is wrong with the sockets then, but with what was handed over.
///
/// # Panics
/// When there is no socket.
pub fn adopt(sockets: Vec<UdpSocket>, receive_buffer: usize) -> io::Result<Group> {
    let address = sockets[0].local_addr()?;
    let mut granted = usize::MAX;
    for socket in &sockets {
        granted = granted.min(ask_for_buffer(socket, receive_buffer)?);
    }
    let receive_buffer = ReceiveBuffer { asked: receive_buffer, granted };
    Ok(Group { address, sockets, receive_buffer, unsteered: None })
}

/// A number that the same sockets in the same order have in every process, and no others on this machine
/// until it boots anew (SO_COOKIE); 0 if the kernel does not say.
pub fn identity(sockets: &[UdpSocket]) -> u64 {
    let cookies = sockets.iter().map(sys::cookie).collect::<io::Result<Vec<_>>>();
    let mix =
        |all: u64, cookie: u64| (all ^ cookie).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    cookies.map_or(0, |cookies| cookies.into_iter().fold(sockets.len() as u64, mix))
}

/// Deals the sockets out: element `r` holds reactor `r`'s socket of each group, in order.
///
/// # Panics
/// When the groups are of different sizes.
pub fn by_reactor(groups: impl IntoIterator<Item = Vec<UdpSocket>>) -> Vec<Vec<UdpSocket>> {
    let mut reactors: Vec<Vec<UdpSocket>> = Vec::new();
    for (nth, group) in groups.into_iter().enumerate() {
        if nth == 0 {
            reactors.resize_with(group.len(), Vec::new);
        }
        assert_eq!(group.len(), reactors.len(), "each group has one socket per reactor");
        for (reactor, socket) in reactors.iter_mut().zip(group) {
            reactor.push(socket);
        }
    }
    reactors
}

/// An unbound socket of the address's family. It blocks: the transports ask for MSG_DONTWAIT, and
/// O_NONBLOCK would make io_uring report EAGAIN instead of waiting.
fn socket(address: SocketAddr) -> Result<UdpSocket, BindError> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes no pointer.
    let fd = check(unsafe { libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
        .map_err(|source| BindError::of(address, "socket", source))?;
    // SAFETY: the descriptor is new and ours alone.
    let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    if address.is_ipv6() {
        // Without it [::] also claims the port on 0.0.0.0, which is an address of its own here.
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)
            .map_err(|source| BindError::of(address, "IPV6_V6ONLY", source))?;
    }
    Ok(socket)
}

fn share(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

/// Asks for a receive buffer of `bytes` beyond the system's limit, then up to it; returns what
/// there is now.
fn ask_for_buffer(socket: &UdpSocket, bytes: usize) -> io::Result<usize> {
    // The kernel doubles the figure in a C int.
    let bytes = bytes.min(libc::c_int::MAX as usize / 2) as libc::c_int;
    let granted =
        || get_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF).map(|doubled| doubled / 2);
    // Without privilege what whoever started us has granted could only be made less.
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err()
        && granted()? < bytes
    {
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    Ok(granted()? as usize)
}

fn family(address: &SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests;
