//! Who is behind an id: the name, group and labels that a peer's HELLO told.
//!
//! A peer costs 24 bytes here plus its profile's own bytes: no hash table with its empty half, no
//! interned strings, no pointer to a record.
//!
//! ```text
//!   id ──keyed hash──▶ one of 16,384 parts ──▶ RwLock<Vec<(PeerId, OwnedProfile)>>, sorted by id
//! ```
//!
//! At a million peers a part holds sixty records: a look-up is six comparisons, an insertion moves
//! 700 bytes, and a reader that walks the fleet keeps the writer from one part at a time. Small parts
//! also grow at different times; a thousand large ones, all outgrown at once, left as much memory in
//! holes as they held (75 bytes a peer instead of 62). The hash that picks the part is keyed,
//! because ids follow from names, and names are chosen by whoever sends: without the key one part
//! could be made to hold them all.
//!
//! The one writer is the publisher. There is no map from names to ids: an id *is* its name's hash.

use crate::store::StateError;
use crate::store::names::{self, NamesFile, NamesFound, Records};
use crate::wire::{OwnedProfile, PeerId, Profile};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts that the registry consists of.
pub const PARTS: usize = 16_384;

type Record = (PeerId, OwnedProfile);

/// The profiles of the peers, by id.
pub struct Registry {
    parts: Box<[RwLock<Vec<Record>>]>,
    hasher: RandomState,
    len: AtomicUsize,
    /// Which part `sweep` looks at next.
    next_sweep: AtomicUsize,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            parts: (0..PARTS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            next_sweep: AtomicUsize::new(0),
        }
    }
}

impl Registry {
    /// Stores a peer's profile, in place of an earlier one.
    pub fn insert(&self, peer: PeerId, profile: OwnedProfile) {
        let mut part = self.part(peer).write().expect(UNPOISONED);
        match part.binary_search_by_key(&peer, |record| record.0) {
            Ok(at) => part[at].1 = profile,
            Err(at) => {
                if part.len() == part.capacity() {
                    // An eighth, not the double: the slack of a million peers is memory, too.
                    let more = part.len() / 8 + 4;
                    part.reserve_exact(more);
                }
                part.insert(at, (peer, profile));
                // Relaxed here and below: a count, and nothing is ordered by it.
                self.len.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Forgets a peer's profile, if there is one.
    pub fn remove(&self, peer: PeerId) {
        let mut part = self.part(peer).write().expect(UNPOISONED);
        if let Ok(at) = part.binary_search_by_key(&peer, |record| record.0) {
            part.remove(at);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Shows a peer's profile to `look`, `None` while it is unknown. The peer's part is locked
    /// meanwhile: `look` copies what it wants and returns.
    pub fn with<R>(&self, peer: PeerId, look: impl FnOnce(Option<Profile<'_>>) -> R) -> R {
        let part = self.part(peer).read().expect(UNPOISONED);
        let found = part.binary_search_by_key(&peer, |record| record.0).ok();
        look(found.map(|at| part[at].1.profile()))
    }

    /// Reads the names file of a state directory.
    ///
    /// # Errors
    /// The system refuses.
    pub fn read(&self, directory: &Path) -> Result<(NamesFile, NamesFound), StateError> {
        let (file, records, found) = NamesFile::open(directory)?;
        self.take_in(&records);
        Ok((file, found))
    }

    /// Takes in many records, the later of two with one peer holding, part by part: one by one each
    /// would miss the cache a few times, and leave holes as its part grew.
    fn take_in(&self, records: &Records) {
        // A counting sort by part: the records stay where they lie.
        let mut places: Vec<u16> = Vec::with_capacity(records.count() as usize);
        let mut ends = vec![0usize; PARTS];
        for (_, (peer, _)) in records.iter() {
            let place = self.place(peer);
            places.push(place as u16);
            ends[place] += 1;
        }
        let mut end = 0;
        for count in &mut ends {
            // Where its part begins, and moved on to its end by what follows.
            end += std::mem::replace(count, end);
        }
        let mut sorted = vec![0usize; places.len()];
        for ((at, _), place) in records.iter().zip(places) {
            let next = &mut ends[place as usize];
            sorted[*next] = at;
            *next += 1;
        }
        let mut begin = 0;
        let mut of_part = Vec::new();
        for (part, end) in self.parts.iter().zip(ends) {
            of_part.clear();
            of_part.extend(sorted[begin..end].iter().filter_map(|at| records.at(*at)));
            begin = end;
            if of_part.is_empty() {
                continue;
            }
            // Stable, so that of one peer's the latest is last.
            of_part.sort_by_key(|(peer, _)| *peer);
            let mut part = part.write().expect(UNPOISONED);
            let before = part.len();
            let known = std::mem::take(&mut *part);
            *part = merge(known, &of_part);
            // One after the other, for a difference may be negative.
            self.len.fetch_add(part.len(), Ordering::Relaxed);
            self.len.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Shows every peer's profile to `each`, a part at a time.
    pub fn for_each(&self, each: &mut dyn FnMut(PeerId, &OwnedProfile)) {
        for part in &self.parts {
            let part = part.read().expect(UNPOISONED);
            part.iter().for_each(|(peer, profile)| each(*peer, profile));
        }
    }

    /// Peers with a profile.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether no peer has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the profiles of one part, the next in turn, whose peers `keep` denies.
    ///
    /// Every profile leaves with its peer; this is for those whose peer never came to be. After
    /// [`PARTS`] calls the whole registry was looked at.
    pub fn sweep(&self, keep: impl Fn(PeerId) -> bool) {
        let next = self.next_sweep.fetch_add(1, Ordering::Relaxed) % PARTS;
        let mut part = self.parts[next].write().expect(UNPOISONED);
        let before = part.len();
        part.retain(|record| keep(record.0));
        self.len.fetch_sub(before - part.len(), Ordering::Relaxed);
    }

    fn part(&self, peer: PeerId) -> &RwLock<Vec<Record>> {
        &self.parts[self.place(peer)]
    }

    fn place(&self, peer: PeerId) -> usize {
        self.hasher.hash_one(peer.0) as usize % PARTS
    }
}

/// What a part knows after it was told these, sorted by peer, the latest of a peer's last.
fn merge(known: Vec<Record>, told: &[names::Record<'_>]) -> Vec<Record> {
    let mut merged = Vec::with_capacity(known.len() + told.len());
    let mut known = known.into_iter().peekable();
    for of_peer in told.chunk_by(|a, b| a.0 == b.0) {
        let peer = of_peer[0].0;
        while let Some(before) = known.next_if(|(other, _)| *other < peer) {
            merged.push(before);
        }
        let before = known.next_if(|(other, _)| *other == peer);
        // A profile that breaks the rules of another version is passed over.
        let valid = |body: &[u8]| OwnedProfile::from_bytes(body.into()).ok();
        let latest = of_peer.iter().rev().find_map(|(_, body)| match body {
            Some(body) => valid(body).map(Some),
            None => Some(None),
        });
        match latest {
            Some(profile) => merged.extend(profile.map(|profile| (peer, profile))),
            None => merged.extend(before),
        }
    }
    merged.extend(known);
    merged
}

const UNPOISONED: &str = "nothing panics while it holds a part";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{Random, profile, seeds};
    use crate::testing::TempDir;
    use std::collections::HashMap;

    #[test]
    fn many_at_once_are_as_one_after_the_other() {
        for seed in seeds() {
            let mut random = Random::new(seed);
            let (at_once, one_by_one) = (Registry::default(), Registry::default());
            for _ in 0..3 {
                let directory = TempDir::new();
                let (mut file, ..) = NamesFile::open(directory.path()).unwrap();
                for _ in 0..2_000 {
                    let peer = PeerId(random.below(900));
                    let named = (random.below(3) > 0)
                        .then(|| profile(&format!("peer-{}", random.below(9_999)), "web", &[]));
                    match named {
                        Some(profile) => {
                            file.learn(peer, &profile);
                            one_by_one.insert(peer, profile);
                        }
                        None => {
                            file.forget(peer);
                            one_by_one.remove(peer);
                        }
                    }
                }
                file.flush();
                at_once.read(directory.path()).unwrap();
                assert_eq!(at_once.len(), one_by_one.len(), "seed {seed}");
                for peer in (0..900).map(PeerId) {
                    let owned = |r: &Registry| r.with(peer, |p| p.map(|p| OwnedProfile::of(&p)));
                    assert_eq!(owned(&at_once), owned(&one_by_one), "seed {seed} {peer}");
                }
            }
        }
    }

    #[test]
    fn it_does_what_a_hash_map_does() {
        for seed in seeds() {
            let mut random = Random::new(seed);
            let registry = Registry::default();
            let mut model: HashMap<PeerId, OwnedProfile> = HashMap::new();
            for step in 0..20_000 {
                let peer = PeerId(random.below(600));
                match random.below(3) {
                    0 => {
                        registry.remove(peer);
                        model.remove(&peer);
                    }
                    _ => {
                        let name = format!("peer-{}", random.below(100_000));
                        let told = profile(&name, "web", &[]);
                        registry.insert(peer, told.clone());
                        model.insert(peer, told);
                    }
                }
                assert_eq!(registry.len(), model.len(), "seed {seed} step {step}");
                let asked = PeerId(random.below(600));
                let name = registry.with(asked, |p| p.map(|p| p.name.to_owned()));
                let expected = model.get(&asked).map(|p| p.profile().name.to_owned());
                assert_eq!(name, expected, "seed {seed} step {step}");
            }
        }
    }

    #[test]
    fn a_full_sweep_leaves_what_is_kept() {
        let registry = Registry::default();
        (0..5_000).for_each(|id| registry.insert(PeerId(id), profile("x", "", &[])));
        (0..PARTS).for_each(|_| registry.sweep(|peer| peer.0 % 5 == 0));
        assert_eq!(registry.len(), 1_000);
        assert!((0..5_000).all(|id| registry.with(PeerId(id), |p| p.is_some()) == (id % 5 == 0)));
    }
}
