//! The peers of a CSV: from a name to its number, for each line. An open table of numbers with 32 bits
//! of the hash beside each, so that a name is compared once; names never go.

/// Numbers by name.
pub(super) struct Names {
    /// The upper half of the hash, and one more than the number; 0 is a free place.
    places: Vec<u64>,
    names: Vec<Box<[u8]>>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names { places: vec![0; 64], names: Vec::new() }
    }

    /// The number of a name, and whether it is a new one.
    #[inline]
    pub(super) fn number(&mut self, name: &[u8]) -> (usize, bool) {
        let hash = hash(name);
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let place = self.places[at];
            if place == 0 {
                return (self.insert(name, hash, at), true);
            }
            let number = (place as u32 - 1) as usize;
            if place >> 32 == hash >> 32 && *self.names[number] == *name {
                return (number, false);
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn insert(&mut self, name: &[u8], hash: u64, at: usize) -> usize {
        let number = self.names.len();
        self.names.push(name.into());
        self.places[at] = entry(hash, number);
        if self.names.len() * 2 > self.places.len() {
            let mut places = vec![0; self.places.len() * 2];
            let mask = places.len() - 1;
            for (number, name) in self.names.iter().enumerate() {
                let hash = self::hash(name);
                let mut at = hash as usize & mask;
                while places[at] != 0 {
                    at = (at + 1) & mask;
                }
                places[at] = entry(hash, number);
            }
            self.places = places;
        }
        number
    }
}

fn entry(hash: u64, number: usize) -> u64 {
    hash >> 32 << 32 | (number as u64 + 1)
}

/// Folded multiplications, eight bytes at a time. Not for the hostile: whoever makes up the trace also
/// waits for its replay.
#[inline]
fn hash(name: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * 0x9E37_79B9_7F4A_7C15;
        product as u64 ^ (product >> 64) as u64
    };
    let mut hash = name.len() as u64 ^ 0x243F_6A88_85A3_08D3;
    let mut rest = name;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = after;
    }
    // What is left, in two halves that may overlap.
    let tail = match (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
        }
        _ => match rest {
            [] => 0,
            [first, .., last] => {
                u64::from(*first) | u64::from(rest[rest.len() / 2]) << 8 | u64::from(*last) << 16
            }
            [only] => u64::from(*only),
        },
    };
    mix(mix(hash, tail), 0x1319_8A2E_0370_7344)
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
                let len = 1 + rng.below(20) as usize;
                let name: Vec<u8> = (0..len).map(|_| b'a' + rng.below(2) as u8).collect();
                let next = known.len();
                let expected = *known.entry(name.clone()).or_insert(next);
                assert_eq!(names.number(&name), (expected, expected == next), "seed {seed}");
            }
        }
    }
}
