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
pub struct Kind {
    /// As the file has it.
    pub name: &'static str,
    /// What it is for, in a line.
    pub help: &'static str,
    /// One of them, as the file would have it.
    pub example: &'static str,
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
const GROUP: Key = own("group", "the name of one group, without * and ?");
const COUNT: Key = own("count", "a whole number from 1 to 134217728");
const WITHIN: Key = own("within", "a duration from 1s to 90d, like 2m");

/// All kinds of sections.
pub static SECTIONS: [Kind; 2] = [
    Kind {
        name: "group",
        help: "what differs for groups whose name matches; the first section that matches holds",
        example: "name = \"rack-*\", missed = 5, floor = \"2s\", parent = \"switch-1\"",
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
    Kind {
        name: "expect",
        help: "who ought to be there, and is reported as missing otherwise",
        example: "names = [\"db-1\", \"db-2\"], or group = \"web\" and count = 12; within = \"5m\"",
        own: &[NAMES, GROUP, COUNT, WITHIN],
        shared: &[],
    },
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

/// Whether a value is a section or several, whatever their name.
pub(super) fn look_like(value: &toml::Value) -> bool {
    match value {
        toml::Value::Table(_) => true,
        toml::Value::Array(all) => !all.is_empty() && all.iter().all(toml::Value::is_table),
        _ => false,
    }
}

/// The complaint about sections of a kind that does not exist.
pub(super) fn unknown(name: String, value: &toml::Value, path: &Path) -> ConfigError {
    let suggestion = closest(&name, SECTIONS.iter().map(|kind| kind.name));
    let known: Vec<String> = SECTIONS.iter().map(|kind| format!("[[{}]]", kind.name)).collect();
    let written = if value.is_table() { format!("[{name}]") } else { format!("[[{name}]]") };
    let path = path.into();
    ConfigError::UnknownSection { path, written, suggestion, known: known.join(", ") }
}

/// The kind of section that has a key of this name to itself.
pub(super) fn home_of(key: &str) -> Option<&'static str> {
    let has = |kind: &&Kind| kind.own.iter().any(|own| own.name == key);
    SECTIONS.iter().find(has).map(|kind| kind.name)
}

impl Kind {
    /// The names of its keys, as the file has them.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let own = self.own.iter().map(|key| key.name);
        own.chain(self.shared.iter().copied()).map(|name| name.replace('-', "_"))
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        let own = SECTIONS.iter().find(|kind| kind.name == self.name)?.own;
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
                general: KEYS.iter().any(|key| key.name == name),
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

    fn has(&self, name: &str) -> bool {
        self.texts.contains_key(name)
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

    /// What is given for a key here itself: in the section, or for everybody.
    pub(super) fn own(&self, name: &str) -> Option<Given<'a>> {
        match self.section {
            Some(section) => section.given(name),
            None => Some(self.layer.given(name)).filter(|given| !given.is_default()),
        }
    }
}

/// The keys' values as they hold for each of the groups' sections, in their order.
pub(super) fn looks(layer: &Layer) -> impl Iterator<Item = Look<'_>> {
    layer.sections("group").map(|section| Look { layer, section: Some(section) })
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
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    for section in layer.sections("expect") {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(90 * 86_400));
        let within = match section.given("within") {
            Some(given) => given.one(|t| value::duration(t, shortest, longest))?,
            None => Duration::from_secs(120),
        };
        let (names, group) = (section.given("names"), section.given("group"));
        match (names, group, section.given("count")) {
            (Some(names), None, None) if !names.texts().is_empty() => {
                for name in names.texts() {
                    let new = text(name).and_then(|name| once(&mut seen, ("peer", name)));
                    let name = new.map_err(|problem| names.error(name, problem))?;
                    all.push(ExpectSettings::Peer { name, within });
                }
            }
            (None, Some(group), Some(count)) => {
                let name = group.one(|t| once(&mut seen, ("group", one_group(t)?)))?;
                let count = count.one(|t| value::integer(t, 1, 1 << 27))? as u32;
                all.push(ExpectSettings::Group { name, count, within });
            }
            (None, Some(_), None) => {
                return Err(section.wrong("names a group and not how many; add count = N"));
            }
            (None, None, Some(_)) => {
                return Err(section.wrong("has a count and not of whom; add group = \"NAME\""));
            }
            (Some(_), ..) if section.texts.len() > 1 + usize::from(section.has("within")) => {
                return Err(
                    section.wrong("has names and a group or a count; make two sections of it")
                );
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

/// The name, if nobody of it is expected yet.
fn once(
    seen: &mut BTreeSet<(&'static str, String)>,
    expected: (&'static str, String),
) -> Result<String, String> {
    match seen.insert(expected.clone()) {
        true => Ok(expected.1),
        false => Err("is expected already; once is enough".into()),
    }
}

/// The name of one group. A pattern would leave open whether each or all together are meant.
fn one_group(name: &str) -> Result<String, String> {
    match name.contains(['*', '?']) {
        true => Err("is a pattern, and the count is of one group; name each group".into()),
        false => text(name),
    }
}

/// A name as it is.
fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
}
