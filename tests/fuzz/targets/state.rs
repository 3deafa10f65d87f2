//! State files of any bytes: each is taken for what it is, and what is taken from it holds together.
//! The first byte says which file the others are.

#![no_main]

use memmap2::MmapMut;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use systole::engine::journal::Journal;
use systole::engine::notice::Notice;
use systole::engine::recover::Terms;
use systole::engine::shard::{Outlet, Shard, Surroundings};
use systole::engine::slot::{SlotRegion, Slots};
use systole::engine::table::Table;
use systole::engine::transition::{PeerState, Transition};
use systole::engine::{Budget, Groups, Policy, StateCounts};
use systole::metrics::{Counters, Histograms};
use systole::store::events::{EventFile, Identity};
use systole::store::{StateDir, hot::HotFile, names};
use systole::wire::Heartbeat;

const NOW_NS: u64 = 1 << 50;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 4 {
        0 => names(bytes),
        1 => events(bytes),
        2 => slots(bytes),
        _ => hot(bytes),
    }
});

/// A directory in memory for this process.
fn directory() -> &'static StateDir {
    static DIR: OnceLock<StateDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let path = std::env::var_os("SYSTOLE_FUZZ_DIR").map(PathBuf::from);
        let path = path.expect("tools/fuzz says where");
        StateDir::open(&path).expect("a directory of our own")
    })
}

fn names(bytes: &[u8]) {
    // Behind the magic, or the fuzzer would have to guess it each time.
    for with_magic in [false, true] {
        let mut file = if with_magic { b"SYSNAME\x01".to_vec() } else { Vec::new() };
        file.extend_from_slice(bytes);
        let records = names::Records::check(file);
        assert_eq!(records.iter().count() as u64, records.count());
        assert!(records.iter().all(|(at, record)| records.at(at) == Some(record)));
    }
}

fn events(bytes: &[u8]) {
    let dir = directory();
    let open = || {
        let fresh = Identity { monitor: 1, epoch_ns: 2 };
        let mut last = None;
        let (file, anew) = EventFile::open(dir, 10, fresh, false, (0, &[]), |published| {
            assert!(last.is_none_or(|last| published.seq == last + 1), "no holes");
            last = Some(published.seq);
        })
        .expect("the system is well");
        let _ = file.published(0, 4);
        (last, anew)
    };
    // A good file, with these bytes laid over it where the first two say.
    let path = dir.file("events");
    let _ = std::fs::remove_file(&path);
    open();
    let mut file = std::fs::read(&path).expect("it was made");
    let (at, bytes) = bytes.split_at_checked(2).unwrap_or_default();
    let at = at.iter().fold(0, |at, byte| at << 8 | *byte as usize) % file.len();
    file.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    std::fs::write(&path, &file).expect("there is room");
    open();
    assert_eq!(open().1, None, "what was opened once is whole");
}

fn hot(bytes: &[u8]) {
    let dir = directory();
    std::fs::write(dir.file("hot"), bytes).expect("there is room");
    // No file of a few bytes is one.
    assert!(HotFile::open(dir, [1; 16]).expect("the system is well").is_err());
}

#[derive(Default)]
struct Sink(Vec<Transition>);

impl Outlet for Sink {
    fn has_room(&self) -> bool {
        self.0.len() < 64
    }
    fn transition(&mut self, transition: Transition) {
        self.0.push(transition);
    }
    fn profile(&mut self, _: usize, _: &Heartbeat) -> bool {
        false
    }
    fn notice(&mut self, _: Notice) {}
}

/// Sixteen slots, then a journal.
fn slots(bytes: &[u8]) {
    const SLOTS: usize = 16 * 128;
    let map = |len: usize, from: &[u8]| {
        let mut map = MmapMut::map_anon(len).expect("memory");
        let len = from.len().min(len);
        map[..len].copy_from_slice(&from[..len]);
        map
    };
    let (first, rest) = bytes.split_at(bytes.len().min(SLOTS));
    // The journal's head is the first word; its records lie a page further on.
    let mut journal = vec![0; 4096];
    let (head, records) = rest.split_at(rest.len().min(32));
    journal[..head.len()].copy_from_slice(head);
    journal.extend_from_slice(records);
    let journal = Journal::mapped(map(Journal::BYTES, &journal));
    let region = SlotRegion::mapped(map(SLOTS, first), 16, Box::new(|index| index));

    let policy = Policy {
        grace_ns: 0,
        forget_down_ns: 3_600_000_000_000,
        forget_left_ns: 60_000_000_000,
        ..Policy::default()
    };
    let groups = Arc::new(Groups::uniform(policy));
    groups.set_policy(1, 0);
    let learnt_holds = true;
    let terms = Terms { now_ns: NOW_NS, shard: 0, shards: 1, groups: &groups, learnt_holds };
    let (table, found) = Table::recover(Arc::new(Slots::new(region)), [1, 2], &terms);
    assert_eq!(table.len(), found.peers);
    let states = Arc::new(StateCounts::default());
    let shared = Surroundings {
        groups,
        views: [].into(),
        budget: Arc::new(Budget::new(16)),
        states: states.clone(),
        counters: Arc::new(Counters::default()),
        histograms: Arc::new(Histograms::default()),
    };
    let mut shard = Shard::new(table, shared, NOW_NS);
    let history: Vec<Transition> = journal.behind(0).map(|(_, transition)| transition).collect();
    shard.was_absent(journal.looked_ns().min(NOW_NS), NOW_NS, journal.take_left().is_none());
    shard.resume(history, journal.newest(), NOW_NS);
    let mut sink = Sink::default();
    for step in 0..4 {
        let now_ns = NOW_NS + (step << 44);
        shard.advance(now_ns, now_ns, 64, &mut sink);
        sink.0.drain(..).for_each(|t| assert_ne!(t.from, t.to));
        let kept = [
            PeerState::Up,
            PeerState::Suspect,
            PeerState::Down,
            PeerState::Left,
            PeerState::Unreachable,
        ];
        let counted: u64 = kept.iter().map(|state| states.get(*state)).sum();
        assert_eq!(counted, shard.table().len() as u64, "every peer is in one state");
        assert!(shard.table().is_empty() || shard.next_deadline_ns(now_ns).is_some());
    }
}
