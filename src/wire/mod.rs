//! The datagram forms: what a heartbeat looks like on the wire, decoded and encoded in one place.
//!
//! ```text
//!                    first byte
//!  datagram ─┬─ 0xBE ──────────▶ header ─┬─ BEAT, BYE, PROBE   the header is all there is
//!            │                           ├─ HELLO              + profile (name, group, labels)
//!            │                           ├─ BATCH, PACK        + beats of other peers
//!            │                           └─ BUNDLE             + datagrams of other peers
//!            ├─ can start UTF-8 ▶ text                         a line that a shell can send
//!            └─ else ───────────▶ Reject::Magic
//! ```
//!
//! `docs/protocol.md` is the specification, with a byte drawing and test vectors; the tests read
//! the vectors out of it. Three invariants:
//!
//! - Whatever bytes come, [`decode`] neither panics nor allocates: it answers with a [`Form`] that
//!   borrows from the datagram, or with the one [`Reject`] that is counted.
//! - Whatever decodes has been checked to its last byte, so that nothing behind [`Form`] can fail.
//! - No cryptographic hash is computed for a binary form but for its tag. Whether a name belongs to the id in the
//!   header is [`Profile::matches`], which the caller asks only when the profile is new to it. The
//!   text form carries no id, so there the name is hashed.
//!
//! Absent on purpose: sockets, time, the table, and any reply.

mod batch;
mod bundle;
mod digest;
mod header;
mod heartbeat;
mod id;
mod interval;
mod key;
mod pack;
mod profile;
mod question;
mod relays;
mod text;

#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchEncoder};
pub use bundle::{Bundle, BundleEncoder, MAX_PIECE, Piece};
pub use header::{encode_beat, encode_hello, encode_probe};
pub use heartbeat::{Heartbeat, Kind, Status, start_of};
pub use id::{PeerId, steer};
pub use interval::{MAX_INTERVAL_US, MIN_INTERVAL_US, decode_interval, encode_interval};
pub use key::{Auth, Guard, Key, KeySet, Keyring, SECRET};
pub use pack::PackEncoder;
pub use profile::{MAX_GROUP, MAX_KEY, MAX_LABELS, MAX_NAME, MAX_VALUE, OwnedProfile, Profile};
pub use question::{answer_to, encode_question, is_answer};

use crate::metrics::Counter;
use thiserror::Error;

/// Bytes of the largest datagram, tag included: what an Ethernet frame carries without fragments.
pub const MAX_DATAGRAM: usize = 1472;
/// Bytes of the header, which is all of a BEAT, a BYE and a PROBE.
pub const HEADER: usize = 32;
/// Bytes of an authentication tag.
pub const TAG: usize = 16;

/// First byte of every binary form: a UTF-8 continuation byte, which no text starts with.
const MAGIC: u8 = 0xBE;
/// The only version so far.
const VERSION: u8 = 1;
/// Bytes that a form may have before its tag: a tag fits behind every one that is valid without.
const MAX_UNTAGGED: usize = MAX_DATAGRAM - TAG;

/// Why a datagram was dropped. The sender is never told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum Reject {
    /// Shorter than the fixed part of its form.
    #[error("shorter than its form")]
    Runt,
    /// The first byte is neither ours nor the start of UTF-8 text.
    #[error("neither binary nor text")]
    Magic,
    /// A version that we do not speak.
    #[error("unknown version")]
    Version,
    /// A kind that we do not know.
    #[error("unknown kind")]
    Kind,
    /// The length does not match what the form says of itself, or exceeds its maximum.
    #[error("length does not match the form")]
    Length,
    /// A reserved bit or byte is set, the tag flag and the key id contradict each other, or the
    /// peer id is 0.
    #[error("reserved bits set")]
    Reserved,
    /// An interval outside 1 ms to 90 days.
    #[error("interval out of range")]
    Interval,
    /// A name that is empty, not UTF-8, or has control characters.
    #[error("malformed name")]
    Name,
    /// A malformed group or label, too many labels, or a label key twice.
    #[error("malformed group or label")]
    Label,
    /// A line that is not of the text form.
    #[error("malformed text")]
    Text,
    /// Tagged with a key that we do not have.
    #[error("unknown key")]
    UnknownKey,
    /// The tag is not that of these bytes: forged, altered, or made with another secret.
    #[error("wrong tag")]
    BadTag,
    /// Not tagged, where everything has to be.
    #[error("not tagged")]
    Unauthenticated,
}

impl Reject {
    /// All of them.
    pub const ALL: [Reject; 13] = [
        Reject::Runt,
        Reject::Magic,
        Reject::Version,
        Reject::Kind,
        Reject::Length,
        Reject::Reserved,
        Reject::Interval,
        Reject::Name,
        Reject::Label,
        Reject::Text,
        Reject::UnknownKey,
        Reject::BadTag,
        Reject::Unauthenticated,
    ];

    /// The counter that it is counted by.
    pub fn counter(self) -> Counter {
        match self {
            Reject::Runt => Counter::DropRunt,
            Reject::Magic => Counter::DropMagic,
            Reject::Version => Counter::DropVersion,
            Reject::Kind => Counter::DropKind,
            Reject::Length => Counter::DropLength,
            Reject::Reserved => Counter::DropReserved,
            Reject::Interval => Counter::DropInterval,
            Reject::Name => Counter::DropName,
            Reject::Label => Counter::DropLabel,
            Reject::Text => Counter::DropText,
            Reject::UnknownKey => Counter::DropKey,
            Reject::BadTag => Counter::DropTag,
            Reject::Unauthenticated => Counter::DropUnauthenticated,
        }
    }
}

/// What a datagram says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form<'a> {
    /// BEAT or BYE, or a text line that says `bye`: one heartbeat, without a profile.
    Beat(Heartbeat),
    /// HELLO or a text line: one heartbeat and who its sender is. Unless [`Profile::matches`] was
    /// asked, a HELLO may carry a name that is not the peer's.
    Hello(Heartbeat, Profile<'a>),
    /// BATCH or PACK: a relay's own heartbeat, if it is a peer, and those of the peers that it heard.
    Batch(Batch<'a>),
    /// BUNDLE: datagrams that a relay passes on as they came, each to be decoded by itself.
    Bundle(Bundle<'a>),
    /// PROBE: what a reactor sends to itself to time the way from the socket.
    Probe {
        /// Proves that the reactor itself sent it.
        secret: u64,
        /// Monotonic nanoseconds at sending, by the reactor's clock.
        sent_ns: u64,
    },
}

impl Form<'_> {
    /// The key by which it is authentic, 0 for none; of a BUNDLE the key of the whole.
    pub fn key_id(&self) -> u8 {
        match self {
            Form::Beat(beat) | Form::Hello(beat, _) => beat.key_id,
            Form::Batch(batch) => batch.key_id(),
            Form::Bundle(bundle) => bundle.key_id(),
            Form::Probe { .. } => 0,
        }
    }
}

/// Decodes a datagram and believes it: a tag is cut off, not verified. [`Guard::decode`] is what a
/// monitor does.
///
/// Nearly all of them are plain BEATs, so that question comes first, small enough to be inlined into
/// the caller's loop: the heartbeat is then built in place, where the general way would hand a large
/// result from function to function (2.7 ns against 16.5, `tests/speed.rs`, on a shared EPYC core).
///
/// # Errors
/// The reason why it is to be dropped: the first that applies, in the order that
/// `docs/protocol.md` states.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Form<'_>, Reject> {
    static EVERYBODY: std::sync::LazyLock<Guard> = std::sync::LazyLock::new(Guard::default);
    match header::plain_beat(datagram) {
        Some(heartbeat) => Ok(Form::Beat(heartbeat)),
        None => decode_any(datagram, &EVERYBODY),
    }
}

#[inline(never)]
fn decode_any<'a>(datagram: &'a [u8], guard: &Guard) -> Result<Form<'a>, Reject> {
    match datagram.first() {
        Some(&MAGIC) => header::decode(datagram, guard),
        Some(0x00..=0x7F | 0xC2..=0xF4) => text::decode(datagram, guard),
        Some(_) => Err(Reject::Magic),
        None => Err(Reject::Runt),
    }
}
