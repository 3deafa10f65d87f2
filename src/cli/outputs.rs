//! The files that a command writes when it is done.
//!
//! Whether it may is asked first of all: a command that finds out at its end has worked for nothing,
//! and one that writes over what it reads has destroyed it. Files are the same when they are one in
//! the file system, by whichever name or link.

use super::Failure;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Checks that each output, given with the option that names it, can be written, and is neither one of
/// the inputs nor another output. Nothing is changed by it.
///
/// # Errors
/// One cannot, or is (exit code 2).
pub fn check(inputs: &[&Path], outputs: &[(&str, &Path)]) -> Result<(), Failure> {
    for (at, (option, path)) in outputs.iter().enumerate() {
        let place = place(path);
        let same = |other: &Path| place.is_some() && place == self::place(other);
        if let Some(input) = inputs.iter().find(|input| same(input)) {
            return Err(Failure::usage(format!(
                "{option} {} would write over {}, which is read; name another file",
                path.display(),
                input.display()
            )));
        }
        if let Some((other, _)) = outputs[..at].iter().find(|(_, other)| same(other)) {
            return Err(Failure::usage(format!(
                "{other} and {option} name the same file, {}; name two",
                path.display()
            )));
        }
        can_write(path).map_err(|error| cannot(option, path, &error))?;
    }
    Ok(())
}

/// Writes a file, in place of what it held.
///
/// # Errors
/// It cannot be written (exit code 1).
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::failed(problem(path, &error)))
}

/// An output that is given with this option cannot be written (exit code 2).
pub fn cannot(option: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{option}: {}", problem(path, error)))
}

fn problem(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// What tells a file from all others: itself, or where it will be.
#[derive(PartialEq, Eq)]
enum Place {
    There { device: u64, inode: u64 },
    New { device: u64, directory: u64, name: OsString },
}

/// Where a file is. `None` for what holds nothing, as a terminal or /dev/null, and what cannot be.
fn place(path: &Path) -> Option<Place> {
    if let Ok(found) = fs::metadata(path) {
        let holds = !found.file_type().is_char_device();
        return holds.then(|| Place::There { device: found.dev(), inode: found.ino() });
    }
    let path = behind_links(path);
    let directory = match path.parent()? {
        parent if parent.as_os_str().is_empty() => fs::metadata("."),
        parent => fs::metadata(parent),
    };
    let (directory, name) = (directory.ok()?, path.file_name()?.to_owned());
    Some(Place::New { device: directory.dev(), directory: directory.ino(), name })
}

/// Where links to a file that is not there lead.
fn behind_links(path: &Path) -> PathBuf {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        // A target that is absolute stands for itself.
        path = path.parent().map_or_else(|| target.clone(), |parent| parent.join(&target));
    }
    path
}

/// Whether a file can be written. Only the attempt can tell; a file that it made is removed again.
fn can_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        // A pipe may be waiting for its reader, and so would we.
        Ok(found) if !(found.is_file() || found.is_dir()) => return Ok(()),
        Ok(_) => return OpenOptions::new().write(true).open(path).map(drop),
        Err(_) => {}
    }
    let path = behind_links(path);
    File::create_new(&path)?;
    fs::remove_file(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory of this test's own, gone with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path =
                std::env::temp_dir().join(format!("systole-{}-outputs-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }

        fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_the_same_by_every_name() {
        let directory = Directory::new("same");
        let (trace, hard, soft) = (directory.join("t"), directory.join("h"), directory.join("s"));
        fs::write(&trace, "what is read").unwrap();
        fs::hard_link(&trace, &hard).unwrap();
        symlink("t", &soft).unwrap();
        let around = directory.0.join("..").join(directory.0.file_name().unwrap()).join("t");
        for output in [&trace, &hard, &soft, &around] {
            let refused = check(&[&trace], &[("--csv", output)]).unwrap_err();
            assert_eq!(refused.code(), 2);
            assert!(refused.to_string().contains("would write over"), "{refused}");
        }
        assert_eq!(fs::read_to_string(&trace).unwrap(), "what is read");
    }

    #[test]
    fn two_outputs_are_two_files_even_when_neither_is_there() {
        let directory = Directory::new("two");
        let (one, other, link) = (directory.join("1"), directory.join("2"), directory.join("l"));
        symlink("1", &link).unwrap();
        for twin in [&one, &link] {
            let refused = check(&[], &[("--csv", &one), ("--svg", twin)]).unwrap_err();
            assert!(refused.to_string().contains("name the same file"), "{refused}");
        }
        check(&[], &[("--csv", &one), ("--svg", &other)]).unwrap();
        check(&[], &[("--csv", Path::new("/dev/null")), ("--svg", Path::new("/dev/null"))])
            .unwrap();
        assert!(!one.exists() && !other.exists(), "a check leaves nothing behind");
    }

    #[test]
    fn what_cannot_be_written_is_said_before() {
        let directory = Directory::new("cannot");
        for path in [directory.join("none").join("file"), directory.0.clone()] {
            let refused = check(&[], &[("--json", &path)]).unwrap_err();
            assert_eq!(refused.code(), 2);
            assert!(refused.to_string().starts_with("--json: cannot write /"), "{refused}");
        }
    }
}
