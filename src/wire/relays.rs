//! Which relay heard what, in a datagram about peers of several: a table of ids, and a place in it for
//! each peer.
//!
//! A relay that stands behind another one gathers what that one brings, and what it hears itself. The
//! parent of a peer is the relay that heard it first, so its name goes on with the beat, as a place of
//! one byte: 0 is the relay in the header, and *n* the *n*-th of the table. A relay that has none
//! behind it writes no table, and its entries have no place.

use super::{PeerId, Reject};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

/// Most ids of a table.
const MOST: usize = 63;

/// The ids of a decoded table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Relays<'a>(&'a [U64]);

impl<'a> Relays<'a> {
    /// Takes a table of `count` ids off the front. The ids have to be checked by [`check`](Self::check).
    pub(super) fn split(count: u8, bytes: &'a [u8]) -> Result<(Relays<'a>, &'a [u8]), Reject> {
        if usize::from(count) > MOST {
            return Err(Reject::Length);
        }
        let table = <[U64]>::ref_from_prefix_with_elems(bytes, count.into());
        table.map(|(ids, rest)| (Relays(ids), rest)).map_err(|_| Reject::Length)
    }

    /// Refuses an id that is nobody's.
    pub(super) fn check(self) -> Result<(), Reject> {
        if self.0.iter().any(|id| id.get() == 0) { Err(Reject::Reserved) } else { Ok(()) }
    }

    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    /// The relay at a place; `None` for 0, which is the one in the header.
    pub(super) fn at(self, place: usize) -> Option<PeerId> {
        Some(PeerId(self.0.get(place.checked_sub(1)?)?.get()))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = PeerId> + 'a {
        self.0.iter().map(|id| PeerId(id.get()))
    }
}

/// The table of a datagram that is being gathered.
#[derive(Debug, Default)]
pub(super) struct RelayTable(Vec<PeerId>);

impl RelayTable {
    /// The place of a relay, `None` being the one in the header, and how many ids the table has with it.
    /// Nothing when there is no room.
    pub(super) fn place(&self, relay: Option<PeerId>) -> Option<(u8, usize)> {
        let len = self.0.len();
        let Some(relay) = relay else { return Some((0, len)) };
        let known = self.0.iter().position(|id| *id == relay);
        let at = known.unwrap_or(len);
        (at < MOST).then_some((at as u8 + 1, len.max(at + 1)))
    }

    /// Puts a relay in, if it is not there.
    pub(super) fn insert(&mut self, relay: Option<PeerId>) {
        if let Some(relay) = relay.filter(|relay| !self.0.contains(relay)) {
            self.0.push(relay);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends the table to `out`, and empties it.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.0.drain(..).for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
    }
}
