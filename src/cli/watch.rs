//! `systole watch`: what happens as it happens, one line each, storms folded to a few.
//!
//! A thread reads the stream, so that a sum can be told when nothing more comes.

use super::client::{Client, MonitorArgs, query};
use super::events::{EventStream, Update};
use super::fold::{Fold, More};
use super::notes;
use super::terminal::{self, Severity, Terminal};
use super::{Failure, words};
use crate::api::{Event, EventGap, Note, Summary};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  systole watch
  systole watch --group web --to down
  systole watch --after 0                    everything that the monitor still holds, then live
  systole watch --all                        every transition, also in a storm
  systole watch --json | jq -r 'select(.to == \"down\") | .peer'
";

const AFTER: &str = "\
Members of an incident and peers that flap are told once, and of changes that are alike five in a \
second are shown and the rest summed up; --all and --json show each. Times are UTC. A lost \
connection is said on stderr and resumed where it broke; transitions that the \
monitor no longer holds are announced as a gap. When the monitor was restarted, that is said on \
stderr: with how long nobody looked when it goes on with its state, else all that it holds follows. \
Ctrl-C ends it with exit code 130.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct WatchArgs {
    /// Only transitions to this state.
    #[arg(long, value_name = "STATE")]
    #[arg(value_parser = ["up", "suspect", "down", "unreachable", "left", "forgotten"])]
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
    /// Every transition on a line of its own, however many there are.
    #[arg(long)]
    all: bool,
    /// One JSON object a line for each transition, as the monitor sends it.
    #[arg(long)]
    json: bool,
    /// With --json: incidents and other notes, too; they have an `event` that says what they are.
    #[arg(long, requires = "json")]
    notes: bool,
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
        ("notes", (!args.json || args.notes).then_some("1")),
    ]);
    let base = client.base().to_owned();
    let updates = read(EventStream::new(client.clone(), filters, args.after))?;
    let mut lines = Lines::new(Terminal::detect());
    let (mut epoch, mut start) = (Epoch::default(), Start::default());
    let mut fold = (!args.all && !args.json).then(Fold::default);
    loop {
        let update = match updates.recv_timeout(QUIET) {
            Ok(update) => update?,
            Err(RecvTimeoutError::Timeout) => {
                let more = fold.as_mut().filter(|fold| fold.is_pending()).map(Fold::quiet);
                for more in more.into_iter().flatten() {
                    terminal::print(&lines.more(&more))?;
                }
                // On a quiet fleet nothing may be written for hours.
                if terminal::nobody_reads() {
                    return Err(Failure::nobody_reads());
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::failed("the thread that reads the stream has ended"));
            }
        };
        match update {
            Update::Connected { again } => {
                let how = if again { "connected again to" } else { "watching" };
                terminal::say(&format!("{how} {base}"));
                if let Some(news) =
                    client.get("/api/v1/summary").ok().and_then(|now| start.see(&now))
                {
                    terminal::say(&news);
                }
            }
            Update::Lost(why) => terminal::say(&format!("lost {base} ({why}); connecting anew")),
            Update::Gap(gap) => terminal::say(&gap_line(&gap)),
            Update::Transition(event) => {
                if epoch.begins_with(&event.monitor, event.epoch) {
                    terminal::say("the monitor was restarted; numbers begin anew");
                }
                if args.json {
                    terminal::print(&terminal::json_line(&*event)?)?;
                    continue;
                }
                let time_ns = words::timestamp(&event.time).as_nanosecond();
                let (show, more) =
                    fold.as_mut().map_or((true, None), |fold| fold.show(&event, time_ns));
                if let Some(more) = more {
                    terminal::print(&lines.more(&more))?;
                }
                if show {
                    terminal::print(&lines.line(&event))?;
                }
            }
            Update::Note(note) => {
                let head = note.head();
                if epoch.begins_with(&head.monitor, head.epoch) {
                    terminal::say("the monitor was restarted; numbers begin anew");
                }
                if let (Some(fold), Note::Incident(told)) = (&mut fold, &*note) {
                    fold.told(&told.incident.group);
                }
                let text = if args.json { json_note(&note)? } else { lines.note(&note) };
                terminal::print(&text)?;
            }
        }
    }
}

/// How long nothing must come for what was left out to be summed up.
const QUIET: Duration = Duration::from_millis(1_000);
/// Updates read ahead; a full channel holds the reader up, and with it the monitor's stream.
const AHEAD: usize = 1_024;

/// Reads a stream on a thread of its own, until it fails or nobody listens.
fn read(mut stream: EventStream) -> Result<Receiver<Result<Update, Failure>>, Failure> {
    let (told, updates) = mpsc::sync_channel(AHEAD);
    let body = move || {
        loop {
            let update = stream.next_update();
            let failed = update.is_err();
            if told.send(update).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("systole-watch".into())
        .spawn(body)
        .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
    Ok(updates)
}

/// A note with its name in it: on the stream that stands beside it.
fn json_note(note: &Note) -> Result<String, Failure> {
    #[derive(serde::Serialize)]
    struct Named<'a> {
        event: &'static str,
        #[serde(flatten)]
        note: &'a Note,
    }
    terminal::json_line(&Named { event: note.event(), note })
}

fn gap_line(gap: &EventGap) -> String {
    let missing = words::plural(1 + gap.to_seq.saturating_sub(gap.from_seq), "transition");
    format!("gap: {missing} (#{} to #{}) no longer held", gap.from_seq, gap.to_seq)
}

/// A start this recent is news to who connects for the first time.
const RECENT_NS: u64 = 60_000_000_000;

/// Which start of the monitor was seen last: what a new one means is told once.
#[derive(Default)]
struct Start(Option<String>);

impl Start {
    /// What there is to say when this is what the monitor says of itself.
    fn see(&mut self, now: &Summary) -> Option<String> {
        let before = self.0.replace(now.started.clone());
        let running_ns = words::between(&now.started, words::timestamp(&now.time));
        let is_news = match before {
            Some(before) => before != now.started,
            None => running_ns < RECENT_NS,
        };
        // One that has nothing to go on with is told by its epoch.
        let state = now.state.as_ref().filter(|state| is_news && state.blind_ns > 0)?;
        Some(format!(
            "the monitor was restarted {} ago and goes on with {}; nobody looked for {}, and \
             deadlines are extended for it",
            words::duration(running_ns),
            words::plural(state.peers_recovered, "peer"),
            words::duration(state.blind_ns)
        ))
    }
}

/// Which start of which monitor the transitions are of.
#[derive(Default)]
struct Epoch(Option<(String, u64)>);

impl Epoch {
    /// Whether what has come is the first of another start than what came before.
    fn begins_with(&mut self, monitor: &str, epoch: u64) -> bool {
        let now = (monitor.to_owned(), epoch);
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

    fn more(&self, (alike, count): &More) -> String {
        let group =
            if alike.group.is_empty() { String::new() } else { format!(" of {}", alike.group) };
        let count = words::count(*count);
        let text = format!("… {count} more{group}: {} → {}", alike.from, alike.to);
        self.terminal.paint(Severity::Quiet, &format!("{:15}  {text}", ""))
    }

    fn note(&self, note: &Note) -> String {
        let time = words::time(&note.head().time, words::timestamp(&note.head().time));
        let (severity, text) = notes::sentence(note);
        format!("{time}  {}", self.terminal.paint(severity, &text))
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
        ("parent", _) => format!("{}, behind its parent that is down", silent()),
        (other, _) => other.to_owned(),
    };
    let back = event.down_for_ns.map(|ns| format!(" after {} down", words::duration(ns)));
    let status = match event.status.as_str() {
        "ok" | "" => String::new(),
        status => format!(", says {status}"),
    };
    let extended = extension(event).map(|words| format!(", {words}"));
    let marks = [(event.silenced, ", silenced"), (event.flapping, ", flapping")];
    let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    format!("{text}{}{status}{}{marks}", back.unwrap_or_default(), extended.unwrap_or_default())
}

/// Why a verdict came later than its detector alone would have given it, in words.
pub(super) fn extension(event: &Event) -> Option<String> {
    if event.extended_ns == 0 {
        return None;
    }
    let why = |word: &String| match word.as_str() {
        "blind" => "the monitor was stopped".to_owned(),
        "deaf" => "heartbeats may have been lost at the monitor".to_owned(),
        "mass" => "too many fell silent at once".to_owned(),
        "parent" => "its parent was silent, too".to_owned(),
        other => other.to_owned(),
    };
    let why: Vec<String> = event.extended_by.iter().map(why).collect();
    let later = words::duration(event.extended_ns);
    Some(format!("judged {later} later because {}", why.join(" and ")))
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
        let begins = [event(1), event(2), later(1), later(2)]
            .map(|e| epoch.begins_with(&e.monitor, e.epoch));
        assert_eq!(begins, [false, false, true, false]);
    }

    #[test]
    fn how_long_nobody_looked_is_said_once_for_each_start() {
        use crate::api::StateFigures;
        let summary = |started: &str, blind_ns| Summary {
            started: started.into(),
            time: "2026-11-23T10:10:00Z".into(),
            state: Some(StateFigures { blind_ns, peers_recovered: 40, ..StateFigures::default() }),
            ..Summary::default()
        };
        let first = summary("2026-11-23T10:00:00Z", 900_000_000);
        let second = summary("2026-11-23T10:09:58Z", 2_100_000_000);
        let mut start = Start::default();
        assert_eq!(start.see(&first), None, "long ago");
        let said = start.see(&second).unwrap();
        assert_eq!(
            said,
            "the monitor was restarted 2 s ago and goes on with 40 peers; nobody looked for 2.1 s, \
             and deadlines are extended for it"
        );
        assert_eq!(start.see(&second), None, "told already");
        assert_eq!(Start::default().see(&second), Some(said), "just now");
        assert_eq!(Start::default().see(&summary("2026-11-23T10:09:58Z", 0)), None, "the first");
    }

    #[test]
    fn what_extended_a_deadline_is_told() {
        let extended = |ns, why: &[&str]| {
            let extended_by = why.iter().map(ToString::to_string).collect();
            extension(&Event { extended_ns: ns, extended_by, ..event(1) })
        };
        assert_eq!(extended(0, &[]), None);
        assert_eq!(
            extended(2_100_000_000, &["blind"]).as_deref(),
            Some("judged 2.1 s later because the monitor was stopped")
        );
        assert_eq!(
            extended(1_000, &["deaf", "mass"]).as_deref(),
            Some(
                "judged 1 µs later because heartbeats may have been lost at the monitor and too many fell \
                 silent at once"
            )
        );
    }

    #[test]
    fn a_sum_and_a_note_are_lines_too() {
        let lines = Lines::new(Terminal::PLAIN);
        let mut fold = Fold::default();
        (0..40).for_each(|i| _ = fold.show(&event(i), 0));
        let more = fold.quiet();
        assert_eq!(lines.more(&more[0]).trim(), "… 35 more of web: suspect → down");
        let data = r#"{"seq":7,"monitor":"a1","epoch":1,"time":"2026-11-23T10:02:06.173460000Z",
            "from":"","for_ns":300000000,"deaf":false}"#;
        let note = Note::parse("blind", data).unwrap().unwrap();
        assert_eq!(
            lines.note(&note),
            "10:02:06.173460  the monitor was stopped for 300 ms; deadlines are extended for it"
        );
        assert!(json_note(&note).unwrap().starts_with(r#"{"event":"blind","seq":7,"#));
    }

    #[test]
    fn a_gap_is_counted() {
        let line = gap_line(&EventGap { from_seq: 10, to_seq: 1_009 });
        assert_eq!(line, "gap: 1,000 transitions (#10 to #1009) no longer held");
    }
}
