//! Notes of the event stream, and incidents, in a sentence each.

use super::terminal::Severity;
use super::words;
use crate::api::{Incident, Note};

/// What a note says, and how much it wants attention.
pub fn sentence(note: &Note) -> (Severity, String) {
    match note {
        Note::Incident(note) => incident_step(&note.step, &note.incident),
        Note::Flapping(note) => {
            let percent = format!("{:.1} % of the last looks found a change", note.percent);
            match note.began {
                true => (Severity::Doubtful, format!("{} flaps: {percent}", note.peer)),
                false => (Severity::Good, format!("{} flaps no more: {percent}", note.peer)),
            }
        }
        Note::Conflict(note) => {
            let peer = &note.peer;
            if !note.began {
                let quiet = words::duration(note.quiet_ns);
                let lasted = words::duration(note.lasted_ns);
                let text = format!(
                    "{peer}: no second sender seen for {quiet}; there was one for {lasted}"
                );
                return (Severity::Good, text);
            }
            let who = senders(&note.incarnations);
            let text = format!(
                "{peer}: two senders are alive under this name, {who}; give one of them another name"
            );
            (Severity::Bad, text)
        }
        Note::Blind(note) => {
            let lasted = words::duration(note.for_ns);
            let text = match note.deaf {
                true => format!("heartbeats may have been lost at the monitor during {lasted}"),
                false => format!("the monitor was stopped for {lasted}"),
            };
            (Severity::Doubtful, format!("{text}; deadlines are extended for it"))
        }
        Note::Missing(note) => {
            let expected = &note.expected;
            let (wanted, known) = (expected.wanted, expected.known);
            let text = match (expected.peer.as_str(), expected.missing) {
                ("", true) => {
                    let group = &expected.group;
                    let missing = wanted.saturating_sub(known);
                    format!("{missing} of {wanted} peers expected of {group} are missing")
                }
                ("", false) => {
                    format!("all {wanted} peers expected of {} are here", expected.group)
                }
                (peer, true) => format!("{peer} is expected and has never shown up"),
                (peer, false) => format!("{peer}, who was missing, is here"),
            };
            (if expected.missing { Severity::Bad } else { Severity::Good }, text)
        }
    }
}

fn incident_step(step: &str, incident: &Incident) -> (Severity, String) {
    let id = incident.id;
    match step {
        "closed" => {
            let lasted = words::duration(incident.lasted_ns);
            let most = words::plural(incident.most.into(), "peer");
            if let Some(whole) = incident.part_of {
                let text = format!("incident #{id} is part of #{whole} from now on");
                return (Severity::Plain, text);
            }
            let text = format!(
                "incident #{id} closed after {lasted}: {} again, {most} at most",
                back(incident)
            );
            (Severity::Good, text)
        }
        "opened" => (Severity::Bad, format!("incident #{id}: {}", about(incident))),
        _ => (Severity::Bad, format!("incident #{id} now: {}", about(incident))),
    }
}

fn back(incident: &Incident) -> String {
    match (incident.kind.as_str(), &incident.parent) {
        ("parent", Some(parent)) => format!("{parent} and those behind it are back"),
        ("mass_silence", _) => format!("{} is heard", whose(incident)),
        _ => format!("{} is well", whose(incident)),
    }
}

fn whose(incident: &Incident) -> &str {
    match (incident.kind.as_str(), incident.group.as_str()) {
        ("mass_silence", "") => "the fleet",
        (_, "") => "the peers without a group",
        (_, group) => group,
    }
}

/// Which senders a name has, by their incarnations.
pub fn senders(incarnations: &[u32]) -> String {
    match incarnations {
        [one, other] if one == other => format!("both of incarnation {one}"),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(u32::to_string).collect();
            format!("incarnations {} and {last}", others.join(", "))
        }
        [] => String::new(),
    }
}

/// What an incident is about, as it is now.
pub fn about(incident: &Incident) -> String {
    let counted =
        |n: u32, what: &str| (n > 0).then(|| format!("{} {what}", words::count(n.into())));
    let mut parts: Vec<String> = Vec::new();
    parts.extend(counted(incident.held, "held as suspect"));
    parts.extend(counted(incident.down, "down"));
    parts.extend(counted(incident.unreachable, "unreachable"));
    let of = format!("of {}", words::count(incident.size.into()));
    let now = if parts.is_empty() { "nobody missing".to_owned() } else { parts.join(", ") };
    match (incident.kind.as_str(), &incident.parent) {
        ("parent", Some(parent)) => format!("{parent} and those behind it: {now}"),
        ("mass_silence", _) => format!("mass silence of {}: {now} {of}", whose(incident)),
        ("still_down", _) => format!("{}, no longer silenced: {now} {of}", whose(incident)),
        _ => format!("{}: {now} {of}", whose(incident)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        BlindNote, ConflictNote, Expected, FlappingNote, IncidentNote, MissingNote, NoteHead,
    };

    fn check(note: Note, severity: Severity, text: &str) {
        assert_eq!(sentence(&note), (severity, text.to_owned()));
        // And it reads back from what the monitor sends.
        let data = serde_json::to_string(&note).unwrap();
        assert_eq!(Note::parse(note.event(), &data).unwrap().unwrap(), note);
    }

    fn incident(step: &str, incident: Incident) -> Note {
        let incident = Incident { id: 3, most: 412, size: 500, ..incident };
        Note::Incident(IncidentNote { head: NoteHead::default(), step: step.into(), incident })
    }

    #[test]
    fn incidents_open_grow_and_close_in_a_sentence() {
        let group = |down| Incident {
            kind: "group".into(),
            group: "web".into(),
            down,
            ..Incident::default()
        };
        check(incident("opened", group(4)), Severity::Bad, "incident #3: web: 4 down of 500");
        check(
            incident("updated", group(412)),
            Severity::Bad,
            "incident #3 now: web: 412 down of 500",
        );
        let closed = Incident { lasted_ns: 243_000_000_000, ..group(0) };
        check(
            incident("closed", closed),
            Severity::Good,
            "incident #3 closed after 4m 3s: web is well again, 412 peers at most",
        );
        let parent = Incident {
            kind: "parent".into(),
            parent: Some("switch-1".into()),
            down: 1,
            unreachable: 40,
            ..Incident::default()
        };
        check(
            incident("opened", parent),
            Severity::Bad,
            "incident #3: switch-1 and those behind it: 1 down, 40 unreachable",
        );
        let held = Incident { kind: "mass_silence".into(), held: 412, ..Incident::default() };
        check(
            incident("opened", held),
            Severity::Bad,
            "incident #3: mass silence of the fleet: 412 held as suspect of 500",
        );
        let still = Incident { kind: "still_down".into(), ..group(2) };
        check(
            incident("opened", still),
            Severity::Bad,
            "incident #3: web, no longer silenced: 2 down of 500",
        );
    }

    #[test]
    fn each_other_note_is_a_sentence() {
        let head = NoteHead::default;
        let named = || ("web-1".to_owned(), "0123456789abcdef".to_owned(), "web".to_owned());
        let (peer, id, group) = named();
        let flapping = FlappingNote { head: head(), peer, id, group, began: true, percent: 33.9 };
        check(
            Note::Flapping(flapping),
            Severity::Doubtful,
            "web-1 flaps: 33.9 % of the last looks found a change",
        );
        let (peer, id, group) = named();
        let conflict = ConflictNote {
            head: head(),
            peer,
            id,
            group,
            began: true,
            incarnations: [9, 7],
            lasted_ns: 0,
            quiet_ns: 0,
        };
        let ended = ConflictNote {
            began: false,
            lasted_ns: 243_000_000_000,
            quiet_ns: 120_000_000_000,
            ..conflict.clone()
        };
        check(
            Note::Conflict(ended),
            Severity::Good,
            "web-1: no second sender seen for 2m 0s; there was one for 4m 3s",
        );
        let cloned = ConflictNote { incarnations: [9, 9], ..conflict.clone() };
        check(
            Note::Conflict(cloned),
            Severity::Bad,
            "web-1: two senders are alive under this name, both of incarnation 9; give one of them \
             another name",
        );
        check(
            Note::Conflict(conflict),
            Severity::Bad,
            "web-1: two senders are alive under this name, incarnations 9 and 7; give one of them \
             another name",
        );
        let blind =
            BlindNote { head: head(), from: String::new(), for_ns: 2_100_000_000, deaf: false };
        check(
            Note::Blind(blind),
            Severity::Doubtful,
            "the monitor was stopped for 2.1 s; deadlines are extended for it",
        );
        let missing = |expected| Note::Missing(MissingNote { head: head(), expected });
        let expected = Expected {
            group: "web".into(),
            wanted: 12,
            known: 10,
            missing: true,
            ..Expected::default()
        };
        check(missing(expected), Severity::Bad, "2 of 12 peers expected of web are missing");
        let came = Expected { peer: "db-1".into(), wanted: 1, known: 1, ..Expected::default() };
        check(missing(came), Severity::Good, "db-1, who was missing, is here");
    }
}
