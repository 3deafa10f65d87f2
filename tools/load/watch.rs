//! The main thread while the senders send: listens to the follower, counts, shows progress.

use crate::absence::Absences;
use crate::follow::Note;
use crate::monitor::Monitor;
use crate::report::count;
use crate::send::{Run, Sent};
use crate::truth::{Sighting, Word};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;
use systole::api::Event;
use systole::clock;
use systole::wire::PeerId;

/// How often the main thread looks up from the event stream.
const TICK: Duration = Duration::from_millis(50);
/// How long reading what the monitor has already said may take in the end.
const CATCH_UP_NS: u64 = 30_000_000_000;
/// How long the last BYEs may take to show on the event stream.
const FAREWELL_NS: u64 = 3_000_000_000;

/// Where the counters stood at an instant, for rates.
#[derive(Clone, Copy)]
struct Mark {
    at_ns: u64,
    sent: u64,
    heartbeats: u64,
}

/// What the main thread has heard so far.
pub struct Watch<'a> {
    run: &'a Run,
    heard: Receiver<Note>,
    /// When there was no monitor.
    pub absences: Absences,
    /// What the monitor said of our peers.
    pub sightings: Vec<Sighting>,
    /// Whether each peer was called up.
    pub registered: Vec<bool>,
    /// Peers that were called left.
    pub left: u64,
    /// Where each peer's transitions have led so far, by its id: each must begin where the last one
    /// ended, or one was lost or told twice.
    states: HashMap<u64, usize>,
    /// The last transition read.
    read: u64,
    /// Why the event stream proves nothing, if so.
    pub broken: Option<String>,
    /// At the end of the ramp and at the end of the load.
    marks: Vec<Mark>,
    downs: u64,
    bar: ProgressBar,
}

impl<'a> Watch<'a> {
    /// Begins to watch a run; `read` is the last transition before it.
    pub fn new(run: &'a Run, heard: Receiver<Note>, read: u64) -> Watch<'a> {
        // Draws on stderr, and nothing unless that is a terminal.
        let bar = ProgressBar::new(run.end_ns / 1_000_000);
        let style = ProgressStyle::with_template("{bar:30} {elapsed} {msg}")
            .expect("the template is a constant");
        bar.set_style(style);
        Watch {
            run,
            heard,
            absences: Absences::default(),
            sightings: Vec::new(),
            registered: vec![false; run.plan.figures.senders as usize],
            left: 0,
            states: HashMap::new(),
            read,
            broken: None,
            marks: Vec::new(),
            downs: 0,
            bar,
        }
    }

    /// Listens until all senders are done.
    pub fn until_sent(&mut self, monitor: &Monitor, senders: &[JoinHandle<Sent>]) {
        let mut shown_ns = 0;
        while !senders.iter().all(JoinHandle::is_finished) {
            self.listen();
            let now_ns = self.run.now_ns();
            let bounds = [self.run.plan.figures.ramp_ns, self.run.end_ns];
            if bounds.get(self.marks.len()).is_some_and(|bound| now_ns >= *bound)
                && let Ok(summary) = monitor.summary()
            {
                self.marks.push(Mark {
                    at_ns: self.run.now_ns(),
                    // Relaxed: a figure.
                    sent: self.run.sent.load(Ordering::Relaxed),
                    heartbeats: summary.heartbeats,
                });
            }
            if now_ns > shown_ns + TICK.as_nanos() as u64 {
                shown_ns = now_ns;
                self.show(now_ns);
            }
        }
        self.bar.finish_and_clear();
    }

    /// Listens until that many have left, or long enough.
    pub fn until_left(&mut self, byes: u64) {
        let until_ns = self.run.now_ns() + FAREWELL_NS;
        while self.left < byes && self.broken.is_none() && self.run.now_ns() < until_ns {
            self.listen();
        }
    }

    /// Listens until an instant, which may move on with what is heard.
    pub fn until_ns(&mut self, until_ns: impl Fn(&Absences) -> u64) {
        while self.broken.is_none() && self.run.now_ns() < until_ns(&self.absences) {
            self.listen();
        }
    }

    /// Listens until everything up to a transition has been read: what we have not read yet, the
    /// monitor has not missed.
    pub fn until_seq(&mut self, seq: u64) {
        let until_ns = self.run.now_ns() + CATCH_UP_NS;
        while self.broken.is_none() && self.read < seq {
            if self.run.now_ns() > until_ns {
                self.broken = Some(format!(
                    "the event stream is at {} after 30 s of reading, the monitor at {seq}",
                    self.read
                ));
            }
            self.listen();
        }
    }

    fn listen(&mut self) {
        match self.heard.recv_timeout(TICK) {
            Ok(Note::Event(event, seen_ns)) => self.take(&event, seen_ns),
            Ok(Note::Absent(from_ns, to_ns)) => {
                let since_start = |at_ns: u64| at_ns.saturating_sub(self.run.start_ns);
                self.absences.add(since_start(from_ns), since_start(to_ns));
            }
            Ok(Note::Broken(why)) => self.broken = Some(why),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // After `Broken` nothing follows; the senders still have to finish.
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
        }
    }

    fn take(&mut self, event: &Event, seen_ns: u64) {
        self.read = event.seq;
        self.chain(event);
        let sighting = match self.sighting(event, seen_ns) {
            Ok(Some(sighting)) => sighting,
            Ok(None) => return,
            Err(error) => {
                self.broken = Some(format!("transition {}: {error:#}", event.seq));
                return;
            }
        };
        match sighting.verdict {
            Word::Up => self.registered[sighting.peer as usize] = true,
            Word::Down => self.downs += 1,
            Word::Left => self.left += 1,
            Word::Forgotten => {}
        }
        self.sightings.push(sighting);
    }

    /// Checks that an event begins where the one before it of the same peer ended.
    fn chain(&mut self, event: &Event) {
        const STATES: [&str; 6] = ["unknown", "up", "suspect", "down", "left", "forgotten"];
        let (Ok(id), Some(to)) = (
            u64::from_str_radix(&event.id, 16),
            STATES.iter().position(|state| *state == event.to),
        ) else {
            return;
        };
        let Some(before) = self.states.insert(id, to) else { return };
        let before = if STATES[before] == "forgotten" { "unknown" } else { STATES[before] };
        if before != event.from {
            self.broken.get_or_insert(format!(
                "transition {} takes {} from {}, but the one before left it {before}",
                event.seq, event.peer, event.from
            ));
        }
    }

    /// What an event says of one of our peers in this run; `None` if it is about something else.
    fn sighting(&self, event: &Event, seen_ns: u64) -> anyhow::Result<Option<Sighting>> {
        let verdict = match event.to.as_str() {
            "up" => Word::Up,
            "down" => Word::Down,
            "left" => Word::Left,
            "forgotten" => Word::Forgotten,
            _ => return Ok(None),
        };
        let id = u64::from_str_radix(&event.id, 16).context("its id is not hexadecimal")?;
        let Some(peer) = self.run.peers.number(PeerId(id)) else { return Ok(None) };
        let time: jiff::Timestamp = event.time.parse().context("its time is not RFC 3339")?;
        let monotonic = time.as_nanosecond() - i128::from(clock::wall_offset_ns());
        let at_ns = u64::try_from(monotonic - i128::from(self.run.start_ns)).unwrap_or(0);
        // Before its HELLO a peer of the same name may be left from an earlier run.
        let ours = at_ns >= self.run.plan.beat_ns(peer, 0);
        let seen_ns = seen_ns.saturating_sub(self.run.start_ns);
        let sighting = Sighting { peer, verdict, at_ns, seen_ns, lateness_ns: event.lateness_ns };
        Ok(ours.then_some(sighting))
    }

    fn show(&self, now_ns: u64) {
        let sent = self.run.sent.load(Ordering::Relaxed);
        let f = &self.run.plan.figures;
        let phase = match now_ns {
            _ if now_ns < f.ramp_ns => "ramp",
            _ if now_ns >= self.run.end_ns => "bye",
            _ if f.kill > 0 && now_ns >= f.kill_at_ns => "killed",
            _ => "load",
        };
        self.bar.set_position(now_ns / 1_000_000);
        self.bar.set_message(format!("{phase}: sent {}, down {}", count(sent), count(self.downs)));
    }

    /// Sent and applied per second between ramp and end; over all of it if the run was cut short.
    pub fn rates(&self, sent: u64, heartbeats: u64, load_ns: u64) -> (f64, f64) {
        let (sent, heartbeats, ns) = match self.marks[..] {
            [from, to] if to.at_ns > from.at_ns => {
                // A monitor that was started in between counts from its start.
                let heartbeats = to.heartbeats.saturating_sub(from.heartbeats);
                (to.sent - from.sent, heartbeats, to.at_ns - from.at_ns)
            }
            _ => (sent, heartbeats, load_ns.max(1)),
        };
        (sent as f64 * 1e9 / ns as f64, heartbeats as f64 * 1e9 / ns as f64)
    }
}
