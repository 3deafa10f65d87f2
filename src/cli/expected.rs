//! `systole expected`: who ought to be there, and is not.

use super::client::{Client, MonitorArgs};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, words};
use crate::api::{Expectations, Expected};

const EXAMPLES: &str = "\
Examples:
  systole expected                  who is missing
  systole expected --all            all who are expected
";

const AFTER: &str = "\
Who is expected stands in the [[expect]] sections of the monitor's file (see `systole serve --help`). \
An expectation is met while the monitor knows the peer in any state, or that many of the group; who \
fell silent is in `systole status`. The exit code is 0 when nobody is missing, 1 when somebody is, 3 \
when no monitor answers.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct ExpectedArgs {
    /// Show those that are there, too.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Asks the monitor and prints.
///
/// # Errors
/// No monitor answers (exit code 3).
pub fn expected(args: ExpectedArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let client = Client::new(&args.monitor.http)?;
    let query = if args.all { "?all=1" } else { "" };
    let found: Expectations = client.get(&format!("/api/v1/expected{query}"))?;
    match args.json {
        true => terminal::print_json(&found)?,
        false => terminal::print(&text(&found, args.all, Terminal::detect()))?,
    }
    Ok(u8::from(found.missing > 0))
}

fn text(found: &Expectations, all: bool, terminal: Terminal) -> String {
    if found.total == 0 {
        return "Nobody is expected: the monitor's file has no [[expect]].".into();
    }
    let of = words::plural(found.total, "expectation");
    if found.expected.is_empty() {
        return format!("Nobody is missing ({of}).");
    }
    let mut table = terminal.table(&["EXPECTED", "GROUP", "WANTED", "KNOWN", "IS"], &[2, 3]);
    for one in &found.expected {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let (severity, is) = match (one.missing, one.known < one.wanted) {
            (true, _) => (Severity::Bad, "missing"),
            (false, true) => (Severity::Doubtful, "awaited"),
            (false, false) => (Severity::Good, "here"),
        };
        table.add_row([
            terminal.cell(Severity::Plain, &or_dash(&one.peer)),
            terminal.cell(Severity::Plain, &or_dash(&one.group)),
            terminal.cell(Severity::Plain, &words::count(one.wanted.into())),
            terminal.cell(Severity::Plain, &words::count(one.known.into())),
            terminal.cell(severity, is),
        ]);
    }
    let mut text = terminal::render(&table);
    let wanted = if all { found.total } else { found.missing };
    let more = wanted.saturating_sub(found.expected.len() as u64);
    if more > 0 {
        text = text + "\n" + &terminal.paint(Severity::Quiet, &format!("… and {more} more"));
    }
    text
}

/// What is missing, as a part of a sentence: `db-2`, `web (5 of 45 missing)`.
pub(super) fn in_short(expected: &Expected) -> String {
    match expected.peer.as_str() {
        "" => {
            let missing = expected.wanted.saturating_sub(expected.known);
            format!("{} ({missing} of {} missing)", expected.group, expected.wanted)
        }
        peer => peer.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(peer: &str, group: &str, known: u32, wanted: u32, missing: bool) -> Expected {
        Expected { peer: peer.into(), group: group.into(), wanted, known, missing }
    }

    #[test]
    fn who_is_missing_awaited_or_here_is_a_table() {
        let expected = vec![
            one("db-2", "", 0, 1, true),
            one("", "web", 40, 45, false),
            one("db-1", "", 1, 1, false),
        ];
        let found = Expectations { total: 5, missing: 1, expected };
        assert_eq!(
            text(&found, true, Terminal::PLAIN),
            "EXPECTED  GROUP  WANTED  KNOWN  IS
db-2      -           1      0  missing
-         web        45     40  awaited
db-1      -           1      1  here
… and 2 more"
        );
        let none = Expectations { total: 3, ..Expectations::default() };
        assert_eq!(text(&none, false, Terminal::PLAIN), "Nobody is missing (3 expectations).");
        assert!(text(&Expectations::default(), false, Terminal::PLAIN).contains("[[expect]]"));
    }

    #[test]
    fn in_short_a_group_has_its_counts() {
        assert_eq!(in_short(&one("", "web", 40, 45, true)), "web (5 of 45 missing)");
        assert_eq!(in_short(&one("db-2", "", 0, 1, true)), "db-2");
    }
}
