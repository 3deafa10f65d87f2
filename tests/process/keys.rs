//! Keys from the first to the last step of a change, with processes: keygen, a monitor that requires
//! them, an agent, SIGHUP.

use super::common::{Folder, Monitor, Process, SYSTOLE, beat, hello, send, systole};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use systole::config::keys_file;
use systole::wire::{Heartbeat, Key, Kind, encode_beat};

const HOUR: Duration = Duration::from_secs(3_600);

#[track_caller]
fn refused(arguments: &[&str], why: &str) {
    let output = systole(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(why) && said.lines().count() == 1, "{arguments:?}: {said}");
}

fn tagged(name: &str, group: &str, key: &Key) -> Vec<u8> {
    let mut datagram = hello(name, group, 1, HOUR);
    key.seal(&mut datagram, 0);
    datagram
}

/// Sends SIGHUP, and reads on to the log line that answers it.
fn hang_up(monitor: &Monitor, answer: &str) {
    monitor.process.signal(libc::SIGHUP);
    monitor.log.until(answer);
}

/// Puts a file of keys in the place of another, as a whole.
fn write_keys(folder: &Folder, keys: &str, text: &str) {
    let new = folder.file("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, keys).unwrap();
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

    let monitor = Monitor::start(&["--reactors", "1", "--auth", "required", "--keys", &keys]);
    let mut watch = monitor.watch();
    let to = monitor.udp[0].clone();
    let send = |datagram: &[u8]| send(&to, datagram);
    let made = keys_file::read(Path::new(&keys)).unwrap();
    let stranger = Key::new(1, [7; 32]).unwrap();
    // One reactor: what is sent first is looked at first.
    send(&encode_beat(&beat("nobody", 1, HOUR)));
    send(&tagged("nobody", "", &stranger));
    send(&tagged("nobody", "db", &made[1].key));
    send(&tagged("first", "db", &made[0].key));
    watch.until("first", "up");
    assert_eq!([monitor.dropped("unauthenticated"), monitor.dropped("bad_tag")], [1, 1]);
    assert_eq!(monitor.dropped("key_scope"), 1);

    let mut agent = Command::new(SYSTOLE);
    agent
        .args(["beat", "--to", &to, "--name", "agent", "--group", "web", "--interval", "50ms"])
        .args(["--key", &keys, "--key-id", "2"])
        .stderr(Stdio::null());
    let agent = Process::spawn(&mut agent);
    watch.until("agent", "up");
    send(b"agent bye");
    agent.signal(libc::SIGTERM);
    watch.until("agent", "left");
    assert_eq!(monitor.dropped("unauthenticated"), 2, "the forged line was not what did it");

    assert!(systole(&["keygen", &keys]).status.success());
    hang_up(&monitor, "ids=\"1,2,3\"");
    let third = keys_file::read(Path::new(&keys)).unwrap().remove(2).key;
    send(&tagged("second", "", &third));
    watch.until("second", "up");

    std::fs::write(&keys, "[[key]]\nid = 1\nsecret = \"00\"\n").unwrap();
    hang_up(&monitor, "the keys stay as they were: ");
    send(&tagged("third", "", &third));
    watch.until("third", "up");

    write_keys(&folder, &keys, &keys_file::written(3, &[9; 32], &[]));
    hang_up(&monitor, "ids=\"3\"");
    send(&tagged("third", "", &third));
    send(&tagged("fourth", "", &Key::new(3, [9; 32]).unwrap()));
    watch.until("fourth", "up");
    assert_eq!(monitor.dropped("bad_tag"), 2, "the old secret is worth nothing now");
}

#[test]
fn a_key_that_is_bound_to_fewer_groups_loses_the_peers_of_the_others() {
    let folder = Folder::new("keys-narrowed-test");
    let (keys, state) = (folder.file("keys"), folder.file("state"));
    let key = Key::new(1, [9; 32]).unwrap();
    let bind =
        |groups: &[String]| write_keys(&folder, &keys, &keys_file::written(1, &[9; 32], groups));
    // For all, those in no group too.
    bind(&[]);
    let options = ["--reactors", "1", "--auth", "required", "--keys", &keys, "--state-dir", &state];
    let monitor = Monitor::start(&options);
    let mut watch = monitor.watch();
    for (name, group) in [("web-1", "web"), ("db-1", "db"), ("lone", "")] {
        monitor.send(&tagged(name, group, &key));
        watch.until(name, "up");
    }
    bind(&["web".to_owned()]);
    hang_up(&monitor, "ids=\"1\"");
    let sealed = |heartbeat: Heartbeat| {
        let mut datagram = encode_beat(&heartbeat).to_vec();
        key.seal(&mut datagram, 0);
        datagram
    };
    let bye = |name| Heartbeat { kind: Kind::Bye, ..beat(name, 1_000, HOUR) };
    // The reactor may not have been told the peers' groups yet.
    for name in ["db-1", "lone"] {
        let before = monitor.dropped("key_scope");
        monitor.eventually("a beat is refused", |monitor| {
            monitor.send(&sealed(beat(name, 2, HOUR)));
            monitor.dropped("key_scope") > before
        });
        monitor.send(&sealed(bye(name)));
        monitor.send(&tagged(name, "web", &key));
    }
    monitor.send(&sealed(bye("web-1")));
    watch.until("web-1", "left");
    // One reactor: what was sent first was looked at first.
    let state = |monitor: &Monitor, name| monitor.peer(name).summary.state;
    assert_eq!(["db-1", "lone"].map(|name| state(&monitor, name)), ["up", "up"]);
    monitor.kill();

    let monitor = Monitor::start(&options);
    let mut watch = monitor.watch();
    // At once: what was told is kept.
    monitor.send(&sealed(bye("db-1")));
    monitor.send(&sealed(bye("lone")));
    monitor.send(&tagged("web-2", "web", &key));
    watch.until("web-2", "up");
    assert_eq!(["db-1", "lone"].map(|name| state(&monitor, name)), ["up", "up"]);
    assert_eq!(monitor.dropped("key_scope"), 2);
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
