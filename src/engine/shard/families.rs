//! Families drawn at random, with deaths and returns drawn at random, against what everybody knows of them:
//! who is heard is up, and the silence of the others is their own or their parents'.

use super::guards::{MS, START};
use super::tests::{Bench, beat, policy};
use super::*;
use crate::engine::Policy;
use crate::engine::brake::BrakeSettings;
use crate::testing::{Rng, seeds};
use PeerState::*;

/// Whom a peer comes through.
#[derive(Clone, Debug, PartialEq)]
enum Family {
    Alone,
    /// A switch or host, by its label: cut off with it.
    Named(usize),
    /// One or two relays, and perhaps the direct way as well.
    Through(Vec<usize>, bool),
}

#[derive(Clone, Debug)]
struct Member {
    family: Family,
    interval_ns: u64,
    lives: bool,
    next_ns: u64,
    sequence: u32,
    heard_ns: u64,
    /// When each way was last open to a beat of its own.
    open_ns: Vec<u64>,
    /// When it was told what, since it was up.
    told: Vec<(u64, PeerState)>,
}

struct World {
    bench: Bench,
    members: Vec<Member>,
    rng: Rng,
    now_ns: u64,
    /// Since when nobody dies or returns.
    quiet_ns: u64,
}

fn id(member: usize) -> u64 {
    member as u64 + 1
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let policy = Policy { forget_down_ns: 86_400_000 * MS, ..policy() };
        // Holds many at once now and then, for less than the last quiet time.
        let held = BrakeSettings { share: 0.5, least: 6, hold_ns: 2_000 * MS };
        let brake = if rng.one_in(2) { held } else { BrakeSettings::OFF };
        let mut bench = Bench::with(Groups::new(vec![policy], brake), 64, START);
        let member = |n: usize, rng: &mut Rng| {
            let elder = |rng: &mut Rng| rng.below(n as u64) as usize;
            let family = match rng.below(if n < 2 { 1 } else { 4 }) {
                0 => Family::Alone,
                1 => Family::Named(elder(rng)),
                _ => {
                    let mut relays = vec![elder(rng), elder(rng)];
                    relays.dedup();
                    Family::Through(relays, rng.one_in(6))
                }
            };
            let interval_ns = [100, 100, 300][rng.below(3) as usize] * MS;
            Member {
                family,
                interval_ns,
                lives: true,
                next_ns: START + n as u64 * MS,
                sequence: 0,
                heard_ns: 0,
                open_ns: vec![0; 3],
                told: Vec::new(),
            }
        };
        let members: Vec<Member> = (0..14).map(|n| member(n, &mut rng)).collect();
        for n in 0..members.len() {
            bench.observe(&[beat(id(n), 1, 0)], START);
            bench.shard.shared.groups.parent_number(PeerId(id(n))).expect("room");
        }
        for (n, member) in members.iter().enumerate() {
            if let Family::Named(parent) = member.family {
                let parent = bench.shard.shared.groups.parent_number(PeerId(id(parent)));
                bench.shard.assign(PeerId(id(n)), 0, parent.expect("known"), START);
            }
        }
        bench.take_transitions();
        World { bench, members, rng, now_ns: START, quiet_ns: START }
    }

    /// Whether what this one says reaches the monitor: its own parents' way is open, too.
    fn is_open(&self, member: usize) -> bool {
        let through = |parent: &usize| self.members[*parent].lives && self.is_open(*parent);
        match &self.members[member].family {
            Family::Alone => true,
            Family::Named(parent) => through(parent),
            Family::Through(relays, directly) => *directly || relays.iter().any(through),
        }
    }

    fn is_heard(&self, member: usize) -> bool {
        self.members[member].lives && self.is_open(member)
    }

    /// Lets everybody beat for so long.
    fn go_on(&mut self, for_ns: u64) {
        let end_ns = self.now_ns + for_ns;
        while self.now_ns < end_ns {
            self.now_ns += MS;
            for n in 0..self.members.len() {
                if self.members[n].lives && self.members[n].next_ns <= self.now_ns {
                    self.beat(n);
                }
            }
            let told = self.bench.advance(self.now_ns);
            self.note(&told);
        }
    }

    /// One beat, a copy for each way that is open, in any order.
    fn beat(&mut self, n: usize) {
        let late_ns = self.rng.below(10 * MS);
        let member = &mut self.members[n];
        member.next_ns += member.interval_ns + late_ns / 4;
        member.sequence += 1;
        let interval_us = (member.interval_ns / 1_000) as u32;
        let said = Heartbeat { interval_us: interval_us.into(), ..beat(id(n), 1, member.sequence) };
        let mut ways = Vec::new();
        match self.members[n].family.clone() {
            Family::Through(relays, directly) => {
                for (place, relay) in relays.into_iter().enumerate() {
                    if self.is_heard(relay) {
                        let relay = PeerId(id(relay));
                        let way = self.bench.shard.way_through(relay, 0, &mut self.bench.sink);
                        ways.push((place, way));
                    }
                }
                if directly {
                    ways.push((2, Way::Direct));
                }
            }
            Family::Alone | Family::Named(_) if self.is_open(n) => ways.push((0, Way::Direct)),
            Family::Alone | Family::Named(_) => {}
        }
        if self.rng.one_in(2) {
            ways.reverse();
        }
        for (place, way) in ways {
            self.members[n].open_ns[place] = self.now_ns;
            self.members[n].heard_ns = self.now_ns;
            self.bench.sink.way = way;
            let told = self.bench.observe(&[said], self.now_ns);
            self.note(&told);
        }
    }

    fn note(&mut self, told: &[Transition]) {
        for transition in told {
            let member = &mut self.members[transition.peer.0 as usize - 1];
            if transition.to.is_alive() && transition.to != Suspect {
                member.told.clear();
            } else {
                member.told.push((self.now_ns, transition.to));
            }
        }
    }

    /// Some die, some return; nobody else does in between.
    fn change(&mut self) {
        for n in 0..self.members.len() {
            let turns = self.rng.one_in(if self.members[n].lives { 5 } else { 3 });
            if turns {
                self.members[n].lives ^= true;
                self.members[n].next_ns = self.now_ns + self.rng.below(50 * MS);
            }
        }
    }

    /// Behind a quiet time everybody's state is the truth, as far as it can be known.
    fn check(&self, context: &str) {
        for (n, member) in self.members.iter().enumerate() {
            let state = self.bench.state(id(n));
            let context = format!("{context}: {} {member:?}", id(n));
            if self.is_heard(n) {
                assert_eq!(state, Up, "{context}");
                continue;
            }
            assert!(matches!(state, Down | Unreachable), "{state:?} {context}");
            let verdicts: Vec<_> = member.told.iter().filter(|told| told.1 != Suspect).collect();
            assert!(verdicts.windows(2).all(|two| two[0].1 != two[1].1), "told twice: {context}");
            // Down before its slower parent could be missed; unreachable with it; no more of it then.
            let late = verdicts.iter().filter(|told| told.0 > self.quiet_ns + 4_000 * MS);
            assert_eq!(late.count(), 0, "{context}");
            let (relays, directly) = match &member.family {
                Family::Alone => (&[][..], true),
                Family::Named(parent) => (std::slice::from_ref(parent), false),
                Family::Through(relays, directly) => (&relays[..], *directly),
            };
            if directly {
                assert_eq!(state, Down, "{context}");
                continue;
            }
            // One that lives, and brought its last beats.
            let brings = |place: usize| {
                self.is_heard(relays[place])
                    && (matches!(member.family, Family::Named(_))
                        || member.open_ns[place] == member.heard_ns)
            };
            if (0..relays.len()).any(brings) {
                assert_eq!(state, Down, "its parent lives: {context}");
            }
            // All of them were heard last before it was to be missed.
            let silent = |parent: &usize| {
                let parent = &self.members[*parent];
                parent.heard_ns <= member.heard_ns + member.interval_ns / 2
            };
            if relays.iter().all(|parent| !self.is_heard(*parent) && silent(parent)) {
                assert_eq!(state, Unreachable, "its parents went with it: {context}");
            }
        }
    }
}

#[test]
fn who_is_heard_is_up_and_who_is_not_is_blamed_rightly() {
    for seed in seeds().into_iter().flat_map(|seed| seed * 1_000..seed * 1_000 + 12) {
        let mut world = World::new(seed);
        world.go_on(2_000 * MS);
        for round in 0..6 {
            for _ in 0..1 + world.rng.below(3) {
                world.change();
                let for_ns = 20 * MS + world.rng.below(2_000 * MS);
                world.go_on(for_ns);
            }
            world.quiet_ns = world.now_ns;
            // Longer than a hold, and than all generations' timeouts one behind the other.
            world.go_on(9_000 * MS);
            world.check(&format!("seed {seed}, round {round}"));
        }
    }
}
