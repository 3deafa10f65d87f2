//! Whether a relay is alive, by rare questions. Pure: the time is an argument.
//!
//! ```text
//!   alive ──── 5 s since the last answer ────▶ ask with each beat, not oftener than every 500 ms
//!     ▲                                          │ three of these unanswered, or "nobody listens here"
//!     └──────── an answer ──── dead, ask on ◀────┘
//! ```
//!
//! A beat draws no answer, so a relay whose host is gone looks like one that is well. A question costs
//! 32 bytes (48 tagged) each way; at one beat a second every fifth beat has one beside it.

const SECOND_NS: u64 = 1_000_000_000;
/// An answer is good for so long.
const ASK_EVERY_NS: u64 = 5 * SECOND_NS;
/// Shortest time between two questions.
const ASK_AT_MOST_EVERY_NS: u64 = SECOND_NS / 2;
/// So many unanswered ones are a death.
const UNANSWERED: u32 = 3;

/// What is known of one relay. Times are monotonic nanoseconds.
#[derive(Clone, Debug)]
pub struct Liveness {
    dead: bool,
    /// Questions since the last answer.
    unanswered: u32,
    /// The last question's random number.
    nonce: u64,
    asked_ns: Option<u64>,
    answered_ns: Option<u64>,
}

impl Default for Liveness {
    /// Alive until shown otherwise, and asked at once.
    fn default() -> Liveness {
        Liveness { dead: false, unanswered: 0, nonce: 0, asked_ns: None, answered_ns: None }
    }
}

impl Liveness {
    /// Whether it is taken for dead.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// To be asked with each beat: whether a question goes with it, under the number that `draw`
    /// draws. Too many without an answer, and the relay is dead.
    pub fn ask(&mut self, now_ns: u64, draw: impl FnOnce() -> u64) -> Option<u64> {
        let since = |then: Option<u64>| then.map_or(u64::MAX, |then| now_ns.saturating_sub(then));
        if since(self.asked_ns) < ASK_AT_MOST_EVERY_NS {
            return None;
        }
        if self.unanswered == 0 && since(self.answered_ns) < ASK_EVERY_NS {
            return None;
        }
        self.dead |= self.unanswered >= UNANSWERED;
        self.unanswered = self.unanswered.saturating_add(1);
        self.asked_ns = Some(now_ns);
        self.nonce = draw();
        Some(self.nonce)
    }

    /// The number of the last question, while it is unanswered.
    pub fn asking(&self) -> Option<u64> {
        (self.unanswered > 0).then_some(self.nonce)
    }

    /// The last question was answered.
    pub fn answered(&mut self, now_ns: u64) {
        self.dead = false;
        self.unanswered = 0;
        self.answered_ns = Some(now_ns);
    }

    /// Its host says that nobody listens there.
    pub fn refused(&mut self) {
        self.dead = true;
        self.unanswered = self.unanswered.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beats at an interval for a while, the relay answering between these times; returns when a
    /// question was asked, and when the relay was dead, by beats.
    fn run(interval_ms: u64, beats: u64, answers: impl Fn(u64) -> bool) -> (Vec<u64>, Vec<u64>) {
        let mut liveness = Liveness::default();
        let (mut asked, mut dead) = (Vec::new(), Vec::new());
        for beat in 0..beats {
            let now_ns = beat * interval_ms * 1_000_000;
            if let Some(nonce) = liveness.ask(now_ns, || beat + 70) {
                assert_eq!((nonce, liveness.asking()), (beat + 70, Some(beat + 70)));
                asked.push(beat);
                if answers(beat) {
                    liveness.answered(now_ns + 1_000_000);
                    assert_eq!(liveness.asking(), None);
                }
            }
            if liveness.is_dead() {
                dead.push(beat);
            }
        }
        (asked, dead)
    }

    #[test]
    fn questions_are_rare_while_they_are_answered() {
        // Of the beats at 1 s every sixth, since the answer comes a moment behind the question.
        assert_eq!(run(1_000, 20, |_| true), (vec![0, 6, 12, 18], vec![]));
        assert_eq!(run(10_000, 4, |_| true), (vec![0, 1, 2, 3], vec![]));
        assert_eq!(run(1, 20_000, |_| true).0.len(), 4);
    }

    #[test]
    fn three_unanswered_questions_are_a_death_and_one_answer_is_a_life() {
        let (asked, dead) = run(1_000, 20, |beat| !(6..15).contains(&beat));
        assert_eq!(asked[..6], [0, 6, 7, 8, 9, 10]);
        assert_eq!(dead, (9..15).collect::<Vec<_>>());
        // However fast it beats, half a second is left for each answer.
        let (_, dead) = run(10, 1_000, |_| false);
        assert_eq!(dead[0], 150);
    }

    #[test]
    fn one_lost_answer_is_nothing() {
        let (asked, dead) = run(1_000, 12, |beat| beat != 6 && beat != 7);
        assert_eq!((asked, dead), (vec![0, 6, 7, 8], vec![]));
    }

    #[test]
    fn a_refusal_is_a_death_at_once() {
        let mut liveness = Liveness::default();
        liveness.ask(0, || 1);
        liveness.answered(1);
        liveness.refused();
        assert!(liveness.is_dead());
        assert!(liveness.ask(SECOND_NS, || 2).is_some(), "and it is asked on");
        liveness.answered(SECOND_NS + 1);
        assert!(!liveness.is_dead());
    }
}
