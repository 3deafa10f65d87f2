//! `/api/v1/events`: the transitions as server-sent events, live and from the past; with `?notes=1`
//! also what is told beside them, each note behind the transition that it follows. The id of each event
//! is its place in the stream (`7`, a note behind it `7.1`), and the greeting has the one to begin with:
//! so resuming needs nothing else.
//!
//! ```text
//! loop {
//!     up to 256 entries behind the cursor → one frame of the body   (back-pressure: only when asked)
//!     none there → wait for the bell, 15 s (a comment keeps the connection alive) or the end
//! }
//! ```
//!
//! The subscriber's pace is its own: nothing is queued for it but the frame in flight, and one too
//! slow for the log's bounded memory is told with `event: gap` what it missed. Who begins
//! to follow the notes is told which incidents are open. When the monitor ends, a subscriber first gets
//! all there is.

use super::Monitor;
use super::error::ApiError;
use super::query::{Pairs, bad_value, number, unknown_key};
use super::subscribers::Seat;
use crate::api::EventGap;
use crate::api::{EPOCH_HEADER, SEQ_HEADER};
use crate::control::events::{Chunk, Entry, Names};
use crate::control::notes::{NoteEntry, Place};
use crate::control::{ControlState, STATES, present};
use crate::engine::transition::PeerState;
use crate::wire::PeerId;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most events in one frame of the body.
const FRAME: usize = 256;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEYS: &str = "after, epoch, group, notes, peer, to";

/// What a subscriber wants.
#[derive(Clone, PartialEq, Debug, Default)]
struct Subscription {
    /// The last place that it has seen.
    after: Option<Place>,
    /// The epoch in which that number was given; without it, this monitor's is taken for granted.
    epoch: Option<u64>,
    group: Option<String>,
    peer: Option<String>,
    to: Option<PeerState>,
    /// Whether notes are wanted, too.
    notes: bool,
}

impl Subscription {
    /// Reads the query, and the header that a browser sends when it comes back; the header is the
    /// newer of the two and wins.
    fn parse(pairs: Vec<(String, String)>, headers: &HeaderMap) -> Result<Subscription, ApiError> {
        let mut wanted = Subscription::default();
        for (key, value) in pairs {
            match key.as_str() {
                "after" => {
                    let words = "not the id of an event, like 7 or 7.1";
                    let place = value.parse().map_err(|_| bad_value(&key, &value, words))?;
                    wanted.after = Some(place);
                }
                "epoch" => wanted.epoch = Some(number(&key, &value)?),
                "group" => wanted.group = Some(value),
                "peer" => wanted.peer = Some(value),
                "notes" => {
                    let words = "must be 1 or 0";
                    wanted.notes = match value.as_str() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(bad_value(&key, &value, words)),
                    }
                }
                "to" => {
                    let state = STATES.into_iter().find(|state| state.as_str() == value);
                    let words = "must be up, suspect, down, unreachable, left or forgotten";
                    wanted.to = Some(state.ok_or_else(|| bad_value(&key, &value, words))?);
                }
                _ => return Err(unknown_key(&key, KEYS)),
            }
        }
        if let Some(last) = headers.get("last-event-id").filter(|value| !value.is_empty()) {
            let last = last.to_str().ok().and_then(|text| text.trim().parse().ok());
            let no_id = || ApiError::bad_request("`Last-Event-ID` is not one, like 7 or 7.1");
            wanted.after = Some(last.ok_or_else(no_id)?);
        }
        Ok(wanted)
    }

    /// The place to begin behind. Another epoch's numbers say nothing here, so whoever resumes from
    /// one gets all that is held, and is told if that is not all there was.
    fn start(&self, state: &ControlState) -> Place {
        if self.is_of_another_epoch(state) {
            return Place::default();
        }
        let seq = state.events.start(self.after.map(|place| place.seq));
        match self.after {
            None => state.notes.end(seq),
            Some(place) if place.seq == seq => place,
            Some(_) => Place::of(seq),
        }
    }

    /// Whether it begins with what comes from now on.
    fn is_new(&self, state: &ControlState) -> bool {
        self.after.is_none() && !self.is_of_another_epoch(state)
    }

    fn is_of_another_epoch(&self, state: &ControlState) -> bool {
        self.epoch.is_some_and(|epoch| epoch != state.config.epoch_ns)
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.to.is_none_or(|to| to == entry.transition.to)
            && self.is_about(&entry.names, Some(entry.transition.peer))
    }

    /// Who asks for transitions to a state asks for no notes.
    fn wants_note(&self, entry: &NoteEntry) -> bool {
        self.notes && self.to.is_none() && self.is_about(&entry.names, entry.note.peer())
    }

    fn is_about(&self, names: &Names, peer: Option<PeerId>) -> bool {
        let is_peer = |wanted: &str| match names.name() {
            Some(name) => name == wanted,
            None => peer.is_some_and(|peer| peer.to_string() == wanted),
        };
        self.group.as_deref().is_none_or(|group| group == names.group())
            && self.peer.as_deref().is_none_or(is_peer)
    }
}

/// `GET /api/v1/events`.
pub(super) async fn subscribe(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = Subscription::parse(pairs, &headers)?;
    let seat = monitor.subscribers.enter().ok_or_else(|| {
        let most = monitor.subscribers.most();
        ApiError::unavailable(format!("{most} follow the events already; try again later"))
    })?;
    // Where the stream begins, for who has seen no transition yet and comes back after a loss.
    let after = wanted.start(&monitor.state);
    let begins_after = after.seq.to_string();
    let epoch = monitor.state.config.epoch_ns.to_string();
    let follower = Follower::new(monitor, wanted, after, seat);
    let frames = stream::unfold(follower, |mut follower| async {
        let frame = follower.next().await?;
        Some((Ok::<Bytes, Infallible>(frame), follower))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    let begins = [(SEQ_HEADER, begins_after), (EPOCH_HEADER, epoch)];
    Ok((headers, begins, Body::from_stream(frames)).into_response())
}

/// One subscriber's place in the log.
struct Follower {
    state: Arc<ControlState>,
    wanted: Subscription,
    cursor: u64,
    /// It has got the notes up to here.
    noted: Place,
    bell: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
    greeted: bool,
    _seat: Seat,
}

impl Follower {
    fn new(monitor: Monitor, wanted: Subscription, after: Place, seat: Seat) -> Follower {
        let Monitor { state, shutdown, .. } = monitor;
        let bell = state.events.bell();
        let (cursor, noted, greeted) = (after.seq, after, false);
        Follower { state, wanted, cursor, noted, bell, shutdown, greeted, _seat: seat }
    }

    /// The next frame of the body; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(self.greeting());
        }
        let quiet_until = tokio::time::Instant::now() + KEEP_ALIVE;
        loop {
            // Both are looked at before the log is read: what comes later wakes us.
            let stop = *self.shutdown.borrow_and_update();
            self.bell.mark_unchanged();
            let chunk = self.state.events.read(self.cursor, FRAME);
            let notes = match self.wanted.notes {
                true => self.state.notes_after(self.noted, FRAME),
                false => Vec::new(),
            };
            if let Some(frame) = self.take(&chunk, &notes) {
                return Some(frame);
            }
            if !chunk.entries.is_empty() || notes.len() == FRAME {
                // All filtered out. A long past must not keep the thread from others.
                tokio::task::yield_now().await;
                continue;
            }
            if stop {
                return None;
            }
            tokio::select! {
                rung = self.bell.changed() => rung.ok()?,
                ended = self.shutdown.changed() => ended.ok()?,
                () = tokio::time::sleep_until(quiet_until) => {
                    return Some(Bytes::from_static(b": keep-alive\n\n"));
                }
            }
        }
    }

    /// A browser that lost us tries again after a second, and from here on.
    fn greeting(&self) -> Bytes {
        let mut frame = format!("retry: 1000\nid: {}\n\n", self.noted).into_bytes();
        if self.wanted.notes && self.wanted.is_new(&self.state) {
            let standing = self.state.standing(self.noted);
            let wanted = standing.iter().filter(|note| self.wanted.wants_note(note));
            wanted.for_each(|note| self.write_note(&mut frame, note));
        }
        frame.into()
    }

    /// Moves the cursors behind the chunk and its notes, and writes what the subscriber wants of
    /// them, if anything, in the order of their places. Notes of transitions that are still to be read stay
    /// for the next time, and so do transitions behind the last note when there may be more notes.
    fn take(&mut self, chunk: &Chunk, notes: &[NoteEntry]) -> Option<Bytes> {
        let end = chunk.first_seq + chunk.entries.len() as u64 - 1;
        let more_before = notes.last().filter(|_| notes.len() == FRAME).map(|note| note.place.seq);
        self.cursor = more_before.map_or(end, |seq| end.min(seq));
        let of_chunk = notes.partition_point(|note| note.place.seq <= self.cursor);
        if let Some(last) = notes[..of_chunk].last() {
            self.noted = last.place;
        }
        if of_chunk < FRAME {
            // None is to come behind an earlier transition.
            self.noted = self.noted.max(Place::of(self.cursor));
        }
        let mut notes =
            notes[..of_chunk].iter().filter(|note| self.wanted.wants_note(note)).peekable();
        let mut frame = Vec::new();
        if let Some(missing) = &chunk.missing {
            // In pieces, between the notes that are held longer: ids never go back.
            let mut from_seq = *missing.start();
            while let Some(note) = notes.next_if(|note| note.place.seq <= *missing.end()) {
                if note.place.seq >= from_seq {
                    write_gap(&mut frame, from_seq, note.place.seq);
                    from_seq = note.place.seq + 1;
                }
                self.write_note(&mut frame, note);
            }
            let to_seq = self.cursor.min(*missing.end());
            if from_seq <= to_seq {
                write_gap(&mut frame, from_seq, to_seq);
            }
        }
        for (seq, entry) in chunk.numbered().take_while(|(seq, _)| *seq <= self.cursor) {
            while let Some(note) = notes.next_if(|note| note.place.seq < seq) {
                self.write_note(&mut frame, note);
            }
            if !self.wanted.wants(entry) {
                continue;
            }
            if frame.capacity() == 0 {
                frame.reserve(chunk.entries.len() * 640);
            }
            let event = present::event(&self.state.config, seq, entry);
            write_event(&mut frame, "transition", Place::of(seq), &event);
        }
        notes.for_each(|note| self.write_note(&mut frame, note));
        (!frame.is_empty()).then(|| frame.into())
    }

    fn write_note(&self, frame: &mut Vec<u8>, entry: &NoteEntry) {
        let note = present::note(&self.state.config, entry);
        write_event(frame, note.event(), entry.place, &note);
    }
}

fn write_gap(frame: &mut Vec<u8>, from_seq: u64, to_seq: u64) {
    write_event(frame, "gap", Place::of(to_seq), &EventGap { from_seq, to_seq });
}

/// Writes one event. JSON has no line breaks of its own, so one `data:` line holds it.
fn write_event(frame: &mut Vec<u8>, event: &str, id: Place, data: &impl serde::Serialize) {
    const IN_MEMORY: &str = "writing to memory cannot fail, and these types always serialise";
    write!(frame, "id: {id}\nevent: {event}\ndata: ").expect(IN_MEMORY);
    serde_json::to_writer(&mut *frame, data).expect(IN_MEMORY);
    frame.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Event;
    use crate::control::ControlConfig;
    use crate::control::notes::Note;
    use crate::control::testing::{FakeMonitor, config, entry};
    use crate::http::subscribers::Subscribers;
    use crate::wire::PeerId;

    fn headers(last_event_id: Option<&str>) -> HeaderMap {
        let pair =
            |id: &str| (header::HeaderName::from_static("last-event-id"), id.parse().unwrap());
        last_event_id.map(pair).into_iter().collect()
    }

    fn parse(query: &[(&str, &str)], last: Option<&str>) -> Result<Subscription, ApiError> {
        let pairs = query.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Subscription::parse(pairs, &headers(last))
    }

    #[test]
    fn the_header_of_a_returning_browser_outranks_the_query() {
        assert_eq!(parse(&[], None).unwrap().after, None);
        assert_eq!(parse(&[("after", "7")], None).unwrap().after, Some(Place::of(7)));
        let noted = Some(Place { seq: 9, order: 3 });
        assert_eq!(parse(&[("after", "7")], Some("9.3")).unwrap().after, noted);
        assert_eq!(parse(&[("after", "9.3")], None).unwrap().after, noted);
        assert_eq!(parse(&[("after", "7")], Some("")).unwrap().after, Some(Place::of(7)));
        for bad in [("after", "-1"), ("after", "x"), ("to", "gone"), ("since", "1"), ("epoch", "x")]
        {
            assert!(parse(&[bad], None).is_err(), "{bad:?}");
        }
        assert!(parse(&[], Some("x")).is_err());
    }

    #[test]
    fn a_number_of_another_epoch_means_all_that_is_held() {
        let mut monitor = FakeMonitor::new(1, 10);
        let peers = (1..=20).map(PeerId);
        peers.for_each(|id| monitor.report_transition(id, PeerState::Up, PeerState::Down));
        monitor.publish();
        let ours = config().epoch_ns.to_string();
        let check = |query: &[(&str, &str)], cursor: u64| {
            let wanted = parse(query, None).unwrap();
            assert_eq!(wanted.start(&monitor.state), Place::of(cursor), "{query:?}");
        };
        check(&[], 20);
        check(&[("epoch", &ours)], 20);
        check(&[("epoch", "1")], 0);
        check(&[("after", "7")], 7);
        check(&[("after", "7"), ("epoch", &ours)], 7);
        check(&[("after", "7"), ("epoch", "1")], 0);
        check(&[("epoch", "1"), ("after", "7")], 0);
        check(&[("after", "99"), ("epoch", &ours)], 0);
    }

    /// Many notes behind few transitions, and the other way round, from every place: nothing twice, nothing
    /// lost, never back.
    #[test]
    fn from_wherever_it_is_taken_up_a_stream_has_all_in_order() {
        let entry = |place: Place| NoteEntry {
            note: Note::Blind { from_ns: 1, to_ns: 2, deaf: false },
            place,
            wall_offset_ns: 0,
            names: Names::default(),
        };
        for (per, every, ring) in [(3, 1, 4_096), (700, 300, 4_096), (1, 7, 4_096), (3, 2, 100)] {
            let config = ControlConfig { ring_capacity: ring, ..config() };
            let mut monitor = FakeMonitor::with_config(config, 1, 10);
            for seq in 1..=600 {
                monitor.report_transition(PeerId(seq), PeerState::Up, PeerState::Down);
            }
            monitor.publish();
            let state = &monitor.state;
            let places = (1..=600).filter(|seq| seq % every == 0);
            let places = places.flat_map(|seq| (1..=per).map(move |order| Place { seq, order }));
            let places: Vec<Place> = places.take(900).collect();
            let first = state.notes.end(0);
            state.notes.append(&mut places.iter().copied().map(entry).collect());
            for begin in [0, 1, 299, 300, 301, 599]
                .into_iter()
                .flat_map(|seq| [0, 1, 2, 300].map(|order| Place { seq, order }.max(first)))
            {
                let wanted = Subscription { after: Some(begin), notes: true, ..Default::default() };
                let (_, shutdown) = watch::channel(true);
                let subscribers = Arc::new(Subscribers::at_most(1));
                let seat = subscribers.enter().unwrap();
                let patience = KEEP_ALIVE;
                let monitor = Monitor { state: state.clone(), subscribers, patience, shutdown };
                let mut follower = Follower::new(monitor, wanted, begin, seat);
                follower.greeted = true;
                let mut text = String::new();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                runtime.unwrap().block_on(async {
                    while let Some(frame) = follower.next().await {
                        text += std::str::from_utf8(&frame).unwrap();
                    }
                });
                let (mut got, mut gaps) = (Vec::new(), 0);
                for event in text.split_terminator("\n\n") {
                    let id: Place = event
                        .lines()
                        .next()
                        .unwrap()
                        .strip_prefix("id: ")
                        .unwrap()
                        .parse()
                        .unwrap();
                    match event.split_once("data: {\"from_seq\":") {
                        Some((_, data)) => {
                            let from: u64 = data.split(',').next().unwrap().parse().unwrap();
                            got.extend((from..=id.seq).map(Place::of));
                            gaps += 1;
                        }
                        None => got.push(id),
                    }
                }
                let mut all: Vec<Place> = (1..=600).map(Place::of).chain(places.clone()).collect();
                all.retain(|place| *place > begin);
                all.sort();
                assert!(
                    got == all,
                    "{per} every {every} from {begin}: {} of {}",
                    got.len(),
                    all.len()
                );
                assert_eq!(gaps > 0, ring < 600 && begin.seq < 500, "from {begin}");
            }
        }
    }

    #[test]
    fn filters_choose_by_name_id_group_and_new_state() {
        let named = entry(1, PeerState::Down, Some(("web-1", "web")));
        let unnamed = entry(2, PeerState::Up, None);
        let wants = |query: &[(&str, &str)]| {
            let wanted = parse(query, None).unwrap();
            (wanted.wants(&named), wanted.wants(&unnamed))
        };
        assert_eq!(wants(&[]), (true, true));
        assert_eq!(wants(&[("to", "down")]), (true, false));
        assert_eq!(wants(&[("group", "web")]), (true, false));
        assert_eq!(wants(&[("group", "")]), (false, true));
        assert_eq!(wants(&[("peer", "web-1")]), (true, false));
        assert_eq!(wants(&[("peer", "0000000000000002")]), (false, true));
        assert_eq!(wants(&[("peer", "web-1"), ("to", "up")]), (false, false));
    }

    #[test]
    fn an_event_is_three_lines_and_its_data_reads_back() {
        let entry = entry(5, PeerState::Down, Some(("a\"b", "g")));
        let mut frame = Vec::new();
        write_event(
            &mut frame,
            "transition",
            Place::of(41),
            &present::event(&config(), 41, &entry),
        );
        write_gap(&mut frame, 3, 9);
        let text = String::from_utf8(frame).unwrap();
        let events: Vec<Vec<&str>> =
            text.split_terminator("\n\n").map(|event| event.lines().collect()).collect();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0][..2], ["id: 41", "event: transition"]);
        let data: Event =
            serde_json::from_str(events[0][2].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data, present::event(&config(), 41, &entry));
        assert_eq!(data.peer, "a\"b");
        assert_eq!(events[1], ["id: 9", "event: gap", "data: {\"from_seq\":3,\"to_seq\":9}"]);
    }
}
