//! The index against a `HashMap`, under hashes that collide as a test likes, and under fire from
//! chosen ids.

use super::*;
use crate::testing::{Rng, seeds};
use std::collections::HashMap;

/// miri, a thousand times slower, is asked about the unsafe code and not about the logic.
const RUNS: usize = if cfg!(miri) { 1 } else { usize::MAX };

/// Seams for tests: hashes whose collisions can be told beforehand.
impl KeyedHash {
    /// Every id has the same tag, 0.
    pub(in crate::engine) const ALL_ALIKE: KeyedHash =
        KeyedHash { multiplier: 0, addend: 0, whitener: 0, folder: 0 };

    /// The tag is the id's upper half.
    pub(in crate::engine) const UPPER_HALF: KeyedHash =
        KeyedHash { multiplier: 1 << 64, addend: 0, whitener: 0, folder: 1 };
}

impl Index {
    /// How many places a search for the peer looks at, the one that ends it included.
    fn probes(&self, peer: PeerId, slot: u32) -> usize {
        let tag = self.hash.tag(peer);
        let looked_at =
            |step: usize| self.words[(self.home(tag) + step) & self.mask()].load(Ordering::Relaxed);
        1 + (0..).take_while(|&step| ![0, entry(tag, slot)].contains(&looked_at(step))).count()
    }

    fn entries(&self) -> usize {
        self.words.iter().filter(|word| word.load(Ordering::Relaxed) != 0).count()
    }
}

/// Runs random insertions and removals of ids drawn by `draw` on an index and on a map, and compares.
fn check(seed: u64, capacity: u32, hash: KeyedHash, draw: impl Fn(&mut Rng) -> u64) {
    println!("SYSTOLE_TEST_SEED={seed}, capacity {capacity}");
    let mut rng = Rng::new(seed);
    let index = Index::new(capacity, hash);
    let mut oracle: HashMap<u64, u32> = HashMap::new();
    let mut owners: Vec<Option<u64>> = vec![None; capacity as usize];
    for _ in 0..if cfg!(miri) { 40 } else { 4_000 } {
        let id = draw(&mut rng);
        match oracle.get(&id) {
            Some(&slot) => {
                index.remove(PeerId(id), slot);
                oracle.remove(&id);
                owners[slot as usize] = None;
            }
            None if oracle.len() < capacity as usize => {
                let slot = owners.iter().position(Option::is_none).unwrap();
                index.insert(PeerId(id), slot as u32);
                oracle.insert(id, slot as u32);
                owners[slot] = Some(id);
            }
            None => {}
        }
        let probe = draw(&mut rng);
        for id in [id, probe] {
            let owner_sees = index.find(PeerId(id), |slot| owners[slot as usize] == Some(id));
            let others_see = index.find_shared(PeerId(id), |slot| {
                (owners[slot as usize] == Some(id)).then_some(slot)
            });
            assert_eq!(owner_sees, oracle.get(&id).copied(), "seed {seed}, id {id:#x}");
            assert_eq!(others_see, owner_sees, "seed {seed}, id {id:#x}");
            // The guess is the first with the tag.
            let first = index.find(PeerId(id), |_| true);
            assert_eq!(index.guess(index.prefetch(PeerId(id))), first, "seed {seed}, id {id:#x}");
        }
        assert_eq!(index.entries(), oracle.len());
    }
    for (&id, &slot) in &oracle {
        assert_eq!(index.find(PeerId(id), |at| at == slot), Some(slot), "seed {seed}");
        index.remove(PeerId(id), slot);
    }
    assert_eq!(index.entries(), 0, "seed {seed}");
}

#[test]
fn agrees_with_a_map_under_its_own_hash() {
    for seed in seeds().into_iter().take(RUNS) {
        check(seed, 100, KeyedHash::new([seed, !seed]), |rng| rng.below(200));
    }
}

#[test]
fn agrees_with_a_map_when_every_id_collides() {
    for seed in seeds().into_iter().take(RUNS) {
        check(seed, 30, KeyedHash::ALL_ALIKE, |rng| rng.below(60));
    }
}

/// Homes at the very end, so that runs wrap to the start, and tags shared by several ids.
#[test]
fn agrees_with_a_map_when_runs_wrap_around() {
    for seed in seeds().into_iter().take(RUNS) {
        check(seed, 16, KeyedHash::UPPER_HALF, |rng| {
            let tag = [0xFFFF_FFFF, 0xF800_0000, 0xF000_0001, 0xE800_0000, 0x0000_0000];
            tag[rng.below(5) as usize] << 32 | rng.below(8)
        });
    }
}

#[test]
fn the_smallest_index_works() {
    check(1, 1, KeyedHash::new([1, 2]), |rng| rng.below(3));
}

#[test]
fn hashes_with_different_seeds_disagree() {
    let one = KeyedHash::new([1, 2]);
    for other in [[2, 1], [1, 3], [0, 2], [0, 0]] {
        let other = KeyedHash::new(other);
        let same = (0..1_000).filter(|&id| one.tag(PeerId(id)) == other.tag(PeerId(id))).count();
        assert!(same < 3, "{same} of 1,000 ids have the same tag");
    }
}

/// What somebody might try who knows the code but not the key. All are compared with random ids at
/// the same load, for mean and for longest search.
#[test]
#[cfg_attr(miri, ignore = "statistics, no unsafe code")]
fn chosen_ids_search_no_longer_than_random_ones() {
    const PEERS: u32 = 1 << 15;
    type Family = (&'static str, fn(u64) -> u64);
    let families: [Family; 10] = [
        ("ascending", |i| i),
        ("ascending, from the top", |i| !i),
        ("the same low 32 bits", |i| i << 32 | 0xDEAD_BEEF),
        ("the same low 48 bits", |i| i << 48 | i >> 16 << 47 | 0xDEAD_BEEF),
        ("the same high 48 bits", |i| 0xDEAD_BEEF_CAFE << 16 | i),
        ("multiples of 2^20", |i| i << 20),
        ("multiples of the golden ratio", |i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        ("halves that cancel by exclusive or", |i| i << 32 | i),
        ("halves that cancel by sum", |i| (i << 32).wrapping_sub(i)),
        ("spread over every fourth bit", |i| {
            (0..16).fold(0, |id, bit| id | (i >> bit & 1) << (4 * bit))
        }),
    ];
    for seed in seeds() {
        let hash = KeyedHash::new([seed, seed.rotate_left(17)]);
        let measure = |id: &dyn Fn(u64) -> u64| {
            let index = Index::new(PEERS, hash);
            (0..PEERS).for_each(|slot| index.insert(PeerId(id(slot as u64)), slot));
            let probes = (0..PEERS).map(|slot| index.probes(PeerId(id(slot as u64)), slot));
            let (sum, longest) = probes.fold((0, 0), |(sum, longest), n| (sum + n, longest.max(n)));
            (sum as f64 / PEERS as f64, longest)
        };
        let (random_mean, random_longest) = measure(&|i| Rng::new(i ^ seed << 32).next());
        println!("SYSTOLE_TEST_SEED={seed}: random {random_mean:.2}, longest {random_longest}");
        // Knuth: (1 + 1 / (1 - load)) / 2 for a hit, so 1.5 at half full.
        assert!((1.4..1.6).contains(&random_mean), "seed {seed}: {random_mean}");
        for (name, id) in families {
            let (mean, longest) = measure(&id);
            println!("  {name}: {mean:.2}, longest {longest}");
            assert!(mean < 1.6, "seed {seed}, {name}: mean {mean:.2}");
            assert!(longest < 2 * random_longest, "seed {seed}, {name}: longest {longest}");
        }
    }
}
