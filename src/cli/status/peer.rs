//! One peer: its state with the evidence in words, and whatever else is known of it.

use super::super::terminal::{Severity, Terminal};
use super::super::{notes, watch, words};
use super::quality;
use crate::api::PeerDetail;
use jiff::{SignedDuration, Timestamp};

/// What else is known of a peer, where there is something to know.
pub(super) fn circumstances(peer: &PeerDetail, now: Timestamp) -> Vec<(&'static str, String)> {
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
    if peer.summary.flapping {
        rows.push(("flapping", "yes: its changes are told once, and raise no incident".into()));
    }
    if let Some(conflict) = &peer.conflict {
        let since = words::time(&conflict.began, now);
        let who = notes::senders(&conflict.incarnations);
        let text = format!("since {since}, {who}; give each another name");
        rows.push(("two senders", text));
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
pub(super) fn detail(peer: &PeerDetail, terminal: Terminal) -> String {
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
pub(super) fn now(peer: &PeerDetail) -> Timestamp {
    let last_seen = words::timestamp(&peer.summary.last_seen);
    let silent = SignedDuration::from_nanos(i64::try_from(peer.summary.silent_ns).unwrap_or(0));
    last_seen.checked_add(silent).unwrap_or(last_seen)
}

/// The state and the evidence for it, for somebody who was asleep a minute ago.
pub(super) fn verdict(peer: &PeerDetail) -> String {
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
            let passed = |deadline: &&str| words::timestamp(deadline) <= now;
            let next = match peer.deadline.as_deref().filter(passed) {
                Some(deadline) => Some(format!(
                    "; held though its deadline {} has passed, as too many are silent or its parent is in \
                     doubt (systole incidents)",
                    words::time(deadline, now)
                )),
                None => ahead(&peer.deadline)
                    .map(|when| format!("; called down at {when} unless it beats")),
            };
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
