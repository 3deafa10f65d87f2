//! Fixed counters: an enum of names and one atomic word each, per reactor.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $variant:ident = $label:literal,)+) => {
        /// Everything that a reactor counts.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $help])+ $variant,)+ }

        impl Counter {
            /// All counters, in their order.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];

            /// Its name in JSON and metrics, without prefix or `_total`.
            pub fn label(self) -> &'static str {
                match self { $(Counter::$variant => $label,)+ }
            }

            /// What it counts, for `# HELP`.
            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

counters! {
    /// Datagrams received, with the monitor's own probes, about 20 a second and reactor.
    Datagrams = "datagrams",
    /// Heartbeats applied to a peer.
    Heartbeats = "heartbeats",
    /// Datagrams dropped: shorter than their form.
    DropRunt = "drop_runt",
    /// Datagrams dropped: first byte is neither ours nor text.
    DropMagic = "drop_magic",
    /// Datagrams dropped: a version that we do not speak.
    DropVersion = "drop_version",
    /// Datagrams dropped: a kind that we do not know.
    DropKind = "drop_kind",
    /// Datagrams dropped: length does not match the form.
    DropLength = "drop_length",
    /// Datagrams dropped: reserved bits set.
    DropReserved = "drop_reserved",
    /// Datagrams dropped: interval out of range.
    DropInterval = "drop_interval",
    /// Datagrams dropped: name empty, too long, not UTF-8, with control characters, or not the id's.
    DropName = "drop_name",
    /// Datagrams dropped: group or labels malformed.
    DropLabel = "drop_label",
    /// Datagrams dropped: the text form is malformed.
    DropText = "drop_text",
    /// Datagrams dropped: tagged with a key that we do not have.
    DropKey = "drop_unknown_key",
    /// Datagrams dropped: the tag is not theirs; forged, altered, or made with another secret.
    DropTag = "drop_bad_tag",
    /// Datagrams dropped: not tagged, with `--auth required`.
    DropUnauthenticated = "drop_unauthenticated",
    /// Heartbeats refused: of an earlier incarnation, or more than 31 numbers back.
    Stale = "stale",
    /// Heartbeats refused: received already.
    Duplicate = "duplicate",
    /// Heartbeats refused: they came after a later one.
    Reordered = "reordered",
    /// Heartbeats found missing when a later one came; one that then comes late is reordered too.
    Gaps = "gaps",
    /// Senders restarted (a new incarnation).
    Restarts = "restarts",
    /// Heartbeats refused: the table is full (`--max-peers`).
    TableFull = "table_full",
    /// Heartbeats refused: not tagged, for a peer that has authenticated.
    Unauthenticated = "unauthenticated",
    /// Heartbeats refused: their key may not speak for the peer, or for the group that they name.
    KeyScope = "key_scope",
    /// Newcomers refused: sent too long ago, or in the future (`--newcomers-fresh`).
    NotFresh = "not_fresh",
    /// Newcomers refused: too many of one source address (`--newcomers-per-source`).
    NewcomersOfSource = "newcomers_of_source",
    /// Newcomers refused: too many by one key (`--newcomers-per-key`).
    NewcomersOfKey = "newcomers_of_key",
    /// BYE for a peer that is not in the table.
    ByeUnknown = "bye_unknown",
    /// Heartbeats handed over to the reactor that owns the peer.
    HandedOver = "handed_over",
    /// Heartbeats lost because the owner's hand-over ring was full.
    HandOverFull = "hand_over_full",
    /// Heartbeats left out of the recording (`--record`): its ring was full, or its file failed.
    RecordDropped = "record_dropped",
    /// Transitions put off because the report ring was full; made later, none is lost.
    ReportsDeferred = "reports_deferred",
    /// Profiles put off because the report ring was full; the next HELLO brings them again.
    ProfilesDeferred = "profiles_deferred",
    /// Datagrams that the kernel dropped because a receive buffer was full.
    KernelDrops = "kernel_drops",
    /// Times that the receive buffers ran out (ENOBUFS) and the receive was armed anew.
    BuffersExhausted = "buffers_exhausted",
    /// Times that a multishot receive ended and was armed anew.
    Rearmed = "rearmed",
    /// Receive errors.
    ReceiveErrors = "receive_errors",
    /// Peers taken over from the process before this one.
    PeersRecovered = "peers_recovered",
    /// Slots of the process before that it had not finished writing; their peers were kept.
    SlotsRepaired = "slots_repaired",
    /// Slots of the process before that could not be taken over.
    SlotsDiscarded = "slots_discarded",
    /// Transitions that the process before had written down and not made; made at the start.
    TransitionsRedone = "transitions_redone",
    /// Times that the reactor did not run when it should have, and peers were granted what it missed.
    Stalls = "stalls",
    /// Nanoseconds for which the reactor did not run.
    BlindNs = "blind_ns",
    /// Nanoseconds in which heartbeats were known to be lost here.
    DeafNs = "deaf_ns",
    /// Verdicts whose deadline was extended for what the monitor missed, or was held.
    Extended = "extended",
    /// Times that so many fell silent at once that they were held as suspect.
    MassSilences = "mass_silences",
    /// Peers found to have a second sender; again if it was over in between.
    Conflicts = "conflicts",
    /// Times round the loop.
    Turns = "turns",
    /// Times that the reactor slept.
    Sleeps = "sleeps",
}

/// One reactor's counters. One writer, any number of readers.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds `n`. Only the reactor that owns the counters calls it.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.0[counter as usize];
        // Relaxed on both sides: one writer, and a reader wants a recent figure, nothing ordered by it.
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a counter that is read off somewhere else (the kernel's drops).
    pub fn set(&self, counter: Counter, value: u64) {
        // Relaxed: as in `add`.
        self.0[counter as usize].store(value, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self, counter: Counter) -> u64 {
        // Relaxed: as in `add`.
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_labels_are_distinct() {
        let counters = Counters::default();
        for (i, &counter) in Counter::ALL.iter().enumerate() {
            counters.add(counter, i as u64 + 1);
        }
        for (i, &counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counters.get(counter), i as u64 + 1, "{}", counter.label());
        }
        let labels: std::collections::HashSet<_> = Counter::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Counter::ALL.len());
    }
}
