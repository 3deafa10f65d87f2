//! Lines as most are: no quotes, no blanks, numbers of at most nineteen digits.
//!
//! ```text
//!  text     web-1,17,1700000000000000000,1700000000000412345⏎web-2,18,…
//!  ends          |  |                   |                   |     |       one word for each comma and line end
//!  a field  ‥‥‥‥‥‥‥‥‥‥‥web-1             the sixteen bytes before its end, those of the field before masked out
//! ```
//!
//! First all ends of fields in some text are found, 64 bytes at a time; then each line is a few words of
//! those. Neither looks at a byte to find out where the next one begins, so that the processor can work
//! at several fields and lines at once. A field of up to sixteen bytes is cut out by a load and a mask,
//! whatever its length, and a number of that size put together by four multiplications.
//!
//! Whatever is otherwise is `None`, and goes the careful way in [`csv`](super): what is found here
//! must be what is found there.

use super::{Columns, stated_interval};
use crate::trace::Arrival;

/// Bytes in which the ends of fields are found before they are used: few enough that both are still in
/// the nearest cache then.
const PIECE: usize = 1 << 14;

/// How a processor finds ends and puts digits together.
pub(super) trait Means {
    /// Which of the bytes are commas or line ends: a bit for each, the first byte's the lowest.
    fn ends(bytes: &[u8; 64]) -> u64;

    /// The number of the last `len` bytes, at most sixteen. `None` if one is no digit.
    fn number(bytes: &[u8; 16], len: usize) -> Option<u64>;
}

/// Words and nothing else: any processor.
pub(super) struct Plain;

/// What any x86-64 processor since 2013 has. To be named only where AVX2 is known to be there.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2;

/// Text of which it is known where fields end: at commas and line ends, whatever they mean there.
pub(super) struct Fields<'a> {
    text: &'a [u8],
    /// Where the next line begins.
    begin: usize,
    /// Where fields end from there on: ascending, and each within the text.
    ends: &'a [u32],
}

// No closures where time counts, here and below: what is compiled for AVX2 does not reach into them.
impl<'a> Fields<'a> {
    /// Finds the fields at the beginning of a text. `ends` lends the room for it.
    #[inline(always)]
    pub(super) fn find<M: Means>(text: &'a [u8], ends: &'a mut Vec<u32>) -> Fields<'a> {
        let text = &text[..text.len().min(PIECE)];
        ends.clear();
        ends.reserve(text.len() + 64);
        let room = ends.spare_capacity_mut();
        let (blocks, rest) = text.as_chunks::<64>();
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        let (mut begin, mut found) = (0, 0);
        for block in blocks.iter().chain([&last]) {
            let mut bits = M::ends(block);
            let count = bits.count_ones() as usize;
            // So many at a time that mostly once is enough: a number that varies is a guess that fails.
            for room in room[found..found + 64].as_chunks_mut::<8>().0 {
                if bits == 0 {
                    break;
                }
                for place in room {
                    let end = begin + bits.trailing_zeros();
                    // SAFETY: the place is borrowed. Volatile, as a compiler would gather eight of them
                    // in a vector first, which takes three times as long.
                    unsafe { place.as_mut_ptr().write_volatile(end) };
                    bits &= bits.wrapping_sub(1);
                }
            }
            found += count;
            begin += 64;
        }
        // SAFETY: there is room for them, and all were written: as many of each block as it has bits.
        unsafe { ends.set_len(found) };
        Fields { text, begin: 0, ends }
    }

    /// Bytes that have been passed over.
    pub(super) fn passed(&self) -> usize {
        self.begin
    }

    /// The name of the peer in the next line, and what the line says of it, if it is as most are; it is
    /// passed over then.
    #[inline(always)]
    pub(super) fn usual<M: Means>(&mut self, columns: &Columns) -> Option<(Name<'a>, Arrival)> {
        let (ends, others) = self.ends.split_at_checked(columns.count)?;
        let (&end, commas) = ends.split_last()?;
        // So that sixteen bytes stand before the end of any of its fields.
        if self.begin < 16 || self.byte(end) != b'\n' {
            return None;
        }
        for comma in commas {
            if self.byte(*comma) != b',' {
                return None;
            }
        }
        let line = Line { text: self.text, begin: self.begin, ends };
        let found = line.read::<M>(columns)?;
        (self.begin, self.ends) = (end as usize + 1, others);
        Some(found)
    }

    /// The next line with its end, whatever is in it; it is passed over. `None` if none has its end here.
    pub(super) fn any(&mut self) -> Option<&'a [u8]> {
        let last = self.ends.iter().position(|end| self.byte(*end) == b'\n')?;
        let end = self.ends[last] as usize + 1;
        let line = &self.text[self.begin..end];
        (self.begin, self.ends) = (end, &self.ends[last + 1..]);
        Some(line)
    }

    #[inline(always)]
    fn byte(&self, end: u32) -> u8 {
        debug_assert!((end as usize) < self.text.len());
        // SAFETY: it is one of `ends`, and those lie within the text.
        unsafe { *self.text.get_unchecked(end as usize) }
    }
}

/// A peer's name, and its last sixteen bytes as [`last`] has them.
pub(super) struct Name<'a> {
    pub whole: &'a [u8],
    pub last: u128,
}

impl<'a> Name<'a> {
    pub(super) fn of(whole: &'a [u8]) -> Name<'a> {
        let mut bytes = [0; 16];
        let len = whole.len().min(16);
        bytes[16 - len..].copy_from_slice(&whole[whole.len() - len..]);
        Name { whole, last: u128::from_le_bytes(bytes) }
    }
}

/// A line with as many fields as there are columns.
struct Line<'a> {
    text: &'a [u8],
    /// At 16 or behind it, in the text.
    begin: usize,
    /// Where each of its fields ends: ascending from `begin` on, each within the text, the last one at the
    /// line end.
    ends: &'a [u32],
}

impl<'a> Line<'a> {
    #[inline(always)]
    fn read<M: Means>(&self, columns: &Columns) -> Option<(Name<'a>, Arrival)> {
        for &other in &columns.others {
            let (start, end) = self.place(other);
            plain(&self.text[start..end])?;
        }
        let [peer, seq, arrived, sent, incarnation, interval] = columns.places;
        let arrival = Arrival {
            arrived_ns: self.number::<M>(arrived, true)?,
            sent_ns: self.number::<M>(sent, false)?,
            sequence: self.number::<M>(seq, true)?.try_into().ok()?,
            incarnation: self.number::<M>(incarnation, false)?.try_into().ok()?,
            interval: match interval {
                Some(_) => stated_interval(self.number::<M>(interval, false)?),
                None => 0,
            },
            ..Arrival::default()
        };
        let (start, end) = self.place(peer?);
        let whole = plain(&self.text[start..end])?;
        let last = last(self.sixteen(end), whole.len());
        Some((Name { whole, last }, arrival))
    }

    /// From where to where a field goes.
    #[inline(always)]
    fn place(&self, column: usize) -> (usize, usize) {
        let mut end = self.ends[column] as usize;
        let start = match column {
            0 => self.begin,
            _ => self.ends[column - 1] as usize + 1,
        };
        if column + 1 == self.ends.len() && self.text[end - 1] == b'\r' {
            end -= 1;
        }
        (start, end)
    }

    /// The number in a column; 0 if there is no such column, or nothing in it, and it is not required.
    #[inline(always)]
    fn number<M: Means>(&self, column: Option<usize>, required: bool) -> Option<u64> {
        let Some(column) = column else { return Some(0) };
        let (start, end) = self.place(column);
        let len = end - start;
        if len == 0 && !required {
            return Some(0);
        }
        if len == 0 || len > 19 {
            return None;
        }
        if len <= 16 {
            return M::number(self.sixteen(end), len);
        }
        let high = M::number(self.sixteen(end - 16), len - 16)?;
        Some(high * 10_000_000_000_000_000 + M::number(self.sixteen(end), 16)?)
    }

    /// The sixteen bytes before `end`, which is at the line's begin or behind it, and within the text.
    #[inline(always)]
    fn sixteen(&self, end: usize) -> &'a [u8; 16] {
        debug_assert!((self.begin..self.text.len()).contains(&end));
        // SAFETY: the line begins sixteen bytes behind the text's begin at least; bytes may be at any
        // address.
        unsafe { &*self.text.as_ptr().add(end - 16).cast() }
    }
}

/// A text that means what it is: not empty, and with no quote, blank to be cut off, or byte order mark.
#[inline(always)]
fn plain(field: &[u8]) -> Option<&[u8]> {
    // One comparison for all: from behind the quote, behind which the blanks are, to before the mark.
    match (field.first()?, field.last()?) {
        (b'#'..0xEF, b'!'..) => Some(field),
        _ => None,
    }
}

/// Sixteen bytes of which the last `len` are 0xFF and the others 0. Read and not shifted: sixteen bytes
/// are two words, over whose border a shift costs a dozen steps.
#[inline(always)]
fn mask(len: usize) -> &'static [u8; 16] {
    static MASKS: [u8; 32] = {
        let mut masks = [0; 32];
        masks.split_at_mut(16).1.copy_from_slice(&[0xFF; 16]);
        masks
    };
    MASKS[len.min(16)..].first_chunk().unwrap_or(&[0; 16])
}

/// The last `len` of some bytes, the very last in the top byte; 0 below them.
#[inline(always)]
fn last(bytes: &[u8; 16], len: usize) -> u128 {
    u128::from_le_bytes(*bytes) & u128::from_le_bytes(*mask(len))
}

impl Means for Plain {
    fn ends(bytes: &[u8; 64]) -> u64 {
        bytes.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(matches!(byte, b',' | b'\n')))
    }

    fn number(bytes: &[u8; 16], len: usize) -> Option<u64> {
        let digits = last(bytes, len) ^ last(&[b'0'; 16], len);
        let [first, last] = [digits as u64, (digits >> 64) as u64].map(eight_digits);
        Some(first? * 100_000_000 + last?)
    }
}

/// The number whose eight digits are the bytes of `x`, the first in the lowest: pairs of digits are put
/// together, then fours, then all.
#[inline(always)]
fn eight_digits(x: u64) -> Option<u64> {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // Of the bytes that are no digits the lowest has its top bit set by this, as none below it carries.
    if (x.wrapping_add(all(0x76)) | x) & all(0x80) != 0 {
        return None;
    }
    let pairs = (x * 10 + (x >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    Some((fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF)
}

// All in these themselves, as what is called from here might be left a call.
#[cfg(target_arch = "x86_64")]
impl Means for Avx2 {
    #[inline(always)]
    fn ends(bytes: &[u8; 64]) -> u64 {
        use std::arch::x86_64::{
            _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256,
            _mm256_set1_epi8,
        };
        let mut found = 0;
        for (at, half) in bytes.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: the 32 bytes are there, at any address; AVX2 is there where `Avx2` is named.
            let bits = unsafe {
                let half = _mm256_loadu_si256(half.as_ptr().cast());
                let commas = _mm256_cmpeq_epi8(half, _mm256_set1_epi8(b','.cast_signed()));
                let line_ends = _mm256_cmpeq_epi8(half, _mm256_set1_epi8(b'\n'.cast_signed()));
                _mm256_movemask_epi8(_mm256_or_si256(commas, line_ends))
            };
            found |= u64::from(bits.cast_unsigned()) << (32 * at);
        }
        found
    }

    #[inline(always)]
    fn number(bytes: &[u8; 16], len: usize) -> Option<u64> {
        use std::arch::x86_64::{
            _mm_and_si128, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_madd_epi16, _mm_maddubs_epi16,
            _mm_packus_epi32, _mm_set1_epi8, _mm_set1_epi16, _mm_set1_epi32, _mm_sub_epi8,
            _mm_subs_epu8, _mm_testz_si128,
        };
        // SAFETY: both are sixteen bytes, at any address; AVX2 is there where `Avx2` is named.
        let halves = unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let mask = _mm_loadu_si128(mask(len).as_ptr().cast());
            let digits =
                _mm_and_si128(_mm_sub_epi8(bytes, _mm_set1_epi8(b'0'.cast_signed())), mask);
            // What is above 9 is above 0 when 9 is taken off it, and nothing else is.
            let above = _mm_subs_epu8(digits, _mm_set1_epi8(9));
            if _mm_testz_si128(above, above) == 0 {
                return None;
            }
            let pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(1 << 8 | 10));
            let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
            let fours = _mm_packus_epi32(fours, fours);
            let eights = _mm_madd_epi16(fours, _mm_set1_epi32(1 << 16 | 10_000));
            _mm_cvtsi128_si64(eights).cast_unsigned()
        };
        Some((halves & 0xFFFF_FFFF) * 100_000_000 + (halves >> 32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};

    #[test]
    fn all_ends_are_found_wherever_they_are() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            for _ in 0..100 {
                let (len, often) = (rng.below(300), 1 + rng.below(70));
                let byte = |rng: &mut Rng| match rng.one_in(often) {
                    true => b",\n"[rng.below(2) as usize],
                    false => rng.next() as u8,
                };
                let text: Vec<u8> = (0..len).map(|_| byte(&mut rng)).collect();
                let is_end = |at: &u32| matches!(text[*at as usize], b',' | b'\n');
                let expected: Vec<u32> = (0..len as u32).filter(is_end).collect();
                let mut ends = Vec::new();
                Fields::find::<Plain>(&text, &mut ends);
                assert_eq!(ends, expected, "seed {seed}");
                #[cfg(target_arch = "x86_64")]
                if crate::trace::is_avx2_there() {
                    Fields::find::<Avx2>(&text, &mut ends);
                    assert_eq!(ends, expected, "seed {seed}");
                }
            }
        }
    }
}
