//! Recorded arrivals, and what a setting would have made of them.
//!
//! ```text
//!  reactors ─▶ recorder ─▶ FILE (format) ─▶ decode ─┐ Sink
//!                                                   ├─────▶ Trace ─▶ replay ─▶ Quality ─▶ tune ─▶ svg
//!                         CSV ─────────────▶ csv  ──┘   └──────────▶ replay
//! ```
//!
//! Peers do not touch each other, so a trace is held in memory peer by peer, and each is replayed
//! straight through its arrivals; or all are replayed side by side while the file is read, which
//! needs no memory for them. The replay runs the engine's own [`Policy`] and sequence
//! rules, so that what it finds is what the monitor would have done.
//!
//! Absent on purpose: names other than those in the trace, guards against the monitor's own trouble,
//! and the wheel (whose microsecond the replay does not round to).
//!
//! [`Policy`]: crate::engine::Policy

pub mod configure;
mod course;
pub mod csv;
pub mod decode;
pub mod evidence;
pub mod format;
pub mod plot;
pub mod quality;
pub mod recorder;
pub mod replay;
pub mod tune;

pub use decode::DecodeError;
pub use quality::{Percentiles, Quality};
pub use recorder::{Recorder, Tap};
pub use replay::{Replay, replay, replay_file};

use crate::engine::sequence::{Order, Position};
use crate::wire::PeerId;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// One heartbeat as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrival {
    /// When it arrived, nanoseconds of the monitor's monotonic clock, or of the CSV's.
    pub arrived_ns: u64,
    /// When it was sent by the sender's clock, nanoseconds; 0 is "not stated".
    pub sent_ns: u64,
    /// Sequence number within the incarnation.
    pub sequence: u32,
    /// The sender's start.
    pub incarnation: u32,
    /// The sender's interval, as [`encode_interval`](crate::wire::encode_interval) codes it; 0 is
    /// "not stated".
    pub interval: u32,
    /// Whether it says BYE.
    pub bye: bool,
    /// Whether the sender is in maintenance.
    pub maintenance: bool,
    /// Whether it has no sequence number (the text form).
    pub unsequenced: bool,
}

/// All that arrived of one peer, in the order of arrival.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerTrace {
    /// Its id.
    pub id: PeerId,
    /// Its name; its id in hex digits where that is not known.
    pub name: String,
    /// Its heartbeats.
    pub arrivals: Vec<Arrival>,
}

/// A trace: what arrived of all peers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Trace {
    /// The peers, in the order of their first arrival in the file.
    pub peers: Vec<PeerTrace>,
    /// What is not in it.
    pub losses: Losses,
}

/// What a file lacks, or may have wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    /// Heartbeats that the recorder had no room for.
    pub dropped: u64,
    /// Bytes at the end that are no whole block: the recording was cut off.
    pub torn_bytes: u64,
    /// Where the first block is that is whole and wrong.
    pub damaged_at: Option<u64>,
    /// Bytes from there to the end.
    pub damaged_bytes: u64,
    /// Heartbeats of a CSV whose line has no end: if it was cut off, their last number is.
    pub unended_lines: u64,
}

impl Losses {
    fn add(&mut self, other: Losses) {
        self.dropped += other.dropped;
        self.torn_bytes += other.torn_bytes;
        self.damaged_at = self.damaged_at.or(other.damaged_at);
        self.damaged_bytes += other.damaged_bytes;
        self.unended_lines += other.unended_lines;
    }
}

/// A heartbeat with the number of its peer.
pub type Numbered = (u32, Arrival);

/// Most heartbeats that a [`Sink`] is handed at once: few enough that they are still in the nearest cache.
const BATCH: usize = 256;

/// Takes in a trace while it is read.
pub trait Sink {
    /// Whether it looks at [`Arrival::sent_ns`]; otherwise that may be 0.
    const WANTS_SENT: bool = true;

    /// Another peer appears. They are numbered from 0, in this order.
    fn peer(&mut self, id: PeerId, name: String);

    /// The next heartbeats, each with the number of its peer. `false` ends the reading: no more is
    /// wanted, and none comes.
    fn take(&mut self, batch: &[Numbered]) -> bool;
}

/// Gathers heartbeats for a [`Sink`].
struct Gatherer<'a, S> {
    sink: &'a mut S,
    batch: Vec<Numbered>,
    /// The sink wants no more.
    stopped: bool,
}

impl<S: Sink> Gatherer<'_, S> {
    fn new(sink: &mut S) -> Gatherer<'_, S> {
        Gatherer { sink, batch: Vec::with_capacity(BATCH), stopped: false }
    }

    #[inline(always)]
    fn push(&mut self, peer: u32, mut arrival: Arrival) {
        if !S::WANTS_SENT {
            arrival.sent_ns = 0;
        }
        if self.batch.len() == self.batch.capacity() {
            self.hand_on();
        }
        self.batch.push((peer, arrival));
    }

    /// Hands on what has been gathered.
    fn hand_on(&mut self) {
        self.stopped = self.stopped || !self.sink.take(&self.batch);
        self.batch.clear();
    }
}

impl Sink for Trace {
    fn peer(&mut self, id: PeerId, name: String) {
        self.peers.push(PeerTrace { id, name, arrivals: Vec::new() });
    }

    fn take(&mut self, batch: &[Numbered]) -> bool {
        batch.iter().for_each(|(peer, arrival)| self.peers[*peer as usize].arrivals.push(*arrival));
        true
    }
}

/// Why a trace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no recording.
    #[error("{path} {cause}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        cause: format::FormatError,
    },
    /// It is no CSV either.
    #[error("{path}: {cause}")]
    Csv {
        /// The file.
        path: String,
        /// What is wrong, and in which line.
        cause: csv::CsvError,
    },
}

impl Trace {
    /// Reads a file, whether a recording or CSV; its first bytes tell.
    ///
    /// # Errors
    /// It cannot be read, or is neither.
    pub fn open(path: &Path) -> Result<Trace, TraceError> {
        let mut trace = Trace::default();
        trace.losses = read(path, &mut trace)?;
        trace.sort();
        Ok(trace)
    }

    /// Puts another trace's heartbeats to this one's: peers of the same id are the same.
    pub fn append(&mut self, other: Trace) {
        let mut places: HashMap<PeerId, usize> =
            self.peers.iter().enumerate().map(|(place, peer)| (peer.id, place)).collect();
        for mut peer in other.peers {
            match places.get(&peer.id) {
                Some(&place) => self.peers[place].arrivals.append(&mut peer.arrivals),
                None => {
                    places.insert(peer.id, self.peers.len());
                    self.peers.push(peer);
                }
            }
        }
        self.losses.add(other.losses);
        self.sort();
    }

    /// Heartbeats of all peers.
    pub fn arrivals(&self) -> u64 {
        self.peers.iter().map(|peer| peer.arrivals.len() as u64).sum()
    }

    /// For each peer the interval of its heartbeats that state none, microseconds: the one given, or
    /// one that is estimated; 0 where all state theirs.
    pub fn intervals_us(&self, given_us: Option<u64>) -> Vec<u64> {
        let of = |peer: &PeerTrace| match given_us {
            Some(us) => us,
            None if peer.arrivals.iter().all(|arrival| arrival.interval != 0) => 0,
            None => peer.estimate_interval_us(),
        };
        self.peers.iter().map(of).collect()
    }

    /// Puts each peer's heartbeats in the order of arrival; those of one instant stay as they are.
    pub fn sort(&mut self) {
        for peer in &mut self.peers {
            if !peer.arrivals.is_sorted_by_key(|arrival| arrival.arrived_ns) {
                peer.arrivals.sort_by_key(|arrival| arrival.arrived_ns);
            }
        }
    }
}

/// The path that means stdin.
pub const STDIN: &str = "-";

/// Reads a file, or stdin by the name `-`, whether a recording or CSV, into `sink`; its first bytes tell
/// which it is.
///
/// # Errors
/// It cannot be read, or is neither.
pub fn read(path: &Path, sink: &mut impl Sink) -> Result<Losses, TraceError> {
    let is_stdin = path == Path::new(STDIN);
    let name = || if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
    let unreadable = |cause| TraceError::Unreadable { path: name(), cause };
    let input: Box<dyn Read> = match is_stdin {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(File::open(path).map_err(unreadable)?),
    };
    let mut file = BufReader::with_capacity(1 << 18, input);
    // A look before the file is read: whatever else it is, it may be without end.
    if format::is_recording(file.fill_buf().map_err(unreadable)?) {
        decode::read(file, sink).map_err(|error| match error {
            DecodeError::Format(cause) => TraceError::Format { path: name(), cause },
            DecodeError::Read(cause) => unreadable(cause),
        })
    } else {
        csv::read_into(file, sink).map_err(|cause| TraceError::Csv { path: name(), cause })
    }
}

/// Follows one peer's sequence: which of its heartbeats prove that it lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Follower(Option<Position>);

impl Follower {
    /// Takes a heartbeat if it is the very next, as most are; says whether it is.
    #[inline(always)]
    pub(crate) fn take_next(&mut self, arrival: &Arrival) -> bool {
        match &mut self.0 {
            _ if arrival.unsequenced => true,
            Some(position) => position.take_next(arrival.incarnation, arrival.sequence),
            None => false,
        }
    }

    /// What a heartbeat is in the light of those before it, as the shard takes it.
    #[inline]
    pub(crate) fn take(&mut self, arrival: &Arrival) -> Order {
        if arrival.unsequenced {
            return Order::Newer { missing: 0 };
        }
        match &mut self.0 {
            Some(position) => position.take(arrival.incarnation, arrival.sequence),
            none => {
                *none = Some(Position::start(arrival.incarnation, arrival.sequence));
                Order::Newer { missing: 0 }
            }
        }
    }
}

/// The id that a name in a trace stands for: its own, if it is one in hex digits.
fn id_of(name: &str) -> PeerId {
    PeerId::from_hex(name).unwrap_or_else(|| PeerId::of(name))
}

impl PeerTrace {
    /// What arrived of a peer of this name, or with this id if the name is one in hex digits.
    pub fn new(name: String, arrivals: Vec<Arrival>) -> PeerTrace {
        PeerTrace { id: id_of(&name), name, arrivals }
    }

    /// The interval at which the peer beats, microseconds, as its first [`ESTIMATED_FROM`] arrivals show
    /// it: the median time from one heartbeat to the next, a gap divided by the numbers that it spans. 0
    /// when there are not two heartbeats.
    pub fn estimate_interval_us(&self) -> u64 {
        estimate_interval_us(&self.arrivals)
    }
}

/// Arrivals from which an interval is estimated: so many that jitter falls out of their median, and so
/// few that they can be kept until then.
pub const ESTIMATED_FROM: usize = 512;

fn estimate_interval_us(arrivals: &[Arrival]) -> u64 {
    let mut follower = Follower::default();
    let mut last_ns = None;
    let mut steps_ns = Vec::new();
    for arrival in arrivals.iter().take(ESTIMATED_FROM) {
        match follower.take(arrival) {
            Order::Newer { missing } => {
                if let Some(last_ns) = last_ns {
                    let elapsed_ns = arrival.arrived_ns.saturating_sub(last_ns);
                    steps_ns.push(elapsed_ns / (u64::from(missing) + 1));
                }
            }
            Order::Restart => {}
            Order::Duplicate | Order::Late | Order::Stale => continue,
        }
        last_ns = Some(arrival.arrived_ns);
    }
    if steps_ns.is_empty() {
        return 0;
    }
    let middle = (steps_ns.len() - 1) / 2;
    let (_, median_ns, _) = steps_ns.select_nth_unstable(middle);
    (median_ns.saturating_add(500) / 1_000).max(1)
}

/// Whether what is compiled for AVX2, BMI and POPCNT may be called here: on any x86-64 processor since 2013.
pub(crate) fn is_avx2_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests;
