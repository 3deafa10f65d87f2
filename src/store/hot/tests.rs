//! Files that fit, that are of another shape or boot, and that are no state at all.

use super::*;
use crate::engine::transition::PeerState;
use crate::testing::{Rng, TempDir, seeds};
use crate::wire::PeerId;
use std::collections::BTreeSet;

const BOOT: [u8; 16] = [7; 16];
const SHAPE: Shape = Shape { shards: 2, capacity: 5_000 };

struct Bench {
    _temp: TempDir,
    dir: StateDir,
}

impl Bench {
    fn new() -> Bench {
        let temp = TempDir::new();
        let dir = StateDir::open(&temp.path().join("s")).unwrap();
        Bench { _temp: temp, dir }
    }

    fn open(&self, shape: Shape, boot: [u8; 16], now_ns: u64) -> (Hot, Option<Unusable>) {
        let found = HotFile::open(&self.dir, boot).unwrap();
        let why = found.as_ref().err().copied();
        (go_on(&self.dir, found.ok(), shape, boot, now_ns, now_ns).unwrap(), why)
    }

    fn check(&self, bytes: &[u8]) -> Result<HotFile, Unusable> {
        let path = self.dir.file("scratch");
        std::fs::write(&path, bytes).unwrap();
        HotFile::check(File::options().read(true).write(true).open(path).unwrap()).unwrap()
    }
}

/// Fills each shard with peers of its own, `n` in all.
fn fill(hot: &mut Hot, n: u64, last_seen_ns: u64) {
    let shards = hot.memory.len() as u32;
    let mut used = vec![0; shards as usize];
    for peer in (1..=n).map(PeerId) {
        let shard = wire::steer(peer, shards) as usize;
        let data = SlotData { peer, state: PeerState::Up, last_seen_ns, ..SlotData::FREE };
        assert!(hot.memory[shard].slots.put(used[shard], &data));
        used[shard] += 1;
    }
    for memory in &hot.memory {
        memory.kept.as_ref().unwrap().journal.looked(last_seen_ns + 10);
    }
}

/// The peers in the shards, each in its own, with their times.
fn peers(hot: &Hot) -> BTreeSet<(u64, u64)> {
    let shards = hot.memory.len() as u32;
    let one = |(shard, memory): (u32, &ShardMemory)| {
        let records: Vec<SlotData> = memory.slots.records().collect();
        assert!(records.iter().all(|data| wire::steer(data.peer, shards) == shard));
        records.into_iter().map(|data| (data.peer.0, data.last_seen_ns))
    };
    (0..).zip(&hot.memory).flat_map(one).collect()
}

#[test]
fn the_same_shape_is_gone_on_with_in_place() {
    let bench = Bench::new();
    let (mut hot, why) = bench.open(SHAPE, BOOT, 1_000);
    assert_eq!((why, hot.generation), (Some(Unusable::Absent), 1_000));
    fill(&mut hot, 4_000, 500);
    drop(hot);
    let (hot, why) = bench.open(SHAPE, BOOT, 2_000);
    assert_eq!((why, hot.generation, peers(&hot).len()), (None, 1_000, 4_000));
    assert!(hot.memory.iter().all(|memory| memory.kept.as_ref().unwrap().looked_ns == 510));

    // Of whichever shard the peer: its heartbeat may lie in the socket of the reactor that was behind.
    hot.memory[1].kept.as_ref().unwrap().journal.looked(700);
    drop(hot);
    let (hot, _) = bench.open(SHAPE, BOOT, 2_000);
    assert!(hot.memory.iter().all(|memory| memory.kept.as_ref().unwrap().looked_ns == 510));
}

#[test]
fn another_number_of_shards_or_size_deals_the_peers_out_anew() {
    let bench = Bench::new();
    let (mut hot, _) = bench.open(SHAPE, BOOT, 1_000);
    fill(&mut hot, 4_000, 500);
    let before = peers(&hot);
    drop(hot);
    for (n, shards, capacity) in [(1, 3, 5_000), (2, 1, 4_000), (3, 2, 9_000)] {
        let (hot, why) = bench.open(Shape { shards, capacity }, BOOT, 1_000 + n);
        assert_eq!((why, hot.generation, hot.refused), (None, 1_000 + n, 0));
        assert_eq!(peers(&hot), before, "{shards} shards");
    }
    let (hot, _) = bench.open(Shape { shards: 1, capacity: 3_000 }, BOOT, 2_000);
    assert_eq!((hot.refused, peers(&hot).len()), (1_000, 3_000), "those without a place");
}

#[test]
fn a_reboot_moves_the_times_after_an_orderly_end_and_begins_anew_after_another() {
    for orderly in [true, false] {
        let bench = Bench::new();
        let (mut hot, _) = bench.open(SHAPE, BOOT, 1 << 40);
        fill(&mut hot, 100, 1 << 40);
        if orderly {
            hot.end().unwrap();
        }
        drop(hot);
        let (hot, why) = bench.open(SHAPE, [8; 16], 5_000);
        if orderly {
            assert_eq!((why, peers(&hot).len()), (None, 100));
            assert!(peers(&hot).iter().all(|(_, time)| *time == 4_990), "10 ns before the look");
            let kept = hot.memory[0].kept.as_ref().unwrap();
            assert_eq!((kept.looked_ns, kept.journal.looked_ns()), (5_000, 5_000));
        } else {
            assert_eq!((why, peers(&hot).len()), (Some(Unusable::Crashed), 0));
        }
    }
}

#[test]
fn an_orderly_end_is_forgotten_once_the_file_is_in_use() {
    let bench = Bench::new();
    let (hot, _) = bench.open(SHAPE, BOOT, 1_000);
    hot.end().unwrap();
    drop(hot);
    drop(bench.open(SHAPE, BOOT, 2_000));
    let (_, why) = bench.open(SHAPE, [8; 16], 3_000);
    assert_eq!(why, Some(Unusable::Crashed));
}

#[test]
fn what_is_no_state_is_refused() {
    let bench = Bench::new();
    drop(bench.open(Shape { shards: 1, capacity: 1_000 }, BOOT, 1_000));
    let good = std::fs::read(bench.dir.file(FILE)).unwrap();
    assert!(bench.check(&good).is_ok());
    let mut other = good.clone();
    other[8] ^= 1;
    assert_eq!(bench.check(&other).err(), Some(Unusable::OtherVersion));
    assert_eq!(bench.check(&good[..good.len() - 1]).err(), Some(Unusable::Damaged));
    assert_eq!(bench.check(&good[..40]).err(), Some(Unusable::Damaged));
    assert_eq!(bench.check(b"").err(), Some(Unusable::Damaged));
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut bytes = good.clone();
        bytes[rng.below(56) as usize] ^= 1 << rng.below(8);
        assert!(bench.check(&bytes).is_err(), "seed {seed}: every bit of the header counts");
    }
}

#[test]
fn memory_is_found_as_slots_are_used() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let (mut hot, _) = bench.open(Shape { shards: 1, capacity: 1_000_000 }, BOOT, 1_000);
    let blocks = || std::fs::metadata(bench.dir.file(FILE)).unwrap().blocks() * 512;
    let before = blocks();
    assert!(before < 6 << 20, "{before}: header and journal");
    fill(&mut hot, 10_000, 1);
    let used = blocks() - before;
    assert!((10_000 * 128..2 * 10_000 * 128).contains(&used), "{used}");
}
