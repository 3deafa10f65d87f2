//! The latest transitions, numbered: one appends, any number follow at their own pace.
//!
//! ```text
//!            oldest                                   newest
//!              │   a follower's cursor ("after")        │
//!   forgotten  ▼            ▼                           ▼
//!   ─ ─ ─ ─ ─ ▕███████████▌ ▐███████████████████████████▏ ◀── publisher
//!              └─ read ────┘ └─ what it reads next ─────┘
//! ```
//!
//! Sequence numbers start at 1 and have no holes. A follower holds nothing but its cursor, the last
//! number that it has read; the ring neither knows nor waits for it. One that falls behind the
//! oldest entry is told which numbers it missed and goes on from there.
//!
//! Where there is a state directory, an entry is in its events file before anybody sees it here.
//!
//! An entry keeps the name that the peer had then: later the peer may be forgotten or renamed.

use super::alarms::Marks;
use crate::engine::transition::Transition;
use crate::store::events::{EventFile, Origin, Published};
use crate::wire::Profile;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, RwLock};
use tokio::sync::watch;

/// A peer's name and group in one piece of shared text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// The name, then the group; `None` while they are unknown.
    text: Option<Arc<str>>,
    name_len: u8,
}

impl Names {
    /// Copies them out of a profile, if there is one.
    pub fn of(profile: Option<Profile<'_>>) -> Names {
        let Some(profile) = profile else { return Names::default() };
        // A name has at most 255 bytes (wire).
        let name_len = profile.name.len() as u8;
        Names { text: Some([profile.name, profile.group].concat().into()), name_len }
    }

    /// Of a name, or none, and a group.
    pub fn new(name: Option<&str>, group: &str) -> Names {
        let text = [name.unwrap_or(""), group].concat();
        let name_len = name.map_or(0, str::len) as u8;
        Names { text: (!text.is_empty()).then(|| text.into()), name_len }
    }

    /// The name; `None` while it is unknown.
    pub fn name(&self) -> Option<&str> {
        let named = self.text.as_deref().filter(|_| self.name_len > 0);
        named.map(|text| &text[..self.name_len as usize])
    }

    /// The group; empty when there is none, or none is known.
    pub fn group(&self) -> &str {
        self.text.as_deref().map_or("", |text| &text[self.name_len as usize..])
    }
}

/// A transition as it is kept: the evidence, and what labels it for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What happened; its times are monotonic.
    pub transition: Transition,
    /// What turns those into wall time, nanoseconds; sampled when it was published.
    pub wall_offset_ns: i64,
    /// The peer's name and group.
    pub names: Names,
    /// In what light it is seen.
    pub marks: Marks,
    /// Which reactor's it is, and its number in that one's journal.
    pub origin: Origin,
}

impl Entry {
    /// An entry as the events file holds it, with its number.
    pub fn of(published: &Published<'_>) -> (u64, Entry) {
        let names = Names::new(published.name, published.group);
        let Published { transition, wall_offset_ns, origin, .. } = *published;
        let marks = Marks::from_bits(published.marks);
        (published.seq, Entry { transition, wall_offset_ns, names, marks, origin })
    }

    /// Appends the entry to the events file under this number.
    pub fn keep(&self, seq: u64, file: &mut EventFile) {
        file.append(&Published {
            seq,
            origin: self.origin,
            transition: self.transition,
            marks: self.marks.to_bits(),
            wall_offset_ns: self.wall_offset_ns,
            name: self.names.name(),
            group: self.names.group(),
        });
    }
}

/// What a follower reads at once.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Chunk {
    /// Numbers behind the cursor that the ring no longer holds.
    pub missing: Option<RangeInclusive<u64>>,
    /// Sequence number of the first entry.
    pub first_seq: u64,
    /// The entries, in order and without holes.
    pub entries: Vec<Entry>,
}

impl Chunk {
    /// The entries with their numbers.
    pub fn numbered(&self) -> impl DoubleEndedIterator<Item = (u64, &Entry)> + ExactSizeIterator {
        self.entries.iter().enumerate().map(|(i, entry)| (self.first_seq + i as u64, entry))
    }
}

/// The ring itself: plain data.
struct Ring {
    entries: VecDeque<Entry>,
    capacity: usize,
    newest: u64,
    /// Where they outlive the process.
    file: Option<EventFile>,
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.entries.len() as u64
    }

    fn push(&mut self, entry: Entry) {
        if let Some(file) = &mut self.file {
            entry.keep(self.newest + 1, file);
        }
        self.hold(entry);
        self.newest += 1;
    }

    fn hold(&mut self, entry: Entry) {
        if self.entries.len() == self.capacity {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    fn read(&self, after: u64, most: usize) -> Chunk {
        let (wanted, oldest) = (after + 1, self.oldest());
        let first_seq = wanted.max(oldest);
        let skip = (first_seq - oldest) as usize;
        Chunk {
            missing: (wanted < oldest).then(|| wanted..=oldest - 1),
            first_seq,
            entries: self.entries.range(skip..).take(most).cloned().collect(),
        }
    }
}

impl Default for EventLog {
    /// A log of the latest transition alone.
    fn default() -> EventLog {
        EventLog::new(1)
    }
}

/// The log of transitions: a bounded ring and a bell.
pub struct EventLog {
    ring: RwLock<Ring>,
    newest: watch::Sender<u64>,
}

impl EventLog {
    /// An empty log that keeps the latest `capacity` transitions, at least one.
    pub fn new(capacity: usize) -> EventLog {
        EventLog::resume(capacity, None, Vec::new())
    }

    /// A log that goes on from what an earlier process has published, in order and with its numbers,
    /// and that keeps what is appended in `file`.
    pub fn resume(capacity: usize, file: Option<EventFile>, held: Vec<(u64, Entry)>) -> EventLog {
        let capacity = capacity.max(1);
        let newest = held.last().map_or(0, |(seq, _)| *seq);
        // Reserved now, touched only as it fills.
        let mut ring = Ring { entries: VecDeque::with_capacity(capacity), capacity, newest, file };
        held.into_iter().for_each(|(_, entry)| ring.hold(entry));
        EventLog { ring: RwLock::new(ring), newest: watch::Sender::new(newest) }
    }

    /// Appends in order and wakes the followers once. Takes the entries out of `batch`.
    pub fn append(&self, batch: &mut Vec<Entry>) {
        let newest = {
            let mut ring = self.ring.write().expect(UNPOISONED);
            batch.drain(..).for_each(|entry| ring.push(entry));
            ring.newest
        };
        self.newest.send_replace(newest);
    }

    /// Marks the last transitions, published before they could be judged, from number `first` on.
    pub fn settle(&self, first: u64, marks: &[Marks]) {
        let mut ring = self.ring.write().expect(UNPOISONED);
        let skip = (first - ring.oldest()) as usize;
        ring.entries.range_mut(skip..).zip(marks).for_each(|(entry, marks)| entry.marks = *marks);
        let bits: Vec<u64> = marks.iter().map(|marks| marks.to_bits()).collect();
        if let Some(file) = &mut ring.file {
            file.settle(first, &bits);
        }
    }

    /// The last sequence number given; 0 before the first.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Tells when there is something newer. Look at it *before* reading the ring, lest an entry
    /// slip in between.
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// At most `most` entries behind `after`, a cursor from [`EventLog::start`] or from reading.
    pub fn read(&self, after: u64, most: usize) -> Chunk {
        self.ring.read().expect(UNPOISONED).read(after, most)
    }

    /// Where a follower starts that names the last number it has seen: behind that one, or without
    /// one at the end, for what comes from now on.
    ///
    /// A number that was never given comes from an earlier epoch of the monitor, whose numbers say
    /// nothing about this one's: such a follower gets all that the ring holds. One that *was* given
    /// may come from there just as well, which no number can tell: the caller compares epochs first.
    pub fn start(&self, last_seen: Option<u64>) -> u64 {
        let newest = self.newest();
        match last_seen {
            None => newest,
            Some(seq) if seq > newest => 0,
            Some(seq) => seq,
        }
    }

    /// The latest `most` entries that `choose` wants, newest first, with their numbers. Looks at
    /// the whole ring, but holds the publisher up only for 2,048 entries at a time.
    pub fn latest(&self, most: usize, choose: impl Fn(&Entry) -> bool) -> Vec<(u64, Entry)> {
        const STRIDE: u64 = 2048;
        let mut found = Vec::new();
        let mut end = self.newest();
        while end > 0 && found.len() < most {
            let ring = self.ring.read().expect(UNPOISONED);
            let (oldest, start) = (ring.oldest(), end.saturating_sub(STRIDE));
            for seq in (start.max(oldest - 1) + 1..=end).rev() {
                let entry = &ring.entries[(seq - oldest) as usize];
                if choose(entry) {
                    found.push((seq, entry.clone()));
                }
            }
            end = if start < oldest { 0 } else { start };
        }
        found.truncate(most);
        found
    }
}

const UNPOISONED: &str = "nothing panics while it holds the ring";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{Random, entry, seeds};
    use crate::engine::transition::PeerState;
    use crate::wire::PeerId;

    fn numbered(ids: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        ids.into_iter().map(|id| entry(id, PeerState::Down, None)).collect()
    }

    fn ids(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.transition.peer.0).collect()
    }

    /// The entry with sequence number n is that of peer n, so a log can be checked without another.
    fn check(log: &EventLog, capacity: u64, after: u64, most: usize, context: &str) {
        let newest = log.newest();
        let oldest = newest.saturating_sub(capacity) + 1;
        let chunk = log.read(after, most);
        let first = (after + 1).max(oldest);
        assert_eq!(chunk.first_seq, first, "{context}");
        assert_eq!(
            chunk.missing,
            (after + 1 < oldest).then(|| after + 1..=oldest - 1),
            "{context}"
        );
        let expected: Vec<u64> = (first..=newest).take(most).collect();
        assert_eq!(ids(&chunk.entries), expected, "{context}");
        assert_eq!(chunk.numbered().map(|(seq, _)| seq).collect::<Vec<_>>(), expected, "{context}");
    }

    #[test]
    fn any_reader_gets_every_number_once_or_is_told_which_are_gone() {
        for seed in seeds() {
            let mut random = Random::new(seed);
            let capacity = 1 + random.below(50);
            let log = EventLog::new(capacity as usize);
            for step in 0..300 {
                let newest = log.newest();
                log.append(&mut numbered(newest + 1..=newest + random.below(20)));
                let after = random.below(log.newest() + 1);
                let most = 1 + random.below(30) as usize;
                let context = format!("seed {seed} step {step} capacity {capacity}");
                check(&log, capacity, after, most, &context);
            }
        }
    }

    #[test]
    fn a_follower_starts_at_the_end_or_where_it_was_or_anew_in_another_epoch() {
        let log = EventLog::new(8);
        assert_eq!(log.start(None), 0);
        log.append(&mut numbered(1..=20));
        assert_eq!(log.start(None), 20);
        assert_eq!(log.start(Some(0)), 0);
        assert_eq!(log.start(Some(15)), 15);
        assert_eq!(log.start(Some(20)), 20);
        assert_eq!(log.start(Some(21)), 0);
        assert_eq!(log.start(Some(u64::MAX)), 0);
    }

    #[test]
    fn the_bell_rings_for_what_was_appended_after_the_look() {
        let log = EventLog::new(8);
        let mut bell = log.bell();
        log.append(&mut numbered(1..=1));
        assert!(bell.has_changed().unwrap());
        bell.mark_unchanged();
        assert!(!bell.has_changed().unwrap());
        log.append(&mut numbered(2..=3));
        assert!(bell.has_changed().unwrap());
    }

    #[test]
    fn the_latest_of_a_peer_come_newest_first_from_all_of_the_ring() {
        for (total, capacity) in [(10, 5_000), (5_000, 5_000), (12_345, 5_000), (2_048, 2_048)] {
            let log = EventLog::new(capacity);
            log.append(&mut numbered(1..=total));
            let oldest = total.saturating_sub(capacity as u64) + 1;
            let every_97th = |e: &Entry| e.transition.peer.0.is_multiple_of(97);
            let expected: Vec<u64> = (oldest..=total).rev().filter(|seq| seq % 97 == 0).collect();
            let all: Vec<u64> = log.latest(usize::MAX, every_97th).iter().map(|e| e.0).collect();
            assert_eq!(all, expected, "{total} in {capacity}");
            let three: Vec<u64> = log.latest(3, every_97th).iter().map(|e| e.0).collect();
            assert_eq!(three, expected.into_iter().take(3).collect::<Vec<_>>());
            assert_eq!(log.latest(1, |e| e.transition.peer == PeerId(total))[0].0, total);
        }
    }

    #[test]
    fn an_entry_stays_compact() {
        // 65,536 of them are kept by default: 8 MiB, and the names.
        assert!(size_of::<Entry>() <= 128, "{}", size_of::<Entry>());
    }
}
