//! The peers of a CSV: from a name to its number, for each line. An open table in which a name of up
//! to sixteen bytes stands itself, so that a look-up is one line of memory and no loop; of a longer one
//! its end stands there, and the rest is compared where the names are. Names never go.

use super::fast::Name;

/// Numbers by name.
pub(super) struct Names {
    /// A power of two of them, at most an eighth of them taken: whether the first look finds a name is
    /// then nearly always foretold.
    places: Vec<Place>,
    /// How far to shift a hash, so that as many bits are left as count the places.
    shift: u32,
    names: Vec<Box<[u8]>>,
}

/// What a name looks like, and one more than its number; 0 is a free place.
#[derive(Clone, Copy, Default)]
struct Place {
    last: u128,
    len: u32,
    number: u32,
}

impl Place {
    /// Whether it is that of a name, if that is short, or may be.
    #[inline(always)]
    fn is_like(&self, name: &Name) -> bool {
        self.last == name.last && self.len as usize == name.whole.len()
    }
}

impl Name<'_> {
    fn is_short(&self) -> bool {
        self.whole.len() <= 16
    }

    /// Multiplications, whose upper bits depend on all bits of the name. Not for the hostile: whoever
    /// makes up the trace also waits for its replay.
    #[inline(always)]
    fn hash(&self) -> u64 {
        let mix = |hash: u64, word: u64| {
            (hash.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        };
        let mut hash = mix(mix(0, self.last as u64), (self.last >> 64) as u64);
        if !self.is_short() {
            let words = self.whole.as_chunks::<8>().0;
            hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        }
        hash
    }
}

impl Names {
    pub(super) fn new() -> Names {
        Names { places: vec![Place::default(); 64], shift: u64::BITS - 6, names: Vec::new() }
    }

    /// The number of a name, and whether it is a new one.
    #[inline(always)]
    pub(super) fn number(&mut self, name: &Name) -> (u32, bool) {
        let at = (name.hash() >> self.shift) as usize;
        let place = self.places[at];
        // No name is empty, so that this is no free place.
        if place.is_like(name) && name.is_short() {
            return (place.number - 1, false);
        }
        self.look_on(name, at)
    }

    /// The same from a place on.
    #[inline(always)]
    fn look_on(&mut self, name: &Name, mut at: usize) -> (u32, bool) {
        loop {
            let place = self.places[at];
            if place.number == 0 {
                return (self.insert(name.whole, at), true);
            }
            if place.is_like(name)
                && (name.is_short() || *self.names[place.number as usize - 1] == *name.whole)
            {
                return (place.number - 1, false);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    #[cold]
    #[inline(never)]
    fn insert(&mut self, name: &[u8], at: usize) -> u32 {
        self.names.push(name.into());
        let number = self.names.len() as u32;
        self.places[at] = Place { last: Name::of(name).last, len: name.len() as u32, number };
        if self.names.len() * 8 > self.places.len() {
            let old = std::mem::take(&mut self.places);
            self.places = vec![Place::default(); old.len() * 2];
            self.shift -= 1;
            let mask = self.places.len() - 1;
            for place in old.into_iter().filter(|place| place.number != 0) {
                let name = Name::of(&self.names[place.number as usize - 1]);
                let mut at = (name.hash() >> self.shift) as usize & mask;
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
                let got = names.number(&Name::of(&name));
                assert_eq!(got, (expected as u32, expected == next), "seed {seed}");
            }
        }
    }
}
