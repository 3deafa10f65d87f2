//! Planned silence: for whom no alarm is to be raised, and until when.
//!
//! A selector is one or more terms with commas between them; all must hold:
//!
//! ```text
//!   web-1            the peer of this name        group=web        those of a group
//!   web-*            names that match             rack=r7          those with a label
//!   name=a=b         a name with an `=` in it     group=web,rack=r7
//! ```
//!
//! `*` stands for any characters and `?` for one, in all of them. A silence changes no verdict: its
//! peers are called down as ever, and the transitions are marked as silenced. Only incidents are not
//! raised, and whoever alerts can leave them out.
//!
//! Sans-IO: the time is an argument. Bounds: [`MOST_SILENCES`] at once, and those below on each.

use crate::wire::Profile;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use wildmatch::WildMatch;

/// Most silences at once.
pub const MOST_SILENCES: usize = 1_024;
/// Most bytes of a selector.
pub const MOST_SELECTOR: usize = 512;
/// Most terms of a selector.
pub const MOST_TERMS: usize = 16;
/// Most bytes of a reason.
pub const MOST_REASON: usize = 256;
/// The shortest silence, nanoseconds.
pub const SHORTEST_NS: u64 = 1_000_000_000;
/// The longest silence, nanoseconds: a year.
pub const LONGEST_NS: u64 = 366 * 86_400 * 1_000_000_000;

/// Why a silence is not to be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SilenceError {
    /// There is nothing in the selector, or in one of its terms.
    #[error("`{0}` selects nobody; give a name, a pattern like web-*, group=NAME or LABEL=VALUE")]
    Empty(String),
    /// The selector is too long.
    #[error("a selector has at most 512 bytes and 16 terms; make several silences")]
    Long,
    /// The reason is too long.
    #[error("a reason has at most 256 bytes")]
    Reason,
    /// It would be too short or too long.
    #[error("a silence lasts from 1 s to 366 days")]
    Duration,
    /// There are too many.
    #[error("there are 1,024 silences already; end one first")]
    Full,
    /// Nobody would keep it.
    #[error("the monitor is ending; ask the one that comes after it")]
    Ending,
}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Name(WildMatch),
    Group(WildMatch),
    Label(String, WildMatch),
}

/// Whom a silence is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Selector {
    text: String,
    terms: Vec<Term>,
}

impl FromStr for Selector {
    type Err = SilenceError;

    fn from_str(text: &str) -> Result<Selector, SilenceError> {
        if text.len() > MOST_SELECTOR || text.split(',').count() > MOST_TERMS {
            return Err(SilenceError::Long);
        }
        let term = |text: &str| {
            let text = text.trim();
            let term = match text.split_once('=') {
                None => Term::Name(WildMatch::new(text)),
                Some(("name", name)) => Term::Name(WildMatch::new(name)),
                Some(("group", group)) => Term::Group(WildMatch::new(group)),
                Some((key, value)) => Term::Label(key.into(), WildMatch::new(value)),
            };
            let empty = matches!(text, "" | "name=") || text.starts_with('=');
            if empty { Err(SilenceError::Empty(text.into())) } else { Ok(term) }
        };
        let terms = text.split(',').map(term).collect::<Result<_, _>>()?;
        Ok(Selector { text: text.trim().to_owned(), terms })
    }
}

impl TryFrom<String> for Selector {
    type Error = SilenceError;

    fn try_from(text: String) -> Result<Selector, SilenceError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.text
    }
}

impl Selector {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is for the peer with this profile.
    pub fn matches(&self, profile: &Profile<'_>) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Name(pattern) => pattern.matches(profile.name),
            Term::Group(pattern) => pattern.matches(profile.group),
            Term::Label(key, pattern) => {
                profile.labels().any(|(k, value)| k == key && pattern.matches(value))
            }
        })
    }
}

/// One silence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Its number, from 1.
    pub id: u32,
    /// For whom.
    pub selector: Selector,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, monotonic nanoseconds.
    pub from_ns: u64,
    /// Until when, monotonic nanoseconds.
    pub until_ns: u64,
}

/// All silences that hold.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Silences {
    held: Vec<Silence>,
    last_id: u32,
}

impl Silences {
    /// Adds one that holds from now on; returns its number.
    ///
    /// # Errors
    /// One of the bounds.
    pub fn add(
        &mut self,
        selector: Selector,
        now_ns: u64,
        for_ns: u64,
        reason: String,
    ) -> Result<Silence, SilenceError> {
        if !(SHORTEST_NS..=LONGEST_NS).contains(&for_ns) {
            return Err(SilenceError::Duration);
        }
        if reason.len() > MOST_REASON {
            return Err(SilenceError::Reason);
        }
        self.advance(now_ns);
        if self.held.len() >= MOST_SILENCES {
            return Err(SilenceError::Full);
        }
        self.last_id += 1;
        let until_ns = now_ns.saturating_add(for_ns);
        let silence = Silence { id: self.last_id, selector, reason, from_ns: now_ns, until_ns };
        self.held.push(silence.clone());
        Ok(silence)
    }

    /// Ends one before its time; it is returned if it held.
    pub fn end(&mut self, id: u32) -> Option<Silence> {
        let at = self.held.iter().position(|silence| silence.id == id)?;
        Some(self.held.remove(at))
    }

    /// Forgets those whose time is over.
    pub fn advance(&mut self, now_ns: u64) {
        self.held.retain(|silence| silence.until_ns > now_ns);
    }

    /// Moves their times by so much, nanoseconds: from one boot's clock to another's.
    pub fn shift(&mut self, by_ns: i64) {
        for silence in &mut self.held {
            silence.from_ns = silence.from_ns.saturating_add_signed(by_ns);
            silence.until_ns = silence.until_ns.saturating_add_signed(by_ns);
        }
    }

    /// The silence that the peer with this profile is under, the one that lasts longest.
    pub fn of(&self, profile: &Profile<'_>) -> Option<&Silence> {
        let own = self.held.iter().filter(|silence| silence.selector.matches(profile));
        own.max_by_key(|silence| silence.until_ns)
    }

    /// Changes whenever other silences hold than before.
    pub fn version(&self) -> (u32, usize) {
        // Numbers grow with each one added, and none is added without.
        (self.last_id, self.held.len())
    }

    /// All that hold, in the order of their numbers.
    pub fn all(&self) -> &[Silence] {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::profile;

    const H: u64 = 3_600_000_000_000;

    fn matches(selector: &str, name: &str, group: &str, labels: &[(&str, &str)]) -> bool {
        let profile = profile(name, group, labels);
        selector.parse::<Selector>().unwrap().matches(&profile.profile())
    }

    #[test]
    fn a_selector_is_a_name_a_pattern_a_group_a_label_or_all_of_them() {
        let labels = [("rack", "r7"), ("os", "linux")];
        for (selector, wanted) in [
            ("web-1", true),
            ("web-2", false),
            ("web", false),
            ("web-*", true),
            ("w?b-1", true),
            ("*", true),
            ("group=web", true),
            ("group=w*", true),
            ("group=db", false),
            ("group=", false),
            ("rack=r7", true),
            ("rack=r*", true),
            ("rack=*", true),
            ("row=*", false),
            ("web-*,rack=r7", true),
            ("web-*, rack=r8", false),
            ("name=web-1,os=linux,group=web", true),
        ] {
            assert_eq!(matches(selector, "web-1", "web", &labels), wanted, "{selector}");
        }
        assert!(matches("name=a=b", "a=b", "", &[]));
        assert!(matches("group=", "lonely", "", &[]), "those without a group");
    }

    #[test]
    fn what_selects_nobody_is_refused() {
        for text in ["", " ", ",", "web-1,", "name=", "=x"] {
            assert!(matches!(text.parse::<Selector>(), Err(SilenceError::Empty(_))), "{text:?}");
        }
        assert_eq!("x".repeat(513).parse::<Selector>(), Err(SilenceError::Long));
        assert_eq!(["a"; 17].join(",").parse::<Selector>(), Err(SilenceError::Long));
    }

    #[test]
    fn silences_hold_for_their_time_and_are_bounded() {
        let mut silences = Silences::default();
        let selector = |text: &str| text.parse::<Selector>().unwrap();
        let peer = profile("web-1", "web", &[]);
        let short = silences.add(selector("web-1"), H, H, "kernel".into()).unwrap();
        let long = silences.add(selector("group=web"), H, 2 * H, String::new()).unwrap();
        assert_eq!((short.id, long.id, long.until_ns), (1, 2, 3 * H));
        assert_eq!(silences.of(&peer.profile()).map(|s| s.id), Some(2), "the longest");
        silences.advance(2 * H);
        assert_eq!(silences.all().len(), 1);
        assert_eq!(silences.end(2).map(|s| s.id), Some(2));
        assert_eq!((silences.end(2), silences.of(&peer.profile())), (None, None));
        let wrong = |for_ns, reason: &str| {
            Silences::default().add(selector("x"), 0, for_ns, reason.into()).unwrap_err()
        };
        assert_eq!(wrong(0, ""), SilenceError::Duration);
        assert_eq!(wrong(LONGEST_NS + 1, ""), SilenceError::Duration);
        assert_eq!(wrong(H, &"x".repeat(257)), SilenceError::Reason);
        for _ in 0..MOST_SILENCES {
            silences.add(selector("x"), 9 * H, H, String::new()).unwrap();
        }
        assert_eq!(silences.add(selector("x"), 9 * H, H, String::new()), Err(SilenceError::Full));
        assert!(silences.add(selector("x"), 11 * H, H, String::new()).is_ok(), "those are over");
    }
}
