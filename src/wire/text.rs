//! The text form: one line that a shell can send, `web-1 interval=500ms status=warn group=web rack=r7`.
//!
//! The first word is the name, `bye` is a leave, `interval=`, `status=` and `group=` are what they
//! say, and any other `key=value` is a label. A line says everything anew: what it does not mention
//! is not stated, and a group or label of an earlier line is gone.
//!
//! Strict on purpose: whoever mistypes a word sees the drop counter move, not a wrong fleet.

use super::interval;
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
    tagged: bool,
}

/// Decodes a datagram whose first byte can start UTF-8 text.
pub(super) fn decode(datagram: &[u8]) -> Result<Form<'_>, Reject> {
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
    if said.tagged {
        return Err(Reject::UnknownKey);
    }
    let mut heartbeat = Heartbeat {
        peer: PeerId::of(name),
        kind: if said.bye { Kind::Bye } else { Kind::Beat },
        status: said.status.unwrap_or_default(),
        sequenced: false,
        key_id: 0,
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
        if self.tagged {
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
            None if is_tag(word) => {
                self.tagged = true;
                Ok(())
            }
            None => Err(Reject::Text),
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Reject> {
    if place.replace(value).is_some() { Err(Reject::Text) } else { Ok(()) }
}

/// Whether a word is `tag:KEY:HEX`, which authenticates the line once there are keys. It has no `=`,
/// so no label is lost to it.
fn is_tag(word: &str) -> bool {
    let Some((key, tag)) = word.strip_prefix("tag:").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let digits = key.bytes().all(|b| b.is_ascii_digit()) && !key.starts_with('0');
    let hex = tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits && key.parse::<u8>().is_ok() && hex && tag.len() == 2 * TAG
}
