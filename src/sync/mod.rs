//! What threads share without a lock: the switch between std and loom, the seqlock, and sleep.

pub mod outliving;
mod primitive;
pub mod seqlock;
pub mod sleep;
