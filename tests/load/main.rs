//! The generator as a process, against a small monitor of our own making that can be told to lie:
//! exit 0 is worth something only if exit 1 has been seen.

mod fake;

use fake::{Fake, Fault};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

const SENDERS: usize = 200;

/// The generator, pointed at a monitor, with a short load of 200 peers.
fn command(fake: &Fake, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_systole-load"));
    command.env_remove("SYSTOLE_HTTP");
    command.args(["--to", &fake.udp.to_string(), "--http", &fake.http.to_string()]);
    command.args(["--senders", "200", "--interval", "50ms", "--ramp", "100ms"]);
    command.args(["--duration", "600ms", "--slack", "500ms", "--seed", "7", "--json", "-"]);
    command.args(options.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(fake: &Fake, options: &str) -> (i32, Value, Output) {
    let output = command(fake, options).output().unwrap();
    // `--json -`: nothing but JSON on stdout, the table on stderr.
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {text}"));
    (output.status.code().unwrap(), json, output)
}

#[track_caller]
fn check(json: &Value, code: (i32, i32), figures: &[(&str, u64)]) {
    assert_eq!(code.0, code.1, "{json:#}");
    for (key, want) in figures {
        assert_eq!(json[key].as_u64(), Some(*want), "{key}: {json:#}");
    }
}

#[test]
fn an_honest_monitor_passes() {
    let fake = Fake::start(Fault::None);
    let (code, json, output) = run(&fake, "--kill 10 --spread-addresses --sources 4");
    let want = [("killed", 10), ("detected", 10), ("missed", 0), ("false_alarms", 0)];
    check(&json, (code, 0), &want);
    check(&json, (code, 0), &[("byes", 190), ("left", 190), ("registered", 200)]);
    check(&json, (code, 0), &[("kernel_drops", 0), ("refused", 0)]);
    // At least the 170 ms of the timeout, and not the rest of the run.
    let detection = &json["detection_time_ns"];
    assert!(detection["p50"].as_u64().unwrap() >= 170_000_000, "{json:#}");
    for histogram in ["lateness_ns", "detection_time_ns"] {
        for key in ["p50", "p99", "p999", "max"] {
            assert!(json[histogram][key].is_u64(), "{histogram} {key}: {json:#}");
        }
    }
    assert_eq!(json["sent"].as_u64(), Some(fake.datagrams()), "{json:#}");
    assert_eq!(fake.sources(), 4, "four sockets, each with an address of its own");
    let table = String::from_utf8(output.stderr).unwrap();
    assert!(table.contains("agrees: nobody missed, nobody blamed"), "{table}");
}

#[test]
fn a_monitor_that_misses_a_death_fails() {
    let fake = Fake::start(Fault::MissOne);
    let (code, json, output) = run(&fake, "--kill 10");
    let want = [("killed", 10), ("detected", 9), ("missed", 1), ("false_alarms", 0)];
    check(&json, (code, 1), &want);
    let name = json["missed_names"][0].as_str().unwrap();
    assert!(name.starts_with("load-00"), "{json:#}");
    let table = String::from_utf8(output.stderr).unwrap();
    assert!(table.contains("DISAGREES"), "{table}");
}

#[test]
fn a_monitor_that_blames_the_living_fails() {
    let fake = Fake::start(Fault::BlameOne);
    let (code, json, _) = run(&fake, "--kill 10");
    check(&json, (code, 1), &[("detected", 10), ("missed", 0), ("false_alarms", 1)]);
}

#[test]
fn a_monitor_that_raises_the_dead_fails() {
    let fake = Fake::start(Fault::RaiseOne);
    let (code, json, _) = run(&fake, "--kill 10");
    check(&json, (code, 1), &[("detected", 10), ("resurrected", 1)]);
}

#[test]
fn a_monitor_that_does_not_know_one_or_sends_one_away_fails() {
    for (fault, unknown, dismissed) in
        [(Fault::IgnoreOne, 1, 0), (Fault::DismissOne, 0, 1), (Fault::ForgetOne, 0, 1)]
    {
        let fake = Fake::start(fault);
        let (code, json, _) = run(&fake, "--kill 0");
        let want = [("unknown", unknown), ("dismissed", dismissed), ("false_alarms", 0)];
        check(&json, (code, 1), &want);
    }
}

#[test]
fn a_bad_network_and_restless_senders_are_no_reason_to_blame() {
    let fake = Fake::start(Fault::None);
    let mischief = "--kill 10 --flap 10 --restart 10 --loss 5% --reorder 5% --duplicate 10% \
                    --duration 1200ms --threads 2";
    let (code, json, _) = run(&fake, mischief);
    check(&json, (code, 0), &[("killed", 10), ("detected", 10), ("restarted", 10)]);
    assert!(json["lapses_detected"].as_u64() >= Some(10), "{json:#}");
    for what in ["lost", "reordered", "duplicated"] {
        assert!(json[what].as_u64() > Some(0), "{what}: {json:#}");
    }
}

#[test]
fn the_whole_fleet_silenced_at_one_instant_is_found() {
    let fake = Fake::start(Fault::None);
    let (code, json, _) = run(&fake, "--kill 200 --kill-together");
    check(&json, (code, 0), &[("killed", 200), ("detected", 200), ("byes", 0)]);
}

#[test]
fn a_broken_event_stream_is_taken_up_again() {
    let fake = Fake::start(Fault::HangUp);
    let (code, json, _) = run(&fake, "--kill 10");
    check(&json, (code, 0), &[("detected", 10), ("registered", 200)]);
    assert!(fake.subscriptions() > 3, "the fake hangs up every 50 events");
}

#[test]
fn a_gap_in_the_event_stream_proves_nothing() {
    let fake = Fake::start(Fault::Gap);
    let (code, json, _) = run(&fake, "--kill 10");
    assert_eq!(code, 1, "{json:#}");
    assert!(json["broken"].as_str().unwrap().contains("no longer held"), "{json:#}");
}

#[test]
fn an_interrupted_run_says_bye_for_everybody() {
    let fake = Fake::start(Fault::None);
    let child = command(&fake, "--kill 10 --duration 1h").spawn().unwrap();
    fake.wait_for_peers(SENDERS);
    // SAFETY: no memory is involved; the pid is our own child's, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = output.status.code().unwrap();
    check(&json, (code, 130), &[("byes", 200), ("left", 200), ("killed", 0)]);
}

#[test]
fn files_are_written_and_the_table_is_on_stdout_then() {
    let fake = Fake::start(Fault::None);
    let folder = std::env::temp_dir().join(format!("systole-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (json, hgrm) = (folder.join("load.json"), folder.join("load.hgrm"));
    let mut command = command(&fake, "--kill 10 --hgrm-of detection");
    command.arg("--json").arg(&json).arg("--hgrm").arg(&hgrm);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("detection time"));
    let figures: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(figures["detected"], 10);
    let table = std::fs::read_to_string(&hgrm).unwrap();
    assert!(table.contains("Total count    =           10]"), "{table}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn no_monitor_is_exit_3_and_bad_usage_exit_2() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let generator = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_systole-load")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = generator(&["--http", &nobody.to_string()]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no monitor answers at http://"), "{said}");
    let (code, said) = generator(&["--senders", "5", "--kill", "6"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = generator(&["--qqqqqq"]);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(
        said,
        "systole-load: unexpected argument '--qqqqqq' found; `systole-load --help` says more\n"
    );
    // Before anybody is asked, who would not answer.
    for output in ["--json", "--hgrm"] {
        let http = nobody.to_string();
        let (code, said) = generator(&["--http", &http, output, "/nonexistent/file"]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&format!("{output}: cannot write /nonexistent/file")), "{said}");
    }
}

#[test]
fn a_monitor_that_asks_for_tags_is_told_from_one_that_is_blind() {
    let fake = Fake::start(Fault::Unauthenticated);
    let (code, json, _) = run(&fake, "");
    assert_eq!(code, 1, "{json:#}");
    assert!(json["broken"].as_str().unwrap().contains("give --key FILE"), "{json:#}");
}

#[test]
fn nobody_need_read_what_it_says() {
    let fake = Fake::start(Fault::None);
    // The reader is gone before there is anything to read; the verdict holds.
    let mut child = command(&fake, "").stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&fake, "").stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "the table has no room, and the JSON has");
    let output = command(&fake, "").stdout(full()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("systole-load: cannot write to stdout: No space left"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
