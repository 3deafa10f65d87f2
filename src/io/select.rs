//! Choosing the transport: io_uring where it works, poll where it does not, and the reason said. AF_XDP
//! is taken where the interfaces were attached to, which nobody does unasked.

use super::poll::PollBackend;
use super::uring::{Unavailable, UringBackend, UringPlan};
use super::xdp::{self, XdpBackend, XdpMode};
use super::{Backend, Origin, Patience, Queues, Transport, TransportCounts, Waker};
use std::fmt;
use std::io;
use std::net::UdpSocket;

/// Which transport the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransportChoice {
    /// AF_XDP if an interface is named and it can be used, else io_uring, else poll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// recvmmsg and ppoll.
    Poll,
    /// AF_XDP on the interfaces that are named, or nothing.
    Xdp,
}

impl TransportChoice {
    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Poll => "poll",
            Self::Xdp => "xdp",
        }
    }
}

impl fmt::Display for TransportChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Transport {
    /// Its name in settings, logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Poll => "poll",
            Self::Xdp(XdpMode::Generic) => "xdp-generic",
            Self::Xdp(XdpMode::Native) => "xdp-native",
            Self::Xdp(XdpMode::ZeroCopy) => "xdp-zero-copy",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// io_uring was asked for and cannot be used.
    #[error("{0}; choose transport auto or poll, which needs no io_uring")]
    Unavailable(#[from] Unavailable),
    /// Not even poll could be set up.
    #[error("setting up the receive transport: {0}")]
    System(#[from] io::Error),
}

/// What one reactor receives from.
pub struct Inlet {
    /// Its socket of each listen address.
    pub sockets: Vec<UdpSocket>,
    /// Its queues, where interfaces are attached to.
    pub xdp: Option<xdp::Share>,
}

impl From<Vec<UdpSocket>> for Inlet {
    fn from(sockets: Vec<UdpSocket>) -> Self {
        Self { sockets, xdp: None }
    }
}

/// An opened transport, and why it is not the better one.
pub struct Opened {
    /// The transport.
    pub backend: AnyBackend,
    /// Why poll was taken although `auto` prefers io_uring; one line.
    pub fallback: Option<Unavailable>,
}

/// Opens a transport on an inlet, to be used by this thread only. Where there are queues, it is
/// AF_XDP, whatever the choice.
///
/// # Errors
/// See [`OpenError`].
pub fn open(choice: TransportChoice, inlet: impl Into<Inlet>) -> Result<Opened, OpenError> {
    let Inlet { sockets, xdp } = inlet.into();
    if let Some(share) = xdp {
        let backend = AnyBackend::Xdp(Box::new(XdpBackend::new(share, sockets)?));
        return Ok(Opened { backend, fallback: None });
    }
    if choice == TransportChoice::Poll {
        let backend = AnyBackend::Poll(Box::new(PollBackend::new(sockets)?));
        return Ok(Opened { backend, fallback: None });
    }
    let plan = UringPlan::for_sockets(sockets.len());
    match UringBackend::new(sockets, plan) {
        Ok(backend) => Ok(Opened { backend: AnyBackend::Uring(Box::new(backend)), fallback: None }),
        Err((_, reason)) if choice == TransportChoice::Uring => Err(reason.into()),
        Err((sockets, reason)) => {
            let backend = AnyBackend::Poll(Box::new(PollBackend::new(sockets)?));
            Ok(Opened { backend, fallback: Some(reason) })
        }
    }
}

/// Any transport. A reactor that matches once and is generic over [`Backend`] has no branch in
/// its loop; one that uses this directly has one per call, not per datagram.
pub enum AnyBackend {
    /// io_uring.
    Uring(Box<UringBackend>),
    /// recvmmsg and ppoll.
    Poll(Box<PollBackend>),
    /// AF_XDP.
    Xdp(Box<XdpBackend>),
}

macro_rules! each {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            Self::Uring($backend) => $call,
            Self::Poll($backend) => $call,
            Self::Xdp($backend) => $call,
        }
    };
}

impl Backend for AnyBackend {
    fn transport(&self) -> Transport {
        each!(self, backend => backend.transport())
    }

    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        each!(self, backend => backend.receive(sink))
    }

    fn receive_from(&mut self, sink: &mut impl FnMut(&[u8], u32)) -> io::Result<usize> {
        each!(self, backend => backend.receive_from(sink))
    }

    fn receive_with(&mut self, sink: &mut impl FnMut(&[u8], Origin<'_>)) -> io::Result<usize> {
        each!(self, backend => backend.receive_with(sink))
    }

    fn tell_sources(&mut self, wanted: bool) -> io::Result<()> {
        each!(self, backend => backend.tell_sources(wanted))
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        each!(self, backend => backend.wait(patience))
    }

    fn queues(&self) -> Queues {
        each!(self, backend => backend.queues())
    }

    fn let_go(&mut self) {
        each!(self, backend => backend.let_go())
    }

    fn counts(&self) -> TransportCounts {
        each!(self, backend => backend.counts())
    }

    fn wake(&mut self, other: &Waker) {
        each!(self, backend => backend.wake(other))
    }

    fn waker(&self) -> Waker {
        each!(self, backend => backend.waker())
    }
}
