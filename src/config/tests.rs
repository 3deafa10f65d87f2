//! Which layer wins, and each message that a wrong setting earns.

use super::*;
use crate::engine::Detector;
use std::path::Path;

const PATH: &str = "/etc/systole.toml";

/// Settings from the three places, the file given by its text.
fn resolve(
    flags: &[(&str, &str)],
    env: &[(&str, &str)],
    file: &str,
) -> Result<Settings, ConfigError> {
    let flag = |(name, text): &(&str, &str)| {
        (KEYS.iter().find(|key| key.name == *name).expect("a known key"), vec![text.to_string()])
    };
    let mut layer = Layer::from_flags(flags.iter().map(flag));
    let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, t)| t.to_string());
    layer.fill_from(Layer::from_env(lookup));
    layer.fill_from(Layer::from_toml(file, Path::new(PATH))?);
    Settings::resolve(&layer)
}

fn complaint(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> String {
    resolve(flags, env, file).expect_err("this must be refused").to_string()
}

#[test]
fn the_defaults_hold_and_are_the_documented_ones() {
    let settings = resolve(&[], &[], "").unwrap();
    assert_eq!(settings.udp, ["0.0.0.0:4600".parse().unwrap(), "[::]:4600".parse().unwrap()]);
    assert!(settings.udp_is_default);
    assert_eq!(settings.http, "127.0.0.1:4680".parse().unwrap());
    assert_eq!(settings.policy.default_interval_us, 1_000_000);
    assert_eq!(settings.policy.missed, 3.0);
    assert_eq!(settings.policy.grace_ns, 50_000_000);
    assert_eq!(settings.policy.suspect_fraction, 0.7);
    assert_eq!(settings.policy.forget_down_ns, 7 * 86_400 * 1_000_000_000);
    assert_eq!(settings.policy.forget_left_ns, 3_600 * 1_000_000_000);
    assert_eq!((settings.max_peers, settings.reactors), (1_000_000, None));
    assert_eq!((settings.transport, settings.idle), (TransportChoice::Auto, IdleStrategy::Hybrid));
    assert_eq!(settings.receive_buffer_bytes, 64 << 20);
    assert_eq!((settings.events, settings.monitor_id), (65_536, None));
    assert_eq!((settings.log_format, settings.log_level.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let missed = |flags, env, file| resolve(flags, env, file).unwrap().policy.missed;
    let (flag, env, file) = ([("missed", "5")], [("SYSTOLE_MISSED", "6")], "missed = 7");
    assert_eq!(missed(&flag, &env, file), 5.0);
    assert_eq!(missed(&[], &env, file), 6.0);
    assert_eq!(missed(&[], &[], file), 7.0);
    assert_eq!(missed(&[], &[], ""), 3.0);
    assert_eq!(missed(&[], &[("SYSTOLE_MISSED", "")], file), 7.0, "an empty variable is not set");
}

#[test]
fn layers_mix_key_by_key() {
    let file = "max-peers = 1_000\ngrace = \"0ms\"\nudp = [\"127.0.0.1:1\", \"[::1]:2\"]\n";
    let env = [("SYSTOLE_MAX_PEERS", "2_000"), ("SYSTOLE_RECEIVE_BUFFER", "1M")];
    let settings = resolve(&[("monitor-id", "a1")], &env, file).unwrap();
    assert_eq!((settings.max_peers, settings.policy.grace_ns), (2_000, 0));
    assert_eq!(settings.udp, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert!(!settings.udp_is_default);
    assert_eq!((settings.receive_buffer_bytes, settings.monitor_id), (1 << 20, Some(0xa1)));
}

#[test]
fn every_key_has_a_variable_and_a_default_that_parses() {
    for key in KEYS.iter().filter(|key| key.name != "config") {
        let given = [(key.name, key.default)];
        resolve(&given, &[], "").unwrap_or_else(|e| panic!("{}: {e}", key.name));
        resolve(&[], &[(&key.variable(), key.default)], "").unwrap();
        let quoted = format!("{} = {:?}", key.name.replace('-', "_"), key.default);
        resolve(&[], &[], &quoted).unwrap_or_else(|e| panic!("{quoted}: {e}"));
    }
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    assert_eq!(
        complaint(&[], &[], "max_peer = 5"),
        "unknown key `max_peer` in /etc/systole.toml, did you mean `max_peers`? \
         `systole serve --help` lists every key"
    );
    assert_eq!(
        complaint(&[], &[], "colour = \"red\""),
        "unknown key `colour` in /etc/systole.toml; `systole serve --help` lists every key"
    );
    assert_eq!(
        complaint(&[], &[], "parent = \"switch-1\""),
        "unknown key `parent` in /etc/systole.toml; it belongs under a line [[group]]. \
         `systole serve --help` lists every key"
    );
    assert!(complaint(&[], &[], "[udp]\nx = 1").contains("is of type table"));
}

#[test]
fn an_unknown_section_is_named_with_the_nearest() {
    let known = "known are [[group]], [[expect]]";
    for (file, near) in [
        ("[[groups]]\nname = \"a\"", "[[groups]] in /etc/systole.toml, did you mean [[group]]?"),
        ("[groups]\nname = \"a\"", "[groups] in /etc/systole.toml, did you mean [[group]]?"),
        ("[[expected]]\nnames = []", "[[expected]] in /etc/systole.toml, did you mean [[expect]]?"),
        ("[[webhook]]\nurl = \"x\"", "[[webhook]] in /etc/systole.toml;"),
    ] {
        assert_eq!(complaint(&[], &[], file), format!("unknown section {near} {known}"));
    }
}

#[test]
fn a_bad_value_is_named_with_its_origin_and_what_is_right() {
    let range = "give a duration from 1ms to 90d, like 250ms, 3s or 1d";
    let table: &[(&str, String)] = &[
        ("5 parsecs", format!("--interval: `5 parsecs` is not a duration; {range}")),
        ("5", format!("--interval: `5` has no unit (s, ms, …); {range}")),
        ("0ms", format!("--interval: `0ms` is out of range; {range}")),
        ("91d", format!("--interval: `91d` is out of range; {range}")),
    ];
    for (text, message) in table {
        assert_eq!(&complaint(&[("interval", text)], &[], ""), message);
    }
    assert_eq!(
        complaint(&[], &[("SYSTOLE_IDLE", "spim")], ""),
        "SYSTOLE_IDLE: `spim` is not a choice (did you mean `spin`?); \
         give one of hybrid, spin, sleep"
    );
    assert_eq!(
        complaint(&[], &[], "max_peers = -3"),
        "max_peers in /etc/systole.toml: `-3` is out of range; \
         give a whole number from 1 to 134217728"
    );
    assert_eq!(
        complaint(&[], &[], "missed = nan"),
        "missed in /etc/systole.toml: `NaN` is out of range; \
         give a number from 1 to 1000, like 3 or 2.5"
    );
}

#[test]
fn each_kind_of_value_has_its_own_complaint() {
    let table = [
        ("udp", "localhost:4600", "is not an address; give IP:PORT"),
        ("udp", "127.0.0.1:1,nonsense", "--udp: `nonsense` is not an address"),
        ("http", "http://127.0.0.1:4680", "is a URL, not an address"),
        ("http", "127.0.0.1:99999", "is not an address"),
        ("missed", "many", "is not a number"),
        ("grace", "2h", "is out of range"),
        ("suspect-at", "0", "is out of range"),
        ("reactors", "0", "is out of range; give `auto` or a whole number from 1 to 256"),
        ("reactors", "some", "is not a whole number"),
        ("transport", "dpdk", "is not a choice; give one of auto, uring, poll, xdp"),
        ("transport", "xdp", "needs an --interface; give one of auto"),
        ("interface", "eth1:3-1", "has its queues in the wrong order; give an interface and its"),
        ("interface", "eth/1", "is no name of an interface"),
        ("xdp-frames", "1000", "is no power of two; give a power of two from 64"),
        ("xdp-frames", "131072", "is out of range"),
        ("xdp-mode", "driver", "is not a choice; give one of auto, zero-copy"),
        ("receive-buffer", "64 parsecs", "is not a size"),
        ("receive-buffer", "2GiB", "is out of range"),
        ("receive-buffer", "99999999999G", "is out of range"),
        ("monitor-id", "xyz", "is not an id"),
        ("log-level", "loud", "is not a level"),
        ("log-level", "info,systole=loud", "is not a filter"),
        ("log-format", "xml", "is not a choice"),
    ];
    for (name, text, part) in table {
        let message = complaint(&[(name, text)], &[], "");
        assert!(message.starts_with(&format!("--{name}: ")), "{message}");
        assert!(message.contains(part), "{message} lacks {part}");
    }
}

#[test]
fn an_interface_goes_with_auto_and_xdp_only() {
    let file = "interface = [\"eth1:0-3\", \"eth2\"]\ntransport = \"xdp\"\nxdp-frames = 64\n";
    let settings = resolve(&[], &[], file).unwrap();
    let named: Vec<_> = settings.xdp.interfaces.iter().map(ToString::to_string).collect();
    assert_eq!((named.join(" "), settings.xdp.frames), ("eth1:0-3 eth2".into(), 64));
    assert_eq!(settings.transport, TransportChoice::Xdp);
    let settings = resolve(&[("interface", "eth1")], &[], "").unwrap();
    assert_eq!(settings.transport, TransportChoice::Auto);
    let message = complaint(&[("interface", "eth1"), ("transport", "poll")], &[], "");
    assert!(message.contains("`poll` leaves --interface unused"), "{message}");
}

#[test]
fn the_file_itself_can_be_wrong() {
    let message = complaint(&[], &[], "interval = \n");
    assert!(message.starts_with("/etc/systole.toml is not valid TOML: line 1: "), "{message}");
    let message = complaint(&[], &[], "missed = 3\nmax_peers = = 3\n");
    assert_eq!(message, "/etc/systole.toml is not valid TOML: line 2: extra `=`, expected nothing");
    let config = KEYS.iter().find(|key| key.name == "config").unwrap();
    let flags = Layer::from_flags([(config, vec!["/nonexistent/systole.toml".to_owned()])]);
    assert_eq!(
        Settings::load(flags, |_| None, None).unwrap_err().to_string(),
        "cannot read the configuration /nonexistent/systole.toml: No such file or directory \
         (os error 2); correct --config (or SYSTOLE_CONFIG), or leave it out to run with the \
         defaults"
    );
}

#[test]
fn a_groups_section_says_what_differs() {
    let file = r#"
        missed = 4
        grace = "10ms"
        mass_silence_least = 50

        [[group]]
        name = "rack-*"
        missed = 6
        suspect-at = 0.5
        floor = "2s"
        parent = "switch-1"
        mass_silence = "off"

        [[group]]
        name = "cron"
        interval = "1d"
        timeout = "26h"
    "#;
    let settings = resolve(&[("missed", "5")], &[], file).unwrap();
    let [racks, cron] = &settings.groups[..] else { panic!("{:?}", settings.groups) };
    assert_eq!((racks.name.as_str(), racks.parent.as_deref()), ("rack-*", Some("switch-1")));
    let policy = racks.policy;
    assert_eq!((policy.missed, policy.suspect_fraction, policy.grace_ns), (6.0, 0.5, 10_000_000));
    assert_eq!(policy.floor_ns, 2_000_000_000);
    assert_eq!(racks.brake, BrakeSettings::OFF);
    assert_eq!(settings.policy.missed, 5.0);
    // What it does not say is as it is for everybody, wherever that was given.
    assert_eq!((cron.policy.missed, cron.brake), (5.0, settings.brake));
    assert_eq!((cron.brake.least, cron.parent.clone()), (50, None));
    let day_ns = 86_400_000_000_000;
    assert_eq!(cron.policy.default_interval_us, day_ns / 1_000);
    assert_eq!(cron.policy.detector, Detector::Fixed { timeout_ns: Some(day_ns / 24 * 26) });
}

#[test]
fn expectations_are_names_or_counts() {
    let file = r#"
        [[expect]]
        names = ["db-1", "a,b"]

        [[expect]]
        group = "web"
        count = 12
        within = "10m"
    "#;
    let within = Duration::from_secs(120);
    let expected = [
        ExpectSettings::Peer { name: "db-1".into(), within },
        ExpectSettings::Peer { name: "a,b".into(), within },
        ExpectSettings::Group { name: "web".into(), count: 12, within: 5 * within },
    ];
    assert_eq!(resolve(&[], &[], file).unwrap().expect, expected);
}

#[test]
fn a_wrong_section_is_told_by_its_place() {
    let range = "give a number from 1 to 1000, like 3 or 2.5";
    let second = "[[group]]\nname = \"a\"\n[[group]]\nname = \"b\"\n";
    let table = [
        (
            format!("{second}missed = 0"),
            format!("missed in [[group]] 2 of {PATH}: `0` is out of range; {range}"),
        ),
        (
            format!("{second}mised = 3"),
            format!("unknown key `mised` in [[group]] 2 of {PATH}, did you mean `missed`?"),
        ),
        (
            format!("{second}max_peers = 3"),
            format!(
                "unknown key `max_peers` in [[group]] 2 of {PATH}; it holds for the whole monitor, \
                 so put it above the first [[…]] line; known are name, parent,"
            ),
        ),
        (
            format!("{second}colour = 3"),
            format!("unknown key `colour` in [[group]] 2 of {PATH}; known are name, parent,"),
        ),
        (
            format!("{second}missed = [1, 2]"),
            format!("missed in [[group]] 2 of {PATH}: `[1, 2]` is not a single value; {range}"),
        ),
        (
            format!("{second}floor = \"5s\"\nceiling = \"1s\""),
            format!("floor in [[group]] 2 of {PATH}: `5s` is above the ceiling"),
        ),
        ("[[group]]\nmissed = 3".into(), format!("[[group]] 1 of {PATH} has no name")),
        (
            "[[group]]\nname = \"a\"\n[[group]]\nname = \"a\"".into(),
            format!("[[group]] 2 of {PATH} has the name of an earlier one"),
        ),
        ("[group]\nname = \"a\"".into(), format!("`group` in {PATH} is no list of sections")),
        ("group = \"a\"".into(), "begin each with a line [[group]]".into()),
        ("[[expect]]\nwithin = \"1m\"".into(), "expects nobody; give names, or".into()),
        ("[[expect]]\nnames = []".into(), "expects nobody".into()),
        (
            "[[expect]]\ngroup = \"web\"".into(),
            "[[expect]] 1 of /etc/systole.toml names a group and not how many; add count".into(),
        ),
        ("[[expect]]\ncount = 3".into(), "has a count and not of whom; add group".into()),
        (
            "[[expect]]\nnames = [\"a\"]\ncount = 3\nwithin = \"5m\"".into(),
            "has names and a group or a count; make two sections".into(),
        ),
        ("[[expect]]\nnames = []\nwithin = \"5m\"".into(), "expects nobody".into()),
        (
            "[[expect]]\nnames = [\"a\"]\n[[expect]]\nnames = [\"b\", \"a\"]".into(),
            format!("names in [[expect]] 2 of {PATH}: `a` is expected already"),
        ),
        (
            "[[expect]]\ngroup = \"a\"\ncount = 1\n[[expect]]\ngroup = \"a\"\ncount = 2".into(),
            format!("group in [[expect]] 2 of {PATH}: `a` is expected already"),
        ),
        (
            "[[expect]]\ngroup = \"web-*\"\ncount = 2".into(),
            format!("group in [[expect]] 1 of {PATH}: `web-*` is a pattern, and the count is of"),
        ),
        (
            "[[expect]]\nnames = [\"\"]".into(),
            format!("names in [[expect]] 1 of {PATH}: `` is empty; give names of peers"),
        ),
        (
            "[[expect]]\ngroup = \"web\"\ncount = 0".into(),
            format!("count in [[expect]] 1 of {PATH}: `0` is out of range"),
        ),
        (
            "[[group]]\nname = \"a\"\ngrace = { a = 1 }".into(),
            "is of type table, not text or a number".into(),
        ),
    ];
    for (file, part) in table {
        let message = complaint(&[], &[], &file);
        assert!(message.contains(&part), "{message}\nlacks\n{part}");
    }
}

#[test]
fn sizes_and_durations_as_people_write_them() {
    let size = |text| value::size(text, 0, u64::MAX);
    assert_eq!(size("4096"), Ok(4096));
    assert_eq!(size("64MiB"), Ok(64 << 20));
    assert_eq!(size("64 mib"), Ok(64 << 20));
    assert_eq!(size("64MB"), Ok(64_000_000));
    assert_eq!(size("2G"), Ok(2 << 30));
    assert!(size("").is_err() && size("MiB").is_err() && size("-1").is_err());
    let duration = |text| value::duration(text, Duration::ZERO, Duration::MAX);
    assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
}

#[test]
fn a_rule_for_tags_and_the_file_of_keys_belong_together() {
    let both = resolve(&[("auth", "optional"), ("keys", "/k")], &[], "").unwrap();
    assert_eq!((both.auth, both.keys), (Auth::Optional, Some("/k".into())));
    let off = resolve(&[("auth", "off")], &[("SYSTOLE_KEYS", "/k")], "").unwrap();
    assert_eq!((off.auth, off.keys), (Auth::Off, Some("/k".into())), "taken back for a while");
    let none = resolve(&[], &[], "").unwrap();
    assert_eq!((none.auth, none.keys), (Auth::Off, None));
    assert_eq!(
        complaint(&[("auth", "required")], &[], ""),
        "--auth: `required` needs keys; give one of off, optional, required; the latter two need \
         --keys"
    );
    assert_eq!(
        complaint(&[], &[], "keys = \"/k\""),
        "default of --auth: `off` leaves --keys unused; give one of off, optional, required; the \
         latter two need --keys"
    );
}

#[test]
fn newcomers_may_be_limited() {
    assert_eq!(resolve(&[], &[], "").unwrap().newcomers, NewcomerLimits::default());
    let file = "newcomers-per-source = \"1000/s\"\nnewcomers_per_key = \"5/s\"";
    let limits = resolve(&[("newcomers-fresh", "30s")], &[], file).unwrap().newcomers;
    assert_eq!((limits.per_source, limits.per_key), (Some(1_000), Some(5)));
    assert_eq!(limits.fresh_ns, Some(30_000_000_000));
    for (text, why) in [("1000", "is not a rate a second"), ("0/s", "is out of range")] {
        let expected = format!(
            "--newcomers-per-key: `{text}` {why}; give `off` or a rate from 1/s to 1000000/s, like \
             1000/s"
        );
        assert_eq!(complaint(&[("newcomers-per-key", text)], &[], ""), expected);
    }
}

#[test]
fn a_value_that_plays_no_part_is_refused() {
    let table = [
        (
            &[("detector", "chen"), ("threshold", "5")][..],
            "",
            "--threshold: `5` plays no part with the detector chen; leave it out, or set the detector phi",
        ),
        (
            &[("timeout", "5s"), ("missed", "4")][..],
            "",
            "--missed: `4` plays no part beside a timeout; leave out one of them",
        ),
        (
            &[("detector", "fixed")][..],
            "margin = \"1s\"",
            "margin in /etc/systole.toml: `1s` plays no part with the detector fixed; leave it out, or \
             set the detector chen",
        ),
        (
            &[][..],
            "[[group]]\nname = \"a\"\ndetector = \"chen\"\ndeviations = 3",
            "deviations in [[group]] 1 of /etc/systole.toml: `3` plays no part with the detector chen; \
             leave it out, or set the detector blend",
        ),
        (
            &[("timeout", "5s")][..],
            "[[group]]\nname = \"a\"\nmissed = 6",
            "missed in [[group]] 1 of /etc/systole.toml: `6` plays no part beside a timeout; leave out \
             one of them",
        ),
        (
            &[("timeout", "5s")][..],
            "missed = 6\n[[group]]\nname = \"a\"\ntimeout = \"auto\"\nmissed = 2",
            "missed in /etc/systole.toml: `6` plays no part beside a timeout; leave out one of them",
        ),
    ];
    for (flags, file, expected) in table {
        assert_eq!(complaint(flags, &[], file), expected);
    }
    // What is given for all may be meant for some.
    let some = "threshold = 5\nmissed = 4\ntimeout = \"5s\"\n\
                [[group]]\nname = \"a\"\ndetector = \"phi\"\ntimeout = \"auto\"";
    let settings = resolve(&[], &[], &format!("detector = \"fixed\"\n{some}")).unwrap();
    assert_eq!(settings.policy.detector, Detector::Fixed { timeout_ns: Some(5_000_000_000) });
    assert_eq!(
        (settings.groups[0].policy.missed, settings.groups[0].policy.detector.as_str()),
        (4.0, "phi")
    );
}

#[test]
fn a_constant_of_one_detector_alone_names_it() {
    for (name, value, word) in [
        ("timeout", "5s", "fixed"),
        ("threshold", "5", "phi"),
        ("margin", "1s", "chen"),
        ("deviations", "3", "blend"),
    ] {
        assert_eq!(resolve(&[(name, value)], &[], "").unwrap().policy.detector.as_str(), word);
    }
    assert_eq!(
        resolve(&[("timeout", "auto")], &[], "").unwrap().policy.detector,
        Detector::default()
    );
}

#[test]
fn a_share_is_a_number_or_a_percentage() {
    let given = [("suspect-at", "70%"), ("mass-silence", "12.5 %")];
    let settings = resolve(&given, &[], "").unwrap();
    assert_eq!((settings.policy.suspect_fraction, settings.brake.share), (0.7, 0.125));
    for text in ["%", "101%", "0%", "7O%", "NaN%"] {
        let message = complaint(&[("suspect-at", text)], &[], "");
        assert!(message.contains("give a share from 0.01 to 1, like 0.7 or 70%"), "{message}");
    }
}
