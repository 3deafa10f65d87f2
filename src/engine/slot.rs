//! One peer's record: two cache lines of atomic words behind a seqlock.
//!
//! ```text
//!  hot   0 peer        8 last_seen   16 last: start, number    24 mask, beats
//!       32 interval, version         40 arrivals: lag, mean     48 spread, extra
//!       56 tags: state, pending, status, sequenced, key, samples, group
//!  cold 64 since       72 first_seen  80 gaps, duplicates       88 reordered, restarts
//!       96 stale, digest             104 parent, report_no     112 alive since
//!      120 other way, when
//! ```
//!
//! What a heartbeat reads and writes is in the first line, so a heartbeat costs one cache miss here.
//! The second holds what changes when something is wrong. The interval is kept as its wire code, in
//! half the room.
//!
//! **Who may do what.** The owner alone writes, always through [`Slot::write`], whose guard holds
//! the seqlock; it reads its own words as they are. Anybody else copies the whole record
//! ([`TableView::read`](super::table::TableView::read)) and gets it as it was between two writes.
//!
//! **All zero is a free slot**: state `Unknown`, version at rest. So a fresh mapping is a region of
//! free slots, and every pattern of bytes is some record: nothing in a file can be undefined
//! behaviour.

mod data;

pub use self::data::SlotData;
use super::detector::Arrivals;
use super::groups::{MAX_GROUPS, Standing};
#[cfg(not(loom))]
use super::region::Words;
#[cfg(not(loom))]
pub use super::slots::Mapping;
pub use super::slots::{Kept, Reserve, ShardMemory, SlotRegion, Slots};
use super::transition::{PeerState, Reason};
use crate::sync::outliving::{AtomicU32, AtomicU64, fence};
use crate::sync::seqlock::{Version, Write};
use crate::wire::{PeerId, Status, decode_interval, encode_interval};
use std::fmt;
use std::sync::atomic::Ordering;

/// Which bit of the tags' word a byte of it begins at.
mod tag {
    pub(super) const STATE: u32 = 0;
    pub(super) const PENDING: u32 = 8;
    /// The two lowest bits; above them [`SILENCED`] and [`WITNESS`].
    pub(super) const STATUS: u32 = 16;
    /// The lowest bit; above it the mark of the way.
    pub(super) const SEQUENCED: u32 = 24;
    pub(super) const KEY: u32 = 32;
    pub(super) const SAMPLES: u32 = 40;
    /// Two bytes; the highest bit is [`ASSIGNED`].
    pub(super) const GROUP: u32 = 48;
    /// The bit of the status byte that says that its peer is silenced.
    pub(super) const SILENCED: u8 = 4;
    /// The bit of the status byte that says that the next heartbeat is wanted as a witness.
    pub(super) const WITNESS: u8 = 8;
    /// The bit of the group's two bytes that says that the control plane has told the group.
    pub(super) const ASSIGNED: u16 = 1 << 15;
}

const _: () =
    assert!(MAX_GROUPS <= tag::ASSIGNED as usize, "a group's number leaves the bit alone");

/// One peer's record, shared. See the module for who may do what.
#[derive(Default)]
#[repr(C, align(128))]
pub struct Slot {
    // The hot line.
    peer: AtomicU64,
    last_seen_ns: AtomicU64,
    /// The sender's start in the low half, its last sequence number in the high one: in one word, since a
    /// number means nothing beside another start, and a kill parts what is in two.
    last: AtomicU64,
    seen_mask: AtomicU32,
    heartbeats: AtomicU32,
    interval_code: AtomicU32,
    version: Version,
    /// The words of [`Arrivals`], as the bits of each f32.
    arrivals: [AtomicU32; 4],
    /// Eight bytes of small things in one word, so that all can be compared at once: [`tag`].
    tags: AtomicU64,
    // The cold line.
    since_ns: AtomicU64,
    first_seen_ns: AtomicU64,
    gaps: AtomicU32,
    duplicates: AtomicU32,
    reordered: AtomicU32,
    restarts: AtomicU32,
    stale: AtomicU32,
    profile_digest: AtomicU32,
    parent: AtomicU32,
    report_no: AtomicU32,
    alive_since_ns: AtomicU64,
    other_way: AtomicU32,
    other_way_at: AtomicU32,
}

// loom's version word is larger; its builds never lay slots over mapped memory.
#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Slot>() == 128);
    assert!(std::mem::offset_of!(Slot, since_ns) == 64);
};

// SAFETY: atomics of std, and `Version`, which is a transparent one; all plain integers inside.
#[cfg(not(loom))]
unsafe impl Words for Slot {}

/// Getters on the slot and setters on its writer, for words that are stored as they are.
macro_rules! plain_words {
    ($($(#[$doc:meta])* $get:ident, $set:ident: $type:ty;)*) => {
        impl Slot {
            $(
                $(#[$doc])*
                #[inline]
                pub fn $get(&self) -> $type {
                    // Relaxed: the owner reads what it wrote itself; a reader's copy is ordered by
                    // the seqlock around it.
                    self.$get.load(Ordering::Relaxed)
                }
            )*
        }
        impl SlotWriter<'_> {
            $(
                $(#[$doc])*
                #[inline]
                pub fn $set(&mut self, value: $type) {
                    // Relaxed: ordered by the version's Release fence before and its Release store
                    // behind, which pair with the reader's Acquire side.
                    self.slot.$get.store(value, Ordering::Relaxed);
                }
            )*
        }
    };
}

plain_words! {
    /// Last heartbeat, monotonic ns.
    last_seen_ns, set_last_seen_ns: u64;
    /// Since when it is in its state, monotonic ns.
    since_ns, set_since_ns: u64;
    /// Since when it is alive, up or suspect, or was last; monotonic ns.
    alive_since_ns, set_alive_since_ns: u64;
    /// First heartbeat, monotonic ns.
    first_seen_ns, set_first_seen_ns: u64;
    /// Which of the 32 sequence numbers up to the last were seen.
    seen_mask, set_seen_mask: u32;
    /// Heartbeats applied, modulo 2^32.
    heartbeats, set_heartbeats: u32;
    /// Digest of the profile that the control plane was given; 0 is none yet.
    profile_digest, set_profile_digest: u32;
    /// Heartbeats missing from the sequence.
    gaps, set_gaps: u32;
    /// Heartbeats that came twice.
    duplicates, set_duplicates: u32;
    /// Heartbeats that came after a later one.
    reordered, set_reordered: u32;
    /// Restarts of the sender.
    restarts, set_restarts: u32;
    /// Heartbeats of an earlier incarnation.
    stale, set_stale: u32;
    /// Its parent's number, 0 for none.
    parent, set_parent: u32;
    /// Another way that its heartbeats come, as a code of `Way`; 0 for none.
    other_way, set_other_way: u32;
    /// Which of its heartbeats, by their count, last came that way, too.
    other_way_at, set_other_way_at: u32;
    /// Its reactor's number for its last transition, modulo 2^32.
    report_no, set_report_no: u32;
}

/// The word for a sender's start and a sequence number; that of the next number is [`NEXT`] more, round the
/// circle too.
#[inline]
fn last_word(incarnation: u32, sequence: u32) -> u64 {
    u64::from(sequence) << 32 | u64::from(incarnation)
}

/// From one sequence number to the next in [`last_word`].
const NEXT: u64 = 1 << 32;

/// The words that stand for something else. Relaxed throughout, for the reasons given above.
impl Slot {
    /// Who.
    #[inline]
    pub fn peer(&self) -> PeerId {
        PeerId(self.peer.load(Ordering::Relaxed))
    }

    /// The sender's start.
    #[inline]
    pub fn incarnation(&self) -> u32 {
        self.last.load(Ordering::Relaxed) as u32
    }

    /// Last sequence number.
    #[inline]
    pub fn last_sequence(&self) -> u32 {
        (self.last.load(Ordering::Relaxed) >> 32) as u32
    }

    /// Whether this number is the next behind the last one, of the same start: one comparison.
    #[inline]
    pub(super) fn is_followed_by(&self, incarnation: u32, sequence: u32) -> bool {
        let next = self.last.load(Ordering::Relaxed).wrapping_add(NEXT);
        next == last_word(incarnation, sequence)
    }

    /// The peer's state; `Unknown` when the slot is free.
    #[inline]
    pub fn state(&self) -> PeerState {
        match PeerState::from_code(self.tag(tag::STATE)) {
            // `Forgotten` is never stored; whatever else a damaged file says is no peer.
            None | Some(PeerState::Forgotten) => PeerState::Unknown,
            Some(state) => state,
        }
    }

    /// A change of state that is decided but could not be reported yet.
    #[inline]
    pub fn pending(&self) -> Option<Reason> {
        // One more than the reason, so that zero is none.
        Reason::from_code(self.tag(tag::PENDING).checked_sub(1)?)
    }

    /// What the sender last said of itself.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_bits(self.tag(tag::STATUS))
    }

    /// Whether an operator has silenced it.
    #[inline]
    pub fn silenced(&self) -> bool {
        self.tag(tag::STATUS) & tag::SILENCED != 0
    }

    /// Whether the next heartbeat that is applied is wanted as a witness, see [`super::conflict`]. No
    /// part of the record.
    #[inline]
    pub(super) fn wants_witness(&self) -> bool {
        self.tag(tag::STATUS) & tag::WITNESS != 0
    }

    /// Which brakes it counts for.
    #[inline]
    pub(super) fn standing(&self) -> Standing {
        let planned = self.silenced() || self.status() == Status::Maintenance;
        Standing { group: self.group(), planned }
    }

    /// Whether a binary form was ever seen.
    #[inline]
    pub fn sequenced(&self) -> bool {
        self.tag(tag::SEQUENCED) & 1 != 0
    }

    /// The mark of the way that its last beat came.
    #[inline]
    pub fn way(&self) -> u8 {
        self.tag(tag::SEQUENCED) >> 1
    }

    /// Key of the last heartbeat.
    #[inline]
    pub fn key_id(&self) -> u8 {
        self.tag(tag::KEY)
    }

    /// Its group's number, 0 for none.
    #[inline]
    pub fn group(&self) -> u16 {
        self.placed() & !tag::ASSIGNED
    }

    /// Whether the control plane has said which group that is, none included.
    #[inline]
    pub fn assigned(&self) -> bool {
        self.placed() & tag::ASSIGNED != 0
    }

    /// Its group's number, 0 for none; `None` when it has not been told yet.
    #[inline]
    pub(super) fn told_group(&self) -> Option<u16> {
        let placed = self.placed();
        (placed != 0).then_some(placed & !tag::ASSIGNED)
    }

    #[inline]
    fn placed(&self) -> u16 {
        (self.tags.load(Ordering::Relaxed) >> tag::GROUP) as u16
    }

    /// Whether it is up, nothing is pending, no witness is wanted, and its last heartbeat had a
    /// sequence number and this status, way and key: one comparison.
    #[inline]
    pub(super) fn is_up_as(&self, status: Status, mark: u8, key_id: u8) -> bool {
        const BYTE: u64 = 0xFF;
        const COMPARED: u64 = BYTE << tag::STATE
            | BYTE << tag::PENDING
            | (BYTE & !(tag::SILENCED as u64)) << tag::STATUS
            | BYTE << tag::SEQUENCED
            | BYTE << tag::KEY;
        let expected = (PeerState::Up as u64) << tag::STATE
            | (status as u64) << tag::STATUS
            | u64::from(mark << 1 | 1) << tag::SEQUENCED
            | u64::from(key_id) << tag::KEY;
        self.tags.load(Ordering::Relaxed) & COMPARED == expected
    }

    /// Whether it is up and nothing is pending: one comparison.
    #[inline]
    pub(super) fn is_plainly_up(&self) -> bool {
        const COMPARED: u64 = 0xFF << tag::STATE | 0xFF << tag::PENDING;
        let up = (PeerState::Up as u64) << tag::STATE;
        self.tags.load(Ordering::Relaxed) & COMPARED == up
    }

    /// Whether its detector has learnt enough, and learns by small steps.
    #[inline]
    pub(super) fn has_learnt(&self) -> bool {
        self.tag(tag::SAMPLES) > Arrivals::WARM
    }

    /// Whether it states this interval, for those of up to 35 minutes; others it may deny.
    #[inline]
    pub(super) fn states_interval(&self, interval_us: u64) -> bool {
        // The code of such an interval is the interval, and that of a longer one larger.
        u64::from(self.interval_code.load(Ordering::Relaxed)) == interval_us
    }

    #[inline]
    fn tag(&self, at: u32) -> u8 {
        (self.tags.load(Ordering::Relaxed) >> at) as u8
    }

    /// The sender's interval as stated, microseconds; 0 is "not stated", and whatever a damaged
    /// file says that is no interval.
    #[inline]
    pub fn interval_us(&self) -> u64 {
        decode_interval(self.interval_code.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// What its detector has learnt.
    #[inline]
    pub fn arrivals(&self) -> Arrivals {
        let [lag_ns, mean_ns, spread, extra] =
            [0, 1, 2, 3].map(|i| f32::from_bits(self.arrivals[i].load(Ordering::Relaxed)));
        Arrivals { lag_ns, mean_ns, spread, extra, samples: self.tag(tag::SAMPLES) }
    }
}

impl SlotWriter<'_> {
    /// Who. Only the table gives a slot to a peer.
    fn set_peer(&mut self, peer: PeerId) {
        self.slot.peer.store(peer.0, Ordering::Relaxed);
    }

    /// The sender's start, and its last sequence number.
    #[inline]
    pub fn set_last(&mut self, incarnation: u32, sequence: u32) {
        self.slot.last.store(last_word(incarnation, sequence), Ordering::Relaxed);
    }

    /// The peer's state. `Unknown` would free the slot behind the table's back, and `Forgotten` is
    /// never stored: neither is allowed.
    #[inline]
    pub fn set_state(&mut self, state: PeerState) {
        debug_assert!(!matches!(state, PeerState::Unknown | PeerState::Forgotten), "{state:?}");
        self.set_tag(tag::STATE, state as u8);
    }

    /// A change of state that is decided but could not be reported yet.
    #[inline]
    pub fn set_pending(&mut self, pending: Option<Reason>) {
        let code = pending.map_or(0, |reason| reason as u8 + 1);
        self.set_tag(tag::PENDING, code);
    }

    /// What the sender last said of itself; a witness is wanted no more.
    #[inline]
    pub fn set_status(&mut self, status: Status) {
        let silenced = self.slot.tag(tag::STATUS) & tag::SILENCED;
        self.set_tag(tag::STATUS, silenced | status as u8);
    }

    /// Whether an operator has silenced it.
    pub fn set_silenced(&mut self, silenced: bool) {
        let bit = if silenced { tag::SILENCED } else { 0 };
        self.set_tag(tag::STATUS, bit | self.slot.status() as u8);
    }

    /// Wants the next heartbeat that is applied as a witness.
    pub(super) fn want_witness(&mut self) {
        let status = self.slot.tag(tag::STATUS);
        self.set_tag(tag::STATUS, status | tag::WITNESS);
    }

    /// Whether a binary form was ever seen. From then on the last number binds, and by the key, it is proven:
    /// set that number before, and the key behind.
    #[inline]
    pub fn set_sequenced(&mut self, sequenced: bool) {
        let way = self.slot.way() << 1;
        // Release: no partner in this process. Who finds the memory after a kill (`recover`) finds neither
        // this nor the key, which is stored behind it in the same word, without the number.
        let value = way | sequenced as u8;
        self.set_tags(tag::SEQUENCED, u8::MAX.into(), value.into(), Ordering::Release);
    }

    /// The mark of the way that its last beat came, 0 to 127.
    pub fn set_way(&mut self, way: u8) {
        let sequenced = self.slot.sequenced() as u8;
        self.set_tag(tag::SEQUENCED, way << 1 | sequenced);
    }

    /// The sender's interval, microseconds, as a heartbeat stated it; 0 is "not stated".
    #[inline]
    pub fn set_interval_us(&mut self, interval_us: u64) {
        self.slot.interval_code.store(encode_interval(interval_us), Ordering::Relaxed);
    }

    /// What its detector has learnt.
    #[inline]
    pub fn set_arrivals(&mut self, arrivals: &Arrivals) {
        let Arrivals { lag_ns, mean_ns, spread, extra, samples } = *arrivals;
        for (word, value) in self.slot.arrivals.iter().zip([lag_ns, mean_ns, spread, extra]) {
            word.store(value.to_bits(), Ordering::Relaxed);
        }
        self.set_tag(tag::SAMPLES, samples);
    }

    /// Key of the last heartbeat.
    #[inline]
    pub fn set_key_id(&mut self, key_id: u8) {
        self.set_tag(tag::KEY, key_id);
    }

    /// Its group's number, 0 for none, and whether the control plane has said so.
    pub fn set_group(&mut self, group: u16, assigned: bool) {
        let placed = group | if assigned { tag::ASSIGNED } else { 0 };
        self.set_tags(tag::GROUP, u16::MAX.into(), placed.into(), Ordering::Relaxed);
    }

    #[inline]
    fn set_tag(&mut self, at: u32, value: u8) {
        self.set_tags(at, u8::MAX.into(), value.into(), Ordering::Relaxed);
    }

    #[inline]
    fn set_tags(&mut self, at: u32, mask: u64, value: u64, order: Ordering) {
        let others = self.slot.tags.load(Ordering::Relaxed) & !(mask << at);
        self.slot.tags.store(others | value << at, order);
    }
}

impl Slot {
    /// Begins a change; what is set becomes visible to readers together, when the writer is dropped.
    /// The owner's only, and one at a time.
    #[inline]
    pub fn write(&self) -> SlotWriter<'_> {
        SlotWriter { slot: self, _write: self.version.write() }
    }

    /// The record, for the owner: a plain copy, with no writer about.
    pub fn data(&self) -> SlotData {
        SlotData {
            peer: self.peer(),
            state: self.state(),
            pending: self.pending(),
            status: self.status(),
            silenced: self.silenced(),
            sequenced: self.sequenced(),
            way: self.way(),
            key_id: self.key_id(),
            profile_digest: self.profile_digest(),
            last_seen_ns: self.last_seen_ns(),
            since_ns: self.since_ns(),
            alive_since_ns: self.alive_since_ns(),
            first_seen_ns: self.first_seen_ns(),
            interval_us: self.interval_us(),
            incarnation: self.incarnation(),
            last_sequence: self.last_sequence(),
            seen_mask: self.seen_mask(),
            heartbeats: self.heartbeats(),
            gaps: self.gaps(),
            duplicates: self.duplicates(),
            reordered: self.reordered(),
            restarts: self.restarts(),
            stale: self.stale(),
            arrivals: self.arrivals(),
            group: self.group(),
            assigned: self.assigned(),
            parent: self.parent(),
            other_way: self.other_way(),
            other_way_at: self.other_way_at(),
            report_no: self.report_no(),
        }
    }

    /// The record, for any thread: as it was between two writes. `None` when the slot is free.
    pub(super) fn read(&self) -> Option<SlotData> {
        let data = self.version.read(|| self.data());
        (data.state != PeerState::Unknown).then_some(data)
    }

    /// Ends a write that was cut off by the end of an earlier process; true when there was one. The
    /// words are then old and new ones side by side, each whole. Which numbers up to the last were seen is
    /// not known then: all of them count as seen.
    pub(super) fn repair(&self) -> bool {
        let torn = self.version.at_rest().is_none();
        if torn {
            self.seen_mask.store(u32::MAX, Ordering::Relaxed);
            // Release fence: no partner in this process. Whoever is killed here leaves a torn slot.
            fence(Ordering::Release);
            self.version.repair();
        }
        torn
    }
}

/// A change of a slot under way: one setter per word. Dropping it publishes what was set.
#[must_use = "nothing is written by beginning to"]
pub struct SlotWriter<'a> {
    slot: &'a Slot,
    _write: Write<'a>,
}

impl SlotWriter<'_> {
    /// Sets the whole record, also to [`SlotData::FREE`]; for the table.
    ///
    /// The state is emptied first and set last, so that a process that is killed in between leaves
    /// a free slot and never a record of two peers.
    pub(super) fn set_data(&mut self, data: &SlotData) {
        self.set_tag(tag::STATE, PeerState::Unknown as u8);
        // Release fence, and the Release store at the end: no partner in this process. They keep the
        // stores in this order for who finds the memory after a kill.
        fence(Ordering::Release);
        self.set_peer(data.peer);
        self.set_pending(data.pending);
        self.set_status(data.status);
        self.set_silenced(data.silenced);
        self.set_sequenced(data.sequenced);
        self.set_way(data.way);
        self.set_key_id(data.key_id);
        self.set_profile_digest(data.profile_digest);
        self.set_last_seen_ns(data.last_seen_ns);
        self.set_since_ns(data.since_ns);
        self.set_alive_since_ns(data.alive_since_ns);
        self.set_first_seen_ns(data.first_seen_ns);
        self.set_interval_us(data.interval_us);
        self.set_last(data.incarnation, data.last_sequence);
        self.set_seen_mask(data.seen_mask);
        self.set_heartbeats(data.heartbeats);
        self.set_gaps(data.gaps);
        self.set_duplicates(data.duplicates);
        self.set_reordered(data.reordered);
        self.set_restarts(data.restarts);
        self.set_stale(data.stale);
        self.set_arrivals(&data.arrivals);
        self.set_group(data.group, data.assigned);
        self.set_parent(data.parent);
        self.set_other_way(data.other_way);
        self.set_other_way_at(data.other_way_at);
        self.set_report_no(data.report_no);
        // The state is empty so far.
        let tags = self.slot.tags.load(Ordering::Relaxed);
        self.slot.tags.store(tags | (data.state as u64) << tag::STATE, Ordering::Release);
    }
}

#[cfg(test)]
impl Slot {
    /// Fills all words with numbers from `draw`, as a damaged file may hold them.
    pub(super) fn scramble(&self, mut draw: impl FnMut() -> u64) {
        let wide = [&self.peer, &self.last_seen_ns, &self.last];
        wide.into_iter().for_each(|word| word.store(draw(), Ordering::Relaxed));
        let more = [&self.since_ns, &self.first_seen_ns, &self.alive_since_ns];
        more.into_iter().for_each(|word| word.store(draw() >> 2, Ordering::Relaxed));
        let narrow = [&self.seen_mask, &self.stale, &self.interval_code];
        let narrow = narrow.into_iter().chain(&self.arrivals);
        narrow.for_each(|word| word.store(draw() as u32, Ordering::Relaxed));
        self.tags.store(draw() & 0x8000_0f0f_0f0f, Ordering::Relaxed);
        if draw() & 1 == 0 {
            std::mem::forget(self.write());
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.data()).finish()
    }
}
