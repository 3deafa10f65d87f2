//! PACK: a BATCH in fewer bytes. What the entries of one datagram have in common is said once.
//!
//! ```text
//!  ┌────────────────────────────────┬───────┬───────────┬──────┬──────┬───────┬───────┬─────────┐
//!  │ header: the relay, and the     │entries│ intervals │widths│relays│ codes │relays │ entries │
//!  │ least incarnation and sequence │  u8   │    u8     │  u8  │  u8  │4 × k  │8 × r  │         │
//!  └────────────────────────────────┴───────┴───────────┴──────┴──────┴───────┴───────┴─────────┘
//!  entry:  peer u64 │ incarnation − least, 1 to 4 bytes │ sequence − least, 1 to 4
//!          │ age u16 │ interval, status u8 │ who heard it, u8, where there are relays
//! ```
//!
//! Incarnations and sequences are offsets to the least of the datagram, all as wide as the largest
//! needs (frame of reference: Goldstein, Ramakrishnan, Shaft, *Compressing Relations and Indexes*,
//! 1998). So entries are of one size and nothing but that size has to be checked. Ages are counted in
//! a unit that the oldest sets, rounded up: a beat may look older than it is, never younger.
//!
//! At one beat in 60 bytes of IPv4 and UDP, 20 bytes an entry are more than a third whatever else is
//! saved; a fleet whose starts lie within 19 days takes 17.

use super::header::{Header, PACK};
use super::relays::{RelayTable, Relays};
use super::{HEADER, Heartbeat, MAX_UNTAGGED, PeerId, Reject, decode_interval, encode_interval};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAX_INTERVALS: usize = 1 << 6;
const MAX_ENTRIES: usize = u8::MAX as usize;
const MAX_SHIFT: u32 = 15;
/// Peer, age, and the byte of interval and status.
const FIXED: usize = 8 + 2 + 1;

/// What stands between the header and the interval table.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Preface {
    entries: u8,
    intervals: u8,
    widths: u8,
    relays: u8,
}

/// How the entries of one datagram are written.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Layout {
    incarnation: u32,
    sequence: u32,
    incarnation_bytes: usize,
    sequence_bytes: usize,
    age_shift: u32,
    /// Bytes of the place among the relays: one, or none.
    place_bytes: usize,
}

impl Layout {
    fn of(widths: u8, relays: u8, header: &Header) -> Layout {
        let (incarnation, sequence) = header.numbers();
        Layout {
            incarnation,
            sequence,
            incarnation_bytes: usize::from(widths & 3) + 1,
            sequence_bytes: usize::from((widths >> 2) & 3) + 1,
            age_shift: u32::from(widths >> 4),
            place_bytes: usize::from(relays > 0),
        }
    }

    fn widths(&self) -> u8 {
        let bytes = (self.incarnation_bytes - 1) | ((self.sequence_bytes - 1) << 2);
        bytes as u8 | (self.age_shift << 4) as u8
    }

    fn entry_bytes(&self) -> usize {
        FIXED + self.incarnation_bytes + self.sequence_bytes + self.place_bytes
    }
}

/// One entry's words, as they lie in the datagram.
#[derive(Clone, Copy)]
struct Words {
    peer: u64,
    incarnation: u32,
    sequence: u32,
    age_us: u32,
    index_and_status: u8,
    heard_by: u8,
}

/// Up to four bytes, little-endian.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

impl Words {
    fn read(layout: &Layout, entry: &[u8]) -> Words {
        let (peer, rest) = entry.split_at(8);
        let (incarnation, rest) = rest.split_at(layout.incarnation_bytes);
        let (sequence, rest) = rest.split_at(layout.sequence_bytes);
        Words {
            peer: U64::ref_from_bytes(peer).map_or(0, |peer| peer.get()),
            incarnation: layout.incarnation.wrapping_add(number(incarnation)),
            sequence: layout.sequence.wrapping_add(number(sequence)),
            age_us: number(&rest[..2]) << layout.age_shift,
            index_and_status: rest[2],
            heard_by: rest.get(3).copied().unwrap_or(0),
        }
    }

    fn interval_index(&self) -> usize {
        usize::from(self.index_and_status) % MAX_INTERVALS
    }
}

/// The beats of a decoded PACK.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Packed<'a> {
    layout: Layout,
    intervals: &'a [U32],
    relays: Relays<'a>,
    entries: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Checks everything, so that reading an entry cannot fail.
    pub(super) fn decode(
        header: &Header,
        body: &'a [u8],
    ) -> Result<(Heartbeat, Packed<'a>), Reject> {
        let (preface, rest) = Preface::ref_from_prefix(body).map_err(|_| Reject::Runt)?;
        if HEADER + body.len() > MAX_UNTAGGED || usize::from(preface.intervals) > MAX_INTERVALS {
            return Err(Reject::Length);
        }
        let (intervals, rest) = <[U32]>::ref_from_prefix_with_elems(rest, preface.intervals.into())
            .map_err(|_| Reject::Length)?;
        let (relays, entries) = Relays::split(preface.relays, rest)?;
        let layout = Layout::of(preface.widths, preface.relays, header);
        if entries.len() != layout.entry_bytes() * usize::from(preface.entries) {
            return Err(Reject::Length);
        }
        let relay = header.heartbeat(super::Kind::Beat)?;
        if intervals.iter().any(|code| decode_interval(code.get()).is_none()) {
            return Err(Reject::Interval);
        }
        let packed = Packed { layout, intervals, relays, entries };
        let is_beyond = |entry: Words| {
            entry.interval_index() >= intervals.len() || usize::from(entry.heard_by) > relays.len()
        };
        if packed.words().any(is_beyond) {
            return Err(Reject::Length);
        }
        relays.check()?;
        if packed.words().any(|entry| entry.peer == 0) {
            return Err(Reject::Reserved);
        }
        Ok((relay, packed))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() / self.layout.entry_bytes()
    }

    /// The relays beside the one in the header.
    pub(super) fn relays(&self) -> Relays<'a> {
        self.relays
    }

    /// The place of the relay that heard the n-th beat; there must be one.
    pub(super) fn heard_by(&self, nth: usize) -> usize {
        let size = self.layout.entry_bytes();
        Words::read(&self.layout, &self.entries[nth * size..][..size]).heard_by.into()
    }

    fn words(&self) -> impl Iterator<Item = Words> + 'a {
        let layout = self.layout;
        self.entries
            .chunks_exact(layout.entry_bytes())
            .map(move |entry| Words::read(&layout, entry))
    }

    /// The n-th beat; there must be one.
    #[inline]
    pub(super) fn beat(&self, nth: usize, key_id: u8) -> Heartbeat {
        let size = self.layout.entry_bytes();
        let words = Words::read(&self.layout, &self.entries[nth * size..][..size]);
        Heartbeat {
            peer: PeerId(words.peer),
            kind: super::Kind::Beat,
            status: super::Status::from_bits(words.index_and_status >> 6),
            sequenced: true,
            key_id,
            incarnation: words.incarnation,
            sequence: words.sequence,
            // Codes and indices were checked by `decode`.
            interval_us: decode_interval(self.intervals[words.interval_index()].get()).unwrap_or(0),
            sent_ns: 0,
            age_us: words.age_us,
            profile_digest: 0,
        }
    }
}

/// The least and the most of some numbers.
#[derive(Clone, Copy, Debug)]
struct Span {
    least: u32,
    most: u32,
}

impl Span {
    const NONE: Span = Span { least: u32::MAX, most: 0 };

    fn with(self, number: u32) -> Span {
        Span { least: self.least.min(number), most: self.most.max(number) }
    }

    /// Bytes that hold every distance from the least.
    fn bytes(self) -> usize {
        let bits = u32::BITS - self.most.saturating_sub(self.least).leading_zeros();
        (bits as usize).div_ceil(8).max(1)
    }
}

/// A beat that waits to be packed.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    beat: Heartbeat,
    index_and_status: u8,
    heard_by: u8,
    at_us: u64,
}

/// Gathers beats for a PACK, for a relay. Reusable: [`finish`](Self::finish) empties it, and once
/// it has been full it allocates no more.
#[derive(Debug)]
pub struct PackEncoder {
    intervals: Vec<u32>,
    relays: RelayTable,
    waiting: Vec<Waiting>,
    incarnations: Span,
    sequences: Span,
}

impl Default for PackEncoder {
    fn default() -> PackEncoder {
        PackEncoder {
            intervals: Vec::with_capacity(MAX_INTERVALS),
            relays: RelayTable::default(),
            waiting: Vec::with_capacity(MAX_ENTRIES),
            incarnations: Span::NONE,
            sequences: Span::NONE,
        }
    }
}

impl PackEncoder {
    /// An empty one.
    pub fn new() -> PackEncoder {
        PackEncoder::default()
    }

    /// Takes in a beat that arrived at `at_us`, microseconds of any clock, with the age that it had
    /// then; false, and nothing changed, when the datagram is full. `relay` is who heard it, if that is
    /// another one than this. The sender's clock does not travel, nor does a profile.
    #[must_use = "a beat that does not fit belongs into the next one"]
    pub fn push(&mut self, beat: &Heartbeat, relay: Option<PeerId>, at_us: u64) -> bool {
        debug_assert_eq!(beat.kind, super::Kind::Beat, "a BYE travels alone");
        let code = encode_interval(beat.interval_us);
        let known = self.intervals.iter().position(|&other| other == code);
        let intervals = self.intervals.len() + usize::from(known.is_none());
        let entries = self.waiting.len() + 1;
        let incarnations = self.incarnations.with(beat.incarnation);
        let sequences = self.sequences.with(beat.sequence);
        let Some((heard_by, relays)) = self.relays.place(relay) else { return false };
        let entry_bytes =
            FIXED + incarnations.bytes() + sequences.bytes() + usize::from(relays > 0);
        let tables = 4 * intervals + 8 * relays;
        let size = HEADER + size_of::<Preface>() + tables + entry_bytes * entries;
        if size > MAX_UNTAGGED || intervals > MAX_INTERVALS || entries > MAX_ENTRIES {
            return false;
        }
        let index = known.unwrap_or_else(|| {
            self.intervals.push(code);
            self.intervals.len() - 1
        });
        (self.incarnations, self.sequences) = (incarnations, sequences);
        self.relays.insert(relay);
        // An index is below 64.
        let index_and_status = index as u8 | (beat.status as u8) << 6;
        self.waiting.push(Waiting { beat: *beat, index_and_status, heard_by, at_us });
        true
    }

    /// How many beats it holds.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether it holds a beat of this peer.
    pub fn holds(&self, peer: PeerId) -> bool {
        self.waiting.iter().any(|waiting| waiting.beat.peer == peer)
    }

    /// Appends the datagram to `out`, at `at_us` by the same clock, and starts over. Each beat has
    /// grown older by the time since it was taken in. `relay` is 0 for one that is no peer.
    pub fn finish(&mut self, relay: PeerId, at_us: u64, out: &mut Vec<u8>) {
        let age_us = |waiting: &Waiting| {
            at_us.saturating_sub(waiting.at_us).saturating_add(waiting.beat.age_us.into())
        };
        let oldest_us = self.waiting.iter().map(age_us).max().unwrap_or(0);
        let fits = |shift: &u32| oldest_us.div_ceil(1 << shift) <= u64::from(u16::MAX);
        let age_shift = (0..MAX_SHIFT).find(fits).unwrap_or(MAX_SHIFT);
        let empty = self.waiting.is_empty();
        let layout = Layout {
            incarnation: if empty { 0 } else { self.incarnations.least },
            sequence: if empty { 0 } else { self.sequences.least },
            incarnation_bytes: self.incarnations.bytes(),
            sequence_bytes: self.sequences.bytes(),
            age_shift,
            place_bytes: usize::from(self.relays.len() > 0),
        };
        let preface = Preface {
            // `push` keeps the counts within a byte.
            entries: self.waiting.len() as u8,
            intervals: self.intervals.len() as u8,
            widths: layout.widths(),
            relays: self.relays.len() as u8,
        };
        let header = Header::naming(PACK, relay);
        let header = header.with_numbers(layout.incarnation, layout.sequence);
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(preface.as_bytes());
        self.intervals.drain(..).for_each(|code| out.extend_from_slice(&code.to_le_bytes()));
        self.relays.finish(out);
        for waiting in self.waiting.drain(..) {
            let incarnation = waiting.beat.incarnation - layout.incarnation;
            let sequence = waiting.beat.sequence - layout.sequence;
            let units = age_us(&waiting).div_ceil(1 << age_shift).min(u16::MAX.into()) as u16;
            out.extend_from_slice(&waiting.beat.peer.0.to_le_bytes());
            out.extend_from_slice(&incarnation.to_le_bytes()[..layout.incarnation_bytes]);
            out.extend_from_slice(&sequence.to_le_bytes()[..layout.sequence_bytes]);
            out.extend_from_slice(&units.to_le_bytes());
            out.push(waiting.index_and_status);
            out.extend(std::iter::repeat_n(waiting.heard_by, layout.place_bytes));
        }
        (self.incarnations, self.sequences) = (Span::NONE, Span::NONE);
    }
}
