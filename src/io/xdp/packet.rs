//! From a frame to the datagram in it: what the kernel's stack does for a socket, done here.
//!
//! ```text
//!   Ethernet 14 │ VLAN tag 4, or none │ IPv4 20 or IPv6 40 │ UDP 8 │ payload │ padding
//! ```
//!
//! Everything comes from outside and may be wrong: each length is held against what is there, and
//! what does not hold is refused by its reason. The lengths are the stack's (`ip_rcv`, `udp_rcv`):
//! a frame may be longer than its packet, a packet longer than its datagram, never the other way.
//!
//! The checksum of the IPv4 header is always checked, that of UDP on request only: the network card
//! has mostly checked it and cannot say so here, and between virtual interfaces it is not filled in.
//!
//! Absent on purpose: who the datagram is for. The program of the interface has seen to that.

/// Why there is no datagram in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// It ends within a header.
    Short,
    /// It is none of those that the program takes.
    Foreign,
    /// A length in a header is more than there is, or less than the header.
    Length,
    /// A checksum does not hold.
    Checksum,
}

/// A datagram where it lies in its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'a> {
    /// What was sent.
    pub payload: &'a [u8],
    /// Who sent it: the four bytes of an IPv4 address, or the first eight of an IPv6 one.
    pub sender: &'a [u8],
}

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Finds the datagram.
///
/// # Errors
/// [`Malformed`], with nothing handed on.
#[inline]
pub fn parse(frame: &[u8], check_udp: bool) -> Result<Datagram<'_>, Malformed> {
    let (ether_type, packet) = match word(frame, 12)? {
        0x8100 | 0x88A8 => (word(frame, 16)?, &frame[ETHERNET_BYTES + TAG_BYTES..]),
        ether_type => (ether_type, &frame[ETHERNET_BYTES..]),
    };
    match ether_type {
        0x0800 => ipv4(packet, check_udp),
        0x86DD => ipv6(packet, check_udp),
        _ => Err(Malformed::Foreign),
    }
}

#[inline]
fn ipv4(packet: &[u8], check_udp: bool) -> Result<Datagram<'_>, Malformed> {
    let header = packet.first_chunk::<IPV4_BYTES>().ok_or(Malformed::Short)?;
    let is_fragment = word(header, 6)? & 0x3FFF != 0;
    if header[0] != 0x45 || header[9] != UDP || is_fragment {
        return Err(Malformed::Foreign);
    }
    if fold(sum(header)) != 0xFFFF {
        return Err(Malformed::Checksum);
    }
    let segment = segment(packet, IPV4_BYTES, word(header, 2)?.into())?;
    let (sender, addresses) = (&packet[12..16], &packet[12..20]);
    // No checksum is allowed here, and is told by a zero.
    udp(segment, sender, addresses, check_udp && word(segment, 6)? != 0)
}

#[inline]
fn ipv6(packet: &[u8], check_udp: bool) -> Result<Datagram<'_>, Malformed> {
    let header = packet.first_chunk::<IPV6_BYTES>().ok_or(Malformed::Short)?;
    if header[0] & 0xF0 != 0x60 || header[6] != UDP {
        return Err(Malformed::Foreign);
    }
    let segment = segment(packet, IPV6_BYTES, IPV6_BYTES + usize::from(word(header, 4)?))?;
    let (sender, addresses) = (&packet[8..16], &packet[8..40]);
    if word(segment, 6)? == 0 {
        return Err(Malformed::Checksum);
    }
    udp(segment, sender, addresses, check_udp)
}

/// What lies behind the IP header of a packet that is `total` bytes long by its own account.
#[inline]
fn segment(packet: &[u8], header: usize, total: usize) -> Result<&[u8], Malformed> {
    let segment = packet.get(header..total).ok_or(Malformed::Length)?;
    if segment.len() < UDP_BYTES { Err(Malformed::Length) } else { Ok(segment) }
}

#[inline]
fn udp<'a>(
    segment: &'a [u8],
    sender: &'a [u8],
    addresses: &[u8],
    check: bool,
) -> Result<Datagram<'a>, Malformed> {
    let length = word(segment, 4)?;
    let datagram = segment.get(..usize::from(length)).ok_or(Malformed::Length)?;
    let payload = datagram.get(UDP_BYTES..).ok_or(Malformed::Length)?;
    if check {
        let pseudo = sum(addresses) + u64::from(UDP) + u64::from(length);
        if fold(pseudo + sum(datagram)) != 0xFFFF {
            return Err(Malformed::Checksum);
        }
    }
    Ok(Datagram { payload, sender })
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let word = bytes.get(at..at + 2).ok_or(Malformed::Short)?;
    Ok(u16::from_be_bytes([word[0], word[1]]))
}

/// The sum of big-endian words, the last one padded; folded later, since 64 bits hold many carries.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let last = words.remainder().first().map_or(0, |last| u64::from(*last) << 8);
    words.fold(last, |sum, word| sum + u64::from(u16::from_be_bytes([word[0], word[1]])))
}

/// The ones' complement sum in 16 bits (RFC 1071); all ones when a checksum in it holds.
#[inline]
fn fold(mut sum: u64) -> u64 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
pub(super) mod tests;
