//! Where a heartbeat stands in its sender's sequence: next, after a gap, twice, too late, or of
//! another incarnation.
//!
//! Like cheques from a numbered book: a missing number is a gap, the same number twice is a copy, a
//! lower number that we never saw was held up in the post, and a new book starts its own count.
//! Only a heartbeat that is *newer* than all that we saw proves that the sender is alive; an old
//! one, however it got here, proves nothing, so it never brings a dead peer back.
//!
//! Numbers are compared by serial arithmetic (RFC 1982): `a` is newer than `b` when it is ahead by
//! less than half the circle, so a sequence may wrap.

/// How many sequence numbers back a late heartbeat is told from a repeated one.
pub const WINDOW: u32 = 32;

/// Where a peer's sequence stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The sender's start.
    pub incarnation: u32,
    /// Newest sequence number.
    pub last: u32,
    /// Bit `n` is set when number `last - n` was seen.
    pub seen: u32,
}

/// What a heartbeat is in the light of a [`Position`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Newer than all before it, with so many numbers missing in between.
    Newer {
        /// Numbers skipped.
        missing: u32,
    },
    /// The first of a newer incarnation.
    Restart,
    /// Seen already, or older than the first that was heard of this incarnation.
    Duplicate,
    /// Older than the newest, within the window, and not seen before.
    Late,
    /// Of an earlier incarnation, or further back than the window tells apart.
    Stale,
}

impl Position {
    /// The position after a sender's first heartbeat, or its first of an incarnation.
    ///
    /// The numbers before it count as seen: they were never counted as missing, so that one of them
    /// that comes late must not be taken off the missing ones.
    pub fn start(incarnation: u32, sequence: u32) -> Position {
        Position { incarnation, last: sequence, seen: u32::MAX }
    }

    /// Moves on if a heartbeat is the very next; says whether it is. As [`take`](Self::take), for less.
    #[inline(always)]
    pub fn take_next(&mut self, incarnation: u32, sequence: u32) -> bool {
        let is_next = incarnation == self.incarnation && sequence == self.last.wrapping_add(1);
        if is_next {
            *self = Position { incarnation, last: sequence, seen: self.seen << 1 | 1 };
        }
        is_next
    }

    /// Says what a heartbeat is, and moves on if it is part of the sequence.
    #[inline]
    pub fn take(&mut self, incarnation: u32, sequence: u32) -> Order {
        if incarnation != self.incarnation {
            if (incarnation.wrapping_sub(self.incarnation) as i32) < 0 {
                return Order::Stale;
            }
            *self = Position::start(incarnation, sequence);
            return Order::Restart;
        }
        let ahead = sequence.wrapping_sub(self.last) as i32;
        if ahead > 0 {
            self.seen = self.seen.checked_shl(ahead as u32).unwrap_or(0) | 1;
            self.last = sequence;
            return Order::Newer { missing: ahead as u32 - 1 };
        }
        let behind = ahead.unsigned_abs();
        if behind >= WINDOW {
            return Order::Stale;
        }
        let bit = 1 << behind;
        if self.seen & bit != 0 {
            return Order::Duplicate;
        }
        self.seen |= bit;
        Order::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};
    use std::collections::HashSet;

    #[test]
    fn a_sequence_may_wrap() {
        let mut position = Position::start(7, u32::MAX);
        assert_eq!(position.take(7, 0), Order::Newer { missing: 0 });
        assert_eq!(position.take(7, u32::MAX), Order::Duplicate);
        assert_eq!(position.take(7, 3), Order::Newer { missing: 2 });
        assert_eq!(position.take(7, 1), Order::Late);
        assert_eq!(position.take(7, 1), Order::Duplicate);
    }

    #[test]
    fn an_incarnation_may_wrap_and_an_earlier_one_is_stale() {
        let mut position = Position::start(u32::MAX - 1, 500);
        assert_eq!(position.take(3, 9), Order::Restart);
        assert_eq!(position.take(u32::MAX - 1, 501), Order::Stale);
        assert_eq!(position.take(3, 10), Order::Newer { missing: 0 });
    }

    #[test]
    fn further_back_than_the_window_is_stale() {
        let mut position = Position::start(1, 0);
        assert_eq!(position.take(1, 100), Order::Newer { missing: 99 });
        assert_eq!(position.take(1, 100 - WINDOW), Order::Stale);
        assert_eq!(position.take(1, 100 - WINDOW + 1), Order::Late);
        // Half the circle away is neither ahead nor behind; it must not count as newer.
        assert_eq!(position.take(1, 100u32.wrapping_add(1 << 31)), Order::Stale);
    }

    #[test]
    fn agrees_with_a_set_of_all_numbers_ever_seen() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let base = rng.next() as u32;
            let mut position = Position::start(1, base);
            let mut seen: HashSet<i64> = (-(WINDOW as i64)..=0).collect();
            let mut newest = 0i64;
            for step in 0..5_000 {
                let number = newest + rng.below(80) as i64 - 60;
                let expected = if number > newest {
                    Order::Newer { missing: (number - newest - 1) as u32 }
                } else if newest - number >= WINDOW as i64 {
                    Order::Stale
                } else if seen.contains(&number) {
                    Order::Duplicate
                } else {
                    Order::Late
                };
                if expected != Order::Stale {
                    seen.insert(number);
                }
                newest = newest.max(number);
                let mut by_next = position;
                let is_next = by_next.take_next(1, base.wrapping_add(number as u32));
                let got = position.take(1, base.wrapping_add(number as u32));
                assert_eq!(got, expected, "seed {seed}, step {step}");
                assert_eq!(is_next, got == Order::Newer { missing: 0 }, "seed {seed}, step {step}");
                assert!(!is_next || by_next == position, "seed {seed}, step {step}");
            }
        }
    }
}
