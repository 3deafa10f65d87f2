//! The places file: which group and which parent has which number, as they were given.
//!
//! ```text
//!   systole places 1 fixed@1000000           its version, and which detector holds for whom
//!   g web                                    the first group, number 1
//!   p efcdab8967452301                       the first parent, number 1
//!   g db                                     the second group, number 2
//!   d blend@1000000                          another detector from here on
//! ```
//!
//! Slots hold numbers, so the numbers must mean the same in the next process: a peer that was judged
//! by its group's policy is judged by it from the first moment on, before its name is read. What a
//! detector has learnt means nothing to another one, hence the first line. Where another one is to hold
//! it says nobody's, until what was learnt has been forgotten ([`Unsettled`]): a start may come to nothing.
//!
//! Lines of text, because there are few and people may look. A line is written before its number is
//! used. What is no line of these ends the reading; the file is written anew at each start.

use super::dir::StateError;
use crate::wire::PeerId;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "places";
const FILE_NEW: &str = "places.new";
const FIRST: &str = "systole places 1 ";
/// Which detector holds while that is being changed.
const NOBODYS: &str = "-";

/// What the process before had given numbers to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// The groups' names, from number 1 on.
    pub groups: Vec<String>,
    /// The parents, from number 1 on.
    pub parents: Vec<PeerId>,
    /// Whether the same detectors held for the same groups.
    pub same_detectors: bool,
}

/// What is still to be written of the file: that other detectors hold from now on.
#[derive(Debug)]
#[must_use]
pub struct Unsettled {
    path: PathBuf,
    file: File,
    line: String,
}

impl Unsettled {
    /// What was learnt by others has been forgotten.
    ///
    /// # Errors
    /// The system refuses; then what is learnt from here on is forgotten at the next start, too.
    pub fn settle(mut self) -> Result<(), StateError> {
        let written = self.file.write_all(self.line.as_bytes());
        written.map_err(StateError::of(&self.path, "writing"))
    }
}

/// The file, for its one writer.
#[derive(Debug)]
pub struct PlacesFile {
    path: PathBuf,
    file: File,
    complained: bool,
}

impl PlacesFile {
    /// Opens the directory's file. `detectors` is a line of text that says which detector holds for
    /// whom; what was learnt is of use only while it stays the same. If it does not, what was learnt is
    /// to be forgotten, and then to be settled.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(
        dir: &Path,
        detectors: &str,
    ) -> Result<(PlacesFile, Places, Option<Unsettled>), StateError> {
        let (path, path_new) = (dir.join(FILE), dir.join(FILE_NEW));
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(StateError::of(&path, "reading")(error)),
        };
        let places = read(&text, detectors);
        let failed = |call| StateError::of(&path_new, call);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path_new)
            .map_err(failed("opening"))?;
        let holds = if places.same_detectors { detectors } else { NOBODYS };
        let mut whole = format!("{FIRST}{holds}\n");
        places.groups.iter().for_each(|name| whole.push_str(&group_line(name)));
        places.parents.iter().for_each(|peer| whole.push_str(&parent_line(*peer)));
        file.write_all(whole.as_bytes()).map_err(failed("writing"))?;
        std::fs::rename(&path_new, &path).map_err(failed("renaming"))?;
        let unsettled = match places.same_detectors {
            true => None,
            // A copy writes on where the other has.
            false => Some(Unsettled {
                file: file.try_clone().map_err(StateError::of(&path, "opening"))?,
                path: path.clone(),
                line: detectors_line(detectors),
            }),
        };
        Ok((PlacesFile { path, file, complained: false }, places, unsettled))
    }

    /// A group was given the next number.
    pub fn group(&mut self, name: &str) {
        self.append(&group_line(name));
    }

    /// A parent was given the next number.
    pub fn parent(&mut self, peer: PeerId) {
        self.append(&parent_line(peer));
    }

    fn append(&mut self, line: &str) {
        if let Err(error) = self.file.write_all(line.as_bytes())
            && !std::mem::replace(&mut self.complained, true)
        {
            let path = self.path.display();
            tracing::warn!(%error, %path, "groups are not kept over a restart until there is room");
        }
    }
}

/// Names have no control characters (the wire sees to it), so none breaks a line.
fn group_line(name: &str) -> String {
    format!("g {name}\n")
}

fn detectors_line(detectors: &str) -> String {
    format!("d {detectors}\n")
}

fn parent_line(peer: PeerId) -> String {
    format!("p {peer}\n")
}

fn read(text: &str, detectors: &str) -> Places {
    let mut places = Places::default();
    // What does not end in a line break was not written to its end.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.split('\n');
    let Some(before) = lines.next().and_then(|line| line.strip_prefix(FIRST)) else {
        return places;
    };
    places.same_detectors = before == detectors;
    for line in lines {
        match line.split_once(' ') {
            Some(("d", holds)) => places.same_detectors = holds == detectors,
            Some(("g", name)) => places.groups.push(name.to_owned()),
            Some(("p", hex)) => match PeerId::from_hex(hex) {
                Some(peer) => places.parents.push(peer),
                None => break,
            },
            _ => break,
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, TempDir, seeds};

    #[test]
    fn numbers_mean_the_same_in_the_next_process() {
        let dir = TempDir::new();
        let (mut file, none, unsettled) = PlacesFile::open(dir.path(), "fixed").unwrap();
        assert_eq!(none, Places::default());
        file.group("web");
        unsettled.unwrap().settle().unwrap();
        file.parent(PeerId(7));
        file.group("a b");
        let open = |detectors| {
            let (_, places, unsettled) = PlacesFile::open(dir.path(), detectors).unwrap();
            assert_eq!(places.groups, ["web", "a b"]);
            assert_eq!(places.parents, [PeerId(7)]);
            assert_eq!(places.same_detectors, unsettled.is_none());
            unsettled
        };
        assert!(open("fixed").is_none() && open("fixed").is_none());
        // A start that comes to nothing may have forgotten what was learnt, or not.
        assert!(open("blend").is_some() && open("blend").is_some() && open("fixed").is_some());
        open("blend").unwrap().settle().unwrap();
        assert!(open("blend").is_none() && open("fixed").is_some());
    }

    #[test]
    fn whatever_the_file_holds_what_is_before_the_damage_is_read() {
        let whole = format!("{FIRST}x\ng a\np {}\ng b\n", PeerId(9));
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let cut = rng.below(whole.len() as u64 + 1) as usize;
            let places = read(&whole[..cut], "x");
            let lines = whole[..cut].matches('\n').count();
            let expected = [0, 0, 1, 2, 3][lines];
            let found = places.groups.len() + places.parents.len();
            assert_eq!(found, expected, "seed {seed}: cut at {cut}");
        }
        assert_eq!(read("something else\ng a\n", "x"), Places::default());
        assert_eq!(read(&format!("{FIRST}x\ng a\nnonsense\ng b\n"), "x").groups, ["a"]);
    }
}
