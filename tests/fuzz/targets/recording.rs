//! Any bytes as a recording, and any settings over what comes out. What decodes is encoded again and
//! must come back the same; the checksums are set right first, as no fuzzer would guess them.

#![no_main]

use std::collections::BTreeMap;
use systole::engine::{Detector, Policy};
use systole::trace::format::{BLOCK_HEADER, Encoder, HEADER, MAGIC, VERSION, decode};
use systole::trace::{Arrival, Trace, replay};
use systole::wire::PeerId;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = decode(input);
    let Some((word, blocks)) = input.split_first() else { return };
    let Ok(trace) = decode(&with_sums(blocks)) else { panic!("its header is whole") };
    let total = trace.arrivals();
    assert!(total <= input.len() as u64, "a heartbeat takes three bytes and more");

    let words = Detector::WORDS;
    let detector = words[usize::from(*word) % words.len()].parse().expect("a word");
    let policy = Policy { detector, missed: 1.0 + f64::from(word % 4), ..Policy::default() };
    let found = replay(&trace, &policy, |_| 0);
    assert_eq!(found.overall.arrivals, total);
    assert!(found.overall.heartbeats <= total);
    assert!(found.overall.mistakes <= found.overall.suspicions);
    assert!(found.overall.mistake_duration_ns <= found.overall.observed_ns);

    assert_eq!(by_name(&again(&trace)), by_name(&trace));
});

/// The blocks of the input, each cut off where its length says or the input ends, with right sums.
fn with_sums(blocks: &[u8]) -> Vec<u8> {
    let (_, header) = Encoder::new(0, 1 << 40);
    assert_eq!(header[..8], MAGIC);
    assert_eq!(header[8], VERSION as u8);
    let mut bytes = header.to_vec();
    assert_eq!(bytes.len(), HEADER);
    let mut rest = blocks;
    while let Some((head, after)) = rest.split_first_chunk::<3>() {
        // Two bytes of length, one of how many heartbeats.
        let len = usize::from(u16::from_le_bytes([head[0], head[1]])).min(after.len());
        let (block, after) = after.split_at(len);
        let mut block_header = [0; BLOCK_HEADER];
        block_header[..4].copy_from_slice(&(len as u32).to_le_bytes());
        block_header[4] = head[2];
        let mut sum = crc32fast::Hasher::new();
        sum.update(&block_header[..12]);
        sum.update(block);
        block_header[12..].copy_from_slice(&sum.finalize().to_le_bytes());
        bytes.extend_from_slice(&block_header);
        bytes.extend_from_slice(block);
        rest = after;
    }
    bytes
}

/// The heartbeats by name: a damaged recording may name a peer twice, or say nothing of it.
fn by_name(trace: &Trace) -> BTreeMap<&str, Vec<Arrival>> {
    let mut all: BTreeMap<&str, Vec<Arrival>> = BTreeMap::new();
    for peer in trace.peers.iter().filter(|peer| !peer.arrivals.is_empty()) {
        all.entry(&peer.name).or_default().extend(&peer.arrivals);
    }
    all.values_mut().for_each(|arrivals| arrivals.sort_by_key(|arrival| arrival.arrived_ns));
    all
}

/// Encodes a trace and decodes it.
fn again(trace: &Trace) -> Trace {
    let (mut encoder, header) = Encoder::new(0, 0);
    let mut bytes = header.to_vec();
    for peer in &trace.peers {
        let id = PeerId::from_hex(&peer.name).expect("a recording has ids");
        for arrival in &peer.arrivals {
            encoder.push(id, arrival);
            if encoder.is_full() {
                encoder.take(0, |block| bytes.extend_from_slice(block));
            }
        }
    }
    encoder.take(0, |block| bytes.extend_from_slice(block));
    decode(&bytes).expect("it was encoded by us")
}
