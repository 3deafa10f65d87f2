//! Who a peer is in words: its name, group and labels, as a HELLO's body and the text form carry them.
//!
//! ```text
//!  ┌────────┬─────────┬────────┬───┬──────┬───────┬─────────────────────────────────┐
//!  │name len│group len│ labels │ 0 │ name │ group │ key len │ value len │ key │ value│ × labels
//!  │   u8   │   u8    │   u8   │u8 │      │       │   u8    │    u8     │     │      │
//!  └────────┴─────────┴────────┴───┴──────┴───────┴─────────────────────────────────┘
//! ```
//!
//! A [`Profile`] borrows: from a HELLO, from a line of text, or from the pairs that a sender was
//! configured with. However it was made it keeps the same rules, so that every one of them can be
//! encoded: lengths within their bounds, no control characters, no label key twice, and a body that
//! leaves room for a tag in the datagram.

use super::digest::Digest;
use super::{HEADER, MAX_UNTAGGED, PeerId, Reject, text};

/// Bytes that a name may have; at least one.
pub const MAX_NAME: usize = 255;
/// Bytes that a group may have; none is "no group".
pub const MAX_GROUP: usize = 64;
/// Labels that a peer may have.
pub const MAX_LABELS: usize = 16;
/// Bytes that a label's key may have; at least one.
pub const MAX_KEY: usize = 64;
/// Bytes that a label's value may have; it may be empty.
pub const MAX_VALUE: usize = 255;

/// Bytes before the name.
const PREFIX: usize = 4;
const MAX_BODY: usize = MAX_UNTAGGED - HEADER;

/// A peer's name, group and labels, borrowed and valid.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'a> {
    /// What people call it: 1 to 255 bytes, no control characters.
    pub name: &'a str,
    /// What it belongs to; empty for nothing.
    pub group: &'a str,
    labels: Source<'a>,
}

/// Where the labels are read from.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// The end of a HELLO's body; checked to hold whole labels of valid UTF-8.
    Body(&'a [u8]),
    /// A line of text; checked too.
    Line(&'a str),
    /// What the sender was configured with.
    Pairs(&'a [(&'a str, &'a str)]),
}

impl<'a> Profile<'a> {
    /// A profile of a sender's own words.
    ///
    /// # Errors
    /// [`Reject::Name`] or [`Reject::Label`] when one of them breaks the rules, [`Reject::Length`]
    /// when they are too much for one datagram together.
    pub fn new(
        name: &'a str,
        group: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> Result<Profile<'a>, Reject> {
        Profile { name, group, labels: Source::Pairs(labels) }.checked()
    }

    /// A profile of a line whose tokens the text form has told apart.
    pub(super) fn of_line(name: &'a str, group: &'a str, line: &'a str) -> Result<Self, Reject> {
        Profile { name, group, labels: Source::Line(line) }.checked()
    }

    /// Reads a HELLO's body.
    ///
    /// # Errors
    /// What is wrong with it; `docs/protocol.md` states the order.
    pub fn from_bytes(body: &'a [u8]) -> Result<Profile<'a>, Reject> {
        let (&[name_len, group_len, labels, reserved], rest) =
            body.split_first_chunk::<PREFIX>().ok_or(Reject::Runt)?;
        if reserved != 0 {
            return Err(Reject::Reserved);
        }
        if body.len() > MAX_BODY {
            return Err(Reject::Length);
        }
        let (name, rest) = split(rest, name_len)?;
        let (group, rest) = split(rest, group_len)?;
        let name = str::from_utf8(name).map_err(|_| Reject::Name)?;
        check_name(name)?;
        let group = str::from_utf8(group).map_err(|_| Reject::Label)?;
        check_group(group)?;
        let mut left = rest;
        for _ in 0..labels {
            let (lengths, after) = split(left, 2)?;
            let (key, after) = split(after, lengths[0])?;
            let (value, after) = split(after, lengths[1])?;
            str::from_utf8(key).and(str::from_utf8(value)).map_err(|_| Reject::Label)?;
            left = after;
        }
        if !left.is_empty() {
            return Err(Reject::Length);
        }
        let profile = Profile { name, group, labels: Source::Body(rest) };
        profile.check_labels()?;
        Ok(profile)
    }

    /// Appends the canonical body of a HELLO to `out`: what [`from_bytes`](Self::from_bytes) reads.
    pub fn to_bytes(&self, out: &mut Vec<u8>) {
        // The rules keep every length within a byte.
        let count = self.labels().count() as u8;
        out.extend([self.name.len() as u8, self.group.len() as u8, count, 0]);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(self.group.as_bytes());
        for (key, value) in self.labels() {
            out.extend([key.len() as u8, value.len() as u8]);
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value.as_bytes());
        }
    }

    /// Its labels, key and value, in the sender's order.
    pub fn labels(&self) -> Labels<'a> {
        Labels(match self.labels {
            Source::Body(bytes) => LabelsOf::Body(bytes),
            Source::Line(line) => LabelsOf::Line(text::tokens(line)),
            Source::Pairs(pairs) => LabelsOf::Pairs(pairs.iter()),
        })
    }

    /// A fingerprint, never 0, for telling whether a profile changed. The same for the same name,
    /// group and labels (in the same order), whichever form they came in. Not proof against malice.
    pub fn digest(&self) -> u32 {
        let start = Digest::new().field(self.name.as_bytes()).field(self.group.as_bytes());
        self.labels()
            .fold(start, |digest, (key, value)| {
                digest.field(key.as_bytes()).field(value.as_bytes())
            })
            .finish()
    }

    /// Whether the name is this peer's. Costs one SHA-256.
    pub fn matches(&self, peer: PeerId) -> bool {
        PeerId::of(self.name) == peer
    }

    fn checked(self) -> Result<Self, Reject> {
        check_name(self.name)?;
        check_group(self.group)?;
        self.check_labels()?;
        if self.body_len() > MAX_BODY { Err(Reject::Length) } else { Ok(self) }
    }

    /// Lengths, characters, number, and that no key comes twice. Quadratic in at most 16.
    fn check_labels(&self) -> Result<(), Reject> {
        for (n, (key, value)) in self.labels().enumerate() {
            let fits = n < MAX_LABELS && !key.is_empty() && key.len() <= MAX_KEY;
            let clean = value.len() <= MAX_VALUE && !has_control(key) && !has_control(value);
            if !fits || !clean || self.labels().take(n).any(|(other, _)| other == key) {
                return Err(Reject::Label);
            }
        }
        Ok(())
    }

    fn body_len(&self) -> usize {
        let labels: usize = self.labels().map(|(key, value)| 2 + key.len() + value.len()).sum();
        PREFIX + self.name.len() + self.group.len() + labels
    }
}

impl PartialEq for Profile<'_> {
    /// The same words in the same order, whichever form they came in.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.group == other.group && self.labels().eq(other.labels())
    }
}

/// A profile's labels, key and value, in the sender's order.
#[derive(Clone, Debug)]
pub struct Labels<'a>(LabelsOf<'a>);

#[derive(Clone, Debug)]
enum LabelsOf<'a> {
    Body(&'a [u8]),
    Line(text::Tokens<'a>),
    Pairs(std::slice::Iter<'a, (&'a str, &'a str)>),
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            LabelsOf::Body(bytes) => {
                // `from_bytes` saw to it that whole labels of UTF-8 are left, or nothing.
                let (&[key_len, value_len], rest) = bytes.split_first_chunk::<2>()?;
                let (key, rest) = split(rest, key_len).ok()?;
                let (value, rest) = split(rest, value_len).ok()?;
                *bytes = rest;
                Some((str::from_utf8(key).ok()?, str::from_utf8(value).ok()?))
            }
            LabelsOf::Line(tokens) => tokens.find_map(text::label),
            LabelsOf::Pairs(pairs) => pairs.next().copied(),
        }
    }
}

/// A profile that owns its bytes, one allocation: for the control plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedProfile(Box<[u8]>);

impl OwnedProfile {
    /// A copy of a profile.
    pub fn of(profile: &Profile<'_>) -> OwnedProfile {
        let mut body = Vec::with_capacity(profile.body_len());
        profile.to_bytes(&mut body);
        OwnedProfile(body.into())
    }

    /// Takes a HELLO's body over.
    ///
    /// # Errors
    /// What is wrong with it, as [`Profile::from_bytes`].
    pub fn from_bytes(body: Box<[u8]>) -> Result<OwnedProfile, Reject> {
        Profile::from_bytes(&body)?;
        Ok(OwnedProfile(body))
    }

    /// What it says.
    pub fn profile(&self) -> Profile<'_> {
        Profile::from_bytes(&self.0).expect("the bytes were checked when it was made")
    }

    /// The canonical body of a HELLO.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes, given away.
    pub fn into_bytes(self) -> Box<[u8]> {
        self.0
    }
}

fn split(bytes: &[u8], len: u8) -> Result<(&[u8], &[u8]), Reject> {
    bytes.split_at_checked(len.into()).ok_or(Reject::Length)
}

fn check_name(name: &str) -> Result<(), Reject> {
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && !has_control(name) { Ok(()) } else { Err(Reject::Name) }
}

fn check_group(group: &str) -> Result<(), Reject> {
    if group.len() <= MAX_GROUP && !has_control(group) { Ok(()) } else { Err(Reject::Label) }
}

/// Whether a character of Unicode's category Cc is in it.
fn has_control(text: &str) -> bool {
    // Nearly all are ASCII, which needs no decoding.
    match text.is_ascii() {
        true => text.bytes().any(|byte| byte.is_ascii_control()),
        false => text.chars().any(char::is_control),
    }
}
