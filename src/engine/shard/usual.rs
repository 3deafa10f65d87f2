//! The short cut of the usual heartbeat against the long way: two shards hear the same, one of them
//! without it, and must be the same in every word.

use super::tests::{Bench, beat, policy};
use super::*;
use crate::engine::brake::BrakeSettings;
use crate::engine::{Detector, Policy};
use crate::testing::{Rng, seeds};
use crate::wire::{Kind, Status};

const MS: u64 = 1_000_000;
const START: u64 = 5_000 * MS;
const PEERS: u64 = 24;

/// What [`Shard::observe`] does, without the short cut.
fn observe_the_long_way(bench: &mut Bench, beats: &[Heartbeat], now_ns: u64) {
    let Bench { shard, sink, .. } = bench;
    for (place, beat) in beats.iter().enumerate() {
        let way = sink.way(place);
        match shard.peers.table.find(beat.peer) {
            None => shard.newcomer(place, beat, now_ns, sink),
            Some(index) => {
                if shard.heard(index, beat, way, now_ns, sink) && beat.profile_digest != 0 {
                    shard.introduce(place, beat, sink);
                }
            }
        }
    }
}

/// A sender that mostly goes on as it should.
#[derive(Clone, Copy)]
struct Sender {
    usual: Heartbeat,
}

impl Sender {
    fn next(&mut self, rng: &mut Rng) -> Heartbeat {
        let usual = &mut self.usual;
        usual.sequence = usual.sequence.wrapping_add(1);
        if rng.one_in(30) {
            match rng.below(5) {
                0 => usual.interval_us = [0, 50_000, 100_000, 3_000_000_000][rng.below(4) as usize],
                1 => usual.status = Status::ALL[rng.below(4) as usize],
                2 => usual.incarnation = usual.incarnation.wrapping_add(1),
                3 => usual.sequence = usual.sequence.wrapping_add(rng.below(40) as u32),
                _ => usual.key_id = rng.below(2) as u8,
            }
        }
        let mut beat = *usual;
        if rng.one_in(10) {
            match rng.below(8) {
                0 => beat.sequence = beat.sequence.wrapping_sub(rng.below(40) as u32),
                1 => beat.incarnation = beat.incarnation.wrapping_sub(1),
                2 => beat.kind = Kind::Bye,
                3 => (beat.sequenced, beat.sequence, beat.incarnation) = (false, 0, 0),
                4 => beat.age_us = rng.below(500_000) as u32,
                5 => beat.profile_digest = 1 + rng.below(3) as u32,
                6 => beat.status = Status::ALL[rng.below(4) as usize],
                _ => beat.interval_us = 200_000,
            }
        }
        beat
    }
}

fn groups() -> Groups {
    let of = |detector: Detector| Policy { detector, ..policy() };
    let words = Detector::WORDS.map(|word| of(word.parse().unwrap()));
    let groups = Groups::new(words.to_vec(), BrakeSettings::OFF);
    (0..words.len() as u16).for_each(|group| groups.set_policy(group, group));
    groups
}

#[test]
fn the_short_cut_and_the_long_way_come_to_the_same() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let mut pair = [(); 2].map(|()| Bench::with(groups(), 32, START));
        let mut senders: Vec<Sender> =
            (0..PEERS).map(|peer| Sender { usual: beat(peer + 1, 5, u32::MAX - 50) }).collect();
        let mut now_ns = START;
        for step in 0..400 {
            now_ns += rng.below(30) * MS;
            let count = rng.below(12) as usize;
            let mut beats = Vec::new();
            for _ in 0..count {
                beats.push(senders[rng.below(PEERS) as usize].next(&mut rng));
            }
            let way = [Way::Unsaid, Way::Direct, Way::Direct, Way::Direct, Way::Relay(300)];
            let way = way[rng.below(5) as usize];
            let peer = PeerId(1 + rng.below(PEERS));
            let what = rng.below(60);
            let group = rng.below(Detector::WORDS.len() as u64) as u16;
            for (is_long, bench) in pair.iter_mut().enumerate() {
                bench.sink.way = way;
                match what {
                    0..8 => bench.shard.assign(peer, group, 0, now_ns),
                    8 => bench.shard.silence(peer, step % 2 == 0, now_ns, &mut bench.sink),
                    9 => bench.shard.deaf(now_ns - 20 * MS, now_ns, &mut bench.sink),
                    10 => drop(bench.shard.remove(peer, now_ns, &mut bench.sink)),
                    _ => {}
                }
                if is_long == 1 {
                    observe_the_long_way(bench, &beats, now_ns);
                } else {
                    bench.shard.observe(&beats, now_ns, &mut bench.sink);
                }
                let more =
                    bench.shard.advance(now_ns - 5 * MS, now_ns, usize::MAX, &mut bench.sink);
                assert!(!more);
            }
            let context = format!("seed {seed}, step {step}");
            let [short, long] = &mut pair;
            assert_eq!(short.take_transitions(), long.take_transitions(), "{context}");
            let notices =
                [&mut *short, &mut *long].map(|bench| std::mem::take(&mut bench.sink.notices));
            assert_eq!(notices[0], notices[1], "{context}");
            for index in 0..32 {
                let tables = [&short, &long].map(|bench| bench.shard.table().read(index));
                assert_eq!(tables[0], tables[1], "{context}: slot {index}");
            }
            for counter in Counter::ALL {
                let counts = [&short, &long].map(|bench| bench.counters.get(*counter));
                assert_eq!(counts[0], counts[1], "{context}: {counter:?}");
            }
        }
    }
}

#[test]
fn only_the_usual_goes_the_short_way() {
    let now_ns = START + 100 * MS;
    let after = |samples| {
        let mut bench = Bench::with(groups(), 8, START);
        bench.sink.way = Way::Direct;
        bench.observe(&[beat(1, 5, 7)], START);
        bench.shard.assign(PeerId(1), 1, 0, START);
        let table = &bench.shard.peers.table;
        let slot = table.slot(table.find(PeerId(1)).unwrap());
        slot.write().set_arrivals(&Arrivals { samples, ..Arrivals::NONE });
        bench
    };
    let known = || after(Arrivals::WARM + 1);
    let is_short = |bench: &Bench, beat: &Heartbeat, way, now_ns| {
        let table = &bench.shard.peers.table;
        bench.shard.heard_as_usual(table.guess(table.prefetch(beat.peer)), beat, way, now_ns)
    };
    let usual = beat(1, 5, 8);
    assert!(is_short(&known(), &usual, Way::Direct, now_ns));
    let relayed = Heartbeat { age_us: 20_000, ..usual };
    assert!(is_short(&known(), &relayed, Way::Direct, now_ns));
    for (what, beat) in [
        ("another peer", Heartbeat { peer: PeerId(2), ..usual }),
        ("leaves", Heartbeat { kind: Kind::Bye, ..usual }),
        ("another status", Heartbeat { status: Status::Warn, ..usual }),
        ("in maintenance", Heartbeat { status: Status::Maintenance, ..usual }),
        ("a text", Heartbeat { sequenced: false, ..usual }),
        ("another key", Heartbeat { key_id: 1, ..usual }),
        ("restarted", Heartbeat { incarnation: 6, ..usual }),
        ("a gap", Heartbeat { sequence: 9, ..usual }),
        ("a copy", Heartbeat { sequence: 7, ..usual }),
        ("another interval", Heartbeat { interval_us: 100_001, ..usual }),
        ("a profile", Heartbeat { profile_digest: 1, ..usual }),
    ] {
        assert!(!is_short(&known(), &beat, Way::Direct, now_ns), "{what}");
    }
    for (what, way, now_ns) in [
        ("through a relay", Way::Relay(3), now_ns),
        ("no way said", Way::Unsaid, now_ns),
        ("in a bunch", Way::Direct, START + 10 * MS),
        ("late by two intervals", Way::Direct, START + 301 * MS),
    ] {
        assert!(!is_short(&known(), &usual, way, now_ns), "{what}");
    }
    assert!(
        !is_short(&after(Arrivals::WARM), &usual, Way::Direct, now_ns),
        "learns by large steps"
    );
    let mut bench = known();
    bench.shard.deaf(START - MS, START + MS, &mut bench.sink);
    assert!(
        !is_short(&bench, &usual, Way::Direct, now_ns),
        "the last was heard when some were lost"
    );
    let mut bench = known();
    bench.observe(&[beat(1, 5, 7)], now_ns);
    assert!(
        !is_short(&bench, &usual, Way::Direct, now_ns),
        "wanted as a witness, since one was refused"
    );
    bench.observe(&[usual], now_ns);
    let next = Heartbeat { sequence: 9, ..usual };
    assert!(is_short(&bench, &next, Way::Direct, now_ns + 100 * MS), "there is one");
    let mut bench = known();
    bench.advance(START + 320 * MS);
    assert_eq!(bench.state(1), PeerState::Down);
    assert!(!is_short(&bench, &usual, Way::Direct, START + 330 * MS), "it was down");
}
