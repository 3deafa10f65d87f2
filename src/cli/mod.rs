//! The commands: one file each, and what they share.
//!
//! ```text
//!  serve ─▶ config ─▶ run, or check the monitor, or what it would do
//!  beat  ─▶ schedule, send, …       the agent; knows nothing of the monitor but its address
//!  relay ─▶ relay, io, send         a relay; beats like an agent
//!  keygen ─▶ keys ─▶ config        the file of keys, for serve and beat
//!  status, watch, hist, is-up, …    clients ─▶ client, events ─▶ HTTP
//!  replay, tune                     setting, traces ─▶ trace; asks nobody
//!  plan                             arithmetic on measured costs; asks nobody
//! ```
//!
//! Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 checked and not so (or failed
//! while running), 2 wrong usage or configuration, 3 no such peer or no monitor, 130 interrupted.

pub mod allocator;
pub mod beat;
mod bypass;
mod check;
pub mod client;
pub mod events;
pub mod expected;
pub mod failure;
mod fold;
mod foresee;
pub mod forget;
pub mod hgrm;
pub mod hist;
pub mod incidents;
pub mod is_up;
pub mod keygen;
pub mod keys;
mod listen;
mod notes;
pub mod outputs;
pub mod plan;
pub mod relay;
pub mod replay;
mod resume;
mod rival;
pub mod run;
pub mod serve;
pub mod setting;
pub mod silence;
mod state;
pub mod status;
mod takeover;
pub mod terminal;
pub mod traces;
pub mod tune;
pub mod usage;
pub mod watch;
pub mod words;

pub use failure::Failure;

use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  systole serve                                   a monitor on udp 4600 and http 4680
  systole beat --to 10.0.0.1:4600 --name web-1    the agent
  echo web-1 >/dev/udp/127.0.0.1/4600             a heartbeat from a shell
  systole relay --to 10.0.0.1:4600                fewer datagrams over a WAN
  systole status                                  who is not up
  systole status web-1                            everything about one peer
  systole watch                                   what happens as it happens
  systole incidents                               failures that belong together
  systole silence 'web-*' --for 2h                planned work
  systole forget web-1                            it will not come back
  systole is-up web-1 && deploy                   for scripts
  systole plan --peers 1M --interval 1s           what a fleet would cost
";

/// One central monitor for the heartbeats of a fleet: who fell silent, within microseconds.
#[derive(Parser)]
#[command(name = "systole", version, before_long_help = EXAMPLES, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the monitor.
    Serve(serve::ServeArgs),
    /// Beat for this machine, a check, or a child process.
    Beat(beat::BeatArgs),
    /// Take heartbeats in, and send them on in fewer datagrams and bytes.
    Relay(relay::RelayArgs),
    /// Make a key by which senders prove who they are.
    Keygen(keygen::KeygenArgs),
    /// Exit 0 if a peer is up, 1 if it is not, 3 if it is unknown or no monitor answers.
    IsUp(is_up::IsUpArgs),
    /// Show who is not up, or everything about one peer.
    Status(status::StatusArgs),
    /// Show incidents: failures that belong together.
    Incidents(incidents::IncidentsArgs),
    /// Show who is expected and has not come.
    Expected(expected::ExpectedArgs),
    /// Silence peers for planned work, list the silences, or end one.
    Silence(silence::SilenceArgs),
    /// Remove peers that will not come back.
    Forget(forget::ForgetArgs),
    /// Print what happens as it happens.
    Watch(watch::WatchArgs),
    /// Show the monitor's latency histograms.
    Hist(hist::HistArgs),
    /// Run a setting over recorded arrivals, and count its mistakes.
    Replay(replay::ReplayArgs),
    /// Find the setting that meets a demand on recorded arrivals.
    Tune(tune::TuneArgs),
    /// Say what a fleet would cost: cores, memory, network.
    Plan(plan::PlanArgs),
}

/// Parses the command line, runs the command, says what went wrong on stderr and returns the code
/// to exit with.
pub fn main() -> ExitCode {
    let result = parse(std::env::args_os()).and_then(run);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.say();
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Serve(args) => serve::serve(args),
        Command::Beat(args) => beat::beat(args),
        Command::Relay(args) => relay::relay(args),
        Command::Keygen(args) => keygen::keygen(args),
        Command::IsUp(args) => is_up::is_up(args),
        Command::Status(args) => status::status(args),
        Command::Incidents(args) => incidents::incidents(args),
        Command::Expected(args) => expected::expected(args),
        Command::Silence(args) => silence::silence(args),
        Command::Forget(args) => forget::forget(args),
        Command::Watch(args) => watch::watch(args),
        Command::Hist(args) => hist::hist(args),
        Command::Replay(args) => replay::replay(args),
        Command::Tune(args) => tune::tune(args),
        Command::Plan(args) => plan::plan(&args),
    }
}

/// What the command line asks for. Help and the version are printed, and the process ends.
///
/// # Errors
/// Wrong usage (exit code 2), in one line as every other error.
fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let line: Vec<OsString> = line.into_iter().collect();
    match Cli::try_parse_from(&line) {
        Ok(cli) => Ok(cli.command),
        Err(error) => Err(usage::wrong(&error, &called(&line))),
    }
}

/// The command that a line calls: `systole silence end`.
fn called(line: &[OsString]) -> String {
    let mut command = &Cli::command();
    let mut called = command.get_name().to_owned();
    for word in line.iter().skip(1) {
        let Some(found) = command.find_subcommand(word) else { break };
        called = format!("{called} {}", found.get_name());
        command = found;
    }
    called
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(line: &str) -> String {
        match parse(line.split(' ').map(OsString::from)) {
            Ok(_) => panic!("`{line}` is taken"),
            Err(failure) => {
                assert_eq!(failure.code(), 2);
                failure.to_string()
            }
        }
    }

    #[test]
    fn wrong_usage_is_one_line() {
        let table = [
            (
                "systole silence",
                "the following required arguments were not provided: --for <DURATION>, <SELECTOR>; \
                 `systole silence --help` says more",
            ),
            (
                "systole silence end x",
                "invalid value 'x' for '<ID>': is not the number of a silence; `systole silence list` \
                 shows them; `systole silence end --help` says more",
            ),
            (
                "systole status --state dwn",
                "invalid value 'dwn' for '--state <STATE>' [possible values: up, suspect, down, \
                 unreachable, left, all]; tip: a similar value exists: 'down'; `systole status \
                 --help` says more",
            ),
            (
                "systole plan --peers -3",
                "unexpected argument '-3' found; `systole plan --help` says more",
            ),
            (
                "systole events",
                "unrecognized subcommand 'events'; tip: `systole watch` shows what happens; `systole \
                 --help` says more",
            ),
            (
                "systole beat --to h --name n sleep 1",
                "unexpected argument 'sleep' found; tip: a command to run goes behind `--`; `systole \
                 beat --help` says more",
            ),
            (
                "systole statsu",
                "unrecognized subcommand 'statsu'; tip: a similar subcommand exists: 'status'; \
                 `systole --help` says more",
            ),
            (
                "systole serve --missd 3",
                "unexpected argument '--missd' found; tip: a similar argument exists: '--missed'; \
                 `systole serve --help` says more",
            ),
        ];
        for (line, text) in table {
            assert_eq!(complaint(line), text);
        }
    }
}
