//! The decoder against a dumb one that was written from the specification, against the
//! specification's own vectors, and against every small damage to a valid datagram.

mod arbitrary;
mod oracle;
mod properties;
mod speed;
mod units;
mod vectors;

use super::{Form, Heartbeat, Profile, Reject};

/// What a datagram means, borrowed from nothing: what two decoders are compared by.
#[derive(Clone, PartialEq, Debug)]
enum Meaning {
    Beat(Heartbeat),
    /// The heartbeat without its digest; name, group, labels.
    Hello(Heartbeat, String, String, Vec<(String, String)>),
    Batch(Option<Heartbeat>, Vec<Heartbeat>),
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
            Form::Batch(batch) => Meaning::Batch(batch.relay(), batch.entries().collect()),
            Form::Probe { secret, sent_ns } => Meaning::Probe(secret, sent_ns),
        }
    }
}

fn decode(datagram: &[u8]) -> Result<Meaning, Reject> {
    super::decode(datagram).map(Meaning::from)
}
