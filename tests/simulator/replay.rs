//! A run told as a story: what happened to whom around the failure, one line an event, in the order
//! of time.

use super::record::{Fate, NEVER};
use super::run::Outcome;
use super::scenario::{START_NS, US};
use std::fmt::Write as _;
use systole::engine::notice::Notice;

/// Most lines that are told.
const MOST_LINES: usize = 400;

/// Prints the run: its world, the violation, and the events of the peer concerned; without a
/// violation those of everybody.
pub fn tell(outcome: &Outcome) {
    println!("{:#?}\n", outcome.scenario);
    let violation = outcome.violation.as_ref();
    let peer = violation.and_then(|violation| violation.peer);
    let mut lines = Vec::new();
    let record = &outcome.record;
    for trouble in &record.troubles {
        let who = trouble.reactor.map_or("all".to_owned(), |number| format!("reactor {number}"));
        let until = since(trouble.to_ns);
        lines.push((trouble.from_ns, format!("{who}: {} until {until}", trouble.what)));
    }
    for (at_ns, removed) in &record.removals {
        if peer.is_none_or(|peer| peer == *removed) {
            lines.push((*at_ns, format!("peer {removed}: its removal is asked for")));
        }
    }
    for beat in &record.beats {
        if peer.is_some_and(|peer| peer != beat.peer) {
            continue;
        }
        let datagram = &record.datagrams[beat.datagram];
        let mut line = format!(
            "peer {} (of reactor {}): {} {:x}.{} interval {} ms",
            beat.peer,
            record.owners[beat.peer],
            if beat.bye { "BYE" } else { "beat" },
            beat.number >> 32,
            beat.number as u32,
            beat.interval_us as f64 / 1e3,
        );
        if beat.age_ns > 0 {
            let _ = write!(line, ", {} us old", beat.age_ns / US);
        }
        let _ = write!(line, ", sent {}", since(datagram.sent_ns));
        let at_ns = match datagram.fate {
            Fate::Lost => {
                line += ", lost in the network";
                datagram.sent_ns
            }
            Fate::Sent => {
                line += ", still on its way";
                datagram.sent_ns
            }
            Fate::Missed { at_ns } => {
                line += ", and there was no process to take it";
                at_ns
            }
            Fate::Dropped { at_ns, by } => {
                let _ = write!(line, ", dropped by the kernel at reactor {by}");
                at_ns
            }
            Fate::Queued { at_ns, by } => {
                let _ = write!(line, ", queued at reactor {by}, read {}", since(datagram.read_ns));
                let _ = write!(line, ", applied by {}", since(beat.applied_ns));
                if datagram.perhaps_lost {
                    line += ", perhaps lost: a mailbox was full";
                }
                if datagram.cut_short {
                    line += ", or not: the process was killed meanwhile";
                }
                at_ns
            }
        };
        lines.push((at_ns, line));
    }
    for told in &record.told {
        let t = &told.transition;
        let of = record.by_id.get(&t.peer.0).copied();
        if peer.is_some() && of != peer {
            continue;
        }
        lines.push((
            t.fired_ns,
            format!(
                "reactor {}: peer {:?} {} -> {} ({}), heard {}, due {}, told {}",
                told.reactor,
                of,
                t.from.as_str(),
                t.to.as_str(),
                t.reason.as_str(),
                since(t.last_seen_ns),
                if t.deadline_ns == 0 { "-".to_owned() } else { since(t.deadline_ns) },
                since(told.taken_ns),
            ),
        ));
    }
    for (at_ns, reactor, notice) in &record.notices {
        let line = match *notice {
            Notice::Blind { from_ns, to_ns, deaf } => {
                let word = if deaf { "deaf" } else { "blind" };
                format!("{word} from {} to {}", since(from_ns), since(to_ns))
            }
            other => format!("{other:?}"),
        };
        lines.push((*at_ns, format!("reactor {reactor} says: {line}")));
    }
    if let Some(violation) = violation {
        lines.push((violation.at_ns, format!("*** {violation}")));
    }
    lines.sort();
    // The failure is what matters: keep what led to it.
    let last = violation.map_or(lines.len(), |violation| {
        lines.partition_point(|(at_ns, _)| *at_ns <= violation.at_ns) + 20
    });
    let last = last.min(lines.len());
    let first = last.saturating_sub(MOST_LINES);
    if first > 0 {
        println!("… {first} lines before …");
    }
    for (at_ns, line) in &lines[first..last] {
        println!("{:>18}  {line}", since(*at_ns));
    }
    println!("\n{:?}", outcome.tally);
    match violation {
        Some(violation) => {
            let digits =
                "times are seconds since the start; the violation's are absolute nanoseconds";
            println!("{violation}\n({digits}; the start is {START_NS})");
        }
        None => println!("nothing was wrong"),
    }
}

/// A time in seconds since the start.
fn since(at_ns: u64) -> String {
    match at_ns {
        NEVER => "never".to_owned(),
        _ => format!("{:.9}", (at_ns as i64 - START_NS as i64) as f64 / 1e9),
    }
}
