//! How deadlines are found: from the keys to a [`Policy`], for the monitor, its groups, and who tries
//! settings on a trace. All refuse the same.
//!
//! A value that is given and has no effect is refused, too: whoever gives a threshold and a detector that
//! has none means something else than what would run.

use super::layers::Given;
use super::sections::{self, GroupSettings, Look};
use super::{ConfigError, Layer, value};
use crate::engine::{Detector, Policy};
use std::time::Duration;

/// The longest timeout, and the ceiling that sets no limit.
pub const LONGEST: Duration = Duration::from_secs(1_000 * 86_400);

/// The policy that flags alone make, as the monitor would take them, but without grace unless that is
/// given: a trace is to show what the detector does.
///
/// # Errors
/// As the monitor's.
pub fn policy_of(flags: &Layer) -> Result<Policy, ConfigError> {
    let mut policy = policy(&Look::at(flags))?;
    all_used(flags, &policy, &[])?;
    if flags.given("grace").is_default() {
        policy.grace_ns = 0;
    }
    Ok(policy)
}

/// The keys that one detector has to itself.
const OWN: [(&str, &str); 4] =
    [("timeout", "fixed"), ("threshold", "phi"), ("margin", "chen"), ("deviations", "blend")];

/// The detector that is meant where none is named, but a constant of its own is given.
fn implied(look: &Look<'_>) -> Option<&'static str> {
    if !look.given("detector").is_default() {
        return None;
    }
    OWN.into_iter().find(|(name, _)| is_set(&look.given(name))).map(|(_, word)| word)
}

/// Whether there is a value other than the one that leaves it to the monitor.
fn is_set(given: &Given<'_>) -> bool {
    given.texts().last().is_some_and(|text| text.trim() != "auto")
}

/// Refuses values that play no part. What is given for all plays one where a group's section does not
/// say otherwise.
pub(super) fn all_used(
    layer: &Layer,
    policy: &Policy,
    groups: &[GroupSettings],
) -> Result<(), ConfigError> {
    let looks = std::iter::once(Look::at(layer)).chain(sections::looks(layer));
    let policies = std::iter::once(policy).chain(groups.iter().map(|group| &group.policy));
    let places: Vec<(Look<'_>, Detector)> =
        looks.zip(policies.map(|policy| policy.detector)).collect();
    let names = OWN.into_iter().map(|(name, _)| name).chain(["missed"]);
    for (name, at) in names.flat_map(|name| (0..places.len()).map(move |at| (name, at))) {
        let Some(given) = places[at].0.own(name).filter(is_set) else { continue };
        let holds = |other: usize| other == at || (at == 0 && places[other].0.own(name).is_none());
        if !(0..places.len()).any(|other| holds(other) && plays_a_part(name, places[other].1)) {
            return Err(given.unused(match OWN.iter().find(|(own, _)| *own == name) {
                Some((_, word)) => format!(
                    "with the detector {}; leave it out, or set the detector {word}",
                    places[at].1
                ),
                None => "beside a timeout; leave out one of them".to_owned(),
            }));
        }
    }
    Ok(())
}

fn plays_a_part(name: &str, detector: Detector) -> bool {
    match OWN.iter().find(|(own, _)| *own == name) {
        Some((_, word)) => detector.as_str() == *word,
        None => !matches!(detector, Detector::Fixed { timeout_ns: Some(_) }),
    }
}

fn detector(look: &Look<'_>, timeout: Option<Duration>) -> Result<Detector, ConfigError> {
    let threshold = look.given("threshold").one(|t| value::number(t, 0.01, 1_000.0))?;
    let margin = look.given("margin").one(|t| value::duration(t, Duration::ZERO, LONGEST))?;
    let deviations = look.given("deviations").one(|t| value::number(t, 0.0, 1_000.0))?;
    let words = Detector::WORDS.map(|word| (word, word));
    let mut detector: Detector = look.given("detector").one(|text| {
        let word = match implied(look) {
            Some(word) => word,
            None => value::choice(text, &words)?,
        };
        match timeout {
            Some(_) if word != "fixed" => Err("has no use for the timeout that is set".into()),
            _ => word.parse().map_err(|_| "is not a choice".to_owned()),
        }
    })?;
    match &mut detector {
        Detector::Fixed { timeout_ns } => *timeout_ns = timeout.map(|t| t.as_nanos() as u64),
        Detector::Chen(chen) => chen.margin_ns = margin.as_nanos() as u64,
        Detector::Phi(phi) => phi.set_threshold(threshold),
        Detector::Blend(blend) => blend.deviations = deviations as f32,
        Detector::Bertier(_) => {}
    }
    Ok(detector)
}

/// How deadlines are found at a place.
///
/// # Errors
/// A value that is none, or out of range.
pub(super) fn policy(look: &Look<'_>) -> Result<Policy, ConfigError> {
    const DAY: Duration = Duration::from_secs(86_400);
    let forget =
        |given: Given<'_>| given.one(|t| value::duration(t, Duration::from_secs(1), LONGEST));
    let interval =
        look.given("interval").one(|t| value::duration(t, Duration::from_millis(1), 90 * DAY))?;
    let grace = look
        .given("grace")
        .one(|t| value::duration(t, Duration::ZERO, Duration::from_secs(3600)))?;
    let any = |t: &str| value::duration(t, Duration::ZERO, LONGEST);
    let timeout = look.given("timeout").one(|text| match text {
        "auto" => Ok(None),
        _ => value::duration(text, Duration::from_millis(1), LONGEST).map(Some),
    })?;
    let (floor, ceiling) = (look.given("floor").one(any)?, look.given("ceiling").one(any)?);
    if floor > ceiling {
        let given = look.given("floor");
        let text = given.texts().last().map_or("", String::as_str);
        return Err(given.error(text, "is above the ceiling".into()));
    }
    Ok(Policy {
        detector: detector(look, timeout)?,
        floor_ns: floor.as_nanos() as u64,
        ceiling_ns: ceiling.as_nanos() as u64,
        // Rounded up, as a sender's own interval is: a deadline may be late by a tick, never early.
        default_interval_us: interval.as_nanos().div_ceil(1_000) as u64,
        missed: look.given("missed").one(|t| value::number(t, 1.0, 1_000.0))?,
        grace_ns: grace.as_nanos() as u64,
        suspect_fraction: look.given("suspect-at").one(|t| value::share(t, 0.01, 1.0))?,
        forget_down_ns: forget(look.given("forget-down"))?.as_nanos() as u64,
        forget_left_ns: forget(look.given("forget-left"))?.as_nanos() as u64,
    })
}
