//! Who a peer is: the published hash of its name, and which reactor owns it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// A peer's identity on the wire and in the table: the first eight bytes, little-endian, of the
/// SHA-256 digest of its name. 0 names nobody.
///
/// ```
/// use systole::wire::PeerId;
/// // printf %s web-1 | sha256sum  →  c4719afa76fa448b…
/// assert_eq!(PeerId::of("web-1").to_string(), "8b44fa76fa9a71c4");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PeerId(pub u64);

impl PeerId {
    /// The id of a name. Costs one SHA-256.
    pub fn of(name: &str) -> PeerId {
        let digest = Sha256::digest(name.as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        PeerId(u64::from_le_bytes(head))
    }

    /// Reads what `Display` writes: exactly 16 hex digits, either case.
    pub fn from_hex(hex: &str) -> Option<PeerId> {
        let digits = hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if digits { u64::from_str_radix(hex, 16).ok().map(PeerId) } else { None }
    }

    /// The smallest id above 0 that [`steer`] gives to `owner` of `n`: a probe's address.
    ///
    /// # Panics
    /// If `owner` is not below `n`, or `n` is above 65,536.
    pub fn steered_to(owner: u32, n: u32) -> PeerId {
        assert!(owner < n && n <= 1 << 16, "no reactor {owner} of {n}");
        // The ids differ in the multiplied word, so each next one is a fresh draw of 16 bits: about
        // n tries.
        let mut ids = (1..=u64::from(u32::MAX)).map(PeerId);
        ids.find(|&id| steer(id, n) == owner).expect("every owner has ids")
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which of `n` reactors owns a peer. The kernel's steering program computes the same from the
/// datagram: `ld [8]; mul #0x9E3779B1; rsh #16; mod #n`.
///
/// `ld [8]` loads big-endian what the datagram holds little-endian, hence the swap. The 16 bits
/// below the multiplication's top half are dropped because `mod` would otherwise see little but the
/// id's own low bits.
#[inline]
pub fn steer(id: PeerId, n: u32) -> u32 {
    debug_assert!(n > 0, "steering among no reactors");
    let loaded = (id.0 as u32).swap_bytes();
    (loaded.wrapping_mul(0x9E37_79B1) >> 16) % n
}
