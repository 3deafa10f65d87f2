//! `systole is-up NAME`: one question, one exit code.

use super::client::{Client, MonitorArgs};
use super::{Failure, terminal, words};
use crate::api::PeerDetail;

const EXAMPLES: &str = "\
Examples:
  systole is-up web-1 && deploy
  systole is-up --quiet db-1 || page-somebody
";

const CODES: &str = "\
Exit codes: 0 it is up; 1 it is suspect, down, unreachable, or has left; 2 wrong usage; 3 the monitor does not \
know it, or no monitor answers.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = CODES)]
pub struct IsUpArgs {
    /// The peer's name.
    name: String,
    /// Print nothing on stdout; the exit code says it all.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Asks the monitor.
///
/// # Errors
/// The monitor does not know the peer or does not answer (exit code 3).
pub fn is_up(args: IsUpArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let peer = Client::new(&args.monitor.http)?.peer(&args.name)?;
    if !args.quiet {
        terminal::print(&line(&peer))?;
    }
    Ok(u8::from(peer.summary.state != "up"))
}

fn line(peer: &PeerDetail) -> String {
    let peer = &peer.summary;
    let verdict = match peer.state.as_str() {
        "up" => "is up",
        "suspect" => "is suspect",
        "down" => "is down",
        "left" => "has left",
        "unreachable" => "is unreachable",
        other => return format!("{} is {other}", peer.name),
    };
    format!("{} {verdict}: last heard {} ago", peer.name, words::duration(peer.silent_ns))
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::peer;
    use super::line;

    #[test]
    fn one_line_says_the_state_and_the_silence() {
        assert_eq!(line(&peer("up")), "web-1 is up: last heard 400 ms ago");
        assert_eq!(line(&peer("left")), "web-1 has left: last heard 400 ms ago");
    }
}
