//! `systole serve --check`: what the monitor would do with these settings, and nothing of it done.
//!
//! All that is read at the start is read: flags, environment, the file, the file of keys. What would
//! keep it from starting is found out by [`foresee`](super::foresee), beside a monitor that runs, too.

use super::run::default_reactors;
use super::{Failure, state, takeover, words};
use crate::config::{ExpectSettings, Settings, keys_file};
use crate::engine::Policy;
use crate::engine::brake::BrakeSettings;
use crate::engine::detector::{Arrivals, Detector};
use std::time::Duration;

/// Most groups, keys and expectations that are listed one by one.
const MOST_LISTED: usize = 20;

/// What the monitor would do.
///
/// # Errors
/// The file of keys cannot be used (exit code 2).
pub fn check(settings: &Settings) -> Result<String, Failure> {
    let mut rows = vec![
        ("settings", source(settings)),
        ("heartbeats", format!("udp {}", list(settings.udp.iter().map(ToString::to_string)))),
        ("people", format!("http {}", settings.http)),
        ("verdicts", timing(&settings.policy)),
        ("mass silence", brake(&settings.brake)),
    ];
    let groups = settings.groups.iter().map(|group| {
        let mut text = format!("{}: {}", group.name, timing(&group.policy));
        if group.brake != settings.brake {
            text.push_str(&format!("; mass silence {}", brake(&group.brake)));
        }
        if let Some(parent) = &group.parent {
            text.push_str(&format!("; behind {parent}"));
        }
        ("group", text)
    });
    rows.extend(bounded(groups, "groups"));
    rows.extend(expected(settings));
    rows.extend(senders(settings)?);
    rows.push(("state", kept(settings)));
    rows.push(("room for", room(settings)));
    if let Some(record) = &settings.record {
        let most = u64::from(record.files) * record.file_bytes;
        rows.push((
            "recording",
            format!("{}, {} bytes at most", record.path.display(), words::count(most)),
        ));
    }
    rows.push(("threads", threads(settings)));
    let lines = rows.iter().map(|(name, value)| format!("{name:<13} {value}"));
    let mut text: Vec<String> = lines.collect();
    text.push(
        "The settings hold: files, directories and addresses can be had. Nothing was started."
            .into(),
    );
    Ok(text.join("\n"))
}

fn source(settings: &Settings) -> String {
    match &settings.config {
        Some(path) => format!("from {}, and flags and variables over it", path.display()),
        None => "from flags, variables and defaults; no --config".into(),
    }
}

/// When a peer that states no interval is suspect, and when it is down.
fn timing(policy: &Policy) -> String {
    let deadlines = policy.deadlines(&Arrivals::NONE, 0);
    let suspect = match deadlines.suspect_ns < deadlines.down_ns {
        true => format!("suspect after {}, ", to_the_microsecond(deadlines.suspect_ns)),
        false => String::new(),
    };
    let until = match policy.detector {
        Detector::Fixed { .. } => String::new(),
        _ => format!(" until {} has learnt", policy.detector),
    };
    let interval = words::exact(policy.default_interval_us * 1_000);
    let down = to_the_microsecond(deadlines.down_ns);
    format!("at an interval of {interval} {suspect}down after {down}{until}")
}

fn brake(brake: &BrakeSettings) -> String {
    if *brake == BrakeSettings::OFF {
        return "is not held".into();
    }
    format!(
        "is held for {} at most: {} % of the living, and {} peers at least",
        words::exact(brake.hold_ns),
        (f64::from(brake.share) * 1e4).round() / 1e2,
        words::count(brake.least.into())
    )
}

fn expected(settings: &Settings) -> Vec<(&'static str, String)> {
    let one = |expected: &ExpectSettings| {
        let (what, within) = match expected {
            ExpectSettings::Peer { name, within } => (name.clone(), within),
            ExpectSettings::Group { name, count, within } => {
                (format!("{} of {name}", words::plural((*count).into(), "peer")), within)
            }
        };
        ("expected", format!("{what}, missing after {}", in_words(*within)))
    };
    bounded(settings.expect.iter().map(one), "expected")
}

fn senders(settings: &Settings) -> Result<Vec<(&'static str, String)>, Failure> {
    let rule = match (settings.auth.as_str(), &settings.keys) {
        ("off", _) => "need no key (--auth off)".to_owned(),
        ("optional", _) => {
            "may prove who they are; whoever never has is taken, too (--auth optional)".into()
        }
        (rule, _) => format!("prove who they are (--auth {rule})"),
    };
    let mut rows = vec![("senders", rule)];
    if let Some(path) = &settings.keys {
        let keys = keys_file::read(path)?;
        let keys = keys.iter().map(|key| {
            let whom = match &key.groups {
                Some(groups) => format!("for {}", list(groups.iter().cloned())),
                None => "for every peer".into(),
            };
            ("key", format!("{} of {}, {whom}", key.key.id(), path.display()))
        });
        rows.extend(bounded(keys, "keys"));
    }
    Ok(rows)
}

fn kept(settings: &Settings) -> String {
    let Some((path, _)) = state::place(settings) else {
        return "is not kept over a restart".into();
    };
    let found = match (takeover::is_offered(&path), path.join("hot").exists()) {
        (true, _) if settings.takeover => "a monitor is using it, and would hand over",
        (true, _) => "a monitor is using it: only with --takeover would this one start",
        (false, true) => "there is state to go on with",
        (false, false) => "there is none yet",
    };
    format!("in {}; {found}", path.display())
}

fn room(settings: &Settings) -> String {
    format!(
        "{}, {} kept for who reconnects",
        words::plural(settings.max_peers.into(), "peer"),
        words::plural(settings.events as u64, "transition")
    )
}

fn threads(settings: &Settings) -> String {
    let reactors = settings.reactors.unwrap_or_else(default_reactors);
    format!(
        "{}, transport {}{}, idle {}",
        words::plural(reactors as u64, "reactor"),
        settings.transport,
        match &settings.xdp.interfaces[..] {
            [] => String::new(),
            interfaces => format!(" on {}", list(interfaces.iter().map(ToString::to_string))),
        },
        settings.idle.as_str()
    )
}

/// A deadline as the settings mean it: 0.7 × 3.05 s is computed in binary, a nanosecond short of 2.135 s.
fn to_the_microsecond(ns: u64) -> String {
    words::exact(ns.saturating_add(500) / 1_000 * 1_000)
}

fn in_words(duration: Duration) -> String {
    words::exact(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn list(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

/// The first rows, and how many more there are.
fn bounded(
    rows: impl ExactSizeIterator<Item = (&'static str, String)>,
    what: &'static str,
) -> Vec<(&'static str, String)> {
    let more = rows.len().saturating_sub(MOST_LISTED);
    let mut shown: Vec<_> = rows.take(MOST_LISTED).collect();
    if more > 0 {
        shown.push(("", format!("… and {} more {what}", words::count(more as u64))));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KEYS, Layer};
    use crate::testing::TempDir;

    fn check_of(flags: &[(&str, &str)]) -> String {
        let flag = |(name, text): &(&str, &str)| {
            (KEYS.iter().find(|key| key.name == *name).unwrap(), vec![text.to_string()])
        };
        let settings =
            Settings::load(Layer::from_flags(flags.iter().map(flag)), |_| None, None).unwrap();
        check(&settings).unwrap()
    }

    #[test]
    fn the_defaults_are_told_in_full() {
        let text = check_of(&[("state-dir", "none"), ("reactors", "2")]);
        assert_eq!(
            text,
            "settings      from flags, variables and defaults; no --config
heartbeats    udp 0.0.0.0:4600, [::]:4600
people        http 127.0.0.1:4680
verdicts      at an interval of 1 s suspect after 2.135 s, down after 3.05 s
mass silence  is held for 2m at most: 50 % of the living, and 100 peers at least
senders       need no key (--auth off)
state         is not kept over a restart
room for      1,000,000 peers, 65,536 transitions kept for who reconnects
threads       2 reactors, transport auto, idle hybrid
The settings hold: files, directories and addresses can be had. Nothing was started."
        );
    }

    #[test]
    fn groups_expectations_and_keys_are_told_too() {
        let temp = TempDir::new();
        let (file, keys) = (temp.path().join("systole.toml"), temp.path().join("keys"));
        let text = "[[group]]\nname = \"rack-*\"\nmissed = 5\nparent = \"switch-1\"\n\
                    mass_silence = \"off\"\n[[group]]\nname = \"lab\"\ndetector = \"chen\"\n\
                    [[expect]]\nnames = [\"db-1\"]\n[[expect]]\ngroup = \"web\"\ncount = 12\n";
        std::fs::write(&file, text).unwrap();
        std::fs::write(&keys, keys_file::written(7, &[1; 32], &["web".into()])).unwrap();
        let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&keys, owner).unwrap();
        let text = check_of(&[
            ("config", file.to_str().unwrap()),
            ("keys", keys.to_str().unwrap()),
            ("auth", "required"),
            ("state-dir", temp.path().to_str().unwrap()),
        ]);
        for line in [
            format!("settings      from {}, and flags and variables over it", file.display()),
            "group         rack-*: at an interval of 1 s suspect after 3.535 s, down after 5.05 s; \
             mass silence is not held; behind switch-1"
                .into(),
            "group         lab: at an interval of 1 s suspect after 2.135 s, down after 3.05 s until \
             chen has learnt"
                .into(),
            "expected      db-1, missing after 2m".into(),
            "expected      12 peers of web, missing after 2m".into(),
            "senders       prove who they are (--auth required)".into(),
            format!("key           7 of {}, for web", keys.display()),
            format!("state         in {}; there is none yet", temp.path().display()),
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
        }
        let text = check_of(&[("keys", keys.to_str().unwrap()), ("auth", "optional")]);
        assert!(text.contains("senders       may prove who they are; whoever never has is taken"));
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let rows = bounded((0..25).map(|i| ("group", i.to_string())), "groups");
        assert_eq!((rows.len(), rows[20].1.as_str()), (21, "… and 5 more groups"));
    }
}
