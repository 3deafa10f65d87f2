//! Lines as most are: no quotes, no blanks, numbers of at most nineteen digits.
//!
//! ```text
//!  text     web-1,17,1700000000000000000,1700000000000412345⏎web-2,18,…
//!  ends          |  |                   |                   |     |       one word for each comma and line end
//!  a field  ‥‥‥‥‥‥‥‥‥‥‥web-1             the 16 or 32 bytes before its end, those of the field before masked out
//! ```
//!
//! First all ends of fields in some text are found, 64 bytes at a time; then each line is a few words of
//! those. Neither looks at a byte to find out where the next one begins, so that the processor can work
//! at several fields and lines at once. A field is cut out by a load and a mask, whatever its length, and a
//! number put together by four multiplications. Whether all were digits is asked once a line.
//!
//! Whatever is otherwise is `None`, and goes the careful way in [`csv`](super): what is found here
//! must be what is found there.

use super::{Columns, stated_interval};
use crate::trace::Arrival;
use std::mem::MaybeUninit;

/// Bytes in which the ends of fields are found before they are used: few enough that both are still in
/// the nearest cache then.
const PIECE: usize = 1 << 14;

/// How a processor finds ends.
///
/// # Safety
/// As many places of the room are written to, from its first one on, as are said to be.
pub(super) unsafe trait Ends {
    /// Writes down where commas and line ends are, if the first of the bytes is at `begin`, and says how many
    /// there are.
    fn find(bytes: &[u8; 64], begin: u16, room: &mut [MaybeUninit<u16>; 64]) -> usize;
}

/// How a processor puts digits together.
pub(super) trait Digits {
    /// What of several fields was no digit.
    type Wrong: Copy;

    /// Nothing was wrong.
    fn nothing_wrong() -> Self::Wrong;

    /// Whether anything was.
    fn is_wrong(wrong: Self::Wrong) -> bool;

    /// The number of the last `len` bytes, at most nineteen; 0 of none. What is no digit of them is put to
    /// what was wrong before, and the number is any then.
    fn number(bytes: &[u8; 32], len: usize, wrong: &mut Self::Wrong) -> u64;

    /// The same for at most sixteen.
    fn short_number(bytes: &[u8; 16], len: usize, wrong: &mut Self::Wrong) -> u64;
}

/// Words and nothing else: any processor.
pub(super) struct Plain;

/// What any x86-64 processor since 2013 has. To be named only where AVX2 is known to be there.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2;

/// What servers have since about 2020. To be named only where AVX-512 and its VBMI2 are known to be there.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;

/// Whether what is compiled for AVX-512, and all that `is_avx2_there` asks for, may be called here.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_avx512_there() -> bool {
    crate::trace::is_avx2_there()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi2")
}

/// Text of which it is known where fields end: at commas and line ends, whatever they mean there.
pub(super) struct Fields<'a> {
    text: &'a [u8],
    /// Where the next line begins.
    begin: usize,
    /// Where fields end from there on: ascending, and each within the text.
    ends: &'a [u16],
}

// No closures where time counts, here and below: what is compiled for AVX2 does not reach into them.
impl<'a> Fields<'a> {
    /// Finds the fields at the beginning of a text. `ends` lends the room for it.
    #[inline(always)]
    pub(super) fn find<E: Ends>(text: &'a [u8], ends: &'a mut Vec<u16>) -> Fields<'a> {
        let text = &text[..text.len().min(PIECE)];
        let (blocks, rest) = text.as_chunks::<64>();
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        ends.clear();
        ends.reserve(text.len() + 64);
        let room = ends.spare_capacity_mut();
        let mut begin = 0;
        let mut found = 0;
        for block in blocks {
            let Some(room) = room[found..].first_chunk_mut() else { break };
            found += E::find(block, begin, room);
            begin += 64;
        }
        if let Some(room) = room[found..].first_chunk_mut() {
            found += E::find(&last, begin, room);
        }
        // SAFETY: there is room for them, and all were written, which `Ends` vouches for.
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
    pub(super) fn usual<D: Digits>(&mut self, columns: &Columns) -> Option<(Name<'a>, Arrival)> {
        let (ends, others) = self.ends.split_at_checked(columns.count)?;
        let (&end, commas) = ends.split_last()?;
        // So that as many bytes as are looked at stand before the end of any of its fields.
        if self.begin < 32 || self.byte(end) != b'\n' {
            return None;
        }
        for comma in commas {
            if self.byte(*comma) != b',' {
                return None;
            }
        }
        let line = Line { text: self.text, begin: self.begin, ends };
        let found = line.read::<D>(columns)?;
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
    fn byte(&self, end: u16) -> u8 {
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
    /// At 32 or behind it, in the text.
    begin: usize,
    /// Where each of its fields ends: ascending from `begin` on, each within the text, the last one at the
    /// line end.
    ends: &'a [u16],
}

impl<'a> Line<'a> {
    #[inline(always)]
    fn read<D: Digits>(&self, columns: &Columns) -> Option<(Name<'a>, Arrival)> {
        for &other in &columns.others {
            let (start, end) = self.place(other);
            plain(&self.text[start..end])?;
        }
        let [peer, seq, arrived, sent, incarnation, interval] = columns.places;
        let mut wrong = D::nothing_wrong();
        let arrival = Arrival {
            arrived_ns: self.number::<D>(arrived, true, &mut wrong)?,
            sent_ns: self.number::<D>(sent, false, &mut wrong)?,
            sequence: self.short_number::<D>(seq, true, &mut wrong)?,
            incarnation: self.short_number::<D>(incarnation, false, &mut wrong)?,
            interval: match interval {
                Some(_) => stated_interval(self.number::<D>(interval, false, &mut wrong)?),
                None => 0,
            },
            ..Arrival::default()
        };
        // Asked once for all of a line.
        if D::is_wrong(wrong) {
            return None;
        }
        let (start, end) = self.place(peer?);
        let whole = plain(&self.text[start..end])?;
        let last = last(self.before(end), whole.len());
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
        if column + 1 == self.ends.len() && *self.before::<1>(end) == [b'\r'] {
            end -= 1;
        }
        (start, end)
    }

    /// The number in a column; 0 if there is no such column, or nothing in it, and it is not required. `None`
    /// if it has not as many digits as most have.
    #[inline(always)]
    fn number<D: Digits>(
        &self,
        column: Option<usize>,
        required: bool,
        wrong: &mut D::Wrong,
    ) -> Option<u64> {
        let Some((len, end)) = self.digits(column, required, 19)? else { return Some(0) };
        Some(D::number(self.before(end), len, wrong))
    }

    /// The same of 32 bits.
    #[inline(always)]
    fn short_number<D: Digits>(
        &self,
        column: Option<usize>,
        required: bool,
        wrong: &mut D::Wrong,
    ) -> Option<u32> {
        let Some((len, end)) = self.digits(column, required, 16)? else { return Some(0) };
        D::short_number(self.before(end), len, wrong).try_into().ok()
    }

    /// How many digits stand in a column, and where they end.
    #[inline(always)]
    fn digits(
        &self,
        column: Option<usize>,
        required: bool,
        most: usize,
    ) -> Option<Option<(usize, usize)>> {
        let Some(column) = column else { return Some(None) };
        let (start, end) = self.place(column);
        let len = end - start;
        (len <= most && (len > 0 || !required)).then_some(Some((len, end)))
    }

    /// The bytes before `end`, at most 32; that is at the line's begin or behind it, and within the text.
    #[inline(always)]
    fn before<const N: usize>(&self, end: usize) -> &'a [u8; N] {
        const { assert!(N <= 32) };
        debug_assert!((self.begin..self.text.len()).contains(&end));
        // SAFETY: the line begins 32 bytes behind the text's begin at least; bytes may be at any address.
        unsafe { &*self.text.as_ptr().add(end - N).cast() }
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

/// Bytes of which the last `len` are 0xFF and the others 0. Read and not shifted: they are several words,
/// over whose borders a shift costs a dozen steps.
#[inline(always)]
fn mask<const N: usize>(len: usize) -> &'static [u8; N] {
    static MASKS: [u8; 64] = {
        let mut masks = [0; 64];
        masks.split_at_mut(32).1.copy_from_slice(&[0xFF; 32]);
        masks
    };
    const { assert!(N <= 32) };
    MASKS[32 - N + len.min(N)..].first_chunk().unwrap_or(&[0; N])
}

/// The last `len` of some bytes, the very last in the top byte; 0 below them.
#[inline(always)]
fn last(bytes: &[u8; 16], len: usize) -> u128 {
    u128::from_le_bytes(*bytes) & u128::from_le_bytes(*mask(len))
}

/// Writes down which bits are set, if the lowest one's number is `begin`, and says how many are.
#[inline(always)]
fn put(mut bits: u64, begin: u16, room: &mut [MaybeUninit<u16>; 64]) -> usize {
    let count = bits.count_ones() as usize;
    // So many at a time that mostly once is enough: a number that varies is a guess that fails.
    for room in room.as_chunks_mut::<8>().0 {
        if bits == 0 {
            break;
        }
        for place in room {
            let end = begin + bits.trailing_zeros() as u16;
            // SAFETY: the place is borrowed. Volatile, as a compiler would gather eight of them in a vector
            // first, which takes three times as long.
            unsafe { place.as_mut_ptr().write_volatile(end) };
            bits &= bits.wrapping_sub(1);
        }
    }
    count
}

// SAFETY: `put` writes one for each bit that it counts.
unsafe impl Ends for Plain {
    fn find(bytes: &[u8; 64], begin: u16, room: &mut [MaybeUninit<u16>; 64]) -> usize {
        let is_end = |byte: &u8| u64::from(matches!(byte, b',' | b'\n'));
        put(bytes.iter().rev().fold(0, |bits, byte| bits << 1 | is_end(byte)), begin, room)
    }
}

impl Digits for Plain {
    type Wrong = u64;

    fn nothing_wrong() -> u64 {
        0
    }

    fn is_wrong(wrong: u64) -> bool {
        wrong != 0
    }

    fn number(bytes: &[u8; 32], len: usize, wrong: &mut u64) -> u64 {
        // The other sixteen are beyond nineteen digits, but for three.
        let (high, low) = bytes.as_chunks::<16>().0.split_at(1);
        let high = Plain::short_number(&high[0], len.saturating_sub(16), wrong);
        let low = Plain::short_number(&low[0], len.min(16), wrong);
        high.wrapping_mul(10_000_000_000_000_000).wrapping_add(low)
    }

    fn short_number(bytes: &[u8; 16], len: usize, wrong: &mut u64) -> u64 {
        let digits = last(bytes, len) ^ last(&[b'0'; 16], len);
        let [high, low] = [digits as u64, (digits >> 64) as u64];
        eight_digits(high, wrong) * 100_000_000 + eight_digits(low, wrong)
    }
}

/// The number whose eight digits are the bytes of `x`, the first in the lowest: pairs of digits are put
/// together, then fours, then all.
#[inline(always)]
fn eight_digits(x: u64, wrong: &mut u64) -> u64 {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // Of the bytes that are no digits the lowest has its top bit set by this, as none below it carries.
    *wrong |= (x.wrapping_add(all(0x76)) | x) & all(0x80);
    let pairs = x.wrapping_mul(10).wrapping_add(x >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF
}

// All in these themselves, as what is called from here might be left a call.
#[cfg(target_arch = "x86_64")]
// SAFETY: of up to 32 all places of the first half are written, of more all of both.
unsafe impl Ends for Avx512 {
    #[inline(always)]
    fn find(bytes: &[u8; 64], begin: u16, room: &mut [MaybeUninit<u16>; 64]) -> usize {
        use std::arch::x86_64::{
            _mm512_add_epi16, _mm512_castsi512_si256, _mm512_cmpeq_epi8_mask, _mm512_cvtepu8_epi16,
            _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_maskz_compress_epi8,
            _mm512_set1_epi8, _mm512_set1_epi16, _mm512_storeu_si512,
        };
        const NUMBERS: [u8; 64] = {
            let (mut numbers, mut at) = ([0; 64], 0);
            while at < 64 {
                numbers[at] = at as u8;
                at += 1;
            }
            numbers
        };
        let (first, second) = room.split_at_mut(32);
        // SAFETY: 64 bytes are loaded, and as many stored in each half of the room, at any address; AVX-512 is
        // there where `Avx512` is named.
        unsafe {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            let bits = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(b','.cast_signed()))
                | _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(b'\n'.cast_signed()));
            let count = bits.count_ones() as usize;
            let numbers = _mm512_loadu_si512(NUMBERS.as_ptr().cast());
            let found = _mm512_maskz_compress_epi8(bits, numbers);
            let begin = _mm512_set1_epi16(begin.cast_signed());
            let half = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(found));
            _mm512_storeu_si512(first.as_mut_ptr().cast(), _mm512_add_epi16(half, begin));
            // Hardly ever: only where fields are empty, or of a digit.
            if count > 32 {
                let half = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(found));
                _mm512_storeu_si512(second.as_mut_ptr().cast(), _mm512_add_epi16(half, begin));
            }
            count
        }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: `put` writes one for each bit that it counts.
unsafe impl Ends for Avx2 {
    #[inline(always)]
    fn find(bytes: &[u8; 64], begin: u16, room: &mut [MaybeUninit<u16>; 64]) -> usize {
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
        put(found, begin, room)
    }
}

#[cfg(target_arch = "x86_64")]
impl Digits for Avx2 {
    type Wrong = std::arch::x86_64::__m256i;

    #[inline(always)]
    fn nothing_wrong() -> Self::Wrong {
        // SAFETY: AVX2 is there where `Avx2` is named.
        unsafe { std::arch::x86_64::_mm256_setzero_si256() }
    }

    #[inline(always)]
    fn is_wrong(wrong: Self::Wrong) -> bool {
        // SAFETY: as above.
        unsafe { std::arch::x86_64::_mm256_testz_si256(wrong, wrong) == 0 }
    }

    #[inline(always)]
    fn number(bytes: &[u8; 32], len: usize, wrong: &mut Self::Wrong) -> u64 {
        use std::arch::x86_64::{
            _mm_cvtsi128_si64, _mm256_and_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
            _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_or_si256,
            _mm256_packus_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
            _mm256_sub_epi8, _mm256_subs_epu8,
        };
        // SAFETY: both are 32 bytes, at any address; AVX2 is there where `Avx2` is named.
        let [high, low] = unsafe {
            let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
            let mask = _mm256_loadu_si256(mask::<32>(len).as_ptr().cast());
            let digits = _mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0'.cast_signed()));
            let digits = _mm256_and_si256(digits, mask);
            // What is above 9 is above 0 when 9 is taken off it, and nothing else is.
            *wrong = _mm256_or_si256(*wrong, _mm256_subs_epu8(digits, _mm256_set1_epi8(9)));
            let pairs = _mm256_maddubs_epi16(digits, _mm256_set1_epi16(1 << 8 | 10));
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1 << 16 | 100));
            let fours = _mm256_packus_epi32(fours, fours);
            let eights = _mm256_madd_epi16(fours, _mm256_set1_epi32(1 << 16 | 10_000));
            [_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights)]
                .map(|sixteen| _mm_cvtsi128_si64(sixteen).cast_unsigned())
        };
        // Of nineteen digits three stand before the last sixteen.
        let low = (low & 0xFFFF_FFFF) * 100_000_000 + (low >> 32);
        (high >> 32).wrapping_mul(10_000_000_000_000_000).wrapping_add(low)
    }

    #[inline(always)]
    fn short_number(bytes: &[u8; 16], len: usize, wrong: &mut Self::Wrong) -> u64 {
        use std::arch::x86_64::{
            _mm_and_si128, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_madd_epi16, _mm_maddubs_epi16,
            _mm_packus_epi32, _mm_set1_epi8, _mm_set1_epi16, _mm_set1_epi32, _mm_sub_epi8,
            _mm_subs_epu8, _mm256_or_si256, _mm256_zextsi128_si256,
        };
        // SAFETY: as above, of sixteen bytes.
        let halves = unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let mask = _mm_loadu_si128(mask::<16>(len).as_ptr().cast());
            let digits = _mm_sub_epi8(bytes, _mm_set1_epi8(b'0'.cast_signed()));
            let digits = _mm_and_si128(digits, mask);
            let above = _mm256_zextsi128_si256(_mm_subs_epu8(digits, _mm_set1_epi8(9)));
            *wrong = _mm256_or_si256(*wrong, above);
            let pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(1 << 8 | 10));
            let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
            let fours = _mm_packus_epi32(fours, fours);
            let eights = _mm_madd_epi16(fours, _mm_set1_epi32(1 << 16 | 10_000));
            _mm_cvtsi128_si64(eights).cast_unsigned()
        };
        (halves & 0xFFFF_FFFF) * 100_000_000 + (halves >> 32)
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
                let is_end = |at: &u16| matches!(text[*at as usize], b',' | b'\n');
                let expected: Vec<u16> = (0..len as u16).filter(is_end).collect();
                let mut ends = Vec::new();
                Fields::find::<Plain>(&text, &mut ends);
                assert_eq!(ends, expected, "seed {seed}");
                #[cfg(target_arch = "x86_64")]
                if crate::trace::is_avx2_there() {
                    Fields::find::<Avx2>(&text, &mut ends);
                    assert_eq!(ends, expected, "seed {seed}");
                }
                #[cfg(target_arch = "x86_64")]
                if is_avx512_there() {
                    Fields::find::<Avx512>(&text, &mut ends);
                    assert_eq!(ends, expected, "seed {seed}");
                }
            }
        }
    }
}
