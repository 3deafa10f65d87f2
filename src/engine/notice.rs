//! What the engine finds that is no change of a peer's state: rare, and of interest to an operator.

use super::groups::Scope;
use crate::wire::PeerId;

/// A finding. Times are monotonic nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// So large a share fell silent at once that its members are held as suspect; or no longer so.
    MassSilence {
        /// Of whom.
        scope: Scope,
        /// Held from now on, or released because heartbeats return.
        held: bool,
        /// When.
        at_ns: u64,
        /// How many were suspect then.
        silent: u32,
        /// Of how many that were up or suspect.
        living: u32,
    },
    /// A relay brings heartbeats, and has no number among the parents yet.
    Relay {
        /// Which peer it is.
        relay: PeerId,
    },
    /// Two senders are alive under one id. Said again now and then as long as they are.
    Conflict {
        /// Whose.
        peer: PeerId,
        /// When it was recognised.
        at_ns: u64,
        /// The incarnation that is heard, and the one that beats on beside it: the same or an older.
        incarnations: [u32; 2],
        /// The peer's interval.
        interval_ns: u64,
    },
    /// A time in which the monitor did not look, or did not hear all.
    Blind {
        /// Its beginning.
        from_ns: u64,
        /// Its end.
        to_ns: u64,
        /// False: the reactor did not run. True: datagrams were lost.
        deaf: bool,
    },
}
