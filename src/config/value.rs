//! From a text to a value: durations, sizes, numbers, addresses. The error is the middle of a
//! sentence, "`5 parsecs` *is not a duration*"; who calls adds where it was given and what is right.

use std::net::SocketAddr;
use std::time::Duration;

/// A duration as people write it: `250ms`, `1.5s`, `1h 30m`; both bounds included.
///
/// # Errors
/// It is none, or out of range.
pub fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let value = humantime::parse_duration(text).map_err(|_| {
        if text.parse::<f64>().is_ok() {
            "has no unit (s, ms, …)".to_owned()
        } else {
            "is not a duration".to_owned()
        }
    })?;
    in_range(value, least, most)
}

/// A size in bytes: `65536`, `64KiB`, `64M` (binary), `64MB` (decimal); both bounds included.
///
/// # Errors
/// It is none, or out of range.
pub fn size(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err("is not a size".into()),
    };
    let number: u64 = number.parse().map_err(|_| "is not a size".to_owned())?;
    in_range(number.checked_mul(unit).ok_or("is out of range")?, least, most)
}

/// A whole number; both bounds included. `1_000_000` reads as it does in the file.
///
/// # Errors
/// It is none, or out of range.
pub fn integer(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let value: i128 =
        text.replace('_', "").parse().map_err(|_| "is not a whole number".to_owned())?;
    u64::try_from(value)
        .map_err(|_| "is out of range".into())
        .and_then(|v| in_range(v, least, most))
}

/// A whole number, also with a decimal unit as in `50k` or `1.5M`; both bounds included, at most 2^53.
///
/// # Errors
/// It is none, or out of range.
pub fn count(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let (number, scale) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    if scale == 1 || !number.contains('.') {
        let number = integer(number, 0, u64::MAX / scale)?;
        return in_range(number * scale, least, most);
    }
    let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = number.parse::<f64>().ok().filter(|_| digits).ok_or("is not a whole number")?;
    let value = number * scale as f64;
    // So 1.1M is 1,100,000, although no binary fraction is 1.1.
    match (value - value.round()).abs() < 1e-6 {
        true => in_range(value.round() as u64, least, most),
        false => Err("is not a whole number".into()),
    }
}

/// A number; both bounds included.
///
/// # Errors
/// It is none, or out of range.
pub fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    in_range(text.parse().map_err(|_| "is not a number".to_owned())?, least, most)
}

/// A share: `0.7` or `70%`; both bounds included.
///
/// # Errors
/// It is none, or out of range.
pub fn share(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|_| "is not a share".to_owned())?;
    in_range(number / whole, least, most)
}

/// One of a few words.
///
/// # Errors
/// It is none of them.
pub fn choice<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    Err(match super::closest(text, choices.iter().map(|(word, _)| *word)) {
        Some(near) => format!("is not a choice (did you mean `{near}`?)"),
        None => "is not a choice".into(),
    })
}

/// A rate a second, `1000/s`; `None` for `off`. Both bounds included.
///
/// # Errors
/// It is none, or out of range.
pub fn rate(text: &str, least: u64, most: u64) -> Result<Option<u64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let number = text.strip_suffix("/s").ok_or("is not a rate a second")?;
    integer(number.trim(), least, most).map(Some)
}

/// An address to listen on. Names are not looked up: a listener's address should not depend on DNS.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let is_url = text.contains("://");
        if is_url { "is a URL, not an address" } else { "is not an address" }.into()
    })
}

/// A monitor's id; `None` for `random`.
///
/// # Errors
/// Neither `random` nor 1 to 16 hex digits.
pub fn monitor_id(text: &str) -> Result<Option<u64>, String> {
    if text == "random" {
        return Ok(None);
    }
    let hex = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let id = hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    id.map(Some).ok_or_else(|| "is not an id".into())
}

/// A log level or filter.
///
/// # Errors
/// `tracing_subscriber` does not take it.
pub fn log_filter(text: &str) -> Result<String, String> {
    // A single unknown word would pass as the name of a module and silence everything.
    let word = !text.contains([',', '=']);
    let level: Result<tracing::Level, _> = text.parse();
    if word && level.is_err() && text != "off" {
        return Err("is not a level".into());
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not a filter".into()),
    }
}

fn in_range<T: PartialOrd>(value: T, least: T, most: T) -> Result<T, String> {
    // Not `value < least || value > most`: a NaN is in no range.
    if value >= least && value <= most { Ok(value) } else { Err("is out of range".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_may_have_a_decimal_unit() {
        for (text, value) in [
            ("50k", 50_000),
            ("2M", 2_000_000),
            ("1_000", 1_000),
            ("7", 7),
            ("1.5k", 1_500),
            ("1.1M", 1_100_000),
            (".5M", 500_000),
        ] {
            assert_eq!(count(text, 1, 1 << 27), Ok(value), "{text}");
        }
        for bad in [
            "",
            "k",
            ".k",
            "1kk",
            "-1k",
            "500M",
            "99999999999999999999M",
            "1.5",
            "1.0005k",
            "-1.5k",
            "1e3.k",
            "1..5k",
        ] {
            assert!(count(bad, 1, 1 << 27).is_err(), "{bad}");
        }
    }
}
