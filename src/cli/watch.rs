//! `systole watch`: transitions as they happen, one line each.

use super::client::{Client, MonitorArgs, query};
use super::events::{EventStream, Update};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, words};
use crate::api::{Event, EventGap};

const EXAMPLES: &str = "\
Examples:
  systole watch
  systole watch --group web --to down
  systole watch --after 0                    everything that the monitor still holds, then live
  systole watch --json | jq -r 'select(.to == \"down\") | .peer'
";

const AFTER: &str = "\
Times are UTC. A lost connection is said on stderr and resumed where it broke; transitions that the \
monitor no longer holds are announced as a gap. When the monitor was restarted, that is said on \
stderr and all that it holds follows. Ctrl-C ends it with exit code 130.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct WatchArgs {
    /// Only transitions to this state.
    #[arg(long, value_name = "STATE")]
    #[arg(value_parser = ["up", "suspect", "down", "left", "forgotten"])]
    to: Option<String>,
    /// Only peers of this group.
    #[arg(long)]
    group: Option<String>,
    /// Only this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Begin after this sequence number; 0 replays all that the monitor still holds.
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// One JSON object a line, as the monitor sends it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// Follows the event stream until interrupted, or until nobody reads our output.
///
/// # Errors
/// No monitor answers at first (exit code 3).
pub fn watch(args: WatchArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let client = Client::new(&args.monitor.http)?;
    let filters = query([
        ("to", args.to.as_deref()),
        ("group", args.group.as_deref()),
        ("peer", args.peer.as_deref()),
    ]);
    let base = client.base().to_owned();
    let mut stream = EventStream::new(client, filters, args.after);
    let mut lines = Lines::new(Terminal::detect());
    let mut epoch = Epoch::default();
    loop {
        match stream.next_update()? {
            Update::Connected { again: false } => terminal::say(&format!("watching {base}")),
            Update::Connected { again: true } => {
                terminal::say(&format!("connected to {base} again"))
            }
            Update::Lost(why) => terminal::say(&format!("lost {base} ({why}); connecting anew")),
            Update::Gap(gap) => terminal::say(&gap_line(&gap)),
            Update::Transition(event) => {
                if epoch.begins_with(&event) {
                    terminal::say("the monitor was restarted; numbers begin anew");
                }
                let text = if args.json { json_line(&event)? } else { lines.line(&event) };
                terminal::print(&text)?;
            }
        }
    }
}

fn json_line(event: &Event) -> Result<String, Failure> {
    serde_json::to_string(event)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))
}

fn gap_line(gap: &EventGap) -> String {
    let missing = words::plural(1 + gap.to_seq.saturating_sub(gap.from_seq), "transition");
    format!("gap: {missing} (#{} to #{}) no longer held", gap.from_seq, gap.to_seq)
}

/// Which start of which monitor the transitions are of.
#[derive(Default)]
struct Epoch(Option<(String, u64)>);

impl Epoch {
    /// Whether this transition is the first of another start than those before it.
    fn begins_with(&mut self, event: &Event) -> bool {
        let now = (event.monitor.clone(), event.epoch);
        let before = self.0.replace(now.clone());
        before.is_some_and(|before| before != now)
    }
}

/// Lays out lines; the column of names grows with the names, up to a bound.
struct Lines {
    terminal: Terminal,
    name_width: usize,
}

impl Lines {
    const WIDEST_NAME: usize = 40;

    fn new(terminal: Terminal) -> Lines {
        Lines { terminal, name_width: 16 }
    }

    fn line(&mut self, event: &Event) -> String {
        let name_length = event.peer.chars().count();
        self.name_width = self.name_width.max(name_length.min(Self::WIDEST_NAME));
        let time = words::time(&event.time, words::timestamp(&event.time));
        let change = format!("{:>7} → {:<9}", event.from, event.to);
        let change = self.terminal.paint(severity(event), &change);
        let group = if event.group.is_empty() { "-" } else { &event.group };
        let width = self.name_width;
        format!("{time}  {change}  {:<width$}  {group:<10}  {}", event.peer, detail(event))
    }
}

/// A first heartbeat is no news; a return from down is good news.
pub(super) fn severity(event: &Event) -> Severity {
    match (event.from.as_str(), event.to.as_str()) {
        ("unknown", "up") => Severity::Quiet,
        (_, to) => Severity::of_state(to),
    }
}

/// The evidence, in words.
pub(super) fn detail(event: &Event) -> String {
    let silent = || {
        let silence = words::duration(event.detection_time_ns);
        match event.incarnation {
            // The text form carries no numbers.
            0 => format!("silent for {silence}"),
            _ => format!("silent for {silence} since #{}", event.last_sequence),
        }
    };
    let text = match (event.reason.as_str(), event.to.as_str()) {
        ("silence", _) => {
            format!("{}, called {} late", silent(), words::duration(event.lateness_ns))
        }
        ("first_beat", _) => "first heartbeat".into(),
        ("restart", _) => "restarted".into(),
        ("beat", _) => "beats again".into(),
        ("bye", _) => "said goodbye".into(),
        ("expired", _) => {
            format!("{} for {}", event.from, words::duration(event.in_from_ns))
        }
        ("removed", _) => "removed by an operator".into(),
        (other, _) => other.to_owned(),
    };
    let back = event.down_for_ns.map(|ns| format!(" after {} down", words::duration(ns)));
    let status = match event.status.as_str() {
        "ok" | "" => String::new(),
        status => format!(", says {status}"),
    };
    format!("{text}{}{status}", back.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::events::tests::event;
    use super::*;

    #[test]
    fn a_line_has_the_evidence_in_columns() {
        let mut lines = Lines::new(Terminal::PLAIN);
        assert_eq!(
            lines.line(&event(1)),
            "10:02:06.173460  suspect → down       web-1             web         \
             silent for 3.05 s since #812, called 4 µs late"
        );
        let back = Event {
            from: "down".into(),
            to: "up".into(),
            reason: "restart".into(),
            status: "warn".into(),
            group: String::new(),
            down_for_ns: Some(123_000_000_000),
            ..event(2)
        };
        assert_eq!(
            lines.line(&back),
            "10:02:06.173460     down → up         web-1             -           \
             restarted after 2m 3s down, says warn"
        );
    }

    #[test]
    fn the_column_of_names_grows_but_not_without_bound() {
        let mut lines = Lines::new(Terminal::PLAIN);
        let named = |name: &str| Event { peer: name.into(), ..event(1) };
        lines.line(&named(&"x".repeat(30)));
        assert_eq!(lines.name_width, 30);
        lines.line(&named(&"x".repeat(200)));
        assert_eq!(lines.name_width, Lines::WIDEST_NAME);
        let column = |text: &str| text.find("silent").map(|at| text[..at].chars().count());
        assert_eq!(column(&lines.line(&named("a"))), column(&lines.line(&named("bcd"))));
    }

    #[test]
    fn colour_follows_severity() {
        let mut lines = Lines::new(Terminal { colour: true, width: None });
        assert!(lines.line(&event(1)).contains("\x1b[1;31msuspect → down     \x1b[0m"));
        let first = Event { from: "unknown".into(), to: "up".into(), ..event(1) };
        assert_eq!(severity(&first), Severity::Quiet);
    }

    #[test]
    fn a_restarted_monitor_is_said_once() {
        let later = |seq| Event { epoch: 2, ..event(seq) };
        let mut epoch = Epoch::default();
        let begins = [event(1), event(2), later(1), later(2)].map(|e| epoch.begins_with(&e));
        assert_eq!(begins, [false, false, true, false]);
    }

    #[test]
    fn a_gap_is_counted() {
        let line = gap_line(&EventGap { from_seq: 10, to_seq: 1_009 });
        assert_eq!(line, "gap: 1,000 transitions (#10 to #1009) no longer held");
    }
}
