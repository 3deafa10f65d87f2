//! `systole incidents`: failures that belong together, the open ones and on request the last closed.

use super::client::{Client, MonitorArgs};
use super::terminal::{self, Severity, Terminal};
use super::{Failure, notes, words};
use crate::api::{Incident, Incidents, PeerConflict};
use crate::control::incidents::FIRST;

const EXAMPLES: &str = "\
Examples:
  systole incidents                 what is open now
  systole incidents --closed        and what was, lately
  systole status --incident 3       who is part of one
";

const AFTER: &str = "\
Times are UTC. The exit code is 0 when no incident is open, 1 when one is, 3 when no monitor answers.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct IncidentsArgs {
    /// Show the last closed ones, too.
    #[arg(long)]
    closed: bool,
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
pub fn incidents(args: IncidentsArgs) -> Result<u8, Failure> {
    terminal::exit_130_on_interrupt();
    let client = Client::new(&args.monitor.http)?;
    let query = if args.closed { "?closed=1" } else { "" };
    let all: Incidents = client.get(&format!("/api/v1/incidents{query}"))?;
    match args.json {
        true => terminal::print_json(&all)?,
        false => terminal::print(&text(&all, Terminal::detect()))?,
    }
    Ok(u8::from(!all.open.is_empty()))
}

fn text(all: &Incidents, terminal: Terminal) -> String {
    let now = words::timestamp(&all.time);
    let one = |incident: &Incident| {
        let severity = if incident.closed.is_some() { Severity::Quiet } else { Severity::Bad };
        let began = words::time(&incident.began, now);
        let lasted = words::duration(incident.lasted_ns);
        let about = match incident.closed {
            None => format!("for {lasted}, {} at most", words::count(incident.most.into())),
            Some(_) => format!("lasted {lasted}, {} at most", words::count(incident.most.into())),
        };
        let head = format!("#{} {}", incident.id, notes::about(incident));
        let mut text = terminal.paint(severity, &head);
        text.push_str(&format!("\n    since {began}, {about}"));
        if !incident.first.is_empty() {
            // Fewer may be named because some were forgotten; of more no more are ever named.
            let more = if incident.most as usize > FIRST { ", …" } else { "" };
            text.push_str(&format!("\n    {}{more}", incident.first.join(", ")));
        }
        text
    };
    let mut parts: Vec<String> = all.open.iter().map(one).collect();
    if parts.is_empty() {
        parts.push("No incident is open.".into());
    }
    parts.extend(all.closed.iter().map(one));
    parts.extend(all.conflicts.iter().map(|PeerConflict { peer, conflict }| {
        let count = words::plural(conflict.incarnations.len() as u64, "sender");
        let head = format!("{peer} has {count}, {}", notes::senders(&conflict.incarnations));
        let (began, seen) = (words::time(&conflict.began, now), words::time(&conflict.seen, now));
        format!("{}\n    since {began}, seen last {seen}", terminal.paint(Severity::Bad, &head))
    }));
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_is_three_lines() {
        let incident = Incident {
            id: 3,
            kind: "group".into(),
            group: "web".into(),
            began: "2026-11-23T10:02:03.123456000Z".into(),
            lasted_ns: 126_000_000_000,
            down: 2,
            most: 40,
            size: 50,
            first: vec!["web-1".into(), "web-2".into()],
            ..Incident::default()
        };
        let closed = Incident {
            id: 2,
            closed: Some("2026-11-23T10:02:04.123456000Z".into()),
            down: 0,
            first: Vec::new(),
            ..incident.clone()
        };
        let time = "2026-11-23T10:04:09.123456000Z".to_owned();
        let conflict = crate::api::Conflict {
            began: "2026-11-23T10:02:05.123456000Z".into(),
            seen: "2026-11-23T10:03:05.123456000Z".into(),
            incarnations: vec![9, 9, 7],
        };
        let all = Incidents {
            time: time.clone(),
            open: vec![incident],
            closed: vec![closed],
            refused: 0,
            conflicts: vec![PeerConflict { peer: "db-1".into(), conflict }],
        };
        assert_eq!(
            text(&all, Terminal::PLAIN),
            "#3 web: 2 down of 50
    since 10:02:03.123456, for 2m 6s, 40 at most
    web-1, web-2, …
#2 web: nobody missing of 50
    since 10:02:03.123456, lasted 2m 6s, 40 at most
db-1 has 3 senders, incarnations 9, 9 and 7
    since 10:02:05.123456, seen last 10:03:05.123456"
        );
        let all_named = Incident { most: 4, ..all.open[0].clone() };
        let all_named =
            Incidents { open: vec![all_named], time: time.clone(), ..Incidents::default() };
        assert!(text(&all_named, Terminal::PLAIN).ends_with("web-1, web-2"));
        let none = Incidents { time, ..Incidents::default() };
        assert_eq!(text(&none, Terminal::PLAIN), "No incident is open.");
    }
}
