//! A monitor in the small: one thread that listens and judges, one that answers HTTP.
//!
//! It is written without the engine on purpose (a map, and a look at every peer every millisecond),
//! so that generator and engine do not confirm each other's mistakes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use systole::api::{Event, PeerCounts, Summary, TimingSettings};
use systole::clock;

/// What it does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// Never mentions the first death.
    MissOne,
    /// Calls somebody down that has just beaten.
    BlameOne,
    /// Calls the first dead up again.
    RaiseOne,
    /// Never mentions one peer.
    IgnoreOne,
    /// Calls somebody left that goes on beating.
    DismissOne,
    /// Forgets somebody that goes on beating.
    ForgetOne,
    /// Ends the event stream every 50 events.
    HangUp,
    /// Says that it no longer holds some events.
    Gap,
    /// Takes no heartbeat without a tag, though others beat beside us.
    Unauthenticated,
}

const TIMEOUT_NS: u64 = 170_000_000;
const EPOCH: u64 = 77;

/// The running monitor. Its threads end with the test's process.
pub struct Fake {
    /// Where it takes heartbeats.
    pub udp: SocketAddr,
    /// Where it answers.
    pub http: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    events: Vec<String>,
    subscriptions: usize,
    datagrams: u64,
    heartbeats: u64,
    faulted: bool,
    first: Option<u64>,
    sources: HashSet<IpAddr>,
    peers: HashMap<u64, Peer>,
}

struct Peer {
    last_seen_ns: u64,
    number: (u32, u32),
    state: &'static str,
}

impl Fake {
    /// Starts a monitor with a fault.
    pub fn start(fault: Fault) -> Fake {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (udp, http) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
        let shared =
            Arc::new(Shared { fault, state: Mutex::default(), changed: Condvar::default() });
        let judge = shared.clone();
        std::thread::spawn(move || judge.listen(&socket));
        let answers = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let answers = answers.clone();
                std::thread::spawn(move || answers.answer(stream.unwrap()));
            }
        });
        Fake { udp, http, shared }
    }

    /// Datagrams that came.
    pub fn datagrams(&self) -> u64 {
        self.shared.state.lock().unwrap().datagrams
    }

    /// Distinct addresses that they came from.
    pub fn sources(&self) -> usize {
        self.shared.state.lock().unwrap().sources.len()
    }

    /// Times that somebody asked for the event stream.
    pub fn subscriptions(&self) -> usize {
        self.shared.state.lock().unwrap().subscriptions
    }

    /// Waits until so many peers have been heard, which must be soon.
    pub fn wait_for_peers(&self, count: usize) {
        let (state, few) =
            (self.shared.state.lock().unwrap(), |s: &mut State| s.peers.len() < count);
        let changed = &self.shared.changed;
        let (_state, timeout) =
            changed.wait_timeout_while(state, Duration::from_secs(60), few).unwrap();
        assert!(!timeout.timed_out(), "{count} peers did not come");
    }
}

impl Shared {
    fn listen(&self, socket: &UdpSocket) {
        let mut buffer = [0; 1_500];
        loop {
            // Everything that has arrived is heard before anybody is judged.
            let judged_ns = clock::monotonic_ns();
            socket.set_nonblocking(true).unwrap();
            while let Ok((size, from)) = socket.recv_from(&mut buffer) {
                self.hear(&buffer[..size], from);
            }
            self.judge(judged_ns);
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            if let Ok((size, from)) = socket.recv_from(&mut buffer) {
                self.hear(&buffer[..size], from);
            }
        }
    }

    fn hear(&self, datagram: &[u8], from: SocketAddr) {
        let word = |at: usize| u32::from_le_bytes(datagram[at..at + 4].try_into().unwrap());
        assert_eq!((datagram[0], datagram[1] >> 4), (0xBE, 1));
        let kind = datagram[1] & 15;
        let id = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
        let number = (word(16), word(20));
        let now_ns = clock::monotonic_ns();
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        state.datagrams += 1;
        state.sources.insert(from.ip());
        if self.fault == Fault::Unauthenticated {
            state.heartbeats = state.datagrams / 2;
            return;
        }
        let known = state.peers.get(&id).map(|peer| (peer.number, peer.state));
        if known.is_some_and(|(last, _)| number <= last) {
            return;
        }
        state.heartbeats += 1;
        assert!(known.is_some() || kind == 2, "HELLO comes first");
        let before = known.map_or("unknown", |(_, state)| state);
        let after = if kind == 3 { "left" } else { "up" };
        state.peers.insert(id, Peer { last_seen_ns: now_ns, number, state: after });
        let ignored = self.fault == Fault::IgnoreOne && id == *state.first.get_or_insert(id);
        if before != after && !ignored {
            state.events.push(event(state.events.len(), id, before, after, now_ns, 0));
        }
        if self.fault == Fault::BlameOne && state.heartbeats == 1_500 {
            state.events.push(event(state.events.len(), id, "up", "down", now_ns, 0));
        }
        let word = match self.fault {
            Fault::DismissOne => Some("left"),
            Fault::ForgetOne => Some("forgotten"),
            _ => None,
        };
        if let Some(word) = word.filter(|_| state.heartbeats == 1_500) {
            state.events.push(event(state.events.len(), id, "up", word, now_ns, 0));
            let again = if word == "left" { "left" } else { "unknown" };
            state.events.push(event(state.events.len(), id, again, "up", now_ns, 0));
        }
        self.changed.notify_all();
    }

    fn judge(&self, now_ns: u64) {
        let mut state = self.state.lock().unwrap();
        let State { peers, events, faulted, .. } = &mut *state;
        for (&id, peer) in peers.iter_mut().filter(|(_, peer)| peer.state == "up") {
            let deadline_ns = peer.last_seen_ns + TIMEOUT_NS;
            if deadline_ns > now_ns {
                continue;
            }
            peer.state = "down";
            let first = !std::mem::replace(faulted, true);
            if self.fault == Fault::MissOne && first {
                continue;
            }
            let lateness_ns = now_ns - deadline_ns;
            events.push(event(events.len(), id, "up", "down", now_ns, lateness_ns));
            if self.fault == Fault::RaiseOne && first {
                events.push(event(events.len(), id, "down", "up", now_ns, 0));
            }
        }
        self.changed.notify_all();
    }

    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut request = String::new();
        reader.read_line(&mut request).unwrap();
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        // The generator may hang up whenever it likes.
        let _ = match path.split_once("after=") {
            Some((_, after)) => {
                let after = after.split('&').next().unwrap_or_default();
                self.stream_events(stream, after.parse().unwrap())
            }
            None if path == "/api/v1/summary" => self.answer_summary(stream),
            None => panic!("nobody asks for {path}"),
        };
    }

    fn answer_summary(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let state = self.state.lock().unwrap();
        let summary = Summary {
            version: "0.0.0".into(),
            monitor: "00000000000000aa".into(),
            epoch: EPOCH,
            started: String::new(),
            time: String::new(),
            transport: "poll".into(),
            reactors: 1,
            udp: Vec::new(),
            peers: PeerCounts::default(),
            max_peers: 1_000_000,
            heartbeats: state.heartbeats,
            heartbeats_per_second: 0.0,
            kernel_drops: 0,
            dropped: match self.fault {
                Fault::Unauthenticated => [("unauthenticated".into(), state.datagrams)].into(),
                _ => BTreeMap::new(),
            },
            last_seq: state.events.len() as u64,
            timing: TimingSettings {
                interval_ns: 1_000_000_000,
                missed: 3.0,
                grace_ns: TIMEOUT_NS - 150_000_000,
                suspect_at: 0.6,
            },
            ..Summary::default()
        };
        drop(state);
        let body = serde_json::to_string(&summary)?;
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn stream_events(&self, mut stream: TcpStream, after: usize) -> std::io::Result<()> {
        self.state.lock().unwrap().subscriptions += 1;
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream")?;
        write!(stream, "\r\n\r\nretry: 1000\n\n: hello\n\n")?;
        for next in after.. {
            let state = self.state.lock().unwrap();
            let state = self.changed.wait_while(state, |s| s.events.len() <= next).unwrap();
            let data = state.events[next].clone();
            drop(state);
            if self.fault == Fault::HangUp && next == after + 50 {
                return Ok(());
            }
            if self.fault == Fault::Gap && next == 100 {
                write!(stream, "event: gap\ndata: {{\"from_seq\":101,\"to_seq\":110}}\n\n")?;
            }
            write!(stream, "id: {}\nevent: transition\ndata: {data}\n\n", next + 1)?;
        }
        Ok(())
    }
}

/// A transition as the event stream carries it; `held` are before it.
fn event(held: usize, id: u64, from: &str, to: &str, at_ns: u64, lateness_ns: u64) -> String {
    let wall_ns = at_ns.saturating_add_signed(clock::wall_offset_ns());
    let time = jiff::Timestamp::from_nanosecond(wall_ns.into()).unwrap();
    let event = Event {
        seq: held as u64 + 1,
        monitor: "00000000000000aa".into(),
        epoch: EPOCH,
        time: format!("{time:.9}"),
        peer: format!("{id:016x}"),
        id: format!("{id:016x}"),
        group: String::new(),
        from: from.into(),
        to: to.into(),
        reason: if to == "down" { "silence" } else { "beat" }.into(),
        status: "ok".into(),
        last_seen: format!("{time:.9}"),
        deadline: None,
        lateness_ns,
        detection_time_ns: 0,
        incarnation: 0,
        last_sequence: 0,
        gaps: 0,
        in_from_ns: 0,
        down_for_ns: None,
        ..Event::default()
    };
    serde_json::to_string(&event).expect("an event is JSON")
}
