//! Receive transports: datagrams in, without waiting, and a way to wait.
//!
//! The contract is [`Backend`]; `uring` and `poll` keep it. A transport knows sockets and buffers,
//! never what is in a datagram (but for the peer id's offset, which the kernel steers by).

use std::io;

/// Which receive path the datagrams take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// io_uring multishot receive into a provided buffer ring.
    Uring,
    /// recvmmsg(2) and ppoll(2).
    Poll,
}

/// How long and for how much a reactor is ready to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Wake at the latest after so many nanoseconds; `None` waits for datagrams or the waker.
    pub timeout_ns: Option<u64>,
    /// Wake early only for so many completions (io_uring counts task-work items, one multishot is
    /// one item of up to 32 datagrams); 1 wakes for the first.
    pub want: u32,
    /// After so many nanoseconds wake for a single completion (the kernel's min-wait); 0 for none.
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
}

/// One reactor's receive transport. Used by one thread, which also creates it.
pub trait Backend {
    /// Which path this is.
    fn transport(&self) -> Transport;

    /// Hands each datagram that has arrived to `sink`, without waiting, up to a stated burst, and
    /// returns how many. 0 says that every socket's queue was seen empty during the call.
    ///
    /// # Errors
    /// Only what ends the transport for good.
    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize>;

    /// Waits as `patience` says, or until a [`Waker`] fires. May return early for no reason.
    ///
    /// # Errors
    /// Only what ends the transport for good.
    fn wait(&mut self, patience: Patience) -> io::Result<()>;

    /// An upper bound of the datagrams that wait in the kernel's receive queues now (SO_MEMINFO).
    fn backlog(&self) -> u64;

    /// Datagrams that the kernel dropped since the sockets were made (SO_MEMINFO, `SK_MEMINFO_DROPS`).
    fn kernel_drops(&self) -> u64;

    /// What the transport counted.
    fn counts(&self) -> TransportCounts;

    /// Wakes another reactor from this reactor's thread (IORING_OP_MSG_RING where both can).
    fn wake(&mut self, other: &Waker);

    /// What other threads wake this transport with.
    fn waker(&self) -> Waker;
}

/// Wakes a reactor out of [`Backend::wait`], from any thread. Cheap to clone.
/// (CONTRACT SKELETON: owner = io helper; holds an eventfd and, for uring, the ring's fd.)
#[derive(Clone, Debug)]
pub struct Waker {}

impl Waker {
    /// A waker of nobody.
    #[cfg(test)]
    pub fn for_tests() -> Waker {
        Waker {}
    }

    /// Wakes the reactor. Safe at any time, also when it is not waiting or has ended.
    pub fn wake(&self) {
        todo!()
    }
}
