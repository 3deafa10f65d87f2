//! The table against a `HashMap`, and its readers against a writer that never stops.

use super::*;
use crate::engine::detector::Arrivals;
use crate::engine::slot::SlotRegion;
use crate::engine::transition::Reason;
use crate::testing::{Rng, seeds};
use crate::wire::Status;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::thread;

/// miri, a thousand times slower, is asked about the unsafe code and not about the logic.
const ROUNDS: u64 = if cfg!(miri) { 40 } else { 20_000 };
const RUNS: usize = if cfg!(miri) { 1 } else { usize::MAX };

fn slots(capacity: u32) -> Arc<Slots> {
    Arc::new(Slots::new(SlotRegion::anonymous(capacity).unwrap()))
}

/// A record whose every word follows from the peer and one more number.
fn record(peer: PeerId, salt: u64) -> SlotData {
    let mut rng = Rng::new(peer.0 ^ salt.rotate_left(32));
    let mut word = || rng.next();
    SlotData {
        peer,
        state: [PeerState::Up, PeerState::Suspect, PeerState::Down, PeerState::Left]
            [word() as usize % 4],
        pending: [None, Some(Reason::FirstBeat), Some(Reason::Removed)][word() as usize % 3],
        status: [Status::Ok, Status::Warn, Status::Critical, Status::Maintenance]
            [word() as usize % 4],
        silenced: word() & 1 == 1,
        sequenced: word() & 1 == 1,
        way: word() as u8 & 127,
        key_id: word() as u8,
        profile_digest: word() as u32,
        last_seen_ns: word(),
        alive_since_ns: word(),
        since_ns: word(),
        first_seen_ns: salt,
        interval_us: 1_000 + word() % 1_000_000_000,
        incarnation: word() as u32,
        last_sequence: word() as u32,
        seen_mask: word() as u32,
        heartbeats: word() as u32,
        gaps: word() as u32,
        duplicates: word() as u32,
        reordered: word() as u32,
        restarts: word() as u32,
        stale: word() as u32,
        arrivals: Arrivals {
            lag_ns: word() as f32,
            mean_ns: word() as f32,
            spread: word() as f32,
            extra: word() as f32,
            samples: word() as u8,
        },
        group: word() as u16 & 0x7fff,
        assigned: word() & 1 == 1,
        parent: word() as u32,
        other_way: word() as u32,
        other_way_at: word() as u32,
        report_no: word() as u32,
    }
}

/// Compares everything the table says with the oracle.
fn check_all(table: &Table, oracle: &HashMap<PeerId, (u32, SlotData)>, seed: u64) {
    let view = table.view();
    assert_eq!(table.len() as usize, oracle.len(), "seed {seed}");
    assert_eq!(table.is_empty(), oracle.is_empty(), "seed {seed}");
    for (&peer, &(index, data)) in oracle {
        assert_eq!(table.find(peer), Some(index), "seed {seed}");
        assert_eq!(
            table.confirm(peer, table.guess(table.prefetch(peer))),
            Some(index),
            "seed {seed}"
        );
        assert_eq!(table.read(index), data, "seed {seed}");
        assert_eq!(view.find(peer), Some((index, data)), "seed {seed}");
        assert_eq!(view.read(index), Some(data), "seed {seed}");
    }
    let taken: Vec<u32> = oracle.values().map(|&(index, _)| index).collect();
    for index in (0..table.capacity()).filter(|index| !taken.contains(index)) {
        assert_eq!(table.read(index), SlotData::FREE, "seed {seed}");
        assert_eq!(view.read(index), None, "seed {seed}");
    }
    assert!(taken.iter().all(|&index| index < view.high_water()), "seed {seed}");
}

/// Inserts, removes, beats and looks up at random; ids are few, so that each comes back often.
fn check(seed: u64, hash: KeyedHash, capacity: u32, ids: u64) {
    println!("SYSTOLE_TEST_SEED={seed}, capacity {capacity}, ids {ids}");
    let mut rng = Rng::new(seed);
    let mut table = Table::with_hash(slots(capacity), hash);
    let mut oracle: HashMap<PeerId, (u32, SlotData)> = HashMap::new();
    for round in 0..ROUNDS {
        let peer = PeerId(rng.below(ids));
        let guess = [table.guess(table.prefetch(peer)), rng.below(capacity as u64 + 2) as u32, NIL]
            [rng.below(3) as usize];
        let found = oracle.get(&peer).map(|&(index, _)| index);
        assert_eq!(table.find(peer), found, "seed {seed}, round {round}");
        assert_eq!(table.confirm(peer, guess), found, "seed {seed}, round {round}");
        table.prefetch_slot(guess);
        match found {
            Some(index) if rng.one_in(2) => {
                table.remove(index);
                oracle.remove(&peer);
            }
            Some(index) => {
                let data = &mut oracle.get_mut(&peer).unwrap().1;
                *data = SlotData { last_seen_ns: round, heartbeats: round as u32, ..*data };
                let mut write = table.slot(index).write();
                write.set_last_seen_ns(round);
                write.set_heartbeats(round as u32);
            }
            None => match table.insert(record(peer, round)) {
                Ok(index) => {
                    assert!(oracle.values().all(|&(taken, _)| taken != index), "seed {seed}");
                    oracle.insert(peer, (index, record(peer, round)));
                }
                Err(TableFull) => {
                    assert_eq!(oracle.len(), capacity as usize, "seed {seed}, round {round}");
                }
            },
        }
        if rng.one_in(if cfg!(miri) { 20 } else { 200 }) {
            check_all(&table, &oracle, seed);
        }
    }
    check_all(&table, &oracle, seed);
    for &(index, _) in oracle.values() {
        table.remove(index);
    }
    check_all(&table, &HashMap::new(), seed);
}

#[test]
fn agrees_with_a_map() {
    for seed in seeds().into_iter().take(RUNS) {
        check(seed, KeyedHash::new([seed, 1]), 64, 150);
    }
}

#[test]
fn agrees_with_a_map_when_every_id_collides() {
    for seed in seeds().into_iter().take(RUNS) {
        check(seed, KeyedHash::ALL_ALIKE, 16, 40);
    }
}

#[test]
fn a_table_for_one_works() {
    check(1, KeyedHash::new([1, 1]), 1, 3);
}

#[test]
fn a_full_table_refuses_and_stays_as_it_is() {
    let mut table = Table::new(slots(3), [1, 2]);
    let mut oracle = HashMap::new();
    for id in 0..3 {
        let data = record(PeerId(id), id);
        oracle.insert(data.peer, (table.insert(data).unwrap(), data));
    }
    assert_eq!(table.insert(record(PeerId(9), 0)), Err(TableFull));
    check_all(&table, &oracle, 0);
    table.remove(1);
    assert_eq!(table.insert(record(PeerId(9), 0)), Ok(1));
    assert_eq!(table.insert(record(PeerId(10), 0)), Err(TableFull));
}

#[test]
fn slots_are_given_out_last_freed_first_and_unused_ones_in_order() {
    let mut table = Table::new(slots(10), [1, 2]);
    let insert = |table: &mut Table, id: u64| table.insert(record(PeerId(id), 0)).unwrap();
    let view = table.view();
    assert_eq!(view.high_water(), 0);
    assert_eq!((0..4).map(|id| insert(&mut table, id)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(view.high_water(), 4);
    table.remove(0);
    table.remove(2);
    assert_eq!((4..7).map(|id| insert(&mut table, id)).collect::<Vec<_>>(), [2, 0, 4]);
    assert_eq!((view.high_water(), view.capacity()), (5, 10));
    assert_eq!(view.read(10), None, "beyond the capacity");
}

/// Id 0 looks like the rest of a free slot.
#[test]
fn the_peer_with_id_zero_is_a_peer_like_others() {
    let mut table = Table::new(slots(4), [1, 2]);
    assert_eq!(table.find(PeerId(0)), None);
    assert_eq!(table.confirm(PeerId(0), 2), None);
    let index = table.insert(record(PeerId(0), 1)).unwrap();
    assert_eq!(table.confirm(PeerId(0), 2), Some(index));
    assert_eq!(table.view().find(PeerId(0)).map(|(index, _)| index), Some(index));
    table.remove(index);
    assert_eq!(table.view().find(PeerId(0)), None);
}

#[test]
fn every_setter_sets_its_own_word() {
    let mut table = Table::new(slots(1), [1, 2]);
    let index = table.insert(record(PeerId(5), 0)).unwrap();
    for salt in 0..if cfg!(miri) { 8 } else { 64 } {
        let data = record(PeerId(5), salt);
        let slot = table.slot(index);
        let mut write = slot.write();
        write.set_state(data.state);
        write.set_pending(data.pending);
        write.set_status(data.status);
        write.set_silenced(data.silenced);
        write.set_sequenced(data.sequenced);
        write.set_way(data.way);
        write.set_key_id(data.key_id);
        write.set_profile_digest(data.profile_digest);
        write.set_last_seen_ns(data.last_seen_ns);
        write.set_since_ns(data.since_ns);
        write.set_alive_since_ns(data.alive_since_ns);
        write.set_first_seen_ns(data.first_seen_ns);
        write.set_interval_us(data.interval_us);
        write.set_last(data.incarnation, data.last_sequence);
        write.set_seen_mask(data.seen_mask);
        write.set_heartbeats(data.heartbeats);
        write.set_gaps(data.gaps);
        write.set_duplicates(data.duplicates);
        write.set_reordered(data.reordered);
        write.set_restarts(data.restarts);
        write.set_stale(data.stale);
        write.set_arrivals(&data.arrivals);
        write.set_group(data.group, data.assigned);
        write.set_parent(data.parent);
        write.set_other_way(data.other_way);
        write.set_other_way_at(data.other_way_at);
        write.set_report_no(data.report_no);
        drop(write);
        assert_eq!(table.view().find(PeerId(5)), Some((index, data)));
    }
}

#[test]
fn every_pending_reason_comes_back() {
    let mut table = Table::new(slots(1), [1, 2]);
    let index = table.insert(record(PeerId(5), 0)).unwrap();
    for code in 0..=8 {
        let slot = table.slot(index);
        let reasons = [
            None,
            Some(Reason::FirstBeat),
            Some(Reason::Silence),
            Some(Reason::Beat),
            Some(Reason::Restart),
            Some(Reason::Bye),
            Some(Reason::Expired),
            Some(Reason::Removed),
            Some(Reason::Parent),
        ];
        slot.write().set_pending(reasons[code]);
        assert_eq!(slot.pending(), reasons[code]);
    }
}

#[test]
#[should_panic(expected = "have an owner already")]
fn slots_have_one_owner() {
    let slots = slots(1);
    let _first = Table::new(slots.clone(), [1, 2]);
    let _second = Table::new(slots, [1, 2]);
}

#[test]
fn a_region_of_no_slots_or_of_too_many_is_refused() {
    for capacity in [0, SlotRegion::MAX_CAPACITY + 1, u32::MAX] {
        let error = SlotRegion::anonymous(capacity).err().expect("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

/// The owner writes, inserts and removes without a pause; readers on other threads check that each
/// record they get is one that was written whole, and that a peer which is always there is always
/// found. With every id colliding, each removal moves entries.
fn check_readers(hash: KeyedHash) {
    const STAYING: u64 = 8;
    const COMING_AND_GOING: u64 = 8;
    let mut table = Table::with_hash(slots((STAYING + COMING_AND_GOING) as u32), hash);
    // Those that come and go stand in front of some that stay, which then move.
    for id in (0..STAYING + COMING_AND_GOING).map(|n| n * 7 % (STAYING + COMING_AND_GOING)) {
        table.insert(record(PeerId(id), 0)).unwrap();
    }
    let done = AtomicBool::new(false);
    let check_whole = |data: SlotData| {
        assert_eq!(data, record(data.peer, data.first_seen_ns), "torn");
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            let view = table.view();
            let (done, check_whole) = (&done, &check_whole);
            scope.spawn(move || {
                // Relaxed: it only says when to stop.
                while !done.load(Ordering::Relaxed) {
                    for id in 0..STAYING + COMING_AND_GOING {
                        let found = view.find(PeerId(id));
                        assert!(found.is_some() || id >= STAYING, "peer {id} was missed");
                        if let Some((_, data)) = found {
                            assert_eq!(data.peer, PeerId(id));
                            check_whole(data);
                        }
                    }
                    (0..view.high_water())
                        .filter_map(|index| view.read(index))
                        .for_each(check_whole);
                }
            });
        }
        let _finish = Finish(&done);
        let mut rng = Rng::new(1);
        for round in 1..ROUNDS * 10 {
            let peer = PeerId(rng.below(STAYING + COMING_AND_GOING));
            match table.find(peer) {
                Some(index) if peer.0 >= STAYING && rng.one_in(2) => table.remove(index),
                Some(index) => table.slot(index).write().set_data(&record(peer, round)),
                None => drop(table.insert(record(peer, round)).unwrap()),
            }
        }
    });
}

/// Ends the readers, also when the writer fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_whole_records_and_every_peer_that_stays() {
    check_readers(KeyedHash::new([3, 4]));
}

#[test]
fn readers_see_them_even_when_every_removal_moves_entries() {
    check_readers(KeyedHash::ALL_ALIKE);
}
