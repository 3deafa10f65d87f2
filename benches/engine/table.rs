//! What a heartbeat costs in the table: find the peer, write its slot. Random peers, batches of 64.
//!
//! Each line is many short runs over different peers, in ns of the thread's CPU time per heartbeat (not
//! of the wall clock, so that a neighbour on the same core costs us its cache lines only).
//!
//! - *plain*: `find`, then write, one heartbeat after the other.
//! - *find ahead*: index lines asked for, then `find` for the whole batch, then write.
//! - *three passes*: index lines asked for; `guess` by the index alone and ask for the slots;
//!   `confirm` and write. See `engine::table`.
//! - *floor*: the same ids and words in a plain array by index, to tell what memory alone costs.

use crate::harness::{Figure, Report, mix, thread_cpu_ns};
use std::hint::black_box;
use std::sync::Arc;
use systole::engine::slot::{SlotData, SlotRegion, Slots};
use systole::engine::table::{Table, Tag};
use systole::engine::transition::PeerState;
use systole::wire::{PeerId, Status};

const BATCH: usize = 64;

fn id(n: u64) -> PeerId {
    PeerId(mix(n + 1))
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
    write.set_last(slot.incarnation(), sequence);
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
    report: &mut Report,
    case: &str,
    table: &Table,
    order: &[PeerId],
    run: usize,
    name: &str,
    way: fn(&Table, &[PeerId], u64),
) {
    let before = total_heartbeats(table);
    let measured = order.chunks(run).enumerate().map(|(now_ns, run)| {
        let begun = thread_cpu_ns();
        for batch in run.chunks(BATCH) {
            way(table, black_box(batch), now_ns as u64);
        }
        (thread_cpu_ns() - begun) as f64 / run.len() as f64
    });
    let measured: Vec<f64> = measured.collect();
    // The answer: every heartbeat arrived, once.
    assert_eq!(total_heartbeats(table) - before, order.len() as u64, "{name}");
    report.figure(case, name, "ns", Figure::of(&measured));
}

fn total_heartbeats(table: &Table) -> u64 {
    (0..table.view().high_water()).map(|index| table.slot(index).heartbeats() as u64).sum()
}

/// The memory's share: as many lines, by a known random index, and two words of each.
fn measure_floor(report: &mut Report, case: &str, peers: u64, beats: usize, run: usize) {
    #[repr(align(128))]
    #[derive(Clone, Default)]
    struct Line([u64; 8]);
    let mut lines = vec![Line::default(); peers as usize];
    let order: Vec<u32> = (0..beats as u64).map(|n| (mix(!n) % peers) as u32).collect();
    let measured = order.chunks(run).map(|run| {
        let begun = thread_cpu_ns();
        let lines = black_box(&mut lines);
        for &index in black_box(run) {
            let line = &mut lines[index as usize].0;
            line[0] += 1;
            line[1] = begun;
        }
        (thread_cpu_ns() - begun) as f64 / run.len() as f64
    });
    let measured: Vec<f64> = measured.collect();
    assert_eq!(lines.iter().map(|line| line.0[0]).sum::<u64>(), beats as u64);
    report.figure(case, "floor", "ns", Figure::of(&measured));
}

fn compare(report: &mut Report, peers: u64, capacity: u32, beats: usize, run: usize) {
    let case = &format!("{peers} peers, room for {capacity}");
    report.section(&format!("table, {case}: ns of processor time a heartbeat"));
    let slots = Arc::new(Slots::new(SlotRegion::anonymous(capacity).unwrap()));
    let mut table = Table::new(slots, [0x5EED, 0xF00D]);
    let begun = thread_cpu_ns();
    for n in 0..peers {
        let data = SlotData {
            peer: id(n),
            state: PeerState::Up,
            interval_us: 1_000_000,
            ..SlotData::FREE
        };
        table.insert(data).unwrap();
    }
    report.figure(
        case,
        "insert",
        "ns",
        Figure::exactly((thread_cpu_ns() - begun) as f64 / peers as f64),
    );
    let order: Vec<PeerId> = (0..beats as u64).map(|n| id(mix(!n) % peers)).collect();
    measure(report, case, &table, &order, run, "plain", plain);
    measure(report, case, &table, &order, run, "find ahead", find_ahead);
    measure(report, case, &table, &order, run, "three passes", three_passes);
    measure_floor(report, case, peers, beats, run);
    // A reader agrees with the owner, and strangers are not found.
    let view = table.view();
    for n in 0..peers.min(1_000) {
        let (index, data) = view.find(id(n)).unwrap();
        assert_eq!((Some(index), data.peer), (table.find(id(n)), id(n)));
        assert_eq!(view.find(id(peers + n)), None);
    }
    // Everybody goes, and the table is as new.
    let begun = thread_cpu_ns();
    (0..peers).for_each(|n| table.remove(table.find(id(n)).unwrap()));
    report.figure(
        case,
        "find + remove",
        "ns",
        Figure::exactly((thread_cpu_ns() - begun) as f64 / peers as f64),
    );
    assert!(table.is_empty() && (0..capacity).all(|index| view.read(index).is_none()));
}

/// All sizes; without `measures` tiny ones.
pub fn run(report: &mut Report, measures: bool) {
    let (beats, run) = if measures { (1 << 23, 1 << 15) } else { (1_000, 300) };
    let sizes: &[(u64, u32)] = match measures {
        true => &[(50_000, 50_000), (50_000, 1_000_000), (1_000_000, 1_000_000)],
        false => &[(100, 100), (500, 1_000)],
    };
    for &(peers, capacity) in sizes {
        compare(report, peers, capacity, beats, run);
    }
}
