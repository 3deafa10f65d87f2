//! The commands that ask a monitor, as processes of their own, against a monitor that plays scripts.

use super::common::SYSTOLE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use systole::api::{GroupQos, PeerCounts, Qos, QosReport};

const PEER: &str = r#"{"name":"web-1","id":"0123456789abcdef","group":"web","state":"STATE",
"status":"ok","last_seen":"2026-11-23T10:02:03.123456Z","silent_ns":400000000,
"interval_ns":1000000000,"since":"2026-11-23T10:00:00Z","labels":{},"timeout_ns":3050000000,
"first_seen":"2026-11-22T09:00:00Z","incarnation":7,"last_sequence":812,"heartbeats":812,"gaps":0,
"duplicates":0,"reordered":0,"restarts":0,"stale":0,"reactor":0,"transitions":[]}"#;

const EVENT: &str = r#"{"seq":SEQ,"monitor":"a1","epoch":1,"time":"2026-11-23T10:02:06.173460Z","peer":"web-1","id":"0123456789abcdef","group":"web","from":"suspect","to":"down","reason":"silence","status":"ok","last_seen":"2026-11-23T10:02:03.123456Z","deadline":"2026-11-23T10:02:06.173456Z","lateness_ns":4000,"detection_time_ns":3050004000,"incarnation":7,"last_sequence":812,"gaps":0,"in_from_ns":1220000000,"down_for_ns":null}"#;

/// Answers each request by `answer`, a function of its path to status and body, until the test
/// ends; an answer of kind `text/event-stream` is left open.
fn monitor(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound").to_string();
    std::thread::spawn(move || {
        let mut open: Vec<TcpStream> = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client connects");
            let path = request_path(&mut stream);
            let (status, body) = answer(&path);
            let head = if path.starts_with("/api/v1/events") {
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_owned()
            } else {
                format!(
                    "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n\
                     connection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                )
            };
            // A client that has gone meanwhile is what some tests want.
            let _ = stream.write_all((head + &body).as_bytes());
            if path.starts_with("/api/v1/events") {
                open.push(stream);
            }
        }
    });
    address
}

fn request_path(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a whole request");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a request is text");
    head.split(' ').nth(1).expect("a request has a path").to_owned()
}

fn systole(http: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(SYSTOLE);
    command.args(arguments).env("SYSTOLE_HTTP", http).stdin(Stdio::null());
    command
}

fn run(http: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        systole(http, arguments).output().expect("the binary is built");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn is_up_answers_by_its_exit_code() {
    for (state, code) in [("up", 0), ("suspect", 1), ("down", 1), ("left", 1)] {
        let http = monitor(move |path| {
            assert_eq!(path, "/api/v1/peers/web-1");
            (200, PEER.replace("STATE", state))
        });
        let (exit, stdout, stderr) = run(&http, &["is-up", "web-1"]);
        assert_eq!((exit, stderr.as_str()), (Some(code), ""), "{state}");
        assert!(stdout.starts_with("web-1 "), "{stdout}");
        let (exit, stdout, _) = run(&http, &["is-up", "--quiet", "web-1"]);
        assert_eq!((exit, stdout.as_str()), (Some(code), ""), "{state}");
    }
}

#[test]
fn an_unknown_peer_is_3_with_the_monitors_own_words() {
    let http = monitor(|path| {
        assert_eq!(path, "/api/v1/peers/a%2Fb");
        let body = r#"{"error":{"code":"not_found","message":"no peer is called `a/b`"}}"#;
        (404, body.to_owned())
    });
    for command in ["is-up", "status"] {
        let (exit, stdout, stderr) = run(&http, &[command, "a/b"]);
        assert_eq!((exit, stdout.as_str()), (Some(3), ""), "{command}");
        assert_eq!(stderr, "systole: no peer is called `a/b`\n");
    }
}

#[test]
fn what_is_no_monitor_is_said_to_be_none() {
    let http = monitor(|_| (404, "<h1>nginx</h1>".to_owned()));
    let (exit, _, stderr) = run(&http, &["status"]);
    assert_eq!(exit, Some(3));
    assert!(stderr.contains("is no Systole monitor (HTTP 404)"), "{stderr}");
    let (exit, _, stderr) = run("127.0.0.1:1", &["status"]);
    assert_eq!(exit, Some(3));
    assert!(stderr.contains("no monitor answers at http://127.0.0.1:1"), "{stderr}");
}

#[test]
fn status_pages_through_the_states_worst_first() {
    let summary = r#"{"version":"0.1.0","monitor":"a1","epoch":1,"started":"2026-11-23T08:00:00Z",
        "time":"2026-11-23T10:04:09Z","transport":"uring","reactors":1,"udp":["0.0.0.0:4600"],
        "peers":{"up":5,"suspect":0,"down":2,"left":1,"total":8},"max_peers":10,"heartbeats":9,
        "heartbeats_per_second":1.0,"kernel_drops":0,"dropped":{},"last_seq":3,
        "timing":{"interval_ns":1,"missed":3.0,"grace_ns":1,"suspect_at":0.6}}"#;
    let qos = serde_json::to_string(&QosReport {
        groups: vec![GroupQos {
            group: "d b".into(),
            peers: PeerCounts { down: 2, left: 1, total: 3, ..PeerCounts::default() },
            qos: Qos::default(),
        }],
        ..QosReport::default()
    })
    .expect("it is JSON");
    let peer = |state: &str, name: &str| PEER.replace("STATE", state).replace("web-1", name);
    let (asked, questions) = channel();
    let http = monitor(move |path: &str| {
        asked.send(path.to_owned()).expect("the test waits for it");
        let page =
            |peers: &[String], next: &str| format!("{{\"peers\":[{}]{next}}}", peers.join(","));
        let body = match path {
            "/api/v1/summary" => summary.to_owned(),
            "/api/v1/qos?group=d%20b" => qos.to_owned(),
            p if p.contains("failing=1") => page(&[peer("up", "db-9")], ""),
            p if p.contains("cursor=1-7") => page(&[peer("down", "db-2")], ""),
            p if p.contains("state=down") => page(&[peer("down", "db-1")], ",\"next\":\"1-7\""),
            p if p.contains("state=left") => page(&[peer("left", "db-3")], ""),
            _ => page(&[], ""),
        };
        (200, body)
    });
    let (exit, stdout, stderr) = run(&http, &["status", "--group", "d b"]);
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    let names: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|w| w.starts_with("db"))
        .collect();
    assert_eq!(names, ["db-1", "db-2", "db-3"], "{stdout}");
    assert!(
        stdout.contains("\n1 peer reporting warn or critical: db-9 (systole status --failing)\n"),
        "{stdout}"
    );
    assert!(!stdout.contains('\x1b'), "no colours but on a terminal");
    let paths: Vec<String> = questions.try_iter().collect();
    assert_eq!(paths[1], "/api/v1/peers?state=down&group=d%20b&limit=21");
    assert_eq!(paths[2], "/api/v1/peers?state=down&group=d%20b&limit=20&cursor=1-7");

    let (exit, stdout, _) = run(&http, &["status", "--limit", "2", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!(exit, Some(0));
    assert_eq!(json["peers"].as_array().map(Vec::len), Some(2));
    assert_eq!((&json["truncated"], &json["summary"]["max_peers"]), (&true.into(), &10.into()));
}

/// A monitor with an event stream that sends two transitions at once and then what it is told.
fn streaming() -> (String, Sender<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound").to_string();
    let (tell, told) = channel::<String>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client connects");
        request_path(&mut stream);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("the client reads");
        for text in told {
            let _ = stream.write_all(text.as_bytes());
        }
    });
    for seq in 1..=2 {
        tell.send(transition(seq)).expect("the thread waits for it");
    }
    (address, tell)
}

fn transition(seq: u64) -> String {
    let data = EVENT.replace("SEQ", &seq.to_string());
    format!("id: {seq}\nevent: transition\ndata: {data}\n\n")
}

#[test]
fn watch_prints_as_it_happens_and_ends_with_130_on_an_interrupt() {
    let (http, _tell) = streaming();
    let mut command = systole(&http, &["watch"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary is built");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a line comes while it runs").expect("it is text");
        assert!(line.starts_with("10:02:06.173460  suspect → down "), "{line}");
    }
    // SAFETY: the call takes two integers; the child has not been waited for, so the number is its.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().expect("it is our child").code(), Some(130));
}

#[test]
fn watch_as_json_is_one_object_a_line_and_a_closed_pipe_is_no_error() {
    let (http, tell) = streaming();
    let mut command = systole(&http, &["watch", "--json"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary is built");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    for seq in 1..=2 {
        let line = lines.next().expect("a line comes while it runs").expect("it is text");
        let event: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(event["seq"], seq);
    }
    drop(lines);
    // Not one transition but as many as it takes: another test may be starting a process just now,
    // which holds a copy of the pipe until it has become another program.
    for seq in 3.. {
        let told = tell.send(transition(seq));
        if told.is_err() || child.try_wait().expect("it is our child").is_some() {
            break;
        }
        std::thread::yield_now();
    }
    let Output { status, stderr, .. } = child.wait_with_output().expect("it is our child");
    assert_eq!(status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&stderr), format!("watching http://{http}\n"));
}

#[test]
fn watch_notices_that_nobody_reads_though_nothing_happens() {
    for options in [&["watch", "--json"][..], &["watch"]] {
        let http = monitor(|path| match path.starts_with("/api/v1/events") {
            true => (200, transition(1) + &transition(2)),
            false => (404, "{}".to_owned()),
        });
        let mut command = systole(&http, options);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary is built");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        for _ in 0..2 {
            lines.next().expect("a line comes while it runs").expect("it is text");
        }
        drop(lines);
        // Nothing more is told: without a look at the pipe this would wait for ever.
        assert_eq!(child.wait().expect("it is our child").code(), Some(0), "{options:?}");
    }
}

#[test]
fn hist_prints_every_format() {
    let http = monitor(|path| {
        let buckets =
            if path.contains("buckets=1") { ",\"buckets\":[[10,98],[4000,2]]" } else { "" };
        let body = format!(
            r#"{{"since":"start","since_time":"2026-11-23T10:00:00Z","histograms":{{"lateness_ns":
            {{"help":"h","count":100,"min":10,"mean":89.8,"p50":10,"p90":10,"p99":4000,"p999":4000,
            "p9999":4000,"p99999":4000,"max":4000{buckets}}}}}}}"#
        );
        (200, body)
    });
    for (format, part) in [
        ("table", "lateness     100  10 ns  10 ns  4 µs"),
        ("csv", "lateness_ns,100,10,89.8,10,10,4000,4000,4000,4000,4000"),
        ("hgrm", "10.000 0.900000000000         98          10.00"),
        ("json", "\"buckets\": ["),
    ] {
        let (exit, stdout, stderr) = run(&http, &["hist", "lateness", "--format", format]);
        assert_eq!((exit, stderr.as_str()), (Some(0), ""), "{format}");
        assert!(stdout.contains(part), "{format}: {stdout}");
    }
    let (exit, _, stderr) = run(&http, &["hist", "latness"]);
    assert_eq!(exit, Some(2));
    assert!(stderr.contains("did you mean `lateness`?"), "{stderr}");
}
