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
use options::{Flags, HgrmOf, Options, STDOUT};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use systole::cli::{Failure, outputs, terminal, usage};

// Wrong usage and no monitor, 2 and 3, are `Failure`s.
const AGREES: u8 = 0;
const DISAGREES: u8 = 1;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match load() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.say_as("systole-load");
            ExitCode::from(failure.code())
        }
    }
}

fn load() -> Result<u8, Failure> {
    let usage = |error: anyhow::Error| Failure::usage(format!("{error:#}"));
    let flags = Flags::try_parse().map_err(|error| usage::wrong(&error, "systole-load"))?;
    let options = flags.validate().map_err(usage)?;
    outputs::check(&options.inputs(), &options.outputs())?;
    let stop = Arc::new(AtomicBool::new(false));
    catch_signals(&stop).map_err(usage)?;
    let outcome = run::run(&options, stop).map_err(|failure| match failure {
        run::Failure::NoMonitor(error) => Failure::not_found(format!("{error:#}")),
        run::Failure::Usage(error) => usage(error),
    })?;
    publish(&options, &outcome)?;
    Ok(match &outcome.report {
        report if report.interrupted => INTERRUPTED,
        report if report.agrees => AGREES,
        _ => DISAGREES,
    })
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

/// Data on stdout, messages on stderr: the table is data unless the JSON is. Files come first: stdout
/// may have no reader, or no room.
fn publish(options: &Options, outcome: &run::Outcome) -> Result<(), Failure> {
    if let Some(path) = &options.hgrm {
        let histogram = match options.hgrm_of {
            HgrmOf::Lateness => report::histogram(&outcome.verdict.lateness_ns),
            HgrmOf::Detection => report::histogram(&outcome.verdict.detection_ns),
            HgrmOf::Visible => report::histogram(&outcome.verdict.visible_ns),
            HgrmOf::Send => outcome.send_lateness.to_hdr(),
        };
        outputs::write(path, &systole::cli::hgrm::format(&histogram))?;
    }
    let table = outcome.report.table();
    let json = serde_json::to_string_pretty(&outcome.report)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    let printed = match options.json.as_deref() {
        Some(path) if path == Path::new(STDOUT) => {
            terminal::say(&table);
            terminal::print(&json)
        }
        Some(path) => {
            outputs::write(path, &(json + "\n"))?;
            terminal::print(&table)
        }
        None => terminal::print(&table),
    };
    match printed {
        // The reader has seen enough; the exit code is the verdict still.
        Err(failure) if failure.code() == 0 => Ok(()),
        printed => printed,
    }
}
