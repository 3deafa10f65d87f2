//! The programs as processes: what an operator starts, and what it says and does.
//!
//! One binary of them all, for each would take as long to link as this one. What they share is in
//! [`common`].

mod agent;
mod clients;
mod common;
mod inherited;
mod keys;
mod monitor;
mod protocol_clients;
mod relay;
mod replay;
mod restart;
mod xdp;
