//! `systole status`: who is not up; or everything about one peer, the evidence in words.
//!
//! All ages are against the monitor's clock, which its answers carry: a laptop with a wrong clock
//! shows the same.

mod peer;

use super::client::{Client, MonitorArgs, query};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, expected, words};
use crate::api::{
    AlarmCounts, Expectations, Expected, GroupQos, PeerCounts, PeerPage, PeerSummary, Qos,
    QosReport, Summary,
};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  systole status                             how many are up, and who is not
  systole status web-1                       one peer, with the evidence
  systole status --all                       every peer, whatever its state
  systole status --group web                 the group in figures, and who of it is not up
  systole status --failing                   who says that something is wrong, also of those up
  systole status --state down --label rack=r7
  systole status --all --json | jq -r '.peers[].name'
";

const AFTER: &str = "\
Times are UTC. The exit code is 0 whatever the state (see `systole is-up` for scripts), 3 when the \
peer is unknown or no monitor answers.";

/// Whom to list without `--state`: the worst first.
const NOT_UP: [&str; 4] = ["down", "unreachable", "suspect", "left"];
/// Most peers on one page of the API.
const PAGE: usize = 1_000;
const DEFAULT_LIMIT: usize = 20;
/// Most of the missing that are named.
const MOST_MISSING: usize = 8;
/// Most of those with a warning that are named.
const MOST_NAMED: usize = 8;

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct StatusArgs {
    /// A peer's name; without it, those that are not up are listed.
    #[arg(conflicts_with_all = [
        "state", "all", "group", "prefix", "label", "incident", "failing", "flapping", "silenced",
    ])]
    name: Option<String>,
    /// List the peers in this state; without it those in any but up.
    #[arg(long, value_parser = ["up", "suspect", "down", "unreachable", "left", "all"])]
    state: Option<String>,
    /// List every peer, in whatever state, however many there are.
    #[arg(long, conflicts_with = "state")]
    all: bool,
    /// List only peers of this group, and tell its figures.
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
    /// List only peers that say of themselves that something is wrong (warn, critical), up ones too.
    #[arg(long)]
    failing: bool,
    /// List only peers that go down and up again too often, whatever state they are in now.
    #[arg(long)]
    flapping: bool,
    /// List only peers of which a silence holds, whatever state they are in.
    #[arg(long)]
    silenced: bool,
    /// List so many at most, 20 unless --all is given; 0 lists all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    monitor: MonitorArgs,
}

impl StatusArgs {
    /// The states to list, one after the other; `None` is any.
    fn states(&self) -> Vec<Option<&str>> {
        match self.state.as_deref() {
            _ if self.all => vec![None],
            None if self.failing || self.flapping || self.silenced => vec![None],
            None => NOT_UP.into_iter().map(Some).collect(),
            Some("all") => vec![None],
            state => vec![state],
        }
    }

    fn most(&self) -> usize {
        match self.limit {
            Some(0) => usize::MAX,
            Some(limit) => limit,
            None if self.all => usize::MAX,
            None => DEFAULT_LIMIT,
        }
    }

    /// Whom the flags choose, in words; `None` when they choose nobody in particular.
    fn whom(&self) -> Option<String> {
        let mut whom = Vec::new();
        whom.extend(self.group.as_ref().map(|group| format!("group {group}")));
        whom.extend(self.prefix.as_ref().map(|prefix| format!("name {prefix}…")));
        whom.extend(self.label.iter().map(|label| format!("label {label}")));
        whom.extend(self.incident.map(|id| format!("incident #{id}")));
        whom.extend(self.failing.then(|| "says warn or critical".to_owned()));
        whom.extend(self.flapping.then(|| "flapping".to_owned()));
        whom.extend(self.silenced.then(|| "silenced".to_owned()));
        (!whom.is_empty()).then(|| whom.join(", "))
    }
}

/// What `--json` prints without a name.
#[derive(Default, Serialize)]
struct Listing {
    summary: Summary,
    /// The group asked for, when the monitor knows somebody of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupQos>,
    /// Who says that something is wrong, the first of them by name.
    failing: Vec<String>,
    /// Who is expected and has not come, the first of them.
    missing: Vec<Expected>,
    peers: Vec<PeerSummary>,
    /// True when there are more than `--limit`.
    truncated: bool,
    /// Whether anybody is as asked for, but for the state.
    #[serde(skip)]
    anybody: bool,
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
        let several = |failure: Failure| match name.contains(['*', '?']) && failure.code() == 3 {
            true => Failure::not_found(format!(
                "{failure}; several are listed by --prefix, --group and --label"
            )),
            false => failure,
        };
        let peer = client.peer(name).map_err(several)?;
        match args.json {
            true => terminal::print_json(&peer)?,
            false => terminal::print(&peer::detail(&peer, terminal))?,
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

/// Collects what is asked for.
fn list(client: &Client, args: &StatusArgs) -> Result<Listing, Failure> {
    let summary: Summary = client.get("/api/v1/summary")?;
    let limit = args.most();
    let mut peers = Vec::new();
    for state in args.states() {
        // One more than the limit tells whether there are more.
        collect(client, args, state, limit.saturating_add(1), &mut peers)?;
    }
    let truncated = peers.len() > limit;
    peers.truncate(limit);
    let rank = |peer: &PeerSummary| {
        NOT_UP.iter().position(|state| *state == peer.state).unwrap_or(NOT_UP.len())
    };
    peers.sort_by(|a, b| (rank(a), &a.name).cmp(&(rank(b), &b.name)));
    let mut anybody = peers.clone();
    if anybody.is_empty() && args.whom().is_some() {
        collect(client, args, None, 1, &mut anybody)?;
    }
    let group = match &args.group {
        Some(name) => {
            let path = format!("/api/v1/qos{}", query([("group", Some(name.as_str()))]));
            client.get::<QosReport>(&path)?.groups.pop()
        }
        None => None,
    };
    let mut missing = Vec::new();
    if summary.alarms.missing > 0 {
        missing = client.get::<Expectations>("/api/v1/expected")?.expected;
    }
    let anybody = !anybody.is_empty();
    let failing = failing(client)?;
    Ok(Listing { summary, group, failing, missing, peers, truncated, anybody })
}

/// The first of those whose own status is warn or critical, whatever state they are in.
fn failing(client: &Client) -> Result<Vec<String>, Failure> {
    let (mut names, mut cursor) = (Vec::new(), None::<String>);
    while names.len() <= MOST_NAMED {
        let most = (MOST_NAMED + 1 - names.len()).to_string();
        let parameters =
            [("failing", Some("1")), ("limit", Some(most.as_str())), ("cursor", cursor.as_deref())];
        let page = client.get::<PeerPage>(&format!("/api/v1/peers{}", query(parameters)));
        let page = match page {
            Ok(page) => page,
            // A monitor of an older version does not know the question.
            Err(failure) if failure.code() == 2 => break,
            Err(failure) => return Err(failure),
        };
        names.extend(page.peers.into_iter().map(|peer| peer.name));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(names)
}

/// Adds the peers in a state, page by page, up to so many in all.
fn collect(
    client: &Client,
    args: &StatusArgs,
    state: Option<&str>,
    most: usize,
    peers: &mut Vec<PeerSummary>,
) -> Result<(), Failure> {
    let incident = args.incident.map(|id| id.to_string());
    let mut cursor: Option<String> = None;
    while peers.len() < most {
        let page_size = (most - peers.len()).min(PAGE).to_string();
        let mut parameters = vec![
            ("state", state),
            ("group", args.group.as_deref()),
            ("prefix", args.prefix.as_deref()),
            ("incident", incident.as_deref()),
            ("failing", args.failing.then_some("1")),
            ("flapping", args.flapping.then_some("1")),
            ("silenced", args.silenced.then_some("1")),
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
    Ok(())
}

fn overview(listing: &Listing, args: &StatusArgs, terminal: Terminal) -> String {
    let mut text = head(listing, args, terminal);
    text.push('\n');
    if listing.peers.is_empty() {
        return text + "\n" + &nobody(listing, args);
    }
    let now = words::timestamp(&listing.summary.time);
    let header = ["PEER", "GROUP", "STATE", "FOR", "LAST HEARD", "SILENT", "INTERVAL", "SAYS"];
    let mut table = terminal.table(&header, &[3, 5, 6]);
    for peer in &listing.peers {
        table.add_row([
            terminal.cell(Severity::Plain, &peer.name),
            terminal.cell(Severity::Plain, if peer.group.is_empty() { "-" } else { &peer.group }),
            terminal.cell(Severity::of_state(&peer.state), &with_marks(peer)),
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
        let ways =
            if args.all { "--limit N" } else { "--limit N, --state, --group, --prefix, --all" };
        let hint = format!("… {shown} shown, there are more: {ways}");
        text = text + "\n" + &terminal.paint(Severity::Quiet, &hint);
    }
    text
}

/// A peer's state, and what bears on its alarms.
fn with_marks(peer: &PeerSummary) -> String {
    let marks = [(peer.silenced, ", silenced"), (peer.flapping, ", flaps")];
    let marks = marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark);
    std::iter::once(&*peer.state).chain(marks).collect()
}

/// Why nobody is listed.
fn nobody(listing: &Listing, args: &StatusArgs) -> String {
    if listing.summary.peers.total == 0 {
        return "Nobody has beaten yet. Try: systole beat --to HOST:4600 --name web-1".into();
    }
    match (args.whom(), args.state.as_deref()) {
        (None, None) => "Everybody is up.".into(),
        (None, Some(state)) => format!("Nobody is in state {state}."),
        (Some(whom), _) if !listing.anybody => format!("Nobody matches: {whom}."),
        (Some(whom), None) if args.failing => format!("Nobody matches: {whom}."),
        (Some(whom), None) => format!("All who match are up: {whom}."),
        (Some(whom), Some(state)) => {
            format!("Of those who match nobody is in state {state}: {whom}.")
        }
    }
}

/// The monitor and its fleet, or the group asked for, in a few lines.
fn head(listing: &Listing, args: &StatusArgs, terminal: Terminal) -> String {
    let summary = &listing.summary;
    let now = words::timestamp(&summary.time);
    let total = words::plural(summary.peers.total, "peer");
    let fleet = match args.whom() {
        Some(_) => format!("{total} in all"),
        None => format!("{total}: {}", by_state(&summary.peers, terminal)),
    };
    let mut text = format!(
        "monitor {} ({}), running for {}, {} by {} on udp {}\n{fleet}; {} heartbeats/s; last event #{}",
        summary.monitor,
        summary.version,
        words::duration(words::between(&summary.started, now)),
        words::plural(summary.reactors.into(), "reactor"),
        summary.transport,
        summary.udp.join(", "),
        words::count(summary.heartbeats_per_second.round() as u64),
        summary.last_seq,
    );
    if let Some(group) = &listing.group {
        let known = words::plural(group.peers.total, "peer");
        let states = by_state(&group.peers, terminal);
        text = format!("{text}\ngroup {}, {known}: {states}", group.group);
        for line in group_quality(&group.qos) {
            text = text + "\n  " + &line;
        }
    }
    if !listing.missing.is_empty() {
        let named: Vec<String> =
            listing.missing.iter().take(MOST_MISSING).map(expected::in_short).collect();
        let more = if listing.missing.len() > MOST_MISSING { ", …" } else { "" };
        let missing = format!(
            "{} expected and missing: {}{more} (systole expected)",
            words::count(summary.alarms.missing),
            named.join(", ")
        );
        text = text + "\n" + &terminal.paint(Severity::Bad, &missing);
    }
    if !listing.failing.is_empty() {
        let named = listing.failing.iter().take(MOST_NAMED);
        let named = named.map(String::as_str).collect::<Vec<_>>().join(", ");
        let (count, more) = match listing.failing.len() > MOST_NAMED {
            true => (format!("more than {}", words::plural(MOST_NAMED as u64, "peer")), ", …"),
            false => (words::plural(listing.failing.len() as u64, "peer"), ""),
        };
        let line =
            format!("{count} reporting warn or critical: {named}{more} (systole status --failing)");
        text = text + "\n" + &terminal.paint(Severity::Doubtful, &line);
    }
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

fn by_state(peers: &PeerCounts, terminal: Terminal) -> String {
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
    states.into_iter().chain(unreachable).collect::<Vec<_>>().join(", ")
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
    say(alarms.flapping, "flapping (--flapping)");
    if !now.is_empty() {
        lines.push((Severity::Bad, format!("{}: see systole incidents", now.join(", "))));
    }
    if alarms.in_conflict > 0 {
        let names = words::plural(alarms.in_conflict, "name");
        let have = if alarms.in_conflict == 1 { "has" } else { "have" };
        lines.push((Severity::Bad, format!("{names} {have} two senders: see systole incidents")));
    }
    let lost = summary.dropped.get("hand_over_full").copied().unwrap_or(0) + summary.kernel_drops;
    if let Some(ours) = faults(alarms, lost > 0) {
        let extended = words::plural(alarms.extended, "verdict");
        lines.push((Severity::Doubtful, format!("the monitor {ours}; {extended} extended")));
    }
    if alarms.silences > 0 {
        let line = format!("{} (systole silence list)", words::plural(alarms.silences, "silence"));
        lines.push((Severity::Quiet, line));
    }
    lines
}

/// What the monitor itself missed. A restart, and a stall that overruns the receive buffer, count as
/// both: one event, not to be read as two. What is lost is counted (`lost`); what may have been sent to
/// a monitor that was being replaced is not.
fn faults(alarms: &AlarmCounts, lost: bool) -> Option<String> {
    let (blind, deaf) = (words::duration(alarms.blind_ns), words::duration(alarms.deaf_ns));
    match (alarms.blind_ns, alarms.deaf_ns) {
        (0, 0) => None,
        (_, 0) => Some(format!("did not run for {blind}")),
        (0, _) => Some(format!("lost heartbeats in a time of {deaf}")),
        (a, b) if a == b => {
            Some(format!("did not run for {blind}, and may have lost what was sent meanwhile"))
        }
        _ if !lost => Some(format!(
            "did not run for {blind}, and may have lost what was sent in {deaf} of it, at the restart"
        )),
        _ => Some(format!(
            "did not run for {blind}, and lost heartbeats in a time of {deaf}, in part perhaps the same"
        )),
    }
}

/// Chen's figures of a group, a line each.
fn group_quality(qos: &Qos) -> Vec<String> {
    let found = match (qos.detection_time_ns, qos.detection_time_max_ns) {
        (Some(mean), Some(longest)) => format!(
            "called down {}, {} after the last heartbeat on average, {} at most",
            times(qos.detections),
            words::duration(mean),
            words::duration(longest)
        ),
        _ => "nobody was called down yet".to_owned(),
    };
    let jitter = qos.jitter_ns.map(|ns| format!(", jitter {}", words::duration(ns)));
    let loss = format!("loss {:.4} %{}", qos.loss * 100.0, jitter.unwrap_or_default());
    vec![found, quality(qos), loss]
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

#[cfg(test)]
pub(super) mod tests;
