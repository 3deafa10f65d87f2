//! Who is let in: which key may speak for a peer, and how many newcomers there may be.
//!
//! Asked only when something is out of the ordinary: a peer that has no slot yet, or a heartbeat
//! whose key is not the one that the slot remembers. A heartbeat like the last one never comes here.
//!
//! ```text
//!  heartbeat's key   slot remembers      taken?                          slot remembers then
//!  none              none                –
//!  none              key a               no: it has authenticated        a
//!  b                 none, or a key      if b is unbound, or it is a     b
//!                    that is gone        HELLO of a group that b serves
//!  b                 a                   if b covers a                   b after a HELLO, else a
//!  b                 a relay's, and no   as if there were none
//!                    HELLO came yet
//! ```
//!
//! *Covers*: speaks for all groups that *a* speaks for. A relay's wide key may therefore bring a
//! peer's beats without becoming the peer's key, which would lock the peer's own narrow one out.
//! That a HELLO's group is one of its key's was checked where the group can be read; that the peer's is,
//! by the shard, which takes a remembered key that may no longer speak for it for one that is gone.
//!
//! **Newcomers** are limited by a leaky bucket (GCRA, ITU-T I.371) for each key and each source.
//! Sources are told apart by an opaque number. They are worth asking for only while *all* newcomers
//! together exceed what one source may bring: below that nobody can be above it. So a transport
//! need not look at addresses until [`Admission::wants_sources`] says so.
//!
//! Bounded memory: 256 buckets for keys, 4,096 for sources. Sources that meet in a bucket share
//! its allowance, so that one may be refused for the other's haste until that is over.
//!
//! Absent on purpose: addresses, group names of peers, and any say in whether a tag is right.

use crate::metrics::Counter;
use crate::wire::{Auth, Guard, Heartbeat};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The guard that all reactors share, and that may be replaced while they run.
pub type SharedGuard = Arc<ArcSwap<Guard>>;

/// Where a heartbeat came from, as far as it can be told apart; 0 is "not known".
pub type Source = u32;

/// Buckets for sources, a power of two.
const SOURCES: usize = 4_096;
/// How long sources are asked for after the newcomers were too many.
const EXCESS_NS: u64 = 10_000_000_000;
/// A bucket holds as many newcomers as may come in this time.
const BURST_NS: u64 = 1_000_000_000;
/// How far ahead of our clock a fresh newcomer's may be.
const AHEAD_NS: u64 = 2_000_000_000;

/// How many newcomers there may be. `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewcomerLimits {
    /// A second and source address.
    pub per_source: Option<u32>,
    /// A second and key.
    pub per_key: Option<u32>,
    /// Longest time from an authenticated newcomer's sending to its arrival, by both wall clocks,
    /// nanoseconds.
    pub fresh_ns: Option<u64>,
}

/// One reactor's gate. See the module.
pub struct Admission {
    guard: SharedGuard,
    /// The monotonic clock's zero on the wall clock.
    wall_offset_ns: i64,
    fresh_ns: Option<u64>,
    per_key: Option<Buckets>,
    per_source: Option<Buckets>,
    /// All newcomers together, at what one source may bring.
    all: Option<Buckets>,
    /// Until when sources are asked for.
    excess_until_ns: u64,
}

impl Default for Admission {
    /// Lets everybody in.
    fn default() -> Self {
        Admission::new(SharedGuard::default(), NewcomerLimits::default(), 1)
    }
}

impl Admission {
    /// The gate of one of so many reactors, each of which enforces its share of the limits.
    pub fn new(guard: SharedGuard, limits: NewcomerLimits, reactors: u32) -> Admission {
        let buckets = |rate: Option<u32>, count| {
            rate.map(|rate| Buckets::new(count, rate.max(1), reactors.max(1)))
        };
        Admission {
            guard,
            wall_offset_ns: 0,
            fresh_ns: limits.fresh_ns,
            per_key: buckets(limits.per_key, 1 + usize::from(u8::MAX)),
            per_source: buckets(limits.per_source, SOURCES),
            all: buckets(limits.per_source, 1),
            excess_until_ns: 0,
        }
    }

    /// Says where the monotonic clock's zero is on the wall clock, nanoseconds; now and then, since
    /// the wall clock may be set.
    pub fn set_wall_offset_ns(&mut self, offset_ns: i64) {
        self.wall_offset_ns = offset_ns;
    }

    /// Whether newcomers are so many that their sources matter.
    pub fn wants_sources(&self, now_ns: u64) -> bool {
        now_ns < self.excess_until_ns
    }

    /// Whether a heartbeat may make a peer that is not known.
    ///
    /// # Errors
    /// What counts its refusal.
    pub fn newcomer(
        &mut self,
        beat: &Heartbeat,
        source: Source,
        now_ns: u64,
    ) -> Result<(), Counter> {
        if beat.key_id != 0 {
            let bound = !self.guard.load().keys.is_unbound(beat.key_id);
            if bound && beat.profile_digest == 0 {
                return Err(Counter::KeyScope);
            }
            self.fresh(beat, now_ns)?;
            if let Some(buckets) = &mut self.per_key
                && !buckets.take(beat.key_id.into(), now_ns)
            {
                return Err(Counter::NewcomersOfKey);
            }
        }
        self.limit_source(source, now_ns)
    }

    /// Whether a heartbeat with another key than the one its peer's slot remembers is taken; true if
    /// the slot is to remember the heartbeat's key from now on. `vouched` says that so far only a relay
    /// has spoken for the peer, by the relay's own key.
    ///
    /// # Errors
    /// What counts its refusal.
    #[cold]
    pub fn other_key(
        &self,
        remembered: u8,
        beat: &Heartbeat,
        vouched: bool,
    ) -> Result<bool, Counter> {
        let guard = self.guard.load();
        if guard.auth == Auth::Off {
            return Ok(true);
        }
        if beat.key_id == 0 {
            return Err(Counter::Unauthenticated);
        }
        let hello = beat.profile_digest != 0;
        if vouched && hello || guard.keys.get(remembered).is_none() {
            let may_claim = hello || guard.keys.is_unbound(beat.key_id);
            return if may_claim { Ok(true) } else { Err(Counter::KeyScope) };
        }
        if guard.keys.covers(beat.key_id, remembered) { Ok(hello) } else { Err(Counter::KeyScope) }
    }

    fn fresh(&self, beat: &Heartbeat, now_ns: u64) -> Result<(), Counter> {
        let Some(fresh_ns) = self.fresh_ns else { return Ok(()) };
        let wall_ns = now_ns.saturating_add_signed(self.wall_offset_ns);
        let oldest = wall_ns.saturating_sub(fresh_ns);
        let fresh = (oldest..=wall_ns.saturating_add(AHEAD_NS)).contains(&beat.sent_ns);
        if fresh { Ok(()) } else { Err(Counter::NotFresh) }
    }

    fn limit_source(&mut self, source: Source, now_ns: u64) -> Result<(), Counter> {
        let (Some(all), Some(sources)) = (&mut self.all, &mut self.per_source) else {
            return Ok(());
        };
        let few = all.take(0, now_ns);
        if !few {
            self.excess_until_ns = now_ns + EXCESS_NS;
        }
        let admitted = if source == 0 { few } else { sources.take(source as usize, now_ns) };
        if admitted { Ok(()) } else { Err(Counter::NewcomersOfSource) }
    }
}

/// Leaky buckets: for each, when it will be empty if nothing more is put in.
struct Buckets {
    empty_ns: Vec<u64>,
    /// What one newcomer adds.
    cost_ns: u64,
}

impl Buckets {
    /// `count` empty buckets, a power of two, for a share of `rate` a second.
    fn new(count: usize, rate: u32, shares: u32) -> Buckets {
        let cost_ns = 1_000_000_000 * u64::from(shares) / u64::from(rate);
        Buckets { empty_ns: vec![0; count], cost_ns }
    }

    /// Puts one in; false, and nothing changed, when there is no room.
    fn take(&mut self, which: usize, now_ns: u64) -> bool {
        let bucket = which & (self.empty_ns.len() - 1);
        let empty_ns = self.empty_ns[bucket].max(now_ns);
        // One fits into an empty bucket, however small.
        if empty_ns > now_ns && empty_ns + self.cost_ns > now_ns + BURST_NS {
            return false;
        }
        self.empty_ns[bucket] = empty_ns + self.cost_ns;
        true
    }
}

#[cfg(test)]
mod tests;
