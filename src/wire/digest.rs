//! A quick fingerprint of a profile, so that an unchanged one is recognised without comparing it.
//!
//! Multiply and rotate, a word at a time, in the manner of rustc's FxHash. Not proof against malice
//! and need not be: whoever can send a colliding profile in a peer's name can also send the original.

/// From FxHash: 2^64 divided by π, made odd.
const FACTOR: u64 = 0x517C_C1B7_2722_0A95;

/// The state after some fields.
pub(super) struct Digest(u64);

impl Digest {
    /// The state before any field.
    pub(super) fn new() -> Digest {
        Digest(0)
    }

    /// Takes in a field, its length first, so that fields cannot run into each other.
    pub(super) fn field(mut self, bytes: &[u8]) -> Digest {
        self.word(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        let mut word = [0; 8];
        word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.word(u64::from_le_bytes(word));
        self
    }

    /// 32 bits, never 0 and never all set, which mean other things where digests are kept.
    pub(super) fn finish(self) -> u32 {
        // The multiplication pushes the mixing upwards: the top half is the good one.
        ((self.0 >> 32) as u32).clamp(1, u32::MAX - 1)
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}
