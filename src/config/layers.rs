//! Where settings come from: flags, environment, file; each a layer of texts with their origin.

use super::sections::{self, Section};
use super::{ConfigError, KEYS, Key};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a text was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag,
    Env,
    File(PathBuf),
    /// A section of the file, as people call it.
    Section(String),
}

/// Texts by key, with their origin.
pub(super) type Texts = BTreeMap<&'static str, (Origin, Vec<String>)>;

/// Texts by key. Stronger layers are filled up from weaker ones.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    texts: Texts,
    /// Only a file has sections.
    sections: Vec<Section>,
}

impl Layer {
    /// What was given as flags: key name and values.
    pub fn from_flags(flags: impl IntoIterator<Item = (&'static Key, Vec<String>)>) -> Layer {
        let given = flags.into_iter().map(|(key, texts)| (key.name, (Origin::Flag, texts)));
        Layer { texts: given.collect(), sections: Vec::new() }
    }

    /// What the environment says. An empty variable counts as not set: compose files leave such.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Layer {
        let given = KEYS.iter().filter_map(|key| {
            let text = env(&key.variable()).filter(|text| !text.is_empty())?;
            Some((key.name, (Origin::Env, vec![text])))
        });
        Layer { texts: given.collect(), sections: Vec::new() }
    }

    /// What a TOML file says.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, or has a key or a type that does not belong.
    pub fn from_file(path: &Path) -> Result<Layer, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.into(), cause })?;
        Self::from_toml(&text, path)
    }

    /// As [`Layer::from_file`], from the file's text; `path` is for messages.
    ///
    /// # Errors
    /// As there.
    pub fn from_toml(text: &str, path: &Path) -> Result<Layer, ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let (line, problem) = syntax(text, &error);
            ConfigError::Syntax { path: path.into(), line, problem }
        })?;
        let mut layer = Layer::default();
        for (written, value) in table {
            if let Some(kind) = sections::SECTIONS.iter().find(|kind| kind.name == written) {
                layer.sections.extend(kind.read(&value, path)?);
                continue;
            }
            let name = written.replace('_', "-");
            // A file that names a file would need rules for who wins; no.
            let known = KEYS.iter().filter(|key| key.name != "config");
            let Some(key) = known.clone().find(|key| key.name == name) else {
                if sections::look_like(&value) {
                    return Err(sections::unknown(written, &value, path));
                }
                let home = sections::home_of(&name);
                let suggestion = closest(&name, known.map(|key| key.name));
                let (path, key) = (path.into(), written);
                return Err(ConfigError::UnknownKey { path, key, home, suggestion });
            };
            let origin = Origin::File(path.into());
            let texts = texts(&value, &origin, key)?;
            layer.texts.insert(key.name, (origin, texts));
        }
        Ok(layer)
    }

    /// Takes over what this layer does not have.
    pub fn fill_from(&mut self, weaker: Layer) {
        for (name, given) in weaker.texts {
            self.texts.entry(name).or_insert(given);
        }
        self.sections.extend(weaker.sections);
    }

    /// The first text given for a key; `None` when only its default holds.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name)?.1.first().map(String::as_str)
    }

    /// A key's texts with their origin, or its default.
    pub(super) fn given(&self, name: &str) -> Given<'_> {
        let key = KEYS.iter().find(|key| key.name == name);
        let key = key.expect("settings are resolved from keys of the table");
        Given { key, given: self.texts.get(name) }
    }

    /// The sections of a kind, in their order.
    pub(super) fn sections(&self, kind: &str) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(move |section| section.kind.name == kind)
    }
}

impl Origin {
    fn describe(&self, key: &Key) -> String {
        match self {
            Origin::Flag => format!("--{}", key.name),
            Origin::Env => key.variable(),
            Origin::File(path) => format!("{} in {}", key.name.replace('-', "_"), path.display()),
            Origin::Section(section) => format!("{} in {section}", key.name.replace('-', "_")),
        }
    }
}

/// A key with what was given for it.
pub(super) struct Given<'a> {
    pub(super) key: &'static Key,
    pub(super) given: Option<&'a (Origin, Vec<String>)>,
}

impl Given<'_> {
    pub(super) fn is_default(&self) -> bool {
        self.given.is_none()
    }

    /// Its one value. A flag given twice counts by its last, as everywhere.
    pub(super) fn one<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let text = match self.given {
            None => self.key.default,
            Some((_, texts)) => texts.last().map_or("", String::as_str),
        };
        parse(text.trim()).map_err(|problem| self.error(text, problem))
    }

    /// All its values; at least one.
    pub(super) fn each<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let texts: Vec<&str> = match self.given {
            None => vec![self.key.default],
            Some((_, texts)) => texts.iter().map(String::as_str).collect(),
        };
        let parts = texts.iter().flat_map(|text| text.split(','));
        let values: Vec<T> = parts
            .map(|part| parse(part.trim()).map_err(|problem| self.error(part, problem)))
            .collect::<Result<_, _>>()?;
        if values.is_empty() {
            return Err(self.error("[]", "is empty".into()));
        }
        Ok(values)
    }

    /// All its values as they are, commas and all.
    pub(super) fn texts(&self) -> &[String] {
        self.given.map_or(&[], |(_, texts)| texts)
    }

    pub(super) fn error(&self, value: &str, problem: String) -> ConfigError {
        let (origin, value) = (self.origin(), value.to_owned());
        ConfigError::Value { origin, value, problem, allowed: self.key.allowed }
    }

    /// The complaint about a value that is right, and has no effect.
    pub(super) fn unused(&self, why: String) -> ConfigError {
        let value = self.texts().last().cloned().unwrap_or_default();
        ConfigError::Unused { origin: self.origin(), value, why }
    }

    fn origin(&self) -> String {
        match self.given {
            None => format!("default of --{}", self.key.name),
            Some((origin, _)) => origin.describe(self.key),
        }
    }
}

/// A TOML value as the text that a flag would have.
///
/// # Errors
/// No flag can say it.
pub(super) fn texts(
    value: &toml::Value,
    origin: &Origin,
    key: &'static Key,
) -> Result<Vec<String>, ConfigError> {
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(x) => Some(x.to_string()),
        _ => None,
    };
    let texts = match value {
        toml::Value::Array(items) => items.iter().map(one).collect(),
        single => one(single).map(|text| vec![text]),
    };
    texts.ok_or_else(|| ConfigError::Value {
        origin: origin.describe(key),
        value: value.to_string().trim().to_owned(),
        problem: format!("is of type {}, not text or a number", value.type_str()),
        allowed: key.allowed,
    })
}

/// The line (from 1) on which the TOML parser stopped, and why. Not its own words in full: they quote
/// the line, secret and all.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> (usize, String) {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
    (line, error.message().lines().next().unwrap_or("is not TOML").to_owned())
}

/// The known word nearest to `word`, if a few slips of the finger explain the difference.
pub fn closest(word: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let ranked = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (slips, candidate) = ranked.min()?;
    (slips <= 1 + word.chars().count() / 4).then_some(candidate)
}

/// Levenshtein distance with transpositions of neighbours counted as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitute.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}
