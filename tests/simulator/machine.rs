//! What a reactor sees of the world: a clock and a receive transport, both of which take time.

use super::bugs::Bug;
use super::record::OVERSLEPT;
use super::scenario::US;
use super::world::World;
use corosensei::Yielder;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use systole::clock::Clock;
use systole::io::{Backend, Patience, Queues, Transport, TransportCounts, Waker};
use systole::metrics::{Counter, Counters};

/// A reactor's place in the world.
#[derive(Clone)]
pub struct Seat<'a> {
    pub number: usize,
    pub world: Rc<World>,
    pub yielder: &'a Yielder<(), ()>,
    pub bug: Option<Bug>,
}

impl Seat<'_> {
    fn now_ns(&self) -> u64 {
        self.world.cores[self.number].now_ns.get()
    }

    /// Lets time pass, perhaps more than was meant, and gives way to whoever is behind.
    pub fn spend(&self, mut ns: u64) {
        let machine = &self.world.scenario.machine;
        if self.world.one_in(machine.interrupt_one_in) {
            let interrupt_ns = self.world.draw(machine.interrupt_ns);
            let from_ns = self.now_ns();
            ns += interrupt_ns;
            let mut record = self.world.record.borrow_mut();
            record.trouble(from_ns, from_ns + interrupt_ns, Some(self.number), "interrupted");
        }
        let core = &self.world.cores[self.number];
        core.now_ns.set(core.now_ns.get() + ns);
        if core.now_ns.get() >= self.world.barrier_ns.get() {
            self.yielder.suspend(());
        }
    }

    /// Sleeps as [`World::fall_asleep`] says.
    fn sleep(&self, until_ns: u64, want: u32, one_will_do_ns: u64) {
        self.world.fall_asleep(self.number, until_ns, want, one_will_do_ns);
        self.yielder.suspend(());
    }
}

/// The monotonic clock of the machine.
pub struct SimClock<'a> {
    pub seat: Seat<'a>,
}

impl Clock for SimClock<'_> {
    fn now_ns(&self) -> u64 {
        self.seat.spend(self.seat.world.scenario.machine.read_ns);
        let now_ns = self.seat.now_ns();
        match self.seat.bug {
            Some(bug) => bug.clock_ns(now_ns, &self.seat),
            None => now_ns,
        }
    }
}

/// One socket and the transport above it.
pub struct SimBackend<'a> {
    pub seat: Seat<'a>,
    pub wakers: Rc<Vec<Waker>>,
    pub counters: Arc<Counters>,
    /// Reactors to wake with the next call into the kernel.
    pub to_wake: RefCell<Vec<usize>>,
    pub counts: TransportCounts,
    /// Takes no more out of the queue.
    pub lets_go: bool,
}

impl SimBackend<'_> {
    fn call(&self) {
        self.seat.spend(self.seat.world.scenario.machine.call_ns);
        for other in self.to_wake.borrow_mut().drain(..) {
            self.seat.world.wake(other, self.seat.now_ns());
        }
    }

    /// Takes the next announced datagram out of the queue.
    fn take(&self) -> Option<usize> {
        if self.lets_go {
            return None;
        }
        let mut queue = self.seat.world.cores[self.seat.number].queue.borrow_mut();
        let (datagram, announced_ns) = *queue.front()?;
        (announced_ns <= self.seat.now_ns()).then(|| {
            queue.pop_front();
            datagram
        })
    }
}

impl Backend for SimBackend<'_> {
    fn transport(&self) -> Transport {
        Transport::Uring
    }

    fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let Seat { number, ref world, bug, .. } = self.seat;
        self.counts.system_calls += 1;
        self.call();
        let mut count = 0;
        while count < world.scenario.machine.burst {
            let Some(datagram) = self.take() else { return Ok(count) };
            let bytes = {
                let mut record = world.record.borrow_mut();
                record.read(datagram, number, self.seat.now_ns());
                record.datagrams[datagram].bytes.clone()
            };
            self.seat.spend(world.scenario.machine.datagram_ns);
            let lost_before = self.counters.get(Counter::HandOverFull);
            sink(&bytes);
            if self.counters.get(Counter::HandOverFull) > lost_before {
                world.record.borrow_mut().datagrams[datagram].perhaps_lost = true;
            }
            if bug == Some(Bug::BufferHandedOutTwice) && world.one_in(64) {
                sink(&bytes);
            }
            count += 1;
        }
        // The buffers are used up: ENOBUFS ends the multishot, and it is armed anew.
        self.counts.buffers_exhausted += 1;
        self.counts.rearmed += 1;
        if bug == Some(Bug::ExhaustedBufferLosesOne) {
            self.take();
        }
        Ok(count)
    }

    fn wait(&mut self, patience: Patience) -> io::Result<()> {
        self.counts.system_calls += 1;
        let begun_ns = self.seat.now_ns();
        self.call();
        let world = &self.seat.world;
        let now_ns = self.seat.now_ns();
        let late_ns = world.draw(world.scenario.machine.wake_late_ns);
        let until_ns = match patience.timeout_ns {
            Some(timeout_ns) => now_ns + timeout_ns + late_ns,
            None => u64::MAX,
        };
        if let Some(timeout_ns) = patience.timeout_ns {
            // The kernel counts the time to wait from here. Getting here takes some microseconds;
            // what is told is to be held up on the way.
            if now_ns > begun_ns + 100 * US {
                let (from_ns, to_ns) = (begun_ns + timeout_ns, now_ns + timeout_ns);
                let mut record = world.record.borrow_mut();
                record.trouble(from_ns, to_ns, Some(self.seat.number), OVERSLEPT);
            }
        }
        let want = if patience.min_wait_ns == 0 { 1 } else { patience.want };
        self.seat.sleep(until_ns, want, now_ns + patience.min_wait_ns);
        Ok(())
    }

    fn let_go(&mut self) {
        self.lets_go = true;
    }

    fn queues(&self) -> Queues {
        self.call();
        let core = &self.seat.world.cores[self.seat.number];
        let queued = core.queue.borrow().len() as u64;
        let waiting = match self.seat.bug {
            Some(Bug::BacklogUnasked) => 0,
            _ => queued + self.seat.world.scenario.machine.over_estimate,
        };
        Queues { waiting, drops: core.kernel_drops.get() }
    }

    fn counts(&self) -> TransportCounts {
        self.counts
    }

    fn wake(&mut self, other: &Waker) {
        if self.seat.bug == Some(Bug::WakeUpLost) {
            return;
        }
        let other = self.wakers.iter().position(|waker| waker.same(other));
        self.to_wake.borrow_mut().push(other.expect("a reactor's waker"));
    }

    fn waker(&self) -> Waker {
        self.wakers[self.seat.number].clone()
    }
}
