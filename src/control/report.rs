//! The alarms in the words of the API: incidents, silences, expectations, quality of service.

use super::ControlState;
use super::conflicts::Conflict;
use super::events::Names;
use super::expect::Expected;
use super::figures::peer_counts;
use super::incidents::{Cause, Incident};
use super::present::{self, Now};
use super::qos::{Mistakes, Totals};
use super::silences::{Selector, Silence, SilenceError};
use super::survey::{Tally, jitter_ns};
use crate::api::{self, AlarmCounts, GroupQos, PeerDetail};
use crate::engine::groups::Scope;
use crate::engine::slot::SlotData;
use crate::engine::transition::PeerState;
use crate::metrics::Counter;
use crate::wire::PeerId;

/// Most peers with two senders in one answer.
const MOST_CONFLICTS: usize = 1_000;
/// Most expectations in one answer.
const MOST_EXPECTED: usize = 1_000;

impl ControlState {
    pub(super) fn alarm_counts(&self) -> AlarmCounts {
        let alarms = self.alarms();
        let held = alarms.incidents.open_ones().map(|incident| incident.figures);
        let held = held.filter(|figures| figures.held > 0);
        let held = held.fold(0, |sum, figures| match figures.cause {
            Cause::MassSilence(scope) => sum + self.config.groups.census(scope).suspect,
            Cause::Group(_) | Cause::Parent(_) | Cause::StillDown(_) => sum,
        });
        AlarmCounts {
            incidents: alarms.incidents.open_ones().len() as u64,
            held: held.into(),
            flapping: alarms.flapping.flapping() as u64,
            missing: alarms.expect.missing() as u64,
            silences: alarms.silences.all().len() as u64,
            in_conflict: alarms.conflicts.all().len() as u64,
            conflicts: self.count(Counter::Conflicts),
            blind_ns: self.count(Counter::BlindNs),
            deaf_ns: self.count(Counter::DeafNs),
            extended: self.count(Counter::Extended),
        }
    }

    /// The open incidents, newest first, and on request the last closed ones; and who has two senders.
    pub fn incidents(&self, with_closed: bool) -> api::Incidents {
        let now = Now::with(self.wall_offset_ns());
        let (open, closed, refused, doubled) = {
            let alarms = self.alarms();
            let incidents = &alarms.incidents;
            let open: Vec<Incident> = incidents.open_ones().rev().cloned().collect();
            let closed = incidents.closed_ones().rev().filter(|_| with_closed);
            let doubled = alarms.conflicts.all().take(MOST_CONFLICTS);
            let doubled: Vec<_> = doubled.map(|(peer, one)| (peer, in_words(&now, one))).collect();
            (open, closed.cloned().collect::<Vec<_>>(), incidents.refused(), doubled)
        };
        let named = |(peer, conflict)| api::PeerConflict { peer: self.name_of(peer), conflict };
        let conflicts = doubled.into_iter().map(named).collect();
        let all = |some: Vec<Incident>| some.iter().map(|one| self.incident(&now, one)).collect();
        let time = now.stamp(now.monotonic_ns);
        api::Incidents { time, open: all(open), closed: all(closed), refused, conflicts }
    }

    fn incident(&self, now: &Now, incident: &Incident) -> api::Incident {
        let names = match incident.figures.cause {
            Cause::Group(group)
            | Cause::StillDown(group)
            | Cause::MassSilence(Scope::Group(group)) => Names::new(None, &self.groups.name(group)),
            Cause::Parent(parent) => match &incident.parent_name {
                Some(name) => Names::new(Some(name), ""),
                None => self.names_of_peer(Some(parent)),
            },
            Cause::MassSilence(Scope::Fleet) => Names::default(),
        };
        let name = |&peer: &PeerId| {
            let names = self.names_of_peer(Some(peer));
            names.name().map_or_else(|| peer.to_string(), String::from)
        };
        let first = incident.first.iter().map(name).collect();
        api::Incident { first, ..present::incident(now, &incident.figures, &names) }
    }

    /// The silences that hold.
    pub fn silences(&self) -> api::Silences {
        let now = Now::with(self.wall_offset_ns());
        let mut alarms = self.alarms();
        alarms.silences.advance(now.monotonic_ns);
        let all = alarms.silences.all().iter();
        api::Silences { silences: all.map(|silence| silence_in_words(&now, silence)).collect() }
    }

    /// Silences a selector from now on, and waits until that is kept where state is; the answer
    /// says if that failed.
    ///
    /// # Errors
    /// It is none, or one of the bounds; or the monitor is ending.
    pub fn silence(&self, new: api::NewSilence) -> Result<api::Silence, SilenceError> {
        let selector: Selector = new.selector.parse()?;
        let now = Now::with(self.wall_offset_ns());
        let mut file = self.silences_file();
        file.check()?;
        let (added, all) = {
            let silences = &mut self.alarms().silences;
            let added = silences.add(selector, now.monotonic_ns, new.for_ns, new.reason)?;
            (added, silences.clone())
        };
        let unkept = !file.keep(&all);
        drop(file);
        // It holds by now: nothing is locked while the fleet is gone through.
        let mut matches = 0;
        self.registry.for_each(&mut |_, profile| {
            matches += u64::from(added.selector.matches(&profile.profile()));
        });
        Ok(api::Silence { matches: Some(matches), unkept, ..silence_in_words(&now, &added) })
    }

    /// Ends a silence, and waits as above; it is returned if it held.
    ///
    /// # Errors
    /// The monitor is ending.
    pub fn end_silence(&self, id: u32) -> Result<Option<api::Silence>, SilenceError> {
        let now = Now::with(self.wall_offset_ns());
        let mut file = self.silences_file();
        file.check()?;
        let (ended, all) = {
            let silences = &mut self.alarms().silences;
            (silences.end(id), silences.clone())
        };
        let unkept = ended.is_some() && !file.keep(&all);
        Ok(ended.map(|silence| api::Silence { unkept, ..silence_in_words(&now, &silence) }))
    }

    /// Who is missing, or all who are expected.
    pub fn expected(&self, all: bool) -> api::Expectations {
        let alarms = self.alarms();
        let wanted = alarms.expect.all().filter(|one| all || one.missing).take(MOST_EXPECTED);
        let in_words = |standing: super::expect::Standing<'_>| {
            let (peer, group, wanted) = match standing.what {
                Expected::Peer(name) => (name.clone(), String::new(), 1),
                Expected::Group { name, count } => (String::new(), name.clone(), *count),
            };
            let (known, missing) = (standing.known, standing.missing);
            api::Expected { peer, group, wanted, known, missing }
        };
        api::Expectations {
            total: alarms.expect.len() as u64,
            missing: alarms.expect.missing() as u64,
            expected: wanted.map(in_words).collect(),
        }
    }

    /// The quality of service of the fleet, and of one group or the `most` largest.
    pub fn qos(&self, group: Option<&str>, most: usize) -> api::QosReport {
        let tallies = self.tallies.all();
        let mut fleet = Tally::default();
        tallies.iter().for_each(|tally| fleet.add(tally));
        let mut numbers: Vec<u16> = match group {
            Some(name) => self.groups.number(name).into_iter().collect(),
            None => (0..tallies.len() as u16).collect(),
        };
        let tally = |number: &u16| tallies.get(*number as usize).copied().unwrap_or_default();
        numbers.retain(|number| tally(number).known() > 0);
        numbers.sort_by_key(|number| (std::cmp::Reverse(tally(number).known()), *number));
        let groups_total = numbers.len() as u64;
        numbers.truncate(most);
        let alarms = self.alarms();
        let one = |number: &u16| GroupQos {
            group: self.groups.name(*number).to_string(),
            peers: peer_counts(|state| tally(number).of(state).into()),
            qos: totals_in_words(&alarms.qos.group(*number), &tally(number)),
        };
        api::QosReport {
            fleet: totals_in_words(&alarms.qos.fleet(), &fleet),
            groups: numbers.iter().map(one).collect(),
            groups_total,
        }
    }

    /// A peer's name; its id in hex while that is unknown.
    fn name_of(&self, peer: PeerId) -> String {
        let name = self.registry.with(peer, |profile| Some(profile?.name.to_owned()));
        name.unwrap_or_else(|| peer.to_string())
    }

    /// Adds to a peer's detail what the alarms know of it.
    pub(super) fn add_alarms(&self, detail: &mut PeerDetail, slot: &SlotData, now: &Now) {
        let (parent, silence_of) = self.registry.with(slot.peer, |profile| {
            let profile = profile.as_ref();
            let parent = profile.and_then(|p| self.groups.parent_of(p)).map(String::from);
            (parent, profile.map(crate::wire::OwnedProfile::of))
        });
        let named = parent.map(|name| (PeerId::of(&name), name));
        let name_of = |peer: PeerId| (peer, self.name_of(peer));
        let parent = named.or_else(|| self.groups.learnt_parent(slot).map(name_of));
        detail.parent = parent.map(|(peer, name)| {
            let slot = self.slot_of(peer);
            api::Parent {
                name,
                state: slot.as_ref().map_or("unknown", |slot| slot.state.as_str()).into(),
                since: slot.map(|slot| now.stamp(slot.since_ns)),
            }
        });
        let alarms = self.alarms();
        let silence = silence_of.as_ref().and_then(|p| alarms.silences.of(&p.profile()));
        detail.silence = silence.map(|silence| silence_in_words(now, silence));
        detail.summary.flapping = alarms.flapping.is_flapping(slot.peer);
        detail.conflict = alarms.conflicts.of(slot.peer).map(|one| in_words(now, one));
        detail.incident = alarms.incidents.of(slot.peer);
        let alive_ns = match slot.state {
            PeerState::Up | PeerState::Suspect => now.monotonic_ns,
            _ => slot.last_seen_ns,
        };
        let wrong = alarms.qos.peer(slot.peer);
        let known_ns = alive_ns.saturating_sub(slot.first_seen_ns);
        let all = slot.heartbeats as u64 + u64::from(slot.gaps);
        let detector = &self.config.groups.policy(slot.group).detector;
        detail.qos = api::Qos {
            loss: if all == 0 { 0.0 } else { f64::from(slot.gaps) / all as f64 },
            jitter_ns: jitter_ns(detector, &slot.arrivals).map(|ns| ns as u64),
            detection_time_ns: Some(detail.timeout_ns),
            ..mistakes_in_words(&wrong, known_ns.saturating_sub(wrong.mistake_ns) as f64)
        };
    }
}

fn in_words(now: &Now, conflict: &Conflict) -> api::Conflict {
    api::Conflict {
        began: now.stamp(conflict.began_ns),
        seen: now.stamp(conflict.seen_ns),
        incarnations: conflict.incarnations.clone(),
    }
}

/// What a row of the metrics is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scoped {
    /// The whole fleet.
    Fleet,
    /// A group; peers without one are in the nameless group.
    Group(String),
    /// All groups that have no row of their own.
    Other,
}

/// A row of the metrics: raw sums.
#[derive(Clone, PartialEq, Debug)]
pub struct QualityRow {
    /// What it is about.
    pub label: Scoped,
    /// Of its verdicts.
    pub totals: Totals,
    /// Of its peers.
    pub tally: Tally,
}

impl ControlState {
    /// The fleet, the largest groups, and the others in sum: rows for the metrics. A group whose place
    /// is taken by a larger one goes over to the others with all that it has counted.
    pub fn quality_rows(&self) -> Vec<QualityRow> {
        let tallies = self.tallies.all();
        let mut numbers: Vec<u16> = (0..tallies.len() as u16).collect();
        numbers.retain(|number| tallies[*number as usize].known() > 0);
        numbers.sort_by_key(|n| (std::cmp::Reverse(tallies[*n as usize].known()), *n));
        let own = numbers.len().min(self.config.metrics_groups);
        let mut fleet = Tally::default();
        tallies.iter().for_each(|tally| fleet.add(tally));
        let alarms = self.alarms();
        let qos = &alarms.qos;
        let mut rows = vec![QualityRow { label: Scoped::Fleet, totals: qos.fleet(), tally: fleet }];
        rows.extend(numbers[..own].iter().map(|&number| QualityRow {
            label: Scoped::Group(self.groups.name(number).to_string()),
            totals: qos.group(number),
            tally: tallies[number as usize],
        }));
        if numbers.len() > own {
            let mut other = QualityRow {
                label: Scoped::Other,
                totals: Totals::default(),
                tally: Tally::default(),
            };
            for &number in &numbers[own..] {
                other.totals.add(&qos.group(number));
                other.tally.add(&tallies[number as usize]);
            }
            rows.push(other);
        }
        rows
    }
}

fn silence_in_words(now: &Now, silence: &Silence) -> api::Silence {
    api::Silence {
        id: silence.id,
        selector: silence.selector.text().into(),
        reason: silence.reason.clone(),
        from: now.stamp(silence.from_ns),
        until: now.stamp(silence.until_ns),
        left_ns: silence.until_ns.saturating_sub(now.monotonic_ns),
        matches: None,
        unkept: false,
    }
}

fn mistakes_in_words(wrong: &Mistakes, watched_ns: f64) -> api::Qos {
    let figures = wrong.figures(watched_ns);
    let mean = |sum: u64, n: u64| (n > 0).then(|| sum / n);
    api::Qos {
        watched_ns: watched_ns as u64,
        mistakes: wrong.mistakes,
        mistake_rate: figures.mistake_rate,
        mistake_recurrence_ns: figures.recurrence_ns.map(|ns| ns as u64),
        mistake_duration_ns: figures.duration_ns.map(|ns| ns as u64),
        query_accuracy: figures.accuracy,
        wrong_suspicions: wrong.suspicions,
        suspicion_duration_ns: mean(wrong.suspicion_ns, wrong.suspicions),
        ..api::Qos::default()
    }
}

fn totals_in_words(totals: &Totals, tally: &Tally) -> api::Qos {
    let any = totals.detections > 0;
    api::Qos {
        detections: totals.detections,
        detection_time_ns: any.then(|| totals.detection_ns / totals.detections),
        detection_time_max_ns: any.then_some(totals.detection_max_ns),
        loss: tally.loss(),
        jitter_ns: tally.jitter_ns().map(|ns| ns as u64),
        ..mistakes_in_words(&totals.wrong, totals.watched_ns)
    }
}
