//! The clients in `docs/protocol.md`, cut out of the document and run against a socket.

use super::common::{PATIENCE, Process};
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use systole::wire::{Auth, Form, Guard, Heartbeat, Key, Keyring, Kind, PeerId, decode};

const SPECIFICATION: &str = include_str!("../../docs/protocol.md");

/// The one code block of a language that mentions `word` and, when tagged, BLAKE3.
fn block(language: &str, word: &str, tagged: bool) -> &'static str {
    let opening = format!("\n```{language}\n");
    let blocks = SPECIFICATION.split(&opening).skip(1).filter_map(|b| b.split_once("\n```"));
    let wanted = |block: &&str| block.contains(word) && block.contains("blake3") == tagged;
    let found: Vec<&str> = blocks.map(|(block, _)| block).filter(wanted).collect();
    assert_eq!(found.len(), 1, "blocks in {language} that mention {word}");
    found[0]
}

/// Starts an interpreter, hands it the script, and lets it beat as `name` to a socket of its own.
/// `None` when the machine lacks the interpreter.
fn start(
    interpreter: &str,
    script: &str,
    name: &str,
    interval: &str,
    key: &[&str],
) -> Option<(Process, UdpSocket)> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
    let port = socket.local_addr().expect("a bound socket").port().to_string();
    let reads_stdin = if interpreter == "bash" { "-s" } else { "-" };
    let child = Command::new(interpreter)
        .args([reads_stdin, "127.0.0.1", &port, name, interval])
        .args(key)
        // blake3.py there stands in for the package, which may not be installed.
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => Process(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: no {interpreter} here");
            return None;
        }
        Err(error) => panic!("{interpreter}: {error}"),
    };
    let mut stdin = child.0.stdin.take().expect("a pipe");
    stdin.write_all(script.as_bytes()).expect("it reads the script");
    Some((child, socket))
}

fn receive(socket: &UdpSocket, datagram: &mut [u8; 2_048]) -> usize {
    socket.recv(datagram).expect("a datagram within half a minute")
}

/// A HELLO with the name, then BEATs with ascending sequence numbers, all of them well formed.
/// With a key file, all of them are tagged by key 7.
fn check_binary(interpreter: &str, interval: &str, beats: u32, key_file: Option<&str>) {
    let name = "Zürich-7";
    let script = block(interpreter.trim_end_matches('3'), "sha256", key_file.is_some());
    let key: Vec<&str> = key_file.iter().flat_map(|file| ["7", *file]).collect();
    let Some((_client, socket)) = start(interpreter, script, name, interval, &key) else { return };
    let guard = guard(key_file.is_some());
    let mut buffer = [0; 2_048];
    let len = receive(&socket, &mut buffer);
    let first: Heartbeat = match guard.decode(&buffer[..len]) {
        Ok(Form::Hello(hello, profile)) => {
            assert_eq!((profile.name, profile.group), (name, ""));
            assert_eq!(profile.labels().count(), 0);
            hello
        }
        other => panic!("{interpreter} began with {other:?}"),
    };
    assert_eq!((first.peer, first.kind), (PeerId::of(name), Kind::Beat));
    assert_eq!(first.interval_us, (interval.parse::<f64>().expect("seconds") * 1e6) as u64);
    assert!(first.sent_ns > 0 && first.sequence < 100_000);
    for n in 1..=beats {
        let len = receive(&socket, &mut buffer);
        let beat = match guard.decode(&buffer[..len]) {
            Ok(Form::Beat(beat)) => beat,
            Ok(Form::Hello(beat, _)) if n % 16 == 0 => beat,
            other => panic!("{interpreter}, datagram {n}: {other:?}"),
        };
        assert_eq!((beat.peer, beat.incarnation), (first.peer, first.incarnation));
        assert_eq!(beat.sequence, first.sequence + n);
        assert!(beat.sent_ns > first.sent_ns);
    }
}

const SECRET: [u8; 32] = *b"the secret of the client's test!";

/// What the clients are received by: anybody, or key 7 alone.
fn guard(required: bool) -> Guard {
    let mut keys = Keyring::default();
    assert!(keys.insert(Key::new(7, SECRET).expect("not 0"), None));
    Guard { auth: if required { Auth::Required } else { Auth::Off }, keys }
}

#[test]
fn the_python_client_beats() {
    check_binary("python3", "0.002", 40, None);
}

#[test]
fn the_python_client_with_a_key_beats() {
    let file = std::env::temp_dir().join(format!("systole-secret-{}", std::process::id()));
    let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&file, hex + "\n").expect("a temporary file");
    check_binary("python3", "0.01", 20, Some(file.to_str().expect("UTF-8")));
    std::fs::remove_file(file).expect("ours");
}

#[test]
fn the_bash_client_beats() {
    check_binary("bash", "1", 1, None);
}

#[test]
fn the_shell_lines_beat() {
    let script = block("sh", "/dev/udp", false).replace("127.0.0.1/4600", "$1/$2");
    let Some((_client, socket)) = start("bash", &script, "", "", &[]) else { return };
    let mut buffer = [0; 2_048];
    let len = receive(&socket, &mut buffer);
    let Ok(Form::Hello(beat, profile)) = decode(&buffer[..len]) else { panic!("not a line") };
    assert_eq!((beat.peer, profile.name), (PeerId::of("web-1"), "web-1"));
    let len = receive(&socket, &mut buffer);
    let Ok(Form::Hello(beat, profile)) = decode(&buffer[..len]) else { panic!("not a line") };
    assert_eq!((profile.name, profile.group), ("backup", "jobs"));
    assert_eq!((beat.interval_us, profile.labels().count()), (86_400_000_000, 1));
}
