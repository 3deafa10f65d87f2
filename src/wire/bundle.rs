//! BUNDLE: what a relay does not vouch for, or what says more than "alive", as it came: whole datagrams,
//! each with the time that it was held and the relay that heard it.
//!
//! ```text
//!  ┌────────────────────────────┬───────┬──────┬─────┬───────────┬───────────────────────────────────┐
//!  │ header: names the relay    │pieces │relays│ 0 0 │ relays    │ pieces                            │
//!  │ 32 bytes                   │  u8   │  u8  │ u16 │ 8 × r     │                                   │
//!  └────────────────────────────┴───────┴──────┴─────┴───────────┴───────────────────────────────────┘
//!  piece:  age u32 │ bytes u16 │ who heard it u8 │ 0 │ the datagram
//! ```
//!
//! What each piece says is proven by its own tag, or by none. So a relay's narrow key lets nobody speak for
//! more than he could alone. Who heard a piece and how long ago is said by the tag of the whole, and
//! [believed](super::Guard::believes) of a key that could speak for the piece itself.
//!
//! A bundle in a bundle is none: whoever gets one takes it apart.

use super::header::{BUNDLE, Header};
use super::relays::{RelayTable, Relays};
use super::{HEADER, MAX_UNTAGGED, PeerId, Reject};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What stands between the header and the relays.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Counts {
    pieces: u8,
    relays: u8,
    reserved: U16,
}

/// What stands before each piece.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Label {
    age_us: U32,
    bytes: U16,
    heard_by: u8,
    reserved: u8,
}

/// Most bytes of a piece, so that it fits beside the name of the relay that heard it.
pub const MAX_PIECE: usize = MAX_UNTAGGED - HEADER - size_of::<Counts>() - 8 - size_of::<Label>();

/// A decoded BUNDLE.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bundle<'a> {
    relay: PeerId,
    key_id: u8,
    pieces: u8,
    relays: Relays<'a>,
    bytes: &'a [u8],
}

/// A datagram in a BUNDLE.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Piece<'a> {
    /// As its sender sent it.
    pub datagram: &'a [u8],
    /// How long relays have held it, microseconds.
    pub age_us: u32,
    /// The relay that heard it; `None` when that is no peer.
    pub relay: Option<PeerId>,
}

impl<'a> Bundle<'a> {
    /// Checks everything but the pieces' own words.
    pub(super) fn decode(header: &Header, body: &'a [u8]) -> Result<Bundle<'a>, Reject> {
        let (counts, rest) = Counts::ref_from_prefix(body).map_err(|_| Reject::Runt)?;
        if counts.reserved.get() != 0 {
            return Err(Reject::Reserved);
        }
        if HEADER + body.len() > MAX_UNTAGGED {
            return Err(Reject::Length);
        }
        let (relays, bytes) = Relays::split(counts.relays, rest)?;
        let mut left = bytes;
        for _ in 0..counts.pieces {
            let (label, rest) = Label::ref_from_prefix(left).map_err(|_| Reject::Length)?;
            let length = usize::from(label.bytes.get());
            if length == 0 || length > rest.len() || usize::from(label.heard_by) > relays.len() {
                return Err(Reject::Length);
            }
            if label.reserved != 0 {
                return Err(Reject::Reserved);
            }
            left = &rest[length..];
        }
        if !left.is_empty() {
            return Err(Reject::Length);
        }
        relays.check()?;
        let (relay, key_id) = header.names();
        Ok(Bundle { relay, key_id, pieces: counts.pieces, relays, bytes })
    }

    /// The relay that it came through; `None` when that is not a peer (its id is 0).
    pub fn through(&self) -> Option<PeerId> {
        (self.relay.0 != 0).then_some(self.relay)
    }

    /// The key by which it is authentic. It says nothing of the pieces.
    pub fn key_id(&self) -> u8 {
        self.key_id
    }

    /// The datagrams, in order. What is no datagram of a sender has to be refused by whoever decodes it.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'a>> + 'a {
        let (bundle, mut left) = (*self, self.bytes);
        (0..bundle.pieces).map_while(move |_| {
            // That all of it is there was checked by `decode`.
            let (label, rest) = Label::ref_from_prefix(left).ok()?;
            let (datagram, rest) = rest.split_at_checked(label.bytes.get().into())?;
            left = rest;
            let relay = match label.heard_by {
                0 => bundle.through(),
                place => bundle.relays.at(place.into()),
            };
            Some(Piece { datagram, age_us: label.age_us.get(), relay })
        })
    }
}

/// A datagram that waits to go on.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    peer: PeerId,
    /// Its end in the bytes of all.
    end: usize,
    age_us: u32,
    heard_by: u8,
    at_us: u64,
}

/// Gathers datagrams for a BUNDLE, for a relay. Reusable: [`finish`](Self::finish) empties it, and once
/// it has been full it allocates no more.
#[derive(Debug, Default)]
pub struct BundleEncoder {
    relays: RelayTable,
    waiting: Vec<Waiting>,
    bytes: Vec<u8>,
}

impl BundleEncoder {
    /// An empty one.
    pub fn new() -> BundleEncoder {
        BundleEncoder::default()
    }

    /// Takes in a datagram of this peer (id 0 for one of several) that arrived at `at_us`, microseconds of
    /// any clock. What it says of its relay is who heard it, if that is another one than this. False, and
    /// nothing changed, when there is no room; an empty one has room for [`MAX_PIECE`].
    #[must_use = "a datagram that does not fit belongs into the next one"]
    pub fn push(&mut self, peer: PeerId, piece: &Piece<'_>, at_us: u64) -> bool {
        let Some((heard_by, relays)) = self.relays.place(piece.relay) else { return false };
        let pieces = self.waiting.len() + 1;
        let bytes = self.bytes.len() + piece.datagram.len();
        let labels = size_of::<Label>() * pieces;
        let size = HEADER + size_of::<Counts>() + 8 * relays + labels + bytes;
        if size > MAX_UNTAGGED || pieces > usize::from(u8::MAX) || piece.datagram.is_empty() {
            return false;
        }
        self.relays.insert(piece.relay);
        self.bytes.extend_from_slice(piece.datagram);
        self.waiting.push(Waiting { peer, end: bytes, age_us: piece.age_us, heard_by, at_us });
        true
    }

    /// How many datagrams it holds.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether it holds a datagram of this peer.
    pub fn holds(&self, peer: PeerId) -> bool {
        self.waiting.iter().any(|waiting| waiting.peer == peer)
    }

    /// Appends the BUNDLE to `out`, at `at_us` by the same clock, and starts over. Each piece has grown
    /// older by the time since it was taken in. `relay` is 0 for one that is no peer.
    pub fn finish(&mut self, relay: PeerId, at_us: u64, out: &mut Vec<u8>) {
        let counts = Counts {
            // `push` keeps both within a byte.
            pieces: self.waiting.len() as u8,
            relays: self.relays.len() as u8,
            reserved: U16::ZERO,
        };
        out.extend_from_slice(Header::naming(BUNDLE, relay).as_bytes());
        out.extend_from_slice(counts.as_bytes());
        self.relays.finish(out);
        let mut begin = 0;
        for waiting in self.waiting.drain(..) {
            let held_us = at_us.saturating_sub(waiting.at_us);
            let age_us = held_us.saturating_add(waiting.age_us.into()).min(u32::MAX.into()) as u32;
            let datagram = &self.bytes[begin..waiting.end];
            let label = Label {
                age_us: U32::new(age_us),
                // No datagram is longer than `MAX_PIECE`.
                bytes: U16::new(datagram.len() as u16),
                heard_by: waiting.heard_by,
                reserved: 0,
            };
            out.extend_from_slice(label.as_bytes());
            out.extend_from_slice(datagram);
            begin = waiting.end;
        }
        self.bytes.clear();
    }
}
