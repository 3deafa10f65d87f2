//! The sections of the file: `[[group]]`, what holds for groups whose name matches, and `[[expect]]`,
//! who ought to be there.
//!
//! ```toml
//! [[group]]                     [[expect]]
//! name = "rack-*"               names = ["db-1", "db-2"]
//! missed = 5
//! parent = "switch-1"           [[expect]]
//!                               group = "web"
//!                               count = 12
//! ```
//!
//! A section has keys as the flat part of the file has: by the same names, where both have one, read
//! and refused in the same words. What a group's section does not say is as it is for everybody.
//! The first section that matches a group's name holds; sections are not mixed.
//!
//! Sections are in files only: a flag could not say of which group it speaks.

use super::layers::{Given, Origin, Texts, texts};
use super::{ConfigError, KEYS, Key, Layer, brake, closest, policy, value};
use crate::engine::Policy;
use crate::engine::brake::BrakeSettings;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Most sections of a kind.
const MOST_SECTIONS: usize = 4_096;
/// Most expectations over all sections.
const MOST_EXPECTED: usize = 100_000;

/// A kind of section.
#[derive(Debug)]
pub(super) struct Kind {
    /// As the file has it.
    pub(super) name: &'static str,
    /// Keys of its own.
    own: &'static [Key],
    /// Keys that it shares with the flat part.
    shared: &'static [&'static str],
}

const fn own(name: &'static str, allowed: &'static str) -> Key {
    Key { name, value: "", default: "", allowed, help: "", several: false }
}

const NAME: Key = own("name", "a group's name, or a pattern like rack-* (* any characters, ? one)");
const PARENT: Key = own("parent", "the name of a peer, like switch-1");
const NAMES: Key =
    Key { several: true, ..own("names", "names of peers, like [\"db-1\", \"db-2\"]") };
const GROUP: Key = own("group", "a group's name");
const COUNT: Key = own("count", "a whole number from 1 to 134217728");
const WITHIN: Key = own("within", "a duration from 1s to 90d, like 2m");

/// All kinds of sections.
pub(super) static KINDS: [Kind; 2] = [
    Kind {
        name: "group",
        own: &[NAME, PARENT],
        shared: &[
            "interval",
            "missed",
            "grace",
            "suspect-at",
            "timeout",
            "detector",
            "threshold",
            "margin",
            "deviations",
            "floor",
            "ceiling",
            "forget-down",
            "forget-left",
            "mass-silence",
            "mass-silence-least",
            "mass-silence-hold",
        ],
    },
    Kind { name: "expect", own: &[NAMES, GROUP, COUNT, WITHIN], shared: &[] },
];

/// One section: texts by key.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: &'static Kind,
    /// As people call it: `[[group]] 2 of /etc/systole.toml`.
    called: String,
    texts: Texts,
}

/// What holds for the groups whose names match.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupSettings {
    /// A name, or a pattern with `*` and `?`.
    pub name: String,
    /// How deadlines are computed.
    pub policy: Policy,
    /// When a mass silence of the group is held.
    pub brake: BrakeSettings,
    /// The name of the peers' parent.
    pub parent: Option<String>,
}

/// Who ought to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExpectSettings {
    /// A peer of this name.
    Peer {
        /// Its name.
        name: String,
        /// Missing after so long.
        within: Duration,
    },
    /// So many peers of a group.
    Group {
        /// The group's name.
        name: String,
        /// How many.
        count: u32,
        /// Missing after so long.
        within: Duration,
    },
}

impl Kind {
    fn key(&self, name: &str) -> Option<&'static Key> {
        let own = KINDS.iter().find(|kind| kind.name == self.name)?.own;
        let shared = || KEYS.iter().find(|key| key.name == name && self.shared.contains(&name));
        own.iter().find(|key| key.name == name).or_else(shared)
    }

    /// The sections that the file has under this name.
    ///
    /// # Errors
    /// They are no sections, too many, or have a key that does not belong.
    pub(super) fn read(
        &'static self,
        value: &toml::Value,
        path: &Path,
    ) -> Result<Vec<Section>, ConfigError> {
        let tables = value.as_array().filter(|all| all.iter().all(toml::Value::is_table));
        let Some(tables) = tables.filter(|tables| tables.len() <= MOST_SECTIONS) else {
            let (name, path) = (self.name, path.into());
            return Err(ConfigError::NoSections { path, name });
        };
        let one = |(i, value): (usize, &toml::Value)| {
            let called = format!("[[{}]] {} of {}", self.name, i + 1, path.display());
            let mut section = Section { kind: self, called, texts: Texts::new() };
            for (written, value) in value.as_table().into_iter().flatten() {
                section.take(written, value)?;
            }
            Ok(section)
        };
        tables.iter().enumerate().map(one).collect()
    }
}

impl Section {
    fn take(&mut self, written: &str, value: &toml::Value) -> Result<(), ConfigError> {
        let name = written.replace('_', "-");
        let Some(key) = self.kind.key(&name) else {
            let own = self.kind.own.iter().map(|key| key.name);
            let known: Vec<&str> = own.chain(self.kind.shared.iter().copied()).collect();
            return Err(ConfigError::UnknownSectionKey {
                section: self.called.clone(),
                key: written.to_owned(),
                suggestion: closest(&name, known.iter().copied()),
                known: known.join(", ").replace('-', "_"),
            });
        };
        let origin = Origin::Section(self.called.clone());
        let texts = texts(value, &origin, key)?;
        if texts.len() != 1 && !key.several {
            return Err(ConfigError::Value {
                origin: format!("{written} in {}", self.called),
                value: value.to_string(),
                problem: "is not a single value".into(),
                allowed: key.allowed,
            });
        }
        self.texts.insert(key.name, (origin, texts));
        Ok(())
    }

    /// What is given for a key; `None` when the section does not have it.
    fn given(&self, name: &str) -> Option<Given<'_>> {
        let given = self.texts.get(name)?;
        Some(Given { key: self.kind.key(name)?, given: Some(given) })
    }

    fn wrong(&self, problem: &'static str) -> ConfigError {
        ConfigError::Section { section: self.called.clone(), problem }
    }
}

/// A key's value as it holds for a group: its section's, else everybody's.
pub(super) struct Look<'a> {
    layer: &'a Layer,
    section: Option<&'a Section>,
}

impl<'a> Look<'a> {
    /// For everybody.
    pub(super) fn at(layer: &'a Layer) -> Look<'a> {
        Look { layer, section: None }
    }

    pub(super) fn given(&self, name: &str) -> Given<'a> {
        let own = self.section.and_then(|section| section.given(name));
        own.unwrap_or_else(|| self.layer.given(name))
    }
}

/// The groups' sections, resolved.
pub(super) fn groups(layer: &Layer) -> Result<Vec<GroupSettings>, ConfigError> {
    let mut named = BTreeSet::new();
    let mut one = |section: &Section| {
        let name = section.given("name").map_or(Ok(String::new()), |name| name.one(text))?;
        if name.is_empty() {
            return Err(section.wrong("has no name; give one, or a pattern like name = \"rack-*\""));
        }
        if !named.insert(name.clone()) {
            return Err(section.wrong("has the name of an earlier one; join the two"));
        }
        let parent = section.given("parent").map(|parent| parent.one(text)).transpose()?;
        let look = Look { layer, section: Some(section) };
        Ok(GroupSettings { name, policy: policy(&look)?, brake: brake(&look)?, parent })
    };
    layer.sections("group").map(&mut one).collect()
}

/// The expectations of all sections.
pub(super) fn expect(layer: &Layer) -> Result<Vec<ExpectSettings>, ConfigError> {
    let mut all = Vec::new();
    for section in layer.sections("expect") {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(90 * 86_400));
        let within = match section.given("within") {
            Some(given) => given.one(|t| value::duration(t, shortest, longest))?,
            None => Duration::from_secs(120),
        };
        let (names, count) = (section.given("names"), section.given("count"));
        match (names, section.given("group"), count) {
            (Some(names), None, None) if !names.texts().is_empty() => {
                for name in names.texts() {
                    let name = text(name).map_err(|problem| names.error(name, problem))?;
                    all.push(ExpectSettings::Peer { name, within });
                }
            }
            (None, Some(group), Some(count)) => {
                let name = group.one(text)?;
                let count = count.one(|t| value::integer(t, 1, 1 << 27))? as u32;
                all.push(ExpectSettings::Group { name, count, within });
            }
            _ => return Err(section.wrong("expects nobody; give names, or a group and a count")),
        }
        if all.len() > MOST_EXPECTED {
            return Err(
                section.wrong("makes more than 100,000 expectations; expect counts of groups")
            );
        }
    }
    Ok(all)
}

/// A name as it is.
fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
}
