//! Follows the monitor's event stream on a thread of its own.
//!
//! Server-sent events over a plain HTTP body: lines `id: …`, `event: …`, `data: …`, an empty line
//! ends one. A broken connection is taken up again after the last number read; what cannot be made
//! up for (a gap, another start of the monitor, a stream that stays away) is reported as such,
//! because a verdict from a stream with holes would be worth nothing.

use crate::monitor::Monitor;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::Sender;
use std::time::Duration;
use systole::api::{Event, EventGap};
use systole::clock;

/// For how long a stream that stays away is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// The monitor is there all the time; connections may be lost.
    Losses,
    /// The monitor is killed and started again, and goes on from its state.
    Restarts,
}

impl Patience {
    /// Times that a broken stream is taken up again without anything arriving in between.
    fn attempts(self) -> u32 {
        match self {
            Patience::Losses => 20,
            Patience::Restarts => 3_000,
        }
    }

    /// Between two attempts. Short for restarts: the time without a monitor is measured by them.
    fn pause(self) -> Duration {
        match self {
            Patience::Losses => Duration::from_millis(100),
            Patience::Restarts => Duration::from_millis(10),
        }
    }
}

/// What the follower reports.
pub enum Note {
    /// A transition, and when it was read (monotonic nanoseconds).
    Event(Box<Event>, u64),
    /// The stream broke at the first instant and was answered again at the second (monotonic
    /// nanoseconds).
    Absent(u64, u64),
    /// The stream is of no use any more; why, in a sentence. Nothing follows.
    Broken(String),
}

/// Follows until the stream breaks for good or nobody listens to the notes any more.
pub fn follow(monitor: &Monitor, epoch: u64, after: u64, patience: Patience, notes: &Sender<Note>) {
    let mut cursor = Cursor { epoch, after };
    let mut failures = 0;
    let mut reason = String::new();
    let mut broke_ns = None;
    while failures < patience.attempts() {
        let before = cursor.after;
        match monitor.events(cursor.epoch, cursor.after) {
            Ok(body) => {
                if let Some(broke_ns) = broke_ns.take() {
                    let _ = notes.send(Note::Absent(broke_ns, clock::monotonic_ns()));
                }
                match read(body, &mut cursor, notes) {
                    End::Closed(why) => reason = why,
                    End::Deaf => return,
                    End::Broken(why) => {
                        let _ = notes.send(Note::Broken(why));
                        return;
                    }
                }
                broke_ns = Some(clock::monotonic_ns());
            }
            Err(error) => reason = format!("{error:#}"),
        }
        failures = if cursor.after > before { 0 } else { failures + 1 };
        std::thread::sleep(patience.pause());
    }
    let _ = notes.send(Note::Broken(format!("the event stream stays away: {reason}")));
}

/// Where we are in the stream.
struct Cursor {
    epoch: u64,
    after: u64,
}

enum End {
    /// The connection ended; it can be taken up again.
    Closed(String),
    /// Nobody wants to hear any more.
    Deaf,
    /// Something is lost for good.
    Broken(String),
}

fn read(body: impl Read, cursor: &mut Cursor, notes: &Sender<Note>) -> End {
    let mut reader = BufReader::with_capacity(64 << 10, body);
    let mut frames = Frames::default();
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) => return End::Closed("the monitor closed it".to_owned()),
            Ok(_) => {}
            Err(error) => return End::Closed(error.to_string()),
        }
        let Some(frame) = frames.line(line.trim_end_matches(['\r', '\n'])) else { continue };
        let seen_ns = clock::monotonic_ns();
        match cursor.take(&frame) {
            Ok(None) => {}
            Ok(Some(event)) => {
                if notes.send(Note::Event(Box::new(event), seen_ns)).is_err() {
                    return End::Deaf;
                }
            }
            Err(why) => return End::Broken(why),
        }
    }
}

impl Cursor {
    /// Checks that a frame is the next one. The error says what is lost.
    fn take(&mut self, frame: &Frame) -> Result<Option<Event>, String> {
        if frame.event == "gap" {
            let gap: EventGap = parse(&frame.data)?;
            return Err(format!(
                "the monitor no longer held transitions {} to {} when we asked for them; \
                 raise its --events",
                gap.from_seq, gap.to_seq
            ));
        }
        if frame.event != "transition" {
            return Ok(None);
        }
        let event: Event = parse(&frame.data)?;
        if event.epoch != self.epoch {
            return Err("the monitor was started anew in the middle of the run".to_owned());
        }
        if event.seq != self.after + 1 {
            return Err(format!(
                "after transition {} came {}: the event stream has a hole",
                self.after, event.seq
            ));
        }
        self.after = event.seq;
        Ok(Some(event))
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(data: &'a str) -> Result<T, String> {
    serde_json::from_str(data)
        .map_err(|error| format!("the event stream holds what we cannot read ({error}): {data}"))
}

/// One server-sent event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Frame {
    event: String,
    data: String,
}

/// Lines to events, by the rules of the HTML standard as far as the monitor uses them.
#[derive(Default)]
struct Frames {
    current: Frame,
}

impl Frames {
    /// Takes a line without its end; the empty one completes an event.
    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.current);
            return (!frame.data.is_empty()).then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.current.event = value.to_owned(),
            "data" if self.current.data.is_empty() => self.current.data.push_str(value),
            "data" => {
                self.current.data.push('\n');
                self.current.data.push_str(value);
            }
            // `id` is in the data too; `retry` and comments are not for us.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn event(seq: u64) -> Event {
        Event {
            seq,
            monitor: "00000000000000aa".into(),
            epoch: 5,
            time: "2026-11-23T10:00:00.123456789Z".into(),
            peer: "web-1".into(),
            id: "00000000000000bb".into(),
            group: String::new(),
            from: "up".into(),
            to: "down".into(),
            reason: "silence".into(),
            status: "ok".into(),
            last_seen: "2026-11-23T10:00:00.123456789Z".into(),
            deadline: None,
            lateness_ns: 3,
            detection_time_ns: 4,
            incarnation: 1,
            last_sequence: 1,
            gaps: 0,
            in_from_ns: 0,
            down_for_ns: None,
            ..Event::default()
        }
    }

    fn frame(seq: u64) -> String {
        let data = serde_json::to_string(&event(seq)).unwrap();
        format!("id: {seq}\nevent: transition\ndata: {data}\n\n")
    }

    fn read_all(text: &str, after: u64) -> (Vec<u64>, End) {
        let (notes, heard) = mpsc::channel();
        let end = read(text.as_bytes(), &mut Cursor { epoch: 5, after }, &notes);
        drop(notes);
        let seqs = heard.iter().map(|note| match note {
            Note::Event(event, _) => event.seq,
            Note::Absent(from, to) => panic!("absent from {from} to {to}"),
            Note::Broken(why) => panic!("{why}"),
        });
        (seqs.collect(), end)
    }

    #[test]
    fn events_are_read_in_order_past_comments_and_unknown_ones() {
        let text = format!(
            "retry: 1000\n\n: keep-alive\n\n{}event: news\ndata: 1\n\n{}",
            frame(8),
            frame(9)
        );
        let (seqs, end) = read_all(&text, 7);
        assert_eq!(seqs, [8, 9]);
        assert!(matches!(end, End::Closed(_)));
    }

    #[test]
    fn a_gap_a_hole_another_epoch_and_rubbish_are_the_end() {
        let other = frame(2).replace("\"epoch\":5", "\"epoch\":6");
        for (text, said) in [
            ("event: gap\ndata: {\"from_seq\":2,\"to_seq\":9}\n\n".to_owned(), "2 to 9"),
            (frame(3), "hole"),
            (other, "anew"),
            ("event: transition\ndata: {}\n\n".to_owned(), "cannot read"),
        ] {
            let (seqs, end) = read_all(&format!("{}{text}", frame(1)), 0);
            assert_eq!(seqs, [1]);
            assert!(matches!(end, End::Broken(why) if why.contains(said)), "{said}");
        }
    }

    #[test]
    fn data_of_several_lines_is_joined() {
        let mut frames = Frames::default();
        let lines = ["data:1", "data", "data: 2", "event:x"];
        assert!(lines.iter().all(|line| frames.line(line).is_none()));
        let want = Frame { event: "x".into(), data: "1\n\n2".into() };
        assert_eq!(frames.line(""), Some(want));
        assert_eq!(frames.line(""), None);
    }
}
