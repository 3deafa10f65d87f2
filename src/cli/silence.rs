//! `systole silence`: planned work raises no incident.

use super::client::{Client, MonitorArgs};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, words};
use crate::api::{NewSilence, Silence, Silences};
use crate::config::value;
use std::time::Duration;
use wildmatch::WildMatch;

const EXAMPLES: &str = "\
Examples:
  systole silence 'web-*' --for 2h --reason 'new kernel'
  systole silence group=db,rack=r7 --for 30m
  systole silence list
  systole silence end 3
";

const AFTER: &str = "\
A selector is one or more terms with commas between them, all of which must hold: a name or a \
pattern (* any characters, ? one), group=NAME, LABEL=VALUE, or name=NAME. Silenced peers are called \
down as ever; their transitions are marked and raise no incident. Exit codes: 0 done; 2 the selector \
or the duration is none; 3 no such silence, or no monitor answers.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SilenceArgs {
    /// For whom.
    #[arg(required = true)]
    selector: Option<String>,
    /// For how long, from now on: 30m, 2h, 1d.
    #[arg(long = "for", value_name = "DURATION", required = true, value_parser = duration)]
    lasts: Option<Duration>,
    /// Why; others see it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Show the silences that hold.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        monitor: MonitorArgs,
    },
    /// End a silence before its time.
    #[command(alias = "stop")]
    End {
        /// Its number.
        #[arg(value_parser = number)]
        id: u32,
        #[command(flatten)]
        monitor: MonitorArgs,
    },
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "is not the number of a silence; `systole silence list` shows them".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(366 * 86_400));
    value::duration(text, shortest, longest)
        .map_err(|problem| format!("{problem}; give 1s to 366d"))
}

/// Asks the monitor and prints.
///
/// # Errors
/// It refuses (exit code 2), knows no such silence, or does not answer (3).
pub fn silence(args: SilenceArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    match args.action {
        Some(Action::List { json, monitor }) => {
            let all: Silences = Client::new(&monitor.http)?.get("/api/v1/silences")?;
            match json {
                true => terminal::print_json(&all)?,
                false => terminal::print(&list(&all, Terminal::detect()))?,
            }
        }
        Some(Action::End { id, monitor }) => {
            let path = format!("/api/v1/silences/{id}");
            let ended: Silence = Client::new(&monitor.http)?.delete(&path)?;
            terminal::print(&format!("silence #{id} of {} ended", ended.selector))?;
            warn_of_unkept(&ended);
        }
        None => {
            let lasts = args.lasts.unwrap_or_default();
            let selector = args.selector.unwrap_or_default();
            possible(&selector)?;
            let new = NewSilence {
                selector,
                for_ns: u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX),
                reason: args.reason,
            };
            let client = Client::new(&args.monitor.http)?;
            let added: Silence = client.post_json("/api/v1/silences", &new)?;
            match args.json {
                true => terminal::print_json(&added)?,
                false => terminal::print(&said(&added))?,
            }
            warn_of_unkept(&added);
        }
    }
    Ok(0)
}

/// Refuses a selector that no peer can ever match, since commas mean that all terms hold.
fn possible(selector: &str) -> Result<(), Failure> {
    let mut said: Vec<(&str, &str)> = Vec::new();
    for term in selector.split(',').map(str::trim) {
        let (key, value) = term.split_once('=').unwrap_or(("name", term));
        let contradicts = |(other_key, other): &&(&str, &str)| {
            let (a, b) = (WildMatch::new(value), WildMatch::new(other));
            let literal = |text: &str| !text.contains(['*', '?']);
            // Two patterns may have a text in common.
            *other_key == key
                && (literal(value) || literal(other))
                && !(a.matches(other) || b.matches(value))
        };
        if let Some((_, other)) = said.iter().find(contradicts) {
            return Err(Failure::usage(format!(
                "`{selector}` can never match: terms with commas between them must all hold, and no \
                 peer has both {key}={other} and {key}={value}; make a silence for each of them"
            )));
        }
        said.push((key, value));
    }
    Ok(())
}

fn warn_of_unkept(silence: &Silence) {
    if silence.unkept {
        terminal::say(
            "systole: the monitor could not write this to its state directory, and its log says why; \
             a restart would undo it",
        );
    }
}

fn said(silence: &Silence) -> String {
    let until = words::time(&silence.until, words::timestamp(&silence.from));
    let whom = match silence.matches {
        Some(0) if silence.selector.contains(char::is_whitespace) => {
            "; it matches nobody now: a blank is a part of the name, so for several peers make a \
             silence for each"
                .into()
        }
        Some(0) => "; it matches nobody now, and holds for who comes".into(),
        Some(matches) => format!(", for {}", words::plural(matches, "peer")),
        None => String::new(),
    };
    format!("silence #{} of {} holds until {until} UTC{whom}", silence.id, silence.selector)
}

fn list(all: &Silences, terminal: Terminal) -> String {
    if all.silences.is_empty() {
        return "No silence holds.".into();
    }
    let mut table = terminal.table(&["SILENCE", "SELECTOR", "UNTIL", "LEFT", "REASON"], &[0, 3]);
    for silence in &all.silences {
        let now = words::timestamp(&silence.from);
        table.add_row([
            terminal.cell(Severity::Plain, &silence.id.to_string()),
            terminal.cell(Severity::Plain, &silence.selector),
            terminal.cell(Severity::Plain, &words::time(&silence.until, now)),
            terminal.cell(Severity::Plain, &words::duration(silence.left_ns)),
            terminal.cell(Severity::Plain, &silence.reason),
        ]);
    }
    terminal::render(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        args: SilenceArgs,
    }

    fn parse(line: &[&str]) -> Result<SilenceArgs, String> {
        let words = ["silence"].iter().chain(line);
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_selector_and_a_duration_or_an_action() {
        let args = parse(&["web-*", "--for", "2h", "--reason", "kernel"]).unwrap();
        assert_eq!((args.selector.as_deref(), &*args.reason), (Some("web-*"), "kernel"));
        assert_eq!(args.lasts, Some(Duration::from_secs(7_200)));
        assert!(matches!(parse(&["list"]).unwrap().action, Some(Action::List { .. })));
        assert!(matches!(parse(&["end", "3"]).unwrap().action, Some(Action::End { id: 3, .. })));
        assert!(parse(&["web-1"]).unwrap_err().contains("--for"));
        assert!(parse(&["web-1", "--for", "2"]).unwrap_err().contains("has no unit"));
        assert!(parse(&["web-1", "--for", "2y"]).is_err());
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn a_selector_that_can_match_nobody_is_refused() {
        for never in ["web-2,db-1", "web-*,db-1", "web-1,name=web-2", "group=a,group=b", "x=1, x=2"]
        {
            let refused = possible(never).unwrap_err();
            assert_eq!(refused.code(), 2, "{never}");
            assert!(refused.to_string().contains("make a silence for each"), "{refused}");
        }
        for may in ["web-*,web-1", "web-*,*-1", "group=db,rack=r7", "web-1,group=web", "a b"] {
            possible(may).unwrap();
        }
    }

    #[test]
    fn what_holds_is_a_table() {
        let silence = Silence {
            id: 3,
            selector: "group=web".into(),
            reason: "new kernel".into(),
            from: "2026-11-23T10:00:00.000000000Z".into(),
            until: "2026-11-23T12:00:00.000000000Z".into(),
            left_ns: 7_000_000_000_000,
            matches: None,
            unkept: false,
        };
        let said_of = |matches| said(&Silence { matches, ..silence.clone() });
        let holds = "silence #3 of group=web holds until 12:00:00.000000 UTC";
        assert_eq!(said_of(Some(40)), format!("{holds}, for 40 peers"));
        let nobody = format!("{holds}; it matches nobody now, and holds for who comes");
        assert_eq!(said_of(Some(0)), nobody);
        let spaced = Silence { selector: "web-1 db-1".into(), matches: Some(0), ..silence.clone() };
        assert!(said(&spaced).ends_with("so for several peers make a silence for each"));
        let text = list(&Silences { silences: vec![silence] }, Terminal::PLAIN);
        assert_eq!(
            text,
            "SILENCE  SELECTOR   UNTIL              LEFT  REASON
      3  group=web  12:00:00.000000  1h 56m  new kernel"
        );
        assert_eq!(list(&Silences::default(), Terminal::PLAIN), "No silence holds.");
    }
}
