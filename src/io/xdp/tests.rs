//! AF_XDP on loopback, in a network namespace of the test's own. The suite over every transport uses
//! it, too; here is what this transport has beyond that.

use super::attach::attach_for;
use super::*;
use crate::io::sockets::bind_group;
use crate::io::sys::check;
use crate::io::{AnyBackend, Inlet, TransportChoice, open};
use std::net::SocketAddr;
use std::process::Command;

/// Moves this thread, and those that it starts from now on, to an empty network with loopback.
pub(in crate::io) fn move_to_own_namespace() -> io::Result<()> {
    // SAFETY: unshare(2) takes no pointer.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("`ip link set lo up` fails")) }
}

fn settings(receive_buffer: usize) -> XdpSettings {
    let interfaces = vec!["lo".parse().expect("a name")];
    let frames = if receive_buffer < 1 << 20 { 64 } else { 8192 };
    XdpSettings { interfaces, mode: None, frames, busy_poll: false, checksum: false }
}

/// One reactor's share of loopback, with as many frames as go with such a receive buffer.
pub(in crate::io) fn on_loopback(
    addresses: &[SocketAddr],
    receive_buffer: usize,
) -> Result<(Attachment, Share), XdpError> {
    let (attachment, mut shares) = attach_for(&settings(receive_buffer), addresses.to_vec(), 1)?;
    Ok((attachment, shares.remove(0)))
}

struct Rig {
    backend: AnyBackend,
    attachment: Attachment,
    /// A second hold on the socket, as somebody's who takes over.
    socket: UdpSocket,
    sender: UdpSocket,
}

/// `None`, with a word why, where AF_XDP cannot be had.
fn rig() -> Option<Rig> {
    if let Err(reason) = move_to_own_namespace() {
        eprintln!("not tested here: {reason}");
        return None;
    }
    let address = "127.0.0.1:0".parse().expect("address");
    let group = bind_group(address, 1, 8 << 20).expect("bind");
    let (attachment, share) = match on_loopback(&[group.address], 8 << 20) {
        Err(reason @ (XdpError::Privilege { .. } | XdpError::Kernel { .. })) => {
            eprintln!("not tested here: {reason}");
            return None;
        }
        attached => attached.expect("attach"),
    };
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    sender.connect(group.address).expect("connect");
    let socket = group.sockets[0].try_clone().expect("a copy");
    let inlet = Inlet { sockets: group.sockets, xdp: Some(share) };
    let backend = open(TransportChoice::Xdp, inlet).expect("open").backend;
    Some(Rig { backend, attachment, socket, sender })
}

impl Rig {
    fn send(&self, numbers: std::ops::Range<u32>) {
        numbers.for_each(|nth| assert_eq!(self.sender.send(&nth.to_le_bytes()).expect("send"), 4));
    }

    fn receive(&mut self) -> Vec<u32> {
        let mut got = Vec::new();
        let mut sink =
            |bytes: &[u8]| got.push(u32::from_le_bytes(bytes.try_into().expect("four bytes")));
        while self.backend.receive(&mut sink).expect("receive") > 0 {}
        got
    }

    /// What is in the UDP socket itself.
    fn in_socket(&self) -> Vec<u32> {
        self.socket.set_nonblocking(true).expect("nonblocking");
        let mut bytes = [0; 4];
        let next = || self.socket.recv(&mut bytes).ok().map(|_| u32::from_le_bytes(bytes));
        std::iter::from_fn(next).collect()
    }
}

#[test]
fn loopback_is_generic_and_datagrams_come_by_the_ring_and_not_by_the_socket() {
    let Some(mut rig) = rig() else { return };
    assert_eq!(rig.backend.transport(), Transport::Xdp(XdpMode::Generic));
    let attached = &rig.attachment.attached[0];
    assert_eq!((attached.queues, attached.mode), (1, XdpMode::Generic));
    assert!(attached.not_native.is_some(), "why not is told");
    rig.send(0..100);
    assert!(rig.in_socket().is_empty());
    assert!(rig.receive().into_iter().eq(0..100));
}

#[test]
fn what_had_arrived_when_it_lets_go_is_handed_on_and_what_comes_then_is_the_heirs() {
    let Some(mut rig) = rig() else { return };
    rig.send(0..100);
    rig.backend.let_go();
    rig.send(100..200);
    assert_eq!(rig.receive(), Vec::from_iter(0..100));
    assert_eq!(rig.in_socket(), Vec::from_iter(100..200));
}

#[test]
fn without_its_program_everything_comes_by_the_socket() {
    let Some(mut rig) = rig() else { return };
    rig.send(0..10);
    rig.attachment.links.clear();
    rig.send(10..20);
    assert!(rig.receive().into_iter().eq(0..20));
}

#[test]
fn the_length_that_was_told_is_handed_on_before_what_comes_later() {
    let Some(mut rig) = rig() else { return };
    // Too long for a frame, so they come by the socket.
    let long = vec![0; 1_900];
    for _ in 0..200 {
        rig.sender.send(&long).expect("send");
    }
    rig.send(0..50);
    let mut left = rig.backend.queues().waiting;
    assert!(left >= 250, "{left}");
    let mut longs = 0;
    let mut shorts = 0;
    while longs < 200 {
        // A flood by the ring meanwhile.
        rig.send(0..400);
        let mut long_now = 0;
        let mut sink = |bytes: &[u8]| match bytes.len() {
            4 => shorts += 1,
            _ => long_now += 1,
        };
        let count = rig.backend.receive(&mut sink).expect("receive") as u64;
        longs += long_now;
        assert!(left > 0, "{longs} of 200 when all that was told had been handed on");
        left = left.saturating_sub(count);
    }
    assert_eq!((longs, shorts), (200, 50));
}

#[test]
fn an_interface_that_is_not_there_is_said_before_all_else() {
    let settings =
        XdpSettings { interfaces: vec!["nope0".parse().expect("a name")], ..settings(0) };
    // No address that an interface could bring, either.
    let loopback = ["127.0.0.1:9".parse().expect("address")];
    let Err(error) = attach(&settings, &loopback, 1) else { panic!("nope0 is there") };
    let text = error.to_string();
    let names = text.strip_prefix("there is no interface nope0: choose one of ").expect(&text);
    assert!(names.split(", ").any(|name| name == "lo"), "{text}");
}

#[test]
fn a_queue_and_an_interface_have_one_owner() {
    let Some(rig) = rig() else { return };
    let address: SocketAddr = "127.0.0.1:9".parse().expect("address");
    let Err(error) = on_loopback(&[address], 8 << 20) else { panic!("two programs at once") };
    assert!(matches!(error, XdpError::OtherProgram { .. }), "{error}");
    let Rig { backend, attachment, .. } = rig;
    drop(attachment);
    let Err(error) = on_loopback(&[address], 8 << 20) else { panic!("two sockets on a queue") };
    assert!(matches!(error, XdpError::QueueTaken { queue: 0, .. }), "{error}");
    drop(backend);
    on_loopback(&[address], 8 << 20).map(drop).expect("both are free again");
}

#[test]
fn busy_polling_and_checksums_bring_the_same() {
    if rig().is_none() {
        return;
    }
    let group = bind_group("127.0.0.1:0".parse().expect("address"), 1, 8 << 20).expect("bind");
    let address = group.address;
    // Loopback fills no checksum in, so with the check everything is refused, and counted.
    let settings = XdpSettings { busy_poll: true, checksum: true, ..settings(8 << 20) };
    let (_attachment, mut shares) =
        attach_for(&settings, vec![address], 1).expect("the first is gone with its rig");
    let inlet = Inlet { sockets: group.sockets, xdp: Some(shares.remove(0)) };
    let mut backend = open(TransportChoice::Xdp, inlet).expect("open").backend;
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    let send = |checked: libc::c_int| {
        crate::io::sys::set_option(&sender, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1 - checked)
            .expect("a plain option");
        sender.send_to(&[7; 33], address).expect("send");
    };
    (0..3).for_each(|_| send(1));
    (0..5).for_each(|_| send(0));
    let mut got = 0;
    let before = backend.counts().system_calls;
    while backend.receive(&mut |_| got += 1).expect("receive") > 0 {}
    assert_eq!((got, backend.counts().errors), (5, 3));
    assert!(backend.counts().system_calls >= before + 2, "an empty ring is driven");
}
