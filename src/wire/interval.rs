//! The interval: microseconds in the program, a 32-bit code on the wire, a word in text.
//!
//! ```text
//!  31 30                         0
//! ┌──┬────────────────────────────┐   0            not stated
//! │ 0│ microseconds               │   1 ms     ..= 35 min 47.483647 s
//! │ 1│ seconds                    │   1 s      ..= 90 d
//! └──┴────────────────────────────┘
//! ```

use super::Reject;

/// Shortest interval that a sender may state, microseconds.
pub const MIN_INTERVAL_US: u64 = 1_000;
/// Longest interval that a sender may state, microseconds: 90 days.
pub const MAX_INTERVAL_US: u64 = 90 * 86_400 * SECOND_US;

const SECOND_US: u64 = 1_000_000;
const IN_SECONDS: u32 = 1 << 31;

/// Microseconds of an interval code; 0 is "not stated". `None` when it is out of range.
#[inline]
pub fn decode_interval(code: u32) -> Option<u64> {
    let value = u64::from(code & !IN_SECONDS);
    let us = if code & IN_SECONDS == 0 { value } else { value * SECOND_US };
    (code == 0 || (MIN_INTERVAL_US..=MAX_INTERVAL_US).contains(&us)).then_some(us)
}

/// The code of an interval in microseconds, 0 for "not stated".
///
/// Rounds up to what the code can say (whole seconds above 35 minutes), never down: a monitor that
/// believes in a shorter interval than the sender's blames it wrongly. What is out of range becomes
/// the nearest that is in it.
#[inline]
pub fn encode_interval(us: u64) -> u32 {
    if us == 0 {
        return 0;
    }
    let us = us.clamp(MIN_INTERVAL_US, MAX_INTERVAL_US);
    match u32::try_from(us) {
        Ok(us) if us < IN_SECONDS => us,
        _ => IN_SECONDS | us.div_ceil(SECOND_US) as u32,
    }
}

/// Microseconds of `250ms`, `1.5s`, `1d`: digits, perhaps a point and up to six more, a unit. Rounded
/// up as the wire code would, so that the same interval means the same in every form.
pub(super) fn parse(text: &str) -> Result<u64, Reject> {
    let (number, unit) =
        text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let unit_us = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => SECOND_US,
        "m" => 60 * SECOND_US,
        "h" => 3_600 * SECOND_US,
        "d" => 86_400 * SECOND_US,
        _ => return Err(Reject::Text),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 6 {
        return Err(Reject::Text);
    }
    let (whole, fraction_value) = (digits(whole)?, digits(fraction)?);
    // At most 999,999 × 86,400,000,000 < 2^64.
    let part_us = (fraction_value * unit_us).div_ceil(10u64.pow(fraction.len() as u32));
    let us = whole.saturating_mul(unit_us).saturating_add(part_us);
    if !(MIN_INTERVAL_US..=MAX_INTERVAL_US).contains(&us) {
        return Err(Reject::Interval);
    }
    decode_interval(encode_interval(us)).ok_or(Reject::Interval)
}

/// One or more decimal digits; saturates, for the range check to refuse.
fn digits(text: &str) -> Result<u64, Reject> {
    if text.is_empty() {
        return Err(Reject::Text);
    }
    text.bytes().try_fold(0u64, |value, b| match b {
        b'0'..=b'9' => Ok(value.saturating_mul(10).saturating_add(u64::from(b - b'0'))),
        _ => Err(Reject::Text),
    })
}
