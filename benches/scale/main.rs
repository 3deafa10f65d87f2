//! How cost and memory grow with peers, and with reactors.
//!
//! - `peers` (`process.rs`): a monitor in a process of its own, with more and more peers with names: what a
//!   heartbeat costs its reactor, memory for each peer, summary and listing over HTTP, and the time from
//!   `kill -9` until it is ready again.
//! - `reactors` (`reactors.rs`): reactors in threads of this process, 1, 2, 4, … as far as there are cores, under a
//!   load that grows with them, steered by the kernel and not.
//!
//! `cargo bench --bench scale` measures, `… -- peers` only that part; without `--bench`, as the tests run it, a
//! tiny size checks that everybody is listed, is back behind a kill, and is heard by every number of reactors.
//! `--peers N,N` (1000,10000,100000,1000000,4000000), `--rate N` heartbeats a second (100000), `--rounds N` (3).

#[path = "../harness/mod.rs"]
mod harness;
mod process;
mod reactors;

use harness::{Arguments, Report, become_sender};

const PARTS: &[&str] = &["peers", "reactors"];

fn main() {
    let arguments = Arguments::new();
    let mut report = Report::new("scale", &arguments);
    let rate = arguments.number("--rate", 100_000, 2_000);
    let rounds = arguments.number("--rounds", 3, 1) as usize;
    let measured_ns = if arguments.measures() { 3_000_000_000 } else { 100_000_000 };
    let cores = core_affinity::get_core_ids().map_or(1, |cores| cores.len());
    become_sender();
    if arguments.wants("peers", PARTS) {
        let sizes = [1_000, 10_000, 100_000, 1_000_000, 4_000_000];
        for peers in arguments.numbers("--peers", &sizes, &[300]) {
            process::grow(&mut report, peers as u32, rate, rounds, measured_ns);
        }
    }
    if arguments.wants("reactors", PARTS) {
        for reactors in [1, 2, 4, 8, 16].into_iter().filter(|n| *n <= cores.max(2)) {
            // One has nothing to steer.
            for steered in [true, false].into_iter().filter(|steered| *steered || reactors > 1) {
                let peers = if arguments.measures() { 50_000 } else { 200 };
                let load = reactors::Load { peers, rate, measured_ns, rounds };
                reactors::run(&mut report, reactors, steered, load);
            }
        }
    }
}
