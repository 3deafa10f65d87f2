//! `systole replay` as a process: figures to the nanosecond, and what it says when a trace is wrong.

use super::common::SYSTOLE;
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
    systole_reading(arguments, Stdio::null())
}

fn systole_reading(arguments: &[&str], stdin: Stdio) -> (Option<i32>, String, String) {
    let mut command = Command::new(SYSTOLE);
    let Output { status, stdout, stderr } =
        command.args(arguments).stdin(stdin).output().expect("the binary is built");
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
fn a_plain_csv_of_some_size_is_replayed_with_and_without_an_interval() {
    let mut text = String::from("peer,seq,sent_ns,arrived_ns\n");
    for n in 0..20_000u64 {
        text +=
            &format!("a,{n},0,{}\nb,{n},0,{}\n", 1_000_000_000 * (n + 1), 1_000_000_000 * n + 7);
    }
    let file = TempFile::new("long.csv", &text);
    for options in [&[][..], &["--interval", "1s"], &["--detector", "chen"], &["--timeout", "2s"]] {
        let answer = json(&[&["replay", file.path(), "--json"], options].concat());
        assert_eq!((&answer["arrivals"], &answer["mistakes"]), (&40_000.into(), &0.into()));
    }
}

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
    assert!(
        lines[4].starts_with("--detector fixed --timeout 200ms --grace 0s; interval plays no part"),
        "{stdout}"
    );
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
        (vec!["--detector", "chen", "--timeout", "1s"], "`chen` has no use for the timeout"),
        (vec!["--detector", "chen", "--threshold", "5"], "--threshold: `5` plays no part with the"),
        (vec!["--timeout", "1s", "--missed", "4"], "--missed: `4` plays no part beside a timeout"),
        (vec!["--detector", "swim"], "--detector: `swim` is not a choice"),
        (vec!["--timeout", "0ms"], "give `auto` or a duration from 1ms to 1000d"),
        (vec!["--floor", "5s", "--ceiling", "1s"], "--floor: `5s` is above the ceiling"),
        (vec!["--missed", "-3"], "--missed: `-3` is out of range"),
        (vec!["--missed", "0.5"], "give a number from 1 to 1000"),
        (vec!["--timeout", "5"], "has no unit"),
    ];
    for (options, expected) in wrong {
        let mut arguments = vec!["replay", file.path()];
        arguments.extend(options);
        let (code, _, stderr) = systole(&arguments);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        // The monitor says the same, to the letter.
        let serve = [&["serve", "--check"], &arguments[2..]].concat();
        assert_eq!(systole(&serve), (Some(2), String::new(), stderr));
    }
}

#[test]
fn the_setting_is_told_so_that_it_can_be_given_again() {
    let file = TempFile::new("again.csv", CSV);
    let given = "--detector phi --missed 2 --threshold 5 --grace 1.9s --suspect-at 0.5 --floor 2.5ms \
                 --ceiling 1m30s";
    let arguments = |setting: &str| {
        let setting = setting.split(' ').map(str::to_owned);
        ["replay".to_owned(), file.path().to_owned()].into_iter().chain(setting).collect::<Vec<_>>()
    };
    let told = |setting: &str| {
        let arguments = arguments(setting);
        let (_, stdout, stderr) = systole(&arguments.iter().map(|a| &**a).collect::<Vec<_>>());
        let note = stdout.lines().last().unwrap_or(&stderr);
        note.split_once(';').expect(note).0.to_owned()
    };
    assert_eq!(told(given), given);
    assert_eq!(told("--threshold 5"), "--detector phi --missed 3 --threshold 5 --grace 0s");
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

#[test]
fn a_trace_may_come_from_stdin() {
    let file = TempFile::new("stdin.csv", CSV);
    let read = |arguments: &[&str]| {
        systole_reading(arguments, std::fs::File::open(&file.0).unwrap().into())
    };
    let (code, stdout, stderr) = read(&["replay", "-", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["arrivals"], 8);
    let demand = ["tune", "-", "--detect-within", "1s", "--mistakes", "1/1s"];
    let (code, _, stderr) = read(&[&demand[..], &["--csv", file.path()]].concat());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("would write over /dev/stdin"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&file.0).unwrap(), CSV);
    let (code, _, stderr) = systole(&["replay", "-"]);
    assert_eq!((code, stderr.as_str()), (Some(2), "systole: stdin: there is nothing in it\n"));
}

/// The warnings that both commands give of a trace, which are the same.
#[track_caller]
fn warnings(file: &TempFile) -> String {
    let (code, _, replayed) = systole(&["replay", file.path()]);
    assert_eq!(code, Some(0), "{replayed}");
    let demand = ["--detect-within", "5s", "--mistakes", "1/1s"];
    let (_, _, tuned) = systole(&[&["tune", file.path()], &demand[..]].concat());
    assert_eq!(tuned, replayed);
    replayed.replace(file.path(), "FILE")
}

#[test]
fn what_a_csv_may_have_wrong_is_said() {
    let whole = TempFile::new("whole.csv", CSV);
    assert_eq!(warnings(&whole), "");
    let cut = TempFile::new("cut.csv", &CSV[..CSV.len() - 3]);
    assert_eq!(
        warnings(&cut),
        "systole: FILE has no line end behind its last line: if it was cut off there, that arrival is \
         wrong\n"
    );
}

#[test]
fn a_damaged_recording_is_told_from_one_that_is_cut_off() {
    use systole::trace::{Arrival, format::Encoder};
    let (mut encoder, header) = Encoder::new(0, 0);
    let (mut bytes, mut ends) = (header.to_vec(), vec![]);
    for sequence in 0..30u32 {
        let arrived_ns = u64::from(sequence) * 1_000_000_000;
        let arrival = Arrival { sequence, arrived_ns, interval: 1_000_000, ..Arrival::default() };
        encoder.push(systole::wire::PeerId(7), &arrival);
        if sequence % 10 == 9 {
            encoder.take(0, |block| bytes.extend_from_slice(block));
            ends.push(bytes.len());
        }
    }
    let [first, .., whole] = ends[..] else { panic!("three blocks") };
    let file = TempFile::new("blocks.rec", "");
    let warnings_of = |bytes: &[u8]| {
        std::fs::write(&file.0, bytes).unwrap();
        warnings(&file)
    };
    assert_eq!(warnings_of(&bytes), "");
    assert_eq!(
        warnings_of(&bytes[..whole - 1]),
        format!(
            "systole: FILE is cut off: its last {} bytes make no block and were left out\n",
            whole - 1 - ends[1]
        )
    );
    // In the heartbeats of the second block, and in its length.
    for at in [first + 20, first + 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 8;
        let left = whole - first;
        let expected = format!(
            "systole: FILE is damaged at byte {first}: the {left} bytes from there on were left out\n"
        );
        assert_eq!(warnings_of(&damaged), expected, "byte {at}");
    }
}

/// Forty seconds of one peer, half of the heartbeats 30 ms late.
fn steady() -> String {
    steady_of(400)
}

fn steady_of(heartbeats: u64) -> String {
    let mut text = String::from("peer,seq,sent_ns,arrived_ns\n");
    for seq in 0..heartbeats {
        let arrived_ns = 1_000_000_000 + seq * 100_000_000 + (seq % 2) * 30_000_000;
        text += &format!("a,{seq},{},{arrived_ns}\n", seq * 100_000_000);
    }
    text
}

#[test]
fn tune_names_the_setting_that_meets_the_demand_and_exits_by_it() {
    let file = TempFile::new("tune.csv", &steady());
    let (curve, plot) = (TempFile::new("curve.csv", ""), TempFile::new("curve.svg", ""));
    let (code, stdout, stderr) = systole(&[
        "tune",
        file.path(),
        "--detect-within",
        "300ms",
        "--mistakes",
        "1/1s",
        "--csv",
        curve.path(),
        "--svg",
        plot.path(),
    ]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.starts_with("--detector "), "{stdout}");
    assert!(stdout.contains("finds a crash within") && stdout.contains("0 mistakes"), "{stdout}");
    assert!(stdout.contains("Proved: 0 mistakes in 39.9 s of watching"), "{stdout}");
    // The one that is named is a row, marked, of no more than can be seen at once.
    let named = stdout.lines().next().unwrap().strip_suffix(" --grace 0s").unwrap();
    let rows: Vec<&str> = stdout.lines().filter(|line| line.contains("← this one")).collect();
    assert!(matches!(rows[..], [row] if row.starts_with(named)), "{stdout}");
    assert!(stdout.lines().count() < 20, "{stdout}");
    let settings = std::fs::read_to_string(&curve.0).unwrap();
    assert!(settings.starts_with("detector,missed,setting,t_d_p50_ns"), "{settings}");
    assert!(settings.lines().count() > 100, "{settings}");
    assert!(std::fs::read_to_string(&plot.0).unwrap().ends_with("</svg>\n"));
}

#[test]
fn tune_says_first_that_a_demand_is_met_and_not_proved() {
    let file = TempFile::new("unproved.csv", &steady());
    let demand = ["--detect-within", "300ms", "--mistakes"];
    // 39.9 s without a mistake prove one in 13.3 s.
    for (mistakes, expected) in [("1/13.2s", 0), ("1/13.4s", 4), ("1/30d", 4)] {
        let arguments = [&["tune", file.path()], &demand[..], &[mistakes]].concat();
        let (code, stdout, _) = systole(&arguments);
        assert_eq!(code, Some(expected), "{stdout}");
        assert_eq!(stdout.starts_with("NOT PROVED: 0 mistakes"), expected == 4, "{stdout}");
        assert_eq!(stdout.matches("finds a crash within").count(), 1, "{stdout}");
    }
}

#[test]
fn tune_recommends_nothing_without_anything_to_go_by() {
    let demand = ["--detect-within", "5s", "--mistakes", "1/30d"];
    // The first nine teach.
    for (heartbeats, enough) in [(1, false), (308, false), (309, true)] {
        let file = TempFile::new("few.csv", &steady_of(heartbeats));
        let (code, stdout, _) = systole(&[&["tune", file.path()], &demand[..]].concat());
        assert_eq!(code, Some(4), "{stdout}");
        assert!(stdout.starts_with("NOT PROVED"), "{stdout}");
        assert_eq!(stdout.contains("--detector"), enough, "{heartbeats}: {stdout}");
    }
}

#[test]
fn tune_never_writes_over_what_it_reads_or_wrote() {
    let text = steady();
    let file = TempFile::new("kept.csv", &text);
    let link = std::env::temp_dir().join(format!("systole-{}-kept.link", std::process::id()));
    std::os::unix::fs::symlink(&file.0, &link).unwrap();
    let link = TempFile(link);
    let demand = ["--detect-within", "300ms", "--mistakes", "1/1s"];
    for outputs in [["--csv", file.path()], ["--svg", file.path()], ["--svg", link.path()]] {
        let arguments = [&["tune", file.path()], &demand[..], &outputs].concat();
        let (code, stdout, stderr) = systole(&arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("would write over"), "{stderr}");
        assert_eq!(std::fs::read_to_string(&file.0).unwrap(), text);
    }
    let same = TempFile::new("same", "");
    let outputs = ["--csv", same.path(), "--svg", same.path()];
    let (code, _, stderr) = systole(&[&["tune", file.path()], &demand[..], &outputs].concat());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--csv and --svg name the same file"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&same.0).unwrap(), "");
}

#[test]
fn tune_says_by_how_much_a_demand_is_missed_and_what_would_meet_it() {
    let file = TempFile::new("missed.csv", &steady());
    let (code, stdout, _) =
        systole(&["tune", file.path(), "--detect-within", "90ms", "--mistakes", "1/30d"]);
    assert_eq!(code, Some(1), "{stdout}");
    for part in [
        "Nothing finds a crash within 90 ms with one mistake in 30d 0h.",
        "times too long",
        "By Chen's procedure",
        "prove no more than one in 13.3 s (95 %)",
    ] {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
}

/// The monitor records what it hears, and what it recorded is replayed.
#[test]
fn what_serve_records_is_replayed() {
    use std::io::{BufRead, BufReader};
    let directory = std::env::temp_dir().join(format!("systole-{}-record", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("fleet.rec");
    let mut monitor = Command::new(SYSTOLE)
        .args(["serve", "--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--record"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary is built");
    let mut ready = String::new();
    BufReader::new(monitor.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let udp = ready.split_once("udp=").unwrap().1.split([' ', ',']).next().unwrap().to_owned();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..50 {
        socket.send_to(b"web-1 interval=1s", &udp).unwrap();
    }
    // On SIGTERM the monitor reads what has arrived before it ends.
    let pid = monitor.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().expect("there is kill").success());
    assert!(monitor.wait().unwrap().success());
    let answer = json(&["replay", file.to_str().unwrap(), "--json"]);
    assert_eq!((&answer["arrivals"], &answer["dropped_from_recording"]), (&50.into(), &0.into()));
    assert_eq!(answer["interval"], "as the senders state it");
    assert_eq!(answer["peers"]["8b44fa76fa9a71c4"]["t_d_ns"]["max"], 3_000_000_000u64);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_sender_that_began_anew_unnoticed_is_named() {
    let mut text = String::from("peer,seq,sent_ns,arrived_ns\n");
    for (beat, seq) in (100..140u64).chain(1..40).enumerate() {
        text += &format!("anew,{seq},0,{}\n", 1_000_000_000 + beat as u64 * 100_000_000);
    }
    let file = TempFile::new("anew.csv", &text);
    let stderr = warnings(&file);
    assert!(stderr.contains("39 of 79 arrivals of anew are old or repeated"), "{stderr}");
    assert!(stderr.contains("a column `incarnation`"), "{stderr}");
}
