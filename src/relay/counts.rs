//! What a relay counts. What came in is counted by exactly one of its fates.

use crate::wire::Reject;
use std::fmt;

/// What a relay did so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Datagrams that came in: with the pieces, the sum of the five behind these.
    pub received: u64,
    /// Datagrams that came in BUNDLEs of other relays, but for those that were looped.
    pub pieces: u64,
    /// Of these, BEATs and known HELLOs, each of which became one packed beat.
    pub beats: u64,
    /// Of these, BATCHes, PACKs and BUNDLEs of other relays, which were taken apart.
    pub batches: u64,
    /// Of these, datagrams that were passed on as they came, in a BUNDLE or alone.
    pub passed_on: u64,
    /// Of these, questions, which were answered.
    pub questions: u64,
    /// Of these, dropped ones, by reason in the order of [`Reject::ALL`].
    dropped: [u64; Reject::ALL.len()],
    /// Beats and pieces that it had heard first and that came back to it: relays send in a ring.
    pub looped: u64,
    /// Bytes of the datagrams that came in.
    pub received_bytes: u64,
    /// Beats that were packed.
    pub packed: u64,
    /// PACKs sent, to all monitors alike.
    pub packs: u64,
    /// Datagrams that were passed on in a BUNDLE.
    pub bundled: u64,
    /// BUNDLEs sent, to all monitors alike.
    pub bundles: u64,
    /// Datagrams that were passed on alone.
    pub alone: u64,
    /// Bytes of all datagrams sent, to each monitor.
    pub sent_bytes: u64,
    /// The longest that a beat was held, microseconds.
    pub held_us: u64,
}

impl Counts {
    /// Counts datagrams that the transport dropped because they are longer than any form; how many bytes
    /// they had, nobody knows.
    pub fn overlong(&mut self, datagrams: u64) {
        self.received += datagrams;
        self.dropped[place(Reject::Length)] += datagrams;
    }

    /// Counts a datagram that was dropped.
    pub(super) fn drop(&mut self, reject: Reject) {
        self.dropped[place(reject)] += 1;
    }

    /// How many were dropped for a reason.
    pub fn dropped(&self, reject: Reject) -> u64 {
        self.dropped[place(reject)]
    }

    /// How many were dropped.
    pub fn all_dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Datagrams sent to each monitor, the relay's own heartbeats apart.
    pub fn sent(&self) -> u64 {
        self.packs + self.bundles + self.alone
    }
}

fn place(reject: Reject) -> usize {
    Reject::ALL.iter().position(|other| *other == reject).expect("ALL has all of them")
}

impl fmt::Display for Counts {
    /// One line of `key=value`, for people and scripts; reasons only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { received, beats, batches, passed_on, questions, .. } = self;
        let (bytes, packed, packs) = (self.received_bytes, self.packed, self.packs);
        let (sent, sent_bytes, held_us) = (self.sent(), self.sent_bytes, self.held_us);
        write!(
            f,
            "received={received} received_bytes={bytes} pieces={} beats={beats} batches={batches} \
             passed_on={passed_on} questions={questions} dropped={} packed={packed} packs={packs} \
             bundled={} bundles={} sent={sent} sent_bytes={sent_bytes} held_us={held_us}",
            self.pieces,
            self.all_dropped(),
            self.bundled,
            self.bundles
        )?;
        if self.looped > 0 {
            write!(f, " looped={}", self.looped)?;
        }
        for reject in Reject::ALL.into_iter().filter(|reject| self.dropped(*reject) > 0) {
            write!(f, " {}={}", reject.counter().label(), self.dropped(reject))?;
        }
        Ok(())
    }
}
