//! AF_XDP: frames straight from the interface's receive queue, past the kernel's network stack.
//!
//! ```text
//!   interface ─▶ program ─┬─ ours ─────▶ rings of the queue ─────────────┐
//!                         └─ the rest ─▶ stack ─▶ UDP sockets ─ recvmmsg ┴─▶ receive
//! ```
//!
//! `program` says which frames are ours, `bpf` loads it, `attach` ties it to interfaces and deals their
//! queues out, `queue` is one socket, `ring` and `umem` hold its frames, `packet` finds the datagram in
//! one. Here they are a transport: the rings first, and beside them the UDP sockets as the poll
//! transport reads them, for what comes over loopback, other interfaces and queues, in fragments, or
//! before and after the program is there.
//!
//! Two looks differ in cost: a ring is two loads, a socket a system call. So while the rings bring
//! something, the sockets are looked at only when the last wait found one of them readable, when some
//! looks have passed, or when their length was asked for; a look that returns 0 has seen all empty.
//!
//! Steering is absent: the device chooses the queue, and what belongs to another reactor is handed over.

mod attach;
mod bpf;
mod interface;
pub mod packet;
mod program;
mod queue;
mod ring;
mod umem;

pub use attach::{Attached, Attachment, Share, XdpError, XdpMode, XdpSettings, attach};
pub use interface::InterfaceChoice;

use super::poll::PollBackend;
use super::source::SourceOf;
use super::{Backend, Patience, Queues, Transport, TransportCounts, Waker};
use std::cell::Cell;
use std::io;
use std::net::UdpSocket;

/// After so many looks that found something in the rings alone, the sockets are looked at, too.
const SOCKETS_EVERY: u32 = 32;

/// The AF_XDP transport.
pub struct XdpBackend {
    share: Share,
    sockets: PollBackend,
    source_of: &'static SourceOf,
    tells_sources: bool,
    /// Looks since the sockets were looked at.
    looks: u32,
    /// What [`queues`](Backend::queues) said and was not handed on since.
    told: Cell<Told>,
    malformed: u64,
    system_calls: u64,
}

/// Lengths that a caller counts on: so many are handed on first, of each kind.
#[derive(Clone, Copy, Default)]
struct Told {
    frames: u32,
    datagrams: u64,
}

impl XdpBackend {
    /// Receives from a share of the queues and from `sockets`, in this thread.
    ///
    /// # Errors
    /// When there are no file descriptors left, or the map of sockets cannot be written.
    pub fn new(share: Share, sockets: Vec<UdpSocket>) -> io::Result<Self> {
        let descriptors = share.queues.iter().map(queue::Queue::descriptor);
        let sockets = PollBackend::beside(sockets, descriptors)?;
        for queue in &share.queues {
            queue.enter()?;
        }
        Ok(Self {
            share,
            sockets,
            source_of: SourceOf::process(),
            tells_sources: false,
            looks: 0,
            told: Cell::default(),
            malformed: 0,
            system_calls: 0,
        })
    }

    /// Hands on what the rings hold, up to `most` of each; returns how many datagrams that were.
    #[inline]
    fn look(&mut self, most: u32, sink: &mut impl FnMut(&[u8], u32)) -> usize {
        let (mut frames, mut malformed) = (0, 0);
        let (source_of, tells_sources) = (self.source_of, self.tells_sources);
        for queue in &self.share.queues {
            let look = queue.look(most, self.share.checksum, &mut |datagram| {
                let source = if tells_sources { source_of.of_host(datagram.sender) } else { 0 };
                sink(datagram.payload, source);
            });
            frames += look.frames;
            malformed += look.malformed;
            self.system_calls += u64::from(queue.drive(look.frames > 0));
        }
        self.malformed += u64::from(malformed);
        (frames - malformed) as usize
    }

    /// Hands on what was told of first, so that who counts on it counts nothing that came later.
    #[cold]
    fn keep_word(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        let mut told = self.told.take();
        let mut handed = self.look(told.frames, sink);
        if told.datagrams > 0 {
            let count = self.sockets.receive_from(sink)?;
            handed += count;
            // What was told is an upper bound.
            told.datagrams =
                if count == 0 { 0 } else { told.datagrams.saturating_sub(count as u64) };
        }
        self.told.set(Told { frames: 0, ..told });
        Ok(handed)
    }
}

impl Backend for XdpBackend {
    fn transport(&self) -> Transport {
        Transport::Xdp(self.share.mode)
    }

    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        self.receive_from(&mut |datagram, _| sink(datagram))
    }

    fn receive_from(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        let told = self.told.get();
        if told.frames > 0 || told.datagrams > 0 {
            let handed = self.keep_word(sink)?;
            if handed > 0 {
                return Ok(handed);
            }
        }
        // A look takes all that a ring held when it began, so one that hands nothing on has seen the
        // end of each, be there malformed frames or none.
        let mut handed = self.look(u32::MAX, sink);
        self.looks += 1;
        if handed == 0 || self.looks >= SOCKETS_EVERY || self.sockets.was_readable() {
            self.looks = 0;
            handed += self.sockets.receive_from(sink)?;
        }
        Ok(handed)
    }

    fn tell_sources(&mut self, wanted: bool) -> io::Result<()> {
        self.tells_sources = wanted;
        self.sockets.tell_sources(wanted)
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        self.sockets.wait(patience)
    }

    fn queues(&self) -> Queues {
        let mut queues = self.sockets.queues();
        let mut told = Told { frames: 0, datagrams: queues.waiting };
        for queue in &self.share.queues {
            let waiting = queue.waiting();
            told.frames = told.frames.max(waiting);
            queues.waiting += u64::from(waiting);
            queues.drops += queue.losses().0;
        }
        self.told.set(told);
        queues
    }

    fn let_go(&mut self) {
        self.share.queues.iter().for_each(queue::Queue::leave);
        // A frame may be on its way from the program to a ring on another core. That is done within
        // one read-side critical section of the kernel, and this waits for all that run.
        // SAFETY: membarrier(2) takes no pointer. Where the kernel has it not, the window stays.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
        self.sockets.let_go();
    }

    fn counts(&self) -> TransportCounts {
        let mut counts = self.sockets.counts();
        counts.errors += self.malformed;
        counts.system_calls += self.system_calls;
        for queue in &self.share.queues {
            counts.buffers_exhausted += queue.losses().1;
        }
        counts
    }

    fn wake(&mut self, other: &Waker) {
        self.sockets.wake(other);
    }

    fn waker(&self) -> Waker {
        self.sockets.waker()
    }
}

#[cfg(test)]
pub(super) mod tests;
