//! The dumb decoder: one byte after the other, owned strings, no cleverness, in the order of the
//! list "Why a datagram is dropped" in `docs/protocol.md`.

use super::Meaning;
use crate::wire::{Heartbeat, Kind, PeerId, Reject, Status};
use sha2::{Digest, Sha256};

/// How tags are taken: not looked at, or verified with these keys.
#[derive(Clone, Copy)]
pub(super) enum Tags<'a> {
    Ignored,
    Verified { keys: &'a [(u8, [u8; 32])], required: bool },
}

impl Tags<'_> {
    /// The key id that a tag proves.
    fn proven(self, key_id: u8, covered: &[u8], tag: &[u8]) -> Result<u8, Reject> {
        let Tags::Verified { keys, .. } = self else { return Ok(0) };
        let key = keys.iter().find(|(id, _)| *id == key_id);
        let (_, secret) = key.ok_or(Reject::UnknownKey)?;
        let mut expected = [0; 16];
        blake3::Hasher::new_keyed(secret).update(covered).finalize_xof().fill(&mut expected);
        if tag == expected { Ok(key_id) } else { Err(Reject::BadTag) }
    }

    fn refuse_untagged(self) -> bool {
        matches!(self, Tags::Verified { required: true, .. })
    }
}

pub(super) fn decode(datagram: &[u8], tags: Tags<'_>) -> Result<Meaning, Reject> {
    if datagram.is_empty() {
        return Err(Reject::Runt);
    }
    match datagram[0] {
        0xBE => binary(datagram, tags),
        0x80..0xC2 | 0xF5..=0xFF => Err(Reject::Magic),
        _ => text(datagram, tags),
    }
}

/// A number of `len` bytes, little-endian.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    (0..len).map(|i| u64::from(bytes[at + i]) << (8 * i)).sum()
}

fn interval_us(code: u64) -> Result<u64, Reject> {
    let us = if code >= 1 << 31 { (code - (1 << 31)) * 1_000_000 } else { code };
    let valid = code == 0 || (1_000..=90 * 24 * 3_600 * 1_000_000).contains(&us);
    if valid { Ok(us) } else { Err(Reject::Interval) }
}

fn status(code: u64) -> Status {
    [Status::Ok, Status::Warn, Status::Critical, Status::Maintenance][code as usize]
}

fn binary(d: &[u8], tags: Tags<'_>) -> Result<Meaning, Reject> {
    if d.len() < 32 {
        return Err(Reject::Runt);
    }
    if d[1] / 16 != 1 {
        return Err(Reject::Version);
    }
    let kind = d[1] % 16;
    if ![1, 2, 3, 4, 5, 8, 15].contains(&kind) {
        return Err(Reject::Kind);
    }
    if (2..=6).any(|bit| d[2] & (1 << bit) != 0) || (d[2] >= 128) != (d[3] > 0) {
        return Err(Reject::Reserved);
    }
    let (mut d, mut key_id) = (d, 0);
    if d[2] >= 128 {
        if d.len() < 48 {
            return Err(Reject::Length);
        }
        let (covered, tag) = d.split_at(d.len() - 16);
        key_id = tags.proven(d[3], covered, tag)?;
        d = covered;
    } else if tags.refuse_untagged() && kind != 15 {
        return Err(Reject::Unauthenticated);
    }
    let heartbeat = || {
        Ok(Heartbeat {
            peer: PeerId(number(d, 8, 8)),
            kind: if kind == 3 { Kind::Bye } else { Kind::Beat },
            status: status(number(d, 2, 1) % 4),
            sequenced: true,
            key_id,
            incarnation: number(d, 16, 4) as u32,
            sequence: number(d, 20, 4) as u32,
            interval_us: interval_us(number(d, 4, 4))?,
            sent_ns: number(d, 24, 8),
            age_us: 0,
            profile_digest: 0,
        })
    };
    let of_peer = || match heartbeat() {
        Ok(Heartbeat { peer: PeerId(0), .. }) => Err(Reject::Reserved),
        other => other,
    };
    match kind {
        1 | 3 if d.len() != 32 => Err(Reject::Length),
        1 | 3 => of_peer().map(Meaning::Beat),
        2 => hello(of_peer()?, d),
        4 => batch(heartbeat, d, key_id),
        5 => pack(heartbeat, d, key_id),
        8 => bundle(d, key_id),
        _ if d.len() != 32 => Err(Reject::Length),
        _ if d[2] != 0 || number(d, 4, 4) != 0 => Err(Reject::Reserved),
        _ => Ok(Meaning::Probe(number(d, 16, 8), number(d, 24, 8))),
    }
}

fn hello(heartbeat: Heartbeat, d: &[u8]) -> Result<Meaning, Reject> {
    if d.len() < 36 {
        return Err(Reject::Runt);
    }
    if d[35] != 0 {
        return Err(Reject::Reserved);
    }
    let (name_end, group_end) =
        (36 + usize::from(d[32]), 36 + usize::from(d[32]) + usize::from(d[33]));
    if d.len() > 1_456 || group_end > d.len() {
        return Err(Reject::Length);
    }
    let string = |from: usize, to: usize| String::from_utf8(d[from..to].to_vec());
    let name = string(36, name_end).map_err(|_| Reject::Name)?;
    if !good_name(&name) {
        return Err(Reject::Name);
    }
    let group = string(name_end, group_end).map_err(|_| Reject::Label)?;
    if !good_group(&group) {
        return Err(Reject::Label);
    }
    let mut labels = Vec::new();
    let mut at = group_end;
    for _ in 0..d[34] {
        if at + 2 > d.len() {
            return Err(Reject::Length);
        }
        let key_end = at + 2 + usize::from(d[at]);
        let value_end = key_end + usize::from(d[at + 1]);
        if value_end > d.len() {
            return Err(Reject::Length);
        }
        let key = string(at + 2, key_end).map_err(|_| Reject::Label)?;
        labels.push((key, string(key_end, value_end).map_err(|_| Reject::Label)?));
        at = value_end;
    }
    if at != d.len() {
        return Err(Reject::Length);
    }
    if !good_labels(&labels) {
        return Err(Reject::Label);
    }
    Ok(Meaning::Hello(heartbeat, name, group, labels))
}

fn good_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(char::is_control)
}

fn good_group(group: &str) -> bool {
    group.len() <= 64 && !group.contains(char::is_control)
}

fn good_labels(labels: &[(String, String)]) -> bool {
    let keys: std::collections::HashSet<_> = labels.iter().map(|(key, _)| key).collect();
    let good = |(key, value): &(String, String)| {
        (1..=64).contains(&key.len())
            && value.len() <= 255
            && !key.contains(char::is_control)
            && !value.contains(char::is_control)
    };
    labels.len() <= 16 && keys.len() == labels.len() && labels.iter().all(good)
}

fn batch(
    relay: impl Fn() -> Result<Heartbeat, Reject>,
    d: &[u8],
    key_id: u8,
) -> Result<Meaning, Reject> {
    if d.len() < 36 {
        return Err(Reject::Runt);
    }
    if number(d, 34, 2) != 0 {
        return Err(Reject::Reserved);
    }
    let (n, k) = (usize::from(d[32]), usize::from(d[33]));
    if d.len() > 1_456 || k > 64 || d.len() != 36 + 4 * k + 20 * n {
        return Err(Reject::Length);
    }
    let relay = relay()?;
    let intervals: Vec<u64> =
        (0..k).map(|i| interval_us(number(d, 36 + 4 * i, 4))).collect::<Result<_, _>>()?;
    let entry = |i: usize| &d[36 + 4 * k + 20 * i..][..20];
    let index = |i: usize| (number(entry(i), 16, 4) >> 24) as usize % 64;
    if (0..n).any(|i| index(i) >= k) {
        return Err(Reject::Length);
    }
    if (0..n).any(|i| number(entry(i), 0, 8) == 0) {
        return Err(Reject::Reserved);
    }
    let beats = (0..n).map(|i| Heartbeat {
        peer: PeerId(number(entry(i), 0, 8)),
        kind: Kind::Beat,
        status: status(number(entry(i), 16, 4) >> 30),
        sequenced: true,
        key_id,
        incarnation: number(entry(i), 8, 4) as u32,
        sequence: number(entry(i), 12, 4) as u32,
        interval_us: intervals[index(i)],
        sent_ns: 0,
        age_us: (number(entry(i), 16, 4) % (1 << 24)) as u32,
        profile_digest: 0,
    });
    let own = (relay.peer.0 != 0).then_some(relay);
    Ok(Meaning::Batch(own, beats.collect(), vec![PeerId(0); n]))
}

fn pack(
    relay: impl Fn() -> Result<Heartbeat, Reject>,
    d: &[u8],
    key_id: u8,
) -> Result<Meaning, Reject> {
    if d.len() < 36 {
        return Err(Reject::Runt);
    }
    let (n, k, r) = (usize::from(d[32]), usize::from(d[33]), usize::from(d[35]));
    let (i_bytes, s_bytes) = (usize::from(d[34] % 4) + 1, usize::from(d[34] / 4 % 4) + 1);
    let unit_us = 1u32 << (d[34] / 16);
    let said = 8 + i_bytes + s_bytes + 2 + 1;
    let size = if r > 0 { said + 1 } else { said };
    if d.len() > 1_456 || k > 64 || r > 63 || d.len() != 36 + 4 * k + 8 * r + size * n {
        return Err(Reject::Length);
    }
    relay()?;
    let intervals: Vec<u64> =
        (0..k).map(|i| interval_us(number(d, 36 + 4 * i, 4))).collect::<Result<_, _>>()?;
    let entry = |i: usize| &d[36 + 4 * k + 8 * r + size * i..][..size];
    let index = |i: usize| usize::from(entry(i)[said - 1] % 64);
    let place = |i: usize| if r > 0 { usize::from(entry(i)[said]) } else { 0 };
    if (0..n).any(|i| index(i) >= k || place(i) > r) {
        return Err(Reject::Length);
    }
    let relay_ids = relay_ids(d, 36 + 4 * k, r)?;
    if (0..n).any(|i| number(entry(i), 0, 8) == 0) {
        return Err(Reject::Reserved);
    }
    let sum = |base: u64, offset: u64| ((base + offset) % (1 << 32)) as u32;
    let beats = (0..n).map(|i| Heartbeat {
        peer: PeerId(number(entry(i), 0, 8)),
        kind: Kind::Beat,
        status: status(u64::from(entry(i)[said - 1] / 64)),
        sequenced: true,
        key_id,
        incarnation: sum(number(d, 16, 4), number(entry(i), 8, i_bytes)),
        sequence: sum(number(d, 20, 4), number(entry(i), 8 + i_bytes, s_bytes)),
        interval_us: intervals[index(i)],
        sent_ns: 0,
        age_us: number(entry(i), said - 3, 2) as u32 * unit_us,
        profile_digest: 0,
    });
    let by = (0..n).map(|i| if place(i) == 0 { PeerId(0) } else { relay_ids[place(i) - 1] });
    Ok(Meaning::Batch(None, beats.collect(), by.collect()))
}

fn relay_ids(d: &[u8], at: usize, r: usize) -> Result<Vec<PeerId>, Reject> {
    let ids: Vec<PeerId> = (0..r).map(|i| PeerId(number(d, at + 8 * i, 8))).collect();
    if ids.contains(&PeerId(0)) { Err(Reject::Reserved) } else { Ok(ids) }
}

fn bundle(d: &[u8], key_id: u8) -> Result<Meaning, Reject> {
    if d.len() < 36 {
        return Err(Reject::Runt);
    }
    if number(d, 34, 2) != 0 {
        return Err(Reject::Reserved);
    }
    let (n, r) = (usize::from(d[32]), usize::from(d[33]));
    if d.len() > 1_456 || r > 63 || d.len() < 36 + 8 * r {
        return Err(Reject::Length);
    }
    let mut at = 36 + 8 * r;
    let mut pieces = Vec::new();
    for _ in 0..n {
        if d.len() < at + 8 {
            return Err(Reject::Length);
        }
        let (age_us, bytes, place) =
            (number(d, at, 4) as u32, number(d, at + 4, 2) as usize, d[at + 6]);
        if bytes == 0 || d.len() < at + 8 + bytes || usize::from(place) > r {
            return Err(Reject::Length);
        }
        if d[at + 7] != 0 {
            return Err(Reject::Reserved);
        }
        pieces.push((d[at + 8..at + 8 + bytes].to_vec(), age_us, usize::from(place)));
        at += 8 + bytes;
    }
    if at != d.len() {
        return Err(Reject::Length);
    }
    let relay = PeerId(number(d, 8, 8));
    let mut relays = vec![relay];
    relays.extend(relay_ids(d, 36, r)?);
    let named = pieces.into_iter().map(|(piece, age_us, place)| (piece, age_us, relays[place]));
    Ok(Meaning::Bundle(relay, key_id, named.collect()))
}

fn text(d: &[u8], tags: Tags<'_>) -> Result<Meaning, Reject> {
    if d.len() > 1_472 {
        return Err(Reject::Length);
    }
    let mut line = String::from_utf8(d.to_vec()).map_err(|_| Reject::Text)?;
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    if line.replace('\t', " ").contains(char::is_control) {
        return Err(Reject::Text);
    }
    let words: Vec<String> =
        line.split([' ', '\t']).filter(|w| !w.is_empty()).map(String::from).collect();
    if words.is_empty() || words[0].contains('=') {
        return Err(Reject::Text);
    }
    let name = words[0].clone();
    let (mut interval, mut state, mut group) = (vec![], vec![], vec![]);
    let (mut labels, mut byes, mut tag) = (vec![], 0, None);
    for word in &words[1..] {
        if tag.is_some() {
            return Err(Reject::Text);
        }
        let parts: Vec<&str> = word.splitn(2, '=').collect();
        match parts[..] {
            ["interval", value] => interval.push(duration_us(value)?),
            ["status", "ok"] => state.push(Status::Ok),
            ["status", "warn"] => state.push(Status::Warn),
            ["status", "critical"] => state.push(Status::Critical),
            ["status", "maintenance"] => state.push(Status::Maintenance),
            ["status", _] => return Err(Reject::Text),
            ["group", value] => group.push(value.to_string()),
            [key, value] => labels.push((key.to_string(), value.to_string())),
            ["bye"] => byes += 1,
            [word] => {
                let parts: Vec<&str> = word.split(':').collect();
                let keys: Vec<String> = (1..=255).map(|key: u32| key.to_string()).collect();
                let hex = |tag: &str| {
                    tag.len() == 32 && tag.chars().all(|c| "0123456789abcdef".contains(c))
                };
                let good = parts.len() == 3
                    && parts[0] == "tag"
                    && keys.contains(&parts[1].to_string())
                    && hex(parts[2]);
                if !good {
                    return Err(Reject::Text);
                }
                tag = Some(word.to_string());
            }
            _ => unreachable!("splitn gives one or two parts"),
        }
        if interval.len() > 1 || state.len() > 1 || group.len() > 1 || byes > 1 {
            return Err(Reject::Text);
        }
    }
    let group = group.pop().unwrap_or_default();
    let size: usize = labels.iter().map(|(key, value)| 2 + key.len() + value.len()).sum();
    let fits = 36 + name.len() + group.len() + size <= 1_456;
    if !good_name(&name) || !good_group(&group) || !good_labels(&labels) || !fits {
        return Err(Reject::Text);
    }
    let key_id = match tag {
        None if tags.refuse_untagged() => return Err(Reject::Unauthenticated),
        None => 0,
        Some(word) => {
            let parts: Vec<&str> = word.split(':').collect();
            let byte = |i: usize| u8::from_str_radix(&parts[2][2 * i..2 * i + 2], 16).unwrap();
            let tag: Vec<u8> = (0..16).map(byte).collect();
            let trimmed = line.trim_end_matches([' ', '\t']);
            let covered = &trimmed.as_bytes()[..trimmed.len() - word.len() - 1];
            tags.proven(parts[1].parse().unwrap(), covered, &tag)?
        }
    };
    let heartbeat = Heartbeat {
        peer: PeerId(number(&Sha256::digest(name.as_bytes()), 0, 8)),
        kind: if byes == 1 { Kind::Bye } else { Kind::Beat },
        status: state.pop().unwrap_or(Status::Ok),
        sequenced: false,
        key_id,
        incarnation: 0,
        sequence: 0,
        interval_us: interval.pop().unwrap_or(0),
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    };
    Ok(if byes == 1 {
        Meaning::Beat(heartbeat)
    } else {
        Meaning::Hello(heartbeat, name, group, labels)
    })
}

/// In units of 10^-6 µs, as long as the number of digits allows.
fn duration_us(text: &str) -> Result<u64, Reject> {
    let units = [
        ("us", 1u128),
        ("ms", 1_000),
        ("s", 1_000_000),
        ("m", 60_000_000),
        ("h", 3_600_000_000),
        ("d", 86_400_000_000),
    ];
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = units.iter().find(|(unit, _)| *unit == &text[number.len()..]);
    let &(_, unit_us) = unit.ok_or(Reject::Text)?;
    let parts: Vec<&str> = number.split('.').collect();
    let digits = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_digit());
    if parts.len() > 2 || !parts.iter().all(|part| digits(part)) {
        return Err(Reject::Text);
    }
    let fraction = parts.get(1).copied().unwrap_or("0");
    if fraction.len() > 6 {
        return Err(Reject::Text);
    }
    let millionths: u128 = format!("{fraction:0<6}").parse().expect("six digits");
    let whole = parts[0].trim_start_matches('0');
    if whole.len() > 18 {
        return Err(Reject::Interval);
    }
    let whole: u128 = format!("0{whole}").parse().expect("up to 18 digits");
    let us = ((whole * 1_000_000 + millionths) * unit_us).div_ceil(1_000_000);
    if !(1_000..=90 * 86_400_000_000).contains(&us) {
        return Err(Reject::Interval);
    }
    // Above what 31 bits of microseconds can say: whole seconds.
    let us = if us < 1 << 31 { us } else { us.div_ceil(1_000_000) * 1_000_000 };
    Ok(us as u64)
}
