//! What must hold for every datagram, whoever made it. The fuzz targets call this; a broken rule is
//! a panic, which libFuzzer reports together with the bytes.

use systole::wire::{
    Auth, BatchEncoder, BundleEncoder, Form, Guard, HEADER, Heartbeat, Key, Keyring, OwnedProfile,
    PackEncoder, PeerId, Piece, Profile, Reject, TAG, decode, encode_beat, encode_hello,
    encode_probe,
};

/// A guard with key 1 for all, 2 for the group web and 3 for db.
pub fn guard(auth: Auth) -> Guard {
    let mut keys = Keyring::default();
    for (id, group) in [(1, None), (2, Some("web")), (3, Some("db"))] {
        let groups = group.map(|group: &str| vec![group.to_owned()]);
        let key = Key::new(id, [id; 32]).expect("not 0");
        assert!(keys.insert(key, groups.as_deref()), "each once");
    }
    Guard { auth, keys }
}

/// Makes the tag of a tagged binary datagram the right one, as one would a checksum: nothing gets
/// behind a tag by chance. One that begins with 0 is left as it is, so that wrong ones come, too.
pub fn repair(datagram: &mut [u8], keys: &Keyring) {
    let Some(at) = datagram.len().checked_sub(TAG).filter(|at| *at >= HEADER) else { return };
    let (covered, tag) = datagram.split_at_mut(at);
    let tagged = covered[0] == 0xBE && covered[2] & 0x80 != 0 && tag[0] != 0;
    if let Some(key) = keys.get(covered[3]).filter(|_| tagged) {
        tag.copy_from_slice(&key.tag(covered));
    }
}

/// Decodes, encodes what came out, decodes again: the meaning must be the same.
pub fn check(datagram: &[u8]) -> Result<Form<'_>, Reject> {
    let form = decode(datagram)?;
    match form {
        Form::Beat(heartbeat) => {
            assert_eq!(heartbeat.profile_digest, 0);
            let again = encode_beat(&heartbeat);
            assert_eq!(decode(&again), Ok(Form::Beat(as_binary(heartbeat))));
        }
        Form::Hello(heartbeat, profile) => check_hello(heartbeat, profile),
        Form::Batch(batch) if datagram[1] & 0x0F == 5 => {
            let mut encoder = PackEncoder::new();
            // Numbers on both sides of their wrap take more room from the encoder's base.
            let fitting = batch.heard().take_while(|(by, beat)| encoder.push(beat, *by, 0)).count();
            let mut again = Vec::new();
            encoder.finish(batch.through().unwrap_or(PeerId(0)), 0, &mut again);
            let Ok(Form::Batch(twin)) = decode(&again) else { panic!("not a pack: {again:x?}") };
            assert_eq!(twin.through(), batch.through());
            assert!(twin.heard().eq(batch.heard().take(fitting)), "{batch:?} became {twin:?}");
        }
        Form::Bundle(bundle) => {
            let mut encoder = BundleEncoder::new();
            let header = |relay: Option<PeerId>| relay.filter(|id| Some(*id) != bundle.through());
            for piece in bundle.pieces() {
                let piece = Piece { relay: header(piece.relay), ..piece };
                assert!(encoder.push(PeerId(0), &piece, 0), "it fitted before");
            }
            let mut again = Vec::new();
            encoder.finish(bundle.through().unwrap_or(PeerId(0)), 0, &mut again);
            let Ok(Form::Bundle(twin)) = decode(&again) else { panic!("not a bundle: {again:x?}") };
            assert!(twin.pieces().eq(bundle.pieces()), "{bundle:?} became {twin:?}");
        }
        Form::Batch(batch) => {
            let mut encoder = BatchEncoder::new();
            batch.entries().for_each(|beat| assert!(encoder.push(&beat), "it fitted before"));
            let mut again = Vec::new();
            encoder.finish(batch.relay().as_ref(), &mut again);
            assert!(again.len() <= datagram.len(), "the encoder wastes nothing");
            let Ok(Form::Batch(twin)) = decode(&again) else { panic!("not a batch: {again:x?}") };
            assert_eq!(twin.relay(), batch.relay());
            assert!(twin.entries().eq(batch.entries()), "{batch:?} became {twin:?}");
        }
        Form::Probe { secret, sent_ns } => {
            let mut token = [0; 8];
            token.copy_from_slice(&datagram[8..16]);
            let token = PeerId(u64::from_le_bytes(token));
            assert_eq!(encode_probe(token, secret, sent_ns), datagram);
        }
    }
    Ok(form)
}

fn check_hello(heartbeat: Heartbeat, profile: Profile<'_>) {
    assert_ne!(heartbeat.profile_digest, 0);
    let mut again = Vec::new();
    encode_hello(&heartbeat, &profile, &mut again);
    assert_eq!(decode(&again), Ok(Form::Hello(as_binary(heartbeat), profile)));

    let owned = OwnedProfile::of(&profile);
    assert_eq!(owned.profile(), profile);
    assert_eq!(owned.profile().digest(), heartbeat.profile_digest);
    assert_eq!(Profile::from_bytes(owned.as_bytes()), Ok(profile));
    let labels: Vec<_> = profile.labels().collect();
    assert_eq!(Profile::new(profile.name, profile.group, &labels), Ok(profile));
}

/// The text form has no sequence; once it is encoded as binary it has one.
fn as_binary(heartbeat: Heartbeat) -> Heartbeat {
    Heartbeat { sequenced: true, ..heartbeat }
}
