//! From a fleet and unit costs to what it takes.
//!
//! HELLOs are counted, as the agent sends them: every 16 beats or 30 s, whichever is sooner. A relay passes
//! each on at most once a minute, in a datagram of its own.

use super::costs::{Costs, at};
use serde::Serialize;

/// Bytes of a BEAT, what a HELLO has more beside the name, a tag, a PACK without entries and with one interval code, and an entry of a PACK of
/// senders that were started within 19 days.
const BEAT: f64 = 32.0;
const HELLO_MORE: f64 = 5.0;
const TAG: f64 = 16.0;
const PACK: f64 = 40.0;
const ENTRY: f64 = 17.0;
/// Heartbeats that fit a PACK.
const FULL: f64 = 83.0;
/// From one HELLO to the next: beats and nanoseconds, whichever is sooner, and nanoseconds through a relay.
const HELLO_BEATS: f64 = 16.0;
const HELLO_NS: f64 = 30e9;
const HELLO_RELAYED_NS: f64 = 60e9;
/// IPv4 and UDP.
const PACKET: f64 = 28.0;
/// Ethernet: preamble, header, checksum and gap (IEEE 802.3).
const FRAME: f64 = 38.0;
/// Least of a frame behind its header, before the checksum.
const LEAST_PAYLOAD: f64 = 46.0;

/// The fleet, and the monitor's place in the network.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fleet {
    /// Peers.
    pub peers: u64,
    /// The interval of each, nanoseconds.
    pub interval_ns: u64,
    /// Heartbeats carry a tag.
    pub tagged: bool,
    /// Bytes of name, group and labels of a peer.
    pub name_bytes: u32,
    /// Peers behind a relay.
    pub children: u64,
    /// How long a relay waits for more, nanoseconds.
    pub relay_delay_ns: u64,
    /// What the network carries, bits a second.
    pub nic_bits: u64,
    /// Share of a core that steady load may take.
    pub load: f64,
}

/// How heartbeats come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each in a datagram of its own.
    Direct,
    /// Through relays.
    Relayed,
}

/// What it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Bill {
    /// Relays that the heartbeats come through.
    pub relays: u64,
    /// Heartbeats of all peers.
    pub heartbeats_per_s: f64,
    /// Datagrams that reach the monitor.
    pub datagrams_per_s: f64,
    /// Heartbeats in one of them.
    pub heartbeats_per_datagram: f64,
    /// Bits on the wire, with all headers, preamble and gap.
    pub wire_bits_per_s: f64,
    /// Share of the network that they are.
    pub nic_share: f64,
    /// Processor time of all reactors, cores.
    pub busy_cores: f64,
    /// Reactors, so that each has room to spare; the most that there can be where those do not do.
    pub reactors: u64,
    /// Memory, bytes.
    pub memory_bytes: f64,
    /// From a kill's next start to all peers being known, nanoseconds.
    pub restart_ns: f64,
    /// How long the receive buffers take in what is not read, nanoseconds.
    pub buffer_ns: f64,
    /// How much later a heartbeat is heard of, at most, nanoseconds. Ages are kept, so a silence is not
    /// found later by it, but judged that much later.
    pub delay_ns: u64,
    /// `--max-peers` with a quarter to spare; no fewer than there may be by default.
    pub max_peers: u64,
    /// What gives way when the fleet grows, and at how many times its size; the first comes first.
    pub limits: Vec<Limit>,
}

/// What gives way when the fleet grows.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// What it is.
    pub what: String,
    /// At how many times the fleet; below 1 it has already.
    pub times: f64,
}

impl Bill {
    /// The bill of a fleet whose heartbeats come this way.
    pub fn of(fleet: &Fleet, costs: &Costs, way: Way) -> Bill {
        let heartbeats_per_s = fleet.peers as f64 * 1e9 / fleet.interval_ns as f64;
        let tag = if fleet.tagged { TAG } else { 0.0 };
        let relays = match way {
            Way::Direct => 0,
            Way::Relayed => fleet.peers.div_ceil(fleet.children.max(1)),
        };
        let bits = |payload: f64| (FRAME + (PACKET + payload + tag).max(LEAST_PAYLOAD)) * 8.0;
        let hello = BEAT + HELLO_MORE + f64::from(fleet.name_bytes);
        let hello_ns = hello_ns(fleet.interval_ns as f64, way);
        let hellos_per_s = fleet.peers as f64 * 1e9 / hello_ns;
        let beats_per_s = heartbeats_per_s - hellos_per_s;
        let (together, payload, tag_ns) = match way {
            Way::Direct => (1.0, BEAT, costs.tag_ns),
            Way::Relayed => {
                let per_s = beats_per_s / relays.max(1) as f64;
                let together = per_datagram(per_s, fleet.relay_delay_ns as f64 / 1e9);
                (together, PACK + ENTRY * together, costs.tag_entry_ns)
            }
        };
        let datagrams_per_s = hellos_per_s + beats_per_s / together;
        let wire_bits_per_s = hellos_per_s * bits(hello) + beats_per_s / together * bits(payload);
        let tag_ns = if fleet.tagged { tag_ns } else { 0.0 };
        let busy_of = |reactors: f64| {
            let heartbeat_ns = at(&costs.heartbeat_ns, fleet.peers as f64 / reactors) + tag_ns;
            let datagram_ns = at(&costs.datagram_ns, datagrams_per_s / reactors);
            (datagrams_per_s * datagram_ns + heartbeats_per_s * heartbeat_ns) / 1e9
        };
        // Fewer reactors are busier, and so cheaper for each heartbeat.
        let enough = |reactors: &u64| busy_of(*reactors as f64) <= *reactors as f64 * fleet.load;
        let reactors = (1..=MOST_REACTORS as u64).find(enough).unwrap_or(MOST_REACTORS as u64);
        let busy_cores = busy_of(reactors as f64);
        let spare = (fleet.peers + fleet.peers / 4).max(DEFAULT_MAX_PEERS);
        let max_peers = spare.min(MOST_PEERS.max(fleet.peers));
        let memory_bytes = costs.base_bytes
            + fleet.peers as f64 * (costs.peer_bytes + f64::from(fleet.name_bytes));
        let nic_share = wire_bits_per_s / fleet.nic_bits as f64;
        let queued = reactors as f64 * costs.buffer_bytes / costs.queued_bytes;
        Bill {
            relays,
            heartbeats_per_s,
            datagrams_per_s,
            heartbeats_per_datagram: heartbeats_per_s / datagrams_per_s,
            wire_bits_per_s,
            nic_share,
            busy_cores,
            reactors,
            memory_bytes,
            restart_ns: costs.start_ns + fleet.peers as f64 * costs.restart_ns,
            buffer_ns: queued / datagrams_per_s * 1e9,
            delay_ns: if way == Way::Relayed { fleet.relay_delay_ns } else { 0 },
            max_peers,
            limits: limits(fleet, max_peers, (reactors, busy_cores), nic_share),
        }
    }
}

/// Heartbeats that a relay puts into a datagram: the first one opens it, those that come within the
/// delay join it, and it goes when it is full.
fn per_datagram(per_s: f64, delay_s: f64) -> f64 {
    (1.0 + per_s * delay_s).min(FULL)
}

/// `--max-peers` that nobody sets: room that nobody has taken costs no memory.
pub const DEFAULT_MAX_PEERS: u64 = 1_000_000;

/// Most peers that a monitor can have.
pub const MOST_PEERS: u64 = 1 << 27;

/// Most reactors that a monitor can have.
const MOST_REACTORS: f64 = 256.0;

/// From one HELLO of a peer that reaches the monitor to the next.
fn hello_ns(interval_ns: f64, way: Way) -> f64 {
    let sent_ns = (HELLO_BEATS * interval_ns).min(HELLO_NS).max(interval_ns);
    match way {
        Way::Direct => sent_ns,
        Way::Relayed => (HELLO_RELAYED_NS / sent_ns).ceil() * sent_ns,
    }
}

fn limits(
    fleet: &Fleet,
    max_peers: u64,
    (reactors, busy_cores): (u64, f64),
    nic_share: f64,
) -> Vec<Limit> {
    let limit = |what: String, times: f64| Limit { what, times };
    let mut limits = vec![
        limit(format!("--max-peers {max_peers}"), max_peers as f64 / fleet.peers as f64),
        limit(format!("cores (--reactors {reactors})"), reactors as f64 / busy_cores),
        limit("the network".into(), 1.0 / nic_share),
    ];
    limits.sort_by(|a, b| a.times.total_cmp(&b.times));
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    const FLEET: Fleet = Fleet {
        peers: 1_000_000,
        interval_ns: 1_000_000_000,
        tagged: false,
        name_bytes: 16,
        children: 1_000,
        relay_delay_ns: 5_000_000,
        nic_bits: 10_000_000_000,
        load: 0.5,
    };

    fn close(a: f64, b: f64) {
        assert!((a / b - 1.0).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn a_direct_fleet_is_worked_out_by_hand() {
        let costs = Costs::measured();
        let bill = Bill::of(&FLEET, &costs, Way::Direct);
        close(bill.datagrams_per_s, 1e6);
        // 32 + 28 + 38 bytes, and 21 more in each sixteenth.
        close(bill.wire_bits_per_s, (98.0 + 21.0 / 16.0) * 8.0 * 1e6);
        let n = bill.reactors as f64;
        let datagram_ns = at(&costs.datagram_ns, 1e6 / n);
        close(bill.busy_cores, (datagram_ns + at(&costs.heartbeat_ns, 1e6 / n)) / 1e3);
        assert!(bill.busy_cores / n <= 0.5 && bill.busy_cores / (n - 1.0) > 0.4, "{bill:?}");
    }

    #[test]
    fn between_measured_points_it_goes_by_the_logarithm() {
        let points = [(10.0, 100.0), (1_000.0, 20.0)];
        let table = [(1.0, 100.0), (10.0, 100.0), (100.0, 60.0), (1_000.0, 20.0), (1e9, 20.0)];
        for (x, y) in table {
            close(at(&points, x), y);
        }
    }

    #[test]
    fn a_relay_gathers_what_comes_within_its_delay() {
        let bill = Bill::of(&FLEET, &Costs::measured(), Way::Relayed);
        // A HELLO of each every 64 s. Of the others 984 a second at a relay: one opens the datagram, 4.92
        // follow in 5 ms.
        let (hellos, beats) = (1e6 / 64.0, 1e6 * 63.0 / 64.0);
        let together = 1.0 + 984.375 * 0.005;
        close(bill.datagrams_per_s, hellos + beats / together);
        let bytes = beats / together * (38.0 + 28.0 + 40.0 + 17.0 * together)
            + hellos * (38.0 + 28.0 + 53.0);
        close(bill.wire_bits_per_s, bytes * 8.0);
        let large = Fleet { children: 100_000, ..FLEET };
        let bill = Bill::of(&large, &Costs::measured(), Way::Relayed);
        close(bill.datagrams_per_s, hellos + beats / FULL);
    }

    #[test]
    fn a_hello_comes_every_sixteen_beats_or_thirty_seconds() {
        let table =
            [(0.1, 1.6, 60.8), (1.0, 16.0, 64.0), (10.0, 30.0, 60.0), (300.0, 300.0, 300.0)];
        for (interval_s, direct_s, relayed_s) in table {
            close(hello_ns(interval_s * 1e9, Way::Direct), direct_s * 1e9);
            close(hello_ns(interval_s * 1e9, Way::Relayed), relayed_s * 1e9);
        }
    }

    #[test]
    fn limits_come_in_the_order_in_which_they_are_reached() {
        let bill = Bill::of(&FLEET, &Costs::measured(), Way::Direct);
        let of = |limit: usize| bill.limits[limit].what.as_str();
        assert_eq!([of(0), of(1)], ["--max-peers 1250000", "cores (--reactors 2)"]);
        // Less than the default is never advised.
        let few = Bill::of(&Fleet { peers: 10, ..FLEET }, &Costs::measured(), Way::Direct);
        assert_eq!(few.max_peers, DEFAULT_MAX_PEERS);
        let text = KEYS.iter().find(|key| key.name == "max-peers").expect("a key").default;
        assert_eq!(text, DEFAULT_MAX_PEERS.to_string());
        let slow = Fleet { nic_bits: 100_000_000, ..FLEET };
        let bill = Bill::of(&slow, &Costs::measured(), Way::Direct);
        assert!(
            bill.limits[0].what == "the network" && bill.limits[0].times < 1.0,
            "{:?}",
            bill.limits
        );
    }

    #[test]
    fn all_that_grows_grows_with_the_fleet() {
        for way in [Way::Direct, Way::Relayed] {
            let mut last = Bill::of(&FLEET, &Costs::measured(), way);
            for peers in [2_000_000, 50_000_000, 1_000_000_000_000] {
                let bill = Bill::of(&Fleet { peers, ..FLEET }, &Costs::measured(), way);
                assert!(bill.busy_cores > last.busy_cores && bill.memory_bytes > last.memory_bytes);
                assert!(bill.wire_bits_per_s > last.wire_bits_per_s && bill.nic_share.is_finite());
                last = bill;
            }
        }
    }

    #[test]
    fn a_tag_costs_bytes_and_time() {
        let tagged = Fleet { tagged: true, ..FLEET };
        for way in [Way::Direct, Way::Relayed] {
            let [plain, tagged] = [FLEET, tagged].map(|f| Bill::of(&f, &Costs::measured(), way));
            assert!(tagged.busy_cores > plain.busy_cores);
            close(
                tagged.wire_bits_per_s - plain.wire_bits_per_s,
                TAG * 8.0 * plain.datagrams_per_s,
            );
        }
    }
}
