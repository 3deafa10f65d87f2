//! What one writes without a runtime: recvmmsg, a HashMap in a mutex, and a BinaryHeap of deadlines.
//!
//! One thread receives, up to 64 datagrams a system call, and takes the lock once for all of them. Another
//! sleeps until the earliest deadline. A heartbeat stores its time only; a deadline that was moved on goes back
//! into the heap when its time comes, so that there is one entry a peer.

use super::contender::{Contender, Tally, sockets};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use systole::wire::{Form, decode};

const BATCH: usize = 64;
const BYTES: usize = 2048;

struct Peer {
    deadline: Instant,
    sequence: u32,
    up: bool,
}

#[derive(Default)]
struct Peers {
    by_id: HashMap<u64, Peer>,
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
}

#[derive(Default)]
struct Shared {
    peers: Mutex<Peers>,
    /// There are deadlines where there were none.
    armed: Condvar,
}

pub fn start(peers: u32) -> Contender {
    let (receiver, sender) = sockets();
    let tally = Arc::new(Tally::default());
    let shared = Arc::new(Shared::default());
    shared.peers.lock().expect("whole").by_id.reserve(peers as usize);
    let receives = {
        let (shared, tally) = (shared.clone(), tally.clone());
        move || receive(&receiver, &shared, &tally)
    };
    let expires = {
        let tally = tally.clone();
        move || expire(&shared, &tally)
    };
    Contender::of(sender, tally, vec![Box::new(receives), Box::new(expires)])
}

fn receive(socket: &UdpSocket, shared: &Shared, tally: &Tally) {
    let mut buffers = vec![[0u8; BYTES]; BATCH];
    let mut vectors: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BYTES })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: all-zero bytes are a valid mmsghdr: null pointers and lengths of 0.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    while !tally.must_stop() {
        // SAFETY: the headers point to vectors, and these to buffers of the stated lengths, that live
        // through the call.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        assert!(got > 0, "recvmmsg: {}", std::io::Error::last_os_error());
        let got = got as usize;
        let now = Instant::now();
        let mut peers = shared.peers.lock().expect("nobody panics with it");
        let Peers { by_id, deadlines } = &mut *peers;
        let was_empty = deadlines.is_empty();
        for (buffer, message) in buffers.iter().zip(&messages[..got]) {
            let Ok(Form::Beat(beat)) = decode(&buffer[..message.msg_len as usize]) else {
                continue;
            };
            let deadline = now + Duration::from_micros(3 * beat.interval_us + 50_000);
            let mut arm = || deadlines.push(Reverse((deadline, beat.peer.0)));
            match by_id.get_mut(&beat.peer.0) {
                None => {
                    by_id.insert(beat.peer.0, Peer { deadline, sequence: beat.sequence, up: true });
                    arm();
                }
                // Old ones prove nothing.
                Some(peer) if beat.sequence.wrapping_sub(peer.sequence) as i32 <= 0 => {}
                Some(peer) => {
                    (peer.deadline, peer.sequence) = (deadline, beat.sequence);
                    if !peer.up {
                        peer.up = true;
                        tally.add_returns(1);
                        arm();
                    }
                }
            }
        }
        let is_first = was_empty && !deadlines.is_empty();
        drop(peers);
        if is_first {
            shared.armed.notify_one();
        }
        tally.add_applied(got as u64);
    }
}

fn expire(shared: &Shared, tally: &Tally) {
    /// How long it sleeps at most, so that it is seen to end.
    const LONGEST: Duration = Duration::from_millis(20);
    let mut peers = shared.peers.lock().expect("nobody panics with it");
    while !tally.must_stop() {
        let now = Instant::now();
        let Peers { by_id, deadlines } = &mut *peers;
        while let Some(Reverse((armed, id))) = deadlines.peek().copied().filter(|d| d.0.0 <= now) {
            deadlines.pop();
            let peer = by_id.get_mut(&id).expect("who has a deadline is known");
            if peer.deadline > armed {
                deadlines.push(Reverse((peer.deadline, id)));
            } else {
                peer.up = false;
                tally.add_downs(1);
            }
        }
        let next = deadlines.peek().map_or(LONGEST, |d| d.0.0 - now).min(LONGEST);
        peers = shared.armed.wait_timeout(peers, next).expect("nobody panics with it").0;
    }
}
