//! BATCH: the beats that a relay heard, many to a datagram, each with its age.
//!
//! ```text
//!  ┌────────────────────────────┬───────┬───────────┬─────┬──────────────┬─────────────────┐
//!  │ header: the relay's own    │entries│ intervals │ 0 0 │ u32 codes    │ 20-byte entries │
//!  │ 32 bytes                   │  u8   │    u8     │ u16 │ 4 × intervals│ 20 × entries    │
//!  └────────────────────────────┴───────┴───────────┴─────┴──────────────┴─────────────────┘
//!  entry:  peer u64 │ incarnation u32 │ sequence u32 │ age 24 bits, interval index 6, status 2
//! ```
//!
//! The intervals are a table because the peers behind one relay have few different ones: six bits
//! instead of 32 keep an entry at 20 bytes, and 70 of them in a datagram.

use super::header::{BATCH, Header};
use super::pack::Packed;
use super::{
    HEADER, Heartbeat, Kind, MAX_UNTAGGED, PeerId, Reject, Status, decode_interval, encode_interval,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const AGE_BITS: u32 = 24;
const MAX_AGE_US: u32 = (1 << AGE_BITS) - 1;
const MAX_INTERVALS: usize = 1 << 6;
const MAX_ENTRIES: usize = u8::MAX as usize;

/// What stands between the header and the interval table.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Counts {
    entries: u8,
    intervals: u8,
    reserved: U16,
}

/// One beat of a peer that the relay heard.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Debug,
)]
#[repr(C)]
struct Entry {
    peer: U64,
    incarnation: U32,
    sequence: U32,
    packed: U32,
}

/// A decoded BATCH or PACK.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Batch<'a> {
    relay: Heartbeat,
    body: Body<'a>,
}

/// How its beats are written.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Body<'a> {
    Plain { intervals: &'a [U32], entries: &'a [Entry] },
    Packed(Packed<'a>),
}

impl<'a> Batch<'a> {
    /// Checks everything, so that iterating cannot fail.
    pub(super) fn decode(header: &Header, body: &'a [u8]) -> Result<Batch<'a>, Reject> {
        let (counts, rest) = Counts::ref_from_prefix(body).map_err(|_| Reject::Runt)?;
        if counts.reserved.get() != 0 {
            return Err(Reject::Reserved);
        }
        if HEADER + body.len() > MAX_UNTAGGED || usize::from(counts.intervals) > MAX_INTERVALS {
            return Err(Reject::Length);
        }
        let (intervals, rest) = <[U32]>::ref_from_prefix_with_elems(rest, counts.intervals.into())
            .map_err(|_| Reject::Length)?;
        let entries = <[Entry]>::ref_from_bytes_with_elems(rest, counts.entries.into())
            .map_err(|_| Reject::Length)?;
        let relay = header.heartbeat(Kind::Beat)?;
        if intervals.iter().any(|code| decode_interval(code.get()).is_none()) {
            return Err(Reject::Interval);
        }
        if entries.iter().any(|entry| entry.interval_index() >= intervals.len()) {
            return Err(Reject::Length);
        }
        if entries.iter().any(|entry| entry.peer.get() == 0) {
            return Err(Reject::Reserved);
        }
        Ok(Batch { relay, body: Body::Plain { intervals, entries } })
    }

    /// The same of a PACK.
    pub(super) fn unpack(header: &Header, body: &'a [u8]) -> Result<Batch<'a>, Reject> {
        let (relay, packed) = Packed::decode(header, body)?;
        Ok(Batch { relay, body: Body::Packed(packed) })
    }

    /// The relay's own heartbeat; `None` when the relay is not a peer itself (its id is 0), and for a
    /// PACK, which only names it.
    pub fn relay(&self) -> Option<Heartbeat> {
        let beats = matches!(self.body, Body::Plain { .. }) && self.relay.peer.0 != 0;
        beats.then_some(self.relay)
    }

    /// The relay that it came through; `None` when that is not a peer (its id is 0).
    pub fn through(&self) -> Option<PeerId> {
        (self.relay.peer.0 != 0).then_some(self.relay.peer)
    }

    /// The relays beside that one which heard some of its beats; none in a BATCH.
    pub fn relays(&self) -> impl Iterator<Item = PeerId> + 'a {
        let packed = match self.body {
            Body::Plain { .. } => None,
            Body::Packed(packed) => Some(packed.relays().iter()),
        };
        packed.into_iter().flatten()
    }

    /// Who heard the n-th beat, which must be there: 0 for the relay that it came through, *n* for the *n*-th
    /// of [`relays`](Self::relays).
    pub fn heard_by(&self, nth: usize) -> usize {
        match self.body {
            Body::Plain { .. } => 0,
            Body::Packed(packed) => packed.heard_by(nth),
        }
    }

    /// Its beats, each with the relay that heard it if that is not the one that it came through.
    pub fn heard(&self) -> impl Iterator<Item = (Option<PeerId>, Heartbeat)> + 'a {
        let batch = *self;
        let relay = move |nth| match batch.body {
            Body::Plain { .. } => None,
            Body::Packed(packed) => packed.relays().at(packed.heard_by(nth)),
        };
        self.entries().enumerate().map(move |(nth, beat)| (relay(nth), beat))
    }

    /// The key by which it is authentic; it speaks for all beats.
    pub fn key_id(&self) -> u8 {
        self.relay.key_id
    }

    /// The beats that the relay heard, in the datagram's order.
    #[inline]
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Heartbeat> + 'a {
        let Batch { relay, body } = *self;
        let count = match body {
            Body::Plain { entries, .. } => entries.len(),
            Body::Packed(packed) => packed.len(),
        };
        (0..count).map(move |nth| match body {
            Body::Plain { intervals, entries } => entries[nth].beat(intervals, relay.key_id),
            Body::Packed(packed) => packed.beat(nth, relay.key_id),
        })
    }
}

impl Entry {
    #[inline]
    fn beat(&self, intervals: &[U32], key_id: u8) -> Heartbeat {
        Heartbeat {
            peer: PeerId(self.peer.get()),
            kind: Kind::Beat,
            status: Status::from_bits((self.packed.get() >> 30) as u8),
            sequenced: true,
            key_id,
            incarnation: self.incarnation.get(),
            sequence: self.sequence.get(),
            // Codes and indices were checked by `decode`.
            interval_us: decode_interval(intervals[self.interval_index()].get()).unwrap_or(0),
            sent_ns: 0,
            age_us: self.packed.get() & MAX_AGE_US,
            profile_digest: 0,
        }
    }

    fn interval_index(&self) -> usize {
        (self.packed.get() >> AGE_BITS) as usize % MAX_INTERVALS
    }
}

/// Gathers beats for a BATCH, for a relay. Reusable: [`finish`](Self::finish) empties it.
#[derive(Default, Debug)]
pub struct BatchEncoder {
    intervals: Vec<u32>,
    entries: Vec<Entry>,
}

impl BatchEncoder {
    /// An empty one.
    pub fn new() -> BatchEncoder {
        BatchEncoder::default()
    }

    /// Takes a beat in; false, and nothing changed, when the datagram is full (at 70 beats with up
    /// to five intervals among them). Its `age_us` saturates at 16.7 s. The sender's clock does not
    /// travel, nor does a profile: a relay passes HELLO and BYE on as they came.
    #[must_use = "a beat that does not fit belongs into the next batch"]
    pub fn push(&mut self, beat: &Heartbeat) -> bool {
        debug_assert_eq!(beat.kind, Kind::Beat, "a BYE travels alone");
        let code = encode_interval(beat.interval_us);
        let known = self.intervals.iter().position(|&other| other == code);
        let intervals = self.intervals.len() + usize::from(known.is_none());
        let entries = self.entries.len() + 1;
        let size = HEADER + size_of::<Counts>() + 4 * intervals + size_of::<Entry>() * entries;
        if size > MAX_UNTAGGED || intervals > MAX_INTERVALS || entries > MAX_ENTRIES {
            return false;
        }
        let index = known.unwrap_or_else(|| {
            self.intervals.push(code);
            self.intervals.len() - 1
        });
        self.entries.push(Entry {
            peer: U64::new(beat.peer.0),
            incarnation: U32::new(beat.incarnation),
            sequence: U32::new(beat.sequence),
            packed: U32::new(
                beat.age_us.min(MAX_AGE_US)
                    | (index as u32) << AGE_BITS
                    | (beat.status as u32) << 30,
            ),
        });
        true
    }

    /// How many beats it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the datagram to `out` and starts over. `relay` is the relay's own heartbeat when it
    /// is a peer itself.
    pub fn finish(&mut self, relay: Option<&Heartbeat>, out: &mut Vec<u8>) {
        let header = relay
            .map_or_else(|| Header::anonymous(BATCH), |heartbeat| Header::new(BATCH, heartbeat));
        // `push` keeps both counts within a byte.
        let counts = Counts {
            entries: self.entries.len() as u8,
            intervals: self.intervals.len() as u8,
            reserved: U16::ZERO,
        };
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(counts.as_bytes());
        self.intervals.drain(..).for_each(|code| out.extend_from_slice(&code.to_le_bytes()));
        out.extend_from_slice(self.entries.as_bytes());
        self.entries.clear();
    }
}
