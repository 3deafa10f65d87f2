//! The truth, and the monitor judged by it.
//!
//! Every sender thread keeps a [`SendLog`]: when each peer was last *really* sent for, and every
//! **silence** that came near the timeout, with its cause. Once the run is over, silences and the
//! monitor's words are laid side by side:
//!
//! ```text
//!   last send            deadline          next send
//!      |------ timeout ------|                 |        a silence this long must be found
//!                            |<-- down here -->|        anything else is a false alarm
//! ```
//!
//! When the plan silences so many at once that the monitor will hold them as suspect, being called
//! down may take as much longer as its hold lasts: whoever is held is neither missed nor blamed.
//!
//! While there is no monitor (`--across-restarts`), deadlines stand still and heartbeats are heard by
//! nobody: a silence has to be found by as much later, with time for one more heartbeat behind the
//! absence, and may be found until the first heartbeat that was heard.
//!
//! A silence about as long as the timeout (within the slop) may be found or not: whether it was
//! one is decided by microseconds that the generator does not see. A silence that the generator
//! caused by being late itself is never held against the monitor, found or not.

use crate::absence::Absences;
use std::collections::{HashMap, HashSet};

/// Why a peer was silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It was killed, for good.
    Kill,
    /// It flapped.
    Flap,
    /// Its heartbeats were lost, or came out of order, by the plan.
    Loss,
    /// The generator was late: the plan had no such gap.
    Stall,
}

/// A peer was not sent for from one instant to another, nanoseconds since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silence {
    /// Who.
    pub peer: u32,
    /// When its last sign of life was sent.
    pub from_ns: u64,
    /// When the next one was sent; `None` when there was none.
    pub until_ns: Option<u64>,
    /// Why.
    pub cause: Cause,
}

/// The bounds that the verdict is given by, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From a peer's last heartbeat to its being called down.
    pub timeout_ns: u64,
    /// How long after its deadline a silence may become visible on the event stream.
    pub slack_ns: u64,
    /// How exact the generator's own send times are.
    pub slop_ns: u64,
    /// How much earlier than its deadline a silence may be found: what was sent while there was no
    /// monitor has not been heard by any, so the monitor's count begins at a heartbeat before.
    pub early_ns: u64,
    /// What a silent peer is left at least behind an absence of the monitor: time for one more
    /// heartbeat, and for calling it down as much later as suspicion and down lie apart.
    pub one_more_ns: u64,
    /// How long after its deadline a silent peer may be held as suspect, because so many are; 0
    /// when the monitor's brake on mass silence will not be tripped.
    pub hold_ns: u64,
}

impl Rules {
    /// Rules for a timeout. The slop is 20 ms, the worst that a sender's thread is seen to be held
    /// up between taking the time and sending, or a tenth of a shorter timeout.
    pub fn new(timeout_ns: u64, slack_ns: u64) -> Rules {
        let slop_ns = (timeout_ns / 10).min(20_000_000);
        Rules { timeout_ns, slack_ns, slop_ns, early_ns: 0, one_more_ns: 0, hold_ns: 0 }
    }
}

/// What one sender thread really sent, for its share of the peers.
pub struct SendLog {
    stride: u32,
    threshold_ns: u64,
    last: Vec<Option<Sent>>,
    silences: Vec<Silence>,
}

#[derive(Clone, Copy)]
struct Sent {
    at_ns: u64,
    intended_ns: u64,
}

impl SendLog {
    /// A log for `peers` peers whose numbers are `stride` apart.
    pub fn new(rules: &Rules, peers: usize, stride: u32) -> SendLog {
        let threshold_ns = rules.timeout_ns - rules.slop_ns;
        SendLog { stride, threshold_ns, last: vec![None; peers], silences: Vec::new() }
    }

    /// A sign of life of a peer was handed to the kernel at `at_ns`. `flaps` tells whether the
    /// plan has this peer flap.
    #[inline]
    pub fn sent(&mut self, peer: u32, intended_ns: u64, at_ns: u64, flaps: bool) {
        let last = &mut self.last[(peer / self.stride) as usize];
        let before = last.replace(Sent { at_ns, intended_ns });
        if let Some(before) = before
            && at_ns - before.at_ns > self.threshold_ns
        {
            let planned = intended_ns - before.intended_ns > self.threshold_ns;
            let cause = match (planned, flaps) {
                (false, _) => Cause::Stall,
                (true, true) => Cause::Flap,
                (true, false) => Cause::Loss,
            };
            let until_ns = Some(at_ns);
            self.silences.push(Silence { peer, from_ns: before.at_ns, until_ns, cause });
        }
    }

    /// A peer was killed: its last sign of life began a silence without end. Not called for one
    /// that was never sent for.
    pub fn killed(&mut self, peer: u32) {
        if let Some(last) = self.last[(peer / self.stride) as usize] {
            let silence = Silence { peer, from_ns: last.at_ns, until_ns: None, cause: Cause::Kill };
            self.silences.push(silence);
        }
    }

    /// Which of `share`, the peers of this log in ascending order, were sent for at all.
    pub fn sent_for(&self, share: impl Iterator<Item = u32>) -> Vec<u32> {
        share.zip(&self.last).filter(|(_, last)| last.is_some()).map(|(peer, _)| peer).collect()
    }

    /// All silences.
    pub fn into_silences(self) -> Vec<Silence> {
        self.silences
    }
}

/// What the monitor said about one of our peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Who.
    pub peer: u32,
    /// What it was called.
    pub verdict: Word,
    /// When the monitor made the transition, nanoseconds since the start.
    pub at_ns: u64,
    /// When we read of it.
    pub seen_ns: u64,
    /// How late the monitor says it was.
    pub lateness_ns: u64,
}

/// The words that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// It is alive.
    Up,
    /// It is silent.
    Down,
    /// It said BYE.
    Left,
    /// It is nobody any more.
    Forgotten,
}

/// Where truth and monitor agree, and where not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Killed peers.
    pub killed: u64,
    /// Killed peers that were called down in time.
    pub detected: u64,
    /// Killed peers that were not.
    pub missed: Vec<u32>,
    /// Other planned silences that had to be found, or were.
    pub lapses: u64,
    /// Those of them that were found in time.
    pub lapses_detected: u64,
    /// Those of them that were not.
    pub lapses_missed: Vec<u32>,
    /// Called down while they were being sent for.
    pub false_alarms: Vec<u32>,
    /// Killed peers that were called up again after their death.
    pub resurrected: Vec<u32>,
    /// Peers that were sent for, and of whom the monitor never said a word.
    pub unknown: Vec<u32>,
    /// Called left before they said BYE, or forgotten while they were being sent for.
    pub dismissed: Vec<u32>,
    /// Silences that the generator's own lateness caused.
    pub generator_stalls: u64,
    /// Peers called down in such a silence: rightly, and not held against anybody.
    pub stall_alarms: u64,
    /// Kills: the monitor's transition minus the last heartbeat's send, nanoseconds.
    pub detection_ns: Vec<u64>,
    /// Kills: the lateness that the monitor gives as evidence, nanoseconds.
    pub lateness_ns: Vec<u64>,
    /// Kills: seen on the event stream minus the deadline, nanoseconds.
    pub visible_ns: Vec<u64>,
}

impl Verdict {
    /// Whether the monitor knew all, missed nobody, blamed nobody, raised nobody from the dead and
    /// dismissed nobody.
    pub fn agrees(&self) -> bool {
        let lists = [
            &self.missed,
            &self.lapses_missed,
            &self.false_alarms,
            &self.resurrected,
            &self.unknown,
            &self.dismissed,
        ];
        lists.into_iter().all(Vec::is_empty)
    }

    /// Looks for those of whom nothing was said, and who were sent away; `byes_from_ns` is when the
    /// first BYE was sent.
    pub fn follow_lives(
        &mut self,
        rules: &Rules,
        sent_for: &[u32],
        byes_from_ns: u64,
        silences: &[Silence],
        sightings: &[Sighting],
    ) {
        let seen: HashSet<u32> = sightings.iter().map(|sighting| sighting.peer).collect();
        self.unknown = sent_for.iter().copied().filter(|peer| !seen.contains(peer)).collect();
        self.unknown.sort_unstable();
        let is_silent = |peer: u32, at_ns: u64| {
            let of = |s: &&Silence| s.peer == peer && s.from_ns < at_ns;
            silences.iter().filter(of).any(|s| s.until_ns.is_none_or(|until_ns| at_ns < until_ns))
        };
        let early = |s: &&Sighting| s.at_ns + rules.slop_ns < byes_from_ns;
        let wrong = |s: &&Sighting| match s.verdict {
            Word::Left => true,
            Word::Forgotten => !is_silent(s.peer, s.at_ns),
            Word::Up | Word::Down => false,
        };
        let dismissed = sightings.iter().filter(early).filter(wrong).map(|s| s.peer);
        self.dismissed = dismissed.collect();
        self.dismissed.sort_unstable();
    }
}

/// Lays the silences and the monitor's words side by side.
pub fn judge(
    rules: &Rules,
    absences: &Absences,
    silences: &[Silence],
    sightings: &[Sighting],
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut downs: HashMap<u32, Vec<&Sighting>> = HashMap::new();
    for sighting in sightings.iter().filter(|s| s.verdict == Word::Down) {
        downs.entry(sighting.peer).or_default().push(sighting);
    }
    let mut ordered: Vec<&Silence> = silences.iter().collect();
    ordered.sort_by_key(|silence| (silence.peer, silence.from_ns));
    let mut deaths: HashMap<u32, u64> = HashMap::new();
    for silence in ordered {
        if silence.cause == Cause::Kill {
            deaths.insert(silence.peer, silence.from_ns);
        }
        let mut none = Vec::new();
        let candidates = downs.get_mut(&silence.peer).unwrap_or(&mut none);
        let found =
            candidates.iter().position(|down| rules.explains(silence, absences, down.at_ns));
        let found = found.map(|i| candidates.remove(i));
        verdict.count(rules, absences, silence, found);
    }
    verdict.false_alarms = downs.values().flatten().map(|down| down.peer).collect();
    for up in sightings.iter().filter(|s| s.verdict == Word::Up) {
        if deaths.get(&up.peer).is_some_and(|death| up.at_ns > death + rules.slop_ns) {
            verdict.resurrected.push(up.peer);
        }
    }
    let lists = [
        &mut verdict.missed,
        &mut verdict.lapses_missed,
        &mut verdict.false_alarms,
        &mut verdict.resurrected,
    ];
    lists.into_iter().for_each(|list| list.sort_unstable());
    verdict
}

impl Verdict {
    fn count(
        &mut self,
        rules: &Rules,
        absences: &Absences,
        silence: &Silence,
        found: Option<&Sighting>,
    ) {
        let deadline = rules.deadline_ns(silence, absences);
        // Found too late to be of use is as good as missed.
        let in_time =
            found.filter(|down| down.seen_ns <= deadline + rules.hold_ns + rules.slack_ns);
        // A monitor held up by its host for so long hears the next heartbeat before it judges.
        let margin = rules.held_up_ns();
        let certain =
            silence.until_ns.is_none_or(|until| until > deadline + rules.hold_ns + margin);
        match silence.cause {
            Cause::Kill => {
                self.killed += 1;
                match in_time {
                    None => self.missed.push(silence.peer),
                    Some(down) => {
                        self.detected += 1;
                        self.detection_ns.push(down.at_ns.saturating_sub(silence.from_ns));
                        self.lateness_ns.push(down.lateness_ns);
                        self.visible_ns.push(down.seen_ns.saturating_sub(deadline));
                    }
                }
            }
            Cause::Flap | Cause::Loss if found.is_some() || certain => {
                self.lapses += 1;
                match in_time {
                    None => self.lapses_missed.push(silence.peer),
                    Some(_) => self.lapses_detected += 1,
                }
            }
            Cause::Flap | Cause::Loss => {}
            Cause::Stall => {
                self.generator_stalls += 1;
                self.stall_alarms += u64::from(found.is_some());
            }
        }
    }
}

impl Rules {
    /// How long a monitor may be held up by its host.
    fn held_up_ns(&self) -> u64 {
        5 * self.slop_ns
    }

    /// By when a silence must be found.
    pub fn deadline_ns(&self, silence: &Silence, absences: &Absences) -> u64 {
        absences.extend(silence.from_ns, self.timeout_ns, self.one_more_ns, self.held_up_ns())
    }

    /// Whether a peer called down at `down_ns` was so because of this silence.
    fn explains(&self, silence: &Silence, absences: &Absences, down_ns: u64) -> bool {
        // The monitor's times reach us as wall clock labels: a millisecond for its being slewed.
        const CLOCKS_NS: u64 = 1_000_000;
        let due = down_ns + CLOCKS_NS + self.early_ns >= silence.from_ns + self.timeout_ns;
        let heard = |until: u64| match absences.heard_from(until, self.held_up_ns()) {
            Some(back_ns) => back_ns + self.early_ns,
            None => until,
        };
        due && silence.until_ns.is_none_or(|until| down_ns <= heard(until) + self.slop_ns)
    }
}

#[cfg(test)]
mod tests;
