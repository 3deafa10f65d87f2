//! Files that are written whole: the silences, the alarms.
//!
//! ```text
//!   systole alarms 1        what it is, and its version
//!   …                       the body, bytes that only its owner understands
//!   9ae0daaf                the check of all that is before it
//! ```
//!
//! A new one is written beside the old one and takes its name in one step, so a kill leaves the one
//! or the other. What is no such file, of another version, or damaged is not believed at all: half a
//! state of alarms is worse than none.
//!
//! Bodies are JSON, because people may look; this file does not care. Written by threads that may
//! wait for a disk, never by a reactor.

use super::dir::StateError;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of the last line: the check in hexadecimal, and a line break.
const LAST: usize = 9;

/// What was found of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// There is no such file.
    Absent,
    /// It is not what it should be.
    Damaged,
    /// Its body.
    Whole(Vec<u8>),
}

/// A file that is written whole, for its one writer.
#[derive(Debug)]
pub struct WholeFile {
    first: String,
    path: PathBuf,
    path_new: PathBuf,
    complained: bool,
}

impl WholeFile {
    /// The directory's file of this name and version, and what it holds.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(dir: &Path, name: &str, version: u32) -> Result<(WholeFile, Body), StateError> {
        let (path, path_new) = (dir.join(name), dir.join(format!("{name}.new")));
        let first = format!("systole {name} {version}\n");
        let body = match std::fs::read(&path) {
            Ok(bytes) => read(bytes, &first).map_or(Body::Damaged, Body::Whole),
            Err(error) if error.kind() == ErrorKind::NotFound => Body::Absent,
            Err(error) => return Err(StateError::of(&path, "reading")(error)),
        };
        Ok((WholeFile { first, path, path_new, complained: false }, body))
    }

    /// Writes it anew with the body that `fill` writes; `durable` also waits until a disk has it.
    /// True when it is written; else the old one stays, and the log says so the first time.
    pub fn write(
        &mut self,
        durable: bool,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> bool {
        let written = self.replace(durable, fill);
        if let Err(error) = &written
            && !std::mem::replace(&mut self.complained, true)
        {
            let path = self.path.display();
            tracing::error!(%error, %path, "it is not kept over a restart until there is room");
        }
        self.complained &= written.is_err();
        written.is_ok()
    }

    fn replace(
        &self,
        durable: bool,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = Checked {
            out: BufWriter::with_capacity(64 << 10, options.open(&self.path_new)?),
            check: crc32fast::Hasher::new(),
        };
        out.write_all(self.first.as_bytes())?;
        fill(&mut out)?;
        let Checked { mut out, check } = out;
        writeln!(out, "{:08x}", check.finalize())?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if durable {
            file.sync_data()?;
        }
        std::fs::rename(&self.path_new, &self.path)?;
        match self.path.parent() {
            // Its name, too, must be on the disk.
            Some(dir) if durable => File::open(dir)?.sync_all(),
            _ => Ok(()),
        }
    }
}

/// Sums up what goes through it.
struct Checked<W> {
    out: W,
    check: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.check.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The body of a file with this first line; `None` when it is another, or not whole. Any bytes may
/// come.
pub fn read(mut bytes: Vec<u8>, first: &str) -> Option<Vec<u8>> {
    let end = bytes.len().checked_sub(LAST)?;
    let last = format!("{:08x}\n", crc32fast::hash(&bytes[..end]));
    if bytes[end..] != *last.as_bytes() || !bytes[..end].starts_with(first.as_bytes()) {
        return None;
    }
    bytes.truncate(end);
    bytes.drain(..first.len());
    Some(bytes)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::testing::{Rng, TempDir, seeds};

    fn open(dir: &TempDir) -> (WholeFile, Body) {
        WholeFile::open(dir.path(), "alarms", 1).unwrap()
    }

    #[test]
    fn what_was_written_last_is_found_and_nothing_else_is_believed() {
        let dir = TempDir::new();
        let path = dir.path().join("alarms");
        let (mut file, body) = open(&dir);
        assert_eq!(body, Body::Absent);
        for body in ["", "one", "another\n"] {
            assert!(file.write(body.len() > 3, |out| out.write_all(body.as_bytes())));
            assert_eq!(open(&dir).1, Body::Whole(body.into()));
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            assert_eq!(read(whole[..cut].to_vec(), "systole alarms 1\n"), None, "cut at {cut}");
        }
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut spoilt = whole.clone();
            spoilt[rng.below(whole.len() as u64) as usize] ^= 1 << rng.below(8);
            std::fs::write(&path, &spoilt).unwrap();
            assert_eq!(open(&dir).1, Body::Damaged, "seed {seed}: {spoilt:?}");
        }
        std::fs::write(&path, &whole).unwrap();
        let (_, of_another_version) = WholeFile::open(dir.path(), "alarms", 2).unwrap();
        assert_eq!(of_another_version, Body::Damaged);
    }

    #[test]
    fn a_write_that_fails_or_is_cut_short_leaves_the_old_one() {
        let dir = TempDir::new();
        let (mut file, _) = open(&dir);
        assert!(file.write(false, |out| out.write_all(b"old")));
        assert!(!file.write(false, |out| {
            out.write_all(b"half")?;
            Err(ErrorKind::StorageFull.into())
        }));
        assert_eq!(open(&dir).1, Body::Whole(b"old".into()));
        // Killed before it took the name.
        std::fs::write(dir.path().join("alarms.new"), b"systole alarms 1\nha").unwrap();
        let (mut file, body) = open(&dir);
        assert_eq!(body, Body::Whole(b"old".into()));
        assert!(file.write(true, |out| out.write_all(b"new")));
        assert_eq!(open(&dir).1, Body::Whole(b"new".into()));
    }
}
