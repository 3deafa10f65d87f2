//! QUESTION and ANSWER: whether a relay is alive, asked by an agent that could also send directly.
//!
//! ```text
//!  agent ── QUESTION, 64 random bits ──▶ relay
//!        ◀─ the same bytes as ANSWER ───
//! ```
//!
//! An answer is as long as its question, tagged by the same key if that was tagged, and has no words
//! of its own: who forges the asker's address gains nothing by it. An agent with a key believes no
//! other answer, so nobody can keep it on a relay that is dead. A monitor does not answer; both kinds
//! are unknown to it.

use super::header::{ANSWER, Header, QUESTION};
use super::key::{Guard, Key};
use super::{HEADER, PeerId, Reject};
use zerocopy::IntoBytes;

/// Appends a question to `out`.
pub fn encode_question(nonce: u64, key: Option<&Key>, out: &mut Vec<u8>) {
    encode(QUESTION, nonce, key, out);
}

/// Whether a datagram answers the question of this nonce, by this key.
pub fn is_answer(datagram: &[u8], nonce: u64, key: Option<&Key>) -> bool {
    let mut expected = Vec::with_capacity(super::MAX_DATAGRAM);
    encode(ANSWER, nonce, key, &mut expected);
    datagram == expected
}

/// What is to be answered to a datagram if it is a question, in `answer`; `None` when it is none.
///
/// # Errors
/// Why the question is to be dropped, as for any other datagram.
pub fn answer_to(
    datagram: &[u8],
    guard: &Guard,
    answer: &mut Vec<u8>,
) -> Option<Result<(), Reject>> {
    let header = Header::of_kind(QUESTION, datagram)?;
    Some(answer_header(header, datagram, guard, answer))
}

fn answer_header(
    header: &Header,
    datagram: &[u8],
    guard: &Guard,
    answer: &mut Vec<u8>,
) -> Result<(), Reject> {
    let (covered, key_id) = match header.tagged_by()? {
        Some(key_id) => guard.open(key_id, datagram)?,
        None => {
            guard.untagged()?;
            (datagram, 0)
        }
    };
    if covered.len() != HEADER {
        return Err(Reject::Length);
    }
    if *header != Header::asking(QUESTION, header.nonce()).with_tag_of(header) {
        return Err(Reject::Reserved);
    }
    encode(ANSWER, header.nonce(), guard.keys.get(key_id), answer);
    Ok(())
}

fn encode(kind: u8, nonce: u64, key: Option<&Key>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(Header::asking(kind, nonce).as_bytes());
    if let Some(key) = key {
        key.seal(out, start);
    }
}

impl Header {
    /// A header that has a nonce and nothing else.
    fn asking(kind: u8, nonce: u64) -> Header {
        Header::naming(kind, PeerId(0)).with_numbers(nonce as u32, (nonce >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Auth, Keyring};

    fn guard(auth: Auth, key: &Key) -> Guard {
        let mut keys = Keyring::default();
        assert!(keys.insert(key.clone(), None));
        Guard { auth, keys }
    }

    fn asked(guard: &Guard, question: &[u8]) -> Option<Result<Vec<u8>, Reject>> {
        let mut answer = Vec::new();
        let answered = answer_to(question, guard, &mut answer)?;
        Some(answered.map(|()| answer))
    }

    #[test]
    fn an_answer_is_as_long_as_its_question_and_answers_no_other() {
        let key = Key::new(7, [7; 32]).unwrap();
        for (auth, by) in [(Auth::Off, None), (Auth::Required, Some(&key))] {
            let mut question = Vec::new();
            encode_question(0x1122_3344_5566_7788, by, &mut question);
            let answer = asked(&guard(auth, &key), &question).unwrap().unwrap();
            assert_eq!(answer.len(), question.len());
            assert!(is_answer(&answer, 0x1122_3344_5566_7788, by));
            assert!(!is_answer(&answer, 0x1122_3344_5566_7789, by));
            assert!(!is_answer(&question, 0x1122_3344_5566_7788, by), "an echo is no answer");
            // Neither is anything to a monitor, nor an answer to a relay.
            assert_eq!(guard(auth, &key).decode(&question), Err(Reject::Kind));
            assert_eq!(guard(auth, &key).decode(&answer), Err(Reject::Kind));
            assert_eq!(asked(&guard(auth, &key), &answer), None);
        }
    }

    #[test]
    fn what_is_not_proven_is_not_answered() {
        let (key, other) = (Key::new(7, [7; 32]).unwrap(), Key::new(7, [8; 32]).unwrap());
        let required = guard(Auth::Required, &key);
        let (mut plain, mut forged) = (Vec::new(), Vec::new());
        encode_question(5, None, &mut plain);
        encode_question(5, Some(&other), &mut forged);
        assert_eq!(asked(&required, &plain), Some(Err(Reject::Unauthenticated)));
        assert_eq!(asked(&required, &forged), Some(Err(Reject::BadTag)));
        // Nor does a forged answer convince who has a key.
        let mut answer = Vec::new();
        encode(ANSWER, 5, None, &mut answer);
        assert!(is_answer(&answer, 5, None) && !is_answer(&answer, 5, Some(&key)));
    }

    #[test]
    fn a_question_says_nothing_else() {
        let off = Guard::default();
        let mut question = Vec::new();
        encode_question(5, None, &mut question);
        for at in (4..16).chain(24..32) {
            let mut altered = question.clone();
            altered[at] = 1;
            assert_eq!(asked(&off, &altered), Some(Err(Reject::Reserved)), "byte {at}");
        }
        let longer = [question.as_slice(), &[0]].concat();
        assert_eq!(asked(&off, &longer), Some(Err(Reject::Length)));
        assert_eq!(asked(&off, &question[..31]), None, "the decoder counts it");
    }
}
