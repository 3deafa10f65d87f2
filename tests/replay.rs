//! `systole replay` as a process: figures to the nanosecond, and what it says when a trace is wrong.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A file of this test's own, gone with it.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> TempFile {
        let path = std::env::temp_dir().join(format!("systole-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("the temporary directory is writable");
        TempFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("its path is UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn systole(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_systole"));
    let Output { status, stdout, stderr } =
        command.args(arguments).stdin(Stdio::null()).output().expect("the binary is built");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

fn json(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = systole(arguments);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    serde_json::from_str(&stdout).expect("JSON")
}

/// Two peers: `a` is late once by 50 ms more than 200 ms allow, and repeats itself; `b` is in time to
/// the nanosecond, and loses a heartbeat.
const CSV: &str = "peer,seq,sent_ns,arrived_ns\n\
    a,1,0,1000000000\n\
    b,1,0,1000000000\n\
    a,2,0,1100000000\n\
    b,2,0,1200000000\n\
    a,2,0,1101000000\n\
    a,3,0,1350000000\n\
    b,4,0,1400000001\n\
    a,4,0,1400000000\n";

#[test]
fn json_has_the_figures_overall_and_of_each_peer() {
    let file = TempFile::new("figures.csv", CSV);
    let answer =
        json(&["replay", file.path(), "--detector", "fixed", "--timeout", "200ms", "--json"]);
    assert_eq!(answer["arrivals"], 8);
    assert_eq!(answer["heartbeats"], 7);
    assert_eq!(answer["missing"], 1);
    assert_eq!(answer["mistakes"], 2);
    assert_eq!(answer["mistake_duration_ns"], 50_000_001);
    let accuracy = answer["query_accuracy"].as_f64().unwrap();
    assert!((accuracy - (1.0 - 50_000_001.0 / 800_000_001.0)).abs() < 1e-12, "{accuracy}");
    for of in [&answer, &answer["peers"]["a"], &answer["peers"]["b"]] {
        for percentile in ["p50", "p99", "max"] {
            assert_eq!(of["t_d_ns"][percentile], 200_000_000);
        }
    }
    assert_eq!(answer["peers"]["a"]["mistake_duration_ns"], 50_000_000);
    assert_eq!(answer["peers"]["b"]["mistake_duration_ns"], 1);
    assert_eq!(answer["peers"]["b"]["query_accuracy"], 1.0 - 1.0 / 400_000_001.0);
}

#[test]
fn the_timeout_follows_the_interval_given_or_estimated() {
    let file = TempFile::new("interval.csv", CSV);
    let given = json(&["replay", file.path(), "--interval", "150ms", "--missed", "2", "--json"]);
    assert_eq!(given["t_d_ns"]["max"], 300_000_000);
    let estimated = json(&["replay", file.path(), "--missed", "2", "--json", "--grace", "1ms"]);
    assert_eq!(estimated["peers"]["a"]["t_d_ns"]["p50"], 201_000_000);
}

#[test]
fn people_get_a_table() {
    let file = TempFile::new("table.csv", CSV);
    let (code, stdout, _) = systole(&["replay", file.path(), "--timeout", "200ms"]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("PEER  ARRIVALS  MISSING  MISTAKES"), "{stdout}");
    assert!(lines[1].starts_with("all          8        1         2"), "{stdout}");
    assert_eq!(lines.len(), 5, "{stdout}");
    assert!(lines[4].starts_with("fixed, 200 ms; interval estimated"), "{stdout}");
}

#[test]
fn every_detector_runs_and_an_option_must_be_its_own() {
    let file = TempFile::new("detectors.csv", CSV);
    for detector in ["fixed", "chen", "bertier", "phi", "blend"] {
        let answer = json(&["replay", file.path(), "--detector", detector, "--json"]);
        assert_eq!((&answer["detector"], &answer["arrivals"]), (&detector.into(), &8.into()));
    }
    let phi = json(&["replay", file.path(), "--threshold", "8", "--json"]);
    assert_eq!(phi["detector"], "phi");
    let wrong = [
        (vec!["--detector", "chen", "--timeout", "1s"], "--timeout belongs to --detector fixed"),
        (vec!["--detector", "swim"], "`swim` is no detector"),
        (vec!["--missed", "0.5"], "give a number from 1 to 1000"),
        (vec!["--timeout", "5"], "has no unit"),
    ];
    for (options, expected) in wrong {
        let mut arguments = vec!["replay", file.path()];
        arguments.extend(options);
        let (code, _, stderr) = systole(&arguments);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_wrong_trace_is_explained_with_its_line() {
    let file =
        TempFile::new("wrong.csv", "peer,seq,sent_ns,arrived_ns\r\na,1,2,3\r\na,2,3,soon\r\n");
    let (code, stdout, stderr) = systole(&["replay", file.path()]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("wrong.csv: line 3: `soon` in column arrived_ns"), "{stderr}");
    let (code, _, stderr) = systole(&["replay", "/nonexistent/trace"]);
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("systole: cannot read /nonexistent/trace: "), "{stderr}");
}
