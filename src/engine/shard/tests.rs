//! The shard against an oracle that keeps everything and looks at everybody.

use super::*;
use crate::engine::Policy;
use crate::engine::slot::{SlotRegion, Slots};
use crate::testing::{Rng, seeds};
use crate::wire::{Kind, Status};
use std::collections::{BTreeMap, HashSet};

const MS: u64 = 1_000_000;
const START: u64 = 5_000 * MS;
/// Fixed: three intervals and 20 ms, suspicion at 60 %.
pub(super) fn policy() -> Policy {
    Policy {
        missed: 3.0,
        grace_ns: 20 * MS,
        suspect_fraction: 0.6,
        forget_down_ns: 60_000 * MS,
        forget_left_ns: 10_000 * MS,
        ..Policy::default()
    }
}

/// The oracle's own arithmetic: whole microseconds, so no rounding.
fn timeout_ns(interval_us: u64) -> u64 {
    let interval_us = if interval_us == 0 { 1_000_000 } else { interval_us };
    interval_us * 3_000 + 20 * MS
}

fn suspect_ns(interval_us: u64) -> u64 {
    (timeout_ns(interval_us) as f64 * 0.6) as u64
}

/// An outlet with room for so many transitions.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) room: usize,
    transitions: Vec<Transition>,
    pub(super) notices: Vec<Notice>,
    profiles: Vec<(usize, PeerId)>,
    refuse_profiles: bool,
    /// Which way all heartbeats come.
    pub(super) way: Way,
}

impl Outlet for Sink {
    fn has_room(&self) -> bool {
        self.room > 0
    }

    fn transition(&mut self, transition: Transition) {
        self.room -= 1;
        self.transitions.push(transition);
    }

    fn profile(&mut self, place: usize, beat: &Heartbeat) -> bool {
        self.profiles.push((place, beat.peer));
        !self.refuse_profiles
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    fn way(&self, _place: usize) -> Way {
        self.way
    }
}

/// A shard with what a test looks at.
pub(super) struct Bench {
    pub(super) shard: Shard,
    pub(super) sink: Sink,
    states: Arc<StateCounts>,
    pub(super) counters: Arc<Counters>,
}

impl Bench {
    pub(super) fn new(capacity: u32, now_ns: u64) -> Bench {
        Bench::with(Groups::uniform(policy()), capacity, now_ns)
    }

    pub(super) fn with(groups: Groups, capacity: u32, now_ns: u64) -> Bench {
        let slots = Arc::new(Slots::new(SlotRegion::anonymous(capacity).unwrap()));
        let table = Table::new(slots, [11, 13]);
        let shared = Surroundings {
            groups: Arc::new(groups),
            views: [table.view()].into(),
            budget: Arc::new(Budget::new(capacity as u64)),
            states: Arc::default(),
            counters: Arc::default(),
            histograms: Arc::default(),
        };
        let (states, counters) = (shared.states.clone(), shared.counters.clone());
        let shard = Shard::new(table, shared, now_ns);
        Bench { shard, sink: Sink { room: usize::MAX, ..Sink::default() }, states, counters }
    }

    pub(super) fn observe(&mut self, beats: &[Heartbeat], now_ns: u64) -> Vec<Transition> {
        self.shard.observe(beats, now_ns, &mut self.sink);
        std::mem::take(&mut self.sink.transitions)
    }

    pub(super) fn advance(&mut self, now_ns: u64) -> Vec<Transition> {
        let more = self.shard.advance(now_ns, now_ns, usize::MAX, &mut self.sink);
        assert!(!more || self.sink.room == 0);
        std::mem::take(&mut self.sink.transitions)
    }

    pub(super) fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.sink.transitions)
    }

    pub(super) fn state(&self, peer: u64) -> PeerState {
        let table = self.shard.table();
        table.find(PeerId(peer)).map_or(PeerState::Unknown, |i| table.slot(i).state())
    }
}

pub(super) fn beat(peer: u64, incarnation: u32, sequence: u32) -> Heartbeat {
    Heartbeat {
        peer: PeerId(peer),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation,
        sequence,
        interval_us: 100_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

fn story(transitions: &[Transition]) -> Vec<(u64, PeerState, PeerState, Reason, u64)> {
    transitions.iter().map(|t| (t.peer.0, t.from, t.to, t.reason, t.deadline_ns)).collect()
}

use PeerState::*;

#[test]
fn a_life_from_the_first_beat_to_oblivion() {
    let start = 5_000 * MS;
    let mut bench = Bench::new(8, start);
    let told = bench.observe(&[beat(1, 7, 0)], start);
    assert_eq!(story(&told), [(1, Unknown, Up, Reason::FirstBeat, 0)]);

    // timeout = 3 × 100 ms + 20 ms; suspicion after 0.6 of it.
    let suspect_ns = start + 192 * MS;
    let down_ns = start + 320 * MS;
    assert!(bench.advance(suspect_ns - 1).is_empty());
    assert_eq!(story(&bench.advance(suspect_ns)), [(1, Up, Suspect, Reason::Silence, suspect_ns)]);
    assert!(bench.advance(down_ns - 1_000).is_empty());
    assert_eq!(bench.shard.next_deadline_ns(down_ns - 1_000), Some(down_ns));
    let told = bench.advance(down_ns + 5_000);
    assert_eq!(story(&told), [(1, Suspect, Down, Reason::Silence, down_ns)]);
    assert_eq!(told[0].lateness_ns(), 5_000);
    assert_eq!(told[0].last_seen_ns, start);
    assert_eq!(bench.states.get(Down), 1);

    let back_ns = down_ns + 500 * MS;
    let told = bench.observe(&[beat(1, 7, 4)], back_ns);
    assert_eq!(story(&told), [(1, Down, Up, Reason::Beat, 0)]);
    assert_eq!((told[0].gaps, told[0].in_from_ns), (3, 500 * MS - 5_000));

    let bye = Heartbeat { kind: Kind::Bye, ..beat(1, 7, 5) };
    assert_eq!(story(&bench.observe(&[bye], back_ns + 1)), [(1, Up, Left, Reason::Bye, 0)]);
    assert!(bench.observe(&[bye], back_ns + 2).is_empty(), "a repeated BYE says nothing new");
    assert!(bench.advance(back_ns + 9_999 * MS).is_empty(), "no alarm follows a BYE");
    let told = bench.advance(back_ns + 10_001 * MS);
    assert_eq!((told[0].from, told[0].to, told[0].reason), (Left, Forgotten, Reason::Expired));
    assert_eq!(bench.state(1), Unknown);
    assert_eq!(bench.shard.next_deadline_ns(0), None);
}

#[test]
fn silence_that_is_seen_late_goes_straight_to_down() {
    let mut bench = Bench::new(8, 0);
    bench.observe(&[beat(1, 7, 0)], 0);
    let told = bench.advance(1_000 * MS);
    assert_eq!(story(&told), [(1, Up, Down, Reason::Silence, 320 * MS)]);
}

#[test]
fn an_old_or_repeated_beat_never_brings_a_dead_peer_back() {
    let mut bench = Bench::new(8, 0);
    bench.observe(&[beat(1, 7, 10), beat(1, 7, 12)], 0);
    bench.advance(1_000 * MS);
    for old in
        [beat(1, 7, 12), beat(1, 7, 11), beat(1, 6, 99), beat(1, 7, 12_u32.wrapping_sub(900))]
    {
        assert!(bench.observe(&[old], 1_001 * MS).is_empty(), "{old:?}");
        assert_eq!(bench.state(1), Down);
    }
    let count = |c| bench.counters.get(c);
    assert_eq!(
        (count(Counter::Duplicate), count(Counter::Reordered), count(Counter::Stale)),
        (1, 1, 2)
    );
    // Held by a relay for longer than the peer's timeout: newer, but no sign of life now.
    let aged = Heartbeat { age_us: 400_000, ..beat(1, 7, 13) };
    assert!(bench.observe(&[aged], 1_500 * MS).is_empty());
    assert_eq!(bench.state(1), Down);
    let told = bench.observe(&[beat(1, 8, 0)], 1_600 * MS);
    assert_eq!(story(&told), [(1, Down, Up, Reason::Restart, 0)]);
    // Nor does it bring back who has left: an alarm would follow at once.
    bench.observe(&[Heartbeat { kind: Kind::Bye, ..beat(1, 8, 1) }], 1_700 * MS);
    let aged = Heartbeat { age_us: 800_000, ..beat(1, 8, 2) };
    assert!(bench.observe(&[aged], 2_400 * MS).is_empty());
    assert_eq!(bench.state(1), Left);
    let told = bench.observe(&[beat(1, 8, 3)], 2_500 * MS);
    assert_eq!(story(&told), [(1, Left, Up, Reason::Beat, 0)]);
}

#[test]
fn a_shorter_interval_brings_the_deadline_nearer_at_once() {
    let mut bench = Bench::new(8, 0);
    bench.observe(&[Heartbeat { interval_us: 86_400_000_000, ..beat(1, 7, 0) }], 0);
    bench.observe(&[Heartbeat { interval_us: 10_000, ..beat(1, 7, 1) }], MS);
    let down_ns = MS + 50 * MS;
    assert_eq!(story(&bench.advance(down_ns)), [(1, Up, Down, Reason::Silence, down_ns)]);
}

#[test]
fn the_relays_delay_counts_as_silence() {
    let mut bench = Bench::new(8, 0);
    bench.observe(&[Heartbeat { age_us: 50_000, ..beat(1, 7, 0) }], 1_000 * MS);
    let down_ns = 950 * MS + 320 * MS;
    bench.advance(down_ns - 1_000);
    assert_eq!(bench.state(1), Suspect);
    bench.advance(down_ns);
    assert_eq!(bench.state(1), Down);
}

#[test]
fn the_text_form_keeps_a_peer_alive_without_a_sequence() {
    let mut bench = Bench::new(8, 0);
    let text = Heartbeat { sequenced: false, ..beat(1, 0, 0) };
    bench.observe(&[text], 0);
    bench.observe(&[text, text], 100 * MS);
    assert!(bench.advance(250 * MS).is_empty());
    let told = bench.observe(&[beat(1, 7, 500), beat(1, 7, 501)], 260 * MS);
    assert!(told.is_empty(), "the first numbers of a sequence are no gap: {told:?}");
    assert_eq!(bench.counters.get(Counter::Gaps), 0);
}

#[test]
fn a_newcomer_beyond_the_capacity_is_refused_and_counted() {
    let mut bench = Bench::new(2, 0);
    bench.observe(&[beat(1, 7, 0), beat(2, 7, 0), beat(3, 7, 0), beat(1, 7, 1)], 0);
    assert_eq!(bench.counters.get(Counter::TableFull), 1);
    assert_eq!(bench.state(3), Unknown);
    assert_eq!(bench.counters.get(Counter::Heartbeats), 3);
}

#[test]
fn a_profile_is_offered_until_it_is_taken_and_then_only_when_it_changes() {
    let mut bench = Bench::new(8, 0);
    let hello = |sequence, digest| Heartbeat { profile_digest: digest, ..beat(1, 7, sequence) };
    bench.sink.refuse_profiles = true;
    bench.observe(&[hello(0, 5)], 0);
    bench.sink.refuse_profiles = false;
    bench.observe(&[beat(2, 1, 1), hello(1, 5), hello(2, 5)], 1);
    bench.observe(&[hello(3, 5), hello(4, 6)], 2);
    assert_eq!(bench.sink.profiles, [(0, PeerId(1)), (1, PeerId(1)), (1, PeerId(1))]);
    assert_eq!(bench.counters.get(Counter::ProfilesDeferred), 1);
}

#[test]
fn a_late_number_fills_a_gap_only_if_it_was_counted_as_one() {
    let mut bench = Bench::new(8, 0);
    let gaps = |bench: &Bench| {
        let table = bench.shard.table();
        table.slot(table.find(PeerId(1)).unwrap()).gaps()
    };
    bench.observe(&[beat(1, 7, 5), beat(1, 7, 7), beat(1, 7, 4)], 0);
    assert_eq!(gaps(&bench), 1, "6 is missing, 4 came before the first that was heard");
    bench.observe(&[beat(1, 7, 6)], 1);
    assert_eq!(gaps(&bench), 0);
    bench.observe(&[beat(1, 8, 1_000), beat(1, 8, 1_002), beat(1, 8, 995)], 2);
    assert_eq!(gaps(&bench), 1, "the same after a restart");
}

#[test]
fn an_operator_removes_a_peer() {
    let mut bench = Bench::new(8, 0);
    bench.observe(&[beat(1, 7, 0)], 0);
    assert!(bench.shard.remove(PeerId(1), 5, &mut bench.sink));
    assert!(!bench.shard.remove(PeerId(1), 5, &mut bench.sink));
    assert_eq!(story(&bench.sink.transitions), [(1, Up, Forgotten, Reason::Removed, 0)]);
    assert_eq!(bench.shard.next_deadline_ns(0), None);
}

/// All that the oracle knows of a peer.
struct Known {
    state: PeerState,
    last_seen_ns: u64,
    since_ns: u64,
    interval_us: u64,
    sequenced: bool,
    incarnation: u32,
    newest: u32,
    seen: HashSet<u32>,
}

#[derive(Default)]
struct Oracle {
    peers: BTreeMap<u64, Known>,
}

impl Oracle {
    fn observe(
        &mut self,
        b: &Heartbeat,
        now_ns: u64,
        told: &mut Vec<(u64, PeerState, PeerState, Reason, u64)>,
    ) {
        let arrived_ns = now_ns - b.age_us as u64 * 1_000;
        let Some(known) = self.peers.get_mut(&b.peer.0) else {
            if b.kind == Kind::Beat {
                told.push((b.peer.0, Unknown, Up, Reason::FirstBeat, 0));
                let known = Known {
                    state: Up,
                    last_seen_ns: arrived_ns,
                    since_ns: now_ns,
                    interval_us: b.interval_us,
                    sequenced: b.sequenced,
                    incarnation: b.incarnation,
                    newest: b.sequence,
                    seen: HashSet::from([b.sequence]),
                };
                self.peers.insert(b.peer.0, known);
            }
            return;
        };
        let mut restart = false;
        if b.sequenced {
            if known.sequenced {
                if b.incarnation < known.incarnation {
                    return;
                }
                restart = b.incarnation > known.incarnation;
                if !restart && b.sequence <= known.newest {
                    return;
                }
            } else {
                restart = true;
            }
            known.sequenced = true;
            known.incarnation = b.incarnation;
            known.newest = b.sequence;
            known.seen.insert(b.sequence);
        }
        known.last_seen_ns = known.last_seen_ns.max(arrived_ns);
        known.interval_us = b.interval_us;
        let from = known.state;
        let timeout_ns = timeout_ns(known.interval_us);
        let (to, reason) = if b.kind == Kind::Bye {
            (Left, Reason::Bye)
        } else if [Down, Left].contains(&from) && known.last_seen_ns + timeout_ns <= now_ns {
            (from, Reason::Beat)
        } else {
            (Up, if restart { Reason::Restart } else { Reason::Beat })
        };
        if to != from {
            told.push((b.peer.0, from, to, reason, 0));
            (known.state, known.since_ns) = (to, now_ns);
        }
    }

    pub(super) fn advance(&mut self, now_ns: u64) -> Vec<(u64, PeerState, PeerState, Reason, u64)> {
        let mut told = Vec::new();
        let due = |deadline_ns: u64| deadline_ns.div_ceil(1_000) <= now_ns / 1_000;
        self.peers.retain(|&peer, known| {
            let suspect_ns = known.last_seen_ns + suspect_ns(known.interval_us);
            let down_ns = known.last_seen_ns + timeout_ns(known.interval_us);
            let (to, reason, deadline_ns) = match known.state {
                Up if due(suspect_ns) && down_ns <= now_ns => (Down, Reason::Silence, down_ns),
                Up if due(suspect_ns) => (Suspect, Reason::Silence, suspect_ns),
                Suspect if due(down_ns) => (Down, Reason::Silence, down_ns),
                Down if due(known.since_ns + policy().forget_down_ns) => {
                    (Forgotten, Reason::Expired, known.since_ns + policy().forget_down_ns)
                }
                Left if due(known.since_ns + policy().forget_left_ns) => {
                    (Forgotten, Reason::Expired, known.since_ns + policy().forget_left_ns)
                }
                _ => return true,
            };
            told.push((peer, known.state, to, reason, deadline_ns));
            (known.state, known.since_ns) = (to, now_ns);
            to != Forgotten
        });
        told
    }
}

/// Draws a heartbeat of one of `peers` peers: mostly the next one, now and then anything else.
fn draw(rng: &mut Rng, peers: u64, next: &mut BTreeMap<u64, (u32, u32)>, now_ns: u64) -> Heartbeat {
    let peer = rng.below(peers) + 1;
    let (incarnation, sequence) = next.entry(peer).or_insert((1_000, 0));
    if rng.one_in(50) {
        (*incarnation, *sequence) = (*incarnation + 1, rng.below(3) as u32);
    }
    *sequence += 1 + if rng.one_in(10) { rng.below(5) as u32 } else { 0 };
    let mut drawn = beat(peer, *incarnation, *sequence);
    match rng.below(20) {
        0 => drawn.sequence = drawn.sequence.saturating_sub(rng.below(60) as u32),
        1 => drawn.incarnation -= 1,
        2 => drawn.kind = Kind::Bye,
        3 => drawn.sequenced = false,
        4 => drawn.age_us = rng.below(600_000).min(now_ns / 1_000) as u32,
        _ => {}
    }
    // Some have no interval of their own; some change it on the way.
    drawn.interval_us = match peer % 4 {
        0 => 0,
        1 if rng.one_in(9) => 10_000 + rng.below(1_000_000),
        n => 50_000 * n,
    };
    drawn
}

#[test]
fn agrees_with_the_oracle_on_random_traffic() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut now_ns = rng.below(1 << 50);
        let mut bench = Bench::new(64, now_ns);
        let mut oracle = Oracle::default();
        let mut next = BTreeMap::new();
        for step in 0..20_000 {
            let scale = [1_000, 100_000, 10 * MS, 400 * MS][rng.below(4) as usize];
            now_ns += rng.below(scale);
            if rng.one_in(2_000) {
                now_ns += 70_000 * MS;
            }
            let beats: Vec<_> =
                (0..rng.below(6)).map(|_| draw(&mut rng, 40, &mut next, now_ns)).collect();
            let mut expected = Vec::new();
            beats.iter().for_each(|b| oracle.observe(b, now_ns, &mut expected));
            let told = bench.observe(&beats, now_ns);
            assert_eq!(story(&told), expected, "seed {seed}, step {step}, {beats:#?}");

            let mut told = story(&bench.advance(now_ns));
            told.sort_by_key(|t| t.0);
            assert_eq!(told, oracle.advance(now_ns), "seed {seed}, step {step}");
            for state in [Up, Suspect, Down, Left] {
                let expected = oracle.peers.values().filter(|k| k.state == state).count() as u64;
                assert_eq!(bench.states.get(state), expected, "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn without_room_transitions_wait_and_none_is_lost_or_made_twice() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut now_ns = rng.below(1 << 50);
        let mut bench = Bench::new(64, now_ns);
        let mut next = BTreeMap::new();
        let mut told_state: BTreeMap<u64, PeerState> = BTreeMap::new();
        let mut follow = |told: &[Transition], step: u32| {
            for t in told {
                let before = told_state.get(&t.peer.0).copied().unwrap_or(Unknown);
                assert_eq!(t.from, before, "seed {seed}, step {step}: {t:?}");
                assert_ne!(t.from, t.to, "seed {seed}, step {step}: {t:?}");
                match t.to {
                    Forgotten => told_state.remove(&t.peer.0),
                    to => told_state.insert(t.peer.0, to),
                };
            }
        };
        for step in 0..5_000 {
            now_ns += rng.below(100 * MS);
            bench.sink.room = rng.below(4) as usize;
            let beats: Vec<_> =
                (0..rng.below(6)).map(|_| draw(&mut rng, 40, &mut next, now_ns)).collect();
            follow(&bench.observe(&beats, now_ns), step);
            follow(&bench.advance(now_ns), step);
        }
        bench.sink.room = usize::MAX;
        follow(&bench.advance(now_ns), u32::MAX);
        for peer in 1..=40 {
            let told = told_state.get(&peer).copied().unwrap_or(Unknown);
            assert_eq!(bench.state(peer), told, "seed {seed}, peer {peer}");
        }
    }
}

#[test]
fn fifty_thousand_fall_silent_at_once_and_are_told_in_slices() {
    let mut bench = Bench::new(50_000, 0);
    for chunk in (0..50_000u64).collect::<Vec<_>>().chunks(1_000) {
        let beats: Vec<_> = chunk.iter().map(|&peer| beat(peer + 1, 7, 0)).collect();
        bench.observe(&beats, 0);
    }
    bench.advance(200 * MS);
    let mut told = 0;
    loop {
        let more = bench.shard.advance(320 * MS, 321 * MS, 512, &mut bench.sink);
        told += bench.sink.transitions.drain(..).filter(|t| t.to == Down).count();
        if !more {
            break;
        }
    }
    assert_eq!(told, 50_000);
    assert_eq!(bench.states.get(Down), 50_000);
}

#[test]
fn a_removal_that_waits_for_room_is_made_whatever_the_peer_says_meanwhile() {
    for bye in [true, false] {
        let mut bench = Bench::new(8, START);
        bench.observe(&[beat(1, 1, 1)], START);
        bench.sink.room = 0;
        bench.shard.remove(PeerId(1), START + MS, &mut bench.sink);
        if bye {
            bench.observe(&[Heartbeat { kind: Kind::Bye, ..beat(1, 1, 2) }], START + 2 * MS);
        }
        bench.observe(&[beat(1, 1, 3)], START + 3 * MS);
        bench.sink.room = usize::MAX;
        let told = bench.advance(START + 4 * MS);
        let story: Vec<_> = told.iter().map(|t| (t.to, t.reason)).collect();
        assert_eq!(story, [(PeerState::Forgotten, Reason::Removed)], "bye {bye}");
    }
}
