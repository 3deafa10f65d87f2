//! The recording: arrivals in a file, about ten bytes each.
//!
//! ```text
//!  file    ┌────────┬───────┬───────┬── … ──┐
//!          │ header │ block │ block │       │
//!          └────────┴───────┴───────┴── … ──┘
//!  header   0  8  magic "SYSTOLE\n"                 all numbers little-endian
//!  32 bytes 8  2  version, 1
//!          10  2  zero
//!          12  4  CRC-32 of the other 28 bytes
//!          16  8  wall clock when the file was begun, ns since 1970
//!          24  8  monotonic clock at the same moment, ns
//!  block    0  4  length of the heartbeats, bytes, at most 1 MiB
//!           4  4  how many they are
//!           8  4  heartbeats dropped before them for want of room
//!          12  4  CRC-32 of the other 12 bytes and the heartbeats
//!          16  …  the heartbeats
//!  heartbeat   1  tag: ╷0╷sent╷sequence╷interval╷incarnation╷maintenance╷bye╷unsequenced╷
//!              v  peer: a number in the order of first appearance in this file;
//!                 a new one is followed by its id, 8 bytes
//!              v± arrival after the one before in the file (the first: after the header's clock), ns
//!             [v] incarnation   ┐ each only when the tag says so; otherwise it is as in this
//!             [v] interval code ┘ peer's heartbeat before (0 at first)
//!            [v±] sequence, less the one that would be next; without it, it is the next
//!            [v±] sent − arrival, less the same difference before; without it, sent is not stated
//! ```
//!
//! `v` is an unsigned LEB128 number, `v±` a signed one in zigzag (0, −1, 1, −2, …). Differences wrap
//! round, so whatever was recorded comes back as it was.
//!
//! A file is valid up to its last whole block. Decoding stops at the first block that is cut off, or
//! whose sum or contents are wrong, and says which of it, and how many bytes it left: blocks build on
//! those before. `docs/detection.md` says why they do.

use super::Arrival;
pub use super::decode::decode;
use crate::wire::PeerId;
use std::collections::HashMap;

/// What a recording begins with.
pub const MAGIC: [u8; 8] = *b"SYSTOLE\n";
/// The version that is written and read.
pub const VERSION: u16 = 1;
/// Bytes of the file's header.
pub const HEADER: usize = 32;
/// Bytes of a block's header.
pub const BLOCK_HEADER: usize = 16;
/// Most bytes of heartbeats in a block.
pub const MAX_BLOCK: usize = 1 << 20;
/// Most bytes that a heartbeat takes: a tag, an id, two numbers of 5 bytes, one of 3 and two of 10.
const MAX_HEARTBEAT: usize = 64;

pub(super) const UNSEQUENCED: u8 = 1;
pub(super) const BYE: u8 = 1 << 1;
pub(super) const MAINTENANCE: u8 = 1 << 2;
pub(super) const INCARNATION: u8 = 1 << 3;
pub(super) const INTERVAL: u8 = 1 << 4;
pub(super) const SEQUENCE: u8 = 1 << 5;
pub(super) const SENT: u8 = 1 << 6;

/// Why a file is no recording.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as one.
    #[error("is no recording: it does not begin with its header")]
    Magic,
    /// It is one of another version.
    #[error(
        "is a recording of version {0}; this systole reads version {VERSION}: use the one that wrote it"
    )]
    Version(u16),
    /// The header is damaged.
    #[error("is a recording with a damaged header")]
    Header,
}

/// Whether a file begins as a recording does.
pub fn is_recording(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// What a heartbeat's differences are taken from: the peer's heartbeat before.
#[derive(Clone, Copy, Default)]
struct Before {
    incarnation: u32,
    interval: u32,
    sequence: u32,
    skew_ns: u64,
}

/// Encodes heartbeats, a block at a time.
pub struct Encoder {
    numbers: HashMap<u64, u32>,
    before: Vec<Before>,
    last_ns: u64,
    block: Vec<u8>,
    count: u32,
}

impl Encoder {
    /// An encoder, and the header of its file, which was begun at these times.
    pub fn new(wall_ns: u64, monotonic_ns: u64) -> (Encoder, [u8; HEADER]) {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&wall_ns.to_le_bytes());
        header[24..].copy_from_slice(&monotonic_ns.to_le_bytes());
        let sum = sum_of(&header[..12], &header[16..]);
        header[12..16].copy_from_slice(&sum.to_le_bytes());
        let encoder = Encoder {
            numbers: HashMap::new(),
            before: Vec::new(),
            last_ns: monotonic_ns,
            block: vec![0; BLOCK_HEADER],
            count: 0,
        };
        (encoder, header)
    }

    /// Bytes that the block has so far.
    pub fn len(&self) -> usize {
        self.block.len() - BLOCK_HEADER
    }

    /// Whether the block has no heartbeat yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the block must be taken before the next heartbeat.
    pub fn is_full(&self) -> bool {
        self.len() > MAX_BLOCK - MAX_HEARTBEAT
    }

    /// Adds a heartbeat to the block. Not when it is full.
    pub fn push(&mut self, peer: PeerId, arrival: &Arrival) {
        debug_assert!(!self.is_full(), "the block is taken when it is full");
        let next = self.before.len() as u32;
        let number = *self.numbers.entry(peer.0).or_insert(next);
        let is_new = number == next;
        if is_new {
            self.before.push(Before::default());
        }
        let before = &mut self.before[number as usize];
        let skew_ns = arrival.sent_ns.wrapping_sub(arrival.arrived_ns);
        let ahead = arrival.sequence.wrapping_sub(before.sequence.wrapping_add(1));
        let flag = |bit: u8, on: bool| if on { bit } else { 0 };
        let tag = flag(UNSEQUENCED, arrival.unsequenced)
            | flag(BYE, arrival.bye)
            | flag(MAINTENANCE, arrival.maintenance)
            | flag(INCARNATION, arrival.incarnation != before.incarnation)
            | flag(INTERVAL, arrival.interval != before.interval)
            | flag(SEQUENCE, ahead != 0)
            | flag(SENT, arrival.sent_ns != 0);
        let out = &mut self.block;
        out.push(tag);
        put(out, u64::from(number));
        if is_new {
            out.extend_from_slice(&peer.0.to_le_bytes());
        }
        put_signed(out, arrival.arrived_ns.wrapping_sub(self.last_ns));
        if tag & INCARNATION != 0 {
            put(out, u64::from(arrival.incarnation));
        }
        if tag & INTERVAL != 0 {
            put(out, u64::from(arrival.interval));
        }
        if tag & SEQUENCE != 0 {
            put_signed(out, ahead as i32 as u64);
        }
        if tag & SENT != 0 {
            put_signed(out, skew_ns.wrapping_sub(before.skew_ns));
            before.skew_ns = skew_ns;
        }
        before.incarnation = arrival.incarnation;
        before.interval = arrival.interval;
        before.sequence = arrival.sequence;
        self.last_ns = arrival.arrived_ns;
        self.count += 1;
    }

    /// Ends the block and gives its bytes; `dropped` heartbeats had no room since the block before.
    pub fn take(&mut self, dropped: u32, write: impl FnOnce(&[u8])) {
        let len = self.len() as u32;
        self.block[..4].copy_from_slice(&len.to_le_bytes());
        self.block[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.block[8..12].copy_from_slice(&dropped.to_le_bytes());
        let sum = sum_of(&self.block[..12], &self.block[BLOCK_HEADER..]);
        self.block[12..16].copy_from_slice(&sum.to_le_bytes());
        write(&self.block);
        self.block.truncate(BLOCK_HEADER);
        self.count = 0;
    }
}

/// The sum of a header, or of a block with its header.
pub(super) fn sum_of(head: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(body);
    sum.finalize()
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A difference: the nearer to 0, to either side, the shorter.
fn put_signed(out: &mut Vec<u8>, value: u64) {
    put(out, (value << 1) ^ ((value as i64) >> 63) as u64);
}

#[cfg(test)]
mod tests {
    use super::super::{Losses, Trace};
    use super::*;
    use crate::testing::{Rng, seeds};
    use std::collections::BTreeMap;

    /// A recording of random heartbeats, where each block ends, and what went in, by peer.
    fn random(rng: &mut Rng) -> (Vec<u8>, Vec<usize>, BTreeMap<String, Vec<Arrival>>) {
        let mut clock_ns = rng.next() >> rng.below(40);
        let (mut encoder, header) = Encoder::new(7, clock_ns);
        let mut bytes = header.to_vec();
        let mut ends = vec![bytes.len()];
        let mut all: BTreeMap<String, Vec<Arrival>> = BTreeMap::new();
        for step in 0..400u64 {
            let peer = PeerId(rng.below(9).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let odd = rng.one_in(10);
            clock_ns += rng.below(1 << 24);
            let arrival = Arrival {
                arrived_ns: clock_ns - rng.below(clock_ns.min(1 << 20)),
                sent_ns: if odd { rng.next() } else { clock_ns },
                sequence: if odd { rng.next() as u32 } else { step as u32 },
                incarnation: if odd { rng.next() as u32 } else { 4 },
                interval: if odd { rng.next() as u32 } else { 1_000_000 },
                bye: rng.one_in(50),
                maintenance: rng.one_in(50),
                unsequenced: rng.one_in(50),
            };
            encoder.push(peer, &arrival);
            all.entry(peer.to_string()).or_default().push(arrival);
            if rng.one_in(60) {
                encoder.take(2, |block| bytes.extend_from_slice(block));
                ends.push(bytes.len());
            }
        }
        encoder.take(0, |block| bytes.extend_from_slice(block));
        ends.push(bytes.len());
        all.values_mut().for_each(|arrivals| arrivals.sort_by_key(|arrival| arrival.arrived_ns));
        (bytes, ends, all)
    }

    fn by_peer(trace: Trace) -> BTreeMap<String, Vec<Arrival>> {
        trace.peers.into_iter().map(|peer| (peer.name, peer.arrivals)).collect()
    }

    #[test]
    fn what_is_recorded_comes_back() {
        for seed in seeds() {
            let (bytes, ends, all) = random(&mut Rng::new(seed));
            let trace = decode(&bytes).unwrap();
            assert_eq!(trace.losses.dropped, 2 * (ends.len() as u64 - 2), "seed {seed}");
            assert_eq!((trace.losses.torn_bytes, by_peer(trace)), (0, all), "seed {seed}");
        }
    }

    #[test]
    fn a_torn_tail_costs_its_block_and_no_more() {
        let mut rng = Rng::new(1);
        let (bytes, ends, _) = random(&mut rng);
        for cut in HEADER..bytes.len() {
            let whole = ends.iter().rev().find(|end| **end <= cut).unwrap();
            let torn = decode(&bytes[..cut]).unwrap();
            assert_eq!(torn.losses.torn_bytes, (cut - whole) as u64, "cut at {cut}");
            assert_eq!(
                torn.arrivals(),
                decode(&bytes[..*whole]).unwrap().arrivals(),
                "cut at {cut}"
            );
        }
        for cut in 0..HEADER {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let (bytes, ends, _) = random(&mut Rng::new(2));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            match decode(&damaged) {
                Err(_) => assert!(at < HEADER, "byte {at}"),
                Ok(trace) => {
                    let start = *ends.iter().rev().find(|end| **end <= at).unwrap();
                    let left = (bytes.len() - start) as u64;
                    // Where the last block says that it is longer, the file might be cut off.
                    let last = start == ends[ends.len() - 2];
                    let torn = last && at < start + 4 && damaged[at] > bytes[at] && at != start + 3;
                    let Losses { damaged_at, damaged_bytes, torn_bytes, .. } = trace.losses;
                    let expected =
                        if torn { (None, 0, left) } else { (Some(start as u64), left, 0) };
                    let found = (damaged_at, damaged_bytes, torn_bytes);
                    assert_eq!(found, expected, "byte {at}, block from {start}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_and_says_why() {
        let (_, header) = Encoder::new(1, 2);
        assert_eq!(decode(b"peer,seq"), Err(FormatError::Magic));
        assert_eq!(decode(&header[..20]), Err(FormatError::Header));
        let mut newer = header;
        newer[8] = 9;
        assert_eq!(decode(&newer), Err(FormatError::Version(9)));
        assert_eq!(decode(&header), Ok(Trace::default()));
    }

    #[test]
    fn a_steady_heartbeat_takes_ten_bytes() {
        let (mut encoder, _) = Encoder::new(0, 0);
        let mut rng = Rng::new(3);
        for beat in 0..100u32 {
            for peer in 1..=100u64 {
                let arrived_ns =
                    u64::from(beat) * 1_000_000_000 + peer * 10_000_000 + rng.below(200_000);
                let sent_ns = arrived_ns - 300_000 - rng.below(200_000);
                let arrival = Arrival {
                    arrived_ns,
                    sent_ns,
                    sequence: beat,
                    interval: 1_000_000,
                    ..Arrival::default()
                };
                encoder.push(PeerId(peer), &arrival);
            }
        }
        assert!(encoder.len() <= 10 * 10_000, "{} bytes for 10,000", encoder.len());
    }
}
