//! What the seeded tests share: a small random source, and the seeds to run.

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, seeded, good enough to draw tests from.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// A source that always draws the same from the same seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds of a run: `SYSTOLE_TEST_SEED` alone when it is set, else a fixed handful.
pub fn seeds() -> Vec<u64> {
    match std::env::var("SYSTOLE_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("SYSTOLE_TEST_SEED is a whole number")],
        Err(_) => (1..=8).collect(),
    }
}

/// A directory of its own for a test, removed with all that is in it.
pub struct TempDir(std::path::PathBuf);

impl TempDir {
    /// A fresh directory.
    #[allow(clippy::new_without_default)]
    pub fn new() -> TempDir {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("systole-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a name that nobody has");
        TempDir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
