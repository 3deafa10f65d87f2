//! The hot file: each shard's slots and journal, mapped, one file for all.
//!
//! ```text
//!   ┌────────┬─────────┬─────────┬─ ─ ─┬──────────────────┬──────────────────┬─ ─
//!   │ header │ journal │ journal │     │ slots            │ slots            │   from multiples of
//!   │        │ shard 0 │ shard 1 │     │ shard 0, sparse  │ shard 1, sparse  │   64 KiB; slots: of 2 MiB
//!   └────────┴─────────┴─────────┴─ ─ ─┴──────────────────┴──────────────────┴─ ─
//!   header, u64 each: magic, layout, generation, boot id (2), shards and capacity, check │ clean
//! ```
//!
//! The header never changes while the file is in use, but for `clean`, which says that the last
//! process ended in order. A file that fits is gone on with in place. One of another number of
//! shards, of another size or of an earlier boot is copied: a new file of another *generation* is
//! filled beside it and takes its name in one step, so a kill leaves either the old or the new one.
//!
//! **Another boot** means another monotonic clock: its times are moved so that the last look of the
//! old process is now, and everybody has as much time left as they had then. Believed only after an
//! orderly end: a machine that crashes writes mapped pages to a disk in any order, or not at all.
//!
//! **A disk** works, but the kernel may make a store to a page wait while it writes that page back.
//! In memory nothing is ever written back.

use super::allocate;
use super::dir::{self, StateDir, StateError};
use super::huge::{self, HUGE};
use crate::engine::journal::{Journal, last_look};
use crate::engine::sight::Sight;
use crate::engine::slot::{Kept, Reserve, ShardMemory, Slot, SlotData, SlotRegion};
use crate::engine::transition::Transition;
use crate::wire;
use memmap2::{MmapMut, MmapOptions};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const FILE: &str = "hot";
const FILE_NEW: &str = "hot.new";

const MAGIC: u64 = u64::from_ne_bytes(*b"SYSTOLE\0");
/// Which record is at which byte; another number for every change of a slot or of a journal.
const LAYOUT: u64 = 5 << 16 | size_of::<Slot>() as u64;
const SECTION: u64 = 64 << 10;
const SLOT: u64 = size_of::<Slot>() as u64;
/// Slots of a huge page.
const HUGE_SLOTS: u32 = HUGE as u32 / SLOT as u32;
/// Slots of the first huge page that are given memory at a time: few peers take little.
const CHUNK: u32 = 2_048;
const CLEAN_AT: u64 = 7 * 8;

/// How the slots are dealt out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Shards.
    pub shards: u32,
    /// Slots of each.
    pub capacity: u32,
}

impl Shape {
    fn journal_at(self, shard: u32) -> u64 {
        SECTION + u64::from(shard) * (Journal::BYTES as u64).next_multiple_of(SECTION)
    }

    fn slots_at(self, shard: u32) -> u64 {
        let slots = (u64::from(self.capacity) * SLOT).next_multiple_of(HUGE as u64);
        let first = self.journal_at(self.shards).next_multiple_of(HUGE as u64);
        first + u64::from(shard) * slots
    }

    fn bytes(self) -> u64 {
        self.slots_at(self.shards)
    }
}

/// Why a file cannot be gone on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none.
    #[error("there is none")]
    Absent,
    /// It is no state, or its header is damaged.
    #[error("it is damaged, or no state at all")]
    Damaged,
    /// It was written by another version.
    #[error("it was written by a version of Systole with another layout")]
    OtherVersion,
    /// The machine crashed.
    #[error("the machine was started anew without an orderly end of the monitor")]
    Crashed,
}

/// A hot file that was opened and checked, and not yet gone on with.
pub struct HotFile {
    file: Arc<File>,
    shape: Shape,
    boot: [u8; 16],
    clean: bool,
    generation: u64,
    journals: Vec<Arc<Journal>>,
}

/// What the reactors go on with.
pub struct Hot {
    /// One for each shard.
    pub memory: Vec<ShardMemory>,
    /// Which file this is: changes when the peers are dealt out anew.
    pub generation: u64,
    /// Peers for whom there was no room when they were dealt out anew.
    pub refused: u32,
    file: Arc<File>,
}

impl Hot {
    /// What is left of it when the memory is taken out.
    pub fn split(mut self) -> (Hot, Vec<ShardMemory>) {
        let memory = std::mem::take(&mut self.memory);
        (self, memory)
    }

    /// Notes that the process ends in order. Called when the reactors have ended.
    ///
    /// # Errors
    /// When the system cannot write it, or what is mapped, to the disk.
    pub fn end(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.file.write_all_at(&1u64.to_ne_bytes(), CLEAN_AT)?;
        self.file.sync_data()
    }
}

impl HotFile {
    /// Opens the directory's file if it can be gone on with in this boot.
    ///
    /// # Errors
    /// The system refuses; or, inside, why the file cannot be used.
    pub fn open(dir: &StateDir, boot: [u8; 16]) -> Result<Result<HotFile, Unusable>, StateError> {
        let path = dir.file(FILE);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(Unusable::Absent));
            }
            Err(error) => return Err(StateError::of(&path, "opening")(error)),
        };
        let found = HotFile::check(file).map_err(StateError::of(&path, "reading"))?;
        Ok(found.and_then(|hot| {
            let known = hot.boot == boot && boot != [0; 16];
            if known || hot.clean { Ok(hot) } else { Err(Unusable::Crashed) }
        }))
    }

    /// Whether a file is what it should be: any bytes may come.
    fn check(file: File) -> io::Result<Result<HotFile, Unusable>> {
        let mut bytes = [0; 64];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err(Unusable::Damaged));
            }
            read => read?,
        }
        let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|b| bytes[i * 8 + b]));
        if word(0) != MAGIC {
            return Ok(Err(Unusable::Damaged));
        }
        if word(1) != LAYOUT {
            return Ok(Err(Unusable::OtherVersion));
        }
        let shape = Shape { shards: word(5) as u32, capacity: (word(5) >> 32) as u32 };
        let sane = (1..=256).contains(&shape.shards)
            && (1..=SlotRegion::MAX_CAPACITY).contains(&shape.capacity)
            && word(6) == crc32fast::hash(&bytes[..48]) as u64
            && file.metadata()?.len() == shape.bytes();
        if !sane {
            return Ok(Err(Unusable::Damaged));
        }
        let boot = std::array::from_fn(|i| bytes[24 + i]);
        HotFile::map(file, shape, boot, word(2), word(7) == 1).map(Ok)
    }

    /// A new, empty file, under the name of one that is not finished.
    fn create(
        dir: &StateDir,
        shape: Shape,
        boot: [u8; 16],
        generation: u64,
    ) -> io::Result<HotFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.file(FILE_NEW))?;
        file.set_len(shape.bytes())?;
        allocate(&file, 0, SECTION)?;
        for shard in 0..shape.shards {
            allocate(&file, shape.journal_at(shard), Journal::BYTES as u64)?;
        }
        let mut bytes = [0; 64];
        let mut put =
            |i: usize, word: u64| bytes[i * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        put(0, MAGIC);
        put(1, LAYOUT);
        put(2, generation);
        put(5, shape.shards as u64 | (shape.capacity as u64) << 32);
        bytes[24..40].copy_from_slice(&boot);
        let check = crc32fast::hash(&bytes[..48]) as u64;
        bytes[48..56].copy_from_slice(&check.to_ne_bytes());
        file.write_all_at(&bytes, 0)?;
        HotFile::map(file, shape, boot, generation, false)
    }

    fn map(
        file: File,
        shape: Shape,
        boot: [u8; 16],
        generation: u64,
        clean: bool,
    ) -> io::Result<HotFile> {
        let journal = |shard| map(&file, shape.journal_at(shard), Journal::BYTES);
        let journals = (0..shape.shards)
            .map(|shard| journal(shard).map(|mapping| Arc::new(Journal::mapped(mapping))))
            .collect::<io::Result<_>>()?;
        Ok(HotFile { file: Arc::new(file), shape, boot, clean, generation, journals })
    }

    /// Which file this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How it deals the slots out.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The shards' journals.
    pub fn journals(&self) -> &[Arc<Journal>] {
        &self.journals
    }

    fn slots(&self, shard: u32) -> io::Result<SlotRegion> {
        let (at, capacity) = (self.shape.slots_at(shard), self.shape.capacity);
        let mapping = huge::map(&self.file, at, capacity as usize * SLOT as usize)?;
        let journal = self.journals[shard as usize].clone();
        let reserved = journal.reserved().min(capacity);
        let address = mapping.memory.as_ptr() as usize + mapping.begin;
        let used = reserved as usize * SLOT as usize;
        // Taken in at one blow, rather than page by page.
        huge::collapse(address, used - used % HUGE);
        let _ = mapping.memory.advise_range(memmap2::Advice::PopulateWrite, mapping.begin, used);
        let reserve = reserve(self.file.clone(), journal, (at, address), capacity);
        Ok(SlotRegion::mapped(mapping, reserved, reserve))
    }

    /// Goes on with this file as it is.
    fn in_place(self) -> io::Result<Hot> {
        self.file.write_all_at(&0u64.to_ne_bytes(), CLEAN_AT)?;
        let looked_ns = last_look(self.journals.iter().map(|journal| &**journal));
        let one = |shard: u32| {
            let journal = self.journals[shard as usize].clone();
            let history = journal.behind(0).map(|(_, transition)| transition).collect();
            let left = journal.take_left();
            let kept = Kept { journal, history, looked_ns, left };
            Ok(ShardMemory { slots: self.slots(shard)?, kept: Some(kept) })
        };
        let memory = (0..self.shape.shards).map(one).collect::<io::Result<_>>()?;
        Ok(Hot { memory, generation: self.generation, refused: 0, file: self.file })
    }

    /// Deals the peers of this file out to the shards of another, moving their times by so much.
    fn deal_out(self, to: HotFile, shift_ns: i64) -> io::Result<Hot> {
        let shape = to.shape;
        let moved = |time_ns: u64| time_ns.saturating_add_signed(shift_ns);
        let mut regions = (0..shape.shards).map(|n| to.slots(n)).collect::<io::Result<Vec<_>>>()?;
        let mut used = vec![0; shape.shards as usize];
        let mut refused = 0;
        let mut histories: Vec<Vec<Transition>> = vec![Vec::new(); shape.shards as usize];
        for shard in 0..self.shape.shards {
            for data in self.slots(shard)?.records() {
                let heir = wire::steer(data.peer, shape.shards) as usize;
                let data = SlotData {
                    last_seen_ns: moved(data.last_seen_ns),
                    since_ns: moved(data.since_ns),
                    alive_since_ns: moved(data.alive_since_ns),
                    first_seen_ns: moved(data.first_seen_ns),
                    ..data
                };
                match regions[heir].put(used[heir], &data) {
                    true => used[heir] += 1,
                    false => refused += 1,
                }
            }
            // After an orderly end, which a reboot takes, all have been made.
            for (_, t) in self.journals[shard as usize].behind(0).filter(|_| shift_ns == 0) {
                histories[wire::steer(t.peer, shape.shards) as usize].push(t);
            }
        }
        let looked_ns = moved(last_look(self.journals.iter().map(|journal| &**journal)));
        // Of whichever shard: what one did not see or hear, another may have.
        let mut sight = Sight::default();
        if shift_ns == 0 {
            let mut windows: Vec<_> = self.journals.iter().flat_map(|j| j.sight()).collect();
            windows.sort_by_key(|window| (window.from_ns, window.to_ns));
            sight.take_over(windows, u64::MAX);
        }
        // Where each shard keeps its reactor, it may also keep its sockets.
        let keeps_shards = self.shape.shards == shape.shards && shift_ns == 0;
        let left = |journal: &Arc<Journal>| journal.take_left().filter(|_| keeps_shards);
        let lefts = self.journals.iter().map(left).chain(std::iter::repeat(None));
        let shards = to.journals.into_iter().zip(regions).zip(histories).zip(lefts);
        let memory = shards
            .map(|(((journal, slots), history), left)| {
                journal.looked(looked_ns);
                journal.keep_sight(sight.windows());
                let kept = Kept { journal, history, looked_ns, left };
                ShardMemory { slots, kept: Some(kept) }
            })
            .collect();
        Ok(Hot { memory, generation: to.generation, refused, file: to.file })
    }
}

/// Goes on with the file that was found, in place if it fits, else dealt out anew, or with an empty
/// one. All transitions of its journals must have been published: what is dealt out anew is not asked
/// again.
///
/// # Errors
/// The system refuses.
pub fn go_on(
    dir: &StateDir,
    found: Option<HotFile>,
    shape: Shape,
    boot: [u8; 16],
    generation: u64,
    now_ns: u64,
) -> Result<Hot, StateError> {
    let path = dir.file(FILE);
    let failed = |call| StateError::of(&path, call);
    if let Some(hot) = found.as_ref()
        && hot.shape == shape
        && hot.boot == boot
    {
        return found.expect("just seen").in_place().map_err(failed("mapping"));
    }
    let new = HotFile::create(dir, shape, boot, generation).map_err(failed("making"))?;
    let hot = match found {
        None => new.in_place(),
        Some(old) => {
            let looked_ns = old.journals.iter().map(|journal| journal.looked_ns()).max();
            let same_boot = old.boot == boot;
            let shift = |looked_ns: u64| now_ns.wrapping_sub(looked_ns) as i64;
            let shift_ns = if same_boot { 0 } else { looked_ns.map_or(0, shift) };
            old.deal_out(new, shift_ns)
        }
    };
    let hot = hot.map_err(failed("dealing the peers out anew"))?;
    std::fs::rename(dir.file(FILE_NEW), &path).map_err(failed("renaming"))?;
    Ok(hot)
}

/// Removes a file that cannot be used.
///
/// # Errors
/// The system refuses.
pub fn discard(dir: &StateDir) -> Result<(), StateError> {
    dir::remove(&dir.file(FILE))
}

fn map(file: &File, offset: u64, len: usize) -> io::Result<MmapMut> {
    // SAFETY: what is laid over the mapping consists of atomics, for which any bytes are values, so
    // a foreign write does no harm here; and a file in our locked directory is cut off by nobody.
    unsafe { MmapOptions::new().offset(offset).len(len).map_mut(file) }
}

/// Finds memory for slots, a chunk or a huge page at a time, and notes it in the journal. They are at
/// `slots_at` in the file and in memory.
fn reserve(
    file: Arc<File>,
    journal: Arc<Journal>,
    slots_at: (u64, usize),
    capacity: u32,
) -> Reserve {
    let told = AtomicBool::new(false);
    Box::new(move |index| {
        let reserved = journal.reserved().min(capacity);
        if index < reserved {
            return reserved;
        }
        let (in_file, in_memory) = slots_at;
        let chunk = if index < HUGE_SLOTS { CHUNK } else { HUGE_SLOTS };
        let upto = (index - index % chunk).saturating_add(chunk).min(capacity);
        let (from, len) = (u64::from(reserved) * SLOT, u64::from(upto - reserved) * SLOT);
        let page = in_memory + HUGE * (index / HUGE_SLOTS) as usize;
        match allocate(&file, in_file + from, len) {
            Ok(()) => {
                if upto.is_multiple_of(HUGE_SLOTS) {
                    huge::collapse(page, HUGE);
                }
                journal.set_reserved(upto);
                upto
            }
            Err(error) => {
                // Relaxed: only for not saying it twice.
                if !told.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        %error, slots = reserved,
                        "the state directory has no room for more peers; newcomers are refused \
                         (table_full): enlarge it, or choose another --state-dir"
                    );
                }
                reserved
            }
        }
    })
}

#[cfg(all(test, not(miri)))]
mod tests;
