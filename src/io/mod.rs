//! Receive transports: datagrams in, without waiting, and a way to wait.
//!
//! The contract is [`Backend`]; [`uring`], [`poll`] and [`xdp`] keep it, [`open`] chooses. A transport
//! knows sockets and buffers, never what is in a datagram (but for the peer id's offset, which the
//! kernel steers by, see [`steering`]).
//!
//! ```text
//!  sockets::bind_group(address, reactors, …)      once, before the reactors start
//!            │  one group per address, one socket per reactor in each
//!            ▼
//!  sockets::by_reactor ──▶ open(choice, its inlet) ──▶ AnyBackend        in each reactor's thread
//!  xdp::attach ────────────────▲                           │
//!            receive ─ receive ─ … ─ 0 ─ wait ─ receive ─ …  ▼
//! ```

mod arena;
mod meminfo;
pub mod poll;
mod select;
pub mod sockets;
mod source;
pub mod steering;
mod sys;
pub mod uring;
mod wake;
pub mod xdp;

pub use select::{AnyBackend, Inlet, OpenError, Opened, TransportChoice, open};
pub use source::{Origin, SourceOf};
pub use wake::Waker;

use std::io;

/// The longest datagram that is handed on, in bytes; a longer one is dropped and counted in
/// [`TransportCounts::overlong`]. No form of a heartbeat is longer than 1,472.
pub const LONGEST_DATAGRAM: usize = BUFFER_BYTES - 1;

/// Bytes of a receive buffer, one more than the longest datagram: one that fills its buffer may
/// have been cut.
const BUFFER_BYTES: usize = 2048;

/// Which receive path the datagrams take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// io_uring multishot receive into a provided buffer ring.
    Uring,
    /// recvmmsg(2) and ppoll(2).
    Poll,
    /// AF_XDP, in the least mode that any of its interfaces has; and poll beside it.
    Xdp(xdp::XdpMode),
}

/// How long and for how much a reactor is ready to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Wake at the latest after so many nanoseconds; `None` waits for datagrams or the waker.
    pub timeout_ns: Option<u64>,
    /// Wake early only for so many completions (io_uring counts task-work items, one multishot is
    /// one item of up to 32 datagrams); 1 wakes for the first.
    pub want: u32,
    /// After so many nanoseconds wake for a single completion (the kernel's min-wait, Linux 6.12,
    /// in steps of a microsecond); 0 for none, and then `want` has no effect. A waker may have to
    /// wait as long, too.
    pub min_wait_ns: u64,
}

/// What a transport counts since its start; the reactor copies it to its counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransportCounts {
    /// Times that the provided buffers ran out (ENOBUFS).
    pub buffers_exhausted: u64,
    /// Times that a multishot receive ended and was armed anew.
    pub rearmed: u64,
    /// Receive errors, none of them fatal.
    pub errors: u64,
    /// Datagrams longer than [`LONGEST_DATAGRAM`], dropped.
    pub overlong: u64,
    /// System calls made to receive and to wait.
    pub system_calls: u64,
}

/// A transport's receive queues in the kernel, all together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Queues {
    /// An upper bound of the datagrams that wait (`SK_MEMINFO_RMEM_ALLOC`).
    pub waiting: u64,
    /// Datagrams that the kernel dropped since the sockets were made (`SK_MEMINFO_DROPS`).
    pub drops: u64,
}

/// One reactor's receive transport. Used by one thread, which also creates it.
pub trait Backend {
    /// Which path this is.
    fn transport(&self) -> Transport;

    /// Hands each datagram that has arrived to `sink`, without waiting, up to a stated burst, and
    /// returns how many. 0 says that every socket's queue was seen empty during the call.
    ///
    /// The burst is what the buffers hold for io_uring (32 per socket, at least 64), 64 per socket
    /// for poll, and all that its rings hold for AF_XDP. io_uring sees a datagram when the kernel has
    /// announced it, which follows its queueing by some nanoseconds on the core that it arrived at; who
    /// must not miss even that window asks [`queues`](Self::queues), which are then not empty.
    ///
    /// # Errors
    /// Only what ends the transport for good.
    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize>;

    /// The same with each datagram's source: a number for its sender's address ([`SourceOf`]), 0
    /// where that is not told.
    ///
    /// # Errors
    /// As there.
    fn receive_from(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        self.receive(&mut |datagram| sink(datagram, 0))
    }

    /// The same with each datagram's origin: its socket, and its sender's address where that is told.
    ///
    /// # Errors
    /// As there.
    fn receive_with(&mut self, sink: &mut impl FnMut(&[u8], Origin<'_>)) -> io::Result<usize> {
        self.receive(&mut |datagram| sink(datagram, Origin::untold(0)))
    }

    /// Whether [`receive_from`](Self::receive_from) is to tell sources, from one of the next calls
    /// on. Until then, and where a transport cannot, they are 0.
    ///
    /// # Errors
    /// Only what ends the transport for good.
    fn tell_sources(&mut self, _wanted: bool) -> io::Result<()> {
        Ok(())
    }

    /// Waits as `patience` says, or until a [`Waker`] fires. May return early for no reason.
    ///
    /// # Errors
    /// Only what ends the transport for good.
    fn wait(&mut self, patience: Patience) -> io::Result<()>;

    /// The kernel's receive queues as they are now (SO_MEMINFO, and AF_XDP's rings).
    fn queues(&self) -> Queues;

    /// Takes no more datagrams out of the sockets, for good: those that come stay there for whoever
    /// has the sockets next. What had been taken out is still handed on by
    /// [`receive`](Self::receive).
    fn let_go(&mut self);

    /// What the transport counted.
    fn counts(&self) -> TransportCounts;

    /// Wakes another reactor from this reactor's thread (IORING_OP_MSG_RING where both can; that
    /// goes out with this transport's next call into the kernel, in `receive` or `wait`).
    fn wake(&mut self, other: &Waker);

    /// What other threads wake this transport with.
    fn waker(&self) -> Waker;
}

#[cfg(test)]
mod tests;
