//! The fleet and the network: who beats when, who dies, and what becomes of a datagram on its way.

use super::record::{Beat, Datagram, Fate, NEVER};
use super::scenario::{MS, Scenario, US, exponential, log_uniform};
use super::testing::Rng;
use super::world::{Event, World};
use std::rc::Rc;
use std::sync::OnceLock;
use systole::wire::{self, BatchEncoder, Heartbeat, Kind, PackEncoder, PeerId, Profile, Status};

/// Most peers that a world has.
pub const MOST_PEERS: usize = 64;

/// Names and ids, hashed once.
pub fn names() -> &'static [(String, u64)] {
    static NAMES: OnceLock<Vec<(String, u64)>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let named = |peer| {
            let name = format!("peer-{peer}");
            let id = PeerId::of(&name).0;
            (name, id)
        };
        (0..MOST_PEERS).map(named).collect()
    })
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Form {
    Binary,
    Text,
    Relayed(usize),
}

struct Sender {
    form: Form,
    interval_us: u64,
    /// Whether it tells its interval; if not, it keeps to the monitor's default.
    states_it: bool,
    alive: bool,
    generation: u32,
    incarnation: u64,
    sequence: u64,
    cut_off_until_ns: u64,
    /// Beats until the next HELLO.
    until_hello: u64,
}

/// A beat that a relay holds, and since when.
type Held = (usize, Heartbeat, u64, u64);

#[derive(Default)]
struct Relay {
    held: Vec<Held>,
    flush_ns: u64,
}

/// All senders, the relays and the network between them and the monitor.
pub struct Fleet {
    rng: Rng,
    senders: Vec<Sender>,
    relays: Vec<Relay>,
    /// Nothing comes through until then.
    jammed_until_ns: u64,
    /// Where the counts on the wire begin: they may wrap.
    first_incarnation: u32,
    first_sequence: u32,
}

impl Fleet {
    pub fn new(scenario: &Scenario, world: &World, start_ns: u64) -> Fleet {
        let mut rng = Rng::new(scenario.seed ^ 0xF1EE7);
        let relays = rng.below(3) as usize;
        let all_alike = scenario.tight || rng.one_in(2);
        let sender = |rng: &mut Rng| {
            let states_it = all_alike || !rng.one_in(4);
            let form = match rng.below(8) {
                0 => Form::Text,
                1..=2 if relays > 0 => Form::Relayed(rng.below(relays as u64) as usize),
                _ => Form::Binary,
            };
            let own_ns = if all_alike {
                scenario.scale_ns
            } else {
                log_uniform(rng, scenario.scale_ns / 6, scenario.scale_ns * 2)
            };
            let own_us = whole(own_ns.max(10 * MS) / US);
            let interval_us = if states_it { own_us } else { scenario.policy.default_interval_us };
            Sender {
                form,
                interval_us,
                states_it,
                alive: false,
                generation: 0,
                incarnation: 1,
                sequence: rng.below(5),
                cut_off_until_ns: 0,
                until_hello: 0,
            }
        };
        let senders = (0..scenario.peers).map(|_| sender(&mut rng)).collect();
        let flush_ns = log_uniform(&mut rng, 5 * MS, scenario.scale_ns.max(6 * MS));
        let relays = (0..relays).map(|_| Relay { held: Vec::new(), flush_ns }).collect();
        let wraps = rng.one_in(4);
        let first = |rng: &mut Rng| if wraps { u32::MAX - rng.below(6) as u32 } else { 1 << 20 };
        let fleet = Fleet {
            first_incarnation: first(&mut rng),
            first_sequence: first(&mut rng),
            rng,
            senders,
            relays,
            jammed_until_ns: 0,
        };
        for sender in 0..scenario.peers {
            // One in four is a newcomer that comes in the middle of it all.
            let late_ns = if sender % 4 == 3 { 10 * scenario.scale_ns } else { scenario.scale_ns };
            let late_ns = if scenario.tight { 50 * US } else { late_ns };
            let at_ns = start_ns + MS + world.draw(late_ns);
            world.at(at_ns, Event::Start { sender });
        }
        for relay in 0..fleet.relays.len() {
            world.at(start_ns + flush_ns, Event::Relay { relay });
        }
        world.at(start_ns + scenario.scale_ns, Event::Mischief);
        fleet
    }

    pub fn beat(&mut self, world: &World, number: usize, generation: u32, now_ns: u64) {
        let sender = &mut self.senders[number];
        if !sender.alive || sender.generation != generation {
            return;
        }
        // A sender keeps its interval but for its machine's whims.
        let interval_ns = sender.interval_us * US;
        let late_ns = self.rng.below(interval_ns / 20 + 1);
        world.at(now_ns + interval_ns + late_ns, Event::Beat { sender: number, generation });
        self.emit(world, number, Kind::Beat, now_ns);
    }

    pub fn start(&mut self, world: &World, number: usize, now_ns: u64) {
        let sender = &mut self.senders[number];
        if sender.alive {
            return;
        }
        sender.alive = true;
        sender.generation += 1;
        sender.until_hello = 0;
        if self.rng.one_in(6) {
            // Twice within a tenth of a second: the same incarnation, a later number.
            sender.sequence += 1_000;
        } else {
            sender.incarnation += 1 + self.rng.below(1_000);
            sender.sequence = self.rng.below(1_000);
        }
        let generation = sender.generation;
        self.beat(world, number, generation, now_ns);
    }

    pub fn start_all(&mut self, world: &World, now_ns: u64) {
        for number in 0..self.senders.len() {
            self.start(world, number, now_ns);
        }
    }

    /// A relay sends what it has gathered.
    pub fn flush(&mut self, world: &World, number: usize, now_ns: u64) {
        let relay = &mut self.relays[number];
        world.at(now_ns + relay.flush_ns, Event::Relay { relay: number });
        let mut held = std::mem::take(&mut relay.held);
        while !held.is_empty() {
            // One half of them sends the one form, the other half the other.
            let packs = number % 2 == 1;
            let (mut batch, mut pack) = (BatchEncoder::new(), PackEncoder::new());
            let (mut taken, mut left) = (Vec::new(), Vec::new());
            for (peer, heartbeat, logical, since_ns) in held {
                let age_us = ((now_ns - since_ns) / US).min((1 << 24) - 1);
                let aged = Heartbeat { age_us: age_us as u32, ..heartbeat };
                let fits = if packs {
                    pack.push(&heartbeat, None, since_ns / US)
                } else {
                    batch.push(&aged)
                };
                if fits {
                    taken.push((peer, logical));
                } else {
                    left.push((peer, heartbeat, logical, since_ns));
                }
            }
            let mut bytes = Vec::new();
            if packs {
                pack.finish(PeerId(u64::MAX - number as u64), now_ns / US, &mut bytes);
            } else {
                batch.finish(None, &mut bytes);
            }
            // With the ages that are on the wire, rounded as they are.
            let Ok(wire::Form::Batch(sent)) = wire::decode(&bytes) else {
                unreachable!("a relay's own")
            };
            let beats = taken
                .into_iter()
                .zip(sent.entries())
                .map(|((peer, logical), heartbeat)| recorded(peer, &heartbeat, logical))
                .collect();
            self.send(world, MOST_PEERS + number, bytes, beats, now_ns);
            held = left;
        }
    }

    /// Something goes wrong. Returns a peer that an operator removes.
    pub fn mischief(&mut self, world: &World, now_ns: u64) -> Option<usize> {
        let scenario = &world.scenario;
        let gap_ns = exponential(&mut self.rng, scenario.mischief_gap_ns).max(1);
        world.at(now_ns + gap_ns, Event::Mischief);
        if now_ns > scenario.stormy_until_ns {
            // Silence, and then the end.
            self.senders.iter_mut().for_each(|sender| sender.alive = false);
            return None;
        }
        let number = self.rng.below(self.senders.len() as u64) as usize;
        let scale_ns = scenario.scale_ns;
        let away_ns = log_uniform(&mut self.rng, scale_ns / 10, scale_ns * 12);
        match self.rng.below(24) {
            0..=5 => {
                self.senders[number].alive = false;
                if !self.rng.one_in(4) {
                    world.at(now_ns + away_ns, Event::Start { sender: number });
                }
            }
            6..=7 if self.senders[number].alive => {
                self.emit(world, number, Kind::Bye, now_ns);
                self.senders[number].alive = false;
                world.at(now_ns + away_ns, Event::Start { sender: number });
            }
            8..=9 => {
                for sender in &mut self.senders {
                    if self.rng.one_in(3) {
                        sender.cut_off_until_ns = now_ns + away_ns / 2;
                    }
                }
            }
            10 => {
                self.senders.iter_mut().for_each(|sender| sender.alive = false);
                world.at(now_ns + away_ns, Event::StartAll);
            }
            11..=12 if self.senders[number].states_it => {
                let own_ns = log_uniform(&mut self.rng, scale_ns / 6, scale_ns * 2);
                self.senders[number].interval_us = whole(own_ns.max(10 * MS) / US);
            }
            13..=14 => return Some(number),
            15 => {
                let length = self.rng.below(40) as usize;
                let bytes = (0..length).map(|_| 0xFF).collect();
                self.send(world, number, bytes, Vec::new(), now_ns);
            }
            16 => self.jammed_until_ns = now_ns + away_ns / 8,
            _ => {}
        }
        None
    }

    fn emit(&mut self, world: &World, number: usize, kind: Kind, now_ns: u64) {
        let sender = &mut self.senders[number];
        sender.sequence += 1;
        let logical = sender.incarnation << 32 | sender.sequence;
        let (name, id) = &names()[number];
        let text = sender.form == Form::Text;
        let heartbeat = Heartbeat {
            peer: PeerId(*id),
            kind,
            status: Status::from_bits(self.rng.below(4) as u8),
            sequenced: !text,
            key_id: 0,
            incarnation: self.first_incarnation.wrapping_add(sender.incarnation as u32),
            sequence: self.first_sequence.wrapping_add(sender.sequence as u32),
            interval_us: if sender.states_it { sender.interval_us } else { 0 },
            sent_ns: now_ns,
            age_us: 0,
            profile_digest: 0,
        };
        let hello = sender.until_hello == 0;
        sender.until_hello = if hello { 8 } else { sender.until_hello - 1 };
        let mut bytes = Vec::new();
        match sender.form {
            Form::Text => {
                let bye = if kind == Kind::Bye { " bye" } else { "" };
                let interval = match heartbeat.interval_us {
                    0 => String::new(),
                    us => format!(" interval={us}us"),
                };
                bytes.extend_from_slice(format!("{name}{interval}{bye}\n").as_bytes());
            }
            Form::Relayed(relay) if kind == Kind::Beat && !hello => {
                if now_ns >= sender.cut_off_until_ns {
                    self.relays[relay].held.push((number, heartbeat, logical, now_ns));
                }
                return;
            }
            _ if hello && kind == Kind::Beat => {
                let group = if number.is_multiple_of(2) { "even" } else { "odd" };
                let profile = Profile::new(name, group, &[]).expect("a valid profile");
                wire::encode_hello(&heartbeat, &profile, &mut bytes);
            }
            _ => bytes.extend_from_slice(&wire::encode_beat(&heartbeat)),
        }
        let beat = recorded(number, &heartbeat, logical);
        self.send(world, number, bytes, vec![beat], now_ns);
    }

    /// Puts a datagram on the wire, and perhaps a copy, and perhaps one much later.
    fn send(&mut self, world: &World, from: usize, bytes: Vec<u8>, beats: Vec<Beat>, now_ns: u64) {
        let network = &world.scenario.network;
        let bytes: Rc<[u8]> = bytes.into();
        let cut_off = self.senders.get(from).is_some_and(|s| now_ns < s.cut_off_until_ns);
        let mut copies = vec![0];
        if self.rng.below(1_000) < network.double_per_mille {
            copies.push(exponential(&mut self.rng, network.delay_ns));
        }
        if network.replay_one_in > 0 && self.rng.one_in(network.replay_one_in) {
            let scale_ns = world.scenario.scale_ns;
            copies.push(log_uniform(&mut self.rng, scale_ns, 30 * scale_ns));
        }
        for later_ns in copies {
            let lost = cut_off
                || now_ns < self.jammed_until_ns
                || self.rng.below(1_000) < network.loss_per_mille;
            let jitter_ns = match network.jitter_ns {
                0 => 0,
                mean => exponential(&mut self.rng, mean),
            };
            let mut record = world.record.borrow_mut();
            let datagram = record.datagrams.len();
            let first = record.beats.len();
            record.beats.extend(beats.iter().map(|beat| Beat { datagram, ..*beat }));
            let range = first..record.beats.len();
            record.datagrams.push(Datagram {
                bytes: bytes.clone(),
                from,
                beats: range,
                sent_ns: now_ns,
                fate: if lost { Fate::Lost } else { Fate::Sent },
                cut_short: false,
                read_ns: NEVER,
                perhaps_lost: false,
            });
            drop(record);
            if !lost {
                let at_ns = now_ns + network.delay_ns + jitter_ns + later_ns;
                world.at(at_ns, Event::Arrive { datagram });
            }
        }
    }
}

/// The interval that the wire can say: whole seconds above 35 minutes.
fn whole(us: u64) -> u64 {
    if us < 1 << 31 { us } else { us.div_ceil(1_000_000) * 1_000_000 }
}

fn recorded(peer: usize, heartbeat: &Heartbeat, number: u64) -> Beat {
    Beat {
        peer,
        datagram: 0,
        number,
        numbered: heartbeat.sequenced,
        bye: heartbeat.kind == Kind::Bye,
        interval_us: heartbeat.interval_us,
        age_ns: u64::from(heartbeat.age_us) * US,
        applied_ns: NEVER,
    }
}
