//! Redis as a monitor: each heartbeat is `SET hb:ID 1 PX TIMEOUT`, and a keyspace event tells of the silent.
//!
//! The server is a process of its own on the receiver's core, without persistence; the client is on the other
//! core. *One at a time* has 50 connections, each of which waits for its answer before it sends the next, as
//! senders do that open a connection; *pipelined* sends 64 at a time over one. Spoken to in RESP over TCP.

use super::contender::spent_ns;
use crate::harness::fleet::Fleet;
use crate::harness::mix;
use crate::harness::monitor::TempDir;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use systole::clock::monotonic_ns;

const CONNECTIONS: usize = 50;
const PIPELINE: usize = 64;
const TIMEOUT_MS: u64 = 3_050;

/// A server that ends with the value.
pub struct Redis {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a run of heartbeats came to.
pub struct Run {
    pub per_s: f64,
    /// The server's processor time for each.
    pub each_ns: f64,
}

impl Redis {
    /// A server; `None` where there is none on the path.
    pub fn start() -> Option<Redis> {
        let dir = TempDir::new("redis");
        // A free port; somebody may take it before the server does, and then it says so.
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
        let process = Command::new("redis-server")
            .args(["--port", &free.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--notify-keyspace-events", "Ex"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let redis = Redis { process, port: free.port(), _dir: dir };
        // Until it listens, which only a failure makes late.
        let end_ns = monotonic_ns() + 10_000_000_000;
        while TcpStream::connect(("127.0.0.1", redis.port)).is_err() {
            assert!(monotonic_ns() < end_ns, "redis-server does not listen");
            std::thread::yield_now();
        }
        redis.pin();
        Some(redis)
    }

    /// Puts all of its threads on the receiver's core.
    fn pin(&self) {
        let core = core_affinity::get_core_ids().and_then(|cores| cores.first().copied());
        let Some(core) = core else { return };
        // SAFETY: a cpu_set_t is a plain array of bits, for which zero is valid; the core is one of ours
        // and within it; the set is valid for its whole size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core.id, &mut set);
            for thread in self.threads() {
                libc::sched_setaffinity(thread, size_of_val(&set), &set);
            }
        }
    }

    fn threads(&self) -> Vec<i32> {
        let path = format!("/proc/{}/task", self.process.id());
        let tasks = std::fs::read_dir(path).expect("it runs");
        let thread = |task: std::io::Result<std::fs::DirEntry>| {
            task.ok()?.file_name().to_str()?.parse::<i32>().ok()
        };
        tasks.filter_map(thread).collect()
    }

    fn cpu_ns(&self) -> u64 {
        self.threads().iter().map(|thread| spent_ns(self.process.id(), *thread)).sum()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_nodelay(true).expect("a socket option");
        stream
    }

    fn timed(&self, beats: u64, run: impl FnOnce()) -> Run {
        let (cpu_ns, begun_ns) = (self.cpu_ns(), monotonic_ns());
        run();
        let took_ns = monotonic_ns() - begun_ns;
        Run {
            per_s: beats as f64 * 1e9 / took_ns as f64,
            each_ns: (self.cpu_ns() - cpu_ns) as f64 / beats as f64,
        }
    }

    /// So many heartbeats of so many peers, each answered before its connection sends the next.
    pub fn one_at_a_time(&self, peers: u32, beats: u64) -> Run {
        let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| self.connect()).collect();
        let (rounds, mut command) = (beats / CONNECTIONS as u64, Vec::new());
        self.timed(rounds * CONNECTIONS as u64, || {
            let mut number = 0;
            for _ in 0..rounds {
                for stream in &mut streams {
                    command.clear();
                    set(&mut command, draw(&mut number, peers), TIMEOUT_MS);
                    stream.write_all(&command).expect("sent");
                }
                streams.iter_mut().for_each(|stream| confirmed(stream, 1));
            }
        })
    }

    /// The same over one connection, 64 before an answer is waited for.
    pub fn pipelined(&self, peers: u32, beats: u64) -> Run {
        let (mut stream, rounds) = (self.connect(), beats / PIPELINE as u64);
        let mut commands = Vec::new();
        self.timed(rounds * PIPELINE as u64, || {
            let mut number = 0;
            for _ in 0..rounds {
                commands.clear();
                for _ in 0..PIPELINE {
                    set(&mut commands, draw(&mut number, peers), TIMEOUT_MS);
                }
                stream.write_all(&commands).expect("sent");
                confirmed(&mut stream, PIPELINE);
            }
        })
    }

    /// So many peers beat once with half a second to live: how long after it each was told of, ns.
    pub fn lateness(&self, peers: u32) -> Vec<u64> {
        const LIVES_MS: u64 = 500;
        let (mut told, mut sender) = (self.connect(), self.connect());
        let channel = "__keyevent@0__:expired";
        write!(told, "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{channel}\r\n", channel.len()).expect("sent");
        let mut buffer = vec![0; 1 << 16];
        assert!(told.read(&mut buffer).expect("answered") > 0);
        let mut due_ns = std::collections::HashMap::new();
        for number in 0..peers {
            let (id, mut command) = (mix(u64::from(number) ^ 1 << 40), Vec::new());
            set(&mut command, id, LIVES_MS);
            sender.write_all(&command).expect("sent");
            confirmed(&mut sender, 1);
            due_ns.insert(format!("hb:{id:016x}"), monotonic_ns() + LIVES_MS * 1_000_000);
        }
        told.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a socket option");
        let (mut late_ns, mut text) = (Vec::new(), String::new());
        while !due_ns.is_empty() {
            let length = told.read(&mut buffer).expect("all of them are told of, some time");
            let now_ns = monotonic_ns();
            text.push_str(std::str::from_utf8(&buffer[..length]).expect("RESP and our keys"));
            while let Some(at) = text.find("hb:")
                && text.len() >= at + 19
            {
                if let Some(due_ns) = due_ns.remove(&text[at..at + 19]) {
                    late_ns.push(now_ns.saturating_sub(due_ns));
                }
                text.drain(..at + 19);
            }
        }
        late_ns
    }
}

fn draw(number: &mut u64, peers: u32) -> u64 {
    *number += 1;
    Fleet::id((mix(*number) % u64::from(peers)) as u32).0
}

fn set(out: &mut Vec<u8>, id: u64, timeout_ms: u64) {
    let timeout = timeout_ms.to_string();
    write!(
        out,
        "*5\r\n$3\r\nSET\r\n$19\r\nhb:{id:016x}\r\n$1\r\n1\r\n$2\r\nPX\r\n${}\r\n{timeout}\r\n",
        timeout.len()
    )
    .expect("a vector takes it");
}

/// Reads so many answers and asserts that they say OK.
fn confirmed(stream: &mut TcpStream, answers: usize) {
    const OK: &[u8] = b"+OK\r\n";
    let mut buffer = [0; PIPELINE * OK.len()];
    let buffer = &mut buffer[..answers * OK.len()];
    stream.read_exact(buffer).expect("answered");
    assert!(buffer.chunks(OK.len()).all(|answer| answer == OK), "the server refuses");
}
