//! The monitor under test: the product's own reactors, each in a coroutine, and a control plane that
//! takes what they report.

use super::bugs::Bug;
use super::machine::{Seat, SimBackend, SimClock};
use super::record::{FULL, Told};
use super::scenario::{MS, START_NS};
use super::world::World;
use corosensei::{Coroutine, CoroutineResult};
use crossbeam::queue::ArrayQueue;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use systole::clock::Clock;
use systole::engine::journal::{Journal, last_look};
use systole::engine::recover::Terms;
use systole::engine::shard::{Shard, Surroundings};
use systole::engine::slot::{Kept, SlotRegion, Slots};
use systole::engine::table::{Table, TableView};
use systole::engine::{Budget, Groups, StateCounts};
use systole::io::{TransportCounts, Waker};
use systole::metrics::{Counters, Histograms};
use systole::reactor::duty::{Reactor, Turns};
use systole::reactor::idle::{Idle, Plan};
use systole::reactor::inbox::Inbox;
use systole::reactor::mailbox::Mailbox;
use systole::reactor::{Command, Report, ReportSender};
use systole::wire::PeerId;

/// Polls in a row after which a core is taken away, and for how long at most.
const PATIENT_POLLS: u64 = 200;
pub const SPIN_LOSS_NS: u64 = 100_000;
/// Slots of each shard.
const CAPACITY: u32 = 64;

/// What the control plane has of a reactor.
pub struct Handle {
    pub view: TableView,
    pub states: Arc<StateCounts>,
    pub counters: Arc<Counters>,
    pub reports: Arc<ArrayQueue<Report>>,
    pub commands: Arc<ArrayQueue<Command>>,
}

pub struct Monitor {
    pub handles: Vec<Handle>,
    pub budget: Arc<Budget>,
    reactors: Vec<Coroutine<(), (), ()>>,
    /// Since when the process ends in order, and how long there is none then.
    ending: Option<(u64, u64)>,
    /// When reports were taken last.
    taken_ns: u64,
    /// What [`Bug::TransitionDoubled`] will tell once more.
    again: Option<Told>,
    /// What outlives a process that is killed: its memory, what it published, and what it counted,
    /// which nobody reads any more.
    estate: Vec<Estate>,
    past: Vec<Arc<Counters>>,
}

/// What a reactor leaves behind.
struct Estate {
    slots: Arc<Slots>,
    /// None in a world where no process ends.
    journal: Option<Arc<Journal>>,
    /// The number in the journal of the last transition that was published.
    published: u64,
}

/// What a reactor begins with.
struct Beginning {
    table: Table,
    surroundings: Surroundings,
    kept: Option<Kept>,
    journal: Option<Arc<Journal>>,
}

impl Monitor {
    pub fn start(world: &Rc<World>, wakers: &Rc<Vec<Waker>>, bug: Option<Bug>) -> Monitor {
        let scenario = &world.scenario;
        let journal = || Arc::new(Journal::anonymous().expect("memory for a journal"));
        let region = || SlotRegion::anonymous(CAPACITY).expect("memory for a few slots");
        let estate = |_| Estate {
            slots: Arc::new(Slots::new(region())),
            journal: (!scenario.endings.is_empty()).then(journal),
            published: 0,
        };
        let mut monitor = Monitor {
            handles: Vec::new(),
            budget: Arc::new(Budget::new(scenario.max_peers)),
            reactors: Vec::new(),
            ending: None,
            taken_ns: START_NS,
            again: None,
            estate: (0..scenario.reactors).map(estate).collect(),
            past: Vec::new(),
        };
        monitor.launch(world, wakers, bug);
        monitor
    }

    /// Kills the process: between any two steps of its reactors.
    pub fn kill(&mut self, world: &World, now_ns: u64, back_ns: u64) {
        self.reactors.clear();
        world.kill(now_ns, back_ns);
        self.bury(world, now_ns, back_ns);
    }

    /// Lets the process end in order and hand its sockets over to one that begins so much later.
    pub fn begin_to_end(&mut self, world: &World, now_ns: u64, absent_ns: u64) {
        world.stop.set(true);
        world.reading.set(self.reactors.len());
        (0..self.reactors.len()).for_each(|number| world.wake(number, now_ns));
        self.ending = Some((now_ns, absent_ns));
    }

    /// Whether it has done so: then all that it has told is published.
    pub fn has_ended(&mut self, world: &World, bug: Option<Bug>) -> bool {
        let all_done = world.cores.iter().all(|core| core.done.get());
        let Some((from_ns, absent_ns)) = self.ending.take_if(|_| all_done) else { return false };
        let ended_ns = world.cores.iter().map(|core| core.now_ns.get()).max().unwrap_or(from_ns);
        self.reactors.clear();
        self.take(world, usize::MAX, ended_ns, bug);
        let back_ns = ended_ns + absent_ns;
        world.hand_over(from_ns, ended_ns, back_ns);
        self.bury(world, ended_ns, back_ns);
        world.stop.set(false);
        true
    }

    /// What is lost with a process that has ended.
    fn bury(&mut self, world: &World, now_ns: u64, back_ns: u64) {
        let mut record = world.record.borrow_mut();
        for (reactor, handle) in self.handles.drain(..).enumerate() {
            if handle.reports.is_full() {
                record.trouble(self.taken_ns, now_ns, Some(reactor), FULL);
            }
            // What was asked for and not done is not known to the next one.
            while let Some(command) = handle.commands.pop() {
                let Command::Remove { peer } = command else { continue };
                let peer = record.by_id[&peer.0];
                let place = record.removals.iter().rposition(|&(_, removed)| removed == peer);
                record.removals.remove(place.expect("it was asked for"));
            }
            self.past.push(handle.counters);
        }
        self.taken_ns = back_ns;
    }

    /// Starts a process: the first, or the heir of one that has ended.
    pub fn launch(&mut self, world: &Rc<World>, wakers: &Rc<Vec<Waker>>, bug: Option<Bug>) {
        let scenario = &world.scenario;
        let reactors = scenario.reactors;
        let mailboxes: Arc<[Mailbox]> =
            (0..reactors).map(|_| Mailbox::new(scenario.mailbox_capacity)).collect();
        let groups = Arc::new(Groups::uniform(scenario.policy));
        self.budget = Arc::new(Budget::new(scenario.max_peers));
        self.publish_the_tail(world, bug);
        let heirs: Vec<_> =
            (0..reactors).map(|number| self.inherit(number, world, &groups)).collect();
        let views: Arc<[TableView]> = heirs.iter().map(|(table, _)| table.view()).collect();
        for (number, (table, kept)) in heirs.into_iter().enumerate() {
            mailboxes[number].set_waker(wakers[number].clone());
            let handle = Handle {
                view: views[number].clone(),
                states: Arc::default(),
                counters: Arc::default(),
                reports: Arc::new(ArrayQueue::new(scenario.report_capacity)),
                commands: Arc::new(ArrayQueue::new(64)),
            };
            let beginning = Beginning {
                table,
                surroundings: Surroundings {
                    groups: groups.clone(),
                    views: views.clone(),
                    budget: self.budget.clone(),
                    states: handle.states.clone(),
                    counters: handle.counters.clone(),
                    histograms: Arc::new(Histograms::default()),
                },
                kept,
                journal: self.estate[number].journal.clone(),
            };
            let (world, wakers, mailboxes) = (world.clone(), wakers.clone(), mailboxes.clone());
            let (reports, commands) = (handle.reports.clone(), handle.commands.clone());
            self.handles.push(handle);
            self.reactors.push(Coroutine::new(move |yielder, ()| {
                let seat = Seat { number, world, yielder, bug };
                begin(&seat, beginning, wakers, mailboxes, (reports, commands));
            }));
        }
        // All take over before any of them turns, or a newcomer could have a place that is another's.
        world.barrier_ns.set(u64::MAX);
        (0..reactors).for_each(|number| self.resume(number));
    }

    /// Publishes what the process before had written down and not published.
    fn publish_the_tail(&mut self, world: &World, bug: Option<Bug>) {
        let mut record = world.record.borrow_mut();
        for (reactor, estate) in self.estate.iter_mut().enumerate() {
            let Some(journal) = &estate.journal else { continue };
            for (number, transition) in journal.behind(estate.published) {
                estate.published = number;
                if bug != Some(Bug::JournalTailUntold) {
                    record.told.push(Told { reactor, taken_ns: self.taken_ns, transition });
                }
            }
        }
    }

    /// The table as it was left, and what else was.
    fn inherit(&self, number: usize, world: &World, groups: &Groups) -> (Table, Option<Kept>) {
        let Estate { slots, journal, .. } = &self.estate[number];
        let (slots, seed) = (slots.clone(), [world.scenario.seed, 7]);
        let Some(journal) = journal.as_ref().filter(|_| world.has_a_past()) else {
            return (Table::new(slots, seed), None);
        };
        let shards = self.estate.len() as u32;
        let now_ns = world.cores[number].now_ns.get();
        let terms = Terms { now_ns, shard: number as u32, shards, groups, learnt_holds: true };
        let (table, found) = Table::recover(slots, seed, &terms);
        assert_eq!((found.repaired, found.discarded), (0, 0), "killed between two stores");
        let history = journal.behind(0).map(|(_, transition)| transition).collect();
        let looked_ns = last_look(self.estate.iter().filter_map(|one| one.journal.as_deref()));
        let left = journal.take_left();
        (table, Some(Kept { journal: journal.clone(), history, looked_ns, left }))
    }

    /// What was counted, by all processes there were.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.past.iter().chain(self.handles.iter().map(|handle| &handle.counters)).map(|one| &**one)
    }

    /// Lets a reactor go on until it gives way.
    pub fn resume(&mut self, number: usize) {
        match self.reactors[number].resume(()) {
            CoroutineResult::Yield(()) | CoroutineResult::Return(()) => {}
        }
    }

    /// Ends the reactors, each after its last turn.
    pub fn stop(&mut self, world: &World) {
        world.stop.set(true);
        world.reading.set(0);
        for reactor in &mut self.reactors {
            world.barrier_ns.set(u64::MAX);
            while !reactor.done() {
                let _ = reactor.resume(());
            }
        }
    }

    pub fn remove(&self, world: &World, peer: usize, now_ns: u64) {
        let mut record = world.record.borrow_mut();
        let owner = record.owners[peer];
        let id = PeerId(record.names[peer].1);
        if self.handles[owner].commands.push(Command::Remove { peer: id }).is_ok() {
            record.removals.push((now_ns, peer));
            drop(record);
            world.wake(owner, now_ns);
        }
    }

    /// The control plane takes up to so many reports of each reactor.
    pub fn take(&mut self, world: &World, most: usize, now_ns: u64, bug: Option<Bug>) {
        let mut record = world.record.borrow_mut();
        for (reactor, handle) in self.handles.iter().enumerate() {
            if handle.reports.is_full() {
                record.trouble(self.taken_ns, now_ns, Some(reactor), FULL);
            }
            for taken in 0..most {
                let Some(report) = handle.reports.pop() else { break };
                let transition = match report {
                    Report::Transition(transition) => transition,
                    Report::Notice(notice) => {
                        record.notices.push((now_ns, reactor, notice));
                        continue;
                    }
                    Report::Profile { .. } => continue,
                };
                let told = Told { reactor, taken_ns: now_ns, transition };
                if bug == Some(Bug::TransitionLost) && taken > 0 && handle.reports.is_empty() {
                    continue;
                }
                record.told.push(told);
                self.estate[reactor].published += 1;
                if bug == Some(Bug::TransitionDoubled) {
                    record.told.extend(self.again.take());
                    self.again = (taken == 3).then_some(told);
                }
            }
        }
        self.taken_ns = now_ns;
    }
}

/// A reactor's thread.
fn begin(
    seat: &Seat<'_>,
    beginning: Beginning,
    wakers: Rc<Vec<Waker>>,
    mailboxes: Arc<[Mailbox]>,
    (reports, commands): (Arc<ArrayQueue<Report>>, Arc<ArrayQueue<Command>>),
) {
    let Beginning { table, surroundings, kept, journal } = beginning;
    let clock = SimClock { seat: seat.clone() };
    let now_ns = clock.now_ns();
    let views = surroundings.views.clone();
    let (counters, histograms) = (surroundings.counters.clone(), surroundings.histograms.clone());
    let mut shard = Shard::new(table, surroundings, now_ns);
    let heritage = kept.map(|mut kept| {
        match seat.bug {
            Some(Bug::AbsenceNotGranted) => kept.looked_ns = now_ns,
            Some(Bug::LastLookForgotten) => kept.looked_ns = 0,
            _ => {}
        }
        if let Some(left) = &mut kept.left {
            left.gets_mail &= seat.bug != Some(Bug::MailForgotten);
        }
        let heritage = (kept.looked_ns, kept.left);
        shard.go_on(kept, now_ns);
        heritage
    });
    seat.yielder.suspend(());
    let backend = SimBackend {
        seat: seat.clone(),
        wakers,
        counters: counters.clone(),
        to_wake: RefCell::default(),
        counts: TransportCounts::default(),
        lets_go: false,
    };
    let number = seat.number;
    let mut reactor = Reactor {
        me: number,
        backend,
        clock,
        shard,
        inbox: Inbox::new(number as u32, 1, counters.clone(), mailboxes.clone(), views),
        reports: ReportSender::new(reports, None).with_journal(journal.clone()),
        commands,
        mailboxes,
        idle: Idle::new(seat.world.scenario.idle, now_ns),
        counters,
        histograms,
        sockets: 1 + number as u64,
        turns: Turns::begin(now_ns),
        journal,
    };
    if let Some((looked_ns, mut left)) = heritage {
        if let Some(left) = left.as_mut().filter(|_| seat.bug == Some(Bug::LossesInherited)) {
            left.drops = seat.world.cores[number].kernel_drops.get();
        }
        reactor.was_absent_since(looked_ns, left);
    }
    run(reactor, seat);
}

/// The loop of a reactor's thread.
fn run(mut reactor: Reactor<SimBackend<'_>, SimClock<'_>>, seat: &Seat<'_>) {
    const NEVER_FAILS: &str = "the simulated transport does not fail";
    let world = &seat.world;
    let begins = || world.record.borrow_mut().turn_begins(seat.number);
    let ends = || {
        let now_ns = world.cores[seat.number].now_ns.get();
        world.record.borrow_mut().turn_ends(seat.number, now_ns);
    };
    let mut polls = 0;
    while !world.stop.get() {
        begins();
        let plan = reactor.turn().expect(NEVER_FAILS);
        if seat.bug == Some(Bug::WatermarkRunsAhead) {
            let now_ns = reactor.clock.now_ns();
            reactor.mailboxes[seat.number].set_watermark_ns(now_ns);
        }
        ends();
        if plan == Plan::Poll {
            // Who spins for long loses his core now and then; it also keeps the simulation short.
            polls += 1;
            seat.spend(((polls.max(PATIENT_POLLS) - PATIENT_POLLS) * 200).min(SPIN_LOSS_NS));
        } else {
            polls = 0;
        }
        reactor.rest(plan).expect(NEVER_FAILS);
    }
    // As the product's threads end.
    begins();
    reactor.turn().expect(NEVER_FAILS);
    let horizon_ns = reactor.let_go().expect(NEVER_FAILS);
    ends();
    world.reading.set(world.reading.get().saturating_sub(1));
    while world.reading.get() > 0 {
        seat.spend(MS);
    }
    begins();
    reactor.last_mail(horizon_ns);
    ends();
    world.cores[seat.number].done.set(true);
}
