//! Lines as most are: no quotes, no blanks, numbers of at most nineteen digits.
//!
//! ```text
//!  64 bytes   web-1,17,1700000000000000000,1700000000000412345⏎web-2,18…
//!  commas     .....|..|...................|........................|.....   a bit for each byte
//!  line ends  ....................................................|.........
//!  a number   its digits eight or sixteen at a time; the first of them are shifted up to the end of a word
//! ```
//!
//! Where the fields are is known from the bits, without a look at what is between: the processor can
//! work at several fields and lines at once. A number that is read until it ends says only then where
//! the next one begins.
//!
//! Whatever is otherwise is `None`, and goes the careful way in [`csv`](super): what is found here
//! must be what is found there.

use super::{Columns, MAX_COLUMNS, Row, stated_interval};
use crate::trace::Arrival;
use std::borrow::Cow;

const TOP_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The line at the beginning of `text`, and its length with the line end.
#[inline(always)]
pub(super) fn row<'a>(columns: &Columns, text: &'a [u8]) -> Option<(Row<'a>, usize)> {
    let mut begins = [0; MAX_COLUMNS + 1];
    let found = find_fields(text, &mut begins)?;
    if found != columns.count {
        return None;
    }
    let len = begins[found];
    if text[..len].ends_with(b"\r\n") {
        begins[found] -= 1;
    }
    for &other in &columns.others {
        plain(field(text, &begins, other)?)?;
    }
    let [peer, seq, arrived, sent, incarnation, interval] = columns.places;
    let name = plain(field(text, &begins, peer?)?)?;
    let arrival = Arrival {
        arrived_ns: number(text, &begins, arrived, true)?,
        sent_ns: number(text, &begins, sent, false)?,
        sequence: number(text, &begins, seq, true)?.try_into().ok()?,
        incarnation: number(text, &begins, incarnation, false)?.try_into().ok()?,
        interval: match interval {
            Some(_) => stated_interval(number(text, &begins, interval, false)?),
            None => 0,
        },
        ..Arrival::default()
    };
    (!name.is_empty()).then_some((Row { name: Cow::Borrowed(name), arrival }, len))
}

/// Where the fields of a line begin, and behind the last one, where the next line does.
type Begins = [usize; MAX_COLUMNS + 1];

/// What stands in a column.
#[inline(always)]
fn field<'a>(text: &'a [u8], begins: &Begins, column: usize) -> Option<&'a [u8]> {
    let column = column % MAX_COLUMNS;
    text.get(begins[column]..begins[column + 1] - 1)
}

/// A text that means what it is: in which there is no quote, blank to be cut off, or byte order mark.
#[inline(always)]
fn plain(field: &[u8]) -> Option<&[u8]> {
    match field {
        [b'"' | 0xEF, ..] | [..=b' ', ..] | [.., ..=b' '] => None,
        _ => Some(field),
    }
}

/// Finds the fields of the line at the beginning of `text`, and says how many there are.
#[inline(always)]
fn find_fields(text: &[u8], begins: &mut Begins) -> Option<usize> {
    let (mut found, mut block) = (0, 0);
    loop {
        let (mut commas, line_ends) = ends(text.get(block..)?.first_chunk()?);
        // Those before the first line end, which are all if there is none.
        commas &= line_ends.wrapping_sub(1) & !line_ends;
        while commas != 0 {
            found += 1;
            *begins.get_mut(found)? = block + commas.trailing_zeros() as usize + 1;
            commas &= commas - 1;
        }
        if line_ends != 0 {
            found += 1;
            *begins.get_mut(found)? = block + line_ends.trailing_zeros() as usize + 1;
            return Some(found);
        }
        block += 64;
    }
}

/// Where commas and where line ends are: a bit for each byte, the first byte's the lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ends(bytes: &[u8; 64]) -> (u64, u64) {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    let mut found = (0, 0);
    for (at, chunk) in bytes.as_chunks::<16>().0.iter().enumerate() {
        let bits = |byte: u8| {
            // SAFETY: the sixteen bytes are there, and may be at any address; all of x86-64 has SSE2.
            let bits = unsafe {
                let chunk = _mm_loadu_si128(chunk.as_ptr().cast());
                _mm_movemask_epi8(_mm_cmpeq_epi8(chunk, _mm_set1_epi8(byte.cast_signed())))
            };
            u64::from(bits.cast_unsigned()) << (16 * at)
        };
        found.0 |= bits(b',');
        found.1 |= bits(b'\n');
    }
    found
}

/// Where commas and where line ends are: a bit for each byte, the first byte's the lowest.
#[cfg(not(target_arch = "x86_64"))]
fn ends(bytes: &[u8; 64]) -> (u64, u64) {
    let bits =
        |end: u8| bytes.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(*byte == end));
    (bits(b','), bits(b'\n'))
}

/// The number in a column; 0 if there is no such column, or nothing in it, and neither is required.
#[inline(always)]
fn number(text: &[u8], begins: &Begins, column: Option<usize>, required: bool) -> Option<u64> {
    let Some(column) = column else { return Some(0) };
    let column = column % MAX_COLUMNS;
    let (start, end) = (begins[column], begins[column + 1] - 1);
    // With the eight digits at a place.
    let word = |at: usize| Some(u64::from_le_bytes(*text.get(at..)?.first_chunk()?) ^ all(b'0'));
    // With the first digits of all, behind zeros.
    let first = |digits: usize| Some(word(start)? << (64 - 8 * digits));
    match end - start {
        0 if !required => Some(0),
        len @ 1..=8 => eight_digits(first(len)?),
        len @ 9..=16 => sixteen_digits(first(len - 8)?, word(end - 8)?),
        len @ 17..=19 => {
            let high = eight_digits(first(len - 16)?)?;
            Some(high * 10_000_000_000_000_000 + sixteen_digits(word(end - 16)?, word(end - 8)?)?)
        }
        _ => None,
    }
}

/// The number whose eight digits are the bytes of `x`, the first in the lowest: pairs of digits are put
/// together, then fours, then all.
#[inline(always)]
fn eight_digits(x: u64) -> Option<u64> {
    // Of the bytes that are no digits the lowest has its top bit set by this, as none below it carries.
    if (x.wrapping_add(all(0x76)) | x) & TOP_BITS != 0 {
        return None;
    }
    let pairs = (x * 10 + (x >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    Some((fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF)
}

/// The number whose first eight digits are the bytes of `high`, and the others those of `low`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sixteen_digits(high: u64, low: u64) -> Option<u64> {
    use std::arch::x86_64::{
        _mm_add_epi8, _mm_cvtsi128_si64, _mm_madd_epi16, _mm_movemask_epi8, _mm_mullo_epi16,
        _mm_or_si128, _mm_packs_epi32, _mm_set_epi64x, _mm_set1_epi8, _mm_set1_epi16,
        _mm_set1_epi32, _mm_srli_epi16,
    };
    // SAFETY: all of x86-64 has SSE2, which is what they need.
    let halves = unsafe {
        let digits = _mm_set_epi64x(low.cast_signed(), high.cast_signed());
        // The top bit of each byte that is no digit.
        let others = _mm_or_si128(digits, _mm_add_epi8(digits, _mm_set1_epi8(0x76)));
        if _mm_movemask_epi8(others) != 0 {
            return None;
        }
        // In the upper byte of each two: ten times the first, and the second.
        let pairs = _mm_srli_epi16::<8>(_mm_mullo_epi16(digits, _mm_set1_epi16(10 << 8 | 1)));
        let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
        let fours = _mm_packs_epi32(fours, fours);
        _mm_cvtsi128_si64(_mm_madd_epi16(fours, _mm_set1_epi32(1 << 16 | 10_000))).cast_unsigned()
    };
    Some((halves & 0xFFFF_FFFF) * 100_000_000 + (halves >> 32))
}

/// The number whose first eight digits are the bytes of `high`, and the others those of `low`.
#[cfg(not(target_arch = "x86_64"))]
fn sixteen_digits(high: u64, low: u64) -> Option<u64> {
    Some(eight_digits(high)? * 100_000_000 + eight_digits(low)?)
}
