//! The monitor's event stream: server-sent events, followed across lost connections.
//!
//! [`Parser`] turns lines into frames and knows no network. [`EventStream`] reads them off a
//! connection, remembers the last number and the epoch that it belongs to, and when the connection
//! is lost asks a new one to go on from there, so that a subscriber sees every transition once, or is told which ones are missing.

use super::Failure;
use super::client::Client;
use crate::api::{EPOCH_HEADER, Event, EventGap, Note, SEQ_HEADER};
use std::io::{BufRead, BufReader};
use std::time::Duration;
use ureq::http::HeaderMap;

/// Longest silence on a stream: the monitor sends a comment every 15 s, so three are missing.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);
/// First wait before connecting anew; doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Longest line taken; an event has about 1 KiB.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its `id:` field, when it has one.
    pub id: Option<String>,
    /// Its `event:` field; empty when it has none.
    pub event: String,
    /// Its `data:` lines, joined by line feeds.
    pub data: String,
}

/// From lines to frames, as the HTML standard's "event stream interpretation" has it.
#[derive(Debug, Default)]
pub struct Parser {
    frame: Frame,
    has_data: bool,
}

impl Parser {
    /// Takes one line without its end; returns the frame that it completes.
    pub fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            // A frame without data is no event (a `retry:` alone, two blank lines), but may have an id.
            let has_data = std::mem::take(&mut self.has_data);
            return (has_data || frame.id.is_some()).then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.frame.id = Some(value.to_owned()),
            "event" => self.frame.event = value.to_owned(),
            "data" => {
                if self.has_data {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
                self.has_data = true;
            }
            // A comment has the empty field name. `retry` is ours to decide: see `FIRST_WAIT`.
            _ => {}
        }
        None
    }
}

/// What a subscriber learns.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// Connected; `again` after a lost connection.
    Connected {
        /// False for the first time.
        again: bool,
    },
    /// A peer changed its state.
    Transition(Box<Event>),
    /// Something else is told.
    Note(Box<Note>),
    /// The monitor no longer holds these transitions.
    Gap(EventGap),
    /// The connection is lost; it is tried again, silently, until `Connected` follows.
    Lost(String),
}

/// Where a subscriber is: what it asks for when it connects, and what it makes of what comes.
#[derive(Debug, Default)]
struct Cursor {
    /// The id of the last event, or where to begin.
    after: Option<String>,
    /// The epoch of the last transition seen. A gap does not tell its own: until a transition of the
    /// new epoch comes, what was held then is asked for again rather than skipped.
    epoch: Option<u64>,
}

impl Cursor {
    /// The query that asks for what comes next: the filters (`?group=web`; may be empty) and, once
    /// it is known, the epoch that `after` counts in.
    fn query(&self, filters: &str) -> String {
        match self.epoch {
            None => filters.to_owned(),
            Some(epoch) => {
                let separator = if filters.is_empty() { '?' } else { '&' };
                format!("{filters}{separator}epoch={epoch}")
            }
        }
    }

    /// Takes over where the stream says that it begins, as long as nothing has come of it: so that
    /// what happens while the connection is lost is not missed by who has seen nothing before.
    fn begin(&mut self, headers: &HeaderMap) {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
        if let (None, Some(epoch)) = (self.epoch, number(EPOCH_HEADER)) {
            let begins = number(SEQ_HEADER).map(|seq: u64| seq.to_string());
            (self.after, self.epoch) = (begins.or(self.after.take()), Some(epoch));
        }
    }

    /// What a frame says; `None` for one that is not for us.
    fn take(&mut self, frame: &Frame) -> Result<Option<Update>, String> {
        let unreadable = |error| format!("an event that is not one ({error})");
        let id = frame.id.clone();
        match frame.event.as_str() {
            "transition" => {
                let event: Event = serde_json::from_str(&frame.data).map_err(unreadable)?;
                (self.after, self.epoch) = (id.or(Some(event.seq.to_string())), Some(event.epoch));
                Ok(Some(Update::Transition(Box::new(event))))
            }
            "gap" => {
                let gap: EventGap = serde_json::from_str(&frame.data).map_err(unreadable)?;
                self.after = Some(gap.to_seq.to_string());
                Ok(Some(Update::Gap(gap)))
            }
            // It says where the stream begins.
            "" if frame.data.is_empty() => {
                self.after = id.or(self.after.take());
                Ok(None)
            }
            // A newer monitor may say more.
            event => {
                let Some(note) = Note::parse(event, &frame.data) else { return Ok(None) };
                let note = note.map_err(unreadable)?;
                let head = note.head();
                (self.after, self.epoch) = (id.or(Some(head.seq.to_string())), Some(head.epoch));
                Ok(Some(Update::Note(Box::new(note))))
            }
        }
    }
}

type Body = BufReader<ureq::BodyReader<'static>>;

/// A subscription that survives lost connections.
pub struct EventStream {
    client: Client,
    query: String,
    cursor: Cursor,
    body: Option<Body>,
    parser: Parser,
    connected_before: bool,
    wait: Duration,
}

impl EventStream {
    /// A subscription with the filters of `query` (`?group=web`; may be empty), from now on or, with
    /// `after`, from the transition that follows that sequence number (0: all that are held).
    /// Nothing is sent yet.
    pub fn new(client: Client, query: String, after: Option<u64>) -> EventStream {
        EventStream {
            client,
            query,
            cursor: Cursor { after: after.map(|seq| seq.to_string()), epoch: None },
            body: None,
            parser: Parser::default(),
            connected_before: false,
            wait: FIRST_WAIT,
        }
    }

    /// Waits for what comes next. A lost connection is an [`Update`], not an error.
    ///
    /// # Errors
    /// The first connection fails, or a later one is refused for what we ask.
    pub fn next_update(&mut self) -> Result<Update, Failure> {
        loop {
            let Some(body) = &mut self.body else {
                match self.connect() {
                    Ok(update) => return Ok(update),
                    Err(failure) if !self.connected_before || failure.code() == 2 => {
                        return Err(failure);
                    }
                    Err(_) => {
                        std::thread::sleep(self.wait);
                        self.wait = (self.wait * 2).min(LONGEST_WAIT);
                        continue;
                    }
                }
            };
            let update = match read_line(body) {
                Ok(line) => match self.parser.line(&line) {
                    None => continue,
                    Some(frame) => self.cursor.take(&frame),
                },
                Err(why) => Err(why),
            };
            match update {
                Ok(None) => {}
                Ok(Some(update)) => return Ok(update),
                Err(why) => {
                    self.body = None;
                    return Ok(Update::Lost(why));
                }
            }
        }
    }

    fn connect(&mut self) -> Result<Update, Failure> {
        let query = self.cursor.query(&self.query);
        let url = format!("{}/api/v1/events{query}", self.client.base());
        let mut request = self.client.agent().get(url).header("accept", "text/event-stream");
        if let Some(after) = &self.cursor.after {
            request = request.header("last-event-id", after);
        }
        let request = request.config().timeout_per_read(Some(LONGEST_SILENCE)).build();
        let answer = self.client.check(request.call())?;
        self.cursor.begin(answer.headers());
        self.body = Some(BufReader::new(answer.into_body().into_reader()));
        self.parser = Parser::default();
        self.wait = FIRST_WAIT;
        let again = std::mem::replace(&mut self.connected_before, true);
        Ok(Update::Connected { again })
    }
}

/// One line without its end; the reason when there is none.
fn read_line(body: &mut impl BufRead) -> Result<String, String> {
    use std::io::Read;
    let mut line = String::new();
    match body.take(MAX_LINE_BYTES).read_line(&mut line) {
        Ok(0) => Err("the monitor ended the stream".into()),
        Ok(_) if !line.ends_with('\n') => Err("the stream broke off".into()),
        Ok(_) => {
            line.truncate(line.trim_end_matches(['\r', '\n']).len());
            Ok(line)
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A transition as the monitor would send it.
    pub fn event(seq: u64) -> Event {
        Event {
            seq,
            monitor: "00000000000000a1".into(),
            epoch: 1,
            time: "2026-11-23T10:02:06.173460000Z".into(),
            peer: "web-1".into(),
            id: "0123456789abcdef".into(),
            group: "web".into(),
            from: "suspect".into(),
            to: "down".into(),
            reason: "silence".into(),
            status: "ok".into(),
            last_seen: "2026-11-23T10:02:03.123456000Z".into(),
            deadline: Some("2026-11-23T10:02:06.173456000Z".into()),
            lateness_ns: 4_000,
            detection_time_ns: 3_050_004_000,
            incarnation: 7,
            last_sequence: 812,
            gaps: 0,
            in_from_ns: 1_220_000_000,
            down_for_ns: None,
            ..Event::default()
        }
    }

    fn frames(text: &str) -> Vec<Frame> {
        let mut parser = Parser::default();
        text.split('\n').filter_map(|line| parser.line(line)).collect()
    }

    #[test]
    fn frames_end_at_blank_lines_and_comments_are_nothing() {
        let frame = |id: &str, event: &str, data: &str| Frame {
            id: Some(id.into()),
            event: event.into(),
            data: data.into(),
        };
        assert_eq!(
            frames("retry: 1000\n\n: keep-alive\n\nid: 7\nevent: transition\ndata: {}\n\n"),
            [frame("7", "transition", "{}")]
        );
        assert_eq!(
            frames("id:1\ndata:a\ndata: b\ndata\n\n\nid: 2\ndata: \n\nid: 3\ndata: cut off"),
            [frame("1", "", "a\nb\n"), frame("2", "", "")]
        );
    }

    #[test]
    fn the_cursor_follows_transitions_and_gaps_and_skips_the_unknown() {
        let mut cursor = Cursor::default();
        let data = serde_json::to_string(&event(41)).unwrap();
        let transition = Frame { event: "transition".into(), data, ..Frame::default() };
        assert_eq!(cursor.take(&transition), Ok(Some(Update::Transition(Box::new(event(41))))));
        assert_eq!((cursor.after.as_deref(), cursor.epoch), (Some("41"), Some(1)));
        let data = r#"{"from_seq":42,"to_seq":99}"#.to_owned();
        let gap = Frame { event: "gap".into(), data, ..Frame::default() };
        assert_eq!(cursor.take(&gap), Ok(Some(Update::Gap(EventGap { from_seq: 42, to_seq: 99 }))));
        assert_eq!(cursor.after.as_deref(), Some("99"));
        let data =
            r#"{"seq":100,"monitor":"a1","epoch":1,"time":"","from":"","for_ns":5,"deaf":true}"#;
        let id = Some("100.3".to_owned());
        let note = Frame { event: "blind".into(), data: data.into(), id };
        assert!(matches!(cursor.take(&note), Ok(Some(Update::Note(_)))));
        assert_eq!(cursor.after.as_deref(), Some("100.3"));
        let begin = Frame { id: Some("101".into()), ..Frame::default() };
        assert_eq!((cursor.take(&begin), cursor.after.as_deref()), (Ok(None), Some("101")));
        let other = Frame { event: "news".into(), ..Frame::default() };
        assert_eq!(cursor.take(&other), Ok(None));
        let broken = Frame { event: "gap".into(), data: "{".into(), ..Frame::default() };
        assert!(cursor.take(&broken).is_err());
    }

    #[test]
    fn the_epoch_is_asked_for_once_it_is_known() {
        let unknown = Cursor { after: Some("7".into()), epoch: None };
        assert_eq!(unknown.query(""), "");
        assert_eq!(unknown.query("?group=web"), "?group=web");
        let known = Cursor { after: Some("7".into()), epoch: Some(3) };
        assert_eq!(known.query(""), "?epoch=3");
        assert_eq!(known.query("?group=web"), "?group=web&epoch=3");
    }

    /// Serves each script to one connection, then closes it; returns the requests as received.
    fn serve(listener: TcpListener, scripts: Vec<String>) -> std::thread::JoinHandle<Vec<String>> {
        std::thread::spawn(move || {
            let one = |script: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                            connection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(script.as_bytes()).unwrap();
                String::from_utf8(request).unwrap().to_lowercase()
            };
            scripts.into_iter().map(one).collect()
        })
    }

    #[test]
    fn a_lost_connection_is_said_and_resumed_where_it_broke() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let frame = |seq| {
            let data = serde_json::to_string(&event(seq)).unwrap();
            format!("id: {seq}\nevent: transition\ndata: {data}\n\n")
        };
        let broken_off = frame(6)[..40].to_owned();
        let server = serve(listener, vec![frame(5) + &broken_off, frame(6)]);

        let client = Client::new(&address).unwrap();
        let mut stream = EventStream::new(client, "?group=web".into(), None);
        let mut next = || stream.next_update().unwrap();
        assert_eq!(next(), Update::Connected { again: false });
        assert_eq!(next(), Update::Transition(Box::new(event(5))));
        assert!(matches!(next(), Update::Lost(_)));
        assert_eq!(next(), Update::Connected { again: true });
        assert_eq!(next(), Update::Transition(Box::new(event(6))));

        let requests = server.join().unwrap();
        assert!(requests[0].starts_with("get /api/v1/events?group=web http/1.1"), "{requests:?}");
        assert!(!requests[0].contains("last-event-id"), "{requests:?}");
        let resumed = "get /api/v1/events?group=web&epoch=1 http/1.1";
        assert!(requests[1].starts_with(resumed), "{requests:?}");
        assert!(requests[1].contains("last-event-id: 5\r\n"), "{requests:?}");
    }

    #[test]
    fn the_first_connection_must_succeed() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&address.to_string()).unwrap();
        let failure = EventStream::new(client, String::new(), None).next_update().unwrap_err();
        assert_eq!(failure.code(), 3);
    }
}
