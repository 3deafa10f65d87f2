//! Any bytes: binary, text or neither.

#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    // A refusal is an answer like any other; `check` panics where an answer is wrong.
    let _ = systole_fuzz::check(datagram);
});
