//! The product's own reactor in the bench's thread, its state mapped as by default.
//!
//! What `systole serve` starts in a thread is put together here from the same parts, so that a bench can
//! turn it by hand. Left out is what nothing asks of it meanwhile: the control plane, and other reactors.

use super::fleet::{Datagrams, Fleet, Form, guard_for};
use crossbeam::queue::ArrayQueue;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use systole::clock::{Clock, Monotonic};
use systole::engine::admission::Admission;
use systole::engine::recover::Terms;
use systole::engine::shard::{Shard, Surroundings};
use systole::engine::slot::Slots;
use systole::engine::table::Table;
use systole::engine::transition::Transition;
use systole::engine::{Budget, Groups, Policy};
use systole::io::AnyBackend;
use systole::metrics::{Counter, Counters, Histograms};
use systole::reactor::duty::{Reactor, Turns};
use systole::reactor::idle::{Idle, IdleStrategy};
use systole::reactor::inbox::Inbox;
use systole::reactor::mailbox::Mailbox;
use systole::reactor::{COMMAND_CAPACITY, REPORT_CAPACITY, Report, ReportSender};
use systole::store::hot::{Shape, go_on};
use systole::store::{StateDir, dir};

/// What the probes of the benches carry.
pub const PROBE_SECRET: u64 = 0x5EC2_E700;

/// A directory of its own, in memory where there is one, removed with what is in it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(word: &str) -> TempDir {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        // Relaxed: only the number counts.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("systole-bench-{word}-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a name that nobody has");
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The machine's clock, but for the times at which it was stopped.
#[derive(Default)]
pub struct StopClock {
    stood_still_ns: Cell<u64>,
    stopped_ns: Cell<Option<u64>>,
}

impl StopClock {
    /// No time passes for the reactor from now on: another one has its turn, and a reactor that is not
    /// turned would take that for a stall of its own.
    pub fn stop(&self) {
        self.stopped_ns.set(Some(self.now_ns()));
    }

    pub fn go_on(&self) {
        if let Some(stopped_ns) = self.stopped_ns.take() {
            self.stood_still_ns.set(Monotonic.now_ns() - stopped_ns);
        }
    }
}

impl Clock for StopClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        let running_ns = || Monotonic.now_ns() - self.stood_still_ns.get();
        self.stopped_ns.get().unwrap_or_else(running_ns)
    }
}

/// A reactor, and the end of its report ring.
pub struct Monitor {
    pub reactor: Reactor<AnyBackend, StopClock>,
    pub reports: Arc<ArrayQueue<Report>>,
    _state: (StateDir, TempDir),
}

impl Monitor {
    /// A reactor with room for so many peers that takes in heartbeats of this form. To be called in the
    /// thread that turns it, like the making of its transport.
    pub fn new(
        backend: AnyBackend,
        peers: u32,
        policy: Policy,
        idle: IdleStrategy,
        form: Form,
    ) -> Monitor {
        let now_ns = Monotonic.now_ns();
        let temp = TempDir::new("state");
        let state = StateDir::open(&temp.path().join("state")).expect("a state directory");
        let shape = Shape { shards: 1, capacity: peers };
        let hot = go_on(&state, None, shape, dir::boot_id(), now_ns, now_ns).expect("slots");
        let (_, mut memory) = hot.split();
        let memory = memory.pop().expect("that of one shard");
        let kept = memory.kept.expect("it is mapped");
        let journal = Some(kept.journal.clone());

        let groups = Arc::new(Groups::uniform(policy));
        let terms = Terms { now_ns, shard: 0, shards: 1, groups: &groups, learnt_holds: false };
        let slots = Arc::new(Slots::new(memory.slots));
        let (table, _) = Table::recover(slots, [0x5EED, 0xF00D], &terms);
        let views: Arc<[_]> = Arc::new([table.view()]);
        let (counters, histograms) =
            (Arc::new(Counters::default()), Arc::new(Histograms::default()));
        let surroundings = Surroundings {
            groups,
            views: views.clone(),
            budget: Arc::new(Budget::new(peers.into())),
            states: Arc::default(),
            counters: counters.clone(),
            histograms: histograms.clone(),
        };
        let mut shard = Shard::new(table, surroundings, now_ns);
        shard.go_on(kept, now_ns);
        let guard = guard_for(form);
        *shard.admission() = Admission::new(guard.clone(), Default::default(), 1);

        let mailboxes: Arc<[Mailbox]> = Arc::new([Mailbox::default()]);
        mailboxes[0].set_waker(systole::io::Backend::waker(&backend));
        let reports = Arc::new(ArrayQueue::new(REPORT_CAPACITY));
        let inbox = Inbox::new(0, PROBE_SECRET, counters.clone(), mailboxes.clone(), views);
        let reactor = Reactor {
            me: 0,
            backend,
            clock: StopClock::default(),
            shard,
            inbox: inbox.guarded(guard),
            reports: ReportSender::new(reports.clone(), None).with_journal(journal.clone()),
            journal,
            commands: Arc::new(ArrayQueue::new(COMMAND_CAPACITY)),
            mailboxes,
            idle: Idle::new(idle, now_ns),
            counters,
            histograms,
            sockets: 0,
            turns: Turns::begin(now_ns),
        };
        Monitor { reactor, reports, _state: (state, temp) }
    }

    /// Everybody's first heartbeats, not through the socket.
    pub fn join(&mut self, fleet: &mut Fleet) {
        let mut datagrams = Datagrams::default();
        while fleet.beats() < u64::from(fleet.peers()) {
            fleet.fill(&mut datagrams, 64);
            let Reactor { inbox, clock, shard, reports, .. } = &mut self.reactor;
            for datagram in datagrams.iter() {
                inbox.datagram(datagram, clock, shard, reports);
            }
            inbox.apply(clock, shard, reports);
            self.take_transitions(|_| {});
        }
        assert_eq!(self.count(Counter::Heartbeats), fleet.beats(), "all have joined");
    }

    /// Empties the report ring; how many transitions were in it.
    pub fn take_transitions(&self, mut see: impl FnMut(&Transition)) -> u64 {
        let mut taken = 0;
        while let Some(report) = self.reports.pop() {
            if let Report::Transition(transition) = report {
                see(&transition);
                taken += 1;
            }
        }
        taken
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.reactor.counters.get(counter)
    }
}
