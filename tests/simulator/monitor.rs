//! The monitor under test: the product's own reactors, each in a coroutine, and a control plane that
//! takes what they report.

use super::bugs::Bug;
use super::machine::{Seat, SimBackend, SimClock};
use super::record::{FULL, Told};
use super::scenario::START_NS;
use super::world::World;
use corosensei::{Coroutine, CoroutineResult};
use crossbeam::queue::ArrayQueue;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use systole::clock::Clock;
use systole::engine::shard::{Shard, Surroundings};
use systole::engine::slot::{SlotRegion, Slots};
use systole::engine::table::{Table, TableView};
use systole::engine::{Budget, Groups, StateCounts};
use systole::io::{TransportCounts, Waker};
use systole::metrics::{Counters, Histograms};
use systole::reactor::duty::Reactor;
use systole::reactor::idle::{Idle, Plan};
use systole::reactor::inbox::Inbox;
use systole::reactor::mailbox::Mailbox;
use systole::reactor::watch::Watch;
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
    /// When reports were taken last.
    taken_ns: u64,
    /// What [`Bug::TransitionDoubled`] will tell once more.
    again: Option<Told>,
}

impl Monitor {
    pub fn start(world: &Rc<World>, wakers: &Rc<Vec<Waker>>, bug: Option<Bug>) -> Monitor {
        let scenario = &world.scenario;
        let reactors = scenario.reactors;
        let mailboxes: Arc<[Mailbox]> =
            (0..reactors).map(|_| Mailbox::new(scenario.mailbox_capacity)).collect();
        let budget = Arc::new(Budget::new(scenario.max_peers));
        let groups = Arc::new(Groups::uniform(scenario.policy));
        let region = |_| SlotRegion::anonymous(CAPACITY).expect("memory for a few slots");
        let tables: Vec<Table> = (0..reactors)
            .map(|number| Table::new(Arc::new(Slots::new(region(number))), [scenario.seed, 7]))
            .collect();
        let views: Arc<[TableView]> = tables.iter().map(Table::view).collect();
        let mut monitor = Monitor {
            handles: Vec::new(),
            budget,
            reactors: Vec::new(),
            taken_ns: START_NS,
            again: None,
        };
        for (number, table) in tables.into_iter().enumerate() {
            mailboxes[number].set_waker(wakers[number].clone());
            let handle = Handle {
                view: views[number].clone(),
                states: Arc::default(),
                counters: Arc::default(),
                reports: Arc::new(ArrayQueue::new(scenario.report_capacity)),
                commands: Arc::new(ArrayQueue::new(64)),
            };
            let (world, wakers, budget) = (world.clone(), wakers.clone(), monitor.budget.clone());
            let (mailboxes, views) = (mailboxes.clone(), views.clone());
            let groups = groups.clone();
            let (states, counters) = (handle.states.clone(), handle.counters.clone());
            let reports = ReportSender::new(handle.reports.clone(), None);
            let commands = handle.commands.clone();
            monitor.handles.push(handle);
            monitor.reactors.push(Coroutine::new(move |yielder, ()| {
                let seat = Seat { number, world: world.clone(), yielder, bug };
                let clock = SimClock { seat: seat.clone() };
                let now_ns = clock.now_ns();
                let histograms = Arc::new(Histograms::default());
                let surroundings = Surroundings {
                    groups,
                    views: views.clone(),
                    budget,
                    states,
                    counters: counters.clone(),
                    histograms: histograms.clone(),
                };
                let shard = Shard::new(table, surroundings, now_ns);
                let backend = SimBackend {
                    seat: seat.clone(),
                    wakers,
                    counters: counters.clone(),
                    to_wake: RefCell::default(),
                    counts: TransportCounts::default(),
                    planned_ns: now_ns,
                };
                let reactor = Reactor {
                    me: number,
                    backend,
                    clock,
                    shard,
                    inbox: Inbox::new(number as u32, 1, counters.clone(), mailboxes.clone(), views),
                    reports,
                    commands,
                    mailboxes,
                    idle: Idle::new(world.scenario.idle, now_ns),
                    counters,
                    histograms,
                    gets_mail: false,
                    drops: 0,
                    overlong: 0,
                    next_ns: None,
                    housekeeping_ns: 0,
                    watch: Watch::new(now_ns),
                    journal: None,
                };
                run(reactor, &seat);
            }));
        }
        monitor
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
                if bug == Some(Bug::TransitionDoubled) {
                    record.told.extend(self.again.take());
                    self.again = (taken == 3).then_some(told);
                }
            }
        }
        self.taken_ns = now_ns;
    }
}

/// The loop of a reactor's thread.
fn run(mut reactor: Reactor<SimBackend<'_>, SimClock<'_>>, seat: &Seat<'_>) {
    let world = &seat.world;
    let mut polls = 0;
    while !world.stop.get() {
        world.record.borrow_mut().turn_begins(seat.number);
        let plan = reactor.turn().expect("the simulated transport does not fail");
        if seat.bug == Some(Bug::WatermarkRunsAhead) {
            let now_ns = reactor.clock.now_ns();
            reactor.mailboxes[seat.number].set_watermark_ns(now_ns);
        }
        let now_ns = world.cores[seat.number].now_ns.get();
        world.record.borrow_mut().turn_ends(seat.number, now_ns);
        if plan == Plan::Poll {
            // Who spins for long loses his core now and then; it also keeps the simulation short.
            polls += 1;
            seat.spend(((polls.max(PATIENT_POLLS) - PATIENT_POLLS) * 200).min(SPIN_LOSS_NS));
        } else {
            polls = 0;
        }
        reactor.backend.planned_ns = now_ns;
        reactor.rest(plan).expect("the simulated transport does not fail");
    }
}
