//! The relay's core: heartbeats in as at a monitor, fewer and fuller datagrams out. Sans-IO.
//!
//! ```text
//!                 ┌─ QUESTION ─────────────────────────────▶ answered
//!                 ├─ BEAT, HELLO said lately ─┐
//!  datagram ─ guard ─ BATCH, PACK of a relay ─┴─ vouched? ─▶ packed ───┬─ full, or held long enough ─▶ PACK
//!                 ├─ HELLO, BYE, text; not vouched for ────▶ bundled ──┘                           ─▶ BUNDLE
//!                 └─ wrong ────────────────────────────────▶ dropped and counted
//! ```
//! A BUNDLE of a relay is taken apart, and each of its pieces goes this way.
//!
//! **No state to lose.** Numbers, status and interval of a beat travel with it, and what is old or
//! came twice is told by the monitor, as ever. What is held is held for [`Relay::new`]'s delay at
//! most; what is remembered of HELLOs only saves bytes.
//!
//! **Ages.** A beat leaves with the time that it was held added to the age that it came with, rounded
//! up. So the monitor counts its silence from when the relay heard it.
//!
//! **Vouching.** A PACK has one tag, the relay's, for all its beats. So a beat is packed only if
//! whoever sent it could have said all that the relay's key can say, and the relay all that his can: if
//! both keys cover each other. Any other goes on in a BUNDLE with its own tag, and the monitor judges it.
//! Else a narrow key would speak for everybody through the relay.
//!
//! **Who heard it.** A peer's parent is the relay that heard it first. So what another relay heard goes on
//! under that one's name; and what comes back under ours has gone round in a ring of relays, and ends here.
//!
//! Absent on purpose: sockets, clocks, the relay's own heartbeats, and peers.

mod counts;
mod introductions;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use counts::Counts;

use crate::wire::{
    Auth, Batch, Bundle, BundleEncoder, Form, Guard, Heartbeat, Key, Kind, MAX_DATAGRAM,
    PackEncoder, PeerId, Piece, Reject, answer_to,
};
use introductions::Introductions;

/// What a relay does to the world.
pub trait Outside {
    /// Sends a datagram to every monitor.
    fn forward(&mut self, datagram: &[u8]);
    /// Sends a datagram to whoever sent the one at hand.
    fn answer(&mut self, datagram: &[u8]);
}

/// A relay. Times are monotonic nanoseconds. See the module.
pub struct Relay {
    id: PeerId,
    delay_ns: u64,
    key: Option<Key>,
    guard: Guard,
    /// What is held. Of one peer only one of the two has anything.
    pack: PackEncoder,
    bundle: BundleEncoder,
    /// When the oldest of what is held came.
    since_ns: u64,
    introductions: Introductions,
    counts: Counts,
    /// Kept to be used again: a heartbeat allocates nothing.
    out: Vec<u8>,
}

impl Relay {
    /// A relay that is this peer, holds no beat longer than `delay_ns`, tags by `key`, and lets in
    /// what `guard` lets in. The guard has that key, too, if it has any.
    pub fn new(id: PeerId, delay_ns: u64, key: Option<Key>, guard: Guard) -> Relay {
        Relay {
            id,
            delay_ns,
            key,
            guard,
            pack: PackEncoder::new(),
            bundle: BundleEncoder::new(),
            since_ns: 0,
            introductions: Introductions::default(),
            counts: Counts::default(),
            out: Vec::with_capacity(MAX_DATAGRAM),
        }
    }

    /// Replaces the guard.
    pub fn set_guard(&mut self, guard: Guard) {
        self.guard = guard;
    }

    /// What it did so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// When [`flush`](Self::flush) is due; `None` while nothing is held.
    pub fn due_ns(&self) -> Option<u64> {
        (!self.is_empty()).then(|| self.since_ns.saturating_add(self.delay_ns))
    }

    /// Takes a datagram in that came at `now_ns`.
    pub fn datagram(&mut self, datagram: &[u8], now_ns: u64, outside: &mut impl Outside) {
        self.counts.received += 1;
        self.counts.received_bytes += datagram.len() as u64;
        self.out.clear();
        if let Some(answered) = answer_to(datagram, &self.guard, &mut self.out) {
            match answered {
                Ok(()) => {
                    self.counts.questions += 1;
                    outside.answer(&self.out);
                }
                Err(reject) => self.counts.drop(reject),
            }
            return;
        }
        let piece = Piece { datagram, age_us: 0, relay: None };
        // Borrowed from the datagram alone, so that the rest of us is free.
        match self.guard.decode(datagram) {
            Ok(Form::Bundle(bundle)) => {
                self.counts.batches += 1;
                self.bundle(&bundle, now_ns, outside);
            }
            Ok(form) => self.form(&form, &piece, now_ns, outside),
            Err(reject) => self.counts.drop(reject),
        }
    }

    /// Takes the pieces of another relay's BUNDLE in.
    fn bundle(&mut self, bundle: &Bundle<'_>, now_ns: u64, outside: &mut impl Outside) {
        for piece in bundle.pieces() {
            if self.has_come_back(piece.relay) {
                continue;
            }
            self.counts.pieces += 1;
            match self.guard.decode(piece.datagram) {
                Ok(form) if self.guard.believes(bundle.key_id(), form.key_id()) => {
                    self.form(&form, &piece, now_ns, outside);
                }
                // What is not believed came to us, and now.
                Ok(form) => {
                    let piece = Piece { relay: None, age_us: 0, ..piece };
                    self.form(&form, &piece, now_ns, outside);
                }
                Err(reject) => self.counts.drop(reject),
            }
        }
    }

    /// Takes a datagram in that may have come in a BUNDLE, and what it says.
    fn form(
        &mut self,
        form: &Form<'_>,
        piece: &Piece<'_>,
        now_ns: u64,
        outside: &mut impl Outside,
    ) {
        match form {
            Form::Beat(beat) if self.packs(beat) => {
                self.counts.beats += 1;
                self.gather(beat, piece, now_ns, outside);
            }
            // Else it would be a beat later on, which says no name.
            Form::Hello(beat, profile) if !profile.matches(beat.peer) => {
                self.counts.drop(Reject::Name);
            }
            Form::Hello(beat, _) if self.packs(beat) && !self.introductions.due(beat, now_ns) => {
                self.counts.beats += 1;
                self.gather(beat, piece, now_ns, outside);
            }
            Form::Beat(beat) | Form::Hello(beat, _) => {
                self.counts.passed_on += 1;
                self.carry(beat.peer, piece, now_ns, outside);
            }
            Form::Batch(batch) if self.vouches(batch.key_id()) => {
                self.counts.batches += 1;
                self.repack(batch, piece, now_ns, outside);
            }
            Form::Batch(_) => {
                self.counts.passed_on += 1;
                self.carry(PeerId(0), piece, now_ns, outside);
            }
            Form::Probe { .. } | Form::Bundle(_) => self.counts.drop(Reject::Kind),
        }
    }

    /// Takes another relay's beats in: its own was heard by whoever heard the datagram, the others by it.
    fn repack(
        &mut self,
        batch: &Batch<'_>,
        piece: &Piece<'_>,
        now_ns: u64,
        outside: &mut impl Outside,
    ) {
        if let Some(relay) = batch.relay() {
            self.gather(&relay, piece, now_ns, outside);
        }
        let through = batch.through().or(piece.relay);
        for (relay, beat) in batch.heard() {
            let relay = relay.or(through);
            if self.has_come_back(relay) {
                continue;
            }
            self.gather(&beat, &Piece { relay, ..*piece }, now_ns, outside);
        }
    }

    /// Says that this peer is a relay, by an empty PACK, so that a monitor knows it before it brings
    /// anybody. Behind its own HELLO.
    pub fn introduce(&mut self, outside: &mut impl Outside) {
        self.out.clear();
        PackEncoder::new().finish(self.id, 0, &mut self.out);
        self.seal();
        outside.forward(&self.out);
    }

    /// Sends what is held, if its time has come.
    pub fn flush_if_due(&mut self, now_ns: u64, outside: &mut impl Outside) {
        if self.due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.flush(now_ns, outside);
        }
    }

    /// Sends what is held.
    pub fn flush(&mut self, now_ns: u64, outside: &mut impl Outside) {
        if self.is_empty() {
            return;
        }
        let held_us = now_ns.saturating_sub(self.since_ns) / 1_000;
        self.counts.held_us = self.counts.held_us.max(held_us);
        // The present rounded up and arrivals down: nobody looks younger than it is.
        let now_us = now_ns.div_ceil(1_000);
        if !self.pack.is_empty() {
            self.counts.packed += self.pack.len() as u64;
            self.counts.packs += 1;
            self.out.clear();
            self.pack.finish(self.id, now_us, &mut self.out);
            self.send_out(outside);
        }
        if !self.bundle.is_empty() {
            self.counts.bundled += self.bundle.len() as u64;
            self.counts.bundles += 1;
            self.out.clear();
            self.bundle.finish(self.id, now_us, &mut self.out);
            self.send_out(outside);
        }
    }

    /// Puts our tag behind what was written, if we have a key.
    fn seal(&mut self) {
        if let Some(key) = &self.key {
            key.seal(&mut self.out, 0);
        }
    }

    /// Sends what was written, with our tag.
    fn send_out(&mut self, outside: &mut impl Outside) {
        self.seal();
        self.counts.sent_bytes += self.out.len() as u64;
        outside.forward(&self.out);
    }

    fn is_empty(&self) -> bool {
        self.pack.is_empty() && self.bundle.is_empty()
    }

    /// Whether it was us who heard this; counted if so.
    fn has_come_back(&mut self, relay: Option<PeerId>) -> bool {
        let is_ours = relay == Some(self.id);
        self.counts.looped += u64::from(is_ours);
        is_ours
    }

    /// Whether a heartbeat is one that can be packed, and whose sender is vouched for.
    fn packs(&self, beat: &Heartbeat) -> bool {
        // A line has neither start nor number, and an entry always has both.
        beat.kind == Kind::Beat && beat.sequenced && self.vouches(beat.key_id)
    }

    /// Whether our tag may stand for what was let in by this key.
    fn vouches(&self, key_id: u8) -> bool {
        let Some(own) = self.key.as_ref().map(Key::id) else { return true };
        let keys = &self.guard.keys;
        self.guard.auth == Auth::Off || keys.covers(key_id, own) && keys.covers(own, key_id)
    }

    /// Holds a beat, which came in this piece, for the next PACK.
    fn gather(
        &mut self,
        beat: &Heartbeat,
        piece: &Piece<'_>,
        now_ns: u64,
        outside: &mut impl Outside,
    ) {
        // Nobody's words overtake its own earlier ones.
        if self.bundle.holds(beat.peer) {
            self.flush(now_ns, outside);
        }
        let age_us = beat.age_us.saturating_add(piece.age_us);
        let (beat, at_us) = (Heartbeat { age_us, ..*beat }, now_ns / 1_000);
        if self.is_empty() {
            self.since_ns = now_ns;
        }
        if !self.pack.push(&beat, piece.relay, at_us) {
            self.flush(now_ns, outside);
            self.since_ns = now_ns;
            let fits = self.pack.push(&beat, piece.relay, at_us);
            debug_assert!(fits, "an empty one has room");
        }
    }

    /// Holds a peer's datagram for the next BUNDLE, or passes it on if it is too large for one.
    fn carry(&mut self, peer: PeerId, piece: &Piece<'_>, now_ns: u64, outside: &mut impl Outside) {
        if self.pack.holds(peer) {
            self.flush(now_ns, outside);
        }
        if self.is_empty() {
            self.since_ns = now_ns;
        }
        if self.bundle.push(peer, piece, now_ns / 1_000) {
            return;
        }
        self.flush(now_ns, outside);
        self.since_ns = now_ns;
        if self.bundle.push(peer, piece, now_ns / 1_000) {
            return;
        }
        self.counts.alone += 1;
        self.counts.sent_bytes += piece.datagram.len() as u64;
        outside.forward(piece.datagram);
    }
}
