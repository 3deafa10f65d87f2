//! The 32 bytes that every binary form starts with, and the forms that consist of nothing else.
//!
//! ```text
//!    0        1        2        3        4        5        6        7
//!  ┌────────┬────────┬────────┬────────┬────────┬────────┬────────┬────────┐
//!  │  0xBE  │ver kind│ flags  │ key id │       interval code (u32)         │  0
//!  ├────────┴────────┴────────┴────────┴───────────────────────────────────┤
//!  │                      peer id (u64)                                    │  8
//!  ├───────────────────────────────────┬───────────────────────────────────┤
//!  │         incarnation (u32)         │          sequence (u32)           │ 16
//!  ├───────────────────────────────────┴───────────────────────────────────┤
//!  │                      sent (u64)                                       │ 24
//!  └───────────────────────────────────────────────────────────────────────┘
//! ```

use super::batch::Batch;
use super::bundle::Bundle;
use super::key::{Guard, Keyring};
use super::{
    Form, HEADER, Heartbeat, Kind, MAGIC, PeerId, Profile, Reject, Status, TAG, VERSION,
    decode_interval, encode_interval,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

const BEAT: u8 = 1;
const HELLO: u8 = 2;
const BYE: u8 = 3;
pub(super) const BATCH: u8 = 4;
pub(super) const PACK: u8 = 5;
pub(super) const QUESTION: u8 = 6;
pub(super) const ANSWER: u8 = 7;
pub(super) const BUNDLE: u8 = 8;
const PROBE: u8 = 15;

const STATUS_BITS: u8 = 0b0000_0011;
const TAGGED: u8 = 0b1000_0000;

/// The header as it lies in the datagram.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Debug,
)]
#[repr(C)]
pub(super) struct Header {
    magic: u8,
    version_and_kind: u8,
    flags: u8,
    key_id: u8,
    interval: U32,
    peer: U64,
    incarnation: U32,
    sequence: U32,
    sent: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER);

/// The heartbeat of a valid, untagged BEAT; `None` for anything else, which [`decode`] looks into.
#[inline(always)]
pub(super) fn plain_beat(datagram: &[u8]) -> Option<Heartbeat> {
    const FIXED: [u8; 4] = [0xFF, 0xFF, !STATUS_BITS, 0xFF];
    const EXPECTED: [u8; 4] = [MAGIC, VERSION << 4 | BEAT, 0, 0];

    let header = Header::ref_from_bytes(datagram).ok()?;
    let start = [header.magic, header.version_and_kind, header.flags, header.key_id];
    let start = u32::from_ne_bytes(start) & u32::from_ne_bytes(FIXED);
    if start != u32::from_ne_bytes(EXPECTED) || header.peer.get() == 0 {
        return None;
    }
    header.heartbeat(Kind::Beat).ok()
}

/// The heartbeat of a tagged BEAT, or what is wrong with it; `None` for anything else, which
/// [`decode`] looks into.
#[inline(always)]
pub(super) fn tagged_beat(datagram: &[u8], keys: &Keyring) -> Option<Result<Heartbeat, Reject>> {
    let (covered, tag) = datagram.split_last_chunk::<TAG>()?;
    let header = Header::ref_from_bytes(covered).ok()?;
    let start = [header.magic, header.version_and_kind, header.flags & !STATUS_BITS];
    if start != [MAGIC, VERSION << 4 | BEAT, TAGGED] || header.key_id == 0 {
        return None;
    }
    let verified = keys.verify(header.key_id, covered, tag);
    Some(verified.and_then(|()| header.of_peer(Kind::Beat)))
}

/// Says in the header that `datagram` begins with that it is tagged by this key.
pub(super) fn mark_tagged(datagram: &mut [u8], key_id: u8) {
    let (header, _) = Header::mut_from_prefix(datagram).expect("a datagram begins with a header");
    header.flags |= TAGGED;
    header.key_id = key_id;
}

/// Decodes a datagram whose first byte is the magic.
pub(super) fn decode<'a>(datagram: &'a [u8], guard: &Guard) -> Result<Form<'a>, Reject> {
    let (header, body) = Header::ref_from_prefix(datagram).map_err(|_| Reject::Runt)?;
    if header.version_and_kind >> 4 != VERSION {
        return Err(Reject::Version);
    }
    let kind = header.version_and_kind & 0x0F;
    if !matches!(kind, BEAT | HELLO | BYE | BATCH | PACK | BUNDLE | PROBE) {
        return Err(Reject::Kind);
    }
    let (body, key_id) = match header.tagged_by()? {
        Some(key_id) => {
            let (covered, key_id) = guard.open(key_id, datagram)?;
            (&covered[HEADER..], key_id)
        }
        None => {
            // A probe proves itself by its secret.
            if kind != PROBE {
                guard.untagged()?;
            }
            (body, 0)
        }
    };
    let header = &Header { key_id, ..*header };
    match kind {
        BEAT => header.alone(Kind::Beat, body).map(Form::Beat),
        BYE => header.alone(Kind::Bye, body).map(Form::Beat),
        HELLO => {
            let mut heartbeat = header.of_peer(Kind::Beat)?;
            let profile = Profile::from_bytes(body)?;
            heartbeat.profile_digest = profile.digest();
            Ok(Form::Hello(heartbeat, profile))
        }
        BATCH => Batch::decode(header, body).map(Form::Batch),
        PACK => Batch::unpack(header, body).map(Form::Batch),
        BUNDLE => Bundle::decode(header, body).map(Form::Bundle),
        _ => header.probe(body),
    }
}

/// A BEAT, or a BYE if the heartbeat is one. Age, key and profile do not travel in it.
pub fn encode_beat(heartbeat: &Heartbeat) -> [u8; HEADER] {
    let kind = match heartbeat.kind {
        Kind::Beat => BEAT,
        Kind::Bye => BYE,
    };
    zerocopy::transmute!(Header::new(kind, heartbeat))
}

/// Appends a HELLO to `out`. The heartbeat's peer must be the id of the profile's name, or the
/// monitor drops it.
pub fn encode_hello(heartbeat: &Heartbeat, profile: &Profile<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(Header::new(HELLO, heartbeat).as_bytes());
    profile.to_bytes(out);
}

/// A PROBE, from a reactor to itself. `token` is any id that is steered to it, `secret` proves that
/// it was the sender, `sent_ns` is its monotonic clock.
pub fn encode_probe(token: PeerId, secret: u64, sent_ns: u64) -> [u8; HEADER] {
    zerocopy::transmute!(Header {
        magic: MAGIC,
        version_and_kind: VERSION << 4 | PROBE,
        flags: 0,
        key_id: 0,
        interval: U32::ZERO,
        peer: U64::new(token.0),
        incarnation: U32::new(secret as u32),
        sequence: U32::new((secret >> 32) as u32),
        sent: U64::new(sent_ns),
    })
}

impl Header {
    /// An untagged header that says what the heartbeat says.
    pub(super) fn new(kind: u8, heartbeat: &Heartbeat) -> Header {
        Header {
            magic: MAGIC,
            version_and_kind: VERSION << 4 | kind,
            flags: heartbeat.status as u8,
            key_id: 0,
            interval: U32::new(encode_interval(heartbeat.interval_us)),
            peer: U64::new(heartbeat.peer.0),
            incarnation: U32::new(heartbeat.incarnation),
            sequence: U32::new(heartbeat.sequence),
            sent: U64::new(heartbeat.sent_ns),
        }
    }

    /// An untagged header of a kind that speaks for no peer.
    pub(super) fn anonymous(kind: u8) -> Header {
        Header::naming(kind, PeerId(0))
    }

    /// An untagged header that names a peer and says nothing of it.
    pub(super) fn naming(kind: u8, peer: PeerId) -> Header {
        Header {
            magic: MAGIC,
            version_and_kind: VERSION << 4 | kind,
            peer: U64::new(peer.0),
            ..Header::new_zeroed()
        }
    }

    /// The header of a datagram of this kind.
    pub(super) fn of_kind(kind: u8, datagram: &[u8]) -> Option<&Header> {
        let (header, _) = Header::ref_from_prefix(datagram).ok()?;
        let start = [header.magic, header.version_and_kind];
        (start == [MAGIC, VERSION << 4 | kind]).then_some(header)
    }

    /// The key that it says to be tagged by; `None` when it is not tagged.
    pub(super) fn tagged_by(&self) -> Result<Option<u8>, Reject> {
        let tagged = self.flags & TAGGED != 0;
        if self.flags & !(STATUS_BITS | TAGGED) != 0 || tagged != (self.key_id != 0) {
            return Err(Reject::Reserved);
        }
        Ok(tagged.then_some(self.key_id))
    }

    /// The same, with what another one says of its tag.
    pub(super) fn with_tag_of(self, other: &Header) -> Header {
        Header { flags: other.flags & TAGGED, key_id: other.key_id, ..self }
    }

    /// The same, with these two numbers.
    pub(super) fn with_numbers(self, incarnation: u32, sequence: u32) -> Header {
        Header { incarnation: U32::new(incarnation), sequence: U32::new(sequence), ..self }
    }

    /// Its incarnation and sequence, or what stands in their place.
    pub(super) fn numbers(&self) -> (u32, u32) {
        (self.incarnation.get(), self.sequence.get())
    }

    /// The same as one number.
    pub(super) fn nonce(&self) -> u64 {
        let (low, high) = self.numbers();
        u64::from(high) << 32 | u64::from(low)
    }

    /// The peer that it names, and the key by which it is authentic.
    pub(super) fn names(&self) -> (PeerId, u8) {
        (PeerId(self.peer.get()), self.key_id)
    }

    /// The heartbeat of a form that has nothing behind its header.
    fn alone(&self, kind: Kind, body: &[u8]) -> Result<Heartbeat, Reject> {
        if !body.is_empty() {
            return Err(Reject::Length);
        }
        self.of_peer(kind)
    }

    /// The heartbeat of a form that always speaks for a peer.
    fn of_peer(&self, kind: Kind) -> Result<Heartbeat, Reject> {
        let heartbeat = self.heartbeat(kind)?;
        if heartbeat.peer.0 == 0 { Err(Reject::Reserved) } else { Ok(heartbeat) }
    }

    /// What the header says, peer id 0 included.
    #[inline(always)]
    pub(super) fn heartbeat(&self, kind: Kind) -> Result<Heartbeat, Reject> {
        Ok(Heartbeat {
            peer: PeerId(self.peer.get()),
            kind,
            status: Status::from_bits(self.flags),
            sequenced: true,
            key_id: self.key_id,
            incarnation: self.incarnation.get(),
            sequence: self.sequence.get(),
            interval_us: decode_interval(self.interval.get()).ok_or(Reject::Interval)?,
            sent_ns: self.sent.get(),
            age_us: 0,
            profile_digest: 0,
        })
    }

    fn probe(&self, body: &[u8]) -> Result<Form<'static>, Reject> {
        if !body.is_empty() {
            return Err(Reject::Length);
        }
        if self.flags != 0 || self.interval.get() != 0 {
            return Err(Reject::Reserved);
        }
        Ok(Form::Probe { secret: self.nonce(), sent_ns: self.sent.get() })
    }
}
