//! Figures in words that a person reads at a glance: durations, counts, times of day.

use jiff::Timestamp;

/// A duration in the two units that matter: `4 µs`, `250 ms`, `3.05 s`, `2m 3s`, `5h 10m`, `2d 4h`.
pub fn duration(ns: u64) -> String {
    let (us, ms, s) = (ns / 1_000, ns / 1_000_000, ns / 1_000_000_000);
    let three_digits = |value: f64, unit: &str| {
        let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        // Cut, not rounded: 59.99 s must not read 60 s.
        let scale = 10f64.powi(places as i32);
        let text = format!("{:.places$}", (value * scale).floor() / scale);
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            text.as_str()
        };
        format!("{text} {unit}")
    };
    if us == 0 {
        format!("{ns} ns")
    } else if ms == 0 {
        three_digits(ns as f64 / 1e3, "µs")
    } else if s == 0 {
        three_digits(ns as f64 / 1e6, "ms")
    } else if s < 60 {
        three_digits(ns as f64 / 1e9, "s")
    } else if s < 3_600 {
        format!("{}m {}s", s / 60, s % 60)
    } else if s < 86_400 {
        format!("{}h {}m", s / 3_600, s % 3_600 / 60)
    } else {
        format!("{}d {}h", s / 86_400, s % 86_400 / 3_600)
    }
}

/// A count with its thousands apart: `1,048,576`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 peer`, `2 peers`.
pub fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// The time of day (UTC, microseconds) of an RFC 3339 time, with its date unless that is the date
/// of `now`. What is not a time comes back as it is.
pub fn time(rfc3339: &str, now: Timestamp) -> String {
    let Ok(time) = rfc3339.parse::<Timestamp>() else { return rfc3339.to_owned() };
    let same_day = time.as_second().div_euclid(86_400) == now.as_second().div_euclid(86_400);
    let format = if same_day { "%H:%M:%S.%6f" } else { "%Y-%m-%d %H:%M:%S.%6f" };
    time.strftime(format).to_string()
}

/// Nanoseconds from one RFC 3339 time to another; 0 when it is the other way round or is none.
pub fn between(earlier: &str, later: Timestamp) -> u64 {
    let Ok(earlier) = earlier.parse::<Timestamp>() else { return 0 };
    u64::try_from(later.as_nanosecond() - earlier.as_nanosecond()).unwrap_or(0)
}

/// An RFC 3339 time; the epoch when it is none.
pub fn timestamp(rfc3339: &str) -> Timestamp {
    rfc3339.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let table = [
            (0, "0 ns"),
            (999, "999 ns"),
            (4_000, "4 µs"),
            (4_567, "4.56 µs"),
            (36_700, "36.7 µs"),
            (999_999, "999 µs"),
            (250_000_000, "250 ms"),
            (3_050_000_000, "3.05 s"),
            (59_999_999_999, "59.9 s"),
            (123_000_000_000, "2m 3s"),
            (18_600_000_000_000, "5h 10m"),
            (187_200_000_000_000, "2d 4h"),
        ];
        for (ns, text) in table {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        let table = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_048_576, "1,048,576")];
        for (n, text) in table {
            assert_eq!(count(n), text);
        }
        assert_eq!(
            (plural(1, "peer"), plural(2_000, "peer")),
            ("1 peer".into(), "2,000 peers".into())
        );
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now = timestamp("2026-11-23T10:02:06.5Z");
        assert_eq!(time("2026-11-23T10:02:03.123456789Z", now), "10:02:03.123456");
        assert_eq!(time("2026-11-22T23:59:59.000000001Z", now), "2026-11-22 23:59:59.000000");
        assert_eq!(time("yesterday", now), "yesterday");
        assert_eq!(between("2026-11-23T10:02:06Z", now), 500_000_000);
        assert_eq!(between("2026-11-23T10:02:07Z", now), 0);
    }
}
