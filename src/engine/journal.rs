//! A shard's journal: its latest transitions, written before they are made, in memory that may
//! outlive the process; until when the process was looking, and what it did not see or hear.
//!
//! ```text
//!  words  0 newest    1 looked_ns    2 reserved    3 sight …    256 left …     one page
//!         512 ┌────────────────┬────────────────┬─────┬──────────────────┐
//!             │ number, record │ number, record │  …  │ 32,768 of them   │   a ring, 16 words each
//!             └────────────────┴────────────────┴─────┴──────────────────┘
//! ```
//!
//! A transition is written here first, then to the peer's slot, then told. So after a kill at any
//! moment the journal knows every transition that could have been told: the slot is brought up to
//! its peer's last record, and what had not been told is told. Which ones had been is known to whom
//! they were told: the control plane keeps the number of the last one with what it published.
//!
//! **Order is everything, and nothing waits.** A killed process has made its stores in program
//! order up to some instruction. A Release store behind them keeps the compiler from moving them;
//! no flush, no fence of the processor, no system call.
//!
//! The ring holds more transitions than can be untold at once (a full report queue and what the
//! publisher has in its hands), so none is overwritten before it was told.

use super::region::Region;
use super::sight::{Extensions, WINDOWS, Window};
use super::transition::{PeerState, Reason, Transition};
use crate::sync::outliving::AtomicU64;
use crate::wire::{PeerId, Status};
use std::sync::atomic::Ordering;
use std::{fmt, io};

/// Words of a transition as it is kept.
pub const TRANSITION_WORDS: usize = 12;
/// What a transition looks like where it is kept.
pub type TransitionWords = [u64; TRANSITION_WORDS];

const HEADER_WORDS: usize = 512;
const RECORD_WORDS: usize = 16;
const NEWEST: usize = 0;
const LOOKED_NS: usize = 1;
const RESERVED: usize = 2;
/// Which of the two banks holds; then the banks, each with the number of its windows and the windows.
const SIGHT: usize = 3;
const WINDOW_WORDS: usize = 4;
/// Bits of a window's last word.
const DEAF: u64 = 1;
const ABSENT: u64 = 2;
const BANK_WORDS: usize = 1 + WINDOWS * WINDOW_WORDS;
/// Which sockets were left in order (0 for none), then the other two fields of [`Left`].
const LEFT: usize = 256;
const _: () = assert!(SIGHT + 1 + 2 * BANK_WORDS <= LEFT && LEFT + 3 <= HEADER_WORDS);

/// What a process that ended in order says of the sockets that it took no more out of: who goes on with
/// the same ones has missed nothing but what they have dropped since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Which sockets they were; never 0.
    pub sockets: u64,
    /// Datagrams that they had dropped by then, since they were made.
    pub drops: u64,
    /// Whether heartbeats of the shard may lie in the sockets of other reactors.
    pub gets_mail: bool,
}

/// The journal. One writer, the shard's owner.
pub struct Journal {
    words: Region<AtomicU64>,
}

impl Journal {
    /// Transitions that it holds.
    // Under miri fewer: each look at a record there takes time that goes with the memory of all.
    pub const CAPACITY: u64 = if cfg!(miri) { 64 } else { 32_768 };
    /// Bytes that it takes.
    pub const BYTES: usize = (HEADER_WORDS + Self::CAPACITY as usize * RECORD_WORDS) * 8;

    /// An empty journal in memory of its own.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn anonymous() -> io::Result<Journal> {
        Region::anonymous(Self::BYTES / 8).map(|words| Journal { words })
    }

    /// The journal in a mapping, whatever bytes it holds.
    ///
    /// # Panics
    /// When the mapping has fewer than [`BYTES`](Self::BYTES).
    #[cfg(not(loom))]
    pub fn mapped(mapping: memmap2::MmapMut) -> Journal {
        Journal { words: Region::mapped(mapping.into(), Self::BYTES / 8) }
    }

    /// Writes a transition down, before it is made. Returns its number; the first is 1.
    pub fn append(&self, transition: &Transition) -> u64 {
        let number = self.newest().wrapping_add(1);
        let record = self.record(number);
        // Relaxed, as the owner's alone; the Release store below comes after them.
        for (word, value) in record[1..].iter().zip(to_words(transition)) {
            word.store(value, Ordering::Relaxed);
        }
        record[0].store(number, Ordering::Relaxed);
        // Release: keeps the record's words before it, for who reads the memory after a kill.
        self.words[NEWEST].store(number, Ordering::Release);
        number
    }

    /// The last number given; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.words[NEWEST].load(Ordering::Relaxed)
    }

    /// The transitions behind number `after` that are still held, in order, with their numbers. What
    /// is not a record, in a damaged file, is left out.
    pub fn behind(&self, after: u64) -> impl Iterator<Item = (u64, Transition)> + '_ {
        let newest = self.newest();
        let oldest = newest.saturating_sub(Self::CAPACITY - 1).max(1);
        let first = after.saturating_add(1).max(oldest);
        (first..=newest).filter_map(|number| {
            let record = self.record(number);
            // Relaxed: read before the shard's owner is at work.
            let word = |i: usize| record[i].load(Ordering::Relaxed);
            let words = (word(0) == number).then(|| std::array::from_fn(|i| word(i + 1)))?;
            from_words(&words).map(|t| (number, t))
        })
    }

    fn record(&self, number: u64) -> &[AtomicU64] {
        let first = HEADER_WORDS + (number % Self::CAPACITY) as usize * RECORD_WORDS;
        &self.words[first..first + RECORD_WORDS]
    }

    /// Until when everything that had arrived was applied, monotonic ns; 0 before the first time.
    pub fn looked_ns(&self) -> u64 {
        self.words[LOOKED_NS].load(Ordering::Relaxed)
    }

    /// Everything that arrived before `now_ns` has been applied. The owner says so once a turn.
    #[inline]
    pub fn looked(&self, now_ns: u64) {
        // Release: keeps what was applied before it, for who reads the memory after a kill.
        self.words[LOOKED_NS].store(now_ns, Ordering::Release);
    }

    /// When we did not see or hear all, as [`keep_sight`](Self::keep_sight) was told last. In a
    /// damaged file these are any numbers.
    pub fn sight(&self) -> impl Iterator<Item = Window> + '_ {
        // Relaxed: read before the shard's owner is at work.
        let word = |at: usize| self.words[at].load(Ordering::Relaxed);
        let bank = Self::bank(word(SIGHT));
        let count = word(bank).min(WINDOWS as u64) as usize;
        (0..count).map(move |n| {
            let at = bank + 1 + n * WINDOW_WORDS;
            Window {
                from_ns: word(at),
                to_ns: word(at + 1),
                blind_ns: word(at + 2),
                deaf: word(at + 3) & DEAF != 0,
                absent: word(at + 3) & ABSENT != 0,
            }
        })
    }

    /// Notes when we did not see or hear all: it bears on deadlines of peers that were not heard
    /// since. At most [`WINDOWS`] are kept.
    pub fn keep_sight(&self, windows: &[Window]) {
        // The bank that does not hold is written, so that a kill leaves the old windows or the new.
        let next = self.words[SIGHT].load(Ordering::Relaxed).wrapping_add(1);
        let bank = Self::bank(next);
        let windows = &windows[..windows.len().min(WINDOWS)];
        let kind =
            |w: &Window| (if w.deaf { DEAF } else { 0 }) | (if w.absent { ABSENT } else { 0 });
        let words = windows.iter().flat_map(|w| [w.from_ns, w.to_ns, w.blind_ns, kind(w)]);
        for (at, value) in (bank..).zip(std::iter::once(windows.len() as u64).chain(words)) {
            self.words[at].store(value, Ordering::Relaxed);
        }
        // Release: as in `append`.
        self.words[SIGHT].store(next, Ordering::Release);
    }

    /// Notes at an orderly end, when everything that was taken out of the sockets is applied, how they
    /// were left.
    pub fn leave(&self, left: Left) {
        let [sockets, drops, gets_mail] = self.left();
        // Relaxed, as the owner's alone; the Release store below comes after them.
        drops.store(left.drops, Ordering::Relaxed);
        gets_mail.store(left.gets_mail as u64, Ordering::Relaxed);
        // Release: as in `append`.
        sockets.store(left.sockets, Ordering::Release);
    }

    /// How the process before left its sockets; `None` when it did not end in order. Forgotten by the
    /// call, which comes before anything is taken out of them.
    pub fn take_left(&self) -> Option<Left> {
        let [sockets, drops, gets_mail] = self.left();
        // Release: what is taken out of the sockets comes behind it. Relaxed loads as in `behind`.
        let sockets = sockets.swap(0, Ordering::Release);
        let drops = drops.load(Ordering::Relaxed);
        let gets_mail = gets_mail.load(Ordering::Relaxed) != 0;
        (sockets != 0).then_some(Left { sockets, drops, gets_mail })
    }

    fn left(&self) -> [&AtomicU64; 3] {
        [0, 1, 2].map(|n| &self.words[LEFT + n])
    }

    fn bank(number: u64) -> usize {
        SIGHT + 1 + (number % 2) as usize * BANK_WORDS
    }

    /// How many slots from the first on have memory behind them.
    pub fn reserved(&self) -> u32 {
        self.words[RESERVED].load(Ordering::Relaxed).try_into().unwrap_or(u32::MAX)
    }

    /// Notes how many slots have memory behind them, before one of the new ones is written.
    pub fn set_reserved(&self, slots: u32) {
        // Release: what is stored to those slots comes behind it.
        self.words[RESERVED].store(slots as u64, Ordering::Release);
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("newest", &self.newest()).finish_non_exhaustive()
    }
}

/// Until when a process had read everything that arrived, as its shards' journals say; 0 if none of
/// them has looked. A peer's heartbeat may lie in any reactor's socket, so whoever was behind counts.
pub fn last_look<'a>(journals: impl IntoIterator<Item = &'a Journal>) -> u64 {
    let looks = journals.into_iter().map(Journal::looked_ns).filter(|looked_ns| *looked_ns > 0);
    looks.min().unwrap_or(0)
}

/// A transition as words.
pub fn to_words(t: &Transition) -> TransitionWords {
    let kinds = [t.from as u8, t.to as u8, t.reason as u8, t.status as u8];
    [
        t.peer.0,
        u32::from_le_bytes(kinds) as u64 | (t.index as u64) << 32,
        t.fired_ns,
        t.last_seen_ns,
        t.deadline_ns,
        t.incarnation as u64 | (t.last_sequence as u64) << 32,
        t.gaps,
        t.in_from_ns,
        t.extended_ns,
        t.group as u64 | (t.extended_by.bits() as u64) << 16 | (t.report_no as u64) << 32,
        0,
        0,
    ]
}

/// Back from words; `None` when they are no transition's.
pub fn from_words(words: &TransitionWords) -> Option<Transition> {
    let [from, to, reason, status] = (words[1] as u32).to_le_bytes();
    Some(Transition {
        peer: PeerId(words[0]),
        from: PeerState::from_code(from)?,
        to: PeerState::from_code(to).filter(|to| *to != PeerState::Unknown)?,
        reason: Reason::from_code(reason)?,
        status: Status::from_bits(status),
        index: (words[1] >> 32) as u32,
        fired_ns: words[2],
        last_seen_ns: words[3],
        deadline_ns: words[4],
        incarnation: words[5] as u32,
        last_sequence: (words[5] >> 32) as u32,
        gaps: words[6],
        in_from_ns: words[7],
        group: words[9] as u16,
        extended_ns: words[8],
        extended_by: Extensions::from_bits((words[9] >> 16) as u8),
        report_no: (words[9] >> 32) as u32,
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn transition(n: u64) -> Transition {
        Transition {
            peer: PeerId(n),
            from: PeerState::Suspect,
            to: PeerState::Down,
            reason: Reason::Silence,
            status: Status::Maintenance,
            index: n as u32,
            fired_ns: 10 * n,
            last_seen_ns: 3 * n,
            deadline_ns: 9 * n,
            incarnation: u32::MAX - n as u32,
            last_sequence: 7,
            gaps: n << 33,
            in_from_ns: n,
            group: 3,
            extended_ns: n,
            extended_by: Extensions::DEAF,
            report_no: n as u32,
        }
    }

    #[test]
    fn what_was_appended_is_read_in_order_as_long_as_it_is_held() {
        let journal = Journal::anonymous().unwrap();
        assert_eq!(journal.behind(0).count(), 0);
        let many = Journal::CAPACITY + 100;
        for n in 1..=many {
            assert_eq!(journal.append(&transition(n)), n);
        }
        let oldest = many.saturating_sub(Journal::CAPACITY) + 1;
        let all: Vec<_> = journal.behind(0).collect();
        assert!(all.iter().map(|(n, t)| (*n, *t)).eq((oldest..=many).map(|n| (n, transition(n)))));
        assert!(journal.behind(many - 3).map(|(n, _)| n).eq(many - 2..=many));
        assert_eq!(journal.behind(many).count(), 0);
        assert_eq!(journal.behind(u64::MAX).count(), 0);
    }

    #[test]
    fn how_the_sockets_were_left_is_told_once() {
        let journal = Journal::anonymous().unwrap();
        assert_eq!(journal.take_left(), None);
        let left = Left { sockets: 7, drops: u64::MAX, gets_mail: true };
        journal.leave(left);
        assert_eq!(journal.take_left(), Some(left));
        assert_eq!(journal.take_left(), None, "from here on they may be read");
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        let journal = Journal::anonymous().unwrap();
        assert!((1..=4).all(|n| journal.append(&transition(n)) == n));
        journal.record(2)[2].store(u64::MAX, Ordering::Relaxed); // no such state
        journal.record(3)[0].store(77, Ordering::Relaxed); // another record's place
        assert!(journal.behind(0).map(|(n, _)| n).eq([1, 4]));
        journal.words[NEWEST].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(journal.behind(0).count(), 0);
    }

    #[test]
    fn the_windows_that_were_kept_last_are_read() {
        let journal = Journal::anonymous().unwrap();
        assert_eq!(journal.sight().count(), 0);
        for count in [1, WINDOWS, 0, 3, WINDOWS + 1] {
            let window = |n| Window {
                from_ns: n,
                to_ns: n + 5,
                blind_ns: n % 3,
                deaf: n % 2 == 0,
                absent: n % 5 == 0,
            };
            let windows: Vec<_> = (0..count as u64).map(window).collect();
            journal.keep_sight(&windows);
            assert!(journal.sight().eq(windows.into_iter().take(WINDOWS)), "{count}");
        }
        journal.words.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        assert_eq!(journal.sight().count(), WINDOWS, "of a damaged file");
    }
}
