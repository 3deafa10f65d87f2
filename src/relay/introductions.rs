//! Which HELLOs a relay has passed on lately, so that it need not pass on all.
//!
//! An agent says who it is every 16th beat, because it cannot know when its monitor was started. Ten
//! thousand of them would put more bytes on the WAN by that than by all their beats. So a HELLO is
//! passed on when it says something new, once more when it is repeated (the first one may have been
//! lost), and then at most once a minute; in between it is a beat like others.
//!
//! ```text
//!   peer ──▶ one of 32,768 buckets of 4 ── same words, passed on less than a minute ago? ──▶ a beat
//!                                       └─ else ──▶ pass it on, and remember
//! ```
//!
//! No state that could be lost: whoever is forgotten, because the relay was restarted or a bucket was
//! full, is introduced once too often. Fixed memory, 2 MiB; nothing is allocated per HELLO.

use crate::wire::Heartbeat;

const BUCKETS: usize = 1 << 15;
const WAYS: usize = 4;
/// The same words are passed on again after so long.
const AGAIN_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, Default)]
struct Introduction {
    /// 0 where there is none.
    peer: u64,
    /// What was said: the profile, of which start, by which key.
    words: u32,
    /// It was passed on twice at least.
    repeated: bool,
    /// When last, in units of 2^30 ns (1.07 s); wraps after 146 years.
    passed: u32,
}

/// The HELLOs that were passed on lately.
pub(super) struct Introductions {
    buckets: Box<[[Introduction; WAYS]]>,
}

impl Default for Introductions {
    fn default() -> Introductions {
        Introductions { buckets: vec![[Introduction::default(); WAYS]; BUCKETS].into() }
    }
}

impl Introductions {
    /// Whether this HELLO is to be passed on; if so it counts as passed on.
    pub(super) fn due(&mut self, hello: &Heartbeat, now_ns: u64) -> bool {
        // Ids are the bytes of a digest: any of their bits will do.
        let bucket = &mut self.buckets[(hello.peer.0 >> 20) as usize % BUCKETS];
        let words = hello.profile_digest
            ^ hello.incarnation.rotate_left(16)
            ^ u32::from(hello.key_id).wrapping_mul(0x9E37_79B1);
        let now = (now_ns >> 30) as u32;
        let known = bucket.iter_mut().find(|known| known.peer == hello.peer.0);
        let Some(known) = known else {
            let new = Introduction { peer: hello.peer.0, words, repeated: false, passed: now };
            let oldest = bucket
                .iter_mut()
                .max_by_key(|known| (known.peer == 0, now.wrapping_sub(known.passed)))
                .expect("a bucket has places");
            *oldest = new;
            return true;
        };
        let repeats = known.words == words;
        let recently = u64::from(now.wrapping_sub(known.passed)) << 30 < AGAIN_NS;
        if repeats && known.repeated && recently {
            return false;
        }
        *known = Introduction { peer: known.peer, words, repeated: repeats, passed: now };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::testing::beat;
    use crate::wire::PeerId;

    const SECOND_NS: u64 = 1_000_000_000;

    fn hello(peer: u64, digest: u32) -> Heartbeat {
        Heartbeat { profile_digest: digest, ..beat(peer, 1) }
    }

    #[test]
    fn new_words_pass_twice_and_then_once_a_minute() {
        let mut introductions = Introductions::default();
        let passed: Vec<u64> = (0..20)
            .map(|n| n * 16)
            .filter(|s| introductions.due(&hello(1, 5), s * SECOND_NS))
            .collect();
        // To a second, by which the time is kept.
        assert_eq!(passed, [0, 16, 80, 144, 208, 272]);
    }

    #[test]
    fn other_words_another_start_and_another_key_pass_at_once() {
        let mut introductions = Introductions::default();
        let first = hello(1, 5);
        let others = [
            hello(1, 6),
            Heartbeat { incarnation: 9, ..first },
            Heartbeat { key_id: 3, ..first },
            hello(2, 5),
        ];
        for other in others {
            for _ in 0..3 {
                introductions.due(&first, 0);
            }
            assert!(!introductions.due(&first, 0));
            assert!(introductions.due(&other, 0), "{other:?}");
        }
    }

    #[test]
    fn who_finds_no_room_is_introduced_too_often_never_too_seldom() {
        let mut introductions = Introductions::default();
        // All in one bucket, which has room for four of them.
        for round in 0..4 {
            let due = (1..30).filter(|&peer| introductions.due(&hello(peer, 5), round)).count();
            assert!((25..=29).contains(&due), "{due} in round {round}");
        }
        let alone = hello(PeerId::of("web-1").0, 5);
        introductions.due(&alone, 0);
        introductions.due(&alone, 0);
        assert!(!introductions.due(&alone, 0));
    }
}
