//! What decoding costs. A test like any other, in a tiny size, so that it never rots; for figures:
//! `SYSTOLE_BENCH=1 cargo test --release --lib wire::tests::speed -- --nocapture`.

use super::{KEYS, guards};
use crate::wire::{
    BatchEncoder, Form, Guard, Heartbeat, Key, Kind, PeerId, Profile, Status, encode_beat,
    encode_hello,
};
use std::hint::black_box;
use std::time::Instant;

/// Decodes the datagrams in turn and prints the best of many short runs (a long one would measure
/// whoever else is on the core), in nanoseconds a heartbeat.
fn time(what: &str, guard: &Guard, datagrams: &[Vec<u8>]) {
    let runs = if std::env::var_os("SYSTOLE_BENCH").is_some() { 5_000 } else { 2 };
    let beats = |form| match form {
        Ok(Form::Beat(beat) | Form::Hello(beat, _)) => (1, beat.peer.0),
        Ok(Form::Batch(batch)) => {
            batch.entries().fold((0, 0), |(n, sum), beat| (n + 1, sum ^ beat.peer.0))
        }
        other => panic!("{other:?}"),
    };
    let best = (0..runs).map(|_| {
        let start = Instant::now();
        let (mut count, mut sum) = (0u64, 0);
        for datagram in datagrams.iter().cycle().take(640) {
            let (n, id) = beats(guard.decode(black_box(datagram)));
            count += n;
            sum ^= id;
        }
        assert!(count >= 640, "every datagram has a beat");
        black_box(sum);
        start.elapsed().as_nanos() as f64 / count as f64
    });
    println!("{what:>29}: {:6.1} ns a heartbeat", best.fold(f64::INFINITY, f64::min));
}

#[test]
fn decoding() {
    let seed = Heartbeat {
        peer: PeerId(1),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 1,
        sequence: 1,
        interval_us: 1_000_000,
        sent_ns: 1,
        age_us: 0,
        profile_digest: 0,
    };
    let beat = |n: u64| Heartbeat { peer: PeerId::of(&format!("web-{n}")), ..seed };
    let beats: Vec<_> = (0..64).map(|n| encode_beat(&beat(n)).to_vec()).collect();
    let [(off, _), (optional, _), (required, _)] = guards();
    let seal = |datagrams: &[Vec<u8>]| {
        let key = Key::new(KEYS[0].0, KEYS[0].1).expect("not 0");
        let mut sealed = datagrams.to_vec();
        sealed.iter_mut().for_each(|datagram| key.seal(datagram, 0));
        sealed
    };
    time("BEAT", off, &beats);
    time("BEAT, tag optional", optional, &beats);
    time("tagged BEAT, ignored", off, &seal(&beats));
    time("tagged BEAT", required, &seal(&beats));
    let labels = [("rack", "r7"), ("os", "debian")];
    for (what, labels) in [("HELLO", &labels[..0]), ("HELLO with two labels", &labels)] {
        let hello = |n: u64| {
            let name = format!("web-{n}");
            let mut bytes = Vec::new();
            encode_hello(&beat(n), &Profile::new(&name, "web", labels).unwrap(), &mut bytes);
            bytes
        };
        let hellos = (0..64).map(hello).collect::<Vec<_>>();
        time(what, off, &hellos);
        time(&format!("tagged {what}"), required, &seal(&hellos));
    }
    let mut encoder = BatchEncoder::new();
    assert!((0..70).all(|n| encoder.push(&beat(n))));
    let mut batch = Vec::new();
    encoder.finish(Some(&seed), &mut batch);
    time("BATCH of 70", off, &[batch.clone()]);
    time("tagged BATCH of 70", required, &seal(&[batch]));
    let text = |n| format!("web-{n} interval=500ms status=warn group=web rack=r7\n").into_bytes();
    time("text", off, &(0..64).map(text).collect::<Vec<_>>());
}
