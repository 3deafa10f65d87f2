//! The names file: who is behind an id, appended as it is learnt.
//!
//! ```text
//!   magic │ check, len │ kind, peer, body │ check, len │ kind, peer │ …
//!           profile: the body of a HELLO    gone: none
//! ```
//!
//! A peer that is down says no HELLO any more, so its name must outlive the process. Records of one
//! peer replace one another; read from the start, the last one holds. What follows the first record
//! that is not whole is cut off and counted. When most of the file is out of date it is written anew
//! beside the old one and takes its name in one step.
//!
//! Written by the publisher, a round's records with one write(2), which no reactor waits for. When
//! the disk is full names are not kept, and the log says so once.

use super::dir::StateError;
use crate::wire::{OwnedProfile, PeerId};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "names";
const FILE_NEW: &str = "names.new";
const MAGIC: &[u8; 8] = b"SYSNAME\x01";
const PROFILE: u8 = 1;
const GONE: u8 = 2;
/// Bytes of a record before its body: check, length, kind, peer.
const PREFIX: usize = 4 + 2 + 1 + 8;
/// Longest body; a HELLO's is shorter.
const MAX_BODY: usize = 2_048;

/// What reading the file came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamesFound {
    /// Records read.
    pub records: u64,
    /// Bytes at the end that were no whole record, and were cut off.
    pub cut: u64,
}

/// The file, for its one writer.
pub struct NamesFile {
    path: PathBuf,
    path_new: PathBuf,
    file: File,
    /// Bytes in the file that are whole.
    len: u64,
    records: u64,
    pending: Vec<u8>,
    pending_records: u64,
    complained: bool,
}

impl NamesFile {
    /// Opens the directory's file, and gives what it holds.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(dir: &Path) -> Result<(NamesFile, Records, NamesFound), StateError> {
        let (path, path_new) = (dir.join(FILE), dir.join(FILE_NEW));
        let failed = |call| StateError::of(&path, call);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("opening"))?;
        let bytes = std::fs::read(&path).map_err(failed("reading"))?;
        let len = bytes.len();
        let held = Records::check(bytes);
        let (whole, records) = (held.bytes.len(), held.count);
        let found = NamesFound { records, cut: (len - whole) as u64 };
        let mut names = NamesFile {
            path: path.clone(),
            path_new,
            file,
            len: whole as u64,
            records,
            pending: Vec::new(),
            pending_records: 0,
            complained: false,
        };
        if found.cut > 0 {
            names.file.set_len(whole as u64).map_err(failed("cutting off its end"))?;
        }
        if whole == 0 {
            names.pending.extend_from_slice(MAGIC);
            names.flush();
        }
        Ok((names, held, found))
    }

    /// Notes a peer's profile, to be written with the next [`flush`](Self::flush).
    pub fn learn(&mut self, peer: PeerId, profile: &OwnedProfile) {
        push(&mut self.pending, PROFILE, peer, profile.as_bytes());
        self.pending_records += 1;
    }

    /// Notes that a peer is gone.
    pub fn forget(&mut self, peer: PeerId) {
        push(&mut self.pending, GONE, peer, &[]);
        self.pending_records += 1;
    }

    /// Writes what was noted.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        match self.file.write_all(&self.pending) {
            Ok(()) => {
                self.len += self.pending.len() as u64;
                self.records += self.pending_records;
            }
            Err(error) => {
                // Half a record would hide all that come behind it.
                let _ = self.file.set_len(self.len);
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(path = %self.path.display(), %error, "names are not kept");
                }
            }
        }
        self.pending.clear();
        self.pending_records = 0;
    }

    /// Whether most records are out of date, when `living` of them are not.
    pub fn is_worn(&self, living: usize) -> bool {
        self.records > 2 * living as u64 + 65_536
    }

    /// Writes the file anew from what holds.
    ///
    /// # Errors
    /// The system refuses; the old file is then still there.
    pub fn rewrite(
        &mut self,
        living: impl FnOnce(&mut dyn FnMut(PeerId, &OwnedProfile)),
    ) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = BufWriter::with_capacity(1 << 20, options.open(&self.path_new)?);
        out.write_all(MAGIC)?;
        let (mut record, mut len, mut records) = (Vec::new(), MAGIC.len() as u64, 0);
        let mut failure = None;
        living(&mut |peer, profile| {
            record.clear();
            push(&mut record, PROFILE, peer, profile.as_bytes());
            failure = failure.take().or(out.write_all(&record).err());
            (len, records) = (len + record.len() as u64, records + 1);
        });
        failure.map_or(Ok(()), Err)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?;
        std::fs::rename(&self.path_new, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        (self.len, self.records) = (len, records);
        Ok(())
    }
}

fn push(to: &mut Vec<u8>, kind: u8, peer: PeerId, body: &[u8]) {
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    // The bodies of HELLOs are shorter than a datagram.
    to.extend_from_slice(&(body.len() as u16).to_le_bytes());
    to.push(kind);
    to.extend_from_slice(&peer.0.to_le_bytes());
    to.extend_from_slice(body);
    let check = crc32fast::hash(&to[start + 4..]);
    to[start..start + 4].copy_from_slice(&check.to_le_bytes());
}

/// Records as they lie in the file, in the order in which they were learnt; all are whole.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    count: u64,
}

/// What a record says of a peer: the body of its HELLO, or `None` when it is gone.
pub type Record<'a> = (PeerId, Option<&'a [u8]>);

impl Records {
    /// Those of a file up to the first that is not whole. Any bytes may come.
    pub fn check(mut bytes: Vec<u8>) -> Records {
        let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return Records::default() };
        let (mut whole, mut count) = (MAGIC.len(), 0);
        while let Some((check, _, len)) = split(rest) {
            if len > PREFIX + MAX_BODY || crc32fast::hash(&rest[4..len]) != check {
                break;
            }
            (rest, whole, count) = (&rest[len..], whole + len, count + 1);
        }
        bytes.truncate(whole);
        Records { bytes, count }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Where each begins, and what it says.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Record<'_>)> {
        let mut at = MAGIC.len();
        std::iter::from_fn(move || {
            let (_, record, len) = split(self.bytes.get(at..)?)?;
            at += len;
            Some((at - len, record))
        })
    }

    /// The one that begins there.
    pub fn at(&self, at: usize) -> Option<Record<'_>> {
        split(self.bytes.get(at..)?).map(|(_, record, _)| record)
    }
}

/// The first record of these bytes, if it is one by its length and kind: its check, what it says, and
/// how long it is.
fn split(bytes: &[u8]) -> Option<(u32, Record<'_>, usize)> {
    let (prefix, behind) = bytes.split_first_chunk::<PREFIX>()?;
    let [c0, c1, c2, c3, l0, l1, kind, id @ ..] = *prefix;
    let body = behind.get(..u16::from_le_bytes([l0, l1]) as usize)?;
    let said = match kind {
        PROFILE => Some(body),
        GONE => None,
        _ => return None,
    };
    let record = (PeerId(u64::from_le_bytes(id)), said);
    Some((u32::from_le_bytes([c0, c1, c2, c3]), record, PREFIX + body.len()))
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::store::StateDir;
    use crate::testing::{Rng, TempDir, seeds};
    use crate::wire::Profile;
    use std::collections::BTreeMap;

    fn profile(name: &str) -> OwnedProfile {
        OwnedProfile::of(&Profile::new(name, "web", &[("rack", "r1")]).unwrap())
    }

    fn open(dir: &StateDir) -> (NamesFile, BTreeMap<u64, OwnedProfile>, NamesFound) {
        let mut held = BTreeMap::new();
        let (file, records, found) = NamesFile::open(dir.path()).unwrap();
        for (at, record) in records.iter() {
            assert_eq!(records.at(at), Some(record));
            match record {
                (peer, Some(body)) => {
                    drop(held.insert(peer.0, OwnedProfile::from_bytes(body.into()).unwrap()));
                }
                (peer, None) => drop(held.remove(&peer.0)),
            }
        }
        assert_eq!(records.iter().count() as u64, found.records);
        (file, held, found)
    }

    #[test]
    fn what_was_learnt_is_found_again_up_to_where_the_file_was_cut_off() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let temp = TempDir::new();
            let dir = StateDir::open(&temp.path().join("s")).unwrap();
            let mut model = BTreeMap::new();
            for life in 0..12 {
                let (mut names, held, found) = open(&dir);
                assert_eq!((&held, found.cut), (&model, 0), "seed {seed} life {life}");
                for _ in 0..rng.below(30) {
                    let peer = rng.below(10);
                    if rng.one_in(3) {
                        names.forget(PeerId(peer));
                        model.remove(&peer);
                    } else {
                        let profile = profile(&format!("peer-{}", rng.below(1000)));
                        names.learn(PeerId(peer), &profile);
                        model.insert(peer, profile);
                    }
                }
                names.flush();
                if rng.one_in(4) {
                    let all = |each: &mut dyn FnMut(PeerId, &OwnedProfile)| {
                        model.iter().for_each(|(peer, profile)| each(PeerId(*peer), profile));
                    };
                    names.rewrite(all).unwrap();
                    assert_eq!(names.records, model.len() as u64);
                }
            }
            // Cut off anywhere, the whole records before it are there.
            let bytes = std::fs::read(dir.file(FILE)).unwrap();
            let all = Records::check(bytes.clone());
            assert_eq!(all.bytes, bytes);
            let begins: Vec<usize> = all.iter().map(|(at, _)| at).collect();
            for cut in 0..bytes.len() {
                let whole = Records::check(bytes[..cut].into()).bytes.len();
                let expected = begins.iter().rev().find(|at| **at <= cut);
                assert_eq!(whole, expected.copied().unwrap_or(0), "seed {seed}, cut at {cut}");
            }
            let mut spoilt = bytes.clone();
            let at = rng.below(bytes.len() as u64) as usize;
            spoilt[at] ^= 1 << rng.below(8);
            let whole = Records::check(spoilt).bytes.len();
            assert!(whole <= at, "seed {seed}: nothing is taken from behind the damage");
        }
    }

    #[test]
    fn a_torn_end_is_cut_off_and_written_on() {
        let temp = TempDir::new();
        let dir = StateDir::open(&temp.path().join("s")).unwrap();
        let (mut names, _, _) = open(&dir);
        names.learn(PeerId(1), &profile("a"));
        names.flush();
        names.file.write_all(&[1, 2, 3]).unwrap();
        let (mut names, held, found) = open(&dir);
        assert_eq!((held.len(), found), (1, NamesFound { records: 1, cut: 3 }));
        names.learn(PeerId(2), &profile("b"));
        names.flush();
        let (_, held, found) = open(&dir);
        assert_eq!((held.len(), found.cut), (2, 0));
    }
}
