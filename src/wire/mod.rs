//! The datagram forms: what a heartbeat looks like on the wire, decoded and encoded in one place.
//!
//! `docs/protocol.md` is the specification, with a byte drawing and test vectors.

use std::fmt;

/// A peer's identity on the wire and in the table: the first eight bytes, little-endian, of the
/// SHA-256 digest of its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the sender says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Status {
    /// All is well.
    #[default]
    Ok = 0,
    /// Something wants attention.
    Warn = 1,
    /// It beats, but it does not work.
    Critical = 2,
    /// Planned work.
    Maintenance = 3,
}

/// Whether the heartbeat says "I am alive" or "I am leaving".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// BEAT, HELLO, a BATCH entry or the text form.
    Beat,
    /// BYE: a graceful leave.
    Bye,
}

/// One heartbeat as the engine takes it, whichever form it came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Who beats.
    pub peer: PeerId,
    /// Beat or leave.
    pub kind: Kind,
    /// What the sender says of itself.
    pub status: Status,
    /// False for the text form, which carries neither incarnation nor sequence (both are 0 then).
    pub sequenced: bool,
    /// Key that the tag was made with; 0 is none.
    pub key_id: u8,
    /// The sender's start: tenths of a second since 1970, modulo 2^32 (serial arithmetic, RFC 1982).
    pub incarnation: u32,
    /// Sequence number within the incarnation, modulo 2^32 (serial arithmetic, RFC 1982).
    pub sequence: u32,
    /// The sender's interval in microseconds; 0 is "not stated", the monitor's default holds.
    pub interval_us: u64,
    /// The sender's wall clock at sending, nanoseconds since 1970; 0 is "not stated".
    pub sent_ns: u64,
    /// How long a relay has held it before sending, microseconds.
    pub age_us: u32,
    /// Digest of the profile that came with it (never 0); 0 when it came without one.
    pub profile_digest: u32,
}
