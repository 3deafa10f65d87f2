//! The monitor killed and started again, as a process: nothing is lost, nobody is blamed.
//!
//! `SYSTOLE_KILLS` sets how often it is killed under load; a few times unless it says otherwise.

use super::common::{LOAD, Monitor, SYSTOLE, eventually, get, send, systole};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use systole::api::{Incidents, PeerDetail, Summary};

/// An address that nobody has and that the system gives to nobody who asks for any: it must still be
/// free when the monitor was killed and comes back.
fn free_port(is_free: impl Fn(&str) -> bool) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(37) + step) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if is_free(&address) {
            return address;
        }
    }
}

/// A place for a monitor's state, and addresses that it comes back to.
struct Place {
    directory: PathBuf,
    udp: String,
    http: String,
}

impl Place {
    fn new(name: &str) -> Place {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = base.join(format!("systole-test-{name}-{}", std::process::id()));
        let udp = free_port(|address| UdpSocket::bind(address).is_ok());
        let http = free_port(|address| TcpListener::bind(address).is_ok());
        Place { directory, udp, http }
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(SYSTOLE);
        command.args(["serve", "--udp", &self.udp, "--http", &self.http, "--state-dir"]);
        command.arg(&self.directory).args(options);
        command
    }

    #[track_caller]
    fn start(&self, options: &[&str]) -> Monitor {
        Monitor::of(&mut self.command(options))
    }

    fn send(&self, datagram: &str) {
        send(&self.udp, datagram.as_bytes());
    }

    #[track_caller]
    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        get(&self.http, path)
    }

    /// Asks until it is so.
    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&Summary) -> bool) -> Summary {
        eventually(what, || Some(self.get("/api/v1/summary")).filter(&is_so))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn peers_names_and_numbers_survive_a_kill() {
    let place = Place::new("survive");
    let monitor = place.start(&[]);
    place.send("short interval=100ms group=web rack=r7");
    place.send("long interval=1h group=web");
    let before = place.until("short is down", |summary| summary.last_seq == 4);
    assert_eq!((before.peers.up, before.peers.down), (1, 1));
    monitor.kill();

    let monitor = place.start(&[]);
    let after: Summary = place.get("/api/v1/summary");
    assert_eq!((after.peers, after.last_seq), (before.peers, before.last_seq));
    assert_eq!((after.monitor, after.epoch), (before.monitor.clone(), before.epoch));
    let state = after.state.expect("it keeps state");
    assert_eq!((state.peers_recovered, state.slots_discarded), (2, 0));
    let short: PeerDetail = place.get("/api/v1/peers/short");
    assert_eq!((&*short.summary.state, &*short.summary.group), ("down", "web"));
    assert_eq!(short.labels["rack"], "r7");
    assert_eq!(short.transitions.len(), 3);
    assert_eq!(short.transitions[0].seq, 4);

    // It comes back, and the numbers go on.
    place.send("short interval=1h group=web rack=r7");
    let back = place.until("short is up", |summary| summary.last_seq == 5);
    assert_eq!(back.peers.up, 2);
    let log = monitor.end();
    assert!(log.contains("went on from the state of the process before"), "{log}");

    // Dealt out anew, after an orderly end.
    let monitor = place.start(&["--reactors", "3", "--events", "10"]);
    let dealt: Summary = place.get("/api/v1/summary");
    assert_eq!((dealt.peers, dealt.last_seq, dealt.epoch), (back.peers, 5, before.epoch));
    assert!(monitor.kill().contains("the peers are dealt out anew"));
    let monitor = place.start(&["--reactors", "3", "--events", "10"]);
    assert_eq!(place.get::<Summary>("/api/v1/summary").peers, back.peers);
    monitor.end();
}

#[test]
fn a_second_monitor_on_the_same_state_is_refused_in_one_line() {
    let (place, other) = (Place::new("taken"), Place::new("taken-other"));
    let monitor = place.start(&[]);
    let refused = Command::new(SYSTOLE)
        .args(["serve", "--udp", &other.udp, "--http", &other.http, "--state-dir"])
        .arg(&place.directory)
        .output()
        .expect("the binary is built");
    let says = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{says}");
    let directory = place.directory.display();
    assert!(says.contains(&format!("with its state in {directory}: --takeover")), "{says}");
    assert_eq!(says.lines().count(), 1, "{says}");
    monitor.end();
}

#[test]
fn a_second_monitor_on_the_same_ports_is_told_who_has_them_and_how_to_replace_it() {
    let place = Place::new("rival");
    let monitor = place.start(&[]);
    for state in [place.directory.to_str().expect("UTF-8"), "none"] {
        let same = ["serve", "--udp", &place.udp, "--http", &place.http, "--state-dir", state];
        let refused = systole(&same);
        let says = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{says}");
        assert!(says.contains("--takeover") && !says.contains("another program"), "{says}");
    }
    monitor.end();
}

#[test]
fn a_check_beside_a_monitor_that_runs_touches_nothing() {
    let place = Place::new("check");
    let check = || {
        let output = place.command(&["--check"]).output().expect("the binary is built");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(check().contains("there is none yet"));
    assert!(!place.directory.exists(), "nothing was made");
    let monitor = place.start(&[]);
    place.send("web-1 interval=1h");
    place.until("it is known", |summary| summary.peers.up == 1);
    assert!(check().contains("a monitor is using it: only with --takeover"));
    let summary = place.get::<Summary>("/api/v1/summary");
    assert_eq!(summary.peers.up, 1, "it goes on");
    let log = monitor.end();
    assert!(!log.contains("asked to take over"), "{log}");
    assert!(check().contains("there is state to go on with"));
}

/// A hand-over is a pause, so what cannot start should not ask; and a check says the same before.
#[test]
fn a_takeover_that_cannot_start_leaves_the_monitor_that_runs() {
    let (place, other) = (Place::new("failed-heir"), Place::new("failed-heir-other"));
    let monitor = place.start(&[]);
    let stranger = TcpListener::bind(&other.http).expect("it is free");
    for (option, value, why) in [
        ("--record", "/nonexistent/r", "--record: cannot write /nonexistent/r"),
        ("--http", &*other.http, "another program listens there"),
        ("--http", &*place.http.replace("127.0.0.1", "0.0.0.0"), "by another address"),
    ] {
        for check in [&["--takeover", "--check"][..], &["--takeover"]] {
            let mut command = Command::new(SYSTOLE);
            command.args(["serve", "--udp", &place.udp, "--state-dir"]).arg(&place.directory);
            if option != "--http" {
                command.args(["--http", &place.http]);
            }
            let output = command.args([option, value]).args(check).output().expect("it is built");
            let says = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{check:?}: {says}");
            assert!(says.contains(why), "{check:?}: {says}");
        }
    }
    let refused = place.command(&["--takeover", "--check", "--reactors", "7"]).output();
    let refused = refused.expect("the binary is built");
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && says.contains("does not hand over"), "{says}");
    place.send("web-1 interval=1h");
    place.until("the old one goes on", |summary| summary.peers.up == 1);
    let log = monitor.end();
    assert!(!log.contains("handing over"), "{log}");
    drop(stranger);
}

/// An heir that was given the sockets, and ends before it is ready: the old one goes on in its own process,
/// on its own sockets and cores, as after a restart.
#[test]
fn an_heir_that_comes_to_nothing_is_no_loss() {
    let place = Place::new("lost-heir");
    // What the next version's file says, this one may not know.
    let config = place.directory.with_extension("toml");
    std::fs::write(&config, "missed = 7\n").expect("it can be written");
    let monitor =
        place.start(&["--reactors", "2", "--config", config.to_str().expect("a plain path")]);
    std::fs::write(&config, "news = 1\n").expect("it can be written");
    place.send("web-1 interval=1h");
    let before = place.until("it is known", |summary| summary.peers.up == 1);
    for life in 2..4 {
        let heir = UnixStream::connect(place.directory.join("takeover")).expect("it is offered");
        let terms = format!("{{\"udp\":[\"{}\"],\"reactors\":2}}\n", place.udp);
        (&heir).write_all(terms.as_bytes()).expect("it listens");
        let mut answer = String::new();
        BufReader::new(&heir).read_line(&mut answer).expect("it answers");
        assert!(answer.contains("Yes"), "{answer}");
        // Nobody reads it meanwhile.
        place.send(&format!("web-{life} interval=1h"));
        drop(heir);
        assert!(monitor.says().starts_with("ready "), "life {life}: {}", monitor.kill());
        let after = place.until("what came was read", |summary| summary.peers.up == life);
        assert_eq!((after.monitor, after.epoch), (before.monitor.clone(), before.epoch));
        assert_eq!((after.reactors, after.timing.missed), (before.reactors, 7.0));
    }
    std::fs::remove_file(&config).expect("it is ours");
    let next = place.start(&["--reactors", "2", "--takeover"]);
    let log = monitor.ended();
    assert_eq!(log.matches("going on from the state").count(), 2, "{log}");
    assert_eq!(place.get::<Summary>("/api/v1/summary").peers.up, 3);
    next.end();
}

#[test]
fn who_takes_over_listens_where_it_was_told() {
    let (mut place, other) = (Place::new("moves"), Place::new("moves-other"));
    let monitor = place.start(&[]);
    place.send("web-1 interval=1h");
    place.until("it is known", |summary| summary.peers.up == 1);
    let before = std::mem::replace(&mut place.http, other.http.clone());
    let heir = place.start(&["--takeover"]);
    monitor.ended();
    assert_eq!(place.get::<Summary>("/api/v1/summary").peers.up, 1);
    assert!(std::net::TcpStream::connect(before).is_err(), "nobody is left there");
    heir.end();
}

#[test]
fn damaged_files_are_said_and_begun_anew() {
    let place = Place::new("damaged");
    let monitor = place.start(&[]);
    place.send("a interval=1h");
    place.until("a is up", |summary| summary.peers.up == 1);
    says(&place, &["silence", "a", "--for", "1h"]);
    monitor.kill();
    for (file, says, peers) in [
        ("events", "the events file is begun anew", 1),
        ("names", "the names file was damaged, and is cut off", 1),
        ("alarms", "the alarms are begun anew: their file is damaged", 1),
        ("silences", "the silences are lost: their file is damaged", 1),
        ("hot", "the peers' state is begun anew: it is damaged", 0),
    ] {
        let path = place.directory.join(file);
        let mut bytes = std::fs::read(&path).expect("it is there");
        let at = if file == "names" { bytes.len() - 1 } else { 20 };
        bytes[at] ^= 0xFF;
        std::fs::write(&path, bytes).expect("it is ours");
        let monitor = place.start(&[]);
        assert_eq!(place.get::<Summary>("/api/v1/summary").peers.up, peers, "{file}");
        let log = monitor.kill();
        assert!(log.contains(says), "{file}: {log}");
    }
}

/// Killed at random moments under a load that knows the truth.
#[test]
fn killed_again_and_again_it_misses_nobody_and_blames_nobody() {
    let kills: u32 = std::env::var("SYSTOLE_KILLS").map_or(5, |n| n.parse().expect("a number"));
    let seed = std::env::var("SYSTOLE_TEST_SEED").map_or(7, |n| n.parse().expect("a number"));
    let mut random = seed;
    let mut below = |bound: u64| {
        // SplitMix64's step will do.
        random = u64::wrapping_add(random, 0x9E37_79B9_7F4A_7C15);
        let z = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((z ^ (z >> 27)) >> 16) % bound
    };
    let senders = std::env::var("SYSTOLE_SENDERS").unwrap_or("2000".into());
    let place = Place::new("again");
    let mut monitor = place.start(&["--events", "1000000", "--reactors", "2"]);
    let seconds = 24 + kills;
    let mut load = Command::new(LOAD)
        .args(["--to", &place.udp, "--http", &format!("http://{}", place.http)])
        .args(["--senders", &senders, "--interval", "300ms", "--ramp", "1s"])
        .args(["--duration", &format!("{seconds}s"), "--slack", "2s", "--across-restarts"])
        .args(["--kill", "100", "--flap", "200", "--flap-for", "5s", "--restart", "100"])
        .args(["--seed", &seed.to_string(), "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    // Kills come at any moment of a life: also in its start, before it is ready.
    std::thread::sleep(Duration::from_millis(300));
    let mut longest = Duration::ZERO;
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(below(1_400)));
        if load.try_wait().expect("it is ours").is_some() {
            panic!("the load ended before kill {kill}");
        }
        monitor.kill();
        if below(4) == 0 {
            let mut stillborn =
                place.command(&["--events", "1000000", "--reactors", "2"]).spawn().expect("built");
            std::thread::sleep(Duration::from_micros(below(60_000)));
            let _ = stillborn.kill();
            let _ = stillborn.wait();
        }
        let began = std::time::Instant::now();
        monitor = place.start(&["--events", "1000000", "--reactors", "2"]);
        longest = longest.max(began.elapsed());
    }
    let output = load.wait_with_output().expect("it is ours");
    let table = String::from_utf8_lossy(&output.stderr);
    println!("{table}\nlongest start {longest:?}");
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(verdict["agrees"], true, "seed {seed}: {table}\n{}", monitor.kill());
    assert_eq!(verdict["detected"], verdict["killed"], "seed {seed}: {table}");
}

/// A new process takes over under load, again and again: no heartbeat is lost, nobody is blamed.
#[test]
fn taken_over_under_load_no_heartbeat_is_lost() {
    for transport in ["auto", "poll"] {
        let place = Place::new(&format!("takeover-{transport}"));
        let options = ["--transport", transport, "--reactors", "2"];
        let takeover = [&options[..], &["--takeover"]].concat();
        // The first finds nobody, which is no error.
        let mut monitor = place.start(&takeover);
        let load = Command::new(LOAD)
            .args(["--to", &place.udp, "--http", &format!("http://{}", place.http)])
            .args(["--senders", "2000", "--interval", "200ms", "--ramp", "500ms", "--kill", "20"])
            .args(["--duration", "6s", "--slack", "6s", "--across-restarts", "--json", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut lives = Vec::new();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(1_200));
            let next = place.start(&takeover);
            let log = monitor.ended();
            assert!(log.contains("handing over"), "{log}");
            lives.push(log);
            monitor = next;
        }
        let output = load.wait_with_output().expect("it is ours");
        let table = String::from_utf8_lossy(&output.stderr);
        let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(verdict["agrees"], true, "{table}\n{lives:#?}");
        // The sequence numbers tell: each peer's had no hole.
        let peers: systole::api::PeerPage = place.get("/api/v1/peers?limit=1000");
        for peer in peers.peers.iter().take(50) {
            let detail: PeerDetail = place.get(&format!("/api/v1/peers/{}", peer.id));
            assert_eq!(detail.gaps, 0, "{detail:?}\n{table}");
        }
        // So nobody is granted anything for it but the time that it took.
        let summary: systole::api::Summary = place.get("/api/v1/summary");
        assert_eq!((summary.alarms.deaf_ns, summary.kernel_drops), (0, 0), "{lives:#?}");
        monitor.end();
    }
}

#[test]
fn who_wants_other_sockets_is_refused_and_the_monitor_goes_on() {
    let place = Place::new("refused");
    let monitor = place.start(&[]);
    let refused =
        place.command(&["--takeover", "--reactors", "7"]).output().expect("the binary is built");
    let says = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{says}");
    assert!(says.contains("does not hand over"), "{says}");
    place.send("a");
    place.until("a is up", |summary| summary.peers.up == 1);
    monitor.end();
}

/// A command's output; it must not complain. Open incidents are an exit code of their own.
fn says(place: &Place, command: &[&str]) -> String {
    let output = systole(&[command, &["--http", &place.http]].concat());
    let complains = String::from_utf8_lossy(&output.stderr);
    assert!(complains.is_empty(), "{command:?}: {complains}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn silences_and_an_open_incident_survive_kills_and_a_takeover_and_the_incident_ends() {
    let place = Place::new("alarms");
    let first = place.start(&[]);
    place.send("anchor interval=1h");
    let send = |interval: &str| {
        (1..=4).for_each(|i| place.send(&format!("db-{i} interval={interval} group=db")));
    };
    send("1s");
    place.until("one incident of four", |s| s.alarms.incidents == 1 && s.peers.down == 4);
    says(&place, &["silence", "web-*", "--for", "2h", "--reason", "new kernel"]);
    let open = || place.get::<Incidents>("/api/v1/incidents").open;
    let before = open();
    assert_eq!(before[0].down, 4, "{before:?}");
    first.kill();

    let second = place.start(&[]);
    let third = place.start(&["--takeover"]);
    drop(second);
    for _ in 0..2 {
        let after = open();
        assert_eq!((after.len(), after[0].id, after[0].down), (1, before[0].id, 4), "{after:?}");
        assert_eq!((&after[0].first, after[0].size), (&before[0].first, before[0].size));
    }
    assert!(says(&place, &["silence", "list"]).contains("new kernel"));
    assert!(says(&place, &["incidents"]).contains("db"));
    send("1h");
    place.until("it is closed", |summary| summary.alarms.incidents == 0);
    third.kill();

    // Closed is closed; and what is no file of ours is begun anew, said and counted.
    std::fs::write(place.directory.join("silences"), "nonsense").expect("it is ours");
    let fourth = place.start(&[]);
    assert_eq!(open(), []);
    let summary: Summary = place.get("/api/v1/summary");
    assert_eq!((summary.alarms.silences, summary.state.expect("kept").files_damaged), (0, 1));
    assert!(fourth.kill().contains("the silences are lost"));
}
