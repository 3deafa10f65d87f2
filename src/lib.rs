//! Systole: one central monitor for the heartbeats of a fleet.
//!
//! ```text
//!            datagrams                            reports
//!  senders ────────────▶ reactor × n ─────────────────────▶ control ──▶ http ──▶ people
//!                        (pinned)      lock-free, bounded    (names,     (JSON,   scripts
//!                        io → wire                            events)     SSE)
//!                           → engine
//! ```
//!
//! A **reactor** is a pinned thread that owns one socket per listen address, one receive
//! transport and one **shard** of the peers. The shard is sans-IO: it is told the time and a batch
//! of heartbeats, and answers with transitions. Everything that a person or a script sees comes
//! from the **control plane**, ordinary threads that read the shards without stopping them.
//!
//! The direction of knowledge, held by a test:
//! `clock` and `sync` know nobody; `wire`, `metrics` and `api` know those; `engine` knows these
//! and never `io`, `http` or the configuration; `io` never knows the engine; `reactor` joins
//! engine and io; `control` and `http` see views and transitions, never a reactor's insides; only
//! `cli` sees everything.

pub mod api;
#[cfg(not(loom))]
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(not(loom))]
pub mod control;
pub mod engine;
#[cfg(not(loom))]
pub mod http;
pub mod io;
pub mod metrics;
pub mod reactor;
pub mod relay;
#[cfg(not(loom))]
pub mod store;
pub mod sync;
pub mod trace;
pub mod wire;

#[cfg(test)]
pub mod testing;
