//! Reads a recording, block by block, and hands on its heartbeats. [`format`](super::format) has the
//! layout.
//!
//! ```text
//!  a heartbeat like most: its peer known; incarnation, interval and sequence as foretold
//!    ┌─────┬──────┬─────────┬─────────┬─
//!    │ tag │ peer │ arrival │ [sent]  │ …          numbers of one to eight bytes, of which
//!    └─────┴────▲─┴───────▲─┴───────▲─┴─           the last alone has its top bit clear
//!  1  load the 8 bytes behind the tag at once
//!  2  stops = the top bits that are clear; the lowest ends the peer, the next the arrival
//!  3  load the 8 bytes from there on; the lowest stop among them ends sent, and so the heartbeat
//!  4  cut the numbers out, squeeze their groups of seven bits together
//!  whatever is not like this goes byte by byte
//! ```
//!
//! Only 1 to 3 stand between a heartbeat and the next, and none of it is a loop, so that the
//! processor can work at several heartbeats at once; byte by byte, each number's length is a branch
//! to be guessed. `cargo bench --bench replay` measures it.

use super::format::{
    BLOCK_HEADER, BYE, FormatError, HEADER, INCARNATION, INTERVAL, MAGIC, MAINTENANCE, MAX_BLOCK,
    SENT, SEQUENCE, UNSEQUENCED, VERSION, sum_of,
};
use super::{Arrival, Gatherer, Losses, Sink, Trace};
use crate::wire::PeerId;
use std::io::{self, Read};

/// Why a recording could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is none.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
}

/// Reads a recording that is in memory. That takes some thirty bytes for each three.
///
/// # Errors
/// It is none, or of another version. A tail that is torn is no error: see [`Trace::losses`].
pub fn decode(bytes: &[u8]) -> Result<Trace, FormatError> {
    let mut trace = Trace::default();
    match read(bytes, &mut trace) {
        Ok(losses) => trace.losses = losses,
        Err(DecodeError::Format(error)) => return Err(error),
        // Bytes in memory can always be read.
        Err(DecodeError::Read(_)) => return Err(FormatError::Header),
    }
    trace.sort();
    Ok(trace)
}

/// Hands the heartbeats of a recording to `sink`, in the order of the file, until it wants no more.
/// Memory: a block, and some words for each peer.
///
/// # Errors
/// It is none, or of another version, or cannot be read. A tail that is torn is no error.
pub fn read(mut input: impl Read, sink: &mut impl Sink) -> Result<Losses, DecodeError> {
    let mut header = Vec::with_capacity(HEADER);
    input.by_ref().take(HEADER as u64).read_to_end(&mut header)?;
    let gatherer = Gatherer::new(sink);
    let mut decoder = Decoder { last_ns: started_ns(&header)?, before: Vec::new(), gatherer };
    let mut losses = Losses::default();
    let mut block = Vec::new();
    // Where in the file the block begins.
    let mut at = HEADER as u64;
    loop {
        block.clear();
        input.by_ref().take(BLOCK_HEADER as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(losses);
        }
        let len = match word(&block, 0) {
            Some(len) if block.len() == BLOCK_HEADER && len as usize <= MAX_BLOCK => len.into(),
            _ => 0,
        };
        input.by_ref().take(len).read_to_end(&mut block)?;
        let found = decoder.block(&block);
        decoder.gatherer.hand_on();
        match found {
            _ if decoder.gatherer.stopped => return Ok(losses),
            Some(dropped) => losses.dropped += u64::from(dropped),
            None => {
                let bytes = block.len() as u64 + io::copy(&mut input, &mut io::sink())?;
                if is_torn(&block) {
                    losses.torn_bytes = bytes;
                } else {
                    (losses.damaged_at, losses.damaged_bytes) = (Some(at), bytes);
                }
                return Ok(losses);
            }
        }
        at += block.len() as u64;
    }
}

/// Whether a block that is not whole is one that was not written to its end: what its header promises
/// goes beyond the file. If whole blocks lie in what there is, the promise is wrong.
fn is_torn(bytes: &[u8]) -> bool {
    let promised = |bytes: &[u8]| {
        let head = bytes.first_chunk::<BLOCK_HEADER>()?;
        let (len, count) = (word(head, 0)? as usize, word(head, 4)? as usize);
        // Each heartbeat takes three bytes at least.
        (len <= MAX_BLOCK && count <= len / 3).then_some(BLOCK_HEADER + len)
    };
    let is_whole = |bytes: &[u8]| {
        let block = promised(bytes).and_then(|len| bytes.get(..len));
        block.is_some_and(|block| {
            word(block, 12) == Some(sum_of(&block[..12], &block[BLOCK_HEADER..]))
        })
    };
    let goes_beyond = match word(bytes, 0) {
        Some(len) if bytes.len() >= BLOCK_HEADER => {
            len as usize <= MAX_BLOCK && bytes.len() < BLOCK_HEADER + len as usize
        }
        _ => true,
    };
    goes_beyond && !(1..bytes.len()).any(|at| is_whole(&bytes[at..]))
}

/// The monotonic time at which a file with this header was begun.
fn started_ns(header: &[u8]) -> Result<u64, FormatError> {
    if header.get(..MAGIC.len()) != Some(&MAGIC) {
        return Err(FormatError::Magic);
    }
    if header.len() < HEADER {
        return Err(FormatError::Header);
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    if word(header, 12) != Some(sum_of(&header[..12], &header[16..])) {
        return Err(FormatError::Header);
    }
    header[24..].try_into().map_or(Err(FormatError::Header), |ns| Ok(u64::from_le_bytes(ns)))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// What a heartbeat's differences are taken from: the peer's heartbeat before.
#[derive(Clone, Copy, Default)]
struct Before {
    incarnation: u32,
    interval: u32,
    sequence: u32,
    skew_ns: u64,
}

struct Decoder<'a, S> {
    last_ns: u64,
    before: Vec<Before>,
    gatherer: Gatherer<'a, S>,
}

impl<S: Sink> Decoder<'_, S> {
    /// Takes in one block, and gives what was dropped before it. `None` when it is not whole, or no
    /// more is wanted; what of it was good has been taken in then.
    fn block(&mut self, bytes: &[u8]) -> Option<u32> {
        let (head, mut block) = bytes.split_at_checked(BLOCK_HEADER)?;
        if word(head, 0)? as usize != block.len() || word(head, 12)? != sum_of(&head[..12], block) {
            return None;
        }
        for _ in 0..word(head, 4)? {
            let (peer, arrival) = match self.common(block) {
                Some((peer, arrival, len)) => {
                    block = block.get(len..)?;
                    (peer, arrival)
                }
                None => self.any(&mut block)?,
            };
            self.gatherer.push(peer as u32, arrival);
            if self.gatherer.stopped {
                return None;
            }
        }
        if block.is_empty() { word(head, 8) } else { None }
    }

    /// The heartbeat at the beginning of `block`, and its length, if it is one like most. `None`
    /// leaves all as it was.
    #[inline(always)]
    fn common(&mut self, block: &[u8]) -> Option<(usize, Arrival, usize)> {
        let window: &[u8; 17] = block.first_chunk()?;
        let tag = window[0];
        if tag & !(SENT | BYE | MAINTENANCE | UNSEQUENCED) != 0 {
            return None;
        }
        let numbers = u64::from_le_bytes(*window[1..].first_chunk()?);
        let first = !numbers & TOP_BITS;
        let second = first & first.wrapping_sub(1);
        if second == 0 {
            return None;
        }
        let peer = squeeze(numbers & up_to_lowest(first)) as usize;
        let arrival = squeeze((numbers & up_to_lowest(second)) >> (first.trailing_zeros() + 1));
        let mut len = 1 + (second.trailing_zeros() as usize + 1) / 8;
        let mut skew = 0;
        if tag & SENT != 0 {
            let number = u64::from_le_bytes(*window[len..].first_chunk()?);
            let only = !number & TOP_BITS;
            if only == 0 {
                return None;
            }
            skew = squeeze(number & up_to_lowest(only));
            len += (only.trailing_zeros() as usize + 1) / 8;
        }
        let before = self.before.get_mut(peer)?;
        let arrived_ns = self.last_ns.wrapping_add(unfold(arrival));
        self.last_ns = arrived_ns;
        before.sequence = before.sequence.wrapping_add(1);
        let mut sent_ns = 0;
        if S::WANTS_SENT && tag & SENT != 0 {
            before.skew_ns = before.skew_ns.wrapping_add(unfold(skew));
            sent_ns = arrived_ns.wrapping_add(before.skew_ns);
        }
        Some((peer, before.arrival(tag, arrived_ns, sent_ns), len))
    }

    /// The heartbeat at the beginning of `input`, whatever is in it.
    #[cold]
    #[inline(never)]
    fn any(&mut self, input: &mut &[u8]) -> Option<(usize, Arrival)> {
        let (&tag, rest) = input.split_first()?;
        *input = rest;
        if tag & 0x80 != 0 {
            return None;
        }
        let peer = get(input)? as usize;
        if peer > self.before.len() {
            return None;
        }
        if peer == self.before.len() {
            let (id, rest) = input.split_first_chunk::<8>()?;
            *input = rest;
            self.before.push(Before::default());
            let id = PeerId(u64::from_le_bytes(*id));
            self.gatherer.sink.peer(id, id.to_string());
        }
        let before = &mut self.before[peer];
        let arrived_ns = self.last_ns.wrapping_add(unfold(get(input)?));
        if tag & INCARNATION != 0 {
            before.incarnation = u32::try_from(get(input)?).ok()?;
        }
        if tag & INTERVAL != 0 {
            before.interval = u32::try_from(get(input)?).ok()?;
        }
        let ahead = if tag & SEQUENCE != 0 { unfold(get(input)?) as u32 } else { 0 };
        before.sequence = before.sequence.wrapping_add(1).wrapping_add(ahead);
        let mut sent_ns = 0;
        if tag & SENT != 0 {
            before.skew_ns = before.skew_ns.wrapping_add(unfold(get(input)?));
            sent_ns = arrived_ns.wrapping_add(before.skew_ns);
        }
        self.last_ns = arrived_ns;
        Some((peer, before.arrival(tag, arrived_ns, sent_ns)))
    }
}

impl Before {
    #[inline(always)]
    fn arrival(&self, tag: u8, arrived_ns: u64, sent_ns: u64) -> Arrival {
        Arrival {
            arrived_ns,
            sent_ns,
            sequence: self.sequence,
            incarnation: self.incarnation,
            interval: self.interval,
            bye: tag & BYE != 0,
            maintenance: tag & MAINTENANCE != 0,
            unsequenced: tag & UNSEQUENCED != 0,
        }
    }
}

const TOP_BITS: u64 = u64::from_le_bytes([0x80; 8]);

/// All bits up to the lowest that is set, and with it.
#[inline(always)]
fn up_to_lowest(bits: u64) -> u64 {
    bits ^ bits.wrapping_sub(1)
}

/// Puts the groups of seven bits of eight bytes together: a LEB128 number of up to eight bytes, when
/// what follows it is 0.
#[inline(always)]
fn squeeze(bytes: u64) -> u64 {
    let b = bytes & 0x7F7F_7F7F_7F7F_7F7F;
    let b = (b & 0x007F_007F_007F_007F) | ((b & 0x7F00_7F00_7F00_7F00) >> 1);
    let b = (b & 0x0000_3FFF_0000_3FFF) | ((b & 0x3FFF_0000_3FFF_0000) >> 2);
    (b & 0x0FFF_FFFF) | ((b & 0x0FFF_FFFF_0000_0000) >> 4)
}

/// The difference that a zigzag number stands for.
#[inline(always)]
fn unfold(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

fn get(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
