//! Datagrams behind a right tag: what the guard lets in means what it means without one, and one
//! altered byte anywhere keeps it out.

#![no_main]

use systole::wire::{Auth, Form, Heartbeat, TAG, decode};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, datagram)) = input.split_first_chunk::<4>() else { return };
    let guard = systole_fuzz::guard(Auth::Required);
    let mut datagram = datagram.to_vec();
    systole_fuzz::repair(&mut datagram, &guard.keys);
    let Ok(form) = guard.decode(&datagram) else { return };
    if datagram[0] != 0xBE {
        return;
    }
    let mut bare = datagram.clone();
    if let Form::Probe { .. } = form {
        return;
    }
    bare.truncate(datagram.len() - TAG);
    bare[2] &= 0x7F;
    let key_id = std::mem::take(&mut bare[3]);
    let by = |beat: Heartbeat| Heartbeat { key_id, ..beat };
    match (form, decode(&bare).expect("the tag is no part of the form")) {
        (Form::Beat(with), Form::Beat(without)) => assert_eq!(with, by(without)),
        (Form::Hello(with, profile), Form::Hello(without, same)) => {
            assert_eq!((with, profile), (by(without), same));
        }
        (Form::Batch(with), Form::Batch(without)) => {
            assert_eq!(with.relay(), without.relay().map(by));
            assert!(with.entries().eq(without.entries().map(by)));
        }
        (Form::Bundle(with), Form::Bundle(without)) => {
            assert_eq!((with.key_id(), without.key_id()), (key_id, 0));
            assert!(with.pieces().eq(without.pieces()));
        }
        other => panic!("{other:?}"),
    }
    let [low, high, bit, _] = *choice;
    let at = usize::from(u16::from_le_bytes([low, high])) % datagram.len();
    datagram[at] ^= 1 << (bit % 8);
    if datagram[0] == 0xBE {
        assert!(guard.decode(&datagram).is_err(), "byte {at} was altered");
    }
});
