//! The relay's core: heartbeats in as at a monitor, fewer and fuller datagrams out. Sans-IO.
//!
//! ```text
//!                 ┌─ QUESTION ─────────────────────────────▶ answered
//!                 ├─ BEAT, HELLO said lately ─┐
//!  datagram ─ guard ─ BATCH, PACK of a relay ─┴─ vouched? ─▶ gathered ── full, or held long enough ─▶ PACK
//!                 ├─ HELLO, BYE, text; not vouched for ────▶ passed on as it came
//!                 └─ wrong ────────────────────────────────▶ dropped and counted
//! ```
//!
//! **No state to lose.** Numbers, status and interval of a beat travel with it, and what is old or
//! came twice is told by the monitor, as ever. What is held is held for [`Relay::new`]'s delay at
//! most; what is remembered of HELLOs only saves bytes.
//!
//! **Ages.** A beat leaves with the time that it was held added to the age that it came with, rounded
//! up. So the monitor counts its silence from when the relay heard it.
//!
//! **Vouching.** A PACK has one tag, the relay's, for all its beats. So a beat is packed only if
//! whoever sent it could have said all that the relay's key can say: if its key covers the relay's.
//! Any other goes on with its own tag, and the monitor judges it. Else a narrow key would speak for
//! everybody through the relay.
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
    Auth, Form, Guard, Heartbeat, Key, Kind, MAX_DATAGRAM, PackEncoder, PeerId, Reject, answer_to,
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
    gathered: PackEncoder,
    /// When the oldest of what is gathered came.
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
            gathered: PackEncoder::new(),
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
        (!self.gathered.is_empty()).then(|| self.since_ns.saturating_add(self.delay_ns))
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
        // Borrowed from the datagram alone, so that the rest of us is free.
        let form = match self.guard.decode(datagram) {
            Ok(form) => form,
            Err(reject) => return self.counts.drop(reject),
        };
        match form {
            Form::Beat(beat) if self.packs(&beat) => {
                self.counts.beats += 1;
                self.gather(&beat, now_ns, outside);
            }
            Form::Hello(beat, _) if self.packs(&beat) && !self.introductions.due(&beat, now_ns) => {
                self.counts.beats += 1;
                self.gather(&beat, now_ns, outside);
            }
            Form::Batch(batch) if self.vouches(batch.key_id()) => {
                self.counts.batches += 1;
                let relay = batch.relay();
                for beat in relay.into_iter().chain(batch.entries()) {
                    self.gather(&beat, now_ns, outside);
                }
            }
            Form::Probe { .. } => self.counts.drop(Reject::Kind),
            Form::Beat(_) | Form::Hello(..) | Form::Batch(_) => {
                // Nobody's words overtake its own earlier ones.
                if let Form::Beat(beat) | Form::Hello(beat, _) = form
                    && self.gathered.holds(beat.peer)
                {
                    self.flush(now_ns, outside);
                }
                self.counts.passed_on += 1;
                self.counts.sent_bytes += datagram.len() as u64;
                outside.forward(datagram);
            }
        }
    }

    /// Sends what is held, if its time has come.
    pub fn flush_if_due(&mut self, now_ns: u64, outside: &mut impl Outside) {
        if self.due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.flush(now_ns, outside);
        }
    }

    /// Sends what is held.
    pub fn flush(&mut self, now_ns: u64, outside: &mut impl Outside) {
        if self.gathered.is_empty() {
            return;
        }
        let held_us = now_ns.saturating_sub(self.since_ns) / 1_000;
        self.counts.held_us = self.counts.held_us.max(held_us);
        self.counts.packed += self.gathered.len() as u64;
        self.counts.packs += 1;
        self.out.clear();
        // The present rounded up and arrivals down: nobody looks younger than it is.
        self.gathered.finish(self.id, now_ns.div_ceil(1_000), &mut self.out);
        if let Some(key) = &self.key {
            key.seal(&mut self.out, 0);
        }
        self.counts.sent_bytes += self.out.len() as u64;
        outside.forward(&self.out);
    }

    /// Whether a heartbeat is one that can be packed, and whose sender is vouched for.
    fn packs(&self, beat: &Heartbeat) -> bool {
        // A line has neither start nor number, and an entry always has both.
        beat.kind == Kind::Beat && beat.sequenced && self.vouches(beat.key_id)
    }

    /// Whether our tag may stand for what was let in by this key.
    fn vouches(&self, key_id: u8) -> bool {
        let own = self.key.as_ref().map(Key::id);
        self.guard.auth == Auth::Off || own.is_none_or(|own| self.guard.keys.covers(key_id, own))
    }

    fn gather(&mut self, beat: &Heartbeat, now_ns: u64, outside: &mut impl Outside) {
        let at_us = now_ns / 1_000;
        if !self.gathered.push(beat, at_us) {
            self.flush(now_ns, outside);
            let fits = self.gathered.push(beat, at_us);
            debug_assert!(fits, "an empty one has room");
            self.since_ns = now_ns;
        } else if self.gathered.len() == 1 {
            self.since_ns = now_ns;
        }
    }
}
