//! What threads share without a lock: the switch between std and loom, and the seqlock.

mod primitive;
pub mod seqlock;
