//! The events file: the latest transitions with their numbers, a ring of records, mapped.
//!
//! ```text
//!   header  magic, layout, monitor, epoch, size, check │ tail, head │ generation, published[256]
//!   ring    …▐ len, check │ seq, number, reactor, … │ transition │ name, group ▐▐ next ▐ …
//!            ▲ tail                                                              ▲ head
//! ```
//!
//! **Once, and in order.** A record is written whole, then `head` is moved behind it, then the
//! number of the reactor's own transition is noted in `published`; only then is anybody told. After
//! a kill at any point the records up to `head` are those that may have been told, and a reactor's
//! transitions behind the highest number among them, or in `published`, are those that were not.
//! Numbers and epoch go on, so a follower resumes as after a lost connection.
//!
//! The ring has 256 bytes for each of the transitions that are to be kept. Names longer than some
//! hundred bytes make it hold fewer, which only shows after a restart.
//!
//! **Marks that come later.** What a process decided and could not publish is published by the next one
//! before that can judge it: with marks that are [`PENDING`], replaced once by a single store.
//!
//! Absent on purpose: a sum over the whole, and an end that was written in order. A record carries
//! its own check, and a file whose records do not fit together is begun anew, under a new epoch.

use super::allocate;
use super::dir::{StateDir, StateError};
use crate::engine::journal::{TRANSITION_WORDS, from_words, to_words};
use crate::engine::transition::Transition;
use memmap2::{MmapMut, MmapOptions};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const FILE: &str = "events";
const FILE_NEW: &str = "events.new";
const MAGIC: u64 = u64::from_ne_bytes(*b"SYSEVNT\0");
const LAYOUT: u64 = 1;
const HEADER: usize = 4096;
const BYTES_EACH: usize = 256;
const SMALLEST: usize = 64 << 10;
/// Bytes appended after which pages are let go.
const LET_GO: u64 = 1 << 20;

// Words of the header.
const MONITOR: usize = 2;
const EPOCH: usize = 3;
const SIZE: usize = 4;
const CHECK: usize = 5;
const TAIL: usize = 6;
const HEAD: usize = 7;
const GENERATION: usize = 8;
const PUBLISHED: usize = 16;
const REACTORS: usize = 256;

/// In a transition's marks: nobody has judged it yet, and [`EventFile::settle`] may replace them.
pub const PENDING: u64 = 1 << 63;
/// In the file alone: marks that were pending. A record's check takes both for pending ones.
const SETTLED: u64 = 1 << 62;

// A record: so many words, the transition's, then the names.
const RECORD_WORDS: usize = 7;
const MARKS: usize = 6;
const FIXED: usize = (RECORD_WORDS + TRANSITION_WORDS) * 8;

/// Where a transition comes from: which reactor's, and its number in that one's journal.
/// Eight bytes, since every entry of the log has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin(u64);

impl Origin {
    /// From no journal.
    pub const NONE: Origin = Origin(0);

    /// The transition of this reactor, one of 256 at most, with this number below 2^56.
    pub fn new(reactor: u32, number: u64) -> Origin {
        debug_assert!((reactor as usize) < REACTORS && number < 1 << 56);
        Origin((reactor as u64) << 56 | number)
    }

    /// The reactor.
    pub fn reactor(self) -> u32 {
        (self.0 >> 56) as u32
    }

    /// The number, from 1; 0 is from no journal.
    pub fn number(self) -> u64 {
        self.0 & (u64::MAX >> 8)
    }
}

/// A transition as it was published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published<'a> {
    /// Its number for all the world.
    pub seq: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// What happened.
    pub transition: Transition,
    /// A word that the control plane marks it with.
    pub marks: u64,
    /// What turns its times into wall time, nanoseconds.
    pub wall_offset_ns: i64,
    /// The peer's name, at most 255 bytes; `None` while it was unknown.
    pub name: Option<&'a str>,
    /// The peer's group, at most 64 bytes.
    pub group: &'a str,
}

/// Who numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The monitor's id.
    pub monitor: u64,
    /// When the numbers began, wall-clock nanoseconds.
    pub epoch_ns: u64,
}

/// The file, for its one writer.
pub struct EventFile {
    map: MmapMut,
    size: usize,
}

impl EventFile {
    /// Opens the directory's file, for about so many transitions, and shows what it holds to `each`,
    /// oldest first. One that cannot be used is begun anew for `fresh`, and the sentence says why; a
    /// monitor id of `fresh` that was `chosen` holds in any case.
    ///
    /// `journals` is what a new file takes for published: the generation of the hot file, and the
    /// last number in each journal. What was told under other numbers is not to be told again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(
        dir: &StateDir,
        events: usize,
        fresh: Identity,
        chosen: bool,
        journals: (u64, &[u64]),
        each: impl FnMut(Published<'_>),
    ) -> Result<(EventFile, Option<&'static str>), StateError> {
        let path = dir.file(FILE);
        let size = (events.max(1) * BYTES_EACH).max(SMALLEST);
        let found = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Self::check(&file).map_err(StateError::of(&path, "mapping"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StateError::of(&path, "opening")(error)),
        };
        let absent = !path.exists();
        let failed = |call| StateError::of(&path, call);
        let Some(found) = found.filter(EventFile::is_whole) else {
            let new = Self::create(dir, size, fresh).map_err(failed("making"))?;
            let (generation, newest) = journals;
            new.set_generation(generation);
            for (reactor, number) in newest.iter().enumerate().take(REACTORS) {
                new.word(PUBLISHED + reactor).store(*number, Ordering::Relaxed);
            }
            std::fs::rename(dir.file(FILE_NEW), &path).map_err(failed("renaming"))?;
            return Ok((new, (!absent).then_some("it is damaged, or of another version")));
        };
        let monitor = if chosen { fresh.monitor } else { found.identity().monitor };
        let identity = Identity { monitor, ..found.identity() };
        if found.size == size && identity == found.identity() {
            found.records(each);
            found.let_go();
            return Ok((found, None));
        }
        // Another size: copied, and renamed in one step.
        let mut new = Self::create(dir, size, identity).map_err(failed("making"))?;
        new.set_generation(found.word(GENERATION).load(Ordering::Relaxed));
        for reactor in 0..REACTORS {
            let number = found.word(PUBLISHED + reactor).load(Ordering::Relaxed);
            new.word(PUBLISHED + reactor).store(number, Ordering::Relaxed);
        }
        found.records(|record| new.write(&record));
        new.records(each);
        new.let_go();
        std::fs::rename(dir.file(FILE_NEW), &path).map_err(failed("renaming"))?;
        Ok((new, None))
    }

    fn create(dir: &StateDir, size: usize, identity: Identity) -> io::Result<EventFile> {
        let path = dir.file(FILE_NEW);
        let file = new_file(&path)?;
        let len = HEADER + size;
        file.set_len(len as u64)?;
        allocate(&file, 0, len as u64)?;
        let map = map(&file, len)?;
        let events = EventFile { map, size };
        let words = [MAGIC, LAYOUT, identity.monitor, identity.epoch_ns, size as u64];
        for (i, word) in words.into_iter().enumerate() {
            events.word(i).store(word, Ordering::Relaxed);
        }
        events.word(CHECK).store(check(&words), Ordering::Relaxed);
        Ok(events)
    }

    /// A file whose header is right; `None` for any other bytes.
    fn check(file: &File) -> io::Result<Option<EventFile>> {
        let len = file.metadata()?.len() as usize;
        if len < HEADER + SMALLEST {
            return Ok(None);
        }
        let events = EventFile { map: map(file, len)?, size: len - HEADER };
        let words: [u64; 5] = std::array::from_fn(|i| events.word(i).load(Ordering::Relaxed));
        let right = words[0] == MAGIC
            && words[1] == LAYOUT
            && words[SIZE] == events.size as u64
            && events.size.is_multiple_of(8)
            && events.word(CHECK).load(Ordering::Relaxed) == check(&words);
        Ok(right.then_some(events))
    }

    /// Whose numbers these are.
    pub fn identity(&self) -> Identity {
        let word = |i: usize| self.word(i).load(Ordering::Relaxed);
        Identity { monitor: word(MONITOR), epoch_ns: word(EPOCH) }
    }

    /// The number of the last transition in a reactor's journal that was published, when the journals
    /// are those of this generation of the hot file; else 0, for those begin anew.
    pub fn published(&self, generation: u64, reactors: usize) -> Vec<u64> {
        if self.word(GENERATION).load(Ordering::Relaxed) != generation {
            return vec![0; reactors];
        }
        let noted = |reactor: usize| self.word(PUBLISHED + reactor).load(Ordering::Relaxed);
        let mut numbers: Vec<u64> = (0..reactors.min(REACTORS)).map(noted).collect();
        // The last record may have been written and not noted.
        self.walk(|bytes| {
            let (word, _) = split(bytes);
            let (of, number, reactor) = (word(5), word(2), word(3) as u32 as usize);
            if of == generation
                && let Some(last) = numbers.get_mut(reactor)
            {
                *last = number.max(*last);
            }
        });
        numbers
    }

    /// From now on numbers in journals are those of this generation; none of them is published yet.
    pub fn begin_generation(&mut self, generation: u64) {
        if self.word(GENERATION).load(Ordering::Relaxed) == generation {
            return;
        }
        // Between the two a kill leaves a generation that is not the journals': 0 for all of them.
        self.set_generation(0);
        for reactor in 0..REACTORS {
            self.word(PUBLISHED + reactor).store(0, Ordering::Release);
        }
        self.set_generation(generation);
    }

    fn set_generation(&self, generation: u64) {
        // Release: as in `append`.
        self.word(GENERATION).store(generation, Ordering::Release);
    }

    /// Appends a transition, in place of the oldest if there is no room. Once it returns, the
    /// transition has been published, whatever becomes of this process.
    pub fn append(&mut self, published: &Published<'_>) {
        self.write(published);
        let (reactor, number) = (published.origin.reactor(), published.origin.number());
        if number > 0 {
            // Release, here and in `write`: there is no other thread; it keeps the stores in this
            // order for who finds the memory after a kill.
            self.word(PUBLISHED + reactor as usize).store(number, Ordering::Release);
        }
    }

    fn write(&mut self, published: &Published<'_>) {
        let name = published.name.unwrap_or_default();
        let names = name.len() + published.group.len();
        let len = (FIXED + names).next_multiple_of(8);
        let (mut head, size) = (self.word(HEAD).load(Ordering::Relaxed), self.size as u64);
        // What does not fit before the end begins at the start; an empty length says so.
        let at = head % size;
        if at + len as u64 > size {
            self.make_room(head + (size - at));
            self.ring()[at as usize..][..8].fill(0);
            head += size - at;
        }
        self.make_room(head + len as u64);
        let generation = self.word(GENERATION).load(Ordering::Relaxed);
        let at = (head % size) as usize;
        let record = &mut self.ring()[at..at + len];
        let has_name = u64::from(published.name.is_some());
        let kinds = published.origin.reactor() as u64
            | (name.len() as u64) << 32
            | (published.group.len() as u64) << 40
            | has_name << 48;
        let mut put =
            |i: usize, word: u64| record[i * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        put(1, published.seq);
        put(2, published.origin.number());
        put(3, kinds);
        put(4, published.wall_offset_ns as u64);
        put(5, generation);
        put(MARKS, published.marks);
        for (i, word) in to_words(&published.transition).into_iter().enumerate() {
            put(RECORD_WORDS + i, word);
        }
        record[FIXED..][..name.len()].copy_from_slice(name.as_bytes());
        record[FIXED + name.len()..][..published.group.len()]
            .copy_from_slice(published.group.as_bytes());
        record[FIXED + names..].fill(0);
        let check = check_of(record) as u64;
        record[..8].copy_from_slice(&(len as u64 | check << 32).to_ne_bytes());
        self.word(HEAD).store(head + len as u64, Ordering::Release);
        if (head + len as u64) / LET_GO != head / LET_GO {
            self.let_go();
        }
    }

    /// Replaces the pending marks of the transitions from number `first` on.
    pub fn settle(&mut self, first: u64, marks: &[u64]) {
        let head = self.word(HEAD).load(Ordering::Relaxed);
        let mut position = self.word(TAIL).load(Ordering::Relaxed);
        while position < head {
            let (at, step) = ((position % self.size as u64) as usize, self.step(position));
            position += step;
            let record = &mut self.ring()[at..][..step as usize];
            if record[..4] == [0; 4] {
                continue;
            }
            let (seq, is_pending) = {
                let (word, _) = split(record);
                (word(1), word(MARKS) & PENDING > 0)
            };
            let marks = seq.checked_sub(first).and_then(|i| marks.get(i as usize));
            if let Some(marks) = marks.filter(|_| is_pending) {
                let place = record[MARKS * 8..].as_mut_ptr().cast::<u64>();
                // SAFETY: within the record, which begins at a multiple of eight; nobody else has it.
                let place = unsafe { AtomicU64::from_ptr(place) };
                // In one store: a kill leaves the old ones or the new ones. Relaxed: no other store
                // must come before or after it.
                place.store(marks & !PENDING | SETTLED, Ordering::Relaxed);
            }
        }
    }

    /// Lets go of the pages of the ring, which nobody reads before the next start: they stay in the
    /// file, and no longer count as this process's memory.
    fn let_go(&self) {
        // SAFETY: the pages of a shared mapping of a file keep what is in them.
        let _ = unsafe {
            self.map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                HEADER,
                self.map.len() - HEADER,
            )
        };
    }

    /// Lets go of the oldest until the ring has room up to a position.
    fn make_room(&mut self, upto: u64) {
        let size = self.size as u64;
        let mut tail = self.word(TAIL).load(Ordering::Relaxed);
        let head = self.word(HEAD).load(Ordering::Relaxed);
        while upto - tail > size && tail < head {
            tail += self.step(tail);
        }
        // Release: before what it lets go is overwritten. All gone: the record comes at `head`.
        self.word(TAIL).store(tail, Ordering::Release);
    }

    /// From a position to the next record's.
    fn step(&self, position: u64) -> u64 {
        let at = position % self.size as u64;
        let bytes = &self.map[HEADER + at as usize..][..8];
        match u64::from_ne_bytes(bytes.try_into().expect("eight")) as u32 {
            0 => self.size as u64 - at,
            len => len as u64,
        }
    }

    /// Whether the records fit together, from the tail to the head, with numbers without holes.
    fn is_whole(&self) -> bool {
        let (head, tail) =
            (self.word(HEAD).load(Ordering::Relaxed), self.word(TAIL).load(Ordering::Relaxed));
        let size = self.size as u64;
        let placed = tail <= head && head - tail <= size && (head | tail).is_multiple_of(8);
        if !placed || head > u64::MAX / 2 {
            return false;
        }
        let (mut position, mut last) = (tail, None);
        while position < head {
            let at = position % size;
            let step = self.step(position);
            let record = &self.map[HEADER + at as usize..];
            if step < 8 || !step.is_multiple_of(8) || position + step > head || at + step > size {
                return false;
            }
            // An empty length only leads to the start.
            if record[..4] != [0; 4] {
                let record = &record[..step as usize];
                if record.len() < FIXED || record[4..8] != check_of(record).to_ne_bytes() {
                    return false;
                }
                let Some(seq) = parse(record).map(|published| published.seq) else { return false };
                if seq == 0 || last.is_some_and(|last| seq != last + 1) {
                    return false;
                }
                last = Some(seq);
            }
            position += step;
        }
        true
    }

    fn records(&self, mut each: impl FnMut(Published<'_>)) {
        self.walk(|bytes| {
            if let Some(published) = parse(bytes) {
                each(published);
            }
        });
    }

    /// Shows each record's bytes, oldest first. The file must be whole.
    fn walk(&self, mut each: impl FnMut(&[u8])) {
        let head = self.word(HEAD).load(Ordering::Relaxed);
        let mut position = self.word(TAIL).load(Ordering::Relaxed);
        while position < head {
            let at = (position % self.size as u64) as usize;
            let step = self.step(position);
            let record = &self.map[HEADER + at..][..step as usize];
            if record[..4] != [0; 4] {
                each(record);
            }
            position += step;
        }
    }

    fn ring(&mut self) -> &mut [u8] {
        &mut self.map[HEADER..]
    }

    /// A word of the header.
    fn word(&self, i: usize) -> &AtomicU64 {
        debug_assert!(i < HEADER / 8);
        // SAFETY: within the mapping's first page, so aligned and alive as long as self; the header
        // is never borrowed as bytes, and only this thread has the file.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().cast_mut().cast::<u64>().add(i)) }
    }
}

fn check(words: &[u64; 5]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    words.iter().for_each(|word| hasher.update(&word.to_ne_bytes()));
    hasher.finalize() as u64
}

/// The check of a record, whose marks are pending ones as long as they may be replaced.
fn check_of(record: &[u8]) -> u32 {
    let (word, _) = split(record);
    let marks = if word(MARKS) & (PENDING | SETTLED) > 0 { PENDING } else { word(MARKS) };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[8..MARKS * 8]);
    hasher.update(&marks.to_ne_bytes());
    hasher.update(&record[(MARKS + 1) * 8..]);
    hasher.finalize()
}

/// A record's words, and what comes behind the fixed ones.
fn split(record: &[u8]) -> (impl Fn(usize) -> u64 + '_, &[u8]) {
    let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|b| record[i * 8 + b]));
    (word, &record[FIXED..])
}

/// What a record says; `None` when it says nothing that makes sense.
fn parse(record: &[u8]) -> Option<Published<'_>> {
    let (word, names) = split(record);
    let kinds = word(3);
    let (name, rest) = names.split_at_checked((kinds >> 32) as u8 as usize)?;
    let group = rest.get(..(kinds >> 40) as u8 as usize)?;
    let name = str::from_utf8(name).ok()?;
    Some(Published {
        seq: word(1),
        origin: Origin((kinds & 0xFF) << 56 | word(2) & (u64::MAX >> 8)),
        transition: from_words(&std::array::from_fn(|i| word(RECORD_WORDS + i)))?,
        marks: word(MARKS) & !SETTLED,
        wall_offset_ns: word(4) as i64,
        name: (kinds >> 48 & 1 == 1).then_some(name),
        group: str::from_utf8(group).ok()?,
    })
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn map(file: &File, len: usize) -> io::Result<MmapMut> {
    // SAFETY: a file in our locked directory is changed and cut off by nobody else.
    unsafe { MmapOptions::new().len(len).map_mut(file) }
}

#[cfg(all(test, not(miri)))]
mod tests;
