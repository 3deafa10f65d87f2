//! Ethernet frames of any bytes, held against another parser (etherparse): a datagram that is found is the one
//! that is there, and one that is there, as the program of the interface lets through, is found.
//!
//! The first byte says whether checksums are made right, which nobody hits by chance, and whether that of
//! UDP is asked for.

#![no_main]

use etherparse::{NetSlice, SlicedPacket, TransportSlice, UdpSlice};
use systole::io::xdp::packet::parse;

const ETHERNET: usize = 14;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, frame)) = input.split_first() else { return };
    let mut frame = frame.to_vec();
    if choice & 1 != 0 {
        repair(&mut frame);
    }
    let check_udp = choice & 2 != 0;
    let theirs = SlicedPacket::from_ethernet(&frame);
    let there = theirs.as_ref().ok().and_then(Expected::of);
    match parse(&frame, check_udp) {
        Ok(ours) => {
            let there = there.expect("a datagram that is found is there");
            assert_eq!((ours.payload, ours.sender), (there.udp.payload(), there.sender));
            assert!(!check_udp || there.checksum_holds(), "the checksum of UDP is wrong");
        }
        Err(reason) => {
            let missed = there
                .filter(|there| there.is_ours(&frame) && (!check_udp || there.checksum_holds()));
            assert!(missed.is_none(), "{reason:?}: {frame:x?}");
        }
    }
});

/// A UDP datagram as the other parser finds it.
struct Expected<'a> {
    net: &'a NetSlice<'a>,
    udp: &'a UdpSlice<'a>,
    tags: usize,
    sender: &'a [u8],
}

impl<'a> Expected<'a> {
    fn of(packet: &'a SlicedPacket<'a>) -> Option<Self> {
        let (Some(net), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
            return None;
        };
        let sender = match net {
            NetSlice::Ipv4(ip) => &ip.header().slice()[12..16],
            NetSlice::Ipv6(ip) => &ip.header().slice()[8..16],
            NetSlice::Arp(_) => return None,
        };
        Some(Expected { net, udp, tags: packet.link_exts.len(), sender })
    }

    /// No checksum is right where none is required.
    fn checksum_holds(&self) -> bool {
        let (header, payload) = (self.udp.to_header(), self.udp.payload());
        match self.net {
            NetSlice::Ipv4(ip) => {
                let [from, to] = [ip.header().source(), ip.header().destination()];
                header.checksum == 0
                    || header.calc_checksum_ipv4_raw(from, to, payload) == Ok(header.checksum)
            }
            NetSlice::Ipv6(ip) => {
                let [from, to] = [ip.header().source(), ip.header().destination()];
                header.calc_checksum_ipv6_raw(from, to, payload) == Ok(header.checksum)
            }
            NetSlice::Arp(_) => false,
        }
    }

    /// Whether it is of those that the interface's program takes, and whole.
    fn is_ours(&self, frame: &[u8]) -> bool {
        let outer = u16::from_be_bytes([frame[12], frame[13]]);
        let tags = match outer {
            0x8100 | 0x88A8 => 1,
            _ => 0,
        };
        let ip = match self.net {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                // The other parser also looks behind an authentication header.
                header.ihl() == 5
                    && header.protocol().0 == 17
                    && !ip.is_payload_fragmented()
                    && sum(header.slice()) == 0xFFFF
            }
            NetSlice::Ipv6(ip) => {
                ip.header().next_header().0 == 17
                    && ip.header().payload_length() != 0
                    && self.udp.checksum() != 0
            }
            NetSlice::Arp(_) => false,
        };
        // A length of 0 stands for a jumbogram there.
        self.tags == tags && ip && self.udp.length() != 0
    }
}

/// The sum of an IPv4 header (RFC 1071), all ones when its checksum is right. The other parser's own
/// leaves out the reserved flag, which the sender's has in it.
fn sum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    words.fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// Makes the checksums of an IPv4 header without options and of the datagram behind it right.
fn repair(frame: &mut [u8]) {
    let tag = match frame.get(12..14) {
        Some([0x81, 0x00] | [0x88, 0xA8]) => 4,
        _ => 0,
    };
    let Some(header) = frame.get_mut(ETHERNET + tag..ETHERNET + tag + 20) else { return };
    if header[0] == 0x45 {
        header[10..12].fill(0);
        let sum = sum(header);
        header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    }
    let right = SlicedPacket::from_ethernet(frame).ok().and_then(|packet| {
        let there = Expected::of(&packet)?;
        let (header, payload) = (there.udp.to_header(), there.udp.payload());
        let at = there.udp.slice().as_ptr() as usize - frame.as_ptr() as usize + 6;
        let sum = match there.net {
            NetSlice::Ipv4(ip) => header.calc_checksum_ipv4_raw(
                ip.header().source(),
                ip.header().destination(),
                payload,
            ),
            NetSlice::Ipv6(ip) => header.calc_checksum_ipv6_raw(
                ip.header().source(),
                ip.header().destination(),
                payload,
            ),
            NetSlice::Arp(_) => return None,
        };
        sum.ok().map(|sum| (at, sum))
    });
    if let Some((at, sum)) = right {
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}
