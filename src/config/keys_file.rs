//! The file of keys, of the monitor as of a sender:
//!
//! ```toml
//! [[key]]
//! id = 1
//! secret = "64 hex digits"
//! groups = ["web", "db"]      # left out: any group, or none
//! ```
//!
//! A file that everybody on the machine can read or write is refused: whoever has a secret can beat
//! in the name of everybody that it speaks for. Messages name the place and never a secret.

use super::layers::syntax;
use crate::wire::{Key, Keyring, MAX_GROUP, Profile, SECRET};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a file of keys cannot be used. The message is a whole one.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the keys in {path}: {cause}; {}", remedy(cause), path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Everybody can read or write it.
    #[error(
        "{path} is open to everybody (mode {mode:03o}), and so are its secrets: `chmod o= {path}`, \
         and make new keys if somebody may have looked", path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not TOML, or has something else in it.
    #[error(
        "{path}, line {line}: {problem}; a key is `[[key]]` with id, secret and perhaps groups",
        path = path.display()
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The first line is 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A key is wrong.
    #[error("{path}: key {id} {problem}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key's id.
        id: u64,
        /// What is wrong with it, and what is right.
        problem: String,
    },
    /// There is none.
    #[error("{path} has no keys; `systole keygen FILE` adds one", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is not clear which one is meant.
    #[error("{path} has no key {wanted}; it has {ids}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The id that was asked for.
        wanted: u8,
        /// Those that there are.
        ids: String,
    },
    /// Several keys, and nobody said which.
    #[error("{path} has several keys ({ids}); say which one with --key-id", path = path.display())]
    Several {
        /// The file.
        path: PathBuf,
        /// Their ids.
        ids: String,
    },
}

/// A key as the file has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileKey {
    /// Id and secret.
    pub key: Key,
    /// The groups that it may speak for; `None` is all.
    pub groups: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    key: Vec<WrittenKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    id: u64,
    secret: String,
    groups: Option<Vec<String>>,
}

fn remedy(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "let the group of who runs this read it (`chgrp`, `chmod 640`), and nobody else"
        }
        _ => "`systole keygen FILE` makes such a file",
    }
}

/// The keys in a file, in its order; at least one, no id twice.
///
/// # Errors
/// See [`KeysError`].
pub fn read(path: &Path) -> Result<Vec<FileKey>, KeysError> {
    let unreadable = |cause| KeysError::Unreadable { path: path.into(), cause };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the open file, so that nobody can put another one in its place in between.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(KeysError::Open { path: path.into(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    parse(&text, path)
}

/// The keys that a monitor verifies with.
///
/// # Errors
/// As [`read`].
pub fn keyring(path: &Path) -> Result<Keyring, KeysError> {
    let mut keyring = Keyring::default();
    for FileKey { key, groups } in read(path)? {
        let new = keyring.insert(key, groups.as_deref());
        debug_assert!(new, "`read` has refused an id that comes twice");
    }
    Ok(keyring)
}

/// The one key that a sender signs with: of this id, or the only one.
///
/// # Errors
/// As [`read`], and when there is no such key, or several to choose from.
pub fn sender_key(path: &Path, id: Option<u8>) -> Result<FileKey, KeysError> {
    let mut keys = read(path)?;
    let ids: Vec<String> = keys.iter().map(|key| key.key.id().to_string()).collect();
    let (path, ids) = (path.into(), ids.join(", "));
    match id {
        Some(wanted) => keys
            .into_iter()
            .find(|key| key.key.id() == wanted)
            .ok_or(KeysError::Missing { path, wanted, ids }),
        None if keys.len() == 1 => Ok(keys.remove(0)),
        None => Err(KeysError::Several { path, ids }),
    }
}

/// A key as [`read`] reads it.
pub fn written(id: u8, secret: &[u8; SECRET], groups: &[String]) -> String {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("[[key]]\nid = {id}\nsecret = \"{hex}\"\n");
    if !groups.is_empty() {
        let groups = groups.iter().map(|group| toml::Value::from(group.as_str()).to_string());
        text.push_str(&format!("groups = [{}]\n", groups.collect::<Vec<_>>().join(", ")));
    }
    text
}

fn parse(text: &str, path: &Path) -> Result<Vec<FileKey>, KeysError> {
    let file: Written = toml::from_str(text).map_err(|error: toml::de::Error| {
        let (line, problem) = syntax(text, &error);
        KeysError::Syntax { path: path.into(), line, problem }
    })?;
    if file.key.is_empty() {
        return Err(KeysError::Empty { path: path.into() });
    }
    let mut keys: Vec<FileKey> = Vec::new();
    for WrittenKey { id, secret, groups } in file.key {
        let wrong = |problem: String| KeysError::Key { path: path.into(), id, problem };
        let small = u8::try_from(id).ok().filter(|&id| id != 0);
        let small = small.ok_or_else(|| wrong("has no valid id; give 1 to 255".into()))?;
        if keys.iter().any(|key| key.key.id() == small) {
            return Err(wrong("is there twice; give each key an id of its own".into()));
        }
        let secret = secret_of(&secret)
            .ok_or_else(|| wrong(format!("has a secret that is not {} hex digits", 2 * SECRET)))?;
        for group in groups.iter().flatten() {
            if Profile::new("name", group, &[]).is_err() {
                let group = group.escape_debug();
                return Err(wrong(format!(
                    "names `{group}`, which is no group; give at most {MAX_GROUP} bytes without \
                     control characters"
                )));
            }
        }
        let key = Key::new(small, secret).expect("0 was refused above");
        keys.push(FileKey { key, groups });
    }
    Ok(keys)
}

fn secret_of(hex: &str) -> Option<[u8; SECRET]> {
    let digits = hex.len() == 2 * SECRET && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digits {
        return None;
    }
    let mut secret = [0; SECRET];
    for (byte, digits) in secret.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    const SECRET_HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    fn parsed(text: &str) -> Result<Vec<FileKey>, String> {
        let text = text.replace("SECRET", &format!("\"{SECRET_HEX}\""));
        let parsed = parse(&text, Path::new("/etc/keys"));
        parsed.map_err(|error| {
            let error = error.to_string();
            assert!(!error.contains("112233"), "it tells the secret: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
            error
        })
    }

    #[test]
    fn what_keygen_writes_is_read_back() {
        let groups = ["web".to_owned(), "a \"b\" \\ ü".to_owned()];
        let text = written(7, &[0xA5; 32], &groups) + "\n" + &written(255, &[1; 32], &[]);
        let keys = parsed(&text).unwrap();
        let key = |id, secret| Key::new(id, secret).unwrap();
        assert_eq!(keys[0], FileKey { key: key(7, [0xA5; 32]), groups: Some(groups.to_vec()) });
        assert_eq!(keys[1], FileKey { key: key(255, [1; 32]), groups: None });
    }

    #[test]
    fn each_mistake_is_named_without_the_secret() {
        for (text, expected) in [
            ("", "/etc/keys has no keys; `systole keygen FILE` adds one"),
            ("[[key]]\nid = 0\nsecret = SECRET", "/etc/keys: key 0 has no valid id; give 1 to 255"),
            ("[[key]]\nid = 256\nsecret = SECRET", "/etc/keys: key 256 has no valid id"),
            (
                "[[key]]\nid = 1\nsecret = \"0011223344\"",
                "/etc/keys: key 1 has a secret that is not 64 hex digits",
            ),
            (
                "[[key]]\nid = 1\nsecret = SECRET\n[[key]]\nid = 1\nsecret = SECRET",
                "/etc/keys: key 1 is there twice",
            ),
            ("[[key]]\nid = 1\nsecret = SECRET x", "/etc/keys, line 3: "),
            (
                "[[key]]\nid = 1\nsecret = SECRET\nsecrt = SECRET",
                "/etc/keys, line 4: unknown field",
            ),
            ("[[key]]\nid = 1", "/etc/keys, line 1: missing field `secret`"),
            (
                "[[key]]\nid = 1\nsecret = SECRET\ngroups = [\"a\\tb\"]",
                "/etc/keys: key 1 names `a\\tb`",
            ),
        ] {
            let got = parsed(text).expect_err(text);
            assert!(got.starts_with(expected), "{got}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_to_be_made_anew() {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        for (kind, says) in [(NotFound, "keygen"), (PermissionDenied, "chmod 640")] {
            let error = KeysError::Unreadable { path: "keys".into(), cause: kind.into() };
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_open_to_everybody_is_refused() {
        let path = std::env::temp_dir().join(format!("systole-keys-{}", std::process::id()));
        let text = written(1, &[3; 32], &[]) + &written(2, &[4; 32], &[]);
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        std::fs::write(&path, text).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
        assert_eq!(keyring(&path).unwrap().keys().count(), 2);
        assert_eq!(sender_key(&path, Some(2)).unwrap().key.id(), 2);
        let several = sender_key(&path, None).unwrap_err().to_string();
        assert!(several.ends_with("has several keys (1, 2); say which one with --key-id"));
        let missing = sender_key(&path, Some(3)).unwrap_err().to_string();
        assert!(missing.ends_with("has no key 3; it has 1, 2"), "{missing}");
        for (mode, open) in [(0o640, false), (0o604, true), (0o602, true), (0o400, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(matches!(read(&path), Err(KeysError::Open { .. })), open, "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        let gone = read(&path).unwrap_err().to_string();
        assert!(gone.starts_with("cannot read the keys in ") && gone.contains("keygen"), "{gone}");
    }
}
