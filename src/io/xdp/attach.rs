//! Attaching to interfaces: one program each, one socket for each of its queues, dealt to the reactors.
//!
//! ```text
//!   eth1 ── link ── program ── map ─┬─ queue 0 ── socket ──▶ reactor 0
//!                                   ├─ queue 1 ── socket ──▶ reactor 1
//!                                   └─ queue 2 ── socket ──▶ reactor 0      round robin
//! ```
//!
//! The map is empty at first, so that everything still goes through the stack; each reactor enters
//! its sockets when it begins to read, and takes them out when it ends. Nothing is lost on the way
//! in or out, and a monitor that takes over finds what came meanwhile in the UDP sockets.

use super::bpf::{Program, SocketMap};
use super::interface::{self, InterfaceChoice};
use super::program::{Action, MOST_DESTINATIONS, assemble};
use super::queue::{Copying, Queue};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How frames come from the interface to us, the best last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum XdpMode {
    /// Behind the driver, from the kernel's own packet buffers; any driver can.
    Generic,
    /// In the driver, copied into our frames.
    Native,
    /// In the driver, written into our frames by the device itself.
    ZeroCopy,
}

impl XdpMode {
    /// Its name in settings and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Native => "native",
            Self::ZeroCopy => "zero-copy",
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How to receive with AF_XDP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XdpSettings {
    /// Where; none for not at all.
    pub interfaces: Vec<InterfaceChoice>,
    /// In which mode; `None` for the best that works.
    pub mode: Option<XdpMode>,
    /// Frames of each queue, a power of two: so many datagrams may wait.
    pub frames: u32,
    /// Whether the reactor itself drives the device's queue, instead of interrupts.
    pub busy_poll: bool,
    /// Whether UDP's checksum is checked.
    pub checksum: bool,
}

/// Why frames cannot be had from an interface. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// There is no such interface.
    #[error("there is no interface {interface}: choose one of {}", there_are.join(", "))]
    NoInterface {
        /// What was asked for.
        interface: String,
        /// Those that there are.
        there_are: Vec<String>,
    },
    /// It has fewer queues.
    #[error(
        "{interface} has {have} receive queues, counted from 0, and no queue {queue}: ask for fewer, \
         or give it more with `ethtool -L`"
    )]
    NoQueue {
        /// The interface.
        interface: String,
        /// What was asked for.
        queue: u32,
        /// How many there are.
        have: u32,
    },
    /// None of our addresses can be reached from outside.
    #[error("no address to listen on can be reached by an interface: correct --udp")]
    NoDestination,
    /// A capability is missing.
    #[error(
        "no privilege for AF_XDP on {interface} ({call}: {source}): grant CAP_NET_ADMIN, CAP_NET_RAW \
         and CAP_BPF"
    )]
    Privilege {
        /// The interface.
        interface: String,
        /// The call that was refused.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel was built without.
    #[error(
        "this kernel has no AF_XDP ({call}: {source}): it needs 5.9 or later, with \
         CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL"
    )]
    Kernel {
        /// The call that was refused.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else has a program there.
    #[error(
        "another XDP program is attached to {interface}; `ip link show {interface}` names it, \
         `bpftool net` says whose it is: end that one or choose another interface"
    )]
    OtherProgram {
        /// The interface.
        interface: String,
    },
    /// Somebody else has a socket on the queue.
    #[error(
        "queue {queue} of {interface} belongs to another AF_XDP socket: end that program or choose \
         other queues"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The frames may not be locked in memory.
    #[error(
        "the memory limit does not allow {bytes} bytes for each queue: raise LimitMEMLOCK= (ulimit \
         -l), grant CAP_IPC_LOCK, or lower --xdp-frames"
    )]
    MemoryLimit {
        /// What one queue takes.
        bytes: usize,
    },
    /// The mode that was asked for is not to be had.
    #[error("{interface} cannot do {mode} mode ({source}): choose --xdp-mode auto")]
    Mode {
        /// The interface.
        interface: String,
        /// What was asked for.
        mode: XdpMode,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("AF_XDP on {interface}: {call}: {source}")]
    System {
        /// The interface.
        interface: String,
        /// The call that failed.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl XdpError {
    pub(super) fn of(interface: &str, call: &'static str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { interface, call, source },
            Some(libc::ENOSYS | libc::EAFNOSUPPORT) => Self::Kernel { call, source },
            _ => Self::System { interface, call, source },
        }
    }
}

/// What was got of one interface.
#[derive(Debug)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// The queues that are read.
    pub queues: u32,
    /// How frames come from it.
    pub mode: XdpMode,
    /// Why it is not native, when that was preferred.
    pub not_native: Option<io::Error>,
}

/// The programs' hold on their interfaces, which ends with this.
pub struct Attachment {
    /// What was got, for each interface.
    pub attached: Vec<Attached>,
    /// Destinations that go through the stack, since a program holds no more of them.
    pub beyond: usize,
    pub(super) links: Vec<OwnedFd>,
}

/// The queues of one reactor, and the least mode that any reactor has.
pub struct Share {
    pub(super) queues: Vec<Queue>,
    pub(super) mode: XdpMode,
    pub(super) checksum: bool,
}

/// Attaches to the interfaces of `settings` for datagrams to `listening`, and deals the queues out.
///
/// # Errors
/// See [`XdpError`]; nothing stays attached then.
pub fn attach(
    settings: &XdpSettings,
    listening: &[SocketAddr],
    reactors: usize,
) -> Result<(Attachment, Vec<Share>), XdpError> {
    // Before all else: a name that was mistyped is the operator's likeliest mistake.
    settings.interfaces.iter().try_for_each(|choice| number_of(&choice.name).map(|_| ()))?;
    let destinations = interface::destinations(listening)
        .map_err(|source| XdpError::of("any interface", "getifaddrs", source))?;
    if destinations.is_empty() {
        return Err(XdpError::NoDestination);
    }
    attach_for(settings, destinations, reactors)
}

/// The same, with the addresses that frames may be sent to.
pub(in crate::io) fn attach_for(
    settings: &XdpSettings,
    mut destinations: Vec<SocketAddr>,
    reactors: usize,
) -> Result<(Attachment, Vec<Share>), XdpError> {
    let beyond = destinations.len().saturating_sub(MOST_DESTINATIONS);
    destinations.truncate(MOST_DESTINATIONS);

    let mut attachment = Attachment { attached: Vec::new(), beyond, links: Vec::new() };
    let mut queues = Vec::new();
    for choice in &settings.interfaces {
        let (link, attached, of_it) = attach_one(choice, settings, &destinations)?;
        attachment.links.push(link);
        attachment.attached.push(attached);
        queues.extend(of_it);
    }
    let modes = attachment.attached.iter().map(|attached| attached.mode);
    let mode = modes.min().unwrap_or(XdpMode::Generic);
    let checksum = settings.checksum;
    let mut shares: Vec<Share> =
        (0..reactors).map(|_| Share { queues: Vec::new(), mode, checksum }).collect();
    for (nth, queue) in queues.into_iter().enumerate() {
        shares[nth % reactors].queues.push(queue);
    }
    Ok((attachment, shares))
}

fn number_of(interface: &str) -> Result<u32, XdpError> {
    interface::index(interface).ok_or_else(|| XdpError::NoInterface {
        interface: interface.to_owned(),
        there_are: interface::names(),
    })
}

fn attach_one(
    choice: &InterfaceChoice,
    settings: &XdpSettings,
    destinations: &[SocketAddr],
) -> Result<(OwnedFd, Attached, Vec<Queue>), XdpError> {
    let name = &choice.name;
    let failed = |call| move |source| XdpError::of(name, call, source);
    let index = number_of(name)?;
    let have = interface::receive_queues(name).map_err(failed("SIOCETHTOOL"))?;
    let (first, last) = choice.queues.unwrap_or((0, have - 1));
    if last >= have {
        return Err(XdpError::NoQueue { interface: name.to_owned(), queue: last, have });
    }

    let map = SocketMap::new(have).map_err(failed("making a map, bpf"))?;
    let code = assemble(destinations, map.descriptor(), Action::Pass);
    let program = Program::load(&code).map_err(failed("loading the program, bpf"))?;
    let (link, not_native) = hold(&program, name, index, settings.mode)?;
    let copying = match settings.mode {
        Some(XdpMode::ZeroCopy) => Copying::Never,
        None if not_native.is_none() => Copying::IfNeedBe,
        _ => Copying::Always,
    };

    let map = Arc::new(map);
    let mut queues = Vec::new();
    for queue in first..=last {
        let place = super::queue::Place { name, index, queue };
        let mut opened = Queue::open(place, map.clone(), settings.frames, copying)?;
        if settings.busy_poll {
            opened.poll_busily().map_err(failed("SO_PREFER_BUSY_POLL"))?;
        }
        queues.push(opened);
    }
    let is_native = settings.mode != Some(XdpMode::Generic) && not_native.is_none();
    let mode = match is_native {
        true if queues.iter().all(Queue::is_zero_copy) => XdpMode::ZeroCopy,
        true => XdpMode::Native,
        false => XdpMode::Generic,
    };
    let attached =
        Attached { interface: name.to_owned(), queues: last - first + 1, mode, not_native };
    Ok((link, attached, queues))
}

/// Attaches the program, natively if that may be and works; else also why it does not.
fn hold(
    program: &Program,
    name: &str,
    index: u32,
    mode: Option<XdpMode>,
) -> Result<(OwnedFd, Option<io::Error>), XdpError> {
    let generic = |not_native| match program.attach(index, false) {
        Ok(link) => Ok((link, not_native)),
        Err(error) => Err(refused(name, XdpMode::Generic, error)),
    };
    if mode == Some(XdpMode::Generic) {
        return generic(None);
    }
    match program.attach(index, true) {
        Ok(link) => Ok((link, None)),
        Err(error) => match refused(name, mode.unwrap_or(XdpMode::Native), error) {
            XdpError::Mode { source, .. } if mode.is_none() => generic(Some(source)),
            refused => Err(refused),
        },
    }
}

/// What it means that a program cannot be attached.
fn refused(name: &str, mode: XdpMode, source: io::Error) -> XdpError {
    let interface = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => XdpError::OtherProgram { interface },
        Some(libc::EPERM) => XdpError::of(name, "attaching the program, bpf", source),
        _ => XdpError::Mode { interface, mode, source },
    }
}
