//! `systole keygen`: makes a key, and adds it to a file that only its owner can read.

use super::{Failure, terminal};
use crate::config::keys_file;
use crate::wire::{MAX_GROUP, Profile, SECRET};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  systole keygen /etc/systole/keys                     the first key, of id 1, for every peer
  systole keygen --group web --group db keys           the next one, which speaks for two groups only
  systole keygen keys --group web --sender web.key     and a file of that key alone, for senders
  systole keygen keys --extract 3 --sender db.key      the same for a key that is there already
  systole keygen --id 7 >sender.key                    to standard output
";

const AFTER: &str = "\
A file that is not there is made with mode 0600. Keys that are in it stay as they are: an id that is \
taken is refused. The monitor takes the file with --keys (and reads it again on SIGHUP), a sender a \
file with its own key alone with `systole beat --key`: --sender writes one, and overwrites nothing. \
docs/security.md says how to change keys step by step.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct KeygenArgs {
    /// Id of the key, 1 to 255; the one after the file's highest when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    id: Option<u8>,
    /// A group that the key may speak for; may be repeated. Without it the key speaks for all.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Write the key alone to this file, too: what a sender takes with `systole beat --key`.
    #[arg(long, value_name = "FILE", requires = "file")]
    sender: Option<PathBuf>,
    /// Make no key: write this one of the file to --sender.
    #[arg(long, value_name = "N", requires = "sender", conflicts_with_all = ["id", "group"])]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    extract: Option<u8>,
    /// File to add the key to; standard output when not given.
    file: Option<PathBuf>,
}

/// Makes a key.
///
/// # Errors
/// A file that cannot be used, or an id that is taken (exit code 2).
pub fn keygen(args: KeygenArgs) -> Result<u8, Failure> {
    for group in &args.group {
        if Profile::new("name", group, &[]).is_err() {
            return Err(Failure::usage(format!(
                "--group: `{}` is no group; give at most {MAX_GROUP} bytes without control characters",
                group.escape_debug()
            )));
        }
    }
    if let (Some(id), Some(path), Some(sender)) = (args.extract, &args.file, &args.sender) {
        let key = keys_file::sender_key(path, Some(id))?;
        let groups = key.groups.unwrap_or_default();
        create(sender, &keys_file::written(id, key.key.secret(), &groups))?;
        terminal::say(&format!("systole: key {id} alone is in {}", sender.display()));
        return Ok(0);
    }
    let secret = random()?;
    let Some(path) = args.file else {
        let id = args.id.unwrap_or(1);
        let text = keys_file::written(id, &secret, &args.group);
        std::io::stdout().write_all(text.as_bytes()).map_err(|_| Failure::nobody_reads())?;
        return Ok(0);
    };
    if args.sender.as_ref() == Some(&path) {
        return Err(Failure::usage("--sender: give a file of its own, not the monitor's"));
    }
    let exists = path.exists();
    let ids: Vec<u8> = match exists {
        // An empty file, as mktemp makes one, is as good as none.
        true if std::fs::metadata(&path).is_ok_and(|about| about.len() == 0) => Vec::new(),
        true => keys_file::read(&path)?.iter().map(|key| key.key.id()).collect(),
        false => Vec::new(),
    };
    let id = match args.id {
        Some(id) if ids.contains(&id) => {
            return Err(Failure::usage(format!(
                "{} has a key {id} already, and senders may be using it; choose another --id",
                path.display()
            )));
        }
        Some(id) => id,
        None => free_id(&ids).ok_or_else(|| {
            Failure::usage(format!("{} is full: it has all 255 keys", path.display()))
        })?,
    };
    let text = keys_file::written(id, &secret, &args.group);
    // The sender's first: a file in the way must not leave a key that nobody has.
    if let Some(sender) = &args.sender {
        create(sender, &text)?;
    }
    append(&path, &text, !ids.is_empty())?;
    terminal::say(&next_steps(id, &path, &args.group, args.sender.as_deref()));
    Ok(0)
}

/// The id after the highest, or the lowest that is free.
fn free_id(taken: &[u8]) -> Option<u8> {
    let next = taken.iter().max().map_or(Some(1), |highest| highest.checked_add(1));
    next.or_else(|| (1..=u8::MAX).find(|id| !taken.contains(id)))
}

fn append(path: &Path, text: &str, apart: bool) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        // In one piece: a monitor that reads meanwhile sees a whole key or none.
        let gap = if apart { "\n" } else { "" };
        file.write_all(format!("{gap}{text}").as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| {
        Failure::usage(format!("cannot write the key to {}: {error}", path.display()))
    })
}

/// Writes a file of one key; one that is there is left alone.
fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| {
        Failure::usage(format!("--sender: cannot write a new file {}: {error}", path.display()))
    })
}

fn next_steps(id: u8, path: &Path, groups: &[String], sender: Option<&Path>) -> String {
    let path = path.display();
    let theirs = match sender {
        Some(sender) => format!("Each sender gets {} (mode 0600)", sender.display()),
        None => {
            "Each sender gets a file with this key alone (mode 0600; --sender writes one)".into()
        }
    };
    let whom = match groups {
        [] => "every peer".to_owned(),
        groups => format!("peers of {}", groups.join(", ")),
    };
    format!(
        "systole: key {id}, for {whom}, is in {path}. Next:\n\
         \x20 1. The monitor reads it: `systole serve --keys {path} --auth optional`, or SIGHUP if it runs.\n\
         \x20 2. {theirs}: `systole beat --key FILE …`.\n\
         \x20 3. When all have it: `--auth required`."
    )
}

/// Random bytes of the system.
fn random() -> Result<[u8; SECRET], Failure> {
    let mut secret = [0; SECRET];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut secret))
        .map_err(|error| Failure::failed(format!("no randomness from /dev/urandom: {error}")))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_up_and_fill_up() {
        assert_eq!(free_id(&[]), Some(1));
        assert_eq!(free_id(&[3, 1]), Some(4));
        assert_eq!(free_id(&[255, 1]), Some(2));
        assert_eq!(free_id(&(1..=255).collect::<Vec<_>>()), None);
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
