//! Keys: who may speak, for whom, and the tag that proves it.
//!
//! ```text
//!   every byte before the tag ──▶ BLAKE3, keyed with the 32-byte secret ──▶ its first 16 bytes
//! ```
//!
//! A tag covers the header with its flags and key id, and whatever follows. A [`Keyring`] is a table
//! by key id, so finding a key is one look; comparing a tag takes the same time wherever it differs.
//! Setting a key up costs nothing worth keeping: BLAKE3 takes the secret as its initial state, and
//! a header fits one block.
//!
//! **Scope.** A key may be bound to groups. Then it speaks for peers of these groups only, which
//! whoever knows a peer's group asks of [`Keyring::admits`], or, by the group's number, of the [`KeySet`] of
//! those that it [admits](Keyring::admitting). A heartbeat says no group, so for one by another key than the
//! peer's the question is besides whether that [covers](Keyring::covers) the one that brought the peer in.
//!
//! Absent on purpose: files (`config::keys_file`), and the peers.
//!
//! Sources: Aumasson, O'Connor, Neves, Wilcox-O'Hearn, *BLAKE3* (2020), keyed mode; any 128 bits of
//! its output are a MAC of 128 bits.

use super::{Form, Reject, TAG, decode_any, header};
use std::collections::BTreeSet;
use std::fmt;

/// Bytes of a secret.
pub const SECRET: usize = 32;

/// A secret and its number.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: u8,
    secret: [u8; SECRET],
}

impl Key {
    /// A key; `None` for id 0, which stands for "no key".
    pub fn new(id: u8, secret: [u8; SECRET]) -> Option<Key> {
        (id != 0).then_some(Key { id, secret })
    }

    /// Its number on the wire, 1 to 255.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The secret itself, to write it into a file of keys.
    pub(crate) fn secret(&self) -> &[u8; SECRET] {
        &self.secret
    }

    /// The tag of these bytes.
    #[inline]
    pub fn tag(&self, covered: &[u8]) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag.copy_from_slice(&blake3::keyed_hash(&self.secret, covered).as_bytes()[..TAG]);
        tag
    }

    /// Makes the untagged binary datagram that `out` ends with, from `start` on, a tagged one.
    ///
    /// # Panics
    /// When there is no header behind `start`.
    pub fn seal(&self, out: &mut Vec<u8>, start: usize) {
        header::mark_tagged(&mut out[start..], self.id);
        let tag = self.tag(&out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Makes a line of the text form, without its end, a tagged one.
    pub fn seal_line(&self, line: &mut String) {
        let tag = self.tag(line.as_bytes());
        line.push_str(&format!(" tag:{}:", self.id));
        line.extend(tag.iter().map(|byte| format!("{byte:02x}")));
    }

    /// Whether `tag` is the tag of these bytes; takes as long whether it is or not.
    #[inline]
    fn verifies(&self, covered: &[u8], tag: &[u8; TAG]) -> bool {
        constant_time_eq::constant_time_eq_16(&self.tag(covered), tag)
    }
}

impl fmt::Debug for Key {
    /// Without the secret, so that no log ever has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// A set of keys: a bit for each id, in the word and at the place that [`place`](Self::place) says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeySet(pub [u64; 4]);

impl KeySet {
    /// All keys.
    pub const ALL: KeySet = KeySet([u64::MAX; 4]);

    /// Where a key stands: the number of the word, and the bit in it.
    #[inline]
    pub fn place(key_id: u8) -> (usize, u64) {
        (usize::from(key_id / 64), 1 << (key_id % 64))
    }

    /// Puts a key in.
    pub fn insert(&mut self, key_id: u8) {
        let (word, bit) = KeySet::place(key_id);
        self.0[word] |= bit;
    }
}

/// A key and the groups that it may speak for; `None` is all, "no group" included.
#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    groups: Option<BTreeSet<Box<str>>>,
}

/// Keys by their id.
#[derive(Clone, Debug)]
pub struct Keyring(Box<[Option<Entry>]>);

impl Default for Keyring {
    fn default() -> Self {
        Keyring(vec![None; 1 + usize::from(u8::MAX)].into())
    }
}

impl Keyring {
    /// Adds a key that may speak for these groups, or for all. False, and nothing changed, when
    /// there is one of its id.
    #[must_use]
    pub fn insert(&mut self, key: Key, groups: Option<&[String]>) -> bool {
        let place = &mut self.0[usize::from(key.id)];
        if place.is_some() {
            return false;
        }
        let groups =
            groups.map(|groups| groups.iter().map(|group| group.as_str().into()).collect());
        *place = Some(Entry { key, groups });
        true
    }

    /// The key of an id.
    pub fn get(&self, key_id: u8) -> Option<&Key> {
        self.entry(key_id).map(|entry| &entry.key)
    }

    /// All keys, by ascending id.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().flatten().map(|entry| &entry.key)
    }

    /// Verifies a tag.
    ///
    /// # Errors
    /// [`Reject::UnknownKey`] or [`Reject::BadTag`].
    #[inline]
    pub fn verify(&self, key_id: u8, covered: &[u8], tag: &[u8; TAG]) -> Result<(), Reject> {
        let entry = self.entry(key_id).ok_or(Reject::UnknownKey)?;
        if entry.key.verifies(covered, tag) { Ok(()) } else { Err(Reject::BadTag) }
    }

    /// Whether a key may speak for any peer at all.
    pub fn is_unbound(&self, key_id: u8) -> bool {
        self.entry(key_id).is_some_and(|entry| entry.groups.is_none())
    }

    /// Whether a key may speak for peers of a group; the empty one is "no group".
    pub fn admits(&self, key_id: u8, group: &str) -> bool {
        self.entry(key_id)
            .is_some_and(|entry| entry.groups.as_ref().is_none_or(|groups| groups.contains(group)))
    }

    /// All keys that may speak for peers of a group.
    pub fn admitting(&self, group: &str) -> KeySet {
        let mut set = KeySet::default();
        self.keys().filter(|key| self.admits(key.id, group)).for_each(|key| set.insert(key.id));
        set
    }

    /// Whether a key may speak for every peer that another one may speak for. False for keys that do
    /// not exist.
    pub fn covers(&self, key_id: u8, other: u8) -> bool {
        let (Some(entry), Some(other)) = (self.entry(key_id), self.entry(other)) else {
            return false;
        };
        match (&entry.groups, &other.groups) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(groups), Some(others)) => groups.is_superset(others),
        }
    }

    #[inline]
    fn entry(&self, key_id: u8) -> Option<&Entry> {
        self.0[usize::from(key_id)].as_ref()
    }
}

/// Whether senders have to prove who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Auth {
    /// Tags are cut off unread, and nobody has authenticated.
    #[default]
    Off,
    /// Tagged datagrams are verified; untagged ones pass for peers that have never authenticated.
    Optional,
    /// What is not tagged is dropped, but for the monitor's own probes.
    Required,
}

impl Auth {
    /// Its word in settings and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Auth::Off => "off",
            Auth::Optional => "optional",
            Auth::Required => "required",
        }
    }
}

/// What stands before the decoder: the rule, and the keys. The default one lets everybody in.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The rule.
    pub auth: Auth,
    /// The keys. Not looked at when the rule is [`Auth::Off`].
    pub keys: Keyring,
}

impl Guard {
    /// Decodes a datagram that may be let in. What was verified says by which key, in
    /// [`Heartbeat::key_id`](super::Heartbeat::key_id); whatever else is let in has key 0.
    ///
    /// The two forms that nearly all datagrams have come first, as in [`decode`](super::decode).
    ///
    /// # Errors
    /// As [`decode`](super::decode), and [`Reject::Unauthenticated`], [`Reject::UnknownKey`] and
    /// [`Reject::BadTag`].
    #[inline]
    pub fn decode<'a>(&self, datagram: &'a [u8]) -> Result<Form<'a>, Reject> {
        if self.auth != Auth::Required
            && let Some(heartbeat) = header::plain_beat(datagram)
        {
            return Ok(Form::Beat(heartbeat));
        }
        if self.auth != Auth::Off
            && let Some(beat) = header::tagged_beat(datagram, &self.keys)
        {
            return beat.map(Form::Beat);
        }
        decode_any(datagram, self)
    }

    /// Whether what a BUNDLE by this key says of a piece by another one is believed: who heard it, and how
    /// long ago. Who could not have said the piece itself could cut its sender off by that.
    pub fn believes(&self, bundle: u8, piece: u8) -> bool {
        piece == 0 || bundle == piece || self.keys.covers(bundle, piece)
    }

    /// Looks at the tag at the end of a datagram with a header. Returns what it covers, and the key
    /// by which it is authentic; 0 when nobody looks at tags.
    pub(super) fn open<'a>(
        &self,
        key_id: u8,
        datagram: &'a [u8],
    ) -> Result<(&'a [u8], u8), Reject> {
        let (covered, tag) = datagram.split_last_chunk::<TAG>().ok_or(Reject::Length)?;
        if covered.len() < super::HEADER {
            return Err(Reject::Length);
        }
        Ok((covered, self.verify(key_id, covered, tag)?))
    }

    /// The key by which these bytes are authentic; 0 when nobody looks at tags.
    pub(super) fn verify(&self, key_id: u8, covered: &[u8], tag: &[u8; TAG]) -> Result<u8, Reject> {
        if self.auth == Auth::Off {
            return Ok(0);
        }
        self.keys.verify(key_id, covered, tag).map(|()| key_id)
    }

    /// Refuses what is not tagged, if it has to be.
    pub(super) fn untagged(&self) -> Result<(), Reject> {
        if self.auth == Auth::Required { Err(Reject::Unauthenticated) } else { Ok(()) }
    }
}
