//! When we did not look, and when we did not hear: what a peer is granted for it.
//!
//! A watchman who fell asleep must not report that nobody passed. Two kinds of window:
//!
//! - **blind**: the reactor did not run (a stall, SIGSTOP, a paused machine, a restart). What came
//!   meanwhile is mostly in the kernel's queues and is read before anything is judged; what did not
//!   reach them is lost, and no counter tells.
//! - **deaf**: datagrams are known to be lost (a receive buffer or a hand-over ring was full), and
//!   nobody can say whose.
//!
//! ```text
//!   last seen        window              deadline      extended
//!  ─────●───────────▓▓▓▓▓▓▓▓▓▓▓▓─────────────┼─────────────┼──────▶
//!                   from       to            └─ + length ──┘         blind
//!                               └── one interval and its grace ──┤   if it may have swallowed a heartbeat
//! ```
//!
//! A deadline is extended by the length of the blind windows that it spans. Beyond that, a window that
//! may have swallowed a heartbeat (blind for an interval or longer, or deaf) leaves a peer not heard
//! since time for one more: suspicion comes no sooner than an interval and the grace behind the
//! window, and down as much later than that as the two deadlines' ratio says.
//!
//! Deadlines are computed when they are asked for, so a window costs nothing when it is added, and a
//! peer that was heard behind the last one pays a single comparison.

use super::policy::Deadlines;

/// Windows kept; the two oldest are joined when there would be more.
pub const WINDOWS: usize = 16;

/// One time in which we were blind or deaf; monotonic ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    /// Its begin.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// For how long of it we were blind; less than its length when windows were joined.
    pub blind_ns: u64,
    /// Whether datagrams were lost in it.
    pub deaf: bool,
    /// Whether there was no process. Whoever lives behind it was not called down before it, though
    /// deadlines that were set anew meanwhile may say so, or nobody came to judge by them.
    pub absent: bool,
}

/// Why a deadline was extended; a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Extensions(u8);

impl Extensions {
    /// Not extended.
    pub const NONE: Extensions = Extensions(0);
    /// The monitor did not run.
    pub const BLIND: Extensions = Extensions(1);
    /// Datagrams were lost at the monitor.
    pub const DEAF: Extensions = Extensions(2);
    /// A large share of the fleet or of its group fell silent at once.
    pub const MASS: Extensions = Extensions(4);
    /// Its parent was silent, too.
    pub const PARENT: Extensions = Extensions(8);

    /// Both sets together.
    pub fn with(self, other: Extensions) -> Extensions {
        Extensions(self.0 | other.0)
    }

    /// Whether nothing of `other` is missing.
    pub fn has(self, other: Extensions) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set as bits: 1 blind, 2 deaf, 4 mass, 8 parent.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The set of these bits; unknown ones are left out.
    pub fn from_bits(bits: u8) -> Extensions {
        Extensions(bits & 0b1111)
    }

    /// The words used in JSON and tables.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Self::BLIND, "blind"),
            (Self::DEAF, "deaf"),
            (Self::MASS, "mass"),
            (Self::PARENT, "parent"),
        ];
        all.into_iter().filter(move |(one, _)| self.has(*one)).map(|(_, word)| word)
    }
}

/// A peer's two deadlines as absolute times, monotonic ns; suspicion is not behind down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged {
    /// When it becomes suspect.
    pub suspect_ns: u64,
    /// When it becomes down.
    pub down_ns: u64,
    /// Why these are later than the detector alone would say.
    pub why: Extensions,
}

/// What bears on one peer's extension.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Its last heartbeat, monotonic ns.
    pub last_seen_ns: u64,
    /// Its interval, nanoseconds.
    pub interval_ns: u64,
    /// What the network and its scheduler are granted, nanoseconds.
    pub grace_ns: u64,
    /// What its detector says, from the last heartbeat.
    pub deadlines: Deadlines,
}

impl Silence {
    /// The two deadlines without any extension.
    pub fn plain(&self) -> Judged {
        let at = |after_ns: u64| self.last_seen_ns.saturating_add(after_ns);
        Judged {
            suspect_ns: at(self.deadlines.suspect_ns),
            down_ns: at(self.deadlines.down_ns),
            why: Extensions::NONE,
        }
    }

    /// Leaves the peer time for one more heartbeat behind `since_ns`.
    pub fn one_more(&self, judged: Judged, since_ns: u64, why: Extensions) -> Judged {
        // Never more than a heartbeat at `since_ns` would have given: the timer could not be brought
        // nearer when one comes.
        let one_ns = self.interval_ns.saturating_add(self.grace_ns).min(self.deadlines.suspect_ns);
        let suspect_ns = since_ns.saturating_add(one_ns);
        let ratio = self.deadlines.down_ns as f64 / self.deadlines.suspect_ns.max(1) as f64;
        let to_down_ns = ((suspect_ns - since_ns) as f64 * ratio) as u64;
        let down_ns = since_ns.saturating_add(to_down_ns).max(suspect_ns);
        if suspect_ns <= judged.suspect_ns && down_ns <= judged.down_ns {
            return judged;
        }
        Judged {
            suspect_ns: judged.suspect_ns.max(suspect_ns),
            down_ns: judged.down_ns.max(down_ns),
            why: judged.why.with(why),
        }
    }
}

/// The windows in which a shard did not see or hear all.
#[derive(Debug, Default)]
pub struct Sight {
    /// In ascending order and without overlap.
    windows: [Window; WINDOWS],
    len: usize,
    /// Up to here what was heard had been queued while we did not look, monotonic ns; `u64::MAX` while
    /// that is still being read.
    caught_up_ns: u64,
    /// See [`clear_since_ns`](Sight::clear_since_ns), which each heartbeat asks.
    clear_since_ns: u64,
}

impl Sight {
    /// We did not run between these times; what was queued by `to_ns` counts as heard behind it.
    pub fn blind(&mut self, from_ns: u64, to_ns: u64) {
        let blind_ns = to_ns.saturating_sub(from_ns);
        self.add(Window { from_ns, to_ns, blind_ns, ..Window::default() });
    }

    /// Datagrams were lost between these times.
    pub fn deaf(&mut self, from_ns: u64, to_ns: u64) {
        self.add(Window { from_ns, to_ns, deaf: true, ..Window::default() });
    }

    /// There was no process between these times: blind, and `deaf` as well if what came then found no
    /// socket. Whoever lives is granted it, whatever its deadline was.
    pub fn absent(&mut self, from_ns: u64, to_ns: u64, deaf: bool) {
        let blind_ns = to_ns.saturating_sub(from_ns);
        self.add(Window { from_ns, to_ns, blind_ns, deaf, absent: true });
    }

    /// The windows, in ascending order.
    pub fn windows(&self) -> &[Window] {
        &self.windows[..self.len]
    }

    /// Takes over what others did not see or hear before `now_ns`, in ascending order; what cannot be
    /// is left out, and what overlaps counts once.
    pub fn take_over(&mut self, windows: impl IntoIterator<Item = Window>, now_ns: u64) {
        for window in windows.into_iter().filter(|window| window.to_ns <= now_ns) {
            let length_ns = window.to_ns.saturating_sub(window.from_ns);
            self.add(Window { blind_ns: window.blind_ns.min(length_ns), ..window });
        }
    }

    /// What is read from now on was queued while we did not look: its times are those of the reading, and
    /// say nothing of when it came.
    pub fn catch_up(&mut self) {
        self.caught_up_ns = u64::MAX;
        self.clear();
    }

    /// All that was queued meanwhile has been read by `now_ns`.
    pub fn caught_up(&mut self, now_ns: u64) {
        if self.caught_up_ns == u64::MAX {
            self.caught_up_ns = now_ns.saturating_add(1);
            self.clear();
        }
    }

    /// When the last window had ended and what was queued in it had been read: who was heard behind that is
    /// judged as usual, and what he sends is learnt from. 0 without a window.
    #[inline]
    pub fn clear_since_ns(&self) -> u64 {
        self.clear_since_ns
    }

    fn clear(&mut self) {
        let window_ns = self.windows().last().map_or(0, |window| window.to_ns);
        self.clear_since_ns = window_ns.max(self.caught_up_ns);
    }

    /// The two deadlines of a silent peer, with what it is granted.
    pub fn judge(&self, silence: &Silence) -> Judged {
        let mut judged = silence.plain();
        if silence.last_seen_ns >= self.clear_since_ns() {
            return judged;
        }
        for window in self.windows() {
            // What had passed before the window opened was judged before it.
            let is_judged = window.from_ns >= judged.down_ns && !window.absent;
            if window.to_ns <= silence.last_seen_ns || is_judged {
                continue;
            }
            let missed_ns = window.to_ns - window.from_ns.max(silence.last_seen_ns);
            let blind_ns = window.blind_ns.min(missed_ns);
            if blind_ns > 0 {
                judged.down_ns = judged.down_ns.saturating_add(blind_ns);
                if window.from_ns < judged.suspect_ns {
                    judged.suspect_ns = judged.suspect_ns.saturating_add(blind_ns);
                }
                judged.why = judged.why.with(Extensions::BLIND);
            }
            if window.deaf {
                judged = silence.one_more(judged, window.to_ns, Extensions::DEAF);
            } else if blind_ns >= silence.interval_ns {
                judged = silence.one_more(judged, window.to_ns, Extensions::BLIND);
            }
        }
        judged
    }

    /// The two deadlines of a silent peer whose verdict was held until `until_ns` for another reason than
    /// its own silence: a window that opened behind its deadline and before that time was not, as
    /// [`judge`](Self::judge) takes it, opened behind a verdict. Where it may have swallowed a heartbeat,
    /// there is time for one more.
    pub fn judge_held(&self, silence: &Silence, until_ns: u64) -> Judged {
        let judged = self.judge(silence);
        let mut held = judged;
        for window in self.windows() {
            let may_swallow = window.deaf || window.blind_ns >= silence.interval_ns;
            let counts = window.from_ns >= judged.down_ns
                && window.from_ns < until_ns.max(held.down_ns)
                && window.to_ns > silence.last_seen_ns;
            if may_swallow && counts {
                let why = if window.deaf { Extensions::DEAF } else { Extensions::BLIND };
                held = silence.one_more(held, window.to_ns, why);
            }
        }
        held
    }

    fn add(&mut self, mut window: Window) {
        if window.to_ns <= window.from_ns {
            return;
        }
        // A time in which something was lost often follows a stall without a gap. They stay apart, or
        // who was heard in the second would be granted the length of the first.
        let kind = |window: &Window| (window.deaf, window.blind_ns > 0);
        let follows = |window: &Window, last: &Window| {
            window.from_ns < last.to_ns
                || window.from_ns == last.to_ns && kind(window) == kind(last)
        };
        // A process that goes on from the look of another reactor may have noted losses since.
        while self.len > 0 && follows(&window, &self.windows[self.len - 1]) {
            self.len -= 1;
            window = joined(self.windows[self.len], window);
        }
        if self.len == WINDOWS {
            self.windows[1] = joined(self.windows[0], self.windows[1]);
            self.windows.copy_within(1.., 0);
            self.len -= 1;
        }
        self.windows[self.len] = window;
        self.len += 1;
        self.clear();
    }
}

/// One window in place of two; what lies between them is not counted as blind.
fn joined(a: Window, b: Window) -> Window {
    let overlap_ns = a.to_ns.min(b.to_ns).saturating_sub(b.from_ns.max(a.from_ns));
    let blind_ns = match (a.blind_ns, b.blind_ns) {
        (0, only) | (only, 0) => only,
        (first, second) => first + second.saturating_sub(overlap_ns),
    };
    Window {
        from_ns: a.from_ns.min(b.from_ns),
        to_ns: a.to_ns.max(b.to_ns),
        blind_ns,
        deaf: a.deaf || b.deaf,
        absent: a.absent || b.absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};

    const S: u64 = 1_000_000_000;

    /// A peer of 1 s, missed 3, suspicion at 2 s, no grace; last heard at 100 s.
    const SILENT: Silence = Silence {
        last_seen_ns: 100 * S,
        interval_ns: S,
        grace_ns: 0,
        deadlines: Deadlines { suspect_ns: 2 * S, down_ns: 3 * S },
    };

    fn judge(windows: &[(u64, u64, bool)], silence: &Silence) -> Judged {
        let mut sight = Sight::default();
        for &(from, to, deaf) in windows {
            if deaf { sight.deaf(from, to) } else { sight.blind(from, to) }
        }
        sight.judge(silence)
    }

    #[test]
    fn who_was_heard_behind_the_window_is_judged_as_usual() {
        let windows = [(90 * S, 99 * S, false), (95 * S, 100 * S, true)];
        assert_eq!(judge(&windows, &SILENT), SILENT.plain());
    }

    #[test]
    fn a_stall_too_short_for_a_heartbeat_adds_its_length() {
        let judged = judge(&[(101 * S, 101 * S + S / 10, false)], &SILENT);
        assert_eq!(judged.suspect_ns, 102 * S + S / 10);
        assert_eq!(judged.down_ns, 103 * S + S / 10);
        assert!(judged.why.has(Extensions::BLIND));
    }

    #[test]
    fn a_stall_behind_suspicion_moves_only_down() {
        let judged = judge(&[(102 * S + S / 2, 102 * S + S / 2 + S / 10, false)], &SILENT);
        assert_eq!((judged.suspect_ns, judged.down_ns), (102 * S, 103 * S + S / 10));
    }

    /// The earlier process was more patient, or held it.
    #[test]
    fn who_outlived_a_process_is_granted_its_absence_whatever_its_deadline_is_now() {
        let mut sight = Sight::default();
        sight.absent(110 * S, 115 * S, true);
        let judged = sight.judge(&SILENT);
        assert_eq!((judged.suspect_ns, judged.down_ns), (116 * S, 116 * S + S / 2));
        assert!(judged.why.has(Extensions::DEAF));
        sight.blind(120 * S, 130 * S);
        assert_eq!(sight.judge(&SILENT), judged, "its deadline had passed before");
        // Nor does another absence take away what the first one gave.
        let mut sight = Sight::default();
        sight.absent(110 * S, 115 * S, true);
        sight.absent(115 * S + S / 2, 115 * S + S * 3 / 4, false);
        assert_eq!(sight.judge(&SILENT).down_ns, judged.down_ns + S / 4);
        // What joins it takes nothing away.
        let mut sight = Sight::default();
        sight.absent(110 * S, 115 * S, true);
        sight.deaf(114 * S, 115 * S + S / 10);
        assert_eq!(sight.judge(&SILENT).down_ns, judged.down_ns + S / 10);
    }

    #[test]
    fn what_opens_while_a_verdict_is_held_counts() {
        let mut sight = Sight::default();
        sight.blind(105 * S, 110 * S);
        assert_eq!(sight.judge(&SILENT), SILENT.plain(), "its deadline had passed before");
        assert_eq!(sight.judge_held(&SILENT, 104 * S), SILENT.plain(), "and its hold as well");
        let held = sight.judge_held(&SILENT, 106 * S);
        assert_eq!((held.suspect_ns, held.down_ns), (111 * S, 111 * S + S / 2));
        assert_eq!(held.why, Extensions::BLIND);
        // Nothing that was sent in a short stall is lost.
        let mut sight = Sight::default();
        sight.blind(105 * S, 105 * S + S / 2);
        assert_eq!(sight.judge_held(&SILENT, 200 * S), SILENT.plain());
        sight.deaf(105 * S + S / 2, 105 * S + S * 3 / 4);
        assert_eq!(sight.judge_held(&SILENT, 200 * S).down_ns, 107 * S + S / 4);
    }

    #[test]
    fn a_long_stall_leaves_time_for_one_more_heartbeat() {
        // The down deadline fell just behind the stall's beginning: adding its length alone would
        // leave 0.1 s.
        let judged = judge(&[(102 * S + 9 * S / 10, 110 * S, false)], &SILENT);
        assert_eq!(judged.suspect_ns, 111 * S);
        assert_eq!(judged.down_ns, 111 * S + S / 2);
    }

    #[test]
    fn the_deaf_get_one_more_interval_and_no_length() {
        let judged = judge(&[(101 * S, 102 * S + S / 2, true)], &SILENT);
        assert_eq!(judged.suspect_ns, 103 * S + S / 2);
        assert_eq!(judged.down_ns, 104 * S);
        assert_eq!(judged.why, Extensions::DEAF);
        let early = judge(&[(100 * S, 100 * S + S / 10, true)], &SILENT);
        assert_eq!(early, SILENT.plain(), "the deadlines leave room for more than one already");
    }

    #[test]
    fn who_was_heard_behind_a_stall_is_not_granted_it_for_a_loss_that_follows() {
        // Down in 3 s; the loss leaves time for one more, and that is less.
        let windows = [(90 * S, 99 * S, false), (99 * S, 100 * S + S / 2, true)];
        assert_eq!(judge(&windows, &SILENT), SILENT.plain());
    }

    #[test]
    fn a_loss_within_a_stall_is_not_granted_the_stall_on_top() {
        let stall = (101 * S, 110 * S, false);
        let loss = (101 * S - 1, 110 * S - 1, true);
        for windows in [[stall, loss], [loss, stall]] {
            // The stall's length, or time for one more, whichever is later.
            assert_eq!(judge(&windows, &SILENT).suspect_ns, 111 * S, "{windows:?}");
        }
    }

    #[test]
    fn an_absence_over_several_losses_is_one_window() {
        let losses = [(100 * S, 100 * S + 1, true), (101 * S, 101 * S + 1, true)];
        let mut sight = Sight::default();
        losses.iter().for_each(|&(from_ns, to_ns, _)| sight.deaf(from_ns, to_ns));
        sight.blind(99 * S, 103 * S);
        let (from_ns, to_ns) = (99 * S, 103 * S);
        let all = Window { from_ns, to_ns, blind_ns: 4 * S, deaf: true, absent: false };
        assert_eq!(sight.windows(), [all]);
        // Not later than a heartbeat just behind it would have it.
        let heard = Silence { last_seen_ns: 103 * S, ..SILENT }.plain();
        assert_eq!(sight.judge(&SILENT).suspect_ns, heard.suspect_ns);
    }

    #[test]
    fn one_more_is_never_more_than_a_heartbeat_gives() {
        // Suspicion comes before the next heartbeat is due.
        let deadlines = Deadlines { suspect_ns: S / 2, down_ns: S };
        let judged = judge(&[(100 * S, 101 * S, true)], &Silence { deadlines, ..SILENT });
        let heard = Silence { last_seen_ns: 101 * S, deadlines, ..SILENT };
        let plain = heard.plain();
        assert_eq!((judged.suspect_ns, judged.down_ns), (plain.suspect_ns, plain.down_ns));
    }

    #[test]
    fn a_loss_behind_a_stall_with_losses_does_not_bring_the_length_of_the_stall_along() {
        // Heard at 100 s, behind a stall in which something was lost, and before another loss.
        let windows = [(90 * S, 99 * S, false), (90 * S, 99 * S, true), (99 * S, 101 * S, true)];
        let judged = judge(&windows, &SILENT);
        assert_eq!(judged, judge(&windows[2..], &SILENT));
    }

    #[test]
    fn a_window_behind_the_deadline_changes_nothing() {
        assert_eq!(judge(&[(103 * S, 200 * S, false)], &SILENT), SILENT.plain());
    }

    #[test]
    fn the_extension_of_one_window_may_reach_into_the_next() {
        let judged =
            judge(&[(101 * S, 102 * S, false), (103 * S + S / 2, 104 * S, false)], &SILENT);
        // 3 s and 1 s of blindness: 104 s, and the half second of the second.
        assert_eq!(judged.down_ns, 104 * S + S / 2);
    }

    /// However many windows there were, a deadline is never nearer than with all of them kept.
    #[test]
    fn joining_windows_never_shortens_a_deadline() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut sight = Sight::default();
            let mut all = Vec::new();
            let mut now = S;
            for _ in 0..60 {
                let from = now + rng.below(S / 2);
                let to = from + 1 + rng.below(S / 5);
                now = to;
                let deaf = rng.below(3) == 0;
                all.push((from, to, deaf));
                if deaf { sight.deaf(from, to) } else { sight.blind(from, to) }
            }
            for _ in 0..200 {
                let silence = Silence { last_seen_ns: rng.below(now), ..SILENT };
                let kept = sight.judge(&silence);
                let mut exact = silence.plain();
                for &(from, to, deaf) in &all {
                    if to <= silence.last_seen_ns || from >= exact.down_ns {
                        continue;
                    }
                    let length = to - from.max(silence.last_seen_ns);
                    if deaf {
                        exact = silence.one_more(exact, to, Extensions::DEAF);
                    } else {
                        exact.down_ns += length;
                        exact.suspect_ns += if from < exact.suspect_ns { length } else { 0 };
                    }
                }
                assert!(kept.suspect_ns <= kept.down_ns, "seed {seed}");
                assert!(kept.down_ns >= exact.down_ns, "seed {seed}: {silence:?}");
            }
        }
    }
}
