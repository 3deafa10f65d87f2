//! What a heartbeat costs in the table: find the peer, write its slot. Random peers, batches of 64.
//!
//! `cargo bench --bench table` measures; `cargo bench --bench table -- tiny` only checks the answers
//! in a size that takes no time. Each line is many short runs over different peers; shown are the
//! least, the lower quartile and the median, in ns of the thread's CPU time per heartbeat (not of the
//! wall clock, so that a neighbour on the same core costs us its cache lines only).
//!
//! - *plain*: `find`, then write, one heartbeat after the other.
//! - *find ahead*: index lines asked for, then `find` for the whole batch, then write.
//! - *three passes*: index lines asked for; `guess` by the index alone and ask for the slots;
//!   `confirm` and write. See `engine::table`.
//! - *floor*: the same ids and words in a plain array by index, to tell what memory alone costs.

use std::hint::black_box;
use std::sync::Arc;
use systole::engine::slot::{SlotData, SlotRegion, Slots};
use systole::engine::table::{Table, Tag};
use systole::engine::transition::PeerState;
use systole::wire::{PeerId, Status};

const BATCH: usize = 64;

/// SplitMix64: turns 0, 1, 2, … into ids as random as those of a hash.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn id(n: u64) -> PeerId {
    PeerId(mix(n + 1))
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and `time` may be written.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(rc, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Prints the least, lower quartile and median of a measurement's runs.
fn report(name: &str, mut ns: Vec<f64>) {
    ns.sort_by(f64::total_cmp);
    println!("    {name:<14} {:6.1} {:6.1} {:6.1}", ns[0], ns[ns.len() / 4], ns[ns.len() / 2]);
}

/// What the shard writes for a heartbeat in sequence.
#[inline]
fn beat(table: &Table, index: u32, now_ns: u64) {
    let slot = table.slot(index);
    let sequence = slot.last_sequence().wrapping_add(1);
    let heartbeats = slot.heartbeats().wrapping_add(1);
    let mask = slot.seen_mask() << 1 | 1;
    if slot.state() != PeerState::Up || slot.interval_us() != 1_000_000 {
        unreachable!("all peers are up and beat once a second");
    }
    let arrivals = slot.arrivals();
    let mut write = slot.write();
    write.set_last_seen_ns(now_ns);
    write.set_arrivals(&arrivals);
    write.set_last_sequence(sequence);
    write.set_seen_mask(mask);
    write.set_heartbeats(heartbeats);
    write.set_status(Status::Ok);
}

fn plain(table: &Table, batch: &[PeerId], now_ns: u64) {
    for &peer in batch {
        beat(table, table.find(peer).unwrap(), now_ns);
    }
}

fn find_ahead(table: &Table, batch: &[PeerId], now_ns: u64) {
    for &peer in batch {
        table.prefetch(peer);
    }
    let mut found = [0; BATCH];
    for (&peer, found) in batch.iter().zip(&mut found) {
        *found = table.find(peer).unwrap();
    }
    for &index in &found[..batch.len()] {
        beat(table, index, now_ns);
    }
}

fn three_passes(table: &Table, batch: &[PeerId], now_ns: u64) {
    let mut tags = [Tag::default(); BATCH];
    for (&peer, tag) in batch.iter().zip(&mut tags) {
        *tag = table.prefetch(peer);
    }
    let mut guesses = [0; BATCH];
    for (&tag, guess) in tags[..batch.len()].iter().zip(&mut guesses) {
        *guess = table.guess(tag);
        table.prefetch_slot(*guess);
    }
    for (&peer, guess) in batch.iter().zip(guesses) {
        beat(table, table.confirm(peer, guess).unwrap(), now_ns);
    }
}

/// One line of the results: `order` in runs of so many heartbeats.
fn measure(
    table: &Table,
    order: &[PeerId],
    run: usize,
    name: &str,
    way: fn(&Table, &[PeerId], u64),
) {
    let before = total_heartbeats(table);
    let measured = order.chunks(run).enumerate().map(|(now_ns, run)| {
        let begun = cpu_ns();
        for batch in run.chunks(BATCH) {
            way(table, black_box(batch), now_ns as u64);
        }
        (cpu_ns() - begun) as f64 / run.len() as f64
    });
    let measured = measured.collect();
    // The answer: every heartbeat arrived, once.
    assert_eq!(total_heartbeats(table) - before, order.len() as u64, "{name}");
    report(name, measured);
}

fn total_heartbeats(table: &Table) -> u64 {
    (0..table.view().high_water()).map(|index| table.slot(index).heartbeats() as u64).sum()
}

/// The memory's share: as many lines, by a known random index, and two words of each.
fn measure_floor(peers: u64, beats: usize, run: usize) {
    #[repr(align(128))]
    #[derive(Clone, Default)]
    struct Line([u64; 8]);
    let mut lines = vec![Line::default(); peers as usize];
    let order: Vec<u32> = (0..beats as u64).map(|n| (mix(!n) % peers) as u32).collect();
    let measured = order.chunks(run).map(|run| {
        let begun = cpu_ns();
        let lines = black_box(&mut lines);
        for &index in black_box(run) {
            let line = &mut lines[index as usize].0;
            line[0] += 1;
            line[1] = begun;
        }
        (cpu_ns() - begun) as f64 / run.len() as f64
    });
    let measured = measured.collect();
    assert_eq!(lines.iter().map(|line| line.0[0]).sum::<u64>(), beats as u64);
    report("floor", measured);
}

fn compare(peers: u64, capacity: u32, beats: usize, run: usize) {
    println!("{peers} peers, room for {capacity}: ns per heartbeat, least, quartile, median");
    let slots = Arc::new(Slots::new(SlotRegion::anonymous(capacity).unwrap()));
    let mut table = Table::new(slots, [0x5EED, 0xF00D]);
    let begun = cpu_ns();
    for n in 0..peers {
        let data = SlotData {
            peer: id(n),
            state: PeerState::Up,
            interval_us: 1_000_000,
            ..SlotData::FREE
        };
        table.insert(data).unwrap();
    }
    println!("    {:<14} {:6.1}", "insert", (cpu_ns() - begun) as f64 / peers as f64);
    let order: Vec<PeerId> = (0..beats as u64).map(|n| id(mix(!n) % peers)).collect();
    measure(&table, &order, run, "plain", plain);
    measure(&table, &order, run, "find ahead", find_ahead);
    measure(&table, &order, run, "three passes", three_passes);
    measure_floor(peers, beats, run);
    // A reader agrees with the owner, and strangers are not found.
    let view = table.view();
    for n in 0..peers.min(1_000) {
        let (index, data) = view.find(id(n)).unwrap();
        assert_eq!((Some(index), data.peer), (table.find(id(n)), id(n)));
        assert_eq!(view.find(id(peers + n)), None);
    }
    // Everybody goes, and the table is as new.
    let begun = cpu_ns();
    (0..peers).for_each(|n| table.remove(table.find(id(n)).unwrap()));
    println!("    {:<14} {:6.1}", "find + remove", (cpu_ns() - begun) as f64 / peers as f64);
    assert!(table.is_empty() && (0..capacity).all(|index| view.read(index).is_none()));
}

fn main() {
    // cargo test --benches runs it without `--bench`: check, do not measure.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let tiny = args.iter().any(|arg| arg == "tiny") || !args.iter().any(|arg| arg == "--bench");
    let (beats, run) = if tiny { (1_000, 300) } else { (1 << 23, 1 << 15) };
    let sizes: &[(u64, u32)] = match tiny {
        true => &[(100, 100), (500, 1_000)],
        false => &[(50_000, 50_000), (50_000, 1_000_000), (1_000_000, 1_000_000)],
    };
    for &(peers, capacity) in sizes {
        compare(peers, capacity, beats, run);
    }
}
