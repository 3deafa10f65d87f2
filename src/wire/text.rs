//! The text form: one line that a shell can send, `web-1 interval=500ms status=warn group=web rack=r7`.
//!
//! The first word is the name, `bye` is a leave, `interval=`, `status=` and `group=` are what they
//! say, and any other `key=value` is a label. A line says everything anew: what it does not mention
//! is not stated, and a group or label of an earlier line is gone.
//!
//! Strict on purpose: whoever mistypes a word sees the drop counter move, not a wrong fleet.

use super::interval;
use super::key::Guard;
use super::{Form, Heartbeat, Kind, MAX_DATAGRAM, PeerId, Profile, Reject, Status, TAG};

/// The words of a line.
pub(super) type Tokens<'a> = std::str::SplitAsciiWhitespace<'a>;

/// What the words behind the name have said so far. Each may be said once.
#[derive(Default)]
struct Said<'a> {
    interval_us: Option<u64>,
    status: Option<Status>,
    group: Option<&'a str>,
    bye: bool,
    tag: Option<Tagged<'a>>,
}

/// The last word of a line, `tag:KEY:HEX`.
#[derive(Clone, Copy)]
struct Tagged<'a> {
    key_id: u8,
    tag: [u8; TAG],
    word: &'a str,
}

/// Decodes a datagram whose first byte can start UTF-8 text.
pub(super) fn decode<'a>(datagram: &'a [u8], guard: &Guard) -> Result<Form<'a>, Reject> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(Reject::Length);
    }
    let line = line_of(datagram)?;
    let mut words = tokens(line);
    let name = words.next().filter(|name| !name.contains('=')).ok_or(Reject::Text)?;
    let mut said = Said::default();
    words.try_for_each(|word| said.take(word))?;
    let profile =
        Profile::of_line(name, said.group.unwrap_or(""), line).map_err(|_| Reject::Text)?;
    let key_id = match said.tag {
        None => guard.untagged().map(|()| 0)?,
        Some(Tagged { key_id, tag, word }) => {
            guard.verify(key_id, before(line, word).as_bytes(), &tag)?
        }
    };
    let mut heartbeat = Heartbeat {
        peer: PeerId::of(name),
        kind: if said.bye { Kind::Bye } else { Kind::Beat },
        status: said.status.unwrap_or_default(),
        sequenced: false,
        key_id,
        incarnation: 0,
        sequence: 0,
        interval_us: said.interval_us.unwrap_or(0),
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    };
    if said.bye {
        return Ok(Form::Beat(heartbeat));
    }
    heartbeat.profile_digest = profile.digest();
    Ok(Form::Hello(heartbeat, profile))
}

/// The words of a line, which has no white space but spaces and tabs.
pub(super) fn tokens(line: &str) -> Tokens<'_> {
    line.split_ascii_whitespace()
}

/// The label that a word of a line is, if it is one.
pub(super) fn label(word: &str) -> Option<(&str, &str)> {
    word.split_once('=').filter(|(key, _)| !matches!(*key, "interval" | "status" | "group"))
}

/// The datagram's one line without its end.
fn line_of(datagram: &[u8]) -> Result<&str, Reject> {
    let text = str::from_utf8(datagram).map_err(|_| Reject::Text)?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.chars().any(|c| c.is_control() && c != '\t') { Err(Reject::Text) } else { Ok(line) }
}

impl<'a> Said<'a> {
    fn take(&mut self, word: &'a str) -> Result<(), Reject> {
        if self.tag.is_some() {
            return Err(Reject::Text);
        }
        match word.split_once('=') {
            Some(("interval", value)) => once(&mut self.interval_us, interval::parse(value)?),
            Some(("status", value)) => {
                once(&mut self.status, Status::parse(value).ok_or(Reject::Text)?)
            }
            Some(("group", value)) => once(&mut self.group, value),
            Some(_) => Ok(()),
            None if word == "bye" && !self.bye => {
                self.bye = true;
                Ok(())
            }
            None => {
                self.tag = Some(Tagged::parse(word).ok_or(Reject::Text)?);
                Ok(())
            }
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Reject> {
    if place.replace(value).is_some() { Err(Reject::Text) } else { Ok(()) }
}

impl<'a> Tagged<'a> {
    /// Reads `tag:KEY:HEX`. It has no `=`, so no label is lost to it.
    fn parse(word: &'a str) -> Option<Tagged<'a>> {
        let (key, hex) = word.strip_prefix("tag:")?.split_once(':')?;
        let digits = key.bytes().all(|b| b.is_ascii_digit()) && !key.starts_with('0');
        let key_id = key.parse().ok().filter(|_| digits)?;
        let lower = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !lower || hex.len() != 2 * TAG {
            return None;
        }
        let mut tag = [0; TAG];
        for (byte, digits) in tag.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Tagged { key_id, tag, word })
    }
}

/// What a line has before the space or tab in front of one of its words.
fn before<'a>(line: &'a str, word: &str) -> &'a str {
    let start = word.as_ptr().addr() - line.as_ptr().addr();
    &line[..start - 1]
}
