//! The monitor behind AF_XDP, as a process, on one end of a pair of virtual interfaces: what is ours
//! arrives, and whatever else comes to the host is as it was.
//!
//! ```text
//!   namespace of the sender                     namespace of the monitor
//!   far0 10.77.0.2/24, fd77::2/64 ────────────── near0 10.77.0.1/24, fd77::1/64 ─ systole serve
//! ```
//!
//! Each test makes two network namespaces of its own and removes them. That takes root and `ip`; where
//! they are missing it says `not tested here: …` and passes.

use super::common::{self, SYSTOLE};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};
use systole::api::Summary;
use systole::wire::encode_beat;

const NEAR: &str = "10.77.0.1";
const NEAR6: &str = "fd77::1";

/// Only a failure waits so long.
const LIMIT: Duration = Duration::from_secs(20);

/// Two namespaces with a cable between them.
struct Lab {
    near: String,
    far: String,
}

impl Lab {
    /// `None`, with a word why, where it cannot be made.
    fn new(name: &str, queues: u32) -> Option<Lab> {
        let name = format!("sx{}{name}", std::process::id());
        let lab = Lab { near: format!("{name}n"), far: format!("{name}f") };
        let (near, far) = (&lab.near, &lab.far);
        for namespace in [near, far] {
            if let Err(why) = ip(&format!("netns add {namespace}")) {
                eprintln!("not tested here: no network namespaces ({why})");
                return None;
            }
        }
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        let made = ip(&format!(
            "link add near0 netns {near} {queues} type veth peer name far0 netns {far} {queues}"
        ));
        if let Err(why) = made {
            eprintln!("not tested here: no veth ({why})");
            return None;
        }
        for (namespace, device, host) in [(near, "near0", 1), (far, "far0", 2)] {
            let set = |command: &str| ip(&format!("-n {namespace} {command}")).expect("set up");
            set(&format!("address add 10.77.0.{host}/24 dev {device}"));
            set(&format!("address add fd77::{host}/64 dev {device} nodad"));
            set("link set lo up");
            set(&format!("link set {device} up"));
        }
        Some(lab)
    }

    /// Does something in the far namespace, in a thread that enters it.
    fn far<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        within(&self.far, body)
    }

    fn near<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        within(&self.near, body)
    }

    fn serve(&self, options: &[&str]) -> Monitor<'_> {
        self.try_serve(options).unwrap_or_else(|said| panic!("not ready: {said}"))
    }

    /// The monitor in the near namespace, or what it said instead of being ready.
    fn try_serve(&self, options: &[&str]) -> Result<Monitor<'_>, String> {
        self.serve_at(4600, options)
    }

    /// The same on another port, and another one of HTTP's.
    fn serve_at(&self, port: u16, options: &[&str]) -> Result<Monitor<'_>, String> {
        let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        let http = format!("127.0.0.1:{}", port + 80);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.near, SYSTOLE, "serve"])
            .args(["--udp", &v4, "--udp", &v6, "--http", &http])
            .args(if options.contains(&"--state-dir") { &[][..] } else { &["--state-dir", "none"] })
            .args(options);
        self.ready(&mut command)
    }

    /// The monitor that a command starts, or what it said instead of being ready.
    fn ready(&self, command: &mut Command) -> Result<Monitor<'_>, String> {
        let monitor = common::Monitor::try_of(command)?;
        Ok(Monitor { lab: self, monitor, told: Cell::new(0), sequence: Cell::new(1) })
    }

    /// A heartbeat of each of these peers, from so many sockets of the far end.
    fn beat(&self, to: &str, peers: Range<u32>, sockets: u32, sequence: u32) {
        let to: SocketAddr = format!("{to}:4600").parse().expect("an address");
        self.far(|| {
            let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let sockets: Vec<_> =
                (0..sockets).map(|_| UdpSocket::bind(from).expect("a port")).collect();
            for peer in peers {
                let socket = &sockets[peer as usize % sockets.len()];
                socket.send_to(&beat(peer, sequence), to).expect("send");
            }
        });
    }

    /// Whether an XDP program is on the near interface.
    fn is_attached(&self) -> bool {
        let said = ip(&format!("-n {} link show near0", self.near)).expect("it is there");
        said.contains("xdp")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

fn beat(peer: u32, sequence: u32) -> Vec<u8> {
    let name = format!("peer-{peer}");
    encode_beat(&common::beat(&name, sequence, Duration::from_secs(60))).to_vec()
}

fn ip(arguments: &str) -> Result<String, String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn within<T: Send>(namespace: &str, body: impl FnOnce() -> T + Send) -> T {
    let place = File::open(format!("/run/netns/{namespace}")).expect("`ip` made it");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: setns(2) takes a descriptor, which is open.
            let rc = unsafe { libc::setns(place.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Monitor<'a> {
    lab: &'a Lab,
    monitor: common::Monitor,
    told: Cell<u64>,
    sequence: Cell<u32>,
}

/// A veth holds 256 frames and drops more on the sender's side, so no more are sent at once.
const AT_ONCE: u32 = 200;

impl Monitor<'_> {
    fn summary(&self) -> Summary {
        let http = &self.monitor.http;
        self.lab.near(|| common::get(http, "/api/v1/summary"))
    }

    /// The sum over the reactors of a metric whose name and labels start so.
    fn metric(&self, name: &str) -> u64 {
        let http = &self.monitor.http;
        let text = self.lab.near(|| {
            let mut stream = TcpStream::connect(http).expect("HTTP");
            let asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(asked).expect("asked");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            text
        });
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }

    /// Sends it a heartbeat of each of so many peers, and waits until all are taken in.
    #[track_caller]
    fn hears(&self, to: &str, peers: u32, sockets: u32) -> Summary {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let mut summary = None;
        for first in (0..peers).step_by(AT_ONCE as usize) {
            let some = first..peers.min(first + AT_ONCE);
            let count = some.len() as u64;
            self.lab.beat(to, some, sockets, sequence);
            summary = Some(self.heard(count));
        }
        summary.expect("at least one")
    }

    /// Waits until so many more heartbeats were taken in.
    #[track_caller]
    fn heard(&self, more: u64) -> Summary {
        let heartbeats = self.told.get() + more;
        self.told.set(heartbeats);
        let since = Instant::now();
        loop {
            let summary = self.summary();
            if summary.heartbeats >= heartbeats {
                assert_eq!(summary.heartbeats, heartbeats, "no more than were sent");
                return summary;
            }
            if since.elapsed() > LIMIT {
                let device = ip(&format!("-n {} -s link show near0", self.lab.near));
                panic!("{} of {heartbeats}: {summary:?} {device:?}", summary.heartbeats);
            }
            std::thread::yield_now();
        }
    }

    fn kill(self) {
        self.monitor.kill();
    }

    /// Ends it in order; what it logged.
    fn end(self) -> String {
        self.monitor.end()
    }
}

/// Frames that the stack of the far end would not send, by a packet socket.
fn send_frame(frame: &[u8]) {
    // SAFETY: socket(2) takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero bytes are a valid sockaddr_ll, a plain C struct.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    // SAFETY: the name ends with a zero byte.
    to.sll_ifindex = unsafe { libc::if_nametoindex(c"far0".as_ptr()) } as i32;
    to.sll_halen = 6;
    // SAFETY: frame and address are as long as said, and live through the call.
    let sent = unsafe {
        let length = size_of_val(&to) as libc::socklen_t;
        let to = (&raw const to).cast();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, length)
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Ethernet, perhaps tags, IPv4, UDP without a checksum.
fn frame(mac: [u8; 6], tags: &[u16], fragment: u16, ip_payload: &[u8]) -> Vec<u8> {
    let mut frame = [&mac[..], &[2, 0, 0, 0, 0, 9]].concat();
    for tag in tags {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend([0x08, 0x00]);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + ip_payload.len() as u16).to_be_bytes());
    ip.extend([0, 7]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    let mut sum: u32 =
        ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!sum as u16).to_be_bytes());
    frame.extend(ip);
    frame.extend(ip_payload);
    frame
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [4601u16, 4600, length, 0].map(u16::to_be_bytes).concat();
    [&header[..], payload].concat()
}

impl Lab {
    fn mac(&self) -> [u8; 6] {
        let text = ip(&format!("-n {} -br link show near0", self.near)).expect("it is there");
        let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5);
        let bytes = mac.expect("a MAC").split(':').map(|byte| u8::from_str_radix(byte, 16));
        bytes.collect::<Result<Vec<_>, _>>().expect("hex").try_into().expect("six")
    }
}

const XDP: [&str; 4] = ["--transport", "xdp", "--interface", "near0"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&XDP[..], more].concat()
}

#[test]
fn heartbeats_of_both_families_come_past_the_stack_and_none_is_lost() {
    for (mode, transport) in [("native", "xdp-native"), ("generic", "xdp-generic")] {
        let Some(lab) = Lab::new("a", 1) else { return };
        let monitor = lab.serve(&with(&["--xdp-mode", mode, "--reactors", "1"]));
        monitor.hears(NEAR, 500, 7);
        monitor.hears(&format!("[{NEAR6}]"), 500, 7);
        let summary = monitor.hears(NEAR, 5_000, 7);
        assert_eq!((&*summary.transport, summary.kernel_drops), (transport, 0));
        assert_eq!(summary.peers.up, 5_000);
        // Of 5,500 over IPv4 the stack has counted none: what it has are the monitor's own probes.
        let snmp =
            lab.near(|| std::fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp"));
        let line = snmp.lines().filter(|line| line.starts_with("Udp:")).nth(1).expect("figures");
        let datagrams: u64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
        assert!(datagrams < 1_000, "{mode}: {datagrams} datagrams by the stack");
        let log = monitor.end();
        assert!(log.contains("AF_XDP receives") && log.contains(&format!("mode={mode}")), "{log}");
        assert!(!lab.is_attached(), "{mode}");
    }
}

#[test]
fn what_is_not_ours_is_as_it_was() {
    let Some(lab) = Lab::new("b", 1) else { return };
    // A host that serves other things, too, before the program comes and while it is there.
    let other = lab.near(|| UdpSocket::bind("0.0.0.0:4601").expect("another port"));
    let server = lab.near(|| TcpListener::bind("0.0.0.0:4600").expect("the same port of TCP"));
    let monitor = lab.serve(&XDP);
    lab.far(|| {
        ping();
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        for nth in 0..200u32 {
            socket.send_to(&nth.to_le_bytes(), (NEAR, 4601)).expect("send");
        }
    });
    other.set_read_timeout(Some(LIMIT)).expect("a limit");
    // In any order: a sender that changes its core may overtake itself.
    let mut numbers: Vec<u32> = (0..200)
        .map(|_| {
            let mut bytes = [0; 4];
            other.recv(&mut bytes).expect("none is lost");
            u32::from_le_bytes(bytes)
        })
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..200), "{numbers:?}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = server.accept().expect("TCP connects");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("TCP carries");
            stream.write_all(&all).expect("both ways");
        });
        lab.far(|| {
            let mut stream = TcpStream::connect((NEAR, 4600)).expect("TCP connects");
            let sent: Vec<u8> = (0..200_000u32).map(|nth| nth as u8).collect();
            stream.write_all(&sent).expect("TCP carries");
            stream.shutdown(std::net::Shutdown::Write).expect("the end is told");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("both ways");
            assert!(all == sent);
        });
    });
    // Over loopback, and to our port: no interface of ours, so by the sockets.
    lab.near(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.send_to(&beat(1, 1), "127.0.0.1:4600").expect("send");
    });
    monitor.heard(1);
    assert_eq!(monitor.hears(NEAR, 1, 1).peers.up, 2);
    monitor.end();
}

/// One echo request and its answer.
fn ping() {
    // SAFETY: socket(2) takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and ours alone; std reads and writes it as it would UDP's.
    let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    // Type 8, its checksum, number 0x1234.
    let echo = [8, 0, !(8 + 0x12) as u8, !0x34, 0x12, 0x34, 0, 0];
    socket.send_to(&echo, (NEAR, 0)).expect("sent");
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).expect("an answer");
    assert_eq!(answer[20..length][..1], [0], "an echo reply");
}

#[test]
fn a_tag_is_looked_through_and_fragments_and_options_go_by_the_stack() {
    let Some(lab) = Lab::new("c", 1) else { return };
    let monitor = lab.serve(&with(&["--reactors", "1"]));
    let mac = lab.mac();
    lab.far(|| {
        send_frame(&frame(mac, &[], 0x4000, &udp(&beat(0, 1))));
        send_frame(&frame(mac, &[100], 0x4000, &udp(&beat(1, 1))));
    });
    monitor.heard(2);
    // Two halves of one datagram: only the stack can put them together.
    lab.far(|| {
        let whole = udp(&beat(2, 1));
        let (first, second) = whole.split_at(16);
        send_frame(&frame(mac, &[], 0x2000, first));
        send_frame(&frame(mac, &[], 0x0002, second));
    });
    monitor.heard(1);
    // A damaged header and a length that is not there: refused and counted, nothing else harmed.
    let mut damaged = frame(mac, &[], 0x4000, &udp(&beat(3, 1)));
    damaged[14 + 8] ^= 1;
    let mut long = udp(&beat(4, 1));
    long[4..6].copy_from_slice(&1_000u16.to_be_bytes());
    lab.far(|| {
        send_frame(&damaged);
        send_frame(&frame(mac, &[], 0x4000, &long));
        send_frame(&frame(mac, &[], 0x4000, &udp(&beat(5, 1))));
    });
    assert_eq!(monitor.heard(1).peers.up, 4);
    let since = Instant::now();
    while monitor.metric("systole_receive_errors_total") < 2 {
        assert!(since.elapsed() < LIMIT, "they are counted");
        std::thread::yield_now();
    }
    assert_eq!(monitor.metric("systole_receive_errors_total"), 2);
}

#[test]
fn several_queues_and_several_reactors_miss_nothing() {
    let Some(lab) = Lab::new("d", 2) else { return };
    let monitor = lab.serve(&with(&["--reactors", "2"]));
    for _ in 0..4 {
        monitor.hears(NEAR, 1_000, 64);
    }
    let summary = monitor.hears(NEAR, 1_000, 64);
    assert_eq!((summary.peers.up, summary.kernel_drops), (1_000, 0));
    for reactor in 0..2 {
        let name = format!("systole_datagrams_total{{reactor=\"{reactor}\"}}");
        assert!(monitor.metric(&name) > 500, "reactor {reactor} has a queue of its own");
    }
    monitor.end();
    // One queue is read, the other goes by the stack: still everything.
    let monitor = lab.serve(&["--transport", "xdp", "--interface", "near0:1", "--reactors", "2"]);
    monitor.hears(NEAR, 1_000, 64);
    monitor.end();
}

#[test]
fn restarts_and_kills_leave_the_interface_as_it_was() {
    let Some(lab) = Lab::new("e", 1) else { return };
    for round in 0..3 {
        let monitor = lab.serve(&XDP);
        assert!(lab.is_attached());
        monitor.hears(NEAR, 10, 1);
        if round == 1 {
            monitor.end();
        } else {
            monitor.kill();
        }
        assert!(!lab.is_attached(), "round {round}");
        lab.far(ping);
    }
}

#[test]
fn another_monitor_takes_over_the_interface_and_every_heartbeat_is_heard_by_one_of_them() {
    let Some(lab) = Lab::new("h", 1) else { return };
    let state = std::env::temp_dir().join(format!("systole-{}-xdp", std::process::id()));
    let state = state.to_str().expect("a plain path");
    let options = with(&["--state-dir", state, "--takeover"]);
    let first = lab.serve(&options);
    first.hears(NEAR, 100, 1);
    // Each of a peer of its own: whoever is known in the end was heard by one or the other. What is sent
    // while they change places lies in the rings of the one, or in the sockets that both had.
    let second = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for peer in 100..300 {
                lab.beat(NEAR, peer..peer + 1, 1, 1);
                // So that they are spread over the change; nothing depends on it.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let second = lab.serve(&options);
        sender.join().expect("it sends");
        second
    });
    first.monitor.ended();
    assert!(lab.is_attached());
    lab.beat(NEAR, 300..301, 1, 1);
    let since = Instant::now();
    let mut summary = second.summary();
    while summary.peers.total < 301 {
        assert!(since.elapsed() < LIMIT, "{} of 301", summary.peers.total);
        summary = second.summary();
    }
    assert_eq!((&*summary.transport, summary.kernel_drops), ("xdp-native", 0));
    second.end();
    std::fs::remove_dir_all(state).expect("it is ours");
}

#[test]
fn what_keeps_it_from_attaching_is_said_and_auto_goes_on_without() {
    let Some(lab) = Lab::new("f", 1) else { return };
    let refused = |port: u16, options: &[&str], says: &str| {
        let Err(log) = lab.serve_at(port, options) else { panic!("{options:?} started") };
        let last = log.lines().next_back().unwrap_or_default();
        assert!(last.starts_with("systole: transport xdp: ") && last.contains(says), "{log}");
    };
    refused(4600, &["--transport", "xdp", "--interface", "nowhere0"], "no interface nowhere0");
    refused(4600, &["--transport", "xdp", "--interface", "near0:3"], "no queue 3");
    refused(4600, &with(&["--xdp-mode", "zero-copy"]), "cannot do zero-copy mode");
    let first = lab.serve(&XDP);
    refused(4700, &XDP, "another XDP program is attached to near0");
    let second = lab.serve_at(4700, &["--interface", "near0"]).expect("auto goes on");
    let log = second.end();
    let warning = "heartbeats go through the kernel's stack instead of AF_XDP: another XDP program";
    assert_eq!(log.matches(warning).count(), 1, "{log}");
    first.hears(NEAR, 3, 1);
}

#[test]
fn three_capabilities_and_a_memory_limit_are_all_it_takes_and_what_lacks_is_said() {
    let Some(lab) = Lab::new("g", 1) else { return };
    let run = Command::new("setpriv").arg("--version").output();
    if !run.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested here: setpriv is not installed");
        return;
    }
    // Less than one queue's frames take, and more than those of a small one.
    let serve = |capabilities: &str, frames: &str| {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &lab.near, "prlimit", "--memlock=1000000:1000000", "setpriv"])
            .args(["--bounding-set", capabilities, "--inh-caps", "-all", SYSTOLE, "serve"])
            .args(["--udp", "0.0.0.0:4600", "--http", "127.0.0.1:4680", "--state-dir", "none"])
            .args(XDP)
            .args(["--xdp-frames", frames]);
        lab.ready(&mut command)
    };
    for lacking in
        ["-all,+net_admin,+net_raw", "-all,+net_admin,+bpf", "-all,+net_raw,+bpf", "-all"]
    {
        let log = serve(lacking, "64").err().unwrap_or_else(|| panic!("{lacking} suffices"));
        assert!(log.starts_with("exit status: 2"), "{lacking}: {log}");
        assert!(log.contains("no privilege for AF_XDP on near0"), "{lacking}: {log}");
        assert!(log.contains("CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"), "{lacking}: {log}");
    }
    let enough = "-all,+net_admin,+net_raw,+bpf";
    let log = serve(enough, "1024").err().expect("too much memory");
    assert!(log.contains("does not allow 2097152 bytes for each queue"), "{log}");
    let monitor = serve(enough, "64").unwrap_or_else(|log| panic!("{log}"));
    monitor.hears(NEAR, 10, 1);
    monitor.end();
}
