//! The engine without sockets: what a heartbeat costs from its bytes to its slot, with each detector,
//! what the wheel costs, and how fast a fleet that fell silent is called down.
//!
//! - `path`: decode, look up, update, learn; batches of 64, peers in random order. `path.rs`
//! - `expiry`: everybody falls silent. `path.rs`
//! - `table`: the look-up alone, in the ways that it could be done. `table.rs`
//! - `wheel`: arming, meeting healthy peers, firing. `wheel.rs`
//!
//! `cargo bench --bench engine` measures all, `… -- table wheel` only these parts. Without `--bench`, as
//! the tests run it, a tiny size goes the same way, and only the answers count. `--peers N,N,…` for
//! `path` and `expiry` (1000,50000,1000000,4000000), `--rounds N` (50).

#[path = "../harness/mod.rs"]
mod harness;
mod path;
mod table;
mod wheel;

use harness::{Arguments, Report};

const PARTS: &[&str] = &["path", "expiry", "table", "wheel"];

fn main() {
    let arguments = Arguments::new();
    let mut report = Report::new("engine", &arguments);
    let wants = |part| arguments.wants(part, PARTS);
    let sizes = arguments.numbers("--peers", &[1_000, 50_000, 1_000_000, 4_000_000], &[100, 500]);
    for peers in sizes {
        let peers = u32::try_from(peers).expect("peers are numbered by 32 bits");
        if wants("path") {
            path::heartbeats(&mut report, peers, arguments.number("--rounds", 50, 2) as usize);
        }
        if wants("expiry") {
            path::expiry(&mut report, peers, if arguments.measures() { 3 } else { 1 });
        }
    }
    if wants("table") {
        table::run(&mut report, arguments.measures());
    }
    if wants("wheel") {
        wheel::run(&mut report, arguments.measures());
    }
}
