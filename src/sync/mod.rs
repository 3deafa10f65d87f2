//! What threads share without a lock: the switch between std and loom, the seqlock, and sleep.

mod primitive;
pub mod seqlock;
pub mod sleep;
