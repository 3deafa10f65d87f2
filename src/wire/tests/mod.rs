//! The decoder against a dumb one that was written from the specification, against the
//! specification's own vectors, and against every small damage to a valid datagram.

mod arbitrary;
mod keys;
mod oracle;
mod properties;
mod speed;
mod units;
mod vectors;

use super::{Auth, Form, Guard, Heartbeat, Key, Keyring, PeerId, Profile, Reject};
use oracle::Tags;
use std::sync::LazyLock;

/// What a datagram means, borrowed from nothing: what two decoders are compared by.
#[derive(Clone, PartialEq, Debug)]
enum Meaning {
    Beat(Heartbeat),
    /// The heartbeat without its digest; name, group, labels.
    Hello(Heartbeat, String, String, Vec<(String, String)>),
    /// The relay's own, those of its peers, and which other relay heard each of these, 0 for none.
    Batch(Option<Heartbeat>, Vec<Heartbeat>, Vec<PeerId>),
    /// The relay and its key; each datagram, its age, and the relay that heard it; 0 for those that are no peers.
    Bundle(PeerId, u8, Vec<(Vec<u8>, u32, PeerId)>),
    Probe(u64, u64),
}

impl From<Form<'_>> for Meaning {
    fn from(form: Form<'_>) -> Meaning {
        match form {
            Form::Beat(heartbeat) => Meaning::Beat(heartbeat),
            Form::Hello(heartbeat, profile) => {
                assert_eq!(heartbeat.profile_digest, profile.digest());
                assert_ne!(heartbeat.profile_digest, 0);
                let heartbeat = Heartbeat { profile_digest: 0, ..heartbeat };
                let Profile { name, group, .. } = profile;
                let labels = profile.labels().map(|(k, v)| (k.into(), v.into())).collect();
                Meaning::Hello(heartbeat, name.into(), group.into(), labels)
            }
            Form::Batch(batch) => {
                let heard: Vec<_> = batch.heard().collect();
                assert!(heard.iter().map(|(_, beat)| *beat).eq(batch.entries()));
                let relays: Vec<PeerId> = batch.relays().collect();
                let named = |place: usize| Some(relays[place.checked_sub(1)?]);
                assert!((0..heard.len()).all(|n| heard[n].0 == named(batch.heard_by(n))));
                let by = heard.iter().map(|(relay, _)| relay.unwrap_or(PeerId(0))).collect();
                Meaning::Batch(batch.relay(), batch.entries().collect(), by)
            }
            Form::Bundle(bundle) => {
                let id = |relay: Option<PeerId>| relay.unwrap_or(PeerId(0));
                let pieces = bundle.pieces();
                let pieces = pieces.map(|p| (p.datagram.to_vec(), p.age_us, id(p.relay)));
                Meaning::Bundle(id(bundle.through()), bundle.key_id(), pieces.collect())
            }
            Form::Probe { secret, sent_ns } => Meaning::Probe(secret, sent_ns),
        }
    }
}

/// The secret of the test vectors in `docs/protocol.md`, that of BLAKE3's own.
const SECRET: [u8; 32] = *b"whats the Elvish word for friend";
/// The keys of the vectors and of everything drawn: two of three that are used exist.
const KEYS: [(u8, [u8; 32]); 2] = [(1, SECRET), (255, [0xA5; 32])];

/// Each rule, with these keys, and how the dumb decoder puts it: off, optional, required.
fn guards() -> &'static [(Guard, Tags<'static>); 3] {
    static GUARDS: LazyLock<[(Guard, Tags<'static>); 3]> = LazyLock::new(make_guards);
    &GUARDS
}

fn make_guards() -> [(Guard, Tags<'static>); 3] {
    let guard = |auth| {
        let mut keys = Keyring::default();
        for (id, secret) in KEYS {
            assert!(keys.insert(Key::new(id, secret).expect("no zero"), None));
        }
        Guard { auth, keys }
    };
    let verified = |required| Tags::Verified { keys: &KEYS, required };
    [
        (guard(Auth::Off), Tags::Ignored),
        (guard(Auth::Optional), verified(false)),
        (guard(Auth::Required), verified(true)),
    ]
}

/// Both decoders say the same, whatever the rule.
#[track_caller]
fn agree(datagram: &[u8]) {
    assert_eq!(decode(datagram), oracle::decode(datagram, Tags::Ignored), "{datagram:02x?}");
    for (guard, tags) in guards() {
        let got = guard.decode(datagram).map(Meaning::from);
        assert_eq!(got, oracle::decode(datagram, *tags), "{:?}: {datagram:02x?}", guard.auth);
    }
}

fn decode(datagram: &[u8]) -> Result<Meaning, Reject> {
    super::decode(datagram).map(Meaning::from)
}
