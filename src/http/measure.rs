//! What a fleet costs the control plane: memory for names, time for listings and storms.
//!
//! A tiny fleet runs with the other tests and asserts that the answers are right; the real one is
//! `cargo test --release --lib -- --ignored --nocapture a_million_peers`, alone on the machine.

use super::tests::Site;
use crate::api::{PeerPage, Summary};
use crate::control::testing::{FakeMonitor, profile};
use crate::engine::transition::PeerState;
use crate::wire::PeerId;
use std::thread;
use std::time::Instant;

fn name(i: u64) -> String {
    format!("peer-{i:07}")
}

/// Resident bytes of this process.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

/// Tells the registry of a fleet with 12-byte names in two groups; returns bytes a peer.
fn registry_bytes(monitor: &FakeMonitor, peers: u64) -> f64 {
    let registry = &monitor.state.registry;
    let before = resident();
    for i in 0..peers {
        let name = name(i);
        registry.insert(PeerId::of(&name), profile(&name, ["web", "db"][i as usize % 2], &[]));
    }
    assert_eq!(registry.len() as u64, peers);
    (resident() - before) / peers as f64
}

/// Walks a listing over HTTP in pages of 1,000 and checks how many peers it has; returns ns a peer
/// of the fleet.
fn listing_ns(site: &Site, query: &str, fleet: u64, expected: u64) -> f64 {
    let start = Instant::now();
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let page: PeerPage = site.get(&format!("/api/v1/peers?limit=1000{query}{cursor}"));
        seen += page.peers.len() as u64;
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected, "{query}");
    start.elapsed().as_nanos() as f64 / fleet as f64
}

/// Reports `n` transitions at once; returns the ms until two followers have read the last.
fn storm_ms(site: &mut Site, n: u64) -> f64 {
    let last = site.monitor.state.events.newest();
    let follow = |_| {
        let mut stream = site.follow("");
        let read = move || (last + 1..=last + n).for_each(|seq| assert_eq!(stream.sequence(), seq));
        thread::spawn(read)
    };
    let followers: Vec<_> = (0..2).map(follow).collect();
    let start = Instant::now();
    for i in 0..n {
        let peer = PeerId::of(&name(i));
        site.monitor.report_transition(peer, PeerState::Suspect, PeerState::Down);
    }
    site.monitor.publish();
    followers.into_iter().for_each(|follower| follower.join().unwrap());
    start.elapsed().as_secs_f64() * 1e3
}

fn measure(peers: u64, storm: u64) {
    let mut monitor = FakeMonitor::new(1, peers as u32);
    println!("registry: {:.1} bytes a peer", registry_bytes(&monitor, peers));
    for i in 0..peers {
        let state = if i % 1_000 == 0 { PeerState::Down } else { PeerState::Up };
        monitor.add_unnamed(PeerId::of(&name(i)), state);
    }
    let mut site = Site::open(monitor);
    let start = Instant::now();
    let summary: Summary = site.get("/api/v1/summary");
    println!("summary: {:?}", start.elapsed());
    assert_eq!(summary.peers.total, peers);
    for (query, expected) in [
        ("", peers),
        ("&group=db", peers / 2),
        ("&prefix=peer-00000", 100),
        ("&state=down", peers / 1_000),
    ] {
        let ns = listing_ns(&site, query, peers, expected);
        println!("listing `{query}`: {ns:.0} ns a peer of the fleet, {expected} shown");
    }
    for _ in 0..3 {
        println!("{storm} transitions to 2 followers: {:.0} ms", storm_ms(&mut site, storm));
    }
    site.close();
}

#[test]
fn a_small_fleet() {
    measure(2_000, 1_000);
}

#[test]
#[ignore = "a measurement: release build, alone on the machine"]
fn a_million_peers() {
    measure(1_000_000, 50_000);
}
