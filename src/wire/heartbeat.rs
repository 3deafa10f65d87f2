//! What a heartbeat means, whichever form it came in.

use super::PeerId;

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

impl Status {
    /// All of them, in the order of their codes on the wire.
    pub const ALL: [Status; 4] = [Status::Ok, Status::Warn, Status::Critical, Status::Maintenance];

    /// The status whose code is in the two lowest bits.
    #[inline]
    pub fn from_bits(bits: u8) -> Status {
        Status::ALL[usize::from(bits & 0b11)]
    }

    /// Its word in the text form, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Critical => "critical",
            Status::Maintenance => "maintenance",
        }
    }

    /// The status of a word; `None` for any other word.
    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }
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

/// The incarnation and the first sequence number of a sender that starts at `wall_ns`, nanoseconds
/// since 1970.
///
/// The sequence starts at the microseconds into the incarnation's tenth of a second, so that of two
/// starts within one tenth the later one still ascends and is not taken for old beats.
pub fn start_of(wall_ns: u64) -> (u32, u32) {
    const TENTH_NS: u64 = 100_000_000;
    ((wall_ns / TENTH_NS) as u32, (wall_ns % TENTH_NS / 1_000) as u32)
}
