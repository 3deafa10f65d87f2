//! The peers of a CSV: from a name to its number, for each line. An open table in which a name of up
//! to sixteen bytes stands itself, as two words, so that a look-up is one line of memory and no loop;
//! of a longer one its ends stand there, and the rest is compared where the names are. Names never go.

/// Numbers by name.
pub(super) struct Names {
    /// A power of two of them, at most a quarter of them taken: whether the first look finds a name is
    /// then nearly always foretold.
    places: Vec<Place>,
    names: Vec<Box<[u8]>>,
}

/// What a name looks like, and one more than its number; 0 is a free place.
#[derive(Clone, Copy, Default)]
struct Place {
    key: Key,
    number: u32,
}

/// The first and the last eight bytes of a name, which may overlap, and its length: all of it, up to
/// sixteen bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Key {
    first: u64,
    last: u64,
    len: u32,
}

impl Key {
    #[inline]
    fn of(name: &[u8]) -> Key {
        let len = name.len() as u32;
        if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
            return Key { first: u64::from_le_bytes(*first), last: u64::from_le_bytes(*last), len };
        }
        if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            let [first, last] = [first, last].map(|word| u64::from(u32::from_le_bytes(*word)));
            return Key { first, last, len };
        }
        let byte = |at: usize| u64::from(name.get(at).copied().unwrap_or(0));
        Key { first: byte(0) | byte(1) << 8 | byte(2) << 16, last: 0, len }
    }

    fn is_whole(self) -> bool {
        self.len <= 16
    }

    /// Folded multiplications. Not for the hostile: whoever makes up the trace also waits for its
    /// replay.
    #[inline]
    fn hash(self, name: &[u8]) -> usize {
        let mix = |hash: u64, word: u64| {
            let product = u128::from(hash ^ word) * 0x9E37_79B9_7F4A_7C15;
            product as u64 ^ (product >> 64) as u64
        };
        let mut hash = mix(self.first ^ u64::from(self.len) << 32, 0x243F_6A88_85A3_08D3);
        if !self.is_whole() {
            let words = name.as_chunks::<8>().0;
            hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        }
        mix(hash, self.last) as usize
    }
}

impl Names {
    pub(super) fn new() -> Names {
        Names { places: vec![Place::default(); 64], names: Vec::new() }
    }

    /// The number of a name, and whether it is a new one.
    #[inline]
    pub(super) fn number(&mut self, name: &[u8]) -> (usize, bool) {
        let key = Key::of(name);
        let mask = self.places.len() - 1;
        let mut at = key.hash(name) & mask;
        loop {
            let place = self.places[at];
            if place.number == 0 {
                return (self.insert(name, key, at), true);
            }
            let number = (place.number - 1) as usize;
            if place.key == key && (key.is_whole() || *self.names[number] == *name) {
                return (number, false);
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn insert(&mut self, name: &[u8], key: Key, at: usize) -> usize {
        self.names.push(name.into());
        let number = self.names.len();
        self.places[at] = Place { key, number: number as u32 };
        if number * 4 > self.places.len() {
            let old = std::mem::take(&mut self.places);
            self.places = vec![Place::default(); old.len() * 2];
            let mask = self.places.len() - 1;
            for place in old.into_iter().filter(|place| place.number != 0) {
                let name = &self.names[(place.number - 1) as usize];
                let mut at = place.key.hash(name) & mask;
                while self.places[at].number != 0 {
                    at = (at + 1) & mask;
                }
                self.places[at] = place;
            }
        }
        number - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_hash_map() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut names = Names::new();
            let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
            for _ in 0..3_000 {
                let longest = [4, 20, 40][rng.below(3) as usize];
                let len = 1 + rng.below(longest) as usize;
                let name: Vec<u8> = (0..len).map(|_| b'a' + rng.below(2) as u8).collect();
                let next = known.len();
                let expected = *known.entry(name.clone()).or_insert(next);
                assert_eq!(names.number(&name), (expected, expected == next), "seed {seed}");
            }
        }
    }
}
