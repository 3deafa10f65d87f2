//! The protocol in miniature. Under loom every interleaving is tried; without it the same bodies
//! run on real threads, many times over.

use super::*;

#[cfg(loom)]
use loom::{
    model,
    sync::{Arc, atomic::AtomicU32 as Word},
    thread,
};
#[cfg(not(loom))]
use std::{
    sync::{Arc, atomic::AtomicU32 as Word},
    thread,
};

#[cfg(not(loom))]
fn model(body: impl Fn() + Send + Sync + 'static) {
    for _ in 0..if cfg!(miri) { 20 } else { 2_000 } {
        body();
    }
}

/// A record of two words that must agree.
#[derive(Default)]
struct Pair {
    version: Version,
    words: [Word; 2],
}

impl Pair {
    fn set(&self, value: u32) {
        let _write = self.version.write();
        for word in &self.words {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn copy(&self) -> [u32; 2] {
        [self.words[0].load(Ordering::Relaxed), self.words[1].load(Ordering::Relaxed)]
    }

    /// One attempt, so that loom's search is finite; `None` is a refused copy.
    fn try_read(&self) -> Option<[u32; 2]> {
        let seen = self.version.at_rest()?;
        let copied = self.copy();
        self.version.unchanged_since(seen).then_some(copied)
    }
}

/// A writer sets 1, 2, … `writes`; meanwhile a reader tries to read `reads` times.
fn check(writes: u32, reads: u32) {
    model(move || {
        let pair = Arc::new(Pair::default());
        let writer = {
            let pair = pair.clone();
            thread::spawn(move || (1..=writes).for_each(|value| pair.set(value)))
        };
        let mut before = 0;
        for _ in 0..reads {
            if let Some([first, second]) = pair.try_read() {
                assert_eq!(first, second, "torn");
                assert!(first >= before, "went back from {before} to {first}");
                before = first;
            }
        }
        writer.join().unwrap();
        assert_eq!(pair.try_read(), Some([writes; 2]), "the last write is visible");
    });
}

#[test]
fn a_read_is_never_torn() {
    check(2, 1);
}

#[test]
fn a_later_read_never_goes_back() {
    check(1, 2);
}

#[test]
fn a_patient_reader_gets_a_whole_copy() {
    model(|| {
        let pair = Arc::new(Pair::default());
        let writer = {
            let pair = pair.clone();
            thread::spawn(move || pair.set(7))
        };
        let [first, second] = pair.version.read(|| pair.copy());
        assert_eq!(first, second, "torn");
        writer.join().unwrap();
    });
}

/// The index's use of the version: words are moved forward one at a time, and a search that ran
/// past a moving word must not be taken for an honest miss.
#[test]
fn a_search_never_misses_a_word_that_moves_towards_its_start() {
    model(|| {
        let shared = Arc::new((Version::default(), [Word::new(5), Word::new(9), Word::new(0)]));
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                // Take the 5 out: the 9 moves into its place, then leaves its own.
                let (version, words) = &*shared;
                let _write = version.write();
                words[0].store(9, Ordering::Release);
                words[1].store(0, Ordering::Release);
            })
        };
        let (version, words) = &*shared;
        if let Some(seen) = version.at_rest() {
            let found = words.iter().any(|word| word.load(Ordering::Acquire) == 9);
            assert!(found || !version.unchanged_since(seen), "a miss that passed for honest");
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_version_is_at_rest_between_writes_only() {
    model(|| {
        let version = Version::default();
        let seen = version.at_rest().expect("new");
        {
            let _write = version.write();
            assert_eq!(version.at_rest(), None);
            assert!(!version.unchanged_since(seen));
        }
        assert_eq!(version.at_rest(), Some(seen + 2));
    });
}

#[cfg(not(loom))]
#[test]
fn the_version_wraps() {
    let version = Version(AtomicU32::new(u32::MAX - 1));
    drop(version.write());
    assert_eq!(version.at_rest(), Some(0));
}
