//! The whole way of a datagram. The input is a sequence of datagrams, each behind a 16-bit length,
//! so that the fuzzer can learn what one does to the state that an earlier one left.

#![no_main]

use systole::wire::{Form, Heartbeat};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut left = input;
    while let Some((len, rest)) = left.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        let (datagram, rest) = rest.split_at(len);
        left = rest;
        match systole_fuzz::check(datagram) {
            Ok(Form::Beat(heartbeat) | Form::Hello(heartbeat, _)) => apply(heartbeat),
            Ok(Form::Batch(batch)) => {
                batch.relay().into_iter().chain(batch.entries()).for_each(apply)
            }
            Ok(Form::Probe { .. }) | Err(_) => {}
        }
    }
});

/// Where the engine takes over: every heartbeat of every datagram passes here, in order.
fn apply(heartbeat: Heartbeat) {
    assert_ne!(heartbeat.peer.0, 0);
    assert!(heartbeat.interval_us == 0 || heartbeat.interval_us >= 1_000);
    assert_eq!(heartbeat.key_id, 0, "there are no keys");
}
