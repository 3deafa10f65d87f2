//! Lines as most are: no quotes, no blanks, numbers of at most nineteen digits. Eight bytes at a
//! time, and each byte once: the digits are checked and summed, and the field's end found, in one go.
//!
//! ```text
//!  word ← eight bytes;  x ← word ^ "00000000"            a digit's byte is its value now
//!  (x + 0x76…) | x has the top bit of each byte that is no digit; the lowest of them ends the number
//!  pairs of digits ← x × 10 + (x >> 8),  fours ← × 100 + (>> 16),  all eight ← × 10,000 + (>> 32)
//! ```
//!
//! Whatever is otherwise is `None`, and goes the careful way in [`csv`](super): what is found here
//! must be what is found there.

use super::{Columns, Kind, Row, stated_interval};
use crate::trace::Arrival;
use std::borrow::Cow;

const TOP_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The line at the beginning of `text`, and its length with the line end.
#[inline(always)]
pub(super) fn row<'a>(columns: &Columns, text: &'a [u8]) -> Option<(Row<'a>, usize)> {
    let mut at = 0;
    let mut name: &[u8] = &[];
    let mut arrival = Arrival::default();
    for (place, kind) in columns.kinds.iter().enumerate() {
        if place > 0 {
            if *text.get(at)? != b',' {
                return None;
            }
            at += 1;
        }
        if let Kind::Peer | Kind::Other = kind {
            let field = text.get(at..)?;
            let field = &field[..end_of(field)?];
            match field {
                [] => {}
                // Perhaps a quote, a blank to be cut off, or a byte order mark.
                [b'"' | 0xEF, ..] | [..=b' ', ..] | [.., ..=b' '] => return None,
                _ => {}
            }
            at += field.len();
            if let Kind::Peer = kind {
                name = field;
            }
            continue;
        }
        let (value, len) = number(text.get(at..)?)?;
        at += len;
        if len == 0 && matches!(kind, Kind::Seq | Kind::Arrived) {
            return None;
        }
        match kind {
            Kind::Seq => arrival.sequence = value.try_into().ok()?,
            Kind::Arrived => arrival.arrived_ns = value,
            Kind::Sent => arrival.sent_ns = value,
            Kind::Incarnation => arrival.incarnation = value.try_into().ok()?,
            Kind::Interval => arrival.interval = stated_interval(value),
            Kind::Peer | Kind::Other => {}
        }
    }
    at += usize::from(*text.get(at)? == b'\r');
    if *text.get(at)? != b'\n' || name.is_empty() {
        return None;
    }
    Some((Row { name: Cow::Borrowed(name), arrival }, at + 1))
}

/// Where a field ends that has at most 255 bytes.
#[inline(always)]
fn end_of(text: &[u8]) -> Option<usize> {
    // The top bit of each byte that is 0, and perhaps of some above the lowest of them.
    let zeros = |word: u64| word.wrapping_sub(all(1)) & !word & TOP_BITS;
    for (step, word) in text.as_chunks::<8>().0.iter().take(32).enumerate() {
        let word = u64::from_le_bytes(*word);
        let ends = zeros(word ^ all(b',')) | zeros(word ^ all(b'\n'));
        if ends != 0 {
            return Some(step * 8 + ends.trailing_zeros() as usize / 8);
        }
    }
    None
}

/// The number at the beginning of `text`, and how many digits it has; 0 and 0 when it has none.
#[inline(always)]
pub(super) fn number(text: &[u8]) -> Option<(u64, usize)> {
    let (mut value, mut at) = (0u64, 0);
    loop {
        let x = u64::from_le_bytes(*text.get(at..)?.first_chunk()?) ^ all(b'0');
        let others = (x.wrapping_add(all(0x76)) | x) & TOP_BITS;
        if others != 0 {
            let digits = others.trailing_zeros() as usize / 8;
            if at + digits > 19 {
                return None;
            }
            if digits > 0 {
                let leading_zeros = x << (64 - 8 * digits);
                value = value * POWERS[digits & 7] + eight_digits(leading_zeros);
            }
            return Some((value, at + digits));
        }
        if at == 16 {
            return None;
        }
        value = value * 100_000_000 + eight_digits(x);
        at += 8;
    }
}

const POWERS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// The number whose eight digits are the bytes of `x`, the first in the lowest.
#[inline(always)]
fn eight_digits(x: u64) -> u64 {
    let pairs = (x.wrapping_mul(10).wrapping_add(x >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs.wrapping_mul(100).wrapping_add(pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours.wrapping_mul(10_000).wrapping_add(fours >> 32)) & 0xFFFF_FFFF
}
