//! One turn of the loop.
//!
//! ```text
//! horizon = now
//! if something is due by horizon, we did not look for a while, the journal does not know that we
//! did, or another reactor waits for our watermark:
//!     receive until all that was queued at horizon has been read, and take the mail
//!     tell the shard for how long we did not look, and what was lost
//!     fire what was due by horizon, so many at a time
//! else:
//!     receive once, and take the mail; look after the wheel
//! poll again, or wait
//! ```
//!
//! **What was queued at the horizon.** Receiving until the queue is seen empty would do, but a flood
//! may never let it be empty. So the length of the queue is asked for (one system call a socket,
//! only in turns with a deadline), and that many datagrams are read.

use super::idle::{Idle, Plan};
use super::inbox::Inbox;
use super::mailbox::{MAILBOX_CAPACITY, Mailbox};
use super::watch::Watch;
use super::{Command, ReportSender};
use crate::clock::Clock;
use crate::engine::journal::{Journal, Left};
use crate::engine::shard::{Outlet, Shard};
use crate::io::Backend;
use crate::metrics::{Counter, Counters, HistogramKind, Histograms};
use crossbeam::queue::ArrayQueue;
use std::io;
use std::sync::Arc;

/// Timers fired before the sockets are looked at again: a mass expiry must not make us deaf.
const FIRE_LIMIT: usize = 512;
/// How often a datagram that is queued but not announced is looked for; it takes the kernel some
/// nanoseconds, and a queue that stays so is one whose length is over-estimated.
const UNANNOUNCED_LIMIT: u32 = 64;
/// No new turn is begun when the next deadline is nearer than this: about what a short one takes.
const LAST_STRETCH_NS: u64 = 4_000;
/// Wheel visits a turn in its spare time; at some 10 to 50 ns each they take less than the clearance.
const WEED_VISITS: u32 = 256;
/// No spare-time work when the next deadline is nearer than this.
const WEED_CLEARANCE_NS: u64 = 100_000;
/// How often the transport's own counters are copied.
const HOUSEKEEPING_NS: u64 = 100_000_000;
/// How old the note of our last look may grow while datagrams keep coming: what it lags behind is
/// taken for blindness after a kill, and later detection.
const LOOK_NS: u64 = 5_000_000;
/// How long to wait for the control plane when its ring is full.
const FULL_RING_WAIT_NS: u64 = 200_000;

/// Everything that one reactor thread owns.
pub struct Reactor<B, C> {
    /// Its place among the reactors.
    pub me: usize,
    /// The transport.
    pub backend: B,
    /// The time.
    pub clock: C,
    /// The peers.
    pub shard: Shard,
    /// Where it is noted until when we looked, if that outlives us.
    pub journal: Option<Arc<Journal>>,
    /// Decoding and batching.
    pub inbox: Inbox,
    /// The way to the control plane.
    pub reports: ReportSender,
    /// What the control plane asks.
    pub commands: Arc<ArrayQueue<Command>>,
    /// All mailboxes, ours among them.
    pub mailboxes: Arc<[Mailbox]>,
    /// When to sleep.
    pub idle: Idle,
    /// What we count.
    pub counters: Arc<Counters>,
    /// What we measure.
    pub histograms: Arc<Histograms>,
    /// Which sockets the transport has, see [`identity`](crate::io::sockets::identity); 0 when that
    /// cannot be said.
    pub sockets: u64,
    /// What it knows from its turns so far.
    pub turns: Turns,
}

/// What one turn leaves to the next.
pub struct Turns {
    /// Notices when we did not look or did not hear.
    pub(super) watch: Watch,
    /// True once mail has come: then heartbeats of ours may be in another reactor's sockets.
    pub(super) gets_mail: bool,
    /// Datagrams that our sockets had dropped before they were ours.
    drops_before: u64,
    /// Datagrams that the kernel dropped since, as last read.
    drops: u64,
    /// The same at the sockets of the others, as last asked.
    elsewhere: u64,
    /// Datagrams too long for any form that have been counted so far.
    overlong: u64,
    /// The next deadline as the last turn saw it.
    next_ns: Option<u64>,
    /// When the transport's counters are copied next.
    housekeeping_ns: u64,
}

impl Turns {
    /// None so far.
    pub fn begin(now_ns: u64) -> Turns {
        Turns {
            watch: Watch::new(now_ns),
            gets_mail: false,
            drops_before: 0,
            drops: 0,
            elsewhere: 0,
            overlong: 0,
            next_ns: None,
            housekeeping_ns: 0,
        }
    }

    /// Datagrams that the kernel has dropped at our sockets since they are ours, as last read.
    pub fn drops(&self) -> u64 {
        self.drops
    }
}

impl<B: Backend, C: Clock> Reactor<B, C> {
    /// One turn: everything that there is to do now, without waiting. Returns what to do then.
    ///
    /// # Errors
    /// What ends the transport for good.
    pub fn turn(&mut self) -> io::Result<Plan> {
        let horizon_ns = self.last_stretch();
        self.obey(horizon_ns);

        let received;
        let mail;
        let mut fired = false;
        let mut blocked = false;
        self.turns.watch.look(horizon_ns);
        let asked = self.mailboxes[self.me].take_asked();
        let must_look = self.turns.watch.is_blind() || self.is_looked_for(horizon_ns);
        if self.is_due(horizon_ns) || must_look || asked {
            if self.turns.watch.is_blind() {
                self.shard.catch_up();
            }
            received = self.drain()?;
            mail = self.collect_mail();
            self.mailboxes[self.me].set_watermark_ns(horizon_ns);
            let judged_ns = self.judgeable_ns(horizon_ns);
            let now_ns = self.clock.now_ns();
            self.own_up(now_ns);
            self.shard.advance(judged_ns, now_ns, FIRE_LIMIT, &mut self.reports);
            blocked = !self.reports.has_room();
            fired = true;
        } else {
            // No watermark here: the kernel may have queued what it has not announced yet, and only
            // a drain asks it. Who needs our watermark asks for it.
            received = self.receive()?;
            mail = self.collect_mail();
            self.weed(horizon_ns);
        }
        if fired || received == 0 {
            // The queues were seen empty, or all that they held at the time was read.
            self.looked(horizon_ns);
        }
        self.reports.announce();
        self.wake_others();
        let wants_sources = self.shard.admission().wants_sources(horizon_ns);
        self.backend.tell_sources(wants_sources)?;
        if horizon_ns >= self.turns.housekeeping_ns {
            self.keep_house(horizon_ns);
        }

        self.counters.add(Counter::Turns, 1);
        let now_ns = self.clock.now_ns();
        self.idle.received(received, now_ns);
        if received > 0 || mail > 0 || fired {
            self.histograms.of(HistogramKind::Turn).record(now_ns - horizon_ns);
        }
        let mut next_ns = self.shard.next_deadline_ns(now_ns);
        if blocked {
            next_ns =
                next_ns.map(|due| due.max(now_ns + self.idle.margin_ns() + FULL_RING_WAIT_NS));
        }
        self.turns.next_ns = next_ns;
        Ok(self.idle.plan(now_ns, next_ns))
    }

    /// The process before was last known to look at `looked_ns`: nobody has since. What arrived since
    /// the sockets were bound is still in them, the rest is lost; nothing is if they are the same
    /// sockets, `left` in order, but for what they say that they have dropped. Called once, before the
    /// first turn.
    pub fn was_absent_since(&mut self, looked_ns: u64, left: Option<Left>) {
        let now_ns = self.clock.now_ns();
        let from_ns = looked_ns.min(now_ns);
        self.shard.blind(from_ns, now_ns, &mut self.reports);
        self.shard.catch_up();
        match left {
            Some(left) => {
                self.turns.drops_before = left.drops;
                self.turns.gets_mail = left.gets_mail;
                self.turns.watch.counted_at(from_ns);
            }
            None => self.shard.deaf(from_ns, now_ns, &mut self.reports),
        }
        self.keep_sight();
    }

    /// What the silent are granted must outlive us, or our heir would judge them without.
    fn keep_sight(&self) {
        if let Some(journal) = &self.journal {
            journal.keep_sight(self.shard.sight().windows());
        }
    }

    /// Does as a turn's plan says.
    ///
    /// # Errors
    /// What ends the transport for good.
    pub fn rest(&mut self, plan: Plan) -> io::Result<()> {
        if plan == Plan::Poll || !self.mailboxes[self.me].fall_asleep() {
            return Ok(());
        }
        let Some((until_ns, patience)) = plan.patience(self.clock.now_ns()) else {
            self.mailboxes[self.me].wake_up();
            return Ok(());
        };
        self.turns.watch.sleep(until_ns);
        self.counters.add(Counter::Sleeps, 1);
        let waited = self.backend.wait(patience);
        self.mailboxes[self.me].wake_up();
        let now_ns = self.clock.now_ns();
        self.turns.watch.wake(now_ns);
        if let Some(late_ns) = now_ns.checked_sub(until_ns) {
            self.histograms.of(HistogramKind::WakeUp).record(late_ns);
            self.idle.woken_late(late_ns);
        }
        waited
    }

    /// The time now, or the next deadline's if that is closer than a turn takes: a turn begun before
    /// it would only be in its way.
    fn last_stretch(&self) -> u64 {
        let mut now_ns = self.clock.now_ns();
        if let Some(next_ns) = self.turns.next_ns
            && now_ns < next_ns
            && next_ns - now_ns < LAST_STRETCH_NS
        {
            while now_ns < next_ns {
                std::hint::spin_loop();
                now_ns = self.clock.now_ns();
            }
        }
        now_ns
    }

    /// Prepares the wheel's next cascade, unless a deadline is so near that it would be in the way.
    fn weed(&mut self, now_ns: u64) {
        let next_ns = self.shard.next_deadline_ns(now_ns);
        let clear_ns = now_ns + WEED_CLEARANCE_NS + self.idle.margin_ns();
        if next_ns.is_some_and(|next_ns| next_ns > clear_ns) {
            self.shard.weed(now_ns, WEED_VISITS);
        }
    }

    /// Applies what is queued now, and takes no more out of the sockets. Returns until when all that
    /// arrived has been read.
    ///
    /// # Errors
    /// What ends the transport for good.
    pub fn let_go(&mut self) -> io::Result<u64> {
        let horizon_ns = self.clock.now_ns();
        // One look takes no more than a bounded run of datagrams, and a cancelled receive leaves the
        // rest where it is: without a successor, nobody would ever read it.
        self.drain()?;
        self.backend.let_go();
        while self.receive()? > 0 {}
        Ok(horizon_ns)
    }

    /// Applies what the other reactors have handed over, for the last time, and leaves the sockets, which
    /// were let go of at `horizon_ns`.
    pub fn last_mail(&mut self, horizon_ns: u64) {
        self.collect_mail();
        self.own_up(self.clock.now_ns());
        self.reports.announce();
        self.looked(horizon_ns);
        if let Some(journal) = self.journal.as_ref().filter(|_| self.sockets != 0) {
            let drops = self.turns.drops_before + self.turns.drops;
            journal.leave(Left { sockets: self.sockets, drops, gets_mail: self.turns.gets_mail });
        }
    }

    /// Everything that had arrived by then is applied.
    fn looked(&self, horizon_ns: u64) {
        if let Some(journal) = &self.journal {
            journal.looked(horizon_ns);
        }
    }

    /// Whether it is long ago that everything which had arrived was applied: under steady traffic a
    /// single pass never sees the queues empty.
    fn is_looked_for(&self, horizon_ns: u64) -> bool {
        let is_old = |journal: &Arc<Journal>| horizon_ns > journal.looked_ns() + LOOK_NS;
        self.journal.as_ref().is_some_and(is_old)
    }

    fn is_due(&mut self, horizon_ns: u64) -> bool {
        self.shard.next_deadline_ns(horizon_ns).is_some_and(|due| due <= horizon_ns)
    }

    /// One pass over the sockets. Returns how many datagrams came.
    fn receive(&mut self) -> io::Result<u64> {
        let (inbox, clock) = (&mut self.inbox, &self.clock);
        let (shard, reports) = (&mut self.shard, &mut self.reports);
        let count = self.backend.receive_from(&mut |datagram: &[u8], source| {
            inbox.set_source(source);
            inbox.datagram(datagram, clock, shard, reports);
        })? as u64;
        if count > 0 {
            self.counters.add(Counter::Datagrams, count);
            self.apply();
        }
        Ok(count)
    }

    /// Tells the shard what we did not see and did not hear, before it judges anybody.
    fn own_up(&mut self, now_ns: u64) {
        self.shard.caught_up(now_ns);
        let blind = self.turns.watch.take_blind();
        if let Some((from_ns, to_ns)) = blind {
            self.shard.blind(from_ns, to_ns, &mut self.reports);
        }
        let elsewhere = self.lost_elsewhere();
        if let Some((from_ns, to_ns)) = elsewhere {
            self.shard.deaf(from_ns, to_ns, &mut self.reports);
        }
        let lost = self.turns.watch.lost(self.turns.drops + self.mailboxes[self.me].lost(), now_ns);
        if let Some((from_ns, to_ns)) = lost {
            self.shard.deaf(from_ns, to_ns, &mut self.reports);
        }
        if blind.is_some() || elsewhere.is_some() || lost.is_some() {
            self.keep_sight();
        }
    }

    /// In which time the kernel dropped datagrams at the sockets of the others, if it did since they were
    /// asked last; mail for us may have been among them.
    fn lost_elsewhere(&mut self) -> Option<(u64, u64)> {
        if !self.turns.gets_mail {
            return None;
        }
        let (mut total, mut latest_ns) = (0, 0);
        for (other, mailbox) in self.mailboxes.iter().enumerate() {
            if other != self.me {
                let (dropped, by_ns) = mailbox.dropped();
                total += dropped;
                latest_ns = latest_ns.max(by_ns);
            }
        }
        // They may have counted before we asked last, and told later.
        let since_ns = self.turns.watch.counted_ns().min(latest_ns.saturating_sub(1));
        let before = std::mem::replace(&mut self.turns.elsewhere, total);
        (total > before).then_some((since_ns, latest_ns))
    }

    fn apply(&mut self) {
        let probe_sent_ns = self.inbox.apply(&self.clock, &mut self.shard, &mut self.reports);
        if let Some(sent_ns) = probe_sent_ns {
            let ingest_ns = self.clock.now_ns().saturating_sub(sent_ns);
            self.histograms.of(HistogramKind::Ingest).record(ingest_ns);
        }
    }

    /// Reads all that was queued when it is called.
    ///
    /// First what the transport holds already, then as much as the kernel says is still queued. It
    /// is asked even when the transport saw its queues empty: it may have queued a datagram that it
    /// has not announced yet.
    fn drain(&mut self) -> io::Result<u64> {
        let mut drained = self.receive()?;
        let mut left = self.look_at_queues();
        let mut unannounced = 0;
        while left > 0 && unannounced < UNANNOUNCED_LIMIT {
            let count = self.receive()?;
            if count == 0 {
                unannounced += 1;
                left = self.look_at_queues();
            }
            self.turns.watch.look(self.clock.now_ns());
            drained += count;
            left = left.saturating_sub(count);
        }
        Ok(drained)
    }

    /// Asks how many datagrams wait, and notes what was dropped.
    fn look_at_queues(&mut self) -> u64 {
        let queues = self.backend.queues();
        let drops = queues.drops.saturating_sub(self.turns.drops_before);
        if drops != self.turns.drops {
            self.turns.drops = drops;
            self.mailboxes[self.me].set_dropped(drops, self.clock.now_ns());
        }
        queues.waiting
    }

    /// Up to when deadlines can be judged: no further than the other reactors have read their
    /// sockets, if heartbeats of ours may be in there. Who sleeps is woken to read on.
    fn judgeable_ns(&mut self, horizon_ns: u64) -> u64 {
        if !self.turns.gets_mail || self.mailboxes.len() == 1 {
            return horizon_ns;
        }
        // Only who has something to judge asks: two that were merely asked would ask each other,
        // and neither would ever sleep again.
        let Some(due_ns) = self.shard.next_deadline_ns(horizon_ns).filter(|due| *due <= horizon_ns)
        else {
            return horizon_ns;
        };
        let mut judged_ns = horizon_ns;
        for (other, mailbox) in self.mailboxes.iter().enumerate() {
            if other == self.me {
                continue;
            }
            let watermark_ns = mailbox.watermark_ns();
            judged_ns = judged_ns.min(watermark_ns);
            if watermark_ns < due_ns
                && let Some(waker) = mailbox.ask()
            {
                self.backend.wake(waker);
            }
        }
        // Pushed before the watermarks were raised, so the mail is all there.
        self.collect_mail();
        judged_ns
    }

    fn collect_mail(&mut self) -> usize {
        let mut count = 0;
        while count < MAILBOX_CAPACITY
            && let Some(parcel) = self.mailboxes[self.me].pop()
        {
            self.inbox.parcel(parcel, &self.clock, &mut self.shard, &mut self.reports);
            count += 1;
        }
        if count > 0 {
            self.turns.gets_mail = true;
            self.apply();
        }
        count
    }

    fn obey(&mut self, now_ns: u64) {
        while let Some(command) = self.commands.pop() {
            match command {
                Command::AskForName { peer } => self.shard.ask_for_name(peer),
                Command::Remove { peer } => {
                    self.shard.remove(peer, now_ns, &mut self.reports);
                }
                Command::Assign { peer, group: Some(group), parent } => {
                    self.shard.assign(peer, group, parent, now_ns);
                }
                Command::Assign { peer, group: None, parent } => {
                    self.shard.unassign(peer, parent, now_ns);
                }
                Command::Silence { peer, silenced } => {
                    self.shard.silence(peer, silenced, now_ns, &mut self.reports);
                }
            }
        }
    }

    fn wake_others(&mut self) {
        for waker in self.inbox.sleepers() {
            self.backend.wake(&waker);
        }
    }

    /// Copies what the transport counts.
    #[cold]
    fn keep_house(&mut self, now_ns: u64) {
        self.turns.housekeeping_ns = now_ns + HOUSEKEEPING_NS;
        self.shard.admission().set_wall_offset_ns(self.clock.wall_offset_ns());
        let counts = self.backend.counts();
        self.look_at_queues();
        self.counters.set(Counter::KernelDrops, self.turns.drops);
        self.counters.set(Counter::BuffersExhausted, counts.buffers_exhausted);
        self.counters.set(Counter::Rearmed, counts.rearmed);
        self.counters.set(Counter::ReceiveErrors, counts.errors);
        let overlong =
            counts.overlong - std::mem::replace(&mut self.turns.overlong, counts.overlong);
        self.counters.add(Counter::Datagrams, overlong);
        self.counters.add(Counter::DropLength, overlong);
    }
}
