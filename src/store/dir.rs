//! The state directory: where it is, that it is ours, and that nobody else uses it.
//!
//! The default lies in memory (/dev/shm, else $XDG_RUNTIME_DIR) and is named after the user and the
//! first listen address: two users, or two monitors of one machine, do not share it by accident, and
//! the next monitor on the same address finds it. A monitor on a port that the system chose would
//! not be found again, and keeps no state unless it is told where.
//!
//! /dev/shm is everybody's. So a directory that is not ours, or that others may write to, is refused.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error(
        "the state in {path} is used by another monitor; stop that one, let it hand over \
         (--takeover), or give this one a --state-dir of its own", path = path.display()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to somebody else, or is open to others.
    #[error(
        "{path} is not ours alone: {what}; {remedy}, or choose another --state-dir",
        path = path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The system refuses.
    #[error(
        "cannot keep state in {path}: {call}: {source}; choose another --state-dir, or none",
        path = path.display()
    )]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StateError {
    pub(super) fn of(path: &Path, call: &'static str) -> impl FnOnce(io::Error) -> StateError {
        let path = path.to_owned();
        move |source| StateError::System { path, call, source }
    }
}

/// A state directory, held for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Where a monitor keeps its state that is not told where; `None` when it keeps none, because
    /// its port is the system's choice or there is no place in memory.
    pub fn default_path(udp: &[SocketAddr]) -> Option<PathBuf> {
        let address = udp.first().filter(|address| address.port() != 0)?;
        let address = address.to_string().replace(['[', ']'], "").replace(':', "_");
        let shared = Path::new("/dev/shm");
        if shared.is_dir() {
            // SAFETY: geteuid(2) has no preconditions.
            let user = unsafe { libc::geteuid() };
            return Some(shared.join(format!("systole-{user}-{address}")));
        }
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
        Some(own.join(format!("systole-{address}")))
    }

    /// Makes the directory if it is not there, and takes it for this process.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path) -> Result<StateDir, StateError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(StateError::of(path, "making the directory"))?;
        // Not followed: in a directory that is everybody's, a link may lead anywhere.
        let found = fs::symlink_metadata(path).map_err(StateError::of(path, "looking at it"))?;
        // SAFETY: geteuid(2) has no preconditions.
        refuse_if_shared(path, &found, unsafe { libc::geteuid() })?;
        let at = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&at)
            .map_err(StateError::of(&at, "opening"))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDir { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Taken { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StateError::of(&at, "locking")(error)),
        }
    }

    /// Whether a directory could be opened once nobody has it. Nothing is made or locked.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn foresee(path: &Path) -> Result<(), StateError> {
        let mut at = path;
        if let Ok(found) = fs::symlink_metadata(path) {
            // SAFETY: geteuid(2) has no preconditions.
            refuse_if_shared(path, &found, unsafe { libc::geteuid() })?;
        } else {
            // It will be made, in the nearest one that is there.
            while fs::metadata(at).is_err() {
                at = match at.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
            }
        }
        let text = std::ffi::CString::new(at.as_os_str().as_encoded_bytes());
        let refused = |error| StateError::of(at, "writing there")(error);
        let text = text.map_err(|error| refused(error.into()))?;
        let is_directory = at.is_dir();
        // SAFETY: a terminated path, alive through the call.
        match unsafe { libc::access(text.as_ptr(), libc::W_OK | libc::X_OK) } {
            0 if is_directory => Ok(()),
            0 => Err(refused(ErrorKind::NotADirectory.into())),
            _ => Err(refused(io::Error::last_os_error())),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether it lies in memory (tmpfs, ramfs): then no store to a mapped page waits for a disk.
    pub fn is_memory(&self) -> bool {
        const TMPFS: i64 = 0x0102_1994;
        const RAMFS: i64 = 0x8584_58F6;
        // SAFETY: all zero bytes are a value of this plain struct, which statfs(2) overwrites.
        let mut found: libc::statfs = unsafe { std::mem::zeroed() };
        let Ok(path) = std::ffi::CString::new(self.path.as_os_str().as_encoded_bytes()) else {
            return false;
        };
        // SAFETY: a terminated path and a writable struct, both alive through the call.
        let rc = unsafe { libc::statfs(path.as_ptr(), &mut found) };
        rc == 0 && [TMPFS, RAMFS].contains(&(found.f_type as i64 & 0xFFFF_FFFF))
    }
}

/// Refuses what does not belong to `user` alone. What another one owns may be the state of a monitor of
/// theirs, so nobody is told to remove it.
fn refuse_if_shared(path: &Path, found: &Metadata, user: u32) -> Result<(), StateError> {
    let owner = found.uid();
    let (what, remedy) = match () {
        () if owner != user => {
            (format!("it belongs to another user (uid {owner})"), "run as that user")
        }
        () if !found.is_dir() => ("it is no directory".into(), "move it away"),
        () if found.mode() & 0o022 != 0 => {
            ("others may write to it".into(), "`chmod go-w` it if all that is in it is yours")
        }
        () => return Ok(()),
    };
    Err(StateError::NotOurs { path: path.to_owned(), what, remedy })
}

/// This boot of the machine, by which monotonic times can be compared (random(4)); zero where the
/// system does not tell.
pub fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16).map_or([0; 16], u128::to_be_bytes)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StateError::of(path, "removing")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn one_monitor_at_a_time() {
        let temp = TempDir::new();
        let path = temp.path().join("deep/state");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::Taken { .. })));
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn whether_it_could_be_opened_is_known_before_and_nothing_is_made() {
        let temp = TempDir::new();
        let path = temp.path().join("deep/state");
        StateDir::foresee(&path).unwrap();
        assert!(!path.parent().unwrap().exists());
        let held = StateDir::open(&path).unwrap();
        StateDir::foresee(held.path()).unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        for bad in [temp.path().join("file"), temp.path().join("file/state")] {
            assert!(StateDir::foresee(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_ours_alone_is_refused() {
        let temp = TempDir::new();
        let open = temp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let link = temp.path().join("link");
        symlink(temp.path(), &link).unwrap();
        for path in [open, link] {
            assert!(matches!(StateDir::open(&path), Err(StateError::NotOurs { .. })), "{path:?}");
        }
    }

    #[test]
    fn nobody_is_told_to_remove_what_is_another_users() {
        let temp = TempDir::new();
        let found = fs::symlink_metadata(temp.path()).unwrap();
        let complaint = |user: u32| refuse_if_shared(temp.path(), &found, user);
        assert!(complaint(found.uid()).is_ok());
        assert_eq!(
            complaint(found.uid() + 1).unwrap_err().to_string(),
            format!(
                "{} is not ours alone: it belongs to another user (uid {}); run as that user, or \
                 choose another --state-dir",
                temp.path().display(),
                found.uid()
            )
        );
    }

    #[test]
    fn the_default_names_user_and_address() {
        let path = |address: &str| StateDir::default_path(&[address.parse().unwrap()]);
        assert_eq!(path("127.0.0.1:0"), None);
        let (one, other) = (path("0.0.0.0:4600").unwrap(), path("[::1]:4600").unwrap());
        assert_ne!(one, other);
        assert!(other.to_str().unwrap().ends_with("-__1_4600"), "{other:?}");
        assert_eq!(StateDir::default_path(&[]), None);
    }

    #[test]
    fn a_boot_has_an_id() {
        assert_eq!(boot_id(), boot_id());
    }
}
