//! The version word of a seqlock: one writer that never waits, readers that notice its steps.
//!
//! ```text
//!  writer:  version ← odd    fence(Release)    words ← …    version ← even (Release)
//!  reader:  even? (Acquire)  copy the words    fence(Acquire)    same version? else again
//! ```
//!
//! A reader that copied a word of a write sees, behind its fence, at least that write's odd
//! version, and so throws its copy away. It works only on words that are atomics themselves
//! (relaxed loads and stores will do): a torn copy must be wrong, never undefined.
//!
//! The version wraps after 2^31 writes; a reader would have to sleep through exactly that many in
//! the middle of one copy to be fooled.
//!
//! Absent on purpose: the data. [`Version`] guards whatever words its owner says it guards.

use super::primitive::{AtomicU32, Ordering, fence, spin_loop, yield_now};

/// The version word: even at rest, odd while its one writer is between two words.
///
/// All zero bytes are a version at rest.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Version(AtomicU32);

impl Version {
    /// Begins a write; dropping the guard ends it. Only the one owner of the guarded words calls
    /// this, and never twice at a time.
    #[inline]
    pub fn write(&self) -> Write<'_> {
        // Relaxed: only this thread writes the version.
        let at_rest = self.0.load(Ordering::Relaxed);
        debug_assert!(at_rest & 1 == 0, "a second write began within the first");
        // Relaxed, for the fence behind it orders it: a reader that sees one of the coming words
        // and then passes its Acquire fence in `unchanged_since` sees this odd version as well.
        self.0.store(at_rest.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        Write { version: self, next: at_rest.wrapping_add(2) }
    }

    /// Ends a write that its writer did not live to end, as the memory of a killed process has it.
    /// True when there was one. Only the new owner of the guarded words calls this.
    pub fn repair(&self) -> bool {
        // Relaxed: nobody reads yet; the words are handed to readers by what shares them.
        let seen = self.0.load(Ordering::Relaxed);
        self.0.store(seen.wrapping_add(seen & 1), Ordering::Relaxed);
        seen & 1 == 1
    }

    /// The version before a read; `None` while a write is under way.
    #[inline]
    pub fn at_rest(&self) -> Option<u32> {
        // Acquire: pairs with the Release store that ended the write which made this version, so
        // that the words read next are at least that write's.
        let seen = self.0.load(Ordering::Acquire);
        (seen & 1 == 0).then_some(seen)
    }

    /// Whether no write has touched what was read since the version was `seen`.
    #[inline]
    pub fn unchanged_since(&self, seen: u32) -> bool {
        // Acquire fence: pairs with the Release fence in `write`, through whichever guarded word
        // was read; the relaxed load behind it then cannot return a version from before that write.
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) == seen
    }

    /// Copies guarded words until a copy is whole. The writer is never stopped; the reader waits
    /// for as long as it is between two words.
    #[inline]
    pub fn read<T>(&self, mut copy: impl FnMut() -> T) -> T {
        let mut patience = Patience::default();
        loop {
            if let Some(seen) = self.at_rest() {
                let copied = copy();
                if self.unchanged_since(seen) {
                    return copied;
                }
            }
            patience.wait();
        }
    }
}

/// A write under way. Words stored while it lives become visible together when it is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it guards nothing"]
pub struct Write<'a> {
    version: &'a Version,
    next: u32,
}

impl Drop for Write<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire load in `at_rest`.
        self.version.0.store(self.next, Ordering::Release);
    }
}

/// How a reader waits for a writer: it spins for the few nanoseconds that a write takes, and gives
/// up its core when the writer seems to have lost its own in the middle of one.
#[derive(Debug, Default)]
pub struct Patience {
    spins: u32,
}

impl Patience {
    const SPINS: u32 = 64;

    /// Waits a little.
    pub fn wait(&mut self) {
        if self.spins < Self::SPINS {
            self.spins += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}

#[cfg(test)]
mod tests;
