//! The world that the reactors run in: one thread, simulated time, and whose turn it is.
//!
//! Each reactor is a coroutine with a time of its own, as if on a core of its own. Whoever is
//! furthest behind goes on, until he has overtaken the next one; so every step of one reactor, down
//! to a reading of the clock, can fall between any two steps of another, and nobody sees the
//! future.
//!
//! ```text
//!   events (arrivals, beats, stalls, …)   ──┐
//!   reactor 0  ──────▶ t0                   ├─ the earliest goes on, up to the barrier:
//!   reactor 1  ───▶ t1       asleep until   │  the time of the next one
//!   reactor 2  ─────────▶ t2                ┘
//! ```

use super::record::{Fate, Record};
use super::scenario::{MS, Scenario};
use super::testing::Rng;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use systole::io::steering;

/// What happens outside of the reactors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Event {
    /// A datagram reaches the monitor's machine.
    Arrive { datagram: usize },
    /// A sender's next beat; of an earlier life if the generation is.
    Beat { sender: usize, generation: u32 },
    /// A relay sends what it has gathered.
    Relay { relay: usize },
    /// A stopped sender starts.
    Start { sender: usize },
    /// All stopped senders start.
    StartAll,
    /// Something goes wrong among the senders.
    Mischief,
    /// A reactor is not scheduled for a while.
    Stall,
    /// The control plane takes reports.
    Take,
    /// The monitor's process ends; the next one begins so much later.
    End { absent_ns: u64, hands_over: bool },
}

/// A reactor's core: its time, its socket's receive queue, its sleep.
pub struct Core {
    pub now_ns: Cell<u64>,
    /// Its reactor has ended.
    pub done: Cell<bool>,
    asleep: Cell<bool>,
    wake_ns: Cell<u64>,
    stalled_until_ns: Cell<u64>,
    /// Woken while it was not asleep: the next sleep is short.
    signalled: Cell<bool>,
    /// Since when it waits, for how many datagrams, and when one will do.
    want: Cell<(u32, u64)>,
    /// Datagrams and when they are announced.
    pub queue: RefCell<VecDeque<(usize, u64)>>,
    pub kernel_drops: Cell<u64>,
}

/// All that the reactors, the senders and the control plane share.
pub struct World {
    pub scenario: Scenario,
    pub cores: Vec<Core>,
    pub record: RefCell<Record>,
    /// The machine's and the network's luck.
    pub rng: RefCell<Rng>,
    pub stop: Cell<bool>,
    events: RefCell<BinaryHeap<Reverse<(u64, u64, Event)>>>,
    event_no: Cell<u64>,
    /// When there is a process again; in the past while there is one.
    back_ns: Cell<u64>,
    /// When there are sockets again.
    listens_ns: Cell<u64>,
    /// Reactors of an ending process that still read their sockets.
    pub reading: Cell<usize>,
    /// The running reactor gives way once its time has reached this.
    pub barrier_ns: Cell<u64>,
}

/// How long ago a running reactor may have noted last that it looked.
const LOOK_LAG_NS: u64 = 5 * MS;

/// Who goes on.
pub enum Next {
    Event(u64, Event),
    Reactor(usize),
}

impl World {
    pub fn new(scenario: Scenario, start_ns: u64) -> World {
        let core = |_| Core {
            now_ns: Cell::new(start_ns),
            done: Cell::new(false),
            asleep: Cell::new(false),
            wake_ns: Cell::new(0),
            stalled_until_ns: Cell::new(0),
            signalled: Cell::new(false),
            want: Cell::new((1, 0)),
            queue: RefCell::default(),
            kernel_drops: Cell::new(0),
        };
        World {
            cores: (0..scenario.reactors).map(core).collect(),
            record: RefCell::new(Record::new(scenario.reactors)),
            rng: RefCell::new(Rng::new(scenario.seed)),
            stop: Cell::new(false),
            events: RefCell::default(),
            event_no: Cell::new(0),
            back_ns: Cell::new(0),
            listens_ns: Cell::new(0),
            reading: Cell::new(0),
            barrier_ns: Cell::new(0),
            scenario,
        }
    }

    /// Lets something happen at a time. What is due at the same time happens in the order of
    /// calling.
    pub fn at(&self, at_ns: u64, event: Event) {
        self.event_no.set(self.event_no.get() + 1);
        self.events.borrow_mut().push(Reverse((at_ns, self.event_no.get(), event)));
    }

    /// Who goes on; sets the barrier for a reactor. None when the next event is beyond the end.
    pub fn next(&self, end_ns: u64) -> Option<Next> {
        let event_ns = self.events.borrow().peek().map_or(u64::MAX, |Reverse((at_ns, ..))| *at_ns);
        let (mut first, mut first_ns, mut second_ns) = (0, u64::MAX, u64::MAX);
        for (number, core) in self.cores.iter().enumerate() {
            let ready_ns = core.ready_ns();
            if ready_ns < first_ns {
                (first, second_ns, first_ns) = (number, first_ns, ready_ns);
            } else {
                second_ns = second_ns.min(ready_ns);
            }
        }
        if event_ns.min(first_ns) > end_ns {
            return None;
        }
        if event_ns <= first_ns {
            let Reverse((at_ns, _, event)) = self.events.borrow_mut().pop()?;
            return Some(Next::Event(at_ns, event));
        }
        let core = &self.cores[first];
        core.now_ns.set(first_ns);
        core.asleep.set(false);
        self.barrier_ns.set(second_ns.min(event_ns));
        Some(Next::Reactor(first))
    }

    /// The running reactor goes to sleep until a time, or until it is woken.
    pub fn fall_asleep(&self, number: usize, until_ns: u64, want: u32, one_will_do_ns: u64) {
        let core = &self.cores[number];
        core.asleep.set(true);
        core.wake_ns.set(until_ns);
        core.want.set((want, one_will_do_ns));
        if core.signalled.take() {
            core.wake_ns.set(core.now_ns.get());
        }
        self.roused(number, core.now_ns.get(), 0);
    }

    /// Wakes a reactor, from outside or from another one.
    pub fn wake(&self, number: usize, now_ns: u64) {
        let core = &self.cores[number];
        if core.asleep.get() {
            let late_ns = self.draw(self.scenario.machine.wake_late_ns);
            self.wake_by(number, now_ns + late_ns);
        } else {
            core.signalled.set(true);
        }
    }

    fn wake_by(&self, number: usize, at_ns: u64) {
        let core = &self.cores[number];
        core.wake_ns.set(core.wake_ns.get().min(at_ns.max(core.now_ns.get())));
        self.barrier_ns.set(self.barrier_ns.get().min(core.ready_ns()));
    }

    /// Wakes a sleeping reactor if its socket holds what it waits for.
    fn roused(&self, number: usize, now_ns: u64, late_ns: u64) {
        let core = &self.cores[number];
        let (want, one_will_do_ns) = core.want.get();
        let queue = core.queue.borrow();
        let Some((_, announced_ns)) = queue.front() else { return };
        let enough = queue.len() >= want as usize;
        let at_ns = if enough { *announced_ns } else { one_will_do_ns.max(*announced_ns) };
        self.wake_by(number, at_ns.max(now_ns) + late_ns);
    }

    /// A datagram reaches the machine: the kernel picks a socket and queues it, or drops it.
    pub fn arrive(&self, datagram: usize, now_ns: u64) {
        let machine = &self.scenario.machine;
        let mut record = self.record.borrow_mut();
        let reactors = self.cores.len() as u32;
        let number = if machine.steered {
            steering::owner(&record.datagrams[datagram].bytes, reactors)
        } else {
            // By the sender's address, as without a program.
            record.datagrams[datagram].from as u32 % reactors
        } as usize;
        let core = &self.cores[number];
        if now_ns < self.listens_ns.get() {
            record.datagrams[datagram].fate = Fate::Missed { at_ns: now_ns };
            return;
        }
        if core.queue.borrow().len() >= machine.queue_capacity {
            core.kernel_drops.set(core.kernel_drops.get() + 1);
            record.datagrams[datagram].fate = Fate::Dropped { at_ns: now_ns, by: number };
            return;
        }
        record.datagrams[datagram].fate = Fate::Queued { at_ns: now_ns, by: number };
        drop(record);
        let announced_ns = now_ns + self.draw(machine.announce_ns);
        core.queue.borrow_mut().push_back((datagram, announced_ns));
        if core.asleep.get() {
            self.roused(number, now_ns, self.draw(machine.wake_late_ns));
        }
    }

    /// Whether this is not the first process.
    pub fn has_a_past(&self) -> bool {
        self.back_ns.get() > 0
    }

    /// Whether there is a process that does not end.
    pub fn is_running(&self, now_ns: u64) -> bool {
        now_ns >= self.back_ns.get() && !self.stop.get()
    }

    /// The process is gone, with its sockets and what was in them; the next one begins at `back_ns`.
    pub fn kill(&self, now_ns: u64, back_ns: u64) {
        let mut record = self.record.borrow_mut();
        for core in &self.cores {
            for (datagram, _) in core.queue.borrow_mut().drain(..) {
                record.datagrams[datagram].fate = Fate::Missed { at_ns: now_ns };
            }
            core.begin(back_ns);
            core.kernel_drops.set(0);
        }
        record.kill(now_ns, back_ns, LOOK_LAG_NS + self.scenario.slack_ns());
        self.back_ns.set(back_ns);
        self.listens_ns.set(back_ns);
    }

    /// The process has ended in order between these times; the next one begins at `back_ns`, with the
    /// same sockets.
    pub fn hand_over(&self, from_ns: u64, ended_ns: u64, back_ns: u64) {
        self.cores.iter().for_each(|core| core.begin(back_ns));
        self.record.borrow_mut().hand_over(from_ns, ended_ns, back_ns);
        self.back_ns.set(back_ns);
    }

    /// A reactor is not scheduled for a while.
    pub fn stall(&self, number: usize, now_ns: u64, stall_ns: u64) {
        let core = &self.cores[number];
        if core.asleep.get() {
            core.stalled_until_ns.set(now_ns + stall_ns);
        } else {
            core.now_ns.set(core.now_ns.get().max(now_ns) + stall_ns);
        }
        self.record.borrow_mut().trouble(now_ns, now_ns + stall_ns, Some(number), "stalled");
    }

    /// A number up to `most`; 0 when there is nothing to draw.
    pub fn draw(&self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.rng.borrow_mut().below(most + 1) }
    }

    pub fn one_in(&self, n: u64) -> bool {
        n > 0 && self.rng.borrow_mut().one_in(n)
    }
}

impl Core {
    /// A new process begins to run on it.
    fn begin(&self, now_ns: u64) {
        self.now_ns.set(now_ns);
        self.done.set(false);
        self.asleep.set(false);
        self.stalled_until_ns.set(0);
        self.signalled.set(false);
    }

    fn ready_ns(&self) -> u64 {
        if self.done.get() {
            u64::MAX
        } else if self.asleep.get() {
            self.wake_ns.get().max(self.stalled_until_ns.get())
        } else {
            self.now_ns.get()
        }
    }
}
