//! Keys from the first to the last step of a change, with processes: keygen, a monitor that requires
//! them, an agent, SIGHUP.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use systole::api::{Event, Summary};
use systole::cli::client::Client;
use systole::config::keys_file;
use systole::wire::{Heartbeat, Key, Kind, PeerId, Profile, Status, encode_beat, encode_hello};

const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("systole-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn systole(arguments: &[&str]) -> Output {
    Command::new(SYSTOLE).args(arguments).output().expect("the binary is built")
}

#[track_caller]
fn refused(arguments: &[&str], why: &str) {
    let output = systole(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(why) && said.lines().count() == 1, "{arguments:?}: {said}");
}

struct Monitor {
    process: Process,
    udp: String,
    http: String,
    log: BufReader<ChildStderr>,
    watch: (Process, BufReader<ChildStdout>),
}

impl Monitor {
    fn start(options: &[&str]) -> Monitor {
        let mut process = Command::new(SYSTOLE)
            .args(["serve", "--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--reactors", "1"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut ready = String::new();
        let out = process.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut ready).expect("it says something");
        let said = ready.strip_prefix("ready udp=").expect("it is ready");
        let (udp, http) = said.trim_end().split_once(" http=").expect("both addresses");
        let mut watch = Command::new(SYSTOLE)
            .args(["watch", "--json", "--after", "0", "--http", http])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let lines = BufReader::new(watch.stdout.take().expect("it is piped"));
        let log = BufReader::new(process.stderr.take().expect("it is piped"));
        let (udp, http) = (udp.to_owned(), http.to_owned());
        Monitor { process: Process(process), udp, http, log, watch: (Process(watch), lines) }
    }

    /// Reads on to the transition of a peer to a state.
    fn until(&mut self, peer: &str, to: &str) {
        loop {
            let mut line = String::new();
            self.watch.1.read_line(&mut line).expect("the stream goes on");
            let event: Event = serde_json::from_str(&line).expect("an event");
            if (event.peer.as_str(), event.to.as_str()) == (peer, to) {
                return;
            }
        }
    }

    /// Sends SIGHUP, and reads on to the log line that answers it.
    fn hang_up(&mut self, answer: &str) {
        // SAFETY: the process is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.process.0.id() as i32, libc::SIGHUP) }, 0);
        let mut line = String::new();
        while !line.contains(answer) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).expect("the log goes on"), 0, "no {answer}");
        }
    }

    fn dropped(&self, why: &str) -> u64 {
        let summary: Summary = Client::new(&self.http).unwrap().get("/api/v1/summary").unwrap();
        summary.dropped.get(why).copied().unwrap_or(0)
    }
}

fn beat(name: &str, kind: Kind) -> Heartbeat {
    Heartbeat {
        peer: PeerId::of(name),
        kind,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 1,
        sequence: 1,
        interval_us: 3_600_000_000,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

fn hello(name: &str, group: &str, key: &Key) -> Vec<u8> {
    let mut datagram = Vec::new();
    let profile = Profile::new(name, group, &[]).expect("valid words");
    encode_hello(&beat(name, Kind::Beat), &profile, &mut datagram);
    key.seal(&mut datagram, 0);
    datagram
}

#[test]
fn keys_are_made_used_and_changed_without_a_restart() {
    let folder = Folder::new("keys-test");
    let keys = folder.file("keys");
    assert!(systole(&["keygen", &keys]).status.success());
    assert!(systole(&["keygen", "--group", "web", &keys]).status.success());
    let mode = std::fs::metadata(&keys).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    refused(&["keygen", "--id", "1", &keys], "has a key 1 already");
    refused(&["serve", "--auth", "required"], "needs keys");
    refused(
        &["beat", "--to", "127.0.0.1:1", "--key", &keys, "--key-id", "2", "--group", "db"],
        "speaks for web only",
    );
    refused(&["beat", "--to", "127.0.0.1:1", "--key", &keys], "several keys (1, 2)");

    let mut monitor = Monitor::start(&["--auth", "required", "--keys", &keys]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |datagram: &[u8]| sender.send_to(datagram, &monitor.udp).map(drop).unwrap();
    let made = keys_file::read(Path::new(&keys)).unwrap();
    let stranger = Key::new(1, [7; 32]).unwrap();
    // One socket and one reactor: what is sent first is looked at first.
    send(&encode_beat(&beat("nobody", Kind::Beat)));
    send(&hello("nobody", "", &stranger));
    send(&hello("nobody", "db", &made[1].key));
    send(&hello("first", "db", &made[0].key));
    monitor.until("first", "up");
    assert_eq!([monitor.dropped("unauthenticated"), monitor.dropped("bad_tag")], [1, 1]);
    assert_eq!(monitor.dropped("key_scope"), 1);

    let to = monitor.udp.clone();
    let agent = Command::new(SYSTOLE)
        .args(["beat", "--to", &to, "--name", "agent", "--group", "web", "--interval", "50ms"])
        .args(["--key", &keys, "--key-id", "2"])
        .stderr(Stdio::null())
        .spawn();
    let agent = Process(agent.expect("the binary is built"));
    monitor.until("agent", "up");
    sender.send_to(b"agent bye", &monitor.udp).unwrap();
    // SAFETY: the process is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(agent.0.id() as i32, libc::SIGTERM) }, 0);
    monitor.until("agent", "left");
    assert_eq!(monitor.dropped("unauthenticated"), 2, "the forged line was not what did it");

    assert!(systole(&["keygen", &keys]).status.success());
    monitor.hang_up("ids=\"1,2,3\"");
    let third = keys_file::read(Path::new(&keys)).unwrap().remove(2).key;
    sender.send_to(&hello("second", "", &third), &monitor.udp).unwrap();
    monitor.until("second", "up");

    std::fs::write(&keys, "[[key]]\nid = 1\nsecret = \"00\"\n").unwrap();
    monitor.hang_up("the keys stay as they were: ");
    sender.send_to(&hello("third", "", &third), &monitor.udp).unwrap();
    monitor.until("third", "up");

    let only = folder.file("only");
    std::fs::write(&only, keys_file::written(3, &[9; 32], &[])).unwrap();
    std::fs::set_permissions(&only, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&only, &keys).unwrap();
    monitor.hang_up("ids=\"3\"");
    sender.send_to(&hello("third", "", &third), &monitor.udp).unwrap();
    sender.send_to(&hello("fourth", "", &Key::new(3, [9; 32]).unwrap()), &monitor.udp).unwrap();
    monitor.until("fourth", "up");
    assert_eq!(monitor.dropped("bad_tag"), 2, "the old secret is worth nothing now");
}

#[test]
fn a_key_on_standard_output_is_a_file_of_keys() {
    let folder = Folder::new("keygen-test");
    let output = systole(&["keygen", "--id", "7", "--group", "web"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let file = folder.file("one");
    std::fs::write(&file, output.stdout).unwrap();
    refused(&["serve", "--auth", "optional", "--keys", &file], "is open to everybody (mode 644)");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let keys = keys_file::read(Path::new(&file)).unwrap();
    assert_eq!((keys[0].key.id(), keys[0].groups.as_deref()), (7, Some(&["web".to_owned()][..])));
}

#[test]
fn a_senders_file_has_its_key_alone_and_replaces_nothing() {
    let folder = Folder::new("keygen-sender-test");
    let (keys, web, db) = (folder.file("keys"), folder.file("web.key"), folder.file("db.key"));
    assert!(systole(&["keygen", &keys, "--group", "db"]).status.success());
    let made = systole(&["keygen", &keys, "--group", "web", "--sender", &web]);
    assert!(made.status.success());
    assert!(String::from_utf8_lossy(&made.stderr).contains(&format!("Each sender gets {web}")));
    assert!(systole(&["keygen", &keys, "--extract", "1", "--sender", &db]).status.success());
    let all = keys_file::read(Path::new(&keys)).unwrap();
    for (file, own) in [(&web, &all[1]), (&db, &all[0])] {
        assert_eq!(keys_file::read(Path::new(file)).unwrap(), std::slice::from_ref(own));
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    refused(&["keygen", &keys, "--sender", &web], "cannot write a new file");
    refused(&["keygen", &keys, "--sender", &keys], "a file of its own");
    refused(&["keygen", &keys, "--extract", "9", "--sender", &folder.file("x")], "has no key 9");
    let after = keys_file::read(Path::new(&keys)).unwrap();
    assert_eq!(after, all, "what was refused has made no key");
}
