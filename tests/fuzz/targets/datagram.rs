//! The whole way of a datagram: decoded, batched, applied to a shard, and its deadlines fired. The
//! input is a sequence of datagrams, each behind a 16-bit length, with time passing in between, so
//! that the fuzzer can learn what one does to the state that an earlier one left.

#![no_main]

use std::sync::Arc;
use systole::clock::Clock;
use systole::engine::admission::{Admission, NewcomerLimits, SharedGuard};
use systole::engine::shard::{Shard, Surroundings};
use systole::engine::slot::{SlotRegion, Slots};
use systole::engine::table::Table;
use systole::engine::transition::PeerState;
use systole::engine::{Budget, Groups, Policy, StateCounts};
use systole::metrics::{Counters, Histograms};
use systole::reactor::inbox::Inbox;
use systole::reactor::mailbox::Mailbox;
use systole::reactor::{Report, ReportSender};
use systole::wire::{Auth, Form};

const CAPACITY: u32 = 16;

/// A clock that stands still.
struct At(u64);

impl Clock for At {
    fn now_ns(&self) -> u64 {
        self.0
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let slots = Slots::new(SlotRegion::anonymous(CAPACITY).unwrap());
    let table = Table::new(Arc::new(slots), [1, 2]);
    let views: Arc<[_]> = [table.view()].into();
    let counters = Arc::new(Counters::default());
    let states = Arc::new(StateCounts::default());
    let policy = Policy {
        grace_ns: 0,
        suspect_fraction: 0.6,
        forget_down_ns: 3_600_000_000_000,
        forget_left_ns: 60_000_000_000,
        ..Policy::default()
    };
    let mut now_ns = 1 << 40;
    let shared = Surroundings {
        groups: Arc::new(Groups::uniform(policy)),
        views: views.clone(),
        budget: Arc::new(Budget::new(CAPACITY as u64)),
        states: states.clone(),
        counters: counters.clone(),
        histograms: Arc::new(Histograms::default()),
    };
    let mut shard = Shard::new(table, shared, now_ns);
    // Small, so that it is full at times and changes have to wait.
    let ring = Arc::new(crossbeam::queue::ArrayQueue::new(4));
    let mut reports = ReportSender::new(ring.clone(), None);
    let mailboxes = [Mailbox::default()].into();
    let inbox = Inbox::new(0, 42, counters.clone(), mailboxes, views);
    // The first bit says whether there has to be a tag.
    let required = input.first().is_some_and(|first| first & 1 != 0);
    let guard = systole_fuzz::guard(if required { Auth::Required } else { Auth::Optional });
    let shared_guard = SharedGuard::default();
    shared_guard.store(Arc::new(guard.clone()));
    let mut inbox = inbox.guarded(shared_guard.clone());
    let limits = NewcomerLimits { per_source: Some(4), per_key: Some(2), fresh_ns: None };
    *shard.admission() = Admission::new(shared_guard, limits, 1);

    let mut left = input;
    let mut datagrams = 0;
    while let Some((len, rest)) = left.split_first_chunk::<2>() {
        let code = u16::from_le_bytes(*len);
        let len = usize::from(code & 0x7FF).min(rest.len());
        let (datagram, rest) = rest.split_at(len);
        left = rest;
        let _ = systole_fuzz::check(datagram);
        let mut datagram = datagram.to_vec();
        systole_fuzz::repair(&mut datagram, &guard.keys);
        let datagram = &datagram[..];
        inbox.datagram(datagram, &At(now_ns), &mut shard, &mut reports);
        inbox.apply(&At(now_ns), &mut shard, &mut reports);
        // Each piece of a bundle is one, too.
        let pieces = match guard.decode(datagram) {
            Ok(Form::Bundle(bundle)) => bundle.pieces().count() as u64,
            _ => 0,
        };
        datagrams += 1 + pieces;
        // The five high bits of the length let time pass: up to 2^40 ns.
        now_ns += (1u64 << (code >> 11)) << 9;
        shard.advance(now_ns, now_ns, 8, &mut reports);
        if code & 1 == 0 {
            while let Some(report) = ring.pop() {
                if let Report::Transition(transition) = report {
                    assert_ne!(transition.from, transition.to);
                    assert!(transition.fired_ns >= transition.deadline_ns);
                }
            }
        }
        if required {
            let slots = shard.table().view();
            let all = (0..CAPACITY).filter_map(|index| slots.read(index));
            all.for_each(|slot| assert_ne!(slot.key_id, 0, "{slot:?} came in without a key"));
        }
        let kept = [PeerState::Up, PeerState::Suspect, PeerState::Down, PeerState::Left];
        let counted: u64 = kept.iter().map(|state| states.get(*state)).sum();
        assert_eq!(counted, shard.table().len() as u64, "every peer is in one state");
        assert!(
            shard.table().is_empty() || shard.next_deadline_ns(now_ns).is_some(),
            "all have a timer"
        );
    }
    let dropped: u64 = systole::wire::Reject::ALL.iter().map(|r| counters.get(r.counter())).sum();
    assert!(dropped <= datagrams, "a datagram is dropped for one reason");
});
