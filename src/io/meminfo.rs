//! What the kernel says of the receive queues: how full they are, and what did not fit.
//!
//! SO_MEMINFO is read on demand and costs nothing per datagram, unlike SO_RXQ_OVFL, which puts a
//! control message on each of them.

use super::Queues;
use super::sys::memory_info;
use std::cell::Cell;
use std::net::UdpSocket;

/// `SK_MEMINFO_RMEM_ALLOC`: bytes held by queued datagrams, with their bookkeeping.
const QUEUED_BYTES: usize = 0;
/// `SK_MEMINFO_DROPS`: datagrams dropped since the socket was made, modulo 2^32.
const DROPS: usize = 8;

/// No queued datagram is accounted with fewer bytes: its `sk_buff` (256) and `skb_shared_info`
/// (320) alone are more. Tiny ones are seen to take 768 or 832.
const LEAST_BYTES: u64 = 512;

/// Reads the sockets' queues, and counts the kernel's drops beyond the 2^32 of its own counter.
#[derive(Default)]
pub(super) struct QueueMeter {
    seen: Cell<Vec<u32>>,
    total: Cell<u64>,
}

impl QueueMeter {
    /// The queues of all sockets together; the drops are right if read at least every 2^32 of them.
    pub(super) fn read(&self, sockets: &[UdpSocket]) -> Queues {
        let mut seen = self.seen.take();
        seen.resize(sockets.len(), 0);
        let mut total = self.total.get();
        let mut waiting = 0;
        for (socket, seen) in sockets.iter().zip(&mut seen) {
            let Ok(info) = memory_info(socket) else { continue };
            total += u64::from(advance(seen, info[DROPS]));
            waiting += u64::from(info[QUEUED_BYTES]).div_ceil(LEAST_BYTES);
        }
        self.seen.set(seen);
        self.total.set(total);
        Queues { waiting, drops: total }
    }
}

/// How far a counter modulo 2^32 went since `seen`, which becomes `now`.
fn advance(seen: &mut u32, now: u32) -> u32 {
    let step = now.wrapping_sub(*seen);
    *seen = now;
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_counter_may_wrap() {
        let mut seen = 0;
        assert_eq!(advance(&mut seen, u32::MAX - 1), u32::MAX - 1);
        assert_eq!(advance(&mut seen, 3), 5);
        assert_eq!(advance(&mut seen, 3), 0);
    }
}
