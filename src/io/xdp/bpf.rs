//! bpf(2): a map of sockets, a program that the kernel has verified, and a link that ties it to an
//! interface.
//!
//! Each is a descriptor and lives as long as it. That of the link is the point: whichever way the
//! process ends, by kill -9 too, the kernel closes it and the interface is as it was before.

use super::program::Instruction;
use crate::io::sys::check;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

// Commands, types and flags (linux/bpf.h, linux/if_link.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
#[cfg(test)]
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// The name by which `bpftool` shows map and program.
const NAME: [u8; 16] = *b"systole\0\0\0\0\0\0\0\0\0";

/// It calls no helper that would ask for the GPL.
const LICENSE: &CStr = c"Apache-2.0";

/// From receive queue to AF_XDP socket.
pub(super) struct SocketMap(OwnedFd);

impl SocketMap {
    /// A map of so many queues, empty.
    ///
    /// # Errors
    /// As bpf(2): EPERM without CAP_BPF, ENOSYS or EINVAL where the kernel lacks it.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
            inner_map_fd: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let attributes = Attributes {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues,
            map_flags: 0,
            inner_map_fd: 0,
            numa_node: 0,
            name: NAME,
        };
        // SAFETY: these are MAP_CREATE's, without pointers.
        unsafe { open(MAP_CREATE, &attributes) }.map(Self)
    }

    /// The descriptor, which the program's code names.
    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Frames of this queue go to that socket from now on.
    ///
    /// # Errors
    /// As bpf(2).
    pub(super) fn set(&self, queue: u32, socket: &impl AsRawFd) -> io::Result<()> {
        let socket = socket.as_raw_fd();
        self.element(MAP_UPDATE_ELEM, queue, Some(&socket))
    }

    /// Frames of this queue go to the stack from now on.
    ///
    /// # Errors
    /// As bpf(2); ENOENT when they do already.
    pub(super) fn clear(&self, queue: u32) -> io::Result<()> {
        self.element(MAP_DELETE_ELEM, queue, None)
    }

    fn element(&self, command: libc::c_int, queue: u32, value: Option<&RawFd>) -> io::Result<()> {
        #[repr(C)]
        struct Attributes {
            map: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let attributes = Attributes {
            map: self.descriptor() as u32,
            padding: 0,
            key: &raw const queue as u64,
            value: value.map_or(0, |value| ptr::from_ref(value) as u64),
            flags: 0,
        };
        // SAFETY: key and value point to four bytes each, which live through the call.
        unsafe { call(command, &attributes) }.map(drop)
    }
}

/// A program that the kernel's verifier has accepted.
pub(super) struct Program(OwnedFd);

impl Program {
    /// Has the kernel verify and compile `code`.
    ///
    /// # Errors
    /// As bpf(2); when the verifier refuses, with its last word.
    pub(super) fn load(code: &[Instruction]) -> io::Result<Self> {
        // First without a log: asking for one costs, and fails when it is too small.
        match Self::load_logged(code, &mut []) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => {
                let mut log = vec![0; 64 << 10];
                match Self::load_logged(code, &mut log) {
                    Err(error) => Err(io::Error::new(error.kind(), last_word(&log, &error))),
                    loaded => loaded,
                }
            }
            loaded => loaded,
        }
    }

    fn load_logged(code: &[Instruction], log: &mut [u8]) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            program_type: u32,
            instructions: u32,
            code: u64,
            license: u64,
            log_level: u32,
            log_bytes: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
            name: [u8; 16],
            interface: u32,
            attach_type: u32,
        }
        let attributes = Attributes {
            program_type: PROG_TYPE_XDP,
            instructions: code.len() as u32,
            code: code.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_bytes: log.len() as u32,
            log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            kernel_version: 0,
            flags: 0,
            name: NAME,
            interface: 0,
            attach_type: ATTACH_TYPE_XDP,
        };
        // SAFETY: code, license and log are as long as said, and live through the call.
        unsafe { open(PROG_LOAD, &attributes) }.map(Self)
    }

    /// Attaches it to an interface, in the driver (native) or behind it (generic).
    ///
    /// # Errors
    /// As bpf(2): EBUSY or EEXIST when another program is attached there, EOPNOTSUPP where the
    /// driver cannot.
    pub(super) fn attach(&self, interface: u32, native: bool) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Attributes {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        let attributes = Attributes {
            program: self.0.as_raw_fd() as u32,
            interface,
            attach_type: ATTACH_TYPE_XDP,
            flags: if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE },
        };
        // SAFETY: these are LINK_CREATE's, without pointers.
        unsafe { open(LINK_CREATE, &attributes) }
    }

    /// What it answers for a frame of queue 0.
    #[cfg(test)]
    pub(super) fn run(&self, frame: &[u8]) -> io::Result<u32> {
        #[repr(C)]
        #[derive(Default)]
        struct Attributes {
            program: u32,
            answer: u32,
            bytes_in: u32,
            bytes_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            context_bytes: [u32; 2],
            contexts: [u64; 2],
            flags: u32,
            cpu: u32,
            batch: u32,
            /// Told, so that it is zero: the kernel looks.
            padding: u32,
        }
        let attributes = Attributes {
            program: self.0.as_raw_fd() as u32,
            bytes_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: 1,
            ..Attributes::default()
        };
        let attributes = std::cell::UnsafeCell::new(attributes);
        // SAFETY: the frame is as long as said; the kernel writes the answer into the attributes,
        // which are in a cell for that.
        unsafe {
            call(PROG_TEST_RUN, &attributes)?;
            Ok((*attributes.get()).answer)
        }
    }
}

/// The last line of the verifier's log that says something.
fn last_word(log: &[u8], error: &io::Error) -> String {
    let log = CStr::from_bytes_until_nul(log).map(CStr::to_string_lossy).unwrap_or_default();
    let said = log.lines().rfind(|line| !line.starts_with("processed "));
    format!("the kernel's verifier refuses the program: {} ({error})", said.unwrap_or("no word"))
}

/// A command that makes something.
///
/// # Safety
/// As for [`call`].
unsafe fn open<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2).
///
/// # Safety
/// `attributes` are what `command` reads, and what they point to is valid.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let size = size_of::<T>();
    // SAFETY: as the caller says; the size is theirs.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size) };
    check(rc as libc::c_int)
}
