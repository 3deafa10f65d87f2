//! The same suite over every transport, and what the suites of this module share.

use super::sockets::{bind_group, by_reactor};
use super::xdp::tests::on_loopback;
use super::xdp::{Attachment, XdpError};
use super::*;
use std::net::{SocketAddr, UdpSocket};

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The seed of `SYSTOLE_TEST_SEED`, or a fixed few.
pub(super) fn seeds() -> Vec<u64> {
    match std::env::var("SYSTOLE_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("SYSTOLE_TEST_SEED is a number")],
        Err(_) => vec![1, 2, 3],
    }
}

/// Runs `body` in a thread that has dropped its capabilities, as an ordinary user's would.
pub(super) fn without_capabilities(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // capset(2) for this thread only: version 3, no capability in any set.
        let header: [u32; 2] = [0x2008_0522, 0];
        let sets = [0u32; 6];
        // SAFETY: both are what capset reads, and live through the call.
        let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
        assert_eq!(rc, 0, "capabilities can always be dropped");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A transport on fresh loopback sockets, and where to send to.
pub(super) struct Rig {
    pub(super) backend: AnyBackend,
    pub(super) addresses: Vec<SocketAddr>,
    _attachment: Option<Attachment>,
}

const LARGE: usize = 8 << 20;

/// `None`, with a word why, where io_uring is forbidden or AF_XDP cannot be had. For that the thread
/// moves to a network namespace of its own, so senders are bound afterwards.
pub(super) fn rig(choice: TransportChoice, ips: &[&str], receive_buffer: usize) -> Option<Rig> {
    let is_xdp = choice == TransportChoice::Xdp;
    if is_xdp && let Err(reason) = xdp::tests::move_to_own_namespace() {
        eprintln!("not tested here: {reason}");
        return None;
    }
    let groups: Vec<_> = ips
        .iter()
        .map(|ip| SocketAddr::new(ip.parse().expect("address"), 0))
        .map(|address| bind_group(address, 1, receive_buffer).expect("bind"))
        .collect();
    let addresses: Vec<_> = groups.iter().map(|group| group.address).collect();
    let sockets = by_reactor(groups.into_iter().map(|group| group.sockets)).remove(0);
    let mut inlet = Inlet::from(sockets);
    let mut attachment = None;
    if is_xdp {
        match on_loopback(&addresses, receive_buffer) {
            Ok((held, share)) => (attachment, inlet.xdp) = (Some(held), Some(share)),
            Err(reason @ (XdpError::Privilege { .. } | XdpError::Kernel { .. })) => {
                eprintln!("not tested here: {reason}");
                return None;
            }
            Err(error) => panic!("{error}"),
        }
    }
    match open(choice, inlet) {
        Ok(opened) => Some(Rig { backend: opened.backend, addresses, _attachment: attachment }),
        Err(OpenError::Unavailable(reason)) => {
            eprintln!("not tested here: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Rig {
    fn one(choice: TransportChoice) -> Option<Self> {
        rig(choice, &["127.0.0.1"], LARGE)
    }

    /// Everything that there is now; loopback queues a datagram before its send returns.
    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while self.backend.receive(&mut |bytes| all.push(bytes.to_vec())).expect("receive") > 0 {}
        all
    }
}

fn sender() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("sender")
}

macro_rules! over_every_transport {
    ($($name:ident)*) => {
        mod over_uring {
            $(#[test] fn $name() { super::$name(super::TransportChoice::Uring) })*
        }
        mod over_poll {
            $(#[test] fn $name() { super::$name(super::TransportChoice::Poll) })*
        }
        mod over_xdp {
            $(#[test] fn $name() { super::$name(super::TransportChoice::Xdp) })*
        }
    };
}

over_every_transport! {
    datagrams_of_every_length_arrive_whole_and_in_order
    a_datagram_that_does_not_fit_is_dropped_and_counted
    a_burst_beyond_the_buffers_loses_nothing
    a_tiny_receive_buffer_drops_and_says_so
    many_sockets_of_both_families_are_all_heard
    the_backlog_is_an_upper_bound
    a_waker_ends_a_wait_without_timeout
    a_wake_before_the_wait_is_not_lost
    another_reactor_ends_a_wait_without_timeout
    a_datagram_ends_a_wait_without_timeout
    a_wait_ends_by_its_timeout
    a_batching_wait_ends_by_traffic_and_by_timeout
    the_sockets_are_free_when_the_transport_is_gone
    sources_are_told_while_they_are_wanted_and_nothing_is_lost
    a_datagram_of_any_length_has_its_source
    a_burst_costs_few_system_calls
    waits_that_race_with_arrivals_cost_few_system_calls
}

fn datagrams_of_every_length_arrive_whole_and_in_order(choice: TransportChoice) {
    for seed in seeds() {
        let Some(mut rig) = Rig::one(choice) else { return };
        let mut random = Random(seed);
        let senders = [sender(), sender(), sender()];
        let mut sent = vec![Vec::new(); senders.len()];
        let mut got = vec![Vec::new(); senders.len()];
        let again: Vec<_> = (0..500).map(|_| random.below(1473)).collect();
        for length in (0..=1472).chain(again) {
            let who = random.below(senders.len() as u64) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            // The sender is in the first byte, but for the empty ones, which are the first's.
            let who = if length == 0 { 0 } else { who };
            if let Some(first) = bytes.first_mut() {
                *first = who as u8;
            }
            senders[who].send_to(&bytes, rig.addresses[0]).expect("send");
            sent[who].push(bytes);
            if random.below(100) == 0 {
                for bytes in rig.drain() {
                    got[bytes.first().map_or(0, |&who| usize::from(who))].push(bytes);
                }
            }
        }
        for bytes in rig.drain() {
            got[bytes.first().map_or(0, |&who| usize::from(who))].push(bytes);
        }
        assert!(sent == got, "seed {seed}");
        assert_eq!(rig.backend.counts().errors, 0);
        assert_eq!(rig.backend.queues().drops, 0);
    }
}

fn a_datagram_that_does_not_fit_is_dropped_and_counted(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let sender = sender();
    for length in [LONGEST_DATAGRAM, LONGEST_DATAGRAM + 1, LONGEST_DATAGRAM + 2, 9000, 3] {
        sender.send_to(&vec![7; length], rig.addresses[0]).expect("send");
    }
    // AF_XDP leaves what is longer than a frame to the sockets, so it comes behind what is not.
    let mut got = rig.drain();
    got.sort_by_key(|bytes| std::cmp::Reverse(bytes.len()));
    assert_eq!(got, [vec![7; LONGEST_DATAGRAM], vec![7; 3]]);
    assert_eq!(rig.backend.counts().overlong, 3);
    // Nothing but an overlong one: the transport still says truly that the queue is empty.
    sender.send_to(&[7; 9000], rig.addresses[0]).expect("send");
    assert!(rig.drain().is_empty());
    assert_eq!(rig.backend.queues().waiting, 0);
    assert_eq!(rig.backend.counts().overlong, 4);
}

fn a_burst_beyond_the_buffers_loses_nothing(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let sender = sender();
    for _ in 0..5 {
        let burst: Vec<_> = (0..2000u32).map(|nth| nth.to_le_bytes().to_vec()).collect();
        for bytes in &burst {
            sender.send_to(bytes, rig.addresses[0]).expect("send");
        }
        assert!(rig.drain() == burst);
    }
    assert_eq!(rig.backend.queues().drops, 0);
}

fn a_tiny_receive_buffer_drops_and_says_so(choice: TransportChoice) {
    let Some(mut rig) = rig(choice, &["127.0.0.1"], 2304) else { return };
    let sender = sender();
    const SENT: u64 = 300;
    for nth in 0..SENT {
        sender.send_to(&nth.to_le_bytes(), rig.addresses[0]).expect("send");
    }
    let got = rig.drain().len() as u64;
    assert!(got > 0 && got < SENT, "got {got}");
    assert_eq!(rig.backend.queues().drops, SENT - got);
    assert_eq!(rig.backend.queues().drops, SENT - got, "reading does not reset");
}

fn many_sockets_of_both_families_are_all_heard(choice: TransportChoice) {
    let mut ips = vec!["127.0.0.1"; 20];
    if UdpSocket::bind("[::1]:0").is_ok() {
        ips.extend(["::1"; 20]);
    }
    let Some(mut rig) = rig(choice, &ips, 1 << 20) else { return };
    let v4 = sender();
    let v6 = UdpSocket::bind("[::1]:0").ok();
    let mut expected = Vec::new();
    for round in 0..50u8 {
        for (nth, address) in rig.addresses.iter().enumerate() {
            let bytes = vec![nth as u8, round];
            let sender = if address.is_ipv4() { &v4 } else { v6.as_ref().expect("IPv6") };
            sender.send_to(&bytes, address).expect("send");
            expected.push(bytes);
        }
    }
    let mut got = rig.drain();
    // Sockets come in any order, each one's datagrams in their own.
    got.sort_by_key(|bytes| bytes[0]);
    expected.sort_by_key(|bytes| bytes[0]);
    assert!(got == expected);
}

fn the_backlog_is_an_upper_bound(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let sender = sender();
    assert_eq!(rig.backend.queues().waiting, 0);
    for nth in 1..=300usize {
        sender.send_to(&vec![1; nth % 60], rig.addresses[0]).expect("send");
        assert!(rig.backend.queues().waiting >= nth as u64);
    }
    assert_eq!(rig.drain().len(), 300);
    assert_eq!(rig.backend.queues().waiting, 0);
}

impl Rig {
    /// Everything that there is now, with its source.
    fn drain_from(&mut self) -> Vec<(Vec<u8>, u32)> {
        let mut all = Vec::new();
        let mut sink = |bytes: &[u8], source| all.push((bytes.to_vec(), source));
        while self.backend.receive_from(&mut sink).expect("receive") > 0 {}
        all
    }

    /// Has sources told, or no longer told; the switch may take a few looks.
    fn tell_sources(&mut self, wanted: bool, sender: &UdpSocket) {
        self.backend.tell_sources(wanted).expect("switch");
        for _ in 0..1_000 {
            sender.send_to(&[9], self.addresses[0]).expect("send");
            if self.drain_from().iter().all(|(_, source)| (*source != 0) == wanted) {
                return;
            }
        }
        panic!("sources are not {wanted} after a thousand looks");
    }
}

fn sources_are_told_while_they_are_wanted_and_nothing_is_lost(choice: TransportChoice) {
    for seed in seeds() {
        let Some(mut rig) = rig(choice, &["127.0.0.1", "127.0.0.1"], LARGE) else { return };
        let mut random = Random(seed);
        // Two of one machine, one of another.
        let from = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0"];
        let senders = from.map(|from| UdpSocket::bind(from).expect("loopback is 127.0.0.0/8"));
        let mut sources = [0; 3];
        let mut next = [[0u32; 2]; 3];
        let mut expected = [[0u32; 2]; 3];
        for _ in 0..200 {
            // At any moment, with datagrams queued and receives in flight.
            let wanted = random.below(2) == 0;
            rig.backend.tell_sources(wanted).expect("switch");
            for _ in 0..random.below(150) {
                let (who, to) = (random.below(3) as usize, random.below(2) as usize);
                let number = next[who][to].to_le_bytes();
                let bytes = [&[who as u8, to as u8], &number[..]].concat();
                senders[who].send_to(&bytes, rig.addresses[to]).expect("send");
                next[who][to] += 1;
            }
            if random.below(3) == 0 {
                continue;
            }
            for (bytes, source) in rig.drain_from() {
                let (who, to) = (usize::from(bytes[0]), usize::from(bytes[1]));
                let number = u32::from_le_bytes(bytes[2..].try_into().expect("four bytes"));
                assert_eq!(number, expected[who][to], "seed {seed}: in order, none lost");
                expected[who][to] += 1;
                if source != 0 {
                    let known = std::mem::replace(&mut sources[who], source);
                    assert!(known == 0 || known == source, "seed {seed}: one number each");
                }
            }
        }
        rig.tell_sources(false, &senders[0]);
        rig.tell_sources(true, &senders[0]);
        assert_eq!(sources[0], sources[1], "seed {seed}: a port says nothing");
        assert_ne!(sources[0], sources[2], "seed {seed}");
        assert_eq!(rig.backend.counts().errors, 0);
    }
}

fn a_datagram_of_any_length_has_its_source(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let sender = sender();
    rig.tell_sources(true, &sender);
    let lengths = [0, 1, 32, 1_472, 9_000, 48, 0, 5];
    for length in lengths {
        sender.send_to(&vec![7; length], rig.addresses[0]).expect("send");
    }
    let got = rig.drain_from();
    let expected = lengths.into_iter().filter(|&length| length <= LONGEST_DATAGRAM);
    assert!(got.iter().map(|(bytes, _)| bytes.len()).eq(expected), "{got:?}");
    assert!(got.iter().all(|(bytes, source)| *source != 0 && bytes.iter().all(|&b| b == 7)));
    assert_eq!(rig.backend.counts().overlong, 1);
    if UdpSocket::bind("[::1]:0").is_ok() {
        let Some(mut rig) = self::rig(choice, &["::1"], LARGE) else { return };
        let v6 = UdpSocket::bind("[::1]:0").expect("as a moment ago");
        rig.tell_sources(true, &v6);
    }
}

/// Sleeps until something happens; a lost wake-up hangs the test.
const FOR_EVER: Patience = Patience { timeout_ns: None, want: 1, min_wait_ns: 0 };

fn a_waker_ends_a_wait_without_timeout(choice: TransportChoice) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let Some(mut rig) = Rig::one(choice) else { return };
    let waker = rig.backend.waker();
    // A mailbox of the simplest kind: how many things were put in it. Relaxed: the waker's own
    // swaps publish it, and that is what is tested.
    let mailbox = AtomicU64::new(0);
    const THINGS: u64 = 20_000;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..THINGS {
                    mailbox.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                }
            });
        }
        while mailbox.load(Ordering::Relaxed) < 2 * THINGS {
            rig.backend.wait(FOR_EVER).expect("wait");
            assert!(rig.drain().is_empty());
        }
    });
}

fn a_wake_before_the_wait_is_not_lost(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let waker = rig.backend.waker();
    for turn in 0..100 {
        (0..1 + turn % 3).for_each(|_| waker.wake());
        // The wake may also be reaped by a receive in between.
        if turn % 2 == 0 {
            assert!(rig.drain().is_empty());
        }
        rig.backend.wait(FOR_EVER).expect("wait");
    }
    drop(rig);
    waker.wake();
}

fn another_reactor_ends_a_wait_without_timeout(choice: TransportChoice) {
    use std::sync::atomic::{AtomicU64, Ordering};
    /// Sleeps until it is our turn, passes it on and wakes the other; a lost wake hangs the test.
    fn play(backend: &mut AnyBackend, us: u64, turn: &AtomicU64, other: &Waker) {
        for _ in 0..2000 {
            // Relaxed: the wakes publish it, and that is what is tested.
            while turn.load(Ordering::Relaxed) % 2 != us {
                backend.wait(FOR_EVER).expect("wait");
                backend.receive(&mut |_| unreachable!("nobody sends")).expect("receive");
            }
            turn.fetch_add(1, Ordering::Relaxed);
            backend.wake(other);
        }
        // A wake goes out with the next call.
        backend.receive(&mut |_| unreachable!("nobody sends")).expect("receive");
    }
    let Some(mut rig) = Rig::one(choice) else { return };
    let turn = AtomicU64::new(0);
    let to_us = rig.backend.waker();
    std::thread::scope(|scope| {
        let (give, take) = std::sync::mpsc::channel();
        let turn = &turn;
        scope.spawn(move || {
            let mut other = Rig::one(choice).expect("it worked a moment ago");
            give.send(other.backend.waker()).expect("the main thread waits for it");
            play(&mut other.backend, 1, turn, &to_us);
        });
        play(&mut rig.backend, 0, turn, &take.recv().expect("its waker"));
    });
    assert_eq!(turn.load(Ordering::Relaxed), 4000);
}

fn a_datagram_ends_a_wait_without_timeout(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let address = rig.addresses[0];
    std::thread::scope(|scope| {
        let (give, take) = std::sync::mpsc::channel();
        scope.spawn(move || {
            let sender = sender();
            for nth in 0..1000u32 {
                sender.send_to(&nth.to_le_bytes(), address).expect("send");
                take.recv().expect("the main thread lives");
            }
        });
        for nth in 0..1000u32 {
            let mut got = Vec::new();
            while got.is_empty() {
                rig.backend.wait(FOR_EVER).expect("wait");
                got = rig.drain();
            }
            assert_eq!(got, [nth.to_le_bytes()]);
            give.send(()).expect("the sender lives");
        }
    });
}

fn a_wait_ends_by_its_timeout(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    for timeout_ns in [0, 1, 999, 1_000, 50_000, 1_000_000] {
        for _ in 0..5 {
            let patience = Patience { timeout_ns: Some(timeout_ns), ..FOR_EVER };
            rig.backend.wait(patience).expect("wait");
            assert!(rig.drain().is_empty());
        }
    }
}

fn a_batching_wait_ends_by_traffic_and_by_timeout(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let sender = sender();
    let quiet = Patience { timeout_ns: Some(2_000_000), want: 64, min_wait_ns: 50_000 };
    rig.backend.wait(quiet).expect("wait");
    assert!(rig.drain().is_empty());
    // One datagram is less than is wanted: the min-wait must end the wait, nothing else would.
    for min_wait_ns in [0, 1, 50_000] {
        let patience = Patience { timeout_ns: None, want: 2, min_wait_ns };
        sender.send_to(b"x", rig.addresses[0]).expect("send");
        let mut got = Vec::new();
        while got.is_empty() {
            rig.backend.wait(patience).expect("wait");
            got = rig.drain();
        }
        assert_eq!(got, [b"x"]);
    }
    // And a waker does so as well.
    rig.backend.waker().wake();
    rig.backend.wait(Patience { timeout_ns: None, want: 64, min_wait_ns: 50_000 }).expect("wait");
}

fn the_sockets_are_free_when_the_transport_is_gone(choice: TransportChoice) {
    let Some(rig) = Rig::one(choice) else { return };
    let waker = rig.backend.waker();
    let address = rig.addresses[0];
    drop(rig);
    bind_group(address, 2, LARGE).expect("the port is free although the waker lives");
    waker.wake();
}

fn a_burst_costs_few_system_calls(choice: TransportChoice) {
    let Some(mut rig) = Rig::one(choice) else { return };
    let sender = sender();
    assert!(rig.drain().is_empty());
    let before = rig.backend.counts().system_calls;
    const BURST: u64 = 1600;
    for nth in 0..BURST {
        sender.send_to(&nth.to_le_bytes(), rig.addresses[0]).expect("send");
    }
    assert_eq!(rig.drain().len() as u64, BURST);
    let calls = rig.backend.counts().system_calls - before;
    assert!(calls <= BURST / 20, "{calls} system calls for {BURST} datagrams");
}

/// The kernel raises its flag for deferred work after it has queued the work; a wait that ends in
/// between runs the work and finds the flag up later, with nothing behind it. Once that made every
/// look enter the kernel again and again until the next datagram came.
fn waits_that_race_with_arrivals_cost_few_system_calls(choice: TransportChoice) {
    const ROUNDS: u64 = 3_000;
    let Some(mut rig) = Rig::one(choice) else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut received, mut calls) = (0, 0);
    std::thread::scope(|scope| {
        let address = rig.addresses[0];
        let stop = &stop;
        scope.spawn(move || {
            let sender = sender();
            // Relaxed: the flag orders nothing, it is only to be seen soon.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                sender.send_to(&[1; 32], address).expect("send");
                (0..2_000).for_each(|_| std::hint::spin_loop());
            }
        });
        let before = rig.backend.counts().system_calls;
        let patience = Patience { timeout_ns: Some(2_000_000), want: 2, min_wait_ns: 50_000 };
        for _ in 0..ROUNDS {
            rig.backend.wait(patience).expect("wait");
            for _ in 0..3 {
                received += rig.backend.receive(&mut |_| {}).expect("receive") as u64;
            }
        }
        calls = rig.backend.counts().system_calls - before;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // A wait and at most a look for each of the three receives, and what re-arming takes.
    let most = ROUNDS * 8 + received / 8;
    assert!(calls <= most, "{calls} system calls for {ROUNDS} waits and {received} datagrams");
}
