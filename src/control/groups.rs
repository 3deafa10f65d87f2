//! The groups by name and by number, and where each peer belongs.
//!
//! Names are the senders' words, numbers the engine's: 0 is "no group", the others are given in the
//! order in which the names come up, and never change, not over a restart either where state is kept. A group's policy is
//! that of the first configured rule whose pattern its name matches, else the general one; it is set
//! before the first peer is put in the group.
//!
//! A peer's parent is the peer that its label `parent` names, else the one that its group's rule
//! names, else the relay that its beats come through, which the engine finds out. Nobody is its own
//! parent, and a label without a name declines all of them.
//!
//! Bounded: [`MOST_GROUPS`] groups, and as many parents. Peers of yet another are treated like those without
//! one, and counted; but no key is judged by that, which may well speak for the group that they name.

use crate::engine::admission::SharedGuard;
use crate::engine::brake::BrakeSettings;
use crate::engine::groups::{Groups, MAX_GROUPS, Scope};
use crate::engine::slot::SlotData;
use crate::engine::way::{LEARNT, NOBODY, number_of};
use crate::store::places::{Places, PlacesFile};
use crate::wire::{PeerId, Profile};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use wildmatch::WildMatch;

/// Most groups that have a number, the nameless one included.
pub const MOST_GROUPS: usize = MAX_GROUPS;
/// The label by which a sender names its parent.
pub const PARENT_LABEL: &str = "parent";

/// What holds for the groups whose names match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// A name or a pattern with `*` and `?`.
    pub pattern: WildMatch,
    /// The number of its policy.
    pub policy: u16,
    /// Its brake on mass silence.
    pub brake: BrakeSettings,
    /// The name of the group's parent.
    pub parent: Option<String>,
}

/// Where a peer belongs, in the engine's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Its group; 0 is none, `None` that it names one for which there is no number.
    pub group: Option<u16>,
    /// The parent that was named for it; 0 is none, [`NOBODY`] that it declines any.
    pub parent: u32,
}

#[derive(Debug, Default)]
struct Names {
    /// By number; the first is the nameless group of those without one.
    by_number: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u16>,
}

/// All groups. Written by the publisher, read by anybody.
pub struct GroupTable {
    engine: Arc<Groups>,
    guard: SharedGuard,
    /// The brake of the fleet, and of groups without a rule.
    brake: BrakeSettings,
    rules: Vec<Rule>,
    names: RwLock<Names>,
    /// The engine's numbers of the parents.
    parents: Mutex<HashMap<PeerId, u32>>,
    refused: AtomicU64,
    /// Where the numbers outlive the process.
    file: Mutex<Option<PlacesFile>>,
}

impl GroupTable {
    /// A table of the nameless group alone.
    pub fn new(engine: Arc<Groups>, brake: BrakeSettings, rules: Vec<Rule>) -> GroupTable {
        let nameless: Arc<str> = "".into();
        let names =
            Names { numbers: HashMap::from([(nameless.clone(), 0)]), by_number: vec![nameless] };
        GroupTable {
            engine,
            guard: SharedGuard::default(),
            brake,
            rules,
            names: RwLock::new(names),
            parents: Mutex::default(),
            refused: AtomicU64::new(0),
            file: Mutex::default(),
        }
    }

    /// Says by which keys the groups' peers, and those of none, may be spoken for. Before any group has a
    /// number.
    pub fn guarded(self, guard: SharedGuard) -> GroupTable {
        let groups = GroupTable { guard, ..self };
        groups.keys_changed();
        groups
    }

    /// The guard has other keys than before: tells the engine.
    pub fn keys_changed(&self) {
        let names = self.names.read().expect(UNPOISONED);
        (0..).zip(&names.by_number).for_each(|(number, name)| self.set_keys(number, name));
    }

    fn set_keys(&self, number: u16, name: &str) {
        self.engine.set_keys(number, self.guard.load().keys.admitting(name));
    }

    /// Goes on with the numbers of an earlier process, and keeps those to come.
    pub fn resume(self, places: Places, file: Option<PlacesFile>) -> GroupTable {
        places.groups.iter().for_each(|name| _ = self.enrol(name));
        places.parents.iter().for_each(|parent| _ = self.parent_number(*parent));
        *self.file.lock().expect(UNPOISONED) = file;
        self
    }

    /// A group's number, if it has one.
    pub fn number(&self, name: &str) -> Option<u16> {
        self.names.read().expect(UNPOISONED).numbers.get(name).copied()
    }

    /// A group's name; empty for number 0 and for one that was never given.
    pub fn name(&self, number: u16) -> Arc<str> {
        let names = self.names.read().expect(UNPOISONED);
        names.by_number.get(number as usize).unwrap_or(&names.by_number[0]).clone()
    }

    /// How many have a number, the nameless one included.
    pub fn count(&self) -> usize {
        self.names.read().expect(UNPOISONED).by_number.len()
    }

    /// The check of the names of the first so many: the same as long as numbers mean the same.
    pub fn check(&self, count: usize) -> u32 {
        let names = self.names.read().expect(UNPOISONED);
        let mut check = crc32fast::Hasher::new();
        for name in names.by_number.iter().take(count) {
            check.update(name.as_bytes());
            // In no name: they have no control characters.
            check.update(b"\n");
        }
        check.finalize()
    }

    /// Times that a peer was left without its group or parent because there are too many of them.
    pub fn refused(&self) -> u64 {
        // Relaxed: a count, and nothing is ordered by it.
        self.refused.load(Ordering::Relaxed)
    }

    /// Where a peer with this profile belongs; gives its group a number and a policy if it is new.
    pub fn place(&self, profile: &Profile<'_>) -> Place {
        let group = self.number(profile.group).or_else(|| self.enrol(profile.group));
        let declined = profile.labels().any(|label| label == (PARENT_LABEL, ""));
        let named = self.parent_of(profile).map(PeerId::of);
        let parent = match named.and_then(|parent| self.parent_number(parent)) {
            Some(number) => number,
            None if declined => NOBODY,
            None => 0,
        };
        Place { group, parent }
    }

    /// Gives a relay a number among the parents, for the engine to look up.
    pub fn number_relay(&self, relay: PeerId) {
        self.parent_number(relay);
    }

    /// The parent of a peer for which nobody named one: the relay that its beats come through.
    pub fn learnt_parent(&self, slot: &SlotData) -> Option<PeerId> {
        if slot.parent & LEARNT == 0 { None } else { self.engine.parent(number_of(slot.parent)) }
    }

    /// Whether somebody with this slot is behind a peer; `None` for a peer that is nobody's parent.
    pub fn children_of(&self, parent: PeerId) -> Option<impl Fn(&SlotData) -> bool> {
        let number = *self.parents.lock().expect(UNPOISONED).get(&parent)?;
        Some(move |slot: &SlotData| number_of(slot.parent) == number)
    }

    /// How many of a scope are suspect.
    pub fn suspect(&self, scope: Scope) -> u32 {
        self.engine.census(scope).suspect
    }

    /// Goes on with a hold of an earlier process that ends then, or has ended; before anybody is judged.
    pub fn resume_hold(&self, scope: Scope, until_ns: u64) {
        self.engine.resume_hold(scope, until_ns.saturating_sub(self.hold_ns(scope)));
    }

    /// Ends it if there is no reason for one any more; when the reactors have counted their peers.
    pub fn settle_hold(&self, scope: Scope, now_ns: u64) {
        self.engine.settle_hold(scope, now_ns);
    }

    /// For how long the brake holds a scope's suspects at most, nanoseconds.
    pub fn hold_ns(&self, scope: Scope) -> u64 {
        let rule = match scope {
            Scope::Fleet => None,
            Scope::Group(number) => self.rule(&self.name(number)),
        };
        rule.map_or(self.brake, |rule| rule.brake).hold_ns
    }

    /// The engine has 16,383 numbers for parents; peers of further ones have none, and are counted.
    fn parent_number(&self, parent: PeerId) -> Option<u32> {
        let mut parents = self.parents.lock().expect(UNPOISONED);
        if let Some(known) = parents.get(&parent) {
            return Some(*known);
        }
        // One at a time, under the lock, as the engine asks for.
        let number = self.engine.parent_number(parent);
        match number {
            Some(number) => {
                // Written before it is used.
                let mut file = self.file.lock().expect(UNPOISONED);
                file.iter_mut().for_each(|file| file.parent(parent));
                parents.insert(parent, number);
            }
            // Relaxed: as in `refused`.
            None => _ = self.refused.fetch_add(1, Ordering::Relaxed),
        }
        number
    }

    /// The name of a peer's parent.
    pub fn parent_of<'a>(&'a self, profile: &Profile<'a>) -> Option<&'a str> {
        let own = profile.labels().find(|(key, _)| *key == PARENT_LABEL).map(|(_, name)| name);
        let parent = own.or_else(|| self.rule(profile.group)?.parent.as_deref());
        parent.filter(|parent| !parent.is_empty() && *parent != profile.name)
    }

    fn rule(&self, group: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| !group.is_empty() && rule.pattern.matches(group))
    }

    #[cold]
    fn enrol(&self, name: &str) -> Option<u16> {
        let mut names = self.names.write().expect(UNPOISONED);
        if let Some(&number) = names.numbers.get(name) {
            return Some(number);
        }
        if names.by_number.len() >= MOST_GROUPS {
            // Relaxed: as in `refused`.
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let number = names.by_number.len() as u16;
        let mut file = self.file.lock().expect(UNPOISONED);
        file.iter_mut().for_each(|file| file.group(name));
        let name: Arc<str> = name.into();
        let rule = self.rule(&name);
        self.engine.set_policy(number, rule.map_or(0, |rule| rule.policy));
        self.engine.set_brake(number, rule.map_or(self.brake, |rule| rule.brake));
        self.set_keys(number, &name);
        names.by_number.push(name.clone());
        names.numbers.insert(name, number);
        Some(number)
    }
}

const UNPOISONED: &str = "nothing panics while it holds the names";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::profile;
    use crate::engine::Policy;
    use crate::wire::{Auth, Guard, Key, Keyring};

    fn table(rules: &[(&str, u16, Option<&str>)]) -> GroupTable {
        let rule = |(pattern, policy, parent): &(&str, u16, Option<&str>)| Rule {
            pattern: WildMatch::new(pattern),
            policy: *policy,
            brake: BrakeSettings::OFF,
            parent: parent.map(Into::into),
        };
        let policies = vec![Policy::default(); 3];
        let engine = Arc::new(Groups::new(policies, BrakeSettings::OFF));
        GroupTable::new(engine, BrakeSettings::OFF, rules.iter().map(rule).collect())
    }

    #[test]
    fn numbers_are_given_in_order_and_lead_back() {
        let groups = table(&[]);
        let place = |group: &str| groups.place(&profile("x", group, &[]).profile()).group;
        assert_eq!([place(""), place("web"), place("db"), place("web")], [0, 1, 2, 1].map(Some));
        assert_eq!((&*groups.name(2), &*groups.name(0), &*groups.name(9)), ("db", "", ""));
        assert_eq!((groups.number("db"), groups.number("ops"), groups.count()), (Some(2), None, 3));
    }

    #[test]
    fn a_groups_keys_are_those_that_the_guard_has_and_has_then() {
        let guard = |scopes: &[(u8, Option<&str>)]| {
            let mut keys = Keyring::default();
            for (id, scope) in scopes {
                let scope = scope.map(|group| vec![group.to_owned()]);
                assert!(keys.insert(Key::new(*id, [*id; 32]).unwrap(), scope.as_deref()));
            }
            Guard { auth: Auth::Required, keys }
        };
        let shared = SharedGuard::default();
        shared.store(Arc::new(guard(&[(1, None), (2, Some("web")), (200, Some("db"))])));
        let groups = table(&[]).guarded(shared.clone());
        let admitted = |group| [0, 1, 2, 200].map(|key_id| groups.engine.admits(group, key_id));
        let place = |group: &str| groups.place(&profile("x", group, &[]).profile()).group;
        assert_eq!(admitted(place("")), [true, true, false, false]);
        let (web, db) = (place("web"), place("db"));
        assert_eq!(admitted(web), [true, true, true, false]);
        assert_eq!(admitted(db), [true, true, false, true]);
        assert_eq!(admitted(None), [true; 4]);
        shared.store(Arc::new(guard(&[(1, Some("db")), (2, Some("web"))])));
        groups.keys_changed();
        assert_eq!(admitted(web), [true, false, true, false]);
        assert_eq!(admitted(db), [true, true, false, false]);
        assert_eq!(admitted(place("")), [true, false, false, false]);
    }

    #[test]
    fn a_parent_is_named_by_the_peer_or_by_its_group_and_is_another() {
        let groups = table(&[("rack-*", 1, Some("switch-1")), ("*", 2, Some("core"))]);
        let parent = |name: &str, group: &str, labels: &[(&str, &str)]| {
            let profile = profile(name, group, labels);
            groups.parent_of(&profile.profile()).map(str::to_owned)
        };
        assert_eq!(parent("web-1", "rack-7", &[]).as_deref(), Some("switch-1"));
        assert_eq!(parent("web-1", "rack-7", &[("parent", "pdu-3")]).as_deref(), Some("pdu-3"));
        assert_eq!(parent("web-1", "other", &[]).as_deref(), Some("core"));
        assert_eq!(parent("core", "other", &[]), None, "nobody is its own");
        assert_eq!(parent("web-1", "rack-7", &[("parent", "")]), None, "a peer may decline");
        assert_eq!(parent("web-1", "", &[]), None);
        let place = |labels: &[(&str, &str)]| groups.place(&profile("x", "", labels).profile());
        assert_eq!((place(&[]).parent, place(&[("parent", "")]).parent), (0, NOBODY));
    }

    #[test]
    fn one_group_too_many_is_none() {
        let groups = table(&[]);
        for i in 0..MOST_GROUPS + 3 {
            groups.place(&profile("x", &format!("g{i}"), &[]).profile());
        }
        assert_eq!((groups.count(), groups.refused()), (MOST_GROUPS, 4));
        let place = |group: &str| groups.place(&profile("x", group, &[]).profile()).group;
        assert_eq!([place("g0"), place("other"), place("")], [Some(1), None, Some(0)]);
    }
}
