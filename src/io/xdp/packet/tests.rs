//! Frames made by hand, and then spoilt in every way.

use super::*;
use crate::io::tests::{Random, seeds};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A frame as a sender makes it, with the knobs that the tests turn.
#[derive(Clone, Debug)]
pub(in crate::io::xdp) struct Recipe {
    pub(in crate::io::xdp) from: SocketAddr,
    pub(in crate::io::xdp) to: SocketAddr,
    /// Tags, outermost first, as (protocol, id).
    pub(in crate::io::xdp) tags: Vec<(u16, u16)>,
    pub(in crate::io::xdp) payload: Vec<u8>,
    /// Bytes of Ethernet padding.
    pub(in crate::io::xdp) padding: usize,
    /// Flags and offset of IPv4.
    pub(in crate::io::xdp) fragment: u16,
    /// Options of IPv4, a multiple of four bytes.
    pub(in crate::io::xdp) options: Vec<u8>,
    pub(in crate::io::xdp) protocol: u8,
}

impl Recipe {
    pub(in crate::io::xdp) fn new(from: &str, to: &str, payload: &[u8]) -> Self {
        Self {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            tags: Vec::new(),
            payload: payload.to_vec(),
            padding: 0,
            fragment: 0x4000,
            options: Vec::new(),
            protocol: UDP,
        }
    }

    pub(in crate::io::xdp) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (protocol, id) in &self.tags {
            frame.extend(protocol.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let length = (UDP_BYTES + self.payload.len()) as u16;
        let mut udp = [self.from.port(), self.to.port(), length, 0].map(u16::to_be_bytes).concat();
        udp.extend(&self.payload);
        let mut pseudo: Vec<u8> = Vec::new();
        let mut packet: Vec<u8> = Vec::new();
        match (self.from, self.to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                let header = IPV4_BYTES + self.options.len();
                packet.extend([0x40 | (header / 4) as u8, 0]);
                packet.extend((header as u16 + length).to_be_bytes());
                packet.extend([0, 7]);
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([64, self.protocol, 0, 0]);
                packet.extend(from.ip().octets());
                packet.extend(to.ip().octets());
                packet.extend(&self.options);
                let checksum = !(naive(&packet)) as u16;
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                pseudo.extend(from.ip().octets());
                pseudo.extend(to.ip().octets());
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                frame.extend([0x86, 0xDD]);
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(length.to_be_bytes());
                packet.extend([self.protocol, 64]);
                packet.extend(from.ip().octets());
                packet.extend(to.ip().octets());
                pseudo.extend(from.ip().octets());
                pseudo.extend(to.ip().octets());
            }
            _ => panic!("both of one family"),
        }
        pseudo.extend([0, UDP]);
        pseudo.extend(length.to_be_bytes());
        pseudo.extend(&udp);
        let checksum = match !naive(&pseudo) as u16 {
            0 => 0xFFFF,
            checksum => checksum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(packet);
        frame.extend(udp);
        frame.extend(std::iter::repeat_n(0xAA, self.padding));
        frame
    }
}

/// RFC 1071 the long way: a carry at a time.
fn naive(bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        if sum > 0xFFFF {
            sum = (sum & 0xFFFF) + 1;
        }
    }
    sum
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let v4 = (any::<[u8; 4]>(), any::<u16>())
        .prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from(ip), port)));
    let v6 = (any::<[u8; 16]>(), any::<u16>())
        .prop_map(|(ip, port)| SocketAddr::from((Ipv6Addr::from(ip), port)));
    let pair = prop_oneof![(v4.clone(), v4).boxed(), (v6.clone(), v6).boxed()];
    let tags = prop_oneof![
        Just(vec![]),
        any::<u16>().prop_map(|id| vec![(0x8100, id)]),
        any::<u16>().prop_map(|id| vec![(0x88A8, id)]),
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..1473);
    (pair, tags, payload, 0usize..30).prop_map(|((from, to), tags, payload, padding)| Recipe {
        from,
        to,
        tags,
        payload,
        padding,
        fragment: 0x4000,
        options: Vec::new(),
        protocol: UDP,
    })
}

proptest! {
    #[test]
    fn what_was_put_in_comes_out(recipe in recipes()) {
        let frame = recipe.frame();
        let got = parse(&frame, true).expect("it is well formed");
        prop_assert_eq!(got.payload, &recipe.payload);
        match recipe.from {
            SocketAddr::V4(from) => prop_assert_eq!(got.sender, &from.ip().octets()[..]),
            SocketAddr::V6(from) => prop_assert_eq!(got.sender, &from.ip().octets()[..8]),
        }
        prop_assert_eq!(parse(&frame, false), Ok(got));
    }

    #[test]
    fn cut_anywhere_it_is_refused_or_only_padding_is_gone(recipe in recipes(), cut in 0.0..1.0f64) {
        let frame = recipe.frame();
        let kept = (frame.len() as f64 * cut) as usize;
        match parse(&frame[..kept], true) {
            Ok(got) => {
                prop_assert!(kept >= frame.len() - recipe.padding);
                prop_assert_eq!(got.payload, &recipe.payload);
            }
            Err(_) => prop_assert!(kept < frame.len() - recipe.padding),
        }
    }

    #[test]
    fn no_bytes_at_all_make_it_panic_or_hand_out_what_is_not_there(
        frame in prop::collection::vec(any::<u8>(), 0..200),
        check in any::<bool>(),
    ) {
        if let Ok(got) = parse(&frame, check) {
            prop_assert!(got.payload.len() + 42 <= frame.len());
        }
    }
}

#[test]
fn a_flipped_bit_is_found_by_the_checksums_or_lies_where_none_looks() {
    for seed in seeds() {
        let mut random = Random(seed);
        for to in ["10.0.0.1:4600", "[fd00::1]:4600"] {
            let from = if to.starts_with('[') { "[fd00::2]:9" } else { "10.0.0.2:9" };
            let payload: Vec<u8> = (0..random.below(100)).map(|_| random.next() as u8).collect();
            let recipe = Recipe { tags: vec![(0x8100, 5)], ..Recipe::new(from, to, &payload) };
            let frame = recipe.frame();
            for bit in 0..frame.len() * 8 {
                let mut spoilt = frame.clone();
                spoilt[bit / 8] ^= 1 << (bit % 8);
                // No sum covers the Ethernet header, nor IPv6's class, flow label and hop limit.
                let uncovered = match bit / 8 {
                    ..18 => true,
                    at if to.starts_with('[') => matches!(at - 18, 0..4 | 7),
                    _ => false,
                };
                if !uncovered {
                    assert!(parse(&spoilt, true).is_err(), "seed {seed}, bit {bit} to {to}");
                }
            }
        }
    }
}

#[test]
fn every_flaw_is_told_by_its_reason() {
    let good = Recipe::new("10.0.0.2:9", "10.0.0.1:4600", b"payload");
    let good6 = Recipe::new("[fd00::2]:9", "[fd00::1]:4600", b"payload");
    let check = |frame: &[u8], why| assert_eq!(parse(frame, true), Err(why), "{frame:?}");
    check(&[], Malformed::Short);
    check(&good.frame()[..20], Malformed::Short);
    check(&Recipe { fragment: 0x2000, ..good.clone() }.frame(), Malformed::Foreign);
    check(&Recipe { fragment: 0x0001, ..good.clone() }.frame(), Malformed::Foreign);
    check(&Recipe { options: vec![1; 4], ..good.clone() }.frame(), Malformed::Foreign);
    check(&Recipe { protocol: 6, ..good.clone() }.frame(), Malformed::Foreign);
    check(&Recipe { protocol: 44, ..good6.clone() }.frame(), Malformed::Foreign);
    let twice = vec![(0x88A8, 1), (0x8100, 2)];
    check(&Recipe { tags: twice, ..good.clone() }.frame(), Malformed::Foreign);
    // UDP's length: less than its header, and more than the packet.
    for (length, padding) in [(7u16, 0), (0, 0), (16, 50)] {
        let mut frame = Recipe { padding, ..good.clone() }.frame();
        frame[38..40].copy_from_slice(&length.to_be_bytes());
        check(&frame, Malformed::Length);
    }
    // A checksum of zero says that there is none, which IPv6 does not allow.
    let mut frame = good.frame();
    frame[40..42].fill(0);
    assert!(parse(&frame, true).is_ok());
    let mut frame = good6.frame();
    frame[60..62].fill(0);
    check(&frame, Malformed::Checksum);
    // What is not asked for is not checked.
    let mut frame = good.frame();
    frame[41] ^= 1;
    check(&frame, Malformed::Checksum);
    assert!(parse(&frame, false).is_ok());
    // A datagram may end before its packet.
    let mut frame = good.frame();
    frame[38..40].copy_from_slice(&(8u16 + 3).to_be_bytes());
    assert_eq!(parse(&frame, false).map(|got| got.payload), Ok(&b"pay"[..]));
}
