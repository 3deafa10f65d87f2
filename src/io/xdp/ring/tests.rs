//! The rings against a scripted kernel that keeps its frames in plain queues.

use super::*;
use crate::io::tests::{Random, seeds};
use memmap2::MmapMut;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

const OFFSETS: libc::xdp_ring_offset =
    libc::xdp_ring_offset { producer: 0, consumer: 64, desc: 128, flags: 68 };

fn ring(entries: u32, start: u32) -> Ring {
    let memory = MmapMut::map_anon(Ring::bytes(&OFFSETS, entries, 16)).expect("memory");
    let ring = Ring::new(memory.into(), OFFSETS, entries);
    ring.producer().store(start, Ordering::Relaxed);
    ring.consumer().store(start, Ordering::Relaxed);
    ring
}

/// The kernel's side of both rings.
struct Kernel {
    filled_from: u32,
    received_to: u32,
    /// Frames that it took from the fill ring and has not written yet.
    held: VecDeque<u64>,
}

impl Kernel {
    /// Takes a frame from the fill ring, if there is one.
    fn refill(&mut self, frames: &Frames) -> bool {
        let published = frames.fill.producer().load(Ordering::Acquire);
        if published == self.filled_from {
            return false;
        }
        // SAFETY: published by our side, and not overwritten before it is consumed.
        let address = unsafe { frames.fill.entry::<u64>(self.filled_from).read() };
        assert_eq!(address % FRAME_BYTES as u64, 0, "a frame is given back by its start");
        self.held.push_back(address);
        self.filled_from = self.filled_from.wrapping_add(1);
        frames.fill.consumer().store(self.filled_from, Ordering::Release);
        true
    }

    /// A frame arrives. False when it is dropped for want of a place.
    fn arrive(&mut self, frames: &Frames, bytes: &[u8]) -> bool {
        let consumed = frames.receive.consumer().load(Ordering::Acquire);
        if self.received_to.wrapping_sub(consumed) == frames.receive.entries {
            return false;
        }
        let Some(start) = self.held.pop_front() else { return false };
        let addr = start + 256;
        let len = bytes.len() as u32;
        // SAFETY: the frame is the kernel's, and so is the entry until it is published.
        unsafe {
            frames.umem.at(addr, len).copy_from(bytes.as_ptr(), bytes.len());
            let entry = frames.receive.entry::<libc::xdp_desc>(self.received_to);
            entry.write(libc::xdp_desc { addr, len, options: 0 });
        }
        self.received_to = self.received_to.wrapping_add(1);
        frames.receive.producer().store(self.received_to, Ordering::Release);
        true
    }
}

fn rig(count: u32) -> (Frames, Kernel) {
    let frames = Frames::new(ring(count, 0), ring(count, 0), Umem::new(count).expect("memory"));
    (frames, Kernel { filled_from: 0, received_to: 0, held: VecDeque::new() })
}

#[test]
fn whatever_happens_every_frame_is_in_one_place_and_what_arrives_is_handed_on_in_order() {
    for seed in seeds() {
        let mut random = Random(seed);
        let (frames, mut kernel) = rig(32);
        let mut sent: VecDeque<Vec<u8>> = VecDeque::new();
        for step in 0..30_000 {
            match random.below(4) {
                0 => {
                    (0..random.below(40)).for_each(|_| _ = kernel.refill(&frames));
                }
                1 => {
                    let bytes: Vec<u8> = (0..random.below(1792)).map(|_| step as u8).collect();
                    if kernel.arrive(&frames, &bytes) {
                        sent.push_back(bytes);
                    }
                }
                2 => {
                    assert_eq!(frames.waiting() as usize, sent.len(), "seed {seed} step {step}");
                    let leases: Vec<_> =
                        (0..random.below(1 + sent.len() as u64)).map(|_| frames.take()).collect();
                    for lease in &leases {
                        let expected = sent.pop_front().expect("no more than were waiting");
                        assert!(lease.bytes() == expected, "seed {seed} step {step}");
                    }
                    if random.below(10) == 0 {
                        // Whoever looks at them may panic.
                        let looked = catch_unwind(AssertUnwindSafe(move || {
                            let _leases = leases;
                            std::panic::resume_unwind(Box::new(()));
                        }));
                        assert!(looked.is_err());
                    }
                }
                _ => frames.publish(),
            }
        }
        frames.publish();
        while kernel.refill(&frames) {}
        let waiting = (0..frames.waiting()).map(|nth| {
            let at = frames.taken.get().wrapping_add(nth);
            // SAFETY: published by the scripted kernel.
            unsafe { frames.receive.entry::<libc::xdp_desc>(at).read() }.addr
        });
        let places: Vec<u64> = waiting.chain(kernel.held).collect();
        let distinct: BTreeSet<u64> = places.iter().map(|at| at / FRAME_BYTES as u64).collect();
        assert_eq!((places.len(), distinct.len()), (32, 32), "seed {seed}: none lost, none twice");
    }
}

#[test]
fn the_counts_wrap() {
    let start = u32::MAX - 100;
    let frames = Frames {
        receive: ring(8, start),
        fill: ring(8, start),
        umem: Umem::new(8).expect("memory"),
        taken: Cell::new(start),
        given: Cell::new(start),
    };
    (0..8).for_each(|frame| frames.give(frame * FRAME_BYTES as u64));
    frames.publish();
    let mut kernel = Kernel { filled_from: start, received_to: start, held: VecDeque::new() };
    for turn in 0..500u32 {
        while kernel.refill(&frames) {}
        assert!(kernel.arrive(&frames, &turn.to_le_bytes()), "turn {turn}");
        assert_eq!(frames.waiting(), 1);
        assert_eq!(frames.take().bytes(), turn.to_le_bytes());
        frames.publish();
    }
}

#[test]
fn what_is_not_published_is_not_seen() {
    let (frames, mut kernel) = rig(4);
    while kernel.refill(&frames) {}
    assert!(kernel.arrive(&frames, b"one"));
    drop(frames.take());
    assert!(!kernel.refill(&frames));
    frames.publish();
    assert!(kernel.refill(&frames));
}

#[test]
#[should_panic(expected = "the kernel names 2000 bytes at 256")]
fn a_descriptor_that_leaves_its_frame_is_a_broken_invariant() {
    Umem::new(4).expect("memory").at(256, 2000);
}
