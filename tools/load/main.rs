//! `systole-load`: loads a monitor with simulated senders, kills some of them, and proves what the
//! monitor made of it.
//!
//! ```text
//!  options ▶ plan (pure: who beats when, who dies)
//!              │ schedule (open loop, one per thread)
//!              ▼
//!            send ── sendmmsg ──▶ monitor ── event stream ──▶ follow
//!              │ what was really sent, and every silence        │ what the monitor said
//!              └───────────────▶ truth: judge ◀─────────────────┘
//!                                  │
//!                                report ▶ table, JSON, hgrm, exit code
//! ```
//!
//! `plan`, `schedule` and `truth` are told the time and know no socket; `socket`, `send` and
//! `follow` are the outside world.

mod absence;
mod agenda;
mod bare;
mod brake;
mod flood;
mod follow;
mod monitor;
mod options;
mod peers;
mod plan;
mod report;
mod run;
mod schedule;
mod send;
mod socket;
mod truth;
mod watch;

use clap::Parser;
use options::{Flags, HgrmOf, Options};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const AGREES: u8 = 0;
const DISAGREES: u8 = 1;
const USAGE: u8 = 2;
const NO_MONITOR: u8 = 3;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    // Parse errors end here, with clap's exit code 2.
    let options = match Flags::parse().validate() {
        Ok(options) => options,
        Err(error) => return fail(USAGE, &error),
    };
    let stop = Arc::new(AtomicBool::new(false));
    if let Err(error) = catch_signals(&stop) {
        return fail(USAGE, &error);
    }
    let outcome = match run::run(&options, stop) {
        Ok(outcome) => outcome,
        Err(run::Failure::NoMonitor(error)) => return fail(NO_MONITOR, &error),
        Err(run::Failure::Usage(error)) => return fail(USAGE, &error),
    };
    if let Err(error) = publish(&options, &outcome) {
        return fail(DISAGREES, &error);
    }
    ExitCode::from(match &outcome.report {
        report if report.interrupted => INTERRUPTED,
        report if report.agrees => AGREES,
        _ => DISAGREES,
    })
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("systole-load: {error:#}");
    ExitCode::from(code)
}

/// The first SIGINT or SIGTERM ends the load with BYEs, the second one at once.
fn catch_signals(stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let code = i32::from(INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, code, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(())
}

/// Data on stdout, messages on stderr: the table is data unless the JSON is.
fn publish(options: &Options, outcome: &run::Outcome) -> anyhow::Result<()> {
    let table = outcome.report.table();
    let json = serde_json::to_string_pretty(&outcome.report)? + "\n";
    match options.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            eprintln!("{table}");
            std::io::stdout().write_all(json.as_bytes())?;
        }
        Some(path) => {
            println!("{table}");
            write_file(path, &json)?;
        }
        None => println!("{table}"),
    }
    if let Some(path) = &options.hgrm {
        let histogram = match options.hgrm_of {
            HgrmOf::Lateness => report::histogram(&outcome.verdict.lateness_ns),
            HgrmOf::Detection => report::histogram(&outcome.verdict.detection_ns),
            HgrmOf::Visible => report::histogram(&outcome.verdict.visible_ns),
            HgrmOf::Send => outcome.send_lateness.to_hdr(),
        };
        write_file(path, &systole::cli::hgrm::format(&histogram))?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    use anyhow::Context;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
