//! io_uring: one multishot receive per socket into a ring of lent buffers, no system call per
//! datagram.
//!
//! ```text
//!   arm once ──▶ kernel: recv, recv, recv … ──▶ completions ──▶ decide ──▶ sink
//!      ▲            ▲          (only inside our own enter)         │
//!      │            └──────────── buffers ◀── lease dropped ◀──────┤
//!      └──────────────────────── ended: arm anew ◀─────────────────┘
//! ```
//!
//! `setup` makes the ring, `buffers` lends and leases, `reap` decides what a completion means;
//! here it is acted upon. One enter runs up to 32 receives of each socket that has something, so
//! its cost vanishes among them, and a look that finds nothing reads two words of shared memory.
//!
//! Invariants:
//! - Each socket always has its multishot receive in flight, or on the list to be armed anew.
//! - What is to be submitted goes out with the next enter, at the latest with the next
//!   [`receive`](Backend::receive) that finds no completion, or with the next wait.
//! - Datagrams of one socket are handed on in the order in which the kernel queued them. A full
//!   completion queue does not break it: the kernel then holds back later completions, too.
//!
//! **Addresses** cost about 50 ns a datagram, so they are asked for only while somebody wants them:
//! the receive in flight is cancelled, and what ends is armed anew as the other kind. Meanwhile
//! datagrams of either kind come; each completion says which it is.
//!
//! Absent on purpose: SQPOLL (loses on few cores), timestamps of the datagrams (they cost about 80 ns
//! each), registered files (a receive looks its file up when it is armed).

mod buffers;
mod reap;
mod setup;

pub use buffers::BufferPlan;
pub use setup::{Unavailable, UringPlan};

use super::meminfo::QueueMeter;
use super::source::{NAME_BYTES, Origin, SourceOf};
use super::{Backend, Patience, Queues, Transport, TransportCounts, Waker};
use buffers::BufferRing;
use io_uring::types::{CancelBuilder, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use reap::{Operation, Outcome, decide};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// So many receives in a row that end without a datagram stop the transport: it would only spin.
const FAILURES_IN_A_ROW: u32 = 1024;

/// For "no timeout": the kernel's min-wait needs some general timeout, or it wakes at its end even
/// when nothing has come.
const LONG_NS: u64 = 3_600_000_000_000;

/// The longest that dropping the transport waits for the kernel to let go of the sockets.
const CANCEL_TIMEOUT: Timespec = Timespec::new().sec(1);

/// The io_uring transport.
pub struct UringBackend {
    // Field order is drop order: the ring goes before the memory that it may write to.
    ring: IoUring,
    buffers: BufferRing,
    sockets: Vec<UdpSocket>,
    waker: Waker,
    /// Whom we ever sent a message to, for when messages turn out not to work.
    told: Vec<Waker>,
    messages_work: bool,
    /// What a receive with addresses is to tell: a name of so many bytes, no control data.
    wanted: Box<libc::msghdr>,
    tells_sources: bool,
    /// Requests that have ended and are to be armed anew.
    ended: Vec<Operation>,
    failures: u32,
    /// Nothing is armed any more.
    letting_go: bool,
    counts: TransportCounts,
    queues: QueueMeter,
}

impl UringBackend {
    /// Receives from `sockets`, which are handed back when io_uring cannot be used.
    ///
    /// # Errors
    /// [`Unavailable`], with the sockets.
    pub fn new(
        sockets: Vec<UdpSocket>,
        plan: UringPlan,
    ) -> Result<Self, (Vec<UdpSocket>, Unavailable)> {
        // Room for all to be armed anew and a message for each core that there may be.
        let parts = match setup::build(plan, sockets.len() + 64) {
            Ok(parts) => parts,
            Err(reason) => return Err((sockets, reason)),
        };
        let waker = match Waker::new() {
            Ok(waker) => waker,
            Err(error) => return Err((sockets, Unavailable::of("eventfd", &error))),
        };
        waker.set_ring(Some(parts.ring.as_raw_fd()));
        let mut ended: Vec<_> = (0..sockets.len() as u32).map(Operation::Receive).collect();
        ended.push(Operation::Event);
        let mut backend = Self {
            ring: parts.ring,
            buffers: parts.buffers,
            sockets,
            waker,
            told: Vec::new(),
            messages_work: true,
            wanted: Box::new(wanted()),
            tells_sources: false,
            ended,
            failures: 0,
            letting_go: false,
            counts: TransportCounts::default(),
            queues: QueueMeter::default(),
        };
        match backend.arm().and_then(|()| backend.enter(0, EnterFlags::GETEVENTS, None)) {
            Ok(()) => Ok(backend),
            Err(error) => {
                let sockets = std::mem::take(&mut backend.sockets);
                Err((sockets, Unavailable::of("io_uring_enter", &error)))
            }
        }
    }

    /// Acts on all completions that are there; returns how many datagrams were handed on.
    ///
    /// Per completion: one decision, the datagram's bytes straight from the buffer, and the buffer
    /// back, on every path.
    fn reap(&mut self, sink: &mut impl FnMut(&[u8], Origin<'_>)) -> io::Result<usize> {
        let mut handed = 0;
        let mut fatal = None;
        let buffer_bytes = self.buffers.buffer_bytes();
        for completion in self.ring.completion() {
            let Some(operation) = Operation::from_user_data(completion.user_data()) else {
                continue;
            };
            let decision = decide(operation, completion.result(), completion.flags(), buffer_bytes);
            let lease = decision.buffer.map(|id| self.buffers.lease(id));
            match decision.outcome {
                Outcome::Datagram(length) => {
                    let bytes = lease.as_ref().map_or(&[][..], |lease| lease.bytes(length));
                    self.failures = 0;
                    let socket = operation.socket();
                    if let Operation::Receive(_) = operation {
                        sink(bytes, Origin::untold(socket));
                        handed += 1;
                    } else if let Ok(told) = RecvMsgOut::parse(bytes, &self.wanted)
                        && !told.is_payload_truncated()
                    {
                        sink(told.payload_data(), Origin::new(socket, told.name_data()));
                        handed += 1;
                    } else {
                        self.counts.overlong += 1;
                    }
                }
                Outcome::Overlong => self.counts.overlong += 1,
                Outcome::BuffersExhausted => self.counts.buffers_exhausted += 1,
                Outcome::Nothing => {}
                Outcome::Untold => {
                    self.messages_work = false;
                    self.told.iter().for_each(Waker::write_event);
                }
                Outcome::Failed(_) => self.counts.errors += 1,
                Outcome::Fatal(errno) => fatal = Some(errno),
            }
            if decision.rearm {
                self.ended.push(operation);
                self.counts.rearmed += 1;
                self.failures += 1;
            }
        }
        if let Some(errno) = fatal {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if self.failures > FAILURES_IN_A_ROW {
            return Err(io::Error::other("receiving fails again and again, with no datagram"));
        }
        self.arm()?;
        Ok(handed)
    }

    /// Queues what has ended, to be submitted with the next enter.
    fn arm(&mut self) -> io::Result<()> {
        if self.letting_go {
            self.ended.clear();
        }
        while let Some(operation) = self.ended.pop() {
            let entry = match operation {
                Operation::Receive(socket) | Operation::ReceiveFrom(socket) => {
                    self.receive_entry(socket)
                }
                Operation::Event => {
                    opcode::PollAdd::new(Fd(self.waker.event()), libc::POLLIN as u32)
                        .multi(true)
                        .build()
                        .user_data(operation.to_user_data())
                }
                Operation::Message | Operation::Told | Operation::Cancel => continue,
            };
            self.push(entry)?;
        }
        Ok(())
    }

    /// The receive of a socket, of the kind that is wanted now.
    fn receive_entry(&self, socket: u32) -> squeue::Entry {
        let fd = Fd(self.sockets[socket as usize].as_raw_fd());
        if self.tells_sources {
            let entry = opcode::RecvMsgMulti::new(fd, &raw const *self.wanted, buffers::GROUP);
            entry.build().user_data(Operation::ReceiveFrom(socket).to_user_data())
        } else {
            let entry = opcode::RecvMulti::new(fd, buffers::GROUP);
            entry.build().user_data(Operation::Receive(socket).to_user_data())
        }
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: our entries point to `wanted` at most, which lives as long as the ring, as do
        // sockets, eventfd and buffers.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.enter(0, EnterFlags::empty(), None)?;
        }
        Ok(())
    }

    /// Submits what is queued and, with GETEVENTS, runs the receives that are due.
    ///
    /// Written out, since the crate's own submit runs no deferred work when it wants none.
    fn enter(
        &mut self,
        want: u32,
        flags: EnterFlags,
        args: Option<&SubmitArgs<'_, '_>>,
    ) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        self.counts.system_calls += 1;
        // SAFETY: `args`, when given, is what EXT_ARG says, and lives through the call.
        let entered = unsafe { self.ring.submitter().enter(queued, want, flags.bits(), args) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The time is up, a signal came, or completions must be reaped first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn tell(&mut self, other: &Waker, ring: i32) -> io::Result<()> {
        if !self.told.iter().any(|told| told.same(other)) {
            self.told.push(other.clone());
        }
        let entry = opcode::MsgRingData::new(Fd(ring), 0, Operation::Message.to_user_data(), None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Operation::Told.to_user_data());
        self.push(entry)
    }
}

impl Backend for UringBackend {
    fn transport(&self) -> Transport {
        Transport::Uring
    }

    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        self.receive_from(&mut |datagram, _| sink(datagram))
    }

    fn tell_sources(&mut self, wanted: bool) -> io::Result<()> {
        if self.tells_sources == wanted {
            return Ok(());
        }
        self.tells_sources = wanted;
        for socket in 0..self.sockets.len() as u32 {
            let other =
                if wanted { Operation::Receive(socket) } else { Operation::ReceiveFrom(socket) };
            let cancel = opcode::AsyncCancel::new(other.to_user_data()).build();
            self.push(cancel.user_data(Operation::Cancel.to_user_data()))?;
        }
        Ok(())
    }

    fn receive_from(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        let source_of = SourceOf::process();
        self.receive_with(&mut |datagram, origin| sink(datagram, origin.number(source_of)))
    }

    fn receive_with(&mut self, sink: &mut impl FnMut(&[u8], Origin<'_>)) -> io::Result<usize> {
        let mut looked = false;
        loop {
            let handed = self.reap(sink)?;
            if handed > 0 {
                return Ok(handed);
            }
            let queue = self.ring.submission();
            let must_enter = !queue.is_empty() || queue.cq_overflow();
            // One enter runs all the deferred work that there is. The flag may stay up without any:
            // the kernel raises it after it has queued the work, and by then we may have run it.
            if !must_enter && (looked || !queue.taskrun()) {
                return Ok(0);
            }
            drop(queue);
            self.enter(0, EnterFlags::GETEVENTS, None)?;
            looked = true;
        }
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        if self.waker.take() || patience.timeout_ns == Some(0) {
            return Ok(());
        }
        // Deferred work needs no look: the kernel runs it before it lets us sleep, and the flag that
        // announces it may be up without any (see `receive`).
        if !self.ring.completion().is_empty() {
            return Ok(());
        }
        let timeout_ns = patience.timeout_ns.unwrap_or(LONG_NS);
        let timeout = Timespec::from(Duration::from_nanos(timeout_ns));
        let mut args = SubmitArgs::new().timespec(&timeout);
        let min_wait_us = patience.min_wait_ns.min(timeout_ns) / 1000;
        let mut want = 1;
        // Wanting more than one without a min-wait would sleep through everything that arrives
        // until the timeout: the kernel counts task-work items, and a multishot is only one.
        if patience.want > 1 && min_wait_us > 0 && self.ring.params().is_feature_min_timeout() {
            want = patience.want;
            args = args.min_wait_usec(min_wait_us as u32);
        }
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if self.ring.params().is_feature_no_iowait() {
            // A reactor that waits for the network is idle, not waiting for a disk.
            flags |= EnterFlags::NO_IOWAIT;
        }
        self.enter(want, flags, Some(&args))?;
        self.waker.take();
        Ok(())
    }

    fn queues(&self) -> Queues {
        self.queues.read(&self.sockets)
    }

    fn let_go(&mut self) {
        self.letting_go = true;
        let submitter = self.ring.submitter();
        let _ = submitter.register_sync_cancel(Some(CANCEL_TIMEOUT), CancelBuilder::any());
        let _ = self.enter(0, EnterFlags::GETEVENTS, None);
    }

    fn counts(&self) -> TransportCounts {
        self.counts
    }

    /// A message to the other's ring, where it has one: it goes out with our next enter, so it
    /// costs no system call of its own.
    fn wake(&mut self, other: &Waker) {
        match other.ring() {
            Some(ring) if self.messages_work && !other.same(&self.waker) => {
                if other.raise() && self.tell(other, ring).is_err() {
                    other.write_event();
                }
            }
            _ => other.wake(),
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for UringBackend {
    /// Lets go of the sockets at once, rather than whenever the kernel tidies the ring up. It does
    /// so only in the thread that made the transport; in another one the kernel refuses, and
    /// nothing worse follows, since it writes to our buffers in that thread's enters only.
    fn drop(&mut self) {
        self.waker.set_ring(None);
        let submitter = self.ring.submitter();
        let _ = submitter.register_sync_cancel(Some(CANCEL_TIMEOUT), CancelBuilder::any());
        let _ = submitter.unregister_buf_ring(buffers::GROUP);
        let _ = self.enter(0, EnterFlags::GETEVENTS, None);
    }
}

/// Asks for an address and nothing else.
fn wanted() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr: null pointers and lengths of 0.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_BYTES as libc::socklen_t;
    header
}

#[cfg(test)]
mod tests;
