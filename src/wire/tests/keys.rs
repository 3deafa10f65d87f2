//! Keys and tags: BLAKE3's own vector, every altered bit, who may speak for whom.

use super::{KEYS, SECRET, decode, guards};
use crate::wire::{
    Auth, BatchEncoder, Form, Guard, Heartbeat, Key, Keyring, Kind, PeerId, Profile, Reject,
    Status, encode_beat, encode_hello, encode_probe,
};

fn key(id: u8, secret: [u8; 32]) -> Key {
    Key::new(id, secret).expect("not 0")
}

fn beat() -> Heartbeat {
    Heartbeat {
        peer: PeerId::of("web-1"),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 492_386_816,
        sequence: 7,
        interval_us: 1_000_000,
        sent_ns: 1,
        age_us: 0,
        profile_digest: 0,
    }
}

/// One datagram of each form, untagged; the last one is a line of text.
fn forms() -> Vec<Vec<u8>> {
    let mut hello = Vec::new();
    encode_hello(&beat(), &Profile::new("web-1", "web", &[("rack", "r7")]).unwrap(), &mut hello);
    let mut batch = Vec::new();
    let mut encoder = BatchEncoder::new();
    assert!(encoder.push(&beat()));
    encoder.finish(None, &mut batch);
    let bye = encode_beat(&Heartbeat { kind: Kind::Bye, ..beat() }).to_vec();
    let line = b"web-1 group=web rack=r7".to_vec();
    vec![encode_beat(&beat()).to_vec(), bye, hello, batch, line]
}

fn sealed(mut datagram: Vec<u8>, key: &Key) -> Vec<u8> {
    if datagram[0] == 0xBE {
        key.seal(&mut datagram, 0);
        return datagram;
    }
    let mut line = String::from_utf8(datagram).unwrap();
    key.seal_line(&mut line);
    line.into_bytes()
}

/// The key ids of the heartbeats in a form.
fn key_ids(form: Form<'_>) -> Vec<u8> {
    match form {
        Form::Beat(beat) | Form::Hello(beat, _) => vec![beat.key_id],
        Form::Batch(batch) => batch.entries().map(|beat| beat.key_id).collect(),
        Form::Bundle(bundle) => vec![bundle.key_id()],
        Form::Probe { .. } => vec![],
    }
}

#[test]
fn a_tag_is_blake3s_keyed_hash_cut_short() {
    // The first keyed_hash of test_vectors.json in BLAKE3's repository: no input.
    let expected = [
        0x92, 0xb2, 0xb7, 0x56, 0x04, 0xed, 0x3c, 0x76, 0x1f, 0x9d, 0x6f, 0x62, 0x39, 0x2c, 0x8a,
        0x92,
    ];
    assert_eq!(key(1, SECRET).tag(b""), expected);
}

#[test]
fn every_form_says_by_which_key_it_was_proven() {
    let [(off, _), (optional, _), (required, _)] = guards();
    for form in forms() {
        let tagged = sealed(form.clone(), &key(1, SECRET));
        assert_eq!(tagged.len() > form.len(), tagged != form);
        assert_eq!(off.decode(&tagged).map(key_ids), Ok(vec![0]), "nobody looked at it");
        assert_eq!(optional.decode(&tagged).map(key_ids), Ok(vec![1]));
        assert_eq!(required.decode(&tagged).map(key_ids), Ok(vec![1]));
        assert_eq!(off.decode(&form).map(key_ids), Ok(vec![0]));
        assert_eq!(optional.decode(&form).map(key_ids), Ok(vec![0]));
        assert_eq!(required.decode(&form), Err(Reject::Unauthenticated));
        let stranger = sealed(form.clone(), &key(9, SECRET));
        assert_eq!(off.decode(&stranger).map(key_ids), Ok(vec![0]));
        assert_eq!(optional.decode(&stranger), Err(Reject::UnknownKey));
        let forged = sealed(form, &key(255, SECRET));
        assert_eq!(required.decode(&forged), Err(Reject::BadTag), "the secret of another key");
    }
}

#[test]
fn no_altered_bit_gets_through() {
    let [_, _, (required, _)] = guards();
    for form in forms() {
        let tagged = sealed(form, &key(1, SECRET));
        for bit in 0..8 * tagged.len() {
            let mut altered = tagged.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let refused = required.decode(&altered).expect_err("an altered bit");
            if bit >= 8 * 32 && tagged[0] == 0xBE {
                assert_eq!(refused, Reject::BadTag, "bit {bit} of {tagged:02x?}");
            }
        }
        for length in 0..tagged.len() {
            assert!(required.decode(&tagged[..length]).is_err(), "cut to {length}");
        }
        assert!(required.decode(&[&tagged[..], b"x"].concat()).is_err(), "lengthened");
    }
}

#[test]
fn a_probe_needs_no_key() {
    let probe = encode_probe(PeerId(1), 2, 3);
    for (guard, _) in guards() {
        assert!(matches!(guard.decode(&probe), Ok(Form::Probe { secret: 2, sent_ns: 3 })));
    }
}

#[test]
fn a_plain_decoder_believes_what_it_reads() {
    let tagged = sealed(forms().remove(0), &key(77, [0; 32]));
    assert!(decode(&tagged).is_ok());
    assert_eq!(decode(&tagged[..47]), Err(Reject::Length));
}

#[test]
fn who_may_speak_for_whom() {
    let mut keys = Keyring::default();
    let groups = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    for (id, scope) in [
        (1, None),
        (2, Some(groups(&["web"]))),
        (3, Some(groups(&["web", "db"]))),
        (4, Some(groups(&["web"]))),
        (5, Some(groups(&[]))),
    ] {
        assert!(keys.insert(key(id, [id; 32]), scope.as_deref()));
    }
    assert!(!keys.insert(key(2, [9; 32]), None), "an id once");
    assert_eq!(keys.get(2), Some(&key(2, [2; 32])), "and the first stays");
    let covered = |of| (0..=6).filter(|&other| keys.covers(of, other)).collect::<Vec<_>>();
    assert_eq!(covered(1), [1, 2, 3, 4, 5]);
    assert_eq!(covered(2), [2, 4, 5]);
    assert_eq!(covered(3), [2, 3, 4, 5]);
    assert_eq!(covered(5), [5]);
    assert_eq!(covered(0), [0u8; 0]);
    assert_eq!(covered(6), [0u8; 0], "there is no such key");
    let admitted = |of| ["", "web", "db"].map(|group| keys.admits(of, group));
    assert_eq!(admitted(1), [true; 3]);
    assert_eq!(admitted(2), [false, true, false]);
    assert_eq!(admitted(3), [false, true, true]);
    assert_eq!(admitted(6), [false; 3]);
    assert_eq!([1, 2, 6].map(|id| keys.is_unbound(id)), [true, false, false]);
    assert_eq!(Key::new(0, SECRET), None);
}

#[test]
fn no_secret_is_ever_printed() {
    let [_, _, (guard, _)] = guards();
    let guard = Guard { auth: Auth::Required, ..guard.clone() };
    let printed = format!("{guard:?} {:?}", key(1, KEYS[1].1));
    assert!(printed.contains("Key(255)"), "{printed}");
    assert!(!printed.contains("165") && !printed.contains("119"), "{printed}");
}
