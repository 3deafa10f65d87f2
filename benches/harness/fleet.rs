//! Senders: peers with random ids that beat in turn, as datagrams ready to be sent.

use super::{mix, shuffled};
use std::sync::Arc;
use systole::engine::admission::SharedGuard;
use systole::wire::{Auth, BatchEncoder, Guard, Heartbeat, Key, Keyring, Kind, PeerId, Status};
use systole::wire::{SECRET, encode_beat};

/// How a fleet's heartbeats travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// One BEAT a datagram, 32 bytes.
    Plain,
    /// One BEAT a datagram with its tag, 48 bytes.
    Tagged,
    /// BATCH: so many a datagram, as from a relay.
    Batch(u32),
}

impl Form {
    /// Heartbeats of a datagram.
    pub fn beats(self) -> u32 {
        if let Form::Batch(beats) = self { beats } else { 1 }
    }

    /// Its word in results.
    pub fn word(self) -> String {
        match self {
            Form::Plain => "plain".into(),
            Form::Tagged => "tagged".into(),
            Form::Batch(beats) => format!("batches of {beats}"),
        }
    }
}

/// Peers that beat one after the other, in an order that is not that in which they joined.
pub struct Fleet {
    form: Form,
    interval_us: u64,
    /// The number of its first peer.
    first: u32,
    order: Vec<u32>,
    key: Key,
    encoder: BatchEncoder,
    /// Heartbeats so far.
    beats: u64,
}

/// The key that tagged fleets have.
fn key() -> Key {
    Key::new(7, [0x5E; SECRET]).expect("7 is a key's number")
}

/// What lets in a fleet of this form: who tags has to.
pub fn guard_for(form: Form) -> SharedGuard {
    let mut keys = Keyring::default();
    assert!(keys.insert(key(), None));
    let auth = if form == Form::Tagged { Auth::Required } else { Auth::Off };
    SharedGuard::new(Arc::new(Guard { auth, keys }).into())
}

impl Fleet {
    pub fn new(peers: u32, interval_us: u64, form: Form) -> Fleet {
        let (order, encoder) = (shuffled(peers), BatchEncoder::new());
        Fleet { form, interval_us, first: 0, order, key: key(), encoder, beats: 0 }
    }

    /// The same with other peers than a fleet with so many has.
    pub fn beside(self, others: u32) -> Fleet {
        Fleet { first: others, ..self }
    }

    /// The same, beating in the order of the numbers in each round: as long passes between any two
    /// heartbeats of a peer.
    pub fn in_line(self) -> Fleet {
        Fleet { order: (0..self.peers()).collect(), ..self }
    }

    pub fn peers(&self) -> u32 {
        self.order.len() as u32
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Heartbeats so far.
    pub fn beats(&self) -> u64 {
        self.beats
    }

    /// Who the peer with this number is.
    pub fn id(number: u32) -> PeerId {
        // 0 names nobody, and only mix(0) is 0.
        PeerId(mix(u64::from(number) + 1))
    }

    /// The next heartbeat: everybody beats once before anybody beats again. The first round is in the
    /// order of the numbers, so that slots are not in the order of beating.
    pub fn next(&mut self) -> Heartbeat {
        let (peers, place) = (self.order.len() as u64, self.beats);
        self.beats += 1;
        let number = match place / peers {
            0 => place as u32,
            _ => self.order[(place % peers) as usize],
        };
        Heartbeat {
            peer: Fleet::id(self.first + number),
            kind: Kind::Beat,
            status: Status::Ok,
            sequenced: true,
            key_id: 0,
            incarnation: 9,
            sequence: (place / peers) as u32,
            interval_us: self.interval_us,
            sent_ns: 0,
            age_us: 0,
            profile_digest: 0,
        }
    }

    /// The next datagrams, in place of what `datagrams` held.
    pub fn fill(&mut self, datagrams: &mut Datagrams, count: usize) {
        datagrams.clear();
        for _ in 0..count {
            self.push(datagrams);
        }
    }

    /// Appends the next datagram.
    pub fn push(&mut self, datagrams: &mut Datagrams) {
        let out = &mut datagrams.bytes;
        let start = out.len();
        match self.form {
            Form::Plain => out.extend_from_slice(&encode_beat(&self.next())),
            Form::Tagged => {
                out.extend_from_slice(&encode_beat(&self.next()));
                self.key.seal(out, start);
            }
            Form::Batch(beats) => {
                for _ in 0..beats {
                    let beat = self.next();
                    assert!(self.encoder.push(&beat), "{beats} are too many for a datagram");
                }
                self.encoder.finish(None, out);
            }
        }
        datagrams.ends.push(datagrams.bytes.len());
    }
}

/// Datagrams, one behind the other.
#[derive(Default)]
pub struct Datagrams {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Datagrams {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// All of them, one behind the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(&start, &end)| &self.bytes[start..end])
    }
}
