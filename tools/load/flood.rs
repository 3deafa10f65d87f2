//! An attacker beside the load: heartbeats of peers that do not exist, each id once.
//!
//! They are well-formed, untagged, and come from an address of their own (127.66.6.6 towards
//! loopback), evenly over the load. What the monitor makes of them is not judged here; whether the
//! load's own peers suffer is.

use crate::send::Run;
use crate::socket::{BATCH, Headers, Outlet, source};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use systole::wire::{Heartbeat, Kind, PeerId, Status, encode_beat, start_of};

/// Where it comes from, towards loopback.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 66, 6, 6);
/// From one look at the clock to the next.
const SLICE: Duration = Duration::from_millis(1);

/// The flood before it starts, its socket bound.
pub struct Flood {
    run: Arc<Run>,
    outlet: Outlet<()>,
}

impl Flood {
    /// Opens the socket.
    pub fn open(run: Arc<Run>) -> Result<Flood> {
        let from = match run.to {
            SocketAddr::V4(to) if to.ip().is_loopback() => SocketAddr::from((ADDRESS, 0)),
            to => source(0, to, false),
        };
        let outlet = Outlet::open(from, run.to)
            .with_context(|| format!("cannot open the flood's socket from {}", from.ip()))?;
        Ok(Flood { run, outlet })
    }

    /// Floods from the end of the ramp to the end of the load. Returns how many were sent.
    pub fn run(mut self) -> u64 {
        let run = self.run.clone();
        let (start_ns, end_ns) = (run.plan.figures.ramp_ns, run.end_ns);
        let mut headers = Headers::new(false);
        let (mut made, mut sent) = (0u64, 0u64);
        let mut walk = run.plan.figures.seed ^ 0xF100_D000_0000_0000;
        loop {
            let now_ns = run.now_ns();
            // Relaxed: a flag that publishes nothing but itself.
            if now_ns >= end_ns || run.stop.load(Ordering::Relaxed) {
                return sent;
            }
            let share = now_ns.saturating_sub(start_ns) as f64 / (end_ns - start_ns).max(1) as f64;
            let due = (share * f64::from(run.flood)) as u64;
            while made < due {
                for _ in 0..(due - made).min(BATCH as u64) {
                    walk = walk.wrapping_add(0x9E37_79B9_7F4A_7C15);
                    let id = PeerId(mixed(walk).max(1));
                    self.outlet.queue((), |out| out.extend(beat(&run, id)));
                    made += 1;
                }
                self.outlet.flush(&mut headers, |(), taken| sent += u64::from(taken));
            }
            std::thread::sleep(SLICE);
        }
    }
}

fn beat(run: &Run, peer: PeerId) -> [u8; systole::wire::HEADER] {
    let (incarnation, sequence) = start_of(run.plan.figures.start_wall_ns);
    encode_beat(&Heartbeat {
        peer,
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation,
        sequence,
        interval_us: run.plan.figures.interval_ns / 1_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    })
}

/// SplitMix64's finish, a permutation: a step of the walk as an id that looks like a hash.
fn mixed(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
