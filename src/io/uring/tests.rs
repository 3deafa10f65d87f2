//! What only the real ring can show: exhausted buffers, a full completion queue, messages to rings
//! that are gone, and a kernel that says no.

use super::*;
use crate::io::sockets::bind_group;
use crate::io::{OpenError, TransportChoice, open};
use std::net::SocketAddr;

fn loopback(sockets: usize) -> (Vec<UdpSocket>, Vec<SocketAddr>) {
    let any = "127.0.0.1:0".parse().expect("address");
    (0..sockets)
        .map(|_| bind_group(any, 1, 4 << 20).expect("bind"))
        .map(|mut group| (group.sockets.remove(0), group.address))
        .unzip()
}

/// `None`, with a word why, where io_uring is forbidden.
fn backend(sockets: Vec<UdpSocket>, buffers: u16, completions: u32) -> Option<UringBackend> {
    let buffers = BufferPlan { count: buffers, bytes: 256 };
    match UringBackend::new(sockets, UringPlan { buffers, completions }) {
        Ok(backend) => Some(backend),
        Err((_, reason)) => {
            eprintln!("not tested here: {reason}");
            None
        }
    }
}

/// Sends a numbered burst to each socket in turn and checks that each arrives in order.
fn check_bursts(buffers: u16, completions: u32, sockets: usize) -> Option<TransportCounts> {
    const BURST: u32 = 500;
    let (ours, addresses) = loopback(sockets);
    let mut backend = backend(ours, buffers, completions)?;
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    for turn in 0..3 {
        for nth in 0..BURST {
            for (socket, address) in addresses.iter().enumerate() {
                let words = [socket as u32, turn * BURST + nth];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                sender.send_to(&bytes, address).expect("send");
            }
        }
        let mut expected = vec![turn * BURST; sockets];
        let mut sink = |bytes: &[u8]| {
            let word = |at| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
            let next = &mut expected[word(0) as usize];
            assert_eq!(word(4), *next, "{buffers} buffers, {completions} completions");
            *next += 1;
        };
        while backend.receive(&mut sink).expect("receive") > 0 {}
        assert_eq!(expected, vec![(turn + 1) * BURST; sockets]);
        assert_eq!(backend.queues().waiting, 0);
    }
    Some(backend.counts())
}

#[test]
fn exhausted_buffers_end_the_receive_and_lose_nothing() {
    for buffers in [1, 2, 16] {
        let Some(counts) = check_bursts(buffers, 1024, 1) else { return };
        assert!(counts.buffers_exhausted > 0 && counts.rearmed > 0, "{counts:?}");
        assert_eq!(counts.errors, 0);
        check_bursts(buffers, 1024, 5);
    }
}

#[test]
fn a_full_completion_queue_loses_nothing_and_keeps_the_order() {
    for completions in [2, 4, 32] {
        let Some(counts) = check_bursts(256, completions, 1) else { return };
        assert_eq!(counts.errors, 0);
        check_bursts(256, completions, 5);
    }
}

#[test]
fn an_empty_datagram_ends_the_receive_but_does_not_deafen() {
    let (ours, addresses) = loopback(1);
    let Some(mut backend) = backend(ours, 4, 64) else { return };
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    // More than there are buffers: none of them may leak.
    for turn in 0..50u8 {
        sender.send_to(&[], addresses[0]).expect("send");
        sender.send_to(&[turn], addresses[0]).expect("send");
        let mut got = Vec::new();
        while backend.receive(&mut |bytes| got.push(bytes.to_vec())).expect("receive") > 0 {}
        assert_eq!(got, [vec![], vec![turn]]);
    }
    assert!(backend.counts().rearmed >= 50);
}

#[test]
fn a_look_that_finds_nothing_costs_no_system_call() {
    let (ours, _) = loopback(3);
    let Some(mut backend) = backend(ours, 256, 1024) else { return };
    while backend.receive(&mut |_| {}).expect("receive") > 0 {}
    let before = backend.counts().system_calls;
    for _ in 0..1000 {
        assert_eq!(backend.receive(&mut |_| {}).expect("receive"), 0);
    }
    assert_eq!(backend.counts().system_calls, before);
}

#[test]
fn a_message_to_a_ring_that_is_gone_harms_nobody() {
    let (ours, addresses) = loopback(1);
    let Some(mut us) = backend(ours, 4, 64) else { return };
    let (theirs, _) = loopback(1);
    let mut third = backend(theirs, 4, 64).expect("it worked a moment ago");
    us.wake(&third.waker());
    us.receive(&mut |_| {}).expect("receive");
    third.wait(Patience { timeout_ns: None, want: 1, min_wait_ns: 0 }).expect("wait");

    // The number of a descriptor that is no ring, as after the owner ended.
    let gone = Waker::new().expect("waker");
    gone.set_ring(Some(us.sockets[0].as_raw_fd()));
    us.wake(&gone);
    us.receive(&mut |_| {}).expect("receive");
    assert!(!us.messages_work, "the failure was reported");
    // From now on by eventfd; and it still receives.
    us.wake(&third.waker());
    third.wait(Patience { timeout_ns: None, want: 1, min_wait_ns: 0 }).expect("wait");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
    sender.send_to(b"x", addresses[0]).expect("send");
    let mut got = Vec::new();
    us.receive(&mut |bytes| got.extend_from_slice(bytes)).expect("receive");
    assert_eq!(got, b"x");
}

/// Makes a system call fail in this thread from now on, as a container's seccomp profile does.
fn forbid(call: libc::c_long, errno: i32) {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, call as u32),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter lives through the call; it binds this thread only.
    let rc = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
    };
    assert_eq!(rc, 0, "{}", io::Error::last_os_error());
}

#[test]
fn where_io_uring_is_forbidden_auto_takes_poll_and_says_why() {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter];
    for call in calls {
        for (errno, part) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "no io_uring")] {
            let thread = std::thread::spawn(move || {
                forbid(call, errno);
                let (sockets, addresses) = loopback(1);
                let opened = open(TransportChoice::Auto, sockets).expect("poll");
                let reason = opened.fallback.expect("a reason");
                assert!(
                    reason.to_string().contains(part)
                        || reason.to_string().contains("io_uring_disabled"),
                    "{reason}"
                );
                let mut backend = opened.backend;
                assert_eq!(backend.transport(), Transport::Poll);
                let sender = UdpSocket::bind("127.0.0.1:0").expect("sender");
                sender.send_to(b"x", addresses[0]).expect("send");
                assert_eq!(backend.receive(&mut |_| {}).expect("receive"), 1);

                let refused = open(TransportChoice::Uring, loopback(1).0);
                assert!(matches!(refused, Err(OpenError::Unavailable(_))));
            });
            thread.join().expect("no panic");
        }
    }
}
