//! `systole status`: who is not up; or everything about one peer, the evidence in words.
//!
//! All ages are against the monitor's clock, which its answers carry: a laptop with a wrong clock
//! shows the same.

use super::client::{Client, MonitorArgs, query};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, watch, words};
use crate::api::{PeerDetail, PeerPage, PeerSummary, Qos, Summary};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  systole status                             how many are up, and who is not
  systole status web-1                       one peer, with the evidence
  systole status --state down --group web
  systole status --state all --limit 1000 --json | jq -r '.peers[].name'
";

const AFTER: &str = "\
Times are UTC. The exit code is 0 whatever the state (see `systole is-up` for scripts), 3 when the \
peer is unknown or no monitor answers.";

/// Whom to list without `--state`: the worst first.
const NOT_UP: [&str; 4] = ["down", "unreachable", "suspect", "left"];
/// Most peers on one page of the API.
const PAGE: usize = 1_000;

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct StatusArgs {
    /// A peer's name; without it, those that are not up are listed.
    #[arg(conflicts_with_all = ["state", "group", "prefix", "label", "incident"])]
    name: Option<String>,
    /// List the peers in this state.
    #[arg(long, value_parser = ["up", "suspect", "down", "unreachable", "left", "all"])]
    state: Option<String>,
    /// List only peers of this group.
    #[arg(long)]
    group: Option<String>,
    /// List only peers whose name begins so.
    #[arg(long)]
    prefix: Option<String>,
    /// List only peers with this label (`rack=r7`, or `rack` with any value); may be repeated.
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// List only members of this open incident (see `systole incidents`).
    #[arg(long, value_name = "ID")]
    incident: Option<u32>,
    /// List so many at most; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

/// What `--json` prints without a name.
#[derive(Serialize)]
struct Listing {
    summary: Summary,
    peers: Vec<PeerSummary>,
    /// True when there are more than `--limit`.
    truncated: bool,
}

/// Asks the monitor and prints.
///
/// # Errors
/// The peer is unknown or no monitor answers (exit code 3).
pub fn status(args: StatusArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let client = Client::new(&args.monitor.http)?;
    let terminal = Terminal::detect();
    if let Some(name) = &args.name {
        let peer = client.peer(name)?;
        match args.json {
            true => terminal::print_json(&peer)?,
            false => terminal::print(&detail(&peer, terminal))?,
        }
        return Ok(0);
    }
    let listing = list(&client, &args)?;
    match args.json {
        true => terminal::print_json(&listing)?,
        false => terminal::print(&overview(&listing, &args, terminal))?,
    }
    Ok(0)
}

/// Collects the peers asked for, state by state, page by page, up to the limit.
fn list(client: &Client, args: &StatusArgs) -> Result<Listing, Failure> {
    let summary: Summary = client.get("/api/v1/summary")?;
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let states: Vec<Option<&str>> = match args.state.as_deref() {
        None => NOT_UP.into_iter().map(Some).collect(),
        Some("all") => vec![None],
        state => vec![state],
    };
    let incident = args.incident.map(|id| id.to_string());
    let mut peers = Vec::new();
    for state in states {
        let mut cursor: Option<String> = None;
        // One more than the limit tells whether there are more.
        while peers.len() <= limit {
            let page_size = (limit - peers.len()).saturating_add(1).min(PAGE).to_string();
            let mut parameters = vec![
                ("state", state),
                ("group", args.group.as_deref()),
                ("prefix", args.prefix.as_deref()),
                ("incident", incident.as_deref()),
                ("limit", Some(page_size.as_str())),
                ("cursor", cursor.as_deref()),
            ];
            parameters.extend(args.label.iter().map(|label| ("label", Some(label.as_str()))));
            let page: PeerPage = client.get(&format!("/api/v1/peers{}", query(parameters)))?;
            peers.extend(page.peers);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    let truncated = peers.len() > limit;
    peers.truncate(limit);
    Ok(Listing { summary, peers, truncated })
}

fn overview(listing: &Listing, args: &StatusArgs, terminal: Terminal) -> String {
    let mut text = head(&listing.summary, terminal);
    text.push('\n');
    if listing.peers.is_empty() {
        let nobody = match (listing.summary.peers.total, args.state.as_deref()) {
            (0, _) => "Nobody has beaten yet. Try: systole beat --to HOST:4600 --name web-1",
            (_, None) => "Everybody asked for is up.",
            _ => "Nobody is in the state asked for.",
        };
        return text + "\n" + nobody;
    }
    let now = words::timestamp(&listing.summary.time);
    let header = ["PEER", "GROUP", "STATE", "FOR", "LAST HEARD", "SILENT", "INTERVAL", "SAYS"];
    let mut table = terminal.table(&header, &[3, 5, 6]);
    for peer in &listing.peers {
        table.add_row([
            terminal.cell(Severity::Plain, &peer.name),
            terminal.cell(Severity::Plain, if peer.group.is_empty() { "-" } else { &peer.group }),
            terminal.cell(Severity::of_state(&peer.state), &peer.state),
            terminal.cell(Severity::Plain, &words::duration(words::between(&peer.since, now))),
            terminal.cell(Severity::Plain, &words::time(&peer.last_seen, now)),
            terminal.cell(Severity::Plain, &words::duration(peer.silent_ns)),
            terminal.cell(Severity::Plain, &words::duration(peer.interval_ns)),
            terminal.cell(Severity::of_status(&peer.status), &peer.status),
        ]);
    }
    text = text + "\n" + &terminal::render(&table);
    if listing.truncated {
        let shown = words::plural(listing.peers.len() as u64, "peer");
        let hint =
            format!("… {shown} shown, there are more: --limit N, --state, --group, --prefix");
        text = text + "\n" + &terminal.paint(Severity::Quiet, &hint);
    }
    text
}

/// The monitor and its fleet, in a few lines.
fn head(summary: &Summary, terminal: Terminal) -> String {
    let now = words::timestamp(&summary.time);
    let peers = &summary.peers;
    let count = |n: u64, state: &str| {
        let severity = if n == 0 { Severity::Plain } else { Severity::of_state(state) };
        terminal.paint(severity, &format!("{} {state}", words::count(n)))
    };
    let states = [
        count(peers.up, "up"),
        count(peers.suspect, "suspect"),
        count(peers.down, "down"),
        count(peers.left, "left"),
    ];
    let unreachable = (peers.unreachable > 0).then(|| count(peers.unreachable, "unreachable"));
    let states: Vec<String> = states.into_iter().chain(unreachable).collect();
    let mut text = format!(
        "monitor {} ({}), running for {}, {} by {} on udp {}\n{}: {}; {} heartbeats/s; last event #{}",
        summary.monitor,
        summary.version,
        words::duration(words::between(&summary.started, now)),
        words::plural(summary.reactors.into(), "reactor"),
        summary.transport,
        summary.udp.join(", "),
        words::plural(peers.total, "peer"),
        states.join(", "),
        words::count(summary.heartbeats_per_second.round() as u64),
        summary.last_seq,
    );
    for (severity, line) in alarms(summary) {
        text = text + "\n" + &terminal.paint(severity, &line);
    }
    let mut losses = Vec::new();
    if summary.kernel_drops > 0 {
        losses.push(format!("{} in the kernel", words::count(summary.kernel_drops)));
    }
    let ours = summary.dropped.iter().filter(|(_, n)| **n > 0);
    losses.extend(ours.map(|(reason, n)| format!("{} {reason}", words::count(*n))));
    if !losses.is_empty() {
        let line = format!("dropped or refused: {}", losses.join(", "));
        text = text + "\n" + &terminal.paint(Severity::Doubtful, &line);
    }
    text
}

/// What the monitor makes of it beyond single peers; nothing when nothing is the matter.
fn alarms(summary: &Summary) -> Vec<(Severity, String)> {
    let alarms = &summary.alarms;
    let mut lines = Vec::new();
    let mut now = Vec::new();
    let mut say = |n: u64, what: &str| {
        if n > 0 {
            now.push(format!("{} {what}", words::count(n)));
        }
    };
    say(alarms.incidents, if alarms.incidents == 1 { "incident open" } else { "incidents open" });
    say(alarms.held, "held as suspect");
    say(alarms.missing, "missing");
    say(alarms.flapping, "flapping");
    say(alarms.conflicts, "identity conflicts seen");
    if !now.is_empty() {
        lines.push((Severity::Bad, format!("{}: see systole incidents", now.join(", "))));
    }
    let mut ours = Vec::new();
    if alarms.blind_ns > 0 {
        ours.push(format!("did not run for {}", words::duration(alarms.blind_ns)));
    }
    if alarms.deaf_ns > 0 {
        ours.push(format!("did not hear all for {}", words::duration(alarms.deaf_ns)));
    }
    if !ours.is_empty() {
        let extended = words::plural(alarms.extended, "verdict");
        let line = format!("the monitor {}; {extended} extended", ours.join(" and "));
        lines.push((Severity::Doubtful, line));
    }
    if alarms.silences > 0 {
        let line = format!("{} (systole silence list)", words::plural(alarms.silences, "silence"));
        lines.push((Severity::Quiet, line));
    }
    lines
}

/// Chen's figures of a peer, in words.
fn quality(qos: &Qos) -> String {
    let share = qos.query_accuracy * 100.0;
    let mut text = match (qos.mistakes, qos.mistake_recurrence_ns, qos.mistake_duration_ns) {
        (0, ..) | (_, None, _) | (_, _, None) => "never called down wrongly".to_owned(),
        (n, Some(recurrence), Some(duration)) => format!(
            "called down wrongly {}, once in {}, for {} on average; right {share:.4} % of the time",
            times(n),
            words::duration(recurrence),
            words::duration(duration)
        ),
    };
    if qos.wrong_suspicions > 0 {
        text.push_str(&format!("; suspected wrongly {}", times(qos.wrong_suspicions)));
    }
    text
}

fn times(n: u64) -> String {
    if n == 1 { "once".into() } else { format!("{} times", words::count(n)) }
}

/// What else is known of a peer, where there is something to know.
fn circumstances(peer: &PeerDetail, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(parent) = &peer.parent {
        let since = parent.since.as_deref().map(|since| {
            let lasted = words::duration(words::between(since, now));
            format!(", {} since {} ({lasted})", parent.state, words::time(since, now))
        });
        let state = since.unwrap_or_else(|| ", which was never heard".into());
        rows.push(("parent", format!("{}{state}", parent.name)));
    }
    if let Some(id) = peer.incident {
        rows.push(("incident", format!("#{id} (systole incidents)")));
    }
    if peer.flapping {
        rows.push(("flapping", "yes: its changes are told once, and raise no incident".into()));
    }
    if let Some(silence) = &peer.silence {
        let until = words::time(&silence.until, now);
        let reason = match silence.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        rows.push(("silenced", format!("until {until} by #{}{reason}", silence.id)));
    }
    rows
}

/// Everything about one peer.
fn detail(peer: &PeerDetail, terminal: Terminal) -> String {
    let summary = &peer.summary;
    let now = now(peer);
    let verdict = verdict(peer);
    let mut text = format!(
        "{}: {}\n",
        summary.name,
        terminal.paint(Severity::of_state(&summary.state), &verdict)
    );
    let labels: Vec<String> = peer.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let numbers = match peer.incarnation {
        0 => "not numbered (text form)".to_owned(),
        incarnation => format!("#{} of incarnation {incarnation}", peer.last_sequence),
    };
    let rows = [
        ("says", terminal.paint(Severity::of_status(&summary.status), &summary.status)),
        ("group", or_dash(summary.group.clone())),
        ("labels", or_dash(labels.join(", "))),
        ("id", summary.id.clone()),
        ("interval", words::duration(summary.interval_ns)),
        ("timeout", words::duration(peer.timeout_ns)),
        ("first heard", words::time(&peer.first_seen, now)),
        ("last heard", words::time(&summary.last_seen, now)),
        ("last beat", numbers),
        (
            "heartbeats",
            format!(
                "{} ({} missing, {} duplicate, {} reordered, {} stale)",
                words::count(peer.heartbeats),
                words::count(peer.gaps),
                words::count(peer.duplicates),
                words::count(peer.reordered),
                words::count(peer.stale)
            ),
        ),
        ("restarts", words::count(peer.restarts)),
        ("reactor", peer.reactor.to_string()),
    ];
    let quality = [("verdicts", quality(&peer.qos))];
    let key = summary.key.map(|id| ("key", id.to_string()));
    let jitter = peer.qos.jitter_ns.map(|ns| ("jitter", words::duration(ns)));
    let more = circumstances(peer, now);
    for (name, value) in rows.into_iter().chain(quality).chain(jitter).chain(key).chain(more) {
        text.push_str(&format!("  {name:<12} {value}\n"));
    }
    if !peer.transitions.is_empty() {
        text.push_str("transitions, newest first (UTC)\n");
    }
    for event in &peer.transitions {
        let change = format!("{:>7} → {:<9}", event.from, event.to);
        let change = terminal.paint(watch::severity(event), &change);
        let time = words::time(&event.time, now);
        text.push_str(&format!("  {time}  {change}  {}\n", watch::detail(event)));
    }
    text.truncate(text.trim_end().len());
    text
}

/// The monitor's time when it answered.
fn now(peer: &PeerDetail) -> Timestamp {
    let last_seen = words::timestamp(&peer.summary.last_seen);
    let silent = SignedDuration::from_nanos(i64::try_from(peer.summary.silent_ns).unwrap_or(0));
    last_seen.checked_add(silent).unwrap_or(last_seen)
}

/// The state and the evidence for it, for somebody who was asleep a minute ago.
fn verdict(peer: &PeerDetail) -> String {
    let summary = &peer.summary;
    let now = now(peer);
    let lasted = words::duration(words::between(&summary.since, now));
    let last_seen = words::time(&summary.last_seen, now);
    let number = match peer.incarnation {
        0 => String::new(),
        _ => format!(" (last heartbeat #{})", peer.last_sequence),
    };
    // A deadline ahead: when, and how long until then.
    let ahead = |deadline: &Option<String>| {
        let deadline = deadline.as_deref()?;
        let left = words::timestamp(deadline).as_nanosecond() - now.as_nanosecond();
        let left = words::duration(u64::try_from(left).unwrap_or(0));
        Some(format!("{} (in {left})", words::time(deadline, now)))
    };
    match summary.state.as_str() {
        "up" => {
            let ago = words::duration(summary.silent_ns);
            let next = ahead(&peer.deadline)
                .map(|when| format!("; called down at {when} if it stays silent"));
            format!("up for {lasted}: last heard {ago} ago{number}{}", next.unwrap_or_default())
        }
        "suspect" => {
            let next = ahead(&peer.deadline)
                .map(|when| format!("; called down at {when} unless it beats"));
            format!(
                "suspect for {lasted}: silent since {last_seen}{number}{}",
                next.unwrap_or_default()
            )
        }
        "down" => {
            let call = peer.transitions.iter().find(|event| event.to == "down");
            let deadline =
                call.and_then(|event| event.deadline.as_ref()).or(peer.deadline.as_ref());
            let passed = deadline
                .map(|deadline| format!(", deadline {} passed", words::time(deadline, now)));
            let called =
                call.map(|event| format!(", called {} later", words::duration(event.lateness_ns)));
            let extended = call.and_then(watch::extension).map(|words| format!("; {words}"));
            format!(
                "down for {lasted}: silent since {last_seen}{number}{}{}{}",
                passed.unwrap_or_default(),
                called.unwrap_or_default(),
                extended.unwrap_or_default()
            )
        }
        "unreachable" => {
            let parent = peer.parent.as_ref().map_or("its parent", |parent| &parent.name);
            format!(
                "unreachable for {lasted}: silent since {last_seen}{number}, and so is {parent}, \
                 which it is behind"
            )
        }
        "left" => {
            format!("left {lasted} ago: said goodbye at {last_seen}{number}; no alarm follows")
        }
        other => format!("{other} for {lasted}"),
    }
}

#[cfg(test)]
pub(super) mod tests;
