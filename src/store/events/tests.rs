//! The ring against a list, killed at any append, and cut, spoilt and resized files.

use super::*;
use crate::engine::sight::Extensions;
use crate::engine::transition::{PeerState, Reason};
use crate::testing::{Rng, TempDir, seeds};
use crate::wire::{PeerId, Status};

const FRESH: Identity = Identity { monitor: 0xA1, epoch_ns: 77 };

fn transition(n: u64) -> Transition {
    Transition {
        peer: PeerId(n),
        from: PeerState::Up,
        to: PeerState::Down,
        reason: Reason::Silence,
        status: Status::Warn,
        index: 1,
        fired_ns: n,
        last_seen_ns: n,
        deadline_ns: n,
        incarnation: 2,
        last_sequence: 3,
        gaps: 4,
        in_from_ns: 5,
        group: 6,
        extended_ns: 7,
        extended_by: Extensions::MASS,
        report_no: 8,
    }
}

fn append(file: &mut EventFile, seq: u64, name: Option<&str>) {
    let origin = Origin::new((seq % 3) as u32, seq);
    file.append(&Published {
        seq,
        origin,
        transition: transition(seq),
        marks: seq << 30,
        wall_offset_ns: -9,
        name,
        group: "web",
    });
}

fn open(dir: &StateDir, events: usize) -> (EventFile, Vec<(u64, Option<String>)>, bool) {
    let mut held = Vec::new();
    let (file, anew) = EventFile::open(dir, events, FRESH, false, (0, &[]), |published| {
        assert_eq!(published.transition, transition(published.seq));
        assert_eq!(published.marks, published.seq << 30);
        assert_eq!((published.wall_offset_ns, published.group), (-9, "web"));
        held.push((published.seq, published.name.map(str::to_owned)));
    })
    .unwrap();
    (file, held, anew.is_some())
}

#[test]
fn the_latest_are_found_again_with_their_numbers_over_any_number_of_lives() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let temp = TempDir::new();
        let dir = StateDir::open(&temp.path().join("s")).unwrap();
        let mut model: Vec<(u64, Option<String>)> = Vec::new();
        for life in 0..10 {
            let (mut file, held, anew) = open(&dir, 1 + rng.below(600) as usize);
            let context = format!("seed {seed} life {life}");
            assert!(!anew, "{context}");
            assert!(model.ends_with(&held), "{context}: the latest of them");
            assert!(held.len() >= model.len().min(100), "{context}: {}", held.len());
            let mut numbers = [0; 3];
            model.iter().for_each(|(seq, _)| numbers[(seq % 3) as usize] = *seq);
            if life > 0 {
                assert_eq!(file.published(5, 3), numbers, "{context}");
            }
            assert_eq!(file.published(6, 3), [0; 3], "{context}: another generation");
            file.begin_generation(5);
            for _ in 0..rng.below(900) {
                let seq = model.last().map_or(1, |(seq, _)| seq + 1);
                let name = (!rng.one_in(4)).then(|| "n".repeat(1 + rng.below(255) as usize));
                append(&mut file, seq, name.as_deref());
                model.push((seq, name));
            }
        }
    }
}

#[test]
fn a_kill_before_the_number_is_noted_leaves_it_published() {
    let temp = TempDir::new();
    let dir = StateDir::open(&temp.path().join("s")).unwrap();
    let (mut file, _, _) = open(&dir, 10);
    file.begin_generation(5);
    append(&mut file, 1, None);
    let published = file.published(5, 3);
    file.word(PUBLISHED + 1).store(0, Ordering::Relaxed);
    assert_eq!(file.published(5, 3), published);
}

#[test]
fn a_spoilt_file_is_begun_anew_or_its_damage_is_where_nothing_is() {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let temp = TempDir::new();
        let dir = StateDir::open(&temp.path().join("s")).unwrap();
        let (mut file, _, _) = open(&dir, 10);
        (1..=500).for_each(|seq| append(&mut file, seq, Some("name")));
        drop(file);
        let path = dir.file(FILE);
        let good = std::fs::read(&path).unwrap();
        for _ in 0..200 {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << rng.below(8);
            }
            if rng.one_in(5) {
                bytes.truncate(rng.below(bytes.len() as u64) as usize);
            }
            std::fs::write(&path, &bytes).unwrap();
            let (_, held, anew) = open(&dir, 10);
            assert!(held.is_empty() == anew, "seed {seed}");
            assert!(anew || held.last().unwrap().0 <= 500, "seed {seed}");
        }
    }
}

#[test]
fn a_monitor_keeps_its_id_unless_it_is_given_one() {
    let temp = TempDir::new();
    let dir = StateDir::open(&temp.path().join("s")).unwrap();
    drop(open(&dir, 10));
    let other = Identity { monitor: 0xB2, epoch_ns: 88 };
    let open =
        |chosen| EventFile::open(&dir, 10, other, chosen, (0, &[]), |_| {}).unwrap().0.identity();
    assert_eq!(open(false), FRESH);
    assert_eq!(open(true), Identity { monitor: 0xB2, ..FRESH });
    assert_eq!(open(false), Identity { monitor: 0xB2, ..FRESH });
}

#[test]
fn a_file_begun_anew_takes_what_is_in_the_journals_for_told() {
    let temp = TempDir::new();
    let dir = StateDir::open(&temp.path().join("s")).unwrap();
    let (file, _) = EventFile::open(&dir, 10, FRESH, false, (9, &[3, 4]), |_| {}).unwrap();
    assert_eq!(file.published(9, 2), [3, 4]);
    drop(file);
    let (file, _) = EventFile::open(&dir, 500, FRESH, false, (8, &[7, 7]), |_| {}).unwrap();
    assert_eq!(file.published(9, 2), [3, 4], "of another size");
}

#[test]
fn pending_marks_are_replaced_once_and_the_file_is_whole_at_every_point() {
    let temp = TempDir::new();
    let dir = StateDir::open(&temp.path().join("s")).unwrap();
    let open = || {
        let mut marks = Vec::new();
        let each = |published: Published<'_>| marks.push(published.marks);
        let (file, anew) = EventFile::open(&dir, 10, FRESH, false, (0, &[]), each).unwrap();
        assert_eq!(anew, None);
        (file, marks)
    };
    let (mut file, _) = open();
    for (seq, marks) in [(1, 7), (2, PENDING), (3, PENDING)] {
        let (transition, origin) = (transition(seq), Origin::new(0, seq));
        let (name, group) = (None, "web");
        file.append(&Published { seq, origin, transition, marks, wall_offset_ns: 0, name, group });
    }
    assert_eq!(open().1, [7, PENDING, PENDING]);
    file.settle(2, &[1 << 33 | 5]);
    assert_eq!(open().1, [7, 1 << 33 | 5, PENDING]);
    file.settle(1, &[8, 9, 10]);
    assert_eq!(open().1, [7, 1 << 33 | 5, 10]);
}
