//! The engine: who is up, who fell silent. Sans-IO.
pub mod slot;
pub mod transition;
pub mod wheel;
