//! Figures in words that a person reads at a glance: durations, counts, times of day.

use jiff::Timestamp;

/// A duration in the two units that matter: `4 µs`, `250 ms`, `3.05 s`, `2m 3s`, `5h 10m`, `2d 4h`.
/// Cut, not rounded: 59.99 s must not read 60 s.
pub fn duration(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    match s {
        0..60 => decimal(ns, 3),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// A duration to its last digit, as settings have to be told: `2.135 s`, `2m 6.035 s`, `7d`.
pub fn exact(ns: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let mut rest = ns;
    let mut parts = Vec::new();
    for (unit, unit_s) in units {
        let unit_ns = unit_s * 1_000_000_000;
        if rest >= unit_ns {
            parts.push(format!("{}{unit}", rest / unit_ns));
            rest %= unit_ns;
        }
    }
    if rest > 0 || parts.is_empty() {
        parts.push(decimal(rest, usize::MAX));
    }
    parts.join(" ")
}

/// So many nanoseconds in their largest unit up to seconds, cut behind so many digits: `3.05 s`. In
/// integers, since 2.05 is a little less in binary and would be cut to 2.04.
fn decimal(ns: u64, digits: usize) -> String {
    let units =
        [("s", 9), ("ms", 6), ("µs", 3)].map(|(unit, places)| (unit, places, 10u64.pow(places)));
    let fits = units.into_iter().find(|(.., unit_ns)| ns >= *unit_ns);
    let (unit, places, unit_ns) = fits.unwrap_or(("ns", 0, 1));
    let all = format!("{}.{:0width$}", ns / unit_ns, ns % unit_ns, width = places as usize);
    let text = &all[..all.len().min(digits.saturating_add(1))];
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// How many times, in two digits that count, and one more next to 1: `1.03`, `1.5`, `35`, `2,400`. Cut
/// off nothing: 1.001 times is more than once.
pub fn times(ratio: f64) -> String {
    let step = match ratio {
        ..2.0 => 0.01,
        ..10.0 => 0.1,
        _ => 10f64.powf(ratio.log10().floor() - 1.0),
    };
    // What binary fractions add is not to be rounded up.
    let rounded = (ratio / step - 1e-6).ceil() * step;
    match rounded {
        ..2.0 => format!("{rounded:.2}"),
        ..10.0 => format!("{rounded:.1}"),
        _ => count(rounded.round() as u64),
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
            (2_050_000_000, "2.05 s"),
            (3_050_000_000, "3.05 s"),
            (100_000_000_000, "1m 40s"),
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
    fn no_hundredth_is_lost_to_binary_fractions() {
        for hundredth in 100..1_000 {
            let text = format!("{}.{:02}", hundredth / 100, hundredth % 100);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            assert_eq!(duration(hundredth * 10_000_000), format!("{text} s"));
        }
    }

    #[test]
    fn exact_durations_have_all_their_digits() {
        let table = [
            (0, "0 ns"),
            (100, "100 ns"),
            (1_234, "1.234 µs"),
            (50_000_000, "50 ms"),
            (2_135_000_000, "2.135 s"),
            (60_000_000_000, "1m"),
            (126_035_000_000, "2m 6.035 s"),
            (86_400_050_000_000, "1d 50 ms"),
            (604_800_000_000_000, "7d"),
        ];
        for (ns, text) in table {
            assert_eq!(exact(ns), text);
        }
    }

    #[test]
    fn ratios_are_rounded_up_to_what_matters() {
        let table = [
            (1.0001, "1.01"),
            (1.097, "1.10"),
            (1.5, "1.50"),
            (1.999, "2.0"),
            (2.3, "2.3"),
            (9.91, "10"),
            (10.0, "10"),
            (34.2, "35"),
            (198.428, "200"),
            (2_436.038, "2,500"),
            (1_234_567.0, "1,300,000"),
        ];
        for (ratio, text) in table {
            assert_eq!(times(ratio), text);
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
