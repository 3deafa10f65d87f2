//! Atomics in memory that outlives its process: std's own, and in the tests such as can end the
//! process that stores to them.
//!
//! ```text
//!   … store  fence  store  store  store ✗       a kill before one store: those before it are made,
//!                   └── any of them ──┘         but of those behind the last barrier any may be missing
//! ```
//!
//! A killed process has run its instructions up to some one of them, and the compiler may have
//! moved a relaxed store past another; past a Release fence or a Release store behind it, it may
//! not. So `until_store` undoes any of those that no barrier has sealed: more than a compiler
//! does, never less.

#[cfg(not(test))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, fence};

#[cfg(test)]
#[allow(unused_imports, reason = "by the tests that kill")]
pub use mortal::{AtomicU32, AtomicU64, Killed, fence, stores_of, until_store};

#[cfg(test)]
mod mortal {
    use crate::testing::Rng;
    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;
    use std::ops::Deref;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::atomic::{self, Ordering};

    /// What a process that was killed at a store ends with.
    #[derive(Debug)]
    pub struct Killed;

    /// Stores from here to the one that is not made any more; `NEVER` outside of [`until_store`].
    const NEVER: u64 = u64::MAX;
    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(NEVER) };
        static UNSEALED: RefCell<Vec<Unsealed>> = const { RefCell::new(Vec::new()) };
    }

    /// A store that could still be missing, and what was there before it.
    enum Unsealed {
        Narrow(*const atomic::AtomicU32, u32),
        Wide(*const atomic::AtomicU64, u64),
    }

    /// Runs a process on this thread that is killed before its store or Release fence number `nth`,
    /// counted from 1.
    /// `Err` if it came to that.
    ///
    /// The memory that it stores to must outlive this call.
    pub fn until_store<T>(nth: u64, rng: &mut Rng, life: impl FnOnce() -> T) -> Result<T, Killed> {
        LEFT.set(nth);
        let ended = catch_unwind(AssertUnwindSafe(life));
        let killed = LEFT.replace(NEVER) == 0;
        let unsealed = UNSEALED.take();
        match ended {
            Ok(result) => Ok(result),
            Err(_) if killed => {
                // A word's own stores keep their order: what is made later is not overtaken.
                let mut made = HashSet::new();
                for store in unsealed.into_iter().rev() {
                    if rng.one_in(2) || made.contains(&store.word()) {
                        made.insert(store.word());
                    } else {
                        store.undo();
                    }
                }
                Err(Killed)
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// How many stores and Release fences a process makes that is not killed.
    pub fn stores_of<T>(life: impl FnOnce() -> T) -> u64 {
        LEFT.set(NEVER - 1);
        life();
        UNSEALED.take();
        NEVER - 1 - LEFT.replace(NEVER)
    }

    /// Whether the store that is to be made now is made. The first that is not ends the process, and
    /// what its unwinding would store is not made either.
    fn is_made() -> bool {
        match LEFT.get() {
            0 => false,
            1 => {
                LEFT.set(0);
                resume_unwind(Box::new(Killed))
            }
            NEVER => true,
            left => {
                LEFT.set(left - 1);
                true
            }
        }
    }

    fn note(store: Unsealed) {
        if LEFT.get() != NEVER {
            UNSEALED.with_borrow_mut(|unsealed| unsealed.push(store));
        }
    }

    impl Unsealed {
        /// Which word was stored to.
        fn word(&self) -> usize {
            match self {
                Unsealed::Narrow(word, _) => word.addr(),
                Unsealed::Wide(word, _) => word.addr(),
            }
        }

        fn undo(self) {
            match self {
                Unsealed::Narrow(word, before) => {
                    // SAFETY: stored to within `until_store`, whose caller keeps the memory.
                    unsafe { &*word }.store(before, Ordering::Relaxed);
                }
                Unsealed::Wide(word, before) => {
                    // SAFETY: as above.
                    unsafe { &*word }.store(before, Ordering::Relaxed);
                }
            }
        }
    }

    /// As std's; seals what was stored before it, and counts as a store.
    pub fn fence(order: Ordering) {
        if order == Ordering::Release && is_made() {
            UNSEALED.with_borrow_mut(Vec::clear);
        }
        atomic::fence(order);
    }

    macro_rules! mortal {
        ($name:ident, $value:ty, $kind:ident) => {
            /// As std's; its stores are counted.
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub struct $name(atomic::$name);

            impl $name {
                /// As std's.
                #[allow(dead_code, reason = "one of the two is only ever zeroed")]
                pub const fn new(value: $value) -> $name {
                    $name(atomic::$name::new(value))
                }

                /// As std's, if the process has not been killed by then.
                pub fn store(&self, value: $value, order: Ordering) {
                    if is_made() {
                        if order == Ordering::Release {
                            UNSEALED.with_borrow_mut(Vec::clear);
                        }
                        note(Unsealed::$kind(&self.0, self.0.load(Ordering::Relaxed)));
                        self.0.store(value, order);
                    }
                }
            }

            impl Deref for $name {
                type Target = atomic::$name;

                fn deref(&self) -> &atomic::$name {
                    &self.0
                }
            }
        };
    }

    mortal!(AtomicU32, u32, Narrow);
    mortal!(AtomicU64, u64, Wide);
}
