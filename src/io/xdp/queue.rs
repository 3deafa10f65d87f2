//! One AF_XDP socket on one receive queue of one interface.
//!
//! ```text
//!   socket ─ frames registered ─ rings made and mapped ─ bound to the queue ─┬─ entered in the map
//!                                                                            └─ taken out again
//! ```
//!
//! A queue belongs to one socket at a time, and the kernel gives it back only when the last of the
//! rings is unmapped and the socket is closed, and some milliseconds later.

use super::attach::{XdpError, XdpMode};
use super::bpf::SocketMap;
use super::packet::{self, Datagram};
use super::ring::{Frames, Ring};
use super::umem::{FRAME_BYTES, Umem};
use crate::io::sys::{check, set_option};
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for a queue that the socket of a process just ended still holds, milliseconds.
const LET_GO_MS: u32 = 1_000;

/// Entries of the completion ring, which the kernel demands and we have no use for.
const COMPLETIONS: u32 = 2;

/// So many frames ahead the cache is told to fetch.
const AHEAD: u32 = 4;

/// For busy polling (asm-generic/socket.h): how long one call may poll, and for how many frames.
const BUSY_POLL_US: libc::c_int = 20;
const BUSY_POLL_BUDGET: libc::c_int = 64;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// Whether the kernel may copy what arrives into our frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Copying {
    /// The device writes into them, or nothing works.
    Never,
    /// If the device cannot.
    IfNeedBe,
    /// Even if the device could.
    Always,
}

/// Which queue.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The interface's name.
    pub(super) name: &'a str,
    /// The interface's number.
    pub(super) index: u32,
    /// The queue's number there.
    pub(super) queue: u32,
}

/// What one look at a queue brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    /// Frames taken.
    pub(super) frames: u32,
    /// Of these, the ones without a datagram.
    pub(super) malformed: u32,
}

/// A socket and its frames.
pub struct Queue {
    // Field order is drop order: the rings are unmapped before the socket is closed.
    frames: Frames,
    socket: OwnedFd,
    map: Arc<SocketMap>,
    queue: u32,
    zero_copy: bool,
    busy_poll: bool,
}

impl Queue {
    /// Opens a socket on the queue. No frame comes before [`enter`](Self::enter).
    ///
    /// # Errors
    /// See [`XdpError`].
    pub(super) fn open(
        place: Place<'_>,
        map: Arc<SocketMap>,
        frames: u32,
        copying: Copying,
    ) -> Result<Self, XdpError> {
        let failed = |call| move |source| XdpError::of(place.name, call, source);
        // SAFETY: socket(2) takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = check(fd).map_err(failed("socket(AF_XDP)"))?;
        // SAFETY: the descriptor is new and ours alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let umem = Umem::new(frames).map_err(failed("mapping the frames"))?;
        register(&socket, &umem).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOBUFS) => XdpError::MemoryLimit { bytes: frames as usize * FRAME_BYTES },
            _ => XdpError::of(place.name, "XDP_UMEM_REG", source),
        })?;
        let rings = [
            (libc::XDP_UMEM_FILL_RING, frames),
            (libc::XDP_UMEM_COMPLETION_RING, COMPLETIONS),
            (libc::XDP_RX_RING, frames),
        ];
        for (ring, entries) in rings {
            set_option(&socket, libc::SOL_XDP, ring, entries).map_err(failed("making a ring"))?;
        }
        let offsets = offsets(&socket).map_err(failed("XDP_MMAP_OFFSETS"))?;
        let mapped = |at, offsets: libc::xdp_ring_offset, entry_bytes| {
            let bytes = Ring::bytes(&offsets, frames, entry_bytes);
            map_ring(&socket, at, bytes).map(|memory| Ring::new(memory, offsets, frames))
        };
        let entry_bytes = size_of::<libc::xdp_desc>();
        let receive = mapped(libc::XDP_PGOFF_RX_RING as u64, offsets.rx, entry_bytes)
            .map_err(failed("mapping a ring"))?;
        let fill = mapped(libc::XDP_UMEM_PGOFF_FILL_RING, offsets.fr, size_of::<u64>())
            .map_err(failed("mapping a ring"))?;
        let frames = Frames::new(receive, fill, umem);
        bind_patiently(&socket, place, copying).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => {
                XdpError::QueueTaken { interface: place.name.into(), queue: place.queue }
            }
            Some(libc::EPERM) => XdpError::of(place.name, "bind", source),
            _ if copying == Copying::Never => {
                let mode = XdpMode::ZeroCopy;
                XdpError::Mode { interface: place.name.into(), mode, source }
            }
            _ => XdpError::of(place.name, "bind", source),
        })?;
        let zero_copy = is_zero_copy(&socket).map_err(failed("XDP_OPTIONS"))?;
        Ok(Self { frames, socket, map, queue: place.queue, zero_copy, busy_poll: false })
    }

    /// Whether the device writes into our frames itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Has each look drive the device's queue (SO_PREFER_BUSY_POLL, Linux 5.11).
    ///
    /// # Errors
    /// As setsockopt(2).
    pub(super) fn poll_busily(&mut self) -> io::Result<()> {
        for (name, value) in [
            (SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, BUSY_POLL_US),
            (SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET),
        ] {
            set_option(&self.socket, libc::SOL_SOCKET, name, value)?;
        }
        self.busy_poll = true;
        Ok(())
    }

    /// From now on our frames come here.
    ///
    /// # Errors
    /// As bpf(2).
    pub(super) fn enter(&self) -> io::Result<()> {
        self.map.set(self.queue, &self.socket)
    }

    /// From now on they go through the stack again.
    pub(super) fn leave(&self) {
        let left = self.map.clear(self.queue).map_err(|error| error.raw_os_error());
        debug_assert!(matches!(left, Ok(()) | Err(Some(libc::ENOENT))), "{left:?}");
    }

    /// What to poll(2) for arrivals.
    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// How many frames wait.
    pub(super) fn waiting(&self) -> u32 {
        self.frames.waiting()
    }

    /// Takes up to `most` frames that wait now, and hands their datagrams on.
    #[inline]
    pub(super) fn look(
        &self,
        most: u32,
        checksum: bool,
        sink: &mut impl FnMut(Datagram<'_>),
    ) -> Look {
        let count = self.frames.waiting().min(most);
        let mut malformed = 0;
        for nth in 0..count {
            if nth + AHEAD < count {
                self.frames.prefetch(AHEAD);
            }
            let lease = self.frames.take();
            match packet::parse(lease.bytes(), checksum) {
                Ok(datagram) => sink(datagram),
                Err(_) => malformed += 1,
            }
        }
        if count > 0 {
            self.frames.publish();
        }
        Look { frames: count, malformed }
    }

    /// Makes the driver go on if it waits for that, or looks after arrivals in its place. True when
    /// it took a system call.
    pub(super) fn drive(&self, found: bool) -> bool {
        if !self.frames.needs_wakeup() && (found || !self.busy_poll) {
            return false;
        }
        // SAFETY: nothing is read into, as the null pointer and the length of 0 say.
        unsafe {
            libc::recvfrom(
                self.descriptor(),
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        // A failure is temporary (EAGAIN, EBUSY, a link that is down), and shows by the silence.
        true
    }

    /// What the kernel says that it could not give us: frames lost, and how often it found no frame
    /// of ours to fill.
    pub(super) fn losses(&self) -> (u64, u64) {
        // SAFETY: all-zero bytes are a valid xdp_statistics, a plain C struct.
        let mut said: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        // SAFETY: the option writes a xdp_statistics.
        if unsafe { get_struct(&self.socket, libc::XDP_STATISTICS, &mut said) }.is_err() {
            return (0, 0);
        }
        let unfilled = said.rx_fill_ring_empty_descs;
        // Where the device writes into our frames, what it finds no frame for is lost in the device
        // and counted there; that it found none is all that is known here.
        let in_device = if self.zero_copy { unfilled } else { 0 };
        (said.rx_dropped + said.rx_ring_full + in_device, unfilled)
    }
}

/// Tells the kernel of the frames; where the limit on locked memory is ours to raise, it is.
fn register(socket: &OwnedFd, umem: &Umem) -> io::Result<()> {
    let register = || set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, umem.registration());
    match register() {
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
            let none =
                libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: the limit lives through the call.
            match check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) }) {
                Ok(_) => register(),
                Err(_) => Err(error),
            }
        }
        registered => registered,
    }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all-zero bytes are a valid xdp_mmap_offsets, a plain C struct.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    // SAFETY: the option writes a xdp_mmap_offsets.
    let length = unsafe { get_struct(socket, libc::XDP_MMAP_OFFSETS, &mut offsets) }?;
    if length < size_of_val(&offsets) {
        // Before 5.4 it had no flags, and the other offsets lie elsewhere.
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(offsets)
}

fn map_ring(socket: &OwnedFd, at: u64, bytes: usize) -> io::Result<MmapRaw> {
    MmapOptions::new().offset(at).len(bytes).populate().map_raw(socket.as_raw_fd())
}

fn is_zero_copy(socket: &OwnedFd) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    // SAFETY: the option writes a xdp_options.
    unsafe { get_struct(socket, libc::XDP_OPTIONS, &mut options) }?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Binds; a queue that somebody has just let go of is waited for.
fn bind_patiently(socket: &OwnedFd, place: Place<'_>, copying: Copying) -> io::Result<()> {
    let copy = match copying {
        Copying::Never => libc::XDP_ZEROCOPY,
        Copying::IfNeedBe => 0,
        Copying::Always => libc::XDP_COPY,
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: copy | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: place.index,
        sxdp_queue_id: place.queue,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of_val(&address) as libc::socklen_t;
    let mut patience = LET_GO_MS;
    loop {
        // SAFETY: the address is as long as said, and lives through the call.
        let rc = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        match check(rc) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && patience > 0 => {
                std::thread::sleep(Duration::from_millis(1));
                patience -= 1;
            }
            bound => return bound.map(drop),
        }
    }
}

/// Reads a struct of SOL_XDP; returns how many bytes of it were written.
///
/// # Safety
/// `T` is what the option writes, and any bytes of it are valid.
unsafe fn get_struct<T>(socket: &OwnedFd, name: libc::c_int, into: &mut T) -> io::Result<usize> {
    let mut length = size_of::<T>() as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: `into` and `length` are valid for the call, and `length` says how large `into` is.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, name, (&raw mut *into).cast(), &mut length)
    })?;
    Ok(length as usize)
}
