//! What a follower of the notes is told that their log does not hold: which incidents are open, to who
//! begins; and to who comes back from before the log (of an earlier process, or too long ago) the
//! beginnings and ends that it has missed.
//!
//! ```text
//!                   of the alarms ─┐       ┌─ of the log
//!   seen ────────▶│ opened, closed │ notes … ───────▶
//!               after            begins
//! ```
//!
//! So whoever follows knows each open incident, hears each end once, and of none of which it does not know.

use super::ControlState;
use super::alarms::Alarms;
use super::incidents::{Incident, Step, Told};
use super::notes::{Note, NoteEntry, Place};
use crate::clock;

impl ControlState {
    /// At most `most` notes behind a place, in order; of what the log does not hold any more, the
    /// beginnings and ends of incidents, with their figures of now.
    pub fn notes_after(&self, after: Place, most: usize) -> Vec<NoteEntry> {
        let (held, begins) = self.notes.read(after, most);
        let mut all = if after < begins { self.steps(after, begins) } else { Vec::new() };
        all.extend(held);
        all.truncate(most);
        all
    }

    /// The incidents that are open to who has seen all up to a place, as notes at that place.
    pub fn standing(&self, upto: Place) -> Vec<NoteEntry> {
        let alarms = self.alarms();
        let began = |incident: &&Incident| incident.opened_at.is_some_and(|at| at <= upto);
        let goes_on = |incident: &&Incident| incident.closed_at.is_none_or(|at| at > upto);
        let incidents = alarms.incidents.open_ones().chain(alarms.incidents.closed_ones());
        let mut standing: Vec<_> = incidents.filter(began).filter(goes_on).collect();
        standing.sort_by_key(|incident| incident.figures.id);
        let now_ns = clock::monotonic_ns();
        let note = |incident| self.step_of(&alarms, incident, Step::Open, now_ns, upto);
        standing.into_iter().map(note).collect()
    }

    fn steps(&self, after: Place, upto: Place) -> Vec<NoteEntry> {
        let alarms = self.alarms();
        let mut all = Vec::new();
        for incident in alarms.incidents.open_ones().chain(alarms.incidents.closed_ones()) {
            let figures = &incident.figures;
            let began = (incident.opened_at, Step::Opened, figures.opened_ns);
            let ended = (incident.closed_at, Step::Closed, figures.closed_ns);
            for (place, step, at_ns) in [began, ended] {
                if let Some(place) = place.filter(|place| after < *place && *place <= upto) {
                    all.push(self.step_of(&alarms, incident, step, at_ns, place));
                }
            }
        }
        all.sort_by_key(|entry| entry.place);
        all
    }

    fn step_of(
        &self,
        alarms: &Alarms,
        incident: &Incident,
        step: Step,
        at_ns: u64,
        place: Place,
    ) -> NoteEntry {
        let mut figures = incident.figures;
        if step != Step::Closed {
            figures.closed_ns = 0;
        }
        let note = Note::Incident(Told { at_ns, step, figures });
        let names = alarms.names_of(&note).unwrap_or_else(|| self.names_of(&note));
        NoteEntry { note, place, wall_offset_ns: self.wall_offset_ns(), names }
    }
}
