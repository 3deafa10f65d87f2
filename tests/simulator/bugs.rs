//! Bugs that are planted to see that the simulator bites: each one a mistake that somebody who works
//! on this program could make, in a place that the simulator stands in for.

use super::machine::Seat;
use super::scenario::MS;
use std::ops::RangeInclusive;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The transport says that its queue is empty without asking the kernel, so a deadline is judged
    /// before what had arrived was read.
    BacklogUnasked,
    /// When the buffers run out, the datagram that found none is dropped and nobody counts it.
    ExhaustedBufferLosesOne,
    /// A receive buffer is given back before its datagram was taken in, and comes a second time.
    BufferHandedOutTwice,
    /// The clock is read once in ten milliseconds, since it was thought to be slow: a heartbeat is
    /// dated before it came.
    CachedClock,
    /// The reactor runs by the wall clock, which is set now and then.
    WallClock,
    /// The watermark is raised in every turn, also when only what was announced has been read.
    WatermarkRunsAhead,
    /// A reactor that is handed a heartbeat while it sleeps is not woken.
    WakeUpLost,
    /// The control plane throws away what it takes while another ring has more.
    TransitionLost,
    /// The control plane publishes the last transition of a round again with the next.
    TransitionDoubled,
    /// A new process does not grant the time in which there was none.
    AbsenceNotGranted,
    /// A new process does not know until when the one before looked, and takes all time before its
    /// start for blindness.
    LastLookForgotten,
    /// A process that is handed the sockets does not ask what they dropped meanwhile.
    LossesInherited,
    /// It does not know that its peers' heartbeats may lie in the sockets of other reactors.
    MailForgotten,
    /// A new process takes the whole journal for published.
    JournalTailUntold,
}

impl Bug {
    pub const ALL: &'static [Bug] = &[
        Bug::BacklogUnasked,
        Bug::ExhaustedBufferLosesOne,
        Bug::BufferHandedOutTwice,
        Bug::CachedClock,
        Bug::WallClock,
        Bug::WatermarkRunsAhead,
        Bug::WakeUpLost,
        Bug::TransitionLost,
        Bug::TransitionDoubled,
        Bug::AbsenceNotGranted,
        Bug::LastLookForgotten,
        Bug::LossesInherited,
        Bug::MailForgotten,
        Bug::JournalTailUntold,
    ];

    /// Among these seeds it must be found: about ten times as many as it takes. Where that is many, they
    /// begin shortly before one that finds it.
    pub fn seeds(self) -> RangeInclusive<u64> {
        match self {
            // Another reactor must have a heartbeat unread at the very time that it is judged.
            Bug::WatermarkRunsAhead => 801..=2_800,
            // The same, and a deadline at once behind the start.
            Bug::MailForgotten => 1_201..=4_200,
            // An absence shorter than an interval, in which a queue runs over.
            Bug::LossesInherited => 101..=1_100,
            Bug::BacklogUnasked => 1..=250,
            _ => 1..=30,
        }
    }

    /// What a reactor with this bug takes for the time.
    pub fn clock_ns(self, now_ns: u64, seat: &Seat<'_>) -> u64 {
        match self {
            Bug::CachedClock => now_ns - now_ns % (10 * MS),
            Bug::WallClock => {
                // Set ahead by four intervals after every ten.
                let scale_ns = seat.world.scenario.scale_ns;
                now_ns + now_ns / (10 * scale_ns) * 4 * scale_ns
            }
            _ => now_ns,
        }
    }
}
