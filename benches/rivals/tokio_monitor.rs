//! What one writes first: tokio, dashmap for the peers, and tokio-util's DelayQueue for the deadlines.
//!
//! Written well: one task owns socket and queue; it is woken once for many datagrams and takes up to 64
//! of them before it looks at the deadlines again; the map is there for those who ask, and its guard is
//! held for one peer only; a heartbeat moves its deadline by `reset`, which is what the queue offers.

use super::contender::{Contender, Tally, sockets};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use systole::wire::{Form, Heartbeat, decode};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue::Key};

/// Datagrams taken before the deadlines are looked at.
const BUDGET: usize = 64;

struct Peer {
    last_seen: Instant,
    sequence: u32,
    /// Its deadline in the queue, while it is up.
    deadline: Option<Key>,
}

struct Monitor {
    peers: Arc<DashMap<u64, Peer>>,
    deadlines: DelayQueue<u64>,
    tally: Arc<Tally>,
}

pub fn start(peers: u32) -> Contender {
    let (receiver, sender) = sockets();
    let tally = Arc::new(Tally::default());
    let body = {
        let tally = tally.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let monitor = Monitor {
                peers: Arc::new(DashMap::with_capacity(peers as usize)),
                deadlines: DelayQueue::with_capacity(peers as usize),
                tally,
            };
            runtime.expect("a runtime").block_on(monitor.run(receiver));
        }
    };
    Contender::of(sender, tally, vec![Box::new(body)])
}

impl Monitor {
    async fn run(mut self, socket: UdpSocket) {
        socket.set_nonblocking(true).expect("a socket option");
        let socket = tokio::net::UdpSocket::from_std(socket).expect("in a runtime");
        let mut buffer = [0; 2048];
        while !self.tally.must_stop() {
            let some = !self.deadlines.is_empty();
            tokio::select! {
                ready = socket.readable() => {
                    ready.expect("the socket works");
                    let mut applied = 0;
                    while applied < BUDGET && let Ok(length) = socket.try_recv(&mut buffer) {
                        if let Ok(Form::Beat(beat)) = decode(&buffer[..length]) {
                            self.beat(&beat);
                        }
                        applied += 1;
                    }
                    self.tally.add_applied(applied as u64);
                }
                Some(expired) = std::future::poll_fn(|cx| self.deadlines.poll_expired(cx)), if some => {
                    if let Some(mut peer) = self.peers.get_mut(expired.get_ref()) {
                        peer.deadline = None;
                        self.tally.add_downs(1);
                    }
                }
            }
        }
    }

    fn beat(&mut self, beat: &Heartbeat) {
        let timeout = Duration::from_micros(3 * beat.interval_us + 50_000);
        let now = Instant::now();
        match self.peers.entry(beat.peer.0) {
            Entry::Occupied(mut entry) => {
                let peer = entry.get_mut();
                // Old ones prove nothing.
                if beat.sequence.wrapping_sub(peer.sequence) as i32 <= 0 {
                    return;
                }
                (peer.last_seen, peer.sequence) = (now, beat.sequence);
                match &peer.deadline {
                    Some(key) => self.deadlines.reset_at(key, peer.last_seen + timeout),
                    None => {
                        peer.deadline = Some(self.deadlines.insert(beat.peer.0, timeout));
                        self.tally.add_returns(1);
                    }
                }
            }
            Entry::Vacant(entry) => {
                let deadline = Some(self.deadlines.insert(beat.peer.0, timeout));
                entry.insert(Peer { last_seen: now, sequence: beat.sequence, deadline });
            }
        }
    }
}
