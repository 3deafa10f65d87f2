//! Times the way in: from a datagram's arrival in the kernel to its being applied.
//!
//! A kernel timestamp on every datagram would tell, and cost each of them 54 to 82 ns. So instead a
//! thread of its own now and then sends each reactor a PROBE over loopback, like a letter to
//! oneself: on loopback the send *is* the arrival, so send time to applied time is what a heartbeat
//! that arrived at that instant would have waited. It is drawn at uneven moments, so that it meets
//! the reactor asleep and at work as heartbeats do.
//!
//! A probe carries a secret of this process; whatever else claims to be one is dropped and counted.

use crate::clock;
use crate::wire::{self, PeerId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Mean time between two probes of one reactor.
const PERIOD: Duration = Duration::from_millis(50);

/// The prober's thread; it ends when the value is dropped.
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts to probe `reactors` reactors at the address that they listen on.
    ///
    /// # Errors
    /// When no socket or no thread can be had; the monitor works without.
    pub fn start(listen: SocketAddr, reactors: u32, secret: u64) -> std::io::Result<Prober> {
        let target = loopback(listen);
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        let steered: Vec<PeerId> = (0..reactors).map(|r| PeerId::steered_to(r, reactors)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("systole-probe".into()).spawn(move || {
            let mut draw = secret | 1;
            // Relaxed: the flag orders nothing, it is only to be seen soon.
            while !stopped.load(Ordering::Relaxed) {
                for &id in &steered {
                    // Xorshift (Marsaglia 2003): half to one and a half periods.
                    draw ^= draw << 13;
                    draw ^= draw >> 7;
                    draw ^= draw << 17;
                    let share = 0.5 + (draw >> 11) as f64 / (1u64 << 53) as f64;
                    std::thread::park_timeout(PERIOD.mul_f64(share / reactors as f64));
                    let probe = wire::encode_probe(id, secret, clock::monotonic_ns());
                    // A probe that cannot be sent is not measured; the reactor misses nothing.
                    let _ = socket.send(&probe);
                }
            }
        })?;
        Ok(Prober { stop, thread: Some(thread) })
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // Relaxed: see the loop.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Where to reach a listener from this machine.
fn loopback(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_arrive_with_the_secret_and_a_plausible_time() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let prober = Prober::start(socket.local_addr().unwrap(), 1, 0xFEED_F00D).unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        drop(prober);
        let Ok(wire::Form::Probe { secret, sent_ns }) = wire::decode(&buffer[..length]) else {
            panic!("{:02x?} is no probe", &buffer[..length])
        };
        assert_eq!(secret, 0xFEED_F00D);
        assert!(sent_ns <= clock::monotonic_ns());
    }
}
