//! The few system calls that std has no name for, each with its error as `io::Result`.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

/// Turns the -1 of a libc call into the thread's errno.
pub(super) fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Sets a socket option of a plain C type.
pub(super) fn set_option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`, which lives through the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Reads an integer socket option.
pub(super) fn get_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` and `length` are valid for the call, and `length` says how large `value` is.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &mut length)
    })?;
    Ok(value)
}

/// The words that SO_MEMINFO fills, in the order of `SK_MEMINFO_*` (linux/sock_diag.h).
pub(super) type MemoryInfo = [u32; 9];

/// Reads SO_MEMINFO; a kernel that knows fewer words leaves the rest 0.
pub(super) fn memory_info(socket: &impl AsRawFd) -> io::Result<MemoryInfo> {
    let mut words: MemoryInfo = [0; 9];
    let mut length = mem::size_of_val(&words) as libc::socklen_t;
    // SAFETY: `words` and `length` are valid for the call, and `length` says how large `words` is.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    Ok(words)
}

/// The number that the kernel gives a socket for good (SO_COOKIE, Linux 4.12).
pub(super) fn cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has as many.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    })?;
    Ok(cookie)
}

/// bind(2).
pub(super) fn bind(socket: RawFd, address: &SocketAddr) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage, a plain C struct.
    let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is at least as large and as aligned as any sockaddr.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(name) };
            mem::size_of_val(&name)
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
            mem::size_of_val(&name)
        }
    };
    // SAFETY: `storage` holds a socket address of `length` bytes and lives through the call.
    check(unsafe { libc::bind(socket, (&raw const storage).cast(), length as libc::socklen_t) })
        .map(drop)
}
