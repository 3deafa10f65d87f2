//! Two senders under one id: a cloned machine, a copied configuration, a job started twice.
//!
//! Whoever signs numbered letters with the date never writes a lower number on a later day. A sender's
//! heartbeats are such letters: number (incarnation, then sequence) and date (`sent`, by its own
//! clock) travel together in the datagram, so no copy, delay or detour on the way can part them. A
//! heartbeat that is refused as old or repeated, and was yet *sent later* than one of a higher
//! number that was applied, or carries the number of that one with another date, has another sender.
//!
//! ```text
//!   refused ──▶ the next applied one is asked to be the witness ──▶ refused: contradicts the witness?
//!                  (a bit in the slot)                              ├─ no:  nothing
//!                                                                   └─ yes: counts, once a witness
//! ```
//!
//! One contradiction may be a clock that was set back, and a few copies that were on their way then.
//! Two senders contradict one another for good, in turns: it takes [`HEARD`] contradictions by one
//! incarnation with rising sequence, each with a heartbeat applied since the one before, over two
//! intervals and over [`DATED_NS`], longer than a network keeps copies apart. A sender that restarts
//! with its clock set back is refused for long, but nobody else is applied meanwhile.
//!
//! A heartbeat that states no date (a relay's entry), or a date by a clock that is behind, shows
//! nothing by it. There an older incarnation has to go on for [`ELDER_NS`] behind the arrival of a
//! newer one. Two of one incarnation are not known without dates.
//!
//! The two are counted apart: of what a relay hands on, one in so many has a date and the rest have
//! none, which is too few to prove it by date and must not break off the other count.
//!
//! Of three senders or more, one of those refused is followed until it is proven or has been silent,
//! then the next.
//!
//! **A place for each slot**, 112 bytes of zeroed memory that is no more than an address until the
//! slot's peer has a heartbeat refused. So nobody takes another's place, and how many are in conflict
//! changes nothing for any of them.

use crate::wire::Heartbeat;
use std::cmp::Ordering;
use zerocopy::FromZeros;

/// Contradictions with a rising sequence that it takes.
const HEARD: u8 = 4;
/// They have to span so many intervals …
const SPAN_INTERVALS: u64 = 2;
/// … and so long, nanoseconds, where dates prove it …
const DATED_NS: u64 = 5_000_000_000;
/// … or so long where an older incarnation alone does: longer than a queue on the way holds the last
/// heartbeats of a sender that was replaced.
const ELDER_NS: u64 = 60_000_000_000;
/// Between two of them are no more than so many intervals, and not much longer: whose clock is set back
/// again and again contradicts itself in spells …
const GAP_INTERVALS: u64 = 8;
/// … or than this, nanoseconds, where intervals are short beside the pauses of a busy machine.
const GAP_NS: u64 = 1_000_000_000;
/// By how much dates have to differ, nanoseconds: a sender that takes the number first and the time a
/// little later, or the time anew for each copy that it sends, is but one …
const SLACK_NS: u64 = 10_000_000;
/// … and by no more than such a part of a short interval.
const SLACK_PART: u64 = 16;
/// A conflict that goes on is said again so often, nanoseconds …
const RENEWED_NS: u64 = 30_000_000_000;
/// … and so long after the last time when it is by another incarnation.
const ANOTHER_NS: u64 = 5_000_000_000;

/// A conflict of a peer with this interval is over when nothing was said of it for so long,
/// nanoseconds: four chances to say it again.
pub fn quiet_ns(interval_ns: u64) -> u64 {
    const CHANCES: u64 = 4;
    let again_ns = RENEWED_NS.max(interval_ns.saturating_mul(GAP_INTERVALS));
    again_ns.saturating_mul(CHANCES)
}

/// What the refusal of a heartbeat brought to light.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// Nothing, and the next heartbeat of this peer that is applied is wanted as a witness.
    WantsWitness,
    /// A second sender; the first time, or that it goes on.
    SecondSender {
        /// It was not known, or not for long.
        is_news: bool,
    },
}

/// What a refused heartbeat shows against the witness.
#[derive(Clone, Copy)]
struct Shown {
    /// Its number and date have another sender.
    by_date: bool,
    /// It is of an older incarnation, and came behind the newer one.
    is_elder: bool,
}

/// The heartbeat that was applied, which those that are refused are held against.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromZeros)]
struct Witness {
    incarnation: u32,
    sequence: u32,
    sent_ns: u64,
    came_ns: u64,
}

/// The contradictions by one incarnation, one after another.
#[derive(Clone, Copy, Default, FromZeros)]
struct Run {
    incarnation: u32,
    /// Of the last of them.
    sequence: u32,
    /// How many they are, up to [`HEARD`].
    heard: u8,
    /// Nothing was applied since the last of them.
    spent: bool,
    first_ns: u64,
    last_ns: u64,
}

/// What is remembered of a slot's peer; all zero is nothing.
#[derive(Clone, Copy, Default, FromZeros)]
struct Place {
    /// Whose it is; a slot may change its peer.
    peer: u64,
    witness: Witness,
    /// Those by date …
    dated: Run,
    /// … and all by older incarnations, dated or not: a relay states the date of few.
    elder: Run,
    /// When it was said last, and of which incarnation.
    told_ns: u64,
    told_incarnation: u32,
    /// There is a witness.
    witnessed: bool,
}

// What architecture.md says of memory.
const _: () = assert!(size_of::<Place>() == 112);

/// What is remembered of all.
pub(super) struct Conflicts(Box<[Place]>);

impl Conflicts {
    /// Of so many slots.
    ///
    /// # Panics
    /// When there is no memory even to be promised.
    pub(super) fn new(slots: u32) -> Conflicts {
        let places = <[Place]>::new_box_zeroed_with_elems(slots as usize);
        Conflicts(places.expect("memory for what is remembered of each slot"))
    }

    /// Takes a numbered heartbeat that was refused, of the peer in slot `index`. `interval_ns` is the
    /// peer's.
    pub(super) fn refused(
        &mut self,
        index: u32,
        beat: &Heartbeat,
        interval_ns: u64,
        now_ns: u64,
    ) -> Found {
        let Some(place) = self.0.get_mut(index as usize) else { return Found::Nothing };
        if place.peer != beat.peer.0 {
            *place = Place { peer: beat.peer.0, ..Place::default() };
        }
        if !place.witnessed || place.dated.spent && place.elder.spent {
            return Found::WantsWitness;
        }
        place.hear(beat, interval_ns, now_ns)
    }

    /// Takes a numbered heartbeat that was applied, of the peer in slot `index`, because a witness is
    /// wanted.
    #[cold]
    pub(super) fn applied(&mut self, index: u32, beat: &Heartbeat, now_ns: u64) {
        let Some(place) = self.0.get_mut(index as usize) else { return };
        if place.peer != beat.peer.0 {
            return;
        }
        // The older witness is the better one where the other sender's clock is behind. One without a
        // date has to do only as long as there is no other.
        if !place.witnessed || place.witness.sent_ns == 0 {
            let Heartbeat { incarnation, sequence, sent_ns, .. } = *beat;
            place.witness = Witness { incarnation, sequence, sent_ns, came_ns: now_ns };
        }
        place.witnessed = true;
        (place.dated.spent, place.elder.spent) = (false, false);
    }
}

impl Place {
    /// Holds a refused heartbeat against the witness.
    fn hear(&mut self, beat: &Heartbeat, interval_ns: u64, now_ns: u64) -> Found {
        let number = self.witness.compare(beat);
        let shown = self.witness.contradicted(number, beat, interval_ns, now_ns);
        let by_date = shown.by_date && self.dated.counts(beat, interval_ns, now_ns);
        let by_elder = shown.is_elder && self.elder.counts(beat, interval_ns, now_ns);
        // Whoever has caught up with the witness needs a newer one.
        self.witnessed = number == Ordering::Less;
        let proven = by_date && self.dated.proves(DATED_NS, interval_ns)
            || by_elder && self.elder.proves(ELDER_NS, interval_ns);
        if proven {
            // Then it is the next one's turn.
            (self.dated.heard, self.elder.heard) = (0, 0);
            let silent_ns = now_ns.saturating_sub(self.told_ns);
            let is_news = self.told_ns == 0 || silent_ns >= quiet_ns(interval_ns);
            let is_another = beat.incarnation != self.told_incarnation;
            let pause_ns = if is_another { ANOTHER_NS } else { RENEWED_NS };
            if is_news || silent_ns >= pause_ns {
                (self.told_ns, self.told_incarnation) = (now_ns.max(1), beat.incarnation);
                return Found::SecondSender { is_news };
            }
        }
        let wanted = !self.witnessed || self.dated.spent || self.elder.spent;
        if wanted { Found::WantsWitness } else { Found::Nothing }
    }
}

impl Run {
    /// Whether a contradiction is one more by the incarnation that is followed, or the first of one
    /// that is followed from now on.
    fn counts(&mut self, beat: &Heartbeat, interval_ns: u64, now_ns: u64) -> bool {
        if self.spent {
            return false;
        }
        let gap_ns = interval_ns.saturating_mul(GAP_INTERVALS).max(GAP_NS);
        if self.heard > 0 && now_ns.saturating_sub(self.last_ns) <= gap_ns {
            let is_followed = beat.incarnation == self.incarnation;
            if !is_followed || serial(beat.sequence, self.sequence) != Ordering::Greater {
                return false;
            }
        } else {
            (self.incarnation, self.heard, self.first_ns) = (beat.incarnation, 0, now_ns);
        }
        (self.sequence, self.last_ns, self.spent) = (beat.sequence, now_ns, true);
        self.heard = (self.heard + 1).min(HEARD);
        true
    }

    /// Whether it is long enough, and spans `least_ns`.
    fn proves(&self, least_ns: u64, interval_ns: u64) -> bool {
        let span_ns = interval_ns.saturating_mul(SPAN_INTERVALS).max(least_ns);
        self.heard >= HEARD && self.last_ns.saturating_sub(self.first_ns) >= span_ns
    }
}

impl Witness {
    /// Where a heartbeat's number is, seen from the witness's.
    fn compare(&self, beat: &Heartbeat) -> Ordering {
        serial(beat.incarnation, self.incarnation).then(serial(beat.sequence, self.sequence))
    }

    /// How a refused heartbeat, whose number is there, contradicts it.
    fn contradicted(
        &self,
        number: Ordering,
        beat: &Heartbeat,
        interval_ns: u64,
        now_ns: u64,
    ) -> Shown {
        let slack_ns = SLACK_NS.min(interval_ns / SLACK_PART);
        let dated = beat.sent_ns != 0 && self.sent_ns != 0;
        let contradicts = match number {
            Ordering::Less => beat.sent_ns.saturating_sub(self.sent_ns) > slack_ns,
            Ordering::Equal => beat.sent_ns.abs_diff(self.sent_ns) > slack_ns,
            Ordering::Greater => false,
        };
        let came_ns = now_ns.saturating_sub(u64::from(beat.age_us) * 1_000);
        let is_older = serial(beat.incarnation, self.incarnation) == Ordering::Less;
        Shown { by_date: dated && contradicts, is_elder: is_older && came_ns > self.came_ns }
    }
}

/// How `a` is to `b` in serial arithmetic (RFC 1982).
fn serial(a: u32, b: u32) -> Ordering {
    (a.wrapping_sub(b) as i32).cmp(&0)
}
