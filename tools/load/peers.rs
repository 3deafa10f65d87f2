//! The simulated peers' names and ids, and the way back from an id to its peer.

use std::collections::HashMap;
use systole::wire::PeerId;

/// All peers of a run: `PREFIX-00000`, `PREFIX-00001`, …
pub struct Peers {
    prefix: String,
    /// Their group.
    pub group: String,
    width: usize,
    ids: Vec<PeerId>,
    numbers: HashMap<PeerId, u32>,
}

impl Peers {
    /// Names `count` peers.
    pub fn new(prefix: &str, group: &str, count: u32) -> Peers {
        let width = count.saturating_sub(1).to_string().len().max(5);
        let mut peers = Peers {
            prefix: prefix.to_owned(),
            group: group.to_owned(),
            width,
            ids: Vec::with_capacity(count as usize),
            numbers: HashMap::with_capacity(count as usize),
        };
        for number in 0..count {
            let id = PeerId::of(&peers.name(number));
            peers.ids.push(id);
            peers.numbers.insert(id, number);
        }
        peers
    }

    /// A peer's name.
    pub fn name(&self, number: u32) -> String {
        format!("{}-{number:0width$}", self.prefix, width = self.width)
    }

    /// A peer's id.
    #[inline]
    pub fn id(&self, number: u32) -> PeerId {
        self.ids[number as usize]
    }

    /// Which of ours an id is, if it is one.
    pub fn number(&self, id: PeerId) -> Option<u32> {
        self.numbers.get(&id).copied()
    }

    /// A few names of a list, for people.
    pub fn names(&self, numbers: &[u32]) -> Vec<String> {
        numbers.iter().take(10).map(|&number| self.name(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_length_and_ids_lead_back() {
        let peers = Peers::new("load", "g", 200);
        assert_eq!((peers.name(0), peers.name(199)), ("load-00000".into(), "load-00199".into()));
        for number in 0..200 {
            assert_eq!(peers.id(number), PeerId::of(&peers.name(number)));
            assert_eq!(peers.number(peers.id(number)), Some(number));
        }
        assert_eq!(peers.number(PeerId::of("web-1")), None);
        assert_eq!(Peers::new("x", "", 2_000_000).name(7), "x-0000007");
    }
}
