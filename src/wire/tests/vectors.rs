//! `docs/protocol.md` is the specification: its vectors are read out of the text and must hold.

use super::{agree, guards};
use crate::wire::{
    BatchEncoder, BundleEncoder, Form, Heartbeat, Key, PackEncoder, PeerId, Piece, Profile,
    encode_beat, encode_hello, encode_probe,
};
use std::fmt::Write;

const SPECIFICATION: &str = include_str!("../../../docs/protocol.md");

/// A datagram and its meaning, as the document has them.
struct Vector {
    datagram: Vec<u8>,
    meaning: String,
}

fn vectors() -> Vec<Vector> {
    let blocks = SPECIFICATION.split("\n```vector\n").skip(1);
    let vectors: Vec<Vector> = blocks
        .map(|block| {
            let (block, _) = block.split_once("\n```").expect("the block ends");
            let is_hex = |line: &&str| line.bytes().all(|b| b" 0123456789abcdef".contains(&b));
            let (hex, meaning): (Vec<&str>, Vec<&str>) = block.lines().partition(is_hex);
            let byte = |hex| u8::from_str_radix(hex, 16).expect("a byte in hex");
            let datagram = hex.join(" ").split_whitespace().map(byte).collect();
            Vector { datagram, meaning: meaning.join("\n") }
        })
        .collect();
    assert!(vectors.len() >= 30, "only {} vectors found", vectors.len());
    vectors
}

/// A heartbeat in the document's words.
fn said(beat: &Heartbeat) -> String {
    let Heartbeat { peer, interval_us, incarnation, sequence, sent_ns, .. } = beat;
    let status = beat.status.as_str();
    let head = format!("peer={peer} status={status} interval_us={interval_us}");
    let tail = if beat.sequenced {
        format!("incarnation={incarnation} sequence={sequence} sent_ns={sent_ns}")
    } else {
        "text".into()
    };
    let key = if beat.key_id == 0 { String::new() } else { format!(" key={}", beat.key_id) };
    format!("{head} {tail}{key}")
}

/// What the document's monitor makes of a datagram: tags are optional, and it has key 1.
fn decode(datagram: &[u8]) -> Result<Form<'_>, crate::wire::Reject> {
    let [_, (optional, _), _] = guards();
    optional.decode(datagram)
}

/// A datagram's meaning in the document's words. Where a tag is required, another refusal follows.
fn meaning(datagram: &[u8]) -> String {
    match decode(datagram) {
        Ok(Form::Beat(beat)) => {
            format!("{} {}", format!("{:?}", beat.kind).to_lowercase(), said(&beat))
        }
        Ok(Form::Hello(beat, profile)) => {
            let Profile { name, group, .. } = profile;
            let labels: Vec<_> = profile.labels().collect();
            format!("hello {} name={name:?} group={group:?} labels={labels:?}", said(&beat))
        }
        Ok(Form::Batch(batch)) => {
            let relay = match (batch.relay(), batch.through()) {
                (Some(relay), _) => said(&relay),
                (None, Some(relay)) => format!("of relay={relay}"),
                (None, None) => "anonymous".into(),
            };
            let mut text = format!("batch {relay}");
            for (by, beat) in batch.heard() {
                let said = said(&beat).replace(" sent_ns=0", "");
                write!(text, "\n  entry {said} age_us={}", beat.age_us).expect("a string");
                if let Some(relay) = by {
                    write!(text, " relay={relay}").expect("a string");
                }
            }
            text
        }
        Ok(Form::Bundle(bundle)) => {
            let id = |relay: Option<PeerId>| relay.map_or("none".into(), |id| id.to_string());
            let mut text = format!("bundle of relay={}", id(bundle.through()));
            for Piece { datagram, age_us, relay } in bundle.pieces() {
                let said = meaning(datagram);
                write!(text, "\n  piece age_us={age_us} relay={}: {said}", id(relay))
                    .expect("a string");
            }
            text
        }
        Ok(Form::Probe { secret, sent_ns }) => {
            format!("probe secret={secret:016x} sent_ns={sent_ns}")
        }
        Err(reject) => {
            format!("drop {}", reject.counter().label().trim_start_matches("drop_"))
        }
    }
}

#[test]
fn every_vector_means_what_the_document_says() {
    for Vector { datagram, meaning: expected } in vectors() {
        assert_eq!(meaning(&datagram), expected, "{datagram:02x?}");
        agree(&datagram);
    }
}

#[test]
fn every_binary_vector_is_encoded_to_the_same_bytes() {
    let mut encoded = 0;
    for Vector { datagram, .. } in vectors().iter().filter(|v| v.datagram[0] == 0xBE) {
        let mut again = Vec::new();
        let form = decode(datagram);
        match form {
            Ok(Form::Beat(beat)) => again.extend(encode_beat(&beat)),
            Ok(Form::Hello(beat, profile)) => encode_hello(&beat, &profile, &mut again),
            Ok(Form::Batch(batch)) if datagram[1] == 0x15 => {
                let mut encoder = PackEncoder::new();
                assert!(batch.heard().all(|(by, beat)| encoder.push(&beat, by, 0)));
                encoder.finish(batch.through().unwrap_or(PeerId(0)), 0, &mut again);
            }
            Ok(Form::Batch(batch)) => {
                let mut encoder = BatchEncoder::new();
                assert!(batch.entries().all(|beat| encoder.push(&beat)));
                encoder.finish(batch.relay().as_ref(), &mut again);
            }
            Ok(Form::Bundle(bundle)) => {
                let mut encoder = BundleEncoder::new();
                for piece in bundle.pieces() {
                    let relay = piece.relay.filter(|relay| Some(*relay) != bundle.through());
                    assert!(encoder.push(PeerId(0), &Piece { relay, ..piece }, 0));
                }
                encoder.finish(bundle.through().unwrap_or(PeerId(0)), 0, &mut again);
            }
            Ok(Form::Probe { secret, sent_ns }) => {
                again.extend(encode_probe(PeerId(1), secret, sent_ns));
            }
            Err(_) => continue,
        }
        if datagram[2] >= 0x80 {
            Key::new(1, super::SECRET).expect("not 0").seal(&mut again, 0);
        }
        assert_eq!(&again, datagram);
        encoded += 1;
    }
    assert!(encoded >= 8, "only {encoded} vectors were encoded");
}

#[test]
fn every_reason_has_a_vector_and_a_place_in_the_document() {
    let vectors = vectors();
    for reject in crate::wire::Reject::ALL {
        let label = reject.counter().label();
        assert!(SPECIFICATION.contains(&format!("`{label}`")), "{label} is not explained");
        let reason = format!("drop {}", label.trim_start_matches("drop_"));
        // The vectors are read where tags are optional; the first one is refused where they are not.
        let there = match reject {
            crate::wire::Reject::Unauthenticated => {
                guards()[2].0.decode(&vectors[0].datagram) == Err(reject)
            }
            _ => vectors.iter().any(|vector| vector.meaning == reason),
        };
        assert!(there, "no vector for {reason}");
    }
}

#[test]
fn every_name_has_the_id_that_the_document_says() {
    let rows = SPECIFICATION.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split("` | `").collect();
        let [name, wire, printed] = cells[..] else { return None };
        Some((name.strip_prefix("| `")?, wire, printed.strip_suffix("` |")?))
    });
    let rows: Vec<_> = rows.filter(|(_, wire, _)| wire.len() == 16).collect();
    assert!(rows.len() >= 5, "only {} names found", rows.len());
    for (name, wire, printed) in rows {
        let id = PeerId::of(name);
        assert_eq!(id.to_string(), printed, "{name}");
        let bytes: String = id.0.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(bytes, wire, "{name}");
    }
}
