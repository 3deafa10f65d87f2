//! Processes of the project that end with their test, and what a test asks of them.

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use systole::api::{Event, PeerDetail, Summary};
use systole::cli::client::Client;
use systole::wire::{Heartbeat, Kind, PeerId, Profile, Status, encode_hello};

/// The program.
pub const SYSTOLE: &str = env!("CARGO_BIN_EXE_systole");
/// The load generator.
pub const LOAD: &str = env!("CARGO_BIN_EXE_systole-load");
/// Longest wait for anything; only a failure takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A command of the program that has ended, with what it said.
pub fn systole(arguments: &[&str]) -> Output {
    Command::new(SYSTOLE)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built")
}

/// A process that ends with the test.
pub struct Process(pub Child);

impl Process {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Process {
        Process(command.spawn().expect("the program is there"))
    }

    /// Starts it; what it says on standard error comes as lines.
    pub fn heard(command: &mut Command) -> (Process, Lines) {
        let mut process = Process::spawn(command.stderr(Stdio::piped()));
        let log = Lines::of(process.0.stderr.take().expect("it is piped"));
        (process, log)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill(2) takes integers; the process is our child and not yet waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.0.kill().expect("it is ours");
        self.wait();
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("it is ours")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of a pipe, read by a thread of their own, so that waiting for one has an end.
pub struct Lines(Receiver<String>);

impl Lines {
    /// Those of a pipe.
    pub fn of(pipe: impl Read + Send + 'static) -> Lines {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let read = BufReader::new(pipe).lines().map_while(Result::ok);
            read.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        Lines(lines)
    }

    /// The next line; `None` when the pipe is closed.
    #[track_caller]
    pub fn next(&self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(Disconnected) => None,
            Err(Timeout) => panic!("nothing was said for {PATIENCE:?}"),
        }
    }

    /// Reads on to the line with this in it.
    #[track_caller]
    pub fn until(&self, part: &str) -> String {
        let mut said = Vec::new();
        loop {
            match self.0.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => said.push(line),
                Err(_) => panic!("no word of {part} in {said:#?}"),
            }
        }
    }

    /// All that is still said until the pipe is closed.
    pub fn rest(&self) -> String {
        self.0.iter().map(|line| line + "\n").collect()
    }
}

/// Starts a process that says when it is ready, and returns that line, what else it will say, and its
/// log; or how it has ended instead, and its log.
pub fn ready(command: &mut Command) -> Result<(Process, String, Lines, Lines), String> {
    let (mut process, log) = Process::heard(command.stdout(Stdio::piped()));
    let out = Lines::of(process.0.stdout.take().expect("it is piped"));
    match out.next() {
        Some(line) if line.starts_with("ready ") => Ok((process, line, out, log)),
        Some(said) => panic!("not ready but {said:?}"),
        None => Err(format!("{}: {}", process.wait(), log.rest())),
    }
}

/// A monitor that is ready.
pub struct Monitor {
    pub process: Process,
    /// Where it listens for heartbeats.
    pub udp: Vec<String>,
    /// Where it answers.
    pub http: String,
    /// What it logs.
    pub log: Lines,
    out: Lines,
}

impl Monitor {
    /// A monitor on loopback, on free ports unless the options say otherwise.
    pub fn start(options: &[&str]) -> Monitor {
        let mut command = Command::new(SYSTOLE);
        command.args(["serve", "--http", "127.0.0.1:0"]).args(options);
        if !options.contains(&"--udp") {
            command.args(["--udp", "127.0.0.1:0"]);
        }
        Monitor::of(&mut command)
    }

    /// The monitor that a command starts.
    #[track_caller]
    pub fn of(command: &mut Command) -> Monitor {
        Monitor::try_of(command).unwrap_or_else(|log| panic!("not ready: {log}"))
    }

    /// The same, or what it logged instead of being ready.
    pub fn try_of(command: &mut Command) -> Result<Monitor, String> {
        let (process, said, out, log) = ready(command)?;
        let addresses = said.strip_prefix("ready udp=").and_then(|said| said.split_once(" http="));
        let (udp, http) = addresses.expect("both addresses");
        let udp = udp.split(',').map(str::to_owned).collect();
        Ok(Monitor { process, udp, http: http.to_owned(), log, out })
    }

    /// The next line on its standard output; empty when it has ended.
    pub fn says(&self) -> String {
        self.out.next().unwrap_or_default()
    }

    /// Sends it a datagram.
    pub fn send(&self, datagram: &[u8]) {
        send(&self.udp[0], datagram);
    }

    /// What it answers.
    #[track_caller]
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        get(&self.http, path)
    }

    /// Its summary.
    #[track_caller]
    pub fn summary(&self) -> Summary {
        self.get("/api/v1/summary")
    }

    /// What it knows of a peer.
    #[track_caller]
    pub fn peer(&self, name: &str) -> PeerDetail {
        self.get(&format!("/api/v1/peers/{name}"))
    }

    /// How many datagrams or heartbeats it has dropped for a reason.
    pub fn dropped(&self, why: &str) -> u64 {
        self.summary().dropped.get(why).copied().unwrap_or(0)
    }

    /// Asks again until it is so.
    #[track_caller]
    pub fn eventually(&self, what: &str, is_so: impl Fn(&Monitor) -> bool) {
        eventually(what, || is_so(self).then_some(()));
    }

    /// A command that asks it.
    pub fn systole(&self, arguments: &[&str]) -> Output {
        systole(&[arguments, &["--http", &self.http]].concat())
    }

    /// Follows its transitions and notes from the first.
    pub fn watch(&self) -> Watch {
        let mut command = Command::new(SYSTOLE);
        command.args(["watch", "--json", "--notes", "--after", "0", "--http", &self.http]);
        let mut process = Process::spawn(command.stdout(Stdio::piped()));
        let lines = Lines::of(process.0.stdout.take().expect("it is piped"));
        Watch { _process: process, lines, seen: 0 }
    }

    /// SIGKILL; what it had logged.
    pub fn kill(mut self) -> String {
        self.process.kill();
        self.log.rest()
    }

    /// Ends it in order; what it logged.
    #[track_caller]
    pub fn end(self) -> String {
        self.process.signal(libc::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended, in order; what it logged.
    #[track_caller]
    pub fn ended(mut self) -> String {
        let status = self.process.wait();
        let log = self.log.rest();
        assert_eq!(status.code(), Some(0), "{log}");
        log
    }
}

/// Follows transitions and notes; asserts that none is missing.
pub struct Watch {
    _process: Process,
    lines: Lines,
    seen: u64,
}

impl Watch {
    #[track_caller]
    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("the stream goes on");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        match said.get("event") {
            None => {
                assert_eq!(said["seq"], self.seen + 1, "gapless");
                self.seen += 1;
            }
            // A note has the number of the transition that it follows.
            Some(_) => assert_eq!(said["seq"], self.seen, "{said:#}"),
        }
        said
    }

    /// The next transition.
    #[track_caller]
    pub fn next(&mut self) -> Event {
        loop {
            let said = self.line();
            // Notes say which they are; a busy machine may well have been blind for a moment.
            if said.get("event").is_none() {
                return serde_json::from_value(said).expect("a transition");
            }
        }
    }

    /// The next note about an incident.
    #[track_caller]
    pub fn incident(&mut self) -> Value {
        loop {
            let said = self.line();
            if said["event"] == "incident" {
                return said;
            }
        }
    }

    /// Reads on to the transition of a peer to a state.
    #[track_caller]
    pub fn until(&mut self, peer: &str, to: &str) -> Event {
        loop {
            let event = self.next();
            if event.peer == peer && event.to == to {
                return event;
            }
        }
    }
}

/// Sends a datagram from a socket of its own.
pub fn send(to: &str, datagram: &[u8]) {
    let from = if to.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
    let sent = UdpSocket::bind(from).expect("a free port").send_to(datagram, to);
    assert_eq!(sent.expect("loopback takes it"), datagram.len());
}

/// What a monitor answers.
#[track_caller]
pub fn get<T: DeserializeOwned>(http: &str, path: &str) -> T {
    let client = Client::new(http).expect("an address");
    client.get(path).unwrap_or_else(|failure| panic!("{path}: {failure}"))
}

/// Looks again until there is something.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "never {what}");
        // The monitor needs the processor, too.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A heartbeat of a peer, untagged.
pub fn beat(name: &str, sequence: u32, interval: Duration) -> Heartbeat {
    Heartbeat {
        peer: PeerId::of(name),
        kind: Kind::Beat,
        status: Status::Ok,
        sequenced: true,
        key_id: 0,
        incarnation: 5,
        sequence,
        interval_us: interval.as_micros() as u64,
        sent_ns: 0,
        age_us: 0,
        profile_digest: 0,
    }
}

/// The same as a HELLO.
pub fn hello(name: &str, group: &str, sequence: u32, interval: Duration) -> Vec<u8> {
    let mut datagram = Vec::new();
    let profile = Profile::new(name, group, &[]).expect("valid words");
    encode_hello(&beat(name, sequence, interval), &profile, &mut datagram);
    datagram
}

/// A folder of a test's own, gone with it.
pub struct Folder(pub PathBuf);

impl Folder {
    /// An empty one.
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("systole-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A file in it that says this; its path.
    pub fn written(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        std::fs::write(&path, text).expect("it is ours");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
