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
use crate::store::names::{NamesFile, NamesFound};
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
        let mut records = Vec::new();
        let opened = NamesFile::open(directory, |peer, profile| {
            records.push((self.place(peer) as u32, peer, profile));
        })?;
        self.take_in(records);
        Ok(opened)
    }

    /// Takes in many records with their parts, the later of two with one peer holding, part by part:
    /// one by one each would miss the cache a few times, and leave holes as its part grew.
    fn take_in(&self, mut records: Vec<(u32, PeerId, Option<OwnedProfile>)>) {
        // Stable, so that of one peer's the latest is last.
        records.sort_by_key(|(part, peer, _)| (*part, *peer));
        for of_part in records.chunk_by_mut(|a, b| a.0 == b.0) {
            let mut part = self.parts[of_part[0].0 as usize].write().expect(UNPOISONED);
            let mut known = std::mem::take(&mut *part).into_iter().peekable();
            let mut merged: Vec<Record> = Vec::with_capacity(known.len() + of_part.len());
            for of_peer in of_part.chunk_by_mut(|a, b| a.1 == b.1) {
                let Some((_, peer, latest)) = of_peer.last_mut() else { continue };
                while let Some(before) = known.next_if(|(other, _)| other < peer) {
                    merged.push(before);
                }
                // Of a peer that was known already, this is the later word.
                let was_known = known.next_if(|(other, _)| other == peer).is_some();
                self.len.fetch_sub(usize::from(was_known), Ordering::Relaxed);
                if let Some(profile) = latest.take() {
                    merged.push((*peer, profile));
                    self.len.fetch_add(1, Ordering::Relaxed);
                }
            }
            merged.extend(known);
            *part = merged;
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

const UNPOISONED: &str = "nothing panics while it holds a part";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{Random, profile, seeds};
    use std::collections::HashMap;

    #[test]
    fn many_at_once_are_as_one_after_the_other() {
        for seed in seeds() {
            let mut random = Random::new(seed);
            let (at_once, one_by_one) = (Registry::default(), Registry::default());
            for _ in 0..3 {
                let mut records = Vec::new();
                for _ in 0..2_000 {
                    let peer = PeerId(random.below(900));
                    let named = (random.below(3) > 0)
                        .then(|| profile(&format!("peer-{}", random.below(9_999)), "web", &[]));
                    records.push((at_once.place(peer) as u32, peer, named.clone()));
                    match named {
                        Some(profile) => one_by_one.insert(peer, profile),
                        None => one_by_one.remove(peer),
                    }
                }
                at_once.take_in(records);
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
