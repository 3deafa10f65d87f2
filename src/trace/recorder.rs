//! Records arrivals to a file, off the reactors.
//!
//! ```text
//!  reactor ─▶ Tap ─▶ ring ─┐
//!  reactor ─▶ Tap ─▶ ring ─┴─▶ recorder thread, every 20 ms ─▶ FILE ─▶ FILE.1 ─▶ FILE.2 …
//! ```
//!
//! A reactor only pushes: no lock, no allocation, no system call, nobody woken. When the ring is full
//! (the disk is slow) or the file has failed, the heartbeat is left out of the recording and counted,
//! there and in the recording itself. A file that has reached its size, or that an earlier process began,
//! becomes `FILE.1`, that one `FILE.2`, and so on. The oldest go when all together are larger than so many
//! full ones: so the recording has a bound, a start costs nothing of it, and each file can be read by itself.

use super::Arrival;
use super::format::{Encoder, HEADER, is_recording};
use crate::clock;
use crate::wire::{Heartbeat, Kind, PeerId, Status, encode_interval};
use crossbeam::queue::ArrayQueue;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::error;

/// Heartbeats that a reactor's ring holds.
pub const RING: usize = 65_536;
/// How often the recorder looks. A ring lasts for 3 million heartbeats a second.
const LOOK: Duration = Duration::from_millis(20);
/// A block is written when it has so many bytes …
const BLOCK: usize = 64 << 10;
/// … or when it is so old, so that a crash costs no more.
const FLUSH_NS: u64 = 1_000_000_000;
/// Files, however small: each start may leave one.
const MOST_FILES: u32 = 1_000;

/// What a ring holds.
type Heard = (PeerId, Arrival);

/// A reactor's end: takes what it has heard.
#[derive(Clone, Debug)]
pub struct Tap(Arc<Pipe>);

#[derive(Debug)]
struct Pipe {
    ring: ArrayQueue<Heard>,
    /// Left out since the last block.
    dropped: AtomicU64,
}

impl Tap {
    fn new(capacity: usize) -> Tap {
        Tap(Arc::new(Pipe { ring: ArrayQueue::new(capacity), dropped: AtomicU64::new(0) }))
    }

    /// Takes heartbeats that had arrived by `now_ns`. Returns how many had no room.
    #[inline]
    pub fn take(&self, beats: &[Heartbeat], now_ns: u64) -> u64 {
        let refused = |beat: &&Heartbeat| {
            let arrival = Arrival {
                arrived_ns: now_ns.saturating_sub(u64::from(beat.age_us) * 1_000),
                sent_ns: beat.sent_ns,
                sequence: beat.sequence,
                incarnation: beat.incarnation,
                interval: encode_interval(beat.interval_us),
                bye: beat.kind == Kind::Bye,
                maintenance: beat.status == Status::Maintenance,
                unsequenced: !beat.sequenced,
            };
            self.0.ring.push((beat.peer, arrival)).is_err()
        };
        let dropped = beats.iter().filter(refused).count() as u64;
        if dropped > 0 {
            // Relaxed: a count that stands for itself.
            self.0.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        dropped
    }
}

/// Where to record, and how much of it to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordSettings {
    /// The file.
    pub path: PathBuf,
    /// Bytes after which a new file is begun.
    pub file_bytes: u64,
    /// So many full files is the most that all together may be; at least 1.
    pub files: u32,
}

/// The thread that writes.
pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begins a recording for so many reactors; one that is there already is rotated out of the way.
    ///
    /// # Errors
    /// The file cannot be begun, or no thread be had.
    pub fn start(settings: RecordSettings, reactors: usize) -> io::Result<(Recorder, Vec<Tap>)> {
        let taps: Vec<Tap> = (0..reactors).map(|_| Tap::new(RING)).collect();
        may_record(&settings.path)?;
        let mut writer = Writer::begin(settings)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ends, sources) = (stop.clone(), taps.clone());
        let body = move || {
            loop {
                // Acquire: partner of the Release in `Drop`; what was pushed before is seen below.
                let last = ends.load(Ordering::Acquire);
                if let Err(error) = writer.round(&sources, last) {
                    error!(%error, file = %writer.settings.path.display(), "the recording ends");
                    return;
                }
                if last {
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("systole-record".into()).spawn(body)?;
        Ok((Recorder { stop, thread: Some(thread) }, taps))
    }
}

impl Drop for Recorder {
    /// Writes what is left.
    fn drop(&mut self) {
        // Release: partner of the Acquire in the loop.
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic has printed itself.
            let _ = thread.join();
        }
    }
}

/// One recording's file at hand.
struct Writer {
    settings: RecordSettings,
    file: File,
    encoder: Encoder,
    written: u64,
    flushed_ns: u64,
}

impl Writer {
    fn begin(settings: RecordSettings) -> io::Result<Writer> {
        rotate(&settings)?;
        let (file, encoder) = create(&settings.path)?;
        let flushed_ns = clock::monotonic_ns();
        Ok(Writer { settings, file, encoder, written: HEADER as u64, flushed_ns })
    }

    /// Takes what the rings hold, and writes what is ready; on the last round, everything.
    fn round(&mut self, taps: &[Tap], last: bool) -> io::Result<()> {
        for tap in taps {
            // No more than it holds: a reactor that never pauses must not keep the others waiting.
            for _ in 0..tap.0.ring.capacity() {
                let Some((peer, arrival)) = tap.0.ring.pop() else { break };
                self.encoder.push(peer, &arrival);
                if self.encoder.len() >= BLOCK {
                    self.write(taps)?;
                }
            }
        }
        let now_ns = clock::monotonic_ns();
        if last || now_ns.saturating_sub(self.flushed_ns) >= FLUSH_NS {
            self.write(taps)?;
            self.flushed_ns = now_ns;
        }
        Ok(())
    }

    /// Writes the block, and begins another file when this one is full.
    fn write(&mut self, taps: &[Tap]) -> io::Result<()> {
        // Relaxed: as in `take`.
        let dropped: u64 = taps.iter().map(|tap| tap.0.dropped.swap(0, Ordering::Relaxed)).sum();
        if self.encoder.is_empty() && dropped == 0 {
            return Ok(());
        }
        let (file, mut outcome) = (&mut self.file, Ok(0));
        self.encoder.take(u32::try_from(dropped).unwrap_or(u32::MAX), |block| {
            outcome = file.write_all(block).map(|()| block.len() as u64);
        });
        self.written += outcome?;
        if self.written >= self.settings.file_bytes {
            rotate(&self.settings)?;
            (self.file, self.encoder) = create(&self.settings.path)?;
            self.written = HEADER as u64;
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<(File, Encoder)> {
    let (encoder, header) = Encoder::new(clock::wall_ns(), clock::monotonic_ns());
    let mut file = File::create(path)?;
    file.write_all(&header)?;
    Ok((file, encoder))
}

/// Whether a recording may be begun there: nothing is there, or a recording, which moves on for it, or an
/// empty file.
///
/// # Errors
/// It is something else.
pub fn may_record(path: &Path) -> io::Result<()> {
    let is_free = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => false,
        Ok(found) => found.len() == 0 || is_recording(&beginning(path)?),
        Err(_) => true,
    };
    match is_free {
        true => Ok(()),
        false => Err(io::Error::other("it is there, and is no recording")),
    }
}

fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER);
    File::open(path)?.take(HEADER as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes way for a new file: each moves on by one, and the oldest are removed, so that there is room for
/// a full one more. One without a heartbeat is not kept.
fn rotate(settings: &RecordSettings) -> io::Result<()> {
    let path = |number: u32| match number {
        0 => settings.path.clone(),
        _ => {
            let mut name = settings.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        }
    };
    let bytes = |number: u32| std::fs::metadata(path(number)).ok().map(|found| found.len());
    if bytes(0).is_none_or(|bytes| bytes <= HEADER as u64) {
        return Ok(());
    }
    let mut room = u64::from(settings.files - 1) * settings.file_bytes;
    let mut kept = 0;
    while kept < MOST_FILES - 1
        && let Some(bytes) = bytes(kept)
        // A full one is a block larger, at most.
        && let Some(left) = room.checked_sub(bytes.min(settings.file_bytes))
    {
        (room, kept) = (left, kept + 1);
    }
    let mut number = kept;
    while bytes(number).is_some() {
        std::fs::remove_file(path(number))?;
        number += 1;
    }
    for number in (0..kept).rev() {
        std::fs::rename(path(number), path(number + 1))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use crate::trace::Trace;

    fn beat(peer: u64, sequence: u32) -> Heartbeat {
        Heartbeat {
            peer: PeerId(peer),
            kind: Kind::Beat,
            status: Status::Ok,
            sequenced: true,
            key_id: 0,
            incarnation: 1,
            sequence,
            interval_us: 1_000_000,
            sent_ns: 5,
            age_us: 2,
            profile_digest: 0,
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("systole-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_the_taps_take_is_in_the_file_when_the_recorder_has_ended() {
        let directory = directory("recorder");
        let path = directory.join("fleet.rec");
        let settings = RecordSettings { path: path.clone(), file_bytes: 1 << 20, files: 2 };
        let (recorder, taps) = Recorder::start(settings, 2).unwrap();
        for sequence in 0..100 {
            for (place, tap) in taps.iter().enumerate() {
                let now_ns = 1_000_000 * u64::from(sequence + 1);
                assert_eq!(tap.take(&[beat(place as u64 + 1, sequence)], now_ns), 0);
            }
        }
        drop(recorder);
        let trace = Trace::open(&path).unwrap();
        assert_eq!((trace.arrivals(), trace.losses.dropped, trace.losses.torn_bytes), (200, 0, 0));
        let mut names: Vec<&str> = trace.peers.iter().map(|peer| &*peer.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["0000000000000001", "0000000000000002"]);
        let last = trace.peers[0].arrivals[99];
        assert_eq!((last.sequence, last.arrived_ns), (99, 100_000_000 - 2_000));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_no_file_stays_where_it_is() {
        let temp = TempDir::new();
        let path = temp.path().join("logs");
        std::fs::create_dir(&path).unwrap();
        let settings = RecordSettings { path: path.clone(), file_bytes: 1 << 20, files: 3 };
        let error = Recorder::start(settings, 1).map(drop).unwrap_err();
        assert_eq!(error.to_string(), "it is there, and is no recording");
        assert!(path.is_dir());
        assert!(may_record(std::path::Path::new("/dev/null")).is_err());
        let notes = temp.path().join("notes");
        std::fs::write(&notes, "important").unwrap();
        assert!(may_record(&notes).is_err());
    }

    #[test]
    fn starts_cost_nothing_of_a_recording_that_is_smaller_than_it_may_be() {
        let temp = TempDir::new();
        let path = temp.path().join("fleet.rec");
        let numbered = |number: u32| temp.path().join(format!("fleet.rec.{number}"));
        let settings = RecordSettings { path, file_bytes: 1_000, files: 3 };
        let tap = Tap::new(64);
        let record = |beats: u32| {
            let mut writer = Writer::begin(settings.clone()).unwrap();
            (0..beats).for_each(|sequence| _ = tap.take(&[beat(1, sequence)], 7_000_000));
            writer.round(std::slice::from_ref(&tap), true).unwrap();
        };
        record(30);
        // Whoever records nothing leaves nothing.
        (0..10).for_each(|_| record(0));
        (1..=10).for_each(record);
        let beats = |number| Trace::open(&numbered(number)).unwrap().arrivals();
        assert_eq!((1..=10).map(beats).collect::<Vec<_>>(), [9, 8, 7, 6, 5, 4, 3, 2, 1, 30]);
        let all = || (1..).map_while(|number| std::fs::metadata(numbered(number)).ok());
        // Until there is no room.
        (0..100).for_each(|_| record(40));
        let bytes: u64 = all().map(|file| file.len()).sum();
        assert!((1_500..=2_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn files_rotate_and_their_number_is_bounded() {
        let directory = directory("rotate");
        let path = directory.join("fleet.rec");
        let settings = RecordSettings { path: path.clone(), file_bytes: 1, files: 3 };
        let tap = Tap::new(8);
        let mut writer = Writer::begin(settings).unwrap();
        for sequence in 0..5 {
            tap.take(&[beat(1, sequence)], 7_000_000);
            writer.round(std::slice::from_ref(&tap), true).unwrap();
        }
        let mut files: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["fleet.rec", "fleet.rec.1", "fleet.rec.2"]);
        let sequences = |name: &str| {
            let trace = Trace::open(&directory.join(name)).unwrap();
            trace.peers.first().map(|peer| peer.arrivals[0].sequence)
        };
        assert_eq!(
            files.iter().map(|file| sequences(file)).collect::<Vec<_>>(),
            [None, Some(4), Some(3)]
        );
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_has_no_room_is_counted_here_and_in_the_recording() {
        let directory = directory("full");
        let path = directory.join("fleet.rec");
        let settings = RecordSettings { path: path.clone(), file_bytes: 1 << 20, files: 1 };
        let tap = Tap::new(4);
        let beats: Vec<Heartbeat> = (0..7).map(|sequence| beat(1, sequence)).collect();
        assert_eq!(tap.take(&beats, 1_000_000), 3);
        Writer::begin(settings).unwrap().round(std::slice::from_ref(&tap), true).unwrap();
        let trace = Trace::open(&path).unwrap();
        assert_eq!((trace.arrivals(), trace.losses.dropped), (4, 3));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_at_the_start() {
        let path = PathBuf::from("/nonexistent/fleet.rec");
        assert!(Recorder::start(RecordSettings { path, file_bytes: 1, files: 2 }, 1).is_err());
    }
}
