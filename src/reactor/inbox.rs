//! From datagrams to batches: decodes what arrives, keeps what is this reactor's, hands the rest
//! over, and applies it a batch at a time.
//!
//! One `now` per batch, read when the batch is applied: whatever is in it has arrived by then. A time
//! read before would date a heartbeat earlier than it came if the reactor was interrupted in
//! between, and its peer would be judged too soon. No allocation but for a profile that the control
//! plane does not know yet.

use super::mailbox::{Mailbox, Parcel};
use super::{Report, ReportSender};
use crate::clock::Clock;
use crate::engine::admission::{SharedGuard, Source};
use crate::engine::notice::Notice;
use crate::engine::shard::{BATCH, Outlet, Shard};
use crate::engine::table::TableView;
use crate::engine::transition::Transition;
use crate::engine::way::Way;
use crate::io::Waker;
use crate::metrics::{Counter, Counters};
use crate::trace::Tap;
use crate::wire::{
    self, Batch, Bundle, Form, Guard, Heartbeat, OwnedProfile, Piece, Profile, Reject,
};
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use std::sync::Arc;

/// Gathers heartbeats into batches for the shard.
pub struct Inbox {
    me: u32,
    secret: u64,
    /// The guard, without asking for it anew each time: one load tells whether it was replaced.
    guard: Cache<Arc<ArcSwap<Guard>>, Arc<Guard>>,
    /// Where the datagram at hand came from.
    source: Source,
    beats: Vec<Heartbeat>,
    /// Where each of them came from.
    sources: Vec<Source>,
    /// Which way each of them came.
    ways: Vec<Way>,
    /// The ways through the relays of the datagram at hand; kept to be used again.
    of_relays: Vec<Way>,
    profiles: Vec<(usize, OwnedProfile)>,
    /// When a probe in the batch was sent; recorded once the batch is applied.
    probe_sent_ns: Option<u64>,
    counters: Arc<Counters>,
    mailboxes: Arc<[Mailbox]>,
    views: Arc<[TableView]>,
    /// Reactors that were asleep when they were handed something.
    sleepers: Vec<Waker>,
    /// Where what is applied is recorded, if it is.
    tap: Option<Tap>,
}

impl Inbox {
    /// The inbox of reactor `me`, which knows its probes by `secret`.
    pub fn new(
        me: u32,
        secret: u64,
        counters: Arc<Counters>,
        mailboxes: Arc<[Mailbox]>,
        views: Arc<[TableView]>,
    ) -> Inbox {
        Inbox {
            me,
            secret,
            guard: Cache::new(SharedGuard::default()),
            source: 0,
            beats: Vec::with_capacity(BATCH),
            sources: Vec::with_capacity(BATCH),
            ways: Vec::with_capacity(BATCH),
            of_relays: Vec::with_capacity(BATCH),
            profiles: Vec::with_capacity(BATCH),
            probe_sent_ns: None,
            counters,
            sleepers: Vec::with_capacity(mailboxes.len()),
            tap: None,
            mailboxes,
            views,
        }
    }

    /// The same, behind a guard; without one everybody is let in.
    pub fn guarded(mut self, guard: SharedGuard) -> Inbox {
        self.guard = Cache::new(guard);
        self
    }

    /// The same, recorded.
    pub fn recorded(mut self, tap: Option<Tap>) -> Inbox {
        self.tap = tap;
        self
    }

    /// Says where the datagrams that follow came from; 0 is not known.
    #[inline]
    pub fn set_source(&mut self, source: Source) {
        self.source = source;
    }

    /// Takes one datagram in, and applies the batch when it is full.
    #[inline]
    pub fn datagram(
        &mut self,
        datagram: &[u8],
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) {
        match self.guard.load().decode(datagram) {
            Ok(Form::Beat(beat)) => {
                self.beat(beat, Way::Direct, None, clock, shard, reports);
            }
            Ok(Form::Hello(beat, profile)) => {
                // A relay passes on alone what no BUNDLE has room for.
                let fits = datagram.len() <= wire::MAX_PIECE;
                let way = if fits { Way::Direct } else { Way::Unsaid };
                self.beat(beat, way, Some(profile), clock, shard, reports);
            }
            Ok(Form::Batch(batch)) => {
                self.batch(&batch, Way::Direct, 0, clock, shard, reports);
            }
            Ok(Form::Bundle(bundle)) => self.bundle(&bundle, clock, shard, reports),
            Ok(Form::Probe { secret, sent_ns }) if secret == self.secret => {
                self.probe_sent_ns = Some(sent_ns);
            }
            Ok(Form::Probe { .. }) => self.reject(Reject::Kind),
            Err(reject) => self.reject(reject),
        }
    }

    /// Takes a relay's beats in, which came so by this way, and have waited for so long since.
    #[inline]
    fn batch(
        &mut self,
        batch: &Batch<'_>,
        way: Way,
        age_us: u32,
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) {
        if let Some(relay) = batch.relay() {
            self.beat(older(relay, age_us), way, None, clock, shard, reports);
        }
        let mut way_of = |relay| shard.way_through(relay, batch.key_id(), reports);
        let through = batch.through().map_or(Way::Unsaid, &mut way_of);
        let mut others = std::mem::take(&mut self.of_relays);
        others.clear();
        others.extend(batch.relays().map(way_of));
        for (nth, beat) in batch.entries().enumerate() {
            let way = match others.is_empty() {
                true => through,
                false => batch.heard_by(nth).checked_sub(1).map_or(through, |nth| others[nth]),
            };
            self.beat(older(beat, age_us), way, None, clock, shard, reports);
        }
        self.of_relays = others;
    }

    /// Takes in what a relay passes on as it came, piece by piece.
    fn bundle(
        &mut self,
        bundle: &Bundle<'_>,
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) {
        let (key_id, mut last) = (bundle.key_id(), (None, Way::Unsaid));
        for Piece { datagram, age_us, relay } in bundle.pieces() {
            if last.0 != relay {
                let way = relay.map(|relay| shard.way_through(relay, key_id, reports));
                last = (relay, way.unwrap_or_default());
            }
            let guard = self.guard.load();
            let form = match guard.decode(datagram) {
                Ok(form) => form,
                Err(reject) => {
                    self.reject(reject);
                    continue;
                }
            };
            // What is not believed came now, and who knows which way.
            let believed = guard.believes(key_id, form.key_id());
            let (way, age_us) = if believed { (last.1, age_us) } else { (Way::Unsaid, 0) };
            match form {
                Form::Beat(beat) => {
                    self.beat(older(beat, age_us), way, None, clock, shard, reports);
                }
                Form::Hello(beat, profile) => {
                    self.beat(older(beat, age_us), way, Some(profile), clock, shard, reports);
                }
                Form::Batch(batch) => self.batch(&batch, way, age_us, clock, shard, reports),
                Form::Bundle(_) | Form::Probe { .. } => self.reject(Reject::Kind),
            }
        }
    }

    /// Takes a heartbeat in that another reactor received.
    pub fn parcel(
        &mut self,
        parcel: Parcel,
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) {
        let mut beat = parcel.beat;
        let held_us = clock.now_ns().saturating_sub(parcel.arrived_ns) / 1_000;
        beat.age_us = beat.age_us.saturating_add(held_us.min(u32::MAX as u64) as u32);
        if let Some(profile) = parcel.profile {
            self.profiles.push((self.beats.len(), profile));
        }
        self.source = parcel.source;
        self.push(beat, parcel.way, clock, shard, reports);
        self.source = 0;
    }

    /// Applies what has been gathered. Returns when the probe among it was sent, if one was.
    pub fn apply(
        &mut self,
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) -> Option<u64> {
        if !self.beats.is_empty() {
            let (sources, ways) = (&self.sources[..], &self.ways[..]);
            let mut outlet = BatchOutlet { reports, sources, ways, profiles: &mut self.profiles };
            let now_ns = clock.now_ns();
            if let Some(tap) = &self.tap {
                self.counters.add(Counter::RecordDropped, tap.take(&self.beats, now_ns));
            }
            shard.observe(&self.beats, now_ns, &mut outlet);
            self.beats.clear();
            self.sources.clear();
            self.ways.clear();
            self.profiles.clear();
        }
        self.probe_sent_ns.take()
    }

    /// The reactors to wake because they were handed something while they slept.
    pub fn sleepers(&mut self) -> std::vec::Drain<'_, Waker> {
        self.sleepers.drain(..)
    }

    #[inline]
    fn beat(
        &mut self,
        mut beat: Heartbeat,
        way: Way,
        profile: Option<Profile<'_>>,
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) {
        let reactors = self.mailboxes.len() as u32;
        let owner = if reactors == 1 { 0 } else { wire::steer(beat.peer, reactors) };
        let profile = match profile {
            Some(profile) => match self.unknown_profile(&mut beat, profile, owner, shard) {
                Ok(profile) => profile,
                Err(counter) => return self.counters.add(counter, 1),
            },
            None => None,
        };
        if owner != self.me {
            let (arrived_ns, source) = (clock.now_ns(), self.source);
            return self.hand_over(owner, Parcel { beat, arrived_ns, source, way, profile });
        }
        if let Some(profile) = profile {
            self.profiles.push((self.beats.len(), profile));
        }
        self.push(beat, way, clock, shard, reports);
    }

    #[inline]
    fn push(
        &mut self,
        beat: Heartbeat,
        way: Way,
        clock: &impl Clock,
        shard: &mut Shard,
        reports: &mut ReportSender,
    ) {
        self.beats.push(beat);
        self.sources.push(self.source);
        self.ways.push(way);
        if self.beats.len() == BATCH {
            let probe_sent_ns = self.apply(clock, shard, reports);
            self.probe_sent_ns = probe_sent_ns;
        }
    }

    /// Keeps a profile only if the owner's slot does not know it, by the same key; checks the name
    /// and the key's scope only then, so that the hash is not computed for every HELLO.
    #[cold]
    fn unknown_profile(
        &mut self,
        beat: &mut Heartbeat,
        profile: Profile<'_>,
        owner: u32,
        shard: &Shard,
    ) -> Result<Option<OwnedProfile>, Counter> {
        let known = if owner == self.me {
            let table = shard.table();
            table.find(beat.peer).map(|index| {
                let slot = table.slot(index);
                (slot.profile_digest(), slot.key_id())
            })
        } else {
            let slot = self.views[owner as usize].find(beat.peer);
            slot.map(|(_, slot)| (slot.profile_digest, slot.key_id))
        };
        if known == Some((beat.profile_digest, beat.key_id)) {
            beat.profile_digest = 0;
            return Ok(None);
        }
        if !profile.matches(beat.peer) {
            return Err(Reject::Name.counter());
        }
        let guard = self.guard.load();
        if beat.key_id != 0 && !guard.keys.admits(beat.key_id, profile.group) {
            return Err(Counter::KeyScope);
        }
        Ok(Some(OwnedProfile::of(&profile)))
    }

    fn hand_over(&mut self, owner: u32, parcel: Parcel) {
        let mailbox = &self.mailboxes[owner as usize];
        if mailbox.push(parcel).is_err() {
            self.counters.add(Counter::HandOverFull, 1);
            return;
        }
        self.counters.add(Counter::HandedOver, 1);
        if let Some(waker) = mailbox.sleeper() {
            self.sleepers.push(waker.clone());
        }
    }

    #[cold]
    fn reject(&self, reject: Reject) {
        self.counters.add(reject.counter(), 1);
    }
}

/// The same, after so long.
#[inline]
fn older(beat: Heartbeat, age_us: u32) -> Heartbeat {
    Heartbeat { age_us: beat.age_us.saturating_add(age_us), ..beat }
}

/// The shard's outlet while a batch is applied: it knows the batch's profiles.
struct BatchOutlet<'a> {
    reports: &'a mut ReportSender,
    sources: &'a [Source],
    ways: &'a [Way],
    profiles: &'a mut Vec<(usize, OwnedProfile)>,
}

impl Outlet for BatchOutlet<'_> {
    fn has_room(&self) -> bool {
        self.reports.has_room()
    }

    fn source(&self, place: usize) -> Source {
        self.sources[place]
    }

    #[inline]
    fn way(&self, place: usize) -> Way {
        self.ways[place]
    }

    fn transition(&mut self, transition: Transition) {
        self.reports.transition(transition);
    }

    fn notice(&mut self, notice: Notice) {
        self.reports.notice(notice);
    }

    fn profile(&mut self, place: usize, beat: &Heartbeat) -> bool {
        // Searched from the front: profiles come in the order of the batch, and are few.
        let Some(at) = self.profiles.iter().position(|(of, _)| *of == place) else { return false };
        if !self.reports.has_room() {
            return false;
        }
        let (_, profile) = self.profiles.swap_remove(at);
        self.reports.push(Report::Profile { peer: beat.peer, profile });
        true
    }
}
