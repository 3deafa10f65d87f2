//! What a completion means, as a pure function: no ring, no buffer, no side effect.
//!
//! A multishot request posts completions until one comes without the "more" flag; that one ends
//! it, whatever else it says, and the request must be armed anew or its socket is deaf for ever.
//! The other question, whether a buffer came with it, is likewise asked of every completion, so
//! that no error path can leak one.

use io_uring::cqueue;

/// Which request a completion belongs to, carried through the kernel as its user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// The multishot receive of our n-th socket.
    Receive(u32),
    /// The same with the sender's address.
    ReceiveFrom(u32),
    /// Our cancelling of one of these, to arm the other.
    Cancel,
    /// The multishot poll of the waker's eventfd.
    Event,
    /// A message from another ring: it wakes us.
    Message,
    /// Our message to another ring; reported only when it failed.
    Told,
}

const RECEIVE: u64 = 1;
const EVENT: u64 = 2;
const MESSAGE: u64 = 3;
const TOLD: u64 = 4;
const RECEIVE_FROM: u64 = 5;
const CANCEL: u64 = 6;

impl Operation {
    /// As user data: the kind in the upper half, the socket in the lower.
    pub(super) fn to_user_data(self) -> u64 {
        match self {
            Self::Receive(socket) => RECEIVE << 32 | u64::from(socket),
            Self::ReceiveFrom(socket) => RECEIVE_FROM << 32 | u64::from(socket),
            Self::Cancel => CANCEL << 32,
            Self::Event => EVENT << 32,
            Self::Message => MESSAGE << 32,
            Self::Told => TOLD << 32,
        }
    }

    /// The socket of a receive; 0 for the others.
    pub(super) fn socket(self) -> usize {
        match self {
            Self::Receive(socket) | Self::ReceiveFrom(socket) => socket as usize,
            _ => 0,
        }
    }

    /// Back from user data; `None` for what we never submitted.
    pub(super) fn from_user_data(data: u64) -> Option<Self> {
        Some(match data >> 32 {
            RECEIVE => Self::Receive(data as u32),
            RECEIVE_FROM => Self::ReceiveFrom(data as u32),
            CANCEL => Self::Cancel,
            EVENT => Self::Event,
            MESSAGE => Self::Message,
            TOLD => Self::Told,
            _ => return None,
        })
    }
}

/// What to do about a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decision {
    /// The buffer that came with it and must be given back in any case.
    pub(super) buffer: Option<u16>,
    /// What it brought.
    pub(super) outcome: Outcome,
    /// The request has ended and is to be armed anew, after the buffers were given back.
    pub(super) rearm: bool,
}

/// What a completion brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// A whole datagram of so many bytes (0 is one, too).
    Datagram(usize),
    /// A datagram that filled its buffer, so it may have been cut: drop and count it.
    Overlong,
    /// All buffers are in use; the datagrams wait in the socket, nothing is lost.
    BuffersExhausted,
    /// Nothing to hand on.
    Nothing,
    /// Our message did not reach the other ring.
    Untold,
    /// A passing failure, with its errno: count it.
    Failed(i32),
    /// With this errno the transport cannot go on.
    Fatal(i32),
}

/// Decides on a completion's result and flags; a datagram of `buffer_bytes` counts as cut.
pub(super) fn decide(
    operation: Operation,
    result: i32,
    flags: u32,
    buffer_bytes: usize,
) -> Decision {
    let ended = !cqueue::more(flags);
    let buffer = cqueue::buffer_select(flags);
    let decision = |outcome| {
        let rearm = ended && !matches!(outcome, Outcome::Fatal(_));
        Decision { buffer, outcome, rearm }
    };
    match operation {
        Operation::Receive(_) | Operation::ReceiveFrom(_) => {
            decision(receive_outcome(result, buffer, buffer_bytes))
        }
        Operation::Event => decision(failure(result).unwrap_or(Outcome::Nothing)),
        // Single requests: they are never armed anew. What was to be cancelled may have ended before.
        Operation::Message | Operation::Cancel => {
            Decision { buffer, outcome: Outcome::Nothing, rearm: false }
        }
        Operation::Told if result < 0 => {
            Decision { buffer, outcome: Outcome::Untold, rearm: false }
        }
        Operation::Told => Decision { buffer, outcome: Outcome::Nothing, rearm: false },
    }
}

fn receive_outcome(result: i32, buffer: Option<u16>, buffer_bytes: usize) -> Outcome {
    if let Some(outcome) = failure(result) {
        return outcome;
    }
    match (result as usize, buffer) {
        (0, _) => Outcome::Datagram(0),
        (length, _) if length >= buffer_bytes => Outcome::Overlong,
        (length, Some(_)) => Outcome::Datagram(length),
        // Bytes without a buffer to find them in: the kernel and we disagree.
        (_, None) => Outcome::Fatal(libc::EBADMSG),
    }
}

/// What a negative result means; `None` for a success.
fn failure(result: i32) -> Option<Outcome> {
    if result >= 0 {
        return None;
    }
    Some(match -result {
        libc::ENOBUFS => Outcome::BuffersExhausted,
        // Ended for a reason outside of the socket: a signal, a cancellation, a timeout, a poll
        // that found nothing after all. Not worth a count, only a new start.
        libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ETIME => Outcome::Nothing,
        // The request itself is wrong, or its socket is no socket: it would fail for ever.
        errno @ (libc::EBADF
        | libc::EFAULT
        | libc::EINVAL
        | libc::ENOSYS
        | libc::ENOTCONN
        | libc::ENOTSOCK
        | libc::EOPNOTSUPP
        | libc::EPERM) => Outcome::Fatal(errno),
        // Errors that the socket reports once (from ICMP, a link that went down) and memory
        // pressure.
        errno => Outcome::Failed(errno),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IORING_CQE_F_BUFFER with a buffer id in the upper half.
    fn with_buffer(id: u16) -> u32 {
        1 | u32::from(id) << 16
    }
    /// IORING_CQE_F_MORE.
    const MORE: u32 = 2;
    const BYTES: usize = 2048;

    #[track_caller]
    fn check(operation: Operation, result: i32, flags: u32, outcome: Outcome, rearm: bool) {
        let decision = decide(operation, result, flags, BYTES);
        assert_eq!(decision.outcome, outcome);
        assert_eq!(decision.rearm, rearm);
        assert_eq!(decision.buffer, cqueue::buffer_select(flags), "no path loses a buffer");
    }

    #[test]
    fn scripted_receives() {
        let receive = Operation::Receive(3);
        check(receive, 32, with_buffer(7) | MORE, Outcome::Datagram(32), false);
        // The last of a multishot still carries its datagram (a full completion queue ends it).
        check(receive, 32, with_buffer(7), Outcome::Datagram(32), true);
        // The kernel ends a multishot at a zero-length datagram, with or without a buffer.
        check(receive, 0, with_buffer(0), Outcome::Datagram(0), true);
        check(receive, 0, 0, Outcome::Datagram(0), true);
        check(receive, 2047, with_buffer(1) | MORE, Outcome::Datagram(2047), false);
        check(receive, 2048, with_buffer(1) | MORE, Outcome::Overlong, false);
        check(receive, 2048, with_buffer(1), Outcome::Overlong, true);
        check(receive, -libc::ENOBUFS, 0, Outcome::BuffersExhausted, true);
        check(receive, -libc::ECANCELED, 0, Outcome::Nothing, true);
        check(receive, -libc::EINTR, 0, Outcome::Nothing, true);
        check(receive, -libc::ETIME, 0, Outcome::Nothing, true);
        check(receive, -libc::EAGAIN, with_buffer(9), Outcome::Nothing, true);
        check(receive, -libc::ENOMEM, 0, Outcome::Failed(libc::ENOMEM), true);
        check(receive, -libc::ECONNREFUSED, 0, Outcome::Failed(libc::ECONNREFUSED), true);
        check(receive, -libc::EBADF, 0, Outcome::Fatal(libc::EBADF), false);
        check(receive, -libc::EINVAL, 0, Outcome::Fatal(libc::EINVAL), false);
        check(receive, 32, MORE, Outcome::Fatal(libc::EBADMSG), false);
    }

    #[test]
    fn scripted_wakes() {
        let readable = i32::from(libc::POLLIN);
        check(Operation::Event, readable, MORE, Outcome::Nothing, false);
        check(Operation::Event, readable, 0, Outcome::Nothing, true);
        check(Operation::Event, -libc::ECANCELED, 0, Outcome::Nothing, true);
        check(Operation::Event, -libc::EBADF, 0, Outcome::Fatal(libc::EBADF), false);
        check(Operation::Message, 0, 0, Outcome::Nothing, false);
        check(Operation::Cancel, 0, 0, Outcome::Nothing, false);
        check(Operation::Cancel, -libc::ENOENT, 0, Outcome::Nothing, false);
        check(Operation::Told, 0, 0, Outcome::Nothing, false);
        check(Operation::Told, -libc::EBADFD, 0, Outcome::Untold, false);
    }

    #[test]
    fn every_ended_request_is_armed_anew_or_fatal() {
        for errno in 1..134 {
            for flags in [0, MORE, with_buffer(5), with_buffer(5) | MORE] {
                let from = Operation::ReceiveFrom(0);
                for operation in [Operation::Receive(0), from, Operation::Event] {
                    let decision = decide(operation, -errno, flags, BYTES);
                    let fatal = matches!(decision.outcome, Outcome::Fatal(_));
                    assert_eq!(decision.rearm || fatal, flags & MORE == 0 || fatal);
                    assert_eq!(decision.buffer, cqueue::buffer_select(flags));
                }
            }
        }
    }

    #[test]
    fn user_data_is_read_back() {
        let operations = [
            Operation::Receive(0),
            Operation::Receive(u32::MAX),
            Operation::ReceiveFrom(7),
            Operation::Cancel,
            Operation::Event,
            Operation::Message,
            Operation::Told,
        ];
        for operation in operations {
            assert_eq!(Operation::from_user_data(operation.to_user_data()), Some(operation));
        }
        assert_eq!(Operation::from_user_data(0), None);
        assert_eq!(Operation::from_user_data(u64::MAX), None);
    }
}
